//! What one tunnel asks of the engine: fully resolved, no defaults left to fill in.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use data_encoding::HEXLOWER_PERMISSIVE;

use crate::crypto::{EspProposal, IkeProposal, Secret};
use crate::net::Policy;
pub use crate::net::TunnelId;

/// One tunnel: who the peer is, how both prove themselves, what is negotiated and when to connect.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name people gave the tunnel.
    pub name: String,
    /// Where the peer is.
    pub peer: Peer,
    /// The address we send from; unspecified means whichever the routing table picks, or the one a request came to.
    pub local: IpAddr,
    /// How we identify ourselves (IDi as initiator, IDr as responder).
    pub id: Identity,
    /// How the peer must identify itself.
    pub peer_id: PeerId,
    /// The pre-shared key.
    pub psk: Psk,
    /// The post-quantum pre-shared key, if there is one.
    pub ppk: Option<Ppk>,
    /// IKE proposals in order of preference.
    pub ike: Vec<IkeProposal>,
    /// ESP proposals in order of preference.
    pub esp: Vec<EspProposal>,
    /// Our traffic selectors and theirs.
    pub policy: Policy,
    /// How long an IKE SA may live.
    pub ike_lifetime: Duration,
    /// How long a Child SA may live.
    pub child_lifetime: Duration,
    /// When to connect.
    pub start: Start,
    /// How a dead peer is noticed.
    pub dpd: Dpd,
    /// How ESP travels.
    pub encapsulation: Encapsulation,
    /// The largest IP packet that may carry an IKE message or a fragment of one (RFC 7383).
    pub fragment_size: u16,
    /// Whether to find out soon after the first connect that the peer rekeys.
    pub rekey_check: RekeyCheck,
}

/// Where a peer is: at an address, or at whatever address its name has at each attempt.
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

/// The longest identity we take from a configuration or a peer, in bytes.
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

/// Why a text is no identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Nothing there.
    #[error("an identity cannot be empty")]
    Empty,
    /// Longer than [`MAX_IDENTITY_LEN`].
    #[error("an identity may have at most 1024 bytes")]
    TooLong,
    /// `key-id:` without whole bytes of hex behind it.
    #[error("`key-id:` wants an even number of hex digits")]
    Hex,
    /// Spaces, control or non-ASCII characters.
    #[error("a name identity holds printable ASCII without spaces")]
    Characters,
    /// `@` without something on both sides.
    #[error("an e-mail identity is `user@host`")]
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

/// What the peer's identity must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerId {
    /// Whoever holds the pre-shared key will do.
    Any,
    /// Type and value must both match.
    Exactly(Identity),
}

/// A pre-shared key, of any bytes.
#[derive(Clone, Debug)]
pub struct Psk(pub Secret);

/// A post-quantum pre-shared key (RFC 8784), which goes into the keys beside the key exchange.
#[derive(Clone, Debug)]
pub struct Ppk {
    /// Its name, the same on both sides.
    pub id: String,
    /// The key itself.
    pub key: Secret,
    /// What to do with a peer that lacks it.
    pub demand: PpkDemand,
}

/// What becomes of an IKE SA whose peer does not have our PPK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PpkDemand {
    /// It does not come about.
    Required,
    /// It does without.
    Optional,
}

/// When a tunnel connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At start, and again whenever it drops.
    Auto,
    /// When the first packet wants through.
    Trap,
    /// When the peer does, or a person asks.
    Add,
}

/// Dead peer detection (RFC 7296 §2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dpd {
    /// How long nothing authentic may be heard before we ask.
    pub delay: Duration,
    /// How long the question is repeated before the peer counts as dead.
    pub timeout: Duration,
}

/// Whether both SAs are rekeyed once soon after a tunnel first came up: a PFS group that the peer does not want shows then, and not hours later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RekeyCheck {
    /// They are.
    Once,
    /// Only their lifetimes decide.
    Never,
}

/// How ESP packets travel between the gateways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encapsulation {
    /// Always in UDP 4500 (RFC 3948), forced on the peer by a NAT detection hash that cannot match.
    Udp,
    /// In UDP where a NAT is seen, as IP protocol 50 otherwise.
    Auto,
    /// As IP protocol 50 or not at all: where a NAT is seen, there is no tunnel.
    Esp,
}

impl Encapsulation {
    /// The word of the configuration.
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

    /// Settings of which a test cares for the proposals only.
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
    fn identities_are_read_by_their_shape_and_print_back() {
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
    fn h01_identities_that_cannot_be_meant_are_refused() {
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
