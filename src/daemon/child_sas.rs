//! Child SAs of one tunnel in the datapath: which ones send, which only receive, which are being retired.
//!
//! A peer may create one Child SA for each of its networks: each packet leaves under the first in `outbound` whose selectors cover it. A rekey
//! is make-before-break (RFC 7296 §2.8):
//!
//! ```text
//!            ChildUp(new, Later)        ChildPreferred(new)     ChildDown(old, Replaced)
//!   old   ══ sends ═══════════════════════╗                        ┌ outbound SA never used again
//!         ── receives ────────────────────║────────────────────────┴─ retiring ── 5 s ─ removed
//!   new      ┌─ receives ─────────────────║─────────────────────────────────────────────────────
//!            └ outbound ready ············╚══ sends ════════════════════════════════════════════
//! ```
//!
//! While a Child SA is installed there is always an outbound SA, and a retiring one never sends again.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::path_mtu::OuterPath;
use crate::datapath::{ChildSpi, Datapath, EgressPath, FirstPacket, InboundParams, TunnelId};
use crate::esp::Inbound;
use crate::ike::{DownReason, Sends};
use crate::net::{Policy, Time};

/// Child SAs of one tunnel.
pub(super) struct ChildSas {
    tunnel: TunnelId,
    /// Installed Child SAs; the one preferred last is at the end.
    installed: Vec<InstalledChild>,
    /// Inbound SPIs of the Child SAs that send, in the order in which a packet looks for one.
    outbound: Vec<u32>,
    /// Inbound SAs of replaced Child SAs, oldest first.
    retiring: VecDeque<RetiringInbound>,
}

/// Installed Child SA.
pub(super) struct InstalledChild {
    pub(super) spi_in: u32,
    pub(super) inbound: Arc<Inbound>,
    pub(super) path: EgressPath,
    send_state: SendState,
}

/// Whether a Child SA may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SendState {
    /// Only what no other covers: the peer may not have installed it yet.
    Standby,
    /// Yes.
    Ready,
    /// Never again: its sequence numbers or its lifetime are used up.
    Exhausted,
}

/// Inbound SA of a replaced Child SA.
struct RetiringInbound {
    spi_in: u32,
    remove_at: Time,
}

/// Time for which packets sent before a rekey are still accepted on the replaced Child SA.
pub(super) const RETIRE_DELAY: Duration = Duration::from_secs(5);

/// Upper bound on retiring inbound SAs besides one for each installed Child SA (two rekeys a second), so that a peer that rekeys in a loop
/// uses no more memory.
const MAX_RETIRING: usize = 10;

impl ChildSas {
    /// No Child SAs for a tunnel.
    pub(super) fn new(tunnel: TunnelId) -> ChildSas {
        ChildSas {
            tunnel,
            installed: Vec::new(),
            outbound: Vec::new(),
            retiring: VecDeque::new(),
        }
    }

    /// Whether no Child SA is installed.
    pub(super) fn is_empty(&self) -> bool {
        self.installed.is_empty()
    }

    /// Installed Child SA with this inbound SPI.
    pub(super) fn find(&self, spi_in: u32) -> Option<&InstalledChild> {
        self.installed.iter().find(|child| child.spi_in == spi_in)
    }

    /// Inbound SPI of the Child SA that has this SPI in one direction.
    pub(super) fn spi_in_of(&self, spi: ChildSpi) -> Option<u32> {
        let has_spi = |child: &&InstalledChild| match spi {
            ChildSpi::In(spi) => child.spi_in == spi,
            ChildSpi::Out(spi) => child.path.sa.spi() == spi,
        };
        // Outbound SPIs are chosen by the peer and may repeat: prefer an SA that sends.
        let mut sending = self.outbound.iter().filter_map(|spi_in| self.find(*spi_in));
        sending
            .find(has_spi)
            .or_else(|| self.installed.iter().rev().find(has_spi))
            .map(|child| child.spi_in)
    }

    /// Traffic selectors of the Child SAs that send: traffic outside them is not carried.
    pub(super) fn agreed(&self) -> impl Iterator<Item = &Policy> {
        let sending = self.outbound.iter().filter_map(|spi_in| self.find(*spi_in));
        sending.map(|child| child.path.sa.policy())
    }

    /// Inbound SPIs of all installed Child SAs.
    pub(super) fn spis_in(&self) -> Vec<u32> {
        self.installed.iter().map(|child| child.spi_in).collect()
    }

    /// Installs a Child SA: inbound first, since the peer may send as soon as it has our answer.
    pub(super) fn add(
        &mut self,
        inbound: Inbound,
        path: EgressPath,
        sends: Sends,
        datapath: &mut Datapath,
    ) {
        let spi_in = inbound.spi();
        // The SPI may repeat that of a retiring SA, which then ends.
        self.remove_retiring(|retiring| retiring.spi_in == spi_in, datapath);
        let (send_state, first) = match sends {
            Sends::Now => (SendState::Ready, FirstPacket::Ordinary),
            Sends::Later => (SendState::Standby, FirstPacket::Awaited),
        };
        let params = InboundParams {
            local: path.local,
            remote: path.remote,
            mtu: path.mtu,
            first,
        };
        let inbound = Arc::new(inbound);
        datapath.install_inbound(self.tunnel, Arc::clone(&inbound), params);
        self.installed.push(InstalledChild {
            spi_in,
            inbound,
            path,
            send_state,
        });
        self.select_outbound(datapath);
    }

    /// Sends over this Child SA from now on; without effect if it is not installed.
    pub(super) fn prefer(&mut self, spi_in: u32, datapath: &mut Datapath) {
        let position = self.position(spi_in);
        if let Some(mut child) = position.map(|position| self.installed.remove(position)) {
            child.send_state = match child.send_state {
                SendState::Standby | SendState::Ready => SendState::Ready,
                SendState::Exhausted => SendState::Exhausted,
            };
            self.installed.push(child);
            self.select_outbound(datapath);
        }
    }

    /// Never sends over this Child SA again: its sequence numbers or its lifetime are used up.
    pub(super) fn exhaust(&mut self, spi_in: u32, datapath: &mut Datapath) {
        let position = self.position(spi_in);
        if let Some(child) = position.and_then(|position| self.installed.get_mut(position)) {
            child.send_state = SendState::Exhausted;
            self.select_outbound(datapath);
        }
    }

    /// Removes a Child SA. A replaced one still receives for [`RETIRE_DELAY`] what the peer sent before it switched.
    pub(super) fn remove(
        &mut self,
        spi_in: u32,
        reason: DownReason,
        now: Time,
        datapath: &mut Datapath,
    ) {
        let Some(position) = self.position(spi_in) else {
            return;
        };
        self.installed.remove(position);
        // Another Child SA takes over before this one is removed, so that no packet is dropped in between.
        self.select_outbound(datapath);
        let retires = reason.leaves_replacement() && !self.installed.is_empty();
        if retires {
            datapath.retire_inbound(self.tunnel, spi_in);
            let remove_at = now + RETIRE_DELAY;
            self.retiring
                .push_back(RetiringInbound { spi_in, remove_at });
            if self.retiring.len() > MAX_RETIRING.saturating_add(self.installed.len())
                && let Some(oldest) = self.retiring.pop_front()
            {
                datapath.remove_inbound(self.tunnel, oldest.spi_in);
            }
        } else {
            datapath.remove_inbound(self.tunnel, spi_in);
        }
        if self.installed.is_empty() {
            self.remove_retiring(|_| true, datapath);
        }
    }

    /// Changes the peer's address of every Child SA.
    pub(super) fn set_remote(&mut self, remote: SocketAddr, datapath: &mut Datapath) {
        for child in &mut self.installed {
            child.path.remote = remote;
        }
        datapath.set_peer_address(self.tunnel, remote);
        self.outbound.clear();
        self.select_outbound(datapath);
    }

    /// Outer addresses of the Child SA that sends.
    pub(super) fn outer_path(&self) -> Option<OuterPath> {
        let sending = self.outbound.first().and_then(|spi_in| self.find(*spi_in));
        let path = &sending.or(self.installed.last())?.path;
        Some(OuterPath {
            local: path.local,
            peer: path.remote.ip(),
        })
    }

    /// Changes the inner MTU of every Child SA. Returns the least one; `None` without a Child SA.
    pub(super) fn set_mtus(
        &mut self,
        mtu: impl Fn(&EgressPath) -> u16,
        datapath: &mut Datapath,
    ) -> Option<u16> {
        let mut has_changed = false;
        for child in &mut self.installed {
            let new = mtu(&child.path);
            if new != child.path.mtu {
                child.path.mtu = new;
                datapath.set_inbound_mtu(self.tunnel, child.spi_in, new);
                has_changed = true;
            }
        }
        if has_changed {
            self.outbound.clear();
            self.select_outbound(datapath);
        }
        self.installed.iter().map(|child| child.path.mtu).min()
    }

    /// Time at which the oldest retiring SA must be removed.
    pub(super) fn next_timer(&self) -> Option<Time> {
        self.retiring.front().map(|retiring| retiring.remove_at)
    }

    /// Removes retiring SAs whose time has come.
    pub(super) fn on_timeout(&mut self, now: Time, datapath: &mut Datapath) {
        self.remove_retiring(|retiring| retiring.remove_at <= now, datapath);
    }

    /// Selects the outbound SAs of the datapath: the Child SAs preferred last come first, those on standby carry what no other covers.
    fn select_outbound(&mut self, datapath: &mut Datapath) {
        let newest_first = |state| {
            let newest_first = self.installed.iter().rev();
            newest_first.filter(move |child| child.send_state == state)
        };
        let mut chosen: Vec<&InstalledChild> = Vec::new();
        for child in newest_first(SendState::Ready).chain(newest_first(SendState::Standby)) {
            let policy = child.path.sa.policy();
            let is_covered = |chosen: &&InstalledChild| chosen.path.sa.policy().covers(policy);
            if !chosen.iter().any(is_covered) {
                chosen.push(child);
            }
        }
        let outbound: Vec<u32> = chosen.iter().map(|child| child.spi_in).collect();
        if outbound == self.outbound && !outbound.is_empty() {
            return;
        }
        if outbound.is_empty() {
            datapath.clear_outbound(self.tunnel);
        } else {
            let paths = chosen.iter().map(|child| child.path.clone()).collect();
            datapath.set_outbound(self.tunnel, paths);
        }
        self.outbound = outbound;
    }

    fn position(&self, spi_in: u32) -> Option<usize> {
        self.installed
            .iter()
            .position(|child| child.spi_in == spi_in)
    }

    fn remove_retiring(
        &mut self,
        is_over: impl Fn(&RetiringInbound) -> bool,
        datapath: &mut Datapath,
    ) {
        let tunnel = self.tunnel;
        self.retiring.retain(|retiring| {
            let over = is_over(retiring);
            if over {
                datapath.remove_inbound(tunnel, retiring.spi_in);
            }
            !over
        });
    }
}

#[cfg(test)]
mod tests;
