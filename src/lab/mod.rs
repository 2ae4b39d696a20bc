//! The lab: two sites on this machine, a tunnel between them, traffic through it.
//!
//! ```text
//!   options ──▶ addressing ──▶ topology ──▶ gateways ──▶ up? ──▶ ping, TCP ──▶ report
//!               (addresses)   (namespaces) (processes)  (status)  (hosts)
//! ```
//!
//! Each gateway is a `groundlink run` process with a configuration file, a key file and a control socket, in its own network
//! namespace; the remote gateway may be strongSwan's charon instead. Namespaces have no names, so nothing is left behind:
//! dropping a [`Lab`] stops its programs and removes its directory, and if the lab is killed, the kernel removes programs and
//! namespaces.

pub mod addressing;
pub mod charon;
mod error;
pub mod gateway;
pub mod interrupt;
mod measure;
pub mod options;
pub mod ping;
pub mod process;
pub mod report;
mod setup;
pub mod topology;
pub mod traffic;
pub mod wire_tap;

use nix::unistd::geteuid;

pub use error::LabError;
pub use measure::TransferError;
pub use setup::{Lab, Overrides, RemoteGateway};
pub(crate) use setup::{charon_config, random_psk};

use crate::os::{netns, tun};

/// Checks `/dev/net/tun` and becomes root in a user namespace if the process is not root. Must be called while the process has one
/// thread.
pub fn enter() -> Result<(), LabError> {
    tun::open_node()?;
    if !geteuid().is_root() {
        netns::become_root_in_user_namespace()?;
    }
    Ok(())
}
