//! Control plane: passes notices, timeouts and requests to the IKE endpoint, and carries out its events on datapath and routes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use tracing::{debug, error, info, warn};

use super::install;
use super::listener::Listener;
use super::lookup::Lookups;
use super::observe::Observer;
use super::offload_fallback::OffloadFallback;
use super::path_mtu::{PathMtuChange, PathMtuMonitor};
use super::report::{Reporter, Spi};
use super::route_sync::RouteReport;
use super::routing::Routing;
use super::tunnels::{TunnelTable, Unavailable};
use super::unmatched::UnmatchedReport;
use crate::control::{ApiError, ApiReply, ApiRequest, PendingRequest, SaKind};
use crate::datapath::{ChildSpi, Datapath, IkeFraming, NoSaAction, Notice};
use crate::ike::{
    Child, Command, Content, Datagram, DownReason, Endpoint, Event, Rekey, Start, Transmit,
    TunnelState,
};
use crate::net::{Time, TunnelId};
use crate::os::OffloadMode;
use crate::os::clock;
use crate::os::namespace_lock::NamespaceLock;
use crate::os::netlink::Netlink;

/// State of the running gateway.
pub(super) struct ControlPlane {
    /// Start of the daemon.
    pub(super) started: Time,
    pub(super) endpoint: Endpoint,
    pub(super) datapath: Datapath,
    pub(super) netlink: Netlink,
    pub(super) tunnels: TunnelTable,
    pub(super) lookups: Lookups,
    pub(super) reporter: Reporter,
    pub(super) routing: Routing,
    pub(super) path_mtu: PathMtuMonitor,
    /// Configuration file.
    pub(super) config: PathBuf,
    /// Time at which it was last read again for keys.
    pub(super) keys_read: Option<Time>,
    pub(super) listener: Listener,
    /// Offload requested from new devices.
    pub(super) offload_mode: OffloadMode,
    pub(super) fallback: OffloadFallback,
    /// Keeps other daemons out of this network namespace.
    pub(super) _lock: NamespaceLock,
    pub(super) unmatched: UnmatchedReport,
}

/// Operation that a request asks for on a tunnel.
enum Action {
    /// Nothing but its status.
    Show,
    /// A command to the IKE endpoint.
    Run(fn(TunnelId) -> Command),
    /// Rekey of one SA.
    Rekey(SaKind),
}

impl ControlPlane {
    /// Time at which [`ControlPlane::on_timeout`] must be called.
    pub(super) fn next_timeout(&self) -> Option<Time> {
        [
            self.endpoint.poll_timeout(),
            self.routing.next_timer(),
            self.tunnels.next_timer(),
            self.fallback.next_timer(),
            Some(self.unmatched.next_timer()),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Sends a command to the IKE endpoint.
    pub(super) fn command(&mut self, command: Command) {
        self.endpoint.handle_command(clock::now(), command);
    }

    /// Closes every SA with a DELETE, and ends the traps: packets bring no tunnel up any more. A DELETE does not wait until the routes are
    /// withdrawn: the grace period is shorter.
    pub(super) fn shut_down(&mut self) {
        self.routing.stop_waiting();
        self.command(Command::Shutdown);
        self.tunnels.mark_all_changed();
        self.apply();
    }

    /// Whether every peer has answered our DELETE, after [`ControlPlane::shut_down`].
    pub(super) fn is_shut_down(&self) -> bool {
        self.endpoint.is_idle()
    }

    /// Handles timers that have expired.
    pub(super) fn on_timeout(&mut self) {
        let now = clock::now();
        let mut missing = Vec::new();
        for id in self.tunnels.due(now) {
            let drops = install::drops_without_sa(id, &self.datapath);
            self.tunnels.update(id, |tunnel| {
                tunnel.children.on_timeout(now, &mut self.datapath);
                tunnel.loss.close_window(now, drops);
                let is_due = |missing: &Unavailable| missing.retry_at <= now;
                if tunnel.unavailable.as_ref().is_some_and(is_due) {
                    missing.push(id);
                }
            });
        }
        self.retry_unavailable(&missing);
        self.report_traffic(now);
        self.endpoint.handle_timeout(now);
    }

    /// Reports ESP traffic to the IKE endpoint before its timers run: a peer that sends needs no liveness check, and a NAT mapping in use
    /// no keepalive.
    fn report_traffic(&mut self, now: Time) {
        let due: BTreeSet<TunnelId> = self.endpoint.due_tunnels(now).collect();
        for id in due {
            let Some(counters) = self.datapath.counters(id) else {
                continue;
            };
            let (rx, tx) = (counters.last_received(), counters.last_sent());
            let Some(tunnel) = self.tunnels.get(id).filter(|t| !t.children.is_empty()) else {
                continue;
            };
            let heard = rx.filter(|_| rx > tunnel.reported_rx);
            let sent = tx.filter(|_| tx > tunnel.reported_tx);
            self.tunnels.update(id, |tunnel| {
                tunnel.reported_rx = heard.or(tunnel.reported_rx);
                tunnel.reported_tx = sent.or(tunnel.reported_tx);
            });
            if let Some(at) = heard {
                self.command(Command::EspReceived { tunnel: id, at });
            }
            if let Some(at) = sent {
                self.command(Command::EspSent { tunnel: id, at });
            }
        }
    }

    /// Handles a notice of the datapath.
    pub(super) fn on_notice(&mut self, notice: Notice) {
        match notice {
            Notice::Ike {
                local,
                remote,
                bytes,
            } => {
                let datagram = Datagram {
                    local,
                    remote,
                    bytes: &bytes,
                };
                self.endpoint.handle_datagram(clock::now(), datagram);
            }
            Notice::Demand(tunnel) => self.command(Command::Demand(tunnel)),
            Notice::UnknownSpi { spi, local, remote } => {
                debug!(spi = %Spi(spi), %local, %remote, "ESP packet with an unknown SPI");
                self.command(Command::UnknownSpi { remote, spi });
            }
            Notice::FirstPacket { tunnel, spi_in } => {
                self.command(Command::ChildConfirmed { tunnel, spi_in });
            }
            Notice::PeerMoved {
                tunnel,
                spi_in,
                remote,
                at,
            } => self.command(Command::EspSource {
                tunnel,
                spi_in,
                remote,
                at,
            }),
            Notice::NearEnd { tunnel, sa } => {
                if let Some(spi_in) = self.spi_in_of(tunnel, sa) {
                    self.command(Command::SoftLimit { tunnel, spi_in });
                }
            }
            Notice::Ended { tunnel, sa } => self.on_exhausted(tunnel, sa),
            Notice::DeviceGone(tunnel) => self.on_device_removed(tunnel),
        }
    }

    /// Inbound SPI of the Child SA that has this SPI in one direction.
    fn spi_in_of(&self, id: TunnelId, sa: ChildSpi) -> Option<u32> {
        self.tunnels.get(id)?.children.spi_in_of(sa)
    }

    /// Ends a Child SA of which one direction has reached its limit: both directions live and die together.
    fn on_exhausted(&mut self, id: TunnelId, sa: ChildSpi) {
        let Some(spi_in) = self.spi_in_of(id, sa) else {
            return;
        };
        self.tunnels.update(id, |tunnel| {
            tunnel.children.exhaust(spi_in, &mut self.datapath);
        });
        self.command(Command::SequenceExhausted { tunnel: id, spi_in });
    }

    /// Handles a request of the control socket.
    pub(super) fn on_request(&mut self, pending: PendingRequest) {
        let reply = match pending.request {
            ApiRequest::Status => ApiReply::Status(self.observer().snapshot(self.tunnels.iter())),
            ApiRequest::Tunnel(name) => self.run(&name, Action::Show),
            ApiRequest::Up(name) => self.run(&name, Action::Run(Command::Up)),
            ApiRequest::Down(name) => self.run(&name, Action::Run(Command::Down)),
            ApiRequest::Reset(name) => self.run(&name, Action::Run(Command::Reset)),
            ApiRequest::Rekey { tunnel, sa } => self.run(&tunnel, Action::Rekey(sa)),
        };
        // The client may have disconnected.
        let _ = pending.reply.send(reply);
    }

    /// Runs an action on the tunnel of this name, and replies with its status afterwards.
    fn run(&mut self, name: &str, action: Action) -> ApiReply {
        let Some(id) = self.tunnels.find(name) else {
            let names = self.tunnels.iter();
            return ApiReply::NoSuchTunnel {
                known: names
                    .map(|(_, tunnel)| tunnel.settings.name.clone())
                    .collect(),
            };
        };
        match action {
            Action::Show => {}
            Action::Run(command) => {
                let command = command(id);
                if !self.steer_unavailable(id, &command) {
                    self.command(command);
                }
                self.tunnels.mark_changed(id);
                self.apply();
            }
            Action::Rekey(sa) => {
                if let Err(error) = self.rekey(id, name, sa) {
                    return ApiReply::Refused(error);
                }
            }
        }
        match self.tunnels.get(id) {
            Some(tunnel) => ApiReply::Tunnel(Box::new(self.observer().tunnel(id, tunnel))),
            None => ApiReply::NoSuchTunnel { known: Vec::new() },
        }
    }

    fn observer(&self) -> Observer<'_> {
        Observer {
            started: self.started,
            now: clock::now(),
            endpoint: &self.endpoint,
            datapath: &self.datapath,
            routing: &self.routing,
            offload: self.fallback.configured(),
        }
    }

    /// Starts the rekey of an SA, if the tunnel has one.
    fn rekey(&mut self, id: TunnelId, name: &str, sa: SaKind) -> Result<(), ApiError> {
        let view = self.endpoint.view(id);
        let view = view.as_ref();
        let (what, words, exists) = match sa {
            SaKind::Child => (
                Rekey::Child,
                "Child SA",
                view.is_some_and(|view| view.child.is_some()),
            ),
            SaKind::Ike => (
                Rekey::Ike,
                "IKE SA",
                view.is_some_and(|view| view.ike.is_some()),
            ),
        };
        if !exists {
            return Err(ApiError::new(
                format!("tunnel {name} has no {words} to rekey"),
                format!("`groundlink up {name}` connects it, with fresh keys"),
            ));
        }
        self.command(Command::Rekey { tunnel: id, what });
        self.apply();
        Ok(())
    }

    /// Carries out all output of the IKE endpoint: events first, so that a Child SA is installed before the peer learns of it, then
    /// datagrams.
    pub(super) fn apply(&mut self) {
        while let Some(event) = self.endpoint.poll_event() {
            self.on_event(event);
        }
        let changed = self.tunnels.take_changed();
        for id in &changed {
            self.set_trap(*id);
        }
        // `set_trap` has marked tunnels that this loop visits anyway.
        self.tunnels.take_changed();
        let tunnels = &self.tunnels;
        for id in &changed {
            let path = tunnels.get(*id).and_then(install::followed_path);
            self.path_mtu.set(*id, path);
        }
        let changed = changed
            .iter()
            .filter_map(|id| Some((*id, tunnels.get(*id)?)));
        self.routing.update(changed);
        for transmit in self.routing.release() {
            self.send(&transmit);
        }
        while let Some(transmit) = self.endpoint.poll_transmit() {
            if let Some(transmit) = self.routing.hold(transmit) {
                self.send(&transmit);
            }
        }
        self.reporter
            .service_status(self.tunnels.up(), self.tunnels.len());
        let now = clock::now();
        let dropped = |reason| self.datapath.unmatched().count(reason);
        if let Some(text) = self.unmatched.check(now, dropped) {
            info!("{text}");
        }
        let (devices, sockets) = (self.datapath.devices(), self.datapath.sockets());
        self.fallback.check(now, devices, sockets, |id| {
            let tunnel = self.tunnels.get(id)?;
            Some(tunnel.settings.name.clone())
        });
    }

    /// Handles the result of a route synchronisation: a tunnel whose routes failed loses its Child SAs.
    pub(super) fn on_route_report(&mut self, report: &RouteReport) {
        if report.network_changed {
            self.command(Command::NetworkChanged);
        }
        for (tunnel, error) in self.routing.on_report(report, &self.tunnels) {
            self.fail_children(tunnel, &error);
        }
    }

    /// Adapts a tunnel to the changed MTU of its path.
    pub(super) fn on_path_mtu(&mut self, change: PathMtuChange) {
        let PathMtuChange { tunnel, mtu } = change;
        self.tunnels.update(tunnel, |tunnel| {
            let name = &tunnel.settings.name.clone();
            match install::follow_path_mtu(mtu, tunnel, &mut self.datapath, &mut self.netlink) {
                Ok(Some(inner)) => info!(
                    tunnel = name,
                    path_mtu = mtu,
                    mtu = inner,
                    "the MTU of the path to the peer has changed"
                ),
                Ok(None) => {}
                Err(error) => warn!(tunnel = name, path_mtu = mtu, "{error}"),
            }
        });
    }

    /// Routes no longer follow the tunnels.
    pub(super) fn on_route_thread_end(&mut self) {
        error!(
            "the route synchronisation thread has ended: routes no longer follow the tunnels; restart groundlink"
        );
        self.routing.stop_waiting();
    }

    fn on_event(&mut self, event: Event) {
        let tunnels = &self.tunnels;
        let name_of = |id: &TunnelId| tunnels.get(*id).map(|tunnel| tunnel.settings.name.as_str());
        self.reporter.event(&event, name_of);
        match event {
            Event::Resolve { tunnel, name } => {
                self.lookups.start(tunnel, name);
            }
            Event::Source { tunnel, peer } => {
                let route = self.netlink.route_to(peer);
                let local = route.ok().and_then(|route| route.source);
                self.command(Command::Source { tunnel, local });
            }
            Event::Connecting { tunnel, remote } => {
                let peer = Some(remote.ip());
                self.tunnels.update(tunnel, |tunnel| tunnel.peer = peer);
            }
            Event::ChildOffered { tunnel, spi_in } => self.on_offered(tunnel, spi_in),
            Event::ChildUp(child) => self.install(&child),
            Event::ChildPreferred { tunnel, spi_in } => {
                self.tunnels.update(tunnel, |tunnel| {
                    tunnel.children.prefer(spi_in, &mut self.datapath);
                });
            }
            Event::ChildDown {
                tunnel,
                spi_in,
                reason,
            } => self.remove_child(tunnel, spi_in, reason),
            Event::PeerMoved { tunnel, remote } => {
                self.tunnels.update(tunnel, |tunnel| {
                    tunnel.peer = Some(remote.ip());
                    tunnel.children.set_remote(remote, &mut self.datapath);
                });
            }
            Event::IkeRekeyed { tunnel, .. } => self.on_rekeyed(tunnel),
            Event::IkeUp { .. }
            | Event::IkeDown { .. }
            | Event::RekeyChecked { .. }
            | Event::Dropped { .. }
            | Event::Failed { .. } => {}
        }
    }

    fn install(&mut self, child: &Child) {
        let installed = self.tunnels.update(child.tunnel, |tunnel| {
            install::install(child, tunnel, &mut self.datapath, &mut self.netlink)?;
            self.reporter.installed(child, tunnel);
            Ok(())
        });
        match installed {
            Some(Ok(())) if child.replaces.is_some() => self.on_rekeyed(child.tunnel),
            None | Some(Ok(())) => {}
            Some(Err(why)) => self.command(Command::InstallFailed {
                tunnel: child.tunnel,
                spi_in: child.spi_in,
                why,
            }),
        }
    }

    /// Keeps packets for the SPI of an offered Child SA until it is installed; those dropped meanwhile are lost by the rekey, if it is one.
    fn on_offered(&mut self, id: TunnelId, spi_in: u32) {
        let drops = install::drops_without_sa(id, &self.datapath);
        self.tunnels.update(id, |tunnel| {
            if !tunnel.children.is_empty() {
                tunnel.loss.begun(clock::now(), drops);
            }
        });
        self.datapath.announce_inbound(id, spi_in);
    }

    /// Counts packets dropped for lack of an SA around now as lost by a rekey.
    fn on_rekeyed(&mut self, id: TunnelId) {
        let drops = install::drops_without_sa(id, &self.datapath);
        self.tunnels.update(id, |tunnel| {
            tunnel.loss.rekeyed(clock::now(), drops);
        });
    }

    fn remove_child(&mut self, id: TunnelId, spi_in: u32, reason: DownReason) {
        let now = clock::now();
        let drops = install::drops_without_sa(id, &self.datapath);
        self.tunnels.update(id, |tunnel| {
            let was_up = !tunnel.children.is_empty();
            tunnel
                .children
                .remove(spi_in, reason, now, &mut self.datapath);
            if was_up && tunnel.children.is_empty() {
                match reason {
                    DownReason::Requested => tunnel.loss.taken_down(drops),
                    DownReason::PeerDeleted
                    | DownReason::UnknownToPeer
                    | DownReason::NoChildLeft
                    | DownReason::InvalidRequest
                    | DownReason::RequestRejected
                    | DownReason::IdentityRejected
                    | DownReason::PeerDead
                    | DownReason::Expired
                    | DownReason::PeerRestarted
                    | DownReason::Redundant
                    | DownReason::Replaced
                    | DownReason::Useless => tunnel.loss.without_sa(now, drops),
                }
            }
        });
    }

    /// Removes all Child SAs of a tunnel whose device or routes cannot be had.
    pub(super) fn fail_children(&mut self, id: TunnelId, why: &str) {
        let spis = self.tunnels.get(id).map(|tunnel| tunnel.children.spis_in());
        for spi_in in spis.unwrap_or_default() {
            self.remove_child(id, spi_in, DownReason::Useless);
            self.command(Command::InstallFailed {
                tunnel: id,
                spi_in,
                why: why.to_owned(),
            });
        }
    }

    /// Sets what the datapath does with packets without an SA: a tunnel with `start = "trap"` that is not down by request queues them and
    /// connects; others drop them.
    fn set_trap(&mut self, id: TunnelId) {
        let Some(tunnel) = self.tunnels.get(id) else {
            return;
        };
        let is_down = || {
            let view = self.endpoint.view(id);
            view.is_none_or(|view| view.state == TunnelState::Down)
        };
        let is_trap =
            tunnel.settings.ike.start == Start::Trap && tunnel.unavailable.is_none() && !is_down();
        if is_trap == tunnel.is_trap {
            return;
        }
        let action = if is_trap {
            NoSaAction::Trap(tunnel.settings.ike.policy.clone())
        } else {
            NoSaAction::Drop
        };
        self.datapath.set_no_sa_action(id, action);
        self.tunnels.update(id, |tunnel| tunnel.is_trap = is_trap);
    }

    fn send(&mut self, transmit: &Transmit) {
        let (framing, bytes): (IkeFraming, &[u8]) = match &transmit.content {
            Content::Ike(bytes) => (IkeFraming::NonEspMarker, bytes),
            Content::Keepalive => (IkeFraming::Plain, &[0xff]),
        };
        let Transmit { local, remote, .. } = transmit;
        let sent = self.datapath.transmit(*local, *remote, framing, bytes);
        // Only errors towards peers are logged: anybody can make us answer to any other address.
        if self.tunnels.is_peer(remote.ip()) {
            let error = sent.as_ref().err();
            self.reporter.sent(*remote, error, clock::now());
        }
    }

    /// Withdraws the routes into the tunnels and removes the tunnels with their devices. Fail-closed routes stay, with the
    /// routes to the peers that they cover: a restart must not let packets out, and the next start adopts them.
    pub(super) fn clear(&mut self) {
        // A DELETE that waits for routes leaves before the routes to the peers are removed.
        for transmit in self.routing.release_all() {
            self.send(&transmit);
        }
        self.routing.stop(self.tunnels.iter());
        let devices = self.tunnels.iter().map(|(_, tunnel)| &tunnel.device);
        let devices: BTreeMap<u32, String> = devices
            .map(|device| (device.index(), device.name().to_owned()))
            .collect();
        match self.netlink.remove_devices(&devices) {
            Ok(removed) => debug!(removed, devices = devices.len(), "devices removed"),
            // They vanish with the process, one after another.
            Err(error) => debug!(%error, "the devices could not be removed together"),
        }
        for id in self.tunnels.clear() {
            self.datapath.remove_tunnel(id);
        }
    }
}
