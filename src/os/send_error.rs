//! What a packet that could not be sent says about those behind it.
//!
//! ```text
//!   EAGAIN, ENOBUFS, ENOMEM            no room        the others find none either
//!   ENETUNREACH, EHOSTUNREACH,         no way         to this peer from this address, for the others neither: a call each would
//!   ENETDOWN, EADDRNOTAVAIL, EINVAL                   only burn the core
//!   EMSGSIZE                           too long       others as long are, too; a shorter one may pass
//!   EPERM and what else there is       it alone       a firewall has looked at this one
//! ```
//!
//! `EINVAL` is what an address of ours that has gone looks like (`IP_PKTINFO`), once it is known not to be about a train.

use std::io;

/// Which packets share the fate of the one that was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// All: there is no room.
    NoBuffers,
    /// All to this peer from this address.
    Unreachable,
    /// Those as long.
    TooLong,
    /// None, as far as one can tell.
    ThisPacket,
}

impl SendError {
    /// What this error of [`Socket::send`](super::Socket::send) means.
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
    fn every_error_says_whom_else_it_is_about() {
        for (number, unsent) in [
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
            assert_eq!(SendError::from(&error), unsent, "{error}");
        }
    }
}
