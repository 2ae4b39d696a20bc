//! Route planning: from the state of the tunnels to the routes the kernel should have. Pure.
//!
//! ```text
//!   10.8.0.0/16  a up, metric 100 ─┐
//!                b up, metric 100 ─┴─▶ one multipath route, metric 100, over a and b
//!                c up, metric 200 ───▶ one route, metric 200, over c: the standby
//!                any fail-closed  ───▶ unreachable route, behind all others
//!   a peer inside a prefix above  ───▶ peer route: its host route stays outside the tunnels
//!   one remote, different locals  ───▶ a table for each source (steering)
//! ```

mod coverage;
mod route;
mod steering;

pub use coverage::{carried, missing};
pub use route::{
    FailClosed, PathState, PlannedRoute, PlannedTarget, RoutePlan, RouteTable, TunnelRoutes,
};

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::net::Prefix;

/// Plans the routes for these tunnels on a host with these connected networks.
pub fn plan(mut tunnels: Vec<TunnelRoutes>, connected: &BTreeSet<Prefix>) -> RoutePlan {
    let local: BTreeSet<Prefix> = tunnels.iter().flat_map(|t| t.local.clone()).collect();
    for tunnel in &mut tunnels {
        tunnel.carried = coverage::outside_own_networks(tunnel, connected, &local);
    }
    let tunnels = tunnels.as_slice();
    let sources = steering::sources(tunnels);
    let mut routes = table_routes(RouteTable::Main, tunnels, &sources);
    let prefixes: BTreeSet<Prefix> = routes.iter().map(|route| route.prefix).collect();
    let covers = |peer: &IpAddr| {
        let mut covering = Prefix::host(*peer).covering();
        covering.any(|prefix| prefixes.contains(&prefix))
    };
    let peers = tunnels.iter().filter_map(|tunnel| tunnel.peer);
    let peers = peers.filter(covers).collect();
    for source in &sources {
        let of_source = table_routes(RouteTable::Source(*source), tunnels, &sources);
        routes.extend(steering::exceptions(
            *source, &of_source, tunnels, &peers, connected,
        ));
        routes.extend(of_source);
    }
    RoutePlan {
        routes,
        peers,
        sources,
    }
}

/// Routes of one table: unreachable ones, then those into tunnels. `sources` have a table of their own.
fn table_routes(
    table: RouteTable,
    tunnels: &[TunnelRoutes],
    sources: &[Prefix],
) -> Vec<PlannedRoute> {
    let mut carried: BTreeMap<(Prefix, u32), Vec<&TunnelRoutes>> = BTreeMap::new();
    let mut held: BTreeSet<Prefix> = BTreeSet::new();
    let belongs = |prefix: &&Prefix| match table {
        RouteTable::Main => true,
        RouteTable::Source(source) => prefix.is_ipv4() == source.is_ipv4() && !prefix.is_default(),
    };
    let main = MainTable::new(tunnels, sources);
    for tunnel in tunnels {
        let carries = |local: &Prefix| match table {
            RouteTable::Main => true,
            RouteTable::Source(source) => local.contains_prefix(&source),
        };
        if table != RouteTable::Main && !tunnel.local.iter().any(carries) {
            continue;
        }
        match tunnel.fail_closed {
            FailClosed::Hold => held.extend(tunnel.routes.iter().filter(belongs)),
            FailClosed::Leak => {}
        }
        match tunnel.state {
            PathState::Up => {
                for prefix in tunnel.carried.iter().filter(belongs) {
                    if table == RouteTable::Main && main.leaves_out(tunnel, *prefix) {
                        continue;
                    }
                    let sharing = carried.entry((*prefix, tunnel.metric)).or_default();
                    match sharing.first() {
                        // The main table serves packets that have no source yet: those of one local network get one.
                        Some(first) if table == RouteTable::Main && first.local != tunnel.local => {
                            if accepts_any(tunnel, *prefix) && !accepts_any(first, *prefix) {
                                *sharing = vec![tunnel];
                            }
                        }
                        Some(_) | None => sharing.push(tunnel),
                    }
                }
            }
            PathState::Down => {}
        }
    }
    let unreachable = held.iter().map(|prefix| PlannedRoute {
        table,
        prefix: *prefix,
        target: PlannedTarget::Unreachable,
    });
    let carried = carried.iter().map(|((prefix, metric), tunnels)| {
        let devices: BTreeSet<u32> = tunnels.iter().map(|tunnel| tunnel.device).collect();
        PlannedRoute {
            table,
            prefix: *prefix,
            target: PlannedTarget::Tunnels {
                metric: *metric,
                devices: devices.into_iter().collect(),
                source: common_source(tunnels, *prefix),
            },
        }
    });
    unreachable.chain(carried).collect()
}

/// What the main table serves: packets from sources without a table of their own.
struct MainTable {
    sources: BTreeSet<Prefix>,
    /// Prefixes of tunnels that are up and accept every source.
    open: BTreeSet<Prefix>,
}

impl MainTable {
    fn new(tunnels: &[TunnelRoutes], sources: &[Prefix]) -> MainTable {
        let up = tunnels.iter().filter(|t| t.state == PathState::Up);
        let open = up.flat_map(|tunnel| {
            let open = |prefix: &&Prefix| accepts_any(tunnel, **prefix);
            tunnel.carried.iter().filter(open).copied()
        });
        MainTable {
            sources: sources.iter().copied().collect(),
            open: open.collect(),
        }
    }

    /// Whether a tunnel would drop what the main table serves, and another one carries it.
    fn leaves_out(&self, tunnel: &TunnelRoutes, prefix: Prefix) -> bool {
        let of_family = |local: &&Prefix| local.is_ipv4() == prefix.is_ipv4();
        let mut local = tunnel.local.iter().filter(of_family);
        self.open.contains(&prefix)
            && !accepts_any(tunnel, prefix)
            && local.all(|local| self.sources.contains(local))
    }
}

/// Whether a tunnel accepts packets for `prefix` from every source.
fn accepts_any(tunnel: &TunnelRoutes, prefix: Prefix) -> bool {
    let mut local = tunnel.local.iter();
    local.any(|local| local.is_default() && local.is_ipv4() == prefix.is_ipv4())
}

/// Source address that suits every tunnel of a route, since a route has one for all its devices.
fn common_source(tunnels: &[&TunnelRoutes], prefix: Prefix) -> Option<IpAddr> {
    let of = |tunnel: &TunnelRoutes| {
        let fits = |source: &&IpAddr| source.is_ipv4() == prefix.is_ipv4();
        tunnel.sources.iter().find(fits).copied()
    };
    let first = of(tunnels.first()?)?;
    tunnels
        .iter()
        .all(|tunnel| of(tunnel) == Some(first))
        .then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(tunnels: &[TunnelRoutes]) -> RoutePlan {
        plan_beside(tunnels, &[])
    }

    /// The plan on a host with these connected networks.
    fn plan_beside(tunnels: &[TunnelRoutes], connected: &[&str]) -> RoutePlan {
        let connected = connected.iter().copied().map(prefix).collect();
        super::plan(tunnels.to_vec(), &connected)
    }

    fn tunnel(device: u32, metric: u32, state: PathState) -> TunnelRoutes {
        TunnelRoutes {
            device,
            state,
            routes: vec![prefix("10.8.0.0/16")],
            carried: vec![prefix("10.8.0.0/16")],
            local: vec![prefix("10.1.0.0/24")],
            metric,
            sources: vec![ip("10.1.0.1")],
            fail_closed: FailClosed::Hold,
            peer: Some(ip("203.0.113.9")),
        }
    }

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn through(metric: u32, devices: &[u32]) -> PlannedRoute {
        PlannedRoute {
            table: RouteTable::Main,
            prefix: prefix("10.8.0.0/16"),
            target: PlannedTarget::Tunnels {
                metric,
                devices: devices.to_vec(),
                source: Some(ip("10.1.0.1")),
            },
        }
    }

    fn unreachable() -> PlannedRoute {
        PlannedRoute {
            table: RouteTable::Main,
            prefix: prefix("10.8.0.0/16"),
            target: PlannedTarget::Unreachable,
        }
    }

    #[test]
    fn tunnels_of_equal_metric_that_are_up_share_one_route() {
        let mut tunnels = [4, 2, 3].map(|device| tunnel(device, 100, PathState::Up));
        assert_eq!(
            plan(&tunnels).routes,
            [unreachable(), through(100, &[2, 3, 4])]
        );
        tunnels[1].state = PathState::Down;
        assert_eq!(
            plan(&tunnels).routes,
            [unreachable(), through(100, &[3, 4])]
        );
    }

    #[test]
    fn a_standby_has_a_route_of_higher_metric() {
        let mut tunnels = [tunnel(1, 200, PathState::Up), tunnel(2, 100, PathState::Up)];
        assert_eq!(
            plan(&tunnels).routes,
            [unreachable(), through(100, &[2]), through(200, &[1])]
        );
        tunnels[1].state = PathState::Down;
        assert_eq!(plan(&tunnels).routes, [unreachable(), through(200, &[1])]);
    }

    #[test]
    fn a_standby_carries_what_the_first_tunnel_does_not() {
        let both = vec![prefix("10.8.0.0/16"), prefix("10.9.0.0/16")];
        let mut first = tunnel(1, 100, PathState::Up);
        first.routes.clone_from(&both);
        first.fail_closed = FailClosed::Leak;
        let mut standby = tunnel(2, 200, PathState::Up);
        standby.carried = both;
        standby.fail_closed = FailClosed::Leak;
        let routes = plan(&[first, standby]).routes;
        let of = |wanted: &str| -> Vec<&PlannedTarget> {
            let of_prefix = routes.iter().filter(|route| route.prefix == prefix(wanted));
            of_prefix.map(|route| &route.target).collect()
        };
        let [PlannedTarget::Tunnels { devices, .. }] = of("10.9.0.0/16")[..] else {
            panic!("{routes:?}");
        };
        assert_eq!(*devices, [2]);
        assert_eq!(of("10.8.0.0/16").len(), 2);
    }

    #[test]
    fn tunnels_with_one_remote_and_different_locals_have_a_table_for_each_source() {
        let a = tunnel(1, 100, PathState::Up);
        let mut b = tunnel(2, 100, PathState::Up);
        b.local = vec![prefix("10.9.0.0/25")];
        let mut both = tunnel(3, 100, PathState::Up);
        both.local = vec![prefix("10.9.0.0/24")];
        let planned = plan(&[a.clone(), b.clone(), both]);
        let sources = ["10.9.0.0/25", "10.1.0.0/24", "10.9.0.0/24"].map(prefix);
        assert_eq!(planned.sources, sources);
        // A source has the tunnels whose local network contains it; the main table those of the first local network.
        let [narrow, one, wide] = sources.map(RouteTable::Source);
        assert_eq!(devices(&planned, narrow), [2, 3]);
        assert_eq!(devices(&planned, one), [1]);
        assert_eq!(devices(&planned, wide), [3]);
        assert_eq!(devices(&planned, RouteTable::Main), [1]);
        // Each table is fail-closed, also while its tunnel is down.
        b.state = PathState::Down;
        let planned = plan(&[a.clone(), b.clone()]);
        let narrow = RouteTable::Source(prefix("10.9.0.0/25"));
        let held: Vec<&PlannedRoute> = planned
            .routes
            .iter()
            .filter(|r| r.table == narrow)
            .collect();
        assert_eq!(held.len(), 1);
        assert_eq!(held[0].target, PlannedTarget::Unreachable);
        // Without an overlap, or with one local network, there is nothing to steer.
        b.routes = vec![prefix("10.7.0.0/16"), prefix("0.0.0.0/0")];
        assert!(plan(&[a.clone(), b]).sources.is_empty());
        assert!(plan(&[a.clone(), a]).sources.is_empty());
    }

    /// Devices of the routes of one table, in order.
    fn devices(plan: &RoutePlan, table: RouteTable) -> Vec<u32> {
        let of_table = plan.routes.iter().filter(|route| route.table == table);
        let devices = of_table.filter_map(|route| match &route.target {
            PlannedTarget::Tunnels { devices, .. } => Some(devices.clone()),
            PlannedTarget::Unreachable | PlannedTarget::Throw => None,
        });
        devices.flatten().collect()
    }

    #[test]
    fn the_main_table_prefers_a_tunnel_that_accepts_every_source() {
        let one = tunnel(1, 100, PathState::Up);
        let mut open = tunnel(2, 200, PathState::Up);
        open.local = vec![prefix("0.0.0.0/0")];
        let source = RouteTable::Source(prefix("10.1.0.0/24"));
        // Whichever the metrics: the other one has a table for its source.
        let planned = plan(&[one.clone(), open.clone()]);
        assert_eq!(devices(&planned, RouteTable::Main), [2]);
        assert_eq!(devices(&planned, source), [1, 2]);
        open.state = PathState::Down;
        let planned = plan(&[one.clone(), open.clone()]);
        assert_eq!(devices(&planned, RouteTable::Main), [1]);
        // Default routes have no such tables: of equal metrics, the one that accepts every source has the route.
        let mut both = [one, open];
        for tunnel in &mut both {
            tunnel.state = PathState::Up;
            tunnel.routes = vec![prefix("0.0.0.0/0")];
            tunnel.carried.clone_from(&tunnel.routes);
        }
        assert_eq!(devices(&plan(&both), RouteTable::Main), [1, 2]);
        both[1].metric = 100;
        assert_eq!(devices(&plan(&both), RouteTable::Main), [2]);
    }

    #[test]
    fn a_peer_that_narrows_takes_over_no_network_of_the_host() {
        let carried = |routes: &str, carried: &[&str]| -> Vec<String> {
            let mut narrowed = tunnel(1, 100, PathState::Up);
            narrowed.fail_closed = FailClosed::Leak;
            narrowed.routes = vec![prefix(routes)];
            narrowed.carried = carried.iter().copied().map(prefix).collect();
            let planned = plan_beside(&[narrowed], &["192.168.1.0/24", "10.255.0.0/24"]);
            let prefixes = planned.routes.iter().map(|route| route.prefix.to_string());
            prefixes.collect()
        };
        let halves = ["192.168.1.0/25", "192.168.1.128/25", "192.168.2.0/24"];
        assert_eq!(carried("0.0.0.0/0", &halves), ["192.168.2.0/24"]);
        assert_eq!(
            carried(
                "10.0.0.0/8",
                &["10.1.0.0/25", "10.2.0.0/16", "10.255.0.0/24"]
            ),
            ["10.2.0.0/16"],
            "neither a local nor a connected network"
        );
        // As configured, or less specific than the host's own route.
        for route in ["192.168.1.0/25", "10.1.0.0/25"] {
            assert_eq!(carried(route, &[route]), [route]);
        }
        assert_eq!(
            carried("0.0.0.0/0", &["192.168.0.0/16"]),
            ["192.168.0.0/16"]
        );
        // The configured route precedes the connected network already.
        assert_eq!(
            carried("10.255.0.0/25", &["10.255.0.0/26"]),
            ["10.255.0.0/26"]
        );
    }

    #[test]
    fn a_table_of_a_source_leaves_local_networks_and_peers_to_the_main_table() {
        let mut a = tunnel(1, 100, PathState::Up);
        a.routes = vec![prefix("10.0.0.0/8")];
        a.peer = Some(ip("10.200.0.1"));
        let mut b = tunnel(2, 100, PathState::Up);
        b.local = vec![prefix("10.9.0.0/24")];
        let plan = plan_beside(&[a, b], &["10.255.0.0/24", "192.168.1.0/24"]);
        let thrown: BTreeSet<Prefix> = plan
            .routes
            .iter()
            .filter(|route| route.target == PlannedTarget::Throw)
            .map(|route| route.prefix)
            .collect();
        let expected = [
            "10.1.0.0/24",
            "10.9.0.0/24",
            "10.200.0.1/32",
            "10.255.0.0/24",
        ]
        .map(prefix);
        assert_eq!(thrown, BTreeSet::from(expected));
    }

    #[test]
    fn only_fail_closed_prefixes_get_an_unreachable_route_and_from_the_start() {
        let mut down = tunnel(1, 100, PathState::Down);
        assert_eq!(plan(&[down.clone()]).routes, [unreachable()]);
        down.fail_closed = FailClosed::Leak;
        assert_eq!(plan(&[down]), RoutePlan::default());
    }

    #[test]
    fn a_peer_needs_a_host_route_only_while_a_planned_route_covers_it() {
        let mut inside = tunnel(1, 100, PathState::Up);
        assert!(plan(&[inside.clone()]).peers.is_empty());
        inside.routes.push(prefix("203.0.113.0/24"));
        inside.carried.clone_from(&inside.routes);
        assert_eq!(plan(&[inside.clone()]).peers, [ip("203.0.113.9")].into());
        // An unreachable route covers the peer just as well.
        inside.state = PathState::Down;
        assert_eq!(plan(&[inside.clone()]).peers, [ip("203.0.113.9")].into());
        inside.fail_closed = FailClosed::Leak;
        assert!(plan(&[inside]).peers.is_empty());
    }

    #[test]
    fn a_route_of_another_tunnel_covers_a_peer_too() {
        let mut wide = tunnel(1, 100, PathState::Up);
        wide.routes = vec![prefix("0.0.0.0/0")];
        wide.carried.clone_from(&wide.routes);
        let mut other = tunnel(2, 100, PathState::Down);
        other.peer = Some(ip("198.51.100.1"));
        assert_eq!(
            plan(&[wide, other]).peers,
            [ip("198.51.100.1"), ip("203.0.113.9")].into()
        );
    }

    #[test]
    fn a_route_has_a_source_only_where_it_suits_every_tunnel_and_the_family() {
        let one = tunnel(1, 100, PathState::Up);
        let mut other = tunnel(2, 100, PathState::Up);
        other.sources = vec![ip("10.1.0.2")];
        let sources = |tunnels: &[TunnelRoutes]| {
            let of = |route: &PlannedRoute| match route.target {
                PlannedTarget::Tunnels { source, .. } => Some(source),
                PlannedTarget::Unreachable | PlannedTarget::Throw => None,
            };
            plan(tunnels)
                .routes
                .iter()
                .filter_map(of)
                .collect::<Vec<_>>()
        };
        assert_eq!(sources(&[one.clone(), other]), [None]);
        let mut six = one;
        six.routes = vec![prefix("fd00::/8")];
        six.carried.clone_from(&six.routes);
        assert_eq!(sources(&[six.clone()]), [None]);
        six.sources.push(ip("fd00:1::1"));
        assert_eq!(sources(&[six]), [Some(ip("fd00:1::1"))]);
    }
}
