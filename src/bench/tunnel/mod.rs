//! Two gateways end to end: five network namespaces, traffic from host to host, throughput and cost.
//!
//! ```text
//!   host A ──── gateway A ════ WAN ════ gateway B ──── host B
//!   sender      seals                   opens          receiver        all on this machine, sharing its cores
//! ```
//!
//! The gateways are real processes, set up as in the [lab](crate::lab) but without packet counters on the WAN. `--versus` runs the
//! same with strongSwan on both sides. Since all processes share the cores, only ratios within one run are meaningful.

mod esp_sender;
mod html;
mod measure;
mod options;
mod pair;
mod report;
mod step_costs;
mod svg;
mod udp_rate;

use std::path::Path;

use super::progress::Progress;
use crate::lab::interrupt::Interrupt;

pub use options::TunnelBenchOptions;
pub use pair::{System, TunnelBenchError};
pub use report::{CpuCost, RttStats, SystemRun, TcpResult, TunnelReport, UdpResult};
pub use udp_rate::PacketMix;

/// Runs the benchmark for each suite and system; `program` is the groundlink binary.
///
/// # Errors
/// See [`TunnelBenchError`]. A failed measurement is listed in the report instead.
pub fn run(
    options: &TunnelBenchOptions,
    program: &Path,
    interrupt: &Interrupt,
) -> Result<TunnelReport, TunnelBenchError> {
    options.check()?;
    let mut report = TunnelReport::empty(&options.ike, options.seconds);
    let systems = options.systems();
    let runs = options.esp.len() * systems.len();
    let mut progress = Progress::new((runs * measure::STEPS) as u64);
    for esp in &options.esp {
        for system in &systems {
            let run = measure::run(options, *system, esp, program, interrupt, &mut progress)?;
            report.runs.push(run);
        }
    }
    report.add_ratios();
    Ok(report)
}
