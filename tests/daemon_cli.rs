//! `groundlink run` as systemd and administrators use it: startup errors with their exit statuses, and shutdown.
//!
//! Each daemon runs in its own network namespace, so that tests share neither ports nor the network of the machine.

#[path = "common/wait.rs"]
mod wait;

use std::fs::{self, File};
use std::io::Write as _;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use groundlink::control::client::{HttpMethod, request};
use groundlink::os::netns::Namespace;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// A network namespace with an address, and a folder with a valid configuration.
struct Site {
    namespace: Namespace,
    folder: TempDir,
}

impl Site {
    fn new() -> Site {
        let namespace = Namespace::new().unwrap();
        let mut netlink = namespace.netlink().unwrap();
        // Interface 1 is the loopback device.
        netlink
            .add_address(1, "192.0.2.1".parse().unwrap(), 32)
            .unwrap();
        netlink
            .add_address(1, "10.1.0.1".parse().unwrap(), 24)
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let site = Site { namespace, folder };
        site.write("psk", "Q7vYd0x3LmZk9TtR2sWcUe8HnB5gJpAi");
        fs::set_permissions(site.path("psk"), fs::Permissions::from_mode(0o600)).unwrap();
        site.configure("");
        site
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Writes the configuration, with `more` appended.
    fn configure(&self, more: &str) {
        let text = format!(
            "[gateway]
address = \"192.0.2.1\"
listen = \"192.0.2.1\"
control = \"{}\"

[[tunnel]]
name = \"a\"
peer = \"198.51.100.1\"
psk = {{ file = \"psk\" }}
local = [\"10.1.0.0/24\"]
remote = [\"10.2.0.0/24\"]
{more}
",
            self.path("control.sock").display()
        );
        self.write("groundlink.toml", &text);
    }

    fn command(&self, wrapper: &[&str]) -> Command {
        let mut words = wrapper.iter().chain([
            &env!("CARGO_BIN_EXE_groundlink"),
            &"run",
            &"--log",
            &"text",
            &"--config",
        ]);
        let mut command = Command::new(words.next().unwrap());
        command
            .args(words)
            .arg(self.path("groundlink.toml"))
            .current_dir(self.folder.path());
        command
            .env_remove("CREDENTIALS_DIRECTORY")
            .env_remove("NOTIFY_SOCKET")
            .env("NO_COLOR", "1");
        self.namespace.enter(&mut command).unwrap();
        command
    }

    /// Runs a daemon that fails to start; returns its exit status and output.
    fn run_failing(&self, wrapper: &[&str]) -> (i32, String) {
        let Output {
            status,
            stdout,
            stderr,
        } = wait::output(&mut self.command(wrapper), LIMIT);
        (
            status.code().unwrap(),
            format!(
                "{}{}",
                String::from_utf8_lossy(&stdout),
                String::from_utf8_lossy(&stderr)
            ),
        )
    }

    /// Starts a daemon and waits for its first response.
    fn start(&self) -> Daemon {
        self.start_within(&[])
    }

    /// Starts a daemon under a wrapper program.
    fn start_within(&self, wrapper: &[&str]) -> Daemon {
        let log = File::create(self.path("log")).unwrap();
        let mut command = self.command(wrapper);
        let child = command
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut daemon = Daemon(child);
        wait::until(LIMIT, "the control socket answers", || {
            let ended = daemon.0.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?} {}", self.log());
            let answer = request(&self.path("control.sock"), HttpMethod::Get, "/v1/status");
            answer.map_err(|error| format!("{error}\n{}", self.log()))
        });
        daemon
    }

    /// Runs `groundlink cleanup`; returns its exit status and output.
    fn cleanup(&self) -> (i32, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_groundlink"));
        self.namespace.enter(command.arg("cleanup")).unwrap();
        let output = wait::output(&mut command, LIMIT);
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        (output.status.code().unwrap(), text)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    /// The log once it has all of these words: a thread of its own writes it.
    #[track_caller]
    fn log_with(&self, words: &[&str]) -> String {
        wait::until(LIMIT, "words in the log", || {
            let log = self.log();
            let missing = words.iter().find(|word| !log.contains(**word));
            missing.map_or(Ok(log.clone()), |word| Err(format!("no {word:?} in {log}")))
        })
    }

    fn ip(&self, arguments: &str) -> String {
        let mut command = Command::new("ip");
        command.args(arguments.split(' '));
        self.namespace.enter(&mut command).unwrap();
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    }
}

/// Time for the daemon to start, answer or end on a busy machine.
const LIMIT: Duration = Duration::from_secs(10);

struct Daemon(Child);

impl Daemon {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id() as i32), signal).unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[track_caller]
fn assert_contains(output: &str, words: &[&str]) {
    for word in words {
        assert!(output.contains(word), "no {word:?} in:\n{output}");
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_port_in_use_is_reported_with_its_process() {
    for port in [500, 4500] {
        let site = Site::new();
        let holder = site
            .namespace
            .run(|| UdpSocket::bind(("192.0.2.1", port)).unwrap())
            .unwrap();
        let (status, output) = site.run_failing(&[]);
        assert_eq!(status, 1, "{output}");
        let ourselves = fs::read_to_string("/proc/self/comm").unwrap();
        assert_contains(&output, &[&port.to_string(), ourselves.trim()]);
        drop(holder);
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn h05_missing_capabilities_are_reported() {
    for (capability, name) in [
        ("net_admin", "CAP_NET_ADMIN"),
        ("net_bind_service", "CAP_NET_BIND_SERVICE"),
    ] {
        let site = Site::new();
        if capability == "net_bind_service" {
            site.namespace
                .set("net.ipv4.ip_unprivileged_port_start", "1024")
                .unwrap();
        }
        let (status, output) =
            site.run_failing(&["setpriv", &format!("--bounding-set=-{capability}")]);
        assert_eq!(status, 1, "{output}");
        assert_contains(&output, &[name]);
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn h05_without_cap_net_raw_esp_is_an_error_with_advice_and_auto_uses_udp() {
    const DEPRIVED: [&str; 2] = ["setpriv", "--bounding-set=-net_raw"];
    let site = Site::new();
    site.configure("encapsulation = \"esp\"");
    let (status, output) = site.run_failing(&DEPRIVED);
    assert_eq!(status, 1, "{output}");
    assert_contains(
        &output,
        &[
            "tunnel a",
            "protocol 50",
            "CAP_NET_RAW is missing",
            "run as root",
            "AmbientCapabilities=CAP_NET_RAW",
            "encapsulation = \"udp\"",
        ],
    );

    site.configure("encapsulation = \"auto\"");
    let daemon = site.start_within(&DEPRIVED);
    let words = [
        "CAP_NET_RAW is missing",
        "encapsulation = \"auto\"",
        "use UDP",
    ];
    let log = site.log_with(&words);
    assert_eq!(log.matches("CAP_NET_RAW is missing").count(), 1, "{log}");
    drop(daemon);

    // UDP encapsulation does not need it.
    site.configure("encapsulation = \"udp\"");
    let mut daemon = site.start_within(&DEPRIVED);
    daemon.signal(Signal::SIGTERM);
    assert!(wait::exit(&mut daemon.0, LIMIT).success());
    let log = site.log();
    assert!(!log.contains("CAP_NET_RAW"), "{log}");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_missing_tun_node_is_reported_with_advice() {
    let site = Site::new();
    let hide = "mount -t tmpfs none /dev/net && exec \"$@\"";
    let (status, output) = site.run_failing(&["unshare", "-m", "sh", "-c", hide, "sh"]);
    assert_eq!(status, 1, "{output}");
    assert_contains(&output, &["/dev/net/tun", "modprobe tun"]);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_tunnel_whose_key_file_is_world_readable_or_missing_waits_and_says_so() {
    let site = Site::new();
    fs::set_permissions(site.path("psk"), fs::Permissions::from_mode(0o644)).unwrap();
    let daemon = site.start();
    let output = site.log_with(&["the tunnel waits", "no-secret", "psk", "chmod"]);
    assert!(
        !output.contains("Q7vYd0x3"),
        "the output contains the key: {output}"
    );
    drop(daemon);

    fs::remove_file(site.path("psk")).unwrap();
    let _daemon = site.start();
    site.log_with(&["the tunnel waits", "there is no PSK file"]);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn every_error_of_an_invalid_configuration_is_reported() {
    let site = Site::new();
    site.configure("remot = []\nike = \"aes129-sha1-modp1024\"");
    let (status, output) = site.run_failing(&[]);
    assert_eq!(status, 2, "{output}");
    assert_contains(&output, &["groundlink.toml:12:1", "`remot`", "^", "aes129"]);

    site.configure("ike = [");
    let (status, output) = site.run_failing(&[]);
    assert_eq!(status, 2, "{output}");
    assert_contains(&output, &["groundlink.toml"]);

    site.configure("[[tunnel]]\nname = \"a\"\npeer = \"198.51.100.2\"\npsk = { file = \"psk\" }\nlocal = []\nremote = []");
    let (status, output) = site.run_failing(&[]);
    assert_eq!(status, 2, "{output}");
    assert_contains(&output, &["\"a\""]);

    fs::remove_file(site.path("groundlink.toml")).unwrap();
    let (status, output) = site.run_failing(&[]);
    assert_eq!(status, 2, "{output}");
    assert_contains(&output, &["groundlink.toml"]);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_second_daemon_in_a_network_namespace_names_the_first_and_changes_nothing() {
    let site = Site::new();
    let first = site.start();
    let before = site.ip("route show table all proto 171");
    let own = site.path("groundlink.toml");
    let text = fs::read_to_string(&own).unwrap();
    // Another control socket, local address and remote network do not make it another gateway.
    let other = text
        .replace("control.sock", "other.sock")
        .replace("192.0.2.1\"", "10.1.0.1\"")
        .replace("10.2.0.0", "10.3.0.0")
        .replace("\"a\"", "\"b\"");
    for config in [&text, &other] {
        fs::write(&own, config).unwrap();
        let (status, output) = site.run_failing(&[]);
        assert_eq!(status, 1, "{output}");
        let named = format!("groundlink (process {})", first.0.id());
        assert_contains(&output, &[&named, "network namespace"]);
        assert!(!site.path("other.sock").exists());
    }
    let (status, output) = site.cleanup();
    assert_eq!(status, 1, "{output}");
    assert_contains(
        &output,
        &[&format!("process {}", first.0.id()), "stop it first"],
    );
    assert_eq!(site.ip("route show table all proto 171"), before);
    let answer = request(&site.path("control.sock"), HttpMethod::Get, "/v1/status").unwrap();
    assert_eq!(answer["tunnels"][0]["name"], "a");
    // Another namespace is another machine.
    let elsewhere = Site::new();
    drop((elsewhere.start(), first));
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn an_unreachable_peer_does_not_stop_the_daemon() {
    let site = Site::new();
    let mut daemon = site.start();
    let tunnel = wait::until(Duration::from_secs(60), "an error", || {
        let status = request(&site.path("control.sock"), HttpMethod::Get, "/v1/status").unwrap();
        let tunnel = status["tunnels"][0].clone();
        let shown = format!("{tunnel}\n{}", site.log());
        (!tunnel["last_error"].is_null())
            .then_some(tunnel)
            .ok_or(shown)
    });
    assert_eq!(tunnel["state"], "connecting");
    assert_contains(
        tunnel["last_error"]["text"].as_str().unwrap(),
        &["198.51.100.1"],
    );
    for (query, sa) in [("", "Child SA"), ("?ike=true", "IKE SA")] {
        let path = format!("/v1/tunnels/a/rekey{query}");
        let error = request(&site.path("control.sock"), HttpMethod::Post, &path).unwrap_err();
        assert_contains(&error.to_string(), &["tunnel a has no", sa]);
    }
    assert!(daemon.0.try_wait().unwrap().is_none());
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn sigterm_and_sigint_stop_the_daemon_cleanly_within_two_seconds() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let site = Site::new();
        let before = (site.ip("-o link"), site.ip("route show table all"));
        let mut daemon = site.start();
        assert!(site.ip("-o link").contains("gl-a"), "{}", site.log());
        let started = Instant::now();
        daemon.signal(signal);
        let status = wait::exit(&mut daemon.0, LIMIT);
        assert!(
            status.success() && started.elapsed() < Duration::from_secs(2),
            "{status} {:?}",
            started.elapsed()
        );
        assert!(!site.path("control.sock").exists());
        // The fail-closed route outlives the process, until it is cleaned up.
        let left = site.ip("route show table all proto 171");
        assert_eq!(left.trim(), "unreachable 10.2.0.0/24 metric 4294967280");
        let (status, output) = site.cleanup();
        assert_eq!(status, 0, "{output}");
        assert_contains(&output, &["removed", "10.2.0.0/24", "unreachable"]);
        assert_eq!(
            (site.ip("-o link"), site.ip("route show table all")),
            before
        );
        assert_eq!(site.cleanup(), (0, "nothing to remove\n".to_owned()));
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_daemon_cleans_up_after_a_killed_one() {
    let site = Site::new();
    let mut daemon = site.start();
    daemon.signal(Signal::SIGKILL);
    assert_eq!(
        wait::exit(&mut daemon.0, LIMIT).signal(),
        Some(Signal::SIGKILL as i32)
    );
    assert!(site.path("control.sock").exists(), "the socket remains");
    // The fail-closed routes stay all the time, even if the next daemon cannot have the device.
    let held = "unreachable 10.2.0.0/24 proto 171";
    assert_contains(&site.ip("route"), &[held]);
    site.ip("tuntap add dev gl-a mode tun");
    let waiting = site.start();
    site.log_with(&["gl-a is taken"]);
    assert_contains(&site.ip("route"), &[held]);
    drop(waiting);
    site.ip("tuntap del dev gl-a mode tun");
    let stale = "route add unreachable 10.3.0.0/24 proto 171 metric 4294967280";
    site.ip(stale);
    let mut daemon = site.start();
    let routes = site.ip("route");
    assert_contains(&routes, &[held]);
    assert!(!routes.contains("10.3.0.0/24"), "{routes}");
    daemon.signal(Signal::SIGTERM);
    assert!(wait::exit(&mut daemon.0, LIMIT).success());
    assert_contains(&site.ip("route"), &[held]);
    // Without `fail-closed` nothing stays, and the next start removes what the earlier configuration left.
    site.configure("fail-closed = false");
    let mut daemon = site.start();
    assert_eq!(site.ip("route show table all proto 171"), "");
    daemon.signal(Signal::SIGTERM);
    assert!(wait::exit(&mut daemon.0, LIMIT).success());
    assert_eq!(site.ip("route show table all proto 171"), "");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn no_key_is_in_the_process_list_the_log_or_a_core_file() {
    let site = Site::new();
    let daemon = site.start();
    let process = Path::new("/proc").join(daemon.0.id().to_string());
    for file in ["cmdline", "environ"] {
        let text = fs::read(process.join(file)).unwrap_or_default();
        assert!(
            !String::from_utf8_lossy(&text).contains("Q7vYd0x3"),
            "{file}"
        );
    }
    let limits = fs::read_to_string(process.join("limits")).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    assert!(core.split_whitespace().nth(4) == Some("0"), "{core}");
    assert!(!site.log().contains("Q7vYd0x3"));
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_log_that_nobody_reads_stops_neither_the_daemon_nor_its_exit() {
    let site = Site::new();
    let (reader, mut writer) = std::io::pipe().unwrap();
    // The pipe is full: the first line would block.
    writer.write_all(&[b'x'; 65_536]).unwrap();
    let mut command = site.command(&[]);
    command.args(["--log-level", "trace"]).stderr(writer);
    let mut daemon = Daemon(command.stdout(Stdio::null()).spawn().unwrap());
    drop(command);
    for _ in 0..5 {
        wait::until(LIMIT, "the control socket answers", || {
            request(&site.path("control.sock"), HttpMethod::Get, "/v1/status")
                .map_err(|error| error.to_string())
        });
    }
    let started = Instant::now();
    daemon.signal(Signal::SIGTERM);
    let status = wait::exit(&mut daemon.0, LIMIT);
    assert!(
        status.success() && started.elapsed() < Duration::from_secs(2),
        "{status} {:?}",
        started.elapsed()
    );
    drop(reader);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn every_one_of_400_failing_tunnels_is_logged() {
    const TUNNELS: u32 = 400;
    let site = Site::new();
    let peers = (0..TUNNELS).map(|n| std::net::Ipv4Addr::from(0xc633_6500 + n));
    let more = peers.enumerate().map(|(n, peer)| {
        format!(
            "[[tunnel]]\nname = \"f{n}\"\ndevice = \"f{n}\"\npeer = \"{peer}\"\npsk = {{ file = \"psk\" }}\n\
             local = [\"10.1.0.0/24\"]\nremote = [\"10.3.{}.{}/32\"]\n",
            n / 256,
            n % 256
        )
    });
    site.configure(&more.collect::<String>());
    let mut daemon = site.start();
    wait::until(Duration::from_secs(60), "a line about each tunnel", || {
        let log = site.log();
        let warned = |n: &u32| {
            let name = format!("tunnel=\"f{n}\" ");
            let mut lines = log.lines().filter(|line| line.contains("no response from"));
            lines.any(|line| line.contains(&name))
        };
        let silent: Vec<u32> = (0..TUNNELS).filter(|n| !warned(n)).collect();
        match silent.is_empty() {
            true => Ok(()),
            false => Err(format!("{} have no line: {silent:?}", silent.len())),
        }
    });
    assert!(!site.log().contains("log lines were dropped"));
    daemon.signal(Signal::SIGTERM);
    assert!(wait::exit(&mut daemon.0, LIMIT).success());
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn check_as_root_finds_the_keys_that_the_service_cannot_read() {
    let site = Site::new();
    let keys = site.path("keys");
    fs::create_dir(&keys).unwrap();
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o700)).unwrap();
    fs::copy(site.path("psk"), keys.join("a")).unwrap();
    fs::create_dir(site.path("units")).unwrap();
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/groundlink.service");
    let unit = fs::read_to_string(shipped).unwrap();
    let unit = unit.replace(
        "psk:/etc/groundlink/psk",
        &format!("psk:{}", keys.display()),
    );
    site.write("units/groundlink.service", &unit);
    let users = "root:x:0:0::/root:/bin/sh\ngroundlink:x:990:990::/:/usr/sbin/nologin\n";
    site.write("passwd", users);
    let check = |psk: &str| {
        site.configure("");
        let config = fs::read_to_string(site.path("groundlink.toml")).unwrap();
        site.write("groundlink.toml", &config.replace("file = \"psk\"", psk));
        let mounts = "mount --bind units /etc/systemd/system && mount --bind passwd /etc/passwd && exec \"$@\"";
        let mut command = Command::new("unshare");
        command
            .args(["-m", "sh", "-c", mounts, "sh"])
            .args([env!("CARGO_BIN_EXE_groundlink"), "check", "--config"])
            .arg(site.path("groundlink.toml"))
            .env_remove("CREDENTIALS_DIRECTORY")
            .current_dir(site.folder.path());
        let output = wait::output(&mut command, LIMIT);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code().unwrap(), stderr)
    };
    let (status, shown) = check("file = \"keys/a\"");
    assert_eq!(status, 2, "{shown}");
    assert_contains(
        &shown,
        &[
            "the service runs as `groundlink`, who cannot read",
            "psk = { credential = \"psk_a\" }",
        ],
    );
    // The advice works.
    let (status, shown) = check("credential = \"psk_a\"");
    assert_eq!((status, shown.as_str()), (0, ""));
    let (status, shown) = check("credential = \"psk_b\"");
    assert_eq!(status, 2, "{shown}");
    assert_contains(
        &shown,
        &[
            "systemd cannot provide the credential `psk_b`: there is no file",
            "keys/b",
        ],
    );
    let (status, shown) = check("credential = \"other\"");
    assert_eq!(status, 2, "{shown}");
    assert_contains(&shown, &["groundlink.service loads no credential `other`"]);
}
