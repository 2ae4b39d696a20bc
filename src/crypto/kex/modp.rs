//! Diffie-Hellman over a prime field (RFC 7296 §3.4 "MODP"), in constant time where the exponent is secret.
//!
//! ```text
//!   x random            ── g^x mod p ──▶            1 < y < p-1, and y^q = 1 where q is known
//!                       ◀── y = g^r mod p ──        y^x mod p = g^ir, padded to the length of p
//! ```
//!
//! # Length of the exponents
//!
//! An exponent has twice as many bits as the group has security: the best attack on a short exponent takes the square root of
//! their number. SP 800-56A rev. 3 (appendix D) puts the groups of 2048, 3072, 4096, 6144 and 8192 bits at 112, 128, 152, 176
//! and 200 bits; the smaller ones follow SP 800-57. Below 256 bits an exponent saves little time, so none is shorter. In the
//! groups of RFC 5114 an exponent is a uniform number below q.

use crypto_bigint::modular::{FixedMontyForm, FixedMontyParams};
use crypto_bigint::{Odd, U448, Uint};
use zeroize::{Zeroize, Zeroizing};

use super::{InvalidPublicValue, Method, Private};
use crate::crypto::keys::Secret;
use crate::crypto::random::Generator;

/// A prime field of `LIMBS` 64-bit limbs, a generator in it, and the exponents used with it.
pub(in crate::crypto) struct Prime<const LIMBS: usize> {
    modulus: Odd<Uint<LIMBS>>,
    generator: Uint<LIMBS>,
    order: Option<Exponent>,
}

/// Wide enough for every exponent: the longest has 400 bits.
pub(super) type Exponent = U448;

/// Bits of the shortest exponent drawn in a group without a small subgroup.
const SHORTEST_EXPONENT: u32 = 256;

/// A private exponent; wiped when dropped.
struct PrivateExponent<const LIMBS: usize> {
    prime: &'static Prime<LIMBS>,
    exponent: Zeroizing<Exponent>,
    bits: u32,
}

impl<const LIMBS: usize> Prime<LIMBS> {
    /// A safe prime with generator 2.
    pub(super) const fn safe(modulus: &str) -> Prime<LIMBS> {
        Prime {
            modulus: Odd::<Uint<LIMBS>>::from_be_hex(modulus),
            generator: Uint::from_u8(2),
            order: None,
        }
    }

    /// A prime with a generator of a subgroup of prime order.
    pub(super) const fn subgroup(modulus: &str, generator: &str, order: Exponent) -> Prime<LIMBS> {
        Prime {
            modulus: Odd::<Uint<LIMBS>>::from_be_hex(modulus),
            generator: Uint::from_be_hex(generator),
            order: Some(order),
        }
    }

    /// A fresh exponent of `bits` bits and below the order, never 0. A candidate outside is thrown away whole, which tells
    /// nothing about the next.
    fn draw(&self, bits: u32, rng: &mut Generator) -> Zeroizing<Exponent> {
        let excess = Exponent::BITS.saturating_sub(bits);
        loop {
            let bytes = Zeroizing::new(rng.bytes::<{ Exponent::BYTES }>());
            let wide = Zeroizing::new(Exponent::from_be_slice(&*bytes));
            let exponent = Zeroizing::new(wide.wrapping_shr_vartime(excess));
            if *exponent != Exponent::ZERO && self.order.is_none_or(|order| *exponent < order) {
                return exponent;
            }
        }
    }

    /// base^exponent mod p, in time that depends on p and `bits` only.
    fn power(&self, base: &Uint<LIMBS>, exponent: &Exponent, bits: u32) -> Zeroizing<Uint<LIMBS>> {
        let params = FixedMontyParams::new_vartime(self.modulus);
        let base = FixedMontyForm::new(base, &params);
        let power = Zeroizing::new(base.pow_bounded_exp(exponent, bits));
        Zeroizing::new(power.retrieve())
    }

    /// The peer's number, if RFC 6989 §2.1 and §2.2 allow it.
    fn validate(&self, peer: &[u8]) -> Result<Uint<LIMBS>, InvalidPublicValue> {
        if peer.len() != Uint::<LIMBS>::BYTES {
            return Err(InvalidPublicValue::Length);
        }
        let y = Uint::from_be_slice(peer);
        let last = self.modulus.as_ref().wrapping_sub(&Uint::ONE);
        if y <= Uint::ONE || y >= last {
            return Err(InvalidPublicValue::Range);
        }
        match self.order {
            Some(order) if *self.power(&y, &order, order.bit_width_vartime()) != Uint::ONE => {
                Err(InvalidPublicValue::Subgroup)
            }
            // Without a small subgroup (p-1)/2 is prime, and everything between 1 and p-1 has at least that order.
            Some(_) | None => Ok(y),
        }
    }
}

impl<const LIMBS: usize> Method for Prime<LIMBS> {
    fn generate(&'static self, strength: u16, rng: &mut Generator) -> (Box<dyn Private>, Vec<u8>) {
        let bits = match &self.order {
            Some(order) => order.bit_width_vartime(),
            None => u32::from(strength).saturating_mul(2).max(SHORTEST_EXPONENT),
        };
        let exponent = self.draw(bits, rng);
        let public = self.power(&self.generator, &exponent, bits);
        let public = public.to_be_bytes().as_slice().to_vec();
        (
            Box::new(PrivateExponent {
                prime: self,
                exponent,
                bits,
            }),
            public,
        )
    }
}

impl<const LIMBS: usize> Private for PrivateExponent<LIMBS> {
    fn agree(&self, peer: &[u8]) -> Result<Secret, InvalidPublicValue> {
        let y = self.prime.validate(peer)?;
        let shared = self.prime.power(&y, &self.exponent, self.bits);
        // RFC 7296 §2.14: g^ir is padded with zeros to the length of the modulus, which is what a fixed-width number is.
        let mut bytes = shared.to_be_bytes();
        let secret = Secret::from_slice(bytes.as_slice());
        bytes.as_mut_slice().zeroize();
        Ok(secret)
    }
}
