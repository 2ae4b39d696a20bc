//! ML-KEM (FIPS 203): methods 36 and 37 of transform type 4, for additional key exchanges only (RFC 9370).
//!
//! In a KEM the two sides send different values, and only the initiator has a private value.
//!
//! ```text
//!   initiator                                      responder
//!   generate ── KE: encapsulation key ───────────▶ respond ──▶ shared secret
//!   agree ◀──── KE: ciphertext ───────────────────────┘
//!     └──▶ shared secret
//! ```
//!
//! A ciphertext made for another key decapsulates to a secret that nobody else has (implicit rejection, FIPS 203 §6.3). The keys of
//! the two sides then differ, and the next message fails its integrity check.

use std::marker::PhantomData;

use ml_kem::kem::{Ciphertext, Decapsulate, Decapsulator, Encapsulate, Kem, KeyExport, TryKeyInit};
use zeroize::Zeroizing;

use super::{InvalidPublicValue, KeResponse, KexMethod, PrivateValue};
use crate::crypto::keys::Secret;
use crate::crypto::random::Generator;

/// One parameter set.
pub(in crate::crypto) struct MlKem<P>(PhantomData<P>);

/// Method 36: security category 3, comparable to AES-192.
pub(in crate::crypto) static ML_KEM_768: MlKem<ml_kem::MlKem768> = MlKem(PhantomData);

/// Method 37: security category 5, comparable to AES-256.
pub(in crate::crypto) static ML_KEM_1024: MlKem<ml_kem::MlKem1024> = MlKem(PhantomData);

impl<P> KexMethod for MlKem<P>
where
    P: Kem,
    P::DecapsulationKey: Decapsulate<Kem = P> + Send + Sync + 'static,
{
    fn generate(
        &'static self,
        _strength: u16,
        rng: &mut Generator,
    ) -> (Box<dyn PrivateValue>, Vec<u8>) {
        let (private, public) = P::generate_keypair_from_rng(rng.inner());
        (Box::new(Decapsulation(private)), public.to_bytes().to_vec())
    }

    fn respond(
        &'static self,
        _strength: u16,
        theirs: &[u8],
        rng: &mut Generator,
    ) -> Result<KeResponse, InvalidPublicValue> {
        // FIPS 203 §7.2: the caller has checked the length; this checks that every coefficient is below the modulus.
        let key =
            P::EncapsulationKey::new_from_slice(theirs).map_err(|_| InvalidPublicValue::Modulus)?;
        let (ciphertext, shared) = key.encapsulate_with_rng(rng.inner());
        let shared = Zeroizing::new(shared);
        Ok(KeResponse {
            public: ciphertext.to_vec(),
            shared: Secret::from_slice(&shared),
        })
    }
}

/// The decapsulation key; the crate wipes it when it is dropped.
struct Decapsulation<K>(K);

impl<K> PrivateValue for Decapsulation<K>
where
    K: Decapsulate + Decapsulator + Send + Sync,
{
    fn agree(&self, peer: &[u8]) -> Result<Secret, InvalidPublicValue> {
        let ciphertext =
            Ciphertext::<K::Kem>::try_from(peer).map_err(|_| InvalidPublicValue::Length)?;
        let shared = Zeroizing::new(self.0.decapsulate(&ciphertext));
        Ok(Secret::from_slice(&shared))
    }
}

#[cfg(test)]
mod tests {
    use ml_kem::array::Array;
    use ml_kem::{
        DecapsulationKey768, DecapsulationKey1024, EncapsulationKey768, EncapsulationKey1024, Seed,
    };

    use super::*;
    use crate::crypto::KeyExchange;
    use crate::crypto::registry::{ADDITIONAL, Group};
    use crate::crypto::vectors::{self, Case};

    fn of_kind(kind: &str) -> Vec<Case> {
        let mut cases = vectors::cases(include_str!("../../../tests/vectors/mlkem.txt"));
        cases.retain(|case| case.text("kind") == kind);
        assert!(cases.len() >= 2);
        cases
    }

    fn method(case: &Case) -> &'static Group {
        let word = case.text("method");
        ADDITIONAL.iter().find(|row| row.word == word).unwrap()
    }

    /// Evaluates an expression with the types of the parameter set that a case names.
    macro_rules! for_set {
        ($case:expr, |$decapsulation:ident, $encapsulation:ident| $body:expr) => {
            match method($case).id {
                36 => {
                    type $decapsulation = DecapsulationKey768;
                    type $encapsulation = EncapsulationKey768;
                    $body
                }
                37 => {
                    type $decapsulation = DecapsulationKey1024;
                    type $encapsulation = EncapsulationKey1024;
                    $body
                }
                other => panic!("{other}"),
            }
        };
    }

    #[test]
    #[expect(deprecated, reason = "ACVP gives decapsulation keys expanded")]
    fn acvp_key_generation() {
        use ml_kem::ExpandedKeyEncoding;
        for case in of_kind("keygen") {
            let seed = [case.bytes("d"), case.bytes("z")].concat();
            let seed = Seed::try_from(&seed[..]).unwrap();
            for_set!(&case, |Dk, _Ek| {
                let key = Dk::from_seed(seed);
                assert_eq!(key.encapsulation_key().to_bytes()[..], case.bytes("ek"));
                assert_eq!(key.to_expanded_bytes()[..], case.bytes("dk"));
            });
        }
    }

    #[test]
    fn acvp_encapsulation() {
        for case in of_kind("encapsulation") {
            let m = Array::try_from(&case.bytes("m")[..]).unwrap();
            for_set!(&case, |_Dk, Ek| {
                let key = <Ek as TryKeyInit>::new_from_slice(&case.bytes("ek")).unwrap();
                let (ciphertext, shared) = key.encapsulate_deterministic(&m);
                assert_eq!(ciphertext[..], case.bytes("c"));
                assert_eq!(shared[..], case.bytes("k"));
            });
        }
    }

    #[test]
    #[expect(deprecated, reason = "ACVP gives decapsulation keys expanded")]
    fn acvp_decapsulation_with_implicit_rejection_of_a_modified_ciphertext() {
        use ml_kem::ExpandedKeyEncoding;
        for key in of_kind("key") {
            let mut cases = of_kind("decapsulation");
            cases.retain(|case| case.text("method") == key.text("method"));
            assert_eq!(cases.len(), 4);
            for case in cases {
                for_set!(&case, |Dk, _Ek| {
                    let expanded = Array::try_from(&key.bytes("dk")[..]).unwrap();
                    let key = Decapsulation(Dk::from_expanded_bytes(&expanded).unwrap());
                    let shared = key.agree(&case.bytes("c")).unwrap();
                    assert_eq!(shared.as_bytes(), case.bytes("k"), "{}", case.title);
                });
            }
        }
    }

    #[test]
    fn both_sides_agree_and_a_seed_determines_the_exchange() {
        for method in ADDITIONAL {
            let run = |seed: u8| {
                let mut rng = Generator::from_seed([seed; 32]);
                let ours = KeyExchange::generate(method, &mut rng);
                assert_eq!(ours.public().len(), method.public_len);
                let answer = KeyExchange::respond(method, ours.public(), &mut rng).unwrap();
                assert_eq!(answer.public.len(), method.answer_len);
                assert_eq!(ours.agree(&answer.public).unwrap(), answer.shared);
                (ours.public().to_vec(), answer.public, answer.shared)
            };
            assert_eq!(run(1), run(1));
            assert_ne!(run(1), run(2));
        }
    }

    #[test]
    fn n06_a_key_or_ciphertext_of_another_length_is_rejected() {
        let mut rng = Generator::from_seed([5; 32]);
        for method in ADDITIONAL {
            let ours = KeyExchange::generate(method, &mut rng);
            for len in [0, 1, method.public_len - 1, method.public_len + 1, 65_000] {
                let answer = KeyExchange::respond(method, &vec![0; len], &mut rng);
                assert_eq!(answer.err(), Some(InvalidPublicValue::Length), "{len}");
            }
            for len in [0, 1, method.answer_len - 1, method.answer_len + 1, 65_000] {
                let shared = ours.agree(&vec![0; len]);
                assert_eq!(shared.err(), Some(InvalidPublicValue::Length), "{len}");
            }
        }
    }

    #[test]
    fn n07_a_coefficient_not_below_the_modulus_is_rejected() {
        let mut rng = Generator::from_seed([6; 32]);
        for method in ADDITIONAL {
            let mut key = KeyExchange::generate(method, &mut rng).public().to_vec();
            // The first coefficient is the low twelve bits of the first two octets; 3329 is the modulus.
            for (coefficient, valid) in [(3328_u16, true), (3329, false), (4095, false)] {
                key[0] = coefficient as u8;
                key[1] = key[1] & 0xf0 | (coefficient >> 8) as u8;
                let answer = KeyExchange::respond(method, &key, &mut rng);
                let expected = (!valid).then_some(InvalidPublicValue::Modulus);
                assert_eq!(answer.err(), expected, "{coefficient}");
            }
        }
    }
}
