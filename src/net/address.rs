//! IP addresses as numbers, for the arithmetic of prefixes and ranges of both families, and invalid addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bits of an address of this family.
pub(crate) const fn width(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// Address as a number; an IPv4 address uses the low 32 bits.
pub(crate) const fn to_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits() as u128,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Number as an address of the family of `like`.
pub(crate) const fn from_bits(bits: u128, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(bits as u32)),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(bits)),
    }
}

/// Mask of the host bits of a prefix with `length` bits.
pub(crate) fn host_mask(length: u8, like: IpAddr) -> u128 {
    let host_bits = u32::from(width(like).saturating_sub(length));
    1_u128
        .checked_shl(host_bits)
        .map_or(u128::MAX, |one| one.wrapping_sub(1))
}

/// Whether both addresses have the same family.
pub(crate) const fn same_family(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}

/// Whether the address is invalid as a source (RFC 1812 §5.3.7). No ICMP error may be sent to it either.
pub(crate) fn is_invalid_source(address: IpAddr) -> bool {
    match address {
        // 240.0.0.0/4 is reserved and holds the limited broadcast.
        IpAddr::V4(v4) => v4.is_multicast() || matches!(v4.octets(), [0 | 127 | 240.., ..]),
        IpAddr::V6(v6) => v6.is_multicast() || is_invalid_destination(address),
    }
}

/// Whether the address is invalid as a destination.
pub(crate) fn is_invalid_destination(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => matches!(v4.octets(), [0 | 127, ..]),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unspecified() || v6.to_ipv4_mapped().is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_mask_covers_the_host_bits() {
        let v4 = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let v6 = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        assert_eq!(host_mask(32, v4), 0);
        assert_eq!(host_mask(24, v4), 0xff);
        assert_eq!(host_mask(0, v4), 0xffff_ffff);
        assert_eq!(host_mask(0, v6), u128::MAX);
        assert_eq!(host_mask(128, v6), 0);
    }

    #[test]
    fn e07_invalid_sources_and_destinations_are_recognized() {
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
        assert!(all(&neither, is_invalid_source) && all(&neither, is_invalid_destination));
        let groups = ["224.0.0.1", "255.255.255.255", "ff02::1"];
        assert!(
            all(&groups, is_invalid_source)
                && all(&groups, |address| !is_invalid_destination(address))
        );
        let valid = [
            "10.0.0.1",
            "169.254.1.1",
            "223.255.255.255",
            "2001:db8::1",
            "fe80::1",
        ];
        assert!(all(&valid, |address| !is_invalid_source(address)
            && !is_invalid_destination(address)));
    }
}
