//! Packets on their way to one peer, sealed and sent together. The mirror image is [`deliveries`](super::deliveries).
//!
//! ```text
//!   lay ──▶ | ESP | inner |  | ESP | inner |  | ESP | …       each where it will leave from, in the clear
//!                a group of them, or the batch is to leave
//!       ──▶ |▓▓▓▓▓▓▓▓▓▓▓▓▓|  |▓▓▓▓▓▓▓▓▓▓▓▓▓|  |▓▓▓▓ …        sealed at once, in lanes
//!                the batch is full, or nothing more comes
//!       ──▶ socket
//! ```
//!
//! Nothing leaves but by [`Departures::send`], which seals what is still to be sealed.

use std::io;

use super::counters::Counters;
use super::stages::{Stage, Stopwatch};
use super::tables::Path;
use crate::esp::lifetime;
use crate::esp::{Laid, Sealing};
use crate::net::{Packet, Refusal, traffic_class};
use crate::os::SendBatch;

/// Packets where they will leave from.
pub(super) struct Departures {
    batch: SendBatch,
    /// How long each packet was before it was sealed.
    inner: Vec<usize>,
    /// Those at the end of the batch that are not sealed yet.
    laid: Vec<Laid>,
    /// How many octets of the batch they are.
    clear: usize,
    pub(super) watch: Stopwatch,
}

/// The way out for one batch: the path there is now, with its SA held.
pub(super) struct Exit<'t> {
    pub(super) path: &'t Path,
    sealing: Sealing<'t>,
    counters: &'t Counters,
    /// Octets of the longest ESP packet that the path takes whole.
    longest: usize,
}

impl<'t> Exit<'t> {
    /// Takes the SA; what becomes of the packets is counted in `counters`.
    pub(super) fn new(path: &'t Path, counters: &'t Counters) -> Exit<'t> {
        Exit {
            path,
            sealing: path.sa.lock(),
            counters,
            longest: path.sa.sealed_len(usize::from(path.mtu)),
        }
    }

    /// Whether the SA should be replaced, or has ended.
    pub(super) fn stage(&self) -> lifetime::Stage {
        self.sealing.stage()
    }
}

impl Departures {
    pub(super) fn new() -> Departures {
        Departures {
            batch: SendBatch::new(),
            inner: Vec::with_capacity(SendBatch::PACKETS),
            laid: Vec::with_capacity(Sealing::GROUP),
            clear: 0,
            watch: Stopwatch::default(),
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
        exit: &mut Exit<'_>,
        like: &Packet<'_>,
        len: usize,
        write: impl FnOnce(&mut [u8]) -> bool,
    ) -> Result<(), Refusal> {
        let (path, longest) = (exit.path, exit.longest);
        let class = traffic_class::encapsulated(like.traffic_class(), path.dscp);
        let sealed = path.sa.roomy_len(len, longest);
        if sealed > SendBatch::LARGEST {
            return Err(Refusal::Overflow);
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
            .ok_or(Refusal::Overflow)?;
        let laid = exit.sealing.lay_out(like, len, slot.bytes(), write)?;
        slot.commit(sealed);
        self.inner.push(len);
        self.laid.push(laid);
        self.clear = self.clear.saturating_add(sealed);
        if self.laid.len() >= Sealing::GROUP {
            self.seal(exit);
        }
        Ok(())
    }

    /// Seals what is still in the clear. Should that fail, nothing of the batch leaves.
    fn seal(&mut self, exit: &Exit<'_>) {
        if self.laid.is_empty() {
            return;
        }
        self.watch.lap(Stage::Split);
        let clear = self.batch.last_mut(self.clear).unwrap_or_default();
        let sealed = exit.sealing.seal_all(&self.laid, clear);
        self.watch.lap(Stage::Seal);
        match sealed {
            Ok(()) => {
                self.laid.clear();
                self.clear = 0;
            }
            Err(refusal) => {
                let refused = &exit.counters.refused;
                refused.add(refusal, self.batch.len() as u64);
                self.clear();
            }
        }
    }

    /// Empties the batch into the socket. What does not fit its buffer is lost, as in any router; the next batch finds it drained.
    pub(super) fn send(&mut self, exit: &Exit<'_>) {
        self.seal(exit);
        let counters = exit.counters;
        self.watch.lap(Stage::Split);
        let mut before = 0_usize;
        while !self.batch.is_empty() {
            match exit.path.socket.send(&self.batch) {
                Ok(sent @ 1..) => {
                    let after = before.saturating_add(sent);
                    let lens = self.inner.get(before..after).unwrap_or_default();
                    let bytes = lens.iter().map(|len| *len as u64).sum();
                    counters.tx.add(sent as u64, bytes);
                    self.batch.advance(sent);
                    before = after;
                }
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    counters.refused.add(Refusal::SendFailed, 1);
                    self.batch.advance(1);
                    before = before.saturating_add(1);
                }
                Ok(0) | Err(_) => {
                    counters
                        .refused
                        .add(Refusal::SocketFull, self.batch.len() as u64);
                    self.batch.clear();
                }
            }
        }
        self.inner.clear();
        self.watch.lap(Stage::Send);
    }
}
