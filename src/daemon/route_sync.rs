//! Thread that keeps the kernel's routes and the carriers of the tunnel devices as [`paths`] plans them.
//!
//! ```text
//!   daemon loop ── RouteUpdate: tunnels that changed ──▶ thread ──▶ carriers up ─▶ routes ─▶ carriers down
//!   daemon loop ◀─ RouteReport: routes that failed ───── thread
//!   kernel ──────── NetworkEvent ──────────────────────▶ thread     only those that matter, gathered for 200 ms
//!
//!   install   peer routes ─▶ unreachable ─▶ into tunnels     in this order
//!   withdraw  into tunnels ─▶ unreachable ─▶ peer routes     in this order
//! ```
//!
//! The thread keeps a view of what it needs: own routes, the foreign routes that matter ([`RouteInterest`]) and the host's addresses.
//! An event marks the part of the view that it concerns as stale; a stale part is read again before it is used. Changes of routes
//! that do not matter cost no request, so a full BGP table on the host costs the daemon's loop nothing. A read that fails leaves
//! the previous view in place and is tried again.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{self, TryRecvError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tracing::{debug, error, info, warn};

use crate::config::InsideAddress;
use crate::net::{LogLimit, Prefix, Time, TunnelId};
use crate::os::clock;
use crate::os::netlink::{
    ForeignRoute, HostAddress, Netlink, NetlinkError, NetworkEvent, NetworkMonitor,
    PEER_ROUTE_METRIC, Route, RouteInterest, RouteTarget, UNREACHABLE_METRIC, peer_route,
    source_inside,
};
use crate::os::poll::{Signal, Waiter};
use crate::os::tun::{Carrier, Tun};
use crate::paths::{self, FailClosed, PathState, PlannedTarget, TunnelRoutes};

/// State of one tunnel that decides its routes.
#[derive(Clone, Debug)]
pub(super) struct TunnelRouting {
    pub(super) device: Arc<Tun>,
    /// Addresses of the device.
    pub(super) addresses: Vec<InsideAddress>,
    pub(super) state: PathState,
    pub(super) peer: Option<IpAddr>,
    pub(super) routes: Vec<Prefix>,
    pub(super) metric: u32,
    /// Prefixes of the local traffic selectors.
    pub(super) local: Vec<Prefix>,
    pub(super) fail_closed: FailClosed,
}

/// Tunnels whose routing has changed.
#[derive(Debug)]
pub(super) struct RouteUpdate {
    /// Number of the update; the report that covers it has this number or a higher one.
    pub(super) generation: u64,
    pub(super) tunnels: Vec<(TunnelId, TunnelRouting)>,
}

/// Result of a synchronisation with the kernel.
#[derive(Debug)]
pub(super) struct RouteReport {
    /// Number of the last update it covers.
    pub(super) generation: u64,
    pub(super) failures: Vec<RouteFailure>,
}

/// A route that could not be installed or removed.
#[derive(Debug)]
pub(super) struct RouteFailure {
    /// Devices of a route into tunnels; none for other failures.
    pub(super) devices: Vec<u32>,
    pub(super) error: NetlinkError,
}

/// Handle of the route synchronisation thread.
#[derive(Debug)]
pub(super) struct RouteSync {
    updates: Option<mpsc::Sender<RouteUpdate>>,
    wake: Signal,
    thread: Option<JoinHandle<()>>,
}

/// Time for which network changes are gathered; they come in bursts.
const SETTLE: Duration = Duration::from_millis(200);

/// Time after which a failed route is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// Time after which a table that changed during every attempt to read it is read again.
const REREAD: Duration = Duration::from_secs(1);

/// Upper bound on the wait for devices whose carrier has just come up.
const QUEUE_TIMEOUT: Duration = Duration::from_millis(50);

/// Time after which a line about a route is logged again.
pub(super) const LOG_INTERVAL: Duration = Duration::from_secs(300);

/// Upper bound on the routes whose last log line is remembered.
pub(super) const LOG_SUBJECTS: usize = 4096;

/// Interface index of the loopback device.
const LOOPBACK: u32 = 1;

/// Datagrams of the monitor handled before updates get a turn.
const MONITOR_BUDGET: usize = 1024;

impl RouteSync {
    /// Reads the kernel's own routes and starts the thread, in this thread's network namespace.
    ///
    /// # Errors
    /// The tables cannot be read, or out of descriptors or threads.
    pub(super) fn start() -> Result<(RouteSync, UnboundedReceiver<RouteReport>), NetlinkError> {
        let (sender, updates) = mpsc::channel();
        let (reports, receiver) = unbounded_channel();
        let synchroniser = Synchroniser::new(updates, reports)?;
        let wake = synchroniser.waiter.waker();
        let thread = std::thread::Builder::new()
            .name("route-sync".to_owned())
            .spawn(move || synchroniser.run())?;
        let sync = RouteSync {
            updates: Some(sender),
            wake,
            thread: Some(thread),
        };
        Ok((sync, receiver))
    }

    /// Hands an update to the thread.
    pub(super) fn submit(&self, update: RouteUpdate) {
        let sent = self
            .updates
            .as_ref()
            .map(|updates| updates.send(update).is_ok());
        if sent != Some(true) {
            error!(
                "the route synchronisation thread has ended: routes no longer follow the tunnels; restart groundlink"
            );
        }
        self.wake.set();
    }

    /// Ends the thread once it has carried out the updates, and waits for it.
    pub(super) fn stop(&mut self) {
        self.updates = None;
        self.wake.set();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for RouteSync {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A tunnel as the thread knows it.
struct Entry {
    routing: TunnelRouting,
    /// Carrier that was set last; `None` when it must be set again.
    carrier: Option<PathState>,
    /// Whether the device has its addresses: the kernel removes the IPv6 ones of a device that is set down.
    has_addresses: bool,
}

/// Parts of the view that must be read again before use.
#[derive(Default)]
struct Stale {
    own: bool,
    foreign: bool,
    addresses: bool,
}

/// State of the thread.
struct Synchroniser {
    netlink: Netlink,
    monitor: NetworkMonitor,
    waiter: Waiter,
    updates: mpsc::Receiver<RouteUpdate>,
    reports: UnboundedSender<RouteReport>,
    tunnels: BTreeMap<TunnelId, Entry>,
    generation: u64,
    /// Generation of the last report.
    reported: u64,
    /// Own routes in the kernel.
    own: BTreeMap<(Prefix, u32), Route>,
    /// Foreign routes that `interest` selects.
    foreign: Vec<ForeignRoute>,
    interest: RouteInterest,
    addresses: Vec<HostAddress>,
    stale: Stale,
    /// End of the gathering of network changes.
    resync_at: Option<Time>,
    /// Next attempt after a failure.
    retry_at: Option<Time>,
    shadowed: LogLimit<String>,
}

impl Synchroniser {
    fn new(
        updates: mpsc::Receiver<RouteUpdate>,
        reports: UnboundedSender<RouteReport>,
    ) -> Result<Synchroniser, NetlinkError> {
        let mut netlink = Netlink::open()?;
        // The monitor before the first read, so that no change is missed in between.
        let monitor = NetworkMonitor::open(netlink.port()?)?;
        let waiter = Waiter::new()?;
        waiter.watch(monitor.as_fd(), 0)?;
        let own = by_key(netlink.own_routes()?);
        if !own.is_empty() {
            info!(
                routes = own.len(),
                "adopting routes of an earlier run: those that are still needed stay, the others are removed"
            );
        }
        let addresses = netlink.addresses()?;
        Ok(Synchroniser {
            netlink,
            monitor,
            waiter,
            updates,
            reports,
            tunnels: BTreeMap::new(),
            generation: 0,
            reported: 0,
            own,
            foreign: Vec::new(),
            interest: RouteInterest::default(),
            addresses,
            stale: Stale {
                foreign: true,
                ..Stale::default()
            },
            resync_at: None,
            retry_at: None,
            shadowed: LogLimit::new(LOG_INTERVAL, LOG_SUBJECTS),
        })
    }

    fn run(mut self) {
        while let Some(turn) = self.turn() {
            if let Err(error) = self.waiter.wait(turn) {
                error!(%error, "the route synchronisation thread cannot wait for events");
                return;
            }
        }
    }

    /// Does all that is due, and returns the time until the next deadline (`Some(None)`: there is none); `None` at the end.
    fn turn(&mut self) -> Option<Option<Duration>> {
        loop {
            self.read_monitor();
            let (mut is_due, mut is_last) = (false, false);
            loop {
                match self.updates.try_recv() {
                    Ok(update) => self.take(update),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => {
                        is_last = true;
                        break;
                    }
                }
                is_due = true;
            }
            if is_last {
                if is_due {
                    self.synchronise();
                }
                return None;
            }
            // Before the first update the tunnels are unknown: the routes of an earlier run stay.
            if self.generation == 0 {
                return Some(None);
            }
            let deadline = self.resync_at.into_iter().chain(self.retry_at).min();
            let now = clock::now();
            if !is_due && deadline.is_none_or(|at| at > now) {
                return Some(deadline.map(|at| at.since(now)));
            }
            self.synchronise();
        }
    }

    fn take(&mut self, update: RouteUpdate) {
        self.generation = update.generation;
        for (id, routing) in update.tunnels {
            let device = routing.device.index();
            let same = self.tunnels.get(&id);
            let same = same.filter(|entry| entry.routing.device.index() == device);
            let entry = Entry {
                carrier: same.and_then(|entry| entry.carrier),
                has_addresses: same.is_none_or(|entry| entry.has_addresses),
                routing,
            };
            self.tunnels.insert(id, entry);
        }
    }

    fn read_monitor(&mut self) {
        for _ in 0..MONITOR_BUDGET {
            let Some(events) = self.monitor.read() else {
                return;
            };
            for event in events {
                self.on_network_event(event);
            }
        }
        // More events wait: the monitor is readable, so the next wait ends at once.
    }

    /// Marks the parts of the view that an event concerns as stale.
    fn on_network_event(&mut self, event: NetworkEvent) {
        let Stale {
            mut own,
            mut foreign,
            mut addresses,
        } = Stale::default();
        match event {
            NetworkEvent::OwnRoute => own = true,
            NetworkEvent::ForeignRoute(prefix) => foreign = self.interest.matches(prefix),
            NetworkEvent::Link(index) => {
                for entry in self.tunnels.values_mut() {
                    if entry.routing.device.index() == index {
                        // A device that is set down loses its carrier setting.
                        entry.carrier = None;
                        entry.has_addresses = false;
                        own = true;
                    }
                }
                own |= self.own.values().any(|route| {
                    matches!(route.target, RouteTarget::NextHop { device, .. } if device == index)
                });
                let through = |route: &ForeignRoute| route.next_hop.map(|(device, _)| device);
                foreign = self
                    .foreign
                    .iter()
                    .any(|route| through(route) == Some(index));
            }
            NetworkEvent::AddressAdded(_) => addresses = true,
            // The kernel removes IPv4 routes with this preferred source, and with the last IPv4 address of a device all IPv4 routes
            // through that device, without a notification.
            NetworkEvent::AddressRemoved(_) => (own, foreign, addresses) = (true, true, true),
            NetworkEvent::Unknown => {
                (own, foreign, addresses) = (true, true, true);
                for entry in self.tunnels.values_mut() {
                    entry.carrier = None;
                }
            }
        }
        self.stale.own |= own;
        self.stale.foreign |= foreign;
        self.stale.addresses |= addresses;
        // Without peer routes, foreign routes are only read to warn about the next route into a tunnel.
        if own || addresses || (foreign && !self.interest.peers.is_empty()) {
            self.resync_at.get_or_insert(clock::now() + SETTLE);
        }
    }

    /// Makes carriers and routes what the tunnels need, and reports.
    fn synchronise(&mut self) {
        (self.resync_at, self.retry_at) = (None, None);
        let mut failures = Vec::new();
        self.refresh(&mut failures);
        self.restore_addresses();
        // A device has a carrier before packets are routed into it, and until none are.
        self.set_carriers(PathState::Up);
        let wanted = self.wanted(&mut failures);
        let new = self.apply(&wanted, &mut failures);
        self.set_carriers(PathState::Down);
        if !failures.is_empty() {
            let unread =
                |failure: &RouteFailure| matches!(failure.error, NetlinkError::Interrupted { .. });
            let after = if failures.iter().any(unread) {
                REREAD
            } else {
                RETRY
            };
            self.retry_at = Some(clock::now() + after);
        }
        if self.reported != self.generation || !failures.is_empty() {
            self.reported = self.generation;
            let report = RouteReport {
                generation: self.generation,
                failures,
            };
            // The daemon's loop may have ended before this thread.
            let _ = self.reports.send(report);
        }
        self.warn_of_shadowed(&new);
    }

    /// Adds the addresses of the devices that may have lost them. A device that is down gets them once it is up again.
    fn restore_addresses(&mut self) {
        let lost = |entry: &&mut Entry| !entry.has_addresses;
        for entry in self.tunnels.values_mut().filter(lost) {
            let device = entry.routing.device.index();
            if !self.netlink.link(device).is_ok_and(|link| link.up) {
                continue;
            }
            entry.has_addresses = true;
            for InsideAddress { address, length } in &entry.routing.addresses {
                if let Err(error) = self.netlink.add_address(device, *address, *length) {
                    debug!(device = entry.routing.device.name(), %error, "cannot restore an address");
                }
            }
        }
    }

    /// Reads own routes and addresses again if they are stale.
    fn refresh(&mut self, failures: &mut Vec<RouteFailure>) {
        if self.stale.own || self.stale.foreign {
            // The kernel announces that a device goes down before it removes the routes. A request for a link waits for the lock
            // (RTNL) that covers both.
            let _ = self.netlink.link(LOOPBACK);
        }
        if self.stale.own {
            match self.netlink.own_routes() {
                Ok(routes) => {
                    debug!(routes = routes.len(), "own routes read");
                    self.own = by_key(routes);
                    self.stale.own = false;
                }
                Err(error) => failures.push(RouteFailure::other(error)),
            }
        }
        if self.stale.addresses {
            match self.netlink.addresses() {
                Ok(addresses) => {
                    self.addresses = addresses;
                    self.stale.addresses = false;
                }
                Err(error) => failures.push(RouteFailure::other(error)),
            }
        }
    }

    /// Reads the foreign routes again if they are stale or `interest` has grown.
    fn refresh_foreign(&mut self, interest: RouteInterest) -> Result<(), NetlinkError> {
        if self.stale.foreign || !interest.is_within(&self.interest) {
            self.stale.foreign = true;
            self.foreign = self.netlink.foreign_routes(&interest)?;
            debug!(routes = self.foreign.len(), "foreign routes read");
            self.interest = interest;
            self.stale.foreign = false;
        }
        Ok(())
    }

    /// Sets the carriers of the tunnels in `state` that do not have it yet, and waits until the queues of those devices are open.
    fn set_carriers(&mut self, state: PathState) {
        let carrier = match state {
            PathState::Up => Carrier::Up,
            PathState::Down => Carrier::Down,
        };
        let mut changed = Vec::new();
        for entry in self.tunnels.values_mut() {
            if entry.routing.state != state || entry.carrier == Some(state) {
                continue;
            }
            entry.carrier = Some(state);
            let device = &entry.routing.device;
            match device.set_carrier(carrier) {
                Ok(()) => changed.push(device.index()),
                // The device was removed; the datapath reports that.
                Err(error) => debug!(device = device.name(), %error, "cannot set the carrier"),
            }
        }
        if state == PathState::Up {
            let until = clock::now() + QUEUE_TIMEOUT;
            for device in changed {
                self.await_queue(device, until);
            }
        }
    }

    /// Waits until a device whose carrier has just come up takes packets. The kernel (link watch) opens its queue a moment later and
    /// drops what is sent until then. The request for the link makes Linux 6.8 and newer open it at once; older kernels notify.
    fn await_queue(&mut self, device: u32, until: Time) {
        while let Ok(link) = self.netlink.link(device) {
            let now = clock::now();
            if link.operational || !link.up || now >= until {
                return;
            }
            if self.waiter.wait(Some(until.since(now))).is_err() {
                return;
            }
            self.read_monitor();
        }
    }

    /// The own routes that the tunnels need.
    fn wanted(&mut self, failures: &mut Vec<RouteFailure>) -> BTreeMap<(Prefix, u32), Route> {
        let tunnels: Vec<TunnelRoutes> = self
            .tunnels
            .values()
            .map(|entry| tunnel_routes(&entry.routing, &self.addresses))
            .collect();
        let devices: Vec<u32> = tunnels.iter().map(|tunnel| tunnel.device).collect();
        let plan = paths::plan(&tunnels);
        let is_local = |peer: &IpAddr| self.addresses.iter().any(|host| host.address == *peer);
        let peers = plan.peers.into_iter().filter(|peer| !is_local(peer));
        let interest = RouteInterest {
            prefixes: tunnels
                .into_iter()
                .flat_map(|tunnel| tunnel.routes)
                .collect(),
            peers: peers.collect(),
        };
        let peers = interest.peers.clone();
        let mut wanted = BTreeMap::new();
        if !peers.is_empty()
            && let Err(error) = self.refresh_foreign(interest)
        {
            failures.push(RouteFailure::other(error));
        }
        for peer in peers {
            let key = (Prefix::host(peer), PEER_ROUTE_METRIC);
            // Without a route to the peer the old peer route stays.
            match peer_route(peer, &self.foreign, &devices).or_else(|| self.own.get(&key).cloned())
            {
                Some(route) => {
                    wanted.insert(key, route);
                }
                None => failures.push(RouteFailure::other(NetlinkError::NoRoute(peer))),
            }
        }
        for planned in plan.routes {
            let route = kernel_route(planned);
            // A peer route precedes a tunnel's route with the same prefix and metric.
            wanted.entry(route.key()).or_insert(route);
        }
        wanted
    }

    /// Installs and withdraws routes until the own routes are those `wanted`; returns those newly installed.
    fn apply(
        &mut self,
        wanted: &BTreeMap<(Prefix, u32), Route>,
        failures: &mut Vec<RouteFailure>,
    ) -> Vec<Route> {
        let RouteChanges { install, withdraw } = changes(&self.own, wanted);
        let mut installed = Vec::new();
        for route in install {
            let result = if self.own.contains_key(&route.key()) {
                self.netlink.replace(&route)
            } else {
                self.netlink.install(&route)
            };
            match result {
                Ok(()) => {
                    self.own.insert(route.key(), route.clone());
                    installed.push(route);
                }
                Err(error) => {
                    self.stale.own = true;
                    let devices = match route.target {
                        // IPv6 is off: IPv4 works without it.
                        RouteTarget::Tunnels(_)
                            if !route.prefix.is_ipv4() && error.is_family_off() =>
                        {
                            Vec::new()
                        }
                        RouteTarget::Tunnels(devices) => devices,
                        RouteTarget::NextHop { .. } | RouteTarget::Unreachable => Vec::new(),
                    };
                    failures.push(RouteFailure { devices, error });
                }
            }
        }
        for key in withdraw {
            match self.netlink.withdraw(key.0, key.1) {
                Ok(()) => {
                    self.own.remove(&key);
                }
                Err(error) => {
                    self.stale.own = true;
                    failures.push(RouteFailure::other(error));
                }
            }
        }
        installed
    }

    /// Warns of foreign routes that precede a new route into a tunnel: its packets leave unencrypted.
    fn warn_of_shadowed(&mut self, new: &[Route]) {
        let into_tunnel = |route: &&Route| matches!(route.target, RouteTarget::Tunnels(_));
        if !new.iter().any(|route| into_tunnel(&route)) {
            return;
        }
        let interest = RouteInterest {
            prefixes: self
                .tunnels
                .values()
                .flat_map(|entry| entry.routing.routes.iter().copied())
                .collect(),
            peers: self.interest.peers.clone(),
        };
        if let Err(error) = self.refresh_foreign(interest) {
            debug!(%error, "cannot look for routes that precede those into the tunnels");
        }
        for Route { prefix, metric, .. } in new.iter().filter(into_tunnel) {
            let precedes =
                |foreign: &&ForeignRoute| foreign.prefix == *prefix && foreign.metric < *metric;
            for foreign in self.foreign.iter().filter(precedes) {
                let text = format!(
                    "packets for {prefix} do not enter the tunnel: another program's route for it has metric {} and precedes ours \
                     with {metric}; remove it, give the tunnel a lower `metric`, or list the two halves of {prefix} in `routes`",
                    foreign.metric
                );
                if self
                    .shadowed
                    .check(text.clone(), "", clock::now())
                    .is_some()
                {
                    warn!("{text}");
                }
            }
        }
    }
}

impl RouteFailure {
    fn other(error: NetlinkError) -> RouteFailure {
        RouteFailure {
            devices: Vec::new(),
            error,
        }
    }
}

fn by_key(routes: Vec<Route>) -> BTreeMap<(Prefix, u32), Route> {
    let keyed = routes.into_iter().map(|route| (route.key(), route));
    keyed.collect()
}

fn tunnel_routes(routing: &TunnelRouting, addresses: &[HostAddress]) -> TunnelRoutes {
    // A local selector of 0.0.0.0/0 or ::/0 accepts any source: the kernel chooses.
    let sources = routing.routes.iter().filter_map(|route| {
        let of_family = |prefix: &&Prefix| prefix.is_ipv4() == route.is_ipv4();
        let mut local = routing.local.iter().filter(of_family);
        if local.any(Prefix::is_default) {
            return None;
        }
        source_inside(addresses, &routing.local, route.address())
    });
    TunnelRoutes {
        device: routing.device.index(),
        state: routing.state,
        routes: routing.routes.clone(),
        metric: routing.metric,
        sources: sources.collect(),
        fail_closed: routing.fail_closed,
        peer: routing.peer,
    }
}

fn kernel_route(planned: paths::PlannedRoute) -> Route {
    match planned.target {
        PlannedTarget::Unreachable => Route::unreachable(planned.prefix),
        PlannedTarget::Tunnels {
            metric,
            devices,
            source,
        } => Route {
            prefix: planned.prefix,
            metric,
            target: RouteTarget::Tunnels(devices),
            source,
        },
    }
}

/// Difference between the present and the wanted routes.
#[derive(Debug, PartialEq, Eq)]
struct RouteChanges {
    install: Vec<Route>,
    withdraw: Vec<(Prefix, u32)>,
}

fn changes(
    present: &BTreeMap<(Prefix, u32), Route>,
    wanted: &BTreeMap<(Prefix, u32), Route>,
) -> RouteChanges {
    let is_present =
        |route: &Route| matches!(present.get(&route.key()), Some(old) if old.is_same(route));
    let missing = wanted.values().filter(|route| !is_present(route));
    let mut install: Vec<Route> = missing.cloned().collect();
    install.sort_by_key(|route| rank(route.metric));
    let obsolete = present.keys().filter(|key| !wanted.contains_key(key));
    let mut withdraw: Vec<(Prefix, u32)> = obsolete.copied().collect();
    withdraw.sort_by_key(|(_, metric)| Reverse(rank(*metric)));
    RouteChanges { install, withdraw }
}

/// Order of installation: peer routes, unreachable routes, routes into tunnels.
fn rank(metric: u32) -> u8 {
    match metric {
        PEER_ROUTE_METRIC => 0,
        UNREACHABLE_METRIC => 1,
        _ => 2,
    }
}

#[cfg(test)]
mod tests;
