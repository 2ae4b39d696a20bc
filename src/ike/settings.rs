//! Settings of one tunnel, with all defaults resolved.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::identity::{Identity, PeerId};
use crate::crypto::{EspProposal, IkeProposal, Secret};
use crate::net::Policy;
pub use crate::net::TunnelId;

/// Settings of a tunnel: the peer, the authentication of both sides, the proposals, and when to connect.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The configured name of the tunnel.
    pub name: String,
    /// The peer's address or name.
    pub peer: Peer,
    /// The local address; if unspecified, the routing table selects it, or the response uses the address of the request.
    pub local: IpAddr,
    /// Our identity (IDi as initiator, IDr as responder).
    pub id: Identity,
    /// The identity that the peer must have.
    pub peer_id: PeerId,
    /// The pre-shared key.
    pub psk: Psk,
    /// The post-quantum pre-shared key, if any.
    pub ppk: Option<Ppk>,
    /// IKE proposals in order of preference.
    pub ike: Vec<IkeProposal>,
    /// ESP proposals in order of preference.
    pub esp: Vec<EspProposal>,
    /// The traffic selectors of both sides.
    pub policy: Policy,
    /// How the Child SAs that we create share the traffic selectors.
    pub selectors: SelectorMode,
    /// Hard lifetime of an IKE SA.
    pub ike_lifetime: Duration,
    /// Hard lifetime of a Child SA.
    pub child_lifetime: Duration,
    /// When to connect.
    pub start: Start,
    /// Dead peer detection.
    pub dpd: Dpd,
    /// Encapsulation of ESP.
    pub encapsulation: Encapsulation,
    /// Maximum length of an IP packet that carries an IKE message or a fragment of one (RFC 7383).
    pub fragment_size: u16,
    /// Whether a rekey check runs soon after the first connect.
    pub rekey_check: RekeyCheck,
}

/// Maximum of different traffic that one IKE SA has Child SAs for: a peer may create one for each pair of networks.
pub const MAX_TRAFFICS: usize = 64;

/// How the Child SAs that we create share the traffic selectors. A peer may create others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SelectorMode {
    /// One Child SA with all of them.
    Together,
    /// One Child SA for each pair of a local and a remote one, for peers that take one of each only.
    Pairs,
}

impl Settings {
    /// The traffic selectors of each Child SA that the tunnel is to have.
    pub fn child_policies(&self) -> Vec<Policy> {
        match self.selectors {
            SelectorMode::Together => vec![self.policy.clone()],
            SelectorMode::Pairs => self.pairs().collect(),
        }
    }

    /// The traffic selectors of the Child SA of IKE_AUTH.
    pub fn first_policy(&self) -> Policy {
        let first = match self.selectors {
            SelectorMode::Together => None,
            SelectorMode::Pairs => self.pairs().next(),
        };
        first.unwrap_or_else(|| self.policy.clone())
    }

    /// The pairs of a local and a remote selector of one family.
    fn pairs(&self) -> impl Iterator<Item = Policy> {
        let Policy { local, remote } = &self.policy;
        let pairs = local
            .iter()
            .flat_map(|ours| remote.iter().map(move |theirs| (*ours, *theirs)));
        let same_family = pairs.filter(|(ours, theirs)| ours.is_ipv4() == theirs.is_ipv4());
        same_family.take(MAX_TRAFFICS).map(|(ours, theirs)| Policy {
            local: vec![ours],
            remote: vec![theirs],
        })
    }
}

/// The peer's address: fixed, or resolved from its name for each attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A fixed address.
    Address(IpAddr),
    /// A host name, resolved again for every attempt.
    Name(String),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Address(address) => address.fmt(f),
            Peer::Name(name) => f.write_str(name),
        }
    }
}

/// A pre-shared key of arbitrary bytes.
#[derive(Clone, Debug)]
pub struct Psk(pub Secret);

/// A post-quantum pre-shared key (RFC 8784), mixed into the keys in addition to the key exchange.
#[derive(Clone, Debug)]
pub struct Ppk {
    /// The identity of the PPK, the same on both sides.
    pub id: String,
    /// The key itself.
    pub key: Secret,
    /// Whether the peer must have the PPK.
    pub demand: PpkDemand,
}

/// What happens to an IKE SA if the peer does not have our PPK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PpkDemand {
    /// The authentication fails.
    Required,
    /// The IKE SA is established without the PPK.
    Optional,
}

/// When a tunnel connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At start, and again whenever the tunnel goes down.
    Auto,
    /// When the first outbound packet arrives.
    Trap,
    /// When the peer connects, or by command.
    Add,
}

/// Dead peer detection (RFC 7296 §2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dpd {
    /// Time without an authentic message after which a liveness check is sent.
    pub delay: Duration,
    /// Time for which the liveness check is repeated before the peer counts as dead.
    pub timeout: Duration,
}

/// Whether both SAs are rekeyed once soon after a tunnel first comes up. A PFS group that the peer rejects then shows at once,
/// not hours later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RekeyCheck {
    /// One rekey of each SA.
    Once,
    /// No check.
    Never,
}

/// Encapsulation of ESP between the gateways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encapsulation {
    /// Always UDP 4500 (RFC 3948); a NAT detection hash that cannot match forces the peer to use it too.
    Udp,
    /// UDP if a NAT is detected, IP protocol 50 otherwise.
    Auto,
    /// IP protocol 50 only: if a NAT is detected, the tunnel is not established.
    Esp,
}

impl Encapsulation {
    /// The keyword of the configuration.
    pub const fn word(self) -> &'static str {
        match self {
            Encapsulation::Udp => "udp",
            Encapsulation::Auto => "auto",
            Encapsulation::Esp => "esp",
        }
    }
}

#[cfg(test)]
pub mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// Settings for tests in which only the proposals matter.
    pub fn settings(ike: &str, esp: &str) -> Settings {
        Settings {
            name: "t".to_owned(),
            peer: Peer::Address(IpAddr::from([192, 0, 2, 2])),
            local: IpAddr::from([192, 0, 2, 1]),
            id: Identity::Ipv4(Ipv4Addr::new(192, 0, 2, 1)),
            peer_id: PeerId::Any,
            psk: Psk(Secret::from_slice(b"a key both sides know")),
            ppk: None,
            ike: vec![IkeProposal::parse(ike).unwrap().0],
            esp: vec![EspProposal::parse(esp).unwrap().0],
            policy: Policy::default(),
            ike_lifetime: Duration::from_secs(86_400),
            child_lifetime: Duration::from_secs(86_400),
            start: Start::Auto,
            dpd: Dpd {
                delay: Duration::from_secs(10),
                timeout: Duration::from_secs(30),
            },
            selectors: SelectorMode::Together,
            encapsulation: Encapsulation::Udp,
            rekey_check: RekeyCheck::Never,
            fragment_size: 1280,
        }
    }
}
