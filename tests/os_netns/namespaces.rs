//! veth pairs, sysctls and commands in namespaces.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use groundlink::os::netns::Namespace;
use groundlink::os::udp::{Fragmentation, UdpSocket};
use groundlink::os::{RecvBatch, SendBatch, SendOffload, Socket, SocketOffload, sysctl};

use super::{as_root, device, eventually, veth_pair, wait_readable};

#[test]
fn sockets_communicate_over_a_veth_pair_and_large_datagrams_are_fragmented_if_allowed() {
    as_root(|| {
        let (one, other) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        veth_pair(
            &one,
            "c0",
            &["192.0.2.1", "2001:db8::1"],
            &other,
            &["192.0.2.2", "2001:db8::2"],
        );
        for (a, b) in [
            ("192.0.2.1:500", "192.0.2.2:500"),
            ("[2001:db8::1]:500", "[2001:db8::2]:500"),
        ] {
            let bind = |namespace: &Namespace, at: &str| {
                namespace
                    .run(|| UdpSocket::bind(at.parse().unwrap(), SocketOffload::FULL))
                    .unwrap()
                    .unwrap()
            };
            let (a, b) = (bind(&one, a), bind(&other, b));
            let large = vec![7; 6000];
            let mut batch = SendBatch::new();
            let mut slot = batch
                .reserve(b.local(), a.local().ip(), 0, large.len())
                .unwrap();
            slot.bytes().copy_from_slice(&large);
            slot.commit(large.len());
            assert_eq!(a.send(&batch).unwrap(), 1);
            wait_readable(Socket::as_fd(&b));
            let mut received = RecvBatch::new();
            assert_eq!(b.recv(&mut received).unwrap(), 1);
            let datagram = received.iter_mut().next().unwrap();
            assert_eq!(
                (datagram.remote, datagram.local, &*datagram.bytes),
                (a.local(), b.local().ip(), &large[..])
            );

            a.set_fragmentation(Fragmentation::Forbidden).unwrap();
            let rejected = a.send(&batch).unwrap_err();
            assert_eq!(
                rejected.raw_os_error(),
                Some(nix::errno::Errno::EMSGSIZE as i32),
                "{rejected}"
            );
        }
        // Deleting one namespace deletes both ends of the veth pair.
        drop(other);
        let mut netlink = one.netlink().unwrap();
        eventually(|| netlink.link_named("c0").is_err());
    });
}

#[test]
fn udp_gso_segments_above_the_device_mtu_arrive_fragmented_and_gso_stays_on_for_shorter_ones() {
    as_root(|| {
        let (one, other) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        let (ours, theirs) = (["192.0.2.1", "2001:db8::1"], ["192.0.2.2", "2001:db8::2"]);
        veth_pair(&one, "c0", &ours, &other, &theirs);
        for (a, b) in [
            ("192.0.2.1:4500", "192.0.2.2:4500"),
            ("[2001:db8::1]:4500", "[2001:db8::2]:4500"),
        ] {
            let bind = |namespace: &Namespace, at: &str| {
                namespace
                    .run(|| UdpSocket::bind(at.parse().unwrap(), SocketOffload::FULL))
                    .unwrap()
                    .unwrap()
            };
            let (a, b) = (bind(&one, a), bind(&other, b));
            // The MTU of the veth pair is 1500.
            for (segment, datagrams, offload) in [
                (1400, 1, SendOffload::Segments),
                (1600, 10, SendOffload::Short),
                (1400, 1, SendOffload::Short),
            ] {
                let mut batch = SendBatch::new();
                let mut expected = Vec::new();
                for fill in 0..10 {
                    let slot = batch.reserve(b.local(), a.local().ip(), 0, segment);
                    let mut slot = slot.unwrap();
                    slot.bytes().fill(fill);
                    slot.commit(segment);
                    expected.push(vec![fill; segment]);
                }
                assert_eq!(a.send(&batch).unwrap(), 10);
                let (mut arrived, mut received, mut reads) = (Vec::new(), RecvBatch::new(), 0);
                while arrived.len() < 10 {
                    wait_readable(Socket::as_fd(&b));
                    reads += b.recv(&mut received).unwrap();
                    for mut datagram in received.iter_mut() {
                        arrived.extend(datagram.segments().map(|bytes| bytes.to_vec()));
                    }
                }
                assert_eq!((reads, arrived), (datagrams, expected), "{segment}");
                assert_eq!(a.offload().send, offload, "{segment}");
            }
        }
    });
}

#[test]
fn sysctls_are_read_in_the_namespace() {
    as_root(|| {
        let namespace = Namespace::new().unwrap();
        let findings = || {
            namespace
                .run(|| sysctl::findings(2))
                .unwrap()
                .into_iter()
                .map(|f| f.setting)
                .collect::<Vec<_>>()
        };
        for setting in ["net.ipv4.ip_forward", "net.ipv4.fib_multipath_hash_policy"] {
            namespace.set(setting, "0").unwrap();
            assert!(findings().contains(&setting), "{setting}");
            namespace.set(setting, "1").unwrap();
            assert!(!findings().contains(&setting), "{setting}");
        }
        let _tun = device(&namespace, "gl-a");
        namespace
            .run(|| sysctl::loosen_reverse_path_filter("gl-a"))
            .unwrap()
            .unwrap();
        assert_eq!(
            namespace
                .run(|| sysctl::read("net/ipv4/conf/gl-a/rp_filter"))
                .unwrap()
                .unwrap(),
            "2"
        );
    });
}

#[test]
fn a_command_runs_in_the_namespace_and_is_killed_with_its_parent_thread() {
    as_root(|| {
        let namespace = Namespace::new().unwrap();
        let _tun = device(&namespace, "gl-inside");
        let mut cat = Command::new("cat");
        namespace.enter(cat.arg("/proc/net/dev")).unwrap();
        let devices = String::from_utf8(cat.output().unwrap().stdout).unwrap();
        assert!(devices.contains("gl-inside"), "{devices}");

        let mut child = std::thread::scope(|scope| {
            let start = || {
                let mut sleep = Command::new("sleep");
                namespace.enter(sleep.arg("1000")).unwrap();
                sleep.stdin(Stdio::null()).spawn().unwrap()
            };
            scope.spawn(start).join().unwrap()
        });
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        assert!(namespace.path().exists());
    });
}
