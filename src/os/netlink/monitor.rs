//! Word that links, addresses or routes have changed (rtnetlink(7), multicast groups).
//!
//! ```text
//!   somebody: ip link set gl-a down; up         the kernel drops every route through gl-a, and tells nobody by an error
//!   kernel ── RTM_NEWLINK, RTM_DELROUTE … ──▶ us: look again
//! ```
//!
//! What has changed is not read: whoever is told compares what is there with what should be. So a message that was lost for want
//! of room costs nothing, and one that a parser would not know hides nothing.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

/// Readable once something has changed in the network namespace of the thread that made it.
#[derive(Debug)]
pub struct Changes {
    socket: OwnedFd,
}

/// What is listened to, as `nl_groups` has it.
const GROUPS: i32 = libc::RTMGRP_LINK
    | libc::RTMGRP_IPV4_IFADDR
    | libc::RTMGRP_IPV4_ROUTE
    | libc::RTMGRP_IPV6_IFADDR
    | libc::RTMGRP_IPV6_ROUTE;

impl Changes {
    /// Listens from now on.
    ///
    /// # Errors
    /// No descriptor left, or a sandbox without AF_NETLINK.
    pub fn listen() -> io::Result<Changes> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkRoute,
        )?;
        let groups = NetlinkAddr::new(0, GROUPS.cast_unsigned());
        bind(socket.as_raw_fd(), &groups)?;
        Ok(Changes { socket })
    }

    /// Forgets what has come so far; says whether anything had.
    pub fn clear(&self) -> bool {
        let mut any = false;
        loop {
            // A message that does not fit is cut, and is still one.
            match recv(self.socket.as_raw_fd(), &mut [0; 64], MsgFlags::empty()) {
                // ENOBUFS: more has changed than there was room for.
                Ok(_) | Err(Errno::ENOBUFS) => any = true,
                Err(Errno::EINTR) => {}
                Err(_) => return any,
            }
        }
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
