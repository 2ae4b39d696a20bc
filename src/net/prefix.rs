//! An address prefix: `10.0.0.0/8`, `2001:db8::/32`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use thiserror::Error;

use super::address::{from_bits, host_mask, same_family, to_bits, width};

/// A block of addresses whose first `length` bits are equal. The bits behind them are zero: that is what makes two prefixes
/// comparable, and a typing mistake visible.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

/// Why something is not a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PrefixError {
    /// The part before the slash is not an address.
    #[error("`{0}` is not an IP address")]
    Address(String),
    /// The part after the slash is not a number, or too large for the family.
    #[error("`{given}` is not a prefix length: 0 to {limit} fit {address}")]
    Length {
        /// The address it was given for.
        address: IpAddr,
        /// What was written.
        given: String,
        /// The largest that fits.
        limit: u8,
    },
    /// Bits behind the prefix are set: the network was meant, or one host.
    #[error("{given} has host bits set: write {meant} for the network or {address} for the one host", address = given_address(given))]
    HostBits {
        /// What was written.
        given: String,
        /// The prefix this address lies in.
        meant: Prefix,
    },
}

impl Prefix {
    /// The prefix of `length` bits starting at `address`.
    ///
    /// # Errors
    /// The length does not fit the family, or bits behind the prefix are set.
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

    /// The prefix of one address: /32 or /128.
    #[must_use]
    pub const fn host(address: IpAddr) -> Prefix {
        Prefix {
            address,
            length: width(address),
        }
    }

    /// The prefix of `length` bits that `address` lies in; a length too large for the family means the one address.
    #[must_use]
    pub fn containing(address: IpAddr, length: u8) -> Prefix {
        let bits = to_bits(address) & !host_mask(length, address);
        Prefix {
            address: from_bits(bits, address),
            length: length.min(width(address)),
        }
    }

    /// The first address, which names the prefix.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// How many leading bits are fixed.
    #[must_use]
    pub const fn length(&self) -> u8 {
        self.length
    }

    /// The lowest address in it.
    #[must_use]
    pub const fn first(&self) -> IpAddr {
        self.address
    }

    /// The highest address in it.
    #[must_use]
    pub fn last(&self) -> IpAddr {
        from_bits(
            to_bits(self.address) | host_mask(self.length, self.address),
            self.address,
        )
    }

    /// Whether `address` lies in it. Never across families.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        same_family(self.address, address)
            && to_bits(address) & !host_mask(self.length, self.address) == to_bits(self.address)
    }

    /// Whether all of `other` lies in it.
    #[must_use]
    pub fn contains_prefix(&self, other: &Prefix) -> bool {
        self.length <= other.length && self.contains(other.address)
    }

    /// Whether it is `0.0.0.0/0` or `::/0`.
    #[must_use]
    pub const fn is_default(&self) -> bool {
        self.length == 0
    }

    /// Whether it is a block of IPv4 addresses.
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
        // `parse` would also take "+8".
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
    fn text_and_back() {
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
    fn host_bits_name_the_network_that_was_meant() {
        let error = "10.1.2.3/8".parse::<Prefix>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "10.1.2.3/8 has host bits set: write 10.0.0.0/8 for the network or 10.1.2.3 for the one host"
        );
    }

    #[test]
    fn what_is_no_prefix_is_refused() {
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
    fn containment_respects_edges_and_family() {
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
