//! Several messages in a system call: `recvmmsg` and `sendmmsg`. Each message is one datagram, or several equal ones joined.
//!
//! ```text
//!   mmsghdr ─┬─▶ msg_name     address of the peer
//!            ├─▶ msg_iov ───▶ datagram or datagrams, in the batch
//!            └─▶ msg_control  local address, traffic class, segment length
//! ```

#![allow(unsafe_code, reason = "recvmmsg and sendmmsg with ancillary data")]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use super::super::{Message, RecvBatch};
use super::cmsg::{self, ControlBuf};
use super::sockaddr::SockAddr;

/// Messages in one system call.
const VECTOR: usize = RecvBatch::MAX_DATAGRAMS;

/// Fills the batch with the datagrams that wait, without blocking.
pub(in crate::os) fn receive(
    socket: &socket2::Socket,
    bound: IpAddr,
    batch: &mut RecvBatch,
) -> io::Result<usize> {
    // SAFETY: C structures of integers and pointers, for which zero is valid.
    let mut headers: [libc::mmsghdr; VECTOR] = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    let mut vectors: [libc::iovec; VECTOR] = unsafe { std::mem::zeroed() };
    let mut names = [SockAddr::EMPTY; VECTOR];
    let mut controls = [ControlBuf::EMPTY; VECTOR];
    let mut ready = 0;
    let slots = headers
        .iter_mut()
        .zip(&mut vectors)
        .zip(&mut names)
        .zip(&mut controls);
    for (buffer, (((header, vector), name), control)) in batch.buffers().zip(slots) {
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
        // The buffers hold any datagram. Another address family cannot occur; port 0 then matches no peer.
        let remote = name.address().unwrap_or(SocketAddr::new(bound, 0));
        // SAFETY: the kernel filled the first `count` headers, and their control buffers live until the end of this function.
        let meta = unsafe { cmsg::read(&header.msg_hdr) };
        // A truncated datagram, or one with truncated control data, becomes empty and is counted as dropped later.
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

/// One message of sendmmsg: a single datagram, or equal datagrams for UDP_SEGMENT.
#[derive(Clone, Copy)]
pub(in crate::os) struct Outgoing<'a> {
    message: Message<'a>,
    packets: usize,
}

impl<'a> Outgoing<'a> {
    /// The message as one GSO send.
    pub(in crate::os) fn gso(message: Message<'a>) -> Outgoing<'a> {
        let packets = message.bytes.len().div_ceil(message.segment.max(1)).max(1);
        Outgoing { message, packets }
    }

    /// Its packets as single datagrams.
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

/// Sends messages in order and returns the number of packets sent, at least one.
pub(in crate::os) fn send<'a>(
    socket: &socket2::Socket,
    messages: impl Iterator<Item = Outgoing<'a>>,
) -> io::Result<usize> {
    // SAFETY: C structures of integers and pointers, for which zero is a value.
    let mut headers: [libc::mmsghdr; VECTOR] = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    let mut vectors: [libc::iovec; VECTOR] = unsafe { std::mem::zeroed() };
    let mut names = [SockAddr::EMPTY; VECTOR];
    let mut controls = [ControlBuf::EMPTY; VECTOR];
    let mut packets = [0; VECTOR];
    let mut messages = messages.peekable();
    let mut sent = 0;
    while messages.peek().is_some() {
        let mut ready = 0;
        let slots = headers
            .iter_mut()
            .zip(&mut vectors)
            .zip(&mut names)
            .zip(&mut controls)
            .zip(&mut packets);
        for (((((header, vector), name), control), count), outgoing) in slots.zip(&mut messages) {
            let Outgoing { message, packets } = outgoing;
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
    let mut attempts = 0;
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
        // ECONNREFUSED reports an ICMP error about an earlier datagram; this datagram was not sent yet.
        let earlier_error = error.raw_os_error() == Some(libc::ECONNREFUSED) && attempts < 8;
        attempts += 1;
        if !earlier_error && error.kind() != io::ErrorKind::Interrupted {
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
    fn e11_a_datagram_with_truncated_control_data_becomes_empty() {
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
        let datagram = batch.iter_mut().next().unwrap();
        assert_eq!((datagram.segment, datagram.bytes.len()), (300, 700));

        // A time stamp and the TTL of each datagram exceed the control buffer.
        sockopt::set_int(&b.socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1).unwrap();
        sockopt::set_int(&b.socket, libc::IPPROTO_IP, libc::IP_RECVTTL, 1).unwrap();
        assert_eq!(a.send(&out).unwrap(), 3);
        assert_eq!(b.recv(&mut batch).unwrap(), 1);
        assert!(batch.iter_mut().all(|datagram| datagram.bytes.is_empty()));
    }
}
