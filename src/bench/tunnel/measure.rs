//! One system, one suite: everything that is measured of it, one after the other.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::blast::{FULL, MIXES, Mix, Range, Trial, receiver_on_b};
use super::pair::{Pair, System};
use super::peer::Peer;
use super::report::{Cpu, INGRESS, Memory, Rtt, Run, Udp};
use super::stages::Stages;
use super::{Error, Options, usage};
use crate::bench::Progress;
use crate::lab::interrupt::Interrupt;
use crate::lab::options::Side;
use crate::lab::{self, ping::Pinger, traffic};

/// Steps of a run: the tunnel, the round trip, TCP twice, UDP, and what gateway B makes of a peer's packets.
pub(super) const STEPS: usize = 5 + MIXES.len();

/// Measures `system` with `esp`.
pub(super) fn run(
    options: &Options,
    system: System,
    esp: &str,
    program: &Path,
    interrupt: &Interrupt,
    progress: &mut Progress,
) -> Result<Run, Error> {
    let mut begin = |what: &str| progress.begin(format!("{system} {esp}, {what}"));
    begin("tunnel");
    let mut pair = Pair::connect(system, &options.sites(esp), program, interrupt)?;
    let mut run = Run::empty(system, esp);

    begin("round trip");
    run.rtt = rtt(&pair, options.seconds, interrupt)?;

    let time = Duration::from_secs(options.seconds.into());
    begin("TCP, one stream");
    let (before, looked) = (cpu(&mut pair), pair.status());
    if let Some(carried) = tcp(&pair, 1, time, interrupt, &mut run.problems)? {
        run.tcp.one_stream_mbit = Some(carried.mbit());
        run.cpu = Cpu::between(before, cpu(&mut pair), carried.bytes);
        run.ticks_per_byte = looked
            .zip(pair.status())
            .and_then(|(before, after)| Stages::between(&before, &after, carried.bytes));
    }
    begin("TCP, four streams");
    let four = tcp(&pair, 4, time, interrupt, &mut run.problems)?;
    run.tcp.four_streams_mbit = four.map(|carried| carried.mbit());

    let mut range = Range::new(&pair)?;
    let mut search = |range: &mut Range, mix: Mix, what: String| -> Result<Udp, Error> {
        progress.begin(format!("{system} {esp}, {what}"));
        let told = |trial: &Trial| {
            let (sent, lost) = (trial.sent_pps, trial.loss() * 100.0);
            progress.detail(&format!("{sent:.0} a second, {lost:.1} % lost"));
        };
        let found = range.search(mix, options.trial(), interrupt, &told)?;
        if found.pps.is_none() {
            let problem = format!("{what}: at no rate was less than 0.5 % lost");
            run.problems.push(problem);
        }
        Ok(Udp::new(mix, found))
    };
    for mix in MIXES {
        let udp = search(&mut range, mix, format!("UDP {}", mix.name))?;
        run.udp.push(udp);
    }
    run.memory_mib = Memory {
        a: mib(usage::resident(pair.process(Side::A))),
        b: mib(usage::resident(pair.process(Side::B))),
    };

    let to = receiver_on_b(&pair)?;
    let target = to.local_addr().map_err(|source| lab::Error::Io {
        what: "no UDP socket",
        source,
    })?;
    if let Some(peer) = Peer::replace_a(&mut pair, target, interrupt)? {
        let mut range = Range::between(Box::new(peer), to);
        run.ingress = Some(search(&mut range, FULL, INGRESS.to_owned())?);
    } else {
        let problem = format!("{INGRESS}: gateway B does not connect with another peer");
        run.problems.push(problem);
    }
    Ok(run)
}

/// How the requests are spaced, as `ping -i 0.002` does it.
const SPACING: Duration = Duration::from_millis(2);

/// How long an answer may take before it counts as lost.
const PATIENCE: Duration = Duration::from_millis(200);

/// Echo requests from host to host, the next one only when the one before is answered.
fn rtt(pair: &Pair, seconds: u32, interrupt: &Interrupt) -> Result<Rtt, Error> {
    let failed = |source| lab::Error::Io {
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
    Ok(Rtt::of(count, answers))
}

/// TCP from A to B; what went wrong with it is a problem of this run, unless it is the lab's.
fn tcp(
    pair: &Pair,
    streams: usize,
    time: Duration,
    interrupt: &Interrupt,
    problems: &mut Vec<String>,
) -> Result<Option<traffic::Carried>, Error> {
    let carry = || -> Result<Result<traffic::Carried, traffic::Error>, lab::Error> {
        let address = pair.plan.b.host;
        let sink = match pair.on_host(Side::B, || traffic::Sink::new(address))? {
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
        Err(traffic::Error::Interrupted(interrupted)) => Err(interrupted.into()),
        Err(error) => {
            problems.push(format!("TCP over {streams}: {error}"));
            Ok(None)
        }
    }
}

/// The CPU time of both gateways.
fn cpu(pair: &mut Pair) -> [Option<Duration>; 2] {
    [Side::A, Side::B].map(|side| usage::cpu_time(pair.process(side)))
}

fn mib(bytes: Option<u64>) -> Option<f64> {
    bytes.map(|bytes| bytes as f64 / f64::from(1 << 20))
}
