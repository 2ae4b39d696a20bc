//! An ordinary user becomes root of a user namespace and builds a small network there: what `groundlink lab` stands on.
//!
//! A program of its own (`harness = false`), because only a process with one thread may enter a user namespace. Started by root,
//! it gives root up first and starts itself again.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::{env, fs};

use groundlink::os::netns::{Namespace, become_root_in_user_namespace};
use groundlink::os::process::{Capability, disable_core_dumps};
use groundlink::os::sysctl;
use groundlink::os::tun::{Tun, TunError};
use groundlink::os::udp::UdpSocket;
use groundlink::os::{OffloadMode, SocketOffload};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit};

const NOBODY: u32 = 65534;

fn main() -> ExitCode {
    if nix::unistd::geteuid().is_root() {
        return again_as_nobody();
    }
    an_ordinary_user_is_refused_with_advice();
    an_ordinary_user_builds_a_network();
    a_guarded_process_leaves_no_core_and_works_on();
    println!("os_userns: ok");
    ExitCode::SUCCESS
}

fn an_ordinary_user_is_refused_with_advice() {
    assert!(!Capability::NetAdmin.is_held());
    let error = Tun::create("gl-userns", OffloadMode::Auto).unwrap_err();
    assert!(matches!(error, TunError::Permission { .. }), "{error}");
    assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
    assert!(Namespace::new().is_err());
}

fn an_ordinary_user_builds_a_network() {
    become_root_in_user_namespace().unwrap();
    assert!(nix::unistd::geteuid().is_root() && Capability::NetAdmin.is_held());
    let (one, other) = (Namespace::new().unwrap(), Namespace::new().unwrap());
    one.connect("c0", &other, "c1").unwrap();
    let tun = one
        .run(|| Tun::create("gl-userns", OffloadMode::Auto))
        .unwrap()
        .unwrap();
    let mut netlink = one.netlink().unwrap();
    netlink.prepare_tunnel(tun.index(), 1400).unwrap();
    netlink
        .add_address(tun.index(), "10.9.0.1".parse().unwrap(), 24)
        .unwrap();
    assert_eq!(
        netlink
            .route_to("10.9.0.7".parse().unwrap())
            .unwrap()
            .device,
        tun.index()
    );
    one.set("net.ipv4.ip_forward", "1").unwrap();
    let mut inside = Command::new("cat");
    other.enter(inside.arg("/proc/net/dev")).unwrap();
    assert!(
        String::from_utf8(inside.output().unwrap().stdout)
            .unwrap()
            .contains("c1")
    );
}

fn a_guarded_process_leaves_no_core_and_works_on() {
    disable_core_dumps().unwrap();
    assert!(!prctl::get_dumpable().unwrap());
    assert_eq!(getrlimit(Resource::RLIMIT_CORE).unwrap(), (0, 0));
    assert!(Capability::NetAdmin.is_held());
    let namespace = Namespace::new().unwrap();
    let _tun = namespace
        .run(|| Tun::create("gl-guarded", OffloadMode::Auto))
        .unwrap()
        .unwrap();
    namespace
        .run(|| sysctl::loosen_reverse_path_filter("gl-guarded"))
        .unwrap()
        .unwrap();
    let taken = namespace
        .run(|| {
            let _first =
                UdpSocket::bind("127.0.0.1:500".parse().unwrap(), SocketOffload::FULL).unwrap();
            UdpSocket::bind("127.0.0.1:500".parse().unwrap(), SocketOffload::FULL).unwrap_err()
        })
        .unwrap();
    assert!(taken.to_string().contains("os_userns"), "{taken}");
}

/// From a copy that nobody may read, wherever this was built.
fn again_as_nobody() -> ExitCode {
    let folder = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir()
        .unwrap();
    let copy = folder.path().join("os_userns");
    fs::copy(env::current_exe().unwrap(), &copy).unwrap();
    let status = Command::new(copy)
        .current_dir("/")
        .uid(NOBODY)
        .gid(NOBODY)
        .status()
        .unwrap();
    if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
