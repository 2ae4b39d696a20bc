//! Coverage of a tunnel's routes by traffic selectors: what a Child SA carries of them, and what it does not. Pure.
//!
//! ```text
//!   routes     10.2.0.0/24            10.3.0.0/24
//!   selectors  10.2.0.0/25            10.3.0.0/16
//!   carried    10.2.0.0/25            10.3.0.0/24
//!   missing    10.2.0.0/24 in part    —
//! ```

use std::collections::BTreeSet;

use super::route::TunnelRoutes;
use crate::net::{PortRange, Prefix, Selector};

/// Upper bound on the parts of routes that one tunnel carries: selectors that are no prefixes, from the peer, make many.
const MAX_PARTS: usize = 256;

/// Parts of `routes` that the selectors cover, whatever their protocols and ports; a route that they fill is one part.
pub fn carried<'a>(
    routes: &[Prefix],
    selectors: impl IntoIterator<Item = &'a Selector>,
) -> Vec<Prefix> {
    let ranges = ranges(selectors);
    let mut carried = BTreeSet::new();
    let mut parts = BTreeSet::new();
    for route in routes {
        if is_whole(route, &ranges) {
            carried.insert(*route);
            continue;
        }
        let route = Selector::from(*route);
        for part in ranges.iter().filter_map(|range| range.intersect(&route)) {
            let room = MAX_PARTS.saturating_sub(parts.len());
            if room == 0 {
                break;
            }
            parts.extend(part.prefixes().into_iter().take(room));
        }
    }
    carried.extend(parts);
    carried.into_iter().collect()
}

/// Prefixes of `wanted` that the selectors do not cover as a whole.
pub fn missing<'a>(
    wanted: &[Prefix],
    selectors: impl IntoIterator<Item = &'a Selector>,
) -> Vec<Prefix> {
    let ranges = ranges(selectors);
    let is_missing = |prefix: &&Prefix| !is_whole(prefix, &ranges);
    wanted.iter().filter(is_missing).copied().collect()
}

/// Carried prefixes of a tunnel without those that a peer has made by narrowing and that lie inside a network of our own: they would precede
/// the host's route to it, which the configured route does not.
pub(super) fn outside_own_networks(
    tunnel: &TunnelRoutes,
    connected: &BTreeSet<Prefix>,
    local: &BTreeSet<Prefix>,
) -> Vec<Prefix> {
    let routes: BTreeSet<Prefix> = tunnel.routes.iter().copied().collect();
    // A route that is a local network of another tunnel leads from one peer to another.
    let is_own = |network: &Prefix| {
        connected.contains(network) || (local.contains(network) && !routes.contains(network))
    };
    let is_routed = |network: Prefix| network.covering().any(|route| routes.contains(&route));
    let is_inside = |part: &Prefix| {
        part.covering()
            .any(|network| is_own(&network) && is_routed(network))
    };
    let kept = |part: &&Prefix| routes.contains(part) || !is_inside(part);
    tunnel.carried.iter().filter(kept).copied().collect()
}

/// Address ranges of the selectors, joined and in order, so that a peer's many selectors cost no more than their number.
fn ranges<'a>(selectors: impl IntoIterator<Item = &'a Selector>) -> Vec<Selector> {
    let selectors = selectors.into_iter();
    let mut sorted: Vec<Selector> = selectors
        .map(|selector| selector.with_protocol(0, PortRange::ANY))
        .collect();
    sorted.sort_by_key(Selector::first);
    let mut ranges: Vec<Selector> = Vec::new();
    for next in sorted {
        if let Some(last) = ranges.last_mut()
            && let Some(joined) = last.join(&next)
        {
            *last = joined;
        } else {
            ranges.push(next);
        }
    }
    ranges
}

/// Whether every address of a prefix is in one of the ranges.
fn is_whole(prefix: &Prefix, ranges: &[Selector]) -> bool {
    let prefix = Selector::from(*prefix);
    ranges.iter().any(|range| range.contains(&prefix))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn prefixes(texts: &[&str]) -> Vec<Prefix> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn selectors(texts: &[&str]) -> Vec<Selector> {
        prefixes(texts).into_iter().map(Selector::from).collect()
    }

    #[test]
    fn routes_are_cut_to_what_the_selectors_cover() {
        let routes = prefixes(&["10.2.0.0/24", "10.3.0.0/24", "10.4.0.0/24", "fd00::/64"]);
        let selected = selectors(&["10.2.0.0/25", "10.3.0.0/16", "fd00::/64"]);
        assert_eq!(
            carried(&routes, &selected),
            prefixes(&["10.2.0.0/25", "10.3.0.0/24", "fd00::/64"])
        );
        let all = selectors(&["0.0.0.0/0", "::/0"]);
        assert_eq!(carried(&routes, &all), routes);
        assert_eq!(carried(&routes, &[]), []);
    }

    #[test]
    fn parts_that_fill_a_prefix_miss_nothing() {
        let wanted = prefixes(&["10.2.0.0/24", "10.3.0.0/24"]);
        let halves = selectors(&["10.2.0.0/25", "10.2.0.128/26", "10.2.0.192/26"]);
        assert_eq!(missing(&wanted, &halves), prefixes(&["10.3.0.0/24"]));
        assert_eq!(missing(&wanted, &halves[..2]), wanted);
        assert_eq!(missing(&wanted, &selectors(&["10.0.0.0/8"])), []);
        // They are one route, no more specific than the configured one.
        assert_eq!(carried(&wanted, &halves), prefixes(&["10.2.0.0/24"]));
    }

    #[test]
    fn a_peer_cannot_make_more_routes_than_the_limit() {
        let odd = |n: u32| {
            let address = IpAddr::from((0x0a00_0000 + n * 4 + 1).to_be_bytes());
            Selector::from_range(address, address).unwrap()
        };
        let selected: Vec<Selector> = (0..1000).map(odd).collect();
        assert_eq!(
            carried(&prefixes(&["10.0.0.0/8"]), &selected).len(),
            MAX_PARTS
        );
    }

    #[test]
    fn ranges_that_are_no_prefixes_cost_no_more_than_their_number() {
        let range = |first: u128, last: u128| {
            Selector::from_range(
                IpAddr::from(first.to_be_bytes()),
                IpAddr::from(last.to_be_bytes()),
            )
            .unwrap()
        };
        let everything = prefixes(&["::/0"]);
        let step = u128::MAX / 255;
        let start = |n: u128| if n == 0 { 0 } else { n * step + 1 };
        let end = |n: u128| if n == 254 { u128::MAX } else { (n + 1) * step };
        let tiles: Vec<Selector> = (0..255).map(|n| range(start(n), end(n))).collect();
        assert_eq!(carried(&everything, &tiles), everything);
        assert_eq!(missing(&everything, &tiles), []);
        // With gaps, they are cut; the rest counts as missing.
        let gaps: Vec<Selector> = (0..255).map(|n| range(start(n) + 1, end(n) - 1)).collect();
        let parts = carried(&everything, &gaps);
        assert_eq!(parts.len(), MAX_PARTS);
        let first: Vec<Prefix> = gaps.iter().take(2).flat_map(Selector::prefixes).collect();
        let carried: Vec<Selector> = parts.into_iter().map(Selector::from).collect();
        assert_eq!(missing(&first[..200], &carried), []);
        assert_eq!(missing(&prefixes(&["ff00::/16"]), &gaps), []);
        assert_eq!(missing(&prefixes(&["ff00::/16"]), &carried).len(), 1);
    }
}
