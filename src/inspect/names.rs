//! Names of transforms and vendor IDs. Transforms that groundlink does not support have strongSwan's names (numbers: IANA
//! "IKEv2 Parameters").

use crate::crypto;
use crate::wire::{Transform, TransformType};

/// The name of a transform, in configuration syntax or strongSwan's.
pub(super) fn transform(transform: &Transform) -> Option<&'static str> {
    let supported = match transform.kind {
        TransformType::ENCR => {
            crypto::encryption(transform.id, transform.key_bits).map(|row| row.word)
        }
        TransformType::PRF => crypto::prf(transform.id).map(|row| row.word),
        TransformType::INTEG => crypto::integrity(transform.id).map(|row| row.word),
        TransformType::ESN => crypto::Esn::from_id(transform.id).map(crypto::Esn::word),
        kind if is_key_exchange(kind) => crypto::group(transform.id).map(|row| row.word),
        _ => None,
    };
    supported.or_else(|| unsupported(transform.kind, transform.id))
}

/// The word of a transform in a proposal, with its key length; `None` for what a proposal leaves out.
pub(super) fn word(of: &Transform) -> Option<String> {
    let is_silent = matches!(of.kind, TransformType::ESN | TransformType::INTEG) && of.id == 0;
    if is_silent {
        return None;
    }
    let bits = of
        .key_bits
        .map_or_else(String::new, |bits| bits.to_string());
    let is_ours =
        of.kind != TransformType::ENCR || crypto::encryption(of.id, of.key_bits).is_some();
    Some(match transform(of) {
        Some(name) if is_ours => name.to_owned(),
        // strongSwan writes the key length behind the cipher and before its mode.
        Some(name) => match ["aes", "camellia"]
            .iter()
            .find_map(|cipher| Some((*cipher, name.strip_prefix(cipher)?)))
        {
            Some((cipher, mode)) => format!("{cipher}{bits}{mode}"),
            None => format!("{name}{bits}"),
        },
        None => {
            let kind = match of.kind {
                TransformType::ENCR => "encr",
                TransformType::INTEG => "integ",
                TransformType::PRF => "prf",
                TransformType::ESN => "esn",
                kind if is_key_exchange(kind) => "group",
                _ => "transform",
            };
            format!("{kind}({})", of.id)
        }
    })
}

/// The exchange types of IKEv1 (RFC 2408 §3.1, RFC 2409 appendix A).
pub(super) fn ikev1_exchange(number: u8) -> String {
    let name = match number {
        1 => "Base",
        2 => "Main Mode",
        3 => "Authentication Only",
        4 => "Aggressive Mode",
        5 => "Informational",
        6 => "Mode Config",
        32 => "Quick Mode",
        33 => "New Group Mode",
        other => return format!("IKEv1 exchange {other}"),
    };
    format!("IKEv1 {name}")
}

/// The name of a key exchange group.
pub(super) fn group(id: u16) -> Option<&'static str> {
    crypto::group(id)
        .map(|row| row.word)
        .or_else(|| unsupported(TransformType::KE, id))
}

/// `modp2048 (14)`, or `group 99`.
pub(super) fn group_name(id: u16) -> String {
    group(id).map_or_else(|| format!("group {id}"), |name| format!("{name} ({id})"))
}

/// RFC 9370: the additional key exchanges choose from the list of type 4.
fn is_key_exchange(kind: TransformType) -> bool {
    kind == TransformType::KE || (TransformType::ADDKE1..=TransformType::ADDKE7).contains(&kind)
}

fn unsupported(kind: TransformType, id: u16) -> Option<&'static str> {
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

/// The implementation or feature that a vendor ID announces (RFC 7296 §3.12).
pub(super) fn vendor(id: &[u8]) -> Option<&'static str> {
    VENDOR_IDS
        .iter()
        .find(|(start, _)| id.starts_with(start))
        .map(|(_, name)| *name)
}

/// Prefixes of publicly known vendor IDs; versions and capabilities follow them. Most are the MD5 of a phrase.
const VENDOR_IDS: &[(&[u8], &str)] = &[
    (b"groundlink", "groundlink"),
    (
        &octets(0x882f_e56d_6fd2_0dbc_2251_613b_2ebe_5beb),
        "strongSwan",
    ),
    (b"OE-Libreswan", "Libreswan, opportunistic"),
    (b"CISCO-DELETE-REASON", "Cisco, reason of a DELETE"),
    (b"CISCO(COPYRIGHT)", "Cisco"),
    (b"CISCO-GRE-MODE", "Cisco, GRE"),
    (b"CISCO-DYNAMIC-ROUTE", "Cisco, FlexVPN routes"),
    (b"FLEXVPN-SUPPORTED", "Cisco, FlexVPN"),
    (
        &octets(0x4048_b7d5_6ebc_e885_25e7_de7f_00d6_c2d3),
        "Cisco, fragmentation before RFC 7383",
    ),
    (
        &octets(0x12f5_f28c_4571_68a9_702d_9fe2_74cc_02d4),
        "Cisco Unity",
    ),
    (
        &octets(0x1e2b_5169_0599_1c7d_7c96_fcbf_b587_e461),
        "Microsoft Windows",
    ),
    (
        &octets(0xfb1d_e3cd_f341_b7ea_16b7_e5be_0855_f120),
        "Microsoft, negotiation discovery",
    ),
    (
        &octets(0x2624_4d38_eddb_61b3_172a_36e3_d0cf_b819),
        "Microsoft, initial contact",
    ),
    (
        &octets(0xe3a5_966a_7637_9fe7_0722_8231_e5ce_8652),
        "Microsoft, CGA",
    ),
    (
        &octets(0x214c_a4fa_ffa7_f32d_6748_e530_3395_ae83),
        "Microsoft, MAM",
    ),
    (
        &octets(0xafca_d713_68a1_f1c9_6b86_96fc_7757_0100),
        "dead peer detection (RFC 3706)",
    ),
    (
        &octets(0x4a13_1c81_0703_5845_5c57_28f2_0e95_452f),
        "NAT traversal (RFC 3947)",
    ),
];

const fn octets(number: u128) -> [u8; 16] {
    number.to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transforms_have_configuration_or_strongswan_names() {
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
        assert_eq!(group_name(14), "modp2048 (14)");
        assert_eq!(group_name(9999), "group 9999");
    }

    #[test]
    fn vendor_ids_are_recognized_by_their_prefix() {
        let strongswan = octets(0x882f_e56d_6fd2_0dbc_2251_613b_2ebe_5beb);
        assert_eq!(vendor(&strongswan), Some("strongSwan"));
        assert_eq!(vendor(b"groundlink IKEv2 1"), Some("groundlink"));
        let windows = [
            &octets(0x1e2b_5169_0599_1c7d_7c96_fcbf_b587_e461)[..],
            &[0, 0, 0, 9],
        ]
        .concat();
        assert_eq!(vendor(&windows), Some("Microsoft Windows"));
        assert_eq!(vendor(b"unknown"), None);
        assert_eq!(vendor(b""), None);
    }
}
