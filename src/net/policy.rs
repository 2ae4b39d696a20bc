//! The traffic selectors of a Child SA: what it may carry (RFC 4301 §4.4.1, §5) and how two sides agree on them (RFC 7296 §2.9).

use super::packet::Packet;
use super::selector::Selector;

/// The selectors of a Child SA, as seen from this gateway.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Policy {
    /// What lies behind us.
    pub local: Vec<Selector>,
    /// What lies behind the peer.
    pub remote: Vec<Selector>,
}

impl Policy {
    /// Whether a packet we are about to send fits.
    #[must_use]
    pub fn permits_outbound(&self, packet: &Packet<'_>) -> bool {
        permits(&self.local, &self.remote, packet)
    }

    /// Whether a packet the peer sent fits.
    #[must_use]
    pub fn permits_inbound(&self, packet: &Packet<'_>) -> bool {
        permits(&self.remote, &self.local, packet)
    }
}

/// What of `offered` the `policy` allows: the pairwise intersections in the order offered, without repetitions.
///
/// The order is kept because the first selector of an offer names the packet that asked for the SA (RFC 7296 §2.9). No more than
/// [`MOST`] come out, which is what fits one payload.
#[must_use]
pub fn narrow(offered: &[Selector], policy: &[Selector]) -> Vec<Selector> {
    let mut agreed: Vec<Selector> = Vec::new();
    for common in offered
        .iter()
        .flat_map(|theirs| policy.iter().filter_map(|ours| theirs.intersect(ours)))
    {
        if agreed.len() < MOST && !agreed.contains(&common) {
            agreed.push(common);
        }
    }
    agreed
}

/// The count of selectors in a payload is one octet (RFC 7296 §3.13).
pub const MOST: usize = u8::MAX as usize;

/// A fragment that is not the first shows no port and so fits only selectors without one (RFC 4301 §7).
fn permits(sources: &[Selector], destinations: &[Selector], packet: &Packet<'_>) -> bool {
    let protocol = packet.protocol();
    let (source_port, destination_port) = packet.ports().unzip();
    sources
        .iter()
        .any(|s| s.matches(packet.source(), protocol, source_port))
        && destinations
            .iter()
            .any(|s| s.matches(packet.destination(), protocol, destination_port))
}
