//! The lab: two sites on this machine, a tunnel between them, traffic through it.
//!
//! ```text
//!   options ──▶ plan ──▶ world ──▶ gateways ──▶ up? ──▶ ping, TCP ──▶ report
//!   (words)  (addresses) (namespaces) (processes)   (status)   (hosts)
//! ```
//!
//! The gateways are real: each is a `groundlink run` process with a configuration file, a key file and a control socket, in a
//! network namespace of its own; or strongSwan's charon on the far side. Nothing of it has a name outside this process, so
//! nothing is left behind: dropping a [`Lab`] ends its programs and removes its folder, and where the lab is killed the kernel
//! does the same for programs and namespaces.

pub mod addressing;
pub mod charon;
pub mod gateway;
pub mod interrupt;
mod measure;
pub mod options;
pub mod ping;
pub mod process;
pub mod report;
pub mod scratch;
mod setup;
pub mod topology;
pub mod traffic;
pub mod wire_tap;
use std::io;

use nix::unistd::geteuid;

use interrupt::Interrupted;
use options::OptionsError;

pub use measure::TransferError;
pub use setup::{Lab, Overrides, RemoteGateway};
pub(crate) use setup::{connection, psk};

use crate::os::netns::{self, UserNamespaceError};
use crate::os::tun::{self, TunError};

/// Why there is no report at all.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// No lab can be built from these options.
    #[error(transparent)]
    Refused(#[from] OptionsError),
    /// There is no way to a TUN device.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// We are not root and cannot become it.
    #[error(transparent)]
    User(#[from] UserNamespaceError),
    /// This machine does not let us build a lab.
    #[error(transparent)]
    Topology(#[from] topology::TopologyError),
    /// strongSwan does not work here.
    #[error(transparent)]
    Strongswan(#[from] charon::CharonError),
    /// The person wants out.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// A file, a process or a socket of the lab's own.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl LabError {
    /// What to do about it.
    pub fn advice(&self) -> Option<String> {
        match self {
            LabError::Strongswan(charon::CharonError::NotInstalled(_)) => {
                Some(charon::INSTALL.to_owned())
            }
            LabError::Strongswan(_)
            | LabError::Tun(_)
            | LabError::User(_)
            | LabError::Topology(_)
            | LabError::Refused(_)
            | LabError::Interrupted(_)
            | LabError::Io { .. } => None,
        }
    }
}

/// The system refused something while `what` was the matter.
fn doing(what: &'static str) -> impl Fn(io::Error) -> LabError {
    move |source| LabError::Io { what, source }
}

/// Becomes root in a user namespace where we are not root, so that everything else works the same. Called while there is one
/// thread.
pub fn enter() -> Result<(), LabError> {
    tun::open_node()?;
    if !geteuid().is_root() {
        netns::become_root_in_user_namespace()?;
    }
    Ok(())
}
