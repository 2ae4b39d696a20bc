//! Outer headers of received ESP packets.

use std::net::SocketAddr;

/// What counts of a datagram's outer headers.
#[derive(Clone, Copy)]
pub(super) struct OuterMeta {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    /// TOS or traffic class.
    pub(super) class: u8,
}
