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

pub mod charon;
pub mod gateway;
pub mod interrupt;
mod measure;
pub mod options;
pub mod ping;
pub mod plan;
pub mod process;
pub mod report;
pub mod scratch;
mod sites;
pub mod tap;
pub mod traffic;
pub mod world;
use std::io;

use nix::unistd::geteuid;

use interrupt::Interrupted;
use options::Refusal;

pub use measure::TcpError;
pub use sites::{Changes, Far, Lab};
pub(crate) use sites::{connection, psk};

use crate::os::netns::{self, UserNamespaceError};
use crate::os::tun::{self, TunError};

/// Why there is no report at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No lab can be built from these options.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// There is no way to a TUN device.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// We are not root and cannot become it.
    #[error(transparent)]
    User(#[from] UserNamespaceError),
    /// This machine does not let us build a lab.
    #[error(transparent)]
    World(#[from] world::Error),
    /// strongSwan does not work here.
    #[error(transparent)]
    Strongswan(#[from] charon::Error),
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

impl Error {
    /// What to do about it.
    pub fn advice(&self) -> Option<String> {
        match self {
            Error::Strongswan(charon::Error::NotInstalled(_)) => Some(charon::INSTALL.to_owned()),
            Error::Strongswan(_)
            | Error::Tun(_)
            | Error::User(_)
            | Error::World(_)
            | Error::Refused(_)
            | Error::Interrupted(_)
            | Error::Io { .. } => None,
        }
    }
}

/// The system refused something while `what` was the matter.
fn doing(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Io { what, source }
}

/// Becomes root in a user namespace where we are not root, so that everything else works the same. Called while there is one
/// thread.
pub fn enter() -> Result<(), Error> {
    tun::open_node()?;
    if !geteuid().is_root() {
        netns::become_root_in_user_namespace()?;
    }
    Ok(())
}
