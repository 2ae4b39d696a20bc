//! The PRF of an IKE SA, and prf+ which stretches it (RFC 7296 §2.13).
//!
//! ```text
//!   prf+ (K,S) = T1 | T2 | T3 | …          T1 = prf (K, S | 0x01)
//!                                          Tn = prf (K, Tn-1 | S | n)
//! ```

use zeroize::Zeroizing;

use super::keys::Secret;
use super::mac::Mac;
use super::registry::Prf;

impl Prf {
    /// prf(key, concatenation of `parts`).
    pub fn compute(&self, key: &[u8], parts: &[&[u8]]) -> Secret {
        let mut mac = Mac::new(self.hash, key);
        parts.iter().for_each(|part| mac.update(part));
        Secret::from_slice(mac.finish().as_bytes())
    }

    /// prf+(key, concatenation of `seed`), `length` bytes of it.
    ///
    /// The block counter is one byte, so at most 255 blocks exist; no set of IKE keys comes near, and a longer request is cut
    /// there.
    pub fn expand(&self, key: &[u8], seed: &[&[u8]], length: usize) -> Secret {
        let keyed = Mac::new(self.hash, key);
        let length = length.min(self.output_len.saturating_mul(255));
        // Reserved at once: growing would leave copies of the keys behind.
        let mut material = Zeroizing::new(Vec::with_capacity(length));
        let mut previous = None;
        for counter in 1..=u8::MAX {
            if material.len() >= length {
                break;
            }
            let mut mac = keyed.clone();
            if let Some(tag) = &previous {
                let tag: &super::mac::Tag = tag;
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
