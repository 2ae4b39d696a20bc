//! The command line as scripts use it: exit statuses, and the texts on stdout and stderr.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

/// Runs groundlink in this folder.
fn groundlink(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_groundlink"));
    command
        .current_dir(folder)
        .env_remove("CREDENTIALS_DIRECTORY")
        .args(arguments)
        .output()
        .unwrap()
}

fn status(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A folder with a configuration that is valid except perhaps for this line.
fn folder_with(line: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("psk"),
        "Q7vYd0x3LmZk9TtR2sWcUe8HnB5gJpAi",
    )
    .unwrap();
    fs::set_permissions(folder.path().join("psk"), fs::Permissions::from_mode(0o600)).unwrap();
    let text = format!(
        "[gateway]\naddress = \"203.0.113.7\"\ncontrol = \"{}/control.sock\"\n\n[[tunnel]]\nname = \"a\"\npeer = \"192.0.2.1\"\n\
         psk = {{ file = \"psk\" }}\nlocal = [\"10.0.0.0/24\"]\nremote = [\"10.1.0.0/24\"]\n{line}\n",
        folder.path().display()
    );
    fs::write(folder.path().join("groundlink.toml"), text).unwrap();
    folder
}

#[test]
fn the_exit_status_of_check_depends_on_the_findings() {
    for (line, expected, error) in [
        ("", 0, ""),
        ("ike = \"aes128-sha1-modp1024\"", 0, "warning: "),
        ("esp = \"des-md5\"", 4, "lint error: "),
        ("remot = []", 2, "error: unknown key `remot`"),
    ] {
        let folder = folder_with(line);
        let output = groundlink(folder.path(), &["check", "--config", "groundlink.toml"]);
        assert_eq!(status(&output), expected, "{line}: {}", stderr(&output));
        assert!(
            stderr(&output).contains(error),
            "{line}: {}",
            stderr(&output)
        );
        assert!(
            stdout(&output).starts_with("groundlink.toml: "),
            "{}",
            stdout(&output)
        );
    }
}

#[test]
fn check_explains_values_and_prints_json() {
    let folder = folder_with("");
    let explained = stdout(&groundlink(
        folder.path(),
        &["check", "--explain", "--config", "groundlink.toml"],
    ));
    let line = explained
        .lines()
        .find(|line| line.trim_start().starts_with("ike-lifetime"))
        .unwrap();
    assert!(
        line.contains("\"4h\"") && line.ends_with("preset generic"),
        "{line}"
    );

    let output = groundlink(
        folder.path(),
        &[
            "check",
            "--json",
            "--explain",
            "--config",
            "groundlink.toml",
        ],
    );
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&value["ok"], &value["tunnels"]), (&true.into(), &1.into()));
    assert!(
        value["values"]
            .as_array()
            .unwrap()
            .iter()
            .any(|row| row["key"] == "peer" && row["origin"] == "groundlink.toml:7")
    );
}

#[test]
fn a_missing_configuration_is_a_usage_error() {
    let folder = tempfile::tempdir().unwrap();
    let output = groundlink(folder.path(), &["check", "--config", "none.toml"]);
    assert_eq!(status(&output), 2);
    assert!(
        stderr(&output).contains("no such file"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn commands_report_that_the_daemon_is_not_reachable() {
    let folder = folder_with("");
    for verb in [
        &["status"][..],
        &["status", "a", "--json"],
        &["up", "a"],
        &["down", "a"],
        &["reset", "a"],
    ] {
        let output = groundlink(
            folder.path(),
            &[verb, &["--config", "groundlink.toml"]].concat(),
        );
        assert_eq!(status(&output), 3, "{verb:?}");
        let error = stderr(&output);
        assert!(
            error.contains("/control.sock: ") && error.contains("help: start it"),
            "{error}"
        );
        assert!(
            error.contains(&folder.path().display().to_string()),
            "the configured socket is used: {error}"
        );
        assert_eq!(stdout(&output), "");
    }
    let elsewhere = groundlink(folder.path(), &["status", "--socket", "/nowhere/x.sock"]);
    assert!(stderr(&elsewhere).contains("/nowhere/x.sock"));
}

#[test]
fn an_invalid_command_line_is_a_usage_error() {
    let folder = tempfile::tempdir().unwrap();
    for line in [
        &["statsu"][..],
        &[],
        &["up"],
        &["up", "a/../b"],
        &["check", "--nonsense"],
        &["completions", "dos"],
        &["lab", "--tunnels", "0"],
        &["bench"],
        &["bench", "esp", "--seconds", "0"],
        &["bench", "esp", "--esp", "aes129-sha1"],
        &["bench", "esp", "--esp", "aes128-aes256-sha1"],
        &["bench", "ike", "--ike", "aes128-sha1"],
        &["bench", "tunnel", "--seconds", "0"],
        &["bench", "tunnel", "--versus", "openvpn"],
        &["bench", "tunnel", "--esp", "aes128"],
        &["bench", "tunnel", "--esp", "des-md5"],
    ] {
        assert_eq!(status(&groundlink(folder.path(), line)), 2, "{line:?}");
    }
    for later in ["top", "reload", "diagnose", "capture", "export", "man"] {
        let output = groundlink(folder.path(), &[later, "--flag", "x"]);
        assert_eq!(status(&output), 2);
        assert!(
            stderr(&output).contains(&format!("`groundlink {later}` is not in this version")),
            "{}",
            stderr(&output)
        );
    }
    assert_eq!(status(&groundlink(folder.path(), &["--help"])), 0);
    assert_eq!(status(&groundlink(folder.path(), &["--version"])), 0);
}

#[test]
fn psk_prints_random_keys_and_completions_prints_a_script() {
    let folder = tempfile::tempdir().unwrap();
    let keys: Vec<String> = (0..2)
        .map(|_| stdout(&groundlink(folder.path(), &["psk"])))
        .collect();
    assert_ne!(keys[0], keys[1]);
    assert_eq!(keys[0].len(), 49);
    let script = stdout(&groundlink(folder.path(), &["completions", "bash"]));
    assert!(script.contains("_groundlink()") && script.contains("reset"));
    assert!(
        !script.contains("diagnose"),
        "commands of later versions are not completed"
    );
}

#[test]
fn an_unwritable_report_is_an_error_before_the_measurement() {
    let folder = tempfile::tempdir().unwrap();
    let line = ["bench", "tunnel", "--report", "/nowhere/at/all.html"];
    let output = groundlink(folder.path(), &line);
    assert_eq!(status(&output), 1);
    assert!(
        stderr(&output).contains("cannot write the report /nowhere/at/all.html"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn bench_esp_reports_every_size_of_a_suite() {
    let folder = tempfile::tempdir().unwrap();
    let line = "bench esp --esp aes128-sha1 --esp aes256gcm16 --seconds 0.01 --json";
    let words: Vec<&str> = line.split(' ').collect();
    let output = groundlink(folder.path(), &words);
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    let report: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    for key in ["cpu", "cores", "kernel", "date", "version"] {
        assert!(!report["machine"][key].is_null(), "{key} is missing");
    }
    assert!(!report["lanes"].as_str().unwrap().is_empty());
    assert_eq!(report["batch"], 46);
    let rows = report["results"].as_array().unwrap();
    let sizes = |suite: &str, through: &str| -> Vec<u64> {
        rows.iter()
            .filter(|row| row["suite"] == suite && row["through"] == through)
            .map(|row| row["size"].as_u64().unwrap())
            .collect()
    };
    assert_eq!(sizes("aes128-sha1", "esp"), [64, 512, 1408]);
    assert_eq!(sizes("aes128-sha1", "lanes"), [64, 512, 1408]);
    assert_eq!(sizes("aes256gcm16", "esp"), [64, 512, 1408]);
    for row in rows {
        for direction in ["seal", "open"] {
            assert!(row[direction]["gbit"].as_f64().unwrap() > 0.0, "{row}");
        }
    }
}

#[test]
fn bench_ike_reports_both_halves_of_a_handshake() {
    let folder = tempfile::tempdir().unwrap();
    let line = "bench ike --ike aes256gcm16-prfsha256-curve25519 --seconds 0.01 --json";
    let words: Vec<&str> = line.split(' ').collect();
    let output = groundlink(folder.path(), &words);
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    let report: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    let row = &report["results"][0];
    assert_eq!(row["suite"], "aes256gcm16-prfsha256-curve25519");
    for key in ["per_second", "initiator_ms", "responder_ms"] {
        assert!(row[key].as_f64().unwrap() > 0.0, "{row}");
    }
}

/// The text in a build with the feature `testing`.
const TESTING_MARK: &[u8] = b"misbehaves on request";

fn has_test_hooks() -> bool {
    let binary = fs::read(env!("CARGO_BIN_EXE_groundlink")).unwrap();
    binary
        .windows(TESTING_MARK.len())
        .any(|window| window == TESTING_MARK)
}

#[test]
#[cfg(not(feature = "testing"))]
fn a_shipped_build_has_no_test_hooks() {
    assert!(!has_test_hooks());
}

#[test]
#[cfg(feature = "testing")]
fn a_build_with_test_hooks_says_so() {
    assert!(has_test_hooks());
}
