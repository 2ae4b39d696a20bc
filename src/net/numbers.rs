//! Numbers of the Internet protocols that several layers use: IP protocols, UDP ports and minimum MTUs.

/// UDP port of IKE (RFC 7296 §2).
pub const IKE_PORT: u16 = 500;

/// UDP port of IKE and ESP across a NAT (RFC 3948 §2).
pub const NAT_PORT: u16 = 4500;

/// Size of an IPv4 packet that every host accepts (RFC 1122 §3.3.2).
pub const MIN_MTU_IPV4: u16 = 576;

/// Minimum MTU of an IPv6 link (RFC 8200 §5).
pub const MIN_MTU_IPV6: u16 = 1280;

/// IP protocol numbers, which are also the next headers of IPv6 and ESP (IANA, "Protocol Numbers").
#[allow(missing_docs, reason = "the names are those of the protocols")]
pub mod protocol {
    pub const HOP_BY_HOP: u8 = 0;
    pub const ICMP: u8 = 1;
    pub const IPV4: u8 = 4;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const DCCP: u8 = 33;
    pub const IPV6: u8 = 41;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const ESP: u8 = 50;
    pub const ICMPV6: u8 = 58;
    pub const NO_NEXT_HEADER: u8 = 59;
    pub const DESTINATION_OPTIONS: u8 = 60;
    pub const SCTP: u8 = 132;
    pub const MOBILITY: u8 = 135;
    pub const UDP_LITE: u8 = 136;
}
