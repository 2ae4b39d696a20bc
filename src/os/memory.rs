//! The in-memory twins of [`Device`] and [`Socket`]: bounded queues and errors on demand, no privileges.
//!
//! ```text
//!   test ── inject ──▶ MemoryDevice ── read ──▶ datapath      MemoryNetwork
//!   test ◀── take ──── MemoryDevice ◀── write ── datapath       bind(a) ◀── send to a ── bind(b)
//! ```

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::poll::Signal;
use super::{Device, OutPacket, ReadBatch, RecvBatch, SendBatch, Socket, VnetHeader};

/// A TUN device without a kernel: what is [injected](MemoryDevice::inject) can be read, what is written can be
/// [taken](MemoryDevice::take).
pub struct MemoryDevice {
    state: Mutex<DeviceState>,
    readable: Signal,
    capacity: usize,
}

struct DeviceState {
    to_read: VecDeque<(VnetHeader, Vec<u8>)>,
    written: VecDeque<(VnetHeader, Vec<u8>)>,
    /// Buffers that have done their service, so that benches measure no allocator.
    spare: Vec<Vec<u8>>,
    read_errors: VecDeque<io::ErrorKind>,
    write_errors: VecDeque<io::ErrorKind>,
}

impl MemoryDevice {
    /// A device whose queues hold `capacity` packets each way.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn new(capacity: usize) -> io::Result<MemoryDevice> {
        let state = DeviceState {
            to_read: VecDeque::new(),
            written: VecDeque::new(),
            spare: Vec::new(),
            read_errors: VecDeque::new(),
            write_errors: VecDeque::new(),
        };
        Ok(MemoryDevice {
            state: Mutex::new(state),
            readable: Signal::new()?,
            capacity,
        })
    }

    /// Lays a packet where the next read finds it; `false` when the queue is full.
    pub fn inject(&self, packet: &[u8]) -> bool {
        self.inject_with(VnetHeader::NONE, packet)
    }

    /// The same, with an offload header.
    pub fn inject_with(&self, vnet: VnetHeader, packet: &[u8]) -> bool {
        let mut state = lock(&self.state);
        if state.to_read.len() >= self.capacity {
            return false;
        }
        let buffer = state.buffer_with(packet);
        state.to_read.push_back((vnet, buffer));
        self.readable.set();
        true
    }

    /// The oldest packet that was written and not yet taken.
    pub fn take(&self) -> Option<Vec<u8>> {
        self.take_with().map(|(_, packet)| packet)
    }

    /// The same, with its offload header.
    pub fn take_with(&self) -> Option<(VnetHeader, Vec<u8>)> {
        lock(&self.state).written.pop_front()
    }

    /// Hands everything written to `seen`, oldest first, and keeps the buffers for reuse.
    pub fn drain(&self, mut seen: impl FnMut(VnetHeader, &[u8])) -> usize {
        let mut state = lock(&self.state);
        let mut count = 0;
        while let Some((vnet, packet)) = state.written.pop_front() {
            seen(vnet, &packet);
            state.spare.push(packet);
            count += 1;
        }
        count
    }

    /// The next read fails so; asked for several times, the errors queue up.
    pub fn fail_read(&self, kind: io::ErrorKind) {
        lock(&self.state).read_errors.push_back(kind);
        self.readable.set();
    }

    /// The next write fails so; asked for several times, the errors queue up.
    pub fn fail_write(&self, kind: io::ErrorKind) {
        lock(&self.state).write_errors.push_back(kind);
    }
}

impl DeviceState {
    fn buffer_with(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(bytes);
        buffer
    }
}

impl Device for MemoryDevice {
    fn read(&self, batch: &mut ReadBatch) -> io::Result<usize> {
        let mut state = lock(&self.state);
        let result = match state.read_errors.pop_front() {
            Some(kind) => {
                batch.clear();
                Err(kind.into())
            }
            None => batch.fill(|room| {
                let (vnet, packet) = state.to_read.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
                let len = VnetHeader::LEN + packet.len();
                let target = room.get_mut(..len).ok_or(io::ErrorKind::InvalidInput)?;
                let (head, body) = target.split_at_mut(VnetHeader::LEN);
                head.copy_from_slice(&vnet.to_bytes());
                body.copy_from_slice(&packet);
                state.spare.push(packet);
                Ok(len)
            }),
        };
        if state.to_read.is_empty() && state.read_errors.is_empty() {
            self.readable.clear();
        }
        result
    }

    fn write(&self, packets: &[OutPacket<'_>]) -> io::Result<usize> {
        let mut state = lock(&self.state);
        for (done, packet) in packets.iter().enumerate() {
            let failure = if state.written.len() >= self.capacity {
                Some(io::ErrorKind::WouldBlock)
            } else {
                state.write_errors.pop_front()
            };
            match failure {
                Some(kind) if done == 0 => return Err(kind.into()),
                Some(kind) => {
                    state.write_errors.push_front(kind);
                    return Ok(done);
                }
                None => {
                    let mut buffer = state.buffer_with(packet.head);
                    packet
                        .payloads
                        .iter()
                        .for_each(|part| buffer.extend_from_slice(part));
                    state.written.push_back((packet.vnet, buffer));
                }
            }
        }
        Ok(packets.len())
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.readable.as_fd()
    }
}

/// A network of [`MemorySocket`]s: what one sends to another's address arrives there, at once and in order; what is sent to
/// nobody's is lost. Clones are the same network.
#[derive(Clone, Default)]
pub struct MemoryNetwork(Arc<Mutex<HashMap<SocketAddr, Arc<Inbox>>>>);

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
    segment: usize,
    bytes: Vec<u8>,
}

impl Inbox {
    fn deliver(&self, remote: SocketAddr, local: IpAddr, segment: usize, bytes: &[u8]) -> bool {
        let mut queue = lock(&self.queue);
        if queue.datagrams.len() >= self.capacity {
            return false;
        }
        let mut buffer = queue.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(bytes);
        queue.datagrams.push_back(Arrival {
            remote,
            local,
            segment,
            bytes: buffer,
        });
        self.readable.set();
        true
    }
}

impl MemoryNetwork {
    /// A network with nobody in it.
    pub fn new() -> MemoryNetwork {
        MemoryNetwork::default()
    }

    /// A socket at `address` that holds `capacity` datagrams until they are received. It replaces one bound there before.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn bind(&self, address: SocketAddr, capacity: usize) -> io::Result<MemorySocket> {
        let inbox = Arc::new(Inbox {
            queue: Mutex::default(),
            readable: Signal::new()?,
            capacity,
        });
        lock(&self.0).insert(address, Arc::clone(&inbox));
        Ok(MemorySocket {
            network: self.clone(),
            address,
            inbox,
            errors: Mutex::default(),
        })
    }
}

/// A UDP socket without a kernel, in a [`MemoryNetwork`].
pub struct MemorySocket {
    network: MemoryNetwork,
    address: SocketAddr,
    inbox: Arc<Inbox>,
    errors: Mutex<VecDeque<io::ErrorKind>>,
}

impl MemorySocket {
    /// Lets a datagram arrive from anyone; `false` when the queue is full.
    pub fn inject(&self, remote: SocketAddr, bytes: &[u8]) -> bool {
        self.inbox.deliver(remote, self.address.ip(), 0, bytes)
    }

    /// Lets a train of datagrams of `segment` bytes each arrive joined, as GRO would.
    pub fn inject_train(&self, remote: SocketAddr, segment: usize, bytes: &[u8]) -> bool {
        self.inbox
            .deliver(remote, self.address.ip(), segment, bytes)
    }

    /// The oldest datagram that has arrived, and who sent it: what a test that plays the peer wants.
    pub fn take(&self) -> Option<(SocketAddr, Vec<u8>)> {
        let mut queue = lock(&self.inbox.queue);
        let arrival = queue.datagrams.pop_front()?;
        if queue.datagrams.is_empty() && queue.errors.is_empty() {
            self.inbox.readable.clear();
        }
        Some((arrival.remote, arrival.bytes))
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// As [`Socket::send`].
    pub fn send_to(&self, remote: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        self.send_one(remote, self.address.ip(), bytes)
    }

    /// The next receive fails so; asked for several times, the errors queue up.
    pub fn fail_recv(&self, kind: io::ErrorKind) {
        lock(&self.inbox.queue).errors.push_back(kind);
        self.inbox.readable.set();
    }

    /// The next packet cannot be sent for this reason; asked for several times, the errors queue up.
    pub fn fail_send(&self, kind: io::ErrorKind) {
        lock(&self.errors).push_back(kind);
    }

    fn send_one(&self, remote: SocketAddr, local: IpAddr, bytes: &[u8]) -> io::Result<()> {
        if let Some(kind) = lock(&self.errors).pop_front() {
            return Err(kind.into());
        }
        let source = if local.is_unspecified() {
            self.address.ip()
        } else {
            local
        };
        let inbox = lock(&self.network.0).get(&remote).cloned();
        if let Some(inbox) = inbox {
            // A full inbox loses the datagram, as the receiving kernel would.
            inbox.deliver(
                SocketAddr::new(source, self.address.port()),
                remote.ip(),
                0,
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
        let packets = batch
            .messages()
            .flat_map(|m| m.packets().map(move |p| (m.remote, m.local, p)));
        let mut sent = 0;
        for (remote, local, packet) in packets {
            match self.send_one(remote, local, packet) {
                Ok(()) => sent += 1,
                Err(error) if sent == 0 => return Err(error),
                Err(error) => {
                    lock(&self.errors).push_front(error.kind());
                    break;
                }
            }
        }
        Ok(sent)
    }

    fn local(&self) -> SocketAddr {
        self.address
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inbox.readable.as_fd()
    }
}

/// Nothing here is left half done by a panic, so a poisoned lock is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::poll::Waiter;
    use super::*;
    use std::io::IoSlice;
    use std::time::Duration;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 4500))
    }

    fn readable(fd: BorrowedFd<'_>) -> bool {
        let waiter = Waiter::new().unwrap();
        waiter.watch(fd, 0).unwrap();
        !waiter
            .wait(Some(Duration::ZERO))
            .unwrap()
            .tokens()
            .is_empty()
    }

    #[test]
    fn a_device_is_readable_exactly_while_it_has_something_to_read() {
        let device = MemoryDevice::new(2).unwrap();
        let mut batch = ReadBatch::new();
        assert_eq!(
            device.read(&mut batch).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        assert!(!readable(device.as_fd()));
        assert!(device.inject(b"one") && device.inject(b"two") && !device.inject(b"three"));
        assert!(readable(device.as_fd()));
        assert_eq!(device.read(&mut batch).unwrap(), 2);
        assert_eq!(batch.packet(1).unwrap().bytes, b"two");
        assert!(!readable(device.as_fd()));
    }

    #[test]
    fn what_is_written_is_gathered_and_a_full_device_says_so() {
        let device = MemoryDevice::new(2).unwrap();
        let payloads = [IoSlice::new(b"pay"), IoSlice::new(b"load")];
        let packets = [
            OutPacket::whole(b"whole"),
            OutPacket {
                vnet: VnetHeader::NONE,
                head: b"head ",
                payloads: &payloads,
            },
            OutPacket::whole(b"late"),
        ];
        assert_eq!(device.write(&packets).unwrap(), 2);
        assert_eq!(
            device.write(&packets[2..]).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        assert_eq!(device.take().unwrap(), b"whole");
        assert_eq!(device.take().unwrap(), b"head payload");
        assert!(device.take().is_none());
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
            let mut slot = out.reserve(address(2), address(1).ip(), 4).unwrap();
            slot.bytes().fill(fill);
            slot.commit(4);
        }
        assert_eq!(a.send(&out).unwrap(), 2);
        let mut received = RecvBatch::new();
        assert_eq!(b.recv(&mut received).unwrap(), 2);
        let first = received.iter_mut().next().unwrap();
        assert_eq!(
            (first.remote, first.local, &*first.bytes),
            (address(1), address(2).ip(), &[1; 4][..])
        );
        assert_eq!(
            b.recv(&mut received).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        assert!(!readable(b.as_fd()));
    }

    #[test]
    fn an_injected_error_stops_at_its_packet() {
        let network = MemoryNetwork::new();
        let a = network.bind(address(1), 8).unwrap();
        let mut out = SendBatch::new();
        for len in [3, 2] {
            out.reserve(address(9), address(1).ip(), len)
                .unwrap()
                .commit(len);
        }
        a.fail_send(io::ErrorKind::NetworkUnreachable);
        assert_eq!(
            a.send(&out).unwrap_err().kind(),
            io::ErrorKind::NetworkUnreachable
        );
        out.advance(1);
        assert_eq!(a.send(&out).unwrap(), 1, "the next packet is not to blame");
        a.fail_recv(io::ErrorKind::ConnectionRefused);
        assert!(readable(a.as_fd()));
        assert!(a.recv(&mut RecvBatch::new()).is_err());
    }
}
