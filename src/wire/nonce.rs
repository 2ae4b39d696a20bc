//! The nonce payload (RFC 7296 §3.9): 16 to 256 random octets.

use super::codec::{Cursor, Malformed};

pub(super) fn parse(mut body: Cursor<'_>) -> Result<Vec<u8>, Malformed> {
    if !(16..=256).contains(&body.rest().len()) {
        return Err(body.malformed("nonce not of 16 to 256 octets"));
    }
    Ok(body.take_rest().to_vec())
}
