//! Raw socket for native ESP: IP protocol 50 without a UDP header (RFC 4303 §2).
//!
//! ```text
//!   receive IPv4   │ IP header 20…60 │ SPI │ sequence │ …     the header is removed here
//!   receive IPv6   │ SPI │ sequence │ …
//!   send, both     │ SPI │ sequence │ …                       the kernel adds the header
//! ```
//!
//! It implements [`Socket`] like a UDP socket: unconnected, with the local address of each packet (`IP_PKTINFO`), and the same
//! fragmentation policy. Port 0 stands for the missing port. The kernel reassembles fragments. While such a socket is open, the
//! kernel does not answer protocol 50 with ICMP "protocol unreachable".
//!
//! CAP_NET_RAW is necessary, so the socket is opened only if a tunnel may need it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sys::socket::{MsgFlags, recv};
use socket2::{Domain, Protocol, Type};

use super::udp::{self, BindError, mmsg};
use super::{RecvBatch, SendBatch, Socket, SocketOffload, sockopt};
use crate::net::protocol::ESP;

/// Raw socket for ESP packets.
#[derive(Debug)]
pub struct RawEspSocket {
    socket: socket2::Socket,
    address: IpAddr,
}

impl RawEspSocket {
    /// Opens a socket at `address`; the unspecified address stands for every address of its family.
    ///
    /// # Errors
    /// [`BindError::NoRawSockets`] without CAP_NET_RAW, [`BindError::AddressNotHere`] if no interface has the address.
    pub fn open(address: IpAddr) -> Result<RawEspSocket, BindError> {
        let io = |step: &'static str| move |error: io::Error| BindError::Io { step, error };
        let bound = SocketAddr::new(address, 0);
        let socket = socket2::Socket::new(
            Domain::for_address(bound),
            Type::RAW.nonblocking().cloexec(),
            Some(Protocol::from(i32::from(ESP))),
        )
        .map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => BindError::NoRawSockets,
            _ => io("creating a raw socket for IP protocol 50")(error),
        })?;
        udp::prepare(&socket, bound)?;
        if address.is_ipv6() {
            // Without it the kernel ignores "packet too big" for an unconnected raw socket, and IPv6 routers do not fragment.
            sockopt::set_int(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)
                .map_err(io("requesting ICMPv6 errors"))?;
        }
        socket
            .bind(&bound.into())
            .map_err(|error| match error.kind() {
                io::ErrorKind::AddrNotAvailable => BindError::AddressNotHere { address },
                _ => io("binding the raw socket")(error),
            })?;
        Ok(RawEspSocket { socket, address })
    }
}

/// Upper bound on the attempts to send while ICMP errors arrive.
const MAX_ATTEMPTS: u32 = 8;

/// Upper bound on the ICMP errors discarded at once; an error that is left makes the socket readable again.
const MAX_ICMP_ERRORS: usize = 256;

impl RawEspSocket {
    /// Empties the error queue, since the kernel has already taken from an ICMP error what it says about the path. Returns whether there
    /// was an error.
    fn discard_icmp_errors(&self) -> bool {
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let discard = || recv(self.socket.as_raw_fd(), &mut [0; 1], flags).is_ok();
        self.address.is_ipv6() && (0..MAX_ICMP_ERRORS).take_while(|_| discard()).count() > 0
    }
}

impl Socket for RawEspSocket {
    fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        let received = udp::receive(&self.socket, self.address, batch);
        let count = received.map_err(|error| match self.discard_icmp_errors() {
            // Datagrams that wait make the socket readable again.
            true => io::ErrorKind::WouldBlock.into(),
            false => error,
        })?;
        match self.address {
            IpAddr::V4(_) => batch.strip_headers(ipv4_header),
            IpAddr::V6(_) => {}
        }
        Ok(count)
    }

    fn send(&self, batch: &SendBatch) -> io::Result<usize> {
        let mut attempts = 0;
        loop {
            let packets = batch.messages().flat_map(mmsg::Outgoing::singles);
            match mmsg::send(&self.socket, packets) {
                // The error of an ICMP message about an earlier packet: this one was not sent yet.
                Err(_) if attempts < MAX_ATTEMPTS && self.discard_icmp_errors() => attempts += 1,
                result => return result,
            }
        }
    }

    fn offload(&self) -> SocketOffload {
        SocketOffload::NONE
    }

    fn local(&self) -> SocketAddr {
        SocketAddr::new(self.address, 0)
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Length of the IPv4 header in front of a packet; `None` if it is invalid.
fn ipv4_header(packet: &[u8]) -> Option<usize> {
    let first = *packet.first()?;
    let words = usize::from(first & 0x0f);
    (first >> 4 == 4 && words >= 5).then_some(words * 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ipv4_header_length_is_read_and_checked() {
        assert_eq!(ipv4_header(&[0x45; 20]), Some(20));
        assert_eq!(ipv4_header(&[0x4f; 60]), Some(60));
        for invalid in [&[][..], &[0x44; 20], &[0x40; 20], &[0x65; 40], &[0x05; 20]] {
            assert_eq!(ipv4_header(invalid), None, "{invalid:02x?}");
        }
    }

    #[test]
    fn a_truncated_ipv4_header_leaves_an_empty_datagram() {
        let address = IpAddr::from([192, 0, 2, 1]);
        let mut batch = RecvBatch::with_limit(3);
        batch.buffers().for_each(|buffer| buffer[..4].fill(0x46));
        for len in [0, 19, 23] {
            batch.add(SocketAddr::new(address, 0), address, 0, 0, len);
        }
        batch.strip_headers(ipv4_header);
        assert!(batch.iter_mut().all(|datagram| datagram.bytes.is_empty()));
    }

    #[test]
    fn the_error_names_the_missing_capability() {
        let text = BindError::NoRawSockets.to_string();
        assert!(
            text.contains("CAP_NET_RAW") && text.contains("encapsulation"),
            "{text}"
        );
    }
}
