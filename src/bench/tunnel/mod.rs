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

mod blast;
mod measure;
mod page;
mod pair;
mod peer;
mod plot;
mod ratios;
mod report;
mod search;
mod source;
mod stages;
mod usage;

use std::path::Path;
use std::time::Duration;

use super::Progress;
use crate::lab::interrupt::{Interrupt, Interrupted};
use crate::lab::{self, options::Refusal};

pub use blast::Mix;
pub use pair::System;
pub use report::{Cpu, Report, Rtt, Run, Tcp, Udp};

/// What is measured, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
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
pub enum Error {
    /// No two sites could be built.
    #[error(transparent)]
    Lab(#[from] lab::Error),
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

impl From<Interrupted> for Error {
    fn from(interrupted: Interrupted) -> Error {
        Error::Lab(interrupted.into())
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        Error::Lab(refusal.into())
    }
}

impl Options {
    /// Refuses what nobody can negotiate, and a comparison with what is not installed.
    ///
    /// # Errors
    /// See above.
    pub fn check(&self) -> Result<(), Error> {
        for esp in &self.esp {
            self.sites(esp).check()?;
        }
        self.systems()
            .iter()
            .try_for_each(|system| system.is_here())?;
        Ok(())
    }

    /// The lab for one of the runs.
    fn sites(&self, esp: &str) -> lab::options::Options {
        lab::options::Options {
            ike: Some(self.ike.clone()),
            esp: Some(esp.to_owned()),
            ..lab::options::Options::default()
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
/// See [`Error`]. What one measurement cannot say stands in the report instead.
pub fn run(options: &Options, program: &Path, interrupt: &Interrupt) -> Result<Report, Error> {
    options.check()?;
    let mut report = Report::empty(options);
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
