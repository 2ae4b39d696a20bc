//! The Child SAs of one tunnel in the datapath: which of them sends, which only receive, which are on their way out. A rekey makes
//! before it breaks (RFC 7296 §2.8):
//!
//! ```text
//!            ChildUp(new, Later)        ChildPreferred(new)     ChildDown(old, Replaced)
//!   old   ══ sends ═══════════════════════╗                        ┌ key never used again
//!         ── receives ────────────────────║────────────────────────┴─ stragglers ─ 5 s ─ gone
//!   new      ┌─ receives ─────────────────║─────────────────────────────────────────────────────
//!            └ outbound ready ············╚══ sends ════════════════════════════════════════════
//! ```
//!
//! There is no moment without an outbound SA while any is at work, and none that is on its way out is ever sent over again.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::datapath::{Datapath, Entrance, FirstPacket, Half, Path, TunnelId};
use crate::esp::Inbound;
use crate::ike::{DownReason, Sends};
use crate::net::Time;

/// The Child SAs of one tunnel.
pub(super) struct Children {
    lane: TunnelId,
    /// Those at work, the one preferred last at the end.
    at_work: Vec<Installed>,
    /// What is sent over now, by its inbound SPI.
    sending: Option<u32>,
    /// Inbound halves of Child SAs that were rekeyed, oldest first.
    stragglers: VecDeque<Straggler>,
}

/// A Child SA at work.
pub(super) struct Installed {
    pub(super) spi_in: u32,
    pub(super) path: Path,
    standing: Standing,
}

/// Whether a Child SA may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Only if there is no other: the peer may not have it yet.
    Waits,
    /// It may.
    Ready,
    /// Never again: it has carried as much as it may.
    Spent,
}

/// An inbound half that is still open.
struct Straggler {
    spi_in: u32,
    until: Time,
}

/// How long what the peer sent last over a replaced Child SA may be on its way.
pub(super) const LINGER: Duration = Duration::from_secs(5);

/// How many replaced Child SAs may linger: two rekeys a second. A peer that rekeys in a loop gets no more memory than that.
const MOST_STRAGGLERS: usize = 10;

impl Children {
    /// None yet.
    pub(super) fn of(lane: TunnelId) -> Children {
        Children {
            lane,
            at_work: Vec::new(),
            sending: None,
            stragglers: VecDeque::new(),
        }
    }

    /// Whether none is at work.
    pub(super) fn is_empty(&self) -> bool {
        self.at_work.is_empty()
    }

    /// The one at work with this inbound SPI.
    pub(super) fn find(&self, spi_in: u32) -> Option<&Installed> {
        self.at_work.iter().find(|child| child.spi_in == spi_in)
    }

    /// The inbound SPI of the Child SA that this is a half of.
    pub(super) fn owner(&self, half: Half) -> Option<u32> {
        let is_it = |child: &&Installed| match half {
            Half::In(spi) => child.spi_in == spi,
            Half::Out(spi) => child.path.sa.spi() == spi,
        };
        let sending = self.sending.and_then(|spi_in| self.find(spi_in));
        let owner = sending.filter(is_it);
        owner
            .or_else(|| self.at_work.iter().rev().find(is_it))
            .map(|child| child.spi_in)
    }

    /// The inbound SPIs of all at work.
    pub(super) fn all(&self) -> Vec<u32> {
        self.at_work.iter().map(|child| child.spi_in).collect()
    }

    /// Puts one to work: inbound first, for the peer may send as soon as it has our answer.
    pub(super) fn add(
        &mut self,
        inbound: Inbound,
        path: Path,
        sends: Sends,
        datapath: &mut Datapath,
    ) {
        let spi_in = inbound.spi();
        // A number that is chosen again while its last owner lingers is the new one's alone.
        self.drop_straggler(|straggler| straggler.spi_in == spi_in, datapath);
        let (standing, first) = match sends {
            Sends::Now => (Standing::Ready, FirstPacket::Usual),
            Sends::Later => (Standing::Waits, FirstPacket::Awaited),
        };
        let entrance = Entrance {
            local: path.local,
            remote: path.remote,
            mtu: path.mtu,
            first,
        };
        datapath.install_inbound(self.lane, Arc::new(inbound), entrance);
        self.at_work.push(Installed {
            spi_in,
            path,
            standing,
        });
        self.direct(datapath);
    }

    /// Sends over this one from now on; one that is not at work changes nothing.
    pub(super) fn prefer(&mut self, spi_in: u32, datapath: &mut Datapath) {
        let place = self.place(spi_in);
        if let Some(mut child) = place.map(|place| self.at_work.remove(place)) {
            child.standing = match child.standing {
                Standing::Waits | Standing::Ready => Standing::Ready,
                Standing::Spent => Standing::Spent,
            };
            self.at_work.push(child);
            self.direct(datapath);
        }
    }

    /// Never sends over this one again: it has carried as much as it may.
    pub(super) fn spend(&mut self, spi_in: u32, datapath: &mut Datapath) {
        let place = self.place(spi_in);
        if let Some(child) = place.and_then(|place| self.at_work.get_mut(place)) {
            child.standing = Standing::Spent;
            self.direct(datapath);
        }
    }

    /// Takes one out, whether it is at work or not. What the peer sent over it before it knew of another one is still let in.
    pub(super) fn remove(
        &mut self,
        spi_in: u32,
        reason: DownReason,
        now: Time,
        datapath: &mut Datapath,
    ) {
        let Some(place) = self.place(spi_in) else {
            return;
        };
        self.at_work.remove(place);
        // Another one takes over before this one is gone: nothing is refused in between.
        self.direct(datapath);
        let lingers = match reason {
            DownReason::Replaced | DownReason::Redundant => !self.at_work.is_empty(),
            DownReason::Asked
            | DownReason::PeerDeleted
            | DownReason::PeerDisbelieves
            | DownReason::PeerDead
            | DownReason::Expired
            | DownReason::PeerRestarted
            | DownReason::Useless => false,
        };
        if lingers {
            datapath.retire_inbound(self.lane, spi_in);
            let until = now + LINGER;
            self.stragglers.push_back(Straggler { spi_in, until });
            if self.stragglers.len() > MOST_STRAGGLERS {
                self.drop_first_straggler(datapath);
            }
        } else {
            datapath.remove_inbound(self.lane, spi_in);
        }
        if self.at_work.is_empty() {
            self.drop_straggler(|_| true, datapath);
        }
    }

    /// The peer is somewhere else now, for every Child SA.
    pub(super) fn moved(&mut self, remote: SocketAddr, datapath: &mut Datapath) {
        for child in &mut self.at_work {
            child.path.remote = remote;
        }
        datapath.expect_from(self.lane, remote);
        self.sending = None;
        self.direct(datapath);
    }

    /// When the next straggler goes.
    pub(super) fn next_timer(&self) -> Option<Time> {
        self.stragglers.front().map(|straggler| straggler.until)
    }

    /// Removes what has lingered long enough.
    pub(super) fn on_due(&mut self, now: Time, datapath: &mut Datapath) {
        self.drop_straggler(|straggler| straggler.until <= now, datapath);
    }

    /// Has the datapath send over the one that should: the one preferred last, and while none is ready, the newest that waits.
    fn direct(&mut self, datapath: &mut Datapath) {
        let last = |standing| {
            let mut newest = self.at_work.iter().rev();
            newest.find(|child| child.standing == standing)
        };
        match last(Standing::Ready).or_else(|| last(Standing::Waits)) {
            Some(child) if self.sending == Some(child.spi_in) => {}
            Some(child) => {
                datapath.open(self.lane, child.path.clone());
                self.sending = Some(child.spi_in);
            }
            None => {
                datapath.close(self.lane);
                self.sending = None;
            }
        }
    }

    fn place(&self, spi_in: u32) -> Option<usize> {
        self.at_work.iter().position(|child| child.spi_in == spi_in)
    }

    fn drop_straggler(&mut self, goes: impl Fn(&Straggler) -> bool, datapath: &mut Datapath) {
        for straggler in self.stragglers.iter().filter(|straggler| goes(straggler)) {
            datapath.remove_inbound(self.lane, straggler.spi_in);
        }
        self.stragglers.retain(|straggler| !goes(straggler));
    }

    fn drop_first_straggler(&mut self, datapath: &mut Datapath) {
        if let Some(first) = self.stragglers.pop_front() {
            datapath.remove_inbound(self.lane, first.spi_in);
        }
    }
}
