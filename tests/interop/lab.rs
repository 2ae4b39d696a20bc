//! Runs `groundlink lab`, and checks what every successful lab has in common.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use groundlink::lab::gateway::GatewayProcess;
use groundlink::lab::interrupt::Interrupt;
use groundlink::lab::options::LabOptions;
use groundlink::lab::{Lab, Overrides, RemoteGateway};
use groundlink::os::netns::Namespace;
use groundlink::status::{TunnelState, TunnelStatus};
use serde_json::Value;

use super::wait;

/// The program under test.
pub fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_groundlink"))
}

/// Runs `groundlink lab --json` with the options `words`.
pub fn run(words: &str) -> Output {
    let mut command = Command::new(program());
    command
        .args(["lab", "--json"])
        .args(words.split_whitespace());
    wait::output(&mut command, Duration::from_secs(120))
}

/// Runs a lab that must succeed with all ESP in UDP. Returns its report.
pub fn carries(words: &str) -> Value {
    let (report, shown) = successful(words);
    // UDP encapsulation is forced in both roles by default, because clouds drop IP protocol 50.
    assert_eq!(report["wire"]["esp_native"], 0, "{shown}");
    assert!(
        report["wire"]["esp_udp"].as_u64().unwrap() >= 40,
        "20 pings and their replies\n{shown}"
    );
    report
}

/// Runs a lab that must succeed with all ESP as IP protocol 50 and no packet to port 4500.
pub fn carries_bare(words: &str) -> Value {
    let (report, shown) = successful(words);
    assert!(
        report["wire"]["esp_native"].as_u64().unwrap() >= 40,
        "20 pings and their replies\n{shown}"
    );
    for kind in ["esp_udp", "ike_4500", "keepalives"] {
        assert_eq!(report["wire"][kind], 0, "{kind}\n{shown}");
    }
    report
}

/// The report of a lab that must succeed, as JSON and as text.
fn successful(words: &str) -> (Value, String) {
    let output = run(&format!("--seconds 1 {words}"));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!(
            "lab {words}: {error}\n{}{}",
            text(&output.stdout),
            text(&output.stderr)
        );
    });
    let shown = serde_json::to_string_pretty(&report).unwrap();
    assert!(
        output.status.success() && report["ok"] == true,
        "lab {words}\n{shown}"
    );
    assert_eq!(report["ping"]["received"], 20, "{shown}");
    for direction in ["a_to_b_mbit", "b_to_a_mbit"] {
        assert!(
            report["tcp"][direction].as_f64().unwrap() > 1.0,
            "{direction}\n{shown}"
        );
    }
    assert_eq!(report["wire"]["clear"], 0, "{shown}");
    for tunnel in report["tunnels"].as_array().unwrap() {
        assert_eq!(tunnel["state"], "up", "{shown}");
        assert_eq!(
            tunnel["refused"]["auth"].as_u64().unwrap_or(0),
            0,
            "{shown}"
        );
        assert_eq!(
            tunnel["refused"]["replay"].as_u64().unwrap_or(0),
            0,
            "{shown}"
        );
    }
    (report, shown)
}

/// Builds a lab with changed configurations.
pub fn build(options: &LabOptions, changes: &Overrides<'_>) -> Lab {
    Lab::build_with(options, program(), &Interrupt::default(), changes).unwrap()
}

/// Builds a lab with changed configurations, and waits until it is up.
pub fn up(options: &LabOptions, changes: &Overrides<'_>) -> Lab {
    let mut lab = build(options, changes);
    if lab.await_up().unwrap().is_none() {
        panic!("{}", logs(&mut lab));
    }
    lab
}

/// Default time limit of waits.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Waits until the first tunnel of gateway A satisfies `wanted`.
pub fn tunnel_that(
    lab: &mut Lab,
    what: &str,
    wanted: impl Fn(&TunnelStatus) -> bool,
) -> TunnelStatus {
    tunnel_within(lab, TIMEOUT, what, wanted)
}

/// Waits until the first tunnel of gateway A satisfies `wanted`, with another time limit.
pub fn tunnel_within(
    lab: &mut Lab,
    timeout: Duration,
    what: &str,
    wanted: impl Fn(&TunnelStatus) -> bool,
) -> TunnelStatus {
    wait::until(timeout, what, || {
        let tunnel = first_tunnel(lab.a());
        let found = tunnel.clone().filter(&wanted);
        found.ok_or_else(|| format!("{tunnel:#?}\n{}", logs(lab)))
    })
}

/// Checks `state` repeatedly during `period`.
///
/// # Panics
/// `state` returned an error.
#[track_caller]
pub fn throughout(period: Duration, what: &str, mut state: impl FnMut() -> Result<(), String>) {
    let begin = Instant::now();
    while begin.elapsed() < period {
        if let Err(seen) = state() {
            panic!("after {:?}: {what}\n{seen}", begin.elapsed());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until strongSwan has exactly one established IKE SA with one installed Child SA. Deleted Child SAs, which it keeps for 5 s for
/// late packets, are not counted.
pub fn settled(lab: &mut Lab) {
    settled_within(lab, TIMEOUT);
}

/// [`settled`] with another time limit.
pub fn settled_within(lab: &mut Lab, timeout: Duration) {
    settled_with(lab, 1, timeout);
}

/// [`settled`] with so many Child SAs for different traffic.
pub fn settled_with(lab: &mut Lab, wanted: usize, timeout: Duration) {
    wait::until(timeout, "one IKE SA with its Child SAs", || {
        let RemoteGateway::Strongswan(charon) = lab.b() else {
            unreachable!("the lab runs strongSwan")
        };
        let sas = text(&charon.swanctl(&["--list-sas"]).unwrap().stdout);
        let ike = sas.matches(", IKEv2, ").count();
        let children = sas
            .lines()
            .filter(|line| line.contains(", reqid ") && !line.contains(", DELETED,"))
            .count();
        let is_up = sas.contains("ESTABLISHED") && sas.contains("INSTALLED");
        let is_settled = ike == 1 && children == wanted && is_up;
        is_settled
            .then_some(())
            .ok_or_else(|| format!("{sas}{}", logs(lab)))
    });
}

fn first_tunnel(gateway: &GatewayProcess) -> Option<TunnelStatus> {
    gateway.status().ok()?.tunnels.into_iter().next()
}

/// Waits until the first tunnel of gateway A reports an error; returns its code and text. The tunnel must still be connecting.
pub fn failure(lab: &mut Lab) -> (String, String) {
    let tunnel = tunnel_that(lab, "failed", |tunnel| tunnel.last_error.is_some());
    assert_eq!(tunnel.state, TunnelState::Connecting, "{tunnel:#?}");
    let error = tunnel.last_error.unwrap();
    assert!(!error.advice.is_empty(), "{error:?} has no advice");
    (error.code, error.text)
}

/// Logs of both sides.
pub fn logs(lab: &mut Lab) -> String {
    let ours = lab.a().process().log();
    let theirs = match lab.b() {
        RemoteGateway::Groundlink(b) => b.process().log(),
        RemoteGateway::Strongswan(charon) => charon.log(),
    };
    format!("\n--- A\n{ours}\n--- B\n{theirs}")
}

/// Loads `rules` into the packet filter of the WAN router.
pub fn filter(lab: &Lab, rules: &str) {
    let mut nft = Command::new("nft");
    lab.topology().wan().enter(&mut nft).unwrap();
    let output = nft.arg(rules).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// Bytes as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs `ip` in a namespace.
#[track_caller]
pub fn ip(namespace: &Namespace, words: &str) -> String {
    let mut ip = Command::new("ip");
    ip.args(words.split(' '));
    namespace.enter(&mut ip).unwrap();
    let output = ip.output().unwrap();
    assert!(
        output.status.success(),
        "ip {words}: {}",
        text(&output.stderr)
    );
    text(&output.stdout)
}
