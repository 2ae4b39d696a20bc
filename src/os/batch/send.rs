//! What leaves through a socket in one go. Packets are written where they will leave from: reserve, seal, commit.
//!
//! ```text
//!   reserve ──▶ Slot ──▶ commit(len)      the packet is in the batch
//!                 └────▶ dropped          rolled back: the batch is as it was
//! ```
//!
//! Packets to one peer lie side by side, so equal ones form a [`Message`] that one `sendmsg` with `UDP_SEGMENT` can take:
//! all of one traffic class and of one length but the last, at most 64 of them and 65,507 bytes (the kernel's own limits).
//!
//! ```text
//!   │ 1442 │ 1442 │ 1442 │ 310 │ 120 │ …
//!   └─ one message, segment 1442 ─┘└─ the next message
//! ```

use std::net::{IpAddr, SocketAddr};

/// A batch of packets for a [`Socket`](super::super::Socket).
pub struct SendBatch {
    arena: Vec<u8>,
    tail: usize,
    messages: Vec<MessageSpan>,
    /// Messages at the front that have left already, every packet of them.
    gone: usize,
    /// Packets at the front of the next message that have left already.
    sent: usize,
    packets: usize,
    limit: usize,
}

struct MessageSpan {
    remote: SocketAddr,
    local: IpAddr,
    class: u8,
    start: usize,
    len: usize,
    segment: usize,
    count: usize,
}

/// Packets to one peer that may leave in one system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Where they go.
    pub remote: SocketAddr,
    /// The address of ours they leave from; unspecified leaves the choice to the kernel.
    pub local: IpAddr,
    /// The outer header's whole TOS or traffic class octet: DSCP and ECN (RFC 6040 §4.1 says what ESP puts there).
    pub class: u8,
    /// Length of each packet but the last, which may be shorter.
    pub segment: usize,
    /// The packets, one behind the other.
    pub bytes: &'a [u8],
}

impl<'a> Message<'a> {
    /// The packets one by one.
    pub fn packets(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let whole = if self.bytes.is_empty() {
            Some(self.bytes)
        } else {
            None
        };
        whole
            .into_iter()
            .chain(self.bytes.chunks(self.segment.max(1)))
    }
}

impl SendBatch {
    /// The most packets a batch holds: what a 64 KiB super-packet becomes, and some.
    pub const MAX_PACKETS: usize = 128;
    /// The largest UDP payload.
    pub const MAX_UDP_PAYLOAD: usize = 65_507;
    /// The most segments `UDP_SEGMENT` takes in one call.
    const MAX_GSO_SEGMENTS: usize = 64;

    /// A batch for [`SendBatch::MAX_PACKETS`] packets.
    pub fn new() -> SendBatch {
        SendBatch::with_limit(Self::MAX_PACKETS)
    }

    /// A batch for at most `limit` packets (at least one).
    pub fn with_limit(limit: usize) -> SendBatch {
        let limit = limit.max(1);
        let arena = vec![0; limit * 2048 + Self::MAX_UDP_PAYLOAD];
        SendBatch {
            arena,
            tail: 0,
            messages: Vec::with_capacity(limit),
            gone: 0,
            sent: 0,
            packets: 0,
            limit,
        }
    }

    /// Room for a packet of at most `len` bytes to `remote` from `local` (unspecified: the kernel's choice), under this traffic
    /// class; `None` when the batch is full and must be sent first. An empty batch has room for any packet UDP can carry.
    #[inline]
    pub fn reserve(
        &mut self,
        remote: SocketAddr,
        local: IpAddr,
        class: u8,
        len: usize,
    ) -> Option<Slot<'_>> {
        let end = self.tail.checked_add(len)?;
        if self.packets == self.limit || len > Self::MAX_UDP_PAYLOAD || end > self.arena.len() {
            return None;
        }
        Some(Slot {
            batch: self,
            remote,
            local,
            class,
            len,
        })
    }

    /// The last `len` bytes of the packets that wait: what was laid out side by side and is to be finished now.
    pub fn last_mut(&mut self, len: usize) -> Option<&mut [u8]> {
        let start = self.tail.checked_sub(len)?;
        self.arena.get_mut(start..self.tail)
    }

    /// How many packets wait.
    pub fn len(&self) -> usize {
        self.packets
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.packets == 0
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.messages.clear();
        (self.tail, self.gone, self.sent, self.packets) = (0, 0, 0, 0);
    }

    /// How many packets at the front are as long as the first and go where it goes, as far as one message holds them.
    pub fn equal_prefix(&self) -> usize {
        let first = self.messages().next();
        first.map_or(0, |message| {
            let whole = message.bytes.len().checked_div(message.segment);
            whole.unwrap_or(1).max(1)
        })
    }

    /// Forgets the first `count` packets: they have left, or never will.
    pub fn advance(&mut self, count: usize) {
        if count >= self.packets {
            return self.clear();
        }
        self.packets -= count;
        self.sent += count;
        while let Some(next) = self.messages.get(self.gone)
            && next.count <= self.sent
        {
            self.sent -= next.count;
            self.gone += 1;
        }
    }

    /// What waits, grouped so that each group may leave in one system call.
    pub fn messages(&self) -> impl Iterator<Item = Message<'_>> {
        let waiting = self.messages.iter().skip(self.gone);
        waiting.enumerate().filter_map(|(index, run)| {
            let skip = if index == 0 {
                self.sent * run.segment
            } else {
                0
            };
            let bytes = self.arena.get(run.start + skip..run.start + run.len)?;
            Some(Message {
                remote: run.remote,
                local: run.local,
                class: run.class,
                segment: run.segment,
                bytes,
            })
        })
    }

    #[inline]
    fn commit(&mut self, remote: SocketAddr, local: IpAddr, class: u8, len: usize) {
        match self.messages.last_mut() {
            Some(run) if run.takes(remote, local, class, len) => {
                run.len += len;
                run.count += 1;
            }
            Some(_) | None => {
                self.messages.push(MessageSpan {
                    remote,
                    local,
                    class,
                    start: self.tail,
                    len,
                    segment: len,
                    count: 1,
                });
            }
        }
        self.tail += len;
        self.packets += 1;
    }
}

impl MessageSpan {
    /// Whether one more packet keeps this a train of equal packets with at most one shorter at its end.
    #[inline]
    fn takes(&self, remote: SocketAddr, local: IpAddr, class: u8, len: usize) -> bool {
        let all_full = self.len == self.segment * self.count;
        all_full
            && (1..=self.segment).contains(&len)
            && self.count < SendBatch::MAX_GSO_SEGMENTS
            && self.len + len <= SendBatch::MAX_UDP_PAYLOAD
            && self.remote == remote
            && self.local == local
            && self.class == class
    }
}

impl Default for SendBatch {
    fn default() -> Self {
        SendBatch::new()
    }
}

/// A reserved place in a [`SendBatch`]. Dropped without [`Slot::commit`], it leaves no trace.
pub struct Slot<'a> {
    batch: &'a mut SendBatch,
    remote: SocketAddr,
    local: IpAddr,
    class: u8,
    len: usize,
}

impl Slot<'_> {
    /// The reserved bytes; what an earlier packet left in them is still there.
    #[inline]
    pub fn bytes(&mut self) -> &mut [u8] {
        let start = self.batch.tail;
        &mut self.batch.arena[start..start + self.len]
    }

    /// The first `len` of the reserved bytes are the packet.
    #[inline]
    pub fn commit(self, len: usize) {
        self.batch
            .commit(self.remote, self.local, self.class, len.min(self.len));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
    const A: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10)), 4500);
    const B: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 11)), 4500);

    fn put(batch: &mut SendBatch, remote: SocketAddr, fill: u8, len: usize) {
        let mut slot = batch.reserve(remote, LOCAL, 0, len + 16).expect("room");
        slot.bytes()[..len].fill(fill);
        slot.commit(len);
    }

    fn lengths(batch: &SendBatch) -> Vec<Vec<usize>> {
        batch
            .messages()
            .map(|m| m.packets().map(<[u8]>::len).collect())
            .collect()
    }

    #[test]
    fn equal_packets_to_one_peer_are_one_message_and_a_shorter_one_ends_it() {
        let mut batch = SendBatch::new();
        for len in [100, 100, 60, 60, 100] {
            put(&mut batch, A, 1, len);
        }
        put(&mut batch, B, 2, 100);
        assert_eq!(
            lengths(&batch),
            [vec![100, 100, 60], vec![60], vec![100], vec![100]]
        );
        assert_eq!(batch.len(), 6);
    }

    #[test]
    fn packets_of_different_traffic_classes_are_different_messages() {
        let mut batch = SendBatch::new();
        for class in [0, 0, 0xb8, 0xb9] {
            batch.reserve(A, LOCAL, class, 10).unwrap().commit(10);
        }
        let classes: Vec<(u8, usize)> = batch
            .messages()
            .map(|m| (m.class, m.packets().count()))
            .collect();
        assert_eq!(classes, [(0, 2), (0xb8, 1), (0xb9, 1)]);
    }

    #[test]
    fn an_uncommitted_reservation_rolls_back() {
        let mut batch = SendBatch::new();
        put(&mut batch, A, 1, 10);
        batch.reserve(A, LOCAL, 0, 10).unwrap().bytes().fill(9);
        put(&mut batch, A, 2, 10);
        let all: Vec<u8> = batch.messages().flat_map(|m| m.bytes.to_vec()).collect();
        assert_eq!(all, [[1; 10], [2; 10]].concat());
    }

    #[test]
    fn a_message_stays_within_what_the_kernel_takes() {
        let mut batch = SendBatch::new();
        (0..100).for_each(|_| put(&mut batch, A, 1, 10));
        assert_eq!(
            batch
                .messages()
                .map(|m| m.packets().count())
                .collect::<Vec<_>>(),
            [64, 36]
        );

        let mut batch = SendBatch::with_limit(128);
        (0..3).for_each(|_| put(&mut batch, A, 1, 30_000));
        assert_eq!(
            batch.messages().map(|m| m.bytes.len()).collect::<Vec<_>>(),
            [60_000, 30_000]
        );
    }

    #[test]
    fn a_full_batch_has_no_room_and_an_empty_one_has_room_for_the_largest() {
        let mut batch = SendBatch::with_limit(2);
        (0..2).for_each(|_| put(&mut batch, A, 1, 10));
        assert!(batch.reserve(A, LOCAL, 0, 1).is_none());
        batch.clear();
        assert!(
            batch
                .reserve(A, LOCAL, 0, SendBatch::MAX_UDP_PAYLOAD)
                .is_some()
        );
        assert!(
            batch
                .reserve(A, LOCAL, 0, SendBatch::MAX_UDP_PAYLOAD + 1)
                .is_none()
        );
        assert!(batch.reserve(A, LOCAL, 0, usize::MAX).is_none());
    }

    #[test]
    fn sending_goes_on_where_it_stopped() {
        let mut batch = SendBatch::new();
        for (fill, len) in [(1, 10), (2, 10), (3, 10), (4, 20), (5, 20)] {
            put(&mut batch, A, fill, len);
        }
        assert_eq!(batch.equal_prefix(), 3);
        batch.advance(2);
        assert_eq!(batch.equal_prefix(), 1);
        assert_eq!(
            (batch.len(), lengths(&batch)),
            (3, vec![vec![10], vec![20, 20]])
        );
        assert_eq!(batch.messages().next().unwrap().bytes, [3; 10]);
        batch.advance(2);
        assert_eq!(batch.messages().next().unwrap().bytes, [5; 20]);
        put(&mut batch, A, 6, 20);
        assert_eq!(lengths(&batch), [vec![20, 20]]);
        batch.advance(9);
        assert!(batch.is_empty() && batch.messages().next().is_none());
    }

    #[test]
    fn an_empty_packet_is_a_message_of_its_own() {
        let mut batch = SendBatch::new();
        put(&mut batch, A, 0, 0);
        put(&mut batch, A, 0, 0);
        assert_eq!(lengths(&batch), [vec![0], vec![0]]);
        assert_eq!(
            (batch.equal_prefix(), SendBatch::new().equal_prefix()),
            (1, 0)
        );
    }
}
