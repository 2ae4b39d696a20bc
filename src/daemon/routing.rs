//! Routing of the tunnels, as the daemon's loop sees it: what the route synchronisation thread should make, and what came of it.
//!
//! ```text
//!   Child SA installed ─▶ update ─▶ thread ─▶ report ─▶ datagrams to the peer, held back until then
//!                                               └────▶ failed: the Child SA is deleted
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use tracing::warn;

use super::route_sync::{
    LOG_INTERVAL, LOG_SUBJECTS, Overridden, RouteReport, RouteSync, RouteUpdate, TunnelRouting,
};
use super::tunnels::{TunnelEntry, TunnelTable};
use super::{provision, route_warnings};
use crate::ike::Transmit;
use crate::net::{LogLimit, Policy, Prefix, Selector, Time, TunnelId};
use crate::os::clock;
use crate::paths::{self, PathState};
use crate::status::TunnelWarning;

/// Routing of all tunnels.
#[derive(Debug)]
pub(super) struct Routing {
    sync: RouteSync,
    generation: u64,
    /// What each tunnel's routes depend on, as of the last update.
    submitted: BTreeMap<TunnelId, Submitted>,
    /// Updates without a report so far.
    pending: BTreeMap<TunnelId, Pending>,
    /// Datagrams to peers of tunnels in `pending`.
    held: HoldQueue,
    failures: LogLimit<String>,
    /// Routes into tunnels that other programs' routes override.
    overridden: Vec<Overridden>,
    /// Whether tunnels wait for their routes.
    waits: bool,
}

/// What the routes of a tunnel depend on and can change.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Submitted {
    state: PathState,
    peer: Option<IpAddr>,
    device: u32,
    carried: Vec<Prefix>,
    local: Vec<Prefix>,
}

/// An update of a tunnel without a report so far.
#[derive(Debug)]
struct Pending {
    generation: u64,
    /// Whether the tunnel was down in the last report.
    came_up: bool,
}

impl Routing {
    pub(super) fn new(sync: RouteSync) -> Routing {
        Routing {
            sync,
            generation: 0,
            submitted: BTreeMap::new(),
            pending: BTreeMap::new(),
            held: HoldQueue::default(),
            failures: LogLimit::new(LOG_INTERVAL, LOG_SUBJECTS),
            overridden: Vec::new(),
            waits: true,
        }
    }

    /// Submits the tunnels whose state or peer has changed.
    pub(super) fn update<'a>(
        &mut self,
        tunnels: impl Iterator<Item = (TunnelId, &'a TunnelEntry)>,
    ) {
        let generation = self.generation.saturating_add(1);
        let mut changed = Vec::new();
        for (id, tunnel) in tunnels {
            let state = if tunnel.is_trap || !tunnel.children.is_empty() {
                PathState::Up
            } else {
                PathState::Down
            };
            let routing = routing_of(tunnel, state);
            let new = Submitted {
                state,
                peer: tunnel.peer,
                device: tunnel.device.index(),
                carried: routing.carried.clone(),
                local: routing.local.clone(),
            };
            let old = self.submitted.get(&id);
            if old == Some(&new) {
                continue;
            }
            let was_down = old.is_none_or(|old| old.state == PathState::Down)
                || self.pending.get(&id).is_some_and(|pending| pending.came_up);
            let pending = Pending {
                generation,
                came_up: was_down && state == PathState::Up,
            };
            if self.waits {
                self.held.wait(id, tunnel.peer);
                self.pending.insert(id, pending);
            }
            self.submitted.insert(id, new);
            changed.push((id, routing));
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
        tunnels: &TunnelTable,
    ) -> Vec<(TunnelId, String)> {
        let mut failed = Vec::new();
        self.pending.retain(|id, pending| {
            if pending.generation > report.generation {
                return true;
            }
            self.held.end_wait(*id);
            if pending.came_up
                && let Some(tunnel) = tunnels.get(*id).filter(|t| !t.children.is_empty())
                && let Some(failure) = report
                    .failures
                    .iter()
                    .find(|failure| failure.devices.contains(&tunnel.device.index()))
            {
                failed.push((*id, failure.error.to_string()));
            }
            false
        });
        self.warn_of_overridden(report, tunnels);
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

    /// Logs each overridden route once, with its tunnels.
    fn warn_of_overridden(&mut self, report: &RouteReport, tunnels: &TunnelTable) {
        for new in &report.overridden {
            if self.overridden.contains(new) {
                continue;
            }
            let TunnelWarning { code, text, advice } = new.warning();
            let of_route = |tunnel: &&TunnelEntry| new.devices.contains(&tunnel.device.index());
            for tunnel in tunnels.iter().map(|(_, tunnel)| tunnel).filter(of_route) {
                let name = &tunnel.settings.name;
                let subject = format!("{name}: {text}");
                if self.failures.check(subject, "", clock::now()).is_some() {
                    warn!(tunnel = name, code, advice, "{text}");
                }
            }
        }
        self.overridden.clone_from(&report.overridden);
    }

    /// What is wrong with the routes of a tunnel.
    pub(super) fn warnings(&self, tunnel: &TunnelEntry) -> Vec<TunnelWarning> {
        let of_tunnel = |route: &&Overridden| route.devices.contains(&tunnel.device.index());
        let overridden = self.overridden.iter().filter(of_tunnel);
        let narrowed = (!tunnel.children.is_empty())
            .then(|| route_warnings::narrowed(&tunnel.settings, &agreed(tunnel)))
            .flatten();
        let overridden = overridden.map(Overridden::warning);
        narrowed.into_iter().chain(overridden).collect()
    }

    /// Whether a tunnel has come up and its routes are on their way.
    pub(super) fn is_coming_up(&self, id: TunnelId) -> bool {
        self.pending.get(&id).is_some_and(|pending| pending.came_up)
    }

    /// Keeps a datagram back if routes of its peer's tunnel are on their way; returns it otherwise.
    pub(super) fn hold(&mut self, transmit: Transmit) -> Option<Transmit> {
        self.held.hold(transmit, clock::now())
    }

    /// Datagrams that no longer wait for routes.
    pub(super) fn release(&mut self) -> Vec<Transmit> {
        self.held.release(clock::now())
    }

    /// All datagrams that wait for routes.
    pub(super) fn release_all(&mut self) -> Vec<Transmit> {
        self.held.release(Time::MAX)
    }

    /// No tunnel waits for its routes any more: the route synchronisation thread has ended, or the gateway shuts down.
    pub(super) fn stop_waiting(&mut self) {
        self.waits = false;
        for id in std::mem::take(&mut self.pending).into_keys() {
            self.held.end_wait(id);
        }
    }

    /// Time at which the datagrams held back must be sent.
    pub(super) fn next_timer(&self) -> Option<Time> {
        self.held.deadline
    }

    /// Makes every tunnel down, so that only fail-closed routes and what they need stay, and ends the route synchronisation thread.
    pub(super) fn stop<'a>(&mut self, tunnels: impl Iterator<Item = (TunnelId, &'a TunnelEntry)>) {
        let down = tunnels.map(|(id, tunnel)| (id, routing_of(tunnel, PathState::Down)));
        self.sync.submit(RouteUpdate {
            generation: self.generation.saturating_add(1),
            tunnels: down.collect(),
        });
        self.sync.stop();
    }
}

fn routing_of(tunnel: &TunnelEntry, state: PathState) -> TunnelRouting {
    let settings = &tunnel.settings;
    let Policy { local, remote } = agreed(tunnel);
    let configured = settings.ike.policy.local.iter();
    TunnelRouting {
        device: tunnel.device.clone(),
        addresses: provision::addresses(settings),
        state,
        peer: tunnel.peer,
        routes: settings.routes.clone(),
        carried: paths::carried(&settings.routes, &remote),
        metric: settings.metric,
        local: local.iter().filter_map(Selector::as_prefix).collect(),
        configured_local: configured.filter_map(Selector::as_prefix).collect(),
        fail_closed: settings.fail_closed,
    }
}

/// Selectors of the Child SAs that send; as configured while there is none.
fn agreed(tunnel: &TunnelEntry) -> Policy {
    let mut agreed = Policy::default();
    for policy in tunnel.children.agreed() {
        agreed.local.extend(&policy.local);
        agreed.remote.extend(&policy.remote);
    }
    if agreed.remote.is_empty() {
        return tunnel.settings.ike.policy.clone();
    }
    agreed
}

/// Upper bound on the time for which a datagram waits for routes.
const MAX_HOLD: Duration = Duration::from_secs(1);

/// Upper bound on the datagrams that wait for routes.
const MAX_HELD: usize = 4096;

/// Datagrams that wait until the routes of their peers' tunnels are installed.
#[derive(Debug, Default)]
struct HoldQueue {
    /// Tunnels that wait for routes, with their peers.
    tunnels: BTreeMap<TunnelId, Option<IpAddr>>,
    peers: BTreeMap<IpAddr, HeldPeer>,
    ready: Vec<Transmit>,
    /// Number of datagrams in `peers` and `ready`.
    len: usize,
    /// Time at which all of them are sent, whatever they wait for.
    deadline: Option<Time>,
}

/// Datagrams to one peer.
#[derive(Debug, Default)]
struct HeldPeer {
    /// Number of tunnels with this peer that wait.
    waiting: usize,
    datagrams: Vec<Transmit>,
}

impl HoldQueue {
    /// Datagrams to the peer of this tunnel wait from now on.
    fn wait(&mut self, id: TunnelId, peer: Option<IpAddr>) {
        if self.tunnels.get(&id) == Some(&peer) {
            return;
        }
        self.end_wait(id);
        self.tunnels.insert(id, peer);
        if let Some(peer) = peer {
            let held = self.peers.entry(peer).or_default();
            held.waiting = held.waiting.saturating_add(1);
        }
    }

    /// The routes of this tunnel are no longer waited for.
    fn end_wait(&mut self, id: TunnelId) {
        let Some(peer) = self.tunnels.remove(&id).flatten() else {
            return;
        };
        if let Some(held) = self.peers.get_mut(&peer) {
            held.waiting = held.waiting.saturating_sub(1);
            if held.waiting == 0 {
                self.ready.append(&mut held.datagrams);
                self.peers.remove(&peer);
            }
        }
    }

    fn hold(&mut self, transmit: Transmit, now: Time) -> Option<Transmit> {
        match self.peers.get_mut(&transmit.remote.ip()) {
            Some(held) if self.len < MAX_HELD => {
                held.datagrams.push(transmit);
                self.len = self.len.saturating_add(1);
                self.deadline.get_or_insert(now + MAX_HOLD);
                None
            }
            Some(_) | None => Some(transmit),
        }
    }

    fn release(&mut self, now: Time) -> Vec<Transmit> {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            for held in self.peers.values_mut() {
                self.ready.append(&mut held.datagrams);
            }
        }
        let ready = std::mem::take(&mut self.ready);
        self.len = self.len.saturating_sub(ready.len());
        if self.len == 0 {
            self.deadline = None;
        }
        ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ike::Content;

    const A: TunnelId = TunnelId(0);
    const B: TunnelId = TunnelId(1);

    fn peer(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, last]))
    }

    fn to(last: u8) -> Transmit {
        Transmit {
            local: ([198, 51, 100, 1], 500).into(),
            remote: ([192, 0, 2, last], 500).into(),
            content: Content::Keepalive,
        }
    }

    #[test]
    fn a_datagram_waits_for_the_routes_of_every_tunnel_to_its_peer() {
        let mut queue = HoldQueue::default();
        let now = Time::from_secs(10);
        queue.wait(A, peer(1));
        queue.wait(B, peer(1));
        assert_eq!(queue.hold(to(1), now), None);
        assert_eq!(queue.hold(to(2), now), Some(to(2)), "another peer");
        queue.end_wait(A);
        assert!(queue.release(now).is_empty());
        queue.end_wait(B);
        assert_eq!(queue.release(now), [to(1)]);
        assert_eq!(queue.hold(to(1), now), Some(to(1)));
        assert_eq!(queue.deadline, None);
    }

    #[test]
    fn a_tunnel_whose_peer_moves_waits_for_the_new_address_only() {
        let mut queue = HoldQueue::default();
        let now = Time::from_secs(10);
        queue.wait(A, peer(1));
        assert_eq!(queue.hold(to(1), now), None);
        queue.wait(A, peer(2));
        assert_eq!(queue.release(now), [to(1)]);
        assert_eq!(queue.hold(to(2), now), None);
    }

    #[test]
    fn datagrams_are_sent_after_a_second_and_when_too_many_wait() {
        let mut queue = HoldQueue::default();
        let now = Time::from_secs(10);
        queue.wait(A, peer(1));
        let held = (0..2 * MAX_HELD).filter(|_| queue.hold(to(1), now).is_none());
        assert_eq!(held.count(), MAX_HELD);
        assert_eq!(queue.deadline, Some(now + MAX_HOLD));
        assert!(queue.release(now).is_empty());
        assert_eq!(queue.release(now + MAX_HOLD).len(), MAX_HELD);
        assert_eq!(queue.deadline, None);
    }
}
