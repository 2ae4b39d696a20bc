//! Kernel offloads: many packets in one system call.
//!
//! ```text
//!             device                              socket
//!   egress    one read, a TCP or UDP GSO packet   UDP_SEGMENT: one send, many equal datagrams
//!   ingress   one write, a TCP or UDP GSO packet  UDP_GRO: one receive, many equal datagrams
//! ```
//!
//! Everything works without offloads, but slower: packets of an offload that the kernel or a device rejects are processed one by
//! one.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::net::segment::GsoKind;
use crate::net::{GsoSupport, ReceiveOffload, SendOffload};

/// Segmentation offload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffloadMode {
    /// Every offload that the kernel and the device support.
    Auto,
    /// None: single packets with complete checksums.
    Off,
}

/// Offloads of a UDP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOffload {
    /// Sending.
    pub send: SendOffload,
    /// Receiving.
    pub receive: ReceiveOffload,
}

impl SocketOffload {
    /// All offloads.
    pub const FULL: SocketOffload = SocketOffload {
        send: SendOffload::Segments,
        receive: ReceiveOffload::Joined,
    };

    /// No offload.
    pub const NONE: SocketOffload = SocketOffload {
        send: SendOffload::Single,
        receive: ReceiveOffload::Single,
    };

    /// Offloads that both have.
    #[must_use]
    pub fn and(self, other: SocketOffload) -> SocketOffload {
        SocketOffload {
            send: self.send.min(other.send),
            receive: self.receive.min(other.receive),
        }
    }
}

/// [`GsoSupport`] that any thread can read and reduce.
#[derive(Debug)]
pub(super) struct SharedGsoSupport(AtomicU8);

impl SharedGsoSupport {
    pub(super) fn new(gso: GsoSupport) -> SharedGsoSupport {
        SharedGsoSupport(AtomicU8::new(gso as u8))
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

    /// Atomic minimum, so that concurrent reductions by two workers both count, and nothing else is lost.
    pub(super) fn disable_gso(&self, kind: GsoKind) {
        let left = GsoSupport::TcpAndUdp.without(kind);
        self.0.fetch_min(left as u8, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_rejected_kind_is_disabled() {
        let support = SharedGsoSupport::new(GsoSupport::TcpAndUdp);
        assert_eq!(support.get(), GsoSupport::TcpAndUdp);
        for _ in 0..3 {
            support.disable_gso(GsoKind::Udp);
            assert_eq!(support.get(), GsoSupport::Tcp);
        }
        for kind in [GsoKind::TcpV6, GsoKind::Udp, GsoKind::TcpV4] {
            support.disable_gso(kind);
            assert_eq!(support.get(), GsoSupport::None);
        }
    }

    #[test]
    fn the_offloads_of_two_sockets_are_those_that_both_have() {
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
