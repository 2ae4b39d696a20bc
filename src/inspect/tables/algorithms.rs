//! Wireshark's names of algorithms, beside the numbers of ours.
//!
//! Wireshark writes the RFC behind the name in brackets; it is not compared.

use crate::crypto::{self, Encryption, Integrity};

/// What a name in a table means to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TableAlgorithm<T> {
    /// An algorithm of ours.
    Supported(T),
    /// One that Wireshark knows and we do not run.
    Unsupported,
}

/// The cipher of a row of `ikev2_decryption_table`; `None` if Wireshark does not know it either.
pub(super) fn ike_encryption(name: &str) -> Option<TableAlgorithm<&'static Encryption>> {
    let row = IKE_ENCRYPTION.iter().find(|row| row.0 == bare(name))?;
    Some(meaning(crypto::encryption(row.1, row.2)))
}

/// The integrity algorithm of such a row; none is a meaning too.
pub(super) fn ike_integrity(name: &str) -> Option<TableAlgorithm<Option<&'static Integrity>>> {
    integrity(IKE_INTEGRITY, name, "-bits of Authentication")
}

/// The cipher of a row of `esp_sa`, whose length is that of its key.
pub(super) fn esp_encryption(
    name: &str,
    key_len: usize,
) -> Option<TableAlgorithm<&'static Encryption>> {
    let (_, id) = ESP_ENCRYPTION.iter().find(|row| row.0 == bare(name))?;
    let fits =
        |row: &&Encryption| row.id == *id && row.key_len.saturating_add(row.salt_len) == key_len;
    Some(meaning(crypto::ENCRYPTION.iter().find(fits)))
}

/// The integrity algorithm of such a row.
pub(super) fn esp_integrity(name: &str) -> Option<TableAlgorithm<Option<&'static Integrity>>> {
    integrity(ESP_INTEGRITY, name, " bit authentication")
}

/// Numbers of transforms (IANA); [`FOREIGN`] where there is no row of ours.
const FOREIGN: u16 = u16::MAX;

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
    ("NULL", FOREIGN, None),
    ("AES-CTR-128", FOREIGN, None),
    ("AES-CTR-192", FOREIGN, None),
    ("AES-CTR-256", FOREIGN, None),
    ("AES-GCM-128 with 8 octet ICV", FOREIGN, None),
    ("AES-GCM-192 with 8 octet ICV", FOREIGN, None),
    ("AES-GCM-256 with 8 octet ICV", FOREIGN, None),
    ("AES-GCM-128 with 12 octet ICV", FOREIGN, None),
    ("AES-GCM-192 with 12 octet ICV", FOREIGN, None),
    ("AES-GCM-256 with 12 octet ICV", FOREIGN, None),
    ("AES-CCM-128 with 8 octet ICV", FOREIGN, None),
    ("AES-CCM-192 with 8 octet ICV", FOREIGN, None),
    ("AES-CCM-256 with 8 octet ICV", FOREIGN, None),
    ("AES-CCM-128 with 12 octet ICV", FOREIGN, None),
    ("AES-CCM-192 with 12 octet ICV", FOREIGN, None),
    ("AES-CCM-256 with 12 octet ICV", FOREIGN, None),
    ("AES-CCM-128 with 16 octet ICV", FOREIGN, None),
    ("AES-CCM-192 with 16 octet ICV", FOREIGN, None),
    ("AES-CCM-256 with 16 octet ICV", FOREIGN, None),
];

const IKE_INTEGRITY: &[(&str, u16)] = &[
    ("NONE", NONE),
    ("HMAC_MD5_96", 1),
    ("HMAC_SHA1_96", 2),
    ("HMAC_SHA2_256_128", 12),
    ("HMAC_SHA2_384_192", 13),
    ("HMAC_SHA2_512_256", 14),
    ("HMAC_MD5_128", FOREIGN),
    ("HMAC_SHA1_160", FOREIGN),
    ("HMAC_SHA2_256_96", FOREIGN),
];

const ESP_ENCRYPTION: &[(&str, u16)] = &[
    ("TripleDES-CBC", 3),
    ("DES-CBC", 2),
    ("AES-CBC", 12),
    ("AES-GCM", 20),
    ("AES-GCM with 16 octet ICV", 20),
    ("ChaCha20 with Poly1305", 28),
    ("NULL", FOREIGN),
    ("AES-CTR", FOREIGN),
    ("CAST5-CBC", FOREIGN),
    ("BLOWFISH-CBC", FOREIGN),
    ("TWOFISH-CBC", FOREIGN),
    ("AES-GCM with 8 octet ICV", FOREIGN),
    ("AES-GCM with 12 octet ICV", FOREIGN),
    ("AES-GCM with IIV and 16 octet ICV", FOREIGN),
    ("ChaCha20 with Poly1305 and IIV", FOREIGN),
];

const ESP_INTEGRITY: &[(&str, u16)] = &[
    ("NULL", NONE),
    ("HMAC-MD5-96", 1),
    ("HMAC-SHA-1-96", 2),
    ("HMAC-SHA-256-128", 12),
    ("HMAC-SHA-384-192", 13),
    ("HMAC-SHA-512-256", 14),
    ("HMAC-SHA-256-96", FOREIGN),
    ("MAC-RIPEMD-160-96", FOREIGN),
];

/// Transform id 0 of the integrity algorithms.
const NONE: u16 = 0;

/// The name without the RFC.
fn bare(name: &str) -> &str {
    name.split_once(" [").map_or(name, |(name, _)| name)
}

fn meaning<T>(ours: Option<T>) -> TableAlgorithm<T> {
    ours.map_or(TableAlgorithm::Unsupported, TableAlgorithm::Supported)
}

/// `any` is how Wireshark calls an ICV that it is only to skip.
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
    fn names_stand_for_our_rows_whatever_rfc_they_cite() {
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
    fn what_wireshark_knows_and_we_do_not_is_foreign_and_the_rest_unknown() {
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
    fn every_integrity_algorithm_of_ours_has_a_name_in_both_tables() {
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
