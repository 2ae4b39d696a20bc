//! Handshakes on one core between two engines without a network: IKE_SA_INIT, IKE_AUTH, and IKE_INTERMEDIATE if the suite needs it.
//!
//! ```text
//!   initiator ── IKE_SA_INIT ──▶ responder          timed by side: processing of each message,
//!             ◀─ IKE_SA_INIT ──                     from the first one to an established Child SA
//!             ── IKE_AUTH ────▶
//!             ◀─ IKE_AUTH ────
//! ```
//!
//! Most of the time is spent on the key exchange; an unauthenticated peer can cause the responder's half of it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::machine::MachineInfo;
use super::progress::Progress;
use crate::crypto::{EspProposal, Generator, IkeProposal, ProposalError, Secret};
use crate::ike::{
    Content, Datagram, Dpd, Encapsulation, Endpoint, Peer, PeerId, Psk, RekeyCheck, SelectorMode,
    Settings, Start, TunnelId, TunnelState,
};
use crate::net::{Policy, Prefix, Time};

/// Default suites: that of the clouds' guides, newer ones, and one with ML-KEM.
pub const SUITES: [&str; 6] = [
    "aes128-sha1-modp1024",
    "aes256-sha256-modp2048",
    "aes256gcm16-prfsha256-curve25519",
    "aes256gcm16-prfsha256-ecp256",
    "aes256gcm16-prfsha384-ecp384",
    "aes256gcm16-prfsha384-ecp384-ke1_mlkem768",
];

/// Options of `bench ike`.
#[derive(Debug, Clone, PartialEq)]
pub struct IkeBenchOptions {
    /// IKE proposals in swanctl.conf syntax, one row each.
    pub suites: Vec<String>,
    /// Measuring time of a row.
    pub time: Duration,
}

/// An error of `bench ike`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IkeBenchError {
    /// A proposal with a syntax error.
    #[error("`--ike {proposal}`: {error}")]
    Proposal {
        /// Proposal as given.
        proposal: String,
        /// Syntax error.
        error: ProposalError,
    },
    /// The handshake failed.
    #[error("the handshake with `--ike {0}` failed")]
    NotUp(String),
}

/// The result of `bench ike`. Its serialized form is `bench ike --json`, with stable keys.
#[derive(Debug, Serialize)]
pub struct IkeReport {
    /// Machine of the benchmark.
    pub machine: MachineInfo,
    /// Measuring time of a row in seconds.
    pub seconds: f64,
    /// One row for each suite.
    pub results: Vec<HandshakeRow>,
}

/// The result of one suite.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HandshakeRow {
    /// IKE proposal.
    pub suite: String,
    /// Handshakes per second on one core that runs both sides.
    pub per_second: f64,
    /// Time of the initiator for one handshake.
    pub initiator_ms: f64,
    /// Time of the responder for one handshake.
    pub responder_ms: f64,
}

/// Runs the benchmark.
///
/// # Errors
/// A proposal is invalid, or a handshake failed.
pub fn run(options: &IkeBenchOptions) -> Result<IkeReport, IkeBenchError> {
    let machine = MachineInfo::current();
    let proposals = options
        .suites
        .iter()
        .map(|suite| match IkeProposal::parse(suite) {
            Ok((proposal, _)) => Ok((suite.clone(), proposal)),
            Err(error) => Err(IkeBenchError::Proposal {
                proposal: suite.clone(),
                error,
            }),
        })
        .collect::<Result<Vec<_>, _>>()?;
    let mut progress = Progress::new(proposals.len() as u64);
    let mut results = Vec::new();
    for (suite, proposal) in proposals {
        progress.start(suite.as_str());
        let times = handshakes(&proposal, options.time)
            .ok_or_else(|| IkeBenchError::NotUp(suite.clone()))?;
        let [initiator, responder] = [0, 1].map(|side| median(&times, side));
        results.push(HandshakeRow {
            suite,
            per_second: 1.0 / (initiator + responder).as_secs_f64().max(1e-9),
            initiator_ms: initiator.as_secs_f64() * 1e3,
            responder_ms: responder.as_secs_f64() * 1e3,
        });
    }
    Ok(IkeReport {
        machine,
        seconds: options.time.as_secs_f64(),
        results,
    })
}

/// Time of the initiator and of the responder for one handshake.
type HandshakeTime = [Duration; 2];

/// Repeats the handshake for `time`; `None` if one fails.
fn handshakes(proposal: &IkeProposal, time: Duration) -> Option<Vec<HandshakeTime>> {
    handshake(proposal, 0)?;
    let start = Instant::now();
    let mut times = Vec::new();
    while times.is_empty() || start.elapsed() < time {
        times.push(handshake(proposal, times.len() as u64 + 1)?);
    }
    Some(times)
}

fn median(times: &[HandshakeTime], side: usize) -> Duration {
    let mut times: Vec<Duration> = times.iter().map(|time| time[side]).collect();
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

const TUNNEL: TunnelId = TunnelId(0);

/// The most rounds of datagrams in a handshake, fragments included.
const MAX_ROUNDS: usize = 64;

/// Runs one handshake between new engines.
fn handshake(proposal: &IkeProposal, number: u64) -> Option<HandshakeTime> {
    let now = Time::from_secs(1000);
    let seed = |side: u8| {
        let mut seed = [side; 32];
        seed[..8].copy_from_slice(&number.to_be_bytes());
        seed
    };
    let settings = [settings(0, proposal)?, settings(1, proposal)?];
    let mut ends = [0, 1].map(|side| Endpoint::new(Generator::from_seed(seed(side))));
    let mut times = [Duration::ZERO; 2];
    // The responder is configured first.
    for (side, settings) in settings.into_iter().enumerate().rev() {
        let start = Instant::now();
        ends[side].add_tunnel(now, TUNNEL, settings);
        times[side] += start.elapsed();
    }
    for _ in 0..MAX_ROUNDS {
        let mut has_sent = false;
        for from in [0, 1] {
            let to = 1 - from;
            while let Some(transmit) = ends[from].poll_transmit() {
                let bytes = match &transmit.content {
                    Content::Ike(bytes) => bytes,
                    Content::Keepalive => continue,
                };
                let datagram = Datagram {
                    local: transmit.remote,
                    remote: transmit.local,
                    bytes,
                };
                let start = Instant::now();
                ends[to].handle_datagram(now, datagram);
                while ends[to].poll_event().is_some() {}
                times[to] += start.elapsed();
                has_sent = true;
            }
        }
        let is_up = |end: &Endpoint| {
            end.view(TUNNEL)
                .is_some_and(|view| view.state == TunnelState::Up)
        };
        if ends.iter().all(is_up) {
            return Some(times);
        }
        if !has_sent {
            break;
        }
    }
    None
}

/// Settings of a side: 0 is the initiator, 1 the responder.
fn settings(side: u8, proposal: &IkeProposal) -> Option<Settings> {
    let address = |side: u8| IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1 + side));
    let network = |side: u8| {
        let address = IpAddr::V4(Ipv4Addr::new(10, 1 + side, 0, 0));
        vec![Prefix::containing(address, 24).into()]
    };
    let day = Duration::from_secs(24 * 3600);
    Some(Settings {
        name: "bench".to_owned(),
        peer: Peer::Address(address(1 - side)),
        local: address(side),
        id: address(side).into(),
        peer_id: PeerId::Any,
        psk: Psk(Secret::from_slice(b"not a secret")),
        ppk: None,
        ike: vec![proposal.clone()],
        esp: vec![EspProposal::parse("aes128-sha256").ok()?.0],
        policy: Policy {
            local: network(side),
            remote: network(1 - side),
        },
        ike_lifetime: day,
        child_lifetime: day,
        start: if side == 0 { Start::Auto } else { Start::Add },
        dpd: Dpd {
            delay: Duration::from_secs(10),
            timeout: Duration::from_secs(30),
        },
        encapsulation: Encapsulation::Udp,
        fragment_size: 1280,
        rekey_check: RekeyCheck::Never,
        selectors: SelectorMode::Together,
    })
}

impl fmt::Display for IkeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.machine)?;
        writeln!(f, "handshakes on one core, {} s per row\n", self.seconds)?;
        writeln!(
            f,
            "{:<44}{:>10}{:>14}{:>14}",
            "suite", "per second", "initiator", "responder"
        )?;
        for row in &self.results {
            writeln!(
                f,
                "{:<44}{:>10.0}{:>11.3} ms{:>11.3} ms",
                row.suite, row.per_second, row.initiator_ms, row.responder_ms
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_suite_connects_and_both_sides_are_timed() {
        let options = IkeBenchOptions {
            suites: SUITES.map(str::to_owned).to_vec(),
            time: Duration::ZERO,
        };
        let report = run(&options).unwrap();
        assert_eq!(report.results.len(), SUITES.len());
        for row in &report.results {
            assert!(row.initiator_ms > 0.0 && row.responder_ms > 0.0, "{row:?}");
            assert!(report.to_string().contains(&row.suite));
        }
    }

    #[test]
    fn an_invalid_proposal_is_named_in_the_error() {
        let options = IkeBenchOptions {
            suites: vec!["aes128-sha1-modp1".to_owned()],
            time: Duration::ZERO,
        };
        let error = run(&options).unwrap_err().to_string();
        assert!(error.contains("--ike aes128-sha1-modp1"), "{error}");
    }
}
