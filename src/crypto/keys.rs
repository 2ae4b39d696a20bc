//! Bytes that must not leak: they are wiped when dropped, compared in constant time and never printed.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Secret bytes: a key, a pre-shared key or a Diffie-Hellman result.
///
/// Wiped from memory when dropped; `Debug` and `Display` print `…`; `==` takes the same time whatever the contents.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes over `bytes`, which are wiped when the secret is dropped.
    pub fn new(bytes: Vec<u8>) -> Secret {
        Secret(Zeroizing::new(bytes))
    }

    /// Copies `bytes`; wiping the original stays with the caller.
    pub fn from_slice(bytes: &[u8]) -> Secret {
        Secret::new(bytes.to_vec())
    }

    /// The bytes themselves. Whoever calls this answers for where they go.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// How many bytes it holds; a length is not secret.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True for a secret without bytes, as the integrity key of an AEAD is.
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

/// Compares two byte strings in time that depends on their lengths only.
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_prints_its_bytes() {
        let secret = Secret::from_slice(b"hunter2");
        assert_eq!(format!("{secret:?} {secret}"), "… …");
        assert_eq!(format!("{:?}", Some(&secret)), "Some(…)");
    }

    #[test]
    fn equality_sees_contents_and_length() {
        assert_eq!(Secret::from_slice(b"abc"), Secret::new(b"abc".to_vec()));
        assert_ne!(Secret::from_slice(b"abc"), Secret::from_slice(b"abd"));
        assert!(!equal(b"abc", b"abcd"));
        assert!(!equal(b"abc", b""));
        assert!(equal(b"", b""));
    }
}
