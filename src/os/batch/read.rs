//! Packets of one read of a device, contiguous in one arena.
//!
//! ```text
//!   │vnet│ packet 1 │pad│vnet│ packet 2 │pad│vnet│ packet 3 …             space for one packet of maximum size │
//!   └────────────── used ────────────────────────────────────┴──────────────── free ───────────────────────┘
//! ```
//!
//! The arena takes 64 ordinary packets or four GSO packets of 64 KiB.

use std::io;

use super::super::{MAX_PACKET, VnetHeader};

/// Packets read from a [`Device`](super::super::Device).
pub struct ReadBatch {
    arena: Vec<u8>,
    items: Vec<Item>,
    limit: usize,
    full: bool,
}

struct Item {
    vnet: VnetHeader,
    /// Start of the packet in the arena, behind its virtio-net header.
    start: usize,
    len: usize,
}

/// One packet of a [`ReadBatch`]; it can be changed in place.
#[derive(Debug)]
pub struct InnerPacket<'a> {
    /// Offloads that the kernel left to us.
    pub vnet: VnetHeader,
    /// IP packet.
    pub bytes: &'a mut [u8],
}

impl ReadBatch {
    /// Maximum number of packets.
    pub const MAX_PACKETS: usize = 64;
    /// Alignment of packets, so that headers can be read in words.
    const ALIGN: usize = 16;
    const MAX_SLOT: usize =
        (VnetHeader::LEN + MAX_PACKET).next_multiple_of(Self::ALIGN) + Self::ALIGN;

    /// Batch for [`ReadBatch::MAX_PACKETS`] packets.
    pub fn new() -> ReadBatch {
        ReadBatch::with_limit(Self::MAX_PACKETS)
    }

    /// Batch for at most `limit` packets (at least one).
    pub fn with_limit(limit: usize) -> ReadBatch {
        let limit = limit.max(1);
        // Space for `limit` packets of ordinary Ethernet size (fewer jumbo frames), and for four of maximum size.
        let arena = vec![0; limit * 2048 + Self::MAX_SLOT * 4];
        ReadBatch {
            arena,
            items: Vec::with_capacity(limit),
            limit,
            full: false,
        }
    }

    /// Number of packets.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether the batch is empty.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether the last fill ended for lack of space: more packets may wait.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Removes all packets.
    pub fn clear(&mut self) {
        self.items.clear();
    }

    /// Packets in order of arrival.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = InnerPacket<'_>> {
        let mut rest = self.arena.as_mut_slice();
        let mut consumed = 0;
        self.items.iter().map_while(move |item| {
            let (packet, after) =
                std::mem::take(&mut rest).split_at_mut_checked(item.start + item.len - consumed)?;
            let bytes = packet.get_mut(item.start - consumed..)?;
            rest = after;
            consumed = item.start + item.len;
            Some(InnerPacket {
                vnet: item.vnet,
                bytes,
            })
        })
    }

    /// Packet number `index`.
    pub fn packet(&mut self, index: usize) -> Option<InnerPacket<'_>> {
        let item = self.items.get(index)?;
        let bytes = self.arena.get_mut(item.start..item.start + item.len)?;
        Some(InnerPacket {
            vnet: item.vnet,
            bytes,
        })
    }

    /// For devices: clears the batch, then calls `read` with space for a header and a packet until it fails or the batch is full.
    /// `read` returns the number of octets written, header included. A result shorter than the header counts as a packet against
    /// the limit, so that the loop ends. A result of 0 ends the batch.
    ///
    /// # Errors
    /// Error of the first `read`, or `UnexpectedEof` if it returns 0. A later error ends the batch and appears again on the next
    /// fill if it persists.
    pub fn fill(
        &mut self,
        mut read: impl FnMut(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        self.items.clear();
        self.full = false;
        let (mut tail, mut limit) = (0_usize, self.limit);
        while self.items.len() < limit && tail + Self::MAX_SLOT <= self.arena.len() {
            let start = (tail + VnetHeader::LEN).next_multiple_of(Self::ALIGN);
            let from = start - VnetHeader::LEN;
            let room = &mut self.arena[from..from + VnetHeader::LEN + MAX_PACKET];
            match read(room) {
                Ok(0) if self.items.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(0) => return Ok(self.items.len()),
                Ok(read) => {
                    let Some((vnet, packet)) = room.get(..read).and_then(VnetHeader::split) else {
                        limit -= 1;
                        continue;
                    };
                    let len = packet.len();
                    self.items.push(Item { vnet, start, len });
                    tail = start + len;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if self.items.is_empty() => return Err(error),
                Err(_) => return Ok(self.items.len()),
            }
        }
        self.full = true;
        Ok(self.items.len())
    }
}

impl Default for ReadBatch {
    fn default() -> Self {
        ReadBatch::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    fn deliver(packets: &[Vec<u8>]) -> impl FnMut(&mut [u8]) -> io::Result<usize> + use<> {
        let mut packets = VecDeque::from(packets.to_vec());
        move |room| {
            let packet = packets.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
            room[..VnetHeader::LEN].copy_from_slice(&VnetHeader::NONE.to_bytes());
            room[VnetHeader::LEN..][..packet.len()].copy_from_slice(&packet);
            Ok(VnetHeader::LEN + packet.len())
        }
    }

    fn contents(batch: &mut ReadBatch) -> Vec<Vec<u8>> {
        batch.iter_mut().map(|p| p.bytes.to_vec()).collect()
    }

    #[test]
    fn packets_are_in_order_and_mutable() {
        let packets = [vec![1; 100], vec![2; 1], vec![3; 1500]];
        let mut batch = ReadBatch::new();
        assert_eq!(batch.fill(deliver(&packets)).unwrap(), 3);
        assert_eq!(contents(&mut batch), packets);
        batch.iter_mut().for_each(|p| p.bytes[0] = 9);
        assert_eq!(batch.packet(1).unwrap().bytes, [9]);
        assert!(batch.packet(3).is_none());
    }

    #[test]
    fn packets_of_maximum_size_fit_and_the_rest_waits() {
        let packets = vec![vec![7; MAX_PACKET]; 10];
        let mut batch = ReadBatch::new();
        let mut read = deliver(&packets);
        let mut total = 0;
        while let Ok(n) = batch.fill(&mut read) {
            assert!(batch.iter_mut().all(|p| p.bytes.len() == MAX_PACKET));
            assert!(n >= 4);
            assert!(batch.is_full() || n + total == 10);
            total += n;
        }
        assert_eq!(total, 10);
    }

    #[test]
    fn a_full_batch_stops_at_its_limit() {
        let mut batch = ReadBatch::with_limit(2);
        assert_eq!(batch.fill(deliver(&vec![vec![1; 40]; 5])).unwrap(), 2);
        assert!(batch.is_full());
        assert_eq!(batch.fill(deliver(&[vec![1; 40]])).unwrap(), 1);
        assert!(!batch.is_full());
    }

    #[test]
    fn an_empty_device_is_would_block_and_an_empty_batch() {
        let mut batch = ReadBatch::new();
        batch.fill(deliver(&[vec![1; 40]])).unwrap();
        assert_eq!(
            batch.fill(deliver(&[])).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        assert!(batch.is_empty());
    }

    #[test]
    fn e11_reads_shorter_than_the_header_cannot_block_the_loop() {
        let mut batch = ReadBatch::with_limit(8);
        let mut reads = 0;
        let scraps = batch.fill(|_| {
            reads += 1;
            Ok(VnetHeader::LEN - 1)
        });
        assert_eq!((scraps.unwrap(), reads, batch.is_full()), (0, 8, true));

        // Between packets they count as packets.
        let mut packets = deliver(&vec![vec![1; 40]; 8]);
        let mut reads = 0;
        let filled = batch.fill(|room| {
            reads += 1;
            if reads % 2 == 0 { Ok(3) } else { packets(room) }
        });
        assert_eq!((filled.unwrap(), reads, batch.is_full()), (4, 8, true));
    }

    #[test]
    fn e11_a_read_of_zero_octets_ends_the_batch() {
        let mut batch = ReadBatch::new();
        let error = batch.fill(|_| Ok(0)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        let mut packets = deliver(&[vec![1; 40], vec![2; 40]]);
        let filled = batch.fill(|room| Ok(packets(room).unwrap_or(0)));
        assert_eq!((filled.unwrap(), batch.is_full()), (2, false));
    }

    #[test]
    fn a_read_shorter_than_the_header_is_no_packet() {
        let mut reads = [Ok(3), Err(io::ErrorKind::WouldBlock.into())].into_iter();
        let mut batch = ReadBatch::new();
        assert!(batch.fill(|_| reads.next().unwrap()).is_err());
    }
}
