//! What the kernel does for many packets at once, and what is left when it does not.
//!
//! ```text
//!              device                         socket
//!   out   one read, a TCP or UDP train        UDP_SEGMENT: one send, a train of datagrams
//!   in    one write, a TCP or UDP train       UDP_GRO: one receive, a train of datagrams
//! ```
//!
//! Everything works without any of it, only slower: what a kernel or a network card refuses is done packet by packet from then on.

use std::sync::atomic::{AtomicU8, Ordering};

/// How much of it is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offloading {
    /// Whatever the kernel grants.
    Auto,
    /// Nothing: every packet on its own, its checksum complete.
    Off,
}

/// What a UDP socket leaves to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOffload {
    /// On the way out.
    pub send: Sending,
    /// On the way in.
    pub receive: Receiving,
}

impl SocketOffload {
    /// Everything there is.
    pub const FULL: SocketOffload = SocketOffload {
        send: Sending::Segments,
        receive: Receiving::Joined,
    };

    /// Nothing.
    pub const NONE: SocketOffload = SocketOffload {
        send: Sending::Single,
        receive: Receiving::Single,
    };

    /// What both have.
    #[must_use]
    pub fn and(self, other: SocketOffload) -> SocketOffload {
        SocketOffload {
            send: self.send.min(other.send),
            receive: self.receive.min(other.receive),
        }
    }
}

/// How datagrams are handed to the kernel; the lesser first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sending {
    /// One by one, many in one system call.
    Single,
    /// Equal ones as one piece that the kernel or the network card cuts (`UDP_SEGMENT`).
    Segments,
}

/// How datagrams are taken from the kernel; the lesser first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Receiving {
    /// One by one, many in one system call.
    Single,
    /// Equal ones of one sender as one piece (`UDP_GRO`).
    Joined,
}

/// Super-packets that may be written to a device; the lesser first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Trains {
    /// None: every packet is written alone.
    None,
    /// TCP segments in a row.
    Tcp,
    /// Those, and datagrams in a row (Linux 6.2).
    TcpAndUdp,
}

impl Trains {
    /// One step down: a device that refuses datagrams in a row may still take TCP.
    #[must_use]
    pub fn fewer(self) -> Trains {
        match self {
            Trains::TcpAndUdp => Trains::Tcp,
            Trains::Tcp | Trains::None => Trains::None,
        }
    }
}

/// [`Trains`] that any thread may look at and lower.
#[derive(Debug)]
pub(super) struct Taken(AtomicU8);

impl Taken {
    pub(super) fn new(trains: Trains) -> Taken {
        Taken(AtomicU8::new(trains as u8))
    }

    pub(super) fn get(&self) -> Trains {
        const TCP: u8 = Trains::Tcp as u8;
        const TCP_AND_UDP: u8 = Trains::TcpAndUdp as u8;
        match self.0.load(Ordering::Relaxed) {
            TCP_AND_UDP => Trains::TcpAndUdp,
            TCP => Trains::Tcp,
            _ => Trains::None,
        }
    }

    pub(super) fn lower(&self) {
        self.0.store(self.get().fewer() as u8, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trains_are_given_up_step_by_step() {
        let taken = Taken::new(Trains::TcpAndUdp);
        assert_eq!(taken.get(), Trains::TcpAndUdp);
        for less in [Trains::Tcp, Trains::None, Trains::None] {
            taken.lower();
            assert_eq!(taken.get(), less);
        }
    }

    #[test]
    fn two_sockets_together_have_what_both_have() {
        let sends = SocketOffload {
            receive: Receiving::Single,
            ..SocketOffload::FULL
        };
        let receives = SocketOffload {
            send: Sending::Single,
            ..SocketOffload::FULL
        };
        assert_eq!(sends.and(SocketOffload::FULL), sends);
        assert_eq!(sends.and(receives), SocketOffload::NONE);
    }
}
