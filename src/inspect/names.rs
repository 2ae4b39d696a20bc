//! Names of transforms that groundlink does not run, for those who read what others offer (IANA "IKEv2 Parameters").
//!
//! What it does run has its name in [`crypto`].

use crate::crypto;
use crate::wire::{Transform, TransformType};

/// The word for a transform, ours or the one strongSwan's users know.
pub(super) fn transform(transform: &Transform) -> Option<&'static str> {
    let ours = match transform.kind {
        TransformType::ENCR => {
            crypto::encryption(transform.id, transform.key_bits).map(|row| row.word)
        }
        TransformType::PRF => crypto::prf(transform.id).map(|row| row.word),
        TransformType::INTEG => crypto::integrity(transform.id).map(|row| row.word),
        TransformType::ESN => crypto::Esn::from_id(transform.id).map(crypto::Esn::word),
        kind if is_key_exchange(kind) => crypto::group(transform.id).map(|row| row.word),
        _ => None,
    };
    ours.or_else(|| foreign(transform.kind, transform.id))
}

/// The word for a key exchange group.
pub(super) fn group(id: u16) -> Option<&'static str> {
    crypto::group(id)
        .map(|row| row.word)
        .or_else(|| foreign(TransformType::KE, id))
}

/// `modp2048 (14)`, or `group 99`.
pub(super) fn group_in_words(id: u16) -> String {
    group(id).map_or_else(|| format!("group {id}"), |name| format!("{name} ({id})"))
}

/// RFC 9370: the additional key exchanges choose from the list of type 4.
fn is_key_exchange(kind: TransformType) -> bool {
    kind == TransformType::KE || (TransformType::ADDKE1..=TransformType::ADDKE7).contains(&kind)
}

fn foreign(kind: TransformType, id: u16) -> Option<&'static str> {
    let table = match kind {
        TransformType::ENCR => ENCRYPTION,
        TransformType::PRF => PRF,
        TransformType::INTEG => INTEGRITY,
        kind if is_key_exchange(kind) => GROUP,
        _ => return None,
    };
    table
        .iter()
        .find(|(number, _)| *number == id)
        .map(|(_, name)| *name)
}

const ENCRYPTION: &[(u16, &str)] = &[
    (5, "idea"),
    (6, "cast128"),
    (7, "blowfish"),
    (11, "null"),
    (12, "aes"),
    (13, "aesctr"),
    (14, "aesccm8"),
    (15, "aesccm12"),
    (16, "aesccm16"),
    (18, "aesgcm8"),
    (19, "aesgcm12"),
    (20, "aesgcm16"),
    (21, "aesgmac"),
    (23, "camellia"),
    (24, "camelliactr"),
    (25, "camelliaccm8"),
    (26, "camelliaccm12"),
    (27, "camelliaccm16"),
    (28, "chacha20poly1305"),
    (29, "aesccm8iiv"),
    (30, "aesgcm16iiv"),
    (31, "chacha20poly1305iiv"),
];

const PRF: &[(u16, &str)] = &[
    (3, "prftiger"),
    (4, "prfaesxcbc"),
    (8, "prfaescmac"),
    (9, "prfstreebog512"),
];

const INTEGRITY: &[(u16, &str)] = &[
    (0, "none"),
    (3, "desmac"),
    (4, "kpdkmd5"),
    (5, "aesxcbc"),
    (6, "md5_128"),
    (7, "sha1_160"),
    (8, "aescmac"),
    (9, "aes128gmac"),
    (10, "aes192gmac"),
    (11, "aes256gmac"),
];

const GROUP: &[(u16, &str)] = &[
    (0, "none"),
    (25, "ecp192"),
    (26, "ecp224"),
    (27, "ecp224bp"),
    (28, "ecp256bp"),
    (29, "ecp384bp"),
    (30, "ecp512bp"),
    (32, "curve448"),
    (35, "mlkem512"),
    (36, "mlkem768"),
    (37, "mlkem1024"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transform_has_our_word_or_the_usual_one() {
        for (kind, id, bits, expected) in [
            (TransformType::ENCR, 12, Some(128), Some("aes128")),
            (TransformType::ENCR, 14, Some(256), Some("aesccm8")),
            (TransformType::PRF, 8, None, Some("prfaescmac")),
            (TransformType::INTEG, 2, None, Some("sha1")),
            (TransformType::KE, 32, None, Some("curve448")),
            (TransformType::ADDKE1, 14, None, Some("modp2048")),
            (TransformType::ESN, 1, None, Some("esn")),
            (TransformType::KE, 9999, None, None),
            (TransformType(99), 1, None, None),
        ] {
            let found = transform(&Transform::new(kind, id, bits));
            assert_eq!(found, expected, "{kind} {id}");
        }
        assert_eq!(group_in_words(14), "modp2048 (14)");
        assert_eq!(group_in_words(9999), "group 9999");
    }
}
