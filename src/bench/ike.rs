//! Handshakes on one core: two engines, no network, every message of IKE_SA_INIT and IKE_AUTH (and IKE_INTERMEDIATE where there is one).
//!
//! ```text
//!   initiator ── IKE_SA_INIT ──▶ responder          timed by side: what each does with what it gets,
//!             ◀─ IKE_SA_INIT ──                     from the first message to an SA that carries packets
//!             ── IKE_AUTH ────▶
//!             ◀─ IKE_AUTH ────
//! ```
//!
//! Most of it is the key exchange; strangers can make a gateway do the responder's half of that.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{MachineInfo, Progress};
use crate::crypto::{EspProposal, Generator, IkeProposal, ProposalError, Secret};
use crate::ike::{
    Content, Datagram, Dpd, Encapsulation, Endpoint, Peer, PeerId, Psk, RekeyCheck, Settings,
    Start, TunnelId, TunnelState,
};
use crate::net::{Policy, Prefix, Time};

/// What `bench ike` measures without words: the guide's suite, its successors, and one with ML-KEM.
pub const SUITES: [&str; 6] = [
    "aes128-sha1-modp1024",
    "aes256-sha256-modp2048",
    "aes256gcm16-prfsha256-curve25519",
    "aes256gcm16-prfsha256-ecp256",
    "aes256gcm16-prfsha384-ecp384",
    "aes256gcm16-prfsha384-ecp384-ke1_mlkem768",
];

/// What is measured, and for how long.
#[derive(Debug, Clone, PartialEq)]
pub struct IkeBenchOptions {
    /// IKE proposals in the words of swanctl.conf; each is a row of its own.
    pub suites: Vec<String>,
    /// How long each is measured.
    pub time: Duration,
}

/// A suite that cannot be measured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IkeBenchError {
    /// Nobody can read it.
    #[error("`--ike {words}`: {error}")]
    Words {
        /// As given.
        words: String,
        /// What is wrong with it.
        error: ProposalError,
    },
    /// The two engines did not come to an SA.
    #[error("two engines with `--ike {0}` do not connect")]
    NotUp(String),
}

/// Everything `bench ike` found out. Its serialised form is `bench ike --json`, and its keys are stable.
#[derive(Debug, Serialize)]
pub struct IkeReport {
    /// Where.
    pub machine: MachineInfo,
    /// Seconds for each row.
    pub seconds: f64,
    /// The rows.
    pub results: Vec<HandshakeRow>,
}

/// One suite.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HandshakeRow {
    /// The proposal.
    pub suite: String,
    /// Handshakes a second on one core that does both halves.
    pub per_second: f64,
    /// What the side that begins spends on one.
    pub initiator_ms: f64,
    /// What the side that answers spends on one.
    pub responder_ms: f64,
}

/// Measures.
///
/// # Errors
/// A suite that is none.
pub fn run(options: &IkeBenchOptions) -> Result<IkeReport, IkeBenchError> {
    let machine = MachineInfo::this();
    let proposals = options
        .suites
        .iter()
        .map(|words| match IkeProposal::parse(words) {
            Ok((proposal, _)) => Ok((words.clone(), proposal)),
            Err(error) => Err(IkeBenchError::Words {
                words: words.clone(),
                error,
            }),
        })
        .collect::<Result<Vec<_>, _>>()?;
    let mut progress = Progress::new(proposals.len() as u32);
    let mut results = Vec::new();
    for (suite, proposal) in proposals {
        progress.begin(suite.as_str());
        let laps =
            laps(&proposal, options.time).ok_or_else(|| IkeBenchError::NotUp(suite.clone()))?;
        let [initiator, responder] = [0, 1].map(|half| median(&laps, half));
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

/// What each side spent on one handshake: the initiator, the responder.
type HandshakeTime = [Duration; 2];

/// One handshake after the other for `time`; `None` if one of them fails.
fn laps(proposal: &IkeProposal, time: Duration) -> Option<Vec<HandshakeTime>> {
    handshake(proposal, 0)?;
    let begin = Instant::now();
    let mut laps = Vec::new();
    while laps.is_empty() || begin.elapsed() < time {
        laps.push(handshake(proposal, laps.len() as u64 + 1)?);
    }
    Some(laps)
}

fn median(laps: &[HandshakeTime], half: usize) -> Duration {
    let mut times: Vec<Duration> = laps.iter().map(|lap| lap[half]).collect();
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

const TUNNEL: TunnelId = TunnelId(0);

/// Datagrams that a handshake may take, fragments included, before it is no handshake.
const PATIENCE: usize = 64;

/// One handshake, of engines that know nothing of earlier ones.
fn handshake(proposal: &IkeProposal, number: u64) -> Option<HandshakeTime> {
    let now = Time::from_secs(1000);
    let seed = |side: u8| {
        let mut seed = [side; 32];
        seed[..8].copy_from_slice(&number.to_be_bytes());
        seed
    };
    let settings = [settings(0, proposal)?, settings(1, proposal)?];
    let mut ends = [0, 1].map(|side| Endpoint::new(Generator::from_seed(seed(side))));
    let mut lap = [Duration::ZERO; 2];
    // The responder is there first.
    for (side, settings) in settings.into_iter().enumerate().rev() {
        let begin = Instant::now();
        ends[side].add_tunnel(now, TUNNEL, settings);
        lap[side] += begin.elapsed();
    }
    for _ in 0..PATIENCE {
        let mut moved = false;
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
                let begin = Instant::now();
                ends[to].handle_datagram(now, datagram);
                while ends[to].poll_event().is_some() {}
                lap[to] += begin.elapsed();
                moved = true;
            }
        }
        let is_up = |end: &Endpoint| {
            end.view(TUNNEL)
                .is_some_and(|view| view.state == TunnelState::Up)
        };
        if ends.iter().all(is_up) {
            return Some(lap);
        }
        if !moved {
            break;
        }
    }
    None
}

/// Side 0 begins, side 1 answers.
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
        psk: Psk(Secret::from_slice(b"a key that nobody need keep secret")),
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
    })
}

impl fmt::Display for IkeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.machine)?;
        writeln!(f, "handshakes on one core, {} s a row\n", self.seconds)?;
        writeln!(
            f,
            "{:<44}{:>10}{:>14}{:>14}",
            "suite", "a second", "initiator", "responder"
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
    fn every_suite_connects_and_each_half_takes_its_time() {
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
    fn words_that_are_none_are_named() {
        let options = IkeBenchOptions {
            suites: vec!["aes128-sha1-modp1".to_owned()],
            time: Duration::ZERO,
        };
        let error = run(&options).unwrap_err().to_string();
        assert!(error.contains("--ike aes128-sha1-modp1"), "{error}");
    }
}
