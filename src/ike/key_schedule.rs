//! The key schedule: from a shared secret to the keys of an IKE SA (RFC 7296 §2.14) and of a Child SA (§2.17).
//!
//! ```text
//! SKEYSEED = prf(Ni | Nr, g^ir)
//! SK_d | SK_ai | SK_ar | SK_ei | SK_er | SK_pi | SK_pr = prf+(SKEYSEED, Ni | Nr | SPIi | SPIr)
//! KEYMAT   = prf+(SK_d, [g^ir (new) |] Ni | Nr [| SK(1)])     encryption then integrity, initiator to responder first
//!
//! rekeyed (§2.18):  SKEYSEED = prf(SK_d (old), g^ir (new) | Ni | Nr [| SK(1)])      by the old PRF; everything after by the new one
//! ```

use super::event::Role;
use crate::crypto::{EspSuite, IkeSuite, Prf, SaKeys, Secret};
use crate::wire::IkeSpi;

/// Length of our nonces: at least half the key of every PRF in the registry (RFC 7296 §2.10).
pub const NONCE_LEN: usize = 32;

/// The nonces of an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nonces {
    /// Ni.
    pub initiator: Vec<u8>,
    /// Nr.
    pub responder: Vec<u8>,
}

/// The keys of an IKE SA.
#[derive(Clone, Debug)]
pub struct IkeKeys {
    /// SK_d, from which the keys of Child SAs are derived.
    pub derive: Secret,
    /// SK_ei and SK_ai.
    pub initiator: SaKeys,
    /// SK_er and SK_ar.
    pub responder: SaKeys,
    /// SK_pi, the key of the initiator's AUTH.
    pub prove_initiator: Secret,
    /// SK_pr, the key of the responder's AUTH.
    pub prove_responder: Secret,
}

impl IkeKeys {
    /// Derives the keys of an IKE SA from the Diffie-Hellman secret `shared`.
    pub fn derive(
        suite: IkeSuite,
        shared: &Secret,
        nonces: &Nonces,
        spi_i: IkeSpi,
        spi_r: IkeSpi,
    ) -> IkeKeys {
        let both = [nonces.initiator.as_slice(), nonces.responder.as_slice()].concat();
        let seed = suite.prf.compute(&both, &[shared.as_bytes()]);
        IkeKeys::expand(suite, &seed, nonces, spi_i, spi_r)
    }

    /// Derives the keys of the IKE SA that replaces one with the PRF `old` and the SK_d `derive`. `additional` is the secret of
    /// an additional key exchange (RFC 9370 §2.2.4).
    pub fn rekeyed(
        (old, derive): (&Prf, &Secret),
        suite: IkeSuite,
        (shared, additional): (&Secret, Option<&Secret>),
        nonces: &Nonces,
        spi_i: IkeSpi,
        spi_r: IkeSpi,
    ) -> IkeKeys {
        let seed = old.compute(
            derive.as_bytes(),
            &[
                shared.as_bytes(),
                &nonces.initiator,
                &nonces.responder,
                additional.map_or(&[], Secret::as_bytes),
            ],
        );
        IkeKeys::expand(suite, &seed, nonces, spi_i, spi_r)
    }

    /// Expands SKEYSEED and splits the result into keys.
    fn expand(
        suite: IkeSuite,
        seed: &Secret,
        nonces: &Nonces,
        spi_i: IkeSpi,
        spi_r: IkeSpi,
    ) -> IkeKeys {
        let prf = suite.prf;
        let (ai, ei) = (
            suite.protection.integrity_key_len(),
            suite.protection.encryption_key_len(),
        );
        let prf_len = prf.key_len;
        let total = [prf_len, ai, ai, ei, ei, prf_len, prf_len]
            .iter()
            .fold(0usize, |sum, len| sum.saturating_add(*len));
        let stream = prf.expand(
            seed.as_bytes(),
            &[
                &nonces.initiator,
                &nonces.responder,
                &spi_i.0.to_be_bytes(),
                &spi_r.0.to_be_bytes(),
            ],
            total,
        );
        let mut keys = Cut(stream.as_bytes());
        let derive = keys.take(prf_len);
        let (sk_ai, sk_ar) = (keys.take(ai), keys.take(ai));
        let (sk_ei, sk_er) = (keys.take(ei), keys.take(ei));
        IkeKeys {
            derive,
            initiator: SaKeys {
                encryption: sk_ei,
                integrity: sk_ai,
            },
            responder: SaKeys {
                encryption: sk_er,
                integrity: sk_ar,
            },
            prove_initiator: keys.take(prf_len),
            prove_responder: keys.take(prf_len),
        }
    }
}

/// Input of the key derivation of a Child SA.
#[derive(Clone, Copy, Debug)]
pub struct ChildSeed<'a> {
    /// The PRF of the IKE SA.
    pub prf: &'a Prf,
    /// SK_d of the IKE SA.
    pub derive: &'a Secret,
    /// The secret of the Child SA's own Diffie-Hellman exchange (PFS).
    pub shared: Option<&'a Secret>,
    /// The secret of an additional key exchange (RFC 9370 §2.2.4).
    pub additional: Option<&'a Secret>,
    /// The nonces of the exchange that creates the Child SA.
    pub nonces: &'a Nonces,
}

impl ChildSeed<'_> {
    /// The outbound and the inbound keys of a Child SA. `role` is our role in the exchange that creates it.
    pub fn keys(self, esp: EspSuite, role: Role) -> (SaKeys, SaKeys) {
        let integrity = esp.protection.integrity_key_len();
        let encryption = esp.protection.encryption_key_len();
        let one_way = integrity.saturating_add(encryption);
        let stream = self.prf.expand(
            self.derive.as_bytes(),
            &[
                self.shared.map_or(&[], Secret::as_bytes),
                &self.nonces.initiator,
                &self.nonces.responder,
                self.additional.map_or(&[], Secret::as_bytes),
            ],
            one_way.saturating_mul(2),
        );
        let mut keys = Cut(stream.as_bytes());
        let mut next = || SaKeys {
            encryption: keys.take(encryption),
            integrity: keys.take(integrity),
        };
        let (from_initiator, from_responder) = (next(), next());
        match role {
            Role::Initiator => (from_initiator, from_responder),
            Role::Responder => (from_responder, from_initiator),
        }
    }
}

/// Splits a key stream into keys; the length of the stream is the sum of all keys.
struct Cut<'a>(&'a [u8]);

impl Cut<'_> {
    fn take(&mut self, len: usize) -> Secret {
        let (key, rest) = self.0.split_at_checked(len).unwrap_or((self.0, &[]));
        self.0 = rest;
        Secret::from_slice(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{Esn, EspProposal, IkeProposal, Protection};

    fn hex(secret: &Secret) -> String {
        secret
            .as_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// RFC 7296 §2.10.
    #[test]
    fn our_nonces_have_at_least_half_the_key_length_of_every_prf() {
        let prfs = crate::crypto::PRF;
        assert!(prfs.iter().all(|prf| 2 * NONCE_LEN >= prf.key_len));
    }

    /// Expected values computed with Python's `hmac` from the formulas of RFC 7296 §2.13, §2.14 and §2.17.
    #[test]
    fn keys_match_an_independent_computation_of_the_rfc_formulas() {
        let ike = IkeProposal::parse("aes128-sha1-modp1024").unwrap().0;
        let protection = Protection {
            encryption: ike.encryption[0],
            integrity: Some(ike.integrity[0]),
        };
        let suite = IkeSuite {
            protection,
            prf: ike.prf[0],
            group: ike.groups[0],
            additional: None,
        };
        let nonces = Nonces {
            initiator: vec![1; 32],
            responder: vec![2; 32],
        };
        let shared = Secret::from_slice(&[3; 128]);
        let keys = IkeKeys::derive(suite, &shared, &nonces, IkeSpi(0x1111), IkeSpi(0x2222));
        assert_eq!(
            hex(&keys.derive),
            "a8307ca9c92be09117031ac748ff6b57ef287c64"
        );
        assert_eq!(
            hex(&keys.initiator.integrity),
            "4de871ed1571402ecab092dd7ba1a7f1ebb454b5"
        );
        assert_eq!(
            hex(&keys.responder.integrity),
            "6c971303a4490a07790f7fd498f976bb53a67b0c"
        );
        assert_eq!(
            hex(&keys.initiator.encryption),
            "5651d3c503f4dacac2d01abc1069754c"
        );
        assert_eq!(
            hex(&keys.responder.encryption),
            "8e7493e821260ef3614784dc05fd6de1"
        );
        assert_eq!(
            hex(&keys.prove_initiator),
            "a01b30fe3bec519bfda83e7c99adaf8a9570de3f"
        );
        assert_eq!(
            hex(&keys.prove_responder),
            "0de461a5e5305b561f161595499f2af8eee46f21"
        );

        let esp = EspProposal::parse("aes128-sha1").unwrap().0;
        let esp = EspSuite {
            protection: Protection {
                encryption: esp.encryption[0],
                integrity: Some(esp.integrity[0]),
            },
            group: None,
            additional: None,
            esn: Esn::No,
        };
        let seed = ChildSeed {
            prf: suite.prf,
            derive: &keys.derive,
            shared: None,
            additional: None,
            nonces: &nonces,
        };
        let (out, back) = seed.keys(esp, Role::Initiator);
        assert_eq!(hex(&out.encryption), "b0c02d1adc402bd5624c0ba9feb21d5a");
        assert_eq!(
            hex(&out.integrity),
            "6fdfedf10ac087fb272a004aa520f40d61863001"
        );
        assert_eq!(hex(&back.encryption), "58b934297a54fa895d844dea5579de0e");
        assert_eq!(
            hex(&back.integrity),
            "df0932caf7f8919b38cdb9259df3cc497c2b61a9"
        );
        let (theirs, ours) = seed.keys(esp, Role::Responder);
        assert_eq!(
            (theirs.encryption, ours.integrity),
            (back.encryption, out.integrity)
        );
    }

    /// Expected values from the formulas of RFC 9370 §2.2.4: the secret of the additional key exchange follows the nonces.
    #[test]
    fn an_additional_secret_follows_the_nonces_in_the_keys_of_rekeyed_sas() {
        let ike = IkeProposal::parse("aes128gcm16-prfsha256-curve25519-ke1_mlkem768");
        let suite = ike.unwrap().0.first().unwrap();
        let esp = EspProposal::parse("aes128gcm16-curve25519-ke1_mlkem768");
        let esp = esp.unwrap().0.first().unwrap();
        let nonces = Nonces {
            initiator: vec![1; 32],
            responder: vec![2; 32],
        };
        let [derive, shared, additional] = [7, 3, 4].map(|octet| Secret::from_slice(&[octet; 32]));
        let seed = ChildSeed {
            prf: suite.prf,
            derive: &derive,
            shared: Some(&shared),
            additional: Some(&additional),
            nonces: &nonces,
        };
        let (out, back) = seed.keys(esp, Role::Initiator);
        assert_eq!(
            hex(&out.encryption) + &hex(&back.encryption),
            "bdaebf948260e54f9977d50c21f997ce20176945595b606a42e1ffdf00ab3adf191aa06d7cab3bbe"
        );
        let keys = IkeKeys::rekeyed(
            (suite.prf, &derive),
            suite,
            (&shared, Some(&additional)),
            &nonces,
            IkeSpi(0x1111),
            IkeSpi(0x2222),
        );
        assert_eq!(
            hex(&keys.derive),
            "7b981a9d0710a4c469ecc611c209f952e501f541858049acc3bb52158a0eabd3"
        );
        assert_eq!(
            hex(&keys.initiator.encryption),
            "0108af4bdbb5d8263262e9a4d05f117a15aef8f9"
        );
    }

    #[test]
    fn debug_shows_no_key_byte() {
        let key = || Secret::from_slice(&[0xab; 32]);
        let one_way = || SaKeys {
            encryption: key(),
            integrity: key(),
        };
        let keys = IkeKeys {
            derive: key(),
            initiator: one_way(),
            responder: one_way(),
            prove_initiator: key(),
            prove_responder: key(),
        };
        let nonces = Nonces {
            initiator: vec![1; 32],
            responder: vec![2; 32],
        };
        let seed = ChildSeed {
            prf: &crate::crypto::PRF[0],
            derive: &keys.derive,
            shared: Some(&keys.derive),
            additional: Some(&keys.derive),
            nonces: &nonces,
        };
        let mut intermediates = crate::ike::authn::Intermediates::default();
        intermediates.add(seed.prf, &keys, b"request", b"answer");
        let shown = format!("{keys:?} {seed:?} {intermediates:?}");
        assert_eq!(shown.matches('…').count(), 7 + 3 + 2, "{shown}");
        assert!(!shown.contains(&0xab.to_string()), "{shown}");
    }
}
