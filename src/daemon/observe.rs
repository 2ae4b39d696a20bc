//! Builds the status snapshot from the IKE endpoint, the datapath and the tunnel table.

use super::install::{Tunnel, lane, wanting};
use super::report::Spi;
use super::routing::Routing;
use crate::datapath::{self, Datapath};
use crate::ike::{self, Endpoint, Failure, IkeView, TunnelId};
use crate::net::{DropReason, Selector, Time, TunnelState};
use crate::status::{
    ChildSaStatus, IkeSaStatus, LastError, OffloadStatus, RekeyCheckStatus, RekeyCounters,
    Snapshot, TrafficCounters, TunnelStatus,
};

/// State of the gateway that a snapshot is built from.
pub(super) struct Observer<'a> {
    /// Start of the daemon.
    pub(super) started: Time,
    /// Time of the snapshot.
    pub(super) now: Time,
    /// IKE endpoint.
    pub(super) endpoint: &'a Endpoint,
    /// Datapath.
    pub(super) datapath: &'a Datapath,
    /// Routing of the tunnels.
    pub(super) routing: &'a Routing,
    /// Configured offload.
    pub(super) offload: datapath::Offload,
}

impl Observer<'_> {
    /// Snapshot of the whole gateway.
    pub(super) fn snapshot<'t>(
        &self,
        tunnels: impl Iterator<Item = (&'t TunnelId, &'t Tunnel)>,
    ) -> Snapshot {
        let offload = self.datapath.offload(self.offload);
        let words = datapath::ProfileStep::ALL.into_iter();
        Snapshot {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: self.seconds(self.now),
            tunnels: tunnels
                .map(|(id, tunnel)| self.tunnel(*id, tunnel))
                .collect(),
            groups: Vec::new(),
            ike_refused: self
                .endpoint
                .drop_counts()
                .map(|(class, count)| (class.word().to_owned(), count))
                .collect(),
            offload: Some(OffloadStatus {
                tun: offload.trains,
                send: offload.sockets.send,
                receive: offload.sockets.receive,
            }),
            ticks: words
                .map(|step| {
                    (
                        step.name().to_owned(),
                        self.datapath.step_totals().spent(step),
                    )
                })
                .collect(),
        }
    }

    /// Status of one tunnel.
    pub(super) fn tunnel(&self, id: TunnelId, tunnel: &Tunnel) -> TunnelStatus {
        let view = self.endpoint.view(id);
        let view = view.as_ref();
        let counters = self.datapath.counters(lane(id));
        let dropped = |reason: &DropReason| {
            let count = counters.map_or(0, |counters| counters.refused.count(*reason));
            (reason.metric().to_owned(), count)
        };
        let traffic = |of: Option<&crate::esp::Traffic>| TrafficCounters {
            packets: of.map_or(0, crate::esp::Traffic::packets),
            bytes: of.map_or(0, crate::esp::Traffic::bytes),
        };
        let peer = view.and_then(|view| view.remote);
        let ike = view.and_then(|view| view.ike.as_ref());
        let child = view.and_then(|view| view.child.as_ref());
        TunnelStatus {
            name: tunnel.settings.name.clone(),
            device: tunnel.settings.device.clone(),
            state: match view.map_or(TunnelState::Down, |view| view.state) {
                // Packets do not enter the tunnel before its routes are installed.
                TunnelState::Up if self.routing.is_coming_up(id) => TunnelState::Connecting,
                state => state,
            },
            waiting: view.and_then(|view| view.waiting),
            peer: peer.map_or_else(
                || tunnel.settings.ike.peer.to_string(),
                |peer| peer.to_string(),
            ),
            since_s: self.seconds(view.map_or(self.now, |view| view.since)),
            ike: ike.map(|view| self.ike_sa(view)),
            child: child.map(|view| self.child_sa(view, tunnel)),
            rx: traffic(counters.map(|counters| &counters.rx)),
            tx: traffic(counters.map(|counters| &counters.tx)),
            refused: DropReason::ALL
                .iter()
                .filter(|reason| **reason != DropReason::Noise)
                .map(dropped)
                .collect(),
            rekeys: RekeyCounters {
                ike: view.map_or(0, |view| view.rekeys.ike),
                child: view.map_or(0, |view| view.rekeys.child),
                packets_lost: tunnel.losses.lost(wanting(id, self.datapath)),
            },
            rekey_check: view
                .and_then(|view| view.rekey_check)
                .map(|check| RekeyCheckStatus {
                    child: check.child,
                    ike: check.ike,
                }),
            last_error: view
                .and_then(|view| view.last_failure.as_ref())
                .map(|failure| self.last_error(failure)),
        }
    }

    fn ike_sa(&self, view: &IkeView) -> IkeSaStatus {
        IkeSaStatus {
            spi_i: format!("{:016x}", view.spi_i.0),
            spi_r: format!("{:016x}", view.spi_r.0),
            suite: view.suite.to_string(),
            role: view.role,
            rekey_in_s: Some(view.rekey_at.since(self.now).as_secs_f64()),
            nat: view.nat,
            post_quantum: view.post_quantum,
        }
    }

    fn child_sa(&self, view: &ike::ChildView, tunnel: &Tunnel) -> ChildSaStatus {
        let words = |selectors: &[Selector]| selectors.iter().map(ToString::to_string).collect();
        let installed = tunnel.children.find(view.spi_in);
        ChildSaStatus {
            spi_in: Spi(view.spi_in).to_string(),
            spi_out: Spi(view.spi_out).to_string(),
            suite: view.suite.to_string(),
            local: words(&view.policy.local),
            remote: words(&view.policy.remote),
            rekey_in_s: Some(view.rekey_at.since(self.now).as_secs_f64()),
            mtu: installed.map_or(tunnel.mtu, |child| child.path.mtu),
            encapsulation: view.transport,
        }
    }

    fn last_error(&self, failure: &Failure) -> LastError {
        LastError {
            at_s: self.seconds(failure.at),
            code: failure.code.to_owned(),
            text: failure.text.clone(),
            advice: failure.advice.clone(),
        }
    }

    /// Seconds from the start of the daemon to `at`.
    fn seconds(&self, at: Time) -> f64 {
        at.since(self.started).as_secs_f64()
    }
}
