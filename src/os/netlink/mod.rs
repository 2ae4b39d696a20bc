//! Links, addresses and routes, over rtnetlink (rtnetlink(7), RFC 3549).
//!
//! ```text
//!   us ──── request (sequence n) ───▶ kernel
//!   us ◀─── answers (n) … ─────────── kernel
//!   us ◀─── acknowledgement (n): 0, or an error with a sentence of the kernel's own ("extended ack")
//! ```
//!
//! Calls block, and are short: the kernel carries a request out inside the `sendmsg` that brings it, and its answer waits when that
//! returns. An asynchronous socket would gain nothing and tie namespaces, threads and tests to a runtime. A kernel that does not
//! answer within five seconds is an error.
//!
//! A [`Netlink`] belongs for good to the network namespace of the thread that opened it.

mod address;
mod monitor;
mod request;
mod link;
mod route;
mod route_message;

pub use address::{HostAddress, source_inside};
pub use monitor::Changes;
pub use link::{Link, VethEnd};
pub use route::{LAST_RESORT_METRIC, PIN_METRIC, ROUTE_PROTOCOL, Route, Target, Way};

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, setsockopt, socket,
    sockopt as option,
};
use nix::sys::time::TimeVal;

use super::sockopt;

/// A connection to the kernel's routing tables.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

/// Why the kernel did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// Changing the network takes a capability.
    #[error(
        "no permission for {what}: CAP_NET_ADMIN is missing; run as root, or under systemd with \
             AmbientCapabilities=CAP_NET_ADMIN"
    )]
    Permission {
        /// What was asked.
        what: String,
    },
    /// The kernel said no.
    #[error("{what}: {error}{}", Said(.said))]
    Refused {
        /// What was asked.
        what: String,
        /// Its error number.
        error: io::Error,
        /// What it says in words, where it does.
        said: Option<String>,
    },
    /// A route for this prefix with this metric exists, and it is not ours to replace.
    #[error("somebody else has installed a route for {prefix} with the metric {metric}; remove it \
             (`ip route del {prefix} metric {metric}`) or give the tunnel another `metric`", prefix = route.prefix, metric = route.metric)]
    RouteTaken {
        /// The route that was to be installed.
        route: Box<Route>,
    },
    /// There is no way to an address, except through a tunnel.
    #[error("there is no route to {0} outside the tunnels")]
    NoWay(std::net::IpAddr),
    /// No answer.
    #[error("{what}: the kernel did not answer")]
    Timeout {
        /// What was asked.
        what: String,
    },
    /// The answer makes no sense.
    #[error("{what}: the kernel's answer is not understood: {reason}")]
    Malformed {
        /// What was asked.
        what: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The socket itself failed.
    #[error("talking to the kernel's routing tables failed: {0}")]
    Io(#[from] io::Error),
}

impl NetlinkError {
    /// Whether the thing to change or remove is not (any longer) there.
    pub fn is_not_found(&self) -> bool {
        matches!(
            self.errno(),
            Some(libc::ENODEV | libc::ESRCH | libc::ENOENT | libc::EADDRNOTAVAIL)
        )
    }

    /// Whether the thing to add is there already.
    pub fn is_already_there(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }

    fn errno(&self) -> Option<i32> {
        match self {
            NetlinkError::Refused { error, .. } => error.raw_os_error(),
            NetlinkError::Permission { .. }
            | NetlinkError::RouteTaken { .. }
            | NetlinkError::NoWay(_)
            | NetlinkError::Timeout { .. }
            | NetlinkError::Malformed { .. }
            | NetlinkError::Io(_) => None,
        }
    }
}

struct Said<'a>(&'a Option<String>);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(said) => write!(f, " ({})", said.trim_end_matches('.')),
            None => Ok(()),
        }
    }
}

/// How long the kernel may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The kernel makes no answer larger than this (`NLMSG_GOODSIZE` grown for dumps).
const ANSWER: usize = 64 * 1024;
impl Netlink {
    /// A connection in this thread's network namespace.
    ///
    /// # Errors
    /// No descriptor left, or a sandbox without AF_NETLINK.
    pub fn open() -> Result<Netlink, NetlinkError> {
        let open = || -> nix::Result<OwnedFd> {
            let fd = socket(
                AddressFamily::Netlink,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::NetlinkRoute,
            )?;
            bind(
                std::os::fd::AsRawFd::as_raw_fd(&fd),
                &NetlinkAddr::new(0, 0),
            )?;
            let patience = TimeVal::new(PATIENCE.as_secs().cast_signed(), 0);
            setsockopt(&fd, option::ReceiveTimeout, &patience)?;
            setsockopt(&fd, option::SendTimeout, &patience)?;
            Ok(fd)
        };
        let socket = open().map_err(io::Error::from)?;
        // Niceties of newer kernels: errors in words, without our request repeated; and dumps filtered by the kernel (we filter
        // again). Older kernels do without.
        for option in [
            libc::NETLINK_EXT_ACK,
            libc::NETLINK_CAP_ACK,
            libc::NETLINK_GET_STRICT_CHK,
        ] {
            let _ = sockopt::set_int(&socket, libc::SOL_NETLINK, option, 1);
        }
        Ok(Netlink {
            socket,
            sequence: 0,
            buffer: vec![0; ANSWER],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anyone_may_read_addresses_and_ways() {
        let mut netlink = Netlink::open().unwrap();
        let loopback = "127.0.0.1".parse().unwrap();
        assert!(
            netlink
                .addresses()
                .unwrap()
                .iter()
                .any(|host| host.address == loopback)
        );
        let way = netlink.route_to(loopback).unwrap();
        assert_eq!(
            (way.device, way.gateway, way.source),
            (1, None, Some(loopback))
        );
        assert!(
            netlink
                .links()
                .unwrap()
                .iter()
                .any(|link| link.name == "lo")
        );
    }
}
