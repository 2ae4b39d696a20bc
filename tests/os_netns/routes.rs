//! Routes into tunnels, around them, and unreachable ones; addresses.

use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use groundlink::net::Prefix;
use groundlink::os::netlink::{
    MAIN_TABLE, Netlink, NetlinkError, Route, RouteInterest, RouteTarget, Rule, UNREACHABLE_METRIC,
    peer_route, source_inside,
};
use groundlink::os::netns::Namespace;
use groundlink::os::udp::UdpSocket as UdpTransport;
use groundlink::os::{SendBatch, Socket, SocketOffload};

use super::{as_root, device, eventually, ip, ip_tool, next_packet, site, veth_pair};

#[test]
fn routes_are_installed_replaced_without_a_gap_and_withdrawn() {
    as_root(|| {
        let (namespace, a) = site("gl-a", "10.9.0.1");
        let b = device(&namespace, "gl-b");
        let mut netlink = namespace.netlink().unwrap();
        netlink.add_address(1, ip("fd00:9::1"), 128).unwrap();
        for (prefix, source) in [("10.8.0.0/16", "10.9.0.1"), ("fd00:8::/32", "fd00:9::1")] {
            let route = |devices: &[u32]| Route {
                table: MAIN_TABLE,
                prefix: prefix.parse().unwrap(),
                metric: 100,
                target: RouteTarget::Tunnels(devices.to_vec()),
                source: Some(ip(source)),
            };
            let inside = route(&[]).prefix.last();
            netlink.install(&route(&[a.index()])).unwrap();
            let found = netlink.route_to(inside).unwrap();
            assert_eq!(
                (found.device, found.source, found.mtu),
                (a.index(), Some(ip(source)), 1400)
            );

            let (stop, lookups) = (AtomicBool::new(false), AtomicU32::new(0));
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let mut netlink = namespace.netlink().unwrap();
                    let mut failed = 0;
                    while !stop.load(Ordering::Relaxed) {
                        // An IPv6 lookup that holds the old route while it is freed fails; the next one finds the new route.
                        failed = netlink.route_to(inside).map_or(failed + 1, |_| 0);
                        assert!(failed < 3, "never a moment without the route");
                        lookups.fetch_add(1, Ordering::Relaxed);
                    }
                });
                let mut replaced = 0;
                while replaced < 600 || lookups.load(Ordering::Relaxed) < 100 {
                    for devices in [&[a.index(), b.index()][..], &[b.index()], &[a.index()]] {
                        netlink.replace(&route(devices)).unwrap();
                        replaced += 1;
                    }
                    assert!(replaced < 1_000_000, "no lookup was made");
                }
                stop.store(true, Ordering::Relaxed);
            });

            netlink.replace(&route(&[a.index(), b.index()])).unwrap();
            assert_eq!(
                netlink.own_routes().unwrap(),
                [route(&[a.index(), b.index()])]
            );
            netlink.withdraw(route(&[]).key()).unwrap();
            netlink.withdraw(route(&[]).key()).unwrap();
            assert_eq!(netlink.own_routes().unwrap(), []);
        }
    });
}

#[test]
fn without_a_tunnel_the_unreachable_route_applies() {
    as_root(|| {
        let (namespace, tun) = site("gl-a", "10.9.0.1");
        let mut netlink = namespace.netlink().unwrap();
        for prefix in ["10.8.0.0/16", "fd00:8::/32"] {
            let prefix: Prefix = prefix.parse().unwrap();
            let unreachable = Route::unreachable(prefix);
            let through = Route {
                metric: 100,
                target: RouteTarget::Tunnels(vec![tun.index()]),
                ..unreachable.clone()
            };
            netlink.install(&unreachable).unwrap();
            netlink.install(&through).unwrap();
            assert_eq!(netlink.route_to(prefix.last()).unwrap().device, tun.index());
            netlink.withdraw((MAIN_TABLE, prefix, 100)).unwrap();
            assert!(netlink.route_to(prefix.last()).is_err());
            assert_eq!(netlink.own_routes().unwrap(), [unreachable]);
            netlink
                .withdraw((MAIN_TABLE, prefix, UNREACHABLE_METRIC))
                .unwrap();
        }
    });
}

#[test]
fn only_own_routes_are_found_and_withdrawn() {
    as_root(|| {
        let (namespace, _tun) = site("gl-a", "10.9.0.1");
        let mut netlink = namespace.netlink().unwrap();
        ip_tool(&namespace, "route add 10.1.0.0/16 dev gl-a metric 100");
        for prefix in ["10.8.0.0/16", "fd00:8::/32"] {
            netlink
                .install(&Route::unreachable(prefix.parse().unwrap()))
                .unwrap();
        }
        assert_eq!(netlink.withdraw_all().unwrap().len(), 2);
        assert_eq!(netlink.own_routes().unwrap(), []);
        assert!(ip_tool(&namespace, "route").contains("10.1.0.0/16"));
    });
}

#[test]
fn a_rule_leads_packets_of_a_source_to_their_table_unless_it_throws_them() {
    as_root(|| {
        let (namespace, tun) = site("gl-a", "10.9.0.1");
        let mut netlink = namespace.netlink().unwrap();
        netlink.add_address(1, ip("fd00:9::1"), 128).unwrap();
        for (from, source, prefix, but) in [
            ("10.9.0.0/24", "10.9.0.1", "10.8.0.0/16", "10.8.1.0/24"),
            ("fd00:9::/64", "fd00:9::1", "fd00:8::/32", "fd00:8:1::/48"),
        ] {
            let rule = Rule {
                priority: 17_100,
                from: from.parse().unwrap(),
                table: 171_000,
            };
            let through = Route {
                table: rule.table,
                prefix: prefix.parse().unwrap(),
                metric: 100,
                target: RouteTarget::Tunnels(vec![tun.index()]),
                source: None,
            };
            let throw = Route {
                prefix: but.parse().unwrap(),
                metric: 1,
                target: RouteTarget::Throw,
                ..through.clone()
            };
            for route in [&through, &throw] {
                netlink.install(route).unwrap();
            }
            netlink.add_rule(&rule).unwrap();
            netlink.add_rule(&rule).unwrap();
            assert_eq!(netlink.own_rules().unwrap(), [rule]);
            let mut own = netlink.own_routes().unwrap();
            own.sort_by_key(Route::key);
            assert_eq!(own, [through.clone(), throw.clone()]);
            let to = through.prefix.first();
            let route = netlink
                .route_from(ip(source), through.prefix.last())
                .unwrap();
            assert_eq!(route.device, tun.index());
            assert!(netlink.route_from(ip(source), throw.prefix.last()).is_err());
            assert!(netlink.route_to(to).is_err());
            netlink.remove_rule(&rule).unwrap();
            netlink.remove_rule(&rule).unwrap();
            assert_eq!(netlink.own_rules().unwrap(), []);
            assert_eq!(netlink.withdraw_all().unwrap().len(), 2);
        }
    });
}

#[test]
fn a_foreign_route_is_not_replaced() {
    as_root(|| {
        let (namespace, tun) = site("gl-a", "10.9.0.1");
        let mut netlink = namespace.netlink().unwrap();
        ip_tool(
            &namespace,
            "route add 10.8.0.0/16 dev gl-a metric 100 src 10.9.0.1",
        );
        let route = Route {
            table: MAIN_TABLE,
            prefix: "10.8.0.0/16".parse().unwrap(),
            metric: 100,
            target: RouteTarget::Tunnels(vec![tun.index()]),
            source: None,
        };
        let error = netlink.install(&route).unwrap_err();
        assert!(matches!(error, NetlinkError::RouteExists { .. }), "{error}");
        assert!(
            error
                .to_string()
                .contains("ip route del 10.8.0.0/16 metric 100"),
            "{error}"
        );
        netlink.withdraw(route.key()).unwrap();
        assert!(
            ip_tool(&namespace, "route").contains("10.8.0.0/16"),
            "not removed either"
        );
        netlink
            .install(&Route {
                metric: 101,
                ..route
            })
            .unwrap();
    });
}

#[test]
fn errors_contain_the_kernels_extended_acknowledgement() {
    as_root(|| {
        let (namespace, tun) = site("gl-a", "10.9.0.1");
        let mut netlink = namespace.netlink().unwrap();
        let route = Route {
            table: MAIN_TABLE,
            prefix: "10.8.0.0/16".parse().unwrap(),
            metric: 100,
            target: RouteTarget::Tunnels(vec![tun.index()]),
            source: Some(ip("192.0.2.99")),
        };
        let error = netlink.install(&route).unwrap_err();
        assert!(
            error.to_string().to_lowercase().contains("prefsrc"),
            "{error}"
        );
        let error = netlink.set_up(9999).unwrap_err();
        assert!(error.is_not_found(), "{error}");
    });
}

#[test]
fn a_multipath_route_spreads_flows_over_its_devices() {
    as_root(|| {
        let (namespace, a) = site("gl-a", "10.9.0.1");
        let b = device(&namespace, "gl-b");
        namespace
            .set("net.ipv4.fib_multipath_hash_policy", "1")
            .unwrap();
        namespace
            .set("net.ipv6.fib_multipath_hash_policy", "1")
            .unwrap();
        let mut netlink = namespace.netlink().unwrap();
        netlink.add_address(1, ip("fd00:9::1"), 128).unwrap();
        for (prefix, from, to) in [
            ("10.8.0.0/16", "10.9.0.1:0", "10.8.0.1:9"),
            ("fd00:8::/32", "[fd00:9::1]:0", "[fd00:8::1]:9"),
        ] {
            let target = RouteTarget::Tunnels(vec![a.index(), b.index()]);
            netlink
                .install(&Route {
                    table: MAIN_TABLE,
                    prefix: prefix.parse().unwrap(),
                    metric: 100,
                    target,
                    source: None,
                })
                .unwrap();
            namespace
                .run(|| {
                    for _ in 0..40 {
                        UdpSocket::bind(from).unwrap().send_to(b"x", to).unwrap();
                    }
                })
                .unwrap();
            for tun in [&a, &b] {
                next_packet(tun, 17);
            }
        }
    });
}

/// Host route to `peer` outside the devices `tunnels`, from the foreign routes of the namespace.
fn outside(netlink: &mut Netlink, peer: IpAddr, tunnels: &[u32]) -> Option<Route> {
    let interest = RouteInterest {
        peers: [peer].into(),
        ..RouteInterest::default()
    };
    peer_route(peer, &netlink.foreign_routes(&interest).unwrap(), tunnels)
}

#[test]
fn packets_to_the_peer_stay_outside_the_tunnel() {
    as_root(|| {
        let (gateway, tun) = site("gl-a", "10.9.0.1");
        let world = Namespace::new().unwrap();
        veth_pair(
            &gateway,
            "wan",
            &["198.51.100.2", "2001:db8::2"],
            &world,
            &["198.51.100.1", "2001:db8::1"],
        );
        let mut netlink = gateway.netlink().unwrap();
        let wan = netlink.link_named("wan").unwrap().index;
        let ours = [tun.index()];
        for (default, via, peer, covering, on_link) in [
            (
                "0.0.0.0/0",
                "198.51.100.1",
                "203.0.113.9",
                "203.0.113.0/24",
                "198.51.100.1",
            ),
            (
                "::/0",
                "2001:db8::1",
                "2001:db8:9::9",
                "2001:db8:9::/48",
                "2001:db8::1",
            ),
        ] {
            let (peer, via) = (ip(peer), ip(via));
            assert_eq!(outside(&mut netlink, peer, &ours), None);
            let family = if via.is_ipv4() { "" } else { "-6 " };
            ip_tool(&gateway, &format!("{family}route add {default} via {via}"));
            let target = RouteTarget::Tunnels(ours.to_vec());
            let tunnel = Route {
                table: MAIN_TABLE,
                prefix: covering.parse().unwrap(),
                metric: 100,
                target,
                source: None,
            };

            let route = outside(&mut netlink, peer, &ours).unwrap();
            assert_eq!(
                route.target,
                RouteTarget::NextHop {
                    device: wan,
                    gateway: Some(via)
                }
            );
            netlink.install(&route).unwrap();
            netlink.install(&tunnel).unwrap();
            // Also with a tunnel route for exactly the peer.
            netlink
                .install(&Route {
                    table: MAIN_TABLE,
                    prefix: Prefix::host(peer),
                    ..tunnel.clone()
                })
                .unwrap();
            assert_eq!(
                netlink.route_to(tunnel.prefix.last()).unwrap().device,
                tun.index()
            );
            let found = netlink.route_to(peer).unwrap();
            assert_eq!(
                (found.device, found.gateway, found.mtu),
                (wan, Some(via), 1500)
            );
            assert_eq!(
                outside(&mut netlink, peer, &ours).unwrap(),
                route,
                "own routes do not count"
            );
            assert!(netlink.own_routes().unwrap().contains(&route));

            let neighbour = outside(&mut netlink, ip(on_link), &ours).unwrap();
            assert_eq!(
                neighbour.target,
                RouteTarget::NextHop {
                    device: wan,
                    gateway: None
                }
            );
            netlink.install(&neighbour).unwrap();
            assert_eq!(netlink.route_to(ip(on_link)).unwrap().device, wan);
        }
    });
}

#[test]
fn the_peer_route_keeps_the_source_and_a_router_outside_our_network() {
    as_root(|| {
        let (gateway, tun) = site("gl-a", "10.9.0.1");
        let world = Namespace::new().unwrap();
        let ours = ["198.51.100.2", "198.51.100.3"];
        veth_pair(&gateway, "wan", &ours, &world, &["198.51.100.1"]);
        ip_tool(
            &gateway,
            "route add default via 172.31.1.1 dev wan onlink src 198.51.100.3",
        );
        let mut netlink = gateway.netlink().unwrap();
        let peer = ip("203.0.113.9");
        let before = netlink.route_to(peer).unwrap();
        let route = outside(&mut netlink, peer, &[tun.index()]).unwrap();
        netlink.install(&route).unwrap();
        netlink
            .install(&Route {
                table: MAIN_TABLE,
                prefix: "203.0.113.0/24".parse().unwrap(),
                metric: 100,
                target: RouteTarget::Tunnels(vec![tun.index()]),
                source: None,
            })
            .unwrap();
        assert_eq!(netlink.route_to(peer).unwrap(), before);
        assert_eq!(before.source, Some(ip("198.51.100.3")));
        assert!(netlink.own_routes().unwrap().contains(&route));
    });
}

#[test]
fn e14_a_path_mtu_learnt_from_icmp_is_reported_apart() {
    as_root(|| {
        let (gateway, world) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        veth_pair(
            &gateway,
            "wan",
            &["198.51.100.2"],
            &world,
            &["198.51.100.1"],
        );
        ip_tool(&gateway, "route add default via 198.51.100.1");
        // The router's next link has a small MTU, and the router sends ICMP errors.
        let narrow = device(&world, "narrow");
        world
            .netlink()
            .unwrap()
            .set_mtu(narrow.index(), 800)
            .unwrap();
        ip_tool(&world, "route add 203.0.113.0/24 dev narrow");
        world.set("net.ipv4.ip_forward", "1").unwrap();
        let socket = gateway
            .run(|| UdpSocket::bind("198.51.100.2:0").unwrap())
            .unwrap();
        eventually(|| {
            // 1472 octets with DF, the default of a UDP socket.
            let _ = socket.send_to(&[0; 1472], "203.0.113.9:4500");
            ip_tool(&gateway, "route get 203.0.113.9").contains("mtu 800")
        });
        let found = gateway.netlink().unwrap().route_to(ip("203.0.113.9"));
        let found = found.unwrap();
        assert_eq!((found.mtu, found.learnt_mtu), (1500, Some(800)));

        // Nor are our datagrams fragmented for it.
        let local = "198.51.100.2:4500".parse().unwrap();
        let ours = gateway
            .run(|| UdpTransport::bind(local, SocketOffload::FULL).unwrap())
            .unwrap();
        let mut batch = SendBatch::with_limit(1);
        let peer = "203.0.113.9:4500".parse().unwrap();
        batch
            .reserve(peer, local.ip(), 0, 1472)
            .unwrap()
            .commit(1472);
        let before = fragments_created(&gateway);
        assert_eq!(ours.send(&batch).unwrap(), 1);
        assert_eq!(fragments_created(&gateway), before);
    });
}

/// IPv4 fragments created in this namespace (`FragCreates` in /proc/net/snmp).
fn fragments_created(namespace: &Namespace) -> u64 {
    let table = namespace
        .run(|| std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap())
        .unwrap();
    let mut lines = table.lines().filter(|line| line.starts_with("Ip: "));
    let (names, numbers) = (lines.next().unwrap(), lines.next().unwrap());
    let mut columns = names.split(' ').zip(numbers.split(' '));
    let (_, number) = columns.find(|(name, _)| *name == "FragCreates").unwrap();
    number.parse().unwrap()
}

#[test]
fn a_path_mtu_configured_on_the_route_is_reported() {
    as_root(|| {
        let (namespace, tun) = site("gl-a", "10.9.0.1");
        ip_tool(&namespace, "route add 10.7.0.0/16 dev gl-a mtu 1300");
        let found = namespace
            .netlink()
            .unwrap()
            .route_to(ip("10.7.0.1"))
            .unwrap();
        assert_eq!((found.device, found.mtu), (tun.index(), 1300));

        ip_tool(&namespace, "addr add 10.9.5.5/32 dev lo");
        ip_tool(&namespace, "rule add from 10.9.5.5 lookup 77");
        ip_tool(
            &namespace,
            "route add 10.7.0.0/16 dev gl-a mtu 1200 table 77",
        );
        let found = namespace
            .netlink()
            .unwrap()
            .route_from(ip("10.9.5.5"), ip("10.7.0.1"))
            .unwrap();
        assert_eq!(
            (found.device, found.mtu),
            (tun.index(), 1200),
            "ip rule selects the table by source address"
        );
    });
}

#[test]
fn the_hosts_own_packets_get_a_source_inside_the_traffic_selectors() {
    as_root(|| {
        let (namespace, _tun) = site("gl-a", "203.0.113.7");
        let mut netlink = namespace.netlink().unwrap();
        netlink.add_address(1, ip("10.9.1.1"), 32).unwrap();
        netlink.add_address(1, ip("10.9.1.1"), 32).unwrap();
        let local: Prefix = "10.9.0.0/16".parse().unwrap();
        let found = |netlink: &mut Netlink| {
            source_inside(&netlink.addresses().unwrap(), &[local], ip("10.8.0.1"))
        };
        assert_eq!(found(&mut netlink), Some(ip("10.9.1.1")));
        netlink.delete_address(1, ip("10.9.1.1"), 32).unwrap();
        netlink.delete_address(1, ip("10.9.1.1"), 32).unwrap();
        assert_eq!(found(&mut netlink), None);
    });
}
