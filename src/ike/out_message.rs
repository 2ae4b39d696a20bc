//! A message to send: one datagram, or several fragments (RFC 7383 §2.5).
//!
//! ```text
//! fragment-size   ◀──────────────── 1280 ────────────────▶
//!                 | IP | UDP | marker | IKE fragment … ICV |
//!                                     ◀─── FragmentSizes::configured ──▶
//! ```
//!
//! A message too long for the smallest path is fragmented twice: in the configured size, and in the minimum size for the case
//! that no larger fragment arrives (RFC 7383 §2.5.1). So retransmission needs neither the message nor the keys.

use std::net::{IpAddr, SocketAddr};

use super::event::{Content, Transmit};
use crate::net::{MIN_MTU_IPV4, MIN_MTU_IPV6};

/// Octets of UDP header and non-ESP marker (RFC 3948 §2.2).
const UDP_AND_MARKER: u16 = 8 + 4;

/// Whether both sides announced fragmentation in IKE_SA_INIT (RFC 7383 §2.3). It holds for the successors of the IKE SA too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragmentation {
    /// They did not: messages are sent whole, and received fragments are dropped.
    Unsupported,
    /// They did.
    Agreed(FragmentSizes),
}

/// Sizes of an IKE message in one datagram, in octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentSizes {
    /// The configured size.
    pub configured: usize,
    /// The size that every path carries, or `configured` if that is smaller.
    pub minimum: usize,
}

impl FragmentSizes {
    /// The sizes for IP packets of at most `packet` octets to `remote`.
    pub fn new(packet: u16, remote: IpAddr) -> FragmentSizes {
        // RFC 7383 §2.5.1: the packet size that each address family guarantees.
        let (header, guaranteed) = match remote {
            IpAddr::V4(_) => (20u16, MIN_MTU_IPV4),
            IpAddr::V6(_) => (40, MIN_MTU_IPV6),
        };
        let around = header.saturating_add(UDP_AND_MARKER);
        FragmentSizes {
            configured: packet.saturating_sub(around).into(),
            minimum: packet.min(guaranteed).saturating_sub(around).into(),
        }
    }
}

/// One of the two sizes in which a message is fragmented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FragmentSize {
    /// The configured size.
    Configured,
    /// The size that every path carries.
    Minimum,
}

/// The datagrams of one message, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagrams {
    configured: Vec<Vec<u8>>,
    /// Empty if it equals the configured size.
    minimum: Vec<Vec<u8>>,
}

impl Datagrams {
    /// A message in one datagram.
    pub fn whole(bytes: Vec<u8>) -> Datagrams {
        Datagrams {
            configured: vec![bytes],
            minimum: Vec::new(),
        }
    }

    /// A message in both sizes.
    pub fn fragmented(configured: Vec<Vec<u8>>, minimum: Vec<Vec<u8>>) -> Datagrams {
        Datagrams {
            configured,
            minimum,
        }
    }

    /// The datagrams of one size.
    pub fn in_size(&self, size: FragmentSize) -> &[Vec<u8>] {
        match size {
            FragmentSize::Minimum if !self.minimum.is_empty() => &self.minimum,
            FragmentSize::Configured | FragmentSize::Minimum => &self.configured,
        }
    }

    /// The datagrams of one size, with addresses.
    pub fn transmits(
        &self,
        size: FragmentSize,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> impl Iterator<Item = Transmit> + '_ {
        self.in_size(size).iter().map(move |bytes| Transmit {
            local,
            remote,
            content: Content::Ike(bytes.clone()),
        })
    }
}

/// A message with its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentMessage {
    /// Our address and port.
    pub local: SocketAddr,
    /// The peer's address and port.
    pub remote: SocketAddr,
    /// The message.
    pub datagrams: Datagrams,
}

impl SentMessage {
    /// Its datagrams in the configured size.
    pub fn transmits(&self) -> impl Iterator<Item = Transmit> + '_ {
        self.transmits_in(FragmentSize::Configured)
    }

    /// Its datagrams in this size.
    pub fn transmits_in(&self, size: FragmentSize) -> impl Iterator<Item = Transmit> + '_ {
        self.datagrams.transmits(size, self.local, self.remote)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_with_ip_udp_and_marker_fills_the_configured_packet() {
        let sizes = |packet, remote: &str| {
            let sizes = FragmentSizes::new(packet, remote.parse().unwrap());
            (sizes.configured, sizes.minimum)
        };
        assert_eq!(sizes(1280, "192.0.2.1"), (1248, 544));
        assert_eq!(sizes(1280, "2001:db8::1"), (1228, 1228));
        assert_eq!(sizes(576, "192.0.2.1"), (544, 544));
        assert_eq!(sizes(600, "2001:db8::1"), (548, 548));
        assert_eq!(sizes(65_535, "2001:db8::1"), (65_483, 1228));
    }

    #[test]
    fn without_smaller_fragments_the_configured_ones_are_sent_again() {
        let whole = Datagrams::whole(vec![1]);
        assert_eq!(whole.in_size(FragmentSize::Minimum), [vec![1]]);
        let cut = Datagrams::fragmented(vec![vec![1]], vec![vec![2], vec![3]]);
        assert_eq!(cut.in_size(FragmentSize::Configured), [vec![1]]);
        assert_eq!(cut.in_size(FragmentSize::Minimum), [vec![2], vec![3]]);
    }
}
