//! What the kernel does for many packets at once, and what is left when it does not.
//!
//! ```text
//!              device                         socket
//!   out   one read, a TCP or UDP train        UDP_SEGMENT: one send, a train of datagrams
//!   in    one write, a TCP or UDP train       UDP_GRO: one receive, a train of datagrams
//! ```
//!
//! Everything works without any of it, only slower: what a kernel or a network card refuses is done packet by packet from then on.

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

/// What a TUN device takes and gives in one piece; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum DeviceOffload {
    /// Complete packets.
    None,
    /// Packets whose transport checksum is left to the other side.
    Checksum,
    /// Trains of TCP segments, with ECN or without.
    Tcp,
    /// And of UDP datagrams (Linux 6.2).
    TcpAndUdp,
}

impl DeviceOffload {
    /// All, the lesser first.
    pub const ALL: [DeviceOffload; 4] = [
        DeviceOffload::None,
        DeviceOffload::Checksum,
        DeviceOffload::Tcp,
        DeviceOffload::TcpAndUdp,
    ];
}
