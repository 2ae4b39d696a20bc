//! Datagrams of one receive, each in a buffer of its own for `recvmmsg`.

use std::net::{IpAddr, SocketAddr};

use super::super::MAX_PACKET;

/// Datagrams received from a [`Socket`](super::super::Socket).
pub struct RecvBatch {
    buffers: Vec<u8>,
    items: Vec<Item>,
    limit: usize,
}

struct Item {
    remote: SocketAddr,
    local: IpAddr,
    class: u8,
    segment: usize,
    /// Octets in front of the datagram in its buffer.
    front: usize,
    len: usize,
}

/// One datagram of a [`RecvBatch`], or several equal ones joined by GRO; opened in place.
#[derive(Debug)]
pub struct Datagram<'a> {
    /// Source address, unauthenticated.
    pub remote: SocketAddr,
    /// Local address that received the datagram.
    pub local: IpAddr,
    /// TOS or traffic class of the outer header: DSCP and ECN (RFC 6040 §4.2).
    pub class: u8,
    /// Length of each datagram in `bytes` except the last, which may be shorter; for a single datagram its length.
    pub segment: usize,
    /// The datagram or datagrams.
    pub bytes: &'a mut [u8],
}

impl Datagram<'_> {
    /// Datagrams as they were on the wire. An empty datagram is one empty segment.
    pub fn segments(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let whole = if self.bytes.is_empty() {
            Some(&mut [][..])
        } else {
            None
        };
        whole
            .into_iter()
            .chain(self.bytes.chunks_mut(self.segment.max(1)))
    }
}

impl RecvBatch {
    /// Maximum number of datagrams of one receive.
    pub const MAX_DATAGRAMS: usize = 32;
    /// Octets of each buffer: any datagram, or datagrams joined by GRO, so that none is truncated.
    pub const BUFFER: usize = MAX_PACKET;
    /// Distance between buffers. It is not a multiple of 4096, since the starts of all buffers would then share few lines of the
    /// L1 cache. Untouched memory costs nothing.
    const STRIDE: usize = 65_536 + 5 * 64;

    /// Batch for [`RecvBatch::MAX_DATAGRAMS`] datagrams.
    pub fn new() -> RecvBatch {
        RecvBatch::with_limit(Self::MAX_DATAGRAMS)
    }

    /// Batch for at most `limit` datagrams (at least one).
    pub fn with_limit(limit: usize) -> RecvBatch {
        let limit = limit.max(1);
        RecvBatch {
            buffers: vec![0; limit * Self::STRIDE],
            items: Vec::with_capacity(limit),
            limit,
        }
    }

    /// Number of datagrams, where those joined by GRO count as one.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Maximum number of datagrams.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Whether the batch is empty.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Removes all datagrams.
    pub fn clear(&mut self) {
        self.items.clear();
    }

    /// Datagrams in order of arrival.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = Datagram<'_>> {
        self.items
            .iter()
            .zip(self.buffers.chunks_mut(Self::STRIDE))
            .filter_map(|(item, buffer)| {
                let bytes = buffer.get_mut(item.front..item.front + item.len)?;
                Some(Datagram {
                    remote: item.remote,
                    local: item.local,
                    class: item.class,
                    segment: item.segment,
                    bytes,
                })
            })
    }

    /// For sockets: clears the batch and returns its buffers, for datagrams that [`RecvBatch::add`] then describes in the same
    /// order.
    pub fn buffers(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.items.clear();
        self.buffers
            .chunks_mut(Self::STRIDE)
            .map(|buffer| &mut buffer[..Self::BUFFER])
    }

    /// For sockets: the next buffer holds `len` octets from `remote` to `local` with this traffic class, in segments of `segment`
    /// octets (0: a single datagram).
    pub fn add(
        &mut self,
        remote: SocketAddr,
        local: IpAddr,
        class: u8,
        segment: usize,
        len: usize,
    ) {
        debug_assert!(self.items.len() < self.limit && len <= Self::BUFFER);
        let segment = if segment == 0 { len } else { segment };
        self.items.push(Item {
            remote,
            local,
            class,
            segment,
            front: 0,
            len,
        });
    }

    /// For raw sockets: removes the header, whose length `header` returns, from the front of each datagram. A datagram with an
    /// invalid header becomes empty.
    pub fn strip_headers(&mut self, header: impl Fn(&[u8]) -> Option<usize>) {
        for (item, buffer) in self.items.iter_mut().zip(self.buffers.chunks(Self::STRIDE)) {
            let bytes = buffer.get(..item.len).unwrap_or_default();
            item.front = header(bytes)
                .filter(|front| *front <= item.len)
                .unwrap_or(item.len);
            item.len -= item.front;
            item.segment = item.len;
        }
    }
}

impl Default for RecvBatch {
    fn default() -> Self {
        RecvBatch::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REMOTE: SocketAddr =
        SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), 4500);
    const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    #[test]
    fn datagrams_keep_their_order_and_bytes() {
        let mut batch = RecvBatch::with_limit(3);
        for (buffer, fill) in batch.buffers().zip([1_u8, 2]) {
            buffer[..5].fill(fill);
        }
        batch.add(REMOTE, LOCAL, 0, 0, 5);
        batch.add(REMOTE, LOCAL, 0, 0, 3);
        let bytes: Vec<_> = batch.iter_mut().map(|d| d.bytes.to_vec()).collect();
        assert_eq!(bytes, [vec![1; 5], vec![2; 3]]);
    }

    #[test]
    fn joined_datagrams_are_split_again() {
        let mut batch = RecvBatch::with_limit(1);
        batch
            .buffers()
            .for_each(|b| (0..10).for_each(|i| b[i] = i as u8));
        batch.add(REMOTE, LOCAL, 0, 4, 10);
        let mut datagram = batch.iter_mut().next().unwrap();
        let segments: Vec<_> = datagram.segments().map(|s| s.to_vec()).collect();
        assert_eq!(segments, [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8, 9]]);
    }

    #[test]
    fn headers_are_stripped_and_invalid_ones_leave_empty_datagrams() {
        let mut batch = RecvBatch::with_limit(4);
        for (buffer, first) in batch.buffers().zip([2_u8, 9, 0, 3]) {
            buffer[..5].copy_from_slice(&[first, 1, 2, 3, 4]);
        }
        for len in [5, 5, 0, 3] {
            batch.add(REMOTE, LOCAL, 0, 0, len);
        }
        batch.strip_headers(|bytes| bytes.first().map(|first| usize::from(*first)));
        let bytes: Vec<_> = batch.iter_mut().map(|d| d.bytes.to_vec()).collect();
        assert_eq!(bytes, [vec![2, 3, 4], vec![], vec![], vec![]]);
        assert!(batch.iter_mut().all(|d| d.segment == d.bytes.len()));
    }

    #[test]
    fn single_and_empty_datagrams_are_one_segment() {
        let mut batch = RecvBatch::with_limit(2);
        batch.buffers().for_each(drop);
        batch.add(REMOTE, LOCAL, 0, 0, 9);
        batch.add(REMOTE, LOCAL, 0, 0, 0);
        let lengths: Vec<Vec<usize>> = batch
            .iter_mut()
            .map(|mut d| d.segments().map(|s| s.len()).collect())
            .collect();
        assert_eq!(lengths, [vec![9], vec![0]]);
    }
}
