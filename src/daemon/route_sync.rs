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
//! The thread keeps a view of what it needs ([`KernelView`]), so that a full BGP table on the host costs the daemon's loop nothing.

mod kernel_view;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{self, TryRecvError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tracing::{debug, error};

use self::kernel_view::{KernelView, Routes, Wanted, kernel_route, rules};
pub(super) use self::kernel_view::{Overridden, RouteFailure};
use crate::config::InsideAddress;
use crate::net::{Prefix, Time, TunnelId};
use crate::os::clock;
use crate::os::netlink::{
    HostAddress, MAIN_TABLE, Netlink, NetlinkError, NetworkEvent, NetworkMonitor,
    PEER_ROUTE_METRIC, RouteInterest, peer_route, source_inside,
};
use crate::os::poll::{Signal, Waiter};
use crate::os::tun::{Carrier, Tun};
use crate::paths::{self, FailClosed, PathState, TunnelRoutes};

/// State of one tunnel that decides its routes.
#[derive(Clone, Debug)]
pub(super) struct TunnelRouting {
    pub(super) device: Arc<Tun>,
    /// Addresses of the device.
    pub(super) addresses: Vec<InsideAddress>,
    pub(super) state: PathState,
    pub(super) peer: Option<IpAddr>,
    pub(super) routes: Vec<Prefix>,
    /// What the Child SAs cover of `routes`.
    pub(super) carried: Vec<Prefix>,
    pub(super) metric: u32,
    /// Prefixes of the local traffic selectors agreed on.
    pub(super) local: Vec<Prefix>,
    /// Prefixes of the local traffic selectors as configured.
    pub(super) configured_local: Vec<Prefix>,
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
    /// All routes into tunnels that other programs' routes override.
    pub(super) overridden: Vec<Overridden>,
    /// Whether this host has got an address, a default route or a link since the last report, other than those of the tunnels.
    pub(super) network_changed: bool,
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

/// Least interval of the reports of a changed network: each one starts attempts of all tunnels that wait.
const CHANGE_INTERVAL: Duration = Duration::from_secs(10);

/// Time after which a table that changed during every attempt to read it is read again.
const REREAD: Duration = Duration::from_secs(1);

/// Upper bound on the wait for devices whose carrier has just come up.
const QUEUE_TIMEOUT: Duration = Duration::from_millis(50);

/// Time after which a line about a route is logged again.
pub(super) const LOG_INTERVAL: Duration = Duration::from_secs(300);

/// Upper bound on the routes whose last log line is remembered.
pub(super) const LOG_SUBJECTS: usize = 4096;

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

/// State of the thread.
struct Synchroniser {
    view: KernelView,
    monitor: NetworkMonitor,
    waiter: Waiter,
    updates: mpsc::Receiver<RouteUpdate>,
    reports: UnboundedSender<RouteReport>,
    tunnels: BTreeMap<TunnelId, Entry>,
    generation: u64,
    /// Generation of the last report.
    reported: u64,
    /// Peers with a peer route, as last planned.
    peers: BTreeSet<IpAddr>,
    /// Overridden routes of the last report.
    overridden: Vec<Overridden>,
    /// Whether the network has changed since the last report of that.
    network_changed: bool,
    /// Links that have come up since, which may be devices of tunnels that are not known yet.
    came_up: BTreeSet<u32>,
    /// Earliest next report of a changed network.
    change_after: Time,
    /// End of the gathering of network changes.
    resync_at: Option<Time>,
    /// Next attempt after a failure.
    retry_at: Option<Time>,
}

impl Synchroniser {
    fn new(
        updates: mpsc::Receiver<RouteUpdate>,
        reports: UnboundedSender<RouteReport>,
    ) -> Result<Synchroniser, NetlinkError> {
        let netlink = Netlink::open()?;
        // The monitor before the first read, so that no change is missed in between.
        let monitor = NetworkMonitor::open(netlink.port()?)?;
        let waiter = Waiter::new()?;
        waiter.watch(monitor.as_fd(), 0)?;
        Ok(Synchroniser {
            view: KernelView::open(netlink)?,
            monitor,
            waiter,
            updates,
            reports,
            tunnels: BTreeMap::new(),
            generation: 0,
            reported: 0,
            peers: BTreeSet::new(),
            overridden: Vec::new(),
            network_changed: false,
            came_up: BTreeSet::new(),
            change_after: Time::from_secs(0),
            resync_at: None,
            retry_at: None,
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

    /// Marks what an event concerns as stale, and the carriers that the kernel has forgotten.
    fn on_network_event(&mut self, event: NetworkEvent) {
        let mut is_tunnel = false;
        for entry in self.tunnels.values_mut() {
            let is_concerned = match event {
                // A device that is set down loses its carrier setting.
                NetworkEvent::LinkUp(index) | NetworkEvent::LinkDown(index) => {
                    entry.routing.device.index() == index
                }
                NetworkEvent::Unknown => true,
                NetworkEvent::OwnRoute
                | NetworkEvent::ForeignRoute(_)
                | NetworkEvent::AddressAdded(_)
                | NetworkEvent::AddressRemoved(_) => break,
            };
            if is_concerned {
                entry.carrier = None;
                entry.has_addresses = false;
                is_tunnel = true;
            }
        }
        let brings_network = self.brings_network(event);
        match event {
            NetworkEvent::LinkUp(index) if brings_network => _ = self.came_up.insert(index),
            NetworkEvent::LinkDown(index) => _ = self.came_up.remove(&index),
            _ => self.network_changed |= brings_network,
        }
        if self.view.on_event(event, is_tunnel).is_any() || brings_network {
            self.resync_at.get_or_insert(clock::now() + SETTLE);
        }
    }

    /// Whether an event can bring a peer back into reach.
    fn brings_network(&self, event: NetworkEvent) -> bool {
        let mut tunnels = self.tunnels.values().map(|entry| &entry.routing);
        match event {
            NetworkEvent::ForeignRoute(prefix) => prefix.length() == 0,
            NetworkEvent::LinkUp(index) => !tunnels.any(|tunnel| tunnel.device.index() == index),
            // The kernel announces an address again whenever its lifetime is extended (DHCP, router advertisements).
            NetworkEvent::AddressAdded(address) => {
                let mut known = self.view.addresses().iter();
                !known.any(|host| host.address == address)
                    && !tunnels.any(|tunnel| {
                        let mut own = tunnel.addresses.iter();
                        own.any(|inside| inside.address == address)
                    })
            }
            NetworkEvent::OwnRoute
            | NetworkEvent::AddressRemoved(_)
            | NetworkEvent::LinkDown(_)
            | NetworkEvent::Unknown => false,
        }
    }

    /// Whether to report a changed network now: once in [`CHANGE_INTERVAL`]. A change before that is reported at the end of the interval.
    fn take_network_change(&mut self) -> bool {
        let tunnels = self.tunnels.values();
        for device in tunnels.map(|entry| entry.routing.device.index()) {
            self.came_up.remove(&device);
        }
        self.network_changed |= !std::mem::take(&mut self.came_up).is_empty();
        let now = clock::now();
        if !self.network_changed {
            return false;
        }
        if now < self.change_after {
            let first = self.retry_at.into_iter().chain([self.change_after]).min();
            self.retry_at = first;
            return false;
        }
        self.network_changed = false;
        self.change_after = now + CHANGE_INTERVAL;
        true
    }

    /// Makes carriers and routes what the tunnels need, and reports.
    fn synchronise(&mut self) {
        (self.resync_at, self.retry_at) = (None, None);
        let mut failures = Vec::new();
        self.view.refresh(&mut failures);
        if !self.view.is_known() {
            // Routes of an earlier run stay, and no tunnel comes up, until they are known.
            debug!(?failures, "own routes cannot be read yet");
            self.retry_at = Some(clock::now() + REREAD);
            return;
        }
        self.restore_addresses();
        // A device has a carrier before packets are routed into it, and until none are.
        self.set_carriers(PathState::Up);
        let wanted = self.wanted(&mut failures);
        self.view.apply(&wanted, &mut failures);
        self.set_carriers(PathState::Down);
        if let Err(error) = self.view.refresh_foreign(self.interest(&self.peers)) {
            debug!(%error, "cannot look for routes that precede those into the tunnels");
        }
        if let Some(due) = self.view.foreign_due() {
            self.resync_at = Some(due.max(clock::now() + SETTLE));
        }
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
        self.report(failures);
    }

    /// Adds the addresses of the devices that may have lost them. A device that is down gets them once it is up again.
    fn restore_addresses(&mut self) {
        let netlink = &mut self.view.netlink;
        let lost = |entry: &&mut Entry| !entry.has_addresses;
        for entry in self.tunnels.values_mut().filter(lost) {
            let device = entry.routing.device.index();
            if !netlink.link(device).is_ok_and(|link| link.up) {
                continue;
            }
            entry.has_addresses = true;
            for InsideAddress { address, length } in &entry.routing.addresses {
                if let Err(error) = netlink.add_address(device, *address, *length) {
                    debug!(device = entry.routing.device.name(), %error, "cannot restore an address");
                }
            }
        }
    }

    /// Reports, if there is something new.
    fn report(&mut self, failures: Vec<RouteFailure>) {
        let overridden = self.view.overridden();
        let network_changed = self.take_network_change();
        let is_new =
            self.reported != self.generation || overridden != self.overridden || network_changed;
        if !is_new && failures.is_empty() {
            return;
        }
        self.reported = self.generation;
        self.overridden.clone_from(&overridden);
        // The daemon's loop may have ended before this thread.
        let _ = self.reports.send(RouteReport {
            generation: self.generation,
            failures,
            overridden,
            network_changed,
        });
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
        while let Ok(link) = self.view.netlink.link(device) {
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

    /// What the tunnels need.
    fn plan(&self) -> paths::RoutePlan {
        let addresses = self.view.addresses();
        let entries = self.tunnels.values();
        let tunnels: Vec<TunnelRoutes> = entries
            .map(|entry| tunnel_routes(&entry.routing, addresses))
            .collect();
        let connected = addresses
            .iter()
            .map(|host| Prefix::containing(host.address, host.prefix_length))
            .collect();
        let mut plan = paths::plan(tunnels, &connected);
        plan.peers
            .retain(|peer| !addresses.iter().any(|host| host.address == *peer));
        plan
    }

    /// Foreign routes that matter with these peers.
    fn interest(&self, peers: &BTreeSet<IpAddr>) -> RouteInterest {
        let entries = self.tunnels.values();
        RouteInterest {
            prefixes: entries
                .flat_map(|entry| entry.routing.routes.iter().chain(&entry.routing.carried))
                .copied()
                .collect(),
            peers: peers.clone(),
        }
    }

    /// The own routes that the tunnels need.
    fn wanted(&mut self, failures: &mut Vec<RouteFailure>) -> Wanted {
        let plan = self.plan();
        let devices = self.tunnels.values();
        let devices: Vec<u32> = devices.map(|entry| entry.routing.device.index()).collect();
        let mut wanted = Routes::new();
        if !plan.peers.is_empty()
            && let Err(error) = self.view.refresh_foreign(self.interest(&plan.peers))
        {
            failures.push(RouteFailure::other(error));
        }
        self.peers.clone_from(&plan.peers);
        for peer in plan.peers {
            let key = (MAIN_TABLE, Prefix::host(peer), PEER_ROUTE_METRIC);
            let own = self.view.own().get(&key);
            // Without a route to the peer the old peer route stays.
            match peer_route(peer, self.view.foreign(), &devices).or_else(|| own.cloned()) {
                Some(route) => {
                    wanted.insert(key, route);
                }
                None => failures.push(RouteFailure::other(NetlinkError::NoRoute(peer))),
            }
        }
        let rules = rules(&plan.sources);
        for planned in plan.routes {
            let route = kernel_route(planned, &rules);
            // A peer route precedes a tunnel's route with the same prefix and metric.
            wanted.entry(route.key()).or_insert(route);
        }
        Wanted {
            routes: wanted,
            rules: rules.into_iter().collect(),
        }
    }
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
        carried: routing.carried.clone(),
        local: routing.configured_local.clone(),
        metric: routing.metric,
        sources: sources.collect(),
        fail_closed: routing.fail_closed,
        peer: routing.peer,
    }
}

#[cfg(test)]
mod tests;
