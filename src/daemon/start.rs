//! Start of the daemon: from a configuration to a running gateway, or to one error.
//!
//! Nothing on the machine is changed before the exclusive resources are held: the lock of the network namespace first, then the control
//! socket and the UDP ports. Routes of an earlier run stay until the route thread adopts or replaces them: they may be all that keeps
//! packets from leaking, also if the start fails.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, info, warn};

use super::child_sas::ChildSas;
use super::control_plane::ControlPlane;
use super::event_loop::EventLoop;
use super::install::INITIAL_MTU;
use super::listener::{ListenError, Listener};
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
use super::tunnels::{TunnelEntry, TunnelTable, Unavailable};
use super::unmatched::UnmatchedReport;
use crate::config::{self, ConfigReport, Configuration, Mtu, Severity};
use crate::control;
use crate::crypto::Generator;
use crate::crypto::lanes::Kernel;
use crate::datapath::{Datapath, NoSaAction, Offload};
use crate::ike::{Endpoint, Peer};
use crate::net::TunnelId;
use crate::os::icmp_socket::IcmpSocket;
use crate::os::namespace_lock::NamespaceLock;
use crate::os::netlink::Netlink;
use crate::os::process::Capability;
use crate::os::tun::{self, Tun};
use crate::os::udp;
use crate::os::{OffloadMode, SocketOffload, clock, process, sysctl};

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

/// Time until the first attempt to have what a tunnel misses at start.
const FIRST_RETRY: Duration = Duration::from_secs(2);

/// Depth of the request queue between the control socket and the loop.
const REQUEST_QUEUE: usize = 32;

/// Loads the configuration and the secrets that it names.
pub(super) fn load(file: &Path) -> Result<ValidConfig, StartError> {
    let loaded = config::load(file, &provision::load_options());
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
        tunnels: settings,
    } = config.settings;
    check_environment(settings.len())?;
    if let Err(error) = process::raise_fd_limit() {
        debug!(%error, "cannot raise the limit of open files");
    }
    let lock = NamespaceLock::acquire()?;
    let control = options.socket.clone().unwrap_or(gateway.control);
    let control_listener = control::listen(&control)?;
    let mut netlink = Netlink::open()?;
    let (mut datapath, notices) = Datapath::new().map_err(out_of_resources)?;
    match IcmpSocket::open() {
        Ok(socket) => datapath.send_icmp_through(socket),
        Err(error) => debug!(%error, "ICMP errors have the destination's address as source"),
    }
    let offload = offload(gateway.offload);
    let sockets = probe_offload(offload.sockets);
    let mut listener = Listener::new(&settings, sockets);
    let present: BTreeSet<IpAddr> = netlink
        .addresses()?
        .iter()
        .map(|host| host.address)
        .collect();
    let (route_sync, routes) = RouteSync::start()?;
    let (path_mtu, path_mtus) = PathMtuMonitor::start()?;
    let now = clock::now();
    let mut endpoint = Endpoint::new(Generator::from_seed(seed()?));
    let mut tunnels = TunnelTable::default();
    for settings in settings {
        let id = tunnels.id_for(&settings.name);
        let machine = (&mut netlink, &mut listener, &mut datapath);
        let tunnel = tunnel(id, settings, &present, machine, gateway.offload)?;
        datapath
            .add_tunnel(id, tunnel.device.clone(), NoSaAction::Drop)
            .map_err(out_of_resources)?;
        if tunnel.unavailable.is_none() {
            endpoint.add_tunnel(now, id, tunnel.settings.ike.clone());
        }
        tunnels.insert(tunnel);
    }
    let (sender, requests) = control::channel(REQUEST_QUEUE);
    tokio::spawn(control::serve(control_listener, sender));
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
        config: options.config.clone(),
        keys_read: None,
        listener,
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

/// Checks permissions before anything is changed, and warns about system settings that are unsuitable for a number of tunnels.
fn check_environment(tunnels: usize) -> Result<(), StartError> {
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
    for finding in sysctl::findings(tunnels) {
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

/// Creates a tunnel with its sockets and its device. What is missing and can come later makes it wait.
fn tunnel(
    id: TunnelId,
    mut settings: config::TunnelSettings,
    present: &BTreeSet<IpAddr>,
    (netlink, listener, datapath): (&mut Netlink, &mut Listener, &mut Datapath),
    offload: OffloadMode,
) -> Result<TunnelEntry, StartError> {
    let mtu = match settings.mtu {
        Mtu::Fixed(mtu) => mtu,
        Mtu::Auto { .. } => INITIAL_MTU,
    };
    let mut missing = settings
        .missing_secret
        .as_ref()
        .map(|missing| ("no-secret", provision::no_secret(missing)));
    match listener.serve(&mut settings, present, datapath) {
        Ok(()) => {}
        Err(ListenError::Unavailable(error)) => missing = Some(("no-address", error)),
        Err(ListenError::Fatal(error)) => return Err(error.of_tunnel(&settings.name)),
    }
    let (device, has_device) = match provision::create_device(&settings, mtu, netlink, offload) {
        Ok(device) => (device, true),
        Err(error) => {
            missing = Some(("no-device", error));
            (Tun::placeholder(offload)?, false)
        }
    };
    let peer = match settings.ike.peer {
        Peer::Address(address) => Some(address),
        Peer::Name(_) => None,
    };
    let now = clock::now();
    let unavailable = missing.map(|(code, error)| {
        warn!(tunnel = settings.name, code, "the tunnel waits: {error}");
        Unavailable {
            code,
            error,
            since: now,
            comes_up: true,
            retry_at: now + FIRST_RETRY,
        }
    });
    Ok(TunnelEntry {
        settings,
        device: Arc::new(device),
        children: ChildSas::new(id),
        loss: RekeyLoss::default(),
        mtu,
        peer,
        reported_rx: None,
        reported_tx: None,
        has_device,
        device_recreated: None,
        unavailable,
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
    StartError::out_of_resources(error)
}
