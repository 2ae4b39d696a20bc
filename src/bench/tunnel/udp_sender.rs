//! Who sends the UDP of a rate search.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use crate::os::flood::{self, BURST};

/// Something that sends numbered datagrams, each a packet of its own: no UDP_SEGMENT, so that gateways cannot live off super-packets
/// that a sender made.
pub(super) trait UdpSender {
    /// Sends datagrams with payloads of these sizes, each of which begins with `number`; says how many have left.
    ///
    /// # Errors
    /// The first one could not be sent.
    fn send(&mut self, number: u32, sizes: &[usize; BURST]) -> io::Result<usize>;
}

/// Bytes of the longest payload.
pub(super) const LONGEST: usize = 1400;

/// An ordinary host.
pub(super) struct HostSender {
    socket: UdpSocket,
    payload: [u8; LONGEST],
}

impl HostSender {
    /// One in the namespace of the calling thread, which sends to `target`.
    pub(super) fn new(target: SocketAddr) -> io::Result<HostSender> {
        let any: IpAddr = match target {
            SocketAddr::V4(_) => [0; 4].into(),
            SocketAddr::V6(_) => [0; 16].into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        flood::widen(&socket, 4 << 20);
        socket.connect(target)?;
        Ok(HostSender {
            socket,
            payload: [0; LONGEST],
        })
    }
}

impl UdpSender for HostSender {
    fn send(&mut self, number: u32, sizes: &[usize; BURST]) -> io::Result<usize> {
        self.payload[..4].copy_from_slice(&number.to_be_bytes());
        let burst = sizes.map(|size| &self.payload[..size.min(LONGEST)]);
        flood::send(&self.socket, &burst)
    }
}
