//! Packets on their way to one peer, sealed and sent together. The mirror image is [`deliveries`](super::tun_writer).
//!
//! ```text
//!   lay ──▶ | ESP | inner |  | ESP | inner |  | ESP | …       each where it will leave from, in the clear
//!                a group of them, or the batch is to leave
//!       ──▶ |▓▓▓▓▓▓▓▓▓▓▓▓▓|  |▓▓▓▓▓▓▓▓▓▓▓▓▓|  |▓▓▓▓ …        sealed at once, in lanes
//!                the batch is full, or nothing more comes
//!       ──▶ socket
//! ```
//!
//! Nothing leaves but by [`TxBatch::send`], which seals what is still to be sealed.

use super::counters::Counters;
use super::profile::{ProfileStep, StepTimer};
use super::tables::EgressPath;
use crate::esp::lifetime;
use crate::esp::{FramedPacket, OutboundGuard};
use crate::net::{DropReason, Packet, traffic_class};
use crate::os::{SendBatch, SendError};

/// Packets where they will leave from.
pub(super) struct TxBatch {
    batch: SendBatch,
    /// How long each packet was before it was sealed.
    inner: Vec<usize>,
    /// Those at the end of the batch that are not sealed yet.
    laid: Vec<FramedPacket>,
    /// How many octets of the batch they are.
    clear: usize,
    pub(super) watch: StepTimer,
}

/// The way out for one batch: the path there is now, with its SA held.
pub(super) struct ActiveSa<'t> {
    pub(super) path: &'t EgressPath,
    sealing: OutboundGuard<'t>,
    counters: &'t Counters,
    /// Octets of the longest ESP packet that the path takes whole.
    longest: usize,
}

impl<'t> ActiveSa<'t> {
    /// Takes the SA; what becomes of the packets is counted in `counters`.
    pub(super) fn new(path: &'t EgressPath, counters: &'t Counters) -> ActiveSa<'t> {
        ActiveSa {
            path,
            sealing: path.sa.lock(),
            counters,
            longest: path.sa.sealed_len(usize::from(path.mtu)),
        }
    }

    /// Whether the SA should be replaced, or has ended.
    pub(super) fn stage(&self) -> lifetime::LifetimeState {
        self.sealing.stage()
    }
}

impl TxBatch {
    pub(super) fn new() -> TxBatch {
        TxBatch {
            batch: SendBatch::new(),
            inner: Vec::with_capacity(SendBatch::MAX_PACKETS),
            laid: Vec::with_capacity(OutboundGuard::GROUP),
            clear: 0,
            watch: StepTimer::default(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Forgets everything: a turn that ended in the middle must not be gone on with.
    pub(super) fn clear(&mut self) {
        self.batch.clear();
        self.inner.clear();
        self.laid.clear();
        self.clear = 0;
    }

    /// Reserves a place for a packet of `len` octets, has `write` put it there, and commits it: a packet refused in between leaves
    /// no trace. It is `like`, or a part of it: its outer header gets the traffic class that goes with that.
    /// A full batch is sent first.
    pub(super) fn lay(
        &mut self,
        exit: &mut ActiveSa<'_>,
        like: &Packet<'_>,
        len: usize,
        write: impl FnOnce(&mut [u8]) -> bool,
    ) -> Result<(), DropReason> {
        let (path, longest) = (exit.path, exit.longest);
        let class = traffic_class::encapsulated(like.traffic_class(), path.dscp);
        let sealed = path.sa.padded_len(len, longest);
        if sealed > SendBatch::MAX_UDP_PAYLOAD {
            return Err(DropReason::Overflow);
        }
        let reserve = |batch: &mut SendBatch| {
            let place = batch.reserve(path.remote, path.local, class, sealed);
            place.is_some()
        };
        if !reserve(&mut self.batch) {
            self.send(exit);
        }
        let mut slot = self
            .batch
            .reserve(path.remote, path.local, class, sealed)
            .ok_or(DropReason::Overflow)?;
        let room = slot.bytes();
        let payload = room.get_mut(path.sa.payload(len)).unwrap_or_default();
        if !write(payload) {
            return Err(DropReason::Overflow);
        }
        let laid = exit.sealing.frame(like, len, room)?;
        slot.commit(sealed);
        self.inner.push(len);
        self.laid.push(laid);
        self.clear = self.clear.saturating_add(sealed);
        if self.laid.len() >= OutboundGuard::GROUP {
            self.seal(exit);
        }
        Ok(())
    }

    /// Seals what is still in the clear. Should that fail, nothing of the batch leaves.
    fn seal(&mut self, exit: &ActiveSa<'_>) {
        if self.laid.is_empty() {
            return;
        }
        self.watch.lap(ProfileStep::Split);
        let clear = self.batch.last_mut(self.clear).unwrap_or_default();
        let sealed = exit.sealing.seal_all(&self.laid, clear);
        self.watch.lap(ProfileStep::Seal);
        match sealed {
            Ok(()) => {
                self.laid.clear();
                self.clear = 0;
            }
            Err(reason) => {
                let refused = &exit.counters.refused;
                refused.add(reason, self.batch.len() as u64);
                self.clear();
            }
        }
    }

    /// Empties the batch into the socket. What does not fit its buffer is lost, as in any router; the next batch finds it drained.
    pub(super) fn send(&mut self, exit: &ActiveSa<'_>) {
        self.seal(exit);
        let counters = exit.counters;
        self.watch.lap(ProfileStep::Split);
        let mut before = 0_usize;
        // How many packets the next failure costs that is about one alone.
        let mut row = 1_usize;
        while !self.batch.is_empty() {
            match exit.path.socket.send(&self.batch) {
                Ok(sent @ 1..) => {
                    let after = before.saturating_add(sent);
                    let lens = self.inner.get(before..after).unwrap_or_default();
                    let bytes = lens.iter().map(|len| *len as u64).sum();
                    counters.tx.add(sent as u64, bytes);
                    self.batch.advance(sent);
                    (before, row) = (after, 1);
                }
                Ok(0) => self.lose(SendError::NoBuffers, &mut before, &mut row, counters),
                Err(error) => self.lose(SendError::from(&error), &mut before, &mut row, counters),
            }
        }
        self.inner.clear();
        self.watch.lap(ProfileStep::Send);
    }

    /// Drops what could not be sent, and with it what could not be sent either: a call for each packet only to hear the same would
    /// burn the core. Where nothing is known of the others, each failure in a row costs twice as many as the one before.
    #[cold]
    fn lose(
        &mut self,
        unsent: SendError,
        before: &mut usize,
        row: &mut usize,
        counters: &Counters,
    ) {
        let waiting = self.batch.len();
        let (reason, lost) = match unsent {
            SendError::NoBuffers => (DropReason::SocketFull, waiting),
            SendError::Unreachable => (DropReason::SendFailed, waiting),
            SendError::TooLong => (
                DropReason::SendFailed,
                self.batch.equal_prefix().clamp(1, waiting),
            ),
            SendError::ThisPacket => {
                let lost = (*row).min(waiting);
                *row = row.saturating_mul(2);
                (DropReason::SendFailed, lost)
            }
        };
        counters.refused.add(reason, lost as u64);
        self.batch.advance(lost);
        *before = before.saturating_add(lost);
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::SocketAddr;
    use std::os::fd::BorrowedFd;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::tables::EgressState;
    use super::super::testing::*;
    use super::*;
    use crate::esp::testing::policy;
    use crate::os::memory::MemorySocket;
    use crate::os::{RecvBatch, Socket, SocketOffload};

    /// A socket on which sending packets of `longest` octets and more fails so, or every first of a call.
    struct Failing {
        inner: Arc<MemorySocket>,
        errno: i32,
        longest: usize,
        calls: AtomicUsize,
    }

    impl Socket for Failing {
        fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize> {
            self.inner.recv(batch)
        }

        fn send(&self, batch: &SendBatch) -> io::Result<usize> {
            self.calls.fetch_add(1, Ordering::Relaxed);
            let first = batch.messages().next().expect("not empty");
            if first.segment.min(first.bytes.len()) >= self.longest {
                return Err(io::Error::from_raw_os_error(self.errno));
            }
            // One message a call.
            let mut one = SendBatch::new();
            for packet in first.packets() {
                let slot = one.reserve(first.remote, first.local, first.class, packet.len());
                let mut slot = slot.expect("room");
                slot.bytes().copy_from_slice(packet);
                slot.commit(packet.len());
            }
            self.inner.send(&one)
        }

        fn offload(&self) -> SocketOffload {
            self.inner.offload()
        }

        fn local(&self) -> SocketAddr {
            self.inner.local()
        }

        fn as_fd(&self) -> BorrowedFd<'_> {
            self.inner.as_fd()
        }
    }

    /// Sends these in one batch through such a socket; says what arrived and how many calls it took.
    fn sent(errno: i32, longest: usize, packets: &[Vec<u8>]) -> (Pair, Vec<usize>, usize) {
        let mut pair = Pair::connected("aes128-sha1");
        let socket = Arc::new(Failing {
            inner: pair.a.nat.clone(),
            errno,
            longest,
            calls: AtomicUsize::new(0),
        });
        let (a_out, b_in) = half("aes128-sha1", 9, policy());
        pair.b.accept([b_in]);
        let path = EgressPath {
            sa: Arc::new(a_out),
            socket: socket.clone(),
            local: A,
            remote: pair.b.nat.local(),
            mtu: MTU,
            dscp: Default::default(),
        };
        pair.a.lane.outlet.store(Arc::new(EgressState::Open(path)));
        packets
            .iter()
            .for_each(|p| assert!(pair.a.device.inject(p)));
        pair.turn(NOW);
        let arrived = pair.b.delivered().iter().map(Vec::len).collect();
        let calls = socket.calls.load(Ordering::Relaxed);
        (pair, arrived, calls)
    }

    #[test]
    fn a_way_that_is_closed_costs_one_call_a_batch() {
        let packets: Vec<_> = (0..60).map(|n| to_b(100 + n * 20)).collect();
        for errno in [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EINVAL] {
            let (pair, arrived, calls) = sent(errno, 0, &packets);
            assert_eq!((arrived.len(), calls), (0, 1));
            assert_eq!(pair.a.all_refused(), [(DropReason::SendFailed, 60)]);
            assert_eq!(pair.a.counters().tx.packets(), 0);
        }
    }

    #[test]
    fn a_firewall_that_takes_nothing_costs_few_calls_and_each_packet_is_counted() {
        let packets: Vec<_> = (0..60).map(|n| to_b(100 + n * 20)).collect();
        let (pair, arrived, calls) = sent(libc::EPERM, 0, &packets);
        assert_eq!((arrived.len(), calls), (0, 6));
        assert_eq!(pair.a.all_refused(), [(DropReason::SendFailed, 60)]);
    }

    #[test]
    fn packets_that_are_too_long_cost_a_call_a_message_and_shorter_ones_leave() {
        let row = |count, len| (0..count).map(move |_| to_b(len));
        let packets: Vec<_> = row(20, 1300)
            .chain(row(2, 100))
            .chain(row(20, 1300))
            .collect();
        let (pair, arrived, calls) = sent(libc::EMSGSIZE, 1000, &packets);
        // The first short one ends the first train of long ones, and leaves without it.
        assert_eq!((arrived, calls), (vec![100, 100], 4));
        assert_eq!(pair.a.all_refused(), [(DropReason::SendFailed, 40)]);
        assert_eq!(
            (pair.a.counters().tx.packets(), pair.a.counters().tx.bytes()),
            (2, 200)
        );
    }
}
