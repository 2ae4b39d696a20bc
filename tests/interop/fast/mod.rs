//! The whole datapath with real traffic: everything that goes in comes out as it was, whatever the kernel does for many packets at
//! once, whatever the way between the gateways does to them, and nothing is refused that need not be.
//!
//! ```text
//!  host A ── GSO packets ──▶ gateway A ── UDP GSO ──▶ WAN ── UDP GRO ──▶ gateway B ── GSO packets ──▶ host B
//!             bulk, load,       ▲          (cut, lost, overtaken, twice, in fragments)      ▲           compared byte by byte
//!             echo                 └───────────────────── refused: nothing ────────────────────┘
//! ```

mod bulk;
mod content;
mod echo;
mod load;
mod relay;

mod every_size;
mod jumbo;
mod loss;
mod native;
mod reordering;
mod zero_checksum;

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use groundlink::ike::Encapsulation;
use groundlink::lab::options::{AddressFamily, LabOptions, RemoteKind, Side};
use groundlink::lab::{Lab, Overrides, RemoteGateway};
use groundlink::os::netns::Namespace;
use groundlink::status::{GsoSupport, OffloadStatus, ReceiveOffload, SendOffload, Snapshot};

use super::lab::{logs, text, tunnel_that, up};

/// What a lab is built from.
#[derive(Debug, Clone, Copy)]
struct Case {
    peer: RemoteKind,
    /// The address family of the two networks.
    inner: AddressFamily,
    /// The address family between the gateways.
    outer: AddressFamily,
    /// The suite of ESP.
    esp: &'static str,
    /// `offload` in the configuration.
    offload: &'static str,
    /// What carries ESP.
    encapsulation: Encapsulation,
}

/// The suites that are carried: a cipher with a hash beside it, and one of one piece.
const SUITES: [&str; 2] = ["aes128-sha1", "aes128gcm16"];

impl Case {
    const fn of(peer: RemoteKind) -> Case {
        Case {
            peer,
            inner: AddressFamily::V4,
            outer: AddressFamily::V4,
            esp: SUITES[0],
            offload: "auto",
            encapsulation: Encapsulation::Udp,
        }
    }

    /// With offload and without it, in both families inside; each suite with each of them.
    fn matrix(peer: RemoteKind) -> [Case; 4] {
        let [hashed, whole] = SUITES;
        [
            ("auto", AddressFamily::V4, hashed),
            ("auto", AddressFamily::V6, whole),
            ("off", AddressFamily::V4, whole),
            ("off", AddressFamily::V6, hashed),
        ]
        .map(|(offload, inner, esp)| Case {
            offload,
            inner,
            esp,
            ..Case::of(peer)
        })
    }

    fn options(&self) -> LabOptions {
        LabOptions {
            peer: self.peer,
            inner: self.inner,
            outer: self.outer,
            ike: Some("aes128-sha256-curve25519".to_owned()),
            esp: Some(self.esp.to_owned()),
            encapsulation: self.encapsulation,
            ..LabOptions::default()
        }
    }

    /// The configuration with this case's word for `offload`, and `more` for the tunnel.
    fn config(&self, written: &str, more: &str) -> String {
        let gateway = format!("[gateway]\noffload = {:?}", self.offload);
        written.replacen("[gateway]", &gateway, 1) + more
    }

    /// A lab that is up.
    fn up(&self) -> Lab {
        let config = |_: Side, written: String| self.config(&written, "");
        let changes = Overrides {
            config: Some(&config),
            connection: None,
        };
        up(&self.options(), &changes)
    }

    /// How many bytes TCP carries: charon is slow.
    fn bulk(&self) -> usize {
        match self.peer {
            RemoteKind::Groundlink => 32 << 20,
            RemoteKind::Strongswan => 10 << 20,
        }
    }
}

/// Asks the tunnel of a lab that is built to come up, now that the test has what it needs around it.
#[track_caller]
fn bring_up(lab: &mut Lab) {
    tunnel_that(lab, "waits", |tunnel| tunnel.waiting.is_some());
    lab.a().command("lab-1", "up").unwrap();
    assert!(lab.await_up().unwrap().is_some(), "{}", logs(lab));
}

/// What `offload` says in `status` where the kernel has everything, and where nothing is wanted.
fn offload_of(word: &str) -> OffloadStatus {
    match word {
        "auto" => OffloadStatus {
            tun: GsoSupport::TcpAndUdp,
            send: SendOffload::Segments,
            receive: ReceiveOffload::Joined,
        },
        _ => OffloadStatus {
            tun: GsoSupport::None,
            send: SendOffload::Single,
            receive: ReceiveOffload::Single,
        },
    }
}

/// The sides where a groundlink stands, each with what it says about itself.
fn snapshots(lab: &mut Lab) -> Vec<(Side, Snapshot)> {
    let mut all = vec![(Side::A, lab.a().status().unwrap())];
    if let RemoteGateway::Groundlink(b) = lab.b() {
        all.push((Side::B, b.status().unwrap()));
    }
    all
}

/// What went wrong, and what both sides have to say about it.
#[track_caller]
fn well<T>(lab: &mut Lab, outcome: Result<T, String>) -> T {
    outcome.unwrap_or_else(|error| {
        let said: Vec<String> = snapshots(lab)
            .into_iter()
            .map(|(side, snapshot)| format!("{side}: {snapshot:#?}"))
            .collect();
        panic!("{error}\n{}{}", said.join("\n"), logs(lab))
    })
}

/// What a side must have refused, and nothing else.
type Expected<'e> = &'e dyn Fn(Side) -> BTreeMap<&'static str, u64>;

fn nothing(_: Side) -> BTreeMap<&'static str, u64> {
    BTreeMap::new()
}

/// Waits until every groundlink has refused exactly what it must: the last packets may still be on their way.
#[track_caller]
fn refused_exactly(lab: &mut Lab, expected: Expected<'_>) {
    super::wait::until(Duration::from_secs(3), "drop counters", || {
        let seen: Vec<(Side, BTreeMap<String, u64>)> = snapshots(lab)
            .into_iter()
            .map(|(side, mut snapshot)| {
                let mut refused = snapshot.tunnels.remove(0).refused;
                refused.retain(|_, count| *count > 0);
                (side, refused)
            })
            .collect();
        let as_expected = seen.iter().all(|(side, refused)| {
            let expected = expected(*side).into_iter().filter(|(_, count)| *count > 0);
            expected.eq(refused.iter().map(|(word, count)| (word.as_str(), *count)))
        });
        let wanted: Vec<_> = seen.iter().map(|(side, _)| expected(*side)).collect();
        let text = |lab: &mut Lab| format!("dropped: {seen:?}, expected: {wanted:?}{}", logs(lab));
        as_expected.then_some(()).ok_or_else(|| text(lab))
    });
}

/// Every groundlink does for many packets at once what it began with: nothing was given up on the way.
#[track_caller]
fn offload_is_still(lab: &mut Lab, word: &str) {
    for (side, snapshot) in snapshots(lab) {
        assert_eq!(
            snapshot.offload,
            Some(offload_of(word)),
            "{side}{}",
            logs(lab)
        );
    }
}

/// Runs nft or ip on one machine, and says what it said.
#[track_caller]
fn on(machine: &Namespace, program: &str, words: &[&str]) -> String {
    let mut command = Command::new(program);
    machine.enter(&mut command).unwrap();
    let output = command.args(words).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {words:?}: {}",
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// Has a machine count what it forwards from a device in pieces of several packets. A packet of its own has at most 1500 octets.
#[track_caller]
fn count_joined(machine: &Namespace, device: &str) {
    let rule = format!(
        "table inet joined {{ chain forward {{ type filter hook forward priority filter; iifname \"{device}\" meta length > 1600 counter; }}; }}"
    );
    on(machine, "nft", &[&rule]);
}

/// How many there were.
#[track_caller]
fn joined(machine: &Namespace) -> u64 {
    counted(&on(machine, "nft", &["list", "table", "inet", "joined"]))
}

/// The packets that the counters in a list of rules have counted, all together.
fn counted(rules: &str) -> u64 {
    let counts = rules.split("counter packets ").skip(1);
    counts
        .map(|rest| rest.split(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}
