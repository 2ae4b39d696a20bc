//! The sockets, and which of them serves which local address.
//!
//! ```text
//!   192.0.2.1     port 500     IKE
//!                 port 4500    a group: the first also sends, the others only hear
//!                 protocol 50  native ESP, where a tunnel may need it
//!   0.0.0.0       …            for the addresses that have none of their own
//! ```

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::os::{Socket, SocketOffload};

/// All of them.
#[derive(Default)]
pub(super) struct LocalSockets {
    gates: Vec<AddressSockets>,
    /// The sockets of native ESP.
    natives: Vec<Arc<dyn Socket>>,
}

/// The sockets of one address.
pub(super) struct AddressSockets {
    pub(super) ike: Arc<dyn Socket>,
    /// The one of port 4500 that also sends.
    pub(super) nat: Arc<dyn Socket>,
    /// The others of port 4500.
    others: Vec<Arc<dyn Socket>>,
}

impl AddressSockets {
    pub(super) fn new(
        ike: Arc<dyn Socket>,
        nat: &Arc<dyn Socket>,
        others: &[Arc<dyn Socket>],
    ) -> AddressSockets {
        AddressSockets {
            ike,
            nat: Arc::clone(nat),
            others: others.to_vec(),
        }
    }

    /// What each socket of port 4500 leaves to the kernel. Those that only hear are not asked how they send.
    fn offloads(&self) -> impl Iterator<Item = (SocketAddr, SocketOffload)> {
        let first = self.nat.offload();
        let others = self.others.iter().map(move |socket| SocketOffload {
            send: first.send,
            receive: socket.offload().receive,
        });
        let at = self.nat.local();
        std::iter::once(first)
            .chain(others)
            .map(move |offload| (at, offload))
    }
}

impl LocalSockets {
    /// One more address is served.
    pub(super) fn add(&mut self, gate: AddressSockets) {
        self.gates.push(gate);
    }

    /// One more address is served by native ESP, too.
    pub(super) fn add_native(&mut self, socket: Arc<dyn Socket>) {
        self.natives.push(socket);
    }

    /// The sockets bound to this address, or to every address of its family.
    pub(super) fn of(&self, local: IpAddr) -> Option<&AddressSockets> {
        let bound = |gate: &AddressSockets| gate.nat.local().ip();
        let everywhere = |gate: &&AddressSockets| {
            bound(gate).is_unspecified() && bound(gate).is_ipv4() == local.is_ipv4()
        };
        let gates = || self.gates.iter();
        let any = || {
            gates().find(|gate| local.is_unspecified() && bound(gate).is_ipv4() == local.is_ipv4())
        };
        gates()
            .find(|gate| bound(gate) == local)
            .or_else(|| gates().find(everywhere))
            .or_else(any)
    }

    /// The raw socket of native ESP that serves this local address.
    pub(super) fn native(&self, local: IpAddr) -> Option<Arc<dyn Socket>> {
        let bound = |native: &Arc<dyn Socket>| native.local().ip();
        let natives = || self.natives.iter();
        let everywhere = |native: &&Arc<dyn Socket>| {
            bound(native).is_unspecified() && bound(native).is_ipv4() == local.is_ipv4()
        };
        natives()
            .find(|native| bound(native) == local)
            .or_else(|| natives().find(everywhere))
            .map(Arc::clone)
    }

    /// What every socket that ESP in UDP comes to leaves to the kernel. Native ESP leaves nothing to it by design.
    pub(super) fn offloads(&self) -> impl Iterator<Item = (SocketAddr, SocketOffload)> {
        self.gates.iter().flat_map(AddressSockets::offloads)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{A, B};
    use super::super::{Datapath, IKE_PORT, NAT_PORT, NoSaAction, Offload, TunnelId};
    use super::*;
    use crate::os::memory::{MemoryDevice, MemoryNetwork};
    use crate::os::{GsoSupport, ReceiveOffload, SendOffload};

    const ID: TunnelId = TunnelId(3);

    #[test]
    fn what_is_offloaded_is_the_least_of_all_and_never_more_than_is_wanted() {
        let network = MemoryNetwork::new();
        let (mut datapath, _notices) = Datapath::new().unwrap();
        for wanted in [Offload::FULL, Offload::NONE] {
            assert_eq!(datapath.offload(wanted), wanted, "nothing is refused yet");
        }
        // In memory an address has one socket: the second of the group stands beside it.
        let bind = |port| Arc::new(network.bind(SocketAddr::new(B, port), 10).unwrap());
        let (first, second) = (bind(NAT_PORT), bind(NAT_PORT + 1));
        for socket in [&first, &second] {
            socket.set_offload(SocketOffload::FULL);
        }
        let group = [first.clone() as Arc<dyn Socket>, second.clone()];
        datapath.listen(bind(IKE_PORT), &group).unwrap();
        let device = Arc::new(MemoryDevice::new(10).unwrap());
        device.set_gso_support(GsoSupport::TcpAndUdp);
        datapath
            .add_tunnel(ID, device.clone(), NoSaAction::Drop)
            .unwrap();
        assert_eq!(datapath.offload(Offload::FULL), Offload::FULL);

        // The second only hears.
        second.set_offload(SocketOffload::NONE);
        device.set_gso_support(GsoSupport::Tcp);
        let at_work = datapath.offload(Offload::FULL);
        assert_eq!(at_work.trains, GsoSupport::Tcp);
        assert_eq!(at_work.sockets.send, SendOffload::Segments);
        assert_eq!(at_work.sockets.receive, ReceiveOffload::Single);
        first.set_offload(SocketOffload {
            send: SendOffload::Short,
            ..SocketOffload::FULL
        });
        let at_work = datapath.offload(Offload::FULL);
        assert_eq!(at_work.sockets.send, SendOffload::Short);
        assert_eq!(datapath.offload(Offload::NONE), Offload::NONE);
    }

    #[test]
    fn a_socket_is_found_by_address_then_by_family() {
        let network = MemoryNetwork::new();
        let (mut datapath, _notices) = Datapath::new().unwrap();
        let everywhere: IpAddr = "0.0.0.0".parse().unwrap();
        for address in [everywhere, A] {
            let bind = |port| Arc::new(network.bind(SocketAddr::new(address, port), 10).unwrap());
            datapath.listen(bind(IKE_PORT), &[bind(NAT_PORT)]).unwrap();
        }
        let found = |local: &str| {
            datapath
                .nat_socket(local.parse().unwrap())
                .map(|socket| socket.local().ip())
        };
        assert_eq!(found("192.0.2.1"), Some(A));
        assert_eq!(found("192.0.2.9"), Some(everywhere));
        assert_eq!(found("0.0.0.0"), Some(everywhere));
        assert_eq!(found("::"), None);
    }
}
