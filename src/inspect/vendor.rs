//! Vendor IDs whose makers are publicly known (RFC 7296 §3.12). Most are the MD5 of a phrase, some the phrase itself.

/// Who sends this mark, or what it announces.
pub(super) fn name(mark: &[u8]) -> Option<&'static str> {
    KNOWN
        .iter()
        .find(|(start, _)| mark.starts_with(start))
        .map(|(_, name)| *name)
}

/// A mark that begins so. Versions and capabilities stand behind it.
const KNOWN: &[(&[u8], &str)] = &[
    (b"groundlink", "groundlink"),
    (
        &hex(0x882f_e56d_6fd2_0dbc_2251_613b_2ebe_5beb),
        "strongSwan",
    ),
    (b"OE-Libreswan", "Libreswan, opportunistic"),
    (b"CISCO-DELETE-REASON", "Cisco, reason of a DELETE"),
    (b"CISCO(COPYRIGHT)", "Cisco"),
    (b"CISCO-GRE-MODE", "Cisco, GRE"),
    (b"CISCO-DYNAMIC-ROUTE", "Cisco, FlexVPN routes"),
    (b"FLEXVPN-SUPPORTED", "Cisco, FlexVPN"),
    (
        &hex(0x4048_b7d5_6ebc_e885_25e7_de7f_00d6_c2d3),
        "Cisco, fragmentation before RFC 7383",
    ),
    (
        &hex(0x12f5_f28c_4571_68a9_702d_9fe2_74cc_02d4),
        "Cisco Unity",
    ),
    (
        &hex(0x1e2b_5169_0599_1c7d_7c96_fcbf_b587_e461),
        "Microsoft Windows",
    ),
    (
        &hex(0xfb1d_e3cd_f341_b7ea_16b7_e5be_0855_f120),
        "Microsoft, negotiation discovery",
    ),
    (
        &hex(0x2624_4d38_eddb_61b3_172a_36e3_d0cf_b819),
        "Microsoft, initial contact",
    ),
    (
        &hex(0xe3a5_966a_7637_9fe7_0722_8231_e5ce_8652),
        "Microsoft, CGA",
    ),
    (
        &hex(0x214c_a4fa_ffa7_f32d_6748_e530_3395_ae83),
        "Microsoft, MAM",
    ),
    (
        &hex(0xafca_d713_68a1_f1c9_6b86_96fc_7757_0100),
        "dead peer detection (RFC 3706)",
    ),
    (
        &hex(0x4a13_1c81_0703_5845_5c57_28f2_0e95_452f),
        "NAT traversal (RFC 3947)",
    ),
];

const fn hex(number: u128) -> [u8; 16] {
    number.to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_known_by_their_beginning() {
        let strongswan = hex(0x882f_e56d_6fd2_0dbc_2251_613b_2ebe_5beb);
        assert_eq!(name(&strongswan), Some("strongSwan"));
        assert_eq!(name(b"groundlink IKEv2 1"), Some("groundlink"));
        let windows = [
            &hex(0x1e2b_5169_0599_1c7d_7c96_fcbf_b587_e461)[..],
            &[0, 0, 0, 9],
        ]
        .concat();
        assert_eq!(name(&windows), Some("Microsoft Windows"));
        assert_eq!(name(b"somebody else"), None);
        assert_eq!(name(b""), None);
    }
}
