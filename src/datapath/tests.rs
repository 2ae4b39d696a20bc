use super::testing::{A, B, MTU, eventually, half, to_a, to_b};
use super::*;
use crate::esp::testing::{mirrored, policy};
use crate::net::IKE_PORT;
use crate::os::memory::{MemoryDevice, MemoryNetwork, MemorySocket};

const ID: TunnelId = TunnelId(3);

/// A running datapath of one address.
struct Gateway {
    datapath: Datapath,
    notices: Notices,
    device: Arc<MemoryDevice>,
    nat: Arc<MemorySocket>,
}

fn gateway(network: &MemoryNetwork, address: IpAddr, action: NoSaAction) -> Gateway {
    let bind = |port| Arc::new(network.bind(SocketAddr::new(address, port), 1000).unwrap());
    let (mut datapath, notices) = Datapath::new().unwrap();
    let device = Arc::new(MemoryDevice::new(1000).unwrap());
    let nat = bind(NAT_PORT);
    let group: [Arc<dyn Socket>; 1] = [nat.clone()];
    datapath.listen(bind(IKE_PORT), &group).unwrap();
    datapath.add_tunnel(ID, device.clone(), action).unwrap();
    Gateway {
        datapath,
        notices,
        device,
        nat,
    }
}

impl Gateway {
    fn path(&self, sa: crate::esp::Outbound, local: IpAddr, remote: IpAddr) -> EgressPath {
        let socket = self.datapath.nat_socket(local).unwrap();
        EgressPath {
            sa: Arc::new(sa),
            socket,
            local,
            remote: SocketAddr::new(remote, NAT_PORT),
            mtu: MTU,
            dscp: Default::default(),
        }
    }
}

fn from(local: IpAddr, remote: IpAddr) -> InboundParams {
    InboundParams {
        local,
        remote: SocketAddr::new(remote, NAT_PORT),
        mtu: MTU,
        first: FirstPacket::Ordinary,
    }
}

#[test]
fn two_datapaths_carry_traffic_both_ways_and_wake_for_a_new_sa() {
    let network = MemoryNetwork::new();
    let mut a = gateway(&network, A, NoSaAction::Trap(policy()));
    let mut b = gateway(&network, B, NoSaAction::Drop);

    // The first packet is trapped and asks for an SA.
    assert!(a.device.inject(&to_b(99)));
    assert_eq!(eventually(|| a.notices.next()), Notice::Demand(ID));

    let (a_out, b_in) = half("aes128-sha1", 1, policy());
    let (b_out, a_in) = half("aes128-sha1", 2, mirrored(policy()));
    let spi_ab = a_out.spi();
    a.datapath.install_inbound(ID, Arc::new(a_in), from(A, B));
    b.datapath.install_inbound(ID, Arc::new(b_in), from(B, A));
    b.datapath.set_outbound(ID, vec![b.path(b_out, B, A)]);
    a.datapath.set_outbound(ID, vec![a.path(a_out, A, B)]);
    assert_eq!(eventually(|| b.device.take()), to_b(99));

    for len in 100..200 {
        assert!(a.device.inject(&to_b(len)) && b.device.inject(&to_a(len)));
    }
    for len in 100..200 {
        assert_eq!(eventually(|| b.device.take()), to_b(len));
        assert_eq!(eventually(|| a.device.take()), to_a(len));
    }
    assert_eq!(
        eventually(|| a
            .datapath
            .counters(ID)
            .map(|c| c.rx.packets())
            .filter(|n| *n == 100)),
        100
    );

    b.datapath.clear_outbound(ID);
    assert!(b.device.inject(&to_a(60)));
    eventually(|| {
        b.datapath
            .counters(ID)
            .filter(|c| c.dropped.count(crate::net::DropReason::NoSa) == 1)
            .map(drop)
    });

    b.datapath.remove_inbound(ID, spi_ab);
    assert!(a.device.inject(&to_b(60)));
    let unknown = eventually(|| b.notices.next());
    assert!(matches!(unknown, Notice::UnknownSpi { spi, .. } if spi == spi_ab));
}

#[test]
fn e05_one_spi_at_two_workers_opens_each_packet_once() {
    const PACKETS: usize = 2000;
    let network = MemoryNetwork::new();
    let (mut datapath, notices) = Datapath::new().unwrap();
    let bind = |port| Arc::new(network.bind(SocketAddr::new(B, port), 2 * PACKETS).unwrap());
    // An address has one socket in memory: another port stands for the second socket of the group.
    let sockets = [bind(NAT_PORT), bind(NAT_PORT + 1)];
    let group = sockets.clone().map(|socket| socket as Arc<dyn Socket>);
    datapath.listen(bind(IKE_PORT), &group).unwrap();
    let device = Arc::new(MemoryDevice::new(2 * PACKETS).unwrap());
    datapath
        .add_tunnel(ID, device.clone(), NoSaAction::Drop)
        .unwrap();
    let (a_out, b_in) = half("aes128-sha1", 1, policy());
    datapath.install_inbound(ID, Arc::new(b_in), from(B, A));

    let packets: Vec<_> = (0..PACKETS).map(|n| to_b(60 + n % 1200)).collect();
    let sealed: Vec<_> = packets
        .iter()
        .map(|packet| crate::esp::testing::seal(&a_out, packet))
        .collect();
    // Each packet to both sockets at once, from two ports.
    std::thread::scope(|scope| {
        for (port, socket) in (NAT_PORT..).zip(&sockets) {
            let (peer, sealed) = (SocketAddr::new(A, port), &sealed);
            scope.spawn(move || sealed.iter().all(|esp| socket.inject(peer, esp)));
        }
    });
    let counters = datapath.counters(ID).unwrap();
    let replayed = || counters.dropped.count(crate::net::DropReason::Replay);
    eventually(|| Some(()).filter(|()| counters.rx.packets() + replayed() == 2 * PACKETS as u64));
    assert_eq!(replayed(), PACKETS as u64);
    let mut delivered: Vec<_> = std::iter::from_fn(|| device.take()).collect();
    let mut expected = packets;
    delivered.sort();
    expected.sort();
    assert!(delivered == expected);
    drop(notices);
}

#[test]
fn trapped_packets_are_dropped_once_the_trap_is_removed() {
    let network = MemoryNetwork::new();
    let mut a = gateway(&network, A, NoSaAction::Trap(policy()));
    assert!(a.device.inject(&to_b(99)));
    eventually(|| a.notices.next());
    a.datapath.set_no_sa_action(ID, NoSaAction::Drop);
    eventually(|| {
        a.datapath
            .counters(ID)
            .filter(|c| c.dropped.count(crate::net::DropReason::NoSa) == 1)
            .map(drop)
    });
}

#[test]
fn the_control_plane_sends_ike_behind_a_marker_only_on_port_4500() {
    let network = MemoryNetwork::new();
    let a = gateway(&network, A, NoSaAction::Drop);
    let peers =
        [IKE_PORT, NAT_PORT].map(|port| network.bind(SocketAddr::new(B, port), 10).unwrap());
    for (port, peer) in [IKE_PORT, NAT_PORT].into_iter().zip(&peers) {
        let (local, remote) = (SocketAddr::new(A, port), SocketAddr::new(B, port));
        a.datapath
            .transmit(local, remote, IkeFraming::NonEspMarker, b"message")
            .unwrap();
        a.datapath
            .transmit(local, remote, IkeFraming::Plain, &[0xff])
            .unwrap();
        let marker: &[u8] = if port == NAT_PORT { &[0; 4] } else { &[] };
        assert_eq!(peer.take(), Some((local, [marker, b"message"].concat())));
        assert_eq!(peer.take(), Some((local, vec![0xff])));
    }
    let elsewhere = SocketAddr::new("2001:db8::1".parse().unwrap(), 500);
    let error = a
        .datapath
        .transmit(elsewhere, elsewhere, IkeFraming::NonEspMarker, b"message")
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
}

#[test]
fn dropping_the_datapath_ends_its_workers() {
    let network = MemoryNetwork::new();
    let a = gateway(&network, A, NoSaAction::Drop);
    let (device, nat) = (Arc::downgrade(&a.device), Arc::downgrade(&a.nat));
    drop(a);
    assert!(
        device.upgrade().is_none() && nat.upgrade().is_none(),
        "no thread holds them any more"
    );
}

#[test]
fn forty_addresses_are_served_by_as_many_workers_as_one() {
    let network = MemoryNetwork::new();
    let (mut datapath, notices) = Datapath::new().unwrap();
    let addresses: Vec<_> = (1..=40)
        .map(|last| IpAddr::from([192, 0, 2, last]))
        .collect();
    let mut sockets = Vec::new();
    for address in &addresses {
        // A group of two would share a port; in memory they need two.
        let bind = |port| Arc::new(network.bind(SocketAddr::new(*address, port), 10).unwrap());
        let [ike, first, second] = [IKE_PORT, NAT_PORT, NAT_PORT + 1].map(bind);
        datapath
            .listen(ike.clone(), &[first.clone(), second.clone()])
            .unwrap();
        sockets.extend([ike, first, second]);
    }
    assert_eq!(datapath.workers.ingress_workers(), 2);

    // Every socket is served.
    let remote = SocketAddr::new(B, IKE_PORT);
    for socket in &sockets {
        let mut message = vec![0; 60];
        message[24..28].copy_from_slice(&60_u32.to_be_bytes());
        if socket.local().port() != IKE_PORT {
            message.splice(..0, [0; 4]);
        }
        assert!(socket.inject(remote, &message));
        let local = socket.local();
        let notice = eventually(|| notices.next());
        assert!(
            matches!(&notice, Notice::Ike { local: at, .. } if *at == local),
            "{notice:?}"
        );
    }
}
