//! Traffic selectors of a Child SA (RFC 4301 §4.4.1, §5) and their narrowing (RFC 7296 §2.9).

use super::packet::Packet;
use super::selector::Selector;

/// Traffic selectors of a Child SA, as seen from this gateway.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Policy {
    /// Local traffic selectors.
    pub local: Vec<Selector>,
    /// Remote traffic selectors.
    pub remote: Vec<Selector>,
}

impl Policy {
    /// Whether the selectors cover a packet to send.
    #[inline]
    #[must_use]
    pub fn permits_outbound(&self, packet: &Packet<'_>) -> bool {
        permits(&self.local, &self.remote, packet)
    }

    /// Whether the selectors cover a packet from the peer.
    #[inline]
    #[must_use]
    pub fn permits_inbound(&self, packet: &Packet<'_>) -> bool {
        permits(&self.remote, &self.local, packet)
    }

    /// Whether all traffic of another policy is within this one.
    #[must_use]
    pub fn covers(&self, other: &Policy) -> bool {
        let all = |these: &[Selector], those: &[Selector]| {
            those
                .iter()
                .all(|that| these.iter().any(|this| this.contains(that)))
        };
        all(&self.local, &other.local) && all(&self.remote, &other.remote)
    }

    /// Whether some traffic is within both policies.
    #[must_use]
    pub fn overlaps(&self, other: &Policy) -> bool {
        let any = |these: &[Selector], those: &[Selector]| {
            those
                .iter()
                .any(|that| these.iter().any(|this| this.intersect(that).is_some()))
        };
        any(&self.local, &other.local) && any(&self.remote, &other.remote)
    }
}

/// Narrows `offered` to `policy`: the pairwise intersections in the order offered, without repetitions.
///
/// The order is kept because the first selector of an offer is the packet that triggered the request (RFC 7296 §2.9). At most
/// [`MAX_SELECTORS`] result, the maximum of one payload.
#[must_use]
pub fn narrow(offered: &[Selector], policy: &[Selector]) -> Vec<Selector> {
    let mut agreed: Vec<Selector> = Vec::new();
    for common in offered
        .iter()
        .flat_map(|theirs| policy.iter().filter_map(|ours| theirs.intersect(ours)))
    {
        if agreed.len() < MAX_SELECTORS && !agreed.contains(&common) {
            agreed.push(common);
        }
    }
    agreed
}

/// Maximum number of selectors in a payload: its count is one octet (RFC 7296 §3.13).
pub const MAX_SELECTORS: usize = u8::MAX as usize;

/// Whether selectors of both sides match. A later fragment has no ports and matches only selectors for any port (RFC 4301 §7).
#[inline]
fn permits(sources: &[Selector], destinations: &[Selector], packet: &Packet<'_>) -> bool {
    let protocol = packet.protocol();
    let (source_port, destination_port) = packet.ports().unzip();
    let (source, destination) = (packet.source(), packet.destination());
    sources
        .iter()
        .any(|s| s.matches(source, protocol, source_port))
        && destinations
            .iter()
            .any(|s| s.matches(destination, protocol, destination_port))
}

#[cfg(test)]
mod tests {
    use super::super::prefix::Prefix;
    use super::super::selector::PortRange;
    use super::*;

    fn selectors(texts: &[&str]) -> Vec<Selector> {
        texts
            .iter()
            .map(|text| Selector::from(text.parse::<Prefix>().unwrap()))
            .collect()
    }

    /// UDP from 192.168.1.1 port 1000 to 172.16.1.1 port 53.
    fn packet(fragment: [u8; 2]) -> Vec<u8> {
        let [f0, f1] = fragment;
        let header = [
            0x45, 0, 0, 28, 0, 1, f0, f1, 64, 17, 0, 0, 192, 168, 1, 1, 172, 16, 1, 1,
        ];
        [&header[..], &[0x03, 0xe8, 0, 53, 0, 8, 0, 0]].concat()
    }

    fn policy(remote_ports: PortRange) -> Policy {
        let remote = selectors(&["172.16.1.0/24"])[0].with_protocol(17, remote_ports);
        Policy {
            local: selectors(&["10.0.0.0/8", "192.168.1.0/24"]),
            remote: vec![remote],
        }
    }

    #[test]
    fn e07_addresses_and_ports_are_checked_in_both_directions() {
        let bytes = packet([0, 0]);
        let packet = Packet::parse(&bytes).unwrap();
        assert!(policy(PortRange::ANY).permits_outbound(&packet));
        assert!(policy(PortRange::one(53)).permits_outbound(&packet));
        assert!(!policy(PortRange::one(54)).permits_outbound(&packet));
        assert!(
            !policy(PortRange::ANY).permits_inbound(&packet),
            "the other way round"
        );
        let Policy { local, remote } = policy(PortRange::ANY);
        assert!(
            Policy {
                local: remote,
                remote: local
            }
            .permits_inbound(&packet)
        );
        assert!(!Policy::default().permits_outbound(&packet));
    }

    #[test]
    fn e10_later_fragments_fit_only_selectors_without_ports() {
        let bytes = packet([0, 1]);
        let later = Packet::parse(&bytes).unwrap();
        assert!(policy(PortRange::ANY).permits_outbound(&later));
        assert!(policy(PortRange::OPAQUE).permits_outbound(&later));
        assert!(!policy(PortRange::one(53)).permits_outbound(&later));
        assert!(!policy(PortRange::new(0, 65534).unwrap()).permits_outbound(&later));
    }

    #[test]
    fn p03_narrowing_keeps_the_order_offered_and_never_widens() {
        let offered = selectors(&["10.0.1.5/32", "10.0.0.0/8", "192.168.0.0/16", "::/0"]);
        let policy = selectors(&["10.0.1.0/24", "10.0.2.0/24", "192.168.7.0/24"]);
        let agreed = selectors(&[
            "10.0.1.5/32",
            "10.0.1.0/24",
            "10.0.2.0/24",
            "192.168.7.0/24",
        ]);
        assert_eq!(narrow(&offered, &policy), agreed);
        assert_eq!(
            narrow(&selectors(&["0.0.0.0/0", "0.0.0.0/0"]), &policy),
            policy
        );
        assert_eq!(narrow(&selectors(&["11.0.0.0/8"]), &policy), []);
        assert_eq!(narrow(&[], &policy), []);
    }

    #[test]
    fn p03_narrowing_returns_at_most_the_selectors_of_one_payload() {
        let hosts: Vec<Selector> = (0..=u16::MAX)
            .map(|n| Selector::host(std::net::Ipv4Addr::from(0x0a00_0000 + u32::from(n)).into()))
            .take(400)
            .collect();
        assert_eq!(
            narrow(&hosts, &selectors(&["10.0.0.0/8"])).len(),
            MAX_SELECTORS
        );
    }
}
