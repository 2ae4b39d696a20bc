//! The highest UDP packet rate with less than 0.5 % loss.
//!
//! ```text
//!   sender   [trial · zeros …] [trial · zeros …] …   16 per system call, paced ─────▶   host B counts those of this trial
//!
//!   low ──────────────────┬─────────── high        low passed, high lost too much
//!                  √(low·high): passed?
//!                       yes │ no
//!             low ◀─────────┘ └─────────▶ high     until high / low < 1.03
//! ```
//!
//! The sender is host A behind its gateway, or a peer that replaces that gateway.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::pair::GatewayPair;
use crate::lab::LabError;
use crate::lab::interrupt::Interrupt;
use crate::lab::options::Side;
use crate::os::udp_blast::{self, BURST, RecvBuffers};

/// A repeating sequence of datagram sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketMix {
    /// Name in reports.
    pub name: &'static str,
    /// UDP payload of one datagram after the other, in bytes.
    pub sizes: &'static [usize],
}

/// The measured packet mixes. IMIX has seven small, four medium and one large datagram: inner packets of 92, 576 and 1400 bytes, the
/// largest of which passes every suite and strongSwan's device.
pub(super) const MIXES: [PacketMix; 4] = [
    PacketMix {
        name: "64 B",
        sizes: &[64],
    },
    PacketMix {
        name: "512 B",
        sizes: &[512],
    },
    FULL,
    PacketMix {
        name: "IMIX",
        sizes: &[64, 548, 64, 64, 548, 64, 548, 64, 64, 548, 64, 1372],
    },
];

/// Full-size datagrams.
pub(super) const FULL: PacketMix = PacketMix {
    name: "1300 B",
    sizes: &[1300],
};

impl PacketMix {
    /// Mean payload in bytes.
    pub fn mean(&self) -> f64 {
        self.sizes.iter().sum::<usize>() as f64 / self.sizes.len().max(1) as f64
    }
}

/// One trial at one rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RateTrial {
    /// Target rate in packets per second; `null`: as many as possible.
    pub wanted_pps: Option<f64>,
    /// Sent packets per second.
    pub sent_pps: f64,
    /// Sent packets.
    pub sent: u64,
    /// Received packets.
    pub received: u64,
}

/// The highest loss of a rate that passes.
pub(super) const MAX_LOSS: f64 = 0.005;

/// Loss up to which a failed trial is repeated once, because another process may have caused it.
const RETRY_LOSS: f64 = 0.03;

impl RateTrial {
    /// Fraction of lost packets.
    pub fn loss(&self) -> f64 {
        let lost = self.sent.saturating_sub(self.received);
        lost as f64 / self.sent.max(1) as f64
    }

    fn outcome(&self) -> TrialOutcome {
        if self.loss() < MAX_LOSS {
            TrialOutcome::Passed
        } else {
            TrialOutcome::Lost
        }
    }
}

/// The result of a rate search.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RateResult {
    /// Highest rate that passed.
    pub pps: Option<f64>,
    /// The sender could not send more: the gateways may support a higher rate.
    pub sender_limited: bool,
    /// All trials in order.
    pub trials: Vec<RateTrial>,
}

/// A sender, and a receiver on host B.
pub(super) struct RateTest {
    sender: Box<dyn UdpSender>,
    receiver: UdpSocket,
    trial: u32,
}

impl RateTest {
    /// A test from host A to host B.
    pub(super) fn new(pair: &GatewayPair) -> Result<RateTest, LabError> {
        let receiver = receiver_on_b(pair)?;
        let target = receiver.local_addr().map_err(LabError::io(NO_SOCKET))?;
        let sender = pair
            .on_host(Side::A, || HostSender::new(target))?
            .map_err(LabError::io(NO_SOCKET))?;
        Ok(RateTest::between(Box::new(sender), receiver))
    }

    /// A test from a sender to a receiver.
    pub(super) fn between(sender: Box<dyn UdpSender>, receiver: UdpSocket) -> RateTest {
        RateTest {
            sender,
            receiver,
            trial: 0,
        }
    }

    /// Searches for the highest rate of `mix` that passes; `on_trial` is called after every trial.
    pub(super) fn search(
        &mut self,
        mix: PacketMix,
        time: Duration,
        interrupt: &Interrupt,
        on_trial: &dyn Fn(&RateTrial),
    ) -> Result<RateResult, LabError> {
        let mut trials = Vec::new();
        let mut try_rate =
            |range: &mut RateTest, wanted: Option<f64>| -> Result<RateTrial, LabError> {
                let trial = range.trial(mix, wanted, time, interrupt)?;
                on_trial(&trial);
                trials.push(trial);
                Ok(trial)
            };
        // First as many as possible: the received rate is a good first guess.
        let maximum = try_rate(self, None)?;
        if maximum.outcome() == TrialOutcome::Passed {
            return Ok(RateResult {
                pps: Some(maximum.sent_pps),
                sender_limited: true,
                trials,
            });
        }
        let received_pps = maximum.received as f64 / time.as_secs_f64();
        let mut search = RateSearch::new(maximum.sent_pps, received_pps);
        while let Some(rate) = search.next() {
            let mut trial = try_rate(self, Some(rate))?;
            if (MAX_LOSS..RETRY_LOSS).contains(&trial.loss()) {
                trial = try_rate(self, Some(rate))?;
            }
            search.record(rate, trial.outcome());
        }
        Ok(RateResult {
            pps: search.highest(),
            sender_limited: false,
            trials,
        })
    }

    fn trial(
        &mut self,
        mix: PacketMix,
        target_pps: Option<f64>,
        time: Duration,
        interrupt: &Interrupt,
    ) -> Result<RateTrial, LabError> {
        interrupt.check()?;
        self.trial += 1;
        let (received, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        let (sender, receiver, number) = (&mut *self.sender, &self.receiver, self.trial);
        let sent = thread::scope(|scope| {
            scope.spawn(|| count(receiver, number, &received, &stop));
            let sent = send(sender, number, mix, target_pps, time);
            let deadline = Instant::now() + DRAIN_TIME;
            while sent
                .as_ref()
                .is_ok_and(|sent| received.load(Relaxed) < *sent)
                && Instant::now() < deadline
            {
                thread::sleep(Duration::from_millis(5));
            }
            stop.store(true, Relaxed);
            sent
        })
        .map_err(LabError::io("cannot send UDP"))?;
        Ok(RateTrial {
            wanted_pps: target_pps,
            sent_pps: sent as f64 / time.as_secs_f64(),
            sent,
            received: received.into_inner(),
        })
    }
}

/// Time for packets in flight after the last one was sent.
const DRAIN_TIME: Duration = Duration::from_millis(300);

/// Sleep time of a paced sender that is ahead of its rate.
const PACING_SLEEP: Duration = Duration::from_micros(50);

/// Interval at which the receiver checks the stop flag.
const STOP_POLL: Duration = Duration::from_millis(20);

/// A receiver on host B, for [`RateTest::between`].
pub(super) fn receiver_on_b(pair: &GatewayPair) -> Result<UdpSocket, LabError> {
    let address = pair.addressing.b.host;
    pair.on_host(Side::B, || receiver(address))?
        .map_err(LabError::io(NO_SOCKET))
}

const NO_SOCKET: &str = "cannot open a UDP socket";

fn receiver(address: IpAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((address, 0))?;
    udp_blast::set_buffers(&socket, 16 << 20);
    socket.set_read_timeout(Some(STOP_POLL))?;
    Ok(socket)
}

/// Sends for `time`; returns the number of sent packets.
fn send(
    sender: &mut dyn UdpSender,
    number: u32,
    mix: PacketMix,
    target_pps: Option<f64>,
    time: Duration,
) -> io::Result<u64> {
    let mut sizes = mix.sizes.iter().copied().cycle();
    let mut burst = [0; BURST];
    let mut sent: u64 = 0;
    let start = Instant::now();
    loop {
        let elapsed = start.elapsed();
        if elapsed >= time {
            return Ok(sent);
        }
        let ahead = |pps: f64| sent as f64 > elapsed.as_secs_f64() * pps;
        if target_pps.is_some_and(ahead) {
            thread::sleep(PACING_SLEEP);
            continue;
        }
        for (place, size) in burst.iter_mut().zip(&mut sizes) {
            *place = size;
        }
        match sender.send(number, &burst) {
            Ok(count) => sent += count as u64,
            // A full queue drains soon; an ICMP error concerns an earlier packet.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ENOBUFS | libc::EAGAIN | libc::ECONNREFUSED | libc::EINTR)
                ) =>
            {
                thread::sleep(PACING_SLEEP);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Counts received packets of one trial; packets of an earlier trial may still be in flight.
fn count(socket: &UdpSocket, number: u32, received: &AtomicU64, stop: &AtomicBool) {
    let mut catch = RecvBuffers::new();
    while !stop.load(Relaxed) {
        // Timeout: check the stop flag.
        if catch.receive(socket).is_err() {
            continue;
        }
        let ours = catch
            .datagrams()
            .filter(|datagram| datagram.starts_with(&number.to_be_bytes()))
            .count();
        received.fetch_add(ours as u64, Relaxed);
    }
}

/// A sender of numbered datagrams, each in its own packet: without UDP_SEGMENT, so that gateways get no GSO packets from the sender.
pub(super) trait UdpSender {
    /// Sends datagrams with payloads of these sizes, each beginning with `number`; returns the number of sent datagrams.
    ///
    /// # Errors
    /// The first datagram could not be sent.
    fn send(&mut self, number: u32, sizes: &[usize; BURST]) -> io::Result<usize>;
}

/// The longest payload in bytes.
pub(super) const MAX_PAYLOAD: usize = 1400;

/// A sender on an ordinary host.
struct HostSender {
    socket: UdpSocket,
    payload: [u8; MAX_PAYLOAD],
}

impl HostSender {
    /// Opens a socket in the namespace of the calling thread, connected to `target`.
    fn new(target: SocketAddr) -> io::Result<HostSender> {
        let any: IpAddr = match target {
            SocketAddr::V4(_) => [0; 4].into(),
            SocketAddr::V6(_) => [0; 16].into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        udp_blast::set_buffers(&socket, 4 << 20);
        socket.connect(target)?;
        Ok(HostSender {
            socket,
            payload: [0; MAX_PAYLOAD],
        })
    }
}

impl UdpSender for HostSender {
    fn send(&mut self, number: u32, sizes: &[usize; BURST]) -> io::Result<usize> {
        self.payload[..4].copy_from_slice(&number.to_be_bytes());
        let burst = sizes.map(|size| &self.payload[..size.min(MAX_PAYLOAD)]);
        udp_blast::send(&self.socket, &burst)
    }
}

/// The lowest rate of a search.
const MIN_PPS: f64 = 500.0;

/// The ratio of both bounds at which a search ends.
const PRECISION: f64 = 1.03;

/// State of a search: bisection on a logarithmic scale.
#[derive(Debug, Clone, Copy, PartialEq)]
struct RateSearch {
    low: Option<f64>,
    high: f64,
    /// Next rate, if not the middle.
    guess: Option<f64>,
    /// Number of lossy trials before the first one that passed.
    failures: u32,
}

impl RateSearch {
    /// A search below `high`, which is too high, starting at `guess`.
    fn new(high: f64, guess: f64) -> RateSearch {
        RateSearch {
            low: None,
            high,
            guess: (MIN_PPS < guess && guess < high / PRECISION).then_some(guess),
            failures: 0,
        }
    }

    /// The next rate to try; `None` when the search has ended.
    fn next(&self) -> Option<f64> {
        let low = self.low.unwrap_or(MIN_PPS);
        if self.high / low < PRECISION {
            return None;
        }
        Some(self.guess.unwrap_or_else(|| (low * self.high).sqrt()))
    }

    /// Records the outcome of a trial.
    fn record(&mut self, rate: f64, outcome: TrialOutcome) {
        self.guess = None;
        match outcome {
            TrialOutcome::Passed => self.low = Some(self.low.map_or(rate, |low| low.max(rate))),
            TrialOutcome::Lost => {
                self.high = self.high.min(rate);
                // Before the first rate that passes, assume that the limit is a little lower rather than close to zero.
                if self.low.is_none() {
                    let step = if self.failures == 0 { 0.8 } else { 0.5 };
                    self.guess = Some(rate * step).filter(|guess| *guess > MIN_PPS);
                    self.failures += 1;
                }
            }
        }
    }

    /// The highest rate that passed.
    fn highest(&self) -> Option<f64> {
        self.low
    }
}

/// The outcome of a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TrialOutcome {
    /// The loss was below [`MAX_LOSS`].
    Passed,
    /// The loss was higher.
    Lost,
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::net::Ipv4Addr;

    fn rate_test() -> RateTest {
        let receiver = receiver(Ipv4Addr::LOCALHOST.into()).unwrap();
        let sender = HostSender::new(receiver.local_addr().unwrap()).unwrap();
        RateTest::between(Box::new(sender), receiver)
    }

    #[test]
    fn imix_has_seven_small_four_medium_and_one_large_packet() {
        let imix = MIXES.iter().find(|mix| mix.name == "IMIX").unwrap();
        let count = |size| imix.sizes.iter().filter(|one| **one == size).count();
        assert_eq!([64, 548, 1372].map(count), [7, 4, 1]);
        assert!((imix.mean() - 334.333).abs() < 0.001);
    }

    #[test]
    fn a_paced_sender_keeps_its_rate_without_loss() {
        let time = Duration::from_millis(100);
        let mut test = rate_test();
        for mix in MIXES {
            let trial = test
                .trial(mix, Some(2000.0), time, &Interrupt::default())
                .unwrap();
            // At most one burst more; fewer on a busy machine.
            assert!((1..=200 + BURST as u64).contains(&trial.sent), "{trial:?}");
            assert_eq!(trial.received, trial.sent);
            assert_eq!(trial.outcome(), TrialOutcome::Passed);
        }
    }

    #[test]
    fn packets_of_an_earlier_trial_are_not_counted() {
        let mut test = rate_test();
        test.sender.send(9, &[5; BURST]).unwrap();
        let time = Duration::from_millis(20);
        let mix = MIXES[0];
        let trial = test
            .trial(mix, Some(1000.0), time, &Interrupt::default())
            .unwrap();
        assert_eq!(trial.received, trial.sent);
    }

    #[test]
    fn half_a_percent_of_loss_does_not_pass() {
        let trial = |received| RateTrial {
            wanted_pps: None,
            sent_pps: 1000.0,
            sent: 1000,
            received,
        };
        assert_eq!(trial(996).outcome(), TrialOutcome::Passed);
        assert_eq!(trial(995).outcome(), TrialOutcome::Lost);
        assert!((trial(900).loss() - 0.1).abs() < 1e-9);
    }

    /// Searches with a limit; returns the highest rate and the number of trials.
    fn found(limit: f64, high: f64, guess: f64) -> (Option<f64>, u32) {
        let mut search = RateSearch::new(high, guess);
        let mut trials = 0;
        while let Some(rate) = search.next() {
            let outcome = if rate <= limit {
                TrialOutcome::Passed
            } else {
                TrialOutcome::Lost
            };
            search.record(rate, outcome);
            trials += 1;
            assert!(trials < 40, "{search:?}");
        }
        (search.highest(), trials)
    }

    #[test]
    fn the_limit_is_found_within_three_percent_in_14_trials() {
        for limit in [1_000.0, 14_000.0, 56_000.0, 290_000.0] {
            for guess in [0.0, limit * 0.9, limit * 1.3, 1e9] {
                let (rate, trials) = found(limit, 300_000.0, guess);
                let rate = rate.unwrap();
                assert!(
                    (limit / PRECISION..=limit).contains(&rate),
                    "{limit}: {rate}"
                );
                assert!(trials <= 14, "{limit} {guess}: {trials}");
            }
        }
    }

    #[test]
    fn a_search_without_a_passing_rate_has_no_result() {
        assert_eq!(found(0.0, 300_000.0, 20_000.0).0, None);
    }
}
