//! Tests of the route synchronisation: the order of changes, and which network events cost a request.

use std::ops::Range;
use std::process::Command;

use super::kernel_view::{RouteChanges, by_key, changes};
use super::*;
use crate::os::OffloadMode;
use crate::os::netlink::UNREACHABLE_METRIC;
use crate::os::netlink::{Route, RouteTarget};
use crate::os::netns::Namespace;

fn diff(present: &[Route], wanted: &[Route]) -> RouteChanges {
    changes(&by_key(present.to_vec()), &by_key(wanted.to_vec()))
}

fn through(metric: u32, devices: &[u32]) -> Route {
    Route {
        table: MAIN_TABLE,
        prefix: "10.8.0.0/16".parse().unwrap(),
        metric,
        target: RouteTarget::Tunnels(devices.to_vec()),
        source: None,
    }
}

fn unreachable() -> Route {
    Route::unreachable("10.8.0.0/16".parse().unwrap())
}

fn peer_route() -> Route {
    Route {
        table: MAIN_TABLE,
        prefix: "10.8.0.1/32".parse().unwrap(),
        metric: PEER_ROUTE_METRIC,
        target: RouteTarget::NextHop {
            device: 2,
            gateway: None,
        },
        source: None,
    }
}

#[test]
fn peer_and_unreachable_routes_are_installed_first_and_withdrawn_last() {
    let all = vec![through(100, &[5]), peer_route(), unreachable()];
    let made = diff(&[], &all);
    assert_eq!(
        made.install,
        [peer_route(), unreachable(), through(100, &[5])]
    );
    let gone = diff(&all, &[]);
    let metrics: Vec<u32> = gone.withdraw.iter().map(|(_, _, metric)| *metric).collect();
    assert_eq!(metrics, [100, UNREACHABLE_METRIC, PEER_ROUTE_METRIC]);
}

#[test]
fn a_route_with_fewer_devices_is_replaced_and_not_withdrawn() {
    let changes = diff(&[through(100, &[5, 6])], &[through(100, &[6])]);
    assert_eq!(changes.install, [through(100, &[6])]);
    assert!(changes.withdraw.is_empty());
}

#[test]
fn a_present_route_is_left_alone_whatever_the_order_of_its_devices() {
    let present = [through(100, &[6, 5]), unreachable()];
    let changes = diff(&present, &[unreachable(), through(100, &[5, 6])]);
    assert!(changes.install.is_empty() && changes.withdraw.is_empty());
}

#[test]
fn another_metric_is_another_route() {
    let changes = diff(&[through(100, &[5])], &[through(200, &[5])]);
    assert_eq!(changes.install, [through(200, &[5])]);
    assert_eq!(changes.withdraw, [through(100, &[5]).key()]);
}

/// A namespace with a tunnel device, and a synchroniser in it that the test drives.
struct Bench {
    namespace: Namespace,
    synchroniser: Synchroniser,
    updates: mpsc::Sender<RouteUpdate>,
    reports: UnboundedReceiver<RouteReport>,
    routing: TunnelRouting,
}

impl Bench {
    fn new() -> Bench {
        let namespace = Namespace::new().unwrap();
        let device = namespace
            .run(|| Tun::create("gl-a", OffloadMode::Off))
            .unwrap()
            .unwrap();
        let mut netlink = namespace.netlink().unwrap();
        netlink.prepare_tunnel(device.index(), 1400).unwrap();
        let (updates, receiver) = mpsc::channel();
        let (sender, reports) = unbounded_channel();
        let synchroniser = namespace
            .run(|| Synchroniser::new(receiver, sender))
            .unwrap()
            .unwrap();
        let routing = TunnelRouting {
            device: Arc::new(device),
            addresses: Vec::new(),
            state: PathState::Up,
            peer: Some("203.0.113.9".parse().unwrap()),
            routes: vec!["10.8.0.0/16".parse().unwrap()],
            carried: Vec::new(),
            metric: 100,
            local: Vec::new(),
            configured_local: Vec::new(),
            fail_closed: FailClosed::Hold,
        };
        Bench {
            namespace,
            synchroniser,
            updates,
            reports,
            routing,
        }
    }

    /// Submits the tunnel and synchronises.
    fn update(&mut self) -> RouteReport {
        self.routing.carried.clone_from(&self.routing.routes);
        let update = RouteUpdate {
            generation: self.synchroniser.generation + 1,
            tunnels: vec![(TunnelId(0), self.routing.clone())],
        };
        self.updates.send(update).unwrap();
        self.synchroniser.turn().unwrap();
        self.reports.try_recv().unwrap()
    }

    /// Runs turns until no event and no deadline is left; returns the number of netlink requests that took.
    fn run_until_idle(&mut self) -> u32 {
        let before = self.synchroniser.view.netlink.requests();
        loop {
            let deadline = self.synchroniser.turn().unwrap();
            let wait = deadline.or(Some(Duration::ZERO));
            let ready = self.synchroniser.waiter.wait(wait).unwrap();
            if deadline.is_none() && ready.tokens().is_empty() {
                return self.synchroniser.view.netlink.requests() - before;
            }
        }
    }

    fn ip(&self, arguments: &str) -> String {
        let mut command = Command::new("ip");
        self.namespace
            .enter(command.args(arguments.split(' ')))
            .unwrap();
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs `ip -batch` with a route command for each /24 of `numbers` below 100.0.0.0/8.
    fn batch(&self, verb: &str, numbers: Range<u32>) {
        let lines =
            numbers.map(|n| format!("route {verb} 100.{}.{}.0/24 dev lo\n", n >> 8, n & 0xff));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), lines.collect::<String>()).unwrap();
        self.ip(&format!("-batch {}", file.path().display()));
    }

    fn own_routes(&self) -> String {
        self.ip("route show proto 171")
    }
}

const FOREIGN: u32 = 20_000;

#[test]
#[ignore = "needs root: tests/run runs it"]
fn twenty_thousand_foreign_routes_cost_no_request() {
    let mut bench = Bench::new();
    bench.ip("link set lo up");
    bench.routing.routes.push("203.0.113.0/24".parse().unwrap());
    bench.ip("route add default dev lo");
    assert!(bench.update().failures.is_empty());
    bench.run_until_idle();
    for verb in ["add", "del"] {
        // Few enough at a time for the monitor's receive buffer.
        for start in (0..FOREIGN).step_by(500) {
            bench.batch(verb, start..start + 500);
            assert_eq!(bench.run_until_idle(), 0);
        }
    }
    assert!(
        bench.own_routes().contains("203.0.113.9 dev lo"),
        "{}",
        bench.own_routes()
    );
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn lost_notifications_cost_one_bounded_resynchronisation() {
    let mut bench = Bench::new();
    bench.ip("link set lo up");
    bench.update();
    bench.run_until_idle();
    bench.ip("route flush proto 171");
    bench.batch("add", 0..FOREIGN);
    // Own routes, own rules and the foreign ones that precede them by family, addresses, the device's carrier and addresses, and two routes put back: a
    // number that does not depend on how many routes there are.
    let requests = bench.run_until_idle();
    assert!(requests <= 13, "{requests} requests");
    assert!(
        bench.own_routes().contains("10.8.0.0/16 dev gl-a"),
        "{}",
        bench.own_routes()
    );
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn only_new_addresses_and_links_that_come_up_are_a_changed_network() {
    let mut bench = Bench::new();
    bench.ip("link add wan type veth peer name far");
    bench.ip("addr add 192.0.2.1/24 dev wan valid_lft 600 preferred_lft 600");
    bench.update();
    let is_reported = |bench: &mut Bench| {
        bench.synchroniser.change_after = Time::from_secs(0);
        bench.run_until_idle();
        bench
            .reports
            .try_recv()
            .is_ok_and(|report| report.network_changed)
    };
    is_reported(&mut bench);
    for (command, is_change) in [
        ("link set wan up", true),
        (
            "addr change 192.0.2.1/24 dev wan valid_lft 900 preferred_lft 900",
            false,
        ),
        ("addr add 192.0.2.2/24 dev wan", true),
        ("link set wan down", false),
        ("link del wan", false),
        ("link add gl0 type veth peer name gl1", false),
    ] {
        bench.ip(command);
        assert_eq!(is_reported(&mut bench), is_change, "{command}");
    }
    // Another change soon after a report waits for the end of the interval.
    bench.synchroniser.change_after = clock::now() + Duration::from_secs(1);
    let early = clock::now();
    bench.ip("link set gl0 up");
    bench.run_until_idle();
    assert!(bench.reports.try_recv().unwrap().network_changed);
    assert!(clock::now().since(early) >= Duration::from_millis(900));
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn the_peer_route_follows_the_best_foreign_route() {
    let mut bench = Bench::new();
    for (name, peer) in [("wan1", "far1"), ("wan2", "far2")] {
        bench.ip(&format!("link add {name} type veth peer name {peer}"));
        bench.ip(&format!("link set {peer} up"));
        bench.ip(&format!("link set {name} up"));
    }
    bench.routing.routes = vec!["203.0.113.0/24".parse().unwrap()];
    // No route to the peer yet: reported, and put right as soon as there is one.
    assert_eq!(bench.update().failures.len(), 1);
    let through = |bench: &mut Bench, device: &str| {
        let deadline = clock::now() + Duration::from_secs(10);
        let wanted = format!("203.0.113.9 dev {device}");
        while !bench.own_routes().contains(&wanted) {
            assert!(clock::now() < deadline, "{wanted}: {}", bench.own_routes());
            // This turn may have been the one that was waited for.
            let wait = bench.synchroniser.turn().unwrap();
            let wait = wait.or(Some(Duration::from_millis(20)));
            bench.synchroniser.waiter.wait(wait).unwrap();
        }
    };
    bench.ip("route add default dev wan1");
    through(&mut bench, "wan1");
    bench.ip("route add 203.0.113.0/28 dev wan2");
    through(&mut bench, "wan2");
    // Setting a device down removes its IPv4 routes without a route notification.
    bench.ip("link set wan2 down");
    through(&mut bench, "wan1");
    // So does removing the last IPv4 address of a device.
    bench.ip("addr add 192.0.2.77/24 dev wan1");
    bench.ip("addr del 192.0.2.77/24 dev wan1");
    bench.ip("route add default dev wan1");
    through(&mut bench, "wan1");
    assert!(bench.own_routes().contains("203.0.113.0/24 dev gl-a"));
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn an_own_route_that_another_program_deletes_is_put_back() {
    let mut bench = Bench::new();
    bench.update();
    let before = bench.own_routes();
    assert!(before.contains("10.8.0.0/16 dev gl-a"), "{before}");
    for commands in [
        &["route flush proto 171"][..],
        &["link set gl-a down", "link set gl-a up"],
    ] {
        for command in commands {
            bench.ip(command);
        }
        assert!(bench.run_until_idle() > 0);
        assert_eq!(bench.own_routes(), before, "after {commands:?}");
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_foreign_route_that_precedes_one_into_a_tunnel_is_reported_until_it_is_gone() {
    let mut bench = Bench::new();
    bench.ip("link set lo up");
    assert_eq!(bench.update().overridden, []);
    let report = |bench: &mut Bench| {
        bench.run_until_idle();
        bench.reports.try_recv().unwrap().overridden
    };
    bench.ip("route add 10.8.0.0/16 dev lo metric 7");
    let expected = Overridden {
        devices: vec![bench.routing.device.index()],
        prefix: "10.8.0.0/16".parse().unwrap(),
        metric: 100,
        foreign_metric: 7,
    };
    assert_eq!(report(&mut bench), [expected]);
    // Neither a route behind ours nor one for another prefix changes that.
    bench.ip("route add 10.8.0.0/16 dev lo metric 101");
    bench.ip("route add 10.8.0.0/17 dev lo metric 7");
    bench.run_until_idle();
    assert!(bench.reports.try_recv().is_err());
    bench.ip("route del 10.8.0.0/16 dev lo metric 7");
    assert_eq!(report(&mut bench), []);
}
