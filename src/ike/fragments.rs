//! Reassembly of message fragments (RFC 7383 §2.6): one direction of one IKE SA, one message at a time.
//!
//! ```text
//!  3 of 3 ─┐                       ┌─────────┐
//!  1 of 3 ─┼─ needed? ─ authentic? │ 1  ·  3 │ ── 2 of 3 ──▶ content of 1 · 2 · 3, once
//!  1 of 3 ─┘                       └─────────┘
//! ```
//!
//! Only authenticated fragments are stored, so an unauthenticated peer can neither fill nor corrupt the buffer. A peer can occupy
//! [`MAX_BYTES`] and [`MAX_FRAGMENTS`] of one message. They are released when the message is complete, when another message
//! starts, or with the SA.

use std::collections::BTreeMap;

use super::window::Mark;
use crate::wire::{ExchangeType, Header, MessageId, PayloadType};

/// Maximum of fragments of a message: 64 fragments for the smallest path MTU, 1280, exceed [`MAX_BYTES`].
pub const MAX_FRAGMENTS: u16 = 64;

/// Maximum of content of a message: that of an unfragmented one.
pub const MAX_BYTES: usize = 65_535;

/// The message that a fragment belongs to. The owner keeps one assembly for each direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageKey {
    id: MessageId,
    exchange: ExchangeType,
}

impl MessageKey {
    /// The key of the message with this header.
    pub fn of(header: &Header) -> MessageKey {
        MessageKey {
            id: header.message_id,
            exchange: header.exchange,
        }
    }
}

/// Position of a fragment in its message: 1 to `total`, as the message parser has checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Fragment number.
    pub number: u16,
    /// Total of fragments.
    pub total: u16,
}

/// Content of a decrypted fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Type of the first payload of the message; only fragment 1 carries it.
    pub first: PayloadType,
    /// The fragment's part of the payloads.
    pub content: Vec<u8>,
    /// Hash of the datagram.
    pub mark: Mark,
    /// Length of the datagram.
    pub datagram_len: usize,
}

/// A reassembled message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Type of the first payload.
    pub first: PayloadType,
    /// All payloads.
    pub content: Vec<u8>,
    /// Hash of the datagram of fragment 1.
    pub mark: Mark,
    /// Length of the longest datagram.
    pub datagram_len: usize,
}

/// The fragments of at most one message.
#[derive(Debug, Default)]
pub struct Assembly(Option<Incomplete>);

#[derive(Debug)]
struct Incomplete {
    key: MessageKey,
    total: u16,
    parts: BTreeMap<u16, Fragment>,
    bytes: usize,
}

impl Assembly {
    /// Whether a fragment is needed. The check comes before decryption, so that useless fragments cost nothing.
    pub fn needs(&self, key: MessageKey, part: Part) -> bool {
        if part.total > MAX_FRAGMENTS {
            return false;
        }
        match &self.0 {
            // RFC 7383 §2.6: a larger total is a new fragmentation of the message; a smaller one is a late fragment of an old
            // one.
            Some(pending) if pending.key.id == key.id => {
                pending.key == key
                    && (part.total > pending.total
                        || part.total == pending.total && !pending.parts.contains_key(&part.number))
            }
            Some(_) | None => true,
        }
    }

    /// Adds an authenticated fragment; returns the message if it is complete.
    pub fn add(&mut self, key: MessageKey, part: Part, fragment: Fragment) -> Option<Joined> {
        if !self.needs(key, part) {
            return None;
        }
        let fresh = || Incomplete {
            key,
            total: part.total,
            parts: BTreeMap::new(),
            bytes: 0,
        };
        let mut pending = self
            .0
            .take()
            .filter(|pending| pending.key == key && pending.total == part.total)
            .unwrap_or_else(fresh);
        pending.bytes = pending.bytes.saturating_add(fragment.content.len());
        if pending.bytes > MAX_BYTES {
            return None;
        }
        pending.parts.insert(part.number, fragment);
        if pending.parts.len() < usize::from(pending.total) {
            self.0 = Some(pending);
            return None;
        }
        pending.join()
    }

    /// Discards the fragments: the message arrived unfragmented.
    pub fn clear(&mut self) {
        self.0 = None;
    }

    /// Octets held for an incomplete message.
    #[cfg(test)]
    fn held(&self) -> usize {
        self.0.as_ref().map_or(0, |pending| pending.bytes)
    }
}

impl Incomplete {
    fn join(self) -> Option<Joined> {
        let mut parts = self.parts.into_values();
        let Fragment {
            first,
            mut content,
            mark,
            mut datagram_len,
        } = parts.next()?;
        for part in parts {
            content.extend_from_slice(&part.content);
            datagram_len = datagram_len.max(part.datagram_len);
        }
        Some(Joined {
            first,
            content,
            mark,
            datagram_len,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: MessageKey = MessageKey {
        id: MessageId(3),
        exchange: ExchangeType::INFORMATIONAL,
    };

    fn part(number: u16, total: u16) -> Part {
        Part { number, total }
    }

    fn fragment(number: u16, content: &[u8]) -> Fragment {
        Fragment {
            first: if number == 1 {
                PayloadType::NOTIFY
            } else {
                PayloadType::NONE
            },
            content: content.to_vec(),
            mark: Mark::of(&[number.to_be_bytes().as_slice(), content].concat()),
            datagram_len: content.len() + 100,
        }
    }

    fn add(assembly: &mut Assembly, number: u16, total: u16, content: &[u8]) -> Option<Joined> {
        assembly.add(KEY, part(number, total), fragment(number, content))
    }

    #[test]
    fn f02_fragments_in_any_order_give_the_same_message_once() {
        for order in [[1, 2, 3], [3, 2, 1], [2, 3, 1], [3, 1, 2]] {
            let mut assembly = Assembly::default();
            let mut joined = None;
            for number in order {
                assert_eq!(joined, None);
                joined = add(
                    &mut assembly,
                    number,
                    3,
                    &[u8::try_from(number).unwrap(); 2],
                );
            }
            let joined = joined.unwrap();
            assert_eq!(joined.content, [1, 1, 2, 2, 3, 3], "{order:?}");
            assert_eq!(joined.first, PayloadType::NOTIFY);
            assert_eq!(
                joined.mark,
                fragment(1, &[1, 1]).mark,
                "fragment 1 stands for all"
            );
            assert_eq!(joined.datagram_len, 102);
            assert_eq!(assembly.held(), 0);
        }
    }

    #[test]
    fn f02_a_duplicate_changes_nothing_and_the_first_copy_stays() {
        let mut assembly = Assembly::default();
        assert_eq!(add(&mut assembly, 2, 2, b"two"), None);
        assert!(!assembly.needs(KEY, part(2, 2)));
        assert_eq!(add(&mut assembly, 2, 2, b"other"), None);
        assert_eq!(assembly.held(), 3);
        assert_eq!(add(&mut assembly, 1, 2, b"one").unwrap().content, b"onetwo");
    }

    #[test]
    fn f02_a_larger_total_discards_stored_fragments_and_a_smaller_one_is_dropped() {
        let mut assembly = Assembly::default();
        add(&mut assembly, 1, 2, b"half");
        add(&mut assembly, 1, 3, b"a");
        assert_eq!(assembly.held(), 1, "the old fragments are discarded");
        assert!(!assembly.needs(KEY, part(2, 2)));
        assert_eq!(add(&mut assembly, 2, 2, b"half"), None);
        add(&mut assembly, 2, 3, b"b");
        assert_eq!(add(&mut assembly, 3, 3, b"c").unwrap().content, b"abc");
    }

    #[test]
    fn f01_more_fragments_than_the_limit_are_dropped() {
        let mut assembly = Assembly::default();
        for total in [MAX_FRAGMENTS + 1, u16::MAX] {
            assert!(!assembly.needs(KEY, part(1, total)));
            assert_eq!(add(&mut assembly, 1, total, b"x"), None);
            assert_eq!(assembly.held(), 0);
        }
        assert!(assembly.needs(KEY, part(1, MAX_FRAGMENTS)));
    }

    #[test]
    fn f01_a_message_beyond_the_limit_is_discarded() {
        let mut assembly = Assembly::default();
        add(&mut assembly, 1, 3, &[0; 40_000]);
        assert_eq!(add(&mut assembly, 2, 3, &[0; 40_000]), None);
        assert_eq!(assembly.held(), 0);
    }

    #[test]
    fn f04_fragments_of_another_exchange_with_the_same_message_id_are_not_mixed() {
        let mut assembly = Assembly::default();
        add(&mut assembly, 1, 2, b"one");
        let other = MessageKey {
            exchange: ExchangeType::CREATE_CHILD_SA,
            ..KEY
        };
        assert_eq!(assembly.add(other, part(2, 2), fragment(2, b"evil")), None);
        assert_eq!(add(&mut assembly, 2, 2, b"two").unwrap().content, b"onetwo");
    }

    #[test]
    fn f06_another_message_replaces_an_incomplete_one() {
        let mut assembly = Assembly::default();
        add(&mut assembly, 1, 2, &[0; 1000]);
        let next = MessageKey {
            id: MessageId(4),
            ..KEY
        };
        assembly.add(next, part(1, 2), fragment(1, b"new"));
        assert_eq!(assembly.held(), 3);
        assembly.clear();
        assert_eq!(assembly.held(), 0);
    }
}
