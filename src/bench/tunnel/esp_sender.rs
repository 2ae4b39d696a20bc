//! A peer that replaces gateway A and sends ESP like kernels and clouds, to measure gateway B alone.
//!
//! ```text
//!   gateway A ── IKE ──▶ WAN ─────────▶ gateway B                        groundlink's IKE engine on two sockets
//!                        WAN ═════════▶ gateway B ── packets ──▶ host B    ESP in UDP, checksum zero, 16 per system call
//! ```
//!
//! RFC 3948 §2.1 requires a UDP checksum of zero, which kernels send. Such datagrams are never coalesced by `UDP_GRO`, so `recvmmsg`
//! returns each one by itself. The sender reads no device and splits no GSO packets, and sends from the router next to gateway B, to
//! use as little of the shared cores as possible.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use etherparse::{IpNumber, Ipv4Header, UdpHeader};

use super::pair::{GatewayPair, TunnelBenchError};
use super::udp_rate::{MAX_PAYLOAD, UdpSender};
use crate::crypto::Generator;
use crate::esp::{FramedPacket, Outbound};
use crate::ike::{Child, Content, Datagram, Endpoint, Event, Settings, TunnelId};
use crate::lab::LabError;
use crate::lab::interrupt::Interrupt;
use crate::net::demux::NON_ESP_MARKER;
use crate::net::{DropReason, IKE_PORT, NAT_PORT, Packet};
use crate::os::udp_blast::{self, BURST};
use crate::os::{clock, entropy};

/// A connected peer.
pub(super) struct EspSender {
    socket: UdpSocket,
    sa: Outbound,
    /// Template of the inner packet.
    inner: InnerPacket,
    /// ESP packets of one burst, one after the other.
    room: Vec<u8>,
    framed: Vec<FramedPacket>,
}

const TUNNEL: TunnelId = TunnelId(0);

/// Time for the handshake, a retransmission included.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

const POLL: Duration = Duration::from_millis(1);

impl EspSender {
    /// Stops gateway A and connects to gateway B in its place; inner packets go to `target`. `None` if B does not connect.
    pub(super) fn replace_a(
        pair: &mut GatewayPair,
        target: SocketAddr,
        interrupt: &Interrupt,
    ) -> Result<Option<EspSender>, TunnelBenchError> {
        pair.stop_a()
            .map_err(LabError::io("cannot stop gateway A"))?;
        let settings = pair.settings_of_a()?;
        let (address, host) = (settings.local, pair.addressing.a.host);
        let sockets = pair
            .on_gateway_a(|| Sockets::bind(address))?
            .map_err(LabError::io("cannot open a socket at gateway A"))?;
        let Some(child) = sockets.connect(settings, interrupt)? else {
            return Ok(None);
        };
        let (SocketAddr::V4(from), to) = (child.local, child.remote) else {
            return Ok(None);
        };
        let socket = pair
            .on_wan(|| udp_blast::connect_spoofed(from, to))?
            .map_err(LabError::io("cannot open a socket without UDP checksums"))?;
        udp_blast::set_buffers(&socket, 4 << 20);
        let Child {
            spi_out,
            suite,
            keys_out,
            iv_key,
            policy,
            ..
        } = *child;
        let sa = Outbound::new(spi_out, suite, &keys_out, &iv_key, policy).ok();
        let inner = InnerPacket::between(host, target);
        Ok(sa.zip(inner).map(|(sa, inner)| EspSender {
            room: vec![0; sa.sealed_len(inner.bytes.len()) * BURST],
            framed: Vec::with_capacity(BURST),
            socket,
            sa,
            inner,
        }))
    }

    /// Seals one packet of each size; returns their end offsets.
    fn seal(&mut self, number: u32, sizes: &[usize; BURST]) -> Result<[usize; BURST], DropReason> {
        let mut end = 0;
        let mut ends = [0; BURST];
        self.framed.clear();
        let mut sealing = self.sa.lock();
        for (place, size) in ends.iter_mut().zip(sizes) {
            let packet = Packet::parse(self.inner.packet(number, *size))?;
            let begin = end;
            end += self.sa.sealed_len(packet.len());
            let room = self.room.get_mut(begin..end).unwrap_or_default();
            if let Some(payload) = room.get_mut(self.sa.payload(packet.len())) {
                payload.copy_from_slice(packet.bytes());
            }
            self.framed
                .push(sealing.frame(&packet, packet.len(), room)?);
            *place = end;
        }
        sealing.seal_all(&self.framed, &mut self.room[..end])?;
        Ok(ends)
    }
}

impl UdpSender for EspSender {
    fn send(&mut self, number: u32, sizes: &[usize; BURST]) -> io::Result<usize> {
        let ends = self.seal(number, sizes).map_err(io::Error::other)?;
        let mut begin = 0;
        let burst = ends.map(|end| {
            let packet = &self.room[begin..end];
            begin = end;
            packet
        });
        udp_blast::send(&self.socket, &burst)
    }
}

/// Sockets on both IKE ports.
struct Sockets {
    ike: UdpSocket,
    nat: UdpSocket,
}

impl Sockets {
    /// Binds both ports of `address` in the namespace of the calling thread.
    fn bind(address: IpAddr) -> io::Result<Sockets> {
        let bind = |port| -> io::Result<UdpSocket> {
            let socket = UdpSocket::bind((address, port))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        Ok(Sockets {
            ike: bind(IKE_PORT)?,
            nat: bind(NAT_PORT)?,
        })
    }

    /// Runs the handshake; `None` if the peer does not respond, or rejects it.
    fn connect(
        &self,
        settings: Settings,
        interrupt: &Interrupt,
    ) -> Result<Option<Box<Child>>, TunnelBenchError> {
        let seed = entropy::seed().map_err(LabError::io("cannot get random numbers"))?;
        let mut engine = Endpoint::new(Generator::from_seed(seed));
        engine.add_tunnel(clock::now(), TUNNEL, settings);
        let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
        while Instant::now() < deadline {
            while let Some(transmit) = engine.poll_transmit() {
                // The engine retransmits what cannot be sent.
                let _ = match &transmit.content {
                    Content::Keepalive => Ok(0),
                    Content::Ike(message) if transmit.local.port() == NAT_PORT => {
                        let marked = [&NON_ESP_MARKER, &message[..]].concat();
                        self.nat.send_to(&marked, transmit.remote)
                    }
                    Content::Ike(message) => self.ike.send_to(message, transmit.remote),
                };
            }
            while let Some(event) = engine.poll_event() {
                if let Event::ChildUp(child) = event {
                    return Ok(Some(child));
                }
            }
            interrupt.pause(POLL)?;
            for (socket, front) in [(&self.ike, 0), (&self.nat, NON_ESP_MARKER.len())] {
                self.receive(socket, front, &mut engine);
            }
            let now = clock::now();
            if engine.poll_timeout().is_some_and(|due| due <= now) {
                engine.handle_timeout(now);
            }
        }
        Ok(None)
    }

    /// Passes waiting datagrams to the engine, without their marker.
    fn receive(&self, socket: &UdpSocket, front: usize, engine: &mut Endpoint) {
        let mut buffer = [0; 4096];
        while let (Ok((len, remote)), Ok(local)) =
            (socket.recv_from(&mut buffer), socket.local_addr())
        {
            let bytes = buffer.get(front..len).unwrap_or_default();
            let datagram = Datagram {
                local,
                remote,
                bytes,
            };
            engine.handle_datagram(clock::now(), datagram);
        }
    }
}

/// Template of an inner IPv4 and UDP packet, as a host of network A sends it.
struct InnerPacket {
    ip: Ipv4Header,
    udp: UdpHeader,
    bytes: Vec<u8>,
}

impl InnerPacket {
    const HEADERS: usize = Ipv4Header::MIN_LEN + UdpHeader::LEN;

    /// `None` unless both addresses are IPv4.
    fn between(source: IpAddr, target: SocketAddr) -> Option<InnerPacket> {
        let (IpAddr::V4(source), IpAddr::V4(destination)) = (source, target.ip()) else {
            return None;
        };
        let (source, destination) = (source.octets(), destination.octets());
        // DF, as in datagrams of any connected socket.
        let mut ip = Ipv4Header::new(0, 64, IpNumber::UDP, source, destination).ok()?;
        ip.dont_fragment = true;
        Some(InnerPacket {
            ip,
            udp: UdpHeader {
                source_port: 9999,
                destination_port: target.port(),
                ..UdpHeader::default()
            },
            bytes: vec![0; InnerPacket::HEADERS + MAX_PAYLOAD],
        })
    }

    /// The next packet, with a payload of `size` bytes that begins with `number`, and with valid checksums.
    fn packet(&mut self, number: u32, size: usize) -> &[u8] {
        let size = size.clamp(4, MAX_PAYLOAD);
        let udp_len = UdpHeader::LEN + size;
        self.ip.total_len = (Ipv4Header::MIN_LEN + udp_len) as u16;
        self.ip.identification = self.ip.identification.wrapping_add(1);
        self.ip.header_checksum = self.ip.calc_header_checksum();
        self.udp.length = udp_len as u16;
        // The rest of the payload is zero and does not change the checksum.
        let number = number.to_be_bytes();
        let checksum = self.udp.calc_checksum_ipv4(&self.ip, &number);
        self.udp.checksum = checksum.unwrap_or_default();
        let packet = &mut self.bytes[..InnerPacket::HEADERS + size];
        let (ip, udp) = packet.split_at_mut(Ipv4Header::MIN_LEN);
        ip.copy_from_slice(&self.ip.to_bytes());
        udp[..UdpHeader::LEN].copy_from_slice(&self.udp.to_bytes());
        udp[UdpHeader::LEN..][..4].copy_from_slice(&number);
        packet
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    use super::*;

    #[test]
    fn inner_packets_are_numbered_and_have_valid_checksums() {
        let target: SocketAddr = "10.2.0.2:2000".parse().unwrap();
        let source: IpAddr = [10, 1, 0, 2].into();
        let mut inner = InnerPacket::between(source, target).unwrap();
        for (id, size) in [(1_u16, 1300), (2, 64), (3, 1300)] {
            let bytes = inner.packet(0x0102_0304, size);
            let packet = Packet::parse(bytes).unwrap();
            assert_eq!(packet.len(), 28 + size);
            assert_eq!(packet.destination(), target.ip());
            assert_eq!(bytes[4..6], id.to_be_bytes());
            assert_eq!(bytes[28..32], [1, 2, 3, 4]);
            let sliced = SlicedPacket::from_ip(bytes).unwrap();
            let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(udp))) =
                (sliced.net, sliced.transport)
            else {
                panic!("not UDP over IPv4")
            };
            let header = ip.header().to_header();
            assert_eq!(header.calc_header_checksum(), header.header_checksum);
            let udp_header = udp.to_header();
            let checksum = udp_header.calc_checksum_ipv4(&header, udp.payload());
            assert_eq!(checksum, Ok(udp_header.checksum));
        }
        assert!(InnerPacket::between(source, "[::1]:1".parse().unwrap()).is_none());
    }
}
