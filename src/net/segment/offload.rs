//! Offloads of a packet: the fields of a `virtio_net_hdr`, checked as far as possible without the packet.

use std::num::NonZeroU16;

use super::super::checksum;
use super::super::drop_reason::DropReason;
use super::super::packet::Packet;

/// Offload of one packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PacketOffload {
    /// None: the packet is complete.
    #[default]
    None,
    /// The transport checksum is partial.
    Checksum(PartialChecksum),
    /// The packet is a GSO packet.
    Gso(GsoPacket),
}

/// Transport checksum that contains the pseudo-header sum only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialChecksum {
    /// Offset where the checksum starts.
    pub start: u16,
    /// Offset of the checksum field from there.
    pub offset: u16,
}

impl PartialChecksum {
    /// Completes the checksum in place.
    ///
    /// # Errors
    /// [`DropReason::Malformed`] if the field lies outside the packet, which is then unchanged.
    pub fn complete(self, packet: &mut [u8]) -> Result<(), DropReason> {
        let (start, offset) = (usize::from(self.start), usize::from(self.offset));
        checksum::complete(packet, start, offset)
            .then_some(())
            .ok_or(DropReason::Malformed)
    }
}

/// Segmentation of a GSO packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GsoPacket {
    /// Protocol.
    pub kind: GsoKind,
    /// Payload octets of each segment except the last, which may have fewer.
    pub size: NonZeroU16,
    /// Octets of headers, a hint of the sender (virtio 1.2 §5.1.6.2): written, but ignored when read, since Linux passes on the
    /// value of a guest.
    pub header_len: u16,
    /// Checksum to complete in each segment; `None` if the sender has verified it.
    pub partial: Option<PartialChecksum>,
    /// The first segment has CWR (RFC 3168 §6.1.2), and only the first may.
    pub ecn: bool,
}

/// Kinds of GSO packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP over IPv4 or IPv6.
    Udp,
}

/// Whether UDP datagrams are coalesced. Linux accepts UDP GSO packets on a TUN device from 6.2 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UdpCoalescing {
    /// Coalesced.
    Coalesced,
    /// Single.
    Apart,
}

/// One or more packets for the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coalesced<'a> {
    /// Offload of the packet.
    pub offload: PacketOffload,
    /// Single packet or GSO packet.
    pub bytes: &'a [u8],
    /// Number of packets joined.
    pub packets: usize,
    /// Octets of the packets joined.
    pub octets: usize,
}

impl<'a> Coalesced<'a> {
    /// A single packet.
    #[must_use]
    pub const fn alone(packet: &Packet<'a>) -> Coalesced<'a> {
        Coalesced {
            offload: PacketOffload::None,
            bytes: packet.bytes(),
            packets: 1,
            octets: packet.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{checksums_hold, datagram};
    use super::*;
    use crate::net::checksum::Sum;

    #[test]
    fn a_partial_checksum_is_completed_in_place() {
        let whole = datagram(4, 0, 999);
        let mut partial = whole.clone();
        let length = u32::try_from(whole.len() - 20).unwrap();
        let pseudo = Sum::pseudo_header([10, 2, 0, 5].into(), [10, 1, 0, 7].into(), 17, length);
        partial[26..28].copy_from_slice(&pseudo.unwrap().fold().to_be_bytes());
        assert!(!checksums_hold(&partial));
        let field = PartialChecksum {
            start: 20,
            offset: 6,
        };
        assert_eq!(field.complete(&mut partial), Ok(()));
        assert_eq!(partial, whole);
    }

    #[test]
    fn e11_a_checksum_field_outside_the_packet_is_rejected() {
        let whole = datagram(4, 0, 10);
        for (start, offset) in [
            (39, 0),
            (38, 0),
            (u16::MAX, 6),
            (20, 18),
            (20, 17),
            (20, u16::MAX),
        ] {
            let mut bytes = whole.clone();
            let field = PartialChecksum { start, offset };
            assert_eq!(
                field.complete(&mut bytes),
                Err(DropReason::Malformed),
                "{field:?}"
            );
            assert_eq!(bytes, whole);
        }
    }
}
