//! IP addresses as numbers, so that prefixes and ranges of both families share their arithmetic; and those that no packet may bear.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bits of an address of this family.
pub(crate) const fn width(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// The address as a number; an IPv4 address fills the low 32 bits.
pub(crate) const fn to_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits() as u128,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The number as an address of the same family as `like`.
pub(crate) const fn from_bits(bits: u128, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(bits as u32)),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(bits)),
    }
}

/// The host part of a prefix of `length` bits, as ones.
pub(crate) fn host_mask(length: u8, like: IpAddr) -> u128 {
    let host_bits = u32::from(width(like).saturating_sub(length));
    1_u128
        .checked_shl(host_bits)
        .map_or(u128::MAX, |one| one.wrapping_sub(1))
}

/// Whether both addresses are IPv4 or both IPv6.
pub(crate) const fn same_family(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}

/// Whether no honest packet comes from this address, so that no ICMP error may go to it either.
pub(crate) fn never_a_source(address: IpAddr) -> bool {
    match address {
        // 240.0.0.0/4 is reserved and holds the limited broadcast.
        IpAddr::V4(v4) => v4.is_multicast() || matches!(v4.octets(), [0 | 127 | 240.., ..]),
        IpAddr::V6(v6) => v6.is_multicast() || never_a_destination(address),
    }
}

/// Whether no honest packet goes to this address.
pub(crate) fn never_a_destination(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => matches!(v4.octets(), [0 | 127, ..]),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unspecified() || v6.to_ipv4_mapped().is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_mask_covers_what_the_prefix_leaves() {
        let v4 = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let v6 = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        assert_eq!(host_mask(32, v4), 0);
        assert_eq!(host_mask(24, v4), 0xff);
        assert_eq!(host_mask(0, v4), 0xffff_ffff);
        assert_eq!(host_mask(0, v6), u128::MAX);
        assert_eq!(host_mask(128, v6), 0);
    }

    #[test]
    fn e07_addresses_that_no_packet_may_bear() {
        let all = |texts: &[&str], is: fn(IpAddr) -> bool| {
            texts.iter().all(|text| is(text.parse().unwrap()))
        };
        let neither = [
            "127.0.0.1",
            "0.0.0.0",
            "0.1.2.3",
            "::",
            "::1",
            "::ffff:10.0.0.1",
        ];
        assert!(all(&neither, never_a_source) && all(&neither, never_a_destination));
        let groups = ["224.0.0.1", "255.255.255.255", "ff02::1"];
        assert!(
            all(&groups, never_a_source) && all(&groups, |address| !never_a_destination(address))
        );
        let honest = [
            "10.0.0.1",
            "169.254.1.1",
            "223.255.255.255",
            "2001:db8::1",
            "fe80::1",
        ];
        assert!(all(&honest, |address| !never_a_source(address)
            && !never_a_destination(address)));
    }
}
