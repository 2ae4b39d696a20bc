//! Address prefixes (`10.0.0.0/8`, `2001:db8::/32`), addresses as numbers, and invalid source and destination addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use thiserror::Error;

/// Block of addresses with equal leading `length` bits. The host bits are zero, so that equal prefixes compare equal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

/// Why a text is not a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PrefixError {
    /// The part before the slash is not an address.
    #[error("`{0}` is not an IP address")]
    Address(String),
    /// The part behind the slash is not a number, or too large for the family.
    #[error("`{given}` is not a prefix length: 0 to {limit} fit {address}")]
    Length {
        /// The address it was given for.
        address: IpAddr,
        /// What was written.
        given: String,
        /// Maximum length of the family.
        limit: u8,
    },
    /// Host bits are set.
    #[error("{given} has host bits set: write {meant} for the network or {host} for the one host")]
    HostBits {
        /// What was written.
        given: String,
        /// Prefix that contains the address.
        meant: Prefix,
        /// Prefix of the one address.
        host: Prefix,
    },
    /// The length is missing, and the address looks like that of a network.
    #[error("`{}` has no prefix length: write {meant} for the network or {host} for the one host", host.address)]
    NoLength {
        /// Network up to the last part of the address that is not zero.
        meant: Prefix,
        /// Prefix of the one address.
        host: Prefix,
    },
}

impl Prefix {
    /// Prefix of `length` bits at `address`.
    ///
    /// # Errors
    /// The length exceeds the family, or host bits are set.
    pub fn new(address: IpAddr, length: u8) -> Result<Prefix, PrefixError> {
        if length > width(address) {
            return Err(PrefixError::Length {
                address,
                given: length.to_string(),
                limit: width(address),
            });
        }
        let meant = Prefix::containing(address, length);
        if meant.address != address {
            return Err(PrefixError::HostBits {
                given: format!("{address}/{length}"),
                meant,
                host: Prefix::host(address),
            });
        }
        Ok(meant)
    }

    /// Prefix of a single address: /32 or /128.
    #[must_use]
    pub const fn host(address: IpAddr) -> Prefix {
        Prefix {
            address,
            length: width(address),
        }
    }

    /// Prefix of `length` bits that contains `address`; a length that exceeds the family means the single address.
    #[must_use]
    pub fn containing(address: IpAddr, length: u8) -> Prefix {
        let bits = to_bits(address) & !host_mask(length, address);
        Prefix {
            address: from_bits(bits, address),
            length: length.min(width(address)),
        }
    }

    /// First address.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// Prefix length.
    #[must_use]
    pub const fn length(&self) -> u8 {
        self.length
    }

    /// First address.
    #[must_use]
    pub const fn first(&self) -> IpAddr {
        self.address
    }

    /// Last address.
    #[must_use]
    pub fn last(&self) -> IpAddr {
        from_bits(
            to_bits(self.address) | host_mask(self.length, self.address),
            self.address,
        )
    }

    /// Whether `address` is in the prefix; false for the other family.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        same_family(self.address, address)
            && to_bits(address) & !host_mask(self.length, self.address) == to_bits(self.address)
    }

    /// Whether `other` is a subset.
    #[must_use]
    pub fn contains_prefix(&self, other: &Prefix) -> bool {
        self.length <= other.length && self.contains(other.address)
    }

    /// Prefixes that contain this one, itself included, the shortest first.
    pub fn covering(self) -> impl Iterator<Item = Prefix> {
        (0..=self.length).map(move |length| Prefix::containing(self.address, length))
    }

    /// Both halves, the lower first; `None` for a single address.
    #[must_use]
    pub fn halves(&self) -> Option<[Prefix; 2]> {
        let length = self.length.checked_add(1)?;
        (length <= Prefix::host(self.address).length)
            .then(|| [self.first(), self.last()].map(|address| Prefix::containing(address, length)))
    }

    /// Whether the prefix is `0.0.0.0/0` or `::/0`.
    #[must_use]
    pub const fn is_default(&self) -> bool {
        self.length == 0
    }

    /// Whether the prefix is IPv4.
    #[must_use]
    pub const fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Prefix, PrefixError> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address
            .parse()
            .map_err(|_| PrefixError::Address(address.to_owned()))?;
        let Some(given) = length else {
            let host = Prefix::host(address);
            return match implied_length(address) {
                Some(length) => Err(PrefixError::NoLength {
                    meant: Prefix::containing(address, length),
                    host,
                }),
                None => Ok(host),
            };
        };
        // `parse` would accept "+8".
        let digits = given.bytes().all(|b| b.is_ascii_digit());
        match given.parse() {
            Ok(length) if digits => Prefix::new(address, length),
            Ok(_) | Err(_) => Err(PrefixError::Length {
                address,
                given: given.to_owned(),
                limit: width(address),
            }),
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Length of the network that an address looks like: trailing zero octets of an IPv4 address, or a zero interface identifier of an IPv6 one.
fn implied_length(address: IpAddr) -> Option<u8> {
    let zeros = to_bits(address).trailing_zeros().min(width(address).into());
    let (least, part) = if address.is_ipv4() { (8, 8) } else { (64, 16) };
    let rest = zeros.checked_rem(part).unwrap_or(0);
    let length = u32::from(width(address)).saturating_sub(zeros.saturating_sub(rest));
    (zeros >= least)
        .then(|| u8::try_from(length).ok())
        .flatten()
}

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

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn prefixes_round_trip_as_text() {
        for text in [
            "10.0.0.0/8",
            "0.0.0.0/0",
            "192.168.1.7/32",
            "2001:db8::/32",
            "::/0",
            "fe80::1/128",
        ] {
            assert_eq!(prefix(text).to_string(), text);
        }
        assert_eq!(prefix("10.1.2.3").to_string(), "10.1.2.3/32");
        assert_eq!(prefix("2001:db8::1").to_string(), "2001:db8::1/128");
    }

    #[test]
    fn host_bits_are_an_error_that_names_the_network() {
        let error = "10.1.2.3/8".parse::<Prefix>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "10.1.2.3/8 has host bits set: write 10.0.0.0/8 for the network or 10.1.2.3/32 for the one host"
        );
    }

    #[test]
    fn a_network_without_a_length_is_an_error_that_names_both_meanings() {
        for (text, network, host) in [
            ("172.16.1.0", "172.16.1.0/24", "172.16.1.0/32"),
            ("10.0.0.0", "10.0.0.0/8", "10.0.0.0/32"),
            ("0.0.0.0", "0.0.0.0/0", "0.0.0.0/32"),
            ("2001:db8:1::", "2001:db8:1::/48", "2001:db8:1::/128"),
            ("::", "::/0", "::/128"),
        ] {
            assert_eq!(
                text.parse::<Prefix>().unwrap_err().to_string(),
                format!(
                    "`{text}` has no prefix length: write {network} for the network or {host} for the one host"
                )
            );
            for written in [network, host] {
                assert_eq!(prefix(written).to_string(), written);
            }
        }
    }

    #[test]
    fn invalid_prefixes_are_rejected() {
        for text in [
            "",
            "/",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "10.0.0.0/8/8",
            "10.0.0/8",
            "::/129",
            "x/8",
        ] {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
    }

    #[test]
    fn containment_is_exact_and_within_one_family() {
        let p = prefix("10.1.0.0/16");
        assert!(
            p.contains("10.1.0.0".parse().unwrap()) && p.contains("10.1.255.255".parse().unwrap())
        );
        assert!(!p.contains("10.2.0.0".parse().unwrap()) && !p.contains("::".parse().unwrap()));
        assert!(
            p.contains_prefix(&prefix("10.1.2.0/24")) && !p.contains_prefix(&prefix("10.0.0.0/8"))
        );
        assert!(prefix("::/0").contains(IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)));
        assert!(!prefix("::/0").contains_prefix(&prefix("0.0.0.0/0")));
        assert_eq!(p.last(), "10.1.255.255".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn the_covering_prefixes_are_all_that_contain_one() {
        let covering: Vec<Prefix> = prefix("160.0.0.0/3").covering().collect();
        let expected = ["0.0.0.0/0", "128.0.0.0/1", "128.0.0.0/2", "160.0.0.0/3"].map(prefix);
        assert_eq!(covering, expected);
    }

    #[test]
    fn halves_are_two_prefixes_without_a_gap() {
        assert_eq!(
            prefix("10.2.0.0/23").halves(),
            Some([prefix("10.2.0.0/24"), prefix("10.2.1.0/24")])
        );
        assert_eq!(
            prefix("::/0").halves(),
            Some([prefix("::/1"), prefix("8000::/1")])
        );
        assert_eq!(prefix("10.2.0.1/32").halves(), None);
    }

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
