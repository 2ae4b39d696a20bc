//! Notifications of changed links, addresses and routes (rtnetlink(7), multicast groups).
//!
//! ```text
//!   ip link set gl-a down; up                   the kernel removes the routes through gl-a, IPv4 ones without RTM_DELROUTE
//!   kernel ── RTM_NEWLINK, RTM_DELROUTE … ──▶ NetworkMonitor ──▶ NetworkEvent: read that table again
//! ```
//!
//! An event names the table that may have changed, and the prefix or device. Its receiver decides whether to read the table again. A lost
//! or unknown message thus costs one more read and never leaves a stale view.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_packet_route::route::{RouteFlags, RouteHeader, RouteMessage, RouteProtocol};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, SockFlag, recv, setsockopt, sockopt};

use super::request::messages;
use super::route::{ROUTE_PROTOCOL, prefix_of};
use super::{address, route_socket, rule};
use crate::net::Prefix;

/// A change of the network that another program or the kernel has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkEvent {
    /// A route or rule with [`ROUTE_PROTOCOL`] was added, replaced or deleted.
    OwnRoute,
    /// Another program's route in the main table was added, replaced or deleted.
    ForeignRoute(Prefix),
    /// A device was set up.
    LinkUp(u32),
    /// A device was set down or removed.
    LinkDown(u32),
    /// An address was added or has changed.
    AddressAdded(IpAddr),
    /// An address was removed.
    AddressRemoved(IpAddr),
    /// Messages were lost (`ENOBUFS`) or could not be parsed: anything may have changed.
    Unknown,
}

/// Netlink socket that receives notifications. Readable once something has changed.
#[derive(Debug)]
pub struct NetworkMonitor {
    socket: OwnedFd,
    /// Netlink port whose changes are not reported.
    ignored_port: u32,
    buffer: Vec<u8>,
}

/// Multicast groups, as in `nl_groups`.
const GROUPS: i32 = libc::RTMGRP_LINK
    | libc::RTMGRP_IPV4_IFADDR
    | libc::RTMGRP_IPV4_ROUTE
    | libc::RTMGRP_IPV6_IFADDR
    | libc::RTMGRP_IPV6_ROUTE
    // RTNLGRP_IPV4_RULE and RTNLGRP_IPV6_RULE have no RTMGRP name.
    | 1 << (8 - 1)
    | 1 << (19 - 1);

/// Receive buffer, in bytes: a burst of several thousand route changes.
const RECEIVE_BUFFER: usize = 4 << 20;

impl NetworkMonitor {
    /// Starts to monitor this thread's network namespace, except for route changes made through the connection of `ignored_port`
    /// ([`Netlink::port`](super::Netlink::port)).
    ///
    /// # Errors
    /// Out of descriptors, or a sandbox without AF_NETLINK.
    pub fn open(ignored_port: u32) -> io::Result<NetworkMonitor> {
        let socket = route_socket(SockFlag::SOCK_NONBLOCK, GROUPS.cast_unsigned())?;
        // Without CAP_NET_ADMIN the system's limit holds (net.core.rmem_max).
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)
            .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER));
        Ok(NetworkMonitor {
            socket,
            ignored_port,
            buffer: vec![0; 64 * 1024],
        })
    }

    /// Reads one datagram and returns its events; `None` when no datagram waits.
    pub fn read(&mut self) -> Option<Vec<NetworkEvent>> {
        loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(len) => {
                    let datagram = self.buffer.get(..len).unwrap_or_default();
                    let events =
                        messages(datagram).filter_map(|bytes| event(bytes, self.ignored_port));
                    return Some(events.collect());
                }
                Err(Errno::ENOBUFS) => return Some(vec![NetworkEvent::Unknown]),
                Err(Errno::EINTR) => {}
                Err(_) => return None,
            }
        }
    }
}

impl AsFd for NetworkMonitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn event(bytes: &[u8], ignored_port: u32) -> Option<NetworkEvent> {
    use RouteNetlinkMessage::{
        DelAddress, DelLink, DelRoute, DelRule, NewAddress, NewLink, NewRoute, NewRule,
    };
    let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes) else {
        return Some(NetworkEvent::Unknown);
    };
    let NetlinkPayload::InnerMessage(inner) = message.payload else {
        return None;
    };
    match inner {
        NewRoute(route) | DelRoute(route) if message.header.port_number != ignored_port => {
            route_event(&route)
        }
        NewRule(rule) | DelRule(rule) if message.header.port_number != ignored_port => {
            rule::is_own(&rule).then_some(NetworkEvent::OwnRoute)
        }
        NewLink(LinkMessage { header, .. }) => {
            header.change_mask.contains(LinkFlags::Up).then(|| {
                match header.flags.contains(LinkFlags::Up) {
                    true => NetworkEvent::LinkUp(header.index),
                    false => NetworkEvent::LinkDown(header.index),
                }
            })
        }
        DelLink(link) => Some(NetworkEvent::LinkDown(link.header.index)),
        NewAddress(message) => {
            address::decode(&message).map(|host| NetworkEvent::AddressAdded(host.address))
        }
        DelAddress(message) => {
            address::decode(&message).map(|host| NetworkEvent::AddressRemoved(host.address))
        }
        _ => None,
    }
}

fn route_event(route: &RouteMessage) -> Option<NetworkEvent> {
    let header = &route.header;
    if header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    if header.protocol == RouteProtocol::from(ROUTE_PROTOCOL) {
        return Some(NetworkEvent::OwnRoute);
    }
    if header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    prefix_of(route).map(NetworkEvent::ForeignRoute)
}
