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
pub enum Unsent {
    /// All: there is no room.
    NoRoom,
    /// All to this peer from this address.
    NoWay,
    /// Those as long.
    TooLong,
    /// None, as far as one can tell.
    Alone,
}

impl Unsent {
    /// What this error of [`Socket::send`](super::Socket::send) means.
    #[cold]
    pub fn from(error: &io::Error) -> Unsent {
        use io::ErrorKind::{
            AddrNotAvailable, HostUnreachable, InvalidInput, NetworkDown, NetworkUnreachable,
            OutOfMemory, WouldBlock,
        };
        match (error.kind(), error.raw_os_error()) {
            (WouldBlock | OutOfMemory, _) | (_, Some(libc::ENOBUFS)) => Unsent::NoRoom,
            (_, Some(libc::EMSGSIZE)) => Unsent::TooLong,
            (NetworkUnreachable | HostUnreachable | NetworkDown, _)
            | (AddrNotAvailable | InvalidInput, _)
            | (_, Some(libc::ENODEV)) => Unsent::NoWay,
            _ => Unsent::Alone,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_says_whom_else_it_is_about() {
        for (number, unsent) in [
            (libc::EAGAIN, Unsent::NoRoom),
            (libc::ENOBUFS, Unsent::NoRoom),
            (libc::ENOMEM, Unsent::NoRoom),
            (libc::ENETUNREACH, Unsent::NoWay),
            (libc::EHOSTUNREACH, Unsent::NoWay),
            (libc::ENETDOWN, Unsent::NoWay),
            (libc::EADDRNOTAVAIL, Unsent::NoWay),
            (libc::EINVAL, Unsent::NoWay),
            (libc::ENODEV, Unsent::NoWay),
            (libc::EMSGSIZE, Unsent::TooLong),
            (libc::EPERM, Unsent::Alone),
            (libc::EACCES, Unsent::Alone),
            (libc::ECONNREFUSED, Unsent::Alone),
        ] {
            let error = io::Error::from_raw_os_error(number);
            assert_eq!(Unsent::from(&error), unsent, "{error}");
        }
    }
}
