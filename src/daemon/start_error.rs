//! Error of the daemon's start.

use std::fmt;

use crate::config::ConfigReport;
use crate::control::SocketError;
use crate::os::namespace_lock::LockError;
use crate::os::netlink::NetlinkError;
use crate::os::tun::TunError;
use crate::os::udp::BindError;

/// Reason why the daemon did not start.
#[derive(Debug)]
pub enum StartError {
    /// The configuration is invalid; all findings.
    Configuration(ConfigReport),
    /// The command line is invalid.
    Usage {
        /// Description.
        what: String,
        /// Advice.
        advice: String,
    },
    /// A resource of the machine is not available.
    Start {
        /// Description.
        what: String,
        /// Advice; empty where `what` contains it.
        advice: String,
    },
}

impl StartError {
    pub(super) fn start(what: impl Into<String>, advice: impl Into<String>) -> StartError {
        StartError::Start {
            what: what.into(),
            advice: advice.into(),
        }
    }

    /// Threads or file descriptors are exhausted.
    pub(super) fn out_of_resources(error: std::io::Error) -> StartError {
        StartError::start(
            format!("out of threads or file descriptors: {error}"),
            "raise the service's limits (LimitNOFILE=, TasksMax=)",
        )
    }

    /// Description without the advice; empty for an invalid configuration.
    pub(super) fn what(&self) -> &str {
        match self {
            StartError::Configuration(_) => "",
            StartError::Usage { what, .. } | StartError::Start { what, .. } => what,
        }
    }

    /// Advice; empty where the description contains it.
    pub(super) fn advice(&self) -> &str {
        match self {
            StartError::Configuration(_) => "",
            StartError::Usage { advice, .. } | StartError::Start { advice, .. } => advice,
        }
    }

    /// Prefixes the error with the name of the tunnel that it concerns.
    pub(super) fn of_tunnel(self, name: &str) -> StartError {
        match self {
            StartError::Start { what, advice } => StartError::Start {
                what: format!("tunnel {name}: {what}"),
                advice,
            },
            StartError::Configuration(_) | StartError::Usage { .. } => self,
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Configuration(report) => report.fmt(f),
            StartError::Usage { what, advice } | StartError::Start { what, advice } => {
                let separator = if advice.is_empty() { "" } else { "; " };
                write!(f, "{what}{separator}{advice}")
            }
        }
    }
}

impl std::error::Error for StartError {}

impl From<SocketError> for StartError {
    fn from(error: SocketError) -> StartError {
        StartError::start(error.to_string(), error.advice())
    }
}

impl From<LockError> for StartError {
    fn from(error: LockError) -> StartError {
        let advice = match error {
            LockError::Held(_) => {
                "stop it, or run this one in another network namespace: two would remove each other's routes"
            }
            LockError::Foreign { .. } => {
                "end that process, or run this one in another network namespace"
            }
            LockError::Io(_) => "",
        };
        StartError::start(error.to_string(), advice)
    }
}

impl From<BindError> for StartError {
    fn from(error: BindError) -> StartError {
        StartError::start(error.to_string(), "")
    }
}

impl From<TunError> for StartError {
    fn from(error: TunError) -> StartError {
        StartError::start(error.to_string(), "")
    }
}

impl From<NetlinkError> for StartError {
    fn from(error: NetlinkError) -> StartError {
        StartError::start(error.to_string(), "")
    }
}
