//! Rows of both tables, valid and invalid.

use super::*;

#[test]
fn fields_are_quoted_or_bare_and_may_be_empty() {
    let text = "# made by hand\n\n 00ff , \"AES-CBC [RFC3602]\",,\"a, b\"\n";
    let expected = ["00ff", "AES-CBC [RFC3602]", "", "a, b"].map(str::to_owned);
    assert_eq!(rows(text), Ok(vec![(3, Fields::new(expected.to_vec()))]));
}

#[test]
fn an_invalid_line_is_reported_with_its_number() {
    for (text, what) in [
        ("a\n\"open", "a quote is not closed"),
        ("#\n\"a\"b", "a comma is missing after a quoted field"),
    ] {
        let error = rows(text).unwrap_err();
        assert_eq!((error.line, error.what.as_str()), (2, what));
    }
    assert!(rows(&"a\n".repeat(MAX_ROWS + 1)).is_err());
}

#[test]
fn hexadecimal_needs_an_even_number_of_digits() {
    assert_eq!(hex("0x00fF"), Some(vec![0, 255]));
    assert_eq!(hex("00ff"), Some(vec![0, 255]));
    assert_eq!(hex(""), Some(vec![]));
    for wrong in ["0", "0x123", "zz", "+1", "ää"] {
        assert_eq!(hex(wrong), None, "{wrong}");
    }
}

const IKE_ROW: &str = "0011223344556677,8899aabbccddeeff,000102030405060708090a0b0c0d0e0f,101112131415161718191a1b1c1d1e1f,\
    \"AES-CBC-128 [RFC3602]\",000102030405060708090a0b0c0d0e0f10111213,202122232425262728292a2b2c2d2e2f30313233,\
    \"HMAC_SHA1_96 [RFC2404]\"";

const SPIS: (IkeSpi, IkeSpi) = (IkeSpi(0x0011_2233_4455_6677), IkeSpi(0x8899_aabb_ccdd_eeff));

#[test]
fn an_ike_row_has_the_keys_of_both_directions() {
    let keys = IkeKeys::parse(&format!("# Wireshark's\n{IKE_ROW}\n")).unwrap();
    assert!(matches!(
        keys.find(SPIS.0, SPIS.1),
        Some(IkeKeyRow::Open { .. })
    ));
    assert!(keys.find(SPIS.1, SPIS.0).is_none());
    assert_eq!(format!("{keys:?}"), "keys of 1 IKE SAs");
}

#[test]
fn an_aead_row_has_no_integrity_keys() {
    let row = "0011223344556677,8899aabbccddeeff,000102030405060708090a0b0c0d0e0f00112233,\
        101112131415161718191a1b1c1d1e1f00112233,\"AES-GCM-128 with 16 octet ICV [RFC5282]\",,,\"NONE [RFC4306]\"";
    let keys = IkeKeys::parse(row).unwrap();
    assert!(matches!(
        keys.find(SPIS.0, SPIS.1),
        Some(IkeKeyRow::Open { .. })
    ));
}

#[test]
fn unsupported_ike_algorithms_are_kept_by_name() {
    let row = IKE_ROW.replace("HMAC_SHA1_96 [RFC2404]", "HMAC_SHA1_160 [RFC4595]");
    let keys = IkeKeys::parse(&row).unwrap();
    let Some(IkeKeyRow::Unsupported(words)) = keys.find(SPIS.0, SPIS.1) else {
        panic!("{keys:?}")
    };
    assert!(words.contains("HMAC_SHA1_160"), "{words}");
}

#[test]
fn an_invalid_ike_row_is_rejected_without_showing_its_keys() {
    for (from, to, expected) in [
        ("0011223344556677,", "", "7 fields"),
        ("0011223344556677", "00112233", "SPI"),
        ("AES-CBC-128", "AES-129", "\"AES-129 [RFC3602]\""),
        ("HMAC_SHA1_96", "CRC", "\"CRC [RFC2404]\""),
        ("AES-CBC-128", "AES-CBC-256", "do not have the lengths"),
        ("0c0d0e0f,10", "0c0d0e0,10", "even number"),
    ] {
        let error = IkeKeys::parse(&IKE_ROW.replacen(from, to, 1)).unwrap_err();
        assert_eq!(error.line, 1);
        assert!(error.what.contains(expected), "{to}: {error}");
        assert!(!error.what.contains("1011121314"), "{error}");
    }
}

const ESP_ROW: &str = "\"IPv4\",\"192.0.2.1\",\"192.0.2.2\",\"0xc0000001\",\"AES-CBC [RFC3602]\",\"0x000102030405060708090a0b0c0d0e0f\",\
    \"HMAC-SHA-1-96 [RFC2404]\",\"0x000102030405060708090a0b0c0d0e0f10111213\"";

fn found(row: &str, source: &str, spi: u32) -> bool {
    let keys = EspKeys::parse(row).unwrap();
    let destination = if source.contains(':') {
        "2001:db8::2"
    } else {
        "192.0.2.2"
    };
    let mut found = keys.find(source.parse().unwrap(), destination.parse().unwrap(), spi);
    found.next().is_some()
}

#[test]
fn an_esp_row_matches_addresses_and_spi() {
    for (from, to, source, spi, expected) in [
        ("", "", "192.0.2.1", 0xc000_0001, true),
        ("", "", "192.0.2.1", 0xc000_0002, false),
        ("", "", "192.0.2.3", 0xc000_0001, false),
        ("192.0.2.1", "*", "192.0.2.3", 0xc000_0001, true),
        ("192.0.2.1", "192.0.2.0/24", "192.0.2.3", 0xc000_0001, true),
        ("192.0.2.1", "192.0.3.0/24", "192.0.2.3", 0xc000_0001, false),
        ("0xc0000001", "*", "192.0.2.1", 7, true),
        ("0xc0000001", "0xc000000*", "192.0.2.1", 0xc000_000f, true),
        ("0xc0000001", "0xc000000*", "192.0.2.1", 0xc000_001f, false),
        ("0xc0000001", "0x7", "192.0.2.1", 7, true),
        ("0xc0000001", "1234", "192.0.2.1", 1234, true),
    ] {
        let row = ESP_ROW.replacen(from, to, 1);
        assert_eq!(found(&row, source, spi), expected, "{to} {source} {spi:x}");
    }
    let v6 = ESP_ROW
        .replace("IPv4", "IPv6")
        .replace("192.0.2.1", "*")
        .replace("192.0.2.2", "2001:db8::2");
    assert!(found(&v6, "2001:db8::1", 0xc000_0001));
    assert!(!found(&v6, "192.0.2.1", 0xc000_0001));
}

#[test]
fn newer_tables_have_the_length_of_sequence_numbers() {
    for (fields, esn, upper) in [
        ("", None, 0),
        (",\"32-bit\",\"0\"", Some(Esn::No), 0),
        (",\"64-bit\",\"0x1f\"", Some(Esn::Yes), 31),
        (",\"64-bit\"", Some(Esn::Yes), 0),
    ] {
        let keys = EspKeys::parse(&format!("{ESP_ROW}{fields}")).unwrap();
        assert_eq!((keys.sas[0].esn, keys.sas[0].upper), (esn, upper));
    }
}

#[test]
fn unsupported_esp_algorithms_are_kept_by_name() {
    for (from, to) in [
        ("AES-CBC [RFC3602]", "AES-CTR [RFC3686]"),
        ("HMAC-SHA-1-96 [RFC2404]", "MAC-RIPEMD-160-96 [RFC2857]"),
        ("HMAC-SHA-1-96 [RFC2404]", "NULL"),
        ("0x000102030405060708090a0b0c0d0e0f\"", "0x0001\""),
    ] {
        let keys = EspKeys::parse(&ESP_ROW.replacen(from, to, 1)).unwrap();
        assert!(keys.sas[0].opener.is_err(), "{to}");
    }
    let aead = ESP_ROW
        .replace("AES-CBC", "AES-GCM")
        .replace("0d0e0f\",\"HMAC", "0d0e0f00112233\",\"HMAC")
        .replace(
            "HMAC-SHA-1-96 [RFC2404]",
            "ANY 128 bit authentication [no checking]",
        )
        .replace("0x000102030405060708090a0b0c0d0e0f10111213", "");
    assert!(EspKeys::parse(&aead).unwrap().sas[0].opener.is_ok());
}

#[test]
fn an_invalid_esp_row_is_rejected_without_showing_its_keys() {
    for (from, to, expected) in [
        ("\"IPv4\",", "", "7 fields"),
        ("IPv4", "IPX", "IPX"),
        ("192.0.2.1", "192.0.2", "192.0.2"),
        ("0xc0000001", "0xc00000011", "not an SPI"),
        ("0xc0000001", "0xg", "not an SPI"),
        ("AES-CBC", "AES", "cipher"),
        ("HMAC-SHA-1-96", "SHA", "integrity"),
        ("10111213\"", "1011121\"", "even number"),
        ("10111213\"", "101112\"", "lengths"),
        ("10111213\"", "10111213\",\"33-bit\"", "33-bit"),
        ("10111213\"", "10111213\",\"64-bit\",\"x\"", "upper half"),
        (
            "10111213\"",
            "10111213\",\"64-bit\",\"0\",\"1\"",
            "11 fields",
        ),
    ] {
        let error = EspKeys::parse(&ESP_ROW.replacen(from, to, 1)).unwrap_err();
        assert!(error.what.contains(expected), "{to}: {error}");
        assert!(!error.what.contains("0001020304"), "{error}");
    }
}
