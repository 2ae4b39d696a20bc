//! Steering by source: tunnels with overlapping remote networks and different local ones. The destination does not tell which of them a packet
//! belongs to, so packets from each local prefix look into a table of their own first. Pure.
//!
//! ```text
//!   a  10.1.0.0/24 <-> 10.2.0.0/16      from 10.1.0.0/24   10.2.0.0/16 through a
//!   b  10.9.0.0/24 <-> 10.2.0.0/16      from 10.9.0.0/24   10.2.0.0/16 through b
//! ```
//!
//! Default routes stay in the main table: in a table ahead of it they would take over the host's own networks.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::route::{PlannedRoute, PlannedTarget, RouteTable, TunnelRoutes};
use crate::net::Prefix;

/// Upper bound on the sources with a table of their own.
const MAX_SOURCES: usize = 900;

/// Local prefixes that need a table of their own, the longest first.
pub(super) fn sources(tunnels: &[TunnelRoutes]) -> Vec<Prefix> {
    let mut owners: BTreeMap<Prefix, Vec<&TunnelRoutes>> = BTreeMap::new();
    for tunnel in tunnels {
        for prefix in tunnel.routes.iter().filter(|prefix| !prefix.is_default()) {
            owners.entry(*prefix).or_default().push(tunnel);
        }
    }
    let mut sources = BTreeSet::new();
    for (prefix, inner) in &owners {
        let local = |tunnel: &TunnelRoutes| -> Vec<Prefix> {
            let of_family = |local: &&Prefix| local.is_ipv4() == prefix.is_ipv4();
            tunnel.local.iter().filter(of_family).copied().collect()
        };
        let Some(first) = inner.first().map(|tunnel| local(tunnel)) else {
            continue;
        };
        let overlapping: Vec<&TunnelRoutes> = prefix
            .covering()
            .filter_map(|prefix| owners.get(&prefix))
            .flatten()
            .copied()
            .collect();
        if overlapping.iter().any(|tunnel| local(tunnel) != first) {
            sources.extend(overlapping.into_iter().flat_map(local));
        }
    }
    let mut sources: Vec<Prefix> = sources
        .into_iter()
        .filter(|prefix| !prefix.is_default())
        .collect();
    sources.sort_by_key(|prefix| (Reverse(prefix.length()), *prefix));
    sources.truncate(MAX_SOURCES);
    sources
}

/// Routes that end the search in a source's table for what its routes must not take over: networks connected to the host, local networks of
/// tunnels, and peers. More specific routes of other programs are not known here.
pub(super) fn exceptions(
    source: Prefix,
    routes: &[PlannedRoute],
    tunnels: &[TunnelRoutes],
    peers: &BTreeSet<IpAddr>,
    connected: &BTreeSet<Prefix>,
) -> Vec<PlannedRoute> {
    let routed: BTreeSet<Prefix> = routes.iter().map(|route| route.prefix).collect();
    let networks = tunnels
        .iter()
        .flat_map(|tunnel| tunnel.local.iter().copied());
    let networks: BTreeSet<Prefix> = networks
        .chain(connected.iter().copied())
        .chain(peers.iter().map(|peer| Prefix::host(*peer)))
        .filter(|network| network.is_ipv4() == source.is_ipv4())
        .collect();
    let is_inside = |network: &Prefix| {
        !routed.contains(network) && network.covering().any(|prefix| routed.contains(&prefix))
    };
    let inside = networks.into_iter().filter(is_inside);
    inside
        .map(|prefix| PlannedRoute {
            table: RouteTable::Source(source),
            prefix,
            target: PlannedTarget::Throw,
        })
        .collect()
}
