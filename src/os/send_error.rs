//! Classification of send errors: which of the following packets would fail too.
//!
//! ```text
//!   EAGAIN, ENOBUFS, ENOMEM            NoBuffers      all
//!   ENETUNREACH, EHOSTUNREACH,         Unreachable    all with the same remote and local address
//!   ENETDOWN, EADDRNOTAVAIL,
//!   EINVAL, ENODEV
//!   EMSGSIZE                           TooLong        all that are at least as long
//!   EPERM and others                   ThisPacket     none: a firewall dropped this packet
//! ```
//!
//! `EINVAL` is the error for a local address that no longer exists (`IP_PKTINFO`), unless it is about a GSO send.

use std::io;

/// Packets that a send error affects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// All packets: the send buffer is full.
    NoBuffers,
    /// All packets to this peer from this local address.
    Unreachable,
    /// All packets of at least this length.
    TooLong,
    /// This packet only.
    ThisPacket,
}

impl SendError {
    /// Classifies an error of [`Socket::send`](super::Socket::send).
    #[cold]
    pub fn from(error: &io::Error) -> SendError {
        use io::ErrorKind::{
            AddrNotAvailable, HostUnreachable, InvalidInput, NetworkDown, NetworkUnreachable,
            OutOfMemory, WouldBlock,
        };
        match (error.kind(), error.raw_os_error()) {
            (WouldBlock | OutOfMemory, _) | (_, Some(libc::ENOBUFS)) => SendError::NoBuffers,
            (_, Some(libc::EMSGSIZE)) => SendError::TooLong,
            (NetworkUnreachable | HostUnreachable | NetworkDown, _)
            | (AddrNotAvailable | InvalidInput, _)
            | (_, Some(libc::ENODEV)) => SendError::Unreachable,
            _ => SendError::ThisPacket,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_classified_by_the_packets_they_affect() {
        for (number, expected) in [
            (libc::EAGAIN, SendError::NoBuffers),
            (libc::ENOBUFS, SendError::NoBuffers),
            (libc::ENOMEM, SendError::NoBuffers),
            (libc::ENETUNREACH, SendError::Unreachable),
            (libc::EHOSTUNREACH, SendError::Unreachable),
            (libc::ENETDOWN, SendError::Unreachable),
            (libc::EADDRNOTAVAIL, SendError::Unreachable),
            (libc::EINVAL, SendError::Unreachable),
            (libc::ENODEV, SendError::Unreachable),
            (libc::EMSGSIZE, SendError::TooLong),
            (libc::EPERM, SendError::ThisPacket),
            (libc::EACCES, SendError::ThisPacket),
            (libc::ECONNREFUSED, SendError::ThisPacket),
        ] {
            let error = io::Error::from_raw_os_error(number);
            assert_eq!(SendError::from(&error), expected, "{error}");
        }
    }
}
