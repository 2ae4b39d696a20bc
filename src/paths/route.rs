//! States and routes of tunnels, and the routes planned for them.

use std::collections::BTreeSet;
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
    /// Prefixes of its local traffic selectors.
    pub local: Vec<Prefix>,
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
    /// Source prefixes with a table of their own, in the order in which a packet looks for its source.
    pub sources: Vec<Prefix>,
}

/// Table of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteTable {
    /// The main table.
    Main,
    /// The table for packets from this prefix, ahead of the main one.
    Source(Prefix),
}

/// One route of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedRoute {
    /// Table.
    pub table: RouteTable,
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
    /// As the main table says, in another table.
    Throw,
}
