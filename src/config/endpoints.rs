//! Who the two gateways of a tunnel are, and how they prove it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::diagnostic::Diagnostic;
use super::origin::Origin;
use super::psk;
use super::scope::{Provided, Scope};
use super::show::{self, quoted};
use super::tunnel::Reader;
use super::value;
use crate::ike::{Identity, Peer, PeerId, Ppk, Psk};

/// The two gateways of a tunnel.
pub struct Endpoints {
    /// Where the peer is.
    pub peer: Provided<Peer>,
    /// Where we send from.
    pub local: Provided<IpAddr>,
    /// The address the peer knows us by: the tunnel's `address`, else the gateway's.
    pub address: Option<IpAddr>,
    /// Who we say we are.
    pub id: Identity,
    /// Who the peer must say it is.
    pub peer_id: PeerId,
    /// How both prove it.
    pub psk: Psk,
    /// What goes into the keys beside the key exchange.
    pub ppk: Option<Ppk>,
}

impl Reader<'_> {
    /// Reads both ends of a tunnel.
    pub fn ends(&self, scope: &mut Scope<'_, '_>) -> Option<Endpoints> {
        let advice = "write the address of the cloud's gateway: peer = \"203.0.113.7\"";
        let peer = scope.required("peer", value::peer, quoted, advice);
        let local = self.local_address(scope, peer.as_ref().map(|peer| &peer.value));
        let (address, id) = self.identity(scope);
        let peer_id = scope.value_or("peer-id", value::peer_id, show::peer_id, PeerId::Any);
        let psk = self.psk(scope);
        let ppk = self.ppk(scope);
        Some(Endpoints {
            peer: peer?,
            local: local?,
            address,
            // Without one of these an error is on record, and these settings go no further than the lints.
            id: id.unwrap_or(Identity::KeyId(Vec::new())),
            peer_id: peer_id.value,
            psk: psk.unwrap_or_else(|| Psk(psk::unknown())),
            ppk,
        })
    }

    /// `local-address`, else the gateway's `listen`, else any address of the peer's family.
    fn local_address(
        &self,
        scope: &mut Scope<'_, '_>,
        peer: Option<&Peer>,
    ) -> Option<Provided<IpAddr>> {
        if scope.sets("local-address") {
            return scope.value("local-address", value::address, quoted);
        }
        let (value, origin) = match (self.gateway.listen, peer, self.gateway.address) {
            (Some(listen), _, _) => (listen, Origin::Follows("listen")),
            (None, Some(Peer::Address(IpAddr::V6(_))), _) => {
                (Ipv6Addr::UNSPECIFIED.into(), Origin::Follows("peer"))
            }
            (None, Some(Peer::Address(IpAddr::V4(_))), _) => {
                (Ipv4Addr::UNSPECIFIED.into(), Origin::Follows("peer"))
            }
            (None, _, Some(IpAddr::V6(_))) => {
                (Ipv6Addr::UNSPECIFIED.into(), Origin::Follows("address"))
            }
            (None, _, _) => (Ipv4Addr::UNSPECIFIED.into(), Origin::Default),
        };
        scope.explain("local-address", quoted(&value), origin);
        Some(Provided {
            value,
            origin,
            at: scope.header(),
        })
    }

    /// The address the peer knows us by: the tunnel's `address`, else the gateway's. And `id`, else that address.
    fn identity(&self, scope: &mut Scope<'_, '_>) -> (Option<IpAddr>, Option<Identity>) {
        let own = scope.value("address", value::host_address, quoted);
        let own = own.map(|given| given.value);
        let id = self.identity_beside(scope, own);
        (own.or(self.gateway.address), id)
    }

    fn identity_beside(&self, scope: &mut Scope<'_, '_>, own: Option<IpAddr>) -> Option<Identity> {
        if scope.sets("id") {
            return scope
                .value("id", value::identity, quoted)
                .map(|given| given.value);
        }
        if scope.sets("address") && own.is_none() {
            return None;
        }
        let Some(address) = own.or(self.gateway.address) else {
            // One `address` under `[gateway]` serves every tunnel, so that is where it is missing, once. One that is there and
            // unusable was complained about already.
            if self.table.entry("address").is_some() {
                return None;
            }
            let gateway = Some(self.table.header.clone()).filter(|header| !header.is_empty());
            scope.find(Diagnostic::error(
                gateway,
                "nothing says which address the cloud knows this machine by",
                "set `address` under `[gateway]` to the public address; it is also our IKE identity",
            ));
            return None;
        };
        scope.explain("id", quoted(&address), Origin::Follows("address"));
        Some(Identity::from(address))
    }
}
