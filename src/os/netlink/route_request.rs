//! Requests about routes: installing, withdrawing and listing own ones, listing foreign ones, and lookups (rtnetlink(7)).

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::route::{
    ForeignRoute, MAIN_TABLE, ROUTE_PROTOCOL, ResolvedRoute, Route, RouteInterest, RouteKey,
    RouteMtu, RouteTarget, decode, device_of, encode, encode_key, family_of, first_hop, gateway_of,
    metric_of, mtu_of, prefix_of, source_of, table_of,
};
use super::{Netlink, NetlinkError, ignore_missing};
use crate::net::Prefix;

/// All tables, in a filter.
const ALL_TABLES: u32 = 0;

impl Netlink {
    /// Installs a new route. Its devices must be up.
    ///
    /// # Errors
    /// [`NetlinkError::RouteExists`] if a route has this prefix and metric; otherwise see [`NetlinkError`].
    pub fn install(&mut self, route: &Route) -> Result<(), NetlinkError> {
        let result = self.new_route(route, NLM_F_CREATE | NLM_F_EXCL);
        result.map_err(|error| match error.errno() {
            Some(libc::EEXIST) => NetlinkError::RouteExists {
                route: Box::new(route.clone()),
            },
            _ => error,
        })
    }

    /// Replaces an own route of the same prefix and metric in one step, without a moment in between. (IPv6 may lose a packet that is
    /// being looked up: the kernel frees the old route at once.)
    ///
    /// Before a device of several is removed, replace the route by one without it: removing a device removes the whole IPv4 route.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn replace(&mut self, route: &Route) -> Result<(), NetlinkError> {
        self.new_route(route, NLM_F_CREATE | NLM_F_REPLACE)
    }

    fn new_route(&mut self, route: &Route, flags: u16) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::NewRoute(encode(route));
        self.change(|| format!("installing {route}"), message, flags)
    }

    /// Adds a default route that is not an own one, as an administrator would.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn add_default_route(&mut self, device: u32, gateway: IpAddr) -> Result<(), NetlinkError> {
        let route = Route {
            table: MAIN_TABLE,
            prefix: Prefix::containing(gateway, 0),
            metric: 1024,
            target: RouteTarget::NextHop {
                device,
                gateway: Some(gateway),
            },
            source: None,
        };
        let mut message = encode(&route);
        message.header.protocol = RouteProtocol::Static;
        message.header.flags = RouteFlags::empty();
        self.change(
            || format!("installing {route}"),
            RouteNetlinkMessage::NewRoute(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    /// Removes an own route, whatever its target; one that is gone already is no error.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn withdraw(&mut self, key: RouteKey) -> Result<(), NetlinkError> {
        let (_, prefix, metric) = key;
        let mut message = encode_key(key);
        // Any type and scope; the protocol limits the request to own routes.
        message.header.kind = RouteType::Unspec;
        message.header.scope = RouteScope::NoWhere;
        ignore_missing(self.change(
            || format!("removing the route {prefix} metric {metric}"),
            RouteNetlinkMessage::DelRoute(message),
            0,
        ))
    }

    /// Removes all own routes, and returns them.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn withdraw_all(&mut self) -> Result<Vec<Route>, NetlinkError> {
        let routes = self.own_routes()?;
        for route in &routes {
            self.withdraw(route.key())?;
        }
        Ok(routes)
    }

    /// Own routes of all tables. The kernel filters by protocol: other programs' routes are not sent.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn own_routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        let own = RouteProtocol::from(ROUTE_PROTOCOL);
        let select =
            |message: &RouteMessage| decode(message).filter(|_| message.header.protocol == own);
        let mut routes = self.routes(AddressFamily::Inet, ALL_TABLES, own, select)?;
        routes.extend(self.routes(AddressFamily::Inet6, ALL_TABLES, own, select)?);
        Ok(routes)
    }

    /// Foreign routes that `interest` selects. The kernel has no filter for them, so this reads the whole main table; only selected
    /// routes are kept in memory.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn foreign_routes(
        &mut self,
        interest: &RouteInterest,
    ) -> Result<Vec<ForeignRoute>, NetlinkError> {
        let select = |message: &RouteMessage| {
            let own = message.header.protocol == RouteProtocol::from(ROUTE_PROTOCOL);
            let prefix = prefix_of(message).filter(|prefix| !own && interest.matches(*prefix))?;
            let unicast = message.header.kind == RouteType::Unicast;
            Some(ForeignRoute {
                prefix,
                metric: metric_of(message),
                next_hop: unicast.then(|| first_hop(message)).flatten(),
                source: source_of(&message.attributes),
            })
        };
        let of_family = |v4: bool| {
            let mut prefixes = interest.prefixes.iter().map(Prefix::is_ipv4);
            prefixes.any(|is| is == v4) || interest.peers.iter().any(|peer| peer.is_ipv4() == v4)
        };
        let mut routes = Vec::new();
        for (family, v4) in [(AddressFamily::Inet, true), (AddressFamily::Inet6, false)] {
            if of_family(v4) {
                let any = RouteProtocol::Unspec;
                routes.extend(self.routes(family, MAIN_TABLE, any, select)?);
            }
        }
        Ok(routes)
    }

    /// Looks up the route to `address`.
    ///
    /// # Errors
    /// [`NetlinkError::Rejected`] with `ENETUNREACH` or `EHOSTUNREACH` without a route.
    pub fn route_to(&mut self, address: IpAddr) -> Result<ResolvedRoute, NetlinkError> {
        self.resolve(None, address)
    }

    /// Looks up the route from `local`, an address of this host, to `address`: `ip rule` may select a table by source address.
    ///
    /// # Errors
    /// As [`Netlink::route_to`].
    pub fn route_from(
        &mut self,
        local: IpAddr,
        address: IpAddr,
    ) -> Result<ResolvedRoute, NetlinkError> {
        self.resolve(Some(local), address)
    }

    fn resolve(
        &mut self,
        local: Option<IpAddr>,
        address: IpAddr,
    ) -> Result<ResolvedRoute, NetlinkError> {
        let what = || format!("looking up the route to {address}");
        let malformed = || NetlinkError::Malformed {
            what: what(),
            reason: "it has no device".to_owned(),
        };
        let mut request = RouteMessage::default();
        request.header.address_family = family_of(address);
        request.header.destination_prefix_length = Prefix::host(address).length();
        request.attributes = vec![RouteAttribute::Destination(address.into())];
        if let Some(local) = local {
            request.header.source_prefix_length = Prefix::host(local).length();
            request
                .attributes
                .push(RouteAttribute::Source(local.into()));
        }
        let RouteNetlinkMessage::NewRoute(message) =
            self.query(what, RouteNetlinkMessage::GetRoute(request))?
        else {
            return Err(malformed());
        };
        let device = device_of(&message.attributes).ok_or_else(malformed)?;
        let (mtu, learnt_mtu) = match mtu_of(&message.attributes) {
            Some(RouteMtu::Configured(mtu)) => (mtu, None),
            Some(RouteMtu::Learnt(mtu)) => (self.link(device)?.mtu, Some(mtu)),
            None => (self.link(device)?.mtu, None),
        };
        Ok(ResolvedRoute {
            device,
            gateway: gateway_of(&message.attributes),
            source: source_of(&message.attributes),
            mtu,
            learnt_mtu,
        })
    }

    /// Reads the routes of one family, table and protocol (`Unspec`: all), and keeps what `select` returns.
    fn routes<T>(
        &mut self,
        family: AddressFamily,
        table: u32,
        protocol: RouteProtocol,
        select: impl Fn(&RouteMessage) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        let mut filter = RouteMessage::default();
        filter.header.address_family = family;
        filter.header.table = u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
        filter.header.protocol = protocol;
        let result = self.dump(
            || "listing the routes".to_owned(),
            &RouteNetlinkMessage::GetRoute(filter),
            |answer| match answer {
                // Kernels before 4.20 do not filter.
                RouteNetlinkMessage::NewRoute(message)
                    if message.header.address_family == family
                        && (table == ALL_TABLES || table_of(&message) == table) =>
                {
                    select(&message)
                }
                _ => None,
            },
        );
        match result {
            // Neither this table nor this family exists: no routes.
            Err(error)
                if error.is_not_found()
                    || matches!(error.errno(), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP)) =>
            {
                Ok(Vec::new())
            }
            result => result,
        }
    }
}
