//! Software segmentation and coalescing: GSO packets are split into segments, and segments are joined into GSO packets.
//!
//! A TUN device with `IFF_VNET_HDR` reads and writes packets of up to 64 KiB, as the network stack has them before a network card
//! segments them. Segmentation between read and seal saves a system call per packet, and so does coalescing of opened packets
//! before the write.
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
//! The rules are those of Linux GSO and GRO: joined packets are split again into the same packets.

mod coalesce;
mod gro_slot;
mod header_template;
mod offload;
mod split;

#[cfg(test)]
pub(crate) mod tests;

pub use coalesce::Coalescer;
pub use offload::{Coalesced, GsoKind, GsoPacket, PacketOffload, PartialChecksum, UdpCoalescing};
pub use split::{Segment, Segments, segments};

use super::protocol::{TCP, UDP};

/// TCP header: length without options, field offsets, flags.
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

/// UDP header: length, field offsets.
mod udp {
    pub(super) const HEADER: usize = 8;
    pub(super) const LENGTH: usize = 4;
    pub(super) const CHECKSUM: usize = 6;
}

/// IP headers: lengths without options and extensions, field offsets.
mod ip {
    pub(super) const V4_HEADER: usize = 20;
    pub(super) const V4_LENGTH: usize = 2;
    pub(super) const V4_ID: usize = 4;
    pub(super) const V4_CHECKSUM: usize = 10;
    pub(super) const V6_HEADER: usize = 40;
    pub(super) const V6_LENGTH: usize = 4;
}

/// 16-bit number at `at`.
fn read(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// 32-bit number at `at`.
fn read_long(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Writes octets at `at`, if they fit.
fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    if let Some(field) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *field = value;
    }
}

/// Length of the TCP header at the front of `segment`, with options; `None` if truncated.
fn tcp_header_len(segment: &[u8]) -> Option<usize> {
    let words = usize::from(segment.get(tcp::FLAGS)? >> 4);
    let length = words.saturating_mul(4);
    (tcp::HEADER..=segment.len())
        .contains(&length)
        .then_some(length)
}
