//! The outer path of ESP on a real kernel: in UDP and bare, fragments of it, and what strangers say about it by ICMP.
//!
//! ```text
//!   our socket ── ESP ──▶ a TUN device that plays the way to the peer ──▶ the test, which reads what left
//!              ◀── ICMP, forged ── and writes what anybody on the Internet could send
//! ```

use std::net::{IpAddr, SocketAddr};

use groundlink::os::netns::Namespace;
use groundlink::os::raw_esp::RawEspSocket;
use groundlink::os::tun::Tun;
use groundlink::os::udp::{Fragmentation, UdpSocket};
use groundlink::os::{Device, OutPacket, ReadBatch, RecvBatch, SendBatch, Socket, SocketOffload};

use super::{as_root, cable, eventually, ip, site, wait_readable};

const OURS: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const PEERS: [&str; 2] = ["192.0.2.2", "2001:db8::2"];
/// Anybody.
const ROUTERS: [&str; 2] = ["192.0.2.254", "2001:db8::fe"];
/// What the way takes.
const MTU: usize = 1400;

/// What carries ESP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Udp,
    Raw,
}

const KINDS: [Kind; 2] = [Kind::Udp, Kind::Raw];

impl Kind {
    fn port(self) -> u16 {
        match self {
            Kind::Udp => 4500,
            Kind::Raw => 0,
        }
    }

    fn protocol(self) -> u8 {
        match self {
            Kind::Udp => 17,
            Kind::Raw => 50,
        }
    }

    fn open(self, namespace: &Namespace, address: &str) -> Box<dyn Socket> {
        let address = ip(address);
        let open = || -> Box<dyn Socket> {
            match self {
                Kind::Udp => Box::new(udp(address)),
                Kind::Raw => Box::new(RawEspSocket::open(address).unwrap()),
            }
        };
        namespace.run(open).unwrap()
    }

    /// How much ESP fills `room` octets of outer packet.
    fn filling(self, room: usize, address: &str) -> usize {
        let header = if ip(address).is_ipv4() { 20 } else { 40 };
        match self {
            Kind::Udp => room - header - 8,
            Kind::Raw => room - header,
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

/// An ESP packet of this SPI.
fn esp(spi: u32, len: usize) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..len).map(|n| n as u8).collect();
    packet[..4].copy_from_slice(&spi.to_be_bytes());
    packet
}

/// What has left for the peer since the last look; the kernel's own noise is passed over.
fn left(tun: &Tun, peer: &str) -> Vec<Vec<u8>> {
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

fn sum(parts: &[&[u8]]) -> [u8; 2] {
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

/// An ICMP error of this kind about a packet that has left, from a router nobody has heard of.
fn icmp(kind: u8, code: u8, rest: u32, about: &[u8], family: usize) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest.to_be_bytes());
    message.extend(&about[..about.len().min(500)]);
    let len = message.len() as u16;
    match (ip(ROUTERS[family]), ip(OURS[family])) {
        (IpAddr::V4(router), IpAddr::V4(ours)) => {
            let checksum = sum(&[&message]);
            message[2..4].copy_from_slice(&checksum);
            let mut header = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 1, 0, 0];
            header[2..4].copy_from_slice(&(len + 20).to_be_bytes());
            header.extend(router.octets());
            header.extend(ours.octets());
            let checksum = sum(&[&header]);
            header[10..12].copy_from_slice(&checksum);
            [header, message].concat()
        }
        (IpAddr::V6(router), IpAddr::V6(ours)) => {
            let ends = [router.octets(), ours.octets()].concat();
            let checksum = sum(&[
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
        _ => unreachable!("both are of one family"),
    }
}

/// "Too big": `mtu` is all that fits.
fn too_big(mtu: u32, about: &[u8], family: usize) -> Vec<u8> {
    match family {
        0 => icmp(3, 4, mtu, about, family),
        _ => icmp(2, 0, mtu, about, family),
    }
}

/// The same packet, of another SA.
fn of_another_sa(kind: Kind, packet: &[u8], family: usize) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let header = [20, 40][family];
    let spi = match kind {
        Kind::Udp => header + 8,
        Kind::Raw => header,
    };
    packet[spi..spi + 4].copy_from_slice(&0xdead_beef_u32.to_be_bytes());
    packet
}

/// A way to the peer.
fn way() -> (Namespace, Tun) {
    let (namespace, tun) = site("way", OURS[0]);
    let mut netlink = namespace.netlink().unwrap();
    netlink.add_address(tun.index(), ip(OURS[1]), 64).unwrap();
    (namespace, tun)
}

fn inject(tun: &Tun, packet: &[u8]) {
    assert_eq!(tun.write(&[OutPacket::whole(packet)]).unwrap(), 1);
}

#[test]
fn e14_a_forged_path_mtu_changes_nothing_on_ipv4() {
    as_root(|| {
        for kind in KINDS {
            let (namespace, tun) = way();
            let socket = kind.open(&namespace, OURS[0]);
            let to = SocketAddr::new(ip(PEERS[0]), kind.port());
            let packet = esp(0xc000_0001, kind.filling(MTU, OURS[0]));
            let whole = |when: &str| {
                assert_eq!(send(&*socket, to, &packet).unwrap(), 1, "{kind:?} {when}");
                let mut out = left(&tun, PEERS[0]);
                assert_eq!(out.len(), 1, "{kind:?} {when}");
                let out = out.remove(0);
                // Neither a fragment nor forbidden to become one.
                assert_eq!((out.len(), out[6], out[7]), (MTU, 0, 0), "{kind:?} {when}");
                assert_eq!(out[9], kind.protocol());
                out
            };
            let sent = whole("before");
            for mtu in [0, 68, 576, 1280] {
                for about in [sent.clone(), of_another_sa(kind, &sent, 0)] {
                    inject(&tun, &too_big(mtu, &about, 0));
                    whole(&format!("after {mtu}"));
                }
            }
            // The kernel does take such a message from who asks for it, so these were good ones; and what it has learnt is not ours.
            if kind == Kind::Udp {
                drop(socket);
                let asking = namespace.run(|| udp(ip(OURS[0]))).unwrap();
                asking.set_fragmentation(Fragmentation::Forbidden).unwrap();
                inject(&tun, &too_big(68, &sent, 0));
                assert!(send(&asking, to, &packet).is_err(), "a small MTU is known");
                asking.set_fragmentation(Fragmentation::Allowed).unwrap();
                assert_eq!(send(&asking, to, &packet).unwrap(), 1);
                assert_eq!(left(&tun, PEERS[0])[0].len(), MTU);
                let mut netlink = namespace.netlink().unwrap();
                let way = netlink.route_to(ip(PEERS[0])).unwrap();
                assert_eq!(way.mtu as usize, MTU, "the inner MTU comes of this one");
            }
        }
    });
}

/// The outer header is our own host's, whatever is inside: its time to live, and DF never set.
#[test]
fn e12_the_outer_time_to_live_is_our_own_and_df_is_clear() {
    as_root(|| {
        for (family, ttl) in [("ipv4.ip_default_ttl", 8), ("ipv6.conf.way.hop_limit", 7)] {
            let family_at = usize::from(ttl == 7);
            for kind in KINDS {
                let (namespace, tun) = way();
                namespace.set(&format!("net.{family}"), "77").unwrap();
                let socket = kind.open(&namespace, OURS[family_at]);
                let to = SocketAddr::new(ip(PEERS[family_at]), kind.port());
                let packet = esp(0xc000_0001, kind.filling(600, OURS[family_at]));
                assert_eq!(send(&*socket, to, &packet).unwrap(), 1);
                let out = left(&tun, PEERS[family_at]);
                assert_eq!((out.len(), out[0][ttl]), (1, 77), "{kind:?} {family}");
                if family_at == 0 {
                    assert_eq!(out[0][6] & 0x40, 0, "DF");
                }
            }
        }
    });
}

/// An IPv6 way to the peer, a socket to it, and a packet that just fits.
struct Way6 {
    namespace: Namespace,
    tun: Tun,
    socket: Box<dyn Socket>,
    kind: Kind,
    packet: Vec<u8>,
}

impl Way6 {
    fn new(kind: Kind) -> Way6 {
        let (namespace, tun) = way();
        // No test takes so long.
        namespace.set("net.ipv6.route.mtu_expires", "600").unwrap();
        Way6 {
            socket: kind.open(&namespace, OURS[1]),
            packet: esp(0xc000_0001, kind.filling(MTU, OURS[1])),
            namespace,
            tun,
            kind,
        }
    }

    /// Sends the packet, and says what has left of it.
    fn sent(&self) -> Vec<Vec<u8>> {
        let to = SocketAddr::new(ip(PEERS[1]), self.kind.port());
        assert_eq!(send(&*self.socket, to, &self.packet).unwrap(), 1);
        left(&self.tun, PEERS[1])
    }

    fn sizes(&self) -> Vec<usize> {
        self.sent().iter().map(Vec::len).collect()
    }

    fn hear(&self, mtu: u32, about: &[u8]) {
        inject(&self.tun, &too_big(mtu, about, 1));
    }
}

/// What becomes of a packet of [`MTU`] octets that is cut at `first`, a multiple of 8: two IP headers, and two of fragments, 8 octets each.
fn cut(first: usize) -> [usize; 2] {
    [first, MTU - 40 - (first - 48) + 48]
}

/// On IPv6 routers do not cut, so the sender has to know what the path takes. The kernel believes whoever quotes a packet of an open UDP
/// socket's, but not below 1280 (RFC 8201 §4), and cuts to that: nothing is lost, and the tunnel's own MTU stays.
#[test]
fn e14_a_forged_path_mtu_has_udp_over_ipv6_cut_to_1280_octets_at_the_least() {
    as_root(|| {
        let way = Way6::new(Kind::Udp);
        let whole = way.sent().remove(0);
        assert_eq!((whole.len(), whole[6]), (MTU, Kind::Udp.protocol()));

        // Of a connection that is not there: the quoted packet has another port.
        let mut stranger = whole.clone();
        stranger[40] ^= 1;
        way.hear(1280, &stranger);
        assert_eq!(way.sizes(), [MTU]);

        // Below what every IPv6 link carries.
        for mtu in [0, 68, 576, 1279] {
            way.hear(mtu, &whole);
            assert_eq!(way.sizes(), [MTU], "{mtu}");
        }

        // Believed, whatever SA it speaks of, since the kernel does not know SPIs; and it only ever shrinks.
        for (mtu, about, expected) in [
            (1288, of_another_sa(Kind::Udp, &whole, 1), cut(1288)),
            (1392, whole.clone(), cut(1288)),
            (1280, whole.clone(), cut(1280)),
            (68, whole.clone(), cut(1280)),
        ] {
            way.hear(mtu, &about);
            let out = way.sent();
            let lens: Vec<usize> = out.iter().map(Vec::len).collect();
            assert_eq!(lens, expected, "{mtu}");
            let carried: Vec<u8> = out.iter().flat_map(|piece| &piece[48..]).copied().collect();
            assert!(carried == whole[40..], "{mtu}: every octet leaves");
        }
        let mut netlink = way.namespace.netlink().unwrap();
        let route = netlink.route_to(ip(PEERS[1])).unwrap();
        assert_eq!(route.mtu as usize, MTU, "the inner MTU comes of this one");

        // It is kept for the peer's address: protocol 50 to the same peer is cut as well.
        let raw = Kind::Raw.open(&way.namespace, OURS[1]);
        let packet = esp(0xc000_0001, Kind::Raw.filling(MTU, OURS[1]));
        let to = SocketAddr::new(ip(PEERS[1]), 0);
        assert_eq!(send(&*raw, to, &packet).unwrap(), 1);
        let lens: Vec<usize> = left(&way.tun, PEERS[1]).iter().map(Vec::len).collect();
        assert_eq!(lens, cut(1280));
    });
}

#[test]
fn e14_a_forged_path_mtu_on_ipv6_is_forgotten_when_it_is_old() {
    as_root(|| {
        let way = Way6::new(Kind::Udp);
        let whole = way.sent().remove(0);
        way.hear(1288, &whole);
        assert_eq!(way.sizes(), cut(1288));
        // A smaller one is news, and its age begins at nothing, with the limit of now.
        way.namespace
            .set("net.ipv6.route.mtu_expires", "1")
            .unwrap();
        way.hear(1280, &whole);
        eventually(|| way.sizes() == [MTU]);
    });
}

/// An unconnected raw socket is not asked (Linux: `rawv6_err`), so nobody can say anything; nor can a router that tells the truth.
#[test]
fn e14_a_path_mtu_changes_nothing_for_native_esp_over_ipv6() {
    as_root(|| {
        let way = Way6::new(Kind::Raw);
        let whole = way.sent().remove(0);
        assert_eq!((whole.len(), whole[6]), (MTU, Kind::Raw.protocol()));
        for mtu in [0, 68, 1279, 1280, 1288, 1392] {
            for about in [whole.clone(), of_another_sa(Kind::Raw, &whole, 1)] {
                way.hear(mtu, &about);
                assert_eq!(way.sizes(), [MTU], "{mtu}");
            }
        }
    });
}

#[test]
fn e15_unreachable_changes_nothing() {
    as_root(|| {
        for (family, codes) in [(0, [0, 1, 2, 3, 13]), (1, [0, 1, 3, 4, 5])] {
            for kind in KINDS {
                let (namespace, tun) = way();
                let socket = kind.open(&namespace, OURS[family]);
                let to = SocketAddr::new(ip(PEERS[family]), kind.port());
                let packet = esp(0xc000_0001, 100);
                assert_eq!(send(&*socket, to, &packet).unwrap(), 1);
                let about = left(&tun, PEERS[family]).remove(0);
                for code in codes {
                    inject(&tun, &icmp([3, 1][family], code, 0, &about, family));
                    let received = socket.recv(&mut RecvBatch::new()).unwrap_err();
                    assert_eq!(received.kind(), std::io::ErrorKind::WouldBlock);
                    assert_eq!(send(&*socket, to, &packet).unwrap(), 1, "{kind:?} {code}");
                    let out = left(&tun, PEERS[family]);
                    assert_eq!((out.len(), out[0].len()), (1, about.len()));
                }
            }
        }
    });
}

#[test]
fn e10_fragments_of_esp_are_put_together_before_we_see_it() {
    as_root(|| {
        let (one, other) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        cable(&one, "c0", &OURS, &other, &PEERS);
        for family in [0, 1] {
            for kind in KINDS {
                let a = kind.open(&one, OURS[family]);
                let b = kind.open(&other, PEERS[family]);
                let mut received = RecvBatch::new();
                for len in (1400..=1600).step_by(20).chain([1473, 9000, 65_000]) {
                    let packet = esp(0xc000_0001, len);
                    assert_eq!(send(&*a, b.local(), &packet).unwrap(), 1);
                    wait_readable(b.as_fd());
                    assert_eq!(b.recv(&mut received).unwrap(), 1);
                    let datagram = received.iter_mut().next().unwrap();
                    let ends = (datagram.remote, datagram.local);
                    assert_eq!(ends, (a.local(), b.local().ip()), "{kind:?}");
                    assert!(*datagram.bytes == packet, "{kind:?} {len}");
                }
            }
        }
    });
}

#[test]
fn native_esp_keeps_its_address_its_order_and_its_traffic_class() {
    as_root(|| {
        let (one, other) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        cable(&one, "c0", &OURS, &other, &PEERS);
        for (family, any) in [(0, "0.0.0.0"), (1, "::")] {
            // One that stands for every address of its family tells and chooses like the other.
            let a = Kind::Raw.open(&one, any);
            let b = Kind::Raw.open(&other, PEERS[family]);
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
fn an_address_that_is_not_ours_is_no_place_for_native_esp() {
    as_root(|| {
        let namespace = Namespace::new().unwrap();
        for foreign in PEERS {
            let error = namespace.run(|| RawEspSocket::open(ip(foreign))).unwrap();
            let said = error.unwrap_err().to_string();
            assert!(said.contains("is not an address of this machine"), "{said}");
        }
    });
}
