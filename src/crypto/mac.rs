//! HMAC (RFC 2104) over the hash functions of the registry, keyed once and cloned for each message; and plain SHA-1.
//!
//! ```text
//!   key ──▶ inner state ‖ outer state        once per key: two compressions
//!              │ clone
//!              ▼
//!   message ─▶ update … ─▶ finish ─▶ tag     per message: its own blocks and two more
//! ```

use hmac::{Hmac, KeyInit, Mac as _};
use md5::Md5;
use sha1::{Digest, Sha1};
use sha2::{Sha256, Sha384, Sha512};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::keys::Secret;

/// Defines the hash functions and HMAC with each of them.
macro_rules! hash_functions {
    ($($hash:ident),*) => {
        /// A hash function under HMAC.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum HashAlgorithm {
            $($hash,)*
        }

        /// A keyed HMAC with the part of the message read so far; wiped when dropped.
        #[derive(Clone)]
        pub(super) enum Mac {
            $($hash(Hmac<$hash>),)*
        }

        impl Mac {
            /// An HMAC keyed with `key` of any length.
            pub(super) fn new(hash: HashAlgorithm, key: &[u8]) -> Mac {
                match hash {
                    $(HashAlgorithm::$hash => Mac::$hash(keyed(key)),)*
                }
            }

            pub(super) fn update(&mut self, data: &[u8]) {
                match self {
                    $(Mac::$hash(mac) => mac.update(data),)*
                }
            }

            pub(super) fn finish(self) -> Tag {
                match self {
                    $(Mac::$hash(mac) => Tag::from(&mut mac.finalize().into_bytes()),)*
                }
            }
        }
    };
}

hash_functions!(Md5, Sha1, Sha256, Sha384, Sha512);

/// An HMAC value of up to 64 bytes; wiped when dropped, since a PRF's output is a key.
#[derive(ZeroizeOnDrop)]
pub(super) struct Tag {
    bytes: [u8; 64],
    len: usize,
}

impl Tag {
    /// A copy of a hash's output; wipes the original.
    fn from(output: &mut [u8]) -> Tag {
        let mut tag = Tag {
            bytes: [0; 64],
            len: output.len(),
        };
        tag.bytes
            .iter_mut()
            .zip(output.iter())
            .for_each(|(to, from)| *to = *from);
        output.zeroize();
        tag
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// HMAC-SHA-256 (RFC 4231) over the concatenation of `parts`, for cookies.
pub fn hmac_sha256(key: &Secret, parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = keyed::<Hmac<Sha256>>(key.as_bytes());
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// SHA-1 over the concatenation of `parts`: the NAT detection hash of RFC 7296 §2.23, which needs no collision resistance.
pub fn sha1(parts: &[&[u8]]) -> [u8; 20] {
    let mut hash = <Sha1 as Digest>::new();
    parts
        .iter()
        .for_each(|part| Digest::update(&mut hash, part));
    hash.finalize().into()
}

#[allow(
    clippy::expect_used,
    reason = "HMAC hashes a key longer than a block and pads a shorter one: every length is valid"
)]
fn keyed<M: KeyInit>(key: &[u8]) -> M {
    M::new_from_slice(key).expect("HMAC takes keys of any length")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::registry::INTEGRITY;
    use crate::crypto::vectors;

    #[test]
    fn hmac_of_rfc_2202_and_rfc_4231() {
        let cases = vectors::cases(include_str!("../../tests/vectors/hmac.txt"));
        for row in INTEGRITY {
            let cases: Vec<_> = cases
                .iter()
                .filter(|case| case.text("hash") == row.word)
                .collect();
            assert!(cases.len() >= 6, "{row}");
            for case in cases {
                let mut mac = Mac::new(row.hash, &case.bytes("key"));
                mac.update(&case.bytes("data"));
                assert_eq!(
                    mac.finish().as_bytes(),
                    case.bytes("digest"),
                    "{}",
                    case.title
                );
            }
        }
    }

    #[test]
    fn hash_states_and_tags_are_wiped_when_dropped() {
        fn wiped<T: ZeroizeOnDrop>() {}
        // HMAC consists of two of these.
        wiped::<Md5>();
        wiped::<Sha1>();
        wiped::<Sha256>();
        wiped::<Sha384>();
        wiped::<Sha512>();
        wiped::<Tag>();
    }

    #[test]
    fn a_clone_is_independent_of_its_original() {
        let mut first = Mac::new(HashAlgorithm::Sha1, b"key");
        let mut second = first.clone();
        first.update(b"one");
        second.update(b"o");
        second.update(b"ne");
        assert_eq!(
            first.clone().finish().as_bytes(),
            second.finish().as_bytes()
        );
        first.update(b"more");
        assert_ne!(
            first.finish().as_bytes(),
            Mac::new(HashAlgorithm::Sha1, b"key").finish().as_bytes()
        );
    }

    #[test]
    fn sha1_of_fips_180_example() {
        let expected = [
            0xa9, 0x99, 0x3e, 0x36, 0x47, 0x06, 0x81, 0x6a, 0xba, 0x3e, 0x25, 0x71, 0x78, 0x50,
            0xc2, 0x6c, 0x9c, 0xd0, 0xd8, 0x9d,
        ];
        assert_eq!(sha1(&[b"abc"]), expected);
        assert_eq!(sha1(&[b"a", b"", b"bc"]), expected);
    }
}
