//! An identity (RFC 7296 §3.5).
//!
//! ```text
//! | type (1) | reserved (3) | data … |
//! ```

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;

use super::codec::{Cursor, Malformed};
use super::distinguished_name;
use super::numbers::IdType;

/// The identity of a side, as received. The data may not fit the type.
#[derive(Clone)]
pub struct Id {
    /// Type of the identity.
    pub kind: IdType,
    /// Data of the identity.
    pub data: Vec<u8>,
    /// Reserved octets: without meaning, but covered by AUTH as sent (RFC 7296 §2.15).
    reserved: [u8; 3],
}

impl Id {
    /// An identity to send.
    #[must_use]
    pub const fn new(kind: IdType, data: Vec<u8>) -> Id {
        Id {
            kind,
            data,
            reserved: [0; 3],
        }
    }

    /// An identity from an address.
    #[must_use]
    pub fn address(address: IpAddr) -> Id {
        match address {
            IpAddr::V4(v4) => Id::new(IdType::IPV4_ADDR, v4.octets().to_vec()),
            IpAddr::V6(v6) => Id::new(IdType::IPV6_ADDR, v6.octets().to_vec()),
        }
    }

    pub(super) fn parse(mut body: Cursor<'_>) -> Result<Id, Malformed> {
        let [kind, reserved @ ..] = body.array::<4>("identity truncated")?;
        Ok(Id {
            kind: IdType(kind),
            data: body.take_rest().to_vec(),
            reserved,
        })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.kind.0);
        out.extend_from_slice(&self.reserved);
        out.extend_from_slice(&self.data);
    }

    /// The octets that AUTH covers as `RestOfInitIDPayload` or `RestOfRespIDPayload` (RFC 7296 §2.15): type, reserved octets as
    /// sent, data.
    #[must_use]
    pub fn authenticated_octets(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }
}

/// Type and data are compared, the reserved octets are not.
impl PartialEq for Id {
    fn eq(&self, other: &Id) -> bool {
        self.kind == other.kind && self.data == other.data
    }
}

impl Eq for Id {}

impl Hash for Id {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.kind.hash(state);
        self.data.hash(state);
    }
}

/// Maximum of octets printed, so that a hostile peer's identity cannot flood the log.
const SHOWN: usize = 96;

/// Text form, safe for logs: characters other than printable ASCII are escaped, long identities are truncated.
impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = match (self.kind, self.data.len()) {
            (IdType::IPV4_ADDR, 4) => <[u8; 4]>::try_from(self.data.as_slice())
                .ok()
                .map(IpAddr::from),
            (IdType::IPV6_ADDR, 16) => <[u8; 16]>::try_from(self.data.as_slice())
                .ok()
                .map(IpAddr::from),
            (_, _) => None,
        };
        if let Some(address) = address {
            return write!(f, "{address}");
        }
        if self.kind == IdType::DER_ASN1_DN
            && let Some(name) = distinguished_name::text(&self.data)
        {
            return match name.get(..3 * SHOWN) {
                Some(shown) => write!(f, "{shown}… ({} octets)", self.data.len()),
                None => f.write_str(&name),
            };
        }
        let shown = self.data.get(..SHOWN).unwrap_or(&self.data);
        let readable = match self.kind {
            IdType::FQDN | IdType::RFC822_ADDR => true,
            _ => !shown.is_empty() && shown.iter().all(|b| b.is_ascii_graphic() || *b == b' '),
        };
        if readable {
            write!(f, "{}", shown.escape_ascii())?;
        } else {
            f.write_str("0x")?;
            shown
                .iter()
                .try_for_each(|octet| write!(f, "{octet:02x}"))?;
        }
        if shown.len() < self.data.len() {
            write!(f, "… ({} octets)", self.data.len())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {self}", self.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_print_in_configuration_syntax() {
        let address = Id::address("203.0.113.7".parse().unwrap());
        assert_eq!(address.to_string(), "203.0.113.7");
        assert_eq!(
            Id::address("2001:db8::7".parse().unwrap()).to_string(),
            "2001:db8::7"
        );
        assert_eq!(
            Id::new(IdType::FQDN, b"gw.example".to_vec()).to_string(),
            "gw.example"
        );
        assert_eq!(
            Id::new(IdType::RFC822_ADDR, b"a@b.example".to_vec()).to_string(),
            "a@b.example"
        );
        assert_eq!(
            Id::new(IdType::KEY_ID, b"site 1".to_vec()).to_string(),
            "site 1"
        );
        assert_eq!(Id::new(IdType::KEY_ID, vec![0xab, 1]).to_string(), "0xab01");
    }

    #[test]
    fn n21_hostile_identities_cannot_write_into_the_log() {
        let evil = Id::new(IdType::FQDN, b"gw\n\x1b[2J\0\xe2\x80\xae".to_vec());
        assert_eq!(evil.to_string(), r"gw\n\x1b[2J\x00\xe2\x80\xae");
        let evil = Id::new(IdType::KEY_ID, b"gw\nERROR".to_vec());
        assert_eq!(evil.to_string(), "0x67770a4552524f52");
        let long = Id::new(IdType::FQDN, vec![b'x'; 65_000]).to_string();
        assert!(
            long.len() < 150 && long.ends_with("… (65000 octets)"),
            "{long}"
        );
        assert_eq!(Id::new(IdType::FQDN, Vec::new()).to_string(), "");
        assert_eq!(
            Id::new(IdType::IPV4_ADDR, vec![1, 2, 3]).to_string(),
            "0x010203"
        );
    }

    #[test]
    fn n21_the_same_octets_of_another_type_are_another_identity() {
        let name = b"gw.example".to_vec();
        assert_ne!(
            Id::new(IdType::FQDN, name.clone()),
            Id::new(IdType::KEY_ID, name)
        );
    }

    #[test]
    fn reserved_octets_are_authenticated_but_do_not_change_the_identity() {
        let id = Id::parse(Cursor::new(&[2, 9, 8, 7, b'x'], 0)).unwrap();
        assert_eq!(id, Id::new(IdType::FQDN, b"x".to_vec()));
        assert_eq!(id.authenticated_octets(), [2, 9, 8, 7, b'x']);
    }
}
