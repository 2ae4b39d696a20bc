//! Ports of a traffic selector (RFC 7296 §3.13.1, RFC 4301 §4.4.1.1).

use std::fmt;

/// Range of ports, or one of the two special values of RFC 4301 §4.4.1.1.
///
/// For ICMP and the mobility header, a port is the type in the high octet and the code in the low one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// All ports, and packets without ports.
    pub const ANY: PortRange = PortRange {
        first: 0,
        last: u16::MAX,
    };

    /// Packets without ports only (RFC 4301 §4.4.1.1); on the wire the range 65535 to 0.
    pub const OPAQUE: PortRange = PortRange {
        first: u16::MAX,
        last: 0,
    };

    /// Ports from `first` to `last`; `None` if the range is empty and not [`PortRange::OPAQUE`].
    #[must_use]
    pub const fn new(first: u16, last: u16) -> Option<PortRange> {
        let range = PortRange { first, last };
        if first <= last || range.is_opaque() {
            Some(range)
        } else {
            None
        }
    }

    /// A single port.
    #[must_use]
    pub const fn one(port: u16) -> PortRange {
        PortRange {
            first: port,
            last: port,
        }
    }

    /// Lowest port.
    #[must_use]
    pub const fn first(self) -> u16 {
        self.first
    }

    /// Highest port.
    #[must_use]
    pub const fn last(self) -> u16 {
        self.last
    }

    /// Whether the range is [`PortRange::ANY`].
    #[must_use]
    pub const fn is_any(self) -> bool {
        self.first == 0 && self.last == u16::MAX
    }

    /// Whether the range is [`PortRange::OPAQUE`].
    #[must_use]
    pub const fn is_opaque(self) -> bool {
        self.first == u16::MAX && self.last == 0
    }

    /// Whether `other` is a subset.
    #[must_use]
    pub const fn contains(self, other: PortRange) -> bool {
        if self.is_any() || other.is_opaque() {
            return self.is_any() || self.is_opaque();
        }
        self.first <= other.first && other.last <= self.last
    }

    /// Whether the range selects a packet with this port; `None` is a packet without ports.
    #[must_use]
    pub const fn matches(self, port: Option<u16>) -> bool {
        match port {
            Some(port) => self.first <= port && port <= self.last,
            None => self.is_any() || self.is_opaque(),
        }
    }

    /// Intersection.
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
    fn p03_an_empty_range_is_rejected_except_opaque() {
        assert_eq!(PortRange::new(2, 1), None);
        assert_eq!(PortRange::new(65535, 1), None);
        assert_eq!(PortRange::new(65535, 0), Some(PortRange::OPAQUE));
    }

    #[test]
    fn opaque_is_a_subset_of_any_only() {
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
