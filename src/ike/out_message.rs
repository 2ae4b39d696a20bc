//! A message as it leaves: one datagram, or several when it is cut into fragments (RFC 7383 §2.5).
//!
//! ```text
//! fragment-size   ◀──────────────── 1280 ────────────────▶
//!                 | IP | UDP | marker | IKE fragment … ICV |
//!                                     ◀─── FragmentSizes::configured ──▶
//! ```
//!
//! A message too long for the smallest path is cut twice: as the configuration says, and smaller, for the case that nothing of the first cut arrives
//! (RFC 7383 §2.5.1). Then neither the message nor the keys need be kept for a retry.

use std::net::{IpAddr, SocketAddr};

use super::event::{Content, Transmit};

/// Octets of UDP header and non-ESP marker (RFC 3948 §2.2).
const UDP_AND_MARKER: u16 = 8 + 4;

/// Whether both sides said in IKE_SA_INIT that they understand fragments (RFC 7383 §2.3). It holds for what an IKE SA is rekeyed to as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragmentation {
    /// They did not: messages go whole, and fragments are no message of the peer's.
    Unsupported,
    /// They did.
    Agreed(FragmentSizes),
}

/// How many octets of IKE one datagram may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentSizes {
    /// As configured.
    pub configured: usize,
    /// What every path carries, or `usual` if that is less.
    pub minimum: usize,
}

impl FragmentSizes {
    /// For IP packets of at most `packet` octets to `remote`.
    pub fn new(packet: u16, remote: IpAddr) -> FragmentSizes {
        // RFC 7383 §2.5.1: what each family promises to carry.
        let (header, promised) = match remote {
            IpAddr::V4(_) => (20u16, 576),
            IpAddr::V6(_) => (40, 1280),
        };
        let around = header.saturating_add(UDP_AND_MARKER);
        FragmentSizes {
            configured: packet.saturating_sub(around).into(),
            minimum: packet.min(promised).saturating_sub(around).into(),
        }
    }
}

/// Which of the two cuts of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FragmentSize {
    /// In datagrams of the configured size.
    Configured,
    /// In datagrams that every path carries.
    Minimum,
}

/// The datagrams of one message, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagrams {
    configured: Vec<Vec<u8>>,
    /// Empty when it would be the same.
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

    /// A message cut twice.
    pub fn fragmented(configured: Vec<Vec<u8>>, minimum: Vec<Vec<u8>>) -> Datagrams {
        Datagrams {
            configured,
            minimum,
        }
    }

    /// The datagrams of one cut.
    pub fn in_size(&self, size: FragmentSize) -> &[Vec<u8>] {
        match size {
            FragmentSize::Minimum if !self.minimum.is_empty() => &self.minimum,
            FragmentSize::Configured | FragmentSize::Minimum => &self.configured,
        }
    }

    /// The datagrams of one cut on their way between these ends.
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

/// A message with its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentMessage {
    /// Where it leaves from.
    pub local: SocketAddr,
    /// Where it goes.
    pub remote: SocketAddr,
    /// The message.
    pub datagrams: Datagrams,
}

impl SentMessage {
    /// Its datagrams, cut as usual.
    pub fn transmits(&self) -> impl Iterator<Item = Transmit> + '_ {
        self.transmits_in(FragmentSize::Configured)
    }

    /// Its datagrams, cut like this.
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
    fn without_a_smaller_cut_the_usual_one_goes_again() {
        let whole = Datagrams::whole(vec![1]);
        assert_eq!(whole.in_size(FragmentSize::Minimum), [vec![1]]);
        let cut = Datagrams::fragmented(vec![vec![1]], vec![vec![2], vec![3]]);
        assert_eq!(cut.in_size(FragmentSize::Configured), [vec![1]]);
        assert_eq!(cut.in_size(FragmentSize::Minimum), [vec![2], vec![3]]);
    }
}
