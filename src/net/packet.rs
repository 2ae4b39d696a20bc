//! A checked view of an IP packet: parsed once, then every question has an answer.

use std::net::IpAddr;

use super::refusal::Refusal;

/// An IPv4 or IPv6 packet whose headers hold together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    bytes: &'a [u8],
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    ports: Option<(u16, u16)>,
    fragment: FragmentKind,
    transport_offset: Option<usize>,
}

/// Which part of a packet this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FragmentKind {
    /// Not fragmented.
    Whole,
    /// The first fragment, which shows the transport header.
    First,
    /// Any other.
    Later,
}

impl<'a> Packet<'a> {
    /// Checks the headers. Octets behind the IP packet (RFC 4303 §2.7 pads so) are cut off.
    ///
    /// # Errors
    /// [`Refusal::Malformed`].
    pub fn parse(bytes: &'a [u8]) -> Result<Packet<'a>, Refusal> {
        todo!()
    }

    /// Exactly the IP packet.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Length of the IP packet.
    #[must_use]
    #[allow(
        clippy::len_without_is_empty,
        reason = "a packet has at least its header"
    )]
    pub const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it is IPv4; otherwise it is IPv6.
    #[must_use]
    pub const fn is_ipv4(&self) -> bool {
        self.source.is_ipv4()
    }

    /// 4 or 6.
    #[must_use]
    pub const fn version(&self) -> u8 {
        if self.is_ipv4() { 4 } else { 6 }
    }

    /// Where it comes from.
    #[must_use]
    pub const fn source(&self) -> IpAddr {
        self.source
    }

    /// Where it goes.
    #[must_use]
    pub const fn destination(&self) -> IpAddr {
        self.destination
    }

    /// The upper-layer protocol, behind IPv6 extension headers.
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Source and destination port of TCP, UDP, SCTP, DCCP and UDP-Lite. For ICMP both are the type in the high octet and the code
    /// in the low, as selectors have it (RFC 7296 §3.13.1). `None` where the packet shows none.
    #[must_use]
    pub const fn ports(&self) -> Option<(u16, u16)> {
        self.ports
    }

    /// Which part of a packet this is.
    #[must_use]
    pub const fn fragment(&self) -> FragmentKind {
        self.fragment
    }

    /// Whether routers may not cut it: the DF bit, and every IPv6 packet.
    #[must_use]
    pub fn dont_fragment(&self) -> bool {
        todo!()
    }

    /// The TOS octet or traffic class: DSCP and ECN.
    #[must_use]
    pub fn traffic_class(&self) -> u8 {
        todo!()
    }

    /// Time to live, or hop limit.
    #[must_use]
    pub fn ttl(&self) -> u8 {
        todo!()
    }

    /// Where the transport header starts; `None` in a fragment that is not the first.
    #[must_use]
    pub const fn transport_offset(&self) -> Option<usize> {
        self.transport_offset
    }

    /// Whether the kernel sends it by itself on a device that is up: router and neighbour solicitations, MLD. Nobody's traffic, so
    /// it neither brings a tunnel up nor counts as refused.
    #[must_use]
    pub fn is_kernel_noise(&self) -> bool {
        todo!()
    }

    /// Whether an address is one that never crosses a network: a multicast, loopback, broadcast or unspecified source, or a loopback
    /// or unspecified destination (RFC 1812 §5.3.7, RFC 4291 §2.5-2.7).
    #[must_use]
    pub fn is_martian(&self) -> bool {
        todo!()
    }
}
