//! IKE identities (RFC 7296 §3.5), written as in swanctl.conf and ipsec.conf.
//!
//! ```text
//! 203.0.113.7 · 2001:db8::7     ipv4:… · ipv6:…                      ID_IPV4_ADDR · ID_IPV6_ADDR
//! gw.example.org                fqdn:… · dns:… · @…                  ID_FQDN
//! ops@example.org               email:… · rfc822:… · userfqdn:… · @@…  ID_RFC822_ADDR
//!                               keyid:text · keyid:#hex · @#hex · @[text] · key-id:hex   ID_KEY_ID
//! ```

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use data_encoding::HEXLOWER_PERMISSIVE;

use crate::wire::{Id, IdType};

/// An IKE identity (RFC 7296 §3.5).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity {
    /// ID_IPV4_ADDR.
    Ipv4(Ipv4Addr),
    /// ID_IPV6_ADDR.
    Ipv6(Ipv6Addr),
    /// ID_FQDN: a host name without a trailing dot.
    Fqdn(String),
    /// ID_RFC822_ADDR: `user@host`.
    Email(String),
    /// ID_KEY_ID: opaque bytes, shown as `key-id:` and hex digits.
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

impl Identity {
    /// Content of an ID payload (RFC 7296 §3.5).
    pub fn payload(&self) -> Id {
        let (kind, data) = match self {
            Identity::Ipv4(address) => (IdType::IPV4_ADDR, address.octets().to_vec()),
            Identity::Ipv6(address) => (IdType::IPV6_ADDR, address.octets().to_vec()),
            Identity::Fqdn(name) => (IdType::FQDN, name.clone().into_bytes()),
            Identity::Email(name) => (IdType::RFC822_ADDR, name.clone().into_bytes()),
            Identity::KeyId(bytes) => (IdType::KEY_ID, bytes.clone()),
        };
        Id::new(kind, data)
    }
}

/// The identity that the peer must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerId {
    /// Any identity that authenticates with the pre-shared key.
    Any,
    /// Type and value must both match.
    Exactly(Identity),
}

impl std::str::FromStr for PeerId {
    type Err = IdentityError;

    /// Reads an identity, or one of the words for every identity.
    fn from_str(text: &str) -> Result<Self, IdentityError> {
        match text {
            "any" | "%any" | "%any4" | "%any6" | "*" | "0.0.0.0" | "::" => Ok(PeerId::Any),
            text => text.parse().map(PeerId::Exactly),
        }
    }
}

/// Maximum length of an identity from the configuration or a peer, in bytes.
pub const MAX_IDENTITY_LEN: usize = 1024;

/// Why a text is not a valid identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The text is empty, or nothing follows the type.
    #[error("an identity cannot be empty")]
    Empty,
    /// The identity is longer than [`MAX_IDENTITY_LEN`].
    #[error("an identity may have at most 1024 bytes")]
    TooLong,
    /// `key-id:` or `#` without an even number of hex digits.
    #[error("`key-id:`, `keyid:#` and `@#` require an even number of hex digits")]
    Hex,
    /// The text contains spaces, control or non-ASCII characters.
    #[error("a host name or e-mail identity must be printable ASCII without spaces")]
    Characters,
    /// A name or e-mail address contains `*` or `%`.
    #[error("an identity with `*` or `%` is a pattern, which no peer has as its identity")]
    Pattern,
    /// `@` without text on both sides.
    #[error("an e-mail identity must have the form `user@host`")]
    Email,
    /// An address that is not one.
    #[error("this is not an IP address")]
    Address,
    /// A colon that neither ends a known type nor belongs to an IPv6 address.
    #[error("an identity with `:` is an IPv6 address or starts with its type")]
    UnknownType,
    /// A distinguished name, or another type of certificates.
    #[error("distinguished names and other identities of certificates are not in this version")]
    Certificate,
}

/// What a text behind its type stands for.
#[derive(Clone, Copy)]
enum IdentityType {
    Ipv4,
    Ipv6,
    Fqdn,
    Email,
    KeyId,
    /// `key-id:`, whose text is hex digits without `#`.
    HexKeyId,
    Certificate,
}

/// Types as swanctl.conf and ipsec.conf write them, in any case; behind each, `#` starts hex digits.
const TYPES: [(&str, IdentityType); 13] = [
    ("ipv4:", IdentityType::Ipv4),
    ("ipv6:", IdentityType::Ipv6),
    ("fqdn:", IdentityType::Fqdn),
    ("dns:", IdentityType::Fqdn),
    ("email:", IdentityType::Email),
    ("rfc822:", IdentityType::Email),
    ("userfqdn:", IdentityType::Email),
    ("keyid:", IdentityType::KeyId),
    ("key-id:", IdentityType::HexKeyId),
    ("asn1dn:", IdentityType::Certificate),
    ("asn1gn:", IdentityType::Certificate),
    ("xmppaddr:", IdentityType::Certificate),
    ("uri:", IdentityType::Certificate),
];

impl std::str::FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        if text.is_empty() {
            return Err(IdentityError::Empty);
        }
        if text.len() > MAX_IDENTITY_LEN {
            return Err(IdentityError::TooLong);
        }
        for (name, kind) in TYPES {
            if let Some((start, value)) = text.split_at_checked(name.len())
                && start.eq_ignore_ascii_case(name)
            {
                return typed(kind, value);
            }
        }
        untyped(text)
    }
}

/// The identity of a text behind its type.
fn typed(kind: IdentityType, value: &str) -> Result<Identity, IdentityError> {
    let literal = match (kind, value.strip_prefix('#')) {
        (IdentityType::HexKeyId, _) => unhex(value)?,
        (_, Some(hex)) => unhex(hex)?,
        (_, None) => value.as_bytes().to_vec(),
    };
    if literal.is_empty() {
        return Err(IdentityError::Empty);
    }
    let as_text = |literal| String::from_utf8(literal).map_err(|_| IdentityError::Characters);
    match kind {
        IdentityType::Ipv4 => value
            .parse()
            .map(Identity::Ipv4)
            .map_err(|_| IdentityError::Address),
        IdentityType::Ipv6 => value
            .parse()
            .map(Identity::Ipv6)
            .map_err(|_| IdentityError::Address),
        IdentityType::Fqdn => fqdn(&as_text(literal)?),
        IdentityType::Email => email(&as_text(literal)?),
        IdentityType::KeyId | IdentityType::HexKeyId => Ok(Identity::KeyId(literal)),
        IdentityType::Certificate => Err(IdentityError::Certificate),
    }
}

/// The identity of a text without a type, by its form.
fn untyped(text: &str) -> Result<Identity, IdentityError> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.into());
    }
    let is_attribute = |name: &str| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '.')
    };
    if text
        .split_once('=')
        .is_some_and(|(name, _)| is_attribute(name))
    {
        return Err(IdentityError::Certificate);
    }
    if let Some(rest) = text.strip_prefix('@') {
        return match (rest.strip_prefix('#'), rest.strip_prefix('@')) {
            (Some(_), _) => typed(IdentityType::KeyId, rest),
            (_, Some(address)) => email(address),
            // libreswan's notation.
            _ => match rest
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'))
            {
                Some(opaque) => typed(IdentityType::KeyId, opaque),
                None => fqdn(rest),
            },
        };
    }
    if text.contains('@') {
        return email(text);
    }
    if text.contains(':') {
        return Err(IdentityError::UnknownType);
    }
    if text.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return Err(IdentityError::Address);
    }
    fqdn(text)
}

fn fqdn(name: &str) -> Result<Identity, IdentityError> {
    let name = name.strip_suffix('.').unwrap_or(name);
    check_characters(name)?;
    Ok(Identity::Fqdn(name.to_owned()))
}

fn email(address: &str) -> Result<Identity, IdentityError> {
    check_characters(address)?;
    match address.split_once('@') {
        Some((user, host)) if !user.is_empty() && !host.is_empty() => {
            Ok(Identity::Email(address.to_owned()))
        }
        _ => Err(IdentityError::Email),
    }
}

/// Checks a name or an address that a peer compares literally.
fn check_characters(text: &str) -> Result<(), IdentityError> {
    if text.is_empty() {
        return Err(IdentityError::Empty);
    }
    if !text.chars().all(|c| c.is_ascii_graphic()) {
        return Err(IdentityError::Characters);
    }
    if text.contains(['*', '%']) {
        return Err(IdentityError::Pattern);
    }
    Ok(())
}

impl fmt::Display for Identity {
    /// Writes the shortest text that parses to the same identity.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_plain = |text: &str| untyped(text).is_ok_and(|identity| identity == *self);
        match self {
            Identity::Ipv4(address) => address.fmt(f),
            Identity::Ipv6(address) => address.fmt(f),
            Identity::Fqdn(text) | Identity::Email(text) if is_plain(text) => f.write_str(text),
            Identity::Fqdn(name) => write!(f, "fqdn:{name}"),
            Identity::Email(address) => write!(f, "email:{address}"),
            Identity::KeyId(bytes) => {
                f.write_str("key-id:")?;
                bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

fn unhex(hex: &str) -> Result<Vec<u8>, IdentityError> {
    let bytes = HEXLOWER_PERMISSIVE.decode(hex.as_bytes());
    bytes.map_err(|_| IdentityError::Hex).and_then(|bytes| {
        if bytes.is_empty() {
            Err(IdentityError::Hex)
        } else {
            Ok(bytes)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(text: &str) -> Identity {
        text.parse()
            .unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn identities_are_parsed_by_their_form_and_round_trip() {
        for text in [
            "203.0.113.7",
            "2001:db8::7",
            "gw.example.org",
            "ops@example.org",
            "key-id:0a0b",
            "fqdn:203.0.113.7",
            "fqdn:C=DE",
            "email:user=x@example.org",
        ] {
            assert_eq!(identity(text).to_string(), text);
        }
        assert_eq!(identity("1.2.3.4"), Identity::Ipv4([1, 2, 3, 4].into()));
        assert!(matches!(identity("ops@example.org"), Identity::Email(_)));
    }

    #[test]
    fn identities_mean_what_swanctl_and_ipsec_conf_mean_by_them() {
        let fqdn = Identity::Fqdn("gw.example.org".to_owned());
        let email = Identity::Email("ops@example.org".to_owned());
        let key_id = |bytes: &[u8]| Identity::KeyId(bytes.to_vec());
        for (text, meant) in [
            ("fqdn:gw.example.org", fqdn.clone()),
            ("FQDN:gw.example.org", fqdn.clone()),
            ("dns:gw.example.org", fqdn.clone()),
            ("@gw.example.org", fqdn.clone()),
            ("fqdn:#67772e6578616d706c652e6f7267", fqdn),
            ("email:ops@example.org", email.clone()),
            ("rfc822:ops@example.org", email.clone()),
            ("userfqdn:ops@example.org", email.clone()),
            ("@@ops@example.org", email),
            ("keyid:site 7", key_id(b"site 7")),
            ("keyid:#0a0B", key_id(&[10, 11])),
            ("@#0a0b", key_id(&[10, 11])),
            ("@[site-7]", key_id(b"site-7")),
            ("ipv4:203.0.113.7", Identity::Ipv4([203, 0, 113, 7].into())),
            ("ipv6:2001:db8::7", identity("2001:db8::7")),
            ("fqdn:203.0.113.7", Identity::Fqdn("203.0.113.7".to_owned())),
        ] {
            assert_eq!(identity(text), meant, "{text}");
            assert_eq!(identity(&meant.to_string()), meant, "{text}");
        }
        for text in ["any", "%any", "%any6", "*", "0.0.0.0", "::"] {
            assert_eq!(text.parse(), Ok(PeerId::Any), "{text}");
        }
    }

    #[test]
    fn h01_invalid_identities_are_rejected() {
        let long = "x".repeat(2000);
        for (text, error) in [
            ("", IdentityError::Empty),
            ("fqdn:", IdentityError::Empty),
            ("keyid:", IdentityError::Empty),
            ("@", IdentityError::Empty),
            ("key-id:abc", IdentityError::Hex),
            ("keyid:#0", IdentityError::Hex),
            ("a b", IdentityError::Characters),
            ("email:host", IdentityError::Email),
            ("ops@", IdentityError::Email),
            ("203.0.113", IdentityError::Address),
            ("ipv4:2001:db8::7", IdentityError::Address),
            ("*.example.org", IdentityError::Pattern),
            ("%fromcert", IdentityError::Pattern),
            ("site:7", IdentityError::UnknownType),
            ("C=DE, CN=gw", IdentityError::Certificate),
            ("asn1dn:#3010", IdentityError::Certificate),
            (&long, IdentityError::TooLong),
        ] {
            assert_eq!(text.parse::<Identity>(), Err(error), "{text}");
        }
    }
}
