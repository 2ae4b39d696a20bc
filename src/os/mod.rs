//! Linux: the devices, sockets, routes and namespaces the rest of the program stands on. Unsafe code lives here only, each block
//! beside the reason why it is sound.
//!
//! The datapath sees Linux through two faces, both shaped for batches: [`Device`], one TUN queue, and [`Socket`], one UDP socket.
//! Both have twins in [`memory`], so that everything above this layer is tested without privileges.
//!
//! ```text
//!   Device::read  ─▶ ReadBatch  ─▶ (egress: check, seal)  ─▶ SendBatch ─▶ Socket::send
//!   Socket::recv  ─▶ RecvBatch  ─▶ (ingress: open, check) ─▶ OutPacket ─▶ Device::write
//! ```
//!
//! Batches own their buffers and are reused for ever: nothing is allocated per packet. Every face is non-blocking; a worker that
//! has nothing to do sleeps in [`poll::Waiter`].
//!
//! The shapes fit offloads: an [`InnerPacket`] and an [`OutPacket`] carry a [`VnetHeader`] and may be a 64 KiB super-packet, a
//! [`Datagram`] may be a train of equal segments (`UDP_GRO`), and a [`SendBatch`] lays packets to one peer side by side so that the
//! kernel takes many in one piece (`UDP_SEGMENT`). What the kernel refuses is done packet by packet.

pub mod async_fd;
mod batch;
pub mod clock;
pub mod cycles;
pub mod entropy;
pub mod memory;
pub mod netlink;
pub mod netns;
mod offload;
pub mod poll;
pub mod privileges;
pub mod process;
pub mod raw_esp;
mod send_error;
mod sockopt;
pub mod sysctl;
pub mod systemd;
pub mod timerfd;
pub mod tun;
pub mod udp;
pub mod udp_blast;
mod vnet;

pub use batch::{Datagram, InnerPacket, Message, ReadBatch, RecvBatch, SendBatch, Slot};
pub use offload::{OffloadMode, SocketOffload};
pub use send_error::SendError;
pub use vnet::VnetHeader;

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use crate::net::segment::GsoKind;

pub use crate::net::{GsoSupport, ReceiveOffload, SendOffload};

/// The largest packet IP can carry, and so the largest a device hands over or a super-packet can be.
pub const MAX_PACKET: usize = 65_535;

/// One queue of a TUN device.
pub trait Device: Send + Sync {
    /// Replaces the batch's content with up to a batch of packets and says how many there are, always at least one.
    ///
    /// # Errors
    /// `WouldBlock` when no packet waits, `NotConnected` when somebody has removed the device, for good. Any other error means that
    /// nothing was read; the device may still be good.
    fn read(&self, batch: &mut ReadBatch) -> io::Result<usize>;

    /// Writes packets in order and says how many were taken, always at least one of a non-empty slice.
    ///
    /// # Errors
    /// The first packet could not be written; it and the rest are still the caller's.
    fn write(&self, packets: &[OutPacket<'_>]) -> io::Result<usize>;

    /// Which super-packets it takes.
    fn gso_support(&self) -> GsoSupport;

    /// It has refused one of this kind: it gets fewer kinds of them from now on ([`GsoSupport::without`]).
    fn disable_gso(&self, kind: GsoKind);

    /// The descriptor to wait on: readable when [`Device::read`] has something.
    fn as_fd(&self) -> BorrowedFd<'_>;
}

/// One UDP socket, or one raw socket of ESP packets ([`raw_esp`]), unconnected: every datagram names its remote and its local
/// address.
pub trait Socket: Send + Sync {
    /// Replaces the batch's content with up to a batch of datagrams and says how many there are, always at least one.
    ///
    /// # Errors
    /// `WouldBlock` when no datagram waits. Any other error means that nothing was received; the socket is still good.
    fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize>;

    /// Sends the batch's packets in order and says how many the kernel took, always at least one of a non-empty batch.
    /// Go on with [`SendBatch::advance`].
    ///
    /// # Errors
    /// The first packet could not be sent: `WouldBlock` when the socket's buffer is full; [`SendError`] says whom else it is about, so
    /// that the caller may advance past it and those. What a peer or a router says by ICMP is never an error here: an
    /// unauthenticated packet ends nothing.
    fn send(&self, batch: &SendBatch) -> io::Result<usize>;

    /// What this socket leaves to the kernel as things stand: less than was asked for once the kernel has refused it.
    fn offload(&self) -> SocketOffload;

    /// The address and port this socket is bound to; port 0 where its protocol has none.
    fn local(&self) -> SocketAddr;

    /// The descriptor to wait on: readable when [`Socket::recv`] has something.
    fn as_fd(&self) -> BorrowedFd<'_>;
}

/// A packet on its way into a device: an offload header and the bytes. Of a coalesced super-packet these are one IP and TCP or UDP header
/// and all payloads behind it.
#[derive(Clone, Copy, Debug)]
pub struct OutPacket<'a> {
    /// What the kernel must still do to it: nothing, for a whole packet.
    pub vnet: VnetHeader,
    /// The IP packet.
    pub bytes: &'a [u8],
}

impl<'a> OutPacket<'a> {
    /// A complete packet with its checksums in place.
    pub fn whole(bytes: &'a [u8]) -> OutPacket<'a> {
        OutPacket {
            vnet: VnetHeader::NONE,
            bytes,
        }
    }
}
