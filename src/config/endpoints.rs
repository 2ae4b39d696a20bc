//! The two gateways of a tunnel: addresses and identities.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::diagnostic::Diagnostic;
use super::file::ConfigTable;
use super::scope::{Origin, Provided, Scope};
use super::settings::GatewaySettings;
use super::value::{self, quoted};
use crate::ike::{Identity, Peer, PeerId};

/// Addresses and identities of a tunnel.
pub struct Endpoints {
    /// Address or name of the peer.
    pub peer: Provided<Peer>,
    /// Local address.
    pub local: Provided<IpAddr>,
    /// Address by which the peer knows this machine: the tunnel's `address`, else the gateway's.
    pub address: Option<IpAddr>,
    /// Our identity.
    pub id: Identity,
    /// The identity expected of the peer.
    pub peer_id: PeerId,
}

impl Endpoints {
    /// Reads the endpoints of a tunnel; `gateway_table` is the table of `gateway`.
    pub fn read(
        scope: &mut Scope<'_, '_>,
        gateway: &GatewaySettings,
        gateway_table: &ConfigTable,
    ) -> Option<Endpoints> {
        let advice = "write the address of the cloud's gateway: peer = \"203.0.113.7\"";
        let peer = scope.required("peer", &value::PEER, advice);
        let local = local_address(scope, gateway, peer.as_ref().map(|peer| &peer.value));
        let own = scope.value("address", &value::HOST_ADDRESS);
        let own = own.map(|provided| provided.value);
        let id = identity(scope, own, gateway, gateway_table);
        let peer_id = scope.value_or("peer-id", &value::PEER_ID, PeerId::Any);
        Some(Endpoints {
            peer: peer?,
            local: local?,
            address: own.or(gateway.address),
            // Without an identity an error has been reported, and only the lints see this placeholder.
            id: id.unwrap_or(Identity::KeyId(Vec::new())),
            peer_id: peer_id.value,
        })
    }
}

/// Reads `local-address`. The default is the gateway's `listen`, else any address of the peer's family.
fn local_address(
    scope: &mut Scope<'_, '_>,
    gateway: &GatewaySettings,
    peer: Option<&Peer>,
) -> Option<Provided<IpAddr>> {
    if scope.sets("local-address") {
        return scope.value("local-address", &value::ADDRESS);
    }
    let any_of = |address: IpAddr| match address {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let (value, origin) = match (gateway.listen, peer, gateway.address) {
        (Some(listen), _, _) => (listen, Origin::DerivedFrom("listen")),
        (None, Some(Peer::Address(peer)), _) => (any_of(*peer), Origin::DerivedFrom("peer")),
        (None, _, Some(own @ IpAddr::V6(_))) => (any_of(own), Origin::DerivedFrom("address")),
        (None, _, _) => (Ipv4Addr::UNSPECIFIED.into(), Origin::Default),
    };
    scope.record("local-address", quoted(&value), origin);
    Some(Provided {
        value,
        origin,
        span: scope.header(),
    })
}

/// Reads `id`. The default, also as `%any`, is `own`, the tunnel's address, else the gateway's address.
fn identity(
    scope: &mut Scope<'_, '_>,
    own: Option<IpAddr>,
    gateway: &GatewaySettings,
    gateway_table: &ConfigTable,
) -> Option<Identity> {
    if scope.sets("id") {
        let id = scope.read("id", &value::PEER_ID)?;
        if let PeerId::Exactly(identity) = id.value {
            scope.record("id", quoted(&identity), id.origin);
            return Some(identity);
        }
    }
    if own.is_none() && scope.sets("address") {
        return None;
    }
    let Some(address) = own.or(gateway.address) else {
        // One `address` under `[gateway]` serves every tunnel, so it is reported missing there, and once. An invalid one has
        // been reported already.
        if gateway_table.entry("address").is_none() {
            let header = Some(gateway_table.header.clone()).filter(|header| !header.is_empty());
            scope.report(Diagnostic::error(
                header,
                "the public address of this machine is not configured",
                "set `address` under `[gateway]`; it is also the IKE identity",
            ));
        }
        return None;
    };
    scope.record("id", quoted(&address), Origin::DerivedFrom("address"));
    Some(Identity::from(address))
}
