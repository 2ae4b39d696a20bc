//! Egress: from the read of a tunnel's device to the send to its peer. The mirror image is [`ingress`](super::ingress).
//!
//! ```text
//!    1 read a batch                          7 size: split a GSO packet, fragment, or ICMP "too big"
//!    2 checksum that the kernel left undone  8 push: a reserve · b payload · c ESP header and trailer · d commit · e seal a group
//!    3 MSS clamp                             9 send the batch
//!    4 parse, drop kernel noise             10 report the lifetime of the SA
//!    5 outbound SA, by its selectors            no SA: the trap queue; its packets leave before step 1
//!    6 loop check
//! ```
//!
//! One worker does this for a tunnel without a queue, a lock, an allocation or a log line per packet. A GSO packet of up to 64 KiB takes
//! steps 1 to 7 once, and step 8 for each of its segments.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::counters::Counters;
use super::icmp_errors::IcmpErrors;
use super::notice::{ChildSpi, Notice, NoticeSender, RateLimitedNotice};
use super::profile::{self, ProfileStep, StepTotals};
use super::sa_events::LifetimeEvents;
use super::tables::{EgressPath, EgressState, MssClamp, ReadOutcome, TunnelShared};
use super::trap_queue::TrapQueue;
use crate::esp::{FramedPacket, OutboundGuard};
use crate::net::demux;
use crate::net::fragment::{self, Fragment};
use crate::net::segment::{GsoPacket, PacketOffload, Segment, segments};
use crate::net::{DropReason, Packet, Policy, Time, mss, traffic_class};
use crate::os::{MAX_PACKET, ReadBatch, SendBatch, SendError, VnetHeader};

/// Egress of one tunnel: what stays from batch to batch.
pub(super) struct TunnelEgress {
    tunnel: Arc<TunnelShared>,
    trap_queue: TrapQueue,
    icmp: IcmpErrors,
    demand: RateLimitedNotice,
    device_gone: RateLimitedNotice,
    lifetime: LifetimeEvents,
    notices: NoticeSender,
}

/// The buffers of one worker, used for the batches of all its tunnels.
pub(super) struct EgressScratch {
    rx: ReadBatch,
    tx: TxBatch,
    /// Room for one segment that has to be fragmented.
    segment: Vec<u8>,
    totals: Arc<StepTotals>,
}

/// What happens to the packets of one batch.
enum EgressAction<'t> {
    Drop,
    Trap(&'t Policy),
    Send(ActiveSa<'t>),
}

/// The outbound SA in use, locked for the batch.
struct ActiveSa<'t> {
    /// All outbound SAs of the tunnel.
    paths: &'t [EgressPath],
    /// The index in `paths` of the one in use.
    index: usize,
    path: &'t EgressPath,
    guard: OutboundGuard<'t>,
    /// Octets of the longest ESP packet that the path carries whole.
    max_sealed: usize,
    counters: &'t Counters,
}

const DEMAND_INTERVAL: Duration = Duration::from_secs(1);
const DEVICE_GONE_INTERVAL: Duration = Duration::from_secs(60);

impl EgressScratch {
    pub(super) fn new(totals: Arc<StepTotals>) -> EgressScratch {
        EgressScratch {
            rx: ReadBatch::new(),
            tx: TxBatch::new(),
            segment: vec![0; MAX_PACKET],
            totals,
        }
    }
}

impl TunnelEgress {
    pub(super) fn new(tunnel: Arc<TunnelShared>, notices: &NoticeSender) -> TunnelEgress {
        TunnelEgress {
            tunnel,
            trap_queue: TrapQueue::default(),
            icmp: IcmpErrors::new(),
            demand: RateLimitedNotice::every(DEMAND_INTERVAL, notices),
            device_gone: RateLimitedNotice::every(DEVICE_GONE_INTERVAL, notices),
            lifetime: LifetimeEvents::default(),
            notices: notices.clone(),
        }
    }

    pub(super) fn tunnel(&self) -> &Arc<TunnelShared> {
        &self.tunnel
    }

    /// When the tunnel has work even if its device is not readable.
    pub(super) fn wake_at(&self) -> Option<Time> {
        self.trap_queue.expires_at()
    }

    /// Takes the trapped packets and one batch of the device through all steps.
    pub(super) fn run_batch(&mut self, scratch: &mut EgressScratch, now: Time) -> ReadOutcome {
        let tunnel = Arc::clone(&self.tunnel);
        let state = tunnel.egress.load();
        let EgressScratch {
            rx,
            tx,
            segment,
            totals,
        } = scratch;
        let _profile = profile::batch(ProfileStep::Split, totals);
        // A panic may have left packets of another batch.
        tx.clear();

        let mut action = EgressAction::new(&state, &tunnel.counters);
        self.release_trapped(&mut action, tx, segment, now);
        let outcome = self.read(rx, now);
        for packet in rx.iter_mut() {
            let done = self.process(&mut action, tx, segment, (packet.vnet, packet.bytes), now);
            self.count(done);
        }
        rx.clear();
        if let EgressAction::Send(active) = &action {
            tx.send(active);
            if tx.sent_any {
                tunnel.counters.sent_at(now);
            }
            self.report_lifetime(active, now);
        }
        outcome
    }

    /// Packets that have waited for an SA leave first, or are dropped with the tunnel's other packets.
    fn release_trapped(
        &mut self,
        action: &mut EgressAction<'_>,
        tx: &mut TxBatch,
        segment: &mut [u8],
        now: Time,
    ) {
        let expired = self.trap_queue.expire(now);
        self.tunnel
            .counters
            .dropped
            .add(DropReason::QueueFull, expired);
        if matches!(action, EgressAction::Trap(_)) {
            return;
        }
        while let Some(mut packet) = self.trap_queue.pop() {
            let done = self.process(action, tx, segment, (VnetHeader::NONE, &mut packet), now);
            self.count(done);
        }
    }

    /// 1. A batch from the device.
    fn read(&mut self, rx: &mut ReadBatch, now: Time) -> ReadOutcome {
        let _step = profile::enter(ProfileStep::Read);
        match self.tunnel.device.read(rx) {
            Ok(_) if rx.is_full() => ReadOutcome::More,
            Ok(_) => ReadOutcome::Done,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ReadOutcome::Empty,
            Err(error) => {
                if error.kind() == io::ErrorKind::NotConnected {
                    let gone = Notice::DeviceGone(self.tunnel.id);
                    let sent = self.device_gone.send(gone, now);
                    self.count(sent);
                }
                ReadOutcome::Failed
            }
        }
    }

    /// Steps 2 to 5: from the device's packet to the SA that it leaves under.
    fn process(
        &mut self,
        action: &mut EgressAction<'_>,
        tx: &mut TxBatch,
        segment: &mut [u8],
        (vnet, bytes): (VnetHeader, &mut [u8]),
        now: Time,
    ) -> Result<(), DropReason> {
        // 2. The kernel leaves checksums and segmentation to the device.
        let gso = match vnet.offload()? {
            PacketOffload::None => None,
            PacketOffload::Checksum(partial) => {
                partial.complete(bytes)?;
                None
            }
            PacketOffload::Gso(gso) => Some(gso),
        };

        // 3. A TCP connection learns the segment size that fits before it sends any data.
        if let (EgressAction::Send(active), None) = (&*action, &gso) {
            let mtus = active.paths.iter().map(|path| path.mtu);
            let clamp = MssClamp::for_mtu(mtus.min().unwrap_or(active.path.mtu));
            mss::clamp_mss(bytes, clamp.v4, clamp.v6);
        }

        // 4. From here on the headers are consistent. The TTL is not looked at: the kernel has decremented it, and 1 is valid.
        let packet = Packet::parse(bytes)?;
        if packet.is_kernel_noise() {
            return Err(DropReason::Noise);
        }

        // 5. The first SA whose selectors cover the packet. Nothing else leaves (RFC 4301 §5.1).
        let active = match action {
            EgressAction::Drop => return Err(DropReason::NoSa),
            EgressAction::Trap(policy) => return self.trap(policy, &packet, gso.as_ref(), now),
            EgressAction::Send(active) => active,
        };
        let Some(index) = active.find(&packet) else {
            self.icmp.prohibited(&self.tunnel, &packet, now);
            return Err(DropReason::NoPolicy);
        };
        if index != active.index {
            self.switch_sa(action, index, tx, now)?;
        }
        let EgressAction::Send(active) = action else {
            return Err(DropReason::NoSa);
        };
        self.transmit(active, tx, segment, &packet, gso.as_ref(), now)
    }

    /// 5. Without an SA: keeps the packet, or each segment of a GSO packet, and asks for an SA.
    #[cold]
    fn trap(
        &mut self,
        policy: &Policy,
        packet: &Packet<'_>,
        gso: Option<&GsoPacket>,
        now: Time,
    ) -> Result<(), DropReason> {
        if !policy.permits_outbound(packet) {
            return Err(DropReason::NoPolicy);
        }
        let sent = self.demand.send(Notice::Demand(self.tunnel.id), now);
        self.count(sent);
        let Some(gso) = gso else {
            let room = self.trap_queue.push(packet.len(), now)?;
            room.copy_from_slice(packet.bytes());
            return Ok(());
        };
        for segment in segments(packet, gso)? {
            let room = self.trap_queue.push(segment.len(), now);
            let kept = room.and_then(|room| match segment.write(room) {
                true => Ok(()),
                false => Err(DropReason::Overflow),
            });
            self.count(kept);
        }
        Ok(())
    }

    /// 5. Another SA than that of the packet before: packets framed under the old SA are sealed before the old SA is unlocked.
    #[cold]
    fn switch_sa<'t>(
        &mut self,
        action: &mut EgressAction<'t>,
        index: usize,
        tx: &mut TxBatch,
        now: Time,
    ) -> Result<(), DropReason> {
        let EgressAction::Send(active) = action else {
            return Err(DropReason::NoSa);
        };
        let (paths, counters) = (active.paths, active.counters);
        let next = paths.get(index).ok_or(DropReason::NoSa)?;
        tx.seal(active);
        if !Arc::ptr_eq(&next.socket, &active.path.socket) {
            tx.send(active);
        }
        self.report_lifetime(active, now);
        // Unlocks the old SA before the new one is locked: a worker never holds two.
        *action = EgressAction::Drop;
        *action = EgressAction::Send(ActiveSa::lock(paths, index, next, counters));
        Ok(())
    }

    /// Steps 6 to 8: from the SA to the outgoing batch.
    #[inline]
    fn transmit(
        &mut self,
        active: &mut ActiveSa<'_>,
        tx: &mut TxBatch,
        room: &mut [u8],
        packet: &Packet<'_>,
        gso: Option<&GsoPacket>,
        now: Time,
    ) -> Result<(), DropReason> {
        // 6. The tunnel's own ESP packets, routed into its device, would grow with every round.
        let path = active.path;
        let ours = path.local.is_unspecified() || packet.source() == path.local;
        if ours && packet.destination() == path.remote.ip() && demux::is_ipsec(packet) {
            return Err(DropReason::Loop);
        }

        // 7. Too big: fragmented before encryption, or reported to the sender (RFC 4301 §8.2.1).
        let segments = gso.map(|gso| segments(packet, gso)).transpose()?;
        let longest = segments
            .as_ref()
            .map_or(packet.len(), |segments| segments.longest());
        let fits = longest <= usize::from(path.mtu);
        if !fits && packet.dont_fragment() {
            self.icmp.too_big(&self.tunnel, packet, path.mtu, now);
            return Err(DropReason::TooBig);
        }

        // 8. Into the outgoing batch.
        match segments {
            None if fits => tx.push(active, packet, Payload::Packet),
            None => tx.push_fragments(active, packet),
            Some(segments) => {
                for segment in segments {
                    let pushed = if fits {
                        tx.push(active, packet, Payload::Segment(&segment))
                    } else {
                        tx.push_segment_fragments(active, &segment, room)
                    };
                    self.count(pushed);
                }
                Ok(())
            }
        }
    }

    /// 10. Reports an SA that approaches a limit of its lifetime, or has reached it.
    fn report_lifetime(&mut self, active: &ActiveSa<'_>, now: Time) {
        let reported = self.lifetime.report(
            self.tunnel.id,
            ChildSpi::Out(active.path.sa.spi()),
            active.guard.stage(),
            now,
            &self.notices,
        );
        self.count(reported);
    }

    /// Counts a failure to read the device or to wait for it.
    pub(super) fn count_failure(&self) {
        self.count(Err(DropReason::DeviceFailed));
    }

    fn count(&self, outcome: Result<(), DropReason>) {
        if let Err(reason) = outcome {
            self.tunnel.counters.dropped.add(reason, 1);
        }
    }
}

impl<'t> EgressAction<'t> {
    fn new(state: &'t EgressState, counters: &'t Counters) -> EgressAction<'t> {
        match state {
            EgressState::Closed => EgressAction::Drop,
            EgressState::Trap(policy) => EgressAction::Trap(policy),
            EgressState::Open(paths) => match paths.first() {
                Some(first) => EgressAction::Send(ActiveSa::lock(paths, 0, first, counters)),
                None => EgressAction::Drop,
            },
        }
    }
}

impl<'t> ActiveSa<'t> {
    fn lock(
        paths: &'t [EgressPath],
        index: usize,
        path: &'t EgressPath,
        counters: &'t Counters,
    ) -> ActiveSa<'t> {
        ActiveSa {
            paths,
            index,
            path,
            guard: path.sa.lock(),
            max_sealed: path.sa.sealed_len(usize::from(path.mtu)),
            counters,
        }
    }

    /// 5. The index of the first SA whose selectors cover the packet.
    #[inline]
    fn find(&self, packet: &Packet<'_>) -> Option<usize> {
        self.paths.iter().position(|path| path.sa.permits(packet))
    }
}

/// What step 8 writes into its slot: a whole packet, or a part of it.
#[derive(Clone, Copy)]
enum Payload<'p> {
    Packet,
    Segment(&'p Segment<'p>),
    Fragment(&'p Fragment<'p>),
}

/// The outgoing batch of ESP packets. Packets lie where they leave from; a group is framed first, then sealed at once in SIMD lanes.
struct TxBatch {
    batch: SendBatch,
    /// Length of each inner packet in `batch`.
    inner_lens: Vec<usize>,
    /// Packets at the end of `batch` that are framed and not sealed.
    framed: Vec<FramedPacket>,
    /// Octets of `framed`.
    framed_len: usize,
    /// Whether any packet has been sent since the last [`TxBatch::clear`].
    sent_any: bool,
}

impl TxBatch {
    fn new() -> TxBatch {
        TxBatch {
            batch: SendBatch::new(),
            inner_lens: Vec::with_capacity(SendBatch::MAX_PACKETS),
            framed: Vec::with_capacity(OutboundGuard::GROUP),
            framed_len: 0,
            sent_any: false,
        }
    }

    fn clear(&mut self) {
        self.batch.clear();
        self.inner_lens.clear();
        self.framed.clear();
        self.framed_len = 0;
        self.sent_any = false;
    }

    /// 8. Frames one packet in the outgoing batch. `packet` is the whole inner packet, `payload` the part of it that leaves.
    #[inline]
    fn push(
        &mut self,
        active: &mut ActiveSa<'_>,
        packet: &Packet<'_>,
        payload: Payload<'_>,
    ) -> Result<(), DropReason> {
        let path = active.path;
        let len = match payload {
            Payload::Packet => packet.len(),
            Payload::Segment(segment) => segment.len(),
            Payload::Fragment(fragment) => fragment.len(),
        };

        // 8a. A slot for the sealed packet. A full batch is sent first. Dropping the slot uncommitted rolls it back.
        let class = traffic_class::encapsulated(packet.traffic_class(), path.dscp);
        let sealed = path.sa.padded_len(len, active.max_sealed);
        let mut slot = match self.batch.reserve(path.remote, path.local, class, sealed) {
            Some(slot) => slot,
            None if sealed > SendBatch::MAX_UDP_PAYLOAD => return Err(DropReason::Overflow),
            None => {
                self.send(active);
                let slot = self.batch.reserve(path.remote, path.local, class, sealed);
                slot.ok_or(DropReason::Overflow)?
            }
        };

        // 8b. The payload.
        let room = slot.bytes();
        let inner = room
            .get_mut(path.sa.payload(len))
            .ok_or(DropReason::Overflow)?;
        let written = match payload {
            Payload::Packet => {
                inner.copy_from_slice(packet.bytes());
                true
            }
            Payload::Segment(segment) => segment.write(inner),
            Payload::Fragment(fragment) => fragment.write(inner),
        };
        if !written {
            return Err(DropReason::Overflow);
        }

        // 8c. Sequence number, ESP header and trailer.
        let framed = active.guard.frame(packet, len, room)?;

        // 8d. The packet is part of the batch.
        slot.commit(sealed);
        self.inner_lens.push(len);
        self.framed.push(framed);
        self.framed_len = self.framed_len.saturating_add(sealed);

        // 8e. A full group is sealed while the first-level cache holds it.
        if self.framed.len() >= OutboundGuard::GROUP {
            self.seal(active);
        }
        Ok(())
    }

    /// 8. An IPv4 packet in fragments.
    fn push_fragments(
        &mut self,
        active: &mut ActiveSa<'_>,
        packet: &Packet<'_>,
    ) -> Result<(), DropReason> {
        fragment::fragments(packet, active.path.mtu)?
            .try_for_each(|fragment| self.push(active, packet, Payload::Fragment(&fragment)))
    }

    /// 8. A segment of an IPv4 GSO packet, in fragments.
    #[cold]
    fn push_segment_fragments(
        &mut self,
        active: &mut ActiveSa<'_>,
        segment: &Segment<'_>,
        room: &mut [u8],
    ) -> Result<(), DropReason> {
        let room = room.get_mut(..segment.len()).ok_or(DropReason::Overflow)?;
        if !segment.write(room) {
            return Err(DropReason::Overflow);
        }
        self.push_fragments(active, &Packet::parse(room)?)
    }

    /// 8e. Seals what is framed. After a failure nothing of the batch leaves.
    fn seal(&mut self, active: &ActiveSa<'_>) {
        if self.framed.is_empty() {
            return;
        }
        let _step = profile::enter(ProfileStep::Seal);
        let room = self.batch.last_mut(self.framed_len).unwrap_or_default();
        match active.guard.seal_all(&self.framed, room) {
            Ok(()) => {
                self.framed.clear();
                self.framed_len = 0;
            }
            Err(reason) => {
                let dropped = self.batch.len() as u64;
                active.counters.dropped.add(reason, dropped);
                self.clear();
            }
        }
    }

    /// 9. Sends the batch. Packets for which the socket's buffer has no room are dropped, as in any router.
    fn send(&mut self, active: &ActiveSa<'_>) {
        self.seal(active);
        let _step = profile::enter(ProfileStep::Send);
        let counters = active.counters;
        let mut next = 0_usize;
        // How many packets the next failure drops that says nothing about other packets.
        let mut penalty = 1_usize;
        while !self.batch.is_empty() {
            let failure = match active.path.socket.send(&self.batch) {
                Ok(sent @ 1..) => {
                    let end = next.saturating_add(sent);
                    let lens = self.inner_lens.get(next..end).unwrap_or_default();
                    let bytes = lens.iter().map(|len| *len as u64).sum();
                    counters.tx.add(sent as u64, bytes);
                    self.batch.advance(sent);
                    self.sent_any = true;
                    (next, penalty) = (end, 1);
                    continue;
                }
                Ok(0) => SendError::NoBuffers,
                Err(error) => SendError::from(&error),
            };
            let dropped = self.drop_unsent(failure, &mut penalty, counters);
            next = next.saturating_add(dropped);
        }
        self.inner_lens.clear();
    }

    /// Step 9: drops the packet that could not be sent, and those that would fail like it: a system call for each would only burn the
    /// core. Where a failure says nothing about other packets, each one in a row drops twice as many as the one before. Returns the number.
    #[cold]
    fn drop_unsent(
        &mut self,
        failure: SendError,
        penalty: &mut usize,
        counters: &Counters,
    ) -> usize {
        let waiting = self.batch.len();
        let (reason, dropped) = match failure {
            SendError::NoBuffers => (DropReason::SocketFull, waiting),
            SendError::Unreachable => (DropReason::SendFailed, waiting),
            SendError::TooLong => (
                DropReason::SendFailed,
                self.batch.equal_prefix().clamp(1, waiting),
            ),
            SendError::ThisPacket => {
                let dropped = (*penalty).min(waiting);
                *penalty = penalty.saturating_mul(2);
                (DropReason::SendFailed, dropped)
            }
        };
        counters.dropped.add(reason, dropped as u64);
        self.batch.advance(dropped);
        dropped
    }
}

#[cfg(test)]
mod send_tests;
#[cfg(test)]
mod tests;
