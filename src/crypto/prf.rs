//! The PRF of an IKE SA, and prf+ (RFC 7296 §2.13).
//!
//! ```text
//!   prf+ (K,S) = T1 | T2 | T3 | …          T1 = prf (K, S | 0x01)
//!                                          Tn = prf (K, Tn-1 | S | n)
//! ```

use zeroize::Zeroizing;

use super::keys::Secret;
use super::mac::{Mac, Tag};
use super::registry::Prf;

impl Prf {
    /// prf(key, concatenation of `parts`).
    pub fn compute(&self, key: &[u8], parts: &[&[u8]]) -> Secret {
        let mut mac = Mac::new(self.hash, key);
        parts.iter().for_each(|part| mac.update(part));
        Secret::from_slice(mac.finish().as_bytes())
    }

    /// The first `length` bytes of prf+(key, concatenation of `seed`).
    ///
    /// The block counter is one byte, so the output ends after 255 blocks, far more than the keys of any SA.
    pub fn expand(&self, key: &[u8], seed: &[&[u8]], length: usize) -> Secret {
        let keyed = Mac::new(self.hash, key);
        let length = length.min(self.output_len.saturating_mul(255));
        // The whole capacity at once, since growing would leave unwiped copies.
        let mut material = Zeroizing::new(Vec::with_capacity(length));
        let mut previous: Option<Tag> = None;
        for counter in 1..=u8::MAX {
            if material.len() >= length {
                break;
            }
            let mut mac = keyed.clone();
            if let Some(tag) = &previous {
                mac.update(tag.as_bytes());
            }
            seed.iter().for_each(|part| mac.update(part));
            mac.update(&[counter]);
            let tag = mac.finish();
            let missing = length.saturating_sub(material.len());
            material.extend(tag.as_bytes().iter().take(missing));
            previous = Some(tag);
        }
        Secret::new(std::mem::take(&mut material))
    }
}

#[cfg(test)]
mod tests {
    use crate::crypto::registry::PRF;
    use crate::crypto::vectors;

    #[test]
    fn key_derivation_of_nist_cavp() {
        let cases = vectors::cases(include_str!("../../tests/vectors/ikev2-kdf.txt"));
        for prf in PRF {
            let case = cases
                .iter()
                .find(|case| case.text("prf") == prf.word)
                .unwrap();
            let (ni, nr) = (case.bytes("ni"), case.bytes("nr"));
            let nonces = [&ni[..], &nr[..]].concat();

            let skeyseed = prf.compute(&nonces, &[&case.bytes("g-ir")]);
            assert_eq!(skeyseed.as_bytes(), case.bytes("skeyseed"), "{prf}");

            let seed: [&[u8]; 4] = [&ni, &nr, &case.bytes("spi-i"), &case.bytes("spi-r")];
            let expected = case.bytes("keys");
            let keys = prf.expand(skeyseed.as_bytes(), &seed, expected.len());
            assert_eq!(keys.as_bytes(), expected, "{prf}");

            let sk_d = &keys.as_bytes()[..prf.key_len];
            let rekeyed = prf.compute(sk_d, &[&case.bytes("g-ir-new"), &ni, &nr]);
            assert_eq!(rekeyed.as_bytes(), case.bytes("skeyseed-rekey"), "{prf}");
        }
    }

    #[test]
    fn a_shorter_expansion_is_a_prefix_of_a_longer_one() {
        for prf in PRF {
            let long = prf.expand(b"key", &[b"seed"], prf.output_len * 255);
            assert_eq!(long.len(), prf.output_len * 255);
            for length in [0, 1, prf.output_len, prf.output_len + 1, 400] {
                assert_eq!(
                    prf.expand(b"key", &[b"se", b"ed"], length).as_bytes(),
                    &long.as_bytes()[..length]
                );
            }
            assert_eq!(
                prf.expand(b"key", &[b"seed"], usize::MAX),
                long,
                "{prf}: the output ends with the counter"
            );
        }
    }

    #[test]
    fn parts_are_concatenated() {
        for prf in PRF {
            assert_eq!(
                prf.compute(b"k", &[b"ab", b"", b"c"]),
                prf.compute(b"k", &[b"abc"])
            );
            assert_eq!(prf.compute(b"k", &[]).len(), prf.output_len);
        }
    }
}
