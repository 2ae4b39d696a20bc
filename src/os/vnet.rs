//! virtio-net header in front of every packet of a TUN queue with `IFF_VNET_HDR` (`struct virtio_net_hdr`, native byte order).
//!
//! ```text
//!  0        1          2          4           6            8             10
//!  ├ flags ─┼ gso type ┼ hdr len ─┼ gso size ─┼ csum start ┼ csum offset ┤ IP packet…
//! ```

use std::num::NonZeroU16;

use crate::net::DropReason;
use crate::net::segment::{GsoKind, GsoPacket, PacketOffload, PartialChecksum};

/// Offloads of one packet: read, those that the kernel leaves to us; written, those that we leave to the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// [`VnetHeader::NEEDS_CHECKSUM`] and [`VnetHeader::CHECKSUM_VALID`].
    pub flags: u8,
    /// Kind of GSO packet; [`VnetHeader::GSO_NONE`] for a single packet.
    pub gso_type: u8,
    /// Length of the headers that every segment repeats.
    pub header_len: u16,
    /// Payload octets of each segment except the last.
    pub gso_size: u16,
    /// Offset where the transport checksum starts.
    pub checksum_start: u16,
    /// Offset of the checksum field from there.
    pub checksum_offset: u16,
}

impl VnetHeader {
    /// Octets on the queue.
    pub const LEN: usize = 10;
    /// Header of a complete single packet.
    pub const NONE: VnetHeader = VnetHeader {
        flags: 0,
        gso_type: 0,
        header_len: 0,
        gso_size: 0,
        checksum_start: 0,
        checksum_offset: 0,
    };

    /// Flag: the checksum field contains the pseudo-header sum only.
    pub const NEEDS_CHECKSUM: u8 = 1;
    /// Flag: the kernel has verified the checksum.
    pub const CHECKSUM_VALID: u8 = 2;
    /// Type: single packet.
    pub const GSO_NONE: u8 = 0;
    /// Type: TCP over IPv4.
    pub const GSO_TCPV4: u8 = 1;
    /// Type: TCP over IPv6.
    pub const GSO_TCPV6: u8 = 4;
    /// Type: UDP over IPv4 or IPv6, segmented into datagrams.
    pub const GSO_UDP_L4: u8 = 5;
    /// Flag beside a TCP type: the flow uses ECN.
    pub const GSO_ECN: u8 = 0x80;

    /// Splits the header off a packet read from the queue; `None` if truncated.
    pub fn split(bytes: &[u8]) -> Option<(VnetHeader, &[u8])> {
        let (head, packet) = bytes.split_first_chunk::<{ VnetHeader::LEN }>()?;
        let [flags, gso_type, a, b, c, d, e, f, g, h] = *head;
        let header = VnetHeader {
            flags,
            gso_type,
            header_len: u16::from_ne_bytes([a, b]),
            gso_size: u16::from_ne_bytes([c, d]),
            checksum_start: u16::from_ne_bytes([e, f]),
            checksum_offset: u16::from_ne_bytes([g, h]),
        };
        Some((header, packet))
    }

    /// Encodes the header.
    pub fn to_bytes(self) -> [u8; VnetHeader::LEN] {
        let [a, b] = self.header_len.to_ne_bytes();
        let [c, d] = self.gso_size.to_ne_bytes();
        let [e, f] = self.checksum_start.to_ne_bytes();
        let [g, h] = self.checksum_offset.to_ne_bytes();
        [self.flags, self.gso_type, a, b, c, d, e, f, g, h]
    }

    /// Converts the header to the types of [`segment`](crate::net::segment).
    ///
    /// # Errors
    /// [`DropReason::Malformed`]: an unknown GSO type, or segments without payload.
    pub fn offload(self) -> Result<PacketOffload, DropReason> {
        let partial = self.needs_checksum().then_some(PartialChecksum {
            start: self.checksum_start,
            offset: self.checksum_offset,
        });
        let kind = match self.gso_type & !Self::GSO_ECN {
            Self::GSO_NONE if self.gso_type == Self::GSO_NONE => {
                return Ok(partial.map_or(PacketOffload::None, PacketOffload::Checksum));
            }
            Self::GSO_TCPV4 => GsoKind::TcpV4,
            Self::GSO_TCPV6 => GsoKind::TcpV6,
            Self::GSO_UDP_L4 => GsoKind::Udp,
            _ => return Err(DropReason::Malformed),
        };
        Ok(PacketOffload::Gso(GsoPacket {
            kind,
            size: NonZeroU16::new(self.gso_size).ok_or(DropReason::Malformed)?,
            header_len: self.header_len,
            partial,
            ecn: self.gso_type & Self::GSO_ECN != 0,
        }))
    }

    /// Whether the packet is a GSO packet.
    pub fn is_gso(self) -> bool {
        self.gso_type & !Self::GSO_ECN != Self::GSO_NONE
    }

    /// Whether the transport checksum is partial.
    pub fn needs_checksum(self) -> bool {
        self.flags & Self::NEEDS_CHECKSUM != 0
    }
}

impl From<PacketOffload> for VnetHeader {
    fn from(offload: PacketOffload) -> VnetHeader {
        let with = |partial: Option<PartialChecksum>| match partial {
            None => VnetHeader::NONE,
            Some(PartialChecksum { start, offset }) => VnetHeader {
                flags: VnetHeader::NEEDS_CHECKSUM,
                checksum_start: start,
                checksum_offset: offset,
                ..VnetHeader::NONE
            },
        };
        match offload {
            PacketOffload::None => VnetHeader::NONE,
            PacketOffload::Checksum(partial) => with(Some(partial)),
            PacketOffload::Gso(gso) => {
                let kind = match gso.kind {
                    GsoKind::TcpV4 => VnetHeader::GSO_TCPV4,
                    GsoKind::TcpV6 => VnetHeader::GSO_TCPV6,
                    GsoKind::Udp => VnetHeader::GSO_UDP_L4,
                };
                let ecn = if gso.ecn { VnetHeader::GSO_ECN } else { 0 };
                VnetHeader {
                    gso_type: kind | ecn,
                    header_len: gso.header_len,
                    gso_size: gso.size.get(),
                    ..with(gso.partial)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_round_trips() {
        let header = VnetHeader {
            flags: VnetHeader::NEEDS_CHECKSUM,
            gso_type: VnetHeader::GSO_TCPV4 | VnetHeader::GSO_ECN,
            header_len: 40,
            gso_size: 1448,
            checksum_start: 20,
            checksum_offset: 16,
        };
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend_from_slice(b"packet");
        assert_eq!(VnetHeader::split(&bytes), Some((header, &b"packet"[..])));
        assert!(header.is_gso() && header.needs_checksum());
    }

    #[test]
    fn a_truncated_header_is_rejected() {
        assert_eq!(VnetHeader::split(&[0; VnetHeader::LEN - 1]), None);
        assert_eq!(
            VnetHeader::split(&[0; VnetHeader::LEN]),
            Some((VnetHeader::NONE, &[][..]))
        );
    }

    #[test]
    fn offloads_round_trip_through_the_header() {
        for (flags, gso_type, header_len, gso_size) in [
            (0, VnetHeader::GSO_NONE, 0, 0),
            (1, VnetHeader::GSO_NONE, 0, 0),
            (1, VnetHeader::GSO_TCPV4, 52, 1448),
            (0, VnetHeader::GSO_TCPV4, 52, 1448),
            (1, VnetHeader::GSO_TCPV6 | VnetHeader::GSO_ECN, 72, 1428),
            (1, VnetHeader::GSO_UDP_L4, 28, 1300),
        ] {
            let needs = VnetHeader {
                flags,
                gso_type,
                header_len,
                gso_size,
                checksum_start: 20 * u16::from(flags),
                checksum_offset: 6 * u16::from(flags),
            };
            assert_eq!(needs.offload().map(VnetHeader::from), Ok(needs));
        }
        let verified = VnetHeader {
            flags: VnetHeader::CHECKSUM_VALID,
            ..VnetHeader::NONE
        };
        assert_eq!(verified.offload(), Ok(PacketOffload::None));
    }

    #[test]
    fn e11_an_unknown_gso_type_or_size_zero_is_malformed() {
        // IP fragments of UDP (`GSO_UDP`) are not requested, and ECN is a flag of TCP only.
        for (gso_type, gso_size) in [
            (3, 1448),
            (2, 1448),
            (0x7f, 1448),
            (VnetHeader::GSO_ECN, 1448),
            (VnetHeader::GSO_TCPV4, 0),
            (VnetHeader::GSO_UDP_L4, 0),
        ] {
            let header = VnetHeader {
                gso_type,
                gso_size,
                ..VnetHeader::NONE
            };
            assert_eq!(header.offload(), Err(DropReason::Malformed), "{header:?}");
        }
    }
}
