//! Installs a negotiated Child SA as a pair of ESP SAs: the only file where IKE and ESP meet.
//!
//! ```text
//!   Child ─▶ inner MTU ─▶ ESP SAs with their limits ─▶ device MTU ─▶ datapath: inbound, then outbound      (then carrier and routes: routing)
//! ```

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::path_mtu::{OuterPath, path_mtu};
use super::tunnels::TunnelEntry;
use crate::config::{self, Mtu};
use crate::crypto::Protection;
use crate::datapath::{Datapath, EgressPath};
use crate::esp::lifetime::Limits;
use crate::esp::{Inbound, Outbound, mtu};
use crate::ike::Child;
use crate::net::{DropReason, EspTransport, MIN_MTU_IPV4, MIN_MTU_IPV6, TunnelId};
use crate::os::Socket;
use crate::os::netlink::Netlink;

/// MTU of a device before its first SA: the minimum of IPv6 (RFC 8200 §5).
pub(super) const INITIAL_MTU: u16 = MIN_MTU_IPV6;

/// Path MTU where the kernel reports none.
const DEFAULT_PATH_MTU: u16 = 1500;

/// Smallest inner MTU that is accepted: the datagram size that every IPv4 host must receive (RFC 791).
const MIN_MTU: u16 = MIN_MTU_IPV4;

/// Installs a Child SA.
///
/// # Errors
/// Description of the failure. Nothing of the Child SA is installed then, and the earlier ones are unchanged.
pub(super) fn install(
    child: &Child,
    tunnel: &mut TunnelEntry,
    datapath: &mut Datapath,
    netlink: &mut Netlink,
) -> Result<(), String> {
    if let Some(unavailable) = &tunnel.unavailable {
        return Err(unavailable.error.to_string());
    }
    let mtu = first_mtu(child, &tunnel.settings, netlink)?;
    let (socket, remote) =
        outer_path(child, datapath).ok_or_else(|| format!("no socket on {}", child.local.ip()))?;
    let (suite, policy) = (child.suite, child.policy.clone());
    let window = tunnel.settings.replay_window;
    let inbound = Inbound::new(child.spi_in, suite, &child.keys_in, policy.clone(), window);
    let outbound = Outbound::new(child.spi_out, suite, &child.keys_out, &child.iv_key, policy);
    let bad_keys = |_| format!("the negotiated keys do not fit {suite}");
    let (inbound, outbound) = (inbound.map_err(bad_keys)?, outbound.map_err(bad_keys)?);
    let limits = limits(child, &tunnel.settings);

    set_device_mtu(tunnel, mtu, netlink)?;
    let path = EgressPath {
        sa: Arc::new(outbound.limited(limits)),
        socket,
        local: child.local.ip(),
        remote,
        mtu,
        dscp: tunnel.settings.dscp,
    };
    let inbound = inbound.limited(limits);
    tunnel.children.add(inbound, path, child.sends, datapath);
    tunnel.peer = Some(child.remote.ip());
    Ok(())
}

/// Socket and destination of the Child SA's ESP packets.
fn outer_path(child: &Child, datapath: &Datapath) -> Option<(Arc<dyn Socket>, SocketAddr)> {
    let Child { local, remote, .. } = child;
    match child.transport {
        EspTransport::Udp => Some((datapath.nat_socket(local.ip())?, *remote)),
        EspTransport::Esp => {
            let without_port = SocketAddr::new(remote.ip(), 0);
            Some((datapath.native_socket(local.ip())?, without_port))
        }
    }
}

/// Packets of a tunnel dropped for lack of a usable SA.
pub(super) fn drops_without_sa(id: TunnelId, datapath: &Datapath) -> u64 {
    let reasons = [
        DropReason::NoSa,
        DropReason::Expired,
        DropReason::SequenceExhausted,
        // Packets for a Child SA that was offered and is not installed yet wait in a queue.
        DropReason::QueueFull,
    ];
    datapath.counters(id).map_or(0, |counters| {
        let counts = reasons.iter().map(|reason| counters.dropped.count(*reason));
        counts.sum()
    })
}

/// Limits of the Child SA. The low octet of the random SPI serves as jitter.
fn limits(child: &Child, settings: &config::TunnelSettings) -> Limits {
    let [.., jitter] = child.spi_in.to_be_bytes();
    Limits {
        bytes: settings.child_bytes,
        packets: settings.child_packets,
        jitter,
    }
}

/// Inner MTU of a Child SA that is being installed: as configured, or what ESP leaves of the path MTU.
fn first_mtu(
    child: &Child,
    settings: &config::TunnelSettings,
    netlink: &mut Netlink,
) -> Result<u16, String> {
    if let Mtu::Fixed(mtu) = settings.mtu {
        return Ok(mtu);
    }
    let (local, peer) = (child.local.ip(), child.remote.ip());
    let path = path_mtu(netlink, OuterPath { local, peer }).unwrap_or_else(|error| {
        tracing::debug!(%peer, %error, "no path MTU from the kernel");
        DEFAULT_PATH_MTU
    });
    let inner = inner_mtu(
        path,
        peer,
        child.transport,
        child.suite.protection,
        settings,
    );
    if inner < MIN_MTU {
        return Err(format!(
            "the path MTU of {path} bytes to {peer} leaves {inner} bytes for inner packets, fewer than {MIN_MTU}"
        ));
    }
    Ok(inner)
}

/// Inner MTU: as configured, or what ESP leaves of the path MTU, which the configuration may cap.
fn inner_mtu(
    path: u16,
    peer: IpAddr,
    transport: EspTransport,
    protection: Protection,
    settings: &config::TunnelSettings,
) -> u16 {
    let (outer, cap) = match settings.mtu {
        Mtu::Fixed(mtu) => return mtu,
        Mtu::Auto { outer, inner } => (outer, inner),
    };
    let path = outer.map_or(path, |outer| outer.min(path));
    let inner = mtu::inner(path, peer, transport, protection);
    let inner = cap.map_or(inner, |cap| inner.min(cap));
    // RFC 8200 §5: a link that carries IPv6 carries 1280 bytes, if need be in fragments; the kernel disables IPv6 below that.
    let policy = &settings.ike.policy;
    let is_ipv6 = policy.local.iter().any(|selector| !selector.is_ipv4());
    if is_ipv6 {
        inner.max(INITIAL_MTU)
    } else {
        inner
    }
}

fn set_device_mtu(tunnel: &mut TunnelEntry, mtu: u16, netlink: &mut Netlink) -> Result<(), String> {
    if mtu != tunnel.mtu {
        netlink
            .set_mtu(tunnel.device.index(), mtu.into())
            .map_err(|error| error.to_string())?;
        tunnel.mtu = mtu;
    }
    Ok(())
}

/// Path whose MTU decides the inner MTU of the tunnel; `None` without a Child SA or with a fixed MTU.
pub(super) fn followed_path(tunnel: &TunnelEntry) -> Option<OuterPath> {
    match tunnel.settings.mtu {
        Mtu::Fixed(_) => None,
        Mtu::Auto { .. } => tunnel.children.outer_path(),
    }
}

/// Adapts the Child SAs and the device of a tunnel to a changed path MTU. An inner MTU below the least one stays at it: the outer packets
/// then leave in fragments. Returns the inner MTU of the device if it has changed.
///
/// # Errors
/// The device's MTU cannot be set. The Child SAs have the new one.
pub(super) fn follow_path_mtu(
    path: u16,
    tunnel: &mut TunnelEntry,
    datapath: &mut Datapath,
    netlink: &mut Netlink,
) -> Result<Option<u16>, String> {
    let settings = &tunnel.settings;
    let inner = |egress: &EgressPath| {
        let transport = match egress.remote.port() {
            0 => EspTransport::Esp,
            _ => EspTransport::Udp,
        };
        let protection = egress.sa.suite().protection;
        let inner = inner_mtu(path, egress.remote.ip(), transport, protection, settings);
        inner.max(MIN_MTU)
    };
    let Some(mtu) = tunnel.children.set_mtus(inner, datapath) else {
        return Ok(None);
    };
    let has_changed = mtu != tunnel.mtu;
    set_device_mtu(tunnel, mtu, netlink)?;
    Ok(has_changed.then_some(mtu))
}
