//! The choice: equal metrics share, the lowest metric wins, what nobody carries goes nowhere.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::net::Prefix;

/// How one tunnel is doing, and what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Its device.
    pub device: u32,
    /// Whether packets may be routed into it.
    pub carries: Carries,
    /// What is to be routed into it.
    pub routes: Vec<Prefix>,
    /// The metric of those routes.
    pub metric: u32,
    /// Addresses of this machine that what it sends itself should come from, at most one a family matters.
    pub sources: Vec<IpAddr>,
    /// What becomes of its prefixes while nobody carries them.
    pub fail_closed: FailClosed,
    /// Where its peer is, once known.
    pub peer: Option<IpAddr>,
}

/// Whether packets may be routed into a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// It is up, or traffic brings it up.
    Yes,
    /// What is sent into it is lost.
    No,
}

/// What becomes of a prefix while no tunnel carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailClosed {
    /// It is unreachable.
    Hold,
    /// It goes wherever other routes lead.
    Leak,
}

/// The routes the kernel should have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Into tunnels and nowhere.
    pub routes: Vec<Route>,
    /// Peers whose packets one of these routes would catch: the way to them must be held where it is.
    pub pins: Vec<IpAddr>,
}

/// One route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub prefix: Prefix,
    /// Through what.
    pub target: Target,
}

/// What a route leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Into tunnels that share the flows.
    Devices {
        /// The lowest of several routes for one prefix wins.
        metric: u32,
        /// Their devices, in ascending order.
        devices: Vec<u32>,
        /// What this machine's own packets come from.
        source: Option<IpAddr>,
    },
    /// Nowhere, if no other route has the prefix.
    Nowhere,
}

/// The routes that fit these tunnels.
pub fn plan(tunnels: &[Tunnel]) -> Plan {
    let mut shared: BTreeMap<(Prefix, u32), Vec<&Tunnel>> = BTreeMap::new();
    let mut held: BTreeSet<Prefix> = BTreeSet::new();
    for tunnel in tunnels {
        for prefix in &tunnel.routes {
            match tunnel.carries {
                Carries::Yes => shared
                    .entry((*prefix, tunnel.metric))
                    .or_default()
                    .push(tunnel),
                Carries::No => {}
            }
            match tunnel.fail_closed {
                FailClosed::Hold => {
                    held.insert(*prefix);
                }
                FailClosed::Leak => {}
            }
        }
    }
    let nowhere = held.into_iter().map(|prefix| Route {
        prefix,
        target: Target::Nowhere,
    });
    let carried = shared.into_iter().map(|((prefix, metric), tunnels)| Route {
        prefix,
        target: Target::Devices {
            metric,
            devices: tunnels
                .iter()
                .map(|tunnel| tunnel.device)
                .collect::<BTreeSet<u32>>()
                .into_iter()
                .collect(),
            source: source(&tunnels, prefix),
        },
    });
    let routes: Vec<Route> = nowhere.chain(carried).collect();
    let peers: BTreeSet<IpAddr> = tunnels.iter().filter_map(|tunnel| tunnel.peer).collect();
    let pins = peers
        .into_iter()
        .filter(|peer| routes.iter().any(|route| route.prefix.contains(*peer)))
        .collect();
    Plan { routes, pins }
}

/// A route has one source for all its devices, so it must suit every tunnel; where they differ none is better than a wrong one.
fn source(tunnels: &[&Tunnel], towards: Prefix) -> Option<IpAddr> {
    let of = |tunnel: &Tunnel| {
        let fits = |source: &&IpAddr| source.is_ipv4() == towards.is_ipv4();
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

    fn tunnel(device: u32, metric: u32, carries: Carries) -> Tunnel {
        Tunnel {
            device,
            carries,
            routes: vec![prefix("10.8.0.0/16")],
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

    fn through(metric: u32, devices: &[u32]) -> Route {
        Route {
            prefix: prefix("10.8.0.0/16"),
            target: Target::Devices {
                metric,
                devices: devices.to_vec(),
                source: Some(ip("10.1.0.1")),
            },
        }
    }

    fn nowhere() -> Route {
        Route {
            prefix: prefix("10.8.0.0/16"),
            target: Target::Nowhere,
        }
    }

    #[test]
    fn equal_metrics_make_one_route_over_those_that_are_up() {
        let mut tunnels = [4, 2, 3].map(|device| tunnel(device, 100, Carries::Yes));
        assert_eq!(plan(&tunnels).routes, [nowhere(), through(100, &[2, 3, 4])]);
        tunnels[1].carries = Carries::No;
        assert_eq!(plan(&tunnels).routes, [nowhere(), through(100, &[3, 4])]);
    }

    #[test]
    fn a_standby_has_its_own_route_behind_the_primary() {
        let mut tunnels = [tunnel(1, 200, Carries::Yes), tunnel(2, 100, Carries::Yes)];
        assert_eq!(
            plan(&tunnels).routes,
            [nowhere(), through(100, &[2]), through(200, &[1])]
        );
        tunnels[1].carries = Carries::No;
        assert_eq!(plan(&tunnels).routes, [nowhere(), through(200, &[1])]);
    }

    #[test]
    fn fail_closed_prefixes_are_held_from_the_start_and_others_never() {
        let mut down = tunnel(1, 100, Carries::No);
        assert_eq!(plan(&[down.clone()]).routes, [nowhere()]);
        down.fail_closed = FailClosed::Leak;
        assert_eq!(plan(&[down]), Plan::default());
    }

    #[test]
    fn a_peer_is_pinned_only_while_a_route_would_catch_it() {
        let mut inside = tunnel(1, 100, Carries::Yes);
        assert!(plan(&[inside.clone()]).pins.is_empty());
        inside.routes.push(prefix("203.0.113.0/24"));
        assert_eq!(plan(&[inside.clone()]).pins, [ip("203.0.113.9")]);
        // A route to nowhere catches it just as well.
        inside.carries = Carries::No;
        assert_eq!(plan(&[inside.clone()]).pins, [ip("203.0.113.9")]);
        inside.fail_closed = FailClosed::Leak;
        assert!(plan(&[inside]).pins.is_empty());
    }

    #[test]
    fn another_tunnels_route_may_catch_a_peer_too() {
        let mut wide = tunnel(1, 100, Carries::Yes);
        wide.routes = vec![prefix("0.0.0.0/0")];
        let mut other = tunnel(2, 100, Carries::No);
        other.peer = Some(ip("198.51.100.1"));
        assert_eq!(
            plan(&[wide, other]).pins,
            [ip("198.51.100.1"), ip("203.0.113.9")]
        );
    }

    #[test]
    fn a_source_is_named_only_where_it_suits_every_tunnel_and_the_family() {
        let one = tunnel(1, 100, Carries::Yes);
        let mut other = tunnel(2, 100, Carries::Yes);
        other.sources = vec![ip("10.1.0.2")];
        let sources = |tunnels: &[Tunnel]| {
            let of = |route: &Route| match route.target {
                Target::Devices { source, .. } => Some(source),
                Target::Nowhere => None,
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
        assert_eq!(sources(&[six.clone()]), [None]);
        six.sources.push(ip("fd00:1::1"));
        assert_eq!(sources(&[six]), [Some(ip("fd00:1::1"))]);
    }
}
