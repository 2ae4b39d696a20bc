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

use crate::net::segment::GsoKind;
use crate::net::{GsoSupport, ReceiveOffload, SendOffload};

/// How much of it is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffloadMode {
    /// Whatever the kernel grants.
    Auto,
    /// Nothing: every packet on its own, its checksum complete.
    Off,
}

/// What a UDP socket leaves to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOffload {
    /// On the way out.
    pub send: SendOffload,
    /// On the way in.
    pub receive: ReceiveOffload,
}

impl SocketOffload {
    /// Everything there is.
    pub const FULL: SocketOffload = SocketOffload {
        send: SendOffload::Segments,
        receive: ReceiveOffload::Joined,
    };

    /// Nothing.
    pub const NONE: SocketOffload = SocketOffload {
        send: SendOffload::Single,
        receive: ReceiveOffload::Single,
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

/// [`GsoSupport`] that any thread may look at and lower.
#[derive(Debug)]
pub(super) struct SharedGsoSupport(AtomicU8);

impl SharedGsoSupport {
    pub(super) fn new(trains: GsoSupport) -> SharedGsoSupport {
        SharedGsoSupport(AtomicU8::new(trains as u8))
    }

    pub(super) fn get(&self) -> GsoSupport {
        const TCP: u8 = GsoSupport::Tcp as u8;
        const TCP_AND_UDP: u8 = GsoSupport::TcpAndUdp as u8;
        match self.0.load(Ordering::Relaxed) {
            TCP_AND_UDP => GsoSupport::TcpAndUdp,
            TCP => GsoSupport::Tcp,
            _ => GsoSupport::None,
        }
    }

    /// In one step, so that two workers that were refused at one moment lose what they were refused and no more.
    pub(super) fn disable_gso(&self, kind: GsoKind) {
        let left = GsoSupport::TcpAndUdp.without(kind);
        self.0.fetch_min(left as u8, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kind_that_was_refused_is_given_up_however_often() {
        let taken = SharedGsoSupport::new(GsoSupport::TcpAndUdp);
        assert_eq!(taken.get(), GsoSupport::TcpAndUdp);
        for _ in 0..3 {
            taken.disable_gso(GsoKind::Udp);
            assert_eq!(taken.get(), GsoSupport::Tcp);
        }
        for kind in [GsoKind::TcpV6, GsoKind::Udp, GsoKind::TcpV4] {
            taken.disable_gso(kind);
            assert_eq!(taken.get(), GsoSupport::None);
        }
    }

    #[test]
    fn two_sockets_together_have_what_both_have() {
        let sends = SocketOffload {
            receive: ReceiveOffload::Single,
            ..SocketOffload::FULL
        };
        let receives = SocketOffload {
            send: SendOffload::Single,
            ..SocketOffload::FULL
        };
        assert_eq!(sends.and(SocketOffload::FULL), sends);
        assert_eq!(sends.and(receives), SocketOffload::NONE);
    }
}
