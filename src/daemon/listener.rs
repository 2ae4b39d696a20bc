//! Sockets of the local addresses, opened when a tunnel needs them: UDP 500 and 4500, and a raw socket for native ESP.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use tracing::{debug, warn};

use super::start_error::StartError;
use crate::config::TunnelSettings;
use crate::datapath::Datapath;
use crate::ike::{Encapsulation, Peer};
use crate::net::{IKE_PORT, NAT_PORT};
use crate::os::raw_esp::RawEspSocket;
use crate::os::udp::{self, BindError, UdpSocket};
use crate::os::{Socket, SocketOffload, sysctl};

/// Opens the sockets of the datapath.
#[derive(Debug)]
pub(super) struct Listener {
    offload: SocketOffload,
    /// Wildcard addresses that tunnels bind: one covers all other addresses of its family.
    wildcards: BTreeSet<IpAddr>,
    /// Addresses with UDP sockets.
    udp: BTreeSet<IpAddr>,
    /// Addresses with a raw socket.
    native: BTreeSet<IpAddr>,
    /// Whether the missing capability for raw sockets has been logged.
    has_warned: bool,
}

/// Why the sockets of a tunnel could not be opened.
#[derive(Debug)]
pub(super) enum ListenError {
    /// The address or its family is missing at present: the tunnel waits for it.
    Unavailable(StartError),
    /// A permission is missing, or another program has the port.
    Fatal(StartError),
}

impl Listener {
    /// A listener without sockets for these tunnels.
    pub(super) fn new(tunnels: &[TunnelSettings], offload: SocketOffload) -> Listener {
        let locals = tunnels.iter().map(|tunnel| tunnel.ike.local);
        let mut wildcards: BTreeSet<IpAddr> = locals.filter(IpAddr::is_unspecified).collect();
        if tunnels.iter().any(|tunnel| other_family(tunnel).is_some()) {
            wildcards.extend(ANY);
        }
        Listener {
            offload,
            wildcards,
            udp: BTreeSet::new(),
            native: BTreeSet::new(),
            has_warned: false,
        }
    }

    /// Opens the sockets that a tunnel needs and that are not open yet. `present` are the addresses of this host. Without CAP_NET_RAW,
    /// `encapsulation = "auto"` becomes `udp`, which works with and without NAT.
    ///
    /// # Errors
    /// See [`ListenError`].
    pub(super) fn serve(
        &mut self,
        tunnel: &mut TunnelSettings,
        present: &BTreeSet<IpAddr>,
        datapath: &mut Datapath,
    ) -> Result<(), ListenError> {
        let local = tunnel.ike.local;
        // Binding the wildcard address would not report a local address that is missing.
        if !local.is_unspecified() && !present.contains(&local) && !allows_nonlocal(local) {
            return Err(BindError::AddressNotHere { address: local }.into());
        }
        // A name may have addresses of both families. Without IPv6 those of IPv4 do.
        if let Some(other) = other_family(tunnel).filter(|other| !self.udp.contains(other)) {
            match self.listen(other, datapath) {
                Ok(()) => {
                    self.udp.insert(other);
                }
                Err(ListenError::Unavailable(error)) => debug!(%error, "only one family"),
                Err(error @ ListenError::Fatal(_)) => return Err(error),
            }
        }
        let address = self.bind_address(local);
        if !self.udp.contains(&address) {
            self.listen(address, datapath)?;
            self.udp.insert(address);
        }
        let may_be_native = match tunnel.ike.encapsulation {
            Encapsulation::Auto | Encapsulation::Esp => true,
            Encapsulation::Udp => false,
        };
        if !may_be_native || self.native.contains(&address) {
            return Ok(());
        }
        match RawEspSocket::open(address) {
            Ok(socket) => {
                let listening = datapath.listen_native(Arc::new(socket));
                listening.map_err(out_of_resources)?;
                self.native.insert(address);
                debug!(%address, "listening on IP protocol 50");
                Ok(())
            }
            Err(error @ BindError::NoRawSockets)
                if tunnel.ike.encapsulation == Encapsulation::Auto =>
            {
                if !std::mem::replace(&mut self.has_warned, true) {
                    warn!("{error}; tunnels with `encapsulation = \"auto\"` use UDP");
                }
                tunnel.ike.encapsulation = Encapsulation::Udp;
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn listen(&self, address: IpAddr, datapath: &mut Datapath) -> Result<(), ListenError> {
        let ike = UdpSocket::bind(SocketAddr::new(address, IKE_PORT), self.offload)?;
        let nat = SocketAddr::new(address, NAT_PORT);
        let nats = udp::bind_group(nat, self.offload, worker_count())?;
        let nats: Vec<Arc<dyn Socket>> = nats.into_iter().map(shared).collect();
        let listening = datapath.listen(shared(ike), &nats);
        listening.map_err(out_of_resources)?;
        debug!(%address, workers = nats.len(), "listening on UDP 500 and 4500");
        Ok(())
    }

    /// Address to bind for a tunnel with this local address.
    fn bind_address(&self, local: IpAddr) -> IpAddr {
        let wildcard = match local {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        if self.wildcards.contains(&wildcard) {
            wildcard
        } else {
            local
        }
    }
}

/// The wildcard addresses of both families.
const ANY: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    IpAddr::V6(Ipv6Addr::UNSPECIFIED),
];

/// Wildcard address of the family other than that of the local address, if the tunnel may use both families.
fn other_family(tunnel: &TunnelSettings) -> Option<IpAddr> {
    let is_name = match tunnel.ike.peer {
        Peer::Name(_) => true,
        Peer::Address(_) => false,
    };
    let local = tunnel.ike.local;
    let mut any = ANY.into_iter();
    any.find(|any| is_name && local.is_unspecified() && *any != local)
}

impl From<BindError> for ListenError {
    fn from(error: BindError) -> ListenError {
        match error {
            BindError::AddressNotHere { .. } | BindError::Io { .. } => {
                ListenError::Unavailable(error.into())
            }
            BindError::PortInUse { .. }
            | BindError::Permission { .. }
            | BindError::NoRawSockets => ListenError::Fatal(error.into()),
        }
    }
}

fn out_of_resources(error: std::io::Error) -> ListenError {
    ListenError::Fatal(StartError::out_of_resources(error))
}

/// Whether the administrator lets programs bind addresses that this host does not have yet (`ip_nonlocal_bind`).
fn allows_nonlocal(address: IpAddr) -> bool {
    let family = match address {
        IpAddr::V4(_) => "ipv4",
        IpAddr::V6(_) => "ipv6",
    };
    sysctl::read(&format!("net/{family}/ip_nonlocal_bind")).is_ok_and(|value| value.trim() == "1")
}

fn shared(socket: UdpSocket) -> Arc<dyn Socket> {
    Arc::new(socket)
}

/// Number of workers that receive on port 4500: one a core, up to 8.
fn worker_count() -> usize {
    const MAX: usize = 8;
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcard_address_covers_its_own_family_only() {
        let bound = |wildcards: &[&str], local: &str| {
            let listener = Listener {
                offload: SocketOffload::NONE,
                wildcards: wildcards.iter().map(|any| any.parse().unwrap()).collect(),
                udp: BTreeSet::new(),
                native: BTreeSet::new(),
                has_warned: false,
            };
            listener.bind_address(local.parse().unwrap()).to_string()
        };
        assert_eq!(bound(&[], "10.0.0.5"), "10.0.0.5");
        assert_eq!(bound(&["0.0.0.0"], "10.0.0.5"), "0.0.0.0");
        assert_eq!(bound(&["0.0.0.0"], "2001:db8::1"), "2001:db8::1");
        assert_eq!(bound(&["0.0.0.0", "::"], "2001:db8::1"), "::");
    }
}
