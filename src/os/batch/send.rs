//! Packets of one send, written where they are sent from: reserve, seal, commit.
//!
//! ```text
//!   reserve ──▶ Slot ──▶ commit(len)      the packet is in the batch
//!                 └────▶ dropped          the batch is unchanged
//! ```
//!
//! Packets to one peer are contiguous, so equal ones form a [`Message`] that one `sendmsg` with `UDP_SEGMENT` sends: one traffic
//! class, one length except for a shorter last packet, at most 64 packets and 65,507 octets (limits of the kernel).
//!
//! ```text
//!   │ 1442 │ 1442 │ 1442 │ 310 │ 120 │ …
//!   └─ one message, segment 1442 ─┘└─ the next message
//! ```

use std::net::{IpAddr, SocketAddr};

/// Packets for a [`Socket`](super::super::Socket).
pub struct SendBatch {
    arena: Vec<u8>,
    tail: usize,
    messages: Vec<MessageSpan>,
    /// Messages at the front that were sent completely.
    gone: usize,
    /// Packets at the front of the next message that were sent.
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

/// Packets to one peer that one system call can send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Destination.
    pub remote: SocketAddr,
    /// Source address; the unspecified address leaves the choice to the kernel.
    pub local: IpAddr,
    /// TOS or traffic class of the outer header: DSCP and ECN (RFC 6040 §4.1).
    pub class: u8,
    /// Length of each packet except the last, which may be shorter.
    pub segment: usize,
    /// The packets, contiguous.
    pub bytes: &'a [u8],
}

impl<'a> Message<'a> {
    /// The single packets.
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
    /// Maximum number of packets: two GSO packets of 64 KiB.
    pub const MAX_PACKETS: usize = 128;
    /// Maximum UDP payload over IPv4.
    pub const MAX_UDP_PAYLOAD: usize = 65_507;
    /// Maximum number of segments of one `UDP_SEGMENT` call (`UDP_MAX_SEGMENTS`).
    const MAX_GSO_SEGMENTS: usize = 64;

    /// Batch for [`SendBatch::MAX_PACKETS`] packets.
    pub fn new() -> SendBatch {
        SendBatch::with_limit(Self::MAX_PACKETS)
    }

    /// Batch for at most `limit` packets (at least one). An empty batch has space for any UDP payload. A batch for one packet, such as
    /// an IKE message, allocates the size of the packet when it is reserved.
    pub fn with_limit(limit: usize) -> SendBatch {
        let limit = limit.max(1);
        let arena = match limit {
            1 => Vec::new(),
            _ => vec![0; limit * 2048 + Self::MAX_UDP_PAYLOAD],
        };
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

    /// Reserves space for a packet of at most `len` octets to `remote` from `local` (unspecified: chosen by the kernel) with this
    /// traffic class. `None` if the batch is full and must be sent first.
    #[inline]
    pub fn reserve(
        &mut self,
        remote: SocketAddr,
        local: IpAddr,
        class: u8,
        len: usize,
    ) -> Option<Slot<'_>> {
        let end = self.tail.checked_add(len)?;
        if self.packets == self.limit || len > Self::MAX_UDP_PAYLOAD {
            return None;
        }
        if end > self.arena.len() {
            if self.limit > 1 {
                return None;
            }
            self.arena.resize(end, 0);
        }
        Some(Slot {
            batch: self,
            remote,
            local,
            class,
            len,
        })
    }

    /// Last `len` octets of the waiting packets, for sealing several packets at once.
    pub fn last_mut(&mut self, len: usize) -> Option<&mut [u8]> {
        let start = self.tail.checked_sub(len)?;
        self.arena.get_mut(start..self.tail)
    }

    /// Number of waiting packets.
    pub fn len(&self) -> usize {
        self.packets
    }

    /// Whether no packet waits.
    pub fn is_empty(&self) -> bool {
        self.packets == 0
    }

    /// Removes all packets.
    pub fn clear(&mut self) {
        self.messages.clear();
        (self.tail, self.gone, self.sent, self.packets) = (0, 0, 0, 0);
    }

    /// Number of packets at the front that have the length and the destination of the first, within one message.
    pub fn equal_prefix(&self) -> usize {
        let first = self.messages().next();
        first.map_or(0, |message| {
            let whole = message.bytes.len().checked_div(message.segment);
            whole.unwrap_or(1).max(1)
        })
    }

    /// Removes the first `count` packets, which were sent or are dropped.
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

    /// Waiting packets, grouped into messages that one system call can send.
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
    /// Whether the message can grow by a packet: all are equal but the last, which may be shorter.
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

/// Reserved space in a [`SendBatch`]. Dropped without [`Slot::commit`], the batch is unchanged.
pub struct Slot<'a> {
    batch: &'a mut SendBatch,
    remote: SocketAddr,
    local: IpAddr,
    class: u8,
    len: usize,
}

impl Slot<'_> {
    /// Reserved octets, with arbitrary content.
    #[inline]
    pub fn bytes(&mut self) -> &mut [u8] {
        let start = self.batch.tail;
        &mut self.batch.arena[start..start + self.len]
    }

    /// Commits the first `len` octets as the packet.
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
    fn a_message_respects_the_limits_of_the_kernel() {
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
    fn a_full_batch_rejects_and_an_empty_one_takes_the_maximum_payload() {
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
    fn advance_continues_behind_the_sent_packets() {
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

    #[test]
    fn a_batch_for_one_packet_allocates_the_size_of_the_packet() {
        let mut batch = SendBatch::with_limit(1);
        assert_eq!(batch.arena.capacity(), 0);
        batch.reserve(A, LOCAL, 0, 300).unwrap().commit(300);
        assert_eq!(lengths(&batch), [vec![300]]);
        assert!(batch.arena.capacity() < 1024);
        assert!(batch.reserve(A, LOCAL, 0, 1).is_none());
    }
}
