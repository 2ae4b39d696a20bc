//! Routes as values and as netlink messages, in the main table and in those of sources (see [`super::Rule`]): into tunnels, around them,
//! and unreachable ones.
//!
//! ```text
//!   10.8.0.0/16  ─┬─▶ gl-a     route into one tunnel, or into several that share the flows (multipath)
//!                 └─▶ gl-b
//!   203.0.113.9  ───▶ eth0     peer route: keeps packets to a peer outside the tunnels
//!   10.8.0.0/16  ───▶ ✕        unreachable route with the highest metric: fail-closed while no tunnel carries the prefix
//! ```
//!
//! Own routes carry [`ROUTE_PROTOCOL`], so the next start finds those of a killed daemon, and foreign routes (of other programs and
//! the kernel) are never replaced or removed.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteNextHop,
    RouteProtocol, RouteScope, RouteType,
};

use crate::net::Prefix;

/// Protocol number of own routes (`proto 171` in `ip route`); a line `171 groundlink` in /etc/iproute2/rt_protos names it. There is no
/// registry; the routing daemons use other numbers up to 192.
pub const ROUTE_PROTOCOL: u8 = 171;
/// The main table.
pub const MAIN_TABLE: u32 = RouteHeader::RT_TABLE_MAIN as u32;
/// Metric of unreachable routes: behind all others.
pub const UNREACHABLE_METRIC: u32 = 0xffff_fff0;
/// Metric of peer routes: ahead of a tunnel's route for the same address.
pub const PEER_ROUTE_METRIC: u32 = 1;

/// Gateway of IPv6 routes into tunnels. IPv6 forms a multipath route only of next hops with a gateway; a tunnel device resolves no
/// neighbours, so any link-local address will do.
const DUMMY_GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Table, prefix and metric, which identify an own route.
pub type RouteKey = (u32, Prefix, u32);

/// An own route. Table, prefix and metric identify it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Number of its table.
    pub table: u32,
    /// Destination.
    pub prefix: Prefix,
    /// Metric; the lowest of several routes for one prefix wins. Not 0, which means "any" in IPv6.
    pub metric: u32,
    /// Target.
    pub target: RouteTarget,
    /// Preferred source address of the host's own packets; an address of this host.
    pub source: Option<IpAddr>,
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteTarget {
    /// Tunnel devices; several share the flows evenly.
    Tunnels(Vec<u32>),
    /// A next hop outside the tunnels.
    NextHop {
        /// Interface index.
        device: u32,
        /// Next router; `None` for a destination on the device's own network.
        gateway: Option<IpAddr>,
    },
    /// Packets are dropped and the sender gets an ICMP error.
    Unreachable,
    /// The table has no route: the lookup goes on with the next rule.
    Throw,
}

/// Result of a route lookup (`ip route get`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResolvedRoute {
    /// Outgoing interface index.
    pub device: u32,
    /// Next router; `None` on the device's own network and for addresses of this host.
    pub gateway: Option<IpAddr>,
    /// Source address the kernel would choose.
    pub source: Option<IpAddr>,
    /// MTU of the route where it has one, else of the device.
    pub mtu: u32,
    /// Path MTU that the kernel has learnt from an ICMP message, which anyone can forge.
    pub learnt_mtu: Option<u32>,
}

/// Another program's route that matters to a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForeignRoute {
    /// Destination.
    pub prefix: Prefix,
    /// Metric.
    pub metric: u32,
    /// Device and gateway of its first next hop; `None` for routes that are not unicast (blackhole, unreachable …).
    pub next_hop: Option<(u32, Option<IpAddr>)>,
    /// Preferred source address.
    pub source: Option<IpAddr>,
}

/// Selects the foreign routes that matter: those for exactly a tunnel's prefix, and those that lead to a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteInterest {
    /// Prefixes of the tunnels.
    pub prefixes: BTreeSet<Prefix>,
    /// Addresses of the peers that need a peer route.
    pub peers: BTreeSet<IpAddr>,
}

impl RouteInterest {
    /// Whether a foreign route for `prefix` matters.
    pub fn matches(&self, prefix: Prefix) -> bool {
        let peers = prefix.address()..=prefix.last();
        self.prefixes.contains(&prefix) || self.peers.range(peers).next().is_some()
    }

    /// Whether all that matters here matters to `other`, too.
    pub fn is_within(&self, other: &RouteInterest) -> bool {
        self.prefixes.is_subset(&other.prefixes) && self.peers.is_subset(&other.peers)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the route {} metric {}", self.prefix, self.metric)?;
        match &self.target {
            RouteTarget::Tunnels(devices) => write!(f, " through devices {devices:?}"),
            RouteTarget::NextHop {
                device,
                gateway: Some(gateway),
            } => write!(f, " via {gateway} on device {device}"),
            RouteTarget::NextHop {
                device,
                gateway: None,
            } => write!(f, " on device {device}"),
            RouteTarget::Unreachable => write!(f, " unreachable"),
            RouteTarget::Throw => write!(f, " throw"),
        }?;
        match self.table {
            MAIN_TABLE => Ok(()),
            table => write!(f, " in table {table}"),
        }
    }
}

impl Route {
    /// Fail-closed route: keeps packets for `prefix` from leaving elsewhere while no tunnel carries it.
    pub fn unreachable(prefix: Prefix) -> Route {
        Route {
            table: MAIN_TABLE,
            prefix,
            metric: UNREACHABLE_METRIC,
            target: RouteTarget::Unreachable,
            source: None,
        }
    }

    /// What identifies the route.
    pub fn key(&self) -> RouteKey {
        (self.table, self.prefix, self.metric)
    }

    /// Whether `other` is the same route for the kernel, which may list devices in another order and does not distinguish a tunnel
    /// from a next hop without a gateway.
    pub fn is_same(&self, other: &Route) -> bool {
        let devices = |route: &Route| match &route.target {
            RouteTarget::Tunnels(devices) => Some(devices.iter().copied().collect()),
            RouteTarget::NextHop {
                device,
                gateway: None,
            } => Some(BTreeSet::from([*device])),
            RouteTarget::NextHop { .. } | RouteTarget::Unreachable | RouteTarget::Throw => None,
        };
        let targets = match (devices(self), devices(other)) {
            (None, None) => self.target == other.target,
            (ours, theirs) => ours == theirs,
        };
        targets && (self.key(), self.source) == (other.key(), other.source)
    }
}

/// Host route that keeps packets to `peer` outside the tunnels: the best of the foreign routes that do not lead into one of the
/// devices `tunnels`. A lookup would find an older peer route, or a tunnel.
pub fn peer_route(peer: IpAddr, foreign: &[ForeignRoute], tunnels: &[u32]) -> Option<Route> {
    let candidates = foreign.iter().filter_map(|route| {
        let (device, gateway) = route.next_hop?;
        let leads = route.prefix.contains(peer) && !tunnels.contains(&device);
        leads.then_some((route, device, gateway))
    });
    let (best, device, gateway) =
        candidates.min_by_key(|(route, ..)| (Reverse(route.prefix.length()), route.metric))?;
    Some(Route {
        table: MAIN_TABLE,
        prefix: Prefix::host(peer),
        metric: PEER_ROUTE_METRIC,
        target: RouteTarget::NextHop { device, gateway },
        // The peer knows this host by the source address used so far.
        source: best.source,
    })
}

pub(super) fn family_of(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

pub(super) fn encode_key((table, prefix, metric): RouteKey) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family_of(prefix.address());
    message.header.destination_prefix_length = prefix.length();
    message.header.table = u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    message.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
    message.attributes = vec![
        RouteAttribute::Table(table),
        RouteAttribute::Destination(prefix.address().into()),
        RouteAttribute::Priority(metric),
    ];
    message
}

pub(super) fn encode(route: &Route) -> RouteMessage {
    let mut message = encode_key(route.key());
    message.header.kind = RouteType::Unicast;
    message.header.scope = RouteScope::Universe;
    match &route.target {
        RouteTarget::Tunnels(devices) => {
            let gateway = (!route.prefix.is_ipv4())
                .then_some(RouteAttribute::Gateway(RouteAddress::Inet6(DUMMY_GATEWAY)));
            if route.prefix.is_ipv4() {
                message.header.scope = RouteScope::Link;
            }
            if let [device] = devices.as_slice() {
                message.attributes.push(RouteAttribute::Oif(*device));
                message.attributes.extend(gateway);
            } else {
                let hops = devices.iter().map(|device| {
                    let mut hop = RouteNextHop::default();
                    hop.interface_index = *device;
                    hop.attributes.extend(gateway.clone());
                    hop
                });
                message
                    .attributes
                    .push(RouteAttribute::MultiPath(hops.collect()));
            }
        }
        RouteTarget::NextHop { device, gateway } => {
            message.attributes.push(RouteAttribute::Oif(*device));
            match gateway {
                Some(gateway) => {
                    message
                        .attributes
                        .push(RouteAttribute::Gateway((*gateway).into()));
                    // Copied from a working route: the routers of many clouds are outside the network of the address.
                    message.header.flags |= RouteFlags::Onlink;
                }
                None => message.header.scope = RouteScope::Link,
            }
        }
        RouteTarget::Unreachable => message.header.kind = RouteType::Unreachable,
        RouteTarget::Throw => message.header.kind = RouteType::Throw,
    }
    let source = route.source.map(RouteAddress::from);
    message
        .attributes
        .extend(source.map(RouteAttribute::PrefSource));
    message
}

pub(super) fn decode(message: &RouteMessage) -> Option<Route> {
    let attributes = &message.attributes;
    let metric = metric_of(message);
    let device = device_of(attributes);
    let target = if message.header.kind == RouteType::Unreachable {
        RouteTarget::Unreachable
    } else if message.header.kind == RouteType::Throw {
        RouteTarget::Throw
    } else if let Some(hops) = multipath_of(attributes) {
        RouteTarget::Tunnels(hops.iter().map(|hop| hop.interface_index).collect())
    } else {
        match (device?, gateway_of(attributes)) {
            (device, Some(IpAddr::V6(DUMMY_GATEWAY))) => RouteTarget::Tunnels(vec![device]),
            (device, None) if metric != PEER_ROUTE_METRIC => RouteTarget::Tunnels(vec![device]),
            (device, gateway) => RouteTarget::NextHop { device, gateway },
        }
    };
    Some(Route {
        table: table_of(message),
        prefix: prefix_of(message)?,
        metric,
        target,
        source: source_of(attributes),
    })
}

pub(super) fn source_of(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|a| match a {
        RouteAttribute::PrefSource(source) => ip(source),
        _ => None,
    })
}

/// MTU of a route.
pub(super) enum RouteMtu {
    /// Set by the administrator, or by a router advertisement.
    Configured(u32),
    /// Learnt from an ICMP message: it expires.
    Learnt(u32),
}

pub(super) fn mtu_of(attributes: &[RouteAttribute]) -> Option<RouteMtu> {
    let expires = attributes
        .iter()
        .any(|a| matches!(a, RouteAttribute::CacheInfo(info) if info.expires != 0));
    let metrics = attributes.iter().find_map(|a| match a {
        RouteAttribute::Metrics(metrics) => Some(metrics),
        _ => None,
    });
    metrics?.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) if *mtu > 0 && expires => Some(RouteMtu::Learnt(*mtu)),
        RouteMetric::Mtu(mtu) if *mtu > 0 => Some(RouteMtu::Configured(*mtu)),
        _ => None,
    })
}

pub(super) fn prefix_of(message: &RouteMessage) -> Option<Prefix> {
    let destination = message.attributes.iter().find_map(|a| match a {
        RouteAttribute::Destination(destination) => ip(destination),
        _ => None,
    });
    let default = match message.header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        AddressFamily::Inet6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    Some(Prefix::containing(
        destination.unwrap_or(default),
        message.header.destination_prefix_length,
    ))
}

pub(super) fn table_of(message: &RouteMessage) -> u32 {
    let table = message.attributes.iter().find_map(|a| match a {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    table.unwrap_or(message.header.table.into())
}

pub(super) fn metric_of(message: &RouteMessage) -> u32 {
    let metric = message.attributes.iter().find_map(|a| match a {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    });
    metric.unwrap_or(0)
}

fn multipath_of(attributes: &[RouteAttribute]) -> Option<&[RouteNextHop]> {
    attributes.iter().find_map(|a| match a {
        RouteAttribute::MultiPath(hops) => Some(hops.as_slice()),
        _ => None,
    })
}

/// Device and gateway, of several next hops the first one's.
pub(super) fn first_hop(message: &RouteMessage) -> Option<(u32, Option<IpAddr>)> {
    let attributes = &message.attributes;
    match multipath_of(attributes) {
        Some(hops) => hops
            .first()
            .map(|hop| (hop.interface_index, gateway_of(&hop.attributes))),
        None => Some((device_of(attributes)?, gateway_of(attributes))),
    }
}

pub(super) fn device_of(attributes: &[RouteAttribute]) -> Option<u32> {
    attributes.iter().find_map(|a| match a {
        RouteAttribute::Oif(device) => Some(*device),
        _ => None,
    })
}

pub(super) fn gateway_of(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|a| match a {
        RouteAttribute::Gateway(gateway) => ip(gateway),
        _ => None,
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
