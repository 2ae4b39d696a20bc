//! Networks of an unprivileged user in a user namespace, as `groundlink lab` needs them.
//!
//! The test is a program without harness (`harness = false`), because only a process with one thread may enter a user namespace.
//! Started by root, the program runs itself again as nobody.

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
        return rerun_as_nobody();
    }
    tun_creation_without_cap_net_admin_names_the_capability();
    an_unprivileged_user_creates_namespaces_and_devices();
    a_process_without_core_dumps_keeps_its_capabilities();
    println!("os_userns: ok");
    ExitCode::SUCCESS
}

fn tun_creation_without_cap_net_admin_names_the_capability() {
    assert!(!Capability::NetAdmin.is_held());
    let error = Tun::create("gl-userns", OffloadMode::Auto).unwrap_err();
    assert!(matches!(error, TunError::Permission { .. }), "{error}");
    assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
    assert!(Namespace::new().is_err());
}

fn an_unprivileged_user_creates_namespaces_and_devices() {
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
    let mut cat = Command::new("cat");
    other.enter(cat.arg("/proc/net/dev")).unwrap();
    assert!(
        String::from_utf8(cat.output().unwrap().stdout)
            .unwrap()
            .contains("c1")
    );
}

fn a_process_without_core_dumps_keeps_its_capabilities() {
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
    let in_use = namespace
        .run(|| {
            let _first =
                UdpSocket::bind("127.0.0.1:500".parse().unwrap(), SocketOffload::FULL).unwrap();
            UdpSocket::bind("127.0.0.1:500".parse().unwrap(), SocketOffload::FULL).unwrap_err()
        })
        .unwrap();
    assert!(in_use.to_string().contains("os_userns"), "{in_use}");
}

/// Runs a copy of this program as nobody, since nobody may be unable to read the build folder.
fn rerun_as_nobody() -> ExitCode {
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
