//! Packet counters on the WAN router, by kind of packet.
//!
//! Only headers are read, and each packet is counted once, when the router receives it.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;

use etherparse::{IpNumber, LaxIpSlice, UdpHeader};
use nix::sys::socket::{LinkAddr, SockaddrLike as _, recvfrom};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::addressing::Addressing;
use super::report::WireCounters;
use crate::net::demux::{self, NatPayload};
use crate::net::{IKE_PORT, NAT_PORT};

/// A packet socket on the router. Packets wait in its buffer, which holds a handshake and some pings, until [`WireTap::counters`].
#[derive(Debug)]
pub struct WireTap {
    socket: Socket,
    addressing: Addressing,
    counters: WireCounters,
}

impl WireTap {
    /// Opens the socket in the namespace of the calling thread.
    pub fn new(addressing: &Addressing) -> io::Result<WireTap> {
        let everything = i32::from((libc::ETH_P_ALL as u16).to_be());
        // SOCK_DGRAM: packets begin with the IP header.
        let socket = Socket::new(
            Domain::PACKET,
            Type::DGRAM,
            Some(Protocol::from(everything)),
        )?;
        socket.set_nonblocking(true)?;
        socket.set_recv_buffer_size(8 << 20)?;
        Ok(WireTap {
            socket,
            addressing: addressing.clone(),
            counters: WireCounters::default(),
        })
    }

    /// The counters so far.
    pub fn counters(&mut self) -> WireCounters {
        let mut buffer = [0; SNAP_LEN];
        while let Ok((length, from)) = recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
            if from.as_ref().is_some_and(is_outgoing) {
                continue;
            }
            let bytes = buffer.get(..length).unwrap_or(&buffer);
            count(bytes, &self.addressing, &mut self.counters);
        }
        self.counters.clone()
    }

    /// Restricts the socket to IP protocol 50: counting all packets at full speed would distort the measurement.
    pub fn count_protocol_50_only(&self) -> io::Result<()> {
        // Classic BPF on the IP header; the kernel verifies the program.
        let protocol_50 = [
            op(LOAD_BYTE, 0, 0, 0),
            op(AND, 0, 0, 0xf0),
            op(JUMP_EQUAL, 0, 2, 0x40),
            op(LOAD_BYTE, 0, 0, 9),
            op(JUMP, 0, 0, 2),
            op(JUMP_EQUAL, 0, 3, 0x60),
            op(LOAD_BYTE, 0, 0, 6),
            op(
                JUMP_EQUAL,
                0,
                1,
                IpNumber::ENCAPSULATING_SECURITY_PAYLOAD.0.into(),
            ),
            op(RETURN, 0, 0, SNAP_LEN as u32),
            op(RETURN, 0, 0, 0),
        ];
        self.socket.attach_filter(&protocol_50)
    }

    /// Stops counting.
    pub fn stop(&self) -> io::Result<()> {
        self.socket.attach_filter(&[op(RETURN, 0, 0, 0)])
    }
}

/// Captured octets of a packet: its headers.
const SNAP_LEN: usize = 128;

const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const JUMP: u32 = libc::BPF_JMP | libc::BPF_JA;
const JUMP_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

fn op(code: u32, if_true: u8, if_false: u8, value: u32) -> SockFilter {
    SockFilter::new(code as u16, if_true, if_false, value)
}

/// Whether the router is sending the packet; it was counted when received.
fn is_outgoing(from: &LinkAddr) -> bool {
    from.family() == Some(nix::sys::socket::AddressFamily::Packet)
        && from.pkttype() == libc::PACKET_OUTGOING
}

/// Whether the packet stays on the link: neighbour discovery, MLD.
fn is_link_local(source: IpAddr) -> bool {
    match source {
        IpAddr::V4(_) => false,
        IpAddr::V6(source) => source.is_unspecified() || source.is_unicast_link_local(),
    }
}

/// Counts a packet of which the first octets were captured; anything but IP (ARP) is ignored.
fn count(bytes: &[u8], addressing: &Addressing, counters: &mut WireCounters) {
    let Ok((ip, _)) = LaxIpSlice::from_slice(bytes) else {
        return;
    };
    let is_inner = |address| addressing.a.contains(address) || addressing.b.contains(address);
    let (source, destination) = (ip.source_addr(), ip.destination_addr());
    if is_link_local(source) {
        return;
    }
    let payload = ip.payload();
    let counter = if is_inner(source) || is_inner(destination) {
        &mut counters.clear
    } else {
        match payload.ip_number {
            IpNumber::ENCAPSULATING_SECURITY_PAYLOAD => &mut counters.esp_native,
            IpNumber::UDP => datagram_counter(payload.payload, counters),
            _ => &mut counters.other,
        }
    };
    *counter += 1;
}

fn datagram_counter<'c>(datagram: &[u8], counters: &'c mut WireCounters) -> &'c mut u64 {
    let Ok((header, payload)) = UdpHeader::from_slice(datagram) else {
        return &mut counters.other;
    };
    let length = usize::from(header.length).saturating_sub(UdpHeader::LEN);
    // Behind NAT one of the ports may have any value.
    let uses = |port| header.source_port == port || header.destination_port == port;
    if !uses(NAT_PORT) {
        return if uses(IKE_PORT) {
            &mut counters.ike_500
        } else {
            &mut counters.other
        };
    }
    match demux::port_4500(payload.get(..length).unwrap_or(payload)) {
        NatPayload::Ike(_) => &mut counters.ike_4500,
        NatPayload::Esp(_) => &mut counters.esp_udp,
        NatPayload::Keepalive => &mut counters.keepalives,
        NatPayload::Truncated => &mut counters.other,
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::super::options::LabOptions;
    use super::*;

    fn udp(source: [u8; 4], ports: [u16; 2], payload: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        PacketBuilder::ipv4(source, [192, 0, 2, 129], 64)
            .udp(ports[0], ports[1])
            .write(&mut packet, payload)
            .unwrap();
        packet
    }

    fn other(protocol: IpNumber, payload: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        PacketBuilder::ipv4(GATEWAY, [192, 0, 2, 129], 64)
            .write(&mut packet, protocol, payload)
            .unwrap();
        packet
    }

    fn counted(packet: &[u8]) -> WireCounters {
        let mut counters = WireCounters::default();
        count(
            packet,
            &Addressing::new(&LabOptions::default()),
            &mut counters,
        );
        counters
    }

    const GATEWAY: [u8; 4] = [192, 0, 2, 1];

    #[test]
    fn every_kind_of_packet_has_its_counter() {
        let none = WireCounters::default;
        let esp = [1, 2, 3, 4, 0, 0, 0, 1, 9, 9];
        let marked = [0, 0, 0, 0, 7, 7, 7, 7, 7, 7];
        for (packet, expected) in [
            (
                udp(GATEWAY, [500, 500], &esp),
                WireCounters {
                    ike_500: 1,
                    ..none()
                },
            ),
            (
                udp(GATEWAY, [4500, 4500], &marked),
                WireCounters {
                    ike_4500: 1,
                    ..none()
                },
            ),
            (
                udp(GATEWAY, [23456, 4500], &esp),
                WireCounters {
                    esp_udp: 1,
                    ..none()
                },
            ),
            (
                udp(GATEWAY, [4500, 4500], &[0xff]),
                WireCounters {
                    keepalives: 1,
                    ..none()
                },
            ),
            (
                other(IpNumber::ENCAPSULATING_SECURITY_PAYLOAD, &esp),
                WireCounters {
                    esp_native: 1,
                    ..none()
                },
            ),
            (
                udp([10, 1, 0, 2], [1, 2], b"secret"),
                WireCounters { clear: 1, ..none() },
            ),
            (
                other(IpNumber::TCP, &[]),
                WireCounters { other: 1, ..none() },
            ),
            (vec![0, 1, 8, 0, 6, 4], none()),
            (vec![], none()),
        ] {
            assert_eq!(counted(&packet), expected, "{packet:?}");
        }
    }

    #[test]
    fn a_packet_is_recognized_by_its_first_octets() {
        let packet = udp(GATEWAY, [4500, 4500], &[9; 1000]);
        assert_eq!(counted(&packet[..SNAP_LEN]).esp_udp, 1);
    }
}
