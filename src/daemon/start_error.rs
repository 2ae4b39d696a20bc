//! Why the daemon did not start.

use std::fmt;

use crate::config::ConfigReport;
use crate::control::SocketError;
use crate::os::netlink::NetlinkError;
use crate::os::tun::TunError;
use crate::os::udp::BindError;

/// Why the daemon did not start.
#[derive(Debug)]
pub enum StartError {
    /// The configuration cannot be used. Everything that is wrong with it.
    Configuration(ConfigReport),
    /// The command line cannot be used.
    Usage {
        /// What is wrong.
        what: String,
        /// What to do.
        advice: String,
    },
    /// The machine does not let us.
    Start {
        /// What happened and where.
        what: String,
        /// What to do about it; empty where `what` says so.
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

    /// Names the tunnel that wanted it.
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
                let gap = if advice.is_empty() { "" } else { "; " };
                write!(f, "{what}{gap}{advice}")
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
