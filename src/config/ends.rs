//! Who the two gateways of a tunnel are, and how they prove it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Secrets;
use super::diagnostic::Diagnostic;
use super::origin::Origin;
use super::scope::{Given, Scope};
use super::secret::{self, Place};
use super::show::{self, quoted};
use super::tunnel::Reader;
use super::value;
use crate::crypto::Secret;
use crate::ike::{Identity, Peer, PeerId, Psk};

/// The two gateways of a tunnel.
pub struct Ends {
    /// Where the peer is.
    pub peer: Given<Peer>,
    /// Where we send from.
    pub local: Given<IpAddr>,
    /// Who we say we are.
    pub id: Identity,
    /// Who the peer must say it is.
    pub peer_id: PeerId,
    /// How both prove it.
    pub psk: Psk,
}

impl Reader<'_> {
    /// Reads both ends of a tunnel.
    pub fn ends(&self, scope: &mut Scope<'_, '_>) -> Option<Ends> {
        let advice = "write the address of the cloud's gateway: peer = \"203.0.113.7\"";
        let peer = scope.required("peer", value::peer, quoted, advice);
        let local = self.local_address(scope, peer.as_ref().map(|peer| &peer.value));
        let id = self.identity(scope);
        let peer_id = scope.value_or("peer-id", value::peer_id, show::peer_id, PeerId::Any);
        let psk = self.psk(scope);
        Some(Ends {
            peer: peer?,
            local: local?,
            // Without one of these an error is on record, and these settings go no further than the lints.
            id: id.unwrap_or(Identity::KeyId(Vec::new())),
            peer_id: peer_id.value,
            psk: psk.unwrap_or_else(unknown_psk),
        })
    }

    /// `local-address`, else the gateway's `listen`, else any address of the peer's family.
    fn local_address(
        &self,
        scope: &mut Scope<'_, '_>,
        peer: Option<&Peer>,
    ) -> Option<Given<IpAddr>> {
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
        Some(Given {
            value,
            origin,
            at: scope.header(),
        })
    }

    /// `id`, else the tunnel's `address`, else the gateway's.
    fn identity(&self, scope: &mut Scope<'_, '_>) -> Option<Identity> {
        let own = scope.value("address", value::host_address, quoted);
        if scope.sets("id") {
            return scope
                .value("id", value::identity, quoted)
                .map(|given| given.value);
        }
        if scope.sets("address") && own.is_none() {
            return None;
        }
        let Some(address) = own.map(|given| given.value).or(self.gateway.address) else {
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

    /// The key, from wherever the file says it is. Its place is explained, never the key.
    fn psk(&self, scope: &mut Scope<'_, '_>) -> Option<Psk> {
        let file = scope.read("psk.file", value::path);
        let credential = scope.read("psk.credential", value::credential);
        let (place, at) = match (file, credential) {
            (Some(file), Some(_)) => {
                scope.find(Diagnostic::error(
                    file.at,
                    "`psk` names both a file and a credential",
                    "keep one of them",
                ));
                return None;
            }
            (Some(file), None) => {
                let path = self.folder.join(file.value);
                scope.explain("psk.file", quoted(&path.display()), file.origin);
                (Place::File(path), file.at)
            }
            (None, Some(credential)) => {
                scope.explain(
                    "psk.credential",
                    quoted(&credential.value),
                    credential.origin,
                );
                (Place::Credential(credential.value), credential.at)
            }
            (None, None) => {
                let unusable = scope.sets("psk.file")
                    || scope.sets("psk.credential")
                    || scope.file.refused("psk");
                if !unusable {
                    let what = format!(
                        "tunnel `{}` has no `psk`",
                        scope.tunnel.as_deref().unwrap_or_default()
                    );
                    let advice = "make a key with `groundlink psk`, put it into a file and write psk = { file = \"/etc/groundlink/psk/NAME\" }";
                    scope.find(Diagnostic::error(scope.header(), what, advice));
                }
                return None;
            }
        };
        match (
            secret::read(&place, self.environment.credentials.as_deref()),
            self.environment.secrets,
        ) {
            (Ok(found), _) => {
                for (what, advice) in found.doubts {
                    scope.find(Diagnostic::warning(at.clone(), what, advice));
                }
                Some(found.psk)
            }
            (Err(secret::Problem::NotForUs { what, .. }), Secrets::IfReadable) => {
                scope.find(Diagnostic::note(at, format!("{what}; not checked"), ""));
                Some(unknown_psk())
            }
            (
                Err(
                    secret::Problem::NotForUs { what, advice }
                    | secret::Problem::Unusable { what, advice },
                ),
                _,
            ) => {
                scope.find(Diagnostic::error(at, what, advice));
                None
            }
        }
    }
}

/// Stands in where a key cannot be had and nobody will use it.
fn unknown_psk() -> Psk {
    Psk(Secret::new(Vec::new()))
}
