//! Ingress: from the receive on a socket to the write into a tunnel's device. The mirror image is [`egress`](super::egress).
//!
//! ```text
//!   1 receive a batch                          6 copy ECN marks from the outer header
//!   2 classify: keepalive · IKE · ESP          7 MSS clamp
//!   3 sort by SA, in order within each SA      8 parse; martian and loop check
//!   4 find the SA by its SPI and lock it       9 coalesce with other packets of the flow
//!   5 open a group: a to h in `esp::Inbound`  10 write into the device
//!                                             11 report events of the SA, unlock it
//! ```
//!
//! One worker does this for the sockets of all addresses; where several sockets share port 4500, each has a worker of its own. An ESP
//! packet belongs to the SA that its SPI names, whatever its socket and its source (RFC 4301 §4.1).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::counters::PacketDropCounters;
use super::early_packets::{EarlyPacket, HoldOutcome};
use super::notice::{MAX_IKE_MESSAGE, Notice, NoticeSender};
use super::outer::OuterMeta;
use super::profile::{self, ProfileStep, StepTotals};
use super::sa_events::InboundSummary;
use super::tables::{InboundEntry, InboundTable, ReadOutcome, TunnelShared};
use crate::esp::{InboundGuard, RxPacket};
use crate::net::demux::{self, NatPayload};
use crate::net::segment::{
    Coalesced, Coalescer, GsoPacket, PacketOffload, UdpCoalescing, segments,
};
use crate::net::{DropReason, Packet, Time, TokenBucket, mss, traffic_class};
use crate::os::{GsoSupport, OutPacket, RecvBatch, Socket};

/// Ingress of one worker.
pub(super) struct Ingress {
    rx: RecvBatch,
    /// The allocation of the batch's list of ESP packets; empty between batches.
    spare: Vec<EspPacket<'static>>,
    /// Outer headers of the batch's datagrams.
    outer: Vec<OuterMeta>,
    /// The distinct SPIs of the batch, in order of arrival.
    spis: Vec<u32>,
    context: IngressContext,
    totals: Arc<StepTotals>,
}

/// What a worker needs for every packet.
pub(super) struct IngressContext {
    table: Arc<InboundTable>,
    /// Packets dropped that belong to no tunnel.
    unmatched: Arc<PacketDropCounters>,
    notices: NoticeSender,
    unknown_spi: TokenBucket,
    coalescer: Coalescer,
}

/// A socket and the protocols that it receives.
#[derive(Clone)]
pub(super) struct SocketEntry {
    pub(super) socket: Arc<dyn Socket>,
    pub(super) receives: Receives,
}

/// The protocols of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receives {
    /// UDP 500: IKE.
    Ike,
    /// UDP 4500: IKE, ESP and NAT keepalives.
    IkeAndEsp,
    /// IP protocol 50: ESP.
    Esp,
}

/// An ESP packet of the batch.
struct EspPacket<'p> {
    bytes: &'p mut [u8],
    /// The index of its SPI in the batch's list.
    spi: u32,
    /// Its number in the batch.
    number: u32,
    /// The index of its outer header in the batch's list.
    outer: u32,
}

impl Ingress {
    pub(super) fn new(
        table: Arc<InboundTable>,
        unmatched: Arc<PacketDropCounters>,
        notices: NoticeSender,
        totals: Arc<StepTotals>,
    ) -> Ingress {
        Ingress {
            rx: RecvBatch::new(),
            spare: Vec::new(),
            outer: Vec::with_capacity(RecvBatch::MAX_DATAGRAMS),
            spis: Vec::with_capacity(RecvBatch::MAX_DATAGRAMS),
            context: IngressContext::new(table, unmatched, notices),
            totals,
        }
    }

    /// Takes one batch of a socket through all steps.
    pub(super) fn run_batch(&mut self, entry: &SocketEntry, now: Time) -> ReadOutcome {
        let Ingress {
            rx,
            spare,
            outer,
            spis,
            context,
            totals,
        } = self;
        let _profile = profile::batch(ProfileStep::Join, totals);
        outer.clear();
        spis.clear();

        let outcome = context.receive(entry, rx);
        let mut packets = reuse(std::mem::take(spare));
        // Passed on after the batch's ESP: a DELETE must not remove the SA of packets that arrived before it.
        let mut ike = Vec::new();
        context.classify(entry, rx, outer, spis, (&mut packets, &mut ike));

        // 3. Packets of one SA in a row, so that they fill the SIMD lanes however the SAs interleave. Unstable sorting needs no
        // allocation; the number keeps the order within an SA.
        if !packets.is_sorted_by_key(|packet| packet.spi) {
            packets.sort_unstable_by_key(|packet| (packet.spi, packet.number));
        }
        for same_sa in packets.chunk_by_mut(|a, b| a.spi == b.spi) {
            context.run_sa(spis, outer, same_sa, now);
        }
        for message in ike {
            context.notify(message);
        }
        *spare = reuse(packets);
        rx.clear();
        outcome
    }
}

/// An empty list in the allocation of another, whose elements borrowed from another batch.
#[expect(
    clippy::unnecessary_filter_map,
    reason = "`filter` would keep the lifetime"
)]
fn reuse<'b>(mut packets: Vec<EspPacket<'_>>) -> Vec<EspPacket<'b>> {
    packets.clear();
    // Collecting in place keeps the allocation; tests/allocations.rs would notice if it did not.
    packets.into_iter().filter_map(|_| None).collect()
}

impl IngressContext {
    pub(super) fn new(
        table: Arc<InboundTable>,
        unmatched: Arc<PacketDropCounters>,
        notices: NoticeSender,
    ) -> IngressContext {
        IngressContext {
            table,
            unmatched,
            notices,
            unknown_spi: TokenBucket::new(5, Duration::from_secs(1)),
            coalescer: Coalescer::new(),
        }
    }

    /// Takes packets that have waited for their SA through steps 4 to 11.
    pub(super) fn open_held(&mut self, spi: u32, mut held: Vec<EarlyPacket>, now: Time) {
        let outer: Vec<OuterMeta> = held.iter().map(|packet| packet.outer).collect();
        let numbered = (0..).zip(held.iter_mut());
        let mut packets: Vec<EspPacket<'_>> = numbered
            .map(|(number, packet)| EspPacket {
                bytes: &mut packet.bytes,
                spi: 0,
                number,
                outer: number,
            })
            .collect();
        self.run_sa(&[spi], &outer, &mut packets, now);
    }

    /// 1. A batch from the socket.
    fn receive(&self, entry: &SocketEntry, rx: &mut RecvBatch) -> ReadOutcome {
        let _step = profile::enter(ProfileStep::Receive);
        match entry.socket.recv(rx) {
            Ok(count) if count >= rx.limit() => ReadOutcome::More,
            Ok(_) => ReadOutcome::Done,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ReadOutcome::Empty,
            Err(_) => {
                self.unmatched.add(DropReason::ReceiveFailed, 1);
                ReadOutcome::Failed
            }
        }
    }

    /// 2. Collects the ESP packets and the IKE messages.
    fn classify<'p>(
        &self,
        entry: &SocketEntry,
        rx: &'p mut RecvBatch,
        outer: &mut Vec<OuterMeta>,
        spis: &mut Vec<u32>,
        (packets, ike): (&mut Vec<EspPacket<'p>>, &mut Vec<Notice>),
    ) {
        let port = entry.socket.local().port();
        for datagram in rx.iter_mut() {
            let meta = OuterMeta {
                local: SocketAddr::new(datagram.local, port),
                remote: datagram.remote,
                class: datagram.class,
            };
            let outer_index = outer.len() as u32;
            outer.push(meta);
            if datagram.bytes.is_empty() {
                self.unmatched.add(DropReason::Stray, 1);
            }
            for bytes in datagram.bytes.chunks_mut(datagram.segment.max(1)) {
                match entry.receives.payload(bytes) {
                    NatPayload::Keepalive => {}
                    NatPayload::Ike(message) => ike.extend(self.ike_notice(message, &meta)),
                    NatPayload::Truncated => self.unmatched.add(DropReason::Stray, 1),
                    NatPayload::Esp(spi) => packets.push(EspPacket {
                        spi: index_of(spi, spis),
                        number: packets.len() as u32,
                        outer: outer_index,
                        bytes,
                    }),
                }
            }
        }
    }

    /// 2. An IKE message goes to the control plane if its header states its length (RFC 7296 §3.1).
    fn ike_notice(&self, message: &[u8], outer: &OuterMeta) -> Option<Notice> {
        const HEADER: usize = 28;
        let stated = message
            .first_chunk::<HEADER>()
            .and_then(|header| header.last_chunk::<4>());
        let whole =
            stated.is_some_and(|length| u32::from_be_bytes(*length) as usize == message.len());
        if !whole || message.len() > MAX_IKE_MESSAGE {
            self.unmatched.add(DropReason::Stray, 1);
            return None;
        }
        Some(Notice::Ike {
            local: outer.local,
            remote: outer.remote,
            bytes: message.to_vec(),
        })
    }

    fn notify(&self, notice: Notice) {
        if let Err(reason) = self.notices.send(notice) {
            self.unmatched.add(reason, 1);
        }
    }

    /// Steps 4 to 11 for the batch's packets of one SPI.
    fn run_sa(
        &mut self,
        spis: &[u32],
        outer: &[OuterMeta],
        packets: &mut [EspPacket<'_>],
        now: Time,
    ) {
        // 4. The SA.
        let Some(first) = packets.first() else { return };
        let spi = spis.get(first.spi as usize).copied().unwrap_or(0);
        let first = first.outer;
        let shard = self.table.shard(spi);
        if let Some(entry) = shard.get(&spi) {
            return self.open_sa(entry, outer, packets, now);
        }
        let early = packets.iter().filter_map(|packet| {
            let outer = outer.get(packet.outer as usize)?;
            Some((*outer, &*packet.bytes))
        });
        match self.table.early.hold(spi, early, now) {
            HoldOutcome::Held => return,
            // The SA may have been installed after the first lookup.
            HoldOutcome::Installed | HoldOutcome::Unknown => {
                let shard = self.table.shard(spi);
                if let Some(entry) = shard.get(&spi) {
                    return self.open_sa(entry, outer, packets, now);
                }
            }
        }
        let count = packets.len() as u64;
        self.unmatched.add(DropReason::UnknownSpi, count);
        if let Some(outer) = outer.get(first as usize)
            && self.unknown_spi.allow(now)
        {
            let (local, remote) = (outer.local, outer.remote);
            self.notify(Notice::UnknownSpi { spi, local, remote });
        }
    }

    /// Steps 5 to 11 for packets of one SA.
    fn open_sa(
        &mut self,
        entry: &InboundEntry,
        outer: &[OuterMeta],
        packets: &mut [EspPacket<'_>],
        now: Time,
    ) {
        let mut batch = InboundBatch {
            entry,
            guard: entry.sa.lock(),
            moved: None,
        };
        let mut out = TunWriter::new(&entry.tunnel, &mut self.coalescer);
        for group in packets.chunks_mut(InboundGuard::GROUP) {
            batch.open(group, outer, &mut out);
        }
        // Written before another worker can open later packets of the SA.
        out.flush();
        if let Err(reason) = batch.report(now, &self.notices) {
            self.unmatched.add(reason, 1);
        }
    }
}

/// Step 2: the index of an SPI in the batch's list, where a new one is added. Only the latest entries are searched, since a batch may hold
/// thousands of forged SPIs; an SPI that is added twice still keeps its packets in order.
fn index_of(spi: u32, spis: &mut Vec<u32>) -> u32 {
    const SEARCHED: usize = 64;
    let start = spis.len().saturating_sub(SEARCHED);
    let recent = spis.get(start..).unwrap_or_default();
    let index = recent.iter().rposition(|known| *known == spi);
    let index = index.map(|at| at.saturating_add(start)).unwrap_or_else(|| {
        spis.push(spi);
        spis.len().saturating_sub(1)
    });
    index as u32
}

impl Receives {
    /// 2. What a datagram of the socket holds.
    #[inline]
    fn payload(self, datagram: &[u8]) -> NatPayload<'_> {
        match self {
            Receives::Ike => NatPayload::Ike(datagram),
            Receives::IkeAndEsp => demux::port_4500(datagram),
            Receives::Esp => datagram
                .first_chunk::<4>()
                .map_or(NatPayload::Truncated, |spi| {
                    NatPayload::Esp(u32::from_be_bytes(*spi))
                }),
        }
    }
}

/// Packets of one inbound SA, which is locked while they last.
struct InboundBatch<'t> {
    entry: &'t InboundEntry,
    guard: InboundGuard<'t>,
    /// The source of the newest packet, if it is not the peer's known address.
    moved: Option<SocketAddr>,
}

impl InboundBatch<'_> {
    /// Steps 5 to 9 for a group: at most [`InboundGuard::GROUP`] packets, which fill the SIMD lanes.
    fn open(&mut self, group: &mut [EspPacket<'_>], outer: &[OuterMeta], out: &mut TunWriter<'_>) {
        let mut opened: [RxPacket<'_>; InboundGuard::GROUP] =
            std::array::from_fn(|_| RxPacket::new(&mut []));
        for (slot, packet) in opened.iter_mut().zip(group.iter_mut()) {
            slot.esp = std::mem::take(&mut packet.bytes);
        }
        let opened = opened.get_mut(..group.len()).unwrap_or_default();

        // 5. Lengths, replay window, ICV, decryption, padding, selectors.
        {
            let _step = profile::enter(ProfileStep::Open);
            self.guard.open_all(opened);
        }

        for (packet, from) in opened.iter_mut().zip(group) {
            let Some(outer) = outer.get(from.outer as usize) else {
                continue;
            };
            // Native ESP has no ports, so it does not show where a peer behind a NAT is.
            if packet.is_newest && outer.remote.port() != 0 {
                let known = self.entry.remote;
                self.moved = known
                    .filter(|known| *known != outer.remote)
                    .map(|_| outer.remote);
            }
            match self.entry.check_inner(packet, outer) {
                Ok(packet) => out.push(&packet),
                Err(reason) => self.entry.tunnel.counters.dropped.add(reason, 1),
            }
        }
    }

    /// 11. Reports what the control plane should know. The SA is unlocked at the end.
    fn report(self, now: Time, notices: &NoticeSender) -> Result<(), DropReason> {
        let InboundEntry {
            sa, tunnel, events, ..
        } = self.entry;
        let authentic = self.guard.authentic();
        if authentic > 0 {
            tunnel.counters.received_at(now);
        }
        let summary = InboundSummary {
            tunnel: tunnel.id,
            spi: sa.spi(),
            authentic,
            moved: self.moved,
            lifetime: self.guard.stage(),
            now,
        };
        events.report(summary, notices)
    }
}

impl InboundEntry {
    /// Steps 6 to 8: the inner packet, ready for the device.
    #[inline]
    fn check_inner<'a>(
        &self,
        packet: &'a mut RxPacket<'_>,
        outer: &OuterMeta,
    ) -> Result<Packet<'a>, DropReason> {
        let range = packet.inner.clone()?;
        let inner = packet.esp.get_mut(range).ok_or(DropReason::Overflow)?;

        // 6. Congestion on the outer path is reported to the inner packet's receiver (RFC 6040 §4.2).
        traffic_class::decapsulate(inner, outer.class)?;

        // 7. The far end's TCP connections learn what fits, too: the peer may not clamp.
        mss::clamp_mss(inner, self.clamp.v4, self.clamp.v6);

        // 8. Our own outer address is no inner source, and a packet of IKE or ESP to that address would be opened again.
        let packet = Packet::parse(inner)?;
        if packet.source() == self.local {
            return Err(DropReason::Martian);
        }
        if packet.destination() == self.local && demux::is_ipsec(&packet) {
            return Err(DropReason::Loop);
        }
        Ok(packet)
    }
}

/// Inner packets on their way into one device, coalesced into GSO packets where the device takes those.
struct TunWriter<'t> {
    tunnel: &'t TunnelShared,
    /// The GSO packets that the device takes.
    gso: GsoSupport,
    coalescer: &'t mut Coalescer,
}

impl<'t> TunWriter<'t> {
    fn new(tunnel: &'t TunnelShared, coalescer: &'t mut Coalescer) -> TunWriter<'t> {
        // A panic may have left packets of another batch.
        coalescer.flush(&mut |_| {});
        TunWriter {
            tunnel,
            gso: tunnel.device.gso_support(),
            coalescer,
        }
    }

    /// 9. Coalesces a packet with others of its flow.
    #[inline]
    fn push(&mut self, packet: &Packet<'_>) {
        let udp = match self.gso {
            GsoSupport::None => {
                return write(self.tunnel, Coalesced::alone(packet), &mut self.gso);
            }
            GsoSupport::Tcp => UdpCoalescing::Apart,
            GsoSupport::TcpAndUdp => UdpCoalescing::Coalesced,
        };
        let (tunnel, gso) = (self.tunnel, &mut self.gso);
        self.coalescer
            .push(packet, udp, &mut |coalesced| write(tunnel, coalesced, gso));
    }

    /// 9. Writes the packets that still wait for others.
    fn flush(&mut self) {
        let (tunnel, gso) = (self.tunnel, &mut self.gso);
        self.coalescer
            .flush(&mut |coalesced| write(tunnel, coalesced, gso));
    }
}

/// Step 10: writes a packet or a GSO packet. What the device does not take is dropped, as in any router. If the device rejects the kind of GSO
/// packet, `gso` is what it gets from then on.
fn write(tunnel: &TunnelShared, coalesced: Coalesced<'_>, gso: &mut GsoSupport) {
    let out = OutPacket {
        vnet: coalesced.offload.into(),
        bytes: coalesced.bytes,
    };
    let (packets, octets) = (coalesced.packets as u64, coalesced.octets as u64);
    let written = {
        let _step = profile::enter(ProfileStep::Write);
        tunnel.device.write(&[out])
    };
    let reason = match written {
        Ok(1..) => return tunnel.counters.rx.add(packets, octets),
        Ok(0) => DropReason::DeviceFull,
        Err(error) => match (error.kind(), coalesced.offload) {
            (io::ErrorKind::WouldBlock, _) => DropReason::DeviceFull,
            (io::ErrorKind::InvalidInput, PacketOffload::Gso(kind)) => {
                tunnel.device.disable_gso(kind.kind);
                // At least TCP until the end of the batch: a packet that is not coalesced would overtake those that wait.
                *gso = tunnel.device.gso_support().max(GsoSupport::Tcp);
                return write_segments(tunnel, coalesced.bytes, &kind, gso);
            }
            (_, PacketOffload::Gso(_) | PacketOffload::Checksum(_) | PacketOffload::None) => {
                DropReason::SendFailed
            }
        },
    };
    tunnel.counters.dropped.add(reason, packets);
}

/// 10. Writes the segments of a GSO packet that the device has rejected. This happens once or twice in a device's life, so it may allocate.
#[cold]
fn write_segments(tunnel: &TunnelShared, bytes: &[u8], packet: &GsoPacket, gso: &mut GsoSupport) {
    let written = Packet::parse(bytes).and_then(|whole| {
        for segment in segments(&whole, packet)? {
            let mut room = vec![0; segment.len()];
            if segment.write(&mut room) {
                write(tunnel, Coalesced::alone(&Packet::parse(&room)?), gso);
            }
        }
        Ok(())
    });
    if let Err(reason) = written {
        tunnel.counters.dropped.add(reason, 1);
    }
}

#[cfg(test)]
mod tests;
