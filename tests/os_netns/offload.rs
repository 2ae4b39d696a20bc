//! GSO packets through TUN devices: the kernel accepts at one device the GSO packets that it sends at the other.
//!
//! ```text
//!   one: TCP or UDP ─▶ gl-a ─ read ─▶ relay ─ write ─▶ gl-b ─▶ TCP or UDP :other
//! ```

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use groundlink::net::segment::GsoKind;
use groundlink::os::netns::Namespace;
use groundlink::os::poll::Waiter;
use groundlink::os::tun::Tun;
use groundlink::os::udp::UdpSocket;
use groundlink::os::{
    Device, GsoSupport, OffloadMode, OutPacket, ReadBatch, RecvBatch, SendBatch, Socket,
    SocketOffload, VnetHeader,
};

use super::{as_root, device_with, ip, wait_readable};

/// Two namespaces with one device each, in one IPv4 and one IPv6 network.
fn sites(offloading: OffloadMode) -> [(Namespace, Tun); 2] {
    [
        ("gl-a", "10.9.0.1", "fd09::1"),
        ("gl-b", "10.9.0.2", "fd09::2"),
    ]
    .map(|(name, v4, v6)| {
        let namespace = Namespace::new().unwrap();
        let tun = device_with(&namespace, name, offloading);
        let mut netlink = namespace.netlink().unwrap();
        netlink.add_address(tun.index(), ip(v4), 24).unwrap();
        netlink.add_address(tun.index(), ip(v6), 64).unwrap();
        (namespace, tun)
    })
}

/// Counts of relayed packets.
#[derive(Default)]
struct Relayed {
    tcp_gso: usize,
    udp_gso: usize,
    partial_checksums: usize,
}

/// Forwards packets unchanged in both directions until `end` is set.
fn relay(a: &Tun, b: &Tun, end: &AtomicBool) -> Relayed {
    let waiter = Waiter::new().unwrap();
    waiter.watch(Device::as_fd(a), 0).unwrap();
    waiter.watch(Device::as_fd(b), 1).unwrap();
    let (mut batch, mut relayed) = (ReadBatch::new(), Relayed::default());
    while !end.load(Ordering::Acquire) {
        waiter.wait(Some(Duration::from_millis(20))).unwrap();
        for (from, to) in [(a, b), (b, a)] {
            while from.read(&mut batch).is_ok() {
                for packet in batch.iter_mut() {
                    match packet.vnet.gso_type & !VnetHeader::GSO_ECN {
                        VnetHeader::GSO_NONE => {}
                        VnetHeader::GSO_UDP_L4 => relayed.udp_gso += 1,
                        _ => relayed.tcp_gso += 1,
                    }
                    relayed.partial_checksums += usize::from(packet.vnet.needs_checksum());
                    let out = OutPacket {
                        vnet: packet.vnet,
                        bytes: packet.bytes,
                    };
                    assert_eq!(to.write(&[out]).unwrap(), 1);
                }
            }
        }
    }
    relayed
}

/// Sends some megabytes over TCP, compares what arrives, and returns the counts of the relay.
fn transfer(offloading: OffloadMode, at: SocketAddr) -> Relayed {
    let [(one, a), (other, b)] = sites(offloading);
    let expected: Vec<u8> = (0..4_000_000_u32).map(|n| (n ^ (n >> 9)) as u8).collect();
    let listener = other.run(|| TcpListener::bind(at)).unwrap().unwrap();
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        let relay = scope.spawn(|| relay(&a, &b, &end));
        let receiver = scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut received = Vec::new();
            stream.read_to_end(&mut received).unwrap();
            received
        });
        let mut stream = one.run(|| TcpStream::connect(at)).unwrap().unwrap();
        stream.write_all(&expected).unwrap();
        drop(stream);
        assert!(receiver.join().unwrap() == expected, "the bytes differ");
        end.store(true, Ordering::Release);
        relay.join().unwrap()
    })
}

#[test]
fn e11_tcp_passes_as_gso_packets_with_offload_and_as_single_packets_without() {
    as_root(|| {
        for at in ["10.9.0.2:8000", "[fd09::2]:8000"] {
            let at = at.parse().unwrap();
            let relayed = transfer(OffloadMode::Auto, at);
            assert!(relayed.tcp_gso > 50, "{} GSO packets {at}", relayed.tcp_gso);
            assert!(relayed.partial_checksums > 0);
            let relayed = transfer(OffloadMode::Off, at);
            assert_eq!((relayed.tcp_gso, relayed.partial_checksums), (0, 0), "{at}");
        }
    });
}

#[test]
fn e11_consecutive_datagrams_pass_as_one_udp_gso_packet() {
    as_root(|| {
        let [(one, a), (other, b)] = sites(OffloadMode::Auto);
        assert_eq!(a.gso_support(), GsoSupport::TcpAndUdp, "Linux 6.2 or newer");
        for (from, to) in [
            ("10.9.0.1:7000", "10.9.0.2:7000"),
            ("[fd09::1]:7000", "[fd09::2]:7000"),
        ] {
            let bind = |namespace: &Namespace, at: &str| {
                let at = at.parse().unwrap();
                namespace
                    .run(|| UdpSocket::bind(at, SocketOffload::FULL))
                    .unwrap()
                    .unwrap()
            };
            let (from, to) = (bind(&one, from), bind(&other, to));
            let mut batch = SendBatch::new();
            let mut expected = Vec::new();
            for fill in 0..20 {
                let slot = batch.reserve(to.local(), from.local().ip(), 0, 1200);
                let mut slot = slot.unwrap();
                slot.bytes().fill(fill);
                slot.commit(1200);
                expected.push(vec![fill; 1200]);
            }
            let end = AtomicBool::new(false);
            let relayed = thread::scope(|scope| {
                let relay = scope.spawn(|| relay(&a, &b, &end));
                assert_eq!(from.send(&batch).unwrap(), 20);
                wait_readable(Socket::as_fd(&to));
                let mut received = RecvBatch::new();
                assert_eq!(to.recv(&mut received).unwrap(), 1);
                let mut datagram = received.iter_mut().next().unwrap();
                assert!(datagram.segments().eq(&expected));
                end.store(true, Ordering::Release);
                relay.join().unwrap()
            });
            assert_eq!(relayed.udp_gso, 1);
        }
    });
}

#[test]
fn disabling_a_gso_kind_reduces_the_gso_support_of_the_device() {
    as_root(|| {
        let [(_one, a), (_other, _b)] = sites(OffloadMode::Auto);
        for (kind, support) in [
            (GsoKind::Udp, GsoSupport::Tcp),
            (GsoKind::Udp, GsoSupport::Tcp),
            (GsoKind::TcpV6, GsoSupport::None),
        ] {
            a.disable_gso(kind);
            assert_eq!(a.gso_support(), support);
        }
        let [(_one, off), _] = sites(OffloadMode::Off);
        assert_eq!(off.gso_support(), GsoSupport::None);
    });
}
