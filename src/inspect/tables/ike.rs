//! `ikev2_decryption_table`: the keys of IKE SAs.
//!
//! ```text
//! SPIi,SPIr,SK_ei,SK_er,"AES-CBC-128 [RFC3602]",SK_ai,SK_ar,"HMAC_SHA1_96 [RFC2404]"
//! ```
//!
//! The key of an AEAD has its salt behind it, and its integrity keys are empty.

use std::collections::HashMap;

use crate::crypto::{Opener, Protection, SaKeys, Secret};
use crate::wire::IkeSpi;

use super::KeyTableError;
use super::algorithms::{TableAlgorithm, ike_encryption, ike_integrity};
use super::row::{hex, rows};

/// The keys of IKE SAs, by their two SPIs.
#[derive(Default)]
pub struct IkeKeys {
    sas: HashMap<(IkeSpi, IkeSpi), IkeKeyRow>,
}

/// What opens the messages of an IKE SA.
pub(in crate::inspect) enum IkeKeyRow {
    /// Both directions.
    Open {
        /// What the side that initiated the SA sends.
        initiator: Box<Opener>,
        /// What the other side sends.
        responder: Box<Opener>,
    },
    /// The table names algorithms that we do not run.
    Unsupported(String),
}

impl IkeKeys {
    /// Reads the table.
    ///
    /// # Errors
    /// A line is not a row of it.
    pub fn parse(text: &str) -> Result<IkeKeys, KeyTableError> {
        let mut keys = IkeKeys::default();
        for (line, fields) in rows(text)? {
            let (spis, sa) = row(&fields).map_err(|what| KeyTableError { line, what })?;
            // As in Wireshark, the first of two rows for the same SA counts.
            keys.sas.entry(spis).or_insert(sa);
        }
        Ok(keys)
    }

    /// What opens the messages with these SPIs.
    pub(in crate::inspect) fn find(&self, spi_i: IkeSpi, spi_r: IkeSpi) -> Option<&IkeKeyRow> {
        self.sas.get(&(spi_i, spi_r))
    }
}

fn row(fields: &[String]) -> Result<((IkeSpi, IkeSpi), IkeKeyRow), String> {
    let [
        spi_i,
        spi_r,
        sk_ei,
        sk_er,
        encryption,
        sk_ai,
        sk_ar,
        integrity,
    ] = fields
    else {
        return Err(format!("{} fields, where 8 should be", fields.len()));
    };
    let spis = (spi(spi_i)?, spi(spi_r)?);
    let cipher = ike_encryption(encryption)
        .ok_or_else(|| format!("\"{encryption}\" is not a cipher of Wireshark's list"))?;
    let mac = ike_integrity(integrity).ok_or_else(|| {
        format!("\"{integrity}\" is not an integrity algorithm of Wireshark's list")
    })?;
    let keys = |encryption: &str, integrity: &str| {
        Ok::<SaKeys, String>(SaKeys {
            encryption: key(encryption)?,
            integrity: key(integrity)?,
        })
    };
    let (initiator, responder) = (keys(sk_ei, sk_ai)?, keys(sk_er, sk_ar)?);
    let (TableAlgorithm::Supported(cipher), TableAlgorithm::Supported(mac)) = (cipher, mac) else {
        let words = format!("{encryption} with {integrity}");
        return Ok((spis, IkeKeyRow::Unsupported(words)));
    };
    let protection = Protection {
        encryption: cipher,
        integrity: mac,
    };
    let opener = |keys| {
        Opener::new(protection, keys)
            .map(Box::new)
            .map_err(|error| format!("{error} ({encryption} with {integrity})"))
    };
    Ok((
        spis,
        IkeKeyRow::Open {
            initiator: opener(&initiator)?,
            responder: opener(&responder)?,
        },
    ))
}

fn spi(field: &str) -> Result<IkeSpi, String> {
    hex(field)
        .and_then(|octets| octets.try_into().ok())
        .map(|octets| IkeSpi(u64::from_be_bytes(octets)))
        .ok_or_else(|| "an SPI is not 16 hexadecimal digits".to_owned())
}

/// The text of a key never gets into an error.
fn key(field: &str) -> Result<Secret, String> {
    hex(field)
        .map(Secret::new)
        .ok_or_else(|| "a key is not an even number of hexadecimal digits".to_owned())
}

impl std::fmt::Debug for IkeKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "keys of {} IKE SAs", self.sas.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: &str = "0011223344556677,8899aabbccddeeff,000102030405060708090a0b0c0d0e0f,101112131415161718191a1b1c1d1e1f,\
        \"AES-CBC-128 [RFC3602]\",000102030405060708090a0b0c0d0e0f10111213,202122232425262728292a2b2c2d2e2f30313233,\
        \"HMAC_SHA1_96 [RFC2404]\"";

    const SPIS: (IkeSpi, IkeSpi) = (IkeSpi(0x0011_2233_4455_6677), IkeSpi(0x8899_aabb_ccdd_eeff));

    #[test]
    fn a_row_gives_what_opens_both_directions() {
        let keys = IkeKeys::parse(&format!("# Wireshark's\n{ROW}\n")).unwrap();
        assert!(matches!(
            keys.find(SPIS.0, SPIS.1),
            Some(IkeKeyRow::Open { .. })
        ));
        assert!(keys.find(SPIS.1, SPIS.0).is_none());
        assert_eq!(format!("{keys:?}"), "keys of 1 IKE SAs");
    }

    #[test]
    fn an_aead_has_no_integrity_keys() {
        let row = "0011223344556677,8899aabbccddeeff,000102030405060708090a0b0c0d0e0f00112233,\
            101112131415161718191a1b1c1d1e1f00112233,\"AES-GCM-128 with 16 octet ICV [RFC5282]\",,,\"NONE [RFC4306]\"";
        let keys = IkeKeys::parse(row).unwrap();
        assert!(matches!(
            keys.find(SPIS.0, SPIS.1),
            Some(IkeKeyRow::Open { .. })
        ));
    }

    #[test]
    fn algorithms_we_do_not_run_are_kept_by_name() {
        let row = ROW.replace("HMAC_SHA1_96 [RFC2404]", "HMAC_SHA1_160 [RFC4595]");
        let keys = IkeKeys::parse(&row).unwrap();
        let Some(IkeKeyRow::Unsupported(words)) = keys.find(SPIS.0, SPIS.1) else {
            panic!("{keys:?}")
        };
        assert!(words.contains("HMAC_SHA1_160"), "{words}");
    }

    #[test]
    fn a_row_that_makes_no_sense_is_refused_without_its_keys() {
        for (from, to, said) in [
            ("0011223344556677,", "", "7 fields"),
            ("0011223344556677", "00112233", "SPI"),
            ("AES-CBC-128", "AES-129", "\"AES-129 [RFC3602]\""),
            ("HMAC_SHA1_96", "CRC", "\"CRC [RFC2404]\""),
            ("AES-CBC-128", "AES-CBC-256", "do not have the lengths"),
            ("0c0d0e0f,10", "0c0d0e0,10", "even number"),
        ] {
            let error = IkeKeys::parse(&ROW.replacen(from, to, 1)).unwrap_err();
            assert_eq!(error.line, 1);
            assert!(error.what.contains(said), "{to}: {error}");
            assert!(!error.what.contains("1011121314"), "{error}");
        }
    }
}
