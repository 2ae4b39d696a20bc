//! In-memory network of UDP sockets.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex};

use super::super::poll::Signal;
use super::super::{Message, ReceiveOffload, RecvBatch, SendBatch, Socket, SocketOffload};
use super::lock;

/// Network of [`MemorySocket`]s: a datagram arrives at the socket bound to its destination at once and in order, and is lost
/// without one. Clones share the network.
#[derive(Clone)]
pub struct MemoryNetwork {
    inboxes: Arc<Mutex<HashMap<SocketAddr, Arc<Inbox>>>>,
    receiving: ReceiveOffload,
}

struct Inbox {
    queue: Mutex<Arrivals>,
    readable: Signal,
    capacity: usize,
}

#[derive(Default)]
struct Arrivals {
    datagrams: VecDeque<Arrival>,
    spare: Vec<Vec<u8>>,
    errors: VecDeque<io::ErrorKind>,
}

struct Arrival {
    remote: SocketAddr,
    local: IpAddr,
    class: u8,
    segment: usize,
    bytes: Vec<u8>,
}

impl Inbox {
    fn deliver(
        &self,
        remote: SocketAddr,
        local: IpAddr,
        class: u8,
        segment: usize,
        bytes: &[u8],
    ) -> bool {
        let mut queue = lock(&self.queue);
        if queue.datagrams.len() >= self.capacity {
            return false;
        }
        if queue.datagrams.is_empty() {
            self.readable.set();
        }
        let mut buffer = queue.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(bytes);
        queue.datagrams.push_back(Arrival {
            remote,
            local,
            class,
            segment,
            bytes: buffer,
        });
        true
    }
}

impl MemoryNetwork {
    /// Network without sockets that delivers single datagrams.
    pub fn new() -> MemoryNetwork {
        MemoryNetwork::with_gro(ReceiveOffload::Single)
    }

    /// Network without sockets that delivers equal datagrams joined, if `receiving` allows it.
    pub fn with_gro(receiving: ReceiveOffload) -> MemoryNetwork {
        MemoryNetwork {
            inboxes: Arc::default(),
            receiving,
        }
    }

    /// Creates a socket at `address` with a queue of `capacity` datagrams. It replaces a socket bound there before.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn bind(&self, address: SocketAddr, capacity: usize) -> io::Result<MemorySocket> {
        let inbox = Arc::new(Inbox {
            queue: Mutex::default(),
            readable: Signal::new()?,
            capacity,
        });
        lock(&self.inboxes).insert(address, Arc::clone(&inbox));
        Ok(MemorySocket {
            network: self.clone(),
            address,
            inbox,
            errors: Mutex::default(),
            offload: Mutex::new(SocketOffload::NONE),
        })
    }
}

impl Default for MemoryNetwork {
    fn default() -> MemoryNetwork {
        MemoryNetwork::new()
    }
}

/// UDP socket in memory, in a [`MemoryNetwork`].
pub struct MemorySocket {
    network: MemoryNetwork,
    address: SocketAddr,
    inbox: Arc<Inbox>,
    errors: Mutex<VecDeque<io::ErrorKind>>,
    /// Offloads that the socket reports.
    offload: Mutex<SocketOffload>,
}

impl MemorySocket {
    /// Queues a datagram from `remote`; `false` if the queue is full.
    pub fn inject(&self, remote: SocketAddr, bytes: &[u8]) -> bool {
        self.inject_class(remote, 0, bytes)
    }

    /// Like [`MemorySocket::inject`], with a traffic class.
    pub fn inject_class(&self, remote: SocketAddr, class: u8, bytes: &[u8]) -> bool {
        self.inbox
            .deliver(remote, self.address.ip(), class, 0, bytes)
    }

    /// Queues datagrams of `segment` octets each, joined as by GRO.
    pub fn inject_gro(&self, remote: SocketAddr, segment: usize, bytes: &[u8]) -> bool {
        self.inbox
            .deliver(remote, self.address.ip(), 0, segment, bytes)
    }

    /// Oldest datagram and its source, for tests that act as the peer.
    pub fn take(&self) -> Option<(SocketAddr, Vec<u8>)> {
        self.take_class()
            .map(|(remote, _class, bytes)| (remote, bytes))
    }

    /// Like [`MemorySocket::take`], with its traffic class.
    pub fn take_class(&self) -> Option<(SocketAddr, u8, Vec<u8>)> {
        let mut queue = lock(&self.inbox.queue);
        let arrival = queue.datagrams.pop_front()?;
        if queue.datagrams.is_empty() && queue.errors.is_empty() {
            self.inbox.readable.clear();
        }
        Some((arrival.remote, arrival.class, arrival.bytes))
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// See [`Socket::send`].
    pub fn send_to(&self, remote: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        self.send_one(remote, self.address.ip(), 0, 0, bytes)
    }

    /// Makes the next receive fail; several calls queue several errors.
    pub fn fail_recv(&self, kind: io::ErrorKind) {
        lock(&self.inbox.queue).errors.push_back(kind);
        self.inbox.readable.set();
    }

    /// Sets the reported offloads; a new socket reports none. Nothing else changes.
    pub fn set_offload(&self, offload: SocketOffload) {
        *lock(&self.offload) = offload;
    }

    /// Makes the next send fail; several calls queue several errors.
    pub fn fail_send(&self, kind: io::ErrorKind) {
        lock(&self.errors).push_back(kind);
    }

    fn send_one(
        &self,
        remote: SocketAddr,
        local: IpAddr,
        class: u8,
        segment: usize,
        bytes: &[u8],
    ) -> io::Result<()> {
        if let Some(kind) = lock(&self.errors).pop_front() {
            return Err(kind.into());
        }
        let source = if local.is_unspecified() {
            self.address.ip()
        } else {
            local
        };
        let inbox = lock(&self.network.inboxes).get(&remote).cloned();
        if let Some(inbox) = inbox {
            // A full queue drops the datagram, like a kernel.
            inbox.deliver(
                SocketAddr::new(source, self.address.port()),
                remote.ip(),
                class,
                segment,
                bytes,
            );
        }
        Ok(())
    }
}

impl Socket for MemorySocket {
    fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        batch.clear();
        let mut queue = lock(&self.inbox.queue);
        let result = match queue.errors.pop_front() {
            Some(kind) => Err(kind.into()),
            None => {
                let count = queue.datagrams.len().min(batch.limit());
                for (buffer, arrival) in batch.buffers().zip(queue.datagrams.iter().take(count)) {
                    buffer[..arrival.bytes.len()].copy_from_slice(&arrival.bytes);
                }
                for _ in 0..count {
                    if let Some(arrival) = queue.datagrams.pop_front() {
                        batch.add(
                            arrival.remote,
                            arrival.local,
                            arrival.class,
                            arrival.segment,
                            arrival.bytes.len(),
                        );
                        queue.spare.push(arrival.bytes);
                    }
                }
                if count == 0 {
                    Err(io::ErrorKind::WouldBlock.into())
                } else {
                    Ok(count)
                }
            }
        };
        if queue.datagrams.is_empty() && queue.errors.is_empty() {
            self.inbox.readable.clear();
        }
        result
    }

    fn send(&self, batch: &SendBatch) -> io::Result<usize> {
        let receiving = self.network.receiving;
        let datagrams = batch.messages().flat_map(|message| {
            let (joined, singles) = match receiving {
                ReceiveOffload::Joined => (Some(message.bytes), None),
                ReceiveOffload::Single => (None, Some(message.packets())),
            };
            let datagrams = joined.into_iter().chain(singles.into_iter().flatten());
            datagrams.map(move |datagram| (message, datagram))
        });
        let mut sent = 0;
        for (message, datagram) in datagrams {
            let Message {
                remote,
                local,
                class,
                segment,
                ..
            } = message;
            match self.send_one(remote, local, class, segment, datagram) {
                Ok(()) => sent += datagram.len().div_ceil(segment.max(1)).max(1),
                Err(error) if sent == 0 => return Err(error),
                Err(error) => {
                    lock(&self.errors).push_front(error.kind());
                    break;
                }
            }
        }
        Ok(sent)
    }

    fn offload(&self) -> SocketOffload {
        *lock(&self.offload)
    }

    fn local(&self) -> SocketAddr {
        self.address
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inbox.readable.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::readable;
    use super::*;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 4500))
    }

    #[test]
    fn datagrams_travel_between_bound_sockets() {
        let network = MemoryNetwork::new();
        let (a, b) = (
            network.bind(address(1), 8).unwrap(),
            network.bind(address(2), 8).unwrap(),
        );
        let mut out = SendBatch::new();
        for fill in [1, 2] {
            let mut slot = out.reserve(address(2), address(1).ip(), 0xb8, 4).unwrap();
            slot.bytes().fill(fill);
            slot.commit(4);
        }
        assert_eq!(a.send(&out).unwrap(), 2);
        let mut received = RecvBatch::new();
        assert_eq!(b.recv(&mut received).unwrap(), 2);
        let first = received.iter_mut().next().unwrap();
        assert_eq!(
            (first.remote, first.local, first.class, &*first.bytes),
            (address(1), address(2).ip(), 0xb8, &[1; 4][..])
        );
        assert_eq!(
            b.recv(&mut received).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        assert!(!readable(b.as_fd()));
    }

    #[test]
    fn a_network_with_gro_delivers_joined_datagrams() {
        for (receiving, pieces) in [
            (ReceiveOffload::Joined, vec![100]),
            (ReceiveOffload::Single, vec![40, 40, 20]),
        ] {
            let network = MemoryNetwork::with_gro(receiving);
            let (a, b) = (
                network.bind(address(1), 8).unwrap(),
                network.bind(address(2), 8).unwrap(),
            );
            let mut out = SendBatch::new();
            for len in [40, 40, 20] {
                let slot = out.reserve(address(2), address(1).ip(), 0, len).unwrap();
                slot.commit(len);
            }
            assert_eq!(a.send(&out).unwrap(), 3);
            let mut received = RecvBatch::new();
            b.recv(&mut received).unwrap();
            let arrived: Vec<usize> = received.iter_mut().map(|piece| piece.bytes.len()).collect();
            assert_eq!(arrived, pieces);
            let segments = received
                .iter_mut()
                .map(|mut piece| piece.segments().count());
            assert_eq!(segments.sum::<usize>(), 3);
        }
    }

    #[test]
    fn an_injected_error_stops_at_its_packet() {
        let network = MemoryNetwork::new();
        let a = network.bind(address(1), 8).unwrap();
        let mut out = SendBatch::new();
        for len in [3, 2] {
            out.reserve(address(9), address(1).ip(), 0, len)
                .unwrap()
                .commit(len);
        }
        a.fail_send(io::ErrorKind::NetworkUnreachable);
        assert_eq!(
            a.send(&out).unwrap_err().kind(),
            io::ErrorKind::NetworkUnreachable
        );
        out.advance(1);
        assert_eq!(a.send(&out).unwrap(), 1, "the next packet is unaffected");
        a.fail_recv(io::ErrorKind::ConnectionRefused);
        assert!(readable(a.as_fd()));
        assert!(a.recv(&mut RecvBatch::new()).is_err());
    }
}
