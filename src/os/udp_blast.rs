//! Plain UDP at high rates, for benches: several datagrams a system call, each a packet of its own on the wire.
//!
//! The program itself has [`udp`](super::udp), which knows trains and addresses. A bench must not: what it sends is to come to the
//! gateway packet by packet, as from a crowd of hosts that do not know each other.

#![allow(unsafe_code, reason = "sendmmsg and recvmmsg")]

use std::io;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;

use socket2::{Domain, Protocol, Socket, Type};

use super::sockopt;

/// Datagrams a system call sends.
pub const BURST: usize = 16;

/// Datagrams a system call receives.
const CATCH: usize = 64;

/// Bytes of a datagram that are looked at; what is longer is cut.
const LONGEST: usize = 2048;

/// Sends up to [`BURST`] datagrams from a connected socket, waiting for room as the socket does; says how many have left.
///
/// # Errors
/// The first one could not be sent.
pub fn send(socket: &UdpSocket, datagrams: &[&[u8]]) -> io::Result<usize> {
    // SAFETY: C structures of integers and pointers, for which zero is a value.
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
    // SAFETY: the first `ready` headers point at vectors and datagrams that outlive the call.
    let count = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), ready, 0) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Where datagrams are received to be looked at once.
pub struct RecvBuffers {
    buffers: Vec<u8>,
    lengths: Vec<usize>,
}

impl RecvBuffers {
    /// Room for one system call's worth.
    pub fn new() -> RecvBuffers {
        RecvBuffers {
            buffers: vec![0; CATCH * LONGEST],
            lengths: Vec::with_capacity(CATCH),
        }
    }

    /// Replaces what was caught with what waits, at least one; waits for that as long as the socket's read timeout says.
    ///
    /// # Errors
    /// `WouldBlock` when the time is up, or the socket is broken.
    pub fn receive(&mut self, socket: &UdpSocket) -> io::Result<()> {
        self.lengths.clear();
        // SAFETY: C structures of integers and pointers, for which zero is a value.
        let mut headers: [libc::mmsghdr; CATCH] = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let mut vectors: [libc::iovec; CATCH] = unsafe { std::mem::zeroed() };
        let places = headers.iter_mut().zip(&mut vectors);
        for ((header, vector), buffer) in places.zip(self.buffers.chunks_mut(LONGEST)) {
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
                CATCH as libc::c_uint,
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

    /// The datagrams caught last.
    pub fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        let buffers = self.buffers.chunks(LONGEST).zip(&self.lengths);
        buffers.filter_map(|(buffer, length)| buffer.get(..*length))
    }
}

impl Default for RecvBuffers {
    fn default() -> RecvBuffers {
        RecvBuffers::new()
    }
}

/// A socket that sends from an IPv4 address of another machine (`IP_TRANSPARENT`), as the router between would pass it on, and with
/// a UDP checksum of zero, which is none at all.
///
/// # Errors
/// What the kernel said: it takes CAP_NET_ADMIN.
pub fn connect_spoofed(source: SocketAddrV4, target: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM.cloexec(), Some(Protocol::UDP))?;
    socket.set_ip_transparent_v4(true)?;
    sockopt::set_int(&socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1)?;
    socket.bind(&source.into())?;
    socket.connect(&target.into())?;
    Ok(socket.into())
}

/// Lets so many bytes wait in the socket: as root more than the system would allow, otherwise what it allows.
pub fn set_buffers(socket: &UdpSocket, bytes: u32) {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    for (forced, asked) in [
        (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
        (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
    ] {
        // A bench with small buffers is a bench with more loss, which it reports.
        let _ = sockopt::set_int(socket, libc::SOL_SOCKET, forced, bytes)
            .or_else(|_| sockopt::set_int(socket, libc::SOL_SOCKET, asked, bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    #[test]
    fn what_is_sent_in_bursts_is_caught_whole_and_in_order() {
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
    fn waiting_ends_when_the_socket_says_so() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(1)))
            .unwrap();
        let error = RecvBuffers::new().receive(&socket).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
