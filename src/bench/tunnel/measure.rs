//! All measurements of one system with one suite.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::esp_sender::EspSender;
use super::options::TunnelBenchOptions;
use super::pair::{GatewayPair, System, TunnelBenchError};
use super::report::{CpuCost, INGRESS_ROW, MemoryUse, RttStats, SystemRun, UdpResult};
use super::step_costs::StepCosts;
use super::udp_rate::{FULL, MIXES, PacketMix, RateTest, RateTrial, receiver_on_b};
use crate::bench::progress::Progress;
use crate::lab::LabError;
use crate::lab::interrupt::Interrupt;
use crate::lab::options::Side;
use crate::lab::ping::Pinger;
use crate::lab::traffic::{self, TcpSink, Throughput, TrafficError};

/// Steps of a run: tunnel, round trip, two TCP transfers, UDP rates, and ingress of gateway B.
pub(super) const STEPS: usize = 5 + MIXES.len();

/// Measures `system` with `esp`.
pub(super) fn run(
    options: &TunnelBenchOptions,
    system: System,
    esp: &str,
    program: &Path,
    interrupt: &Interrupt,
    progress: &mut Progress,
) -> Result<SystemRun, TunnelBenchError> {
    let step = |name: &str| format!("{system} {esp}, {name}");
    progress.start(step("tunnel"));
    let mut pair = GatewayPair::connect(system, &options.lab_options(esp), program, interrupt)?;
    let mut run = SystemRun::empty(system, esp);

    progress.start(step("round trip"));
    run.rtt = round_trips(&pair, options.seconds, interrupt)?;

    let time = Duration::from_secs(options.seconds.into());
    progress.start(step("TCP, one stream"));
    let (cpu_before, status_before) = (pair.cpu_time(), pair.status());
    if let Some(received) = tcp(&pair, 1, time, interrupt, &mut run.problems)? {
        run.tcp.one_stream_mbit = Some(received.mbit());
        run.cpu = CpuCost::between(cpu_before, pair.cpu_time(), received.bytes);
        run.ticks_per_byte = status_before
            .zip(pair.status())
            .and_then(|(before, after)| StepCosts::between(&before, &after, received.bytes));
    }
    progress.start(step("TCP, four streams"));
    let received = tcp(&pair, 4, time, interrupt, &mut run.problems)?;
    run.tcp.four_streams_mbit = received.map(|received| received.mbit());

    let mut search = |test: &mut RateTest, mix: PacketMix, name: &str| {
        progress.start(step(name));
        let on_trial = |trial: &RateTrial| {
            let (sent, lost) = (trial.sent_pps, trial.loss() * 100.0);
            progress.detail(format_args!("{sent:.0} packets/s, {lost:.1} % lost"));
        };
        let result = test.search(mix, options.trial_time(), interrupt, &on_trial)?;
        if result.pps.is_none() {
            let problem = format!("{name}: every rate had a loss of 0.5 % or more");
            run.problems.push(problem);
        }
        Ok::<UdpResult, LabError>(UdpResult::new(mix, result))
    };
    let mut test = RateTest::new(&pair)?;
    for mix in MIXES {
        let udp = search(&mut test, mix, &format!("UDP {}", mix.name))?;
        run.udp.push(udp);
    }
    let mib = |bytes: Option<u64>| bytes.map(|bytes| bytes as f64 / f64::from(1 << 20));
    let [a, b] = pair.resident_memory().map(mib);
    run.memory_mib = MemoryUse { a, b };

    let receiver = receiver_on_b(&pair)?;
    let target = receiver
        .local_addr()
        .map_err(LabError::io("cannot open a UDP socket"))?;
    if let Some(peer) = EspSender::replace_a(&mut pair, target, interrupt)? {
        let mut test = RateTest::between(Box::new(peer), receiver);
        run.ingress = Some(search(&mut test, FULL, INGRESS_ROW)?);
    } else {
        let problem = format!("{INGRESS_ROW}: gateway B does not connect to another peer");
        run.problems.push(problem);
    }
    Ok(run)
}

/// Interval between echo requests, as with `ping -i 0.002`.
const PING_INTERVAL: Duration = Duration::from_millis(2);

/// Time to wait for a reply.
const REPLY_TIMEOUT: Duration = Duration::from_millis(200);

/// Sends echo requests from host A to host B, each after the reply to the one before.
fn round_trips(
    pair: &GatewayPair,
    seconds: u32,
    interrupt: &Interrupt,
) -> Result<RttStats, TunnelBenchError> {
    let failed = LabError::io("ping failed");
    let target = pair.addressing.b.host;
    let pinger = pair
        .on_host(Side::A, || Pinger::new(target))?
        .map_err(&failed)?;
    // The first requests find cold caches and unresolved neighbors and are not measured.
    for sequence in 0..20 {
        pinger.once(sequence, REPLY_TIMEOUT).map_err(&failed)?;
    }
    let mut round_trips = Vec::new();
    let count = u16::try_from(seconds.saturating_mul(500)).map_or(1500, |count| count.min(1500));
    for sequence in 0..count {
        interrupt.check()?;
        let next = Instant::now() + PING_INTERVAL;
        round_trips.extend(pinger.once(sequence, REPLY_TIMEOUT).map_err(&failed)?);
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(RttStats::of(count, round_trips))
}

/// Transfers data by TCP from A to B. A failed transfer is added to `problems`; only errors of the lab are returned.
fn tcp(
    pair: &GatewayPair,
    streams: usize,
    time: Duration,
    interrupt: &Interrupt,
    problems: &mut Vec<String>,
) -> Result<Option<Throughput>, TunnelBenchError> {
    let transfer = || -> Result<Result<Throughput, TrafficError>, LabError> {
        let address = pair.addressing.b.host;
        let sink = match pair.on_host(Side::B, || TcpSink::new(address))? {
            Ok(sink) => sink.count_only(),
            Err(error) => return Ok(Err(error.into())),
        };
        let target = match sink.target() {
            Ok(target) => target,
            Err(error) => return Ok(Err(error.into())),
        };
        let connected = pair.on_host(Side::A, || traffic::connect(target, streams))?;
        Ok(connected.and_then(|connected| sink.transfer(connected, time, interrupt)))
    };
    match transfer()? {
        Ok(received) => Ok(Some(received)),
        Err(TrafficError::Interrupted(interrupted)) => Err(interrupted.into()),
        Err(error) => {
            problems.push(format!("TCP with {streams} streams: {error}"));
            Ok(None)
        }
    }
}
