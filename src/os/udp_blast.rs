//! UDP load generator for benchmarks: many datagrams in a system call, each a packet of its own on the wire.
//!
//! The gateway's own [`udp`](super::udp) sockets use GSO and GRO. The benchmark must not: its packets reach the gateway one by
//! one, as from many independent hosts.

#![allow(unsafe_code, reason = "sendmmsg and recvmmsg")]

use std::io;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;

use socket2::{Domain, Protocol, Socket, Type};

use super::sockopt;

/// Datagrams in one sendmmsg call.
pub const BURST: usize = 16;

/// Datagrams in one recvmmsg call.
const RECV_BURST: usize = 64;

/// Bytes stored of each datagram; longer ones are truncated.
const MAX_LEN: usize = 2048;

/// Sends up to [`BURST`] datagrams through a connected socket, which blocks while its buffer is full, and returns the number
/// sent.
///
/// # Errors
/// The first datagram could not be sent.
pub fn send(socket: &UdpSocket, datagrams: &[&[u8]]) -> io::Result<usize> {
    // SAFETY: C structures of integers and pointers, for which zero is valid.
    let mut headers: [libc::mmsghdr; BURST] = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    let mut vectors: [libc::iovec; BURST] = unsafe { std::mem::zeroed() };
    let mut ready = 0;
    for ((header, vector), datagram) in headers.iter_mut().zip(&mut vectors).zip(datagrams) {
        // The kernel only reads through this pointer.
        vector.iov_base = datagram.as_ptr().cast_mut().cast();
        vector.iov_len = datagram.len();
        header.msg_hdr.msg_iov = vector;
        header.msg_hdr.msg_iovlen = 1;
        ready += 1;
    }
    // SAFETY: the first `ready` headers point to vectors and datagrams that outlive the call.
    let count = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), ready, 0) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Buffers for one recvmmsg call.
pub struct RecvBuffers {
    buffers: Vec<u8>,
    lengths: Vec<usize>,
}

impl RecvBuffers {
    /// Allocates the buffers.
    pub fn new() -> RecvBuffers {
        RecvBuffers {
            buffers: vec![0; RECV_BURST * MAX_LEN],
            lengths: Vec::with_capacity(RECV_BURST),
        }
    }

    /// Replaces the content with the datagrams that wait, at least one; blocks up to the read timeout of the socket.
    ///
    /// # Errors
    /// `WouldBlock` after the timeout, or an error of the socket.
    pub fn receive(&mut self, socket: &UdpSocket) -> io::Result<()> {
        self.lengths.clear();
        // SAFETY: C structures of integers and pointers, for which zero is valid.
        let mut headers: [libc::mmsghdr; RECV_BURST] = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let mut vectors: [libc::iovec; RECV_BURST] = unsafe { std::mem::zeroed() };
        let slots = headers.iter_mut().zip(&mut vectors);
        for ((header, vector), buffer) in slots.zip(self.buffers.chunks_mut(MAX_LEN)) {
            vector.iov_base = buffer.as_mut_ptr().cast();
            vector.iov_len = buffer.len();
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: all headers point at vectors, and those at buffers, that outlive the call and that nothing else touches meanwhile.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                RECV_BURST as libc::c_uint,
                libc::MSG_WAITFORONE,
                std::ptr::null_mut(),
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        let received = headers.iter().take(count);
        self.lengths
            .extend(received.map(|header| header.msg_len as usize));
        Ok(())
    }

    /// Datagrams of the last call.
    pub fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        let buffers = self.buffers.chunks(MAX_LEN).zip(&self.lengths);
        buffers.filter_map(|(buffer, length)| buffer.get(..*length))
    }
}

impl Default for RecvBuffers {
    fn default() -> RecvBuffers {
        RecvBuffers::new()
    }
}

/// Connected socket with a source address of another host (`IP_TRANSPARENT`), as a router would forward its packets, and with UDP
/// checksum zero.
///
/// # Errors
/// Error of a system call; CAP_NET_ADMIN is necessary.
pub fn connect_spoofed(source: SocketAddrV4, target: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM.cloexec(), Some(Protocol::UDP))?;
    socket.set_ip_transparent_v4(true)?;
    sockopt::set_int(&socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1)?;
    socket.bind(&source.into())?;
    socket.connect(&target.into())?;
    Ok(socket.into())
}

/// Sets the buffer sizes of a socket: as root beyond the system's maximum, otherwise up to it.
pub fn set_buffers(socket: &UdpSocket, bytes: u32) {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    for (forced, limited) in [
        (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
        (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
    ] {
        // Smaller buffers cause more loss, which the benchmark reports.
        let _ = sockopt::set_int(socket, libc::SOL_SOCKET, forced, bytes)
            .or_else(|_| sockopt::set_int(socket, libc::SOL_SOCKET, limited, bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    #[test]
    fn bursts_arrive_complete_and_in_order() {
        let to = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let from = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        from.connect(to.local_addr().unwrap()).unwrap();
        to.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        set_buffers(&to, 1 << 20);
        let bytes = [7; 1500];
        let datagrams: Vec<&[u8]> = (0..BURST + 3).map(|n| &bytes[..n * 70]).collect();
        assert_eq!(send(&from, &datagrams).unwrap(), BURST);
        assert_eq!(send(&from, &datagrams[BURST..]).unwrap(), 3);
        let mut lengths = Vec::new();
        let mut catch = RecvBuffers::new();
        while lengths.len() < BURST + 3 {
            catch.receive(&to).unwrap();
            lengths.extend(catch.datagrams().map(<[u8]>::len));
        }
        assert_eq!(lengths, (0..BURST + 3).map(|n| n * 70).collect::<Vec<_>>());
        assert!(catch.datagrams().all(|one| one.iter().all(|b| *b == 7)));
    }

    #[test]
    fn receive_returns_after_the_read_timeout() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(1)))
            .unwrap();
        let error = RecvBuffers::new().receive(&socket).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
