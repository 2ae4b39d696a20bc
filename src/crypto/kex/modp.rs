//! MODP groups: Diffie-Hellman over a prime field (RFC 7296 §3.4).
//!
//! ```text
//!   x random            ── g^x mod p ──▶            1 < y < p-1, and y^q mod p = 1 in groups with q
//!                       ◀── y = g^r mod p ──        y^x mod p = g^ir, padded to the length of p
//! ```
//!
//! crypto-bigint computes with secret exponents, in constant time. num-bigint checks public values, in time that depends on them.
//!
//! # Length of the exponents
//!
//! An exponent has twice as many bits as the group has security, since the best attack on a short exponent takes the square root of
//! the number of exponents. SP 800-56A rev. 3 (appendix D) rates the groups of 2048, 3072, 4096, 6144 and 8192 bits at 112, 128,
//! 152, 176 and 200 bits; the smaller groups follow SP 800-57. An exponent below 256 bits would save little time, so 256 is the
//! minimum. In the groups of RFC 5114 an exponent is a uniform number below q.

use crypto_bigint::modular::{FixedMontyForm, FixedMontyParams};
use crypto_bigint::{Odd, U448, Uint};
use num_bigint::BigUint;
use zeroize::Zeroizing;

use super::{InvalidPublicValue, KexMethod, PrivateValue};
use crate::crypto::keys::Secret;
use crate::crypto::random::Generator;

/// A MODP group with a modulus of `LIMBS` 64-bit limbs: modulus, generator and, in RFC 5114, the order of the subgroup.
pub(in crate::crypto) struct ModpGroup<const LIMBS: usize> {
    modulus: Odd<Uint<LIMBS>>,
    generator: Uint<LIMBS>,
    order: Option<Exponent>,
}

/// A number wide enough for every exponent: the longest has 400 bits.
pub(super) type Exponent = U448;

/// Minimum bits of an exponent in a group with a safe prime.
const MIN_EXPONENT_BITS: u32 = 256;

/// A private exponent; wiped when dropped.
struct PrivateExponent<const LIMBS: usize> {
    group: &'static ModpGroup<LIMBS>,
    exponent: Zeroizing<Exponent>,
    bits: u32,
}

impl<const LIMBS: usize> ModpGroup<LIMBS> {
    /// A group with a safe prime and generator 2.
    pub(super) const fn safe(modulus: &str) -> ModpGroup<LIMBS> {
        ModpGroup {
            modulus: Odd::<Uint<LIMBS>>::from_be_hex(modulus),
            generator: Uint::from_u8(2),
            order: None,
        }
    }

    /// A group with a generator of a subgroup of prime order.
    pub(super) const fn subgroup(
        modulus: &str,
        generator: &str,
        order: Exponent,
    ) -> ModpGroup<LIMBS> {
        ModpGroup {
            modulus: Odd::<Uint<LIMBS>>::from_be_hex(modulus),
            generator: Uint::from_be_hex(generator),
            order: Some(order),
        }
    }

    /// Bits of an exponent for `strength` bits of security.
    fn exponent_bits(&self, strength: u16) -> u32 {
        match &self.order {
            Some(order) => order.bit_width_vartime(),
            None => u32::from(strength).saturating_mul(2).max(MIN_EXPONENT_BITS),
        }
    }

    /// A fresh exponent of at most `bits` bits, below the order and not 0. A candidate outside is discarded whole, which reveals
    /// nothing about the next one.
    fn random_exponent(&self, bits: u32, rng: &mut Generator) -> Zeroizing<Exponent> {
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

    /// The peer's public value y, if 1 < y < p-1 and, in a group with a subgroup of order q, y^q mod p = 1 (RFC 6989 §2.1, §2.2).
    ///
    /// All operands are public, so the time may depend on them.
    #[allow(
        clippy::arithmetic_side_effects,
        reason = "p is above 1, and big integers do not overflow"
    )]
    fn validate(&self, peer: &[u8]) -> Result<Uint<LIMBS>, InvalidPublicValue> {
        if peer.len() != Uint::<LIMBS>::BYTES {
            return Err(InvalidPublicValue::Length);
        }
        let (y, p, one) = (BigUint::from_bytes_be(peer), self.p(), BigUint::from(1_u8));
        if y <= one || y >= &p - &one {
            return Err(InvalidPublicValue::Range);
        }
        match self.q() {
            Some(q) if y.modpow(&q, &p) != one => Err(InvalidPublicValue::Subgroup),
            // Without q, (p-1)/2 is prime, and every y in the range has at least that order.
            Some(_) | None => Ok(Uint::from_be_slice(peer)),
        }
    }

    /// The modulus, for arithmetic on public values.
    pub(super) fn p(&self) -> BigUint {
        BigUint::from_bytes_be(self.modulus.as_ref().to_be_bytes().as_slice())
    }

    /// The generator, for the checks of the group's constants.
    #[cfg(test)]
    pub(super) fn g(&self) -> BigUint {
        BigUint::from_bytes_be(self.generator.to_be_bytes().as_slice())
    }

    /// The order of the subgroup, for arithmetic on public values; `None` in a group with a safe prime.
    pub(super) fn q(&self) -> Option<BigUint> {
        self.order
            .map(|order| BigUint::from_bytes_be(order.to_be_bytes().as_slice()))
    }
}

impl<const LIMBS: usize> KexMethod for ModpGroup<LIMBS> {
    fn generate(
        &'static self,
        strength: u16,
        rng: &mut Generator,
    ) -> (Box<dyn PrivateValue>, Vec<u8>) {
        let bits = self.exponent_bits(strength);
        let exponent = self.random_exponent(bits, rng);
        let public = self.power(&self.generator, &exponent, bits);
        let public = public.to_be_bytes().as_slice().to_vec();
        (
            Box::new(PrivateExponent {
                group: self,
                exponent,
                bits,
            }),
            public,
        )
    }
}

impl<const LIMBS: usize> PrivateValue for PrivateExponent<LIMBS> {
    fn agree(&self, peer: &[u8]) -> Result<Secret, InvalidPublicValue> {
        let y = self.group.validate(peer)?;
        let shared = self.group.power(&y, &self.exponent, self.bits);
        // RFC 7296 §2.14: g^ir is padded with zeros to the length of the modulus; a number of fixed width already is.
        let bytes = Zeroizing::new(shared.to_be_bytes());
        Ok(Secret::from_slice(bytes.as_slice()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::kex::primes::*;
    use crate::crypto::registry::GROUP;
    use crate::crypto::vectors;

    /// Runs a generic check over every MODP group with the strength of its row.
    macro_rules! for_every_group {
        ($check:ident) => {
            $check(&MODP_768, strength("modp768"));
            $check(&MODP_1024, strength("modp1024"));
            $check(&MODP_1536, strength("modp1536"));
            $check(&MODP_2048, strength("modp2048"));
            $check(&MODP_3072, strength("modp3072"));
            $check(&MODP_4096, strength("modp4096"));
            $check(&MODP_6144, strength("modp6144"));
            $check(&MODP_8192, strength("modp8192"));
            $check(&MODP_1024_160, strength("modp1024s160"));
            $check(&MODP_2048_224, strength("modp2048s224"));
            $check(&MODP_2048_256, strength("modp2048s256"));
        };
    }

    fn strength(word: &str) -> u16 {
        GROUP.iter().find(|row| row.word == word).unwrap().strength
    }

    /// A private value with a given exponent.
    fn private<const LIMBS: usize>(
        group: &'static ModpGroup<LIMBS>,
        exponent: &[u8],
    ) -> PrivateExponent<LIMBS> {
        let mut wide = [0; Exponent::BYTES];
        wide[Exponent::BYTES - exponent.len()..].copy_from_slice(exponent);
        let exponent = Zeroizing::new(Exponent::from_be_slice(&wide));
        PrivateExponent {
            group,
            exponent,
            bits: Exponent::BITS,
        }
    }

    /// Big-endian, as long as the modulus.
    fn padded<const LIMBS: usize>(number: &BigUint) -> Vec<u8> {
        let bytes = number.to_bytes_be();
        let mut padded = vec![0; LIMBS * 8];
        padded[LIMBS * 8 - bytes.len()..].copy_from_slice(&bytes);
        padded
    }

    fn oracle_exponent(exponent: &Exponent) -> BigUint {
        BigUint::from_bytes_be(exponent.to_be_bytes().as_slice())
    }

    #[test]
    fn rfc_5114_test_data() {
        for case in vectors::cases(include_str!("../../../tests/vectors/rfc5114.txt")) {
            fn check<const LIMBS: usize>(group: &'static ModpGroup<LIMBS>, case: &vectors::Case) {
                for (x, own, peer) in [("x-a", "y-a", "y-b"), ("x-b", "y-b", "y-a")] {
                    let private = private(group, &case.bytes(x));
                    let public = group.power(&group.generator, &private.exponent, private.bits);
                    assert_eq!(
                        public.to_be_bytes().as_slice(),
                        case.bytes(own),
                        "{}",
                        case.title
                    );
                    let shared = private.agree(&case.bytes(peer)).unwrap();
                    assert_eq!(shared.as_bytes(), case.bytes("z"), "{}", case.title);
                }
            }
            match case.text("group") {
                "modp1024s160" => check(&MODP_1024_160, &case),
                "modp2048s224" => check(&MODP_2048_224, &case),
                "modp2048s256" => check(&MODP_2048_256, &case),
                other => panic!("{other}"),
            }
        }
    }

    #[test]
    fn random_exchanges_of_every_group_match_num_bigint() {
        fn check<const LIMBS: usize>(group: &'static ModpGroup<LIMBS>, strength: u16) {
            let mut rng = Generator::from_seed([LIMBS as u8; 32]);
            let (p, g) = (group.p(), group.g());
            for _ in 0..if LIMBS > 32 { 1 } else { 8 } {
                let a = group.random_exponent(group.exponent_bits(strength), &mut rng);
                let b = group.random_exponent(group.exponent_bits(strength), &mut rng);
                let public = padded::<LIMBS>(&g.modpow(&oracle_exponent(&b), &p));
                let shared = PrivateExponent {
                    group,
                    exponent: a.clone(),
                    bits: 448,
                }
                .agree(&public)
                .unwrap();
                let expected = g.modpow(&(oracle_exponent(&a) * oracle_exponent(&b)), &p);
                assert_eq!(
                    shared.as_bytes(),
                    padded::<LIMBS>(&expected),
                    "{} bits",
                    LIMBS * 64
                );
            }
        }
        for_every_group!(check);
    }

    #[test]
    fn a_shared_secret_with_leading_zeros_keeps_the_length_of_the_modulus() {
        // The shared secret s is chosen first; the peer's value y = s^(1/x) then gives y^x = s.
        fn check<const LIMBS: usize>(group: &'static ModpGroup<LIMBS>, _strength: u16) {
            let p = group.p();
            let x = BigUint::from_bytes_be(&[0x5a; 19]);
            let (s, order) = match group.q() {
                // 4 is a square, so its order is (p-1)/2, a prime. All bytes of s but the last are 0.
                None => (BigUint::from(4_u8), &p >> 1),
                Some(q) => {
                    let g = group.g();
                    let mut s = g.clone();
                    while s.bits() > p.bits() - 8 {
                        s = s * &g % &p;
                    }
                    (s, q)
                }
            };
            let y = s.modpow(&x.modinv(&order).unwrap(), &p);
            let shared = private(group, &x.to_bytes_be())
                .agree(&padded::<LIMBS>(&y))
                .unwrap();
            assert_eq!(shared.as_bytes(), padded::<LIMBS>(&s));
            assert_eq!((shared.len(), shared.as_bytes()[0]), (LIMBS * 8, 0));
        }
        for_every_group!(check);
    }

    #[test]
    fn n07_values_out_of_range_are_rejected() {
        fn check<const LIMBS: usize>(group: &'static ModpGroup<LIMBS>, _strength: u16) {
            let p = group.p();
            let private = private(group, &[7; 20]);
            let one = BigUint::from(1_u8);
            for bad in [BigUint::ZERO, one.clone(), &p - &one, p.clone(), &p + &one] {
                assert_eq!(
                    private.agree(&padded::<LIMBS>(&bad)),
                    Err(InvalidPublicValue::Range),
                    "{bad:x}"
                );
            }
            assert_eq!(
                private.agree(&vec![0xff; LIMBS * 8]),
                Err(InvalidPublicValue::Range)
            );
            assert_eq!(private.agree(&[2; 3]), Err(InvalidPublicValue::Length));
            let extremes = [BigUint::from(2_u8), &p - &one - &one];
            for good in extremes.iter().filter(|_| group.order.is_none()) {
                assert!(private.agree(&padded::<LIMBS>(good)).is_ok());
            }
        }
        for_every_group!(check);
    }

    #[test]
    fn n07_values_outside_the_prime_order_subgroup_are_rejected() {
        fn check<const LIMBS: usize>(group: &'static ModpGroup<LIMBS>, small_order: u32) {
            let p = group.p();
            let private = private(group, &[7; 20]);
            let cofactor = (&p - 1_u8) / small_order;
            let small = (2_u32..).map(|base| BigUint::from(base).modpow(&cofactor, &p));
            let small = small
                .into_iter()
                .find(|y| *y > BigUint::from(1_u8))
                .unwrap();
            assert_eq!(
                small.modpow(&BigUint::from(small_order), &p),
                BigUint::from(1_u8)
            );
            for outside in [small, BigUint::from(2_u8)] {
                assert_eq!(
                    private.agree(&padded::<LIMBS>(&outside)),
                    Err(InvalidPublicValue::Subgroup)
                );
            }
        }
        check(&MODP_1024_160, 7);
        check(&MODP_2048_224, 3);
        check(&MODP_2048_256, 7);
    }

    #[test]
    fn exponents_have_the_bits_of_their_strength() {
        fn check<const LIMBS: usize>(group: &'static ModpGroup<LIMBS>, strength: u16) {
            let bits = group.exponent_bits(strength);
            let mut rng = Generator::from_seed([9; 32]);
            let mut seen = Exponent::ZERO;
            for _ in 0..64 {
                let exponent = group.random_exponent(bits, &mut rng);
                assert_ne!(*exponent, Exponent::ZERO);
                assert!(group.order.is_none_or(|order| *exponent < order));
                seen |= *exponent;
            }
            match group.order {
                None => assert_eq!(
                    (seen.bit_width_vartime(), seen.trailing_ones()),
                    (bits, bits)
                ),
                // The order of group 23 begins 801c…, so few exponents below it have the top bit.
                Some(_) => assert!(seen.bit_width_vartime() >= bits - 1),
            }
        }
        for_every_group!(check);
    }
}
