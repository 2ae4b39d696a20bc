//! The report of `bench tunnel`, as JSON and as a table.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::pair::System;
use super::step_costs::StepCosts;
use super::udp_rate::{MIXES, PacketMix, RateResult, RateTrial};
use crate::bench::machine::MachineInfo;

/// The result of `bench tunnel`. Its serialized form is `bench tunnel --json`, with stable keys.
#[derive(Debug, Serialize)]
pub struct TunnelReport {
    /// Machine of the benchmark.
    pub machine: MachineInfo,
    /// IKE proposals of both sides.
    pub ike: String,
    /// Seconds of a TCP transfer; a trial of the UDP rate search takes half of it.
    pub seconds: u32,
    /// One run for each system and suite.
    pub runs: Vec<SystemRun>,
    /// groundlink compared with the other system, per suite.
    pub ratios: Vec<SpeedRatios>,
}

/// The results of one system with one suite.
#[derive(Debug, Clone, Serialize)]
pub struct SystemRun {
    /// Implementation of both gateways.
    pub system: System,
    /// ESP proposals.
    pub esp: String,
    /// TCP from host A to host B.
    pub tcp: TcpResult,
    /// UDP rate searches.
    pub udp: Vec<UdpResult>,
    /// UDP rate search with a peer in place of gateway A that sends ESP in UDP with checksum zero, like kernels and clouds.
    pub ingress: Option<UdpResult>,
    /// Echo requests from host A to host B.
    pub rtt: RttStats,
    /// CPU seconds per gigabit of one TCP stream; `null` if the transfer failed.
    pub cpu: Option<CpuCost>,
    /// Ticks of each datapath step per byte of that stream; `null` for other systems, and without a time stamp counter.
    pub ticks_per_byte: Option<StepCosts>,
    /// Resident memory of the gateways at the end.
    pub memory_mib: MemoryUse,
    /// Failed measurements.
    pub problems: Vec<String>,
}

/// TCP payload in Mbit/s; `null` if the transfer failed.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct TcpResult {
    /// One connection.
    pub one_stream_mbit: Option<f64>,
    /// Four connections.
    pub four_streams_mbit: Option<f64>,
}

/// The highest UDP rate with less than 0.5 % loss.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UdpResult {
    /// `64 B`, `512 B`, `1300 B` or `IMIX`.
    pub name: &'static str,
    /// Payload of one packet after the other in bytes.
    pub sizes: &'static [usize],
    /// Packets per second; `null` if every rate lost too much.
    pub pps: Option<f64>,
    /// Payload in Mbit/s.
    pub mbit: Option<f64>,
    /// The rate is the limit of the sender; that of the gateways is higher.
    pub sender_limited: bool,
    /// All trials.
    pub trials: Vec<RateTrial>,
}

/// Statistics of round trips.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct RttStats {
    /// Requests sent.
    pub sent: u16,
    /// Received replies.
    pub received: u16,
    /// Mean; `null` without a reply.
    pub avg_ms: Option<f64>,
    /// Median.
    pub median_ms: Option<f64>,
    /// 99th percentile.
    pub p99_ms: Option<f64>,
}

/// CPU seconds of the gateways per gigabit of payload.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CpuCost {
    /// Gateway A, which seals data and opens acknowledgments.
    pub a_s_per_gbit: f64,
    /// Gateway B, which does the reverse.
    pub b_s_per_gbit: f64,
}

/// Resident memory in MiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct MemoryUse {
    /// Gateway A.
    pub a: Option<f64>,
    /// Gateway B.
    pub b: Option<f64>,
}

impl TunnelReport {
    /// A report without runs.
    pub(super) fn empty(ike: &str, seconds: u32) -> TunnelReport {
        TunnelReport {
            machine: MachineInfo::current(),
            ike: ike.to_owned(),
            seconds,
            runs: Vec::new(),
            ratios: Vec::new(),
        }
    }

    /// Computes the ratios.
    pub(super) fn add_ratios(&mut self) {
        let of = |system: System| self.runs.iter().filter(move |run| run.system == system);
        self.ratios = of(System::Groundlink)
            .flat_map(|ours| {
                of(System::Strongswan)
                    .filter(|theirs| theirs.esp == ours.esp)
                    .map(|theirs| SpeedRatios::of(ours, theirs))
            })
            .collect();
    }

    /// Whether all measurements succeeded.
    pub fn is_complete(&self) -> bool {
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
    /// Statistics of the round-trip times of `sent` requests.
    pub(super) fn of(sent: u16, mut round_trips: Vec<Duration>) -> RttStats {
        round_trips.sort_unstable();
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let at = |part: usize| {
            round_trips
                .get(round_trips.len() * part / 100)
                .copied()
                .map(ms)
        };
        let sum: Duration = round_trips.iter().sum();
        let count = round_trips.len();
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
    /// The cost between two samples of the CPU time, during which `bytes` were transferred.
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

    /// Sum of both gateways.
    pub fn total(&self) -> f64 {
        self.a_s_per_gbit + self.b_s_per_gbit
    }
}

impl MemoryUse {
    /// Maximum of both gateways.
    pub fn max(&self) -> Option<f64> {
        self.a.into_iter().chain(self.b).reduce(f64::max)
    }
}

/// Results of groundlink divided by those of the other system, for one suite; `null` if a measurement failed. Higher is better for
/// throughput and rates, lower for the rest.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SpeedRatios {
    /// ESP proposals.
    pub esp: String,
    /// Throughput of one TCP stream.
    pub tcp_one_stream: Option<f64>,
    /// Throughput of four TCP streams.
    pub tcp_four_streams: Option<f64>,
    /// UDP packets per second, by packet mix.
    pub udp: BTreeMap<&'static str, Option<f64>>,
    /// UDP packets per second of gateway B alone.
    pub ingress: Option<f64>,
    /// Mean round trip.
    pub rtt: Option<f64>,
    /// CPU seconds per gigabit.
    pub cpu: Option<f64>,
    /// Resident memory of the larger gateway.
    pub memory: Option<f64>,
}

impl SpeedRatios {
    /// The ratios of two runs with the same suite.
    pub(super) fn of(ours: &SystemRun, theirs: &SystemRun) -> SpeedRatios {
        let ratio = |metric: Metric| {
            let (ours, theirs) = (metric.value(ours)?, metric.value(theirs)?);
            (theirs > 0.0).then(|| ours / theirs)
        };
        SpeedRatios {
            esp: ours.esp.clone(),
            tcp_one_stream: ratio(Metric::TcpOneStream),
            tcp_four_streams: ratio(Metric::TcpFourStreams),
            udp: MIXES.map(|mix| (mix.name, ratio(Metric::Udp(mix)))).into(),
            ingress: ratio(Metric::Ingress),
            rtt: ratio(Metric::RoundTrip),
            cpu: ratio(Metric::Cpu),
            memory: ratio(Metric::Memory),
        }
    }

    pub(super) fn get(&self, metric: Metric) -> Option<f64> {
        match metric {
            Metric::TcpOneStream => self.tcp_one_stream,
            Metric::TcpFourStreams => self.tcp_four_streams,
            Metric::Udp(mix) => self.udp.get(mix.name).copied().flatten(),
            Metric::Ingress => self.ingress,
            Metric::RoundTrip => self.rtt,
            Metric::Cpu => self.cpu,
            Metric::Memory => self.memory,
        }
    }
}

/// A measured quantity: a row of the table, and a plot of the page.
#[derive(Debug, Clone, Copy)]
pub(super) enum Metric {
    TcpOneStream,
    TcpFourStreams,
    Udp(PacketMix),
    /// UDP to gateway B alone.
    Ingress,
    RoundTrip,
    Cpu,
    Memory,
}

/// All metrics in the order of the table.
pub(super) fn metrics() -> impl Iterator<Item = Metric> {
    let tcp = [Metric::TcpOneStream, Metric::TcpFourStreams];
    let costs = [Metric::RoundTrip, Metric::Cpu, Metric::Memory];
    let udp = MIXES.map(Metric::Udp);
    tcp.into_iter()
        .chain(udp)
        .chain([Metric::Ingress])
        .chain(costs)
}

/// Name of the row for gateway B alone.
pub(super) const INGRESS_ROW: &str = "ingress 1300 B";

impl Metric {
    /// Name of the row.
    pub(super) fn name(self) -> String {
        match self {
            Metric::TcpOneStream => "TCP, one stream".to_owned(),
            Metric::TcpFourStreams => "TCP, four streams".to_owned(),
            Metric::Udp(mix) => format!("UDP {}", mix.name),
            Metric::Ingress => INGRESS_ROW.to_owned(),
            Metric::RoundTrip => "round trip".to_owned(),
            Metric::Cpu => "CPU per gigabit".to_owned(),
            Metric::Memory => "memory".to_owned(),
        }
    }

    /// Mbit/s, packets per second, milliseconds, seconds per gigabit, or MiB.
    pub(super) fn value(self, run: &SystemRun) -> Option<f64> {
        match self {
            Metric::TcpOneStream => run.tcp.one_stream_mbit,
            Metric::TcpFourStreams => run.tcp.four_streams_mbit,
            Metric::Udp(_) | Metric::Ingress => self.udp(run)?.pps,
            Metric::RoundTrip => run.rtt.avg_ms,
            Metric::Cpu => run.cpu.map(|cpu| cpu.total()),
            Metric::Memory => run.memory_mib.max(),
        }
    }

    /// The value with its unit.
    pub(super) fn text(self, run: &SystemRun) -> Option<String> {
        let value = self.value(run)?;
        Some(match self {
            Metric::TcpOneStream | Metric::TcpFourStreams if value >= 1000.0 => {
                format!("{:.2} Gbit/s", value / 1000.0)
            }
            Metric::TcpOneStream | Metric::TcpFourStreams => format!("{value:.0} Mbit/s"),
            Metric::Udp(_) | Metric::Ingress => {
                let is_bound = self.udp(run).is_some_and(|udp| udp.sender_limited);
                let bound = if is_bound { "≥ " } else { "" };
                format!("{bound}{:.1} kpps", value / 1e3)
            }
            Metric::RoundTrip => format!("{value:.3} ms"),
            Metric::Cpu => format!("{value:.3} s"),
            Metric::Memory => format!("{value:.1} MiB"),
        })
    }

    /// The rate search, for UDP metrics.
    pub(super) fn udp(self, run: &SystemRun) -> Option<&UdpResult> {
        match self {
            Metric::Udp(mix) => run.udp.iter().find(|udp| udp.name == mix.name),
            Metric::Ingress => run.ingress.as_ref(),
            Metric::TcpOneStream
            | Metric::TcpFourStreams
            | Metric::RoundTrip
            | Metric::Cpu
            | Metric::Memory => None,
        }
    }
}

impl fmt::Display for TunnelReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine)?;
        writeln!(f, "IKE {}, TCP transfers of {} s\n", self.ike, self.seconds)?;
        writeln!(
            f,
            "  host A ── gateway A ══ WAN ══ gateway B ── host B      all on the cores of this machine\n"
        )?;
        let mut suites: Vec<&str> = self.runs.iter().map(|run| run.esp.as_str()).collect();
        suites.dedup();
        for esp in suites {
            self.suite(f, esp)?;
        }
        writeln!(
            f,
            "UDP: highest rate with less than 0.5 % loss; {}; payload sizes.",
            IMIX
        )?;
        writeln!(
            f,
            "Ingress: the same with a peer in place of gateway A that sends ESP in UDP with checksum zero, like kernels and clouds."
        )?;
        writeln!(
            f,
            "CPU: both gateways, with one TCP stream. Memory: the larger gateway."
        )
    }
}

/// Explanation of IMIX.
pub(super) const IMIX: &str = "IMIX is 7 of 64, 4 of 548 and 1 of 1372 bytes";

const NAME: usize = 20;
const CELL: usize = 14;

impl TunnelReport {
    /// Writes the table of one suite: a column for each system, and the ratios.
    fn suite(&self, f: &mut fmt::Formatter<'_>, esp: &str) -> fmt::Result {
        let runs: Vec<&SystemRun> = self.runs.iter().filter(|run| run.esp == esp).collect();
        let ratios = self.ratios.iter().find(|ratios| ratios.esp == esp);
        write!(f, "{esp:<NAME$}")?;
        for run in &runs {
            write!(f, "{:>CELL$}", run.system.to_string())?;
        }
        writeln!(f, "{}", ratios.map_or("", |_| "     ratio"))?;
        for metric in metrics() {
            write!(f, "  {:<width$}", metric.name(), width = NAME - 2)?;
            for run in &runs {
                let cell = metric.text(run);
                write!(f, "{:>CELL$}", cell.as_deref().unwrap_or("-"))?;
            }
            if let Some(ratio) = ratios.and_then(|ratios| ratios.get(metric)) {
                write!(f, "{ratio:>10.2}")?;
            }
            writeln!(f)?;
        }
        for run in runs {
            if let Some(costs) = run.ticks_per_byte {
                writeln!(f, "  cycles per byte, one stream\n    {costs}")?;
            }
            for problem in &run.problems {
                writeln!(f, "  not measured: {}, {problem}", run.system)?;
            }
        }
        writeln!(f)
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::super::udp_rate::FULL;
    use super::*;

    /// A run with round figures, `times` as fast as the slowest one.
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
        let mut report = TunnelReport::empty("aes128-sha1-modp1024", 4);
        report.runs = vec![run(System::Groundlink, 10.0), run(System::Strongswan, 1.0)];
        report.add_ratios();
        report
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{report, run};
    use super::*;

    #[test]
    fn the_table_compares_both_systems() {
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
    fn a_failed_measurement_is_a_dash_with_its_reason() {
        let mut report = report();
        report.runs[1].tcp.one_stream_mbit = None;
        report.runs[1].problems.push("TCP stalled".to_owned());
        report.add_ratios();
        let text = report.to_string();
        let line = text.lines().find(|line| line.contains("one stream"));
        assert!(line.unwrap().ends_with(" -"), "{text}");
        assert!(text.contains("not measured: strongSwan, TCP stalled"));
        assert!(!report.is_complete());
    }

    #[test]
    fn a_rate_limited_by_the_sender_is_a_lower_bound() {
        let mut report = report();
        report.runs[0].udp[0].sender_limited = true;
        assert!(report.to_string().contains("≥ 100.0 kpps"));
    }

    #[test]
    fn round_trips_have_mean_median_and_percentile() {
        let rtt = RttStats::of(200, (1..=100).map(Duration::from_millis).collect());
        assert_eq!((rtt.sent, rtt.received), (200, 100));
        assert!((rtt.avg_ms.unwrap() - 50.5).abs() < 1e-9);
        assert_eq!((rtt.median_ms, rtt.p99_ms), (Some(51.0), Some(100.0)));
        assert_eq!(RttStats::of(3, vec![]).avg_ms, None);
    }

    #[test]
    fn cpu_cost_is_per_gigabit() {
        let ms = |ms| Some(Duration::from_millis(ms));
        let cpu = CpuCost::between([ms(100), ms(50)], [ms(600), ms(150)], 250_000_000).unwrap();
        assert!((cpu.a_s_per_gbit - 0.25).abs() < 1e-9);
        assert!((cpu.total() - 0.3).abs() < 1e-9);
        assert_eq!(CpuCost::between([None, None], [ms(1), ms(1)], 1), None);
    }

    #[test]
    fn ratios_divide_both_results_and_are_missing_if_one_is() {
        let (ours, mut theirs) = (run(System::Groundlink, 10.0), run(System::Strongswan, 1.0));
        theirs.tcp.four_streams_mbit = None;
        let ratios = SpeedRatios::of(&ours, &theirs);
        assert_eq!(ratios.tcp_one_stream, Some(10.0));
        assert_eq!(ratios.tcp_four_streams, None);
        assert_eq!(ratios.udp["IMIX"], Some(10.0));
        assert!((ratios.cpu.unwrap() - 0.1).abs() < 1e-9);
    }
}
