//! Tests of the selection of foreign routes and of peer routes.

use super::*;

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

#[test]
fn foreign_routes_matter_for_a_tunnels_prefix_and_on_the_path_to_a_peer() {
    let interest = RouteInterest {
        prefixes: [prefix("10.8.0.0/16")].into(),
        peers: ["203.0.113.9".parse().unwrap()].into(),
    };
    for (text, matters) in [
        ("10.8.0.0/16", true),
        ("10.8.0.0/17", false),
        ("10.0.0.0/8", false),
        ("0.0.0.0/0", true),
        ("203.0.113.0/24", true),
        ("203.0.113.9/32", true),
        ("203.0.113.0/29", false),
        ("::/0", false),
    ] {
        assert_eq!(interest.matches(prefix(text)), matters, "{text}");
    }
}

#[test]
fn a_peer_route_follows_the_longest_prefix_then_the_lowest_metric_outside_the_tunnels() {
    let foreign = |text: &str, metric: u32, device: u32| ForeignRoute {
        prefix: prefix(text),
        metric,
        next_hop: Some((device, None)),
        source: None,
    };
    let blackhole = ForeignRoute {
        next_hop: None,
        ..foreign("203.0.113.9/32", 1, 0)
    };
    let routes = [
        foreign("0.0.0.0/0", 1, 1),
        foreign("203.0.113.0/24", 20, 2),
        foreign("203.0.113.0/24", 10, 3),
        foreign("203.0.113.0/24", 5, 9),
        blackhole,
    ];
    let peer = "203.0.113.9".parse().unwrap();
    let through =
        |routes: &[ForeignRoute]| peer_route(peer, routes, &[9]).map(|route| route.target);
    let device = |device| RouteTarget::NextHop {
        device,
        gateway: None,
    };
    assert_eq!(through(&routes), Some(device(3)));
    assert_eq!(through(&routes[..1]), Some(device(1)));
    assert_eq!(through(&routes[3..]), None);
}
