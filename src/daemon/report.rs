//! Log lines of the control plane: one a state change, rate limits on repeated failures, no secrets.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tracing::{debug, info, warn};

use super::tunnels::TunnelEntry;
use crate::ike::{Child, DownReason, Event, Failure, IkeView, Rekey};
use crate::net::{LogLimit, Policy, Selector, Time, TunnelId};
use crate::os::systemd;
use crate::wire::IkeSpi;

/// Interval after which an unchanged failure is logged again.
const FAILURE_INTERVAL: Duration = Duration::from_secs(300);

/// Interval between two lines about peers without a tunnel.
const UNKNOWN_PEER_INTERVAL: Duration = Duration::from_secs(60);

/// Upper bound on remembered tunnels or addresses, so that a failure of each is logged once an interval.
const MAX_SUBJECTS: usize = 4096;

/// Writer of the control plane's log lines.
#[derive(Debug)]
pub(super) struct Reporter {
    /// Tunnels that are connecting: their first attempt has been logged.
    connecting: BTreeSet<TunnelId>,
    failures: LogLimit<TunnelId>,
    send_errors: LogLimit<IpAddr>,
    unknown_peers: LogLimit<()>,
    /// Last status line of the service: tunnels up, tunnels in all.
    service_status: Option<(usize, usize)>,
}

impl Default for Reporter {
    fn default() -> Reporter {
        Reporter {
            connecting: BTreeSet::new(),
            failures: LogLimit::new(FAILURE_INTERVAL, MAX_SUBJECTS),
            send_errors: LogLimit::new(FAILURE_INTERVAL, MAX_SUBJECTS),
            unknown_peers: LogLimit::new(UNKNOWN_PEER_INTERVAL, 1),
            service_status: None,
        }
    }
}

/// ESP SPI, displayed as 8 hex digits.
pub(super) struct Spi(pub(super) u32);

impl std::fmt::Display for Spi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl Reporter {
    /// Logs an event of the IKE endpoint.
    pub(super) fn event<'a>(
        &mut self,
        event: &Event,
        name_of: impl Fn(&TunnelId) -> Option<&'a str>,
    ) {
        let name = |id: &TunnelId| name_of(id).unwrap_or("?");
        match event {
            Event::Resolve { tunnel, name: peer } => {
                debug!(tunnel = name(tunnel), peer, "resolving the peer's name");
            }
            Event::Source { tunnel, peer } => {
                debug!(tunnel = name(tunnel), %peer, "looking up the local address for the peer");
            }
            Event::Connecting { tunnel, remote } => {
                self.connecting(*tunnel, name(tunnel), *remote);
            }
            Event::IkeUp { tunnel, ike } => {
                self.connecting.remove(tunnel);
                ike_up(name(tunnel), ike);
            }
            Event::IkeDown {
                tunnel,
                spis,
                reason,
            } => ike_down(name(tunnel), *spis, *reason),
            Event::IkeRekeyed { tunnel, old, ike } => ike_rekeyed(name(tunnel), *old, ike),
            Event::PeerMoved { tunnel, remote } => {
                info!(tunnel = name(tunnel), %remote, "peer address changed");
            }
            Event::RekeyChecked {
                tunnel,
                what,
                result,
            } => rekey_checked(name(tunnel), *what, result),
            // Logged by `installed`, once the Child SA is in the datapath.
            Event::ChildUp(_) | Event::ChildOffered { .. } => {}
            Event::ChildPreferred { tunnel, spi_in } => {
                debug!(tunnel = name(tunnel), spi_in = %Spi(*spi_in), "Child SA selected for sending");
            }
            Event::ChildDown {
                tunnel,
                spi_in,
                reason,
            } => child_down(name(tunnel), Spi(*spi_in), *reason),
            Event::Dropped {
                class,
                remote,
                count,
            } => {
                info!(class = class.word(), %remote, count, "dropped before authentication: {}", class.text());
            }
            Event::Failed {
                tunnel: Some(tunnel),
                failure,
            } => self.failed(*tunnel, name(tunnel), failure),
            Event::Failed {
                tunnel: None,
                failure,
            } => self.unknown_peer(failure),
        }
    }

    /// Logs an attempt to connect: the first since the tunnel was last up at INFO, further ones at DEBUG.
    fn connecting(&mut self, id: TunnelId, tunnel: &str, remote: SocketAddr) {
        if self.connecting.insert(id) {
            info!(tunnel, %remote, "connecting");
        } else {
            debug!(tunnel, %remote, "connecting again");
        }
    }

    fn failed(&mut self, id: TunnelId, tunnel: &str, failure: &Failure) {
        let Failure {
            code,
            text,
            advice,
            at,
        } = failure;
        match self.failures.check(id, text, *at) {
            Some(_) => warn!(tunnel, code, advice, "{text}"),
            None => debug!(tunnel, code, "again: {text}"),
        }
    }

    /// Logs the failure of a peer that no tunnel has. Anybody can cause such failures, so one line a minute is logged, whatever its text.
    fn unknown_peer(&mut self, failure: &Failure) {
        let Failure {
            code,
            text,
            advice,
            at,
        } = failure;
        match self.unknown_peers.check((), "", *at) {
            None => debug!(code, "{text}"),
            Some(0) => info!(code, advice, "{text}"),
            Some(suppressed) => info!(code, advice, suppressed, "{text}"),
        }
    }

    /// Logs that a Child SA is in the datapath.
    pub(super) fn installed(&self, child: &Child, tunnel: &TunnelEntry) {
        if let Some(old) = child.replaces {
            info!(
                tunnel = tunnel.settings.name,
                old_spi_in = %Spi(old),
                spi_in = %Spi(child.spi_in),
                spi_out = %Spi(child.spi_out),
                suite = %child.suite,
                encapsulation = child.transport.word(),
                role = child.role.word(),
                "Child SA rekeyed"
            );
            return;
        }
        let Policy { local, remote } = &child.policy;
        let list = |selectors: &[Selector]| {
            let words: Vec<String> = selectors.iter().map(ToString::to_string).collect();
            words.join(",")
        };
        info!(
            tunnel = tunnel.settings.name,
            spi_in = %Spi(child.spi_in),
            spi_out = %Spi(child.spi_out),
            suite = %child.suite,
            remote = %child.remote,
            encapsulation = child.transport.word(),
            local_ts = list(local),
            remote_ts = list(remote),
            device = tunnel.device.name(),
            mtu = tunnel.mtu,
            "Child SA up"
        );
    }

    /// Logs the result of sending a datagram to a peer; a success forgets the logged error.
    pub(super) fn sent(&mut self, remote: SocketAddr, error: Option<&io::Error>, now: Time) {
        let ip = remote.ip();
        let Some(error) = error else {
            self.send_errors.forget(&ip);
            return;
        };
        match self.send_errors.check(ip, &error.to_string(), now) {
            Some(_) => {
                warn!(%remote, %error, "cannot send to the peer: check this machine's addresses and routes (`ip route get {ip}`)");
            }
            None => debug!(%remote, %error, "cannot send"),
        }
    }

    /// Updates the status line of the service (`systemctl status`).
    pub(super) fn service_status(&mut self, up: usize, all: usize) {
        if self.service_status != Some((up, all)) {
            self.service_status = Some((up, all));
            let tunnels = if all == 1 { "tunnel" } else { "tunnels" };
            systemd::status(&format!("{up} of {all} {tunnels} up"));
        }
    }
}

fn ike_up(tunnel: &str, ike: &IkeView) {
    info!(
        tunnel,
        spi_i = %ike_spi(ike.spi_i),
        spi_r = %ike_spi(ike.spi_r),
        suite = %ike.suite,
        role = ike.role.word(),
        nat = ike.nat.word(),
        post_quantum = ike.post_quantum,
        "IKE SA up"
    );
}

fn ike_down(tunnel: &str, spis: (IkeSpi, IkeSpi), reason: DownReason) {
    info!(
        tunnel,
        spi_i = %ike_spi(spis.0),
        spi_r = %ike_spi(spis.1),
        "IKE SA down: {}",
        reason.text()
    );
}

fn ike_rekeyed(tunnel: &str, old: (IkeSpi, IkeSpi), ike: &IkeView) {
    info!(
        tunnel,
        old_spi_i = %ike_spi(old.0),
        old_spi_r = %ike_spi(old.1),
        spi_i = %ike_spi(ike.spi_i),
        spi_r = %ike_spi(ike.spi_r),
        suite = %ike.suite,
        post_quantum = ike.post_quantum,
        "IKE SA rekeyed"
    );
}

fn rekey_checked(tunnel: &str, what: Rekey, result: &Result<(), Failure>) {
    let what = match what {
        Rekey::Child => "Child SA",
        Rekey::Ike => "IKE SA",
    };
    match result {
        Ok(()) => info!(tunnel, "rekey check passed: the peer rekeys the {what}"),
        Err(failure) => warn!(
            tunnel,
            code = failure.code,
            advice = failure.advice,
            "rekey check failed: the peer does not rekey the {what}: {}",
            failure.text
        ),
    }
}

fn child_down(tunnel: &str, spi_in: Spi, reason: DownReason) {
    let text = reason.text();
    match reason {
        DownReason::PeerDead => warn!(tunnel, %spi_in, "Child SA down: {text}"),
        // The line "Child SA rekeyed" has named both.
        DownReason::Replaced => debug!(tunnel, %spi_in, "Child SA down: {text}"),
        DownReason::Requested
        | DownReason::PeerDeleted
        | DownReason::UnknownToPeer
        | DownReason::NoChildLeft
        | DownReason::InvalidRequest
        | DownReason::RequestRejected
        | DownReason::IdentityRejected
        | DownReason::Expired
        | DownReason::PeerRestarted
        | DownReason::Redundant
        | DownReason::Useless => info!(tunnel, %spi_in, "Child SA down: {text}"),
    }
}

/// IKE SPI as 16 hex digits.
pub(super) fn ike_spi(spi: IkeSpi) -> String {
    format!("{:016x}", spi.0)
}
