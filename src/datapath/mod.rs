//! The threads that carry packets between the tunnels' devices and the peers.
//!
//! ```text
//!              tables                                             notices (bounded queues)
//!                │                                                    ▲
//!   ┌────────────▼───────────────────────────────────────┐            │
//!   │ egress    device → seal → UDP or native ESP        │── Demand, NearEnd, Ended, DeviceGone
//!   │ ingress   UDP or native ESP → open → device        │── Ike, UnknownSpi, FirstPacket, PeerMoved, NearEnd, Ended
//!   └────────────────────────────────────────────────────┘
//! ```
//!
//! [`Datapath`] is the control plane's interface: it starts and ends the workers and changes their tables. A worker runs to completion:
//! it reads a batch, loads its tables once and takes every packet through all steps. The steps are listed in `egress` and `ingress`.
//! Every packet that is not carried is counted under one [`DropReason`](crate::net::DropReason).
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::panic,
        clippy::unreachable
    )
)]

mod counters;
mod dropped_requests;
mod early_packets;
mod egress;
#[cfg(test)]
mod gso_tests;
mod icmp_errors;
mod ingress;
pub mod loopback;
mod notice;
mod outer;
mod profile;
mod sa_events;
mod sockets;
mod tables;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod trap_queue;
mod workers;

pub use crate::net::TunnelId;
pub use counters::{Counters, PacketDropCounters, UNMATCHED_REASONS};
pub use notice::{ChildSpi, MAX_IKE_MESSAGE, Notice, Notices};
pub use profile::{ProfileStep, StepTotals};
pub use sa_events::FirstPacket;
pub use tables::EgressPath;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::esp::Inbound;
use crate::net::demux::NON_ESP_MARKER;
use crate::net::{NAT_PORT, Policy};
use crate::os::clock;
use crate::os::icmp_socket::IcmpSocket;
use crate::os::{Device, GsoSupport, SendBatch, Socket, SocketOffload};
use egress::TunnelEgress;
use ingress::{Ingress, IngressContext, Receives, SocketEntry};
use notice::NoticeSender;
use sa_events::InboundEvents;
use sockets::{AddressSockets, LocalSockets};
use tables::{EgressState, InboundEntry, InboundTable, MssClamp, TunnelShared};
use workers::{TunnelSlot, WorkerPool};

/// All workers, their tables and their counters. Dropping it ends the workers.
pub struct Datapath {
    notices: NoticeSender,
    inbound: Arc<InboundTable>,
    unmatched: Arc<PacketDropCounters>,
    sockets: LocalSockets,
    tunnels: BTreeMap<TunnelId, Tunnel>,
    icmp: Option<Arc<IcmpSocket>>,
    workers: WorkerPool,
    /// Opens the packets that have waited for their SA.
    held: IngressContext,
    /// The buffer of [`Datapath::transmit`].
    batch: Mutex<SendBatch>,
}

/// A tunnel as the control plane holds it.
struct Tunnel {
    shared: Arc<TunnelShared>,
    /// What its packets get while it has no SA.
    without_sa: EgressState,
    /// The SPIs of its inbound SAs.
    inbound: Vec<u32>,
    slot: TunnelSlot,
}

/// What a tunnel does with packets while it has no SA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoSaAction {
    /// Drop them.
    Drop,
    /// Keep the first packets within these selectors and ask for an SA (`start = "trap"`).
    Trap(Policy),
}

/// Parameters of an inbound SA besides its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InboundParams {
    /// Our outer address.
    pub local: IpAddr,
    /// The peer's outer address. Packets from elsewhere send [`Notice::PeerMoved`].
    pub remote: SocketAddr,
    /// The largest inner packet.
    pub mtu: u16,
    /// Whether the first packet sends [`Notice::FirstPacket`].
    pub first: FirstPacket,
}

/// Framing of a datagram of the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IkeFraming {
    /// An IKE message: behind the non-ESP marker on port 4500 (RFC 3948 §2.2).
    NonEspMarker,
    /// The bytes as they are: a NAT keepalive.
    Plain,
}

/// Offload to the kernel, over all devices and sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offload {
    /// GSO packets from and to the tunnels' devices.
    pub gso: GsoSupport,
    /// Segmentation and coalescing of datagrams.
    pub sockets: SocketOffload,
}

impl Offload {
    /// All offloads.
    pub const FULL: Offload = Offload {
        gso: GsoSupport::TcpAndUdp,
        sockets: SocketOffload::FULL,
    };

    /// No offload.
    pub const NONE: Offload = Offload {
        gso: GsoSupport::None,
        sockets: SocketOffload::NONE,
    };
}

/// Capacity of each of the two queues of notices.
const NOTICES: usize = 512;

impl Datapath {
    /// A datapath without sockets and tunnels, and the receiving end of its notices.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn new() -> io::Result<(Datapath, Notices)> {
        let (sender, notices) = notice::channel(NOTICES)?;
        let (inbound, unmatched) = (Arc::<InboundTable>::default(), Arc::default());
        let held =
            IngressContext::new(Arc::clone(&inbound), Arc::clone(&unmatched), sender.clone());
        let datapath = Datapath {
            notices: sender,
            held,
            inbound,
            unmatched,
            sockets: LocalSockets::default(),
            tunnels: BTreeMap::new(),
            icmp: None,
            workers: WorkerPool::default(),
            batch: Mutex::new(SendBatch::with_limit(1)),
        };
        Ok((datapath, notices))
    }

    /// Serves one address: its socket of port 500, and its sockets of port 4500 with a worker each. The first of port 4500 also sends.
    ///
    /// # Errors
    /// No thread or descriptor left, or no socket of port 4500.
    pub fn listen(&mut self, ike: Arc<dyn Socket>, nat: &[Arc<dyn Socket>]) -> io::Result<()> {
        let (first, others) = nat.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        self.serve(0, &ike, Receives::Ike)?;
        for (number, socket) in nat.iter().enumerate() {
            self.serve(number, socket, Receives::IkeAndEsp)?;
        }
        self.sockets.add(AddressSockets::new(ike, first, others));
        Ok(())
    }

    /// Serves native ESP (IP protocol 50) of one address, too.
    ///
    /// # Errors
    /// No thread or descriptor left.
    pub fn listen_native(&mut self, socket: Arc<dyn Socket>) -> io::Result<()> {
        self.serve(0, &socket, Receives::Esp)?;
        self.sockets.add_native(socket);
        Ok(())
    }

    /// Sends the ICMP errors of the tunnels that are added from now on through this socket, in the name of this machine.
    pub fn send_icmp_through(&mut self, socket: IcmpSocket) {
        self.icmp = Some(Arc::new(socket));
    }

    fn serve(
        &mut self,
        number: usize,
        socket: &Arc<dyn Socket>,
        receives: Receives,
    ) -> io::Result<()> {
        let entry = SocketEntry {
            socket: Arc::clone(socket),
            receives,
        };
        let ingress = self.ingress();
        self.workers.add_socket(number, entry, ingress)
    }

    /// Makes the ingress part of a new worker.
    fn ingress(&self) -> impl FnOnce() -> Ingress + use<> {
        let (table, unmatched) = (Arc::clone(&self.inbound), Arc::clone(&self.unmatched));
        let (notices, totals) = (self.notices.clone(), Arc::clone(self.workers.step_totals()));
        move || Ingress::new(table, unmatched, notices, totals)
    }

    /// Adds a tunnel without an SA. A tunnel with the same identifier is replaced.
    ///
    /// # Errors
    /// No thread or descriptor left.
    pub fn add_tunnel(
        &mut self,
        id: TunnelId,
        device: Arc<dyn Device>,
        action: NoSaAction,
    ) -> io::Result<()> {
        self.remove_tunnel(id);
        let without_sa = action.state();
        let icmp = self.icmp.clone();
        let shared = |waker| {
            Arc::new(TunnelShared {
                id,
                device,
                egress: ArcSwap::from_pointee(without_sa.clone()),
                counters: Arc::default(),
                icmp,
                waker,
            })
        };
        let ingress = self.ingress();
        let egress = |tunnel| TunnelEgress::new(tunnel, &self.notices);
        let (slot, shared) = self.workers.add_tunnel(ingress, shared, egress)?;
        let tunnel = Tunnel {
            shared,
            without_sa,
            inbound: Vec::new(),
            slot,
        };
        self.tunnels.insert(id, tunnel);
        Ok(())
    }

    /// Gives a tunnel another device, after another program has removed the old one. SAs and counters stay.
    ///
    /// # Errors
    /// No thread or descriptor left. The tunnel stays as it is.
    pub fn replace_device(&mut self, id: TunnelId, device: Arc<dyn Device>) -> io::Result<()> {
        let ingress = self.ingress();
        let Some(tunnel) = self.tunnels.get_mut(&id) else {
            return Ok(());
        };
        let old = Arc::clone(&tunnel.shared);
        let shared = |waker| {
            Arc::new(TunnelShared {
                id,
                device,
                egress: ArcSwap::new(old.egress.load_full()),
                counters: Arc::clone(&old.counters),
                icmp: old.icmp.clone(),
                waker,
            })
        };
        let egress = |tunnel| TunnelEgress::new(tunnel, &self.notices);
        let (slot, shared) = self.workers.add_tunnel(ingress, shared, egress)?;
        self.workers.remove_tunnel(tunnel.slot);
        for spi in &tunnel.inbound {
            self.inbound
                .update(*spi, &old, |entry| entry.tunnel = Arc::clone(&shared));
        }
        (tunnel.slot, tunnel.shared) = (slot, shared);
        Ok(())
    }

    /// Removes a tunnel and its SAs.
    pub fn remove_tunnel(&mut self, id: TunnelId) {
        if let Some(tunnel) = self.tunnels.remove(&id) {
            self.workers.remove_tunnel(tunnel.slot);
            self.inbound.early.forget(id);
            for spi in tunnel.inbound {
                self.inbound.remove(spi, &tunnel.shared);
            }
        }
    }

    /// Changes what the tunnel does while it has no SA.
    pub fn set_no_sa_action(&mut self, id: TunnelId, action: NoSaAction) {
        if let Some(tunnel) = self.tunnels.get_mut(&id) {
            tunnel.without_sa = action.state();
            if !matches!(**tunnel.shared.egress.load(), EgressState::Open(_)) {
                tunnel.set_egress(tunnel.without_sa.clone());
            }
        }
    }

    /// Keeps packets for an SPI that the peer is about to learn, until the SA is installed: the peer may send before its response arrives.
    pub fn announce_inbound(&self, id: TunnelId, spi: u32) {
        if let Some(tunnel) = self.tunnels.get(&id) {
            let counters = &tunnel.shared.counters;
            self.inbound
                .early
                .announce(spi, (id, counters), clock::now());
        }
    }

    /// Adds an inbound SA to the tunnel, and opens the packets that have waited for it. Its older inbound SAs stay until they are removed, so that packets in flight arrive.
    pub fn install_inbound(&mut self, id: TunnelId, sa: Arc<Inbound>, params: InboundParams) {
        if let Some(tunnel) = self.tunnels.get_mut(&id) {
            let spi = sa.spi();
            tunnel.inbound.push(spi);
            self.inbound.insert(InboundEntry {
                sa,
                tunnel: Arc::clone(&tunnel.shared),
                local: params.local,
                remote: Some(params.remote),
                clamp: MssClamp::for_mtu(params.mtu),
                events: Arc::new(InboundEvents::new(params.first)),
            });
            let now = clock::now();
            let held = self.inbound.early.take(spi, now);
            if !held.is_empty() {
                self.held.open_held(spi, held, now);
            }
        }
    }

    /// Changes the address from which the tunnel's peer is expected. Where outbound packets go is part of their [`EgressPath`].
    pub fn set_peer_address(&mut self, id: TunnelId, remote: SocketAddr) {
        if let Some(tunnel) = self.tunnels.get(&id) {
            for spi in &tunnel.inbound {
                self.inbound.update(*spi, &tunnel.shared, |entry| {
                    entry.remote = entry.remote.and(Some(remote));
                });
            }
        }
    }

    /// Changes the largest inner packet that an inbound SA lets TCP connections use.
    pub fn set_inbound_mtu(&mut self, id: TunnelId, spi: u32, mtu: u16) {
        if let Some(tunnel) = self.tunnels.get(&id) {
            self.inbound.update(spi, &tunnel.shared, |entry| {
                entry.clamp = MssClamp::for_mtu(mtu);
            });
        }
    }

    /// Marks an inbound SA as replaced: its late packets are carried but no longer show where the peer is.
    pub fn retire_inbound(&mut self, id: TunnelId, spi: u32) {
        if let Some(tunnel) = self.tunnels.get(&id) {
            self.inbound
                .update(spi, &tunnel.shared, |entry| entry.remote = None);
        }
    }

    /// Removes an inbound SA.
    pub fn remove_inbound(&mut self, id: TunnelId, spi: u32) {
        if let Some(tunnel) = self.tunnels.get_mut(&id) {
            tunnel.inbound.retain(|known| *known != spi);
            self.inbound.remove(spi, &tunnel.shared);
        }
    }

    /// Seals the tunnel's packets under the first of these outbound SAs whose selectors cover them. Trapped packets leave first.
    pub fn set_outbound(&mut self, id: TunnelId, paths: Vec<EgressPath>) {
        if let Some(tunnel) = self.tunnels.get(&id) {
            tunnel.set_egress(EgressState::Open(paths));
        }
    }

    /// Removes the tunnel's outbound SAs: its packets are treated as before the first SA.
    pub fn clear_outbound(&mut self, id: TunnelId) {
        if let Some(tunnel) = self.tunnels.get(&id) {
            tunnel.set_egress(tunnel.without_sa.clone());
        }
    }

    /// The tunnel's counters.
    pub fn counters(&self, id: TunnelId) -> Option<&Counters> {
        self.tunnels.get(&id).map(|tunnel| &*tunnel.shared.counters)
    }

    /// Ticks that the workers have spent, by step.
    pub fn step_totals(&self) -> &StepTotals {
        self.workers.step_totals()
    }

    /// Counters of dropped packets that belong to no tunnel.
    pub fn unmatched(&self) -> &PacketDropCounters {
        &self.unmatched
    }

    /// The GSO packets that each tunnel's device takes at present.
    pub fn devices(&self) -> impl Iterator<Item = (TunnelId, GsoSupport)> {
        let tunnels = self.tunnels.iter();
        tunnels.map(|(id, tunnel)| (*id, tunnel.shared.device.gso_support()))
    }

    /// The present offload of each socket of port 4500, by the address that it is bound to.
    pub fn sockets(&self) -> impl Iterator<Item = (SocketAddr, SocketOffload)> {
        self.sockets.offloads()
    }

    /// The present offload: what all devices and sockets have in common, and no more than `configured`.
    pub fn offload(&self, configured: Offload) -> Offload {
        let (devices, sockets) = (self.devices(), self.sockets());
        Offload {
            gso: devices
                .map(|(_, gso)| gso)
                .fold(configured.gso, GsoSupport::min),
            sockets: sockets
                .map(|(_, offload)| offload)
                .fold(configured.sockets, SocketOffload::and),
        }
    }

    /// The socket of port 4500 that serves this local address.
    pub fn nat_socket(&self, local: IpAddr) -> Option<Arc<dyn Socket>> {
        self.sockets
            .serving(local)
            .map(|sockets| Arc::clone(&sockets.nat))
    }

    /// The raw socket of native ESP that serves this local address.
    pub fn native_socket(&self, local: IpAddr) -> Option<Arc<dyn Socket>> {
        self.sockets.native(local)
    }

    /// Sends a datagram of the control plane from the socket with this local address and port.
    ///
    /// # Errors
    /// `AddrNotAvailable` if no socket serves `local`; otherwise the kernel's error.
    pub fn transmit(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
        framing: IkeFraming,
        bytes: &[u8],
    ) -> io::Result<()> {
        let sockets = self
            .sockets
            .serving(local.ip())
            .ok_or(io::ErrorKind::AddrNotAvailable)?;
        let (socket, marker): (_, &[u8]) = match (local.port() == NAT_PORT, framing) {
            (true, IkeFraming::NonEspMarker) => (&sockets.nat, &NON_ESP_MARKER),
            (true, IkeFraming::Plain) => (&sockets.nat, &[]),
            (false, IkeFraming::NonEspMarker | IkeFraming::Plain) => (&sockets.ike, &[]),
        };
        let len = marker.len().saturating_add(bytes.len());
        let mut batch = self.batch.lock().unwrap_or_else(PoisonError::into_inner);
        batch.clear();
        let mut slot = batch
            .reserve(remote, local.ip(), 0, len)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let (front, rest) = slot
            .bytes()
            .split_at_mut_checked(marker.len())
            .ok_or(io::ErrorKind::InvalidInput)?;
        front.copy_from_slice(marker);
        rest.copy_from_slice(bytes);
        slot.commit(len);
        socket.send(&batch).map(|_| ())
    }
}

impl Tunnel {
    /// Changes the egress state and wakes the worker: packets may be trapped.
    fn set_egress(&self, state: EgressState) {
        self.shared.egress.store(Arc::new(state));
        self.shared.waker.set();
    }
}

impl NoSaAction {
    fn state(self) -> EgressState {
        match self {
            NoSaAction::Drop => EgressState::Closed,
            NoSaAction::Trap(policy) => EgressState::Trap(policy),
        }
    }
}
