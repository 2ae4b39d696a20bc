//! Header template of a GSO packet: the headers and their contribution to the checksums.

use super::super::checksum::Sum;
use super::super::extensions::FragmentKind;
use super::super::packet::Packet;
use super::{GsoKind, GsoPacket, TCP, UDP, ip, read, read_long, tcp, tcp_header_len, udp};

/// Headers of all segments.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeaderTemplate<'a> {
    /// IP, extensions, transport.
    pub(super) headers: &'a [u8],
    /// Offset of the transport header.
    pub(super) transport: usize,
    pub(super) ip: Ip,
    pub(super) upper: Upper,
    /// Sum over the pseudo-header and the transport header, without the fields that differ between segments.
    pub(super) sum: Sum,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Ip {
    V4 {
        id: u16,
        /// Over the header, without the fields that differ between segments.
        sum: Sum,
    },
    V6,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Upper {
    Tcp {
        sequence: u32,
        /// Flags and data offset.
        flags: u16,
    },
    Udp,
}

impl<'a> HeaderTemplate<'a> {
    /// Template and payload; `None` if `gso` does not match the packet.
    pub(super) fn of(
        packet: &Packet<'a>,
        gso: &GsoPacket,
    ) -> Option<(HeaderTemplate<'a>, &'a [u8])> {
        let (v4, protocol) = match gso.kind {
            GsoKind::TcpV4 => (true, TCP),
            GsoKind::TcpV6 => (false, TCP),
            GsoKind::Udp => (packet.is_ipv4(), UDP),
        };
        let tcp_only = protocol == TCP || !gso.ecn;
        let whole = packet.fragment() == FragmentKind::Whole;
        if packet.is_ipv4() != v4 || packet.protocol() != protocol || !tcp_only || !whole {
            return None;
        }
        let bytes = packet.bytes();
        let transport = packet.transport_offset()?;
        let (network, segment) = bytes.split_at_checked(transport)?;
        let (upper, header_len, field) = match protocol {
            TCP => (
                Upper::tcp(segment)?,
                tcp_header_len(segment)?,
                tcp::CHECKSUM,
            ),
            _ => (Upper::udp(segment)?, udp::HEADER, udp::CHECKSUM),
        };
        let (header, payload) = segment.split_at_checked(header_len)?;
        let (headers, _) = bytes.split_at_checked(transport.checked_add(header_len)?)?;
        let length = u16::try_from(segment.len()).ok()?;
        let stated = read(header, field)?;
        let pseudo = match gso.partial {
            Some(partial) => {
                let agrees =
                    usize::from(partial.start) == transport && usize::from(partial.offset) == field;
                // Sum of the sender: with a routing header, it contains another destination (RFC 8200 §8.1).
                agrees.then_some(Sum::default().plus_word(stated))?
            }
            None => {
                let (source, destination) = (packet.source(), packet.destination());
                Sum::pseudo_header(source, destination, protocol, u32::from(length))?
            }
        };
        let sum = upper.without(
            pseudo.plus_word(!length).plus(header).plus_word(!stated),
            length,
        );
        let ip = match v4 {
            true => Ip::v4(network)?,
            false => Ip::V6,
        };
        let header_template = HeaderTemplate {
            headers,
            transport,
            ip,
            upper,
            sum,
        };
        Some((header_template, payload))
    }
}

impl Ip {
    fn v4(header: &[u8]) -> Option<Ip> {
        let id = read(header, ip::V4_ID)?;
        let sum = [ip::V4_LENGTH, ip::V4_ID, ip::V4_CHECKSUM]
            .into_iter()
            .try_fold(Sum::default().plus(header), |sum, at| {
                Some(sum.plus_word(!read(header, at)?))
            })?;
        Some(Ip::V4 { id, sum })
    }
}

impl Upper {
    fn tcp(segment: &[u8]) -> Option<Upper> {
        let flags = read(segment, tcp::FLAGS)?;
        // SYN and RST carry no data to segment; a SYN would count in the sequence of every segment.
        (flags & (tcp::SYN | tcp::RST) == 0).then_some(Upper::Tcp {
            sequence: read_long(segment, tcp::SEQUENCE)?,
            flags,
        })
    }

    fn udp(segment: &[u8]) -> Option<Upper> {
        let length = usize::from(read(segment, udp::LENGTH)?);
        (length == segment.len()).then_some(Upper::Udp)
    }

    /// Sum without the fields that differ between segments.
    fn without(self, sum: Sum, length: u16) -> Sum {
        match self {
            Upper::Tcp { sequence, flags } => {
                sum.plus(&(!sequence).to_be_bytes()).plus_word(!flags)
            }
            Upper::Udp => sum.plus_word(!length),
        }
    }
}
