//! Links, addresses, routes and rules over rtnetlink (rtnetlink(7), RFC 3549).
//!
//! ```text
//!   daemon ──── request (sequence n) ─────▶ kernel
//!   daemon ◀─── answers (n) … ───────────── kernel
//!   daemon ◀─── acknowledgement (n): 0, or an error number and the kernel's error message ("extended ack")
//!
//!   daemon ◀─── RTM_NEWROUTE, RTM_DELLINK … kernel      (monitor: multicast groups, another socket)
//! ```
//!
//! Calls block. The kernel carries out a request inside `sendmsg`, so its answer waits when `sendmsg` returns. A kernel that does not
//! answer within five seconds is an error.
//!
//! A [`Netlink`] and a [`NetworkMonitor`] belong to the network namespace of the thread that opened them.

mod address;
mod link;
mod monitor;
mod request;
mod route;
mod route_request;
mod rule;
#[cfg(test)]
pub(crate) mod testing;

pub use address::{HostAddress, source_inside};
pub use link::{Link, VethEnd};
pub use monitor::{NetworkEvent, NetworkMonitor};
pub use route::{
    ForeignRoute, MAIN_TABLE, PEER_ROUTE_METRIC, ROUTE_PROTOCOL, ResolvedRoute, Route,
    RouteInterest, RouteKey, RouteTarget, UNREACHABLE_METRIC, peer_route,
};

pub use rule::{FIRST_RULE, FIRST_TABLE, Rule};

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, connect, getsockname,
    setsockopt, socket, sockopt as option,
};
use nix::sys::time::TimeVal;

use super::sockopt;

/// Connection to the kernel's link, address and route tables.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

/// Why a netlink request failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// `CAP_NET_ADMIN` is missing.
    #[error(
        "no permission for {what}: CAP_NET_ADMIN is missing; run as root, or under systemd with \
             AmbientCapabilities=CAP_NET_ADMIN"
    )]
    Permission {
        /// The request.
        what: String,
    },
    /// The kernel rejected the request.
    #[error("{what}: {error}{}", ExtendedAck(.detail))]
    Rejected {
        /// The request.
        what: String,
        /// Error number.
        error: io::Error,
        /// Extended acknowledgement: the kernel's error message.
        detail: Option<String>,
    },
    /// Another program's route has the same prefix and metric.
    #[error("another program has installed a route for {prefix} with metric {metric}; {}give \
             the tunnel another `metric`", removal(route), prefix = route.prefix, metric = route.metric)]
    RouteExists {
        /// Route that was to be installed.
        route: Box<Route>,
    },
    /// Only tunnels lead to an address, or nothing does.
    #[error("there is no route to {0} outside the tunnels")]
    NoRoute(std::net::IpAddr),
    /// The table kept changing while it was read (`NLM_F_DUMP_INTR`), so entries may be missing.
    #[error("{what}: the table changed during every attempt to read it")]
    Interrupted {
        /// The request.
        what: String,
    },
    /// The kernel did not answer in time.
    #[error("{what}: the kernel did not answer")]
    Timeout {
        /// The request.
        what: String,
    },
    /// The answer cannot be parsed.
    #[error("{what}: cannot parse the kernel's answer: {reason}")]
    Malformed {
        /// The request.
        what: String,
        /// Parser error.
        reason: String,
    },
    /// The socket failed.
    #[error("netlink socket failed: {0}")]
    Io(#[from] io::Error),
}

/// Advice to remove the other program's route; none for the host's default route, which leads to the peers.
fn removal(route: &Route) -> String {
    let Route { prefix, metric, .. } = route;
    if prefix.is_default() {
        return String::new();
    }
    format!("remove it (`ip route del {prefix} metric {metric}`) or ")
}

impl NetlinkError {
    /// Whether the object to change or remove does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(
            self.errno(),
            Some(libc::ENODEV | libc::ESRCH | libc::ENOENT | libc::EADDRNOTAVAIL)
        )
    }

    /// Whether the object to create exists, or the name is taken.
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }

    /// Whether the family is off in the kernel or on the device (`disable_ipv6`).
    pub fn is_family_off(&self) -> bool {
        matches!(
            self.errno(),
            Some(libc::EACCES | libc::EAFNOSUPPORT | libc::EOPNOTSUPP)
        )
    }

    fn errno(&self) -> Option<i32> {
        match self {
            NetlinkError::Rejected { error, .. } => error.raw_os_error(),
            NetlinkError::Permission { .. }
            | NetlinkError::RouteExists { .. }
            | NetlinkError::NoRoute(_)
            | NetlinkError::Interrupted { .. }
            | NetlinkError::Timeout { .. }
            | NetlinkError::Malformed { .. }
            | NetlinkError::Io(_) => None,
        }
    }
}

/// Success where the object to remove was already gone.
fn ignore_missing(result: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        result => result,
    }
}

struct ExtendedAck<'a>(&'a Option<String>);

impl fmt::Display for ExtendedAck<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(text) => write!(f, " ({})", text.trim_end_matches('.')),
            None => Ok(()),
        }
    }
}

/// Limit on the time for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Upper bound on a datagram from the kernel (`NLMSG_GOODSIZE`, grown for dumps).
const MAX_DATAGRAM: usize = 64 * 1024;

impl Netlink {
    /// Opens a connection in this thread's network namespace.
    ///
    /// # Errors
    /// Out of descriptors, or a sandbox without AF_NETLINK.
    pub fn open() -> Result<Netlink, NetlinkError> {
        let open = || -> nix::Result<OwnedFd> {
            let fd = route_socket(SockFlag::empty(), 0)?;
            // The kernel is port 0. A connected socket receives from no other port.
            connect(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
            let timeout = TimeVal::new(ANSWER_TIMEOUT.as_secs().cast_signed(), 0);
            setsockopt(&fd, option::ReceiveTimeout, &timeout)?;
            setsockopt(&fd, option::SendTimeout, &timeout)?;
            Ok(fd)
        };
        let socket = open().map_err(io::Error::from)?;
        // Linux 4.20 and newer: error messages without the echoed request, and dumps that the kernel filters. The filters are applied
        // again here, so older kernels only cost more.
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
            buffer: vec![0; MAX_DATAGRAM],
        })
    }

    /// Number of requests made so far.
    pub fn requests(&self) -> u32 {
        self.sequence
    }

    /// Netlink port of this connection, which notifications of its own changes carry.
    ///
    /// # Errors
    /// Never on an open socket.
    pub fn port(&self) -> Result<u32, NetlinkError> {
        let address: NetlinkAddr = getsockname(self.socket.as_raw_fd()).map_err(io::Error::from)?;
        Ok(address.pid())
    }
}

/// A NETLINK_ROUTE socket that is a member of `groups` (`nl_groups`).
fn route_socket(flags: SockFlag, groups: u32) -> nix::Result<OwnedFd> {
    let fd = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC | flags,
        SockProtocol::NetlinkRoute,
    )?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_route_of_the_host_is_never_to_be_removed() {
        let message = |prefix: &str| {
            let route = Route::unreachable(prefix.parse().unwrap());
            NetlinkError::RouteExists {
                route: Box::new(route),
            }
            .to_string()
        };
        assert!(message("10.8.0.0/16").contains("; remove it (`ip route del 10.8.0.0/16 metric"));
        assert!(message("0.0.0.0/0").ends_with("; give the tunnel another `metric`"));
    }

    #[test]
    fn an_unprivileged_process_reads_addresses_links_and_routes() {
        let mut netlink = Netlink::open().unwrap();
        let loopback = "127.0.0.1".parse().unwrap();
        assert!(
            netlink
                .addresses()
                .unwrap()
                .iter()
                .any(|host| host.address == loopback)
        );
        let route = netlink.route_to(loopback).unwrap();
        assert_eq!(
            (route.device, route.gateway, route.source),
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
