//! Builds the status snapshot from the IKE endpoint, the datapath and the tunnel table.

use super::install::drops_without_sa;
use super::report::{Spi, ike_spi};
use super::routing::Routing;
use super::tunnels::TunnelEntry;
use crate::datapath::{self, Datapath};
use crate::esp::Traffic;
use crate::ike::{ChildView, Endpoint, Failure, IkeView};
use crate::net::{DropReason, Selector, Time, TunnelId, TunnelState};
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
        tunnels: impl Iterator<Item = (TunnelId, &'t TunnelEntry)>,
    ) -> Snapshot {
        let offload = self.datapath.offload(self.offload);
        let words = datapath::ProfileStep::ALL.into_iter();
        Snapshot {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: self.seconds(self.now),
            tunnels: tunnels
                .map(|(id, tunnel)| self.tunnel(id, tunnel))
                .collect(),
            groups: Vec::new(),
            ike_refused: self
                .endpoint
                .drop_counts()
                .map(|(class, count)| (class.word().to_owned(), count))
                .collect(),
            unmatched: datapath::UNMATCHED_REASONS
                .iter()
                .map(|reason| {
                    let count = self.datapath.unmatched().count(*reason);
                    (reason.metric().to_owned(), count)
                })
                .collect(),
            offload: Some(OffloadStatus {
                tun: offload.gso,
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
    pub(super) fn tunnel(&self, id: TunnelId, tunnel: &TunnelEntry) -> TunnelStatus {
        let view = self.endpoint.view(id);
        let view = view.as_ref();
        let counters = self.datapath.counters(id);
        let dropped = |reason: &DropReason| {
            let count = counters.map_or(0, |counters| counters.dropped.count(*reason));
            (reason.metric().to_owned(), count)
        };
        let peer = view.and_then(|view| view.remote);
        let ike = view.and_then(|view| view.ike.as_ref());
        let children = view.into_iter().flat_map(|view| &view.children);
        let children: Vec<_> = children.map(|view| self.child_sa(view, tunnel)).collect();
        TunnelStatus {
            name: tunnel.settings.name.clone(),
            device: tunnel.settings.device.clone(),
            state: match view.map_or(TunnelState::Down, |view| view.state) {
                // Packets do not enter the tunnel before its routes are installed.
                TunnelState::Up if self.routing.is_coming_up(id) => TunnelState::Connecting,
                _ if tunnel.unavailable.as_ref().is_some_and(|u| u.comes_up) => {
                    TunnelState::Connecting
                }
                state => state,
            },
            waiting: view.and_then(|view| view.waiting),
            peer: peer.map_or_else(
                || tunnel.settings.ike.peer.to_string(),
                |peer| peer.to_string(),
            ),
            since_s: self.seconds(view.map_or(self.now, |view| view.since)),
            ike: ike.map(|view| self.ike_sa(view)),
            child: children.first().cloned(),
            children,
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
                packets_lost: tunnel.loss.lost(drops_without_sa(id, self.datapath)),
            },
            rekey_check: view
                .and_then(|view| view.rekey_check)
                .map(|check| RekeyCheckStatus {
                    child: check.child,
                    ike: check.ike,
                }),
            warnings: self.routing.warnings(tunnel),
            next_attempt_s: tunnel
                .unavailable
                .as_ref()
                .map(|missing| missing.retry_at)
                .or(view.and_then(|view| view.next_attempt))
                .map(|at| at.since(self.now).as_secs_f64()),
            last_error: match &tunnel.unavailable {
                Some(missing) => Some(LastError {
                    at_s: self.seconds(missing.since),
                    code: missing.code.to_owned(),
                    text: missing.error.what().to_owned(),
                    advice: missing.error.advice().to_owned(),
                }),
                None => view
                    .and_then(|view| view.last_failure.as_ref())
                    .map(|failure| self.last_error(failure)),
            },
        }
    }

    fn ike_sa(&self, view: &IkeView) -> IkeSaStatus {
        IkeSaStatus {
            spi_i: ike_spi(view.spi_i),
            spi_r: ike_spi(view.spi_r),
            suite: view.suite.to_string(),
            role: view.role,
            rekey_in_s: Some(view.rekey_at.since(self.now).as_secs_f64()),
            nat: view.nat,
            post_quantum: view.post_quantum,
        }
    }

    fn child_sa(&self, view: &ChildView, tunnel: &TunnelEntry) -> ChildSaStatus {
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
            rx: traffic(installed.map(|child| child.inbound.received())),
            tx: traffic(installed.map(|child| child.path.sa.sent())),
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

fn traffic(of: Option<&Traffic>) -> TrafficCounters {
    TrafficCounters {
        packets: of.map_or(0, Traffic::packets),
        bytes: of.map_or(0, Traffic::bytes),
    }
}
