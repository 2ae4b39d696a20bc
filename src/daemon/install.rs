//! A Child SA, negotiated, becomes a pair of ESP SAs: the only place where ike meets esp.
//!
//! ```text
//!   mtu ─▶ SAs, with their limits ─▶ device MTU ─▶ children: inbound table, outbound table      (then carrier and routes: routing)
//! ```

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::child_sas::ChildSas;
use super::rekey_loss::RekeyLoss;
use crate::config::{self, Mtu};
use crate::datapath::{self, Datapath, EgressPath};
use crate::esp::lifetime::Limits;
use crate::esp::{Inbound, Outbound, mtu};
use crate::ike::{Child, TunnelId};
use crate::net::{DropReason, EspTransport, Time};
use crate::os::Socket;
use crate::os::netlink::Netlink;
use crate::os::tun::Tun;

/// One tunnel as the daemon holds it.
pub(super) struct Tunnel {
    pub(super) settings: config::TunnelSettings,
    pub(super) device: Arc<Tun>,
    pub(super) children: ChildSas,
    /// What rekeying has cost.
    pub(super) losses: RekeyLoss,
    /// What the device is set to.
    pub(super) mtu: u16,
    /// Where the peer is, once known.
    pub(super) peer: Option<IpAddr>,
    /// What the engine has been told about traffic.
    pub(super) heard: Option<Time>,
    pub(super) sent: Option<Time>,
    /// Whether somebody has removed the device, for good.
    pub(super) gone: bool,
    /// Whether packets without an SA wait for one.
    pub(super) waits: bool,
}

impl Tunnel {
    /// What there is to say of a tunnel without its device.
    pub(super) fn why_gone(&self) -> String {
        format!(
            "the tunnel's device {} was removed and carries nothing; restart groundlink to make it again",
            self.device.name()
        )
    }
}

/// What a device is set to before its first SA: the least a link of the Internet may have (RFC 8200 §5), so that anything fits.
pub(super) const FIRST_MTU: u16 = 1280;

/// What the way to a peer carries where the kernel does not say.
const USUAL_MTU: u16 = 1500;

/// Less than any host must accept (RFC 791), and no tunnel at all.
const LEAST_MTU: u16 = 576;

/// The datapath's name of a tunnel.
pub(super) fn lane(id: TunnelId) -> datapath::TunnelId {
    datapath::TunnelId(id.0)
}

/// Puts a Child SA to work.
///
/// # Errors
/// What went wrong, for people. Nothing of the Child SA is left then, and what was there before is as it was.
pub(super) fn up(
    child: &Child,
    tunnel: &mut Tunnel,
    datapath: &mut Datapath,
    netlink: &mut Netlink,
) -> Result<(), String> {
    if tunnel.gone {
        return Err(tunnel.why_gone());
    }
    let mtu = inner_mtu(child, &tunnel.settings, netlink)?;
    let (socket, remote) =
        way(child, datapath).ok_or_else(|| format!("no socket serves {}", child.local.ip()))?;
    let (suite, policy) = (child.suite, child.policy.clone());
    let window = tunnel.settings.replay_window;
    let inbound = Inbound::new(child.spi_in, suite, &child.keys_in, policy.clone(), window);
    let outbound = Outbound::new(child.spi_out, suite, &child.keys_out, &child.iv_key, policy);
    let keys = |_| format!("the keys do not fit {suite}");
    let (inbound, outbound) = (inbound.map_err(keys)?, outbound.map_err(keys)?);
    let limits = limits(child, &tunnel.settings);

    if mtu != tunnel.mtu {
        netlink
            .set_mtu(tunnel.device.index(), mtu.into())
            .map_err(|error| error.to_string())?;
        tunnel.mtu = mtu;
    }
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

/// The socket that the Child SA's packets leave through, and where they go.
fn way(child: &Child, datapath: &Datapath) -> Option<(Arc<dyn Socket>, SocketAddr)> {
    let Child { local, remote, .. } = child;
    match child.transport {
        EspTransport::Udp => Some((datapath.nat_socket(local.ip())?, *remote)),
        EspTransport::Esp => {
            let bare = SocketAddr::new(remote.ip(), 0);
            Some((datapath.native_socket(local.ip())?, bare))
        }
    }
}

/// How many packets of a tunnel were refused for want of an SA that may carry them.
pub(super) fn wanting(id: TunnelId, datapath: &Datapath) -> u64 {
    let refused = datapath
        .counters(lane(id))
        .map(|counters| &counters.refused);
    let want = [
        DropReason::NoSa,
        DropReason::Expired,
        DropReason::SequenceExhausted,
    ];
    refused.map_or(0, |refused| {
        want.iter().map(|reason| refused.count(*reason)).sum()
    })
}

/// How much the Child SA may carry. Its SPI is a random number, and so is the low octet of it.
fn limits(child: &Child, settings: &config::TunnelSettings) -> Limits {
    let [.., jitter] = child.spi_in.to_be_bytes();
    Limits {
        bytes: settings.child_bytes,
        packets: settings.child_packets,
        jitter,
    }
}

/// The largest inner packet: as configured, or what the suite leaves of the smaller of the way to the peer and the preset.
fn inner_mtu(
    child: &Child,
    settings: &config::TunnelSettings,
    netlink: &mut Netlink,
) -> Result<u16, String> {
    let (outer, most) = match settings.mtu {
        Mtu::Fixed(mtu) => return Ok(mtu),
        Mtu::Auto { outer, inner } => (outer, inner),
    };
    let (local, peer) = (child.local.ip(), child.remote.ip());
    let way = if local.is_unspecified() {
        netlink.route_to(peer)
    } else {
        netlink.route_from(local, peer)
    };
    let way = match way {
        Ok(way) => u16::try_from(way.mtu).unwrap_or(u16::MAX),
        // The peer has just been heard, so there is a way.
        Err(error) => {
            tracing::debug!(%peer, %error, "the MTU towards the peer is not known");
            USUAL_MTU
        }
    };
    let smallest = outer.map_or(way, |outer| outer.min(way));
    let protection = child.suite.protection;
    let room = mtu::inner(smallest, peer, child.transport, protection);
    let mtu = most.map_or(room, |most| most.min(room));
    if mtu < LEAST_MTU {
        return Err(format!(
            "the way to {peer} takes {smallest} bytes, which leaves {mtu} inside: too few for a tunnel"
        ));
    }
    // RFC 8200 §5: a link that carries IPv6 carries 1280 bytes, if need be in pieces; the kernel knows no other.
    let policy = &settings.ike.policy;
    let is_ipv6 = policy.local.iter().any(|selector| !selector.is_ipv4());
    Ok(if is_ipv6 { mtu.max(FIRST_MTU) } else { mtu })
}
