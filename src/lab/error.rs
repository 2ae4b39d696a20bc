//! Errors of the lab.

use std::io;

use super::charon::{self, CharonError};
use super::interrupt::Interrupted;
use super::options::OptionsError;
use super::topology::TopologyError;
use crate::os::netns::UserNamespaceError;
use crate::os::tun::TunError;

/// The reason why the lab produced no report.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The options are invalid.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// `/dev/net/tun` cannot be used.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// The process is not root and cannot create a user namespace.
    #[error(transparent)]
    User(#[from] UserNamespaceError),
    /// The network namespaces cannot be set up.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// strongSwan cannot be run.
    #[error(transparent)]
    Strongswan(#[from] CharonError),
    /// The user interrupted the lab.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// A file, process or socket operation failed.
    #[error("{what}: {source}")]
    Io {
        /// Failed operation.
        what: &'static str,
        /// Error of the system.
        source: io::Error,
    },
}

impl LabError {
    /// A `map_err` function for a failed operation.
    pub fn io(what: &'static str) -> impl Fn(io::Error) -> LabError {
        move |source| LabError::Io { what, source }
    }

    /// Advice for the user.
    pub fn advice(&self) -> Option<String> {
        match self {
            LabError::Strongswan(CharonError::NotInstalled(_)) => Some(charon::INSTALL.to_owned()),
            LabError::Strongswan(_)
            | LabError::Tun(_)
            | LabError::User(_)
            | LabError::Topology(_)
            | LabError::Options(_)
            | LabError::Interrupted(_)
            | LabError::Io { .. } => None,
        }
    }
}
