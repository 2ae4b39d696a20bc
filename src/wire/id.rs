//! An identity (RFC 7296 §3.5).
//!
//! ```text
//! | type (1) | reserved (3) | data … |
//! ```

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::codec::{Cursor, Malformed};
use super::numbers::IdType;

/// Who a side says it is. The data is what the peer sent, fitting its type or not.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Id {
    /// What kind of name.
    pub kind: IdType,
    /// The name.
    pub data: Vec<u8>,
}

impl Id {
    /// The identity of an address.
    #[must_use]
    pub fn address(address: IpAddr) -> Id {
        match address {
            IpAddr::V4(v4) => Id {
                kind: IdType::IPV4_ADDR,
                data: v4.octets().to_vec(),
            },
            IpAddr::V6(v6) => Id {
                kind: IdType::IPV6_ADDR,
                data: v6.octets().to_vec(),
            },
        }
    }

    pub(super) fn parse(mut body: Cursor<'_>) -> Result<Id, Malformed> {
        let [kind, _, _, _] = body.array("identity cut")?;
        Ok(Id {
            kind: IdType(kind),
            data: body.take_rest().to_vec(),
        })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        self.encode_body(out);
    }

    /// The octets that authentication covers as `RestOfIDPayload` (RFC 7296 §2.15): type, reserved, data. A peer that sent other
    /// reserved octets than zero signed something else, and fails.
    pub fn encode_body(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.kind.0, 0, 0, 0]);
        out.extend_from_slice(&self.data);
    }
}

/// As people write it, safe to log: control characters escaped, length bounded.
impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        todo!()
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {self}", self.kind)
    }
}
