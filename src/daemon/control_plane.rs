//! What the loop acts upon: the engine, the datapath, the kernel's routes, and every tunnel between them.

use std::collections::BTreeMap;

use tracing::{debug, warn};

use super::install::{self, Tunnel, lane};
use super::lookup::Lookups;
use super::observe::Observer;
use super::offload_fallback::OffloadFallback;
use super::report::{Reporter, Spi};
use super::route_sync::RouteReport;
use super::routing::Routing;
use crate::control::{ApiError, ApiReply, ApiRequest, PendingRequest, SaKind};
use crate::datapath::{ChildSpi, Datapath, IkeFraming, NoSaAction, Notice};
use crate::ike::{
    Child, Command, Content, Datagram, DownReason, Endpoint, Event, Rekey, Start, Transmit,
    TunnelId, TunnelState,
};
use crate::net::Time;
use crate::os::clock;
use crate::os::netlink::Netlink;

/// A gateway without its loop.
pub(super) struct ControlPlane {
    pub(super) started: Time,
    pub(super) endpoint: Endpoint,
    pub(super) datapath: Datapath,
    pub(super) netlink: Netlink,
    pub(super) tunnels: BTreeMap<TunnelId, Tunnel>,
    pub(super) lookups: Lookups,
    pub(super) reporter: Reporter,
    pub(super) routing: Routing,
    pub(super) fallback: OffloadFallback,
}

/// What somebody wants of a tunnel.
enum Action {
    /// To see it.
    Nothing,
    /// Something that is always possible.
    For(fn(TunnelId) -> Command),
    /// Fresh keys for an SA.
    FreshKeys(SaKind),
}

impl ControlPlane {
    /// When something is to be done even if nothing happens.
    pub(super) fn due(&self) -> Option<Time> {
        let timers = self.tunnels.values().flat_map(|tunnel| {
            let Tunnel {
                children, losses, ..
            } = tunnel;
            [children.next_timer(), losses.next_timer()]
        });
        [self.endpoint.poll_timeout(), self.routing.next_timer()]
            .into_iter()
            .chain(timers)
            .flatten()
            .min()
    }

    /// Tells the engine something.
    pub(super) fn tell(&mut self, command: Command) {
        self.endpoint.handle_command(clock::now(), command);
    }

    /// Whether every peer has answered our goodbye.
    pub(super) fn has_parted(&self) -> bool {
        self.endpoint.is_idle()
    }

    /// A time has come.
    pub(super) fn on_due(&mut self) {
        self.tell_of_traffic();
        let now = clock::now();
        for (id, tunnel) in &mut self.tunnels {
            tunnel.children.on_due(now, &mut self.datapath);
            let refused = install::wanting(*id, &self.datapath);
            tunnel.losses.settle(now, refused);
        }
        self.endpoint.handle_timeout(now);
    }

    /// Before the engine asks a silent peer whether it lives, or a NAT is kept open, it learns what the datapath has carried.
    fn tell_of_traffic(&mut self) {
        let mut news = Vec::new();
        for (id, tunnel) in &mut self.tunnels {
            let Some(counters) = self.datapath.counters(lane(*id)) else {
                continue;
            };
            if tunnel.children.is_empty() {
                continue;
            }
            let (heard, sent) = (counters.last_received(), counters.last_sent());
            if let Some(at) = heard.filter(|_| heard > tunnel.heard) {
                news.push(Command::Heard { tunnel: *id, at });
                tunnel.heard = heard;
            }
            if let Some(at) = sent.filter(|_| sent > tunnel.sent) {
                news.push(Command::Sent { tunnel: *id, at });
                tunnel.sent = sent;
            }
        }
        news.into_iter().for_each(|command| self.tell(command));
    }

    /// The datapath has something to say.
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
            Notice::Demand(tunnel) => self.tell(Command::Demand(TunnelId(tunnel.0))),
            Notice::UnknownSpi { spi, local, remote } => {
                debug!(spi = %Spi(spi), %local, %remote, "ESP for no SA of ours");
                self.tell(Command::UnknownSpi { remote, spi });
            }
            Notice::ChildHeard { tunnel, spi_in } => self.tell(Command::ChildHeard {
                tunnel: TunnelId(tunnel.0),
                spi_in,
            }),
            Notice::SeenFrom {
                tunnel,
                spi_in,
                remote,
                at,
            } => self.tell(Command::SeenFrom {
                tunnel: TunnelId(tunnel.0),
                spi_in,
                remote,
                at,
            }),
            Notice::NearEnd { tunnel, sa } => {
                let tunnel = TunnelId(tunnel.0);
                if let Some(spi_in) = self.owner(tunnel, sa) {
                    self.tell(Command::SoftLimit { tunnel, spi_in });
                }
            }
            Notice::Ended { tunnel, sa } => self.on_ended(TunnelId(tunnel.0), sa),
            Notice::DeviceGone(tunnel) => {
                let id = TunnelId(tunnel.0);
                let Some(tunnel) = self.tunnels.get_mut(&id) else {
                    return;
                };
                tunnel.gone = true;
                let why = tunnel.why_gone();
                warn!(tunnel = tunnel.settings.name, "{why}");
                // The peer hears of it and sends elsewhere, and tunnels that share a route with this one keep theirs. Trying again
                // would be in vain.
                self.uninstallable(id, &why);
                self.tell(Command::Down(id));
            }
        }
    }

    /// The Child SA of which this is a half, by its inbound SPI.
    fn owner(&self, id: TunnelId, sa: ChildSpi) -> Option<u32> {
        self.tunnels.get(&id)?.children.owner(sa)
    }

    /// A Child SA has carried as much as it may, one way. The other way is over, too: the two halves live and die together.
    fn on_ended(&mut self, id: TunnelId, sa: ChildSpi) {
        let Some(spi_in) = self.owner(id, sa) else {
            return;
        };
        if let Some(tunnel) = self.tunnels.get_mut(&id) {
            tunnel.children.spend(spi_in, &mut self.datapath);
        }
        self.tell(Command::SequenceExhausted { tunnel: id, spi_in });
    }

    /// Somebody asks at the control socket.
    pub(super) fn on_request(&mut self, asked: PendingRequest) {
        let answer = match asked.request {
            ApiRequest::Status => ApiReply::Status(self.observer().snapshot(self.tunnels.iter())),
            ApiRequest::Tunnel(name) => self.about(&name, Action::Nothing),
            ApiRequest::Up(name) => self.about(&name, Action::For(Command::Up)),
            ApiRequest::Down(name) => self.about(&name, Action::For(Command::Down)),
            ApiRequest::Reset(name) => self.about(&name, Action::For(Command::Reset)),
            ApiRequest::Rekey { tunnel, sa } => self.about(&tunnel, Action::FreshKeys(sa)),
        };
        // Whoever asked may have gone.
        let _ = asked.reply.send(answer);
    }

    /// Does what is asked of the tunnel of this name, and says how it is then.
    fn about(&mut self, name: &str, asks: Action) -> ApiReply {
        let named =
            |(id, tunnel): (&TunnelId, &Tunnel)| (tunnel.settings.name == name).then_some(*id);
        let Some(id) = self.tunnels.iter().find_map(named) else {
            let names = self.tunnels.values();
            return ApiReply::NoSuchTunnel {
                known: names.map(|tunnel| tunnel.settings.name.clone()).collect(),
            };
        };
        match asks {
            Action::Nothing => {}
            Action::For(command) => {
                self.tell(command(id));
                self.settle();
            }
            Action::FreshKeys(sa) => {
                if let Err(trouble) = self.rekey(id, name, sa) {
                    return ApiReply::Refused(trouble);
                }
            }
        }
        match self.tunnels.get(&id) {
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
            offload: self.fallback.wanted(),
        }
    }

    /// Begins to rekey an SA, if it is there.
    fn rekey(&mut self, id: TunnelId, name: &str, sa: SaKind) -> Result<(), ApiError> {
        let view = self.endpoint.view(id);
        let (what, words, is_there) = match sa {
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
        if !is_there {
            return Err(ApiError::new(
                format!("tunnel {name} has no {words} to rekey"),
                format!("`groundlink up {name}` connects it, with fresh keys"),
            ));
        }
        self.tell(Command::Rekey { tunnel: id, what });
        self.settle();
        Ok(())
    }

    /// Does all that the engine wants done: events first, for what they install must be there before the peer hears of it.
    pub(super) fn settle(&mut self) {
        while let Some(event) = self.endpoint.poll_event() {
            self.on_event(event);
        }
        self.await_traffic();
        self.routing.update(self.tunnels.iter());
        for transmit in self.routing.release() {
            self.send(&transmit);
        }
        while let Some(transmit) = self.endpoint.poll_transmit() {
            if let Some(transmit) = self.routing.hold(transmit) {
                self.send(&transmit);
            }
        }
        let up = |tunnel: &&Tunnel| !tunnel.children.is_empty();
        let (up, all) = (self.tunnels.values().filter(up).count(), self.tunnels.len());
        self.reporter.standing(up, all);
        let name_of = |id: &TunnelId| self.tunnels.get(id).map(|t| t.settings.name.clone());
        let devices = self.datapath.devices();
        self.fallback
            .look(devices, self.datapath.sockets(), |lane| {
                name_of(&TunnelId(lane.0))
            });
    }

    /// Takes the result of a route synchronisation. A tunnel whose routes failed loses its Child SAs.
    pub(super) fn on_route_report(&mut self, report: &RouteReport) {
        for (tunnel, why) in self.routing.on_report(report, &self.tunnels) {
            self.uninstallable(tunnel, &why);
        }
    }

    fn on_event(&mut self, event: Event) {
        let name_of = |id: &TunnelId| self.tunnels.get(id).map(|t| t.settings.name.as_str());
        self.reporter.event(&event, name_of);
        match event {
            Event::Resolve { tunnel, name } => {
                if let Some(settings) = self.tunnels.get(&tunnel).map(|t| &t.settings) {
                    self.lookups.begin(tunnel, name, settings.ike.local);
                }
            }
            Event::Source { tunnel, peer } => {
                let way = self.netlink.route_to(peer);
                let local = way.ok().and_then(|way| way.source);
                self.tell(Command::Source { tunnel, local });
            }
            Event::Connecting { tunnel, remote } => {
                if let Some(tunnel) = self.tunnels.get_mut(&tunnel) {
                    tunnel.peer = Some(remote.ip());
                }
            }
            Event::ChildUp(child) => self.install(&child),
            Event::ChildPreferred { tunnel: id, spi_in } => {
                if let Some(tunnel) = self.tunnels.get_mut(&id) {
                    tunnel.children.prefer(spi_in, &mut self.datapath);
                }
            }
            Event::ChildDown {
                tunnel,
                spi_in,
                reason,
            } => self.take_out(tunnel, spi_in, reason),
            Event::PeerMoved { tunnel, remote } => {
                if let Some(tunnel) = self.tunnels.get_mut(&tunnel) {
                    tunnel.peer = Some(remote.ip());
                    tunnel.children.moved(remote, &mut self.datapath);
                }
            }
            Event::IkeRekeyed { tunnel, .. } => self.rekeyed(tunnel),
            Event::IkeUp { .. }
            | Event::IkeDown { .. }
            | Event::RekeyChecked { .. }
            | Event::Dropped { .. }
            | Event::Failed { .. } => {}
        }
    }

    fn install(&mut self, child: &Child) {
        let Some(tunnel) = self.tunnels.get_mut(&child.tunnel) else {
            return;
        };
        let installed = install::up(child, tunnel, &mut self.datapath, &mut self.netlink);
        match installed {
            Ok(()) => {
                self.reporter.installed(child, tunnel);
                if child.replaces.is_some() {
                    self.rekeyed(child.tunnel);
                }
            }
            Err(why) => self.tell(Command::InstallFailed {
                tunnel: child.tunnel,
                spi_in: child.spi_in,
                why,
            }),
        }
    }

    /// An SA of the tunnel has been rekeyed: whatever finds no SA around now is lost.
    fn rekeyed(&mut self, id: TunnelId) {
        if let Some(tunnel) = self.tunnels.get_mut(&id) {
            let refused = install::wanting(id, &self.datapath);
            tunnel.losses.rekeyed(clock::now(), refused);
        }
    }

    fn take_out(&mut self, id: TunnelId, spi_in: u32, reason: DownReason) {
        let Some(tunnel) = self.tunnels.get_mut(&id) else {
            return;
        };
        let now = clock::now();
        let was_up = !tunnel.children.is_empty();
        tunnel
            .children
            .remove(spi_in, reason, now, &mut self.datapath);
        if was_up && tunnel.children.is_empty() {
            let refused = install::wanting(id, &self.datapath);
            match reason {
                DownReason::Asked => tunnel.losses.taken_down(refused),
                DownReason::PeerDeleted
                | DownReason::PeerDisbelieves
                | DownReason::PeerDead
                | DownReason::Expired
                | DownReason::PeerRestarted
                | DownReason::Redundant
                | DownReason::Replaced
                | DownReason::Useless => tunnel.losses.without_sa(now, refused),
            }
        }
    }

    /// The device or the routes of a tunnel cannot be had: none of its Child SAs is of any use.
    fn uninstallable(&mut self, id: TunnelId, why: &str) {
        let Some(tunnel) = self.tunnels.get(&id) else {
            return;
        };
        for spi_in in tunnel.children.all() {
            self.take_out(id, spi_in, DownReason::Useless);
            let why = why.to_owned();
            let command = Command::InstallFailed {
                tunnel: id,
                spi_in,
                why,
            };
            self.endpoint.handle_command(clock::now(), command);
        }
    }

    /// Lets packets wait for an SA where traffic brings one up, and not where the tunnel is down by request.
    fn await_traffic(&mut self) {
        for (id, tunnel) in &mut self.tunnels {
            let waits = is_trap(tunnel, *id, &self.endpoint);
            if waits != tunnel.waits {
                tunnel.waits = waits;
                let idle = if waits {
                    NoSaAction::Trap(tunnel.settings.ike.policy.clone())
                } else {
                    NoSaAction::Drop
                };
                self.datapath.set_no_sa_action(lane(*id), idle);
            }
        }
    }

    fn send(&mut self, transmit: &Transmit) {
        let (framing, bytes): (IkeFraming, &[u8]) = match &transmit.content {
            Content::Ike(bytes) => (IkeFraming::NonEspMarker, bytes),
            Content::Keepalive => (IkeFraming::Plain, &[0xff]),
        };
        let Transmit { local, remote, .. } = transmit;
        let sent = self.datapath.transmit(*local, *remote, framing, bytes);
        // What strangers make us answer, and where to, is nobody's news.
        let to_peer = |tunnel: &Tunnel| tunnel.peer == Some(remote.ip());
        if self.tunnels.values().any(to_peer) {
            let error = sent.as_ref().err();
            self.reporter.sent(*remote, error, clock::now());
        }
    }

    /// Takes back what was changed on this machine; the devices go with the process.
    pub(super) fn clear(&mut self) {
        self.routing.stop();
        if let Err(error) = self.netlink.withdraw_all() {
            warn!(%error, "some routes could not be removed; the next start will");
        }
        let ids: Vec<TunnelId> = self.tunnels.keys().copied().collect();
        for id in ids {
            self.datapath.remove_tunnel(lane(id));
        }
        self.tunnels.clear();
    }
}

/// Whether traffic may bring this tunnel up.
pub(super) fn is_trap(tunnel: &Tunnel, id: TunnelId, endpoint: &Endpoint) -> bool {
    let asked_down = || {
        endpoint
            .view(id)
            .is_none_or(|view| view.state == TunnelState::Down)
    };
    tunnel.settings.ike.start == Start::Trap && !tunnel.gone && !asked_down()
}
