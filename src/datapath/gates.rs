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
pub(super) struct Gates {
    gates: Vec<Gate>,
    /// The sockets of native ESP.
    natives: Vec<Arc<dyn Socket>>,
}

/// The sockets of one address.
pub(super) struct Gate {
    pub(super) ike: Arc<dyn Socket>,
    /// The one of port 4500 that also sends.
    pub(super) nat: Arc<dyn Socket>,
    /// The others of port 4500.
    others: Vec<Arc<dyn Socket>>,
}

impl Gate {
    pub(super) fn new(
        ike: Arc<dyn Socket>,
        nat: &Arc<dyn Socket>,
        others: &[Arc<dyn Socket>],
    ) -> Gate {
        Gate {
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

impl Gates {
    /// One more address is served.
    pub(super) fn add(&mut self, gate: Gate) {
        self.gates.push(gate);
    }

    /// One more address is served by native ESP, too.
    pub(super) fn add_native(&mut self, socket: Arc<dyn Socket>) {
        self.natives.push(socket);
    }

    /// The sockets bound to this address, or to every address of its family.
    pub(super) fn of(&self, local: IpAddr) -> Option<&Gate> {
        let bound = |gate: &Gate| gate.nat.local().ip();
        let everywhere =
            |gate: &&Gate| bound(gate).is_unspecified() && bound(gate).is_ipv4() == local.is_ipv4();
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
        self.gates.iter().flat_map(Gate::offloads)
    }
}
