//! PacketOffload without hardware: a super-packet comes apart into segments, and a run of segments becomes a super-packet.
//!
//! A TUN device with `IFF_VNET_HDR` hands over and takes packets of up to 64 KiB, as the stack has them before a network card cuts
//! them. Cutting them here, between the read and the seal, spares a system call per packet; so does joining what has been opened
//! before it is written.
//!
//! ```text
//!   from the device:  | IP | TCP | payload of up to 64 KiB …………………………………… |     + PacketOffload::Gso { size: 1350, … }
//!        segments()                     │
//!                                       ▼
//!   to the peer:      | IP | TCP | 1350 |   | IP | TCP | 1350 |   …   | IP | TCP | rest |
//!
//!   from the peer:    | IP | TCP | 1350 |   | IP | TCP | 1350 |   …   | IP | TCP | rest |
//!        Coalescer                      │
//!                                       ▼
//!   to the device:    | IP | TCP | payload of up to 64 KiB …………………………………… |     + PacketOffload::Gso { size: 1350, … }
//! ```
//!
//! The rules are those that Linux has for generic segmentation and receive offload: what is joined comes apart again as it was.

mod coalesce;
mod gro_slot;
mod header_template;
mod offload;
mod split;

#[cfg(test)]
pub(crate) mod tests;

pub use coalesce::{Coalesced, Coalescer, UdpCoalescing};
pub use offload::{GsoKind, GsoPacket, PacketOffload, PartialChecksum};
pub use split::{Segment, Segments, segments};

use super::protocol::{TCP, UDP};

/// Octets in a TCP header without options, and where its fields are.
mod tcp {
    pub(super) const HEADER: usize = 20;
    pub(super) const SEQUENCE: usize = 4;
    pub(super) const ACKNOWLEDGMENT: usize = 8;
    /// Data offset (4 bits), reserved bits, flags.
    pub(super) const FLAGS: usize = 12;
    pub(super) const WINDOW: usize = 14;
    pub(super) const CHECKSUM: usize = 16;
    pub(super) const URGENT: usize = 18;

    pub(super) const FIN: u16 = 0x01;
    pub(super) const SYN: u16 = 0x02;
    pub(super) const RST: u16 = 0x04;
    pub(super) const PSH: u16 = 0x08;
    pub(super) const ACK: u16 = 0x10;
    pub(super) const URG: u16 = 0x20;
    pub(super) const CWR: u16 = 0x80;
}

/// Octets in a UDP header, and where its fields are.
mod udp {
    pub(super) const HEADER: usize = 8;
    pub(super) const LENGTH: usize = 4;
    pub(super) const CHECKSUM: usize = 6;
}

/// Octets in an IP header without options or extensions, and where its fields are.
mod ip {
    pub(super) const V4_HEADER: usize = 20;
    pub(super) const V4_LENGTH: usize = 2;
    pub(super) const V4_ID: usize = 4;
    pub(super) const V4_CHECKSUM: usize = 10;
    pub(super) const V6_HEADER: usize = 40;
    pub(super) const V6_LENGTH: usize = 4;
}

/// The number of 16 bits at `at`.
fn read(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The number of 32 bits at `at`.
fn read_long(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Writes octets at `at`, where there is room for them.
fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    if let Some(field) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *field = value;
    }
}

/// The length of the TCP header at the front of `segment`, options included; `None` if it is not all there.
fn tcp_header_len(segment: &[u8]) -> Option<usize> {
    let words = usize::from(segment.get(tcp::FLAGS)? >> 4);
    let length = words.saturating_mul(4);
    (tcp::HEADER..=segment.len())
        .contains(&length)
        .then_some(length)
}
