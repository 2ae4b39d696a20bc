//! A peer that sends ESP as kernels and clouds do, in the place of gateway A: what gateway B makes of it by itself.
//!
//! ```text
//!   gateway A ── IKE ──▶ WAN ─────────▶ gateway B                        the engine of the program, over two sockets
//!                        WAN ═════════▶ gateway B ── packets ──▶ host B    ESP in UDP, checksum zero, 16 a system call
//! ```
//!
//! RFC 3948 §2.1 wants the UDP checksum sent as zero, and kernels do so. Such datagrams are never joined on their way in (`UDP_GRO`),
//! so each is one of its own to `recvmmsg`. Nobody reads a device or cuts super-packets here, and what is sealed leaves from the router
//! next to gateway B: the sender takes as little of the shared cores as a sender can.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use super::TunnelBenchError;
use super::pair::GatewayPair;
use super::udp_sender::{LONGEST, UdpSender};
use crate::crypto::Generator;
use crate::datapath::{IKE_PORT, NAT_PORT};
use crate::esp::{FramedPacket, Outbound};
use crate::ike::{Child, Content, Datagram, Endpoint, Event, Settings, TunnelId};
use crate::lab;
use crate::lab::interrupt::Interrupt;
use crate::net::{DropReason, Packet, checksum};
use crate::os::flood::{self, BURST};
use crate::os::{clock, entropy};

/// The peer, connected.
pub(super) struct EspSender {
    socket: UdpSocket,
    sa: Outbound,
    /// The inner packet, at its longest.
    inner: InnerPacket,
    /// One burst, each packet where the one before ends.
    room: Vec<u8>,
    laid: Vec<FramedPacket>,
}

const TUNNEL: TunnelId = TunnelId(0);

/// How long the handshake may take, a lost message included.
const PATIENCE: Duration = Duration::from_secs(10);

const POLL: Duration = Duration::from_millis(1);

impl EspSender {
    /// Takes the place of gateway A, which ends, and connects with gateway B; its packets go to `target` behind that. `None` if
    /// B does not connect.
    pub(super) fn replace_a(
        pair: &mut GatewayPair,
        target: SocketAddr,
        interrupt: &Interrupt,
    ) -> Result<Option<EspSender>, TunnelBenchError> {
        let failed =
            |what: &'static str| move |source: io::Error| lab::LabError::Io { what, source };
        pair.end_a().map_err(failed("gateway A does not end"))?;
        let settings = pair.settings_of_a()?;
        let (address, host) = (settings.local, pair.plan.a.host);
        let sockets = pair
            .on_gateway_a(|| Sockets::bind(address))?
            .map_err(failed("no socket in the place of gateway A"))?;
        let Some(child) = sockets.connect(settings, interrupt)? else {
            return Ok(None);
        };
        let (SocketAddr::V4(from), to) = (child.local, child.remote) else {
            return Ok(None);
        };
        let socket = pair
            .on_wan(|| flood::unsummed(from, to))?
            .map_err(failed("no socket that leaves UDP checksums out"))?;
        flood::widen(&socket, 4 << 20);
        let Child {
            spi_out,
            suite,
            keys_out,
            iv_key,
            policy,
            ..
        } = *child;
        let sa = Outbound::new(spi_out, suite, &keys_out, iv_key, policy).ok();
        let inner = InnerPacket::between(host, target);
        Ok(sa.zip(inner).map(|(sa, inner)| EspSender {
            room: vec![0; sa.sealed_len(inner.bytes.len()) * BURST],
            laid: Vec::with_capacity(BURST),
            socket,
            sa,
            inner,
        }))
    }

    /// Seals a packet for each of the sizes; says where each ends.
    fn seal(&mut self, number: u32, sizes: &[usize; BURST]) -> Result<[usize; BURST], DropReason> {
        let mut end = 0;
        let mut ends = [0; BURST];
        self.laid.clear();
        let mut sealing = self.sa.lock();
        for (place, size) in ends.iter_mut().zip(sizes) {
            let packet = Packet::parse(self.inner.packet(number, *size))?;
            let begin = end;
            end += self.sa.sealed_len(packet.len());
            let room = self.room.get_mut(begin..end).unwrap_or_default();
            if let Some(payload) = room.get_mut(self.sa.payload(packet.len())) {
                payload.copy_from_slice(packet.bytes());
            }
            self.laid.push(sealing.frame(&packet, packet.len(), room)?);
            *place = end;
        }
        sealing.seal_all(&self.laid, &mut self.room[..end])?;
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
        flood::send(&self.socket, &burst)
    }
}

/// The two ports of IKE.
struct Sockets {
    ike: UdpSocket,
    nat: UdpSocket,
}

/// What tells IKE from ESP on port 4500 (RFC 3948 §2.2).
const MARKER: [u8; 4] = [0; 4];

impl Sockets {
    /// Those of `address`, in the namespace of the calling thread.
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

    /// The handshake; `None` if the other side does not answer, or refuses.
    fn connect(
        &self,
        settings: Settings,
        interrupt: &Interrupt,
    ) -> Result<Option<Box<Child>>, TunnelBenchError> {
        let what = "no random numbers";
        let seed = entropy::seed().map_err(|source| lab::LabError::Io { what, source })?;
        let mut engine = Endpoint::new(Generator::from_seed(seed));
        engine.add_tunnel(clock::now(), TUNNEL, settings);
        let give_up = Instant::now() + PATIENCE;
        while Instant::now() < give_up {
            while let Some(transmit) = engine.poll_transmit() {
                // What cannot be sent is sent again later.
                let _ = match &transmit.content {
                    Content::Keepalive => Ok(0),
                    Content::Ike(message) if transmit.local.port() == NAT_PORT => {
                        let marked = [&MARKER, &message[..]].concat();
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
            for (socket, front) in [(&self.ike, 0), (&self.nat, MARKER.len())] {
                self.pass_on(socket, front, &mut engine);
            }
            let now = clock::now();
            if engine.poll_timeout().is_some_and(|due| due <= now) {
                engine.handle_timeout(now);
            }
        }
        Ok(None)
    }

    /// Hands what waits at a socket to the engine, without the marker before it.
    fn pass_on(&self, socket: &UdpSocket, front: usize, engine: &mut Endpoint) {
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

/// An inner packet of IPv4 and UDP, as a host of network A sends it.
struct InnerPacket {
    bytes: [u8; InnerPacket::HEADERS + LONGEST],
    ends: (Ipv4Addr, Ipv4Addr),
    identification: u16,
}

impl InnerPacket {
    const IPV4: usize = 20;
    const HEADERS: usize = InnerPacket::IPV4 + 8;

    /// `None` where either is no IPv4 address.
    fn between(source: IpAddr, target: SocketAddr) -> Option<InnerPacket> {
        let (IpAddr::V4(source), IpAddr::V4(destination)) = (source, target.ip()) else {
            return None;
        };
        let mut bytes = [0; InnerPacket::HEADERS + LONGEST];
        bytes[0] = 0x45;
        // DF, as on datagrams of any connected socket.
        bytes[6] = 0x40;
        bytes[8..10].copy_from_slice(&[64, 17]);
        bytes[12..16].copy_from_slice(&source.octets());
        bytes[16..20].copy_from_slice(&destination.octets());
        bytes[20..22].copy_from_slice(&9999_u16.to_be_bytes());
        bytes[22..24].copy_from_slice(&target.port().to_be_bytes());
        Some(InnerPacket {
            bytes,
            ends: (source, destination),
            identification: 0,
        })
    }

    /// The next packet, with a payload of `size` that begins with `number`; its checksums are right.
    fn packet(&mut self, number: u32, size: usize) -> &[u8] {
        let size = size.clamp(4, LONGEST);
        let len = (InnerPacket::HEADERS + size) as u16;
        let udp_len = len - InnerPacket::IPV4 as u16;
        self.identification = self.identification.wrapping_add(1);
        let packet = &mut self.bytes[..usize::from(len)];
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        packet[4..6].copy_from_slice(&self.identification.to_be_bytes());
        packet[10..12].fill(0);
        let header = checksum::of(&packet[..InnerPacket::IPV4]);
        packet[10..12].copy_from_slice(&header.to_be_bytes());
        packet[24..26].copy_from_slice(&udp_len.to_be_bytes());
        packet[26..28].fill(0);
        packet[28..32].copy_from_slice(&number.to_be_bytes());
        // Behind the number there are zeros, which add nothing.
        let (source, destination) = self.ends;
        let pseudo =
            checksum::Sum::pseudo_header(source.into(), destination.into(), 17, udp_len.into());
        let sum = pseudo
            .unwrap_or_default()
            .plus(&packet[InnerPacket::IPV4..InnerPacket::HEADERS + 4])
            .finish();
        packet[26..28].copy_from_slice(&sum.to_be_bytes());
        packet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inner_packets_are_numbered_and_their_checksums_are_right() {
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
            assert_eq!(checksum::of(&bytes[..20]), 0);
            let sum =
                checksum::Sum::pseudo_header(source, target.ip(), 17, (8 + size) as u32).unwrap();
            assert_eq!(sum.plus(&bytes[20..]).finish(), 0);
        }
        assert!(InnerPacket::between(source, "[::1]:1".parse().unwrap()).is_none());
    }
}
