//! One system, one suite: everything that is measured of it, one after the other.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::esp_sender::EspSender;
use super::pair::{GatewayPair, System};
use super::report::{CpuCost, INGRESS_ROW, MemoryUse, RttStats, SystemRun, UdpResult};
use super::step_costs::StepCosts;
use super::udp_rate::{FULL, MIXES, PacketMix, RateTest, RateTrial, receiver_on_b};
use super::{TunnelBenchError, TunnelBenchOptions, proc_stats};
use crate::bench::Progress;
use crate::lab::interrupt::Interrupt;
use crate::lab::options::Side;
use crate::lab::{self, ping::Pinger, traffic};

/// Steps of a run: the tunnel, the round trip, TCP twice, UDP, and what gateway B makes of a peer's packets.
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
    let mut begin = |what: &str| progress.begin(format!("{system} {esp}, {what}"));
    begin("tunnel");
    let mut pair = GatewayPair::connect(system, &options.sites(esp), program, interrupt)?;
    let mut run = SystemRun::empty(system, esp);

    begin("round trip");
    run.rtt = rtt(&pair, options.seconds, interrupt)?;

    let time = Duration::from_secs(options.seconds.into());
    begin("TCP, one stream");
    let (before, looked) = (cpu(&mut pair), pair.status());
    if let Some(carried) = tcp(&pair, 1, time, interrupt, &mut run.problems)? {
        run.tcp.one_stream_mbit = Some(carried.mbit());
        run.cpu = CpuCost::between(before, cpu(&mut pair), carried.bytes);
        run.ticks_per_byte = looked
            .zip(pair.status())
            .and_then(|(before, after)| StepCosts::between(&before, &after, carried.bytes));
    }
    begin("TCP, four streams");
    let four = tcp(&pair, 4, time, interrupt, &mut run.problems)?;
    run.tcp.four_streams_mbit = four.map(|carried| carried.mbit());

    let mut range = RateTest::new(&pair)?;
    let mut search = |range: &mut RateTest,
                      mix: PacketMix,
                      what: String|
     -> Result<UdpResult, TunnelBenchError> {
        progress.begin(format!("{system} {esp}, {what}"));
        let told = |trial: &RateTrial| {
            let (sent, lost) = (trial.sent_pps, trial.loss() * 100.0);
            progress.detail(&format!("{sent:.0} a second, {lost:.1} % lost"));
        };
        let found = range.search(mix, options.trial(), interrupt, &told)?;
        if found.pps.is_none() {
            let problem = format!("{what}: at no rate was less than 0.5 % lost");
            run.problems.push(problem);
        }
        Ok(UdpResult::new(mix, found))
    };
    for mix in MIXES {
        let udp = search(&mut range, mix, format!("UDP {}", mix.name))?;
        run.udp.push(udp);
    }
    run.memory_mib = MemoryUse {
        a: mib(proc_stats::resident(pair.process(Side::A))),
        b: mib(proc_stats::resident(pair.process(Side::B))),
    };

    let to = receiver_on_b(&pair)?;
    let target = to.local_addr().map_err(|source| lab::LabError::Io {
        what: "no UDP socket",
        source,
    })?;
    if let Some(peer) = EspSender::replace_a(&mut pair, target, interrupt)? {
        let mut range = RateTest::between(Box::new(peer), to);
        run.ingress = Some(search(&mut range, FULL, INGRESS_ROW.to_owned())?);
    } else {
        let problem = format!("{INGRESS_ROW}: gateway B does not connect with another peer");
        run.problems.push(problem);
    }
    Ok(run)
}

/// How the requests are spaced, as `ping -i 0.002` does it.
const SPACING: Duration = Duration::from_millis(2);

/// How long an answer may take before it counts as lost.
const PATIENCE: Duration = Duration::from_millis(200);

/// Echo requests from host to host, the next one only when the one before is answered.
fn rtt(
    pair: &GatewayPair,
    seconds: u32,
    interrupt: &Interrupt,
) -> Result<RttStats, TunnelBenchError> {
    let failed = |source| lab::LabError::Io {
        what: "the ping broke",
        source,
    };
    let target = pair.plan.b.host;
    let pinger = pair
        .on_host(Side::A, || Pinger::new(target))?
        .map_err(failed)?;
    // The first ones find caches cold and addresses unresolved.
    for warm in 0..20 {
        pinger.once(warm, PATIENCE).map_err(failed)?;
    }
    let mut answers = Vec::new();
    let count = u16::try_from(seconds.saturating_mul(500)).map_or(1500, |count| count.min(1500));
    for sequence in 0..count {
        interrupt.check()?;
        let next = Instant::now() + SPACING;
        answers.extend(pinger.once(sequence, PATIENCE).map_err(failed)?);
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(RttStats::of(count, answers))
}

/// TCP from A to B; what went wrong with it is a problem of this run, unless it is the lab's.
fn tcp(
    pair: &GatewayPair,
    streams: usize,
    time: Duration,
    interrupt: &Interrupt,
    problems: &mut Vec<String>,
) -> Result<Option<traffic::Throughput>, TunnelBenchError> {
    let carry = || -> Result<Result<traffic::Throughput, traffic::TrafficError>, lab::LabError> {
        let address = pair.plan.b.host;
        let sink = match pair.on_host(Side::B, || traffic::TcpSink::new(address))? {
            Ok(sink) => sink.counting(),
            Err(error) => return Ok(Err(error.into())),
        };
        let target = match sink.target() {
            Ok(target) => target,
            Err(error) => return Ok(Err(error.into())),
        };
        let connected = pair.on_host(Side::A, || traffic::connect(target, streams))?;
        Ok(connected.and_then(|connected| sink.fill(connected, time, interrupt)))
    };
    match carry()? {
        Ok(carried) => Ok(Some(carried)),
        Err(traffic::TrafficError::Interrupted(interrupted)) => Err(interrupted.into()),
        Err(error) => {
            problems.push(format!("TCP over {streams}: {error}"));
            Ok(None)
        }
    }
}

/// The CPU time of both gateways.
fn cpu(pair: &mut GatewayPair) -> [Option<Duration>; 2] {
    [Side::A, Side::B].map(|side| proc_stats::cpu_time(pair.process(side)))
}

fn mib(bytes: Option<u64>) -> Option<f64> {
    bytes.map(|bytes| bytes as f64 / f64::from(1 << 20))
}
