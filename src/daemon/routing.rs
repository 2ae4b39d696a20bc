//! Routing of the tunnels, as the daemon's loop sees it: what the route synchronisation thread should make, and what came of it.
//!
//! ```text
//!   Child SA installed ─▶ update ─▶ thread ─▶ report ─▶ datagrams to the peer      the peer hears once the routes are there
//!                                               └────▶ failed: the Child SA is deleted
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use tracing::warn;

use super::install::Tunnel;
use super::route_sync::{
    LOG_INTERVAL, LOG_SUBJECTS, RouteReport, RouteSync, RouteUpdate, TunnelRouting,
};
use crate::ike::{Transmit, TunnelId};
use crate::net::{LogLimit, Time};
use crate::os::clock;
use crate::paths::PathState;

/// Routing of all tunnels.
#[derive(Debug)]
pub(super) struct Routing {
    sync: RouteSync,
    generation: u64,
    /// State and peer of each tunnel in the last update.
    submitted: BTreeMap<TunnelId, (PathState, Option<IpAddr>)>,
    /// Updates without a report so far.
    pending: BTreeMap<TunnelId, Pending>,
    /// Datagrams to peers of tunnels in `pending`.
    held: Vec<(Time, Transmit)>,
    failures: LogLimit<String>,
}

/// An update of a tunnel without a report so far.
#[derive(Debug)]
struct Pending {
    generation: u64,
    peer: Option<IpAddr>,
    /// Whether the tunnel was down in the last report.
    came_up: bool,
}

/// Upper bound on the time for which a datagram waits for routes.
const MAX_HOLD: Duration = Duration::from_secs(1);

/// Upper bound on the datagrams that wait for routes.
const MAX_HELD: usize = 4096;

impl Routing {
    pub(super) fn new(sync: RouteSync) -> Routing {
        Routing {
            sync,
            generation: 0,
            submitted: BTreeMap::new(),
            pending: BTreeMap::new(),
            held: Vec::new(),
            failures: LogLimit::new(LOG_INTERVAL, LOG_SUBJECTS),
        }
    }

    /// Submits the tunnels whose state or peer has changed.
    pub(super) fn update<'a>(&mut self, tunnels: impl Iterator<Item = (&'a TunnelId, &'a Tunnel)>) {
        let generation = self.generation.saturating_add(1);
        let mut changed = Vec::new();
        for (id, tunnel) in tunnels {
            let state = if tunnel.waits || !tunnel.children.is_empty() {
                PathState::Up
            } else {
                PathState::Down
            };
            let old = self.submitted.insert(*id, (state, tunnel.peer));
            if old == Some((state, tunnel.peer)) {
                continue;
            }
            let was_down = old.is_none_or(|(old, _)| old == PathState::Down)
                || self.pending.get(id).is_some_and(|pending| pending.came_up);
            let pending = Pending {
                generation,
                peer: tunnel.peer,
                came_up: was_down && state == PathState::Up,
            };
            self.pending.insert(*id, pending);
            changed.push((*id, routing_of(tunnel, state)));
        }
        if !changed.is_empty() {
            self.generation = generation;
            self.sync.submit(RouteUpdate {
                generation,
                tunnels: changed,
            });
        }
    }

    /// Takes a report, and returns the tunnels that have just come up and whose routes failed, with the reason: their Child SAs are
    /// of no use. Other failures are logged.
    pub(super) fn on_report(
        &mut self,
        report: &RouteReport,
        tunnels: &BTreeMap<TunnelId, Tunnel>,
    ) -> Vec<(TunnelId, String)> {
        let mut failed = Vec::new();
        self.pending.retain(|id, pending| {
            if pending.generation > report.generation {
                return true;
            }
            if pending.came_up
                && let Some(tunnel) = tunnels.get(id).filter(|t| !t.children.is_empty())
                && let Some(failure) = report
                    .failures
                    .iter()
                    .find(|failure| failure.devices.contains(&tunnel.device.index()))
            {
                failed.push((*id, failure.error.to_string()));
            }
            false
        });
        if failed.is_empty() {
            for failure in &report.failures {
                let text = failure.error.to_string();
                if self
                    .failures
                    .check(text.clone(), "", clock::now())
                    .is_some()
                {
                    warn!("{text}");
                }
            }
        }
        failed
    }

    /// Whether a tunnel has come up and its routes are on their way.
    pub(super) fn is_coming_up(&self, id: TunnelId) -> bool {
        self.pending.get(&id).is_some_and(|pending| pending.came_up)
    }

    /// Keeps a datagram back if routes of its peer's tunnel are on their way; returns it otherwise.
    pub(super) fn hold(&mut self, transmit: Transmit) -> Option<Transmit> {
        if self.held.len() >= MAX_HELD || !is_pending(&self.pending, &transmit) {
            return Some(transmit);
        }
        self.held.push((clock::now() + MAX_HOLD, transmit));
        None
    }

    /// Datagrams that no longer wait for routes.
    pub(super) fn release(&mut self) -> Vec<Transmit> {
        if self.held.is_empty() {
            return Vec::new();
        }
        let now = clock::now();
        let pending = &self.pending;
        let ready = self.held.extract_if(.., |(until, transmit)| {
            *until <= now || !is_pending(pending, transmit)
        });
        ready.map(|(_, transmit)| transmit).collect()
    }

    /// Time at which the first datagram held back must be sent.
    pub(super) fn next_timer(&self) -> Option<Time> {
        self.held.first().map(|(until, _)| *until)
    }

    /// Ends the route synchronisation thread. Routes stay as they are.
    pub(super) fn stop(&mut self) {
        self.sync.stop();
    }
}

fn is_pending(pending: &BTreeMap<TunnelId, Pending>, transmit: &Transmit) -> bool {
    let peer = Some(transmit.remote.ip());
    pending.values().any(|pending| pending.peer == peer)
}

fn routing_of(tunnel: &Tunnel, state: PathState) -> TunnelRouting {
    let settings = &tunnel.settings;
    let local = settings.ike.policy.local.iter();
    TunnelRouting {
        device: tunnel.device.clone(),
        state,
        peer: tunnel.peer,
        routes: settings.routes.clone(),
        metric: settings.metric,
        local: local.filter_map(|selector| selector.as_prefix()).collect(),
        fail_closed: settings.fail_closed,
    }
}
