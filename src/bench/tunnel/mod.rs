//! Two gateways end to end: five machines in network namespaces, traffic from host to host, and what it costs.
//!
//! ```text
//!   host A ──── gateway A ════ WAN ════ gateway B ──── host B
//!   sender      seals                   opens          receiver        all of it on this machine, which they share
//! ```
//!
//! The gateways are real processes, built as the [lab] builds them, but nobody watches the wire meanwhile. `--versus`
//! runs the same with strongSwan on both sides; since everything shares the cores, only ratios within one run say something about
//! the programs.

mod esp_sender;
mod html;
mod measure;
mod pair;
mod proc_stats;
mod ratios;
mod report;
mod search;
mod step_costs;
mod svg;
mod udp_rate;
mod udp_sender;

use std::path::Path;
use std::time::Duration;

use super::Progress;
use crate::lab::interrupt::{Interrupt, Interrupted};
use crate::lab::{self, options::OptionsError};

pub use pair::System;
pub use report::{CpuCost, RttStats, SystemRun, TcpResult, TunnelReport, UdpResult};
pub use udp_rate::PacketMix;

/// What is measured, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelBenchOptions {
    /// What is put beside groundlink.
    pub versus: Option<System>,
    /// IKE proposals of both sides.
    pub ike: String,
    /// ESP proposals of both sides; each entry is a run of its own.
    pub esp: Vec<String>,
    /// How long TCP runs, each time; a trial of the UDP rate search takes half of it.
    pub seconds: u32,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum TunnelBenchError {
    /// No two sites could be built.
    #[error(transparent)]
    Lab(#[from] lab::LabError),
    /// The tunnel did not come up.
    #[error(
        "the tunnel between two of {system} with {esp} did not come up{}",
        pair::said(log)
    )]
    NotUp {
        /// Whose.
        system: System,
        /// Its ESP proposals.
        esp: String,
        /// What the gateways logged last.
        log: Vec<String>,
    },
}

impl From<Interrupted> for TunnelBenchError {
    fn from(interrupted: Interrupted) -> TunnelBenchError {
        TunnelBenchError::Lab(interrupted.into())
    }
}

impl From<OptionsError> for TunnelBenchError {
    fn from(refusal: OptionsError) -> TunnelBenchError {
        TunnelBenchError::Lab(refusal.into())
    }
}

impl TunnelBenchOptions {
    /// Refuses what nobody can negotiate, and a comparison with what is not installed.
    ///
    /// # Errors
    /// See above.
    pub fn check(&self) -> Result<(), TunnelBenchError> {
        for esp in &self.esp {
            self.sites(esp).check()?;
        }
        self.systems()
            .iter()
            .try_for_each(|system| system.is_here())?;
        Ok(())
    }

    /// The lab for one of the runs.
    fn sites(&self, esp: &str) -> lab::options::LabOptions {
        lab::options::LabOptions {
            ike: Some(self.ike.clone()),
            esp: Some(esp.to_owned()),
            ..lab::options::LabOptions::default()
        }
    }

    fn systems(&self) -> Vec<System> {
        let mut systems = vec![System::Groundlink];
        systems.extend(self.versus);
        systems
    }

    /// How long a trial of the rate search takes.
    fn trial(&self) -> Duration {
        Duration::from_secs(self.seconds.into()) / 2
    }
}

/// Measures one suite and system after the other; `program` is groundlink.
///
/// # Errors
/// See [`TunnelBenchError`]. What one measurement cannot say stands in the report instead.
pub fn run(
    options: &TunnelBenchOptions,
    program: &Path,
    interrupt: &Interrupt,
) -> Result<TunnelReport, TunnelBenchError> {
    options.check()?;
    let mut report = TunnelReport::empty(options);
    let systems = options.systems();
    let runs = options.esp.len() * systems.len();
    let mut progress = Progress::new((runs * measure::STEPS) as u32);
    for esp in &options.esp {
        for system in &systems {
            let run = measure::run(options, *system, esp, program, interrupt, &mut progress)?;
            report.runs.push(run);
        }
    }
    report.conclude();
    Ok(report)
}
