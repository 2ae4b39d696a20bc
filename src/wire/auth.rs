//! Authentication data (RFC 7296 §3.8).
//!
//! ```text
//! | method (1) | reserved (3) | data … |
//! ```

use super::codec::{Cursor, Malformed};
use super::numbers::AuthMethod;

/// The AUTH payload: proof of a side's identity.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Auth {
    /// Authentication method.
    pub method: AuthMethod,
    /// Authentication data.
    pub data: Vec<u8>,
}

impl Auth {
    pub(super) fn parse(mut body: Cursor<'_>) -> Result<Auth, Malformed> {
        let [method, _, _, _] = body.array("AUTH payload truncated")?;
        Ok(Auth {
            method: AuthMethod(method),
            data: body.take_rest().to_vec(),
        })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.method.0, 0, 0, 0]);
        out.extend_from_slice(&self.data);
    }
}
