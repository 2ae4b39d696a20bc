//! Traffic through the lab, and the report about it.

use std::time::{Duration, Instant};

use super::error::LabError;
use super::gateway::GatewayProcess;
use super::interrupt::Interrupted;
use super::options::{self, DEFAULT_SUITE, RemoteKind, Side};
use super::report::{Diagram, LabProblem, LabReport, PingStats, TcpRates, WireCounters};
use super::setup::{Lab, POLL, RemoteGateway};
use super::{ping, traffic};
use crate::net::EspTransport;
use crate::net::counted;
use crate::status::{LastError, RekeyCounters, Snapshot, TunnelState, TunnelStatus};

/// Time for all tunnels to come up.
const UP_TIMEOUT: Duration = Duration::from_secs(20);

/// Time to wait after a gateway has reported an error.
const UP_TIMEOUT_AFTER_ERROR: Duration = Duration::from_secs(4);

impl Lab {
    /// Waits until all tunnels are up on both sides; `None` if that fails. Returns the connection time.
    pub fn await_up(&mut self) -> Result<Option<Duration>, Interrupted> {
        let start = Instant::now();
        let mut first_error: Option<Instant> = None;
        loop {
            if self.a.is_up() {
                let connected = self.started.elapsed();
                if self.b.is_up() {
                    return Ok(Some(connected));
                }
            } else if first_error.is_none() && self.has_failed() {
                first_error = Some(Instant::now());
            }
            let timed_out = start.elapsed() > UP_TIMEOUT
                || first_error.is_some_and(|at| at.elapsed() > UP_TIMEOUT_AFTER_ERROR);
            if timed_out || self.has_exited() {
                return Ok(None);
            }
            self.interrupt.pause(POLL)?;
        }
    }

    /// Pings from host A to host B.
    pub fn ping(&self, count: u16) -> Result<PingStats, LabError> {
        let target = self.addressing.b.host;
        let pinger = self
            .inside(Side::A, || ping::Pinger::new(target))?
            .map_err(LabError::io("cannot open an ICMP socket"))?;
        let result = pinger.ping(count, &self.interrupt);
        self.interrupt.check()?;
        result.map_err(LabError::io("ping failed"))
    }

    /// Transfers data by TCP from the host of `side` to the other host, over `streams` connections.
    pub fn tcp(
        &self,
        side: Side,
        streams: usize,
        duration: Duration,
    ) -> Result<traffic::Throughput, TransferError> {
        let to = side.other();
        let address = self.addressing.site(to).host;
        let sink = self
            .inside(to, || traffic::TcpSink::new(address))?
            .map_err(traffic::TrafficError::Local)?;
        let target = sink.target().map_err(traffic::TrafficError::Local)?;
        let connected = self.inside(side, || traffic::connect(target, streams))??;
        Ok(sink.transfer(connected, duration, &self.interrupt)?)
    }

    /// Waits for the tunnels, runs the traffic and returns the report.
    pub fn measure(&mut self, progress: &mut dyn FnMut(&str)) -> Result<LabReport, LabError> {
        progress("waiting for the tunnel");
        let connected = self.await_up()?;
        let mut report = self.empty_report();
        report.connect_ms = connected.map(|time| time.as_secs_f64() * 1e3);
        if connected.is_some() {
            progress("ping");
            // The first packet waits for neighbour resolution and is not measured.
            self.ping(1)?;
            report.ping = self.ping(20)?;
            if report.ping.received < report.ping.sent {
                let PingStats { sent, received, .. } = report.ping;
                report.problems.push(LabProblem::new(format!(
                    "{} of {sent} pings were lost",
                    sent - received
                )));
            }
            match self.options.transport() {
                EspTransport::Udp => self.wire_tap.count_protocol_50_only(),
                EspTransport::Esp => self.wire_tap.stop(),
            }
            .map_err(LabError::io("cannot set a packet filter on the WAN router"))?;
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
                        report.problems.push(LabProblem::new(format!(
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
        self.topology
            .host(side)
            .run(f)
            .map_err(LabError::io("cannot enter a network namespace"))
    }

    /// Number of TCP connections: enough that every tunnel is likely to carry some.
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

    fn has_exited(&mut self) -> bool {
        self.a.process().exit_status().is_some() || self.b.process().exit_status().is_some()
    }

    fn empty_report(&self) -> LabReport {
        let sites = [&self.addressing.a, &self.addressing.b];
        let configured = |proposals: &Option<String>| {
            proposals
                .clone()
                .or_else(|| self.options.preset.clone())
                .unwrap_or_else(|| DEFAULT_SUITE.to_owned())
        };
        LabReport {
            ok: false,
            peer: self.options.peer.word(),
            ike: configured(&self.options.ike),
            esp: configured(&self.options.esp),
            connect_ms: None,
            ping: PingStats::default(),
            tcp: TcpRates::default(),
            rekeys: RekeyCounters::default(),
            tunnels: Vec::new(),
            wire: WireCounters::default(),
            problems: Vec::new(),
            diagram: Diagram {
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

    /// Adds the final status of the gateways, the packet counters and the verdict.
    fn conclude(&mut self, report: &mut LabReport, was_up: bool) {
        if let Ok(snapshot) = self.a.status() {
            report.rekeys = total_rekeys(&snapshot);
            report.tunnels = snapshot.tunnels;
        }
        report.wire = self.wire_tap.counters();
        let WireCounters {
            esp_udp,
            esp_native,
            clear,
            ..
        } = report.wire;
        if !was_up {
            self.add_failure(report);
        } else if report
            .tunnels
            .iter()
            .any(|tunnel| tunnel.state != TunnelState::Up)
            || report.tunnels.is_empty()
        {
            report.problems.push(LabProblem::new("a tunnel went down"));
            self.add_failure(report);
        }
        let (expected, unexpected) = match self.options.transport() {
            EspTransport::Udp => (
                esp_udp,
                (esp_native > 0).then(|| {
                    let sent = counted(esp_native, "packet");
                    format!("{sent} sent as IP protocol 50 instead of in UDP")
                }),
            ),
            EspTransport::Esp => (
                esp_native,
                (esp_udp > 0).then(|| {
                    let sent = counted(esp_udp, "packet");
                    format!("{sent} sent in UDP instead of as IP protocol 50")
                }),
            ),
        };
        if was_up && expected == 0 {
            report
                .problems
                .push(LabProblem::new("no ESP packet passed between the gateways"));
        }
        report.problems.extend(unexpected.map(LabProblem::new));
        if clear > 0 {
            report.problems.push(LabProblem::new(format!(
                "{} of the two networks crossed the WAN unencrypted",
                counted(clear, "packet")
            )));
        }
        report.ok = report.problems.is_empty();
    }

    /// Adds the error and the end of the log of each side.
    fn add_failure(&mut self, report: &mut LabReport) {
        // If only B has exited, that explains the failure of A.
        if self.b.process().exit_status().is_none() || self.a.process().exit_status().is_some() {
            report
                .problems
                .push(groundlink_problem(Side::A, &mut self.a));
        }
        report.problems.push(match &mut self.b {
            RemoteGateway::Groundlink(b) => groundlink_problem(Side::B, b),
            RemoteGateway::Strongswan(charon) => LabProblem {
                text: match charon.process().exit_status() {
                    Some(status) => format!("strongSwan at B exited: {status}"),
                    None => "log of strongSwan at B".to_owned(),
                },
                advice: None,
                log: charon.tail(15),
            },
        });
    }
}

/// An error of [`Lab::tcp`].
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// An error of the lab.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// An error of the transfer.
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

fn groundlink_problem(side: Side, gateway: &mut GatewayProcess) -> LabProblem {
    let status = gateway.status();
    let exited = gateway.process().exit_status();
    let last_error = status
        .as_ref()
        .ok()
        .and_then(|snapshot| snapshot.tunnels.iter().find_map(failure));
    let (text, advice) = match (exited, last_error, status) {
        (Some(status), _, _) => (format!("gateway {side} exited: {status}"), None),
        (
            None,
            Some(LastError {
                code, text, advice, ..
            }),
            _,
        ) => (
            format!("gateway {side} reports {code}: {text}"),
            Some(advice).filter(|advice| !advice.is_empty()),
        ),
        (None, None, Ok(snapshot)) => {
            let states: Vec<String> = snapshot
                .tunnels
                .iter()
                .map(|tunnel| format!("{} is {}", tunnel.name, tunnel.state.word()))
                .collect();
            (format!("gateway {side}: {}", states.join(", ")), None)
        }
        (None, None, Err(error)) => (
            format!("gateway {side} does not answer on its control socket: {error}"),
            None,
        ),
    };
    LabProblem {
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
