//! Post-quantum pre-shared keys (RFC 8784): a PPK is mixed into the keys, so an attacker who breaks the key exchange later still
//! lacks the PPK.
//!
//! ```text
//! IKE_SA_INIT     … N(USE_PPK)  ──▶                ◀──  … N(USE_PPK)           both have a PPK
//! IKE_AUTH        SK { IDi, AUTH, …, N(PPK_IDENTITY), [N(NO_PPK_AUTH)] }  ──▶
//!                                                  ◀──  SK { IDr, AUTH, …, N(PPK_IDENTITY) }           used
//!                                             or   ◀──  SK { IDr, AUTH, … }                            not used
//!
//! SK_d = prf+(PPK, SK_d')    SK_pi = prf+(PPK, SK_pi')    SK_pr = prf+(PPK, SK_pr')        from IKE_AUTH on
//! ```
//!
//! The keys SK_e and SK_a do not change: PPK_IDENTITY must be readable before both sides know that they have the same PPK.

use super::key_schedule::IkeKeys;
use super::settings::{Ppk, PpkDemand};
use crate::crypto::{Prf, Secret};
use crate::wire::{Notify, NotifyType};

/// Whether a PPK is mixed into the keys of an IKE SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PpkUse {
    /// One side has no PPK, or continues without it.
    Unused,
    /// Both sides have announced a PPK; IKE_AUTH shows whether it is the same.
    Announced,
    /// The PPK is mixed into the keys.
    Mixed,
}

impl PpkUse {
    /// State after an IKE_SA_INIT with these notifications from the peer.
    pub fn announced(ours: Option<&Ppk>, theirs: &[Notify]) -> PpkUse {
        let wanted = theirs
            .iter()
            .any(|notify| notify.kind == NotifyType::USE_PPK);
        match ours {
            Some(_) if wanted => PpkUse::Announced,
            Some(_) | None => PpkUse::Unused,
        }
    }
}

/// PPK_ID_FIXED, the identity type that is configured on both sides (RFC 8784 §5.1).
const PPK_ID_FIXED: u8 = 2;

impl Ppk {
    /// Whether an IKE SA requires the PPK.
    pub fn is_required(&self) -> bool {
        match self.demand {
            PpkDemand::Required => true,
            PpkDemand::Optional => false,
        }
    }

    /// Mixes the PPK into the keys.
    pub fn mix(&self, prf: &Prf, keys: &IkeKeys) -> IkeKeys {
        let mixed = |key: &Secret| prf.expand(self.key.as_bytes(), &[key.as_bytes()], key.len());
        IkeKeys {
            derive: mixed(&keys.derive),
            prove_initiator: mixed(&keys.prove_initiator),
            prove_responder: mixed(&keys.prove_responder),
            ..keys.clone()
        }
    }

    /// The data of PPK_IDENTITY.
    pub fn identity(&self) -> Vec<u8> {
        [&[PPK_ID_FIXED], self.id.as_bytes()].concat()
    }
}

/// The peer's PPK identity as log text.
pub fn shown(identity: &[u8]) -> String {
    match identity {
        [PPK_ID_FIXED, id @ ..] => {
            let id: String = String::from_utf8_lossy(id)
                .chars()
                .take(MAX_SHOWN)
                .collect();
            format!("\"{}\"", id.escape_debug())
        }
        [kind, ..] => format!("of type {kind}"),
        [] => "without an identity".to_owned(),
    }
}

/// Maximum length shown: a peer may send kilobytes.
const MAX_SHOWN: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{self, SaKeys};

    fn ppk() -> Ppk {
        Ppk {
            id: "quantum-1".to_owned(),
            key: Secret::from_slice(&[9; 32]),
            demand: PpkDemand::Required,
        }
    }

    fn keys() -> IkeKeys {
        let one_way = |byte| SaKeys {
            encryption: Secret::from_slice(&[byte; 32]),
            integrity: Secret::from_slice(&[]),
        };
        IkeKeys {
            derive: Secret::from_slice(&[1; 48]),
            initiator: one_way(2),
            responder: one_way(3),
            prove_initiator: Secret::from_slice(&[4; 48]),
            prove_responder: Secret::from_slice(&[5; 48]),
        }
    }

    /// Expected values computed with Python's `hmac` from the formulas of RFC 8784 §3 and RFC 7296 §2.13.
    #[test]
    fn mixing_matches_an_independent_computation_and_keeps_the_message_keys() {
        let hex = |secret: &Secret| -> String {
            let bytes = secret.as_bytes().iter();
            bytes.map(|byte| format!("{byte:02x}")).collect()
        };
        let mixed = ppk().mix(crypto::prf(6).unwrap(), &keys());
        assert_eq!(
            hex(&mixed.derive),
            "264be010ab796d8b3c7cfe6960cf53ed4f2c9fe339d2e8944bae49a1a2704720d122532580df449100a368bfdcbe0eb3"
        );
        assert_eq!(
            hex(&mixed.prove_initiator),
            "b5be8ce8f6d87c53feace7578755b4bd29c460ea2a3ade519b4e621af00456330312667bbbec2d9b788d0b10c4d52bc1"
        );
        assert_eq!(
            hex(&mixed.prove_responder),
            "ee6a2d0da242499072a63b4b5d7b3a2b2a27b6a8c31bd8492769b8151595c6a47e413ef92e0dabcd28e9a819b88c7976"
        );
        assert_eq!(mixed.initiator.encryption, keys().initiator.encryption);
        assert_eq!(mixed.responder.encryption, keys().responder.encryption);
    }

    #[test]
    fn a_ppk_is_used_only_if_both_sides_announce_it() {
        let ours = ppk();
        let announced = [Notify::new(NotifyType::USE_PPK, Vec::new())];
        assert_eq!(
            PpkUse::announced(Some(&ours), &announced),
            PpkUse::Announced
        );
        assert_eq!(PpkUse::announced(Some(&ours), &[]), PpkUse::Unused);
        assert_eq!(PpkUse::announced(None, &announced), PpkUse::Unused);
    }

    #[test]
    fn n21_a_ppk_identity_of_the_peer_is_truncated_and_escaped() {
        assert_eq!(shown(&ppk().identity()), "\"quantum-1\"");
        assert_eq!(shown(b"\x02a\nb"), "\"a\\nb\"");
        assert_eq!(shown(&[2; 4000]).chars().filter(|c| *c == '\\').count(), 64);
        assert_eq!(shown(&[1, 2, 3]), "of type 1");
        assert_eq!(shown(&[]), "without an identity");
    }
}
