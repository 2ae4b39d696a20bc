//! systemd accepts the shipped files.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const UNIT_FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd");

#[test]
fn h05_systemd_accepts_the_hardened_unit() {
    let folder = tempfile::tempdir().unwrap();
    let unit = fs::read_to_string(Path::new(UNIT_FOLDER).join("groundlink.service")).unwrap();
    let line = "ExecStart=/usr/bin/groundlink run";
    assert!(unit.contains(line), "the unit starts the installed program");
    // groundlink is not installed where the tests run; another program takes its place.
    let path = folder.path().join("groundlink.service");
    fs::write(&path, unit.replace(line, "ExecStart=/bin/true run")).unwrap();
    let output = run(Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(&path));
    let stderr = String::from_utf8_lossy(&output.stderr);
    let about_us: Vec<&str> = stderr
        .lines()
        .filter(|line| line.contains("groundlink"))
        .collect();
    assert!(output.status.success() && about_us.is_empty(), "{stderr}");
}

#[test]
fn systemd_rejects_an_invalid_unit() {
    let folder = tempfile::tempdir().unwrap();
    let unit = fs::read_to_string(Path::new(UNIT_FOLDER).join("groundlink.service")).unwrap();
    let path = folder.path().join("groundlink.service");
    fs::write(
        &path,
        unit.replace("NoNewPrivileges=yes", "NoNewPrivileges=perhaps"),
    )
    .unwrap();
    let output = run(Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(&path));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("NoNewPrivileges") || stderr.contains("perhaps"),
        "{stderr}"
    );
}

#[test]
fn systemd_creates_the_user_and_the_folders() {
    let root = tempfile::tempdir().unwrap();
    let at_root = format!("--root={}", root.path().display());
    fs::create_dir(root.path().join("etc")).unwrap();
    let sysusers = format!("{UNIT_FOLDER}/groundlink.sysusers.conf");
    let output = run(Command::new("systemd-sysusers").args([&at_root, &sysusers]));
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let users = fs::read_to_string(root.path().join("etc/passwd")).unwrap();
    assert!(
        users.lines().any(|line| line.starts_with("groundlink:")),
        "{users}"
    );

    let tmpfiles = format!("{UNIT_FOLDER}/groundlink.tmpfiles.conf");
    let output = run(Command::new("systemd-tmpfiles").args(["--create", &at_root, &tmpfiles]));
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mode = |path: &str| {
        use std::os::unix::fs::PermissionsExt;
        fs::metadata(root.path().join(path))
            .unwrap()
            .permissions()
            .mode()
            & 0o7777
    };
    assert_eq!(
        (mode("etc/groundlink"), mode("etc/groundlink/psk")),
        (0o755, 0o700)
    );
}

#[test]
fn an_invalid_configuration_is_not_restarted_and_every_other_failure_is() {
    let unit = fs::read_to_string(Path::new(UNIT_FOLDER).join("groundlink.service")).unwrap();
    for line in [
        "Restart=on-failure",
        "RestartPreventExitStatus=2",
        "StartLimitIntervalSec=0",
    ] {
        assert!(unit.lines().any(|found| found == line), "{line}");
    }
}

fn run(command: &mut Command) -> Output {
    command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; systemd's tools are needed"))
}
