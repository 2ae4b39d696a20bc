//! JSON objects compared with `docs/interface.md`: the types' keys and words are the documented ones.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use groundlink::datapath::{ProfileStep, UNMATCHED_REASONS};
use groundlink::ike::DropClass;
use groundlink::lab::report::{LabProblem, WireCounters};
use groundlink::net::{
    DropReason, EspTransport, GsoSupport, NatLocation, ReceiveOffload, RekeyVerdict, Role,
    SendOffload, TunnelState, WaitingFor,
};
use groundlink::status::{
    ChildSaStatus, IkeSaStatus, LastError, OffloadStatus, RekeyCheckStatus, RekeyCounters,
    Snapshot, TrafficCounters, TunnelStatus, TunnelWarning,
};
use serde_json::Value;

/// Section of `docs/interface.md` whose heading starts with `heading`.
fn section(heading: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/interface.md");
    let page = fs::read_to_string(page).unwrap();
    let start = page.find(&format!("## {heading}")).unwrap();
    let section = &page[start + 3..];
    section.split("\n## ").next().unwrap().to_owned()
}

/// JSON code block of a section.
fn example(section: &str) -> Value {
    let block = section.split("```json\n").nth(1).unwrap();
    let block = block.split("```").next().unwrap();
    serde_json::from_str(block).unwrap_or_else(|error| panic!("{error} in\n{block}"))
}

/// Paths of all keys of a value, such as `tunnels[].ike.suite`.
fn keys(value: &Value) -> BTreeSet<String> {
    fn walk(value: &Value, path: &str, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    let path = format!("{path}.{key}");
                    walk(value, &path, found);
                    found.insert(path);
                }
            }
            Value::Array(items) => {
                for item in items {
                    walk(item, &format!("{path}[]"), found);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let mut found = BTreeSet::new();
    walk(value, "", &mut found);
    found
}

/// Words between backquotes.
fn quoted(text: &str) -> BTreeSet<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// Snapshot in which every optional key is present. Struct literals without defaults, so that a new field must be added here.
fn full_snapshot() -> Snapshot {
    let counts = |words: Vec<&str>| -> BTreeMap<String, u64> {
        words.into_iter().map(|word| (word.to_owned(), 0)).collect()
    };
    let drops = DropReason::ALL.iter();
    let drops = drops.filter(|reason| **reason != DropReason::Noise);
    let text = || "…".to_owned();
    let child = ChildSaStatus {
        spi_in: text(),
        spi_out: text(),
        suite: text(),
        local: vec![text()],
        remote: vec![text()],
        rekey_in_s: Some(1.0),
        mtu: 1400,
        encapsulation: EspTransport::Udp,
        rx: TrafficCounters::default(),
        tx: TrafficCounters::default(),
    };
    Snapshot {
        version: text(),
        uptime_s: 12.5,
        tunnels: vec![TunnelStatus {
            name: text(),
            device: text(),
            state: TunnelState::Up,
            waiting: Some(WaitingFor::Retry),
            peer: text(),
            since_s: 9.1,
            ike: Some(IkeSaStatus {
                spi_i: text(),
                spi_r: text(),
                suite: text(),
                role: Role::Initiator,
                rekey_in_s: Some(1.0),
                nat: NatLocation::Forced,
                post_quantum: false,
            }),
            child: Some(child.clone()),
            children: vec![child],
            rx: TrafficCounters {
                packets: 0,
                bytes: 0,
            },
            tx: TrafficCounters {
                packets: 0,
                bytes: 0,
            },
            refused: counts(drops.map(|reason| reason.metric()).collect()),
            rekeys: RekeyCounters {
                ike: 0,
                child: 0,
                packets_lost: 0,
            },
            rekey_check: Some(RekeyCheckStatus {
                child: RekeyVerdict::Pending,
                ike: RekeyVerdict::Pending,
            }),
            next_attempt_s: Some(3.5),
            warnings: vec![TunnelWarning {
                code: text(),
                text: text(),
                advice: text(),
            }],
            last_error: Some(LastError {
                at_s: 3.2,
                code: text(),
                text: text(),
                advice: text(),
            }),
        }],
        groups: Vec::new(),
        ike_refused: counts(DropClass::ALL.iter().map(|class| class.word()).collect()),
        unmatched: counts(UNMATCHED_REASONS.map(DropReason::metric).to_vec()),
        offload: Some(OffloadStatus {
            tun: GsoSupport::TcpAndUdp,
            send: SendOffload::Segments,
            receive: ReceiveOffload::Joined,
        }),
        ticks: counts(ProfileStep::ALL.iter().map(|step| step.name()).collect()),
    }
}

#[test]
fn status_keys_are_the_documented_ones() {
    let documented = section("`status --json`");
    let in_example = keys(&example(&documented));
    let snapshot = full_snapshot();
    let in_types = keys(&serde_json::to_value(&snapshot).unwrap());
    // The example shows a few of the counters; the tables below it list them all.
    let tables = [".refused.", "ike_refused.", "unmatched."];
    let is_counter = |path: &&String| tables.iter().any(|table| path.contains(table));
    let (counters, fixed): (Vec<_>, Vec<_>) = in_types.iter().partition(is_counter);
    let example_fixed: Vec<_> = in_example.iter().filter(|path| !is_counter(path)).collect();
    assert_eq!(fixed, example_fixed);
    let words = quoted(&documented);
    for path in counters {
        let word = path.rsplit('.').next().unwrap();
        assert!(words.contains(word), "{path} is not documented");
    }
    for path in in_example.iter().filter(is_counter) {
        assert!(in_types.contains(path), "{path} does not exist");
    }
}

#[test]
fn status_words_are_documented() {
    let documented = section("`status --json`");
    let words = quoted(&documented);
    let check = |word: &str| assert!(words.contains(word), "`{word}` is not documented");
    TunnelState::ALL.iter().for_each(|it| check(it.word()));
    WaitingFor::ALL.iter().for_each(|it| check(it.word()));
    NatLocation::ALL.iter().for_each(|it| check(it.word()));
    Role::ALL.iter().for_each(|it| check(it.word()));
    RekeyVerdict::ALL.iter().for_each(|it| check(it.word()));
    GsoSupport::ALL.iter().for_each(|it| check(it.word()));
    SendOffload::ALL.iter().for_each(|it| check(it.word()));
    ReceiveOffload::ALL.iter().for_each(|it| check(it.word()));
    [EspTransport::Udp, EspTransport::Esp]
        .iter()
        .for_each(|it| check(it.word()));
}

#[test]
fn snapshot_of_an_older_daemon_is_still_read() {
    let mut old = serde_json::to_value(full_snapshot()).unwrap();
    for key in ["ike_refused", "unmatched", "offload", "ticks"] {
        old.as_object_mut().unwrap().remove(key);
    }
    let tunnel = old["tunnels"][0].as_object_mut().unwrap();
    tunnel.remove("waiting");
    tunnel.remove("rekey_check");
    tunnel.remove("children");
    tunnel.remove("warnings");
    tunnel["child"]
        .as_object_mut()
        .unwrap()
        .remove("encapsulation");
    let snapshot: Snapshot = serde_json::from_value(old).unwrap();
    assert_eq!(snapshot.offload, None);
    let child = snapshot.tunnels[0].child.as_ref().unwrap();
    assert_eq!(child.encapsulation, EspTransport::Udp);
}

#[test]
fn lab_keys_are_documented() {
    let documented = section("`lab`");
    let words = quoted(&documented);
    for path in keys(&serde_json::to_value(WireCounters::default()).unwrap()) {
        let key = path.trim_start_matches('.');
        assert!(words.contains(key), "`{key}` is not documented");
    }
    let problem = LabProblem {
        text: "…".to_owned(),
        advice: Some("…".to_owned()),
        log: vec!["…".to_owned()],
    };
    for path in keys(&serde_json::to_value(problem).unwrap()) {
        let key = format!("\"{}\":", path.trim_start_matches('.'));
        assert!(documented.contains(&key), "{key} is not documented");
    }
}

#[test]
fn decode_keys_are_documented() {
    let documented = section("`decode --json`");
    let words = quoted(&documented);
    let captures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures");
    let mut objects = 0;
    for capture in ["connect", "fragments-rekey", "no-proposal", "wrong-psk"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_groundlink"));
        command.args(["decode", "--json"]).current_dir(&captures);
        for (option, extension) in [
            ("--ike-keys", "ikev2_decryption_table"),
            ("--esp-keys", "esp_sa"),
        ] {
            let table = format!("{capture}.{extension}");
            if captures.join(&table).exists() {
                command.args([option, &table]);
            }
        }
        let file = ["pcapng", "pcap"].map(|extension| format!("{capture}.{extension}"));
        let file = file
            .iter()
            .find(|file| captures.join(file).exists())
            .unwrap();
        let output = command.arg(file).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        for line in text.lines() {
            objects += 1;
            for path in keys(&serde_json::from_str(line).unwrap()) {
                let key = path.rsplit('.').next().unwrap();
                let is_in_example = documented.contains(&format!("\"{key}\":"));
                assert!(
                    words.contains(key) || is_in_example,
                    "{path} is not documented"
                );
            }
        }
    }
    assert!(objects > 20, "only {objects} objects");
}
