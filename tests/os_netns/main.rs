//! `os` on the real kernel, in network namespaces: devices, routes, veth pairs, commands.
//!
//! As root, each test creates its namespaces directly. As another user, each test runs itself again in a user namespace (`unshare`), and
//! fails if the system does not allow one.

mod devices;
mod namespaces;
mod offload;
mod outer;
mod routes;
mod sysctl;

use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::process::Command;
use std::time::{Duration, Instant};

use groundlink::os::netns::Namespace;
use groundlink::os::poll::Waiter;
use groundlink::os::tun::Tun;
use groundlink::os::{Device, OffloadMode, ReadBatch, VnetHeader};

/// Namespace with one TUN device that has an address.
fn site(name: &str, address: &str) -> (Namespace, Tun) {
    let namespace = Namespace::new().unwrap();
    let tun = device(&namespace, name);
    namespace
        .netlink()
        .unwrap()
        .add_address(tun.index(), ip(address), 24)
        .unwrap();
    (namespace, tun)
}

fn device(namespace: &Namespace, name: &str) -> Tun {
    device_with(namespace, name, OffloadMode::Off)
}

fn device_with(namespace: &Namespace, name: &str, offloading: OffloadMode) -> Tun {
    let tun = namespace
        .run(|| Tun::create(name, offloading))
        .unwrap()
        .unwrap();
    namespace
        .netlink()
        .unwrap()
        .prepare_tunnel(tun.index(), 1400)
        .unwrap();
    tun
}

/// Connects two namespaces by a veth pair with addresses at both ends.
fn veth_pair(one: &Namespace, name: &str, ours: &[&str], other: &Namespace, theirs: &[&str]) {
    one.connect(name, other, "far").unwrap();
    for (namespace, name, addresses) in [(one, name, ours), (other, "far", theirs)] {
        let mut netlink = namespace.netlink().unwrap();
        let index = netlink.link_named(name).unwrap().index;
        for address in addresses {
            let length = if ip(address).is_ipv4() { 24 } else { 64 };
            netlink.add_address(index, ip(address), length).unwrap();
        }
        netlink.set_up(index).unwrap();
    }
}

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

fn ip_tool(namespace: &Namespace, arguments: &str) -> String {
    let mut command = Command::new("ip");
    namespace.enter(command.args(arguments.split(' '))).unwrap();
    let output = command.output().expect("iproute2 is installed");
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Next packet of a transport protocol. Packets that the kernel sends by itself are skipped.
fn next_packet(tun: &Tun, protocol: u8) -> Vec<u8> {
    let mut batch = ReadBatch::new();
    loop {
        wait_readable(Device::as_fd(tun));
        tun.read(&mut batch).unwrap();
        for packet in batch.iter_mut() {
            assert_eq!(packet.vnet.gso_type, VnetHeader::GSO_NONE);
            assert!(!packet.vnet.needs_checksum());
            let at = if packet.bytes[0] >> 4 == 4 { 9 } else { 6 };
            if packet.bytes[at] == protocol {
                return packet.bytes.to_vec();
            }
        }
    }
}

fn wait_readable(fd: BorrowedFd<'_>) {
    let waiter = Waiter::new().unwrap();
    waiter.watch(fd, 0).unwrap();
    let ready = waiter.wait(Some(Duration::from_secs(5))).unwrap();
    assert!(!ready.tokens().is_empty(), "not readable within 5 seconds");
}

/// Waits for an asynchronous change in the kernel.
fn eventually(mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "not within 10 seconds");
        std::thread::yield_now();
    }
}

/// Runs a test directly as root. As another user, runs this test alone in a new process as root of a user namespace.
fn as_root(test: impl FnOnce()) {
    if nix::unistd::geteuid().is_root() {
        return test();
    }
    let name = std::thread::current()
        .name()
        .expect("a test's thread has its name")
        .to_owned();
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--mount"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &name])
        .output()
        .expect("unshare (util-linux) is installed");
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && stdout.contains("1 passed"),
        "{stdout}{stderr}"
    );
}
