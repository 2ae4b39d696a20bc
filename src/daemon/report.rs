//! What the daemon says: one line a state change, a failure once, strangers rarely, and never a secret.

use std::io;
use std::net::{IpAddr, SocketAddr};

use tracing::{debug, info, warn};

use super::install::Tunnel;
use super::news::{News, Strangers};
use crate::ike::{Child, DownReason, Event, Failure, Rekey, TunnelId};
use crate::net::{Policy, Time};
use crate::os::systemd;

/// Remembers what has been said.
#[derive(Debug, Default)]
pub(super) struct Reporter {
    /// Tunnels whose trying to connect is no news.
    trying: Vec<TunnelId>,
    failures: News<TunnelId>,
    /// Where datagrams cannot be sent to.
    unsendable: News<IpAddr>,
    strangers: Strangers,
    standing: Option<(usize, usize)>,
}

/// An SPI as the wire and every tool shows it.
pub(super) struct Spi(pub(super) u32);

impl std::fmt::Display for Spi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl Reporter {
    /// What the engine has decided.
    pub(super) fn event<'a>(
        &mut self,
        event: &Event,
        name_of: impl Fn(&TunnelId) -> Option<&'a str>,
    ) {
        let name = |id: &TunnelId| name_of(id).unwrap_or("?");
        match event {
            Event::Resolve { tunnel, name: peer } => {
                debug!(tunnel = name(tunnel), peer, "looking the peer up");
            }
            Event::Source { tunnel, peer } => {
                debug!(tunnel = name(tunnel), %peer, "which address of ours leads there?");
            }
            Event::Connecting { tunnel, remote } => {
                if self.trying.contains(tunnel) {
                    debug!(tunnel = name(tunnel), %remote, "connecting again");
                } else {
                    self.trying.push(*tunnel);
                    info!(tunnel = name(tunnel), %remote, "connecting");
                }
            }
            Event::IkeUp { tunnel, ike } => {
                self.trying.retain(|id| id != tunnel);
                info!(
                    tunnel = name(tunnel),
                    spi_i = %format_args!("{:016x}", ike.spi_i.0),
                    spi_r = %format_args!("{:016x}", ike.spi_r.0),
                    suite = %ike.suite,
                    role = ike.role.word(),
                    nat = ike.nat.word(),
                    post_quantum = ike.post_quantum,
                    "IKE SA up"
                );
            }
            Event::IkeDown {
                tunnel,
                spis,
                reason,
            } => {
                info!(
                    tunnel = name(tunnel),
                    spi_i = %format_args!("{:016x}", spis.0.0),
                    spi_r = %format_args!("{:016x}", spis.1.0),
                    "IKE SA down: {}",
                    reason.text()
                );
            }
            Event::IkeRekeyed { tunnel, old, ike } => {
                info!(
                    tunnel = name(tunnel),
                    old_spi_i = %format_args!("{:016x}", old.0.0),
                    old_spi_r = %format_args!("{:016x}", old.1.0),
                    spi_i = %format_args!("{:016x}", ike.spi_i.0),
                    spi_r = %format_args!("{:016x}", ike.spi_r.0),
                    suite = %ike.suite,
                    post_quantum = ike.post_quantum,
                    "IKE SA rekeyed"
                );
            }
            Event::PeerMoved { tunnel, remote } => {
                info!(tunnel = name(tunnel), %remote, "the peer has moved");
            }
            Event::RekeyChecked {
                tunnel,
                what,
                result,
            } => {
                let what = match what {
                    Rekey::Child => "Child SA",
                    Rekey::Ike => "IKE SA",
                };
                match result {
                    Ok(()) => info!(tunnel = name(tunnel), "the peer rekeys the {what}"),
                    Err(failure) => warn!(
                        tunnel = name(tunnel),
                        code = failure.code,
                        advice = failure.advice,
                        "the peer does not rekey the {what}: {}",
                        failure.text
                    ),
                }
            }
            Event::ChildUp(_) => {}
            Event::ChildPreferred { tunnel, spi_in } => {
                debug!(tunnel = name(tunnel), spi_in = %Spi(*spi_in), "sending over this Child SA");
            }
            Event::ChildDown {
                tunnel,
                spi_in,
                reason,
            } => {
                let (tunnel, spi_in, reason) = (name(tunnel), Spi(*spi_in), *reason);
                match reason {
                    DownReason::PeerDead => {
                        warn!(tunnel, %spi_in, "Child SA down: {}", reason.text());
                    }
                    // Its successor has told of both.
                    DownReason::Replaced => {
                        debug!(tunnel, %spi_in, "Child SA down: {}", reason.text());
                    }
                    DownReason::Asked
                    | DownReason::PeerDeleted
                    | DownReason::PeerDisbelieves
                    | DownReason::Expired
                    | DownReason::PeerRestarted
                    | DownReason::Redundant
                    | DownReason::Useless => {
                        info!(tunnel, %spi_in, "Child SA down: {}", reason.text());
                    }
                }
            }
            Event::Dropped {
                class,
                remote,
                count,
            } => {
                info!(class = class.word(), %remote, count, "refused: {}", class.text());
            }
            Event::Failed {
                tunnel: Some(tunnel),
                failure,
            } => {
                let Failure {
                    code,
                    text,
                    advice,
                    at,
                } = failure;
                if self.failures.is_news(*tunnel, text, *at) {
                    warn!(tunnel = name(tunnel), code, advice, "{text}");
                } else {
                    debug!(tunnel = name(tunnel), code, "again: {text}");
                }
            }
            Event::Failed {
                tunnel: None,
                failure,
            } => {
                let Failure {
                    code,
                    text,
                    advice,
                    at,
                } = failure;
                match self.strangers.is_news(*at) {
                    None => debug!(code, "{text}"),
                    Some(0) => info!(code, advice, "{text}"),
                    Some(untold) => info!(code, advice, untold, "{text}"),
                }
            }
        }
    }

    /// A Child SA is at work.
    pub(super) fn installed(&self, child: &Child, tunnel: &Tunnel) {
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
        let list = |selectors: &[crate::net::Selector]| {
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

    /// How sending to a peer went.
    pub(super) fn sent(&mut self, remote: SocketAddr, error: Option<&io::Error>, now: Time) {
        let ip = remote.ip();
        match error {
            None => self.unsendable.forget(&ip),
            Some(error) if self.unsendable.is_news(ip, &error.to_string(), now) => {
                warn!(%remote, %error, "cannot send to the peer: check this machine's addresses and routes (`ip route get {ip}`)");
            }
            Some(error) => debug!(%remote, %error, "cannot send"),
        }
    }

    /// How many tunnels are up: one line for `systemctl status`.
    pub(super) fn standing(&mut self, up: usize, all: usize) {
        if self.standing != Some((up, all)) {
            self.standing = Some((up, all));
            let tunnels = if all == 1 { "tunnel" } else { "tunnels" };
            systemd::status(&format!("{up} of {all} {tunnels} up"));
        }
    }
}
