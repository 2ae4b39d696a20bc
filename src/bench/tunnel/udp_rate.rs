//! UDP to a host at a rate, and how much of it arrives.
//!
//! ```text
//!   source   [trial · zeros …] [trial · zeros …] …   16 a system call, paced ─────▶   host B counts those of this trial
//! ```
//!
//! The [source](super::udp_sender) is host A, behind its gateway, or a [peer](super::esp_sender) in the place of that gateway.

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::pair::GatewayPair;
use super::search::{RateSearch, TrialOutcome};
use super::udp_sender::{HostSender, UdpSender};
use crate::lab;
use crate::lab::interrupt::Interrupt;
use crate::lab::options::Side;
use crate::os::flood::{self, BURST, Catch};

/// Datagrams of one size, or a row of sizes that repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketMix {
    /// Its name in reports.
    pub name: &'static str,
    /// Bytes of UDP payload, one datagram after the other.
    pub sizes: &'static [usize],
}

/// What is searched for. IMIX is seven small, four middling and one large: inner packets of 92, 576 and 1400 bytes, the largest that
/// passes every suite and strongSwan's device.
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

/// What a peer sends whose packets carry no UDP checksum: full ones.
pub(super) const FULL: PacketMix = PacketMix {
    name: "1300 B",
    sizes: &[1300],
};

impl PacketMix {
    /// Bytes of payload on average.
    pub fn mean(&self) -> f64 {
        self.sizes.iter().sum::<usize>() as f64 / self.sizes.len().max(1) as f64
    }
}

/// One attempt at one rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RateTrial {
    /// Packets a second that were wanted; `null`: as many as possible.
    pub wanted_pps: Option<f64>,
    /// Packets a second that were sent.
    pub sent_pps: f64,
    /// Packets sent.
    pub sent: u64,
    /// Packets that arrived.
    pub received: u64,
}

/// Loss that a rate may have.
pub(super) const TOLERATED: f64 = 0.005;

/// Loss that may have been a hiccup of the machine: worth a second trial.
const NEAR: f64 = 0.03;

impl RateTrial {
    /// The part that was lost.
    pub fn loss(&self) -> f64 {
        let lost = self.sent.saturating_sub(self.received);
        lost as f64 / self.sent.max(1) as f64
    }

    fn outcome(&self) -> TrialOutcome {
        if self.loss() < TOLERATED {
            TrialOutcome::Carried
        } else {
            TrialOutcome::Lost
        }
    }
}

/// What became of a search.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RateResult {
    /// The highest rate that was carried.
    pub pps: Option<f64>,
    /// The sender could not send more: the gateways may carry more.
    pub sender_limited: bool,
    /// Everything that was tried, in order.
    pub trials: Vec<RateTrial>,
}

/// A source, and a receiver on host B.
pub(super) struct RateTest {
    from: Box<dyn UdpSender>,
    to: UdpSocket,
    number: u32,
}

impl RateTest {
    /// From host A.
    pub(super) fn new(pair: &GatewayPair) -> Result<RateTest, lab::LabError> {
        let to = receiver_on_b(pair)?;
        let target = to.local_addr().map_err(no_socket)?;
        let from = pair
            .on_host(Side::A, || HostSender::new(target))?
            .map_err(no_socket)?;
        Ok(RateTest::between(Box::new(from), to))
    }

    /// From any source that sends to this receiver.
    pub(super) fn between(from: Box<dyn UdpSender>, to: UdpSocket) -> RateTest {
        RateTest {
            from,
            to,
            number: 0,
        }
    }

    /// Searches for the highest rate of `mix` that is carried; `told` hears of every trial.
    pub(super) fn search(
        &mut self,
        mix: PacketMix,
        time: Duration,
        interrupt: &Interrupt,
        told: &dyn Fn(&RateTrial),
    ) -> Result<RateResult, lab::LabError> {
        let mut trials = Vec::new();
        let mut try_rate =
            |range: &mut RateTest, wanted: Option<f64>| -> Result<RateTrial, lab::LabError> {
                let trial = range.trial(mix, wanted, time, interrupt)?;
                told(&trial);
                trials.push(trial);
                Ok(trial)
            };
        // As much as possible: what arrives of that is a good guess.
        let most = try_rate(self, None)?;
        if most.outcome() == TrialOutcome::Carried {
            return Ok(RateResult {
                pps: Some(most.sent_pps),
                sender_limited: true,
                trials,
            });
        }
        let arrived = most.received as f64 / time.as_secs_f64();
        let mut search = RateSearch::new(most.sent_pps, arrived);
        while let Some(rate) = search.next() {
            let mut trial = try_rate(self, Some(rate))?;
            if (TOLERATED..NEAR).contains(&trial.loss()) {
                trial = try_rate(self, Some(rate))?;
            }
            search.learn(rate, trial.outcome());
        }
        Ok(RateResult {
            pps: search.carried(),
            sender_limited: false,
            trials,
        })
    }

    fn trial(
        &mut self,
        mix: PacketMix,
        wanted_pps: Option<f64>,
        time: Duration,
        interrupt: &Interrupt,
    ) -> Result<RateTrial, lab::LabError> {
        interrupt.check()?;
        self.number += 1;
        let (received, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        let (from, to, number) = (&mut *self.from, &self.to, self.number);
        let sent = thread::scope(|scope| {
            scope.spawn(|| count(to, number, &received, &stop));
            let sent = send(from, number, mix, wanted_pps, time);
            let give_up = Instant::now() + QUIET;
            while sent
                .as_ref()
                .is_ok_and(|sent| received.load(Relaxed) < *sent)
                && Instant::now() < give_up
            {
                thread::sleep(Duration::from_millis(5));
            }
            stop.store(true, Relaxed);
            sent
        })
        .map_err(|source| lab::LabError::Io {
            what: "UDP cannot be sent",
            source,
        })?;
        Ok(RateTrial {
            wanted_pps,
            sent_pps: sent as f64 / time.as_secs_f64(),
            sent,
            received: received.into_inner(),
        })
    }
}

/// How long what is under way may take to arrive after the last packet was sent.
const QUIET: Duration = Duration::from_millis(300);

/// How long a paced sender sleeps when it is ahead.
const NAP: Duration = Duration::from_micros(50);

/// How often the receiver looks whether it should stop.
const LOOK: Duration = Duration::from_millis(20);

/// A receiver for [`RateTest::between`].
pub(super) fn receiver_on_b(pair: &GatewayPair) -> Result<UdpSocket, lab::LabError> {
    let address = pair.plan.b.host;
    pair.on_host(Side::B, || receiver(address))?
        .map_err(no_socket)
}

fn no_socket(source: io::Error) -> lab::LabError {
    let what = "no UDP socket";
    lab::LabError::Io { what, source }
}

fn receiver(address: IpAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((address, 0))?;
    flood::widen(&socket, 16 << 20);
    socket.set_read_timeout(Some(LOOK))?;
    Ok(socket)
}

/// Sends for `time`; says how many packets.
fn send(
    source: &mut dyn UdpSender,
    number: u32,
    mix: PacketMix,
    wanted_pps: Option<f64>,
    time: Duration,
) -> io::Result<u64> {
    let mut sizes = mix.sizes.iter().copied().cycle();
    let mut burst = [0; BURST];
    let mut sent: u64 = 0;
    let begin = Instant::now();
    loop {
        let elapsed = begin.elapsed();
        if elapsed >= time {
            return Ok(sent);
        }
        let ahead = |pps: f64| sent as f64 > elapsed.as_secs_f64() * pps;
        if wanted_pps.is_some_and(ahead) {
            thread::sleep(NAP);
            continue;
        }
        for (place, size) in burst.iter_mut().zip(&mut sizes) {
            *place = size;
        }
        match source.send(number, &burst) {
            Ok(count) => sent += count as u64,
            // A full queue takes more a moment later; an ICMP error is about an earlier packet.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ENOBUFS | libc::EAGAIN | libc::ECONNREFUSED | libc::EINTR)
                ) =>
            {
                thread::sleep(NAP);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Counts what arrives of one trial; an earlier one's may still be under way.
fn count(socket: &UdpSocket, number: u32, received: &AtomicU64, stop: &AtomicBool) {
    let mut catch = Catch::new();
    while !stop.load(Relaxed) {
        // Nothing waits: look whether to stop.
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn range() -> RateTest {
        let to = receiver(Ipv4Addr::LOCALHOST.into()).unwrap();
        let from = HostSender::new(to.local_addr().unwrap()).unwrap();
        RateTest::between(Box::new(from), to)
    }

    #[test]
    fn imix_is_seven_small_four_middling_and_one_large() {
        let imix = MIXES.iter().find(|mix| mix.name == "IMIX").unwrap();
        let count = |size| imix.sizes.iter().filter(|one| **one == size).count();
        assert_eq!([64, 548, 1372].map(count), [7, 4, 1]);
        assert!((imix.mean() - 334.333).abs() < 0.001);
    }

    #[test]
    fn a_paced_sender_keeps_its_rate_and_everything_arrives() {
        let time = Duration::from_millis(100);
        let mut range = range();
        for mix in MIXES {
            let trial = range
                .trial(mix, Some(2000.0), time, &Interrupt::default())
                .unwrap();
            // A burst more at most; on a busy machine fewer.
            assert!((1..=200 + BURST as u64).contains(&trial.sent), "{trial:?}");
            assert_eq!(trial.received, trial.sent);
            assert_eq!(trial.outcome(), TrialOutcome::Carried);
        }
    }

    #[test]
    fn what_belongs_to_an_earlier_trial_does_not_count() {
        let mut range = range();
        range.from.send(9, &[5; BURST]).unwrap();
        let time = Duration::from_millis(20);
        let mix = MIXES[0];
        let trial = range
            .trial(mix, Some(1000.0), time, &Interrupt::default())
            .unwrap();
        assert_eq!(trial.received, trial.sent);
    }

    #[test]
    fn half_a_percent_is_too_much() {
        let trial = |received| RateTrial {
            wanted_pps: None,
            sent_pps: 1000.0,
            sent: 1000,
            received,
        };
        assert_eq!(trial(996).outcome(), TrialOutcome::Carried);
        assert_eq!(trial(995).outcome(), TrialOutcome::Lost);
        assert!((trial(900).loss() - 0.1).abs() < 1e-9);
    }
}
