//! Start of the daemon: from a configuration to a running gateway, or to one error.
//!
//! Nothing on the machine is changed before the exclusive resources are held: the lock of the network namespace first, then the control
//! socket and the UDP ports. Routes of an earlier run stay until the route thread adopts or replaces them: they may be all that keeps
//! packets from leaking, also if the start fails.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::{debug, info, warn};

use super::child_sas::ChildSas;
use super::control_plane::ControlPlane;
use super::event_loop::EventLoop;
use super::install::INITIAL_MTU;
use super::logging::LogFormat;
use super::lookup;
use super::offload_fallback::OffloadFallback;
use super::path_mtu::PathMtuMonitor;
use super::provision;
use super::rekey_loss::RekeyLoss;
use super::report::Reporter;
use super::route_sync::RouteSync;
use super::routing::Routing;
use super::start_error::StartError;
use super::tunnels::{TunnelEntry, TunnelTable};
use super::unmatched::UnmatchedReport;
use crate::config::{self, ConfigReport, Configuration, LoadOptions, Mtu, SecretPolicy, Severity};
use crate::control;
use crate::crypto::Generator;
use crate::crypto::lanes::Kernel;
use crate::datapath::{Datapath, NoSaAction, Offload};
use crate::ike::{Encapsulation, Endpoint, Peer};
use crate::net::{IKE_PORT, NAT_PORT, TunnelId};
use crate::os::namespace_lock::NamespaceLock;
use crate::os::netlink::Netlink;
use crate::os::process::Capability;
use crate::os::raw_esp::RawEspSocket;
use crate::os::tun;
use crate::os::udp::{self, BindError, UdpSocket};
use crate::os::{OffloadMode, Socket, SocketOffload, clock, process, sysctl, systemd};

/// Options of the command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// Configuration file.
    pub config: PathBuf,
    /// Control socket, if another than the configured one.
    pub socket: Option<PathBuf>,
    /// Format of log lines; `None` selects it by the environment.
    pub format: Option<LogFormat>,
    /// Log filter: `info`, `debug`, or one such as `groundlink::ike=trace`.
    pub level: Option<String>,
}

/// Configuration without errors.
pub(super) struct ValidConfig {
    pub(super) settings: Configuration,
    pub(super) report: ConfigReport,
}

/// Depth of the request queue between the control socket and the loop.
const REQUEST_QUEUE: usize = 32;

/// Loads the configuration and the secrets that it names.
pub(super) fn load(file: &Path) -> Result<ValidConfig, StartError> {
    let options = LoadOptions {
        credentials: systemd::credentials_directory(),
        secrets: SecretPolicy::Required,
    };
    let loaded = config::load(file, &options);
    match loaded.settings {
        Some(settings) if loaded.report.is_valid() => Ok(ValidConfig {
            settings,
            report: loaded.report,
        }),
        Some(_) | None => Err(StartError::Configuration(loaded.report)),
    }
}

/// Logs the findings of a configuration without errors.
pub(super) fn log_findings(report: &ConfigReport, file: &Path) {
    for finding in report.findings() {
        match finding.severity {
            Severity::Warning => {
                warn!(file = %file.display(), advice = finding.advice, "{}", finding.what);
            }
            Severity::Note | Severity::Lint | Severity::Error => {
                info!(file = %file.display(), advice = finding.advice, "{}", finding.what);
            }
        }
    }
}

/// Opens sockets, devices and threads, and builds the gateway. Must be called inside the runtime.
pub(super) fn gateway(config: ValidConfig, options: &Options) -> Result<EventLoop, StartError> {
    let Configuration {
        gateway,
        tunnels: mut settings,
    } = config.settings;
    check_environment()?;
    if let Err(error) = process::raise_fd_limit() {
        debug!(%error, "cannot raise the limit of open files");
    }
    let lock = NamespaceLock::acquire()?;
    let control = options.socket.clone().unwrap_or(gateway.control);
    let listener = control::listen(&control)?;
    let mut netlink = Netlink::open()?;
    let (mut datapath, notices) = Datapath::new().map_err(out_of_resources)?;
    let offload = offload(gateway.offload);
    let sockets = probe_offload(offload.sockets);
    listen(&settings, &mut netlink, &mut datapath, sockets)?;
    listen_native(&mut settings, &mut datapath)?;
    let (route_sync, routes) = RouteSync::start()?;
    let (path_mtu, path_mtus) = PathMtuMonitor::start()?;
    let now = clock::now();
    let mut endpoint = Endpoint::new(Generator::from_seed(seed()?));
    let mut tunnels = TunnelTable::default();
    for settings in settings {
        let id = tunnels.id_for(&settings.name);
        let tunnel = tunnel(id, settings, &mut netlink, gateway.offload)?;
        datapath
            .add_tunnel(id, tunnel.device.clone(), NoSaAction::Drop)
            .map_err(out_of_resources)?;
        endpoint.add_tunnel(now, id, tunnel.settings.ike.clone());
        tunnels.insert(tunnel);
    }
    let (sender, requests) = control::channel(REQUEST_QUEUE);
    tokio::spawn(control::serve(listener, sender));
    let (lookups, lookup_results) = lookup::lookups();
    info!(
        version = env!("CARGO_PKG_VERSION"),
        tunnels = tunnels.len(),
        control = %control.display(),
        "groundlink has started"
    );
    let control_plane = ControlPlane {
        started: now,
        endpoint,
        datapath,
        netlink,
        tunnels,
        lookups,
        reporter: Reporter::default(),
        routing: Routing::new(route_sync),
        path_mtu,
        offload_mode: gateway.offload,
        fallback: OffloadFallback::new(offload),
        _lock: lock,
        unmatched: UnmatchedReport::new(now),
    };
    EventLoop::new(
        control_plane,
        notices,
        routes,
        path_mtus,
        requests,
        lookup_results,
    )
    .map_err(out_of_resources)
}

/// Checks permissions before anything is changed, and warns about unsuitable system settings.
fn check_environment() -> Result<(), StartError> {
    if let Err(error) = process::disable_core_dumps() {
        warn!(%error, "cannot disable core dumps, which would contain keys");
    }
    drop(tun::open_node()?);
    let needed = Capability::NetAdmin;
    if !needed.is_held() {
        let what = format!(
            "no permission to create devices and routes: {} is missing",
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
    for unit in Kernel::failed() {
        warn!(unit, using = %Kernel::best(), "this CPU computes wrongly in the kernel {unit}: another one is used, which may be slower");
    }
    Ok(())
}

/// Offload requested from the kernel.
fn offload(configured: OffloadMode) -> Offload {
    match configured {
        OffloadMode::Off => Offload::NONE,
        OffloadMode::Auto => Offload::FULL,
    }
}

/// Socket offload to request: what is configured, without what the loopback probe has shown not to work.
fn probe_offload(configured: SocketOffload) -> SocketOffload {
    if configured == SocketOffload::NONE {
        return configured;
    }
    match udp::probe_gso() {
        Ok(works) => works.and(configured),
        Err(error) => {
            info!(%error, "UDP GSO probe on loopback failed; GSO stays on until the kernel rejects a send");
            configured
        }
    }
}

/// Binds UDP 500 and 4500 for every local address; a tunnel without one binds the wildcard address of its family.
fn listen(
    tunnels: &[config::TunnelSettings],
    netlink: &mut Netlink,
    datapath: &mut Datapath,
    offload: SocketOffload,
) -> Result<(), StartError> {
    let present: BTreeSet<IpAddr> = netlink
        .addresses()?
        .iter()
        .map(|host| host.address)
        .collect();
    // Binding the wildcard address would not report a local address that is missing.
    let missing = |address: &IpAddr| !address.is_unspecified() && !present.contains(address);
    if let Some(tunnel) = tunnels.iter().find(|tunnel| missing(&tunnel.ike.local)) {
        let address = tunnel.ike.local;
        return Err(StartError::from(BindError::AddressNotHere { address }).of_tunnel(&tunnel.name));
    }
    for address in bind_addresses(tunnels.iter().map(|tunnel| tunnel.ike.local)) {
        let ike = UdpSocket::bind(SocketAddr::new(address, IKE_PORT), offload)?;
        let nats = udp::bind_group(SocketAddr::new(address, NAT_PORT), offload, worker_count())?;
        let nats: Vec<_> = nats.into_iter().map(shared).collect();
        datapath
            .listen(shared(ike), &nats)
            .map_err(out_of_resources)?;
        debug!(%address, workers = nats.len(), "listening on UDP 500 and 4500");
    }
    Ok(())
}

/// Opens a raw socket for native ESP for every local address of a tunnel that may use it. Without the capability, tunnels with `auto` use
/// UDP instead, and others are an error.
fn listen_native(
    tunnels: &mut [config::TunnelSettings],
    datapath: &mut Datapath,
) -> Result<(), StartError> {
    let may_need = |tunnel: &&config::TunnelSettings| match tunnel.ike.encapsulation {
        Encapsulation::Auto | Encapsulation::Esp => true,
        Encapsulation::Udp => false,
    };
    let locals = tunnels.iter().filter(may_need);
    for address in bind_addresses(locals.map(|tunnel| tunnel.ike.local)) {
        match RawEspSocket::open(address) {
            Ok(socket) => {
                datapath
                    .listen_native(Arc::new(socket))
                    .map_err(out_of_resources)?;
                debug!(%address, "listening on IP protocol 50");
            }
            Err(error @ BindError::NoRawSockets) => return disable_native(tunnels, error),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Changes `auto` to `udp`, which works with and without NAT.
fn disable_native(
    tunnels: &mut [config::TunnelSettings],
    error: BindError,
) -> Result<(), StartError> {
    let requires_native =
        |tunnel: &&config::TunnelSettings| tunnel.ike.encapsulation == Encapsulation::Esp;
    if let Some(tunnel) = tunnels.iter().find(requires_native) {
        return Err(StartError::from(error).of_tunnel(&tunnel.name));
    }
    warn!("{error}; tunnels with `encapsulation = \"auto\"` use UDP");
    for tunnel in tunnels {
        tunnel.ike.encapsulation = Encapsulation::Udp;
    }
    Ok(())
}

fn shared(socket: UdpSocket) -> Arc<dyn Socket> {
    Arc::new(socket)
}

/// Number of workers that receive on port 4500: one a core, up to 8.
fn worker_count() -> usize {
    const MAX: usize = 8;
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(MAX))
}

/// Addresses to bind: the wildcard address covers all others of its family.
fn bind_addresses(locals: impl Iterator<Item = IpAddr>) -> BTreeSet<IpAddr> {
    let all: BTreeSet<IpAddr> = locals.collect();
    let wildcard = |family: &IpAddr| match family {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    all.iter()
        .filter(|address| address.is_unspecified() || !all.contains(&wildcard(address)))
        .copied()
        .collect()
}

/// Creates a tunnel with its device.
fn tunnel(
    id: TunnelId,
    settings: config::TunnelSettings,
    netlink: &mut Netlink,
    offload: OffloadMode,
) -> Result<TunnelEntry, StartError> {
    let mtu = match settings.mtu {
        Mtu::Fixed(mtu) => mtu,
        Mtu::Auto { .. } => INITIAL_MTU,
    };
    let device = provision::create_device(&settings, mtu, netlink, offload)
        .map_err(|failure| failure.of_tunnel(&settings.name))?;
    let peer = match settings.ike.peer {
        Peer::Address(address) => Some(address),
        Peer::Name(_) => None,
    };
    Ok(TunnelEntry {
        settings,
        device: Arc::new(device),
        children: ChildSas::new(id),
        loss: RekeyLoss::default(),
        mtu,
        peer,
        reported_rx: None,
        reported_tx: None,
        missing_device: None,
        is_trap: false,
    })
}

fn seed() -> Result<[u8; 32], StartError> {
    crate::os::entropy::seed().map_err(|error| {
        StartError::start(
            format!("no random numbers from the operating system: {error}"),
            "",
        )
    })
}

fn out_of_resources(error: std::io::Error) -> StartError {
    StartError::start(
        format!("out of threads or file descriptors: {error}"),
        "raise the service's limits (LimitNOFILE=, TasksMax=)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcard_address_covers_its_own_family_only() {
        let bound = |locals: &[&str]| {
            let locals = locals.iter().map(|local| local.parse().unwrap());
            bind_addresses(locals)
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
