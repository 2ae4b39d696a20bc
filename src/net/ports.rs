//! The ports of a traffic selector (RFC 7296 §3.13.1, RFC 4301 §4.4.1.1).

use std::fmt;

/// A range of ports, or the two special ones of RFC 4301 §4.4.1.1.
///
/// For ICMP and the mobility header, whose packets have no ports, the number is the type in the high octet and the code in the low.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// All ports, and packets that show none.
    pub const ANY: PortRange = PortRange {
        first: 0,
        last: u16::MAX,
    };

    /// Only packets that show no port (RFC 4301 §4.4.1.1); on the wire the impossible range 65535 to 0.
    pub const OPAQUE: PortRange = PortRange {
        first: u16::MAX,
        last: 0,
    };

    /// The ports from `first` to `last`; `None` if the range is empty and not [`PortRange::OPAQUE`].
    #[must_use]
    pub const fn new(first: u16, last: u16) -> Option<PortRange> {
        let range = PortRange { first, last };
        if first <= last || range.is_opaque() {
            Some(range)
        } else {
            None
        }
    }

    /// One port.
    #[must_use]
    pub const fn one(port: u16) -> PortRange {
        PortRange {
            first: port,
            last: port,
        }
    }

    /// The lowest port.
    #[must_use]
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    #[must_use]
    pub const fn last(self) -> u16 {
        self.last
    }

    /// Whether it selects every packet.
    #[must_use]
    pub const fn is_any(self) -> bool {
        self.first == 0 && self.last == u16::MAX
    }

    /// Whether it selects only packets that show no port.
    #[must_use]
    pub const fn is_opaque(self) -> bool {
        self.first == u16::MAX && self.last == 0
    }

    /// Whether all of `other` lies in it.
    #[must_use]
    pub const fn contains(self, other: PortRange) -> bool {
        if self.is_any() || other.is_opaque() {
            return self.is_any() || self.is_opaque();
        }
        self.first <= other.first && other.last <= self.last
    }

    /// Whether a packet with this port is selected; `None` is a packet that shows none.
    #[must_use]
    pub const fn matches(self, port: Option<u16>) -> bool {
        match port {
            Some(port) => self.first <= port && port <= self.last,
            None => self.is_any() || self.is_opaque(),
        }
    }

    /// What both select.
    #[must_use]
    pub fn intersect(self, other: PortRange) -> Option<PortRange> {
        if self.contains(other) {
            return Some(other);
        }
        if other.contains(self) {
            return Some(self);
        }
        if self.is_opaque() || other.is_opaque() {
            return None;
        }
        let (first, last) = (self.first.max(other.first), self.last.min(other.last));
        (first <= last).then_some(PortRange { first, last })
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_opaque() {
            f.write_str("opaque")
        } else if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl fmt::Debug for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p03_a_range_that_ends_before_it_starts_is_none_but_the_opaque_one() {
        assert_eq!(PortRange::new(2, 1), None);
        assert_eq!(PortRange::new(65535, 1), None);
        assert_eq!(PortRange::new(65535, 0), Some(PortRange::OPAQUE));
    }

    #[test]
    fn opaque_is_part_of_any_and_of_nothing_else() {
        let (any, opaque, some) = (
            PortRange::ANY,
            PortRange::OPAQUE,
            PortRange::new(1, 65535).unwrap(),
        );
        assert!(any.contains(opaque) && opaque.contains(opaque) && !opaque.contains(any));
        assert!(!some.contains(opaque) && !opaque.contains(some));
        assert_eq!(any.intersect(opaque), Some(opaque));
        assert_eq!(some.intersect(opaque), None);
        assert!(opaque.matches(None) && any.matches(None) && !some.matches(None));
        assert!(!opaque.matches(Some(0)) && !opaque.matches(Some(65535)) && any.matches(Some(0)));
    }
}
