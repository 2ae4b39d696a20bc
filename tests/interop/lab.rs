//! Running `groundlink lab`, and what every lab that is well has in common.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use groundlink::lab::gateway::GatewayProcess;
use groundlink::lab::interrupt::Interrupt;
use groundlink::lab::options::LabOptions;
use groundlink::lab::{Lab, Overrides, RemoteGateway};
use groundlink::status::{TunnelState, TunnelStatus};
use serde_json::Value;

use super::wait;

/// The program under test.
pub fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_groundlink"))
}

/// Runs `groundlink lab --json` with `words`.
pub fn run(words: &str) -> Output {
    let mut command = Command::new(program());
    command
        .args(["lab", "--json"])
        .args(words.split_whitespace());
    wait::output(&mut command, Duration::from_secs(120))
}

/// Runs a lab that must be well, with all ESP in UDP, and checks everything that no lab may lack. Returns its report.
pub fn carries(words: &str) -> Value {
    let (report, shown) = well(words);
    // UDP encapsulation is forced in both roles unless a case says otherwise: a cloud that is sent protocol 50 drops it.
    assert_eq!(report["wire"]["esp_native"], 0, "{shown}");
    assert!(
        report["wire"]["esp_udp"].as_u64().unwrap() >= 40,
        "20 pings and their answers\n{shown}"
    );
    report
}

/// The same where all ESP is IP protocol 50, and nothing at all comes to port 4500.
pub fn carries_bare(words: &str) -> Value {
    let (report, shown) = well(words);
    assert!(
        report["wire"]["esp_native"].as_u64().unwrap() >= 40,
        "20 pings and their answers\n{shown}"
    );
    for kind in ["esp_udp", "ike_4500", "keepalives"] {
        assert_eq!(report["wire"][kind], 0, "{kind}\n{shown}");
    }
    report
}

/// The report of a lab that must be well, as it is and to be shown.
fn well(words: &str) -> (Value, String) {
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

/// Builds a lab with `changes`, for cases that no option asks for.
pub fn build(options: &LabOptions, changes: &Overrides<'_>) -> Lab {
    Lab::build_with(options, program(), &Interrupt::default(), changes).unwrap()
}

/// Builds a lab with `changes` that comes up.
pub fn up(options: &LabOptions, changes: &Overrides<'_>) -> Lab {
    let mut lab = build(options, changes);
    if lab.await_up().unwrap().is_none() {
        panic!("{}", logs(&mut lab));
    }
    lab
}

/// How long something that takes no time may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Our first tunnel, as soon as `wanted` is true of it.
pub fn tunnel_that(
    lab: &mut Lab,
    what: &str,
    wanted: impl Fn(&TunnelStatus) -> bool,
) -> TunnelStatus {
    tunnel_within(lab, PATIENCE, what, wanted)
}

/// The same with another patience.
pub fn tunnel_within(
    lab: &mut Lab,
    patience: Duration,
    what: &str,
    wanted: impl Fn(&TunnelStatus) -> bool,
) -> TunnelStatus {
    wait::until(patience, what, || {
        let tunnel = first_tunnel(lab.a());
        let found = tunnel.clone().filter(&wanted);
        found.ok_or_else(|| format!("{tunnel:#?}\n{}", logs(lab)))
    })
}

/// Looks at `state` again and again for the whole `period`: some faults show only in time.
///
/// # Panics
/// With the first `Err`.
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

/// Waits until strongSwan has one IKE SA with one Child SA, both at work, and none that is on its way in or out. What it keeps for
/// stragglers after the DELETE exchange, for 5 s, does not count.
pub fn settled(lab: &mut Lab) {
    settled_within(lab, PATIENCE);
}

/// The same with another patience.
pub fn settled_within(lab: &mut Lab, patience: Duration) {
    wait::until(patience, "one IKE SA with one Child SA", || {
        let RemoteGateway::Strongswan(charon) = lab.b() else {
            unreachable!("it was asked for")
        };
        let sas = text(&charon.swanctl(&["--list-sas"]).unwrap().stdout);
        let ike = sas.matches(", IKEv2, ").count();
        let children = sas
            .lines()
            .filter(|line| line.contains(", reqid ") && !line.contains(", DELETED,"))
            .count();
        let at_work = sas.contains("ESTABLISHED") && sas.contains("INSTALLED");
        let is_settled = ike == 1 && children == 1 && at_work;
        is_settled
            .then_some(())
            .ok_or_else(|| format!("{sas}{}", logs(lab)))
    });
}

fn first_tunnel(gateway: &GatewayProcess) -> Option<TunnelStatus> {
    gateway.status().ok()?.tunnels.into_iter().next()
}

/// The code and the words of our first tunnel's failure, as soon as there is one. The tunnel is not up and keeps trying.
pub fn failure(lab: &mut Lab) -> (String, String) {
    let tunnel = tunnel_that(lab, "failed", |tunnel| tunnel.last_error.is_some());
    assert_eq!(tunnel.state, TunnelState::Connecting, "{tunnel:#?}");
    let error = tunnel.last_error.unwrap();
    assert!(
        !error.advice.is_empty(),
        "{error:?} says not what to change"
    );
    (error.code, error.text)
}

/// What both sides logged.
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

/// Bytes as they would be shown.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
