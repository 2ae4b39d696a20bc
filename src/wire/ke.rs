//! The KE payload (RFC 7296 §3.4).
//!
//! ```text
//! | group (2) | reserved (2) | public value … |
//! ```

use super::codec::{Cursor, Malformed};

/// A public value. Its length depends on the group and is checked later.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ke {
    /// Number of the group (transform type 4).
    pub group: u16,
    /// The public value.
    pub data: Vec<u8>,
}

impl Ke {
    pub(super) fn parse(mut body: Cursor<'_>) -> Result<Ke, Malformed> {
        let group = body.u16("group of the KE payload truncated")?;
        body.u16("reserved octets of the KE payload truncated")?;
        Ok(Ke {
            group,
            data: body.take_rest().to_vec(),
        })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.group.to_be_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&self.data);
    }
}
