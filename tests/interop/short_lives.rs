//! Lives of a few seconds: hundreds of rekeys in half a minute, with packets on every tunnel all the time.
//!
//! strongSwan's userspace ESP has one device, so several charons have a lab each. They rekey towards us, or we towards them; between
//! two groundlinks both ends do, over four tunnels of one process, and often at the same time.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::time::{Duration, Instant};

use groundlink::lab::charon::{CharonConfig, RekeyTimes};
use groundlink::lab::options::{InitiatorChoice, LabOptions, RemoteKind, Side};
use groundlink::lab::{Lab, Overrides, RemoteGateway};
use groundlink::status::{RekeyCounters, TunnelState};

use super::lab::{logs, up};
use super::stream::Stream;

/// Datagrams a second, each way of each tunnel.
const RATE: u32 = 100;

/// RekeyCounters of both kinds in all.
const ENOUGH: u64 = 220;

const SUITE: &str = "aes128-sha256-curve25519";

fn options(peer: RemoteKind, role: InitiatorChoice, tunnels: u8) -> LabOptions {
    LabOptions {
        peer,
        role,
        tunnels,
        ike: Some(SUITE.to_owned()),
        esp: Some(SUITE.to_owned()),
        ..LabOptions::default()
    }
}

/// A lab under traffic.
struct Running {
    name: &'static str,
    lab: Lab,
    streams: Vec<Stream>,
    before: Usage,
}

/// What a process uses.
#[derive(Debug, Clone, Copy)]
struct Usage {
    resident_kib: u64,
    files: usize,
}

impl Usage {
    fn of(process: u32) -> Usage {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.split_whitespace().next())
            .unwrap();
        Usage {
            resident_kib: resident.parse().unwrap(),
            files: std::fs::read_dir(format!("/proc/{process}/fd"))
                .unwrap()
                .count(),
        }
    }
}

impl Running {
    fn begin(name: &'static str, lab: Lab, streams: Vec<Stream>) -> Running {
        Running {
            name,
            lab,
            streams,
            before: Usage {
                resident_kib: 0,
                files: 0,
            },
        }
    }

    fn rekeys(&mut self) -> RekeyCounters {
        let Ok(snapshot) = self.lab.a().status() else {
            panic!("{}{}", self.name, logs(&mut self.lab));
        };
        snapshot
            .tunnels
            .iter()
            .fold(RekeyCounters::default(), |sum, tunnel| {
                assert_eq!(tunnel.state, TunnelState::Up, "{tunnel:#?}");
                RekeyCounters {
                    ike: sum.ike + tunnel.rekeys.ike,
                    child: sum.child + tunnel.rekeys.child,
                    packets_lost: sum.packets_lost + tunnel.rekeys.packets_lost,
                }
            })
    }

    fn usage(&mut self) -> Usage {
        Usage::of(self.lab.a().process().id())
    }

    /// Everything that must be as it was.
    fn end(mut self) {
        let rekeys = self.rekeys();
        let after = self.usage();
        println!(
            "{}: {rekeys:?}, {:?} became {after:?}",
            self.name, self.before
        );
        assert_eq!(rekeys.packets_lost, 0);
        // A question on the control socket, ours, may still be being closed.
        assert!(
            after.files <= self.before.files + 1,
            "{}: files stay open",
            self.name
        );
        assert!(
            after.resident_kib < self.before.resident_kib + 2048,
            "{}: memory grows",
            self.name
        );
        for tunnel in self.lab.a().status().unwrap().tunnels {
            assert_eq!(
                tunnel.last_error,
                None,
                "{}{}",
                self.name,
                logs(&mut self.lab)
            );
            assert!(
                tunnel.rekeys.child > 2 && tunnel.rekeys.ike > 1,
                "{tunnel:#?}"
            );
        }
        if let RemoteGateway::Strongswan(charon) = self.lab.b() {
            let sas = charon.swanctl(&["--list-sas"]).unwrap();
            let sas = super::lab::text(&sas.stdout);
            // The one at work, its successor or predecessor, and what is kept 5 s for stragglers.
            assert!(sas.matches(", IKEv2, ").count() <= 2, "{sas}");
            assert!(sas.matches(", reqid ").count() <= 8, "{sas}");
        }
        for stream in self.streams {
            stream.end_unharmed(&mut self.lab);
        }
    }
}

fn with_charon(name: &'static str, ours: &str, theirs: RekeyTimes) -> Running {
    let changes = Overrides {
        config: Some(&|_, written| written + ours),
        connection: Some(&|connection: &mut CharonConfig| connection.rekey_times = theirs),
    };
    let lab = up(
        &options(RemoteKind::Strongswan, InitiatorChoice::Initiator, 1),
        &changes,
    );
    let streams = vec![Stream::begin(&lab, RATE)];
    Running::begin(name, lab, streams)
}

fn slice(side: u8, tunnel: u8) -> String {
    format!("10.{side}.0.{}/26", 64 * tunnel)
}

/// Four tunnels, each with a quarter of the two networks of its own, so that each has a stream of its own.
fn with_ourselves(lives: &str) -> Running {
    let quartered = |_: Side, written: String| {
        let (gateway, tunnels) = written.split_once("[[tunnel]]").unwrap();
        (0u8..).zip(tunnels.split("[[tunnel]]")).fold(
            gateway.to_owned(),
            |all, (number, tunnel)| {
                let tunnel = tunnel
                    .replace("10.1.0.0/24", &slice(1, number))
                    .replace("10.2.0.0/24", &slice(2, number));
                format!("{all}[[tunnel]]{tunnel}{lives}")
            },
        )
    };
    let lab = up(
        &options(RemoteKind::Groundlink, InitiatorChoice::Initiator, 4),
        &Overrides {
            config: Some(&quartered),
            connection: None,
        },
    );
    let streams = (0..4)
        .map(|tunnel| {
            let host = |side: u8| IpAddr::V4(Ipv4Addr::new(10, side, 0, 64 * tunnel + 2));
            for (side, number) in [(Side::A, 1), (Side::B, 2)] {
                if tunnel > 0 {
                    let mut ip = Command::new("ip");
                    ip.args([
                        "address",
                        "add",
                        &format!("{}/24", host(number)),
                        "dev",
                        "eth0",
                    ]);
                    lab.topology().host(side).enter(&mut ip).unwrap();
                    assert!(ip.status().unwrap().success());
                }
            }
            Stream::between(&lab, host(1), host(2), RATE)
        })
        .collect();
    Running::begin("four tunnels between two groundlinks", lab, streams)
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn hundreds_of_rekeys_lose_nothing_and_leave_nothing_behind() {
    const THEIRS: RekeyTimes = RekeyTimes {
        ike_s: Some(3),
        child_s: Some(1),
        reauth_s: None,
        reauth_order: groundlink::lab::charon::ReauthOrder::MakeBeforeBreak,
    };
    // The last 10 to 15 % of them are there to rekey in: more than a busy machine lets a process wait.
    const OURS: &str = "child-lifetime = \"6s\"\nike-lifetime = \"9s\"\n";
    let mut running = [
        with_charon("charon rekeys", "", THEIRS),
        with_charon("we rekey towards charon", OURS, RekeyTimes::default()),
        with_charon("charon and we rekey", OURS, THEIRS),
        with_ourselves(OURS),
    ];
    let begin = Instant::now();
    let mut warm = false;
    loop {
        let done: u64 = running
            .iter_mut()
            .map(Running::rekeys)
            .map(|rekeys| rekeys.ike + rekeys.child)
            .sum();
        // A third of the way every table and buffer has had its greatest size.
        if !warm && done > ENOUGH / 3 {
            warm = true;
            for lab in &mut running {
                lab.before = lab.usage();
            }
        }
        if done >= ENOUGH {
            println!("{done} rekeys in {:?}", begin.elapsed());
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(150), "only {done}");
        std::thread::sleep(Duration::from_millis(200));
    }
    running.into_iter().for_each(Running::end);
}
