//! The lab as an ordinary user, and what a lab leaves behind: nothing.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::lab::{program, text};
use super::wait;

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
        let mut command = Command::new(folder.path().join("groundlink"));
        command
            .arg("lab")
            .args(words)
            .current_dir("/")
            .uid(NOBODY)
            .gid(NOBODY);
        let output = wait::output(&mut command, Duration::from_secs(60));
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
        // The lab itself and two gateways, which answer at their control sockets.
        wait::until(Duration::from_secs(10), "two gateways", || {
            let (running, sockets) = (running(&own).len(), control_sockets(folder.path()));
            let is_ready = running >= 3 && sockets >= 2;
            is_ready
                .then_some(())
                .ok_or_else(|| format!("{running} processes, {sockets} sockets"))
        });
        kill(Pid::from_raw(lab.id() as i32), signal).unwrap();
        let asked = Instant::now();
        let status = wait::exit(&mut lab, Duration::from_secs(10));
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
        wait::until(Duration::from_secs(5), "all processes end", || {
            let left = running(&own);
            left.is_empty()
                .then_some(())
                .ok_or_else(|| format!("{signal}: {left:?} still run"))
        });
    }
}

/// Runs `groundlink lab` after `script` has changed what it finds, in a mount namespace of its own.
fn refused(script: &str, words: &str) -> (Option<i32>, String) {
    let folder = copy();
    let own = folder.path().join("groundlink");
    let script = format!("{script} {} lab {words}", own.display());
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-ec", &script])
        .current_dir("/");
    let output = wait::output(&mut command, Duration::from_secs(60));
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
fn without_user_namespaces_the_error_of_an_ordinary_user_names_sudo() {
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

/// How many control sockets there are in a lab's folder.
fn control_sockets(folder: &std::path::Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => control_sockets(&entry.path()),
            Ok(kind) => usize::from(kind.is_socket()),
            Err(_) => 0,
        })
        .sum()
}

/// The processes that run this program file.
fn running(program: &std::path::Path) -> BTreeSet<u32> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|id: &u32| fs::read_link(format!("/proc/{id}/exe")).is_ok_and(|exe| exe == program))
        .collect()
}
