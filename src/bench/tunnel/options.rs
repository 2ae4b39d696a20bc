//! Options of `bench tunnel`.

use std::time::Duration;

use super::pair::{System, TunnelBenchError};
use crate::lab::LabError;
use crate::lab::options::LabOptions;

/// Options of `bench tunnel`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelBenchOptions {
    /// System to compare with.
    pub versus: Option<System>,
    /// IKE proposals of both sides.
    pub ike: String,
    /// ESP proposals of both sides, one run each.
    pub esp: Vec<String>,
    /// Duration of a TCP transfer; a trial of the UDP rate search takes half of it.
    pub seconds: u32,
}

impl TunnelBenchOptions {
    /// Checks the proposals, and that the system to compare with is installed.
    ///
    /// # Errors
    /// One of them fails.
    pub fn check(&self) -> Result<(), TunnelBenchError> {
        for esp in &self.esp {
            self.lab_options(esp).check()?;
        }
        for system in self.systems() {
            system.check_installed().map_err(LabError::from)?;
        }
        Ok(())
    }

    /// Lab options for one run.
    pub(super) fn lab_options(&self, esp: &str) -> LabOptions {
        LabOptions {
            ike: Some(self.ike.clone()),
            esp: Some(esp.to_owned()),
            ..LabOptions::default()
        }
    }

    pub(super) fn systems(&self) -> Vec<System> {
        let mut systems = vec![System::Groundlink];
        systems.extend(self.versus);
        systems
    }

    /// Duration of a trial of the rate search.
    pub(super) fn trial_time(&self) -> Duration {
        Duration::from_secs(self.seconds.into()) / 2
    }
}
