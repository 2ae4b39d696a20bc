//! The sockets of the gateway, by the local address that they serve.
//!
//! ```text
//!   192.0.2.1     port 500     IKE
//!                 port 4500    a group of sockets: all receive, the first also sends
//!                 protocol 50  native ESP, where a tunnel may need it
//!   0.0.0.0       …            serves the addresses that have no sockets of their own
//! ```

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::os::{Socket, SocketOffload};

/// The sockets of all addresses.
#[derive(Default)]
pub(super) struct LocalSockets {
    addresses: Vec<AddressSockets>,
    /// Native ESP.
    native: Vec<Arc<dyn Socket>>,
}

/// The UDP sockets of one address.
pub(super) struct AddressSockets {
    pub(super) ike: Arc<dyn Socket>,
    /// The socket of port 4500 that also sends.
    pub(super) nat: Arc<dyn Socket>,
    /// The other sockets of port 4500.
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

    /// The present offload of each socket of port 4500. The first socket's send offload counts for all, since the others only receive.
    fn offloads(&self) -> impl Iterator<Item = (SocketAddr, SocketOffload)> {
        let first = self.nat.offload();
        let others = self.others.iter().map(move |socket| SocketOffload {
            send: first.send,
            receive: socket.offload().receive,
        });
        let local = self.nat.local();
        std::iter::once(first)
            .chain(others)
            .map(move |offload| (local, offload))
    }
}

impl LocalSockets {
    /// Adds the sockets of one address.
    pub(super) fn add(&mut self, sockets: AddressSockets) {
        self.addresses.push(sockets);
    }

    /// Adds a socket of native ESP.
    pub(super) fn add_native(&mut self, socket: Arc<dyn Socket>) {
        self.native.push(socket);
    }

    /// The UDP sockets that serve this local address. An unspecified address is served by any socket of its family.
    pub(super) fn serving(&self, local: IpAddr) -> Option<&AddressSockets> {
        let bound = |sockets: &AddressSockets| sockets.nat.local().ip();
        let any = |sockets: &&AddressSockets| {
            local.is_unspecified() && bound(sockets).is_ipv4() == local.is_ipv4()
        };
        best(&self.addresses, local, bound).or_else(|| self.addresses.iter().find(any))
    }

    /// The raw socket of native ESP that serves this local address.
    pub(super) fn native(&self, local: IpAddr) -> Option<Arc<dyn Socket>> {
        best(&self.native, local, |socket| socket.local().ip()).map(Arc::clone)
    }

    /// The present offload of every socket of port 4500. Native ESP has no offload by design.
    pub(super) fn offloads(&self) -> impl Iterator<Item = (SocketAddr, SocketOffload)> {
        self.addresses.iter().flat_map(AddressSockets::offloads)
    }
}

/// The one that is bound to `local`, or else to the unspecified address of the same family.
fn best<T>(sockets: &[T], local: IpAddr, bound: impl Fn(&T) -> IpAddr) -> Option<&T> {
    let wildcard =
        |socket: &&T| bound(socket).is_unspecified() && bound(socket).is_ipv4() == local.is_ipv4();
    let exact = sockets.iter().find(|socket| bound(socket) == local);
    exact.or_else(|| sockets.iter().find(wildcard))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{A, B};
    use super::super::{Datapath, NoSaAction, Offload, TunnelId};
    use super::*;
    use crate::net::{IKE_PORT, NAT_PORT};
    use crate::os::memory::{MemoryDevice, MemoryNetwork};
    use crate::os::{GsoSupport, ReceiveOffload, SendOffload};

    const ID: TunnelId = TunnelId(3);

    #[test]
    fn offload_is_what_all_have_in_common_and_no_more_than_configured() {
        let network = MemoryNetwork::new();
        let (mut datapath, _notices) = Datapath::new().unwrap();
        for wanted in [Offload::FULL, Offload::NONE] {
            assert_eq!(datapath.offload(wanted), wanted, "no socket or device yet");
        }
        // An address has one socket in memory: another port stands for the second socket of the group.
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

        // The second socket only receives.
        second.set_offload(SocketOffload::NONE);
        device.set_gso_support(GsoSupport::Tcp);
        let offload = datapath.offload(Offload::FULL);
        assert_eq!(offload.gso, GsoSupport::Tcp);
        assert_eq!(offload.sockets.send, SendOffload::Segments);
        assert_eq!(offload.sockets.receive, ReceiveOffload::Single);
        first.set_offload(SocketOffload {
            send: SendOffload::Short,
            ..SocketOffload::FULL
        });
        let offload = datapath.offload(Offload::FULL);
        assert_eq!(offload.sockets.send, SendOffload::Short);
        assert_eq!(datapath.offload(Offload::NONE), Offload::NONE);
    }

    #[test]
    fn a_socket_is_found_by_address_then_by_family() {
        let network = MemoryNetwork::new();
        let (mut datapath, _notices) = Datapath::new().unwrap();
        let wildcard: IpAddr = "0.0.0.0".parse().unwrap();
        for address in [wildcard, A] {
            let bind = |port| Arc::new(network.bind(SocketAddr::new(address, port), 10).unwrap());
            datapath.listen(bind(IKE_PORT), &[bind(NAT_PORT)]).unwrap();
        }
        let found = |local: &str| {
            datapath
                .nat_socket(local.parse().unwrap())
                .map(|socket| socket.local().ip())
        };
        assert_eq!(found("192.0.2.1"), Some(A));
        assert_eq!(found("192.0.2.9"), Some(wildcard));
        assert_eq!(found("0.0.0.0"), Some(wildcard));
        assert_eq!(found("::"), None);
    }
}
