//! ESP on one core: batches of packets sealed and opened, from the inner packet to the ESP packet and back.
//!
//! ```text
//!   46 inner packets ──seal──▶ 46 ESP packets ──open──▶ 46 inner packets     again, for as long as asked
//!                    └─ timed ─┘               └─ timed ─┘
//! ```
//!
//! 46 packets of 1408 bytes are what a super-packet of 64 KiB becomes, so lanes are full. What is timed is all that an SA does
//! for a packet (`through` [`Way::Esp`]): sequence number, framing, padding, cipher and ICV; replay window, ICV, cipher, padding,
//! the inner packet's header, selectors. Beside it stands what the lanes alone take ([`Way::Lanes`]), for the algorithms that have them.

mod report;
mod subject;

use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Machine, Progress};
use crate::crypto::lanes::Kernel;
use crate::crypto::{EspProposal, EspSuite, WordError};
use crate::os::cycles;

use subject::Subject;

/// What `bench esp` measures without words: what the clouds and their guides name.
pub const SUITES: [&str; 8] = [
    "aes128-sha1",
    "aes256-sha1",
    "aes128-sha256",
    "aes256-sha256",
    "aes256-sha384",
    "aes128gcm16",
    "aes256gcm16",
    "chacha20poly1305",
];

/// Bytes of the inner packet: an acknowledgement, something in between, and the most that passes any of the clouds.
pub const SIZES: [usize; 3] = [64, 512, 1408];

/// Packets in a batch.
pub const BATCH: usize = 46;

/// What is measured, and for how long.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// One ESP suite each, in the words of swanctl.conf.
    pub suites: Vec<String>,
    /// How long each suite and size is measured.
    pub time: Duration,
}

/// A suite that cannot be measured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nobody can read it.
    #[error("`--esp {words}`: {error}")]
    Words {
        /// As given.
        words: String,
        /// What is wrong with it.
        error: WordError,
    },
    /// More than one algorithm of a kind.
    #[error("`--esp {0}` leaves a choice: name one suite each time")]
    Choice(String),
}

/// Everything `bench esp` found out. Its serialised form is `bench esp --json`, and its keys are stable.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where.
    pub machine: Machine,
    /// The kernel that runs the lanes.
    pub lanes: String,
    /// The kernels it was picked from, slowest first.
    pub lanes_available: Vec<String>,
    /// The instructions that decide, and whether this CPU has them.
    pub cpu_features: Vec<Feature>,
    /// How fast the time stamp counter runs, if there is one: what `cycles_per_byte` counts.
    pub tsc_ghz: Option<f64>,
    /// Packets in a batch.
    pub batch: usize,
    /// Seconds for each row.
    pub seconds: f64,
    /// The rows.
    pub results: Vec<Row>,
}

/// An instruction set extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Feature {
    /// As /proc/cpuinfo and compilers call it.
    pub name: &'static str,
    /// Whether this CPU has it.
    pub found: bool,
}

/// One suite, one size.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The algorithms.
    pub suite: String,
    /// What was timed.
    pub through: Way,
    /// Bytes of the inner packet.
    pub size: usize,
    /// Sealing.
    pub seal: Speed,
    /// Opening.
    pub open: Speed,
}

/// What was timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// Everything an SA does for a packet.
    Esp,
    /// Cipher and ICV alone, in lanes.
    Lanes,
}

impl Way {
    /// Its word in the report.
    pub fn word(self) -> &'static str {
        match self {
            Way::Esp => "esp",
            Way::Lanes => "lanes",
        }
    }
}

/// How fast one direction went.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Speed {
    /// Bits of inner packets in a second, in thousands of millions.
    pub gbit: f64,
    /// Ticks of the time stamp counter for each byte of an inner packet.
    pub cycles_per_byte: Option<f64>,
}

/// Measures.
///
/// # Errors
/// A suite that is none.
pub fn run(options: &Options) -> Result<Report, Error> {
    let machine = Machine::this();
    let suites = options
        .suites
        .iter()
        .map(|words| suite(words))
        .collect::<Result<Vec<_>, _>>()?;
    let mut progress = Progress::new(suites.len() as u32);
    let mut results = Vec::new();
    let mut whole = Tally::default();
    for suite in suites {
        progress.begin(suite.to_string());
        for (way, make) in [
            (Way::Esp, subject::whole as Make),
            (Way::Lanes, subject::lanes as Make),
        ] {
            for size in SIZES {
                let Some(mut subject) = make(suite, size) else {
                    continue;
                };
                progress.detail(&format!("{size} bytes, {}", way.word()));
                let (seal, open) = measure(subject.as_mut(), options.time, &mut whole);
                let speed = |tally: &Tally| tally.speed(size);
                results.push(Row {
                    suite: suite.to_string(),
                    through: way,
                    size,
                    seal: speed(&seal),
                    open: speed(&open),
                });
            }
        }
    }
    Ok(Report {
        machine,
        lanes: Kernel::best().to_string(),
        lanes_available: Kernel::all().map(|kernel| kernel.to_string()).collect(),
        cpu_features: cpu_features(),
        tsc_ghz: whole.ticks_per_second().map(|hz| hz / 1e9),
        batch: BATCH,
        seconds: options.time.as_secs_f64(),
        results,
    })
}

type Make = fn(EspSuite, usize) -> Option<Box<dyn Subject>>;

fn suite(words: &str) -> Result<EspSuite, Error> {
    let (proposal, _) = EspProposal::parse(words).map_err(|error| Error::Words {
        words: words.to_owned(),
        error,
    })?;
    proposal
        .first()
        .filter(|suite| suite.to_string() == words)
        .ok_or_else(|| Error::Choice(words.to_owned()))
}

/// Time and ticks of a number of batches.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    batches: u64,
    time: Duration,
    /// `None` once a tick is not known.
    ticks: Option<u64>,
}

impl Tally {
    const EMPTY: Tally = Tally {
        batches: 0,
        time: Duration::ZERO,
        ticks: Some(0),
    };

    fn add(&mut self, time: Duration, ticks: Option<u64>) {
        self.batches += 1;
        self.time += time;
        self.ticks = self.ticks.zip(ticks).map(|(sum, ticks)| sum + ticks);
    }

    fn ticks_per_second(&self) -> Option<f64> {
        let seconds = self.time.as_secs_f64();
        self.ticks
            .filter(|_| seconds > 0.0)
            .map(|ticks| ticks as f64 / seconds)
    }

    fn speed(&self, size: usize) -> Speed {
        let bytes = (self.batches * (BATCH * size) as u64) as f64;
        Speed {
            gbit: bytes * 8.0 / self.time.as_secs_f64().max(1e-9) / 1e9,
            cycles_per_byte: self.ticks.map(|ticks| ticks as f64 / bytes.max(1.0)),
        }
    }
}

/// Slices that the time is cut into. The one in the middle counts: a neighbour who takes the core for a moment spoils some of them.
const SLICES: u32 = 11;

/// Seals and opens in turn for `time`, after a tenth of it to warm up.
fn measure(subject: &mut dyn Subject, time: Duration, whole: &mut Tally) -> (Tally, Tally) {
    slice(subject, time / 10);
    let begin = (Instant::now(), cycles::now());
    let mut seals = Vec::new();
    let mut opens = Vec::new();
    for _ in 0..SLICES {
        let (seal, open) = slice(subject, time / SLICES);
        seals.push(seal);
        opens.push(open);
    }
    if whole.batches == 0 {
        whole.ticks = Some(0);
    }
    whole.add(begin.0.elapsed(), ticks(begin.1, cycles::now()));
    (median(seals), median(opens))
}

fn slice(subject: &mut dyn Subject, time: Duration) -> (Tally, Tally) {
    let (mut seal, mut open) = (Tally::EMPTY, Tally::EMPTY);
    let begin = Instant::now();
    while seal.batches == 0 || begin.elapsed() < time {
        timed(&mut seal, || subject.seal());
        timed(&mut open, || subject.open());
    }
    (seal, open)
}

fn timed(tally: &mut Tally, work: impl FnOnce()) {
    let (begin, first) = (Instant::now(), cycles::now());
    work();
    let last = cycles::now();
    tally.add(begin.elapsed(), ticks(first, last));
}

fn ticks(first: Option<u64>, last: Option<u64>) -> Option<u64> {
    first
        .zip(last)
        .map(|(first, last)| last.saturating_sub(first))
}

fn median(mut tallies: Vec<Tally>) -> Tally {
    let pace = |tally: &Tally| tally.time.as_secs_f64() / tally.batches.max(1) as f64;
    tallies.sort_by(|a, b| pace(a).total_cmp(&pace(b)));
    let middle = tallies.len() / 2;
    tallies.get(middle).copied().unwrap_or_default()
}

/// The instructions that decide which kernel runs, and those that one could still use.
fn cpu_features() -> Vec<Feature> {
    macro_rules! found {
        ($($name:tt)*) => { vec![$(Feature { name: $name, found: std::arch::is_x86_feature_detected!($name) }),*] };
    }
    #[cfg(target_arch = "x86_64")]
    {
        found!("aes" "vaes" "sha" "ssse3" "sse4.1" "avx2" "avx512f" "pclmulqdq" "vpclmulqdq")
    }
    #[cfg(not(target_arch = "x86_64"))]
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suite_is_one_of_each_kind() {
        for words in SUITES {
            assert_eq!(suite(words).unwrap().to_string(), words);
        }
        assert!(matches!(suite("aes128"), Err(Error::Words { .. })));
        assert!(matches!(suite("aes128-aes256-sha1"), Err(Error::Choice(_))));
    }

    #[test]
    fn speed_is_of_inner_bytes() {
        let mut tally = Tally::EMPTY;
        tally.add(Duration::from_micros(46), Some(46_000));
        let speed = tally.speed(1000);
        assert!((speed.gbit - 8.0).abs() < 1e-9);
        assert_eq!(speed.cycles_per_byte, Some(1.0));
        tally.add(Duration::from_micros(1), None);
        assert_eq!(tally.speed(1000).cycles_per_byte, None);
    }

    #[test]
    fn the_slice_in_the_middle_counts() {
        let tally = |micros| {
            let mut tally = Tally::EMPTY;
            tally.add(Duration::from_micros(micros), None);
            tally
        };
        let middle = median([9, 1, 5].map(tally).to_vec());
        assert_eq!(middle.time, Duration::from_micros(5));
    }
}
