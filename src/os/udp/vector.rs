//! Many datagrams per system call: `recvmmsg` and `sendmmsg`.
//!
//! ```text
//!   mmsghdr ─┬─▶ name     the peer's address
//!            ├─▶ iovec ─▶ the datagram, where the batch has it
//!            └─▶ control  the address of ours and the traffic class
//! ```

#![allow(unsafe_code, reason = "recvmmsg and sendmmsg with ancillary data")]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use socket2::SockAddr;

use super::super::{Message, RecvBatch};
use super::control::{self, Control};

/// Datagrams per system call.
const VECTOR: usize = RecvBatch::DATAGRAMS;

/// Fills the batch with what waits, without waiting.
pub(super) fn receive(
    socket: &socket2::Socket,
    bound: IpAddr,
    batch: &mut RecvBatch,
) -> io::Result<usize> {
    // SAFETY: all of these are C structures of integers and pointers, for which zero is a value.
    let mut headers: [libc::mmsghdr; VECTOR] = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    let mut vectors: [libc::iovec; VECTOR] = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    let mut names: [libc::sockaddr_in6; VECTOR] = unsafe { std::mem::zeroed() };
    let mut controls = [Control::EMPTY; VECTOR];
    let mut ready = 0;
    let places = headers
        .iter_mut()
        .zip(&mut vectors)
        .zip(&mut names)
        .zip(&mut controls);
    for (buffer, (((header, vector), name), control)) in batch.buffers().zip(places) {
        vector.iov_base = buffer.as_mut_ptr().cast();
        vector.iov_len = buffer.len();
        header.msg_hdr.msg_name = (&raw mut *name).cast();
        header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
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
        let remote = socket_address(name).unwrap_or(SocketAddr::new(bound, 0));
        // SAFETY: the kernel has filled in the first `count` headers, and their blocks live until the end of this function.
        let told = unsafe { control::read(&header.msg_hdr) };
        batch.add(
            remote,
            told.local.unwrap_or(bound),
            told.class,
            0,
            header.msg_len as usize,
        );
    }
    Ok(batch.len())
}

fn socket_address(name: &libc::sockaddr_in6) -> Option<SocketAddr> {
    match libc::c_int::from(name.sin6_family) {
        libc::AF_INET6 => {
            let address = IpAddr::from(name.sin6_addr.s6_addr);
            Some(match address {
                IpAddr::V6(v6) if v6.is_unicast_link_local() => std::net::SocketAddrV6::new(
                    v6,
                    u16::from_be(name.sin6_port),
                    0,
                    name.sin6_scope_id,
                )
                .into(),
                IpAddr::V4(_) | IpAddr::V6(_) => {
                    SocketAddr::new(address, u16::from_be(name.sin6_port))
                }
            })
        }
        libc::AF_INET => {
            // SAFETY: the family says that the kernel wrote a sockaddr_in, which is smaller than a sockaddr_in6 and no more aligned.
            let v4 = unsafe { &*(&raw const *name).cast::<libc::sockaddr_in>() };
            Some(SocketAddr::new(
                IpAddr::from(v4.sin_addr.s_addr.to_ne_bytes()),
                u16::from_be(v4.sin_port),
            ))
        }
        _ => None,
    }
}

/// Sends the packets of one message; says how many have left, at least one.
pub(super) fn send(socket: &socket2::Socket, message: &Message<'_>) -> io::Result<usize> {
    let mut control = Control::EMPTY;
    let described = control.describe(message);
    let name = SockAddr::from(message.remote);
    // SAFETY: C structures of integers and pointers, for which zero is a value.
    let mut headers: [libc::mmsghdr; VECTOR] = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    let mut vectors: [libc::iovec; VECTOR] = unsafe { std::mem::zeroed() };
    let mut sent = 0;
    let mut packets = message.packets().peekable();
    while packets.peek().is_some() {
        let mut ready = 0;
        for ((header, vector), packet) in headers.iter_mut().zip(&mut vectors).zip(&mut packets) {
            // The kernel only reads through these pointers.
            vector.iov_base = packet.as_ptr().cast_mut().cast();
            vector.iov_len = packet.len();
            header.msg_hdr.msg_name = name.as_ptr().cast_mut().cast();
            header.msg_hdr.msg_namelen = name.len();
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            control.offer(&mut header.msg_hdr);
            header.msg_hdr.msg_controllen = described;
            ready += 1;
            if ready as usize == VECTOR {
                break;
            }
        }
        match send_vector(socket, &mut headers, ready) {
            Ok(count) => {
                sent += count;
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
        // SAFETY: the first `ready` headers point at packets, a name and a control block that outlive the call.
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
