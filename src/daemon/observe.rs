//! Everything there is to see, as one snapshot.

use super::core::Core;
use super::install::{Tunnel, lane, wanting};
use super::report::Spi;
use crate::datapath;
use crate::ike::{self, Failure, IkeView, TunnelId};
use crate::net::{DropReason, EspTransport, Selector, Time};
use crate::os::{self, GsoSupport};
use crate::status::{
    Child, Counters, Encapsulation, Ike, LastError, Nat, Offload, Receiving, RekeyCheck, Rekeys,
    Role, Sending, Snapshot, State, SuperPackets, Tunnel as Seen, Verdict, Waiting,
};

/// The whole gateway.
pub(super) fn snapshot(core: &Core, now: Time) -> Snapshot {
    Snapshot {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_s: seconds(core, now),
        tunnels: core
            .tunnels
            .iter()
            .map(|(id, tunnel)| self::tunnel(core, *id, tunnel, now))
            .collect(),
        groups: Vec::new(),
        ike_refused: core
            .endpoint
            .refused()
            .map(|(class, count)| (class.word().to_owned(), count))
            .collect(),
        offload: Some(offload(core.datapath.offload(core.fallback.wanted()))),
        ticks: datapath::Stage::ALL
            .into_iter()
            .map(|stage| (stage.word().to_owned(), core.datapath.stages().spent(stage)))
            .collect(),
    }
}

fn offload(at_work: datapath::Offload) -> Offload {
    Offload {
        tun: match at_work.trains {
            GsoSupport::None => SuperPackets::None,
            GsoSupport::Tcp => SuperPackets::Tcp,
            GsoSupport::TcpAndUdp => SuperPackets::TcpAndUdp,
        },
        send: match at_work.sockets.send {
            os::Sending::Segments => Sending::Segments,
            os::Sending::Short => Sending::Short,
            os::Sending::Single => Sending::Single,
        },
        receive: match at_work.sockets.receive {
            os::Receiving::Joined => Receiving::Joined,
            os::Receiving::Single => Receiving::Single,
        },
    }
}

/// One tunnel.
pub(super) fn tunnel(core: &Core, id: TunnelId, tunnel: &Tunnel, now: Time) -> Seen {
    let view = core.endpoint.view(id);
    let counters = core.datapath.counters(lane(id));
    let remote = view.as_ref().and_then(|view| view.remote);
    let refused = |refusal: &DropReason| {
        let count = counters.map_or(0, |counters| counters.refused.count(*refusal));
        (refusal.metric().to_owned(), count)
    };
    let traffic = |of: Option<&crate::esp::Traffic>| Counters {
        packets: of.map_or(0, crate::esp::Traffic::packets),
        bytes: of.map_or(0, crate::esp::Traffic::bytes),
    };
    Seen {
        name: tunnel.settings.name.clone(),
        device: tunnel.settings.device.clone(),
        state: view.as_ref().map_or(State::Down, |view| state(view.state)),
        waiting: view
            .as_ref()
            .and_then(|view| view.waiting)
            .map(|waiting| match waiting {
                ike::Waiting::Answer => Waiting::Answer,
                ike::Waiting::Retry { .. } => Waiting::Retry,
                ike::Waiting::Traffic => Waiting::Traffic,
                ike::Waiting::Peer => Waiting::Peer,
            }),
        peer: remote.map_or_else(
            || tunnel.settings.ike.peer.to_string(),
            |remote| remote.to_string(),
        ),
        since_s: seconds(core, view.as_ref().map_or(now, |view| view.since)),
        ike: view
            .as_ref()
            .and_then(|view| view.ike.as_ref())
            .map(|view| ike(view, now)),
        child: view
            .as_ref()
            .and_then(|view| view.child.as_ref())
            .map(|view| child(view, tunnel, now)),
        rx: traffic(counters.map(|counters| &counters.rx)),
        tx: traffic(counters.map(|counters| &counters.tx)),
        refused: DropReason::ALL
            .iter()
            .filter(|refusal| **refusal != DropReason::Noise)
            .map(refused)
            .collect(),
        rekeys: Rekeys {
            ike: view.as_ref().map_or(0, |view| view.rekeys.ike),
            child: view.as_ref().map_or(0, |view| view.rekeys.child),
            packets_lost: tunnel.losses.lost(wanting(id, &core.datapath)),
        },
        rekey_check: view
            .as_ref()
            .and_then(|view| view.rekey_check)
            .map(|check| RekeyCheck {
                child: verdict(check.child),
                ike: verdict(check.ike),
            }),
        last_error: view
            .and_then(|view| view.last_failure)
            .map(|failure| last_error(core, failure)),
    }
}

/// Points in time are told in seconds since the daemon started.
fn seconds(core: &Core, at: Time) -> f64 {
    at.since(core.started).as_secs_f64()
}

fn state(state: ike::State) -> State {
    match state {
        ike::State::Down => State::Down,
        ike::State::Connecting => State::Connecting,
        ike::State::Up => State::Up,
        ike::State::Failed => State::Failed,
    }
}

fn verdict(verdict: ike::Verdict) -> Verdict {
    match verdict {
        ike::Verdict::Pending => Verdict::Pending,
        ike::Verdict::Accepted => Verdict::Accepted,
        ike::Verdict::Refused => Verdict::Refused,
    }
}

fn ike(view: &IkeView, now: Time) -> Ike {
    Ike {
        spi_i: format!("{:016x}", view.spi_i.0),
        spi_r: format!("{:016x}", view.spi_r.0),
        suite: view.suite.to_string(),
        role: match view.role {
            ike::Role::Initiator => Role::Initiator,
            ike::Role::Responder => Role::Responder,
        },
        rekey_in_s: Some(view.rekey_at.since(now).as_secs_f64()),
        nat: match view.nat {
            ike::NatView::None => Nat::None,
            ike::NatView::Us => Nat::Us,
            ike::NatView::Peer => Nat::Peer,
            ike::NatView::Both => Nat::Both,
            ike::NatView::Forced => Nat::Forced,
        },
        post_quantum: view.post_quantum,
    }
}

fn child(view: &ike::ChildView, tunnel: &Tunnel, now: Time) -> Child {
    let words = |selectors: &[Selector]| selectors.iter().map(ToString::to_string).collect();
    let at_work = tunnel.children.find(view.spi_in);
    Child {
        spi_in: Spi(view.spi_in).to_string(),
        spi_out: Spi(view.spi_out).to_string(),
        suite: view.suite.to_string(),
        local: words(&view.policy.local),
        remote: words(&view.policy.remote),
        rekey_in_s: Some(view.rekey_at.since(now).as_secs_f64()),
        mtu: at_work.map_or(tunnel.mtu, |child| child.path.mtu),
        encapsulation: match view.transport {
            EspTransport::Udp => Encapsulation::Udp,
            EspTransport::Esp => Encapsulation::Esp,
        },
    }
}

fn last_error(core: &Core, failure: Failure) -> LastError {
    let Failure {
        at,
        code,
        text,
        advice,
    } = failure;
    LastError {
        at_s: seconds(core, at),
        code: code.to_owned(),
        text,
        advice,
    }
}
