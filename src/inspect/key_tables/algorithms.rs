//! Wireshark's algorithm names and the transforms that they mean.
//!
//! Wireshark appends the RFC in brackets; that part of a name is not compared.

use crate::crypto::{self, Encryption, Integrity};

/// The meaning of an algorithm name in a key table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TableAlgorithm<T> {
    /// An algorithm that groundlink supports.
    Supported(T),
    /// An algorithm of Wireshark's list that groundlink does not support.
    Unsupported,
}

/// The cipher of an `ikev2_decryption_table` row; `None` if the name is not in Wireshark's list.
pub(super) fn ike_encryption(name: &str) -> Option<TableAlgorithm<&'static Encryption>> {
    let row = IKE_ENCRYPTION.iter().find(|row| row.0 == bare(name))?;
    Some(meaning(crypto::encryption(row.1, row.2)))
}

/// The integrity algorithm of an `ikev2_decryption_table` row; an inner `None` means no algorithm.
pub(super) fn ike_integrity(name: &str) -> Option<TableAlgorithm<Option<&'static Integrity>>> {
    integrity(IKE_INTEGRITY, name, "-bits of Authentication")
}

/// The cipher of an `esp_sa` row; the key length selects the variant.
pub(super) fn esp_encryption(
    name: &str,
    key_len: usize,
) -> Option<TableAlgorithm<&'static Encryption>> {
    let (_, id) = ESP_ENCRYPTION.iter().find(|row| row.0 == bare(name))?;
    let fits =
        |row: &&Encryption| row.id == *id && row.key_len.saturating_add(row.salt_len) == key_len;
    Some(meaning(crypto::ENCRYPTION.iter().find(fits)))
}

/// The integrity algorithm of an `esp_sa` row.
pub(super) fn esp_integrity(name: &str) -> Option<TableAlgorithm<Option<&'static Integrity>>> {
    integrity(ESP_INTEGRITY, name, " bit authentication")
}

/// Transform ID of the algorithms that groundlink does not support.
const UNSUPPORTED: u16 = u16::MAX;

const IKE_ENCRYPTION: &[(&str, u16, Option<u16>)] = &[
    ("3DES", 3, None),
    ("DES", 2, None),
    ("AES-CBC-128", 12, Some(128)),
    ("AES-CBC-192", 12, Some(192)),
    ("AES-CBC-256", 12, Some(256)),
    ("AES-GCM-128 with 16 octet ICV", 20, Some(128)),
    ("AES-GCM-192 with 16 octet ICV", 20, Some(192)),
    ("AES-GCM-256 with 16 octet ICV", 20, Some(256)),
    ("ChaCha20 with Poly1305", 28, None),
    ("NULL", UNSUPPORTED, None),
    ("AES-CTR-128", UNSUPPORTED, None),
    ("AES-CTR-192", UNSUPPORTED, None),
    ("AES-CTR-256", UNSUPPORTED, None),
    ("AES-GCM-128 with 8 octet ICV", UNSUPPORTED, None),
    ("AES-GCM-192 with 8 octet ICV", UNSUPPORTED, None),
    ("AES-GCM-256 with 8 octet ICV", UNSUPPORTED, None),
    ("AES-GCM-128 with 12 octet ICV", UNSUPPORTED, None),
    ("AES-GCM-192 with 12 octet ICV", UNSUPPORTED, None),
    ("AES-GCM-256 with 12 octet ICV", UNSUPPORTED, None),
    ("AES-CCM-128 with 8 octet ICV", UNSUPPORTED, None),
    ("AES-CCM-192 with 8 octet ICV", UNSUPPORTED, None),
    ("AES-CCM-256 with 8 octet ICV", UNSUPPORTED, None),
    ("AES-CCM-128 with 12 octet ICV", UNSUPPORTED, None),
    ("AES-CCM-192 with 12 octet ICV", UNSUPPORTED, None),
    ("AES-CCM-256 with 12 octet ICV", UNSUPPORTED, None),
    ("AES-CCM-128 with 16 octet ICV", UNSUPPORTED, None),
    ("AES-CCM-192 with 16 octet ICV", UNSUPPORTED, None),
    ("AES-CCM-256 with 16 octet ICV", UNSUPPORTED, None),
];

const IKE_INTEGRITY: &[(&str, u16)] = &[
    ("NONE", NONE),
    ("HMAC_MD5_96", 1),
    ("HMAC_SHA1_96", 2),
    ("HMAC_SHA2_256_128", 12),
    ("HMAC_SHA2_384_192", 13),
    ("HMAC_SHA2_512_256", 14),
    ("HMAC_MD5_128", UNSUPPORTED),
    ("HMAC_SHA1_160", UNSUPPORTED),
    ("HMAC_SHA2_256_96", UNSUPPORTED),
];

const ESP_ENCRYPTION: &[(&str, u16)] = &[
    ("TripleDES-CBC", 3),
    ("DES-CBC", 2),
    ("AES-CBC", 12),
    ("AES-GCM", 20),
    ("AES-GCM with 16 octet ICV", 20),
    ("ChaCha20 with Poly1305", 28),
    ("NULL", UNSUPPORTED),
    ("AES-CTR", UNSUPPORTED),
    ("CAST5-CBC", UNSUPPORTED),
    ("BLOWFISH-CBC", UNSUPPORTED),
    ("TWOFISH-CBC", UNSUPPORTED),
    ("AES-GCM with 8 octet ICV", UNSUPPORTED),
    ("AES-GCM with 12 octet ICV", UNSUPPORTED),
    ("AES-GCM with IIV and 16 octet ICV", UNSUPPORTED),
    ("ChaCha20 with Poly1305 and IIV", UNSUPPORTED),
];

const ESP_INTEGRITY: &[(&str, u16)] = &[
    ("NULL", NONE),
    ("HMAC-MD5-96", 1),
    ("HMAC-SHA-1-96", 2),
    ("HMAC-SHA-256-128", 12),
    ("HMAC-SHA-384-192", 13),
    ("HMAC-SHA-512-256", 14),
    ("HMAC-SHA-256-96", UNSUPPORTED),
    ("MAC-RIPEMD-160-96", UNSUPPORTED),
];

/// Transform id 0 of the integrity algorithms.
const NONE: u16 = 0;

/// The name without its RFC.
fn bare(name: &str) -> &str {
    name.split_once(" [").map_or(name, |(name, _)| name)
}

fn meaning<T>(supported: Option<T>) -> TableAlgorithm<T> {
    supported.map_or(TableAlgorithm::Unsupported, TableAlgorithm::Supported)
}

/// `any` is the end of Wireshark's names for an ICV that is skipped without a check.
fn integrity(
    rows: &[(&str, u16)],
    name: &str,
    any: &str,
) -> Option<TableAlgorithm<Option<&'static Integrity>>> {
    let name = bare(name);
    if name.starts_with("ANY ") && name.ends_with(any) {
        return Some(TableAlgorithm::Unsupported);
    }
    match rows.iter().find(|row| row.0 == name)?.1 {
        NONE => Some(TableAlgorithm::Supported(None)),
        id => Some(meaning(crypto::integrity(id).map(Some))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_recognized_with_any_rfc_reference() {
        let word = |name| match ike_encryption(name) {
            Some(TableAlgorithm::Supported(row)) => row.word,
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(word("AES-CBC-256 [RFC3602]"), "aes256");
        assert_eq!(
            word("AES-GCM-128 with 16 octet ICV [RFC5282]"),
            "aes128gcm16"
        );
        assert_eq!(word("3DES [RFC2451]"), "3des");
        let esp = |name, len| match esp_encryption(name, len) {
            Some(TableAlgorithm::Supported(row)) => row.word,
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(esp("AES-CBC [RFC3602]", 24), "aes192");
        assert_eq!(esp("AES-GCM [RFC4106]", 20), "aes128gcm16");
        assert_eq!(
            esp("AES-GCM with 16 octet ICV [RFC4106]", 36),
            "aes256gcm16"
        );
        assert_eq!(
            esp("ChaCha20 with Poly1305 [RFC7634]", 36),
            "chacha20poly1305"
        );
    }

    #[test]
    fn wiresharks_other_algorithms_are_unsupported_and_the_rest_is_unknown() {
        assert_eq!(
            ike_encryption("NULL [RFC2410]"),
            Some(TableAlgorithm::Unsupported)
        );
        let gcm192 = "AES-GCM-192 with 16 octet ICV [RFC5282]";
        assert_eq!(ike_encryption(gcm192), Some(TableAlgorithm::Unsupported));
        assert_eq!(ike_encryption("ROT13"), None);
        assert_eq!(
            esp_encryption("AES-CTR [RFC3686]", 20),
            Some(TableAlgorithm::Unsupported)
        );
        assert_eq!(
            esp_encryption("AES-CBC [RFC3602]", 17),
            Some(TableAlgorithm::Unsupported)
        );
        assert_eq!(esp_encryption("aes", 16), None);
        let any = "ANY 96-bits of Authentication [No Checking]";
        assert_eq!(ike_integrity(any), Some(TableAlgorithm::Unsupported));
        let any = "ANY 128 bit authentication [no checking]";
        assert_eq!(esp_integrity(any), Some(TableAlgorithm::Unsupported));
        assert_eq!(
            ike_integrity("NONE [RFC4306]"),
            Some(TableAlgorithm::Supported(None))
        );
        assert_eq!(esp_integrity("NULL"), Some(TableAlgorithm::Supported(None)));
        assert_eq!(esp_integrity("CRC32"), None);
    }

    #[test]
    fn every_supported_algorithm_has_a_name_in_both_tables() {
        for row in crypto::INTEGRITY {
            for table in [IKE_INTEGRITY, ESP_INTEGRITY] {
                assert!(table.iter().any(|(_, id)| *id == row.id), "{row}");
            }
        }
        for row in crypto::ENCRYPTION {
            assert!(ESP_ENCRYPTION.iter().any(|(_, id)| *id == row.id), "{row}");
            let named =
                |(_, id, bits): &&(_, u16, Option<u16>)| (*id, *bits) == (row.id, row.key_bits);
            assert!(IKE_ENCRYPTION.iter().any(|entry| named(&entry)), "{row}");
        }
    }
}
