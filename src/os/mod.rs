//! Linux interfaces: devices, sockets, routes and namespaces. Only this module and `crypto::lanes` contain `unsafe` code; each
//! block states why it is sound.
//!
//! The datapath uses two traits, both with batches: [`Device`], one TUN queue, and [`Socket`], one UDP or raw socket. [`memory`]
//! implements both in memory, so that the layers above are tested without privileges.
//!
//! ```text
//!   Device::read  ─▶ ReadBatch  ─▶ (egress: check, seal)  ─▶ SendBatch ─▶ Socket::send
//!   Socket::recv  ─▶ RecvBatch  ─▶ (ingress: open, check) ─▶ OutPacket ─▶ Device::write
//! ```
//!
//! Batches own their buffers and are reused, so no packet costs an allocation. All calls are non-blocking; an idle worker sleeps
//! in [`poll::Waiter`].
//!
//! Offloads: an [`InnerPacket`] or [`OutPacket`] carries a [`VnetHeader`] and can be a GSO packet of up to 64 KiB; a [`Datagram`]
//! can be several datagrams of equal size joined by GRO (`UDP_GRO`); a [`SendBatch`] stores packets for one peer contiguously, so
//! that one system call sends many (`UDP_SEGMENT`). Packets of an offload that the kernel rejects are processed one by one.

pub mod async_fd;
mod batch;
pub mod clock;
pub mod entropy;
pub mod icmp_socket;
pub mod memory;
pub mod namespace_lock;
pub mod netlink;
pub mod netns;
mod offload;
pub mod poll;
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
pub mod user;
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

/// Maximum size of an IP packet, and so of a GSO packet.
pub const MAX_PACKET: usize = 65_535;

/// One queue of a TUN device.
pub trait Device: Send + Sync {
    /// Replaces the content of the batch with the packets that wait and returns their number, at least 1.
    ///
    /// # Errors
    /// `WouldBlock`: no packet waits. `NotConnected`: the device was deleted. After any other error nothing was read; the device
    /// may still work.
    fn read(&self, batch: &mut ReadBatch) -> io::Result<usize>;

    /// Writes packets in order and returns how many the device took, at least 1 of a non-empty slice.
    ///
    /// # Errors
    /// The first packet could not be written; no packet was taken.
    fn write(&self, packets: &[OutPacket<'_>]) -> io::Result<usize>;

    /// GSO packets that the device accepts.
    fn gso_support(&self) -> GsoSupport;

    /// Reduces the support after the device rejected a GSO packet of this kind ([`GsoSupport::without`]).
    fn disable_gso(&self, kind: GsoKind);

    /// Descriptor that becomes readable when [`Device::read`] has packets.
    fn as_fd(&self) -> BorrowedFd<'_>;
}

/// One UDP socket, or one raw socket for ESP packets ([`raw_esp`]). Sockets are unconnected: each datagram carries its remote and
/// local address.
pub trait Socket: Send + Sync {
    /// Replaces the content of the batch with the datagrams that wait and returns their number, at least 1.
    ///
    /// # Errors
    /// `WouldBlock`: no datagram waits. After any other error nothing was received; the socket still works.
    fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize>;

    /// Sends the packets of the batch in order and returns how many the kernel took, at least 1 of a non-empty batch.
    /// [`SendBatch::advance`] removes them.
    ///
    /// # Errors
    /// The first packet could not be sent. [`SendError`] states which other packets would fail too, so that the caller can skip
    /// them. ICMP messages are never errors here, since they are not authenticated.
    fn send(&self, batch: &SendBatch) -> io::Result<usize>;

    /// Offloads in use: fewer than requested once the kernel has rejected one.
    fn offload(&self) -> SocketOffload;

    /// Bound address and port; port 0 for a protocol without ports.
    fn local(&self) -> SocketAddr;

    /// Descriptor that becomes readable when [`Socket::recv`] has datagrams.
    fn as_fd(&self) -> BorrowedFd<'_>;
}

/// Packet to write to a device: a virtio-net header and the bytes. A GSO packet has one IP and one TCP or UDP header, followed by
/// all payloads.
#[derive(Clone, Copy, Debug)]
pub struct OutPacket<'a> {
    /// Offloads that the packet needs: none for a complete packet.
    pub vnet: VnetHeader,
    /// IP packet.
    pub bytes: &'a [u8],
}

impl<'a> OutPacket<'a> {
    /// Complete packet with checksums.
    pub fn whole(bytes: &'a [u8]) -> OutPacket<'a> {
        OutPacket {
            vnet: VnetHeader::NONE,
            bytes,
        }
    }
}
