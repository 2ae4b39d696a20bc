//! ESP on one core: batches of packets sealed and opened, from the inner packet to the ESP packet and back.
//!
//! ```text
//!   46 inner packets ──seal──▶ 46 ESP packets ──open──▶ 46 inner packets     again, for as long as asked
//!                    └─ timed ─┘               └─ timed ─┘
//! ```
//!
//! 46 packets of 1408 bytes are what a super-packet of 64 KiB becomes, so lanes are full. What is timed is all that an SA does
//! for a packet (`through` [`Measured::Esp`]): sequence number, framing, padding, cipher and ICV; replay window, ICV, cipher, padding,
//! the inner packet's header, selectors. Beside it stands what the lanes alone take ([`Measured::Lanes`]), for the algorithms that have them.

mod report;
mod workload;

use std::time::{Duration, Instant};

use serde::Serialize;

use super::{MachineInfo, Progress};
use crate::crypto::lanes::Kernel;
use crate::crypto::{EspProposal, EspSuite, ProposalError};
use crate::os::cycles;

use workload::Workload;

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
pub struct EspBenchOptions {
    /// One ESP suite each, in the words of swanctl.conf.
    pub suites: Vec<String>,
    /// How long each suite and size is measured.
    pub time: Duration,
}

/// A suite that cannot be measured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EspBenchError {
    /// Nobody can read it.
    #[error("`--esp {words}`: {error}")]
    Words {
        /// As given.
        words: String,
        /// What is wrong with it.
        error: ProposalError,
    },
    /// More than one algorithm of a kind.
    #[error("`--esp {0}` leaves a choice: name one suite each time")]
    Choice(String),
}

/// Everything `bench esp` found out. Its serialised form is `bench esp --json`, and its keys are stable.
#[derive(Debug, Serialize)]
pub struct EspReport {
    /// Where.
    pub machine: MachineInfo,
    /// The kernel that runs the lanes.
    pub lanes: String,
    /// The kernels it was picked from, slowest first.
    pub lanes_available: Vec<String>,
    /// The instructions that decide, and whether this CPU has them.
    pub cpu_features: Vec<CpuFeature>,
    /// How fast the time stamp counter runs, if there is one: what `cycles_per_byte` counts.
    pub tsc_ghz: Option<f64>,
    /// Packets in a batch.
    pub batch: usize,
    /// Seconds for each row.
    pub seconds: f64,
    /// The rows.
    pub results: Vec<EspRow>,
}

/// An instruction set extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CpuFeature {
    /// As /proc/cpuinfo and compilers call it.
    pub name: &'static str,
    /// Whether this CPU has it.
    pub found: bool,
}

/// One suite, one size.
#[derive(Debug, Clone, Serialize)]
pub struct EspRow {
    /// The algorithms.
    pub suite: String,
    /// What was timed.
    pub through: Measured,
    /// Bytes of the inner packet.
    pub size: usize,
    /// Sealing.
    pub seal: EspSpeed,
    /// Opening.
    pub open: EspSpeed,
}

/// What was timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Measured {
    /// Everything an SA does for a packet.
    Esp,
    /// Cipher and ICV alone, in lanes.
    Lanes,
}

impl Measured {
    /// Its word in the report.
    pub fn word(self) -> &'static str {
        match self {
            Measured::Esp => "esp",
            Measured::Lanes => "lanes",
        }
    }
}

/// How fast one direction went.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct EspSpeed {
    /// Bits of inner packets in a second, in thousands of millions.
    pub gbit: f64,
    /// Ticks of the time stamp counter for each byte of an inner packet.
    pub cycles_per_byte: Option<f64>,
}

/// Measures.
///
/// # Errors
/// A suite that is none.
pub fn run(options: &EspBenchOptions) -> Result<EspReport, EspBenchError> {
    let machine = MachineInfo::this();
    let suites = options
        .suites
        .iter()
        .map(|words| suite(words))
        .collect::<Result<Vec<_>, _>>()?;
    let mut progress = Progress::new(suites.len() as u32);
    let mut results = Vec::new();
    for suite in suites {
        progress.begin(suite.to_string());
        for (way, make) in [
            (Measured::Esp, workload::whole as Make),
            (Measured::Lanes, workload::lanes as Make),
        ] {
            for size in SIZES {
                let Some(mut subject) = make(suite, size) else {
                    continue;
                };
                progress.detail(&format!("{size} bytes, {}", way.word()));
                let [seal, open] = measure(subject.as_mut(), options.time);
                results.push(EspRow {
                    suite: suite.to_string(),
                    through: way,
                    size,
                    seal: seal.speed(size),
                    open: open.speed(size),
                });
            }
        }
    }
    Ok(EspReport {
        machine,
        lanes: Kernel::best().to_string(),
        lanes_available: Kernel::all().map(|kernel| kernel.to_string()).collect(),
        cpu_features: cpu_features(),
        tsc_ghz: tsc_ghz(),
        batch: BATCH,
        seconds: options.time.as_secs_f64(),
        results,
    })
}

type Make = fn(EspSuite, usize) -> Option<Box<dyn Workload>>;

fn suite(words: &str) -> Result<EspSuite, EspBenchError> {
    let (proposal, _) = EspProposal::parse(words).map_err(|error| EspBenchError::Words {
        words: words.to_owned(),
        error,
    })?;
    proposal
        .first()
        .filter(|suite| suite.to_string() == words)
        .ok_or_else(|| EspBenchError::Choice(words.to_owned()))
}

/// How long a batch took.
#[derive(Debug, Clone, Copy, PartialEq)]
struct BatchTime {
    time: Duration,
    /// Of the time stamp counter, if there is one.
    ticks: Option<u64>,
}

impl BatchTime {
    /// Times one batch.
    fn of(work: impl FnOnce()) -> BatchTime {
        let (begin, first) = (Instant::now(), cycles::now());
        work();
        let last = cycles::now();
        let ticks = first.zip(last);
        BatchTime {
            time: begin.elapsed(),
            ticks: ticks.map(|(first, last)| last.saturating_sub(first)),
        }
    }

    fn speed(&self, size: usize) -> EspSpeed {
        let bytes = (BATCH * size) as f64;
        EspSpeed {
            gbit: bytes * 8.0 / self.time.as_secs_f64().max(1e-9) / 1e9,
            cycles_per_byte: self.ticks.map(|ticks| ticks as f64 / bytes.max(1.0)),
        }
    }
}

/// The laps kept of one direction; later ones take the places of the first.
const MAX_TIMES: usize = 1 << 16;

/// Seals and opens in turn for `time`, after a tenth of it to warm up. Of each direction the lap in the middle counts: whoever else
/// takes the core for a while spoils some laps, not that one.
fn measure(subject: &mut dyn Workload, time: Duration) -> [BatchTime; 2] {
    laps(subject, time / 10);
    laps(subject, time).map(median)
}

fn laps(subject: &mut dyn Workload, time: Duration) -> [Vec<BatchTime>; 2] {
    let mut all = [Vec::new(), Vec::new()];
    let begin = Instant::now();
    for round in 0.. {
        let laps = [
            BatchTime::of(|| subject.seal()),
            BatchTime::of(|| subject.open()),
        ];
        for (kept, lap) in all.iter_mut().zip(laps) {
            if kept.len() < MAX_TIMES {
                kept.push(lap);
            } else {
                kept[round % MAX_TIMES] = lap;
            }
        }
        if begin.elapsed() >= time {
            break;
        }
    }
    all
}

fn median(mut laps: Vec<BatchTime>) -> BatchTime {
    let middle = laps.len() / 2;
    let (_, lap, _) = laps.select_nth_unstable_by_key(middle, |lap| lap.time);
    *lap
}

/// How fast the time stamp counter runs, in ticks a nanosecond.
fn tsc_ghz() -> Option<f64> {
    let lap = BatchTime::of(|| std::thread::sleep(Duration::from_millis(20)));
    lap.ticks
        .map(|ticks| ticks as f64 / lap.time.as_nanos() as f64)
}

/// The instructions that decide which kernel runs, and those that one could still use.
fn cpu_features() -> Vec<CpuFeature> {
    #[cfg(target_arch = "x86_64")]
    macro_rules! found {
        ($($name:tt)*) => { vec![$(CpuFeature { name: $name, found: std::arch::is_x86_feature_detected!($name) }),*] };
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
        assert!(matches!(suite("aes128"), Err(EspBenchError::Words { .. })));
        assert!(matches!(
            suite("aes128-aes256-sha1"),
            Err(EspBenchError::Choice(_))
        ));
    }

    #[test]
    fn speed_is_of_inner_bytes() {
        let lap = |ticks| BatchTime {
            time: Duration::from_micros(46),
            ticks,
        };
        let speed = lap(Some(46_000)).speed(1000);
        assert!((speed.gbit - 8.0).abs() < 1e-9);
        assert_eq!(speed.cycles_per_byte, Some(1.0));
        assert_eq!(lap(None).speed(1000).cycles_per_byte, None);
    }

    #[test]
    fn the_lap_in_the_middle_counts() {
        let lap = |micros| BatchTime {
            time: Duration::from_micros(micros),
            ticks: None,
        };
        assert_eq!(median([900, 5, 4, 800, 6].map(lap).to_vec()), lap(6));
        assert_eq!(median(vec![lap(3)]), lap(3));
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_counter_runs_at_a_clock_a_cpu_could_have() {
        let ghz = tsc_ghz().unwrap();
        assert!((0.5..10.0).contains(&ghz), "{ghz}");
    }
}
