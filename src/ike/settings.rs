//! Settings of one tunnel, with all defaults resolved.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use data_encoding::HEXLOWER_PERMISSIVE;

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

/// An IKE identity (RFC 7296 §3.5).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// ID_IPV4_ADDR.
    Ipv4(Ipv4Addr),
    /// ID_IPV6_ADDR.
    Ipv6(Ipv6Addr),
    /// ID_FQDN: a host name without a trailing dot.
    Fqdn(String),
    /// ID_RFC822_ADDR: `user@host`.
    Email(String),
    /// ID_KEY_ID: opaque bytes, written `key-id:` and hex digits.
    KeyId(Vec<u8>),
}

impl From<IpAddr> for Identity {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Identity::Ipv4(v4),
            IpAddr::V6(v6) => Identity::Ipv6(v6),
        }
    }
}

/// Maximum length of an identity from the configuration or a peer, in bytes.
pub const MAX_IDENTITY_LEN: usize = 1024;

impl std::str::FromStr for Identity {
    type Err = IdentityError;

    /// Reads `203.0.113.7`, `2001:db8::7`, `gw.example.org`, `ops@example.org` or `key-id:0a0b`.
    fn from_str(text: &str) -> Result<Self, IdentityError> {
        if text.is_empty() {
            return Err(IdentityError::Empty);
        }
        if text.len() > MAX_IDENTITY_LEN {
            return Err(IdentityError::TooLong);
        }
        if let Some(hex) = text.strip_prefix("key-id:") {
            return unhex(hex).map(Identity::KeyId).ok_or(IdentityError::Hex);
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(address.into());
        }
        if text
            .chars()
            .any(|c| c.is_control() || c.is_whitespace() || !c.is_ascii())
        {
            return Err(IdentityError::Characters);
        }
        if text.contains('@') {
            return match text.split_once('@') {
                Some((user, host)) if !user.is_empty() && !host.is_empty() => {
                    Ok(Identity::Email(text.to_owned()))
                }
                _ => Err(IdentityError::Email),
            };
        }
        Ok(Identity::Fqdn(
            text.strip_suffix('.').unwrap_or(text).to_owned(),
        ))
    }
}

/// Why a text is not a valid identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The text is empty.
    #[error("an identity cannot be empty")]
    Empty,
    /// The identity is longer than [`MAX_IDENTITY_LEN`].
    #[error("an identity may have at most 1024 bytes")]
    TooLong,
    /// `key-id:` without an even number of hex digits.
    #[error("`key-id:` requires an even number of hex digits")]
    Hex,
    /// The text contains spaces, control or non-ASCII characters.
    #[error("a host name or e-mail identity must be printable ASCII without spaces")]
    Characters,
    /// `@` without text on both sides.
    #[error("an e-mail identity must have the form `user@host`")]
    Email,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Ipv4(address) => address.fmt(f),
            Identity::Ipv6(address) => address.fmt(f),
            Identity::Fqdn(name) | Identity::Email(name) => f.write_str(name),
            Identity::KeyId(bytes) => {
                f.write_str("key-id:")?;
                bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

fn unhex(hex: &str) -> Option<Vec<u8>> {
    let bytes = HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok()?;
    (!bytes.is_empty()).then_some(bytes)
}

/// The identity that the peer must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerId {
    /// Any identity that authenticates with the pre-shared key.
    Any,
    /// Type and value must both match.
    Exactly(Identity),
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
            encapsulation: Encapsulation::Udp,
            rekey_check: RekeyCheck::Never,
            fragment_size: 1280,
        }
    }

    #[test]
    fn identities_are_parsed_by_their_form_and_round_trip() {
        for text in [
            "203.0.113.7",
            "2001:db8::7",
            "gw.example.org",
            "ops@example.org",
            "key-id:0a0b",
        ] {
            assert_eq!(text.parse::<Identity>().unwrap().to_string(), text);
        }
        assert!(matches!("1.2.3.4".parse(), Ok(Identity::Ipv4(_))));
        assert!(matches!("ops@example.org".parse(), Ok(Identity::Email(_))));
    }

    #[test]
    fn h01_invalid_identities_are_rejected() {
        assert_eq!("".parse::<Identity>(), Err(IdentityError::Empty));
        assert_eq!("key-id:abc".parse::<Identity>(), Err(IdentityError::Hex));
        assert_eq!("a b".parse::<Identity>(), Err(IdentityError::Characters));
        assert_eq!("@host".parse::<Identity>(), Err(IdentityError::Email));
        assert_eq!(
            "x".repeat(2000).parse::<Identity>(),
            Err(IdentityError::TooLong)
        );
    }
}
