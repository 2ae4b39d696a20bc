//! Routing into tunnels: traffic that brings a tunnel up, peers inside the remote network, routes of other programs.

use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use groundlink::lab::options::{AddressFamily, InitiatorChoice, LabOptions, Side};
use groundlink::lab::{Lab, Overrides, RemoteGateway};
use groundlink::status::{TunnelState, TunnelStatus, TunnelWarning};
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};

use super::lab::{build, logs, program, tunnel_that, up};
use super::wait;

/// Runs `ip` in A's gateway.
#[track_caller]
fn ip(lab: &Lab, words: &str) -> String {
    super::lab::ip(lab.topology().gateway(Side::A), words)
}

/// Own routes of A, one a line.
fn own_routes(lab: &Lab) -> Vec<String> {
    let lines = ip(lab, "route show proto 171");
    lines.lines().map(str::to_owned).collect()
}

/// Waits until `done`: the route synchronisation follows within a second.
#[track_caller]
fn await_that(lab: &mut Lab, what: &str, done: impl Fn(&mut Lab) -> bool) {
    wait::until(Duration::from_secs(10), what, || {
        done(lab).then_some(()).ok_or_else(|| logs(lab))
    });
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_path_of_1280_octets_carries_ipv6_in_fragments() {
    let options = LabOptions {
        inner: AddressFamily::V6,
        ..LabOptions::default()
    };
    let mut lab = up(&options, &Overrides::default());
    ip(&lab, "link set wan0 mtu 1280");
    let before = tunnel_that(&mut lab, "is up", |_| true);
    lab.a().command("lab-1", "reset").unwrap();
    let child = |tunnel: &TunnelStatus| tunnel.child.as_ref().map(|child| child.spi_in.clone());
    let after = tunnel_that(&mut lab, "is up again", |tunnel| {
        tunnel.state == TunnelState::Up && child(tunnel) != child(&before)
    });
    // RFC 8200 §5: IPv6 needs 1280 octets.
    assert_eq!(after.child.unwrap().mtu, 1280);
    let carried = lab.tcp(Side::A, 1, Duration::from_millis(300)).unwrap();
    assert!(carried.bytes > 100_000, "{carried:?}");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn traffic_brings_up_a_trap_and_the_first_packet_is_not_lost() {
    let trap = |side: Side, written: String| match side {
        Side::A => written.replace("start = \"auto\"", "start = \"trap\""),
        Side::B => written,
    };
    let changes = Overrides {
        config: Some(&trap),
        connection: None,
    };
    let mut lab = build(&LabOptions::default(), &changes);
    tunnel_that(&mut lab, "waits", |t| t.state == TunnelState::Connecting);
    assert!(
        own_routes(&lab)
            .iter()
            .any(|route| route.contains("dev gl-lab-1"))
    );
    // The kernel's own packets on a new device have not triggered it.
    std::thread::sleep(Duration::from_secs(1));
    let waiting = tunnel_that(&mut lab, "waits", |_| true);
    assert_eq!(waiting.state, TunnelState::Connecting, "{}", logs(&mut lab));
    assert!(
        waiting.refused.values().all(|count| *count == 0),
        "{waiting:?}"
    );

    assert_eq!(lab.ping(5).unwrap().received, 5, "{}", logs(&mut lab));
    let up = tunnel_that(&mut lab, "is up", |t| t.state == TunnelState::Up);
    assert_eq!(up.tx.packets, 5);

    // A tunnel that is down by request is not brought up by traffic.
    lab.a().command("lab-1", "down").unwrap();
    assert_eq!(lab.ping(2).unwrap().received, 0);
    tunnel_that(&mut lab, "is down", |t| t.state == TunnelState::Down);
    await_that(&mut lab, "only unreachable routes are left", |lab| {
        own_routes(lab)
            .iter()
            .all(|route| route.contains("unreachable"))
    });
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn packets_to_a_peer_inside_the_remote_network_stay_outside_the_tunnel() {
    let wide = |side: Side, written: String| match side {
        Side::A => written.replace(
            "remote = [\"10.2.0.0/24\"]",
            "remote = [\"10.2.0.0/24\", \"192.0.2.128/25\"]",
        ),
        Side::B => written.replace(
            "local = [\"10.2.0.0/24\"]",
            "local = [\"10.2.0.0/24\", \"192.0.2.128/25\"]",
        ),
    };
    let changes = Overrides {
        config: Some(&wide),
        connection: None,
    };
    let mut lab = up(&LabOptions::default(), &changes);
    let before = ip(&lab, "route get 192.0.2.129");
    assert!(!before.contains("gl-lab-1"), "{before}");
    assert!(ip(&lab, "route get 192.0.2.200").contains("gl-lab-1"));
    assert_eq!(lab.ping(5).unwrap().received, 5, "{}", logs(&mut lab));
    // While it is down, the unreachable route does not cover the peer either: the tunnel comes up again.
    lab.a().command("lab-1", "down").unwrap();
    assert!(!ip(&lab, "route get 192.0.2.129").contains("unreachable"));
    lab.a().command("lab-1", "up").unwrap();
    tunnel_that(&mut lab, "is up", |t| t.state == TunnelState::Up);
    // The fail-closed routes outlive the process, and with them the peer route: the next start reaches the peer.
    lab.a().process().signal(Signal::SIGTERM);
    await_exit(&mut lab);
    let left = own_routes(&lab);
    let of = |word: &str| left.iter().filter(|route| route.contains(word)).count();
    assert_eq!(
        (of("unreachable"), of("192.0.2.129"), left.len()),
        (2, 1, 3),
        "{left:?}"
    );
    lab.restart_a(program()).unwrap();
    tunnel_that(&mut lab, "is up", |t| t.state == TunnelState::Up);
    assert_eq!(lab.ping(5).unwrap().received, 5, "{}", logs(&mut lab));
}

/// Waits until A's gateway has ended.
fn await_exit(lab: &mut Lab) {
    await_that(lab, "the daemon has ended", |lab| {
        lab.a().process().exit_status().is_some()
    });
}

/// Sends a datagram from host A to host B every 2 ms, until it is dropped.
struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// Number of datagrams sent so far.
    fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }

    fn start(lab: &Lab) -> Flood {
        let bind = || UdpSocket::bind(("0.0.0.0", 0)).unwrap();
        let socket = lab.topology().host(Side::A).run(bind).unwrap();
        let destination = (lab.addressing().b.host, 9);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let sent = Arc::new(AtomicUsize::new(0));
        let counted = sent.clone();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // ICMP errors of the gateway are what it is for.
                let _ = socket.send_to(&[0; 100], destination);
                counted.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Flood {
            stop,
            sent,
            thread: Some(thread),
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn no_packet_leaves_in_the_clear_while_the_daemon_ends_and_starts() {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let mut lab = up(&LabOptions::default(), &Overrides::default());
        let flood = Flood::start(&lab);
        let carried = |lab: &mut Lab| tunnel_that(lab, "answers", |_| true).tx.packets;
        await_that(&mut lab, "packets are carried", |lab| carried(lab) > 20);
        for _ in 0..2 {
            lab.a().process().signal(signal);
            await_exit(&mut lab);
            // So many packets find no daemon.
            let sent = flood.sent() + 100;
            await_that(&mut lab, "packets are sent", |_| flood.sent() >= sent);
            lab.restart_a(program()).unwrap();
            tunnel_that(&mut lab, "is up", |t| t.state == TunnelState::Up);
            await_that(&mut lab, "packets are carried", |lab| carried(lab) > 20);
        }
        drop(flood);
        let wire = lab.wire();
        assert_eq!(wire.clear, 0, "{signal}: {wire:?}{}", logs(&mut lab));
        assert!(wire.esp_udp > 60, "{wire:?}");
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn p18_a_foreign_route_with_the_same_metric_is_reported_and_the_child_sa_rolled_back() {
    let options = LabOptions {
        role: InitiatorChoice::Responder,
        ..LabOptions::default()
    };
    let waits = |_: Side, written: String| written.replace("start = \"auto\"", "start = \"add\"");
    let changes = Overrides {
        config: Some(&waits),
        connection: None,
    };
    let mut lab = build(&options, &changes);
    tunnel_that(&mut lab, "waits", |t| t.state == TunnelState::Connecting);
    ip(&lab, "route add blackhole 10.2.0.0/24 metric 100");
    lab.a().command("lab-1", "up").unwrap();
    let failed = tunnel_that(&mut lab, "failed", |t| t.last_error.is_some());
    let error = failed.last_error.unwrap();
    assert_eq!(error.code, "install-failed");
    for word in ["10.2.0.0/24", "metric 100", "ip route del"] {
        assert!(error.text.contains(word), "{error:?}");
    }
    let rolled_back = tunnel_that(&mut lab, "has no SA", |t| t.child.is_none());
    assert_eq!(rolled_back.state, TunnelState::Connecting);
    await_that(&mut lab, "the device has no carrier", |lab| {
        ip(lab, "link show gl-lab-1").contains("NO-CARRIER")
    });

    ip(&lab, "route del blackhole 10.2.0.0/24 metric 100");
    lab.a().command("lab-1", "up").unwrap();
    tunnel_that(&mut lab, "is up", |t| t.state == TunnelState::Up);
    assert_eq!(lab.ping(5).unwrap().received, 5, "{}", logs(&mut lab));
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn own_routes_that_another_program_removes_come_back() {
    let wide = |side: Side, written: String| match side {
        Side::A => written + "routes = [\"10.2.0.0/24\", \"192.0.2.128/25\"]\n",
        Side::B => written,
    };
    let changes = Overrides {
        config: Some(&wide),
        connection: None,
    };
    let mut lab = up(&LabOptions::default(), &changes);
    let mut before = own_routes(&lab);
    before.sort();
    // Network managers flush routes of others; the kernel drops the routes of a device that is set down.
    for words in [
        ["route flush proto 171"].as_slice(),
        &["link set gl-lab-1 down", "link set gl-lab-1 up"],
    ] {
        for words in words {
            ip(&lab, words);
        }
        await_that(&mut lab, "the routes are back", |lab| {
            let mut now = own_routes(lab);
            now.sort();
            now == before
        });
        assert_eq!(lab.ping(5).unwrap().received, 5, "{}", logs(&mut lab));
    }
}

/// Warnings of A's only tunnel.
fn warnings(lab: &mut Lab) -> Vec<TunnelWarning> {
    tunnel_that(lab, "answers", |_| true).warnings
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_foreign_route_that_overrides_the_tunnels_is_a_warning_and_each_advice_helps() {
    let mut lab = up(&LabOptions::default(), &Overrides::default());
    assert_eq!(warnings(&mut lab), []);
    let override_it = |lab: &mut Lab| {
        ip(lab, "route add blackhole 10.2.0.0/24 metric 5");
        await_that(lab, "a warning", |lab| !warnings(lab).is_empty());
        assert_eq!(lab.ping(2).unwrap().received, 0);
    };
    override_it(&mut lab);
    let warning = warnings(&mut lab).remove(0);
    assert_eq!(warning.code, "route-overridden");
    assert!(warning.text.contains("10.2.0.0/24") && warning.text.contains("metric 5"));
    let advice = warning.advice;
    await_that(&mut lab, "the log says so", |lab| {
        logs(lab).contains(&warning.text)
    });

    // First: remove the other route.
    let command = "route del 10.2.0.0/24 metric 5";
    assert!(advice.contains(&format!("`ip {command}`")), "{advice}");
    ip(&lab, command);
    await_that(&mut lab, "no warning", |lab| warnings(lab).is_empty());
    assert_eq!(lab.ping(5).unwrap().received, 5, "{}", logs(&mut lab));

    // The others: each in the configuration, with the other route in place.
    for (line, replaces) in [
        ("metric = 4", "metric = 100"),
        ("routes = [\"10.2.0.0/25\", \"10.2.0.128/25\"]", ""),
    ] {
        assert!(advice.contains(&format!("`{line}`")), "{advice}");
        let written = |side: Side, text: String| match side {
            Side::A if replaces.is_empty() => format!("{text}{line}\n"),
            Side::A => text.replace(replaces, line),
            Side::B => text,
        };
        let changes = Overrides {
            config: Some(&written),
            connection: None,
        };
        let mut lab = up(&LabOptions::default(), &changes);
        ip(&lab, "route add blackhole 10.2.0.0/24 metric 5");
        assert_eq!(lab.ping(5).unwrap().received, 5, "{}", logs(&mut lab));
        assert_eq!(warnings(&mut lab), []);
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_standby_carries_the_network_that_the_peer_of_the_first_tunnel_does_not_agree_to() {
    const ONE: &str = "[\"10.2.0.0/24\"]";
    const BOTH: &str = "[\"10.2.0.0/24\", \"10.3.0.0/24\"]";
    let written = |side: Side, text: String| {
        let second = text.rfind("[[tunnel]]").unwrap();
        let (first, second) = text.split_at(second);
        match side {
            Side::A => {
                first.replace(ONE, BOTH) + &second.replace(ONE, BOTH).replace("= 100", "= 200")
            }
            // The kernel drops replies that come in by another tunnel than packets leave by, since the devices have no IPv4 address.
            Side::B => first.to_owned() + &second.replace(ONE, BOTH).replace("= 100", "= 200"),
        }
    };
    let options = LabOptions {
        tunnels: 2,
        ..LabOptions::default()
    };
    let changes = Overrides {
        config: Some(&written),
        connection: None,
    };
    let mut lab = up(&options, &changes);
    await_that(&mut lab, "the routes are there", |lab| {
        ip(lab, "route get 10.3.0.1").contains("gl-lab-2")
    });
    assert!(ip(&lab, "route get 10.2.0.1").contains("gl-lab-1"));
    let [first, second] = &lab.a().status().unwrap().tunnels[..] else {
        panic!("two tunnels")
    };
    assert_eq!(second.warnings, []);
    let [warning] = &first.warnings[..] else {
        panic!("{:?}", first.warnings)
    };
    assert_eq!(warning.code, "narrowed");
    assert!(warning.text.contains("10.3.0.0/24"), "{warning:?}");
    assert_eq!(lab.ping(5).unwrap().received, 5, "{}", logs(&mut lab));

    let bind = || UdpSocket::bind(("0.0.0.0", 0)).unwrap();
    let socket = lab.topology().host(Side::A).run(bind).unwrap();
    for _ in 0..5 {
        socket.send_to(&[0; 100], ("10.3.0.1", 9)).unwrap();
    }
    await_that(&mut lab, "the standby has received them", |lab| {
        let RemoteGateway::Groundlink(b) = lab.b() else {
            unreachable!()
        };
        b.status().unwrap().tunnels[1].rx.packets == 5
    });
    for tunnel in lab.a().status().unwrap().tunnels {
        assert_eq!(tunnel.refused["no-policy"], 0, "{tunnel:?}");
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn two_tunnels_with_one_remote_and_different_locals_carry_each_its_own_source() {
    let written = |side: Side, text: String| {
        let second = text.rfind("[[tunnel]]").unwrap();
        let (first, second) = text.split_at(second);
        first.to_owned()
            + &match side {
                Side::A => second.replace("local = [\"10.1.0.0/24\"]", "local = [\"10.9.0.0/24\"]"),
                Side::B => {
                    second.replace("remote = [\"10.1.0.0/24\"]", "remote = [\"10.9.0.0/24\"]")
                }
            }
    };
    let options = LabOptions {
        tunnels: 2,
        ..LabOptions::default()
    };
    let changes = Overrides {
        config: Some(&written),
        connection: None,
    };
    let mut lab = up(&options, &changes);
    // A second network behind gateway A.
    let mut command = Command::new("ip");
    command.args(["addr", "add", "10.9.0.5/24", "dev", "eth0"]);
    lab.topology().host(Side::A).enter(&mut command).unwrap();
    assert!(command.status().unwrap().success());
    ip(&lab, "addr add 10.9.0.1/24 dev lan0");
    let destination = (lab.addressing().b.host, 9);
    let send = |lab: &Lab, source: IpAddr| {
        let bind = || UdpSocket::bind((source, 0)).unwrap();
        let socket = lab.topology().host(Side::A).run(bind).unwrap();
        for _ in 0..10 {
            // ICMP errors of the gateway.
            let _ = socket.send_to(&[0; 100], destination);
        }
    };
    let first_source = lab.addressing().a.host;
    let second_source = IpAddr::from([10, 9, 0, 5]);
    let received = |lab: &mut Lab| -> Vec<u64> {
        let RemoteGateway::Groundlink(b) = lab.b() else {
            unreachable!()
        };
        let tunnels = b.status().unwrap().tunnels;
        tunnels.iter().map(|tunnel| tunnel.rx.packets).collect()
    };
    await_that(&mut lab, "the rules are there", |lab| {
        ip(lab, "rule").matches("proto 171").count() == 2
    });
    send(&lab, first_source);
    send(&lab, second_source);
    await_that(&mut lab, "each carries its own", |lab| {
        received(lab) == [10, 10]
    });
    // What another program removes comes back.
    ip(&lab, "rule del from 10.9.0.0/24");
    await_that(&mut lab, "the rule is back", |lab| {
        ip(lab, "rule").contains("10.9.0.0/24")
    });
    // The tables are fail-closed: packets of a tunnel that is down take no other way.
    lab.a().command("lab-2", "down").unwrap();
    tunnel_that(&mut lab, "answers", |_| true);
    await_that(&mut lab, "the route is withdrawn", |lab| {
        !ip(lab, "route show table all proto 171").contains("dev gl-lab-2")
    });
    send(&lab, second_source);
    send(&lab, first_source);
    await_that(&mut lab, "only the first carries", |lab| {
        received(lab) == [20, 10]
    });
    for tunnel in lab.a().status().unwrap().tunnels {
        assert_eq!(tunnel.refused["no-policy"], 0, "{tunnel:?}");
    }
    assert_eq!(lab.wire().clear, 0);
}

/// Context switches of the thread that runs the daemon's loop, the first of its process.
fn wakeups(lab: &mut Lab) -> u64 {
    let id = lab.a().process().id();
    let status = std::fs::read_to_string(format!("/proc/{id}/task/{id}/status")).unwrap();
    let mut counts = status.lines().filter(|line| line.contains("ctxt_switches"));
    let voluntary = counts.next().unwrap().split_whitespace().last().unwrap();
    voluntary.parse().unwrap()
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn twenty_thousand_foreign_routes_do_not_wake_the_daemons_loop() {
    let mut lab = up(&LabOptions::default(), &Overrides::default());
    let before = wakeups(&mut lab);
    let file = tempfile::NamedTempFile::new().unwrap();
    for verb in ["add", "del"] {
        let lines = (0..20_000_u32)
            .map(|n| format!("route {verb} blackhole 100.{}.{}.0/24\n", n >> 8, n & 0xff));
        std::fs::write(file.path(), lines.collect::<String>()).unwrap();
        ip(&lab, &format!("-batch {}", file.path().display()));
    }
    // A few for the loop's own timers, and one for each report of the route synchronisation.
    let woken = wakeups(&mut lab) - before;
    assert!(woken < 50, "{woken} wake-ups{}", logs(&mut lab));
    assert_eq!(lab.ping(5).unwrap().received, 5, "{}", logs(&mut lab));
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn an_icmp_error_about_a_packet_outside_the_selectors_comes_from_the_gateway() {
    for (inner, outside) in [
        (AddressFamily::V4, "10.99.0.5"),
        (AddressFamily::V6, "fd99::5"),
    ] {
        let options = LabOptions {
            inner,
            ..LabOptions::default()
        };
        let mut lab = up(&options, &Overrides::default());
        tunnel_that(&mut lab, "is up", |tunnel| tunnel.state == TunnelState::Up);
        let outside: IpAddr = outside.parse().unwrap();
        let family = if outside.is_ipv4() { "-4" } else { "-6" };
        ip(&lab, &format!("{family} route add {outside} dev gl-lab-1"));
        let (host, gateway) = (lab.addressing().a.host, lab.addressing().a.inside);
        let offender = || icmp_sender(host, outside);
        let found = lab.topology().host(Side::A).run(offender).unwrap();
        assert_eq!(found, gateway, "{}", logs(&mut lab));
    }
}

/// Sends a datagram from `host` to `to` and returns who answers with an ICMP error.
fn icmp_sender(host: IpAddr, to: IpAddr) -> IpAddr {
    let socket = UdpSocket::bind((host, 0)).unwrap();
    match host {
        IpAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4RecvErr, &true).unwrap(),
        IpAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvErr, &true).unwrap(),
    }
    socket.send_to(b"outside", (to, 9)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let mut space = nix::cmsg_space!([u8; 128]);
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let received = recvmsg::<()>(socket.as_raw_fd(), &mut [], Some(&mut space), flags);
        if let Ok(message) = received {
            let mut found = message
                .cmsgs()
                .unwrap()
                .filter_map(|message| match message {
                    ControlMessageOwned::Ipv4RecvErr(_, Some(from)) => {
                        Some(IpAddr::from(from.sin_addr.s_addr.to_ne_bytes()))
                    }
                    ControlMessageOwned::Ipv6RecvErr(_, Some(from)) => {
                        Some(IpAddr::from(from.sin6_addr.s6_addr))
                    }
                    _ => None,
                });
            return found.next().expect("the error has a sender");
        }
        assert!(Instant::now() < deadline, "no ICMP error");
        std::thread::sleep(Duration::from_millis(5));
    }
}
