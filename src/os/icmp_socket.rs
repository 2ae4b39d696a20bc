//! Raw sockets that send ICMP errors. The kernel sets the source: this machine's address on the side of the receiver (RFC 1812 §4.3.2.4,
//! RFC 4443 §2.2).
//!
//! CAP_NET_RAW is necessary. Nothing is received: a filter drops all messages.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, SockFilter, Socket, Type};

/// Sockets of both families.
#[derive(Debug)]
pub struct IcmpSocket {
    v4: Socket,
    /// `None` without IPv6.
    v6: Option<Socket>,
}

impl IcmpSocket {
    /// Opens the sockets.
    ///
    /// # Errors
    /// CAP_NET_RAW is missing, or no descriptor is left.
    pub fn open() -> io::Result<IcmpSocket> {
        let v4 = open(Domain::IPV4, Protocol::ICMPV4)?;
        // RFC 1812 §4.3.2.5: internetwork control.
        v4.set_tos_v4(0xc0)?;
        Ok(IcmpSocket {
            v4,
            v6: open(Domain::IPV6, Protocol::ICMPV6).ok(),
        })
    }

    /// Sends a message without its IP header. The kernel computes the checksum of ICMPv6, which covers the source.
    ///
    /// # Errors
    /// No route to the receiver, no room in the socket, or no IPv6.
    pub fn send(&self, to: IpAddr, message: &[u8]) -> io::Result<()> {
        let socket = match to {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => self.v6.as_ref().ok_or(io::ErrorKind::Unsupported)?,
        };
        socket
            .send_to(message, &SocketAddr::new(to, 0).into())
            .map(drop)
    }
}

fn open(domain: Domain, protocol: Protocol) -> io::Result<Socket> {
    /// `BPF_RET | BPF_K`: accept no octet of a message.
    const DROP: SockFilter = SockFilter::new(0x06, 0, 0, 0);
    let socket = Socket::new(domain, Type::RAW.nonblocking().cloexec(), Some(protocol))?;
    socket.attach_filter(&[DROP])?;
    Ok(socket)
}
