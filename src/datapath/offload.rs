//! What the kernel does for many packets at once, over all devices and sockets.

use crate::os::{GsoSupport, SocketOffload};

/// The least of what all have, as things stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offload {
    /// Super-packets to and from the tunnels' devices.
    pub trains: GsoSupport,
    /// GsoSupport of datagrams to and from the peers.
    pub sockets: SocketOffload,
}

impl Offload {
    /// Everything there is.
    pub const FULL: Offload = Offload {
        trains: GsoSupport::TcpAndUdp,
        sockets: SocketOffload::FULL,
    };

    /// Nothing.
    pub const NONE: Offload = Offload {
        trains: GsoSupport::None,
        sockets: SocketOffload::NONE,
    };
}
