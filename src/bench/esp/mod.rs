//! ESP on one core: batches of packets are sealed and opened, from the inner packet to the ESP packet and back.
//!
//! ```text
//!   46 inner packets ──seal──▶ 46 ESP packets ──open──▶ 46 inner packets     repeatedly
//!                    └─ timed ─┘               └─ timed ─┘
//! ```
//!
//! A GSO packet of 64 KiB becomes 46 packets of 1408 bytes, which fill the SIMD lanes. The rows [`Measured::Esp`] include all work of
//! an SA: sequence number, framing, padding, cipher and ICV; replay window, ICV, cipher, padding, inner header and selectors. The rows
//! [`Measured::Lanes`] include only cipher and ICV, for the algorithms that run in SIMD lanes.

mod report;
mod workload;

use std::time::{Duration, Instant};

use super::machine::MachineInfo;
use super::progress::Progress;
use crate::crypto::lanes::Kernel;
use crate::crypto::{EspProposal, EspSuite, ProposalError};
use crate::os::clock;

use workload::{BATCH, Workload};

pub use report::{CpuFeature, EspReport, EspRow, EspSpeed, Measured, SIZES};

/// Default suites: those in the clouds' guides.
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

/// Options of `bench esp`.
#[derive(Debug, Clone, PartialEq)]
pub struct EspBenchOptions {
    /// ESP suites in swanctl.conf syntax.
    pub suites: Vec<String>,
    /// Measuring time for each suite and packet size.
    pub time: Duration,
}

/// An error of `bench esp`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EspBenchError {
    /// A proposal with a syntax error.
    #[error("`--esp {proposal}`: {error}")]
    Proposal {
        /// Proposal as given.
        proposal: String,
        /// Syntax error.
        error: ProposalError,
    },
    /// A proposal with several algorithms of a type.
    #[error("`--esp {0}` contains a choice: name exactly one suite")]
    Ambiguous(String),
}

/// Runs the benchmark.
///
/// # Errors
/// A proposal is invalid.
pub fn run(options: &EspBenchOptions) -> Result<EspReport, EspBenchError> {
    let machine = MachineInfo::current();
    let suites = options
        .suites
        .iter()
        .map(|proposal| suite(proposal))
        .collect::<Result<Vec<_>, _>>()?;
    let mut progress = Progress::new(suites.len() as u64);
    let mut results = Vec::new();
    for suite in suites {
        progress.start(suite.to_string());
        for (measured, make) in [
            (Measured::Esp, workload::whole_sa as Make),
            (Measured::Lanes, workload::lanes as Make),
        ] {
            for size in SIZES {
                let Some(mut workload) = make(suite, size) else {
                    continue;
                };
                progress.detail(format_args!("{size} bytes, {}", measured.word()));
                let [seal, open] = measure(workload.as_mut(), options.time);
                results.push(EspRow {
                    suite: suite.to_string(),
                    through: measured,
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

fn suite(proposal: &str) -> Result<EspSuite, EspBenchError> {
    let (parsed, _) = EspProposal::parse(proposal).map_err(|error| EspBenchError::Proposal {
        proposal: proposal.to_owned(),
        error,
    })?;
    parsed
        .first()
        .filter(|suite| suite.to_string() == proposal)
        .ok_or_else(|| EspBenchError::Ambiguous(proposal.to_owned()))
}

/// The time of one batch.
#[derive(Debug, Clone, Copy, PartialEq)]
struct BatchTime {
    time: Duration,
    /// Ticks of the time stamp counter, if there is one.
    ticks: Option<u64>,
}

impl BatchTime {
    /// Times one batch.
    fn of(work: impl FnOnce()) -> BatchTime {
        let (start, first) = (Instant::now(), clock::cycles());
        work();
        let last = clock::cycles();
        let ticks = first.zip(last);
        BatchTime {
            time: start.elapsed(),
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

/// The most times kept for one direction; later ones replace the first.
const MAX_TIMES: usize = 1 << 16;

/// Seals and opens alternately for `time`, after a tenth of it as warm-up. Returns the median of each direction, which short
/// interruptions by other processes do not change.
fn measure(workload: &mut dyn Workload, duration: Duration) -> [BatchTime; 2] {
    batch_times(workload, duration / 10);
    batch_times(workload, duration).map(median)
}

fn batch_times(workload: &mut dyn Workload, duration: Duration) -> [Vec<BatchTime>; 2] {
    let mut all = [Vec::new(), Vec::new()];
    let start = Instant::now();
    for round in 0.. {
        let times = [
            BatchTime::of(|| workload.seal()),
            BatchTime::of(|| workload.open()),
        ];
        for (kept, time) in all.iter_mut().zip(times) {
            if kept.len() < MAX_TIMES {
                kept.push(time);
            } else {
                kept[round % MAX_TIMES] = time;
            }
        }
        if start.elapsed() >= duration {
            break;
        }
    }
    all
}

fn median(mut times: Vec<BatchTime>) -> BatchTime {
    let middle = times.len() / 2;
    let (_, median, _) = times.select_nth_unstable_by_key(middle, |batch| batch.time);
    *median
}

/// Frequency of the time stamp counter in ticks per nanosecond.
fn tsc_ghz() -> Option<f64> {
    let lap = BatchTime::of(|| std::thread::sleep(Duration::from_millis(20)));
    lap.ticks
        .map(|ticks| ticks as f64 / lap.time.as_nanos() as f64)
}

/// CPU features that select the kernel, and further ones of interest.
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
    fn a_suite_has_one_algorithm_of_each_type() {
        for words in SUITES {
            assert_eq!(suite(words).unwrap().to_string(), words);
        }
        assert!(matches!(
            suite("aes128"),
            Err(EspBenchError::Proposal { .. })
        ));
        assert!(matches!(
            suite("aes128-aes256-sha1"),
            Err(EspBenchError::Ambiguous(_))
        ));
    }

    #[test]
    fn speed_counts_inner_bytes() {
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
    fn the_median_time_is_used() {
        let lap = |micros| BatchTime {
            time: Duration::from_micros(micros),
            ticks: None,
        };
        assert_eq!(median([900, 5, 4, 800, 6].map(lap).to_vec()), lap(6));
        assert_eq!(median(vec![lap(3)]), lap(3));
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_time_stamp_counter_has_a_plausible_frequency() {
        let ghz = tsc_ghz().unwrap();
        assert!((0.5..10.0).contains(&ghz), "{ghz}");
    }

    #[test]
    fn the_table_has_a_row_for_each_suite_and_one_for_its_lanes() {
        let options = EspBenchOptions {
            suites: vec!["aes128-sha1".to_owned(), "aes128gcm16".to_owned()],
            time: Duration::from_millis(1),
        };
        let report = run(&options).unwrap();
        let text = report.to_string();
        let starting = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
        assert_eq!(starting("aes128-sha1 "), 1, "{text}");
        assert_eq!(starting("aes128gcm16 "), 1, "{text}");
        assert_eq!(starting("  lanes only "), 1, "{text}");
        assert!(text.contains(&report.lanes) && text.contains("1408 B"));
        let line = text.lines().find(|line| line.starts_with("aes128gcm16"));
        assert_eq!(
            line.unwrap().split_whitespace().count(),
            1 + 3 * 4,
            "{text}"
        );
    }
}
