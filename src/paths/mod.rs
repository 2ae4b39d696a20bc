//! Route planning: from the state of the tunnels to the routes the kernel should have. Pure.
//!
//! ```text
//!   10.8.0.0/16  a up, metric 100 ─┐
//!                b up, metric 100 ─┴─▶ one multipath route, metric 100, over a and b
//!                c up, metric 200 ───▶ one route, metric 200, over c: the standby
//!                any fail-closed  ───▶ unreachable route, behind all others
//!   a peer inside a prefix above  ───▶ peer route: its host route stays outside the tunnels
//! ```

mod coverage;

pub use coverage::{carried, missing};

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::net::Prefix;

/// State and routes of one tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelRoutes {
    /// Interface index of its device.
    pub device: u32,
    /// Whether packets may be routed into it.
    pub state: PathState,
    /// Destinations that it should carry, and that `fail_closed` concerns.
    pub routes: Vec<Prefix>,
    /// Destinations to route into it while it is up: what its Child SAs cover of `routes`.
    pub carried: Vec<Prefix>,
    /// Metric of those routes.
    pub metric: u32,
    /// Preferred source addresses of the host's own packets; the first of each family counts.
    pub sources: Vec<IpAddr>,
    /// Treatment of its prefixes while no tunnel carries them.
    pub fail_closed: FailClosed,
    /// Address of its peer, once known.
    pub peer: Option<IpAddr>,
}

/// Whether packets may be routed into a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathState {
    /// The tunnel is up, or traffic brings it up.
    Up,
    /// The tunnel would drop the packets.
    Down,
}

/// Treatment of a prefix while no tunnel carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailClosed {
    /// An unreachable route holds the packets back.
    Hold,
    /// Packets follow the host's other routes.
    Leak,
}

/// Routes the kernel should have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoutePlan {
    /// Routes into tunnels, and unreachable ones.
    pub routes: Vec<PlannedRoute>,
    /// Peers inside one of these routes' prefixes: each needs a host route outside the tunnels.
    pub peers: BTreeSet<IpAddr>,
}

/// One route of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedRoute {
    /// Destination.
    pub prefix: Prefix,
    /// Target.
    pub target: PlannedTarget,
}

/// Where a planned route leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlannedTarget {
    /// Tunnels that share the flows.
    Tunnels {
        /// Metric; the lowest of several routes for one prefix wins.
        metric: u32,
        /// Interface indices, in ascending order.
        devices: Vec<u32>,
        /// Preferred source address of the host's own packets.
        source: Option<IpAddr>,
    },
    /// Unreachable unless another route has the prefix.
    Unreachable,
}

/// Plans the routes for these tunnels.
pub fn plan(tunnels: &[TunnelRoutes]) -> RoutePlan {
    let mut carried: BTreeMap<(Prefix, u32), Vec<&TunnelRoutes>> = BTreeMap::new();
    let mut held: BTreeSet<Prefix> = BTreeSet::new();
    for tunnel in tunnels {
        match tunnel.fail_closed {
            FailClosed::Hold => held.extend(&tunnel.routes),
            FailClosed::Leak => {}
        }
        match tunnel.state {
            PathState::Up => {
                for prefix in &tunnel.carried {
                    let sharing = carried.entry((*prefix, tunnel.metric)).or_default();
                    sharing.push(tunnel);
                }
            }
            PathState::Down => {}
        }
    }
    let prefixes: BTreeSet<Prefix> = carried.keys().map(|(prefix, _)| *prefix).collect();
    let covers = |peer: &IpAddr| {
        let lengths = 0..=Prefix::host(*peer).length();
        let mut covering = lengths.map(|length| Prefix::containing(*peer, length));
        covering.any(|prefix| prefixes.contains(&prefix) || held.contains(&prefix))
    };
    let peers = tunnels.iter().filter_map(|tunnel| tunnel.peer);
    let peers = peers.filter(covers).collect();
    let unreachable = held.iter().map(|prefix| PlannedRoute {
        prefix: *prefix,
        target: PlannedTarget::Unreachable,
    });
    let carried = carried.iter().map(|((prefix, metric), tunnels)| {
        let devices: BTreeSet<u32> = tunnels.iter().map(|tunnel| tunnel.device).collect();
        PlannedRoute {
            prefix: *prefix,
            target: PlannedTarget::Tunnels {
                metric: *metric,
                devices: devices.into_iter().collect(),
                source: common_source(tunnels, *prefix),
            },
        }
    });
    RoutePlan {
        routes: unreachable.chain(carried).collect(),
        peers,
    }
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

    fn tunnel(device: u32, metric: u32, state: PathState) -> TunnelRoutes {
        TunnelRoutes {
            device,
            state,
            routes: vec![prefix("10.8.0.0/16")],
            carried: vec![prefix("10.8.0.0/16")],
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
                PlannedTarget::Unreachable => None,
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
