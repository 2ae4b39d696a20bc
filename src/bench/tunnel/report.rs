//! What `bench tunnel` found out, for scripts and for people.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::TunnelBenchOptions;
use super::pair::System;
use super::ratios::SpeedRatios;
use super::step_costs::StepCosts;
use super::udp_rate::{MIXES, PacketMix, RateResult, RateTrial};
use crate::bench::MachineInfo;

/// Everything. Its serialised form is `bench tunnel --json`, and its keys are stable.
#[derive(Debug, Serialize)]
pub struct TunnelReport {
    /// Where.
    pub machine: MachineInfo,
    /// The IKE proposals of both sides.
    pub ike: String,
    /// Seconds of TCP; a trial of the UDP rate search took half of it.
    pub seconds: u32,
    /// Each system with each suite.
    pub runs: Vec<SystemRun>,
    /// groundlink against the other system, per suite.
    pub ratios: Vec<SpeedRatios>,
}

/// One system with one suite.
#[derive(Debug, Clone, Serialize)]
pub struct SystemRun {
    /// What both gateways were.
    pub system: System,
    /// The ESP proposals.
    pub esp: String,
    /// From host A to host B.
    pub tcp: TcpResult,
    /// The rate searches.
    pub udp: Vec<UdpResult>,
    /// One more, in which gateway A is replaced by a peer that sends ESP in UDP with checksum zero, as kernels and clouds do.
    pub ingress: Option<UdpResult>,
    /// Echo requests from host A to host B.
    pub rtt: RttStats,
    /// CPU seconds for each gigabit of one TCP stream; `null` where the stream broke.
    pub cpu: Option<CpuCost>,
    /// What each stage of the road took for a byte of that stream; `null` for other systems, and without such a counter.
    pub ticks_per_byte: Option<StepCosts>,
    /// Resident memory of the gateways after all that.
    pub memory_mib: MemoryUse,
    /// What could not be measured, and why.
    pub problems: Vec<String>,
}

/// Payload of TCP in Mbit/s; `null` where it broke.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct TcpResult {
    /// Over one connection.
    pub one_stream_mbit: Option<f64>,
    /// Over four.
    pub four_streams_mbit: Option<f64>,
}

/// The highest rate at which less than 0.5 % was lost.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UdpResult {
    /// `64 B`, `512 B`, `1300 B` or `IMIX`.
    pub name: &'static str,
    /// Bytes of payload, one packet after the other.
    pub sizes: &'static [usize],
    /// Packets a second; `null` if too much was lost at every rate.
    pub pps: Option<f64>,
    /// The same in Mbit/s of payload.
    pub mbit: Option<f64>,
    /// The sender could send no more: this is its limit, and that of the gateways is higher.
    pub sender_limited: bool,
    /// What was tried.
    pub trials: Vec<RateTrial>,
}

/// Round trips.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct RttStats {
    /// Requests sent.
    pub sent: u16,
    /// Answers that came back.
    pub received: u16,
    /// Their mean; `null` without an answer.
    pub avg_ms: Option<f64>,
    /// The one in the middle.
    pub median_ms: Option<f64>,
    /// 99 of 100 were faster.
    pub p99_ms: Option<f64>,
}

/// CPU seconds of the gateways for each gigabit of payload.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CpuCost {
    /// Gateway A, which seals the data and opens acknowledgements.
    pub a_s_per_gbit: f64,
    /// Gateway B, which does the reverse.
    pub b_s_per_gbit: f64,
}

/// Resident memory in MiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct MemoryUse {
    /// Of gateway A.
    pub a: Option<f64>,
    /// Of gateway B.
    pub b: Option<f64>,
}

impl TunnelReport {
    /// A report without runs.
    pub(super) fn empty(options: &TunnelBenchOptions) -> TunnelReport {
        TunnelReport {
            machine: MachineInfo::this(),
            ike: options.ike.clone(),
            seconds: options.seconds,
            runs: Vec::new(),
            ratios: Vec::new(),
        }
    }

    /// Adds the ratios.
    pub(super) fn conclude(&mut self) {
        let of = |system: System| self.runs.iter().filter(move |run| run.system == system);
        self.ratios = of(System::Groundlink)
            .flat_map(|ours| {
                of(System::Strongswan)
                    .filter(|theirs| theirs.esp == ours.esp)
                    .map(|theirs| SpeedRatios::of(ours, theirs))
            })
            .collect();
    }

    /// Whether everything could be measured.
    pub fn is_whole(&self) -> bool {
        self.runs.iter().all(|run| run.problems.is_empty())
    }
}

impl SystemRun {
    pub(super) fn empty(system: System, esp: &str) -> SystemRun {
        SystemRun {
            system,
            esp: esp.to_owned(),
            tcp: TcpResult::default(),
            udp: Vec::new(),
            ingress: None,
            rtt: RttStats::default(),
            cpu: None,
            ticks_per_byte: None,
            memory_mib: MemoryUse::default(),
            problems: Vec::new(),
        }
    }
}

impl UdpResult {
    pub(super) fn new(mix: PacketMix, found: RateResult) -> UdpResult {
        UdpResult {
            name: mix.name,
            sizes: mix.sizes,
            pps: found.pps,
            mbit: found.pps.map(|pps| pps * mix.mean() * 8.0 / 1e6),
            sender_limited: found.sender_limited,
            trials: found.trials,
        }
    }
}

impl RttStats {
    /// Of so many requests, these came back.
    pub(super) fn of(sent: u16, mut answers: Vec<Duration>) -> RttStats {
        answers.sort_unstable();
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let at = |part: usize| answers.get(answers.len() * part / 100).copied().map(ms);
        let sum: Duration = answers.iter().sum();
        let count = answers.len();
        RttStats {
            sent,
            received: u16::try_from(count).unwrap_or(u16::MAX),
            avg_ms: (count > 0).then(|| ms(sum) / count as f64),
            median_ms: at(50),
            p99_ms: at(99),
        }
    }
}

impl CpuCost {
    /// What both gateways took between two looks, while so many bytes were carried.
    pub(super) fn between(
        before: [Option<Duration>; 2],
        after: [Option<Duration>; 2],
        bytes: u64,
    ) -> Option<CpuCost> {
        let gbit = (bytes > 0).then_some(bytes as f64 * 8.0 / 1e9)?;
        let spent = |before: Option<Duration>, after: Option<Duration>| {
            Some(after?.saturating_sub(before?).as_secs_f64() / gbit)
        };
        Some(CpuCost {
            a_s_per_gbit: spent(before[0], after[0])?,
            b_s_per_gbit: spent(before[1], after[1])?,
        })
    }

    /// Both gateways together.
    pub fn total(&self) -> f64 {
        self.a_s_per_gbit + self.b_s_per_gbit
    }
}

impl MemoryUse {
    /// The larger of the two.
    pub fn most(&self) -> Option<f64> {
        self.a.into_iter().chain(self.b).reduce(f64::max)
    }
}

/// The row of what gateway B takes in by itself.
pub(super) const INGRESS_ROW: &str = "ingress 1300 B";

/// The rows of the table; [`cells`] and [`SpeedRatios::in_order`] follow them.
pub(super) fn names() -> Vec<String> {
    let udp = MIXES.map(|mix| format!("UDP {}", mix.name));
    let tcp = ["TCP, one stream", "TCP, four streams"].map(str::to_owned);
    let costs = ["round trip", "CPU per gigabit", "memory"].map(str::to_owned);
    let ingress = [INGRESS_ROW.to_owned()];
    tcp.into_iter()
        .chain(udp)
        .chain(ingress)
        .chain(costs)
        .collect()
}

/// What a run says in each row.
pub(super) fn cells(run: &SystemRun) -> Vec<Option<String>> {
    let tcp = [run.tcp.one_stream_mbit, run.tcp.four_streams_mbit];
    let udp = MIXES.map(|mix| kpps(run.udp.iter().find(|udp| udp.name == mix.name)?));
    let costs = [
        run.rtt.avg_ms.map(|ms| format!("{ms:.3} ms")),
        run.cpu.map(|cpu| format!("{:.3} s", cpu.total())),
        run.memory_mib.most().map(|mib| format!("{mib:.1} MiB")),
    ];
    let tcp = tcp.map(|mbit| mbit.map(rate));
    let ingress = [run.ingress.as_ref().and_then(kpps)];
    tcp.into_iter()
        .chain(udp)
        .chain(ingress)
        .chain(costs)
        .collect()
}

fn kpps(udp: &UdpResult) -> Option<String> {
    let bound = if udp.sender_limited { "≥ " } else { "" };
    udp.pps.map(|pps| format!("{bound}{:.1} kpps", pps / 1e3))
}

impl fmt::Display for TunnelReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine)?;
        writeln!(f, "IKE {}, {} s of TCP\n", self.ike, self.seconds)?;
        writeln!(
            f,
            "  host A ── gateway A ══ WAN ══ gateway B ── host B      all on this machine's cores\n"
        )?;
        let mut suites: Vec<&str> = self.runs.iter().map(|run| run.esp.as_str()).collect();
        suites.dedup();
        for esp in suites {
            self.suite(f, esp)?;
        }
        writeln!(
            f,
            "UDP: the highest rate at which less than 0.5 % is lost; {}; sizes of the payload.",
            imix()
        )?;
        writeln!(
            f,
            "Ingress: likewise, ESP in UDP with checksum zero, as kernels and clouds send it, from a peer in the place of gateway A."
        )?;
        writeln!(
            f,
            "CPU: of both gateways, with one TCP stream. MemoryUse: of the larger one."
        )
    }
}

/// What IMIX stands for.
pub(super) fn imix() -> &'static str {
    "IMIX is 7 of 64, 4 of 548 and 1 of 1372 bytes"
}

const NAME: usize = 20;
const CELL: usize = 14;

impl TunnelReport {
    /// The table of one suite: a column for each system, and the ratios.
    fn suite(&self, f: &mut fmt::Formatter<'_>, esp: &str) -> fmt::Result {
        let runs: Vec<&SystemRun> = self.runs.iter().filter(|run| run.esp == esp).collect();
        let ratios = self.ratios.iter().find(|ratios| ratios.esp == esp);
        write!(f, "{esp:<NAME$}")?;
        for run in &runs {
            write!(f, "{:>CELL$}", run.system.to_string())?;
        }
        writeln!(f, "{}", ratios.map_or("", |_| "     ratio"))?;
        let columns: Vec<_> = runs.iter().map(|run| cells(run)).collect();
        let ratios = ratios.map(SpeedRatios::in_order).unwrap_or_default();
        for (at, name) in names().iter().enumerate() {
            write!(f, "  {name:<width$}", width = NAME - 2)?;
            for column in &columns {
                let cell = column.get(at).cloned().flatten();
                write!(f, "{:>CELL$}", cell.as_deref().unwrap_or("-"))?;
            }
            if let Some(ratio) = ratios.get(at).copied().flatten() {
                write!(f, "{ratio:>10.2}")?;
            }
            writeln!(f)?;
        }
        for run in runs {
            if let Some(stages) = run.ticks_per_byte {
                writeln!(f, "  cycles per byte, one stream\n    {stages}")?;
            }
            for problem in &run.problems {
                writeln!(f, "  not measured: {}, {problem}", run.system)?;
            }
        }
        writeln!(f)
    }
}

/// A speed as people say it.
pub(super) fn rate(mbit: f64) -> String {
    if mbit >= 1000.0 {
        format!("{:.2} Gbit/s", mbit / 1000.0)
    } else {
        format!("{mbit:.0} Mbit/s")
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::super::udp_rate::FULL;
    use super::*;

    /// A run with round figures, `times` as fast as the slowest.
    pub fn run(system: System, times: f64) -> SystemRun {
        let trial = |pps: f64, loss: f64| RateTrial {
            wanted_pps: Some(pps),
            sent_pps: pps,
            sent: pps as u64,
            received: (pps * (1.0 - loss)) as u64,
        };
        let udp = |mix: PacketMix| {
            UdpResult::new(
                mix,
                RateResult {
                    pps: Some(10_000.0 * times),
                    sender_limited: false,
                    trials: vec![
                        trial(20_000.0 * times, 0.5),
                        trial(10_000.0 * times, 0.001),
                        trial(12_000.0 * times, 0.04),
                    ],
                },
            )
        };
        SystemRun {
            tcp: TcpResult {
                one_stream_mbit: Some(200.0 * times),
                four_streams_mbit: Some(250.0 * times),
            },
            udp: MIXES.map(udp).to_vec(),
            ingress: Some(udp(FULL)),
            ticks_per_byte: (system == System::Groundlink).then_some(StepCosts {
                read: 0.25,
                split: 0.5,
                seal: 1.5,
                send: 0.75,
                receive: 0.25,
                open: 1.75,
                join: 0.5,
                write: 1.0,
            }),
            rtt: RttStats::of(2, vec![Duration::from_micros(400); 2]),
            cpu: Some(CpuCost {
                a_s_per_gbit: 4.0 / times,
                b_s_per_gbit: 2.0 / times,
            }),
            memory_mib: MemoryUse {
                a: Some(15.5),
                b: Some(16.0),
            },
            ..SystemRun::empty(system, "aes128-sha1")
        }
    }

    /// Both systems with one suite.
    pub fn report() -> TunnelReport {
        let mut report = TunnelReport::empty(&TunnelBenchOptions {
            versus: Some(System::Strongswan),
            ike: "aes128-sha1-modp1024".to_owned(),
            esp: vec!["aes128-sha1".to_owned()],
            seconds: 4,
        });
        report.runs = vec![run(System::Groundlink, 10.0), run(System::Strongswan, 1.0)];
        report.conclude();
        report
    }
}

#[cfg(test)]
mod tests {
    use super::testing::report;
    use super::*;

    #[test]
    fn a_person_sees_both_systems_side_by_side() {
        let text = report().to_string();
        for parts in [
            &["aes128-sha1", "groundlink", "strongSwan", "ratio"][..],
            &["TCP, one stream", "2.00 Gbit/s", "200 Mbit/s", "10.00"],
            &["UDP 1300 B", "100.0 kpps", "10.0 kpps", "10.00"],
            &["UDP IMIX", "kpps"],
            &["ingress 1300 B", "100.0 kpps", "10.0 kpps", "10.00"],
            &["CPU per gigabit", "0.600 s", "6.000 s", "0.10"],
            &["memory", "16.0 MiB", "1.00"],
        ] {
            let has_all = |line: &str| parts.iter().all(|part| line.contains(part));
            assert!(text.lines().any(has_all), "{parts:?} in\n{text}");
        }
        assert!(!text.contains("not measured"));
    }

    #[test]
    fn what_could_not_be_measured_is_a_dash_and_says_why() {
        let mut report = report();
        report.runs[1].tcp.one_stream_mbit = None;
        report.runs[1].problems.push("TCP stood still".to_owned());
        report.conclude();
        let text = report.to_string();
        let line = text.lines().find(|line| line.contains("one stream"));
        assert!(line.unwrap().ends_with(" -"), "{text}");
        assert!(text.contains("not measured: strongSwan, TCP stood still"));
        assert!(!report.is_whole());
    }

    #[test]
    fn what_the_sender_limits_is_a_lower_bound() {
        let mut report = report();
        report.runs[0].udp[0].sender_limited = true;
        assert!(report.to_string().contains("≥ 100.0 kpps"));
    }

    #[test]
    fn round_trips_are_summed_up() {
        let rtt = RttStats::of(200, (1..=100).map(Duration::from_millis).collect());
        assert_eq!((rtt.sent, rtt.received), (200, 100));
        assert!((rtt.avg_ms.unwrap() - 50.5).abs() < 1e-9);
        assert_eq!((rtt.median_ms, rtt.p99_ms), (Some(51.0), Some(100.0)));
        assert_eq!(RttStats::of(3, vec![]).avg_ms, None);
    }

    #[test]
    fn cpu_is_counted_by_the_gigabit() {
        let ms = |ms| Some(Duration::from_millis(ms));
        let cpu = CpuCost::between([ms(100), ms(50)], [ms(600), ms(150)], 250_000_000).unwrap();
        assert!((cpu.a_s_per_gbit - 0.25).abs() < 1e-9);
        assert!((cpu.total() - 0.3).abs() < 1e-9);
        assert_eq!(CpuCost::between([None, None], [ms(1), ms(1)], 1), None);
    }
}
