//! The lab as an ordinary user, and what a lab leaves behind: nothing.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::lab::{program, text};

/// A copy that everybody may read, since the build folder may lie in a home folder.
fn copy() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::copy(program(), folder.path().join("groundlink")).unwrap();
    folder
}

/// Nobody: a user without any right.
const NOBODY: u32 = 65534;

#[test]
#[ignore = "needs root, user namespaces and an open /dev/net/tun: tests/run runs it"]
fn an_ordinary_user_runs_the_lab() {
    let folder = copy();
    for words in [
        ["--json", "--seconds", "1"].as_slice(),
        &["--json", "--seconds", "1", "--peer", "strongswan"],
    ] {
        let output = Command::new(folder.path().join("groundlink"))
            .arg("lab")
            .args(words)
            .current_dir("/")
            .uid(NOBODY)
            .gid(NOBODY)
            .output()
            .unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        assert!(
            output.status.success(),
            "{words:?}\n{report:#}\n{}",
            text(&output.stderr)
        );
        assert_eq!(report["ok"], true);
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_lab_that_is_interrupted_or_killed_leaves_nothing_behind() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let folder = copy();
        let own = folder.path().join("groundlink");
        let mut lab = Command::new(&own)
            .args(["lab", "--seconds", "60"])
            .env("TMPDIR", folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begin = Instant::now();
        // The lab itself and two gateways.
        while running(&own).len() < 3 {
            assert!(begin.elapsed() < Duration::from_secs(10), "no gateways");
            std::thread::sleep(Duration::from_millis(10));
        }
        std::thread::sleep(Duration::from_millis(500));
        kill(Pid::from_raw(lab.id() as i32), signal).unwrap();
        let asked = Instant::now();
        let status = lab.wait().unwrap();
        // Both gateways obey at once: were the signals still blocked in them, each would be killed after 3 s.
        assert!(
            asked.elapsed() < Duration::from_secs(4),
            "{signal}: {:?}",
            asked.elapsed()
        );
        if signal != Signal::SIGKILL {
            assert_eq!(status.code(), Some(1), "{signal}");
            let left: Vec<_> = fs::read_dir(folder.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name())
                .collect();
            assert_eq!(left, ["groundlink"], "{signal}");
        }
        let begin = Instant::now();
        while !running(&own).is_empty() {
            assert!(
                begin.elapsed() < Duration::from_secs(5),
                "{signal}: {:?} still run",
                running(&own)
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Runs `groundlink lab` after `script` has changed what it finds, in a mount namespace of its own.
fn refused(script: &str, words: &str) -> (Option<i32>, String) {
    let folder = copy();
    let own = folder.path().join("groundlink");
    let script = format!("{script} {} lab {words}", own.display());
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-ec", &script])
        .current_dir("/")
        .output()
        .unwrap();
    (output.status.code(), text(&output.stderr))
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn without_a_tun_node_the_remedy_is_named() {
    let (status, said) = refused("mount -t tmpfs none /dev/net; exec", "");
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("modprobe tun"), "{said}");

    let closed = "mount -t tmpfs -o mode=755 none /dev/net; mknod -m 600 /dev/net/tun c 10 200; \
                  exec setpriv --reuid=65534 --regid=65534 --clear-groups";
    let (status, said) = refused(closed, "");
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("sudo chmod 0666 /dev/net/tun"), "{said}");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn without_user_namespaces_an_ordinary_user_is_told_to_use_sudo() {
    // A limit of the user namespace the program starts in, not of the machine.
    let none = "exec unshare --user --map-root-user sh -ec \
                'echo 0 > /proc/sys/user/max_user_namespaces; exec setpriv --bounding-set=-all \"$0\" \"$@\"'";
    let (status, said) = refused(none, "");
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("sudo"), "{said}");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn without_strongswan_the_packages_are_named() {
    let (status, said) = refused("mount -t tmpfs none /usr/sbin; exec", "--peer strongswan");
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("apt install charon-systemd"), "{said}");
}

/// The processes that run this program file.
fn running(program: &std::path::Path) -> BTreeSet<u32> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|id: &u32| fs::read_link(format!("/proc/{id}/exe")).is_ok_and(|exe| exe == program))
        .collect()
}
