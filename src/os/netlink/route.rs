//! Routes: into tunnels, around them, and nowhere.
//!
//! ```text
//!   10.8.0.0/16  ─┬─▶ gl-a     what a tunnel carries: one device, or several that share the flows (multipath)
//!                 └─▶ gl-b
//!   203.0.113.9  ───▶ eth0     a pin: the way to a peer stays outside the tunnels
//!   10.8.0.0/16  ───▶ ✕        the last resort, with a metric above all others: nothing leaks out elsewhere (fail-closed)
//! ```
//!
//! All of ours carry [`ROUTE_PROTOCOL`], so that what a killed daemon left is found, and nobody else's route is ever replaced or
//! removed.

use std::fmt;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::route_message::{
    device_of, first_hop, gateway_of, lookup, message, metric_of, mtu_of, named, prefix_of, read,
    source_of,
};
use super::{Netlink, NetlinkError};
use crate::net::Prefix;

/// The number that marks our routes (`proto 171` in `ip route`); give it a name with a line `171 groundlink` in
/// /etc/iproute2/rt_protos. No registry has it; the routing daemons' numbers end at 192 and leave it free.
pub const ROUTE_PROTOCOL: u8 = 171;
/// The metric of an unreachable route that stays behind all others.
pub const LAST_RESORT_METRIC: u32 = 0xffff_fff0;
/// The metric of a pin: ahead of a tunnel's route for the very same address.
pub const PIN_METRIC: u32 = 1;

/// A route of ours. Prefix and metric name it; the rest can be replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub prefix: Prefix,
    /// The lowest of several routes for one prefix wins. Not 0, which IPv6 takes for "any".
    pub metric: u32,
    /// Through what.
    pub target: Target,
    /// What the machine's own packets come from; must be an address of the machine.
    pub source: Option<IpAddr>,
}

/// What a route leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Into tunnels' devices; several share the flows evenly.
    Devices(Vec<u32>),
    /// To a neighbour, or straight onto a device's network.
    Neighbour {
        /// The device.
        device: u32,
        /// The next router; `None` on the same network.
        gateway: Option<IpAddr>,
    },
    /// Nowhere: whoever sends is told so.
    Unreachable,
}

/// How packets to an address leave this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Through this device.
    pub device: u32,
    /// To this router; `None` on the same network or this machine.
    pub gateway: Option<IpAddr>,
    /// From this address, unless the sender says otherwise.
    pub source: Option<IpAddr>,
    /// The largest packet: what the route says, else what the device takes. What path MTU discovery has learnt does not count: a
    /// forged ICMP message would make a tunnel small, or too small to be one.
    pub mtu: u32,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the route {} metric {}", self.prefix, self.metric)?;
        match &self.target {
            Target::Devices(devices) => write!(f, " through devices {devices:?}"),
            Target::Neighbour {
                device,
                gateway: Some(gateway),
            } => write!(f, " via {gateway} on device {device}"),
            Target::Neighbour {
                device,
                gateway: None,
            } => write!(f, " on device {device}"),
            Target::Unreachable => write!(f, " to nowhere"),
        }
    }
}

impl Route {
    /// The route that keeps a prefix from leaking while no tunnel carries it.
    pub fn last_resort(prefix: Prefix) -> Route {
        Route {
            prefix,
            metric: LAST_RESORT_METRIC,
            target: Target::Unreachable,
            source: None,
        }
    }
}

impl Netlink {
    /// Installs a route, or changes one of ours of the same prefix and metric to it in one step: there is no moment without. (IPv6
    /// may lose the packet that is just being looked up: the kernel frees the old route at once.)
    ///
    /// The devices must be up. Before a device of several is removed, install the route without it: removing a device takes the
    /// whole IPv4 route with it.
    ///
    /// # Errors
    /// [`NetlinkError::RouteTaken`] if the route there is somebody else's; otherwise see [`NetlinkError`].
    pub fn install(&mut self, route: &Route) -> Result<(), NetlinkError> {
        let what = || format!("installing {route}");
        let message = RouteNetlinkMessage::NewRoute(message(route));
        match self.change(what, message.clone(), NLM_F_CREATE | NLM_F_EXCL) {
            Err(error) if error.is_already_there() => {
                let ours = self
                    .own_routes()?
                    .iter()
                    .any(|own| own.prefix == route.prefix && own.metric == route.metric);
                if !ours {
                    return Err(NetlinkError::RouteTaken {
                        route: Box::new(route.clone()),
                    });
                }
                self.change(what, message, NLM_F_CREATE | NLM_F_REPLACE)
            }
            result => result,
        }
    }

    /// Adds a default route that is not one of ours: the network's own, as an administrator would have set it.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn add_default_route(&mut self, device: u32, gateway: IpAddr) -> Result<(), NetlinkError> {
        let route = Route {
            prefix: Prefix::containing(gateway, 0),
            metric: 1024,
            target: Target::Neighbour {
                device,
                gateway: Some(gateway),
            },
            source: None,
        };
        let mut message = message(&route);
        message.header.protocol = RouteProtocol::Static;
        message.header.flags = RouteFlags::empty();
        self.change(
            || format!("installing {route}"),
            RouteNetlinkMessage::NewRoute(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    /// Removes a route of ours, whatever it leads to. That it is gone already is fine.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn withdraw(&mut self, prefix: Prefix, metric: u32) -> Result<(), NetlinkError> {
        let mut message = named(prefix, metric);
        // Unspecified here means any, and the protocol narrows it to ours.
        message.header.kind = RouteType::Unspec;
        message.header.scope = RouteScope::NoWhere;
        let result = self.change(
            || format!("removing the route {prefix} metric {metric}"),
            RouteNetlinkMessage::DelRoute(message),
            0,
        );
        result.or_else(|error| {
            if error.is_not_found() {
                Ok(())
            } else {
                Err(error)
            }
        })
    }

    /// The routes that carry our protocol number.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn own_routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        let mut all = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            all.extend(
                self.main_table(family, RouteProtocol::from(ROUTE_PROTOCOL))?
                    .iter()
                    .filter_map(read),
            );
        }
        Ok(all)
    }

    /// Somebody else's routes that go before these: for the same prefix, with a lower metric. Each with the one it overtakes.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn overtaking(&mut self, routes: &[Route]) -> Result<Vec<(Route, u32)>, NetlinkError> {
        let mut overtaking = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let of_family =
                |route: &&Route| route.prefix.is_ipv4() == (family == AddressFamily::Inet);
            let ours: Vec<&Route> = routes.iter().filter(of_family).collect();
            if ours.is_empty() {
                continue;
            }
            for other in self.main_table(family, RouteProtocol::Unspec)? {
                if other.header.protocol == RouteProtocol::from(ROUTE_PROTOCOL) {
                    continue;
                }
                let (prefix, metric) = (prefix_of(&other), metric_of(&other));
                let overtaken = ours
                    .iter()
                    .filter(|route| Some(route.prefix) == prefix && metric < route.metric);
                overtaking.extend(overtaken.map(|route| ((*route).clone(), metric)));
            }
        }
        Ok(overtaking)
    }

    /// Removes all routes of ours: what a daemon that was killed has left. Says how many there were.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn withdraw_all(&mut self) -> Result<usize, NetlinkError> {
        let routes = self.own_routes()?;
        for route in &routes {
            self.withdraw(route.prefix, route.metric)?;
        }
        Ok(routes.len())
    }

    /// How packets to `address` leave now.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`] with `ENETUNREACH` or `EHOSTUNREACH` where there is no way.
    pub fn route_to(&mut self, address: IpAddr) -> Result<Way, NetlinkError> {
        self.way(None, address)
    }

    /// How packets from `local`, an address of this machine, to `address` leave now: `ip rule` may send each of several addresses
    /// another way.
    ///
    /// # Errors
    /// As [`Netlink::route_to`].
    pub fn route_from(&mut self, local: IpAddr, address: IpAddr) -> Result<Way, NetlinkError> {
        self.way(Some(local), address)
    }

    fn way(&mut self, local: Option<IpAddr>, address: IpAddr) -> Result<Way, NetlinkError> {
        let what = || format!("looking up the way to {address}");
        let answer = self.query(what, RouteNetlinkMessage::GetRoute(lookup(local, address)))?;
        let malformed = || NetlinkError::Malformed {
            what: what(),
            reason: "it names no device".to_owned(),
        };
        let RouteNetlinkMessage::NewRoute(message) = answer else {
            return Err(malformed());
        };
        let device = device_of(&message.attributes).ok_or_else(malformed)?;
        let mtu = match mtu_of(&message.attributes) {
            Some(mtu) => mtu,
            None => self.link(device)?.mtu,
        };
        Ok(Way {
            device,
            gateway: gateway_of(&message.attributes),
            source: source_of(&message.attributes),
            mtu,
        })
    }

    /// A route that keeps the way to `peer` where it is, outside the devices `tunnels`: install it before a tunnel's route covers
    /// the peer, and again when the network has changed. `None` if the peer is this machine. Looks at the main table, where tunnels'
    /// routes go.
    ///
    /// # Errors
    /// [`NetlinkError::NoWay`] if only a tunnel leads there; otherwise see [`NetlinkError`].
    pub fn pin(&mut self, peer: IpAddr, tunnels: &[u32]) -> Result<Option<Route>, NetlinkError> {
        let what = || format!("looking up the way to {peer}");
        let request = lookup(None, peer);
        // That there is no way now may be our own last resort.
        if let Ok(RouteNetlinkMessage::NewRoute(message)) =
            self.query(what, RouteNetlinkMessage::GetRoute(request))
            && message.header.kind == RouteType::Local
        {
            return Ok(None);
        }
        let family = if peer.is_ipv4() {
            AddressFamily::Inet
        } else {
            AddressFamily::Inet6
        };
        // A lookup would find an old pin, or a tunnel. The best of everybody else's routes is where packets went without us.
        let best = self
            .main_table(family, RouteProtocol::Unspec)?
            .into_iter()
            .filter(|message| message.header.protocol != RouteProtocol::from(ROUTE_PROTOCOL))
            .filter(|message| message.header.kind == RouteType::Unicast)
            .filter_map(|message| {
                Some((
                    prefix_of(&message)?,
                    metric_of(&message),
                    first_hop(&message)?,
                    source_of(&message.attributes),
                ))
            })
            .filter(|(prefix, _, hop, _)| prefix.contains(peer) && !tunnels.contains(&hop.0))
            .min_by_key(|(prefix, metric, ..)| (std::cmp::Reverse(prefix.length()), *metric));
        let (_, _, (device, gateway), source) = best.ok_or(NetlinkError::NoWay(peer))?;
        Ok(Some(Route {
            prefix: Prefix::host(peer),
            metric: PIN_METRIC,
            target: Target::Neighbour { device, gateway },
            // The peer knows us by the address we have come from so far.
            source,
        }))
    }

    /// The main table's routes of one family and protocol (`Unspec`: all).
    fn main_table(
        &mut self,
        family: AddressFamily,
        protocol: RouteProtocol,
    ) -> Result<Vec<RouteMessage>, NetlinkError> {
        let mut filter = RouteMessage::default();
        filter.header.address_family = family;
        filter.header.table = RouteHeader::RT_TABLE_MAIN;
        filter.header.protocol = protocol;
        let answers = match self.dump(
            || "listing the routes".to_owned(),
            RouteNetlinkMessage::GetRoute(filter),
        ) {
            // A kernel that filters and has no such table or family has no such routes.
            Err(error) if error.is_not_found() => Vec::new(),
            Err(NetlinkError::Refused { ref error, .. })
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP)
                ) =>
            {
                Vec::new()
            }
            result => result?,
        };
        let routes = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(message) => Some(message),
            _ => None,
        });
        Ok(routes
            .filter(|message| {
                message.header.address_family == family
                    && message.header.table == RouteHeader::RT_TABLE_MAIN
            })
            .filter(|message| {
                protocol == RouteProtocol::Unspec || message.header.protocol == protocol
            })
            .collect())
    }
}
