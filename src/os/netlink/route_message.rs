//! Routes as rtnetlink writes them: a header (family, prefix length, table, protocol, scope, kind) and attributes.

use std::net::{IpAddr, Ipv6Addr};

use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteNextHop,
    RouteProtocol, RouteScope, RouteType,
};

use super::route::{PIN_METRIC, ROUTE_PROTOCOL, Route, Target};
use crate::net::Prefix;

/// IPv6 shares flows only among next hops that have a gateway. A tunnel's device resolves no neighbours, so any link-local address
/// will do: it is never looked for.
const NOBODY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

pub(super) fn named(prefix: Prefix, metric: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = if prefix.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    message.header.destination_prefix_length = prefix.length();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
    message.attributes = vec![
        RouteAttribute::Destination(RouteAddress::from(prefix.address())),
        RouteAttribute::Priority(metric),
    ];
    message
}

pub(super) fn message(route: &Route) -> RouteMessage {
    let mut message = named(route.prefix, route.metric);
    message.header.kind = RouteType::Unicast;
    message.header.scope = RouteScope::Universe;
    match &route.target {
        Target::Devices(devices) => {
            let to_nobody = (!route.prefix.is_ipv4())
                .then_some(RouteAttribute::Gateway(RouteAddress::Inet6(NOBODY)));
            if route.prefix.is_ipv4() {
                message.header.scope = RouteScope::Link;
            }
            if let [device] = devices.as_slice() {
                message.attributes.push(RouteAttribute::Oif(*device));
                message.attributes.extend(to_nobody);
            } else {
                let hops = devices.iter().map(|device| {
                    let mut hop = RouteNextHop::default();
                    hop.interface_index = *device;
                    hop.attributes.extend(to_nobody.clone());
                    hop
                });
                message
                    .attributes
                    .push(RouteAttribute::MultiPath(hops.collect()));
            }
        }
        Target::Neighbour { device, gateway } => {
            message.attributes.push(RouteAttribute::Oif(*device));
            match gateway {
                Some(gateway) => {
                    message
                        .attributes
                        .push(RouteAttribute::Gateway(RouteAddress::from(*gateway)));
                    // Another route says so: many clouds' routers lie outside the network of the address.
                    message.header.flags |= RouteFlags::Onlink;
                }
                None => message.header.scope = RouteScope::Link,
            }
        }
        Target::Unreachable => message.header.kind = RouteType::Unreachable,
    }
    message.attributes.extend(
        route
            .source
            .map(|source| RouteAttribute::PrefSource(RouteAddress::from(source))),
    );
    message
}

pub(super) fn lookup(local: Option<IpAddr>, address: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    message.header.destination_prefix_length = Prefix::host(address).length();
    message.attributes = vec![RouteAttribute::Destination(RouteAddress::from(address))];
    if let Some(local) = local {
        message.header.source_prefix_length = Prefix::host(local).length();
        message
            .attributes
            .push(RouteAttribute::Source(RouteAddress::from(local)));
    }
    message
}

pub(super) fn read(message: &RouteMessage) -> Option<Route> {
    let attributes = &message.attributes;
    let several = attributes.iter().find_map(|a| match a {
        RouteAttribute::MultiPath(hops) => {
            Some(hops.iter().map(|hop| hop.interface_index).collect())
        }
        _ => None,
    });
    let metric = metric_of(message);
    let target = match (
        message.header.kind,
        several,
        device_of(attributes),
        gateway_of(attributes),
    ) {
        (RouteType::Unreachable, ..) => Target::Unreachable,
        (_, Some(devices), ..) => Target::Devices(devices),
        (_, None, Some(device), Some(IpAddr::V6(NOBODY))) => Target::Devices(vec![device]),
        (_, None, Some(device), None) if metric != PIN_METRIC => Target::Devices(vec![device]),
        (_, None, Some(device), gateway) => Target::Neighbour { device, gateway },
        (_, None, None, _) => return None,
    };
    Some(Route {
        prefix: prefix_of(message)?,
        metric,
        target,
        source: source_of(attributes),
    })
}

/// What the machine's own packets come from.
pub(super) fn source_of(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|a| match a {
        RouteAttribute::PrefSource(source) => ip(source),
        _ => None,
    })
}

/// The MTU somebody has given the route. One that expires was learnt from an ICMP message, which anyone can send.
pub(super) fn mtu_of(attributes: &[RouteAttribute]) -> Option<u32> {
    let is_learnt = attributes
        .iter()
        .any(|a| matches!(a, RouteAttribute::CacheInfo(info) if info.expires != 0));
    let metrics = attributes.iter().find_map(|a| match a {
        RouteAttribute::Metrics(metrics) if !is_learnt => Some(metrics),
        _ => None,
    });
    metrics?.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
        _ => None,
    })
}

pub(super) fn prefix_of(message: &RouteMessage) -> Option<Prefix> {
    let destination = message.attributes.iter().find_map(|a| match a {
        RouteAttribute::Destination(destination) => ip(destination),
        _ => None,
    });
    let zero = match message.header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        AddressFamily::Inet6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    Some(Prefix::containing(
        destination.unwrap_or(zero),
        message.header.destination_prefix_length,
    ))
}

pub(super) fn metric_of(message: &RouteMessage) -> u32 {
    let metric = message.attributes.iter().find_map(|a| match a {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    });
    metric.unwrap_or(0)
}

/// Device and gateway; of several next hops the first.
pub(super) fn first_hop(message: &RouteMessage) -> Option<(u32, Option<IpAddr>)> {
    let several = message.attributes.iter().find_map(|a| match a {
        RouteAttribute::MultiPath(hops) => hops
            .first()
            .map(|hop| (hop.interface_index, gateway_of(&hop.attributes))),
        _ => None,
    });
    several.or_else(|| {
        Some((
            device_of(&message.attributes)?,
            gateway_of(&message.attributes),
        ))
    })
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

pub(super) fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}
