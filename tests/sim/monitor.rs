//! What must hold at every moment, whatever the wire, the operators and the clocks do.
//!
//! - No IV is used twice under one IKE key: the same bytes may go out again, other bytes may not; nor may one message ID have two contents (RFC 7296 §2.1).
//! - No two Child SAs have a key in common, in either direction; each counts from one, so no key meets a sequence number twice.
//! - An ESP packet that arrives is opened, unless its receiver has closed the SA for good: rekeying alone never loses one.
//! - Who has a Child SA has one to send over.
//! - SAs are few, and no timer asks to be called again at once for ever.
//! - Events make sense (checked where they are acted on, in `node` and `esp`).

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use groundlink::ike::{Child, DownReason};
use groundlink::net::Time;

use crate::esp::{Arrival, Key, Packet, key, leaves_replacement};
use crate::node::Node;
use crate::pair::Side;

/// The most SAs of a tunnel at one time.
#[derive(Clone, Copy, Debug)]
pub struct SaLimit {
    pub ikes: usize,
    pub children: usize,
}

impl SaLimit {
    /// Of two that keep to the protocol: one IKE SA, the one that replaces it, their rivals from the other side, and those whose DELETE gets lost again and again.
    const COOPERATIVE: SaLimit = SaLimit {
        ikes: 6,
        children: 6,
    };

    /// For fuzzing: of one whose peer has the keys and no good will: each of the IKE SAs that it may have holds all the Child SAs that one can.
    #[allow(dead_code, reason = "for the fuzz targets")]
    pub const HOSTILE: SaLimit = SaLimit {
        ikes: 16,
        children: 16 * 6,
    };
}

/// A timer that fires this often without time going on spins.
const MAX_TIMER_REPEATS: u32 = 10;

/// Why an ESP packet did not get through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gap {
    /// There was no SA to send it over.
    NoSa,
    /// The receiver has no such SA yet, or not any more since it began anew.
    Unknown,
    /// The receiver has closed the SA, and not to put another in its place.
    Closed(DownReason),
    /// The receiver was asleep.
    Asleep,
    /// The wire was cut, or the NAT had forgotten.
    Lost,
}

#[derive(Default)]
pub struct Monitor {
    /// Where an IV was used, by (SPIs, direction and generation of the keys, IV).
    ivs: HashMap<[u8; 25], u64>,
    /// What was said, by (SPIs, flags, message ID, fragment number and count: a message may be cut anew).
    sent_messages: HashMap<[u8; 25], u64>,
    keys: HashSet<Key>,
    /// Packets that were opened, by receiver.
    pub opened: [u64; 2],
    /// Packets that were not, by sender.
    pub gaps: Vec<(Time, Side, Gap)>,
    timer_repeats: (Time, u32),
    /// What a side may have.
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
        // IKE_INTERMEDIATE changes the keys, and the next ones count from one again.
        iv_key[16] = bytes[19] & 0x08 | u8::from(bytes[18] == 43);
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

    /// A packet has come to `to`.
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
                // Of two whole IKE SAs one goes, and its Child SA with it, though the peer may not have heard of the other yet.
                let duplicate = packet.instead_of.is_none() && reason == DownReason::Redundant;
                let excused = duplicate || packet.last_resort || !leaves_replacement(reason);
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

    /// What did not get through since `time`.
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

    /// A side has acted on everything.
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
