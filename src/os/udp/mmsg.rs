//! Many datagrams per system call: `recvmmsg` and `sendmmsg`, of which each piece may be a train of datagrams.
//!
//! ```text
//!   mmsghdr ─┬─▶ name     the peer's address
//!            ├─▶ iovec ─▶ the datagram or the train, where the batch has it
//!            └─▶ control  the address of ours, the traffic class, the length of a train's segments
//! ```

#![allow(unsafe_code, reason = "recvmmsg and sendmmsg with ancillary data")]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use super::super::{Message, RecvBatch};
use super::cmsg::{self, ControlBuf};
use super::sockaddr::SockAddr;

/// Pieces per system call.
const VECTOR: usize = RecvBatch::MAX_DATAGRAMS;

/// Fills the batch with what waits, without waiting.
pub(in crate::os) fn receive(
    socket: &socket2::Socket,
    bound: IpAddr,
    batch: &mut RecvBatch,
) -> io::Result<usize> {
    // SAFETY: all of these are C structures of integers and pointers, for which zero is a value.
    let mut headers: [libc::mmsghdr; VECTOR] = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    let mut vectors: [libc::iovec; VECTOR] = unsafe { std::mem::zeroed() };
    let mut names = [SockAddr::EMPTY; VECTOR];
    let mut controls = [ControlBuf::EMPTY; VECTOR];
    let mut ready = 0;
    let places = headers
        .iter_mut()
        .zip(&mut vectors)
        .zip(&mut names)
        .zip(&mut controls);
    for (buffer, (((header, vector), name), control)) in batch.buffers().zip(places) {
        vector.iov_base = buffer.as_mut_ptr().cast();
        vector.iov_len = buffer.len();
        name.offer(&mut header.msg_hdr);
        header.msg_hdr.msg_iov = vector;
        header.msg_hdr.msg_iovlen = 1;
        control.offer(&mut header.msg_hdr);
        ready += 1;
    }
    // SAFETY: `ready` headers point at buffers, names and control blocks that live until the end of this function and that nothing
    // else touches meanwhile.
    let count = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            ready,
            libc::MSG_DONTWAIT,
            std::ptr::null_mut(),
        )
    };
    if count < 0 {
        return Err(io::Error::last_os_error());
    }
    for (header, name) in headers
        .iter()
        .zip(&names)
        .take(count.unsigned_abs() as usize)
    {
        // The buffers hold any datagram; an unknown family cannot be, and the datagram would then be nobody's.
        let remote = name.address().unwrap_or(SocketAddr::new(bound, 0));
        // SAFETY: the kernel has filled in the first `count` headers, and their blocks live until the end of this function.
        let meta = unsafe { cmsg::read(&header.msg_hdr) };
        // Of a datagram, or what is said about it, that did not fit, nothing is left: an empty one is refused and counted.
        let whole = header.msg_hdr.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) == 0;
        let len = if whole { header.msg_len as usize } else { 0 };
        batch.add(
            remote,
            meta.local.unwrap_or(bound),
            meta.class,
            meta.segment,
            len,
        );
    }
    Ok(batch.len())
}

/// One piece: a single datagram, or a message that the kernel takes apart.
#[derive(Clone, Copy)]
pub(in crate::os) struct Outgoing<'a> {
    message: Message<'a>,
    packets: usize,
}

impl<'a> Outgoing<'a> {
    /// The whole message, to be cut into its packets by the kernel.
    pub(in crate::os) fn gso(message: Message<'a>) -> Outgoing<'a> {
        let packets = message.bytes.len().div_ceil(message.segment.max(1)).max(1);
        Outgoing { message, packets }
    }

    /// Its packets one by one.
    pub(in crate::os) fn singles(message: Message<'a>) -> impl Iterator<Item = Outgoing<'a>> {
        message.packets().map(move |bytes| Outgoing {
            message: Message {
                bytes,
                segment: bytes.len(),
                ..message
            },
            packets: 1,
        })
    }
}

/// Sends the pieces in order; says how many packets have left, at least one.
pub(in crate::os) fn send<'a>(
    socket: &socket2::Socket,
    pieces: impl Iterator<Item = Outgoing<'a>>,
) -> io::Result<usize> {
    // SAFETY: C structures of integers and pointers, for which zero is a value.
    let mut headers: [libc::mmsghdr; VECTOR] = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    let mut vectors: [libc::iovec; VECTOR] = unsafe { std::mem::zeroed() };
    let mut names = [SockAddr::EMPTY; VECTOR];
    let mut controls = [ControlBuf::EMPTY; VECTOR];
    let mut packets = [0; VECTOR];
    let mut pieces = pieces.peekable();
    let mut sent = 0;
    while pieces.peek().is_some() {
        let mut ready = 0;
        let places = headers
            .iter_mut()
            .zip(&mut vectors)
            .zip(&mut names)
            .zip(&mut controls)
            .zip(&mut packets);
        for (((((header, vector), name), control), count), piece) in places.zip(&mut pieces) {
            let Outgoing { message, packets } = piece;
            // The kernel only reads through this pointer.
            vector.iov_base = message.bytes.as_ptr().cast_mut().cast();
            vector.iov_len = message.bytes.len();
            name.set(message.remote, &mut header.msg_hdr);
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            control.describe(&message, &mut header.msg_hdr);
            *count = packets;
            ready += 1;
        }
        match send_vector(socket, &mut headers, ready) {
            Ok(count) => {
                sent += packets.iter().take(count).sum::<usize>();
                if count < ready as usize {
                    break;
                }
            }
            Err(error) if sent == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(sent)
}

fn send_vector(
    socket: &socket2::Socket,
    headers: &mut [libc::mmsghdr; VECTOR],
    ready: libc::c_uint,
) -> io::Result<usize> {
    let mut refusals = 0;
    loop {
        // SAFETY: the first `ready` headers point at packets, names and control blocks that outlive the call.
        let count = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                ready,
                libc::MSG_DONTWAIT,
            )
        };
        if count >= 0 {
            return Ok(count.unsigned_abs() as usize);
        }
        let error = io::Error::last_os_error();
        // ECONNREFUSED is news about an earlier datagram (no port there); this one has not been tried.
        let old_news = error.raw_os_error() == Some(libc::ECONNREFUSED) && refusals < 8;
        refusals += 1;
        if !old_news && error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::UdpSocket;
    use super::*;
    use crate::os::{SendBatch, Socket, SocketOffload, sockopt};

    #[test]
    fn e11_a_datagram_whose_description_is_cut_short_is_nothing() {
        let bind = || UdpSocket::bind("127.0.0.1:0".parse().unwrap(), SocketOffload::FULL).unwrap();
        let (a, b) = (bind(), bind());
        let mut out = SendBatch::new();
        for len in [300, 300, 100] {
            let slot = out.reserve(b.local(), a.local().ip(), 0, len);
            slot.unwrap().commit(len);
        }
        let mut batch = RecvBatch::new();
        assert_eq!(a.send(&out).unwrap(), 3);
        assert_eq!(b.recv(&mut batch).unwrap(), 1);
        let train = batch.iter_mut().next().unwrap();
        assert_eq!((train.segment, train.bytes.len()), (300, 700));

        // More is said about each datagram than there is room for: a time, and how many hops it had left.
        sockopt::set_int(&b.socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1).unwrap();
        sockopt::set_int(&b.socket, libc::IPPROTO_IP, libc::IP_RECVTTL, 1).unwrap();
        assert_eq!(a.send(&out).unwrap(), 3);
        assert_eq!(b.recv(&mut batch).unwrap(), 1);
        assert!(batch.iter_mut().all(|datagram| datagram.bytes.is_empty()));
    }
}
