//! The outer path of ESP on the real kernel: ESP in UDP and native ESP, fragmentation, and forged ICMP errors.
//!
//! ```text
//!   our socket ── ESP ──▶ TUN device in place of the path to the peer ──▶ the test reads what was sent
//!              ◀── ICMP, forged ── the test writes what any host on the Internet could send
//! ```

use std::net::{IpAddr, SocketAddr};

use groundlink::os::netns::Namespace;
use groundlink::os::raw_esp::RawEspSocket;
use groundlink::os::tun::Tun;
use groundlink::os::udp::{Fragmentation, UdpSocket};
use groundlink::os::{Device, OutPacket, ReadBatch, RecvBatch, SendBatch, Socket, SocketOffload};

use super::{as_root, eventually, ip, site, veth_pair, wait_readable};

const OURS: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const PEERS: [&str; 2] = ["192.0.2.2", "2001:db8::2"];
/// Sources of the forged ICMP errors.
const ROUTERS: [&str; 2] = ["192.0.2.254", "2001:db8::fe"];
/// Path MTU.
const MTU: usize = 1400;

/// Encapsulation of ESP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encapsulation {
    Udp,
    Raw,
}

const ENCAPSULATIONS: [Encapsulation; 2] = [Encapsulation::Udp, Encapsulation::Raw];

impl Encapsulation {
    fn port(self) -> u16 {
        match self {
            Encapsulation::Udp => 4500,
            Encapsulation::Raw => 0,
        }
    }

    fn protocol(self) -> u8 {
        match self {
            Encapsulation::Udp => 17,
            Encapsulation::Raw => 50,
        }
    }

    fn open(self, namespace: &Namespace, address: &str) -> Box<dyn Socket> {
        let address = ip(address);
        let open = || -> Box<dyn Socket> {
            match self {
                Encapsulation::Udp => Box::new(udp(address)),
                Encapsulation::Raw => Box::new(RawEspSocket::open(address).unwrap()),
            }
        };
        namespace.run(open).unwrap()
    }

    /// Length of the ESP packet that makes an outer packet of `outer_len` octets.
    fn esp_len(self, outer_len: usize, address: &str) -> usize {
        let header = if ip(address).is_ipv4() { 20 } else { 40 };
        match self {
            Encapsulation::Udp => outer_len - header - 8,
            Encapsulation::Raw => outer_len - header,
        }
    }
}

fn udp(address: IpAddr) -> UdpSocket {
    UdpSocket::bind(SocketAddr::new(address, 4500), SocketOffload::NONE).unwrap()
}

fn send(socket: &dyn Socket, to: SocketAddr, esp: &[u8]) -> std::io::Result<usize> {
    let mut batch = SendBatch::with_limit(1);
    let slot = batch.reserve(to, socket.local().ip(), 0, esp.len());
    let mut slot = slot.unwrap();
    slot.bytes().copy_from_slice(esp);
    slot.commit(esp.len());
    socket.send(&batch)
}

/// ESP packet with this SPI.
fn esp(spi: u32, len: usize) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..len).map(|n| n as u8).collect();
    packet[..4].copy_from_slice(&spi.to_be_bytes());
    packet
}

/// Packets sent to the peer since the last call. Packets that the kernel sends by itself are skipped.
fn sent_to(tun: &Tun, peer: &str) -> Vec<Vec<u8>> {
    let mut batch = ReadBatch::new();
    let mut all = Vec::new();
    while tun.read(&mut batch).is_ok() {
        all.extend(batch.iter_mut().map(|packet| packet.bytes.to_vec()));
    }
    let to_peer = |packet: &Vec<u8>| match ip(peer) {
        IpAddr::V4(peer) => packet[0] >> 4 == 4 && packet[16..20] == peer.octets(),
        IpAddr::V6(peer) => packet[0] >> 4 == 6 && packet[24..40] == peer.octets(),
    };
    all.retain(to_peer);
    all
}

fn internet_checksum(parts: &[&[u8]]) -> [u8; 2] {
    let bytes = parts.concat();
    let words = bytes.chunks(2).map(|pair| {
        let low = pair.get(1).copied().unwrap_or_default();
        u32::from(u16::from_be_bytes([pair[0], low]))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// ICMP error about a sent packet, from a router that is not on the path.
fn icmp(icmp_type: u8, code: u8, rest: u32, quoted: &[u8], family: usize) -> Vec<u8> {
    let mut message = vec![icmp_type, code, 0, 0];
    message.extend(rest.to_be_bytes());
    message.extend(&quoted[..quoted.len().min(500)]);
    let len = message.len() as u16;
    match (ip(ROUTERS[family]), ip(OURS[family])) {
        (IpAddr::V4(router), IpAddr::V4(ours)) => {
            let checksum = internet_checksum(&[&message]);
            message[2..4].copy_from_slice(&checksum);
            let mut header = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 1, 0, 0];
            header[2..4].copy_from_slice(&(len + 20).to_be_bytes());
            header.extend(router.octets());
            header.extend(ours.octets());
            let checksum = internet_checksum(&[&header]);
            header[10..12].copy_from_slice(&checksum);
            [header, message].concat()
        }
        (IpAddr::V6(router), IpAddr::V6(ours)) => {
            let ends = [router.octets(), ours.octets()].concat();
            let checksum = internet_checksum(&[
                &ends,
                &u32::from(len).to_be_bytes(),
                &[0, 0, 0, 58],
                &message,
            ]);
            message[2..4].copy_from_slice(&checksum);
            let mut header = vec![0x60, 0, 0, 0, 0, 0, 58, 64];
            header[4..6].copy_from_slice(&len.to_be_bytes());
            [header, ends, message].concat()
        }
        _ => unreachable!("the addresses have one family"),
    }
}

/// ICMP error "fragmentation needed" or "packet too big" with this MTU.
fn too_big(mtu: u32, quoted: &[u8], family: usize) -> Vec<u8> {
    match family {
        0 => icmp(3, 4, mtu, quoted, family),
        _ => icmp(2, 0, mtu, quoted, family),
    }
}

/// The same packet with the SPI of another SA.
fn with_other_spi(encapsulation: Encapsulation, packet: &[u8], family: usize) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let header = [20, 40][family];
    let spi = match encapsulation {
        Encapsulation::Udp => header + 8,
        Encapsulation::Raw => header,
    };
    packet[spi..spi + 4].copy_from_slice(&0xdead_beef_u32.to_be_bytes());
    packet
}

/// Namespace whose only path to the peer is a TUN device.
fn path_to_peer() -> (Namespace, Tun) {
    let (namespace, tun) = site("path", OURS[0]);
    let mut netlink = namespace.netlink().unwrap();
    netlink.add_address(tun.index(), ip(OURS[1]), 64).unwrap();
    (namespace, tun)
}

fn inject(tun: &Tun, packet: &[u8]) {
    assert_eq!(tun.write(&[OutPacket::whole(packet)]).unwrap(), 1);
}

#[test]
fn e14_a_forged_path_mtu_has_no_effect_on_ipv4() {
    as_root(|| {
        for encapsulation in ENCAPSULATIONS {
            let (namespace, tun) = path_to_peer();
            let socket = encapsulation.open(&namespace, OURS[0]);
            let to = SocketAddr::new(ip(PEERS[0]), encapsulation.port());
            let packet = esp(0xc000_0001, encapsulation.esp_len(MTU, OURS[0]));
            let whole = |when: &str| {
                assert_eq!(
                    send(&*socket, to, &packet).unwrap(),
                    1,
                    "{encapsulation:?} {when}"
                );
                let mut out = sent_to(&tun, PEERS[0]);
                assert_eq!(out.len(), 1, "{encapsulation:?} {when}");
                let out = out.remove(0);
                // Neither a fragment nor with DF set.
                assert_eq!(
                    (out.len(), out[6], out[7]),
                    (MTU, 0, 0),
                    "{encapsulation:?} {when}"
                );
                assert_eq!(out[9], encapsulation.protocol());
                out
            };
            let sent = whole("before");
            for mtu in [0, 68, 576, 1280] {
                for quoted in [sent.clone(), with_other_spi(encapsulation, &sent, 0)] {
                    inject(&tun, &too_big(mtu, &quoted, 0));
                    whole(&format!("after {mtu}"));
                }
            }
            // A socket with path MTU discovery accepts the same message, so the messages are valid; the learnt MTU does not affect our
            // sockets.
            if encapsulation == Encapsulation::Udp {
                drop(socket);
                let discovering = namespace.run(|| udp(ip(OURS[0]))).unwrap();
                discovering
                    .set_fragmentation(Fragmentation::Forbidden)
                    .unwrap();
                inject(&tun, &too_big(68, &sent, 0));
                assert!(
                    send(&discovering, to, &packet).is_err(),
                    "the path MTU is learnt"
                );
                discovering
                    .set_fragmentation(Fragmentation::Allowed)
                    .unwrap();
                assert_eq!(send(&discovering, to, &packet).unwrap(), 1);
                assert_eq!(sent_to(&tun, PEERS[0])[0].len(), MTU);
                let mut netlink = namespace.netlink().unwrap();
                let route = netlink.route_to(ip(PEERS[0])).unwrap();
                assert_eq!(route.mtu as usize, MTU, "the MTU of the device");
            }
        }
    });
}

/// The outer header does not depend on the inner packet: the TTL is the default of the host, and DF is clear.
#[test]
fn e12_the_outer_ttl_is_the_default_of_the_host_and_df_is_clear() {
    as_root(|| {
        for (family, ttl) in [("ipv4.ip_default_ttl", 8), ("ipv6.conf.path.hop_limit", 7)] {
            let index = usize::from(ttl == 7);
            for encapsulation in ENCAPSULATIONS {
                let (namespace, tun) = path_to_peer();
                namespace.set(&format!("net.{family}"), "77").unwrap();
                let socket = encapsulation.open(&namespace, OURS[index]);
                let to = SocketAddr::new(ip(PEERS[index]), encapsulation.port());
                let packet = esp(0xc000_0001, encapsulation.esp_len(600, OURS[index]));
                assert_eq!(send(&*socket, to, &packet).unwrap(), 1);
                let out = sent_to(&tun, PEERS[index]);
                assert_eq!(
                    (out.len(), out[0][ttl]),
                    (1, 77),
                    "{encapsulation:?} {family}"
                );
                if index == 0 {
                    assert_eq!(out[0][6] & 0x40, 0, "DF");
                }
            }
        }
    });
}

/// IPv6 path to the peer, a socket, and an ESP packet that fills the path MTU.
struct Path6 {
    namespace: Namespace,
    tun: Tun,
    socket: Box<dyn Socket>,
    encapsulation: Encapsulation,
    packet: Vec<u8>,
}

impl Path6 {
    fn new(encapsulation: Encapsulation) -> Path6 {
        let (namespace, tun) = path_to_peer();
        // Longer than any test.
        namespace.set("net.ipv6.route.mtu_expires", "600").unwrap();
        Path6 {
            socket: encapsulation.open(&namespace, OURS[1]),
            packet: esp(0xc000_0001, encapsulation.esp_len(MTU, OURS[1])),
            namespace,
            tun,
            encapsulation,
        }
    }

    /// Sends the packet and returns the resulting outer packets.
    fn send(&self) -> Vec<Vec<u8>> {
        let to = SocketAddr::new(ip(PEERS[1]), self.encapsulation.port());
        assert_eq!(send(&*self.socket, to, &self.packet).unwrap(), 1);
        sent_to(&self.tun, PEERS[1])
    }

    fn sizes(&self) -> Vec<usize> {
        self.send().iter().map(Vec::len).collect()
    }

    /// Injects an ICMP error until packets leave with these lengths: the kernel forgets what it has learnt when it processes the late
    /// carrier event of the new device.
    fn learns(&self, mtu: u32, quoted: &[u8], lens: [usize; 2]) {
        eventually(|| {
            self.inject_too_big(mtu, quoted);
            self.sizes() == lens
        });
    }

    fn inject_too_big(&self, mtu: u32, quoted: &[u8]) {
        inject(&self.tun, &too_big(mtu, quoted, 1));
    }
}

/// Lengths of the two fragments of a packet of [`MTU`] octets whose first fragment has `first` octets. Each fragment has an IPv6 header
/// and a fragment header of 8 octets.
fn fragment_lens(first: usize) -> [usize; 2] {
    [first, MTU - 40 - (first - 48) + 48]
}

/// IPv6 routers do not fragment, so the sender needs the path MTU. The kernel accepts an ICMP error that quotes a packet of an open UDP
/// socket, but no MTU below 1280 (RFC 8201 §4), and fragments to that MTU. No packet is lost, and the MTU of the tunnel is unchanged.
#[test]
fn e14_a_forged_path_mtu_fragments_udp_over_ipv6_to_no_less_than_1280_octets() {
    as_root(|| {
        let path = Path6::new(Encapsulation::Udp);
        let whole = path.send().remove(0);
        assert_eq!(
            (whole.len(), whole[6]),
            (MTU, Encapsulation::Udp.protocol())
        );

        // The quoted packet has the port of no socket.
        let mut other_port = whole.clone();
        other_port[40] ^= 1;
        path.inject_too_big(1280, &other_port);
        assert_eq!(path.sizes(), [MTU]);

        // Below the minimum MTU of IPv6.
        for mtu in [0, 68, 576, 1279] {
            path.inject_too_big(mtu, &whole);
            assert_eq!(path.sizes(), [MTU], "{mtu}");
        }

        // Accepted with any SPI, since the kernel does not know SPIs. The path MTU only decreases.
        for (mtu, quoted, expected) in [
            (
                1288,
                with_other_spi(Encapsulation::Udp, &whole, 1),
                fragment_lens(1288),
            ),
            (1392, whole.clone(), fragment_lens(1288)),
            (1280, whole.clone(), fragment_lens(1280)),
            (68, whole.clone(), fragment_lens(1280)),
        ] {
            path.learns(mtu, &quoted, expected);
            let out = path.send();
            let lens: Vec<usize> = out.iter().map(Vec::len).collect();
            assert_eq!(lens, expected, "{mtu}");
            let payload: Vec<u8> = out
                .iter()
                .flat_map(|fragment| &fragment[48..])
                .copied()
                .collect();
            assert!(payload == whole[40..], "{mtu}: every octet is sent");
        }
        let mut netlink = path.namespace.netlink().unwrap();
        let route = netlink.route_to(ip(PEERS[1])).unwrap();
        assert_eq!(route.mtu as usize, MTU, "the MTU of the device");

        // The kernel keeps it for the address of the peer: protocol 50 to the same peer is fragmented as well.
        let raw = Encapsulation::Raw.open(&path.namespace, OURS[1]);
        let packet = esp(0xc000_0001, Encapsulation::Raw.esp_len(MTU, OURS[1]));
        let to = SocketAddr::new(ip(PEERS[1]), 0);
        assert_eq!(send(&*raw, to, &packet).unwrap(), 1);
        let lens: Vec<usize> = sent_to(&path.tun, PEERS[1]).iter().map(Vec::len).collect();
        assert_eq!(lens, fragment_lens(1280));
    });
}

#[test]
fn e14_a_forged_path_mtu_on_ipv6_expires() {
    as_root(|| {
        let path = Path6::new(Encapsulation::Udp);
        let whole = path.send().remove(0);
        path.learns(1288, &whole, fragment_lens(1288));
        // A smaller MTU restarts the timer, with the current expiry time.
        path.namespace
            .set("net.ipv6.route.mtu_expires", "1")
            .unwrap();
        path.inject_too_big(1280, &whole);
        eventually(|| path.sizes() == [MTU]);
    });
}

/// Linux takes an ICMP error for an unconnected raw socket only if the socket asks for errors (`rawv6_err`).
#[test]
fn e14_native_esp_over_ipv6_learns_a_path_mtu_of_no_less_than_1280_octets() {
    as_root(|| {
        let path = Path6::new(Encapsulation::Raw);
        let whole = path.send().remove(0);
        assert_eq!(
            (whole.len(), whole[6]),
            (MTU, Encapsulation::Raw.protocol())
        );
        for mtu in [0, 68, 576, 1279] {
            path.inject_too_big(mtu, &whole);
            assert_eq!(path.sizes(), [MTU], "{mtu}");
        }
        let learnt = |path: &Path6| {
            let mut netlink = path.namespace.netlink().unwrap();
            netlink.route_to(ip(PEERS[1])).unwrap().learnt_mtu
        };
        assert_eq!(learnt(&path), None);
        let mut received = RecvBatch::new();
        for (mtu, least) in [(1288, 1288), (1392, 1288), (1280, 1280), (68, 1280)] {
            // A hundred errors in a row leave nothing behind, whether the socket sends or receives next.
            (0..100).for_each(|_| path.inject_too_big(mtu, &whole));
            if mtu == 1392 {
                let error = path.socket.recv(&mut received).unwrap_err();
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
            }
            path.learns(mtu, &whole, fragment_lens(least));
            assert_eq!(learnt(&path), Some(least as u32), "{mtu}");
        }
    });
}

#[test]
fn e15_icmp_unreachable_has_no_effect() {
    as_root(|| {
        for (family, codes) in [(0, [0, 1, 2, 3, 13]), (1, [0, 1, 3, 4, 5])] {
            for encapsulation in ENCAPSULATIONS {
                let (namespace, tun) = path_to_peer();
                let socket = encapsulation.open(&namespace, OURS[family]);
                let to = SocketAddr::new(ip(PEERS[family]), encapsulation.port());
                let packet = esp(0xc000_0001, 100);
                assert_eq!(send(&*socket, to, &packet).unwrap(), 1);
                let quoted = sent_to(&tun, PEERS[family]).remove(0);
                for code in codes {
                    inject(&tun, &icmp([3, 1][family], code, 0, &quoted, family));
                    let received = socket.recv(&mut RecvBatch::new()).unwrap_err();
                    assert_eq!(received.kind(), std::io::ErrorKind::WouldBlock);
                    assert_eq!(
                        send(&*socket, to, &packet).unwrap(),
                        1,
                        "{encapsulation:?} {code}"
                    );
                    let out = sent_to(&tun, PEERS[family]);
                    assert_eq!((out.len(), out[0].len()), (1, quoted.len()));
                }
            }
        }
    });
}

#[test]
fn e10_esp_fragments_are_reassembled_by_the_kernel() {
    as_root(|| {
        let (one, other) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        veth_pair(&one, "c0", &OURS, &other, &PEERS);
        for family in [0, 1] {
            for encapsulation in ENCAPSULATIONS {
                let a = encapsulation.open(&one, OURS[family]);
                let b = encapsulation.open(&other, PEERS[family]);
                let mut received = RecvBatch::new();
                for len in (1400..=1600).step_by(20).chain([1473, 9000, 65_000]) {
                    let packet = esp(0xc000_0001, len);
                    assert_eq!(send(&*a, b.local(), &packet).unwrap(), 1);
                    wait_readable(b.as_fd());
                    assert_eq!(b.recv(&mut received).unwrap(), 1);
                    let datagram = received.iter_mut().next().unwrap();
                    let ends = (datagram.remote, datagram.local);
                    assert_eq!(ends, (a.local(), b.local().ip()), "{encapsulation:?}");
                    assert!(*datagram.bytes == packet, "{encapsulation:?} {len}");
                }
            }
        }
    });
}

#[test]
fn native_esp_keeps_addresses_order_and_traffic_class() {
    as_root(|| {
        let (one, other) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        veth_pair(&one, "c0", &OURS, &other, &PEERS);
        for (family, any) in [(0, "0.0.0.0"), (1, "::")] {
            // A socket bound to the unspecified address reports and selects local addresses like one bound to a single address.
            let a = Encapsulation::Raw.open(&one, any);
            let b = Encapsulation::Raw.open(&other, PEERS[family]);
            let mut batch = SendBatch::new();
            for (n, class) in [(1_u32, 0), (2, 0xb8), (3, 0x03), (4, 0x03), (5, 0xff)] {
                let packet = esp(n, 100 + n as usize);
                let slot = batch.reserve(b.local(), ip(OURS[family]), class, packet.len());
                let mut slot = slot.unwrap();
                slot.bytes().copy_from_slice(&packet);
                slot.commit(packet.len());
            }
            assert_eq!(a.send(&batch).unwrap(), 5);
            let mut arrived = Vec::new();
            let mut received = RecvBatch::new();
            while arrived.len() < 5 {
                wait_readable(b.as_fd());
                b.recv(&mut received).unwrap();
                arrived.extend(received.iter_mut().map(|datagram| {
                    assert_eq!(datagram.remote, SocketAddr::new(ip(OURS[family]), 0));
                    assert_eq!(datagram.local, ip(PEERS[family]));
                    assert_eq!(datagram.segment, datagram.bytes.len());
                    (datagram.bytes[3], datagram.class, datagram.bytes.len())
                }));
            }
            let expected = [
                (1, 0, 101),
                (2, 0xb8, 102),
                (3, 0x03, 103),
                (4, 0x03, 104),
                (5, 0xff, 105),
            ];
            assert_eq!(arrived, expected, "{any}");
        }
    });
}

#[test]
fn a_raw_esp_socket_needs_a_local_address() {
    as_root(|| {
        let namespace = Namespace::new().unwrap();
        for foreign in PEERS {
            let error = namespace.run(|| RawEspSocket::open(ip(foreign))).unwrap();
            let text = error.unwrap_err().to_string();
            assert!(text.contains("is not an address of this machine"), "{text}");
        }
    });
}
