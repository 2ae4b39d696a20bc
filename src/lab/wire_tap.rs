//! An observer on the WAN router, who sorts what passes.
//!
//! He reads only headers, as somebody on the Internet would, and each packet once: on its way in.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{LinkAddr, SockaddrLike as _, recvfrom};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::addressing::Addressing;
use super::report::WireCounters;

/// A packet socket. What passes waits in its buffer until [`WireTap::seen`] asks: that is enough for a handshake and some pings.
#[derive(Debug)]
pub struct WireTap {
    socket: Socket,
    plan: Addressing,
    so_far: WireCounters,
}

impl WireTap {
    /// Opens the socket in the namespace of the calling thread, which is the router's.
    pub fn new(plan: &Addressing) -> io::Result<WireTap> {
        let everything = i32::from((libc::ETH_P_ALL as u16).to_be());
        // Datagram: the packet begins at its IP header.
        let socket = Socket::new(
            Domain::PACKET,
            Type::DGRAM,
            Some(Protocol::from(everything)),
        )?;
        socket.set_nonblocking(true)?;
        socket.set_recv_buffer_size(8 << 20)?;
        Ok(WireTap {
            socket,
            plan: plan.clone(),
            so_far: WireCounters::default(),
        })
    }

    /// What has passed so far.
    pub fn seen(&mut self) -> WireCounters {
        let mut buffer = [0; 128];
        while let Ok((length, from)) = recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
            if from.as_ref().is_some_and(is_outgoing) {
                continue;
            }
            if let Some(header) = buffer.get(..length).and_then(Header::read) {
                header.count(&self.plan, &mut self.so_far);
            }
        }
        self.so_far.clone()
    }

    /// From now on the kernel shows only protocol 50: at full speed, looking at everything would cost what is being measured.
    pub fn watch_protocol_50_only(&self) -> io::Result<()> {
        // Classic BPF on the IP header; the kernel checks the program before it takes it.
        let protocol_50 = [
            op(LOAD_BYTE, 0, 0, 0),
            op(AND, 0, 0, 0xf0),
            op(JUMP_EQUAL, 0, 2, 0x40),
            op(LOAD_BYTE, 0, 0, 9),
            op(JUMP, 0, 0, 2),
            op(JUMP_EQUAL, 0, 3, 0x60),
            op(LOAD_BYTE, 0, 0, 6),
            op(JUMP_EQUAL, 0, 1, ESP.into()),
            op(RETURN, 0, 0, 128),
            op(RETURN, 0, 0, 0),
        ];
        self.socket.attach_filter(&protocol_50)
    }

    /// From now on the kernel shows nothing: what is agreed on is protocol 50 itself.
    pub fn stop(&self) -> io::Result<()> {
        self.socket.attach_filter(&[op(RETURN, 0, 0, 0)])
    }
}

const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const JUMP: u32 = libc::BPF_JMP | libc::BPF_JA;
const JUMP_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

fn op(code: u32, if_true: u8, if_false: u8, value: u32) -> SockFilter {
    SockFilter::new(code as u16, if_true, if_false, value)
}

/// A packet that the router sends on was already seen when it came in.
fn is_outgoing(from: &LinkAddr) -> bool {
    from.family() == Some(nix::sys::socket::AddressFamily::Packet)
        && from.pkttype() == libc::PACKET_OUTGOING
}

/// Neighbour discovery, MLD: what two machines on one leg say to each other.
fn is_link_noise(source: IpAddr) -> bool {
    match source {
        IpAddr::V4(_) => false,
        IpAddr::V6(source) => source.is_unspecified() || source.is_unicast_link_local(),
    }
}

const UDP: u8 = 17;
const ESP: u8 = 50;
const IKE: u16 = 500;
const NAT_T: u16 = 4500;

/// As much of a packet as an observer needs.
#[derive(Debug, PartialEq, Eq)]
struct Header<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    payload: &'a [u8],
}

impl<'a> Header<'a> {
    /// Reads an IP header; `None` for what is not IP (ARP).
    fn read(bytes: &'a [u8]) -> Option<Header<'a>> {
        let byte = |at: usize| bytes.get(at).copied();
        match byte(0)? >> 4 {
            4 => {
                let source: [u8; 4] = bytes.get(12..16)?.try_into().ok()?;
                let destination: [u8; 4] = bytes.get(16..20)?.try_into().ok()?;
                Some(Header {
                    source: Ipv4Addr::from(source).into(),
                    destination: Ipv4Addr::from(destination).into(),
                    protocol: byte(9)?,
                    payload: bytes.get(usize::from(byte(0)? & 0xf) * 4..)?,
                })
            }
            6 => {
                let source: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
                let destination: [u8; 16] = bytes.get(24..40)?.try_into().ok()?;
                Some(Header {
                    source: Ipv6Addr::from(source).into(),
                    destination: Ipv6Addr::from(destination).into(),
                    protocol: byte(6)?,
                    payload: bytes.get(40..)?,
                })
            }
            _ => None,
        }
    }

    fn count(&self, plan: &Addressing, wire: &mut WireCounters) {
        let inside = |address| plan.a.holds(address) || plan.b.holds(address);
        if is_link_noise(self.source) {
            return;
        }
        let counter = if inside(self.source) || inside(self.destination) {
            &mut wire.clear
        } else {
            match self.protocol {
                ESP => &mut wire.esp_native,
                UDP => self.datagram(wire),
                _ => &mut wire.other,
            }
        };
        *counter += 1;
    }

    fn datagram<'w>(&self, wire: &'w mut WireCounters) -> &'w mut u64 {
        let port = |at: usize| {
            self.payload
                .get(at..at + 2)
                .map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
        };
        let ports = [port(0), port(2)];
        let length = usize::from(port(4)).saturating_sub(8);
        // Behind a NAT one of the two ports is anything.
        if ports.contains(&NAT_T) {
            match self.payload.get(8..12) {
                Some([0, 0, 0, 0]) => &mut wire.ike_4500,
                Some(_) if length > 8 => &mut wire.esp_udp,
                _ if length == 1 => &mut wire.keepalives,
                _ => &mut wire.other,
            }
        } else if ports.contains(&IKE) {
            &mut wire.ike_500
        } else {
            &mut wire.other
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::options::LabOptions;
    use super::*;

    fn udp(ports: [u16; 2], payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::from(ports.map(u16::to_be_bytes).as_flattened());
        bytes.extend((payload.len() as u16 + 8).to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(payload);
        bytes
    }

    fn v4(source: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
        bytes.extend(source);
        bytes.extend([192, 0, 2, 129]);
        bytes.extend(payload);
        bytes
    }

    fn counted(packet: &[u8]) -> WireCounters {
        let mut wire = WireCounters::default();
        if let Some(header) = Header::read(packet) {
            header.count(&Addressing::new(&LabOptions::default()), &mut wire);
        }
        wire
    }

    #[test]
    fn every_kind_of_packet_has_its_counter() {
        let gateway = [192, 0, 2, 1];
        let none = WireCounters::default;
        let esp = [1, 2, 3, 4, 0, 0, 0, 1, 9, 9];
        let marked = [0, 0, 0, 0, 7, 7, 7, 7, 7, 7];
        for (packet, wire) in [
            (
                v4(gateway, UDP, &udp([500, 500], &esp)),
                WireCounters {
                    ike_500: 1,
                    ..none()
                },
            ),
            (
                v4(gateway, UDP, &udp([4500, 4500], &marked)),
                WireCounters {
                    ike_4500: 1,
                    ..none()
                },
            ),
            (
                v4(gateway, UDP, &udp([23456, 4500], &esp)),
                WireCounters {
                    esp_udp: 1,
                    ..none()
                },
            ),
            (
                v4(gateway, UDP, &udp([4500, 4500], &[0xff])),
                WireCounters {
                    keepalives: 1,
                    ..none()
                },
            ),
            (
                v4(gateway, ESP, &esp),
                WireCounters {
                    esp_native: 1,
                    ..none()
                },
            ),
            (
                v4([10, 1, 0, 2], UDP, &udp([1, 2], b"secret")),
                WireCounters { clear: 1, ..none() },
            ),
            (v4(gateway, 6, &[]), WireCounters { other: 1, ..none() }),
            (vec![0, 1, 8, 0, 6, 4], none()),
            (vec![], none()),
        ] {
            assert_eq!(counted(&packet), wire, "{packet:?}");
        }
    }
}
