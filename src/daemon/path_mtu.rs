//! Thread that follows the MTU of the paths to the peers.
//!
//! ```text
//!   daemon loop ── the path of each tunnel that has a Child SA ──▶ thread ── route lookup, twice a second ──▶ kernel
//!   daemon loop ◀─ PathMtuChange: tunnel, new MTU ──────────────── thread
//! ```
//!
//! The MTU of a path is that of its device or route, or what the kernel has learnt from an ICMP message (RFC 1191, RFC 8201). The kernel
//! announces no learnt MTU, so the routes are looked up again and again; a lookup covers all three. A lookup that fails changes nothing:
//! the path has no MTU while there is no route.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tracing::debug;

use crate::net::{MIN_MTU_IPV6, TunnelId};
use crate::os::clock;
use crate::os::netlink::{Netlink, NetlinkError, ResolvedRoute};

/// Outer addresses of a tunnel's ESP packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct OuterPath {
    /// Our address; unspecified leaves the choice to the kernel.
    pub(super) local: IpAddr,
    /// Address of the peer.
    pub(super) peer: IpAddr,
}

/// A path MTU that differs from the last one of this tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PathMtuChange {
    pub(super) tunnel: TunnelId,
    pub(super) mtu: u16,
}

/// Handle of the thread.
#[derive(Debug)]
pub(super) struct PathMtuMonitor {
    updates: Option<mpsc::Sender<(TunnelId, Option<OuterPath>)>>,
    thread: Option<JoinHandle<()>>,
    /// Paths as submitted last.
    submitted: BTreeMap<TunnelId, OuterPath>,
}

/// Interval of the lookups.
const INTERVAL: Duration = Duration::from_millis(500);

impl PathMtuMonitor {
    /// Starts the thread, in this thread's network namespace.
    ///
    /// # Errors
    /// Out of descriptors or threads.
    pub(super) fn start() -> Result<(PathMtuMonitor, UnboundedReceiver<PathMtuChange>), NetlinkError>
    {
        let (sender, updates) = mpsc::channel();
        let (changes, receiver) = unbounded_channel();
        let netlink = Netlink::open()?;
        let thread = std::thread::Builder::new()
            .name("path-mtu".to_owned())
            .spawn(move || follow(netlink, &updates, &changes))?;
        let monitor = PathMtuMonitor {
            updates: Some(sender),
            thread: Some(thread),
            submitted: BTreeMap::new(),
        };
        Ok((monitor, receiver))
    }

    /// Follows the path of a tunnel; `None` while it has no Child SA, or a fixed MTU.
    pub(super) fn set(&mut self, tunnel: TunnelId, path: Option<OuterPath>) {
        let old = match path {
            Some(path) => self.submitted.insert(tunnel, path),
            None => self.submitted.remove(&tunnel),
        };
        if old != path
            && let Some(updates) = &self.updates
        {
            // Without the thread the MTU stays as it is.
            let _ = updates.send((tunnel, path));
        }
    }
}

impl Drop for PathMtuMonitor {
    fn drop(&mut self) {
        self.updates = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// MTU of a path.
///
/// # Errors
/// There is no route.
pub(super) fn path_mtu(netlink: &mut Netlink, path: OuterPath) -> Result<u16, NetlinkError> {
    let route = if path.local.is_unspecified() {
        netlink.route_to(path.peer)
    } else {
        netlink.route_from(path.local, path.peer)
    };
    route.map(mtu_of)
}

/// The MTU of a route. What an ICMP message claims counts down to 1280 octets: every IPv6 path carries that much (RFC 8200 §5) and hardly an
/// IPv4 path carries less, so a forged message makes a tunnel a little slower and never useless.
fn mtu_of(route: ResolvedRoute) -> u16 {
    let learnt = route
        .learnt_mtu
        .map_or(u32::MAX, |mtu| mtu.max(MIN_MTU_IPV6.into()));
    u16::try_from(route.mtu.min(learnt)).unwrap_or(u16::MAX)
}

/// Body of the thread: ends with the sender of the updates, or the receiver of the changes.
fn follow(
    mut netlink: Netlink,
    updates: &mpsc::Receiver<(TunnelId, Option<OuterPath>)>,
    changes: &UnboundedSender<PathMtuChange>,
) {
    let mut paths: BTreeMap<TunnelId, OuterPath> = BTreeMap::new();
    let mut reported: BTreeMap<TunnelId, u16> = BTreeMap::new();
    let mut due = clock::now();
    loop {
        let update = if paths.is_empty() {
            updates.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            updates.recv_timeout(due.since(clock::now()))
        };
        match update {
            Ok((tunnel, path)) => {
                // The Child SA was installed with the MTU of this time, which may have changed since.
                reported.remove(&tunnel);
                match path {
                    Some(path) => paths.insert(tunnel, path),
                    None => paths.remove(&tunnel),
                };
                continue;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        due = clock::now() + INTERVAL;
        let mut mtus: BTreeMap<OuterPath, Option<u16>> = BTreeMap::new();
        for (tunnel, path) in &paths {
            let mtu = *mtus.entry(*path).or_insert_with(|| {
                let mtu = path_mtu(&mut netlink, *path);
                mtu.inspect_err(|error| debug!(peer = %path.peer, %error, "no path MTU"))
                    .ok()
            });
            let Some(mtu) = mtu.filter(|mtu| reported.get(tunnel) != Some(mtu)) else {
                continue;
            };
            reported.insert(*tunnel, mtu);
            let change = PathMtuChange {
                tunnel: *tunnel,
                mtu,
            };
            if changes.send(change).is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(mtu: u32, learnt_mtu: Option<u32>) -> ResolvedRoute {
        ResolvedRoute {
            device: 1,
            gateway: None,
            source: None,
            mtu,
            learnt_mtu,
        }
    }

    #[test]
    fn a_learnt_mtu_counts_down_to_1280_octets_and_a_configured_one_without_limit() {
        for (mtu, learnt, expected) in [
            (1500, None, 1500),
            (65_536, None, 65_535),
            (1000, None, 1000),
            (1500, Some(1400), 1400),
            (1500, Some(576), 1280),
            (1500, Some(0), 1280),
            (1500, Some(9000), 1500),
            (1000, Some(576), 1000),
        ] {
            assert_eq!(mtu_of(route(mtu, learnt)), expected, "{mtu} {learnt:?}");
        }
    }
}
