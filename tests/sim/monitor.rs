//! Invariants checked at every moment, whatever the network, the operators and the clocks do.
//!
//! - No IV is used twice with one IKE key, except to send the same octets again; no message ID has two contents (RFC 7296 §2.1).
//! - No two Child SAs share a key in either direction; each counts from one, so no key meets a sequence number twice.
//! - An ESP packet that arrives is decrypted unless its receiver has closed the SA for good: a rekey never loses a packet.
//! - A gateway with a Child SA has one to send over.
//! - The number of SAs is bounded, and no timer expires at the same instant endlessly.
//! - Events are consistent (checked where `node` and `esp` apply them).

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use groundlink::ike::{Child, DownReason};
use groundlink::net::Time;

use crate::esp::{Arrival, Key, Packet, key};
use crate::node::Node;
use crate::pair::Side;

/// Upper bound on the SAs of a tunnel.
#[derive(Clone, Copy, Debug)]
pub struct SaLimit {
    pub ikes: usize,
    pub children: usize,
}

impl SaLimit {
    /// The bound with two compliant peers: one IKE SA, its replacement, the same from a simultaneous rekey of the peer, and those
    /// whose DELETE is lost repeatedly.
    const COOPERATIVE: SaLimit = SaLimit {
        ikes: 6,
        children: 6,
    };

    /// The bound with a hostile authenticated peer, for fuzzing: each permitted IKE SA has the maximum number of Child SAs.
    #[allow(dead_code, reason = "for the fuzz targets")]
    pub const HOSTILE: SaLimit = SaLimit {
        ikes: 16,
        children: 16 * 64 * 6,
    };
}

/// Number of timer expirations at one instant that counts as an endless loop.
const MAX_TIMER_REPEATS: u32 = 10;

/// The reason why an ESP packet was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gap {
    /// The sender had no SA.
    NoSa,
    /// The receiver does not have the SA yet, or lost it by a restart.
    Unknown,
    /// The receiver has closed the SA without a replacement.
    Closed(DownReason),
    /// The receiver was suspended.
    Asleep,
    /// The network was blocked, or the NAT had no mapping.
    Lost,
}

#[derive(Default)]
pub struct Monitor {
    /// The digest of the message for each (SPIs, direction and generation of the keys, IV).
    ivs: HashMap<[u8; 25], u64>,
    /// The digest of the message for each (SPIs, flags, message ID, fragment number and total: a message may be refragmented).
    sent_messages: HashMap<[u8; 25], u64>,
    keys: HashSet<Key>,
    /// Decrypted packets, by receiver.
    pub opened: [u64; 2],
    /// Packets that were not delivered, by sender.
    pub gaps: Vec<(Time, Side, Gap)>,
    timer_repeats: (Time, u32),
    /// The bound for each side.
    pub limit: SaLimit,
}

impl Default for SaLimit {
    fn default() -> SaLimit {
        SaLimit::COOPERATIVE
    }
}

impl Monitor {
    /// A side has sent an IKE message.
    pub fn ike_sent(&mut self, bytes: &[u8]) {
        let iv_at = match bytes[16] {
            46 => 32,
            53 => 36,
            // Not encrypted.
            _ => return,
        };
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let digest = hasher.finish();

        let mut iv_key = [0; 25];
        iv_key[..16].copy_from_slice(&bytes[..16]);
        // IKE_INTERMEDIATE of the set-up (message ID 1, initiated by the original initiator) precedes a change of keys, after which
        // the IV counter starts again. The same exchange type on an established SA is an unsupported request and changes no keys.
        let of_set_up = bytes[20..24] == [0, 0, 0, 1] && matches!(bytes[19] & 0x28, 0x08 | 0x20);
        iv_key[16] = bytes[19] & 0x08 | u8::from(bytes[18] == 43 && of_set_up);
        iv_key[17..].copy_from_slice(&bytes[iv_at..iv_at + 8]);
        let known = *self.ivs.entry(iv_key).or_insert(digest);
        assert_eq!(known, digest, "one IV for two messages: {bytes:02x?}");

        let mut message_key = [0; 25];
        message_key[..16].copy_from_slice(&bytes[..16]);
        message_key[16] = bytes[19];
        message_key[17..21].copy_from_slice(&bytes[20..24]);
        if bytes[16] == 53 {
            message_key[21..].copy_from_slice(&bytes[32..36]);
        }
        let known = *self.sent_messages.entry(message_key).or_insert(digest);
        assert_eq!(known, digest, "one message ID, two contents: {bytes:02x?}");
    }

    /// A side installs a Child SA.
    pub fn child_up(&mut self, child: &Child) {
        let fresh = self.keys.insert(key(&child.keys_out));
        assert!(fresh, "{:08x} has keys used before", child.spi_in);
    }

    /// An ESP packet has arrived at `to`.
    pub fn esp_arrived(&mut self, now: Time, side: Side, to: &Node, packet: &Packet, is: Arrival) {
        let gap = match is {
            Arrival::Opened => {
                self.opened[side as usize] += 1;
                return;
            }
            Arrival::Unknown => {
                let had = packet
                    .instead_of
                    .filter(|old| !packet.last_resort && to.esp.has_or_has_replaced(*old));
                assert!(
                    had.is_none(),
                    "{:?} sends over {:08x}, which {side:?} never had",
                    side.other(),
                    packet.spi
                );
                Gap::Unknown
            }
            Arrival::Gone(at, reason) => {
                // Of two complete IKE SAs one is closed with its Child SA, although the peer may not know of the other one yet.
                let duplicate = packet.instead_of.is_none() && reason == DownReason::Redundant;
                let excused = duplicate || packet.last_resort || !reason.leaves_replacement();
                assert!(
                    excused,
                    "{:?} sends over {:08x}, which {side:?} closed {:?} ago: {reason:?}",
                    side.other(),
                    packet.spi,
                    now.since(at)
                );
                Gap::Closed(reason)
            }
        };
        self.gap(now, side.other(), gap);
    }

    pub fn gap(&mut self, now: Time, from: Side, gap: Gap) {
        self.gaps.push((now, from, gap));
    }

    /// The packets not delivered since `time`.
    pub fn gaps_since(&self, time: Time) -> Vec<(Time, Side, Gap)> {
        let since = |(at, ..): &&(Time, Side, Gap)| *at >= time;
        self.gaps.iter().filter(since).copied().collect()
    }

    /// A timer fires.
    pub fn timer(&mut self, now: Time, side: Side) {
        self.timer_repeats = match self.timer_repeats {
            (at, count) if at == now => (at, count + 1),
            _ => (now, 1),
        };
        assert!(
            self.timer_repeats.1 < MAX_TIMER_REPEATS,
            "the timers of {side:?} spin"
        );
    }

    /// A side has applied all its events.
    pub fn settled(&self, side: Side, node: &Node) {
        let ikes = node.ikes.len();
        assert!(ikes <= self.limit.ikes, "{side:?} has {ikes} IKE SAs");
        let children = node.children.len();
        assert!(
            children <= self.limit.children,
            "{side:?} has {children} Child SAs"
        );
        node.assert_sends();
    }
}
