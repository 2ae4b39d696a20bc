//! A raw socket for native ESP: IP protocol 50, without the UDP header (RFC 4303 §2).
//!
//! ```text
//!   IPv4   the kernel hands over   │ IP header 20…60 │ SPI │ sequence │ …     the header is cut off here
//!   IPv6                           │ SPI │ sequence │ …
//!   sending, both                  │ SPI │ sequence │ …                       the kernel writes the header
//! ```
//!
//! To the rest of the program it is a [`Socket`] like UDP's: unconnected, told which of our addresses a packet came to, and with the
//! same policy for packets that are too large. The protocol has no ports, so port 0 stands for them. The kernel reassembles before it
//! hands over. While such a socket is open, the kernel does not answer protocol 50 with ICMP "protocol unreachable".
//!
//! Opening one takes CAP_NET_RAW, which is why it is opened only where a tunnel may need it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, Protocol, Type};

use super::udp::{self, BindError, mmsg};
use super::{RecvBatch, SendBatch, Socket, SocketOffload};
use crate::net::protocol::ESP;

/// A raw socket that sends and receives ESP packets.
#[derive(Debug)]
pub struct RawEspSocket {
    socket: socket2::Socket,
    address: IpAddr,
}

impl RawEspSocket {
    /// A socket at `address`; an unspecified one stands for every address of its family.
    ///
    /// # Errors
    /// [`BindError::NoRawSockets`] without CAP_NET_RAW, [`BindError::AddressNotHere`] for somebody else's address.
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
        socket
            .bind(&bound.into())
            .map_err(|error| match error.kind() {
                io::ErrorKind::AddrNotAvailable => BindError::AddressNotHere { address },
                _ => io("binding the raw socket")(error),
            })?;
        Ok(RawEspSocket { socket, address })
    }
}

impl Socket for RawEspSocket {
    fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        let count = udp::receive(&self.socket, self.address, batch)?;
        match self.address {
            IpAddr::V4(_) => batch.strip_headers(ipv4_header),
            IpAddr::V6(_) => {}
        }
        Ok(count)
    }

    fn send(&self, batch: &SendBatch) -> io::Result<usize> {
        let pieces = batch.messages().flat_map(mmsg::Outgoing::singles);
        mmsg::send(&self.socket, pieces)
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

/// The length of the IPv4 header that a packet begins with. The kernel has checked it; what does not add up all the same is nothing.
fn ipv4_header(packet: &[u8]) -> Option<usize> {
    let first = *packet.first()?;
    let words = usize::from(first & 0x0f);
    (first >> 4 == 4 && words >= 5).then_some(words * 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_of_any_length_is_measured_and_nonsense_is_none() {
        assert_eq!(ipv4_header(&[0x45; 20]), Some(20));
        assert_eq!(ipv4_header(&[0x4f; 60]), Some(60));
        for nonsense in [&[][..], &[0x44; 20], &[0x40; 20], &[0x65; 40], &[0x05; 20]] {
            assert_eq!(ipv4_header(nonsense), None, "{nonsense:02x?}");
        }
    }

    #[test]
    fn a_header_that_is_cut_short_leaves_nothing() {
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
    fn the_missing_privilege_is_named() {
        let said = BindError::NoRawSockets.to_string();
        assert!(
            said.contains("CAP_NET_RAW") && said.contains("encapsulation"),
            "{said}"
        );
    }
}
