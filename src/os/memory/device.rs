//! In-memory TUN device.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Mutex;

use super::super::poll::Signal;
use super::super::{Device, GsoSupport, OutPacket, ReadBatch, VnetHeader};
use super::lock;
use crate::net::segment::GsoKind;

/// TUN device in memory: [injected](MemoryDevice::inject) packets are read, written packets are [taken](MemoryDevice::take).
pub struct MemoryDevice {
    state: Mutex<DeviceState>,
    readable: Signal,
    capacity: usize,
}

struct DeviceState {
    to_read: VecDeque<(VnetHeader, Vec<u8>)>,
    written: VecDeque<(VnetHeader, Vec<u8>)>,
    /// Buffers for reuse, so that benchmarks do not measure the allocator.
    spare: Vec<Vec<u8>>,
    read_errors: VecDeque<io::ErrorKind>,
    write_errors: VecDeque<io::ErrorKind>,
    gso: GsoSupport,
    /// Number of GSO packets still to be rejected.
    gso_to_reject: usize,
}

impl MemoryDevice {
    /// Device whose queues hold `capacity` packets each way.
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
            gso: GsoSupport::None,
            gso_to_reject: 0,
        };
        Ok(MemoryDevice {
            state: Mutex::new(state),
            readable: Signal::new()?,
            capacity,
        })
    }

    /// Queues a packet for reading; `false` if the queue is full.
    pub fn inject(&self, packet: &[u8]) -> bool {
        self.inject_with(VnetHeader::NONE, packet)
    }

    /// Like [`MemoryDevice::inject`], with a virtio-net header.
    pub fn inject_with(&self, vnet: VnetHeader, packet: &[u8]) -> bool {
        let mut state = lock(&self.state);
        if state.to_read.len() >= self.capacity {
            return false;
        }
        if state.to_read.is_empty() {
            self.readable.set();
        }
        let buffer = state.buffer_with(packet);
        state.to_read.push_back((vnet, buffer));
        true
    }

    /// Oldest written packet.
    pub fn take(&self) -> Option<Vec<u8>> {
        self.take_with().map(|(_, packet)| packet)
    }

    /// Like [`MemoryDevice::take`], with its virtio-net header.
    pub fn take_with(&self) -> Option<(VnetHeader, Vec<u8>)> {
        lock(&self.state).written.pop_front()
    }

    /// Passes all written packets to `seen`, oldest first, and keeps their buffers for reuse.
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

    /// Makes the next read fail; several calls queue several errors.
    pub fn fail_read(&self, kind: io::ErrorKind) {
        lock(&self.state).read_errors.push_back(kind);
        self.readable.set();
    }

    /// Sets the accepted GSO packets; a new device accepts none.
    pub fn set_gso_support(&self, gso: GsoSupport) {
        lock(&self.state).gso = gso;
    }

    /// Rejects the next `count` GSO packets, and no single packet between them.
    pub fn reject_gso_packets(&self, count: usize) {
        lock(&self.state).gso_to_reject = count;
    }

    /// Makes the next write fail; several calls queue several errors.
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
            } else if packet.vnet.is_gso() && state.gso_to_reject > 0 {
                state.gso_to_reject -= 1;
                Some(io::ErrorKind::InvalidInput)
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
                    let buffer = state.buffer_with(packet.bytes);
                    state.written.push_back((packet.vnet, buffer));
                }
            }
        }
        Ok(packets.len())
    }

    fn gso_support(&self) -> GsoSupport {
        lock(&self.state).gso
    }

    fn disable_gso(&self, kind: GsoKind) {
        let mut state = lock(&self.state);
        state.gso = state.gso.without(kind);
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.readable.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::readable;
    use super::*;

    #[test]
    fn a_device_is_readable_exactly_while_packets_wait() {
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
    fn written_packets_are_taken_in_order_and_a_full_device_blocks() {
        let device = MemoryDevice::new(2).unwrap();
        let packets = [
            OutPacket::whole(b"whole"),
            OutPacket::whole(b"another"),
            OutPacket::whole(b"late"),
        ];
        assert_eq!(device.write(&packets).unwrap(), 2);
        assert_eq!(
            device.write(&packets[2..]).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        assert_eq!(device.take().unwrap(), b"whole");
        assert_eq!(device.take().unwrap(), b"another");
        assert!(device.take().is_none());
    }
}
