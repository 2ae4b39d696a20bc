//! Packets in a row under one inbound SA, which is held as long as they last. Steps 3 to 5 of [`ingress`](super::ingress).

use std::net::SocketAddr;
use std::sync::Arc;

use super::classify::is_tunnel;
use super::notice::Bell;
use super::tables::{Inlet, Lane};
use super::watch::Seen;
use crate::esp::{Entry, Opening};
use crate::net::{Refusal, Time, mss};

/// Such a row.
pub(super) struct Run<'t> {
    entry: &'t Entry<Inlet>,
    opening: Opening<'t>,
    /// Where the newest packet came from, if not from where the peer is known to be.
    moved: Option<SocketAddr>,
}

impl<'t> Run<'t> {
    /// Takes the SA.
    pub(super) fn begin(entry: &'t Entry<Inlet>) -> Run<'t> {
        Run {
            entry,
            opening: entry.sa.lock(),
            moved: None,
        }
    }

    /// Whether it is this SA that is held.
    pub(super) fn is_under(&self, entry: &Entry<Inlet>) -> bool {
        Arc::ptr_eq(&self.entry.sa, &entry.sa)
    }

    /// The tunnel of the SA.
    pub(super) fn lane(&self) -> &'t Arc<Lane> {
        &self.entry.beside.lane
    }

    /// Opens an ESP packet where it lies and gives its inner packet, ready for the device.
    pub(super) fn open<'p>(
        &mut self,
        esp: &'p mut [u8],
        remote: SocketAddr,
    ) -> Result<&'p [u8], Refusal> {
        let inlet = &self.entry.beside;

        // 3. Everything the SA itself decides.
        let opened = self.opening.open(esp);
        if self.opening.leads() {
            // Compared once a packet, told once a run.
            self.moved = inlet
                .remote
                .filter(|known| *known != remote)
                .map(|_| remote);
        }
        let opened = opened?;

        // 4. Our own outer address comes from nobody but us, and what goes to it as a tunnel would open another layer of this one.
        if opened.packet.source() == inlet.local {
            return Err(Refusal::Martian);
        }
        if opened.packet.destination() == inlet.local && is_tunnel(&opened.packet) {
            return Err(Refusal::Loop);
        }

        // 5. The far end's connections learn what fits, too: the peer may not clamp.
        let range = opened.range;
        let inner = esp.get_mut(range).ok_or(Refusal::Overflow)?;
        mss::clamp_mss(inner, inlet.clamp.v4, inlet.clamp.v6);
        Ok(inner)
    }

    /// Gives the SA back. If any packet was the peer's own, the peer lives.
    ///
    /// # Errors
    /// There was no room for what the control plane should hear.
    pub(super) fn end(self, now: Time, bell: &Bell) -> Result<(), Refusal> {
        let Run {
            entry,
            opening,
            moved,
        } = self;
        let (authentic, stage) = (opening.authentic(), opening.stage());
        let Inlet { lane, watch, .. } = &entry.beside;
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
        watch.tell(seen, bell)
    }
}
