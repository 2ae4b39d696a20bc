//! Slot of the coalescer: the packets of one flow that are being joined.
//!
//! ```text
//!   | headers | payload 1 | payload 2 | … | payload n |        in a buffer of its own
//! ```
//!
//! A single packet stays unchanged. The checksums of each packet are verified before it is copied, since the GSO packet gets new
//! ones: a damaged packet must not become valid.

use std::net::IpAddr;
use std::num::NonZeroU16;

use super::super::checksum::{self, Sum};
use super::super::extensions::FragmentKind;
use super::super::packet::Packet;
use super::{
    Coalesced, GsoKind, GsoPacket, PacketOffload, PartialChecksum, TCP, UDP, UdpCoalescing, ip,
    put, read, read_long, tcp, tcp_header_len, udp,
};

/// Flow: addresses, protocol and ports of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flow {
    ports: (u16, u16),
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
}

impl Flow {
    /// Whether `packet` belongs to the flow or may belong to it: fragments may lack ports.
    pub(super) fn may_have(&self, packet: &Packet<'_>) -> bool {
        let between = self.source == packet.source() && self.destination == packet.destination();
        let same = self.protocol == packet.protocol() && packet.ports() == Some(self.ports);
        between && (same || packet.fragment() != FragmentKind::Whole)
    }
}

/// Packet that can be coalesced, with the fields that decide how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'p> {
    pub(super) flow: Flow,
    bytes: &'p [u8],
    /// Offset of the transport header.
    transport: usize,
    /// Offset of the payload.
    payload_at: usize,
    /// TCP sequence number; 0 for UDP.
    sequence: u32,
    /// TCP flags and data offset; 0 for UDP.
    flags: u16,
}

impl<'p> Candidate<'p> {
    /// `None` for packets that are never coalesced: fragments, IP options and extension headers, TCP segments other than data on
    /// an established connection, UDP datagrams that are empty or have no checksum.
    pub(super) fn of(packet: &Packet<'p>, udp_runs: UdpCoalescing) -> Option<Candidate<'p>> {
        let bytes = packet.bytes();
        let transport = packet.transport_offset()?;
        let plain = match packet.is_ipv4() {
            true => ip::V4_HEADER,
            false => ip::V6_HEADER,
        };
        if transport != plain || packet.fragment() != FragmentKind::Whole {
            return None;
        }
        let segment = bytes.get(transport..)?;
        let (header_len, sequence, flags) = match (packet.protocol(), udp_runs) {
            (TCP, UdpCoalescing::Coalesced | UdpCoalescing::Apart) => {
                let flags = read(segment, tcp::FLAGS)?;
                let special = flags & (tcp::SYN | tcp::RST | tcp::URG);
                if special != 0 || flags & tcp::ACK == 0 {
                    return None;
                }
                let sequence = read_long(segment, tcp::SEQUENCE)?;
                (tcp_header_len(segment)?, sequence, flags)
            }
            (UDP, UdpCoalescing::Coalesced) => {
                let length = usize::from(read(segment, udp::LENGTH)?);
                if length != segment.len() || read(segment, udp::CHECKSUM)? == 0 {
                    return None;
                }
                (udp::HEADER, 0, 0)
            }
            (_, UdpCoalescing::Coalesced | UdpCoalescing::Apart) => return None,
        };
        let payload_at = transport.checked_add(header_len)?;
        (payload_at < bytes.len()).then_some(Candidate {
            flow: Flow {
                ports: packet.ports()?,
                source: packet.source(),
                destination: packet.destination(),
                protocol: packet.protocol(),
            },
            bytes,
            transport,
            payload_at,
            sequence,
            flags,
        })
    }

    /// Whether no packet may be appended behind this one.
    pub(super) const fn ends_a_run(&self) -> bool {
        self.flags & (tcp::FIN | tcp::PSH) != 0
    }

    fn parts(&self) -> Option<(&'p [u8], &'p [u8])> {
        self.bytes.split_at_checked(self.payload_at)
    }

    /// Whether the checksums are correct.
    fn holds(&self) -> Option<bool> {
        let (network, segment) = self.bytes.split_at_checked(self.transport)?;
        let pseudo = pseudo_header(&self.flow, u16::try_from(segment.len()).ok()?)?;
        let network_holds = self.flow.source.is_ipv6() || checksum::of(network) == 0;
        Some(network_holds && pseudo.plus(segment).finish() == 0)
    }
}

fn pseudo_header(flow: &Flow, length: u16) -> Option<Sum> {
    Sum::pseudo_header(
        flow.source,
        flow.destination,
        flow.protocol,
        u32::from(length),
    )
}

/// Result of appending a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Appended {
    /// Appended; more may follow.
    Open,
    /// Appended as the last packet.
    Last,
    /// Not appended.
    Refused,
}

/// Packets being coalesced, or free space for them.
#[derive(Debug)]
pub(super) struct GroSlot {
    room: Vec<u8>,
    flow: Option<Flow>,
    /// Octets used.
    len: usize,
    packets: u16,
    transport: usize,
    payload_at: usize,
    /// Payload octets of each packet except the last.
    size: usize,
    /// In TCP: where in the stream the next packet is.
    sequence: u32,
    /// In TCP: the flags of the first packet.
    flags: u16,
    /// IPv4 identification of the next packet.
    id: u16,
}

impl GroSlot {
    /// Maximum number of UDP datagrams in a GSO packet (`UDP_MAX_SEGMENTS`). TCP is limited by the packet length only.
    const MAX_DATAGRAMS: u16 = 64;

    pub(super) fn new() -> GroSlot {
        GroSlot {
            room: vec![0; usize::from(u16::MAX)],
            flow: None,
            len: 0,
            packets: 0,
            transport: 0,
            payload_at: 0,
            size: 0,
            sequence: 0,
            flags: 0,
            id: 0,
        }
    }

    pub(super) const fn flow(&self) -> Option<&Flow> {
        self.flow.as_ref()
    }

    /// Starts with a packet. Returns false and leaves the slot free if its checksums are wrong.
    pub(super) fn begin(&mut self, first: &Candidate<'_>) -> bool {
        let begun = self.try_begin(first).is_some();
        if !begun {
            self.flow = None;
        }
        begun
    }

    fn try_begin(&mut self, first: &Candidate<'_>) -> Option<()> {
        let (headers, payload) = first.parts()?;
        let place = self.room.get_mut(..first.bytes.len())?;
        first.holds()?.then_some(())?;
        place.copy_from_slice(first.bytes);
        self.flow = Some(first.flow);
        self.len = first.bytes.len();
        self.packets = 1;
        self.transport = first.transport;
        self.payload_at = first.payload_at;
        self.size = payload.len();
        self.sequence = first.sequence.wrapping_add(payload.len() as u32);
        self.flags = first.flags;
        self.id = read(headers, ip::V4_ID)?.wrapping_add(1);
        Some(())
    }

    /// Appends a packet of the same flow if it continues the sequence and its checksums are correct.
    pub(super) fn append(&mut self, next: &Candidate<'_>) -> Appended {
        self.try_append(next).unwrap_or(Appended::Refused)
    }

    fn try_append(&mut self, next: &Candidate<'_>) -> Option<Appended> {
        let (headers, payload) = next.parts()?;
        if !self.continues(headers, next) || payload.len() > self.size {
            return None;
        }
        let end = self.len.checked_add(payload.len())?;
        let place = self.room.get_mut(self.len..end)?;
        next.holds()?.then_some(())?;
        place.copy_from_slice(payload);
        self.len = end;
        self.packets = self.packets.wrapping_add(1);
        self.sequence = self.sequence.wrapping_add(payload.len() as u32);
        self.id = self.id.wrapping_add(1);
        if next.flags & (tcp::FIN | tcp::PSH) != 0 {
            let flags = self.flags | next.flags;
            put(
                &mut self.room,
                self.transport.checked_add(tcp::FLAGS)?,
                flags.to_be_bytes(),
            );
            self.flags = flags;
        }
        let full = next.flow.protocol == UDP && self.packets >= GroSlot::MAX_DATAGRAMS;
        let last = next.ends_a_run() || payload.len() < self.size || full;
        Some(if last { Appended::Last } else { Appended::Open })
    }

    /// Whether a packet with these headers is the next segment. The flow has compared the addresses.
    fn continues(&self, headers: &[u8], next: &Candidate<'_>) -> bool {
        let ours = self.room.get(..self.payload_at).unwrap_or_default();
        let same = |from: usize, to: usize| {
            ours.get(from..to)
                .is_some_and(|own| headers.get(from..to) == Some(own))
        };
        // The addresses are those of the flow.
        let network = match next.flow.source {
            // Version and TOS; flags, TTL, protocol. Where nobody may cut it, the identification means nothing (RFC 6864 §4.1).
            IpAddr::V4(_) => {
                let atomic = headers.get(6).is_some_and(|flags| flags & 0x40 != 0);
                same(0, 2) && same(6, 10) && (atomic || read(headers, ip::V4_ID) == Some(self.id))
            }
            // Version, traffic class, flow label; next header, hop limit.
            IpAddr::V6(_) => same(0, 4) && same(6, 8),
        };
        let at = |field: usize| self.transport.saturating_add(field);
        let may_differ = tcp::FIN | tcp::PSH | tcp::CWR;
        let transport = match next.flow.protocol {
            // Options, and so timestamps, are equal octet by octet.
            TCP => {
                next.sequence == self.sequence
                    && next.flags & tcp::CWR == 0
                    && (next.flags ^ self.flags) & !may_differ == 0
                    && same(at(tcp::ACKNOWLEDGMENT), at(tcp::FLAGS))
                    && same(at(tcp::WINDOW), at(tcp::CHECKSUM))
                    && same(at(tcp::URGENT), self.payload_at)
            }
            _ => true,
        };
        headers.len() == ours.len() && network && transport
    }

    /// Passes the content to `out` and frees the slot.
    pub(super) fn leave(&mut self, out: &mut impl FnMut(Coalesced<'_>)) {
        let Some(flow) = self.flow.take() else { return };
        let offload = match self.packets {
            ..=1 => PacketOffload::None,
            _ => self
                .close(&flow)
                .map_or(PacketOffload::None, PacketOffload::Gso),
        };
        let headers = usize::from(self.packets.saturating_sub(1)).saturating_mul(self.payload_at);
        out(Coalesced {
            offload,
            bytes: self.room.get(..self.len).unwrap_or_default(),
            packets: usize::from(self.packets),
            octets: self.len.saturating_add(headers),
        });
    }

    /// Converts the headers to those of a GSO packet.
    fn close(&mut self, flow: &Flow) -> Option<GsoPacket> {
        let total = u16::try_from(self.len).ok()?;
        let transport = u16::try_from(self.transport).ok()?;
        let length = total.checked_sub(transport)?;
        let (headers, _) = self.room.split_at_mut_checked(self.payload_at)?;
        let (network, header) = headers.split_at_mut_checked(self.transport)?;
        match flow.source {
            IpAddr::V4(_) => {
                put(network, ip::V4_LENGTH, total.to_be_bytes());
                put(network, ip::V4_CHECKSUM, [0, 0]);
                let checksum = checksum::of(network);
                put(network, ip::V4_CHECKSUM, checksum.to_be_bytes());
            }
            IpAddr::V6(_) => put(network, ip::V6_LENGTH, length.to_be_bytes()),
        }
        let (kind, field) = match (flow.protocol, flow.source) {
            (TCP, IpAddr::V4(_)) => (GsoKind::TcpV4, tcp::CHECKSUM),
            (TCP, IpAddr::V6(_)) => (GsoKind::TcpV6, tcp::CHECKSUM),
            (_, IpAddr::V4(_) | IpAddr::V6(_)) => {
                put(header, udp::LENGTH, length.to_be_bytes());
                (GsoKind::Udp, udp::CHECKSUM)
            }
        };
        let partial = pseudo_header(flow, length)?.fold();
        put(header, field, partial.to_be_bytes());
        Some(GsoPacket {
            kind,
            size: NonZeroU16::new(u16::try_from(self.size).ok()?)?,
            header_len: u16::try_from(self.payload_at).ok()?,
            partial: Some(PartialChecksum {
                start: transport,
                offset: u16::try_from(field).ok()?,
            }),
            ecn: self.flags & tcp::CWR != 0,
        })
    }
}
