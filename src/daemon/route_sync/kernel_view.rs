//! View of the kernel's tables that the route synchronisation needs: own routes and rules, the foreign routes that matter, the host's addresses.
//!
//! An event marks the part of the view that it concerns as stale; a stale part is read again before it is used. Changes of routes that do
//! not matter cost no request. A read that fails leaves the previous view in place and is tried again.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tracing::{debug, info};

use crate::net::{Prefix, Time};
use crate::os::clock;
use crate::os::netlink::{
    FIRST_RULE, FIRST_TABLE, ForeignRoute, HostAddress, MAIN_TABLE, Netlink, NetlinkError,
    NetworkEvent, PEER_ROUTE_METRIC, Route, RouteInterest, RouteKey, RouteTarget, Rule,
    UNREACHABLE_METRIC,
};
use crate::paths::{PlannedRoute, PlannedTarget, RouteTable};

/// Own routes, by what identifies them.
pub(super) type Routes = BTreeMap<RouteKey, Route>;

/// What the own routes and rules should be.
pub(super) struct Wanted {
    pub(super) routes: Routes,
    pub(super) rules: BTreeSet<Rule>,
}

/// The view, with the connection that reads and changes the tables.
pub(super) struct KernelView {
    pub(super) netlink: Netlink,
    own: Routes,
    rules: BTreeSet<Rule>,
    /// Whether the own routes have been read at all: before, an own route looks like another program's.
    is_known: bool,
    /// Foreign routes that `interest` selects.
    foreign: Vec<ForeignRoute>,
    interest: RouteInterest,
    addresses: Vec<HostAddress>,
    stale: Stale,
    /// Earliest next read of the foreign routes.
    foreign_after: Time,
}

/// A route into tunnels that another program's route for the same prefix precedes: no packet takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Overridden {
    pub(crate) devices: Vec<u32>,
    pub(crate) prefix: Prefix,
    /// Metric of our route.
    pub(crate) metric: u32,
    /// Metric of the route that precedes it.
    pub(crate) foreign_metric: u32,
}

/// A route that could not be installed or removed.
#[derive(Debug)]
pub(crate) struct RouteFailure {
    /// Devices of a route into tunnels; none for other failures.
    pub(crate) devices: Vec<u32>,
    pub(crate) error: NetlinkError,
}

/// Parts of the view that must be read again before use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stale {
    own: bool,
    foreign: bool,
    addresses: bool,
}

impl Stale {
    const ALL: Stale = Stale {
        own: true,
        foreign: true,
        addresses: true,
    };

    pub(super) fn is_any(self) -> bool {
        self.own || self.foreign || self.addresses
    }
}

impl RouteFailure {
    pub(super) fn other(error: NetlinkError) -> RouteFailure {
        RouteFailure {
            devices: Vec::new(),
            error,
        }
    }
}

/// Share of the time that may be spent reading foreign routes: one part in so many. The kernel has no filter for them, so a host with a
/// full BGP table, whose best route to a peer changes all the time, would read the whole table without end.
const FOREIGN_READ_SHARE: u32 = 20;

/// Interface index of the loopback device.
const LOOPBACK: u32 = 1;

impl KernelView {
    /// Reads own routes and addresses. A table that changes while it is read is read again later.
    ///
    /// # Errors
    /// The kernel does not answer or rejects a request.
    pub(super) fn open(netlink: Netlink) -> Result<KernelView, NetlinkError> {
        let mut view = KernelView {
            netlink,
            own: Routes::new(),
            rules: BTreeSet::new(),
            is_known: false,
            foreign: Vec::new(),
            interest: RouteInterest::default(),
            addresses: Vec::new(),
            stale: Stale::ALL,
            foreign_after: Time::from_secs(0),
        };
        let mut failures = Vec::new();
        view.refresh(&mut failures);
        for RouteFailure { error, .. } in failures {
            match error {
                NetlinkError::Interrupted { .. } => debug!(%error, "read again later"),
                error => return Err(error),
            }
        }
        Ok(view)
    }

    /// Whether the own routes are known.
    pub(super) fn is_known(&self) -> bool {
        self.is_known
    }

    /// Own routes in the kernel.
    pub(super) fn own(&self) -> &Routes {
        &self.own
    }

    /// Foreign routes that matter.
    pub(super) fn foreign(&self) -> &[ForeignRoute] {
        &self.foreign
    }

    /// Addresses of the host.
    pub(super) fn addresses(&self) -> &[HostAddress] {
        &self.addresses
    }

    /// Marks what an event concerns as stale, and returns it. `is_tunnel`: the event is about a tunnel's device.
    pub(super) fn on_event(&mut self, event: NetworkEvent, is_tunnel: bool) -> Stale {
        let mut stale = Stale::default();
        match event {
            NetworkEvent::OwnRoute => stale.own = true,
            NetworkEvent::ForeignRoute(prefix) => stale.foreign = self.interest.matches(prefix),
            NetworkEvent::LinkUp(index) | NetworkEvent::LinkDown(index) => {
                let leads = |route: &Route| matches!(route.target, RouteTarget::NextHop { device, .. } if device == index);
                stale.own = is_tunnel || self.own.values().any(leads);
                let through = |route: &ForeignRoute| route.next_hop.map(|(device, _)| device);
                stale.foreign = self
                    .foreign
                    .iter()
                    .any(|route| through(route) == Some(index));
            }
            NetworkEvent::AddressAdded(_) => stale.addresses = true,
            // The kernel removes IPv4 routes with this preferred source, and with the last IPv4 address of a device all IPv4 routes
            // through that device, without a notification.
            NetworkEvent::AddressRemoved(_) | NetworkEvent::Unknown => stale = Stale::ALL,
        }
        self.stale.own |= stale.own;
        self.stale.foreign |= stale.foreign;
        self.stale.addresses |= stale.addresses;
        stale
    }

    /// Reads own routes and addresses again if they are stale.
    pub(super) fn refresh(&mut self, failures: &mut Vec<RouteFailure>) {
        if self.stale.own || self.stale.foreign {
            // The kernel announces that a device goes down before it removes the routes. A request for a link waits for the lock
            // (RTNL) that covers both.
            let _ = self.netlink.link(LOOPBACK);
        }
        if self.stale.own {
            let routes = self.netlink.own_routes();
            match routes.and_then(|routes| Ok((routes, self.netlink.own_rules()?))) {
                Ok((routes, rules)) => {
                    self.on_own_routes(routes);
                    self.rules = rules.into_iter().collect();
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

    fn on_own_routes(&mut self, routes: Vec<Route>) {
        if self.is_known {
            debug!(routes = routes.len(), "own routes read");
        } else if !routes.is_empty() {
            info!(
                routes = routes.len(),
                "adopting routes of an earlier run: those that are still needed stay, the others are removed"
            );
        }
        self.own = by_key(routes);
        self.is_known = true;
        self.stale.own = false;
    }

    /// Reads the foreign routes again if they are stale or `interest` has grown, but not too often.
    pub(super) fn refresh_foreign(&mut self, interest: RouteInterest) -> Result<(), NetlinkError> {
        let start = clock::now();
        let has_grown = !interest.is_within(&self.interest);
        if !has_grown && (!self.stale.foreign || start < self.foreign_after) {
            return Ok(());
        }
        self.stale.foreign = true;
        let read = self.netlink.foreign_routes(&interest);
        let end = clock::now();
        self.foreign_after = next_read(end, end.since(start));
        self.foreign = read?;
        debug!(routes = self.foreign.len(), "foreign routes read");
        self.interest = interest;
        self.stale.foreign = false;
        Ok(())
    }

    /// Time at which stale foreign routes may be read; `None` while they are not stale.
    pub(super) fn foreign_due(&self) -> Option<Time> {
        self.stale.foreign.then_some(self.foreign_after)
    }

    /// Makes own routes and rules those `wanted`. A rule stands only while its table is filled.
    pub(super) fn apply(&mut self, wanted: &Wanted, failures: &mut Vec<RouteFailure>) {
        let RouteChanges { install, withdraw } = changes(&self.own, &wanted.routes);
        let obsolete: Vec<Rule> = self.rules.difference(&wanted.rules).copied().collect();
        for rule in obsolete {
            match self.netlink.remove_rule(&rule) {
                Ok(()) => {
                    self.rules.remove(&rule);
                }
                Err(error) => self.on_failure(RouteFailure::other(error), failures),
            }
        }
        for route in install {
            let result = if self.own.contains_key(&route.key()) {
                self.netlink.replace(&route)
            } else {
                self.netlink.install(&route)
            };
            match result {
                Ok(()) => {
                    self.own.insert(route.key(), route);
                }
                Err(error) => {
                    let devices = match route.target {
                        // IPv6 is off: IPv4 works without it.
                        RouteTarget::Tunnels(_)
                            if !route.prefix.is_ipv4() && error.is_family_off() =>
                        {
                            Vec::new()
                        }
                        RouteTarget::Tunnels(devices) => devices,
                        RouteTarget::NextHop { .. }
                        | RouteTarget::Unreachable
                        | RouteTarget::Throw => Vec::new(),
                    };
                    self.on_failure(RouteFailure { devices, error }, failures);
                }
            }
        }
        let missing: Vec<Rule> = wanted.rules.difference(&self.rules).copied().collect();
        for rule in missing {
            match self.netlink.add_rule(&rule) {
                Ok(()) => {
                    self.rules.insert(rule);
                }
                Err(error) => self.on_failure(RouteFailure::other(error), failures),
            }
        }
        for key in withdraw {
            match self.netlink.withdraw(key) {
                Ok(()) => {
                    self.own.remove(&key);
                }
                Err(error) => self.on_failure(RouteFailure::other(error), failures),
            }
        }
    }

    /// A change has failed: what the kernel has is not known.
    fn on_failure(&mut self, failure: RouteFailure, failures: &mut Vec<RouteFailure>) {
        self.stale.own = true;
        failures.push(failure);
    }

    /// Own routes into tunnels that a foreign route for the same prefix precedes: no packet takes them.
    pub(super) fn overridden(&self) -> Vec<Overridden> {
        let of = |route: &Route| {
            let RouteTarget::Tunnels(devices) = &route.target else {
                return None;
            };
            if route.table != MAIN_TABLE {
                return None;
            }
            let precedes = |foreign: &&ForeignRoute| {
                foreign.prefix == route.prefix && foreign.metric < route.metric
            };
            let first = self.foreign.iter().filter(precedes);
            Some(Overridden {
                devices: devices.clone(),
                prefix: route.prefix,
                metric: route.metric,
                foreign_metric: first.map(|foreign| foreign.metric).min()?,
            })
        };
        self.own.values().filter_map(of).collect()
    }
}

/// Earliest next read of the foreign routes after one that has taken so long.
fn next_read(end: Time, took: Duration) -> Time {
    end + took.saturating_mul(FOREIGN_READ_SHARE)
}

pub(super) fn by_key(routes: Vec<Route>) -> Routes {
    let keyed = routes.into_iter().map(|route| (route.key(), route));
    keyed.collect()
}

/// Difference between the present and the wanted routes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RouteChanges {
    pub(super) install: Vec<Route>,
    pub(super) withdraw: Vec<RouteKey>,
}

pub(super) fn changes(present: &Routes, wanted: &Routes) -> RouteChanges {
    let is_present =
        |route: &Route| matches!(present.get(&route.key()), Some(old) if old.is_same(route));
    let missing = wanted.values().filter(|route| !is_present(route));
    let mut install: Vec<Route> = missing.cloned().collect();
    install.sort_by_key(|route| rank(route.metric));
    let obsolete = present.keys().filter(|key| !wanted.contains_key(key));
    let mut withdraw: Vec<RouteKey> = obsolete.copied().collect();
    withdraw.sort_by_key(|(_, _, metric)| Reverse(rank(*metric)));
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

/// Rules that lead to the tables of these sources.
pub(super) fn rules(sources: &[Prefix]) -> Vec<Rule> {
    let numbered = (0..).zip(sources);
    let rule = |(number, from): (u32, &Prefix)| Rule {
        priority: FIRST_RULE.saturating_add(number),
        from: *from,
        table: FIRST_TABLE.saturating_add(number),
    };
    numbered.map(rule).collect()
}

/// A planned route as the kernel has it.
pub(super) fn kernel_route(planned: PlannedRoute, rules: &[Rule]) -> Route {
    let table = match planned.table {
        RouteTable::Main => MAIN_TABLE,
        RouteTable::Source(from) => {
            let rule = rules.iter().find(|rule| rule.from == from);
            rule.map_or(MAIN_TABLE, |rule| rule.table)
        }
    };
    let unreachable = Route {
        table,
        ..Route::unreachable(planned.prefix)
    };
    match planned.target {
        PlannedTarget::Unreachable => unreachable,
        PlannedTarget::Throw => Route {
            metric: PEER_ROUTE_METRIC,
            target: RouteTarget::Throw,
            ..unreachable
        },
        PlannedTarget::Tunnels {
            metric,
            devices,
            source,
        } => Route {
            metric,
            target: RouteTarget::Tunnels(devices),
            source,
            ..unreachable
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::netlink::testing::interrupted_dumps;

    #[test]
    fn tables_that_change_while_they_are_read_at_the_start_are_read_later() {
        // A link, five attempts at the own routes, five at the addresses.
        let (netlink, kernel) = interrupted_dumps(11);
        let mut view = KernelView::open(netlink).unwrap();
        assert!(!view.is_known());
        let mut failures = Vec::new();
        view.refresh(&mut failures);
        assert!(view.is_known() && failures.is_empty(), "{failures:?}");
        drop(view);
        kernel.join().unwrap();
    }

    #[test]
    fn foreign_routes_are_read_for_a_twentieth_of_the_time_at_most() {
        let end = Time::from_secs(100);
        assert_eq!(next_read(end, Duration::from_secs(2)), Time::from_secs(140));
        assert_eq!(next_read(end, Duration::ZERO), end);
    }
}
