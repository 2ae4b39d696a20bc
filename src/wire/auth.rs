//! Authentication data (RFC 7296 §3.8).
//!
//! ```text
//! | method (1) | reserved (3) | data … |
//! ```

use super::codec::{Cursor, Malformed};
use super::numbers::AuthMethod;

/// The proof that a side is who its identity says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Auth {
    /// How it is proved.
    pub method: AuthMethod,
    /// The proof.
    pub data: Vec<u8>,
}

impl Auth {
    pub(super) fn parse(mut body: Cursor<'_>) -> Result<Auth, Malformed> {
        let [method, _, _, _] = body.array("AUTH payload cut")?;
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
