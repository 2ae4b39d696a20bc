//! Traffic selector (RFC 7296 §3.13.1): a range of addresses, optionally one protocol and a range of ports.

use std::fmt;
use std::net::IpAddr;

use thiserror::Error;

use super::prefix::{Prefix, host_mask, same_family, to_bits, width};
use super::protocol;

/// Traffic selector of one side of a Child SA: two addresses of one family in order, a protocol and ports.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    first: IpAddr,
    last: IpAddr,
    protocol: u8,
    ports: PortRange,
}

/// Why a selector is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SelectorError {
    /// The addresses have different families.
    #[error("the range mixes IPv4 and IPv6")]
    Families,
    /// The first address exceeds the last.
    #[error("the range ends before it starts")]
    Order,
}

impl Selector {
    /// Selector from its fields, in the order of the wire.
    ///
    /// # Errors
    /// The addresses have different families or the wrong order.
    pub fn new(
        protocol: u8,
        ports: PortRange,
        first: IpAddr,
        last: IpAddr,
    ) -> Result<Selector, SelectorError> {
        if !same_family(first, last) {
            return Err(SelectorError::Families);
        }
        if first > last {
            return Err(SelectorError::Order);
        }
        Ok(Selector {
            first,
            last,
            protocol,
            ports,
        })
    }

    /// Selector for all traffic of the addresses from `first` to `last`.
    ///
    /// # Errors
    /// See [`Selector::new`].
    pub fn from_range(first: IpAddr, last: IpAddr) -> Result<Selector, SelectorError> {
        Selector::new(0, PortRange::ANY, first, last)
    }

    /// Selector for all traffic of one address.
    #[must_use]
    pub const fn host(address: IpAddr) -> Selector {
        Selector {
            first: address,
            last: address,
            protocol: 0,
            ports: PortRange::ANY,
        }
    }

    /// The same addresses with one protocol and its ports.
    #[must_use]
    pub const fn with_protocol(self, protocol: u8, ports: PortRange) -> Selector {
        Selector {
            protocol,
            ports,
            ..self
        }
    }

    /// Upper-layer protocol; 0 is any.
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Ports.
    #[must_use]
    pub const fn ports(&self) -> PortRange {
        self.ports
    }

    /// First address.
    #[must_use]
    pub const fn first(&self) -> IpAddr {
        self.first
    }

    /// Last address.
    #[must_use]
    pub const fn last(&self) -> IpAddr {
        self.last
    }

    /// Whether the addresses are IPv4.
    #[must_use]
    pub const fn is_ipv4(&self) -> bool {
        self.first.is_ipv4()
    }

    /// Prefix with exactly these addresses, if there is one.
    #[must_use]
    pub fn as_prefix(&self) -> Option<Prefix> {
        let differing = to_bits(self.first) ^ to_bits(self.last);
        let host_bits = u8::try_from(u128::BITS.saturating_sub(differing.leading_zeros())).ok()?;
        let length = width(self.first).checked_sub(host_bits)?;
        let host = host_mask(length, self.first);
        let aligned = to_bits(self.first) & host == 0 && to_bits(self.last) & host == host;
        aligned.then(|| Prefix::containing(self.first, length))
    }

    /// Minimum list of prefixes with exactly these addresses, for routes.
    #[must_use]
    pub fn prefixes(&self) -> Vec<Prefix> {
        let mut prefixes = Vec::new();
        let mut start = self.first;
        loop {
            // Largest aligned block that starts here and does not exceed the end.
            let block = (0..=width(start))
                .map(|length| Prefix::containing(start, length))
                .find(|block| block.first() == start && block.last() <= self.last)
                .unwrap_or(Prefix::host(start));
            prefixes.push(block);
            if block.last() >= self.last {
                return prefixes;
            }
            start = super::prefix::from_bits(to_bits(block.last()).wrapping_add(1), start);
        }
    }

    /// Addresses of both, for all traffic, if they are one range.
    #[must_use]
    pub fn join(&self, other: &Selector) -> Option<Selector> {
        let (low, high) = if self.first <= other.first {
            (self, other)
        } else {
            (other, self)
        };
        let is_gapless = to_bits(high.first).saturating_sub(to_bits(low.last)) <= 1;
        (low.is_ipv4() == high.is_ipv4() && is_gapless).then(|| Selector {
            last: low.last.max(high.last),
            ..Selector::host(low.first)
        })
    }

    /// Whether `other` is a subset.
    #[must_use]
    pub fn contains(&self, other: &Selector) -> bool {
        self.covers(other.first)
            && self.covers(other.last)
            && (self.protocol == 0 || self.protocol == other.protocol)
            && self.ports.contains(other.ports)
    }

    /// Whether the selector covers one end of a packet. `port` is `None` for a protocol without ports and for a later fragment.
    #[inline]
    #[must_use]
    pub fn matches(&self, address: IpAddr, protocol: u8, port: Option<u16>) -> bool {
        self.covers(address)
            && (self.protocol == 0 || self.protocol == protocol)
            && self.ports.matches(port)
    }

    /// Intersection.
    #[must_use]
    pub fn intersect(&self, other: &Selector) -> Option<Selector> {
        let protocol = match (self.protocol, other.protocol) {
            (0, theirs) => theirs,
            (ours, 0) => ours,
            (ours, theirs) if ours == theirs => ours,
            (_, _) => return None,
        };
        if !same_family(self.first, other.first) {
            return None;
        }
        let ports = self.ports.intersect(other.ports)?;
        Selector::new(
            protocol,
            ports,
            self.first.max(other.first),
            self.last.min(other.last),
        )
        .ok()
    }

    #[inline]
    fn covers(&self, address: IpAddr) -> bool {
        match (self.first, address, self.last) {
            (IpAddr::V4(first), IpAddr::V4(address), IpAddr::V4(last)) => {
                (first.to_bits()..=last.to_bits()).contains(&address.to_bits())
            }
            (IpAddr::V6(first), IpAddr::V6(address), IpAddr::V6(last)) => {
                (first.to_bits()..=last.to_bits()).contains(&address.to_bits())
            }
            (IpAddr::V4(_) | IpAddr::V6(_), _, _) => false,
        }
    }
}

impl From<Prefix> for Selector {
    fn from(prefix: Prefix) -> Selector {
        Selector {
            first: prefix.first(),
            last: prefix.last(),
            protocol: 0,
            ports: PortRange::ANY,
        }
    }
}

/// `10.0.0.0/24`, `10.0.0.1-10.0.0.9[tcp/80-90]`.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_prefix() {
            Some(prefix) => write!(f, "{prefix}")?,
            None => write!(f, "{}-{}", self.first, self.last)?,
        }
        if self.protocol == 0 && self.ports.is_any() {
            return Ok(());
        }
        match self.protocol {
            0 => f.write_str("[any")?,
            protocol::ICMP => f.write_str("[icmp")?,
            protocol::TCP => f.write_str("[tcp")?,
            protocol::UDP => f.write_str("[udp")?,
            protocol::ICMPV6 => f.write_str("[icmpv6")?,
            protocol::SCTP => f.write_str("[sctp")?,
            other => write!(f, "[{other}")?,
        }
        if !self.ports.is_any() {
            write!(f, "/{}", self.ports)?;
        }
        f.write_str("]")
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

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
    use super::super::protocol::{TCP, UDP};
    use super::*;
    use proptest::prelude::*;

    fn range(first: &str, last: &str) -> Selector {
        Selector::from_range(first.parse().unwrap(), last.parse().unwrap()).unwrap()
    }

    fn prefix(text: &str) -> Selector {
        Selector::from(text.parse::<Prefix>().unwrap())
    }

    #[test]
    fn selectors_are_displayed_as_prefixes_if_possible() {
        assert_eq!(prefix("10.0.0.0/24").to_string(), "10.0.0.0/24");
        assert_eq!(range("10.0.0.0", "10.0.0.255").to_string(), "10.0.0.0/24");
        assert_eq!(range("0.0.0.0", "255.255.255.255").to_string(), "0.0.0.0/0");
        let https = range("10.0.0.1", "10.0.0.9").with_protocol(TCP, PortRange::one(443));
        assert_eq!(https.to_string(), "10.0.0.1-10.0.0.9[tcp/443]");
        assert_eq!(
            prefix("::/0").with_protocol(58, PortRange::ANY).to_string(),
            "::/0[icmpv6]"
        );
        assert_eq!(
            prefix("::/0")
                .with_protocol(0, PortRange::OPAQUE)
                .to_string(),
            "::/0[any/opaque]"
        );
    }

    #[test]
    fn only_aligned_ranges_are_prefixes() {
        assert_eq!(
            range("10.0.0.0", "10.0.0.255").as_prefix(),
            Some("10.0.0.0/24".parse().unwrap())
        );
        assert_eq!(
            range("10.0.0.1", "10.0.0.1").as_prefix(),
            Some("10.0.0.1/32".parse().unwrap())
        );
        assert_eq!(
            range("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff").as_prefix(),
            Some("::/0".parse().unwrap())
        );
        for (first, last) in [
            ("10.0.0.1", "10.0.0.255"),
            ("10.0.0.0", "10.0.0.254"),
            ("10.0.0.128", "10.0.1.127"),
        ] {
            assert_eq!(range(first, last).as_prefix(), None, "{first}-{last}");
        }
    }

    #[test]
    fn every_range_is_a_list_of_prefixes() {
        let texts = |s: Selector| {
            s.prefixes()
                .iter()
                .map(Prefix::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            texts(range("10.0.0.1", "10.0.0.6")),
            ["10.0.0.1/32", "10.0.0.2/31", "10.0.0.4/31", "10.0.0.6/32"]
        );
        assert_eq!(texts(prefix("0.0.0.0/0")), ["0.0.0.0/0"]);
        assert_eq!(texts(prefix("::/0")), ["::/0"]);
        assert_eq!(range("0.0.0.1", "255.255.255.254").prefixes().len(), 62);
    }

    #[test]
    fn p03_mixed_families_and_reversed_ranges_are_rejected() {
        let of = |first: &str, last: &str| {
            Selector::from_range(first.parse().unwrap(), last.parse().unwrap())
        };
        assert_eq!(of("10.0.0.2", "10.0.0.1"), Err(SelectorError::Order));
        assert_eq!(of("10.0.0.2", "::1"), Err(SelectorError::Families));
    }

    #[test]
    fn an_intersection_contains_what_both_select() {
        let ours = prefix("10.0.0.0/16").with_protocol(TCP, PortRange::new(80, 90).unwrap());
        let theirs = prefix("10.0.1.0/24").with_protocol(0, PortRange::new(85, 100).unwrap());
        let both = prefix("10.0.1.0/24").with_protocol(TCP, PortRange::new(85, 90).unwrap());
        assert_eq!(ours.intersect(&theirs), Some(both));
        assert_eq!(theirs.intersect(&ours), Some(both));
        assert_eq!(ours.intersect(&prefix("10.1.0.0/16")), None);
        assert_eq!(ours.intersect(&prefix("::/0")), None);
        assert_eq!(
            ours.intersect(&prefix("10.0.0.0/8").with_protocol(UDP, PortRange::ANY)),
            None
        );
        assert_eq!(
            ours.intersect(&prefix("10.0.0.0/8").with_protocol(TCP, PortRange::one(91))),
            None
        );
    }

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

    fn some_selector() -> impl Strategy<Value = Selector> {
        let ports = prop_oneof![
            Just(PortRange::ANY),
            Just(PortRange::OPAQUE),
            (0_u16..6, 0_u16..6).prop_map(|(a, b)| PortRange::new(a.min(b), a.max(b)).unwrap()),
        ];
        (0_u8..8, 0_u8..8, 0_u8..3, ports).prop_map(|(a, b, protocol, ports)| {
            let address = |last| IpAddr::from([10, 0, 0, last]);
            Selector::new(protocol, ports, address(a.min(b)), address(a.max(b))).unwrap()
        })
    }

    proptest! {
        #[test]
        fn a_packet_is_in_the_intersection_if_it_is_in_both(
            a in some_selector(), b in some_selector(), host in 0_u8..8, protocol in 1_u8..3, port in prop::option::of(0_u16..6)
        ) {
            let address = IpAddr::from([10, 0, 0, host]);
            let both = a.matches(address, protocol, port) && b.matches(address, protocol, port);
            let common = a.intersect(&b);
            prop_assert_eq!(common.is_some_and(|c| c.matches(address, protocol, port)), both);
            prop_assert_eq!(common, b.intersect(&a));
            prop_assert!(common.is_none_or(|c| a.contains(&c) && b.contains(&c)));
        }

        #[test]
        fn prefixes_cover_a_range_exactly(a: u32, b: u32) {
            let address = |bits: u32| IpAddr::V4(bits.into());
            let selector = Selector::from_range(address(a.min(b)), address(a.max(b))).unwrap();
            let prefixes = selector.prefixes();
            prop_assert_eq!(prefixes[0].first(), selector.first());
            prop_assert_eq!(prefixes[prefixes.len() - 1].last(), selector.last());
            for pair in prefixes.windows(2) {
                prop_assert_eq!(to_bits(pair[0].last()) + 1, to_bits(pair[1].first()));
            }
        }
    }
}
