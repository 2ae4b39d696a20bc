//! Running the traffic, and saying how it went.

use std::time::{Duration, Instant};

use super::gateway::GatewayProcess;
use super::interrupt::Interrupted;
use super::options::{self, DEFAULT_SUITE, RemoteKind, Side};
use super::report::{Diagram, LabReport, PingStats, Problem, TcpRates, WireCounters};
use super::setup::{Lab, POLL, RemoteGateway};
use super::{LabError, doing, ping, traffic};
use crate::net::EspTransport;
use crate::status::{LastError, RekeyCounters, Snapshot, TunnelState, TunnelStatus};

/// How long a tunnel may take, and how long we wait on once a side has said what is wrong.
const PATIENCE: Duration = Duration::from_secs(20);
const PATIENCE_AFTER_ERROR: Duration = Duration::from_secs(4);

impl Lab {
    /// Waits until both sides say that every tunnel is up; `None` if they do not.
    pub fn await_up(&mut self) -> Result<Option<Duration>, Interrupted> {
        let begin = Instant::now();
        let mut first_error: Option<Instant> = None;
        loop {
            if self.a.is_up() {
                let connected = self.started.elapsed();
                let both = match &self.b {
                    RemoteGateway::Groundlink(b) => b.is_up(),
                    RemoteGateway::Strongswan(charon) => charon.is_up(),
                };
                if both {
                    return Ok(Some(connected));
                }
            } else if first_error.is_none() && self.has_failed() {
                first_error = Some(Instant::now());
            }
            let gave_up = begin.elapsed() > PATIENCE
                || first_error.is_some_and(|at| at.elapsed() > PATIENCE_AFTER_ERROR);
            if gave_up || self.has_ended() {
                return Ok(None);
            }
            self.interrupt.pause(POLL)?;
        }
    }

    /// Pings from host A to host B.
    pub fn ping(&self, count: u16) -> Result<PingStats, LabError> {
        let target = self.plan.b.host;
        let pinger = self
            .inside(Side::A, || ping::Pinger::new(target))?
            .map_err(doing("no ICMP socket"))?;
        let result = pinger.ping(count, &self.interrupt);
        self.interrupt.check()?;
        result.map_err(doing("the ping broke"))
    }

    /// Runs TCP from the host of `side` to the other one, over `streams` connections.
    pub fn tcp(
        &self,
        side: Side,
        streams: usize,
        duration: Duration,
    ) -> Result<traffic::Throughput, TransferError> {
        let to = side.other();
        let address = self.plan.site(to).host;
        let sink = self
            .inside(to, || traffic::TcpSink::new(address))?
            .map_err(traffic::TrafficError::Local)?;
        let target = sink.target().map_err(traffic::TrafficError::Local)?;
        let connected = self.inside(side, || traffic::connect(target, streams))??;
        Ok(sink.fill(connected, duration, &self.interrupt)?)
    }

    /// Waits for the tunnels, runs the traffic, and says how it went.
    pub fn measure(&mut self, progress: &mut dyn FnMut(&str)) -> Result<LabReport, LabError> {
        progress("waiting for the tunnel");
        let connected = self.await_up()?;
        let mut report = self.empty_report();
        report.connect_ms = connected.map(|time| time.as_secs_f64() * 1e3);
        if connected.is_some() {
            progress("pinging");
            // The first packet finds neighbours unresolved: IPv6 may ask for a second. It is not one of those that count.
            self.ping(1)?;
            report.ping = self.ping(20)?;
            if report.ping.received < report.ping.sent {
                let PingStats { sent, received, .. } = report.ping;
                report.problems.push(Problem::new(format!(
                    "{} of {sent} pings were lost",
                    sent - received
                )));
            }
            match self.options.transport() {
                EspTransport::Udp => self.tap.watch_protocol_50_only(),
                EspTransport::Esp => self.tap.stop(),
            }
            .map_err(doing("the WAN router cannot be watched"))?;
            for side in [Side::A, Side::B] {
                progress(&format!("TCP from {side} to {}", side.other()));
                match self.tcp(
                    side,
                    self.streams(),
                    Duration::from_secs(self.options.seconds.into()),
                ) {
                    Ok(carried) => *report.direction(side) = carried.mbit(),
                    Err(TransferError::Lab(error)) => return Err(error),
                    Err(TransferError::Traffic(traffic::TrafficError::Interrupted(error))) => {
                        return Err(error.into());
                    }
                    Err(TransferError::Traffic(error)) => {
                        report.problems.push(Problem::new(format!(
                            "from {side} to {}: {error}",
                            side.other()
                        )));
                    }
                }
            }
        }
        self.conclude(&mut report, connected.is_some());
        Ok(report)
    }

    fn inside<T: Send>(&self, side: Side, f: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        self.world
            .host(side)
            .run(f)
            .map_err(doing("a network namespace cannot be entered"))
    }

    /// Enough flows that each of several tunnels is likely to get some.
    fn streams(&self) -> usize {
        match self.options.tunnels {
            1 => 1,
            several => usize::from(several) * 4,
        }
    }

    fn has_failed(&self) -> bool {
        let with_error = |gateway: &GatewayProcess| {
            gateway.status().is_ok_and(|snapshot| {
                snapshot
                    .tunnels
                    .iter()
                    .any(|tunnel| tunnel.state != TunnelState::Up && tunnel.last_error.is_some())
            })
        };
        with_error(&self.a)
            || match &self.b {
                RemoteGateway::Groundlink(b) => with_error(b),
                RemoteGateway::Strongswan(_) => false,
            }
    }

    fn has_ended(&mut self) -> bool {
        self.a.process().ended().is_some()
            || match &mut self.b {
                RemoteGateway::Groundlink(b) => b.process().ended().is_some(),
                RemoteGateway::Strongswan(charon) => charon.process().ended().is_some(),
            }
    }

    fn empty_report(&self) -> LabReport {
        let sites = [&self.plan.a, &self.plan.b];
        let asked = |words: &Option<String>| {
            words
                .clone()
                .or_else(|| self.options.preset.clone())
                .unwrap_or_else(|| DEFAULT_SUITE.to_owned())
        };
        LabReport {
            ok: false,
            peer: self.options.peer.word(),
            ike: asked(&self.options.ike),
            esp: asked(&self.options.esp),
            connect_ms: None,
            ping: PingStats::default(),
            tcp: TcpRates::default(),
            rekeys: RekeyCounters::default(),
            tunnels: Vec::new(),
            wire: WireCounters::default(),
            problems: Vec::new(),
            drawing: Diagram {
                networks: sites.map(|site| site.network.to_string()),
                hosts: sites.map(|site| site.host.to_string()),
                gateways: sites.map(|site| {
                    site.outside
                        .first()
                        .map(ToString::to_string)
                        .unwrap_or_default()
                }),
                programs: [
                    "groundlink".to_owned(),
                    match self.options.peer {
                        RemoteKind::Groundlink => "groundlink".to_owned(),
                        RemoteKind::Strongswan => "strongSwan".to_owned(),
                    },
                ],
                router: match self.options.nat {
                    options::NatPlacement::None => "WAN".to_owned(),
                    options::NatPlacement::Us => "NAT for A".to_owned(),
                    options::NatPlacement::Peer => "NAT for B".to_owned(),
                },
                seconds: self.options.seconds,
            },
        }
    }

    /// Adds what the gateways and the wire say at the end, and the verdict.
    fn conclude(&mut self, report: &mut LabReport, was_up: bool) {
        if let Ok(snapshot) = self.a.status() {
            report.rekeys = total_rekeys(&snapshot);
            report.tunnels = snapshot.tunnels;
        }
        report.wire = self.tap.seen();
        let WireCounters {
            esp_udp,
            esp_native,
            clear,
            ..
        } = report.wire;
        if !was_up {
            self.explain(report);
        } else if report
            .tunnels
            .iter()
            .any(|tunnel| tunnel.state != TunnelState::Up)
            || report.tunnels.is_empty()
        {
            report.problems.push(Problem::new("a tunnel went down"));
            self.explain(report);
        }
        let (agreed, stray) = match self.options.transport() {
            EspTransport::Udp => (
                esp_udp,
                (esp_native > 0)
                    .then(|| format!("{esp_native} packets left as protocol 50, not in UDP")),
            ),
            EspTransport::Esp => (
                esp_native,
                (esp_udp > 0).then(|| format!("{esp_udp} packets left in UDP, not as protocol 50")),
            ),
        };
        if was_up && agreed == 0 {
            report
                .problems
                .push(Problem::new("no ESP was seen between the gateways"));
        }
        report.problems.extend(stray.map(Problem::new));
        if clear > 0 {
            report.problems.push(Problem::new(format!(
                "{clear} packets of the two networks crossed the WAN in the clear"
            )));
        }
        report.ok = report.problems.is_empty();
    }

    /// Why the tunnel is not up: what each side says, and the end of its log.
    fn explain(&mut self, report: &mut LabReport) {
        // Who has ended explains the other's silence.
        let b_ended = match &mut self.b {
            RemoteGateway::Groundlink(b) => b.process().ended().is_some(),
            RemoteGateway::Strongswan(charon) => charon.process().ended().is_some(),
        };
        if !b_ended || self.a.process().ended().is_some() {
            report
                .problems
                .push(groundlink_problem(Side::A, &mut self.a));
        }
        report.problems.push(match &mut self.b {
            RemoteGateway::Groundlink(b) => groundlink_problem(Side::B, b),
            RemoteGateway::Strongswan(charon) => Problem {
                text: match charon.process().ended() {
                    Some(status) => format!("strongSwan at B ended: {status}"),
                    None => "strongSwan at B logged".to_owned(),
                },
                advice: None,
                log: charon.tail(15),
            },
        });
    }
}

/// What running TCP can end in: the traffic's own error, or the lab's.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The lab's.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// The traffic's.
    #[error(transparent)]
    Traffic(#[from] traffic::TrafficError),
}

impl LabReport {
    fn direction(&mut self, from: Side) -> &mut f64 {
        match from {
            Side::A => &mut self.tcp.a_to_b_mbit,
            Side::B => &mut self.tcp.b_to_a_mbit,
        }
    }
}

fn groundlink_problem(side: Side, gateway: &mut GatewayProcess) -> Problem {
    let status = gateway.status();
    let ended = gateway.process().ended();
    let last_error = status
        .as_ref()
        .ok()
        .and_then(|snapshot| snapshot.tunnels.iter().find_map(failure));
    let (text, advice) = match (ended, last_error, status) {
        (Some(status), _, _) => (format!("gateway {side} ended: {status}"), None),
        (
            None,
            Some(LastError {
                code, text, advice, ..
            }),
            _,
        ) => (
            format!("gateway {side} says {code}: {text}"),
            Some(advice).filter(|advice| !advice.is_empty()),
        ),
        (None, None, Ok(snapshot)) => {
            let states: Vec<String> = snapshot
                .tunnels
                .iter()
                .map(|tunnel| format!("{} is {}", tunnel.name, tunnel.state.word()))
                .collect();
            (format!("gateway {side} says {}", states.join(", ")), None)
        }
        (None, None, Err(error)) => (
            format!("gateway {side} does not answer on its control socket: {error}"),
            None,
        ),
    };
    Problem {
        text,
        advice,
        log: gateway.process().tail(8),
    }
}

fn failure(tunnel: &TunnelStatus) -> Option<LastError> {
    tunnel
        .last_error
        .clone()
        .filter(|_| tunnel.state != TunnelState::Up)
}

fn total_rekeys(snapshot: &Snapshot) -> RekeyCounters {
    snapshot
        .tunnels
        .iter()
        .fold(RekeyCounters::default(), |sum, tunnel| RekeyCounters {
            ike: sum.ike + tunnel.rekeys.ike,
            child: sum.child + tunnel.rekeys.child,
            packets_lost: sum.packets_lost + tunnel.rekeys.packets_lost,
        })
}
