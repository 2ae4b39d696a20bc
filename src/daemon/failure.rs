//! Why the daemon did not start.

use std::fmt;

use crate::config::ConfigReport;
use crate::control::SocketError;
use crate::os::netlink::NetlinkError;
use crate::os::tun::TunError;
use crate::os::udp::BindError;

/// Why the daemon did not start.
#[derive(Debug)]
pub enum Failure {
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

impl Failure {
    pub(super) fn start(what: impl Into<String>, advice: impl Into<String>) -> Failure {
        Failure::Start {
            what: what.into(),
            advice: advice.into(),
        }
    }

    /// Names the tunnel that wanted it.
    pub(super) fn of_tunnel(self, name: &str) -> Failure {
        match self {
            Failure::Start { what, advice } => Failure::Start {
                what: format!("tunnel {name}: {what}"),
                advice,
            },
            Failure::Configuration(_) | Failure::Usage { .. } => self,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Configuration(report) => report.fmt(f),
            Failure::Usage { what, advice } | Failure::Start { what, advice } => {
                let gap = if advice.is_empty() { "" } else { "; " };
                write!(f, "{what}{gap}{advice}")
            }
        }
    }
}

impl std::error::Error for Failure {}

impl From<SocketError> for Failure {
    fn from(error: SocketError) -> Failure {
        Failure::start(error.to_string(), error.advice())
    }
}

impl From<BindError> for Failure {
    fn from(error: BindError) -> Failure {
        Failure::start(error.to_string(), "")
    }
}

impl From<TunError> for Failure {
    fn from(error: TunError) -> Failure {
        Failure::start(error.to_string(), "")
    }
}

impl From<NetlinkError> for Failure {
    fn from(error: NetlinkError) -> Failure {
        Failure::start(error.to_string(), "")
    }
}
