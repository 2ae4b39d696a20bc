//! `groundlink bench tunnel` from end to end: every row is measured, the page loads nothing else, and an unprivileged user gets an
//! error that names the remedy.
//!
//! A program of its own, so that nothing else runs while it measures. It needs root (or a user namespace around the whole run), so
//! `cargo test` alone passes over it; `tests/run` runs it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_groundlink");

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A figure of the report, which must lie within what any machine may make of it.
#[track_caller]
fn figure(report: &Value, path: &str, least: f64, most: f64) {
    let value = report.pointer(path).and_then(Value::as_f64);
    let plausible = value.is_some_and(|value| (least..=most).contains(&value));
    assert!(plausible, "{path}: {value:?}\n{report:#}");
}

/// A search that came to an end, and its trials, which must bear it out.
#[track_caller]
fn rate(report: &Value, path: &str) {
    figure(report, &format!("{path}/pps"), 500.0, 1e8);
    figure(report, &format!("{path}/mbit"), 0.1, 1e6);
    let trials = report.pointer(&format!("{path}/trials"));
    let trials = trials.and_then(Value::as_array).unwrap();
    let carried = |trial: &&Value| {
        let [sent, received] = ["sent", "received"].map(|key| trial[key].as_f64().unwrap());
        assert!(sent > 0.0 && received <= sent, "{path}: {trial}");
        (sent - received) / sent < 0.005
    };
    assert!(trials.iter().filter(carried).count() > 0, "{path}");
}

#[test]
#[ignore = "needs root, and the machine to itself: tests/run runs it"]
fn every_row_is_measured_and_the_page_shows_it() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("report.html");
    let output = Command::new(PROGRAM)
        .args(["bench", "tunnel", "--seconds", "1", "--json"])
        .args(["--esp", "aes128gcm16", "--report"])
        .arg(&page)
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    assert!(
        output.status.success(),
        "{report:#}\n{}",
        text(&output.stderr)
    );

    // Everything that there is to measure, with figures that any machine could have, in any build.
    assert_eq!(report["runs"].as_array().unwrap().len(), 1);
    assert_eq!(report["runs"][0]["problems"], serde_json::json!([]));
    assert_eq!(report["runs"][0]["esp"], "aes128gcm16");
    for streams in ["one_stream_mbit", "four_streams_mbit"] {
        figure(&report, &format!("/runs/0/tcp/{streams}"), 1.0, 1e6);
    }
    let searches = ["64 B", "512 B", "1300 B", "IMIX"];
    for (at, name) in searches.iter().enumerate() {
        assert_eq!(report["runs"][0]["udp"][at]["name"], *name);
        rate(&report, &format!("/runs/0/udp/{at}"));
    }
    rate(&report, "/runs/0/ingress");
    for rtt in ["avg_ms", "median_ms", "p99_ms"] {
        figure(&report, &format!("/runs/0/rtt/{rtt}"), 0.001, 200.0);
    }
    for side in ["a", "b"] {
        let cpu = format!("/runs/0/cpu/{side}_s_per_gbit");
        figure(&report, &cpu, 0.001, 1000.0);
        figure(&report, &format!("/runs/0/memory_mib/{side}"), 1.0, 1000.0);
    }
    if cfg!(target_arch = "x86_64") {
        for stage in [
            "read", "split", "seal", "send", "receive", "open", "join", "write",
        ] {
            let ticks = format!("/runs/0/ticks_per_byte/{stage}");
            figure(&report, &ticks, 1e-4, 1e5);
        }
    }

    // One file, which loads nothing, with a plot of each row.
    let page = fs::read_to_string(page).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
    for loads in [
        "http:", "https:", "src=", "href=", "url(", "@import", "<script", "<link",
    ] {
        assert!(!page.contains(loads), "{loads}");
    }
    let titles = page.split("<figcaption>").skip(1);
    let titles: Vec<&str> = titles.filter_map(|rest| rest.split("</").next()).collect();
    for title in [
        "TCP, one stream",
        "TCP, four streams",
        "UDP 64 B",
        "UDP 512 B",
        "UDP 1300 B",
        "UDP IMIX",
        "Ingress 1300 B",
        "Round trip, mean",
    ] {
        assert!(titles.contains(&title), "{title}: {titles:?}");
    }
    assert_eq!(
        page.matches("<figure>").count(),
        page.matches("<svg ").count() - 1
    );
    assert!(!page.contains("not measured") && !page.contains("NaN"));
    let mbit = report["runs"][0]["tcp"]["one_stream_mbit"]
        .as_f64()
        .unwrap();
    let shown = if mbit >= 1000.0 {
        format!("{:.2} Gbit/s", mbit / 1000.0)
    } else {
        format!("{mbit:.0} Mbit/s")
    };
    assert!(page.contains(&shown), "{shown}");
}

/// Runs it after `script` has changed what it finds, in a mount namespace of its own.
fn refused(script: &str) -> (Option<i32>, String) {
    // A copy that everybody may read, since the build folder may lie in a home folder.
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let own = folder.path().join("groundlink");
    fs::copy(PROGRAM, &own).unwrap();
    let script = format!("{script} {} bench tunnel --seconds 1", own.display());
    let Output { status, stderr, .. } = Command::new("unshare")
        .args(["--mount", "sh", "-ec", &script])
        .current_dir("/")
        .process_group(0)
        .output()
        .unwrap();
    (status.code(), text(&stderr))
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn an_unprivileged_user_gets_the_remedy() {
    let closed = "mount -t tmpfs -o mode=755 none /dev/net; mknod -m 600 /dev/net/tun c 10 200; \
                  exec setpriv --reuid=65534 --regid=65534 --clear-groups";
    let no_namespaces = "exec unshare --user --map-root-user sh -ec \
                'echo 0 > /proc/sys/user/max_user_namespaces; exec setpriv --bounding-set=-all \"$0\" \"$@\"'";
    for (script, remedy) in [
        ("mount -t tmpfs none /dev/net; exec", "modprobe tun"),
        (closed, "sudo chmod 0666 /dev/net/tun"),
        (no_namespaces, "sudo"),
    ] {
        let (status, said) = refused(script);
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains(remedy), "{remedy}: {said}");
    }
}
