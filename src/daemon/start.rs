//! From a configuration to a gateway that runs, or to one clear reason why not.
//!
//! Nothing of the machine is changed before everything that can be in use by somebody else is ours: the control socket first,
//! then the ports. Routes that a killed daemon has left stay until the loop makes its own, which takes away what does not fit:
//! they may be all that keeps packets from leaking, and remain so if the start fails.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use tracing::{debug, info, warn};

use super::child_sas::ChildSas;
use super::control_plane::ControlPlane;
use super::event_loop::EventLoop;
use super::install::{FIRST_MTU, Tunnel, lane};
use super::offload_fallback::OffloadFallback;
use super::rekey_loss::RekeyLoss;
use super::report::Reporter;
use super::route_sync::RouteSync;
use super::routing::Routing;
use super::{Options, StartError, lookup};
use crate::config::{self, ConfigReport, Configuration, LoadOptions, Mtu, SecretPolicy, Severity};
use crate::control;
use crate::crypto::Generator;
use crate::datapath::{Datapath, IKE_PORT, NAT_PORT, NoSaAction, Offload};
use crate::ike::{Encapsulation, Endpoint, Peer, TunnelId};
use crate::os::netlink::Netlink;
use crate::os::privileges::{self, Capability};
use crate::os::raw_esp::RawEspSocket;
use crate::os::tun::{self, Carrier, Tun};
use crate::os::udp::{self, BindError, UdpSocket};
use crate::os::{OffloadMode, Socket, SocketOffload, clock, process, sysctl, systemd};

/// A configuration that may be run.
pub(super) struct ValidConfig {
    pub(super) settings: Configuration,
    pub(super) report: ConfigReport,
}

/// Requests of the control socket that may wait for the loop.
const REQUESTS: usize = 32;

/// Reads the configuration and the secrets it names.
pub(super) fn configuration(file: &Path) -> Result<ValidConfig, StartError> {
    let environment = LoadOptions {
        credentials: systemd::credentials_directory(),
        secrets: SecretPolicy::Required,
    };
    let loaded = config::load(file, &environment);
    match loaded.settings {
        Some(settings) if loaded.report.is_valid() => Ok(ValidConfig {
            settings,
            report: loaded.report,
        }),
        Some(_) | None => Err(StartError::Configuration(loaded.report)),
    }
}

/// Logs what could be better in the configuration.
pub(super) fn warn(report: &ConfigReport, file: &Path) {
    for finding in report.findings() {
        match finding.severity {
            Severity::Warning => {
                warn!(file = %file.display(), advice = finding.advice, "{}", finding.what)
            }
            Severity::Note | Severity::Lint | Severity::Error => {
                info!(file = %file.display(), advice = finding.advice, "{}", finding.what);
            }
        }
    }
}

/// Makes everything a gateway needs of the machine. Must be called inside the runtime.
pub(super) fn gateway(config: ValidConfig, options: &Options) -> Result<EventLoop, StartError> {
    let Configuration {
        gateway: ours,
        tunnels: mut configured,
    } = config.settings;
    preflight()?;
    if let Err(error) = process::raise_fd_limit() {
        debug!(%error, "as many descriptors as before have to do");
    }
    let control = options.socket.clone().unwrap_or(ours.control);
    let listener = control::listen(&control)?;
    let mut netlink = Netlink::open()?;
    let (mut datapath, notices) = Datapath::new().map_err(no_room)?;
    let (offloading, wanted) = (ours.offload, offload(ours.offload));
    listen(
        &configured,
        &mut netlink,
        &mut datapath,
        tried(wanted.sockets),
    )?;
    listen_native(&mut configured, &mut datapath)?;
    let (route_sync, routes) = RouteSync::start()?;
    let now = clock::now();
    let mut endpoint = Endpoint::new(Generator::from_seed(seed()?));
    let mut tunnels = BTreeMap::new();
    for (number, settings) in (0..).zip(configured) {
        let id = TunnelId(number);
        let tunnel = tunnel(id, settings, &mut netlink, offloading)?;
        datapath
            .add_tunnel(lane(id), tunnel.device.clone(), NoSaAction::Drop)
            .map_err(no_room)?;
        endpoint.add_tunnel(now, id, tunnel.settings.ike.clone());
        tunnels.insert(id, tunnel);
    }
    let (sender, requests) = control::channel(REQUESTS);
    tokio::spawn(control::serve(listener, sender));
    let (lookups, answers) = lookup::lookups();
    info!(
        version = env!("CARGO_PKG_VERSION"),
        tunnels = tunnels.len(),
        control = %control.display(),
        "groundlink has started"
    );
    let core = ControlPlane {
        started: now,
        endpoint,
        datapath,
        netlink,
        tunnels,
        lookups,
        reporter: Reporter::default(),
        routing: Routing::new(route_sync),
        fallback: OffloadFallback::new(wanted),
    };
    EventLoop::new(core, notices, routes, requests, answers).map_err(no_room)
}

/// What must be there before anything is touched, and what should be.
fn preflight() -> Result<(), StartError> {
    if let Err(error) = privileges::disable_core_dumps() {
        warn!(%error, "core dumps cannot be turned off: one would hold keys");
    }
    drop(tun::open_node()?);
    let needed = Capability::NetAdmin;
    if !needed.is_held() {
        let what = format!(
            "no permission to make devices and routes: {} is missing",
            needed.name()
        );
        let advice = format!(
            "run as root, or under systemd with AmbientCapabilities={} {}",
            needed.name(),
            Capability::NetBindService.name()
        );
        return Err(StartError::start(what, advice));
    }
    for finding in sysctl::findings() {
        warn!("{finding}");
    }
    Ok(())
}

/// The offloads requested from the kernel.
fn offload(configured: OffloadMode) -> Offload {
    match configured {
        OffloadMode::Off => Offload::NONE,
        OffloadMode::Auto => Offload::FULL,
    }
}

/// What the sockets are asked for: not what a trial has shown not to work.
fn tried(wanted: SocketOffload) -> SocketOffload {
    if wanted == SocketOffload::NONE {
        return wanted;
    }
    match udp::probe_gso() {
        Ok(works) => works.and(wanted),
        Err(error) => {
            info!(%error, "trains of datagrams could not be tried on the loopback device, which says nothing about them: they are used until the kernel refuses one");
            wanted
        }
    }
}

/// Binds both ports once for every local address, and for every family where a tunnel leaves the address open.
fn listen(
    tunnels: &[config::TunnelSettings],
    netlink: &mut Netlink,
    datapath: &mut Datapath,
    wanted: SocketOffload,
) -> Result<(), StartError> {
    let ours: BTreeSet<IpAddr> = netlink
        .addresses()?
        .iter()
        .map(|host| host.address)
        .collect();
    // A socket on all addresses would not notice that one of them is not there.
    let missing = |address: &IpAddr| !address.is_unspecified() && !ours.contains(address);
    if let Some(tunnel) = tunnels.iter().find(|tunnel| missing(&tunnel.ike.local)) {
        let address = tunnel.ike.local;
        return Err(StartError::from(BindError::AddressNotHere { address }).of_tunnel(&tunnel.name));
    }
    for address in to_bind(tunnels.iter().map(|tunnel| tunnel.ike.local)) {
        let ike = UdpSocket::bind(SocketAddr::new(address, IKE_PORT), wanted)?;
        let nats = udp::bind_group(SocketAddr::new(address, NAT_PORT), wanted, workers())?;
        let nats: Vec<_> = nats.into_iter().map(shared).collect();
        datapath.listen(shared(ike), &nats).map_err(no_room)?;
        debug!(%address, workers = nats.len(), "listening on UDP 500 and 4500");
    }
    Ok(())
}

/// Opens a raw socket for native ESP for every address of a tunnel that may need it. Where that is not ours to do, tunnels that can
/// do without (`auto`) do, and others cannot be had.
fn listen_native(
    tunnels: &mut [config::TunnelSettings],
    datapath: &mut Datapath,
) -> Result<(), StartError> {
    let may_need = |tunnel: &&config::TunnelSettings| match tunnel.ike.encapsulation {
        Encapsulation::Auto | Encapsulation::Esp => true,
        Encapsulation::Udp => false,
    };
    let locals = tunnels.iter().filter(may_need);
    for address in to_bind(locals.map(|tunnel| tunnel.ike.local)) {
        match RawEspSocket::open(address) {
            Ok(socket) => {
                datapath.listen_native(Arc::new(socket)).map_err(no_room)?;
                debug!(%address, "listening on IP protocol 50");
            }
            Err(error @ BindError::NoRawSockets) => return do_without_native(tunnels, error),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// No raw sockets: `auto` becomes `udp`, which works with and without NAT.
fn do_without_native(
    tunnels: &mut [config::TunnelSettings],
    error: BindError,
) -> Result<(), StartError> {
    let insists = |tunnel: &&config::TunnelSettings| tunnel.ike.encapsulation == Encapsulation::Esp;
    if let Some(tunnel) = tunnels.iter().find(insists) {
        return Err(StartError::from(error).of_tunnel(&tunnel.name));
    }
    warn!("{error}; until then tunnels with `encapsulation = \"auto\"` use UDP");
    for tunnel in tunnels {
        tunnel.ike.encapsulation = Encapsulation::Udp;
    }
    Ok(())
}

fn shared(socket: UdpSocket) -> Arc<dyn Socket> {
    Arc::new(socket)
}

/// How many workers receive on port 4500: one for each core, within reason.
fn workers() -> usize {
    const MOST: usize = 8;
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(MOST))
}

/// The addresses to bind: one that stands for all of its family covers the others.
fn to_bind(locals: impl Iterator<Item = IpAddr>) -> BTreeSet<IpAddr> {
    let all: BTreeSet<IpAddr> = locals.collect();
    let any = |family: &IpAddr| match family {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    all.iter()
        .filter(|address| address.is_unspecified() || !all.contains(&any(address)))
        .copied()
        .collect()
}

/// A tunnel's device, ready but without carrier.
fn tunnel(
    id: TunnelId,
    settings: config::TunnelSettings,
    netlink: &mut Netlink,
    offloading: OffloadMode,
) -> Result<Tunnel, StartError> {
    let make = |netlink: &mut Netlink| -> Result<(Tun, u16), StartError> {
        let device = Tun::create(&settings.device, offloading)?;
        let mtu = match settings.mtu {
            Mtu::Fixed(mtu) => mtu,
            Mtu::Auto { .. } => FIRST_MTU,
        };
        // Before it is up: afterwards the kernel has already asked for routers.
        quieten(device.name());
        netlink.prepare_tunnel(device.index(), mtu.into())?;
        if let Some(inside) = settings.inside {
            netlink.add_address(device.index(), inside.address, inside.length)?;
        }
        device
            .set_carrier(Carrier::Down)
            .map_err(|error| StartError::start(format!("setting the carrier: {error}"), ""))?;
        Ok((device, mtu))
    };
    let (device, mtu) = make(netlink).map_err(|failure| failure.of_tunnel(&settings.name))?;
    let peer = match settings.ike.peer {
        Peer::Address(address) => Some(address),
        Peer::Name(_) => None,
    };
    Ok(Tunnel {
        settings,
        device: Arc::new(device),
        children: ChildSas::of(lane(id)),
        losses: RekeyLoss::default(),
        mtu,
        peer,
        heard: None,
        sent: None,
        gone: false,
        waits: false,
    })
}

/// What the daemon may set on its own device and need not ask for.
fn quieten(device: &str) {
    if let Err(error) = sysctl::loosen_reverse_path_filter(device) {
        warn!(device, %error, "the reverse-path filter cannot be loosened: what comes back through another tunnel may be dropped");
    }
    let router = format!("net/ipv6/conf/{device}/accept_ra");
    if let Err(error) = sysctl::write(&router, "0") {
        debug!(device, %error, "router advertisements cannot be turned off");
    }
}

fn seed() -> Result<[u8; 32], StartError> {
    crate::os::entropy::seed().map_err(|error| {
        StartError::start(format!("the system gives no random numbers: {error}"), "")
    })
}

fn no_room(error: std::io::Error) -> StartError {
    StartError::start(
        format!("no thread or descriptor is left: {error}"),
        "raise the service's limits (LimitNOFILE=, TasksMax=)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_socket_for_all_addresses_covers_those_of_its_family_only() {
        let bound = |locals: &[&str]| {
            let locals = locals.iter().map(|local| local.parse().unwrap());
            to_bind(locals)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            bound(&["10.0.0.5", "10.0.0.6", "10.0.0.5"]),
            ["10.0.0.5", "10.0.0.6"]
        );
        assert_eq!(
            bound(&["10.0.0.5", "0.0.0.0", "2001:db8::1"]),
            ["0.0.0.0", "2001:db8::1"]
        );
        assert_eq!(
            bound(&["::", "2001:db8::1", "10.0.0.5"]),
            ["10.0.0.5", "::"]
        );
    }
}
