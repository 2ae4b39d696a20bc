//! `esp_sa`: the keys of Child SAs.
//!
//! ```text
//! "IPv4","192.0.2.1","192.0.2.2","0xc0000001","AES-CBC [RFC3602]","0x…","HMAC-SHA-1-96 [RFC2404]","0x…"
//! ```
//!
//! Newer versions of Wireshark add two fields: `"32-bit"` or `"64-bit"` sequence numbers, and the upper half to begin with.
//! AddressMatch may be `*` or `192.0.2.0/24`, an SPI may have `*` for digits.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::crypto::{Esn, Opener, Protection, SaKeys, Secret};
use crate::net::Prefix;

use super::KeyTableError;
use super::algorithms::{TableAlgorithm, esp_encryption, esp_integrity};
use super::row::{hex, rows};

/// The keys of Child SAs, in the order of the table.
#[derive(Default)]
pub struct EspKeys {
    sas: Vec<EspKeyRow>,
    /// Where the rows with one SPI are.
    exact: HashMap<u32, Vec<usize>>,
    /// Where the rows with wildcards are.
    wild: Vec<usize>,
}

/// A row: which packets it is for, and what opens them.
pub(in crate::inspect) struct EspKeyRow {
    family: Option<IpVersionMatch>,
    source: AddressMatch,
    destination: AddressMatch,
    spi: SpiPattern,
    /// What opens a packet, or the names of algorithms that we do not run.
    pub(in crate::inspect) opener: Result<Box<Opener>, String>,
    /// How long its sequence numbers are, if the table says.
    pub(in crate::inspect) esn: Option<Esn>,
    /// The upper half of the first ones.
    pub(in crate::inspect) upper: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum IpVersionMatch {
    V4,
    V6,
}

enum AddressMatch {
    Any,
    In(Prefix),
}

/// The SPIs that have `value` where `mask` has ones.
struct SpiPattern {
    mask: u32,
    value: u32,
}

impl EspKeys {
    /// Reads the table.
    ///
    /// # Errors
    /// A line is not a row of it.
    pub fn parse(text: &str) -> Result<EspKeys, KeyTableError> {
        let mut keys = EspKeys::default();
        for (line, fields) in rows(text)? {
            let sa = row(&fields).map_err(|what| KeyTableError { line, what })?;
            let place = keys.sas.len();
            if sa.spi.mask == u32::MAX {
                keys.exact.entry(sa.spi.value).or_default().push(place);
            } else {
                keys.wild.push(place);
            }
            keys.sas.push(sa);
        }
        Ok(keys)
    }

    /// The rows for a packet, each with its place in the table; at most [`MAX_TRIED`], those that name the SPI first.
    pub(in crate::inspect) fn find(
        &self,
        source: IpAddr,
        destination: IpAddr,
        spi: u32,
    ) -> impl Iterator<Item = (usize, &EspKeyRow)> {
        let exact = self.exact.get(&spi).into_iter().flatten();
        exact
            .chain(&self.wild)
            .filter_map(|place| Some((*place, self.sas.get(*place)?)))
            .filter(move |(_, sa)| sa.is_for(source, destination, spi))
            .take(MAX_TRIED)
    }
}

/// How many rows are tried on one packet.
const MAX_TRIED: usize = 8;

impl EspKeyRow {
    fn is_for(&self, source: IpAddr, destination: IpAddr, spi: u32) -> bool {
        let family = if source.is_ipv4() {
            IpVersionMatch::V4
        } else {
            IpVersionMatch::V6
        };
        self.family.is_none_or(|own| own == family)
            && self.source.contains(source)
            && self.destination.contains(destination)
            && spi & self.spi.mask == self.spi.value
    }
}

impl AddressMatch {
    fn contains(&self, address: IpAddr) -> bool {
        match self {
            AddressMatch::Any => true,
            AddressMatch::In(prefix) => prefix.contains(address),
        }
    }
}

fn row(fields: &[String]) -> Result<EspKeyRow, String> {
    let (
        [
            family,
            source,
            destination,
            spi,
            encryption,
            encryption_key,
            integrity,
            integrity_key,
        ],
        numbers,
    ) = fields
        .split_first_chunk()
        .ok_or_else(|| format!("{} fields, where 8 or 10 should be", fields.len()))?;
    let encryption_key = key(encryption_key)?;
    let integrity_key = key(integrity_key)?;
    let (esn, upper) = sequence_numbers(numbers)?;
    Ok(EspKeyRow {
        family: match family.as_str() {
            "IPv4" => Some(IpVersionMatch::V4),
            "IPv6" => Some(IpVersionMatch::V6),
            "*" | "Any" => None,
            other => return Err(format!("\"{other}\" is neither IPv4 nor IPv6")),
        },
        source: addresses(source)?,
        destination: addresses(destination)?,
        spi: spi_pattern(spi).ok_or_else(|| format!("\"{spi}\" is not an SPI"))?,
        opener: opener(encryption, encryption_key, integrity, integrity_key)?,
        esn,
        upper,
    })
}

fn opener(
    encryption: &str,
    encryption_key: Secret,
    integrity: &str,
    integrity_key: Secret,
) -> Result<Result<Box<Opener>, String>, String> {
    let cipher = esp_encryption(encryption, encryption_key.len())
        .ok_or_else(|| format!("\"{encryption}\" is not a cipher of Wireshark's list"))?;
    let mac = esp_integrity(integrity).ok_or_else(|| {
        format!("\"{integrity}\" is not an integrity algorithm of Wireshark's list")
    })?;
    let foreign = || {
        let bits = encryption_key.len().saturating_mul(8);
        Ok(Err(format!(
            "{encryption} (a key of {bits} bits) with {integrity}"
        )))
    };
    let TableAlgorithm::Supported(cipher) = cipher else {
        return foreign();
    };
    // An AEAD checks itself, whatever Wireshark was told to skip behind it.
    let mac = match mac {
        TableAlgorithm::Supported(mac) => mac,
        TableAlgorithm::Unsupported if cipher.is_aead() => None,
        TableAlgorithm::Unsupported => return foreign(),
    };
    if mac.is_none() && !cipher.is_aead() {
        return foreign();
    }
    let protection = Protection {
        encryption: cipher,
        integrity: mac,
    };
    let keys = SaKeys {
        encryption: encryption_key,
        integrity: integrity_key,
    };
    let opener = Opener::new(protection, &keys)
        .map_err(|error| format!("{error} ({encryption} with {integrity})"))?;
    Ok(Ok(Box::new(opener)))
}

/// The two fields of newer tables.
fn sequence_numbers(fields: &[String]) -> Result<(Option<Esn>, u32), String> {
    let (length, upper) = match fields {
        [] => return Ok((None, 0)),
        [length] => (length, "0"),
        [length, upper] => (length, upper.as_str()),
        more => {
            let count = more.len().saturating_add(8);
            return Err(format!("{count} fields, where 8 or 10 should be"));
        }
    };
    let esn = match length.as_str() {
        "32-bit" => Esn::No,
        "64-bit" => Esn::Yes,
        other => return Err(format!("\"{other}\" is neither 32-bit nor 64-bit")),
    };
    let digits = upper.strip_prefix("0x").unwrap_or(upper);
    let upper = u32::from_str_radix(digits, 16)
        .map_err(|_| format!("\"{upper}\" is not the upper half of a sequence number"))?;
    Ok((Some(esn), upper))
}

fn addresses(field: &str) -> Result<AddressMatch, String> {
    if field == "*" {
        return Ok(AddressMatch::Any);
    }
    let prefix = match field.parse::<IpAddr>() {
        Ok(address) => Prefix::host(address),
        Err(_) => field
            .parse()
            .map_err(|_| format!("\"{field}\" is neither an address, a prefix nor *"))?,
    };
    Ok(AddressMatch::In(prefix))
}

fn spi_pattern(field: &str) -> Option<SpiPattern> {
    let (digits, radix) = match field.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (field, 10),
    };
    if field == "*" {
        return Some(SpiPattern { mask: 0, value: 0 });
    }
    if radix == 10 {
        return Some(SpiPattern {
            mask: u32::MAX,
            value: digits.parse().ok()?,
        });
    }
    if !(1..=8).contains(&digits.chars().count()) {
        return None;
    }
    // Fewer digits than eight are the lowest ones; a wildcard stands for one digit.
    let mut pattern = SpiPattern {
        mask: u32::MAX,
        value: 0,
    };
    for digit in digits.chars() {
        let (mask, value) = match digit {
            '*' => (0, 0),
            digit => (0xf, digit.to_digit(16)?),
        };
        pattern.mask = pattern.mask << 4 | mask;
        pattern.value = pattern.value << 4 | value;
    }
    Some(pattern)
}

/// Hexadecimal behind `0x`, else the characters themselves, as Wireshark has it. The text never gets into an error.
fn key(field: &str) -> Result<Secret, String> {
    if !field.starts_with("0x") {
        return Ok(Secret::from_slice(field.as_bytes()));
    }
    hex(field)
        .map(Secret::new)
        .ok_or_else(|| "a key is not an even number of hexadecimal digits".to_owned())
}

impl std::fmt::Debug for EspKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "keys of {} Child SAs", self.sas.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: &str = "\"IPv4\",\"192.0.2.1\",\"192.0.2.2\",\"0xc0000001\",\"AES-CBC [RFC3602]\",\"0x000102030405060708090a0b0c0d0e0f\",\
        \"HMAC-SHA-1-96 [RFC2404]\",\"0x000102030405060708090a0b0c0d0e0f10111213\"";

    fn found(row: &str, source: &str, spi: u32) -> bool {
        let keys = EspKeys::parse(row).unwrap();
        let destination = if source.contains(':') {
            "2001:db8::2"
        } else {
            "192.0.2.2"
        };
        let mut rows = keys.find(source.parse().unwrap(), destination.parse().unwrap(), spi);
        rows.next().is_some()
    }

    #[test]
    fn a_row_is_for_the_packets_it_describes() {
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
            let row = ROW.replacen(from, to, 1);
            assert_eq!(found(&row, source, spi), expected, "{to} {source} {spi:x}");
        }
        let v6 = ROW
            .replace("IPv4", "IPv6")
            .replace("192.0.2.1", "*")
            .replace("192.0.2.2", "2001:db8::2");
        assert!(found(&v6, "2001:db8::1", 0xc000_0001));
        assert!(!found(&v6, "192.0.2.1", 0xc000_0001));
    }

    #[test]
    fn newer_tables_say_how_long_sequence_numbers_are() {
        for (fields, esn, upper) in [
            ("", None, 0),
            (",\"32-bit\",\"0\"", Some(Esn::No), 0),
            (",\"64-bit\",\"0x1f\"", Some(Esn::Yes), 31),
            (",\"64-bit\"", Some(Esn::Yes), 0),
        ] {
            let keys = EspKeys::parse(&format!("{ROW}{fields}")).unwrap();
            assert_eq!((keys.sas[0].esn, keys.sas[0].upper), (esn, upper));
        }
    }

    #[test]
    fn algorithms_we_do_not_run_are_kept_by_name() {
        for (from, to) in [
            ("AES-CBC [RFC3602]", "AES-CTR [RFC3686]"),
            ("HMAC-SHA-1-96 [RFC2404]", "MAC-RIPEMD-160-96 [RFC2857]"),
            ("HMAC-SHA-1-96 [RFC2404]", "NULL"),
            ("0x000102030405060708090a0b0c0d0e0f\"", "0x0001\""),
        ] {
            let keys = EspKeys::parse(&ROW.replacen(from, to, 1)).unwrap();
            assert!(keys.sas[0].opener.is_err(), "{to}");
        }
        let aead = ROW
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
    fn a_row_that_makes_no_sense_is_refused_without_its_keys() {
        for (from, to, said) in [
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
            let error = EspKeys::parse(&ROW.replacen(from, to, 1)).unwrap_err();
            assert!(error.what.contains(said), "{to}: {error}");
            assert!(!error.what.contains("0001020304"), "{error}");
        }
    }
}
