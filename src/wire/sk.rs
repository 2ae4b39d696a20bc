//! The encrypted payload (RFC 7296 §3.14), as a frame for `crypto` to seal or open in place.
//!
//! ```text
//! | header | SK generic header | IV | inner payloads | padding | pad length | ICV |
//! |◀────── aad_len ───────────▶|    |◀──────── encrypted ──────────────────▶|     |
//! ```

use super::chain::Payload;
use super::codec::{Malformed, TooLong};
use super::header::Header;

/// What a suite needs around the payloads, in octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Room {
    /// In front, for the IV.
    pub iv: usize,
    /// Behind, for the ICV.
    pub icv: usize,
    /// What the encrypted part is a multiple of.
    pub block: usize,
}

/// A message ready to be sealed in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Framed {
    /// The whole message, the room for IV and ICV zero.
    pub bytes: Vec<u8>,
    /// Octets from the start that are authenticated but not encrypted.
    pub aad_len: usize,
}

/// Lays out a message whose payloads are all sealed; lengths are filled in, so that sealing changes none.
///
/// # Errors
/// The payloads do not fit their length fields.
pub fn frame(header: Header, inner: &[Payload], room: Room) -> Result<Framed, TooLong> {
    todo!()
}

/// Cuts padding and pad length off what was decrypted. Any content of the padding is accepted (RFC 7296 §3.14).
///
/// # Errors
/// The pad length exceeds what is there.
pub fn unpad(plaintext: &[u8]) -> Result<&[u8], Malformed> {
    todo!()
}
