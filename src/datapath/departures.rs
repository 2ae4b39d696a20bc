//! Sealed packets on their way to one peer, sent together. The mirror image is [`deliveries`](super::deliveries).

use std::io;

use super::counters::Counters;
use super::tables::Path;
use crate::net::{Packet, Refusal};
use crate::os::SendBatch;

/// Packets sealed where they will leave from.
pub(super) struct Departures {
    batch: SendBatch,
    /// How long each packet was before it was sealed.
    inner: Vec<usize>,
}

impl Departures {
    pub(super) fn new() -> Departures {
        Departures {
            batch: SendBatch::new(),
            inner: Vec::with_capacity(SendBatch::PACKETS),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Reserves a place, seals into it, and commits it: a packet refused in between leaves no trace. A full batch is sent first.
    pub(super) fn seal(
        &mut self,
        path: &Path,
        packet: &Packet<'_>,
        counters: &Counters,
    ) -> Result<(), Refusal> {
        let len = path.sa.sealed_len(packet.len());
        if self
            .batch
            .reserve(path.remote, path.local, 0, len)
            .is_none()
        {
            self.send(path, counters);
        }
        let mut slot = self
            .batch
            .reserve(path.remote, path.local, 0, len)
            .ok_or(Refusal::Overflow)?;
        let sealed = path.sa.seal(packet, slot.bytes())?;
        slot.commit(sealed);
        self.inner.push(packet.len());
        Ok(())
    }

    /// Empties the batch into the socket. What does not fit its buffer is lost, as in any router; the next batch finds it drained.
    pub(super) fn send(&mut self, path: &Path, counters: &Counters) {
        while !self.batch.is_empty() {
            match path.socket.send(&self.batch) {
                Ok(sent @ 1..) => {
                    let bytes = self
                        .inner
                        .drain(..sent.min(self.inner.len()))
                        .map(|len| len as u64)
                        .sum();
                    counters.tx.add(sent as u64, bytes);
                    self.batch.advance(sent);
                }
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    counters.refused.add(Refusal::SendFailed, 1);
                    self.inner.drain(..self.inner.len().min(1));
                    self.batch.advance(1);
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
    }
}
