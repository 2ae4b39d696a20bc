//! Packets in a row under one inbound SA, which is held as long as they last. Steps 3 to 6 of [`ingress`](super::ingress).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::classify::is_tunnel;
use super::notice::NoticeSender;
use super::profile::ProfileStep;
use super::sa_events::Seen;
use super::tables::{InboundEntry, TunnelShared};
use super::tun_writer::TunWriter;
use crate::esp::{Entry, InboundGuard, RxPacket};
use crate::net::{DropReason, Packet, Time, mss, traffic_class};

/// Such a row. Packets wait in it until they fill the lanes, or no more come.
pub(super) struct Run<'t, 'p> {
    entry: &'t Entry<InboundEntry>,
    opening: InboundGuard<'t>,
    /// Where the newest packet came from, if not from where the peer is known to be.
    moved: Option<SocketAddr>,
    arrivals: [RxPacket<'p>; InboundGuard::GROUP],
    outers: [OuterMeta; InboundGuard::GROUP],
    waiting: usize,
}

/// What counts of a packet's outer header.
#[derive(Clone, Copy)]
pub(super) struct OuterMeta {
    pub(super) remote: SocketAddr,
    /// TOS or traffic class.
    pub(super) class: u8,
}

const NOWHERE: OuterMeta = OuterMeta {
    remote: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
    class: 0,
};

impl<'t, 'p> Run<'t, 'p> {
    /// Takes the SA.
    pub(super) fn begin(entry: &'t Entry<InboundEntry>) -> Run<'t, 'p> {
        Run {
            entry,
            opening: entry.sa.lock(),
            moved: None,
            arrivals: std::array::from_fn(|_| RxPacket::new(&mut [])),
            outers: [NOWHERE; InboundGuard::GROUP],
            waiting: 0,
        }
    }

    /// Whether it is this SA that is held.
    pub(super) fn is_under(&self, entry: &Entry<InboundEntry>) -> bool {
        Arc::ptr_eq(&self.entry.sa, &entry.sa)
    }

    /// The tunnel of the SA.
    fn lane(&self) -> &'t Arc<TunnelShared> {
        &self.entry.extra.lane
    }

    /// One more ESP packet; as many as fill the lanes are opened, and go on `out`.
    pub(super) fn push(&mut self, esp: &'p mut [u8], outer: OuterMeta, out: &mut TunWriter<'t>) {
        let mut places = self.arrivals.iter_mut().zip(&mut self.outers);
        if let Some((arrival, place)) = places.nth(self.waiting) {
            *arrival = RxPacket::new(esp);
            *place = outer;
            self.waiting = self.waiting.saturating_add(1);
        }
        if self.waiting >= InboundGuard::GROUP {
            self.open(out);
        }
    }

    /// Opens the packets that wait where they lie, and hands on their inner packets, ready for the device.
    fn open(&mut self, out: &mut TunWriter<'t>) {
        let (lane, inlet) = (self.lane(), &self.entry.extra);
        let waiting = std::mem::take(&mut self.waiting);
        let arrivals = self.arrivals.get_mut(..waiting).unwrap_or_default();

        // 3. Everything the SA itself decides.
        out.watch.lap(ProfileStep::Join);
        self.opening.open_all(arrivals);
        out.watch.lap(ProfileStep::Open);

        for (arrival, outer) in arrivals.iter_mut().zip(&self.outers) {
            // Native ESP has no ports: it does not say where a peer behind a NAT is.
            if arrival.is_newest && outer.remote.port() != 0 {
                // Compared once a packet, told once a run.
                self.moved = inlet
                    .remote
                    .filter(|known| *known != outer.remote)
                    .map(|_| outer.remote);
            }
            match check_inner(arrival, *outer, inlet) {
                Ok(packet) => out.push(lane, &packet),
                Err(reason) => lane.counters.refused.add(reason, 1),
            }
        }
    }

    /// Gives the SA back. If any packet was the peer's own, the peer lives.
    ///
    /// # Errors
    /// There was no room for what the control plane should hear.
    pub(super) fn end(
        mut self,
        out: &mut TunWriter<'t>,
        now: Time,
        notices_tx: &NoticeSender,
    ) -> Result<(), DropReason> {
        self.open(out);
        // Written before another worker may open what comes after them.
        out.flush();
        let Run {
            entry,
            opening,
            moved,
            ..
        } = self;
        let (authentic, stage) = (opening.authentic(), opening.stage());
        let InboundEntry { lane, watch, .. } = &entry.extra;
        if authentic > 0 {
            lane.counters.heard_at(now);
        }
        let seen = Seen {
            tunnel: lane.id,
            spi: entry.sa.spi(),
            authentic,
            moved,
            stage,
            now,
        };
        watch.tell(seen, notices_tx)
    }
}

/// What an opened packet is on this side of the tunnel.
fn check_inner<'a>(
    arrival: &'a mut RxPacket<'_>,
    outer: OuterMeta,
    inlet: &InboundEntry,
) -> Result<Packet<'a>, DropReason> {
    let range = arrival.inner.clone()?;
    let inner = arrival.esp.get_mut(range).ok_or(DropReason::Overflow)?;

    // 4. What routers on the way said about congestion is for the inner packet's receiver.
    traffic_class::decapsulate(inner, outer.class)?;

    // 5. The far end's connections learn what fits, too: the peer may not clamp.
    mss::clamp_mss(inner, inlet.clamp.v4, inlet.clamp.v6);

    // 6. Our own outer address comes from nobody but us, and what goes to it as a tunnel would open another layer of this one.
    let packet = Packet::parse(inner)?;
    if packet.source() == inlet.local {
        return Err(DropReason::Martian);
    }
    if packet.destination() == inlet.local && is_tunnel(&packet) {
        return Err(DropReason::Loop);
    }
    Ok(packet)
}
