//! Address prefixes: `10.0.0.0/8`, `2001:db8::/32`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use thiserror::Error;

use super::address::{from_bits, host_mask, same_family, to_bits, width};

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
    #[error("{given} has host bits set: write {meant} for the network or {address} for the one host", address = given_address(given))]
    HostBits {
        /// What was written.
        given: String,
        /// Prefix that contains the address.
        meant: Prefix,
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
            return Ok(Prefix::host(address));
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

fn given_address(given: &str) -> &str {
    given.split_once('/').map_or(given, |(address, _)| address)
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
            "10.1.2.3/8 has host bits set: write 10.0.0.0/8 for the network or 10.1.2.3 for the one host"
        );
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
}
