//! Secret bytes: wiped when dropped, compared in constant time, never printed.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::random::Generator;

/// Secret bytes of any length: a key, a pre-shared key or a Diffie-Hellman result.
///
/// Wiped from memory when dropped; `Debug` and `Display` print `…`; `==` takes the same time for any contents.
#[derive(Clone, Default, Zeroize, ZeroizeOnDrop)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// A secret that takes over `bytes` and wipes them when dropped.
    pub fn new(bytes: Vec<u8>) -> Secret {
        Secret(bytes)
    }

    /// A secret with a copy of `bytes`; the caller wipes the original.
    pub fn from_slice(bytes: &[u8]) -> Secret {
        Secret::new(bytes.to_vec())
    }

    /// A fresh secret of `len` bytes from `rng`.
    pub fn random(len: usize, rng: &mut Generator) -> Secret {
        let mut secret = Secret(vec![0; len]);
        rng.fill(&mut secret.0);
        secret
    }

    /// The secret bytes. A caller that copies them must wipe the copy.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The number of bytes; a length is not secret.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True for a secret without bytes, such as the integrity key beside an AEAD.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Secret) -> bool {
        equal(self.as_bytes(), other.as_bytes())
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// The IV key of a sending SA: the AES-128 key that turns message counters into unpredictable CBC IVs (RFC 3602 §3).
///
/// Drawn for each SA and never sent. Wiped when dropped; `Debug` prints `…`.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct IvKey([u8; 16]);

impl IvKey {
    /// A fresh key from `rng`.
    pub fn random(rng: &mut Generator) -> IvKey {
        let mut key = IvKey([0; 16]);
        rng.fill(&mut key.0);
        key
    }

    /// The key's bytes.
    pub(super) fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// A key of known bytes, for tests and measurements.
impl From<[u8; 16]> for IvKey {
    fn from(bytes: [u8; 16]) -> IvKey {
        IvKey(bytes)
    }
}

impl fmt::Debug for IvKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Compares two byte strings in time that depends on their lengths only.
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_and_display_show_no_key_byte() {
        let secret = Secret::from_slice(b"hunter2");
        assert_eq!(format!("{secret:?} {secret}"), "… …");
        assert_eq!(format!("{:?}", Some(&secret)), "Some(…)");
        assert_eq!(format!("{:?}", IvKey::from([7; 16])), "…");
    }

    #[test]
    fn keys_are_wiped_when_dropped() {
        fn wiped<T: ZeroizeOnDrop>() {}
        wiped::<Secret>();
        wiped::<IvKey>();
    }

    #[test]
    fn equality_compares_contents_and_length() {
        assert_eq!(Secret::from_slice(b"abc"), Secret::new(b"abc".to_vec()));
        assert_ne!(Secret::from_slice(b"abc"), Secret::from_slice(b"abd"));
        assert!(!equal(b"abc", b"abcd"));
        assert!(!equal(b"abc", b""));
        assert!(equal(b"", b""));
    }
}
