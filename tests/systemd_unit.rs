//! systemd accepts the shipped files, and the daemon works under the system call filter of the shipped unit.

#[path = "common/wait.rs"]
#[allow(dead_code, reason = "only conditions are awaited here")]
mod wait;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use groundlink::control::client::{HttpMethod, request};
use groundlink::os::netns::Namespace;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, setgid};

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

/// Group of the service in the namespace of the test.
const SERVICE_GROUP: u32 = 990;

#[test]
#[ignore = "needs root: tests/run runs it"]
fn h05_the_control_socket_is_open_to_the_group_under_the_filter_of_the_unit() {
    let filter = SyscallFilter::of_the_unit();
    assert!(
        !filter.allowed.contains(&libc::SYS_chown),
        "chown is filtered"
    );
    let (folder, namespace) = (tempfile::tempdir().unwrap(), Namespace::new().unwrap());
    let group_file = folder.path().join("group");
    fs::write(
        &group_file,
        format!("root:x:0:\ngroundlink:x:{SERVICE_GROUP}:\n"),
    )
    .unwrap();
    let socket = folder.path().join("control.sock");
    let psk = folder.path().join("psk");
    fs::write(&psk, "Q7vYd0x3LmZk9TtR2sWcUe8HnB5gJpAi").unwrap();
    fs::set_permissions(&psk, fs::Permissions::from_mode(0o600)).unwrap();
    let config = folder.path().join("groundlink.toml");
    let text = format!(
        "[gateway]\naddress = \"192.0.2.1\"\ncontrol = \"{}\"\n[[tunnel]]\nname = \"a\"\npeer = \"198.51.100.1\"\npsk = {{ file = \"psk\" }}\nlocal = [\"10.1.0.0/24\"]\nremote = [\"10.2.0.0/24\"]\n",
        socket.display()
    );
    fs::write(&config, text).unwrap();

    let mut command = Command::new(env!("CARGO_BIN_EXE_groundlink"));
    command.args(["run", "--config"]).arg(&config);
    namespace.enter(&mut command).unwrap();
    confine(&mut command, group_file, filter);
    let log = fs::File::create(folder.path().join("log")).unwrap();
    command.stdout(log.try_clone().unwrap()).stderr(log);
    let mut daemon = command.spawn().unwrap();
    let answered = wait::until(
        Duration::from_secs(10),
        "the control socket answers",
        || {
            let log = fs::read_to_string(folder.path().join("log")).unwrap();
            assert!(daemon.try_wait().unwrap().is_none(), "{log}");
            request(&socket, HttpMethod::Get, "/v1/status")
                .map_err(|error| format!("{error}\n{log}"))
        },
    );
    assert_eq!(answered["tunnels"][0]["name"], "a");
    let metadata = fs::metadata(&socket).unwrap();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert_eq!(
        (metadata.gid(), metadata.mode() & 0o777),
        (SERVICE_GROUP, 0o660)
    );
}

/// Starts a command as the unit does: with the group of the service, its umask and its system call filter. `/etc/group` is `group_file`.
#[allow(unsafe_code, reason = "seccomp has no safe interface")]
fn confine(command: &mut Command, group_file: std::path::PathBuf, filter: SyscallFilter) {
    let instructions = filter.instructions();
    let enter = move || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        let nothing: Option<&str> = None;
        mount(
            nothing,
            "/",
            nothing,
            MsFlags::MS_PRIVATE | MsFlags::MS_REC,
            nothing,
        )?;
        mount(
            Some(&group_file),
            "/etc/group",
            nothing,
            MsFlags::MS_BIND,
            nothing,
        )?;
        setgid(Gid::from_raw(SERVICE_GROUP))?;
        umask(Mode::from_bits_truncate(0o007));
        let program = libc::sock_fprog {
            len: instructions.len() as u16,
            filter: instructions.as_ptr().cast_mut(),
        };
        // SAFETY: the program and its instructions outlive the two calls; the kernel copies them.
        let failed = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
                || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) != 0
        };
        if failed {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    };
    // SAFETY: between fork and exec, the closure makes system calls and neither allocates nor locks.
    unsafe { command.pre_exec(enter) };
}

/// The system calls that the unit allows; every other one fails with EPERM.
struct SyscallFilter {
    allowed: BTreeSet<i64>,
}

impl SyscallFilter {
    /// Reads `SystemCallFilter=` of the unit. systemd-analyze expands the sets, and the C compiler knows the numbers.
    fn of_the_unit() -> SyscallFilter {
        let unit = fs::read_to_string(Path::new(UNIT_FOLDER).join("groundlink.service")).unwrap();
        let mut names = BTreeSet::new();
        expand("@default", &mut names);
        for line in unit
            .lines()
            .filter_map(|line| line.strip_prefix("SystemCallFilter="))
        {
            let mut set = BTreeSet::new();
            for word in line.trim_start_matches('~').split_whitespace() {
                expand(word, &mut set);
            }
            match line.starts_with('~') {
                true => names.retain(|name| !set.contains(name)),
                false => names.extend(set),
            }
        }
        let numbers = syscall_numbers();
        let allowed = names
            .iter()
            .filter_map(|name| numbers.get(name))
            .copied()
            .collect();
        SyscallFilter { allowed }
    }

    /// A BPF program over `struct seccomp_data`, which begins with the number of the system call.
    fn instructions(&self) -> Vec<libc::sock_filter> {
        let instruction = |code: u32, jf: u8, k: u32| libc::sock_filter {
            code: code as u16,
            jt: 0,
            jf,
            k,
        };
        let result = |value| instruction(libc::BPF_RET | libc::BPF_K, 0, value);
        let mut program = vec![instruction(
            libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
            0,
            0,
        )];
        for number in &self.allowed {
            program.push(instruction(
                libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
                1,
                *number as u32,
            ));
            program.push(result(libc::SECCOMP_RET_ALLOW));
        }
        program.push(result(libc::SECCOMP_RET_ERRNO | libc::EPERM as u32));
        program
    }
}

/// Adds the system calls of a set, or the one system call that is named.
fn expand(word: &str, names: &mut BTreeSet<String>) {
    if !word.starts_with('@') {
        names.insert(word.to_owned());
        return;
    }
    let output = run(Command::new("systemd-analyze").args(["--no-pager", "syscall-filter", word]));
    assert!(output.status.success(), "{word}");
    let lines = String::from_utf8(output.stdout).unwrap();
    for line in lines.lines().filter(|line| line.starts_with(' ')) {
        let line = line.trim();
        if !line.starts_with('#') {
            expand(line, names);
        }
    }
}

/// The numbers of this machine's system calls.
fn syscall_numbers() -> BTreeMap<String, i64> {
    let output = run(Command::new("cc").args([
        "-E",
        "-dM",
        "-include",
        "sys/syscall.h",
        "-x",
        "c",
        "/dev/null",
    ]));
    let text = String::from_utf8(output.stdout).unwrap();
    let number = |line: &str| {
        let (name, number) = line.strip_prefix("#define __NR_")?.split_once(' ')?;
        Some((name.to_owned(), number.parse().ok()?))
    };
    text.lines().filter_map(number).collect()
}
