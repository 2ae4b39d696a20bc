//! What the sender of a packet left to the hardware: the facts of a `virtio_net_hdr`, checked as far as they can be without the
//! packet.

use std::num::NonZeroU16;

use super::super::checksum;
use super::super::drop_reason::DropReason;

/// What is left to do to a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PacketOffload {
    /// Nothing: it is as it goes over a wire.
    #[default]
    None,
    /// Its transport checksum is to be finished.
    Checksum(PartialChecksum),
    /// It is several segments in one.
    Gso(GsoPacket),
}

/// A transport checksum of which only the pseudo-header has been summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialChecksum {
    /// Where the sum starts.
    pub start: u16,
    /// Where the checksum stands, from there.
    pub offset: u16,
}

impl PartialChecksum {
    /// Finishes the checksum in place.
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

/// How a super-packet comes apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GsoPacket {
    /// What it carries.
    pub kind: GsoKind,
    /// Octets of payload in each segment but the last, which may have fewer.
    pub size: NonZeroU16,
    /// Octets of headers, by its sender's account: a hint (virtio 1.2 §5.1.6.2), which is written and not believed. Linux says how
    /// much lies in the first buffer, and hands on what a guest has said.
    pub header_len: u16,
    /// Where the checksum is that is to be finished in each segment; `None` if its sender has vouched for it otherwise.
    pub partial: Option<PartialChecksum>,
    /// The first segment says that the congestion window was reduced (RFC 3168 §6.1.2), and only the first may.
    pub ecn: bool,
}

/// The kinds of super-packets there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP over either, datagrams in a row.
    Udp,
}

#[cfg(test)]
mod tests {
    use super::super::tests::{checksums_hold, datagram};
    use super::*;
    use crate::net::checksum::Sum;

    #[test]
    fn a_checksum_left_to_the_hardware_is_finished_in_place() {
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
    fn e11_a_checksum_outside_the_packet_is_refused_and_nothing_changes() {
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
