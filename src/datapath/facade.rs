//! The datapath as the control plane holds it.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::classify::Admits;
use super::counters::{Counters, PacketDropCounters};
use super::egress::TunnelEgress;
use super::ingress::{Ingress, SocketEntry};
use super::notice::{self, NoticeSender, Notices};
use super::offload::Offload;
use super::profile::StepTotals;
use super::sa_events::{FirstPacket, InboundEvents};
use super::socket_workers::SocketWorkers;
use super::sockets::{AddressSockets, LocalSockets};
use super::tables::{EgressPath, EgressState, InboundEntry, InboundTable, MssClamp, TunnelShared};
use super::workers::{TunnelPlace, WorkerPool};
use super::{NAT_PORT, TunnelId};
use crate::esp::{Inbound, Sad};
use crate::net::Policy;
use crate::os::{Device, GsoSupport, SendBatch, Socket, SocketOffload};

/// All workers, their tables and their counters. Dropping it ends the workers.
pub struct Datapath {
    notices_tx: NoticeSender,
    inlets: Arc<InboundTable>,
    unmatched: Arc<PacketDropCounters>,
    reception: SocketWorkers,
    gates: LocalSockets,
    tunnels: BTreeMap<TunnelId, Tunnel>,
    crew: WorkerPool,
}

struct Tunnel {
    lane: Arc<TunnelShared>,
    idle: EgressState,
    inbound: Vec<(Arc<Inbound>, InboundEntry)>,
    place: TunnelPlace,
}

/// What a tunnel does with packets while it has no SA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoSaAction {
    /// Refuse them.
    Drop,
    /// Keep the first ones within these selectors and ask for an SA (`start = "trap"`).
    Trap(Policy),
}

/// What there is to know of an inbound SA beside its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InboundParams {
    /// Our outer address.
    pub local: IpAddr,
    /// Where the peer is: packets that come from elsewhere are told.
    pub remote: SocketAddr,
    /// The largest inner packet.
    pub mtu: u16,
    /// Whether its first packet is told.
    pub first: FirstPacket,
}

/// How a datagram of the control plane is wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IkeFraming {
    /// An IKE message: on port 4500 the non-ESP marker goes in front (RFC 3948 §2.2).
    NonEspMarker,
    /// As it is: a NAT keepalive.
    Plain,
}

/// How many notices may wait for the control plane.
const NOTICES: usize = 512;

impl Datapath {
    /// A datapath without sockets and tunnels, and the receiving end of its notices.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn new() -> io::Result<(Datapath, Notices)> {
        let (notices_tx, notices) = notice::channel(NOTICES)?;
        let datapath = Datapath {
            notices_tx,
            inlets: Arc::default(),
            unmatched: Arc::default(),
            reception: SocketWorkers::default(),
            gates: LocalSockets::default(),
            tunnels: BTreeMap::new(),
            crew: WorkerPool::default(),
        };
        Ok((datapath, notices))
    }

    /// Serves one address: its socket on port 500 and its sockets on port 4500, each of these with another worker. The first sends
    /// what leaves from port 4500.
    ///
    /// # Errors
    /// No thread or descriptor left, or no socket on port 4500.
    pub fn listen(&mut self, ike: Arc<dyn Socket>, nats: &[Arc<dyn Socket>]) -> io::Result<()> {
        let (first, others) = nats.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        self.serve(0, &ike, Admits::Ike)?;
        for (number, nat) in nats.iter().enumerate() {
            self.serve(number, nat, Admits::IkeAndEsp)?;
        }
        self.gates.add(AddressSockets::new(ike, first, others));
        Ok(())
    }

    /// Takes native ESP (IP protocol 50) from one address's raw socket, too.
    ///
    /// # Errors
    /// No thread or descriptor left.
    pub fn listen_native(&mut self, socket: Arc<dyn Socket>) -> io::Result<()> {
        self.serve(0, &socket, Admits::Esp)?;
        self.gates.add_native(socket);
        Ok(())
    }

    fn serve(&mut self, number: usize, socket: &Arc<dyn Socket>, admits: Admits) -> io::Result<()> {
        let door = SocketEntry {
            socket: Arc::clone(socket),
            admits,
        };
        let (inlets, unmatched) = (Arc::clone(&self.inlets), Arc::clone(&self.unmatched));
        let (notices_tx, step_totals) =
            (self.notices_tx.clone(), Arc::clone(self.crew.step_totals()));
        self.reception.open(number, door, |doors| {
            Ingress::new(doors, inlets, unmatched, notices_tx).timed(step_totals)
        })
    }

    /// Adds a tunnel, or replaces it: it has no SA yet.
    ///
    /// # Errors
    /// No thread or descriptor left.
    pub fn add_tunnel(
        &mut self,
        id: TunnelId,
        device: Arc<dyn Device>,
        idle: NoSaAction,
    ) -> io::Result<()> {
        self.remove_tunnel(id);
        let idle = idle.outlet();
        let lane = |waker| {
            Arc::new(TunnelShared {
                id,
                device,
                outlet: ArcSwap::from_pointee(idle.clone()),
                counters: Counters::default(),
                waker,
            })
        };
        let road = |lane| TunnelEgress::new(lane, &self.notices_tx);
        let (place, lane) = self.crew.add(lane, road)?;
        let tunnel = Tunnel {
            lane,
            idle,
            inbound: Vec::new(),
            place,
        };
        self.tunnels.insert(id, tunnel);
        Ok(())
    }

    /// Ends a tunnel and its SAs.
    pub fn remove_tunnel(&mut self, id: TunnelId) {
        if let Some(tunnel) = self.tunnels.remove(&id) {
            self.crew.remove(tunnel.place);
            self.rebuild();
        }
    }

    /// Changes what the tunnel does while it has no SA.
    pub fn set_no_sa_action(&mut self, id: TunnelId, idle: NoSaAction) {
        if let Some(tunnel) = self.tunnels.get_mut(&id) {
            tunnel.idle = idle.outlet();
            if !matches!(**tunnel.lane.outlet.load(), EgressState::Open(_)) {
                tunnel.lane.switch(tunnel.idle.clone());
            }
        }
    }

    /// Opens packets of one more SA into the tunnel's device. Older inbound SAs of the tunnel stay until they are removed: what is
    /// still on its way arrives.
    pub fn install_inbound(&mut self, id: TunnelId, sa: Arc<Inbound>, params: InboundParams) {
        if let Some(tunnel) = self.tunnels.get_mut(&id) {
            let inlet = InboundEntry {
                lane: Arc::clone(&tunnel.lane),
                local: params.local,
                remote: Some(params.remote),
                clamp: MssClamp::to(params.mtu),
                watch: Arc::new(InboundEvents::new(params.first)),
            };
            tunnel.inbound.push((sa, inlet));
            self.rebuild();
        }
    }

    /// The tunnel's peer is somewhere else now: that is where its packets are expected from. Where outbound packets go is said by
    /// their [`EgressPath`].
    pub fn expect_from(&mut self, id: TunnelId, remote: SocketAddr) {
        if let Some(tunnel) = self.tunnels.get_mut(&id) {
            let inlets = tunnel.inbound.iter_mut().map(|(_, inlet)| inlet);
            for inlet in inlets.filter(|inlet| inlet.remote.is_some()) {
                inlet.remote = Some(remote);
            }
            self.rebuild();
        }
    }

    /// Only stragglers still come in over this SA: they say nothing about where the peer is.
    pub fn retire_inbound(&mut self, id: TunnelId, spi: u32) {
        if let Some(tunnel) = self.tunnels.get_mut(&id) {
            let inlets = tunnel.inbound.iter_mut();
            for (_, inlet) in inlets.filter(|(sa, _)| sa.spi() == spi) {
                inlet.remote = None;
            }
            self.rebuild();
        }
    }

    /// Packets with this SPI are refused from now on.
    pub fn remove_inbound(&mut self, id: TunnelId, spi: u32) {
        if let Some(tunnel) = self.tunnels.get_mut(&id) {
            tunnel.inbound.retain(|(sa, _)| sa.spi() != spi);
            self.rebuild();
        }
    }

    /// Sends the tunnel's packets along this path from now on; what has waited for it goes first.
    pub fn open(&mut self, id: TunnelId, path: EgressPath) {
        if let Some(tunnel) = self.tunnels.get(&id) {
            tunnel.lane.switch(EgressState::Open(path));
        }
    }

    /// Sends nothing more: packets are treated as before the first SA.
    pub fn close(&mut self, id: TunnelId) {
        if let Some(tunnel) = self.tunnels.get(&id) {
            tunnel.lane.switch(tunnel.idle.clone());
        }
    }

    /// The tunnel's counters.
    pub fn counters(&self, id: TunnelId) -> Option<&Counters> {
        self.tunnels.get(&id).map(|tunnel| &tunnel.lane.counters)
    }

    /// What the workers have spent on each stage of the road.
    pub fn step_totals(&self) -> &StepTotals {
        self.crew.step_totals()
    }

    /// The refusals of datagrams that belong to no tunnel.
    pub fn unmatched(&self) -> &PacketDropCounters {
        &self.unmatched
    }

    /// The super-packets that each tunnel's device takes, as things stand.
    pub fn devices(&self) -> impl Iterator<Item = (TunnelId, GsoSupport)> {
        let devices = self.tunnels.iter();
        devices.map(|(id, tunnel)| (*id, tunnel.lane.device.gso_support()))
    }

    /// What each socket of port 4500 leaves to the kernel, as things stand, by the address it is bound to.
    pub fn sockets(&self) -> impl Iterator<Item = (SocketAddr, SocketOffload)> {
        self.gates.offloads()
    }

    /// What the kernel does for many packets at once, as things stand: the least of all, and no more than is wanted.
    pub fn offload(&self, wanted: Offload) -> Offload {
        let (devices, sockets) = (self.devices(), self.sockets());
        Offload {
            trains: devices
                .map(|(_, has)| has)
                .fold(wanted.trains, GsoSupport::min),
            sockets: sockets
                .map(|(_, has)| has)
                .fold(wanted.sockets, SocketOffload::and),
        }
    }

    /// The socket of port 4500 that serves this local address.
    pub fn nat_socket(&self, local: IpAddr) -> Option<Arc<dyn Socket>> {
        self.gates.of(local).map(|gate| Arc::clone(&gate.nat))
    }

    /// The raw socket of native ESP that serves this local address.
    pub fn native_socket(&self, local: IpAddr) -> Option<Arc<dyn Socket>> {
        self.gates.native(local)
    }

    /// Sends a datagram of the control plane from the socket that `local` names by its address and port.
    ///
    /// # Errors
    /// `AddrNotAvailable` if no socket serves `local`; otherwise what the kernel says.
    pub fn transmit(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
        envelope: IkeFraming,
        bytes: &[u8],
    ) -> io::Result<()> {
        let gate = self
            .gates
            .of(local.ip())
            .ok_or(io::ErrorKind::AddrNotAvailable)?;
        let (socket, marker): (_, &[u8]) = match (local.port() == NAT_PORT, envelope) {
            (true, IkeFraming::NonEspMarker) => (&gate.nat, &[0; 4]),
            (true, IkeFraming::Plain) => (&gate.nat, &[]),
            (false, IkeFraming::NonEspMarker | IkeFraming::Plain) => (&gate.ike, &[]),
        };
        let datagram = [marker, bytes].concat();
        let mut batch = SendBatch::with_limit(1);
        let mut slot = batch
            .reserve(remote, local.ip(), 0, datagram.len())
            .ok_or(io::ErrorKind::InvalidInput)?;
        slot.bytes().copy_from_slice(&datagram);
        slot.commit(datagram.len());
        socket.send(&batch).map(|_| ())
    }

    /// Builds the table of inbound SAs anew and swaps it in.
    fn rebuild(&self) {
        let sas = self
            .tunnels
            .values()
            .flat_map(|tunnel| tunnel.inbound.iter().cloned());
        self.inlets
            .store(Arc::new(sas.collect::<Sad<InboundEntry>>()));
    }
}

impl TunnelShared {
    /// Swaps the outlet and has the worker look at it: packets may be waiting for it.
    fn switch(&self, outlet: EgressState) {
        self.outlet.store(Arc::new(outlet));
        self.waker.set();
    }
}

impl NoSaAction {
    fn outlet(self) -> EgressState {
        match self {
            NoSaAction::Drop => EgressState::Closed,
            NoSaAction::Trap(policy) => EgressState::Trap(policy),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{A, B, MTU, eventually, half, to_a, to_b};
    use super::super::{IKE_PORT, Notice};
    use super::*;
    use crate::esp::testing::{mirrored, policy};
    use crate::os::memory::{MemoryDevice, MemoryNetwork, MemorySocket};

    const ID: TunnelId = TunnelId(3);

    /// A running datapath of one address.
    struct Gateway {
        datapath: Datapath,
        notices: Notices,
        device: Arc<MemoryDevice>,
        nat: Arc<MemorySocket>,
    }

    fn gateway(network: &MemoryNetwork, address: IpAddr, idle: NoSaAction) -> Gateway {
        let bind = |port| Arc::new(network.bind(SocketAddr::new(address, port), 1000).unwrap());
        let (mut datapath, notices) = Datapath::new().unwrap();
        let device = Arc::new(MemoryDevice::new(1000).unwrap());
        let nat = bind(NAT_PORT);
        let group: [Arc<dyn Socket>; 1] = [nat.clone()];
        datapath.listen(bind(IKE_PORT), &group).unwrap();
        datapath.add_tunnel(ID, device.clone(), idle).unwrap();
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
            first: FirstPacket::Usual,
        }
    }

    #[test]
    fn two_datapaths_carry_traffic_both_ways_and_wake_for_a_new_sa() {
        let network = MemoryNetwork::new();
        let mut a = gateway(&network, A, NoSaAction::Trap(policy()));
        let mut b = gateway(&network, B, NoSaAction::Drop);

        // The first packet asks for a tunnel and waits for it.
        assert!(a.device.inject(&to_b(99)));
        assert_eq!(eventually(|| a.notices.next()), Notice::Demand(ID));

        let (a_out, b_in) = half("aes128-sha1", 1, policy());
        let (b_out, a_in) = half("aes128-sha1", 2, mirrored(policy()));
        let spi_ab = a_out.spi();
        a.datapath.install_inbound(ID, Arc::new(a_in), from(A, B));
        b.datapath.install_inbound(ID, Arc::new(b_in), from(B, A));
        b.datapath.open(ID, b.path(b_out, B, A));
        a.datapath.open(ID, a.path(a_out, A, B));
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

        b.datapath.close(ID);
        assert!(b.device.inject(&to_a(60)));
        eventually(|| {
            b.datapath
                .counters(ID)
                .filter(|c| c.refused.count(crate::net::DropReason::NoSa) == 1)
                .map(drop)
        });

        b.datapath.remove_inbound(ID, spi_ab);
        assert!(a.device.inject(&to_b(60)));
        let unknown = eventually(|| b.notices.next());
        assert!(matches!(unknown, Notice::UnknownSpi { spi, .. } if spi == spi_ab));
    }

    #[test]
    fn e05_one_spi_at_two_workers_is_opened_once_a_packet() {
        const PACKETS: usize = 2000;
        let network = MemoryNetwork::new();
        let (mut datapath, notices) = Datapath::new().unwrap();
        let bind = |port| Arc::new(network.bind(SocketAddr::new(B, port), 2 * PACKETS).unwrap());
        // In memory an address has one socket: the second of the group stands beside it.
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
        // From two ports, each packet to each socket, both at once.
        std::thread::scope(|scope| {
            for (port, socket) in (NAT_PORT..).zip(&sockets) {
                let (peer, sealed) = (SocketAddr::new(A, port), &sealed);
                scope.spawn(move || sealed.iter().all(|esp| socket.inject(peer, esp)));
            }
        });
        let counters = datapath.counters(ID).unwrap();
        let refused = || counters.refused.count(crate::net::DropReason::Replay);
        eventually(|| {
            Some(()).filter(|()| counters.rx.packets() + refused() == 2 * PACKETS as u64)
        });
        assert_eq!(refused(), PACKETS as u64);
        let mut delivered: Vec<_> = std::iter::from_fn(|| device.take()).collect();
        let mut expected = packets;
        delivered.sort();
        expected.sort();
        assert!(delivered == expected);
        drop(notices);
    }

    #[test]
    fn what_waits_is_refused_once_the_tunnel_is_taken_down() {
        let network = MemoryNetwork::new();
        let mut a = gateway(&network, A, NoSaAction::Trap(policy()));
        assert!(a.device.inject(&to_b(99)));
        eventually(|| a.notices.next());
        a.datapath.set_no_sa_action(ID, NoSaAction::Drop);
        eventually(|| {
            a.datapath
                .counters(ID)
                .filter(|c| c.refused.count(crate::net::DropReason::NoSa) == 1)
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
    fn a_datapath_that_is_dropped_ends_its_workers() {
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
        assert_eq!(datapath.reception.workers(), 2);

        // Each socket is heard.
        let remote = SocketAddr::new(B, IKE_PORT);
        for socket in &sockets {
            let mut message = vec![0; 60];
            message[24..28].copy_from_slice(&60_u32.to_be_bytes());
            if socket.local().port() != IKE_PORT {
                message.splice(..0, [0; 4]);
            }
            assert!(socket.inject(remote, &message));
            let local = socket.local();
            let heard = eventually(|| notices.next());
            assert!(
                matches!(&heard, Notice::Ike { local: at, .. } if *at == local),
                "{heard:?}"
            );
        }
    }
}
