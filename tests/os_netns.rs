//! `os` on a real kernel, in network namespaces: devices, routes, cables, commands.
//!
//! As root each test makes its namespaces directly; as anyone else it runs itself again inside a user namespace (`unshare`), and
//! fails where there is none.

use std::io;
use std::net::{IpAddr, UdpSocket as StdSocket};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use groundlink::net::Prefix;
use groundlink::os::netlink::{LAST_RESORT_METRIC, NetlinkError, Route, Target, source_inside};
use groundlink::os::netns::Namespace;
use groundlink::os::poll::Waiter;
use groundlink::os::tun::{Carrier, Tun, TunError};
use groundlink::os::udp::UdpSocket;
use groundlink::os::{
    Device, OutPacket, ReadBatch, RecvBatch, SendBatch, Socket, VnetHeader, sysctl,
};

#[test]
fn a_packet_goes_out_and_comes_in_through_a_tun_device() {
    as_root(|| {
        let (namespace, tun) = site("gl-a", "10.9.0.1");
        let socket = namespace
            .run(|| StdSocket::bind("10.9.0.1:7000"))
            .unwrap()
            .unwrap();
        socket.send_to(b"out", "10.9.0.2:7001").unwrap();

        let packet = next_packet(&tun, 17);
        assert_eq!(&packet[12..20], [10, 9, 0, 1, 10, 9, 0, 2]);
        assert_eq!(packet[28..], *b"out");
        assert_ne!(packet[26..28], [0, 0], "the UDP checksum is real");

        // The same datagram with its ends exchanged is the answer; the checksums do not care about the order.
        let mut answer = packet.clone();
        answer[12..20].rotate_left(4);
        answer[20..24].rotate_left(2);
        assert_eq!(tun.write(&[OutPacket::whole(&answer)]).unwrap(), 1);
        let mut buffer = [0; 16];
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        assert_eq!(
            socket.recv_from(&mut buffer).unwrap(),
            (3, "10.9.0.2:7001".parse().unwrap())
        );
    });
}

#[test]
fn a_new_tunnel_device_has_its_mtu_and_queue_no_address_and_no_noise_but_the_kernels() {
    as_root(|| {
        let (namespace, tun) = site("gl-a", "10.9.0.1");
        let mut netlink = namespace.netlink().unwrap();
        let link = netlink.link(tun.index()).unwrap();
        assert_eq!(
            (link.name.as_str(), link.mtu, link.up, link.carrier),
            ("gl-a", 1400, true, true)
        );
        assert_eq!(netlink.link_named("gl-a").unwrap(), link);
        let of_it = |a: &&groundlink::os::netlink::HostAddress| a.device == tun.index();
        let addresses = netlink.addresses().unwrap();
        let addresses: Vec<IpAddr> = addresses.iter().filter(of_it).map(|a| a.address).collect();
        assert_eq!(addresses, [ip("10.9.0.1")], "no link-local address");
        assert!(ip_tool(&namespace, "link show gl-a").contains("qlen 1000"));

        netlink.set_mtu(tun.index(), 1390).unwrap();
        tun.set_carrier(Carrier::Down).unwrap();
        let link = netlink.link(tun.index()).unwrap();
        assert_eq!((link.mtu, link.carrier), (1390, false));
        tun.set_carrier(Carrier::Up).unwrap();
        assert!(netlink.link(tun.index()).unwrap().carrier);

        drop(tun);
        assert!(
            netlink.link_named("gl-a").unwrap_err().is_not_found(),
            "a device dies with its descriptor"
        );
    });
}

#[test]
fn a_device_removed_by_somebody_else_is_gone_and_not_just_silent() {
    as_root(|| {
        let (namespace, tun) = site("gl-a", "10.9.0.1");
        namespace
            .netlink()
            .unwrap()
            .delete_link(tun.index())
            .unwrap();
        let read = tun
            .read(&mut ReadBatch::new())
            .map_err(|error| error.kind());
        let packet = [0x45; 40];
        let written = tun
            .write(&[OutPacket::whole(&packet)])
            .map_err(|error| error.kind());
        let gone = Err(io::ErrorKind::NotConnected);
        assert_eq!((read, written), (gone, gone));
    });
}

#[test]
fn a_device_name_in_use_is_never_taken_over() {
    as_root(|| {
        let (namespace, _tun) = site("gl-a", "10.9.0.1");
        ip_tool(&namespace, "tuntap add dev gl-kept mode tun");
        for name in ["gl-a", "gl-kept", "lo"] {
            let error = namespace.run(|| Tun::create(name)).unwrap().unwrap_err();
            assert!(
                matches!(error, TunError::NameTaken { .. }),
                "{name}: {error}"
            );
            assert!(error.to_string().contains(name));
        }
    });
}

#[test]
fn a_write_the_kernel_refuses_is_an_error_about_that_packet() {
    as_root(|| {
        let (_namespace, tun) = site("gl-a", "10.9.0.1");
        let no_ip = [0xf0; 40];
        assert!(tun.write(&[OutPacket::whole(&no_ip)]).is_err());
        let good = [0x45; 40];
        assert_eq!(
            tun.write(&[OutPacket::whole(&good), OutPacket::whole(&no_ip)])
                .unwrap(),
            1
        );
        let gathered = OutPacket {
            vnet: VnetHeader::NONE,
            head: &good[..20],
            payloads: &[io::IoSlice::new(&good[20..])],
        };
        assert_eq!(tun.write(&[gathered]).unwrap(), 1);
        assert_eq!(
            tun.read(&mut ReadBatch::new())
                .map_err(|e| e.kind())
                .unwrap_or(0),
            0
        );
    });
}

#[test]
fn routes_are_installed_changed_without_a_gap_and_withdrawn() {
    as_root(|| {
        let (namespace, a) = site("gl-a", "10.9.0.1");
        let b = device(&namespace, "gl-b");
        let mut netlink = namespace.netlink().unwrap();
        netlink.add_address(1, ip("fd00:9::1"), 128).unwrap();
        for (prefix, source) in [("10.8.0.0/16", "10.9.0.1"), ("fd00:8::/32", "fd00:9::1")] {
            let route = |devices: &[u32]| Route {
                prefix: prefix.parse().unwrap(),
                metric: 100,
                target: Target::Devices(devices.to_vec()),
                source: Some(ip(source)),
            };
            let inside = route(&[]).prefix.last();
            netlink.install(&route(&[a.index()])).unwrap();
            let way = netlink.route_to(inside).unwrap();
            assert_eq!(
                (way.device, way.source, way.mtu),
                (a.index(), Some(ip(source)), 1400)
            );

            let stop = AtomicBool::new(false);
            let looked = std::thread::scope(|scope| {
                let looker = scope.spawn(|| {
                    let mut netlink = namespace.netlink().unwrap();
                    let (mut looked, mut missed) = (0, 0);
                    while !stop.load(Ordering::Relaxed) {
                        // An IPv6 lookup that holds the old route while it is freed fails; the next one finds the new.
                        missed = netlink.route_to(inside).map_or(missed + 1, |_| 0);
                        assert!(missed < 3, "never a moment without the route");
                        looked += 1;
                    }
                    looked
                });
                for _ in 0..200 {
                    for devices in [&[a.index(), b.index()][..], &[b.index()], &[a.index()]] {
                        netlink.install(&route(devices)).unwrap();
                    }
                }
                stop.store(true, Ordering::Relaxed);
                looker.join().unwrap()
            });
            assert!(looked > 10, "{looked}");

            netlink.install(&route(&[a.index(), b.index()])).unwrap();
            assert_eq!(
                netlink.own_routes().unwrap(),
                [route(&[a.index(), b.index()])]
            );
            netlink.withdraw(route(&[]).prefix, 100).unwrap();
            netlink.withdraw(route(&[]).prefix, 100).unwrap();
            assert_eq!(netlink.own_routes().unwrap(), []);
        }
    });
}

#[test]
fn without_a_tunnel_the_last_resort_keeps_packets_in() {
    as_root(|| {
        let (namespace, tun) = site("gl-a", "10.9.0.1");
        let mut netlink = namespace.netlink().unwrap();
        for prefix in ["10.8.0.0/16", "fd00:8::/32"] {
            let prefix: Prefix = prefix.parse().unwrap();
            let last_resort = Route::last_resort(prefix);
            let through = Route {
                metric: 100,
                target: Target::Devices(vec![tun.index()]),
                ..last_resort.clone()
            };
            netlink.install(&last_resort).unwrap();
            netlink.install(&through).unwrap();
            assert_eq!(netlink.route_to(prefix.last()).unwrap().device, tun.index());
            netlink.withdraw(prefix, 100).unwrap();
            assert!(netlink.route_to(prefix.last()).is_err());
            assert_eq!(netlink.own_routes().unwrap(), [last_resort]);
            netlink.withdraw(prefix, LAST_RESORT_METRIC).unwrap();
        }
    });
}

#[test]
fn what_a_killed_daemon_left_is_cleaned_and_nothing_else() {
    as_root(|| {
        let (namespace, _tun) = site("gl-a", "10.9.0.1");
        let mut netlink = namespace.netlink().unwrap();
        ip_tool(&namespace, "route add 10.1.0.0/16 dev gl-a metric 100");
        for prefix in ["10.8.0.0/16", "fd00:8::/32"] {
            netlink
                .install(&Route::last_resort(prefix.parse().unwrap()))
                .unwrap();
        }
        assert_eq!(netlink.withdraw_all().unwrap(), 2);
        assert_eq!(netlink.own_routes().unwrap(), []);
        assert!(ip_tool(&namespace, "route").contains("10.1.0.0/16"));
    });
}

#[test]
fn somebody_elses_route_is_not_replaced() {
    as_root(|| {
        let (namespace, tun) = site("gl-a", "10.9.0.1");
        let mut netlink = namespace.netlink().unwrap();
        ip_tool(
            &namespace,
            "route add 10.8.0.0/16 dev gl-a metric 100 src 10.9.0.1",
        );
        let route = Route {
            prefix: "10.8.0.0/16".parse().unwrap(),
            metric: 100,
            target: Target::Devices(vec![tun.index()]),
            source: None,
        };
        let error = netlink.install(&route).unwrap_err();
        assert!(matches!(error, NetlinkError::RouteTaken { .. }), "{error}");
        assert!(
            error
                .to_string()
                .contains("ip route del 10.8.0.0/16 metric 100"),
            "{error}"
        );
        netlink.withdraw(route.prefix, 100).unwrap();
        assert!(
            ip_tool(&namespace, "route").contains("10.8.0.0/16"),
            "nor removed"
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
fn the_kernels_own_words_are_in_the_error() {
    as_root(|| {
        let (namespace, tun) = site("gl-a", "10.9.0.1");
        let mut netlink = namespace.netlink().unwrap();
        let route = Route {
            prefix: "10.8.0.0/16".parse().unwrap(),
            metric: 100,
            target: Target::Devices(vec![tun.index()]),
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
fn several_devices_share_the_flows() {
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
            let target = Target::Devices(vec![a.index(), b.index()]);
            netlink
                .install(&Route {
                    prefix: prefix.parse().unwrap(),
                    metric: 100,
                    target,
                    source: None,
                })
                .unwrap();
            namespace
                .run(|| {
                    for _ in 0..40 {
                        StdSocket::bind(from).unwrap().send_to(b"x", to).unwrap();
                    }
                })
                .unwrap();
            for tun in [&a, &b] {
                next_packet(tun, 17);
            }
        }
    });
}

#[test]
fn the_way_to_the_peer_stays_outside_the_tunnel() {
    as_root(|| {
        let (gateway, tun) = site("gl-a", "10.9.0.1");
        let world = Namespace::new().unwrap();
        cable(
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
            assert!(matches!(
                netlink.pin(peer, &ours),
                Err(NetlinkError::NoWay(_))
            ));
            let family = if via.is_ipv4() { "" } else { "-6 " };
            ip_tool(&gateway, &format!("{family}route add {default} via {via}"));
            let target = Target::Devices(ours.to_vec());
            let tunnel = Route {
                prefix: covering.parse().unwrap(),
                metric: 100,
                target,
                source: None,
            };

            let pin = netlink.pin(peer, &ours).unwrap().unwrap();
            assert_eq!(
                pin.target,
                Target::Neighbour {
                    device: wan,
                    gateway: Some(via)
                }
            );
            netlink.install(&pin).unwrap();
            netlink.install(&tunnel).unwrap();
            // Also when the tunnel is for exactly the peer.
            netlink
                .install(&Route {
                    prefix: Prefix::host(peer),
                    ..tunnel.clone()
                })
                .unwrap();
            assert_eq!(
                netlink.route_to(tunnel.prefix.last()).unwrap().device,
                tun.index()
            );
            let way = netlink.route_to(peer).unwrap();
            assert_eq!((way.device, way.gateway, way.mtu), (wan, Some(via), 1500));
            assert_eq!(
                netlink.pin(peer, &ours).unwrap().unwrap(),
                pin,
                "again, with pin and tunnel in place"
            );
            assert!(netlink.own_routes().unwrap().contains(&pin));

            let neighbour = netlink.pin(ip(on_link), &ours).unwrap().unwrap();
            assert_eq!(
                neighbour.target,
                Target::Neighbour {
                    device: wan,
                    gateway: None
                }
            );
            netlink.install(&neighbour).unwrap();
            assert_eq!(netlink.route_to(ip(on_link)).unwrap().device, wan);
        }
        assert_eq!(
            netlink.pin(ip("198.51.100.2"), &ours).unwrap(),
            None,
            "the peer is this machine"
        );
    });
}

#[test]
fn a_path_mtu_on_the_route_is_told() {
    as_root(|| {
        let (namespace, tun) = site("gl-a", "10.9.0.1");
        ip_tool(&namespace, "route add 10.7.0.0/16 dev gl-a mtu 1300");
        let way = namespace
            .netlink()
            .unwrap()
            .route_to(ip("10.7.0.1"))
            .unwrap();
        assert_eq!((way.device, way.mtu), (tun.index(), 1300));

        ip_tool(&namespace, "addr add 10.9.5.5/32 dev lo");
        ip_tool(&namespace, "rule add from 10.9.5.5 lookup 77");
        ip_tool(
            &namespace,
            "route add 10.7.0.0/16 dev gl-a mtu 1200 table 77",
        );
        let way = namespace
            .netlink()
            .unwrap()
            .route_from(ip("10.9.5.5"), ip("10.7.0.1"))
            .unwrap();
        assert_eq!(
            (way.device, way.mtu),
            (tun.index(), 1200),
            "of several addresses each its own way"
        );
    });
}

#[test]
fn the_hosts_own_packets_get_a_source_inside_the_selectors() {
    as_root(|| {
        let (namespace, _tun) = site("gl-a", "203.0.113.7");
        let mut netlink = namespace.netlink().unwrap();
        netlink.add_address(1, ip("10.9.1.1"), 32).unwrap();
        netlink.add_address(1, ip("10.9.1.1"), 32).unwrap();
        let local: Prefix = "10.9.0.0/16".parse().unwrap();
        let found = |netlink: &mut groundlink::os::netlink::Netlink| {
            source_inside(&netlink.addresses().unwrap(), &[local], ip("10.8.0.1"))
        };
        assert_eq!(found(&mut netlink), Some(ip("10.9.1.1")));
        netlink.delete_address(1, ip("10.9.1.1"), 32).unwrap();
        netlink.delete_address(1, ip("10.9.1.1"), 32).unwrap();
        assert_eq!(found(&mut netlink), None);
    });
}

#[test]
fn sockets_talk_over_a_cable_between_namespaces_and_large_datagrams_are_fragmented() {
    as_root(|| {
        let (one, other) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        cable(
            &one,
            "c0",
            &["192.0.2.1", "2001:db8::1"],
            &other,
            &["192.0.2.2", "2001:db8::2"],
        );
        for (a, b) in [
            ("192.0.2.1:500", "192.0.2.2:500"),
            ("[2001:db8::1]:500", "[2001:db8::2]:500"),
        ] {
            let bind = |namespace: &Namespace, at: &str| {
                namespace
                    .run(|| UdpSocket::bind(at.parse().unwrap()))
                    .unwrap()
                    .unwrap()
            };
            let (a, b) = (bind(&one, a), bind(&other, b));
            let large = vec![7; 6000];
            let mut batch = SendBatch::new();
            let mut slot = batch
                .reserve(b.local(), a.local().ip(), large.len())
                .unwrap();
            slot.bytes().copy_from_slice(&large);
            slot.commit(large.len());
            assert_eq!(a.send(&batch).unwrap(), 1);
            wait_readable(Socket::as_fd(&b));
            let mut received = RecvBatch::new();
            assert_eq!(b.recv(&mut received).unwrap(), 1);
            let datagram = received.iter_mut().next().unwrap();
            assert_eq!(
                (datagram.remote, datagram.local, &*datagram.bytes),
                (a.local(), b.local().ip(), &large[..])
            );
        }
        // Both ends are gone with one of the namespaces.
        drop(other);
        let mut netlink = one.netlink().unwrap();
        eventually(|| netlink.link_named("c0").is_err());
    });
}

#[test]
fn settings_are_those_of_the_namespace() {
    as_root(|| {
        let namespace = Namespace::new().unwrap();
        let wrong = || {
            namespace
                .run(sysctl::findings)
                .unwrap()
                .into_iter()
                .map(|f| f.setting)
                .collect::<Vec<_>>()
        };
        for off in ["net.ipv4.ip_forward", "net.ipv4.fib_multipath_hash_policy"] {
            namespace.set(off, "0").unwrap();
            assert!(wrong().contains(&off), "{off}");
            namespace.set(off, "1").unwrap();
            assert!(!wrong().contains(&off), "{off}");
        }
        let _tun = device(&namespace, "gl-a");
        namespace
            .run(|| sysctl::loosen_reverse_path_filter("gl-a"))
            .unwrap()
            .unwrap();
        assert_eq!(
            namespace
                .run(|| sysctl::read("net/ipv4/conf/gl-a/rp_filter"))
                .unwrap()
                .unwrap(),
            "2"
        );
    });
}

#[test]
fn a_command_runs_inside_and_dies_with_the_thread_that_started_it() {
    as_root(|| {
        let namespace = Namespace::new().unwrap();
        let _tun = device(&namespace, "gl-inside");
        let mut list = Command::new("cat");
        namespace.enter(list.arg("/proc/net/dev")).unwrap();
        let devices = String::from_utf8(list.output().unwrap().stdout).unwrap();
        assert!(devices.contains("gl-inside"), "{devices}");

        let mut child = std::thread::scope(|scope| {
            let start = || {
                let mut sleep = Command::new("sleep");
                namespace.enter(sleep.arg("1000")).unwrap();
                sleep.stdin(Stdio::null()).spawn().unwrap()
            };
            scope.spawn(start).join().unwrap()
        });
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        assert!(namespace.path().exists());
    });
}

/// A namespace with one device in it that has an address.
fn site(name: &str, address: &str) -> (Namespace, Tun) {
    let namespace = Namespace::new().unwrap();
    let tun = device(&namespace, name);
    namespace
        .netlink()
        .unwrap()
        .add_address(tun.index(), ip(address), 24)
        .unwrap();
    (namespace, tun)
}

fn device(namespace: &Namespace, name: &str) -> Tun {
    let tun = namespace.run(|| Tun::create(name)).unwrap().unwrap();
    namespace
        .netlink()
        .unwrap()
        .prepare_tunnel(tun.index(), 1400)
        .unwrap();
    tun
}

fn cable(one: &Namespace, name: &str, ours: &[&str], other: &Namespace, theirs: &[&str]) {
    one.connect(name, other, "far").unwrap();
    for (namespace, name, addresses) in [(one, name, ours), (other, "far", theirs)] {
        let mut netlink = namespace.netlink().unwrap();
        let index = netlink.link_named(name).unwrap().index;
        for address in addresses {
            let length = if ip(address).is_ipv4() { 24 } else { 64 };
            netlink.add_address(index, ip(address), length).unwrap();
        }
        netlink.set_up(index).unwrap();
    }
}

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

fn ip_tool(namespace: &Namespace, arguments: &str) -> String {
    let mut command = Command::new("ip");
    namespace.enter(command.args(arguments.split(' '))).unwrap();
    let output = command.output().expect("iproute2 is installed");
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The next packet of a transport protocol; the kernel's own noise is passed over.
fn next_packet(tun: &Tun, protocol: u8) -> Vec<u8> {
    let mut batch = ReadBatch::new();
    loop {
        wait_readable(Device::as_fd(tun));
        tun.read(&mut batch).unwrap();
        for packet in batch.iter_mut() {
            assert_eq!(packet.vnet.gso_type, VnetHeader::GSO_NONE);
            assert!(!packet.vnet.needs_checksum());
            let at = if packet.bytes[0] >> 4 == 4 { 9 } else { 6 };
            if packet.bytes[at] == protocol {
                return packet.bytes.to_vec();
            }
        }
    }
}

fn wait_readable(fd: std::os::fd::BorrowedFd<'_>) {
    let waiter = Waiter::new().unwrap();
    waiter.watch(fd, 0).unwrap();
    let ready = waiter.wait(Some(Duration::from_secs(5))).unwrap();
    assert!(!ready.tokens().is_empty(), "nothing came within 5 seconds");
}

/// For what the kernel does in its own time.
fn eventually(mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "not within 10 seconds");
        std::thread::yield_now();
    }
}

/// Runs a test as it is for root, and otherwise this test alone once more as root of a user namespace.
fn as_root(test: impl FnOnce()) {
    if nix::unistd::geteuid().is_root() {
        return test();
    }
    let name = std::thread::current()
        .name()
        .expect("a test's thread has its name")
        .to_owned();
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--mount"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &name])
        .output()
        .expect("unshare (util-linux) is installed");
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{complained}"
    );
}
