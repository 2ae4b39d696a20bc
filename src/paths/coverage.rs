//! Coverage of a tunnel's routes by traffic selectors: what a Child SA carries of them, and what it does not. Pure.
//!
//! ```text
//!   routes     10.2.0.0/24            10.3.0.0/24
//!   selectors  10.2.0.0/25            10.3.0.0/16
//!   carried    10.2.0.0/25            10.3.0.0/24
//!   missing    10.2.0.0/24 in part    —
//! ```

use std::collections::BTreeSet;

use crate::net::{Prefix, Selector};

/// Upper bound on the carried prefixes of one tunnel: selectors that are no prefixes, from the peer, make many.
const MAX_CARRIED: usize = 256;

/// Parts of `routes` that the selectors cover, whatever their protocols and ports.
pub fn carried<'a>(
    routes: &[Prefix],
    selectors: impl IntoIterator<Item = &'a Selector>,
) -> Vec<Prefix> {
    let selected: BTreeSet<Prefix> = selectors.into_iter().flat_map(Selector::prefixes).collect();
    let mut carried = BTreeSet::new();
    for route in routes {
        if selected.iter().any(|prefix| prefix.contains_prefix(route)) {
            carried.insert(*route);
        } else {
            carried.extend(
                selected
                    .iter()
                    .filter(|prefix| route.contains_prefix(prefix)),
            );
        }
    }
    carried.into_iter().take(MAX_CARRIED).collect()
}

/// Prefixes of `wanted` that `carried` does not contain as a whole.
pub fn missing(wanted: &[Prefix], carried: &[Prefix]) -> Vec<Prefix> {
    let is_missing = |prefix: &&Prefix| !is_whole(prefix, carried);
    wanted.iter().filter(is_missing).copied().collect()
}

/// Whether every address of a prefix is in one of `carried`.
fn is_whole(prefix: &Prefix, carried: &[Prefix]) -> bool {
    if carried.iter().any(|part| part.contains_prefix(prefix)) {
        return true;
    }
    // As deep as the longest part inside the prefix.
    let has_part = carried.iter().any(|part| prefix.contains_prefix(part));
    has_part
        && prefix
            .halves()
            .is_some_and(|halves| halves.iter().all(|half| is_whole(half, carried)))
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
        let halves = prefixes(&["10.2.0.0/25", "10.2.0.128/26", "10.2.0.192/26"]);
        assert_eq!(missing(&wanted, &halves), prefixes(&["10.3.0.0/24"]));
        assert_eq!(missing(&wanted, &halves[..2]), wanted);
        assert_eq!(missing(&wanted, &prefixes(&["10.0.0.0/8"])), []);
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
            MAX_CARRIED
        );
    }
}
