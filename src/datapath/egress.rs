//! From a tunnel's device to its peer. The mirror image is [`ingress`](super::ingress).
//!
//! ```text
//!   device ─▶ 1 finish the checksum ─▶ 2 clamp TCP ─▶ 3 parse; kernel noise? ─▶ 4 pick the SA ─▶ 5 selectors ─▶ 6 loop?
//!          ─▶ 7 size: tell the sender, or cut ─▶ 8 reserve, seal, commit ─▶ … the whole batch ─▶ socket
//! ```
//!
//! One worker does this for one tunnel, from the read to the send, without a queue, a lock, an allocation or a log line per packet.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::TunnelId;
use super::hold::Hold;
use super::limit::Limiter;
use super::notice::{Bell, Notice};
use super::tables::{Clamp, Lane, Outlet, Path};
use super::worker::{Turn, Work};
use crate::esp::lifetime::Stage;
use crate::net::{Packet, Policy, Refusal, Time, checksum, fragment, icmp, mss};
use crate::os::{MAX_PACKET, OutPacket, ReadBatch, SendBatch, VnetHeader};

/// The worker of one tunnel's device.
pub(super) struct Egress {
    arrivals: ReadBatch,
    road: Road,
}

/// What one packet after the other needs on its way.
struct Road {
    lane: Arc<Lane>,
    bell: Bell,
    departures: SendBatch,
    /// Inner lengths of the packets in `departures`.
    inner: Vec<usize>,
    hold: Hold,
    /// Room for one fragment.
    piece: Vec<u8>,
    /// Room for one ICMP error.
    error: Vec<u8>,
    errors: Limiter,
    demands: Limiter,
    warnings: Limiter,
}

impl Egress {
    pub(super) fn new(lane: Arc<Lane>, bell: Bell) -> Egress {
        let road = Road {
            lane,
            bell,
            departures: SendBatch::new(),
            inner: Vec::with_capacity(SendBatch::PACKETS),
            hold: Hold::default(),
            piece: vec![0; MAX_PACKET],
            error: Vec::with_capacity(1280),
            // RFC 4443 §2.4 (f) and RFC 1812 §4.3.2.8 ask for a limit; a host that ignores the answer asks for every packet.
            errors: Limiter::new(50, Duration::from_millis(10)),
            demands: Limiter::new(1, Duration::from_secs(1)),
            warnings: Limiter::new(1, Duration::from_secs(1)),
        };
        Egress {
            arrivals: ReadBatch::new(),
            road,
        }
    }
}

impl Work for Egress {
    fn turn(&mut self, now: Time) -> Turn {
        let lane = Arc::clone(&self.road.lane);
        let outlet = lane.outlet.load();
        self.road.release(&outlet, now);

        let turn = match lane.device.read(&mut self.arrivals) {
            Ok(count) if count >= ReadBatch::PACKETS => Turn::More,
            Ok(_) => Turn::Done,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Turn::Done,
            Err(_) => Turn::Broken,
        };
        for arrival in self.arrivals.iter_mut() {
            let carried = self.road.carry(&outlet, arrival.vnet, arrival.bytes, now);
            self.road.count(carried);
        }
        self.arrivals.clear();
        self.road.finish(&outlet, now);
        turn
    }

    fn wake_at(&self) -> Option<Time> {
        self.road.hold.until()
    }
}

impl Road {
    /// Takes one packet from the device as far as the outgoing batch.
    fn carry(
        &mut self,
        outlet: &Outlet,
        vnet: VnetHeader,
        bytes: &mut [u8],
        now: Time,
    ) -> Result<(), Refusal> {
        // 1. What the kernel left to a network card that is not there. No offload is asked for, so no packet is several in one.
        if vnet.is_super_packet() {
            return Err(Refusal::Overflow);
        }
        let (start, offset) = (
            usize::from(vnet.checksum_start),
            usize::from(vnet.checksum_offset),
        );
        if vnet.needs_checksum() && !checksum::complete(bytes, start, offset) {
            return Err(Refusal::Malformed);
        }

        // 2. A connection that opens learns what fits, before it sends anything that does not.
        if let Outlet::Open(path) = outlet {
            let clamp = Clamp::to(path.mtu);
            mss::clamp_mss(bytes, clamp.v4, clamp.v6);
        }

        // 3. From here on the headers hold together.
        let packet = Packet::parse(bytes)?;
        if packet.is_kernel_noise() {
            return Err(Refusal::Noise);
        }

        // 4. The SA there is now.
        let path = match outlet {
            Outlet::Closed => return Err(Refusal::NoSa),
            Outlet::Waiting(policy) => return self.wait(policy, &packet, now),
            Outlet::Open(path) => path,
        };

        // 5. What the selectors do not cover never leaves (RFC 4301 §5.1); its sender is told.
        if !path.sa.permits(&packet) {
            self.tell(now, |error| {
                icmp::unreachable(&packet, packet.destination(), error)
            });
            return Err(Refusal::NoPolicy);
        }

        // 6. Our own tunnel, routed into itself, would grow with every round.
        let ours = path.local.is_unspecified() || packet.source() == path.local;
        if ours && packet.destination() == path.remote.ip() && is_tunnel(&packet) {
            return Err(Refusal::Loop);
        }

        // 7. Too big: cut before it is encrypted, or its sender told what fits (RFC 4301 §8.2.1).
        if packet.len() <= usize::from(path.mtu) {
            return self.depart(path, &packet);
        }
        if packet.dont_fragment() {
            self.tell(now, |error| {
                icmp::too_big(&packet, path.mtu, packet.destination(), error)
            });
            return Err(Refusal::TooBig);
        }
        self.cut(path, &packet)
    }

    /// 8. Reserves a place in the outgoing batch, seals into it, and commits it: a packet refused in between leaves no trace.
    fn depart(&mut self, path: &Path, packet: &Packet<'_>) -> Result<(), Refusal> {
        let len = path.sa.sealed_len(packet.len());
        if self
            .departures
            .reserve(path.remote, path.local, len)
            .is_none()
        {
            self.send(path);
        }
        let mut slot = self
            .departures
            .reserve(path.remote, path.local, len)
            .ok_or(Refusal::Overflow)?;
        let sealed = path.sa.seal(packet, slot.bytes())?;
        slot.commit(sealed);
        self.inner.push(packet.len());
        Ok(())
    }

    /// Sends an IPv4 packet in pieces that fit.
    fn cut(&mut self, path: &Path, packet: &Packet<'_>) -> Result<(), Refusal> {
        let mut room = std::mem::take(&mut self.piece);
        let outcome = fragment::fragments(packet, path.mtu).and_then(|mut fragments| {
            fragments.try_for_each(|fragment| {
                let piece = room.get_mut(..fragment.len()).ok_or(Refusal::Overflow)?;
                if !fragment.write(piece) {
                    return Err(Refusal::Overflow);
                }
                self.depart(path, &Packet::parse(piece)?)
            })
        });
        self.piece = room;
        outcome
    }

    /// Keeps a packet until there is an SA, and asks for one.
    fn wait(&mut self, policy: &Policy, packet: &Packet<'_>, now: Time) -> Result<(), Refusal> {
        if !policy.permits_outbound(packet) {
            return Err(Refusal::NoPolicy);
        }
        if self.demands.allow(now) {
            let rung = self.bell.ring(Notice::Demand(self.lane.id));
            self.count(rung);
        }
        self.hold.keep(packet.bytes(), now)
    }

    /// What has waited goes first, if there is an SA now.
    fn release(&mut self, outlet: &Outlet, now: Time) {
        self.lane
            .counters
            .refused
            .add(Refusal::QueueFull, self.hold.give_up(now));
        match outlet {
            Outlet::Waiting(_) => {}
            Outlet::Open(_) | Outlet::Closed => {
                while let Some(mut packet) = self.hold.take() {
                    let carried = self.carry(outlet, VnetHeader::NONE, &mut packet, now);
                    self.count(carried);
                }
            }
        }
    }

    /// The batch leaves; the control plane hears if the SA has not much longer.
    fn finish(&mut self, outlet: &Outlet, now: Time) {
        let Outlet::Open(path) = outlet else { return };
        if !self.departures.is_empty() {
            self.lane.counters.sent_at(now);
            self.send(path);
        }
        match path.sa.stage() {
            Stage::Fresh => {}
            Stage::NearEnd | Stage::Ended => self.warn(self.lane.id, path.sa.spi(), now),
        }
    }

    /// Empties the outgoing batch into the socket. What does not fit the socket's buffer is lost, as in any router; the next
    /// batch finds it drained.
    fn send(&mut self, path: &Path) {
        while !self.departures.is_empty() {
            match path.socket.send(&self.departures) {
                Ok(sent @ 1..) => {
                    let bytes = self
                        .inner
                        .drain(..sent.min(self.inner.len()))
                        .map(|len| len as u64)
                        .sum();
                    self.lane.counters.tx.add(sent as u64, bytes);
                    self.departures.advance(sent);
                }
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    self.lane.counters.refused.add(Refusal::SendFailed, 1);
                    self.inner.drain(..self.inner.len().min(1));
                    self.departures.advance(1);
                }
                Ok(0) | Err(_) => {
                    self.lane
                        .counters
                        .refused
                        .add(Refusal::SocketFull, self.departures.len() as u64);
                    self.departures.clear();
                }
            }
        }
        self.inner.clear();
    }

    /// Writes an ICMP error back into the device. It comes from where the packet was going: an address that is routed through
    /// this device, so that no reverse-path filter drops it, and that is not this machine's own, which its kernel would not accept.
    fn tell(&mut self, now: Time, compose: impl FnOnce(&mut Vec<u8>) -> bool) {
        self.error.clear();
        if self.errors.allow(now)
            && compose(&mut self.error)
            && self
                .lane
                .device
                .write(&[OutPacket::whole(&self.error)])
                .is_err()
        {
            self.lane.counters.refused.add(Refusal::DeviceFull, 1);
        }
    }

    fn warn(&mut self, tunnel: TunnelId, spi_out: u32, now: Time) {
        if self.warnings.allow(now) {
            let rung = self.bell.ring(Notice::SequenceNearEnd { tunnel, spi_out });
            self.count(rung);
        }
    }

    fn count(&self, outcome: Result<(), Refusal>) {
        if let Err(refusal) = outcome {
            self.lane.counters.refused.add(refusal, 1);
        }
    }
}

/// Whether a packet is what tunnels are made of: ESP, or UDP to an IKE port.
pub(super) fn is_tunnel(packet: &Packet<'_>) -> bool {
    const UDP: u8 = 17;
    const ESP: u8 = 50;
    match packet.protocol() {
        ESP => true,
        UDP => packet
            .ports()
            .is_some_and(|(_, port)| port == super::IKE_PORT || port == super::NAT_PORT),
        _ => false,
    }
}
