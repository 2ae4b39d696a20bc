//! Keys from Wireshark's table files, which Wireshark keeps in its profile folder under these names.
//!
//! ```text
//! ikev2_decryption_table   SPIi,SPIr,SK_ei,SK_er,"AES-CBC-128 [RFC3602]",SK_ai,SK_ar,"HMAC_SHA1_96 [RFC2404]"
//! esp_sa                   "IPv4","192.0.2.1","192.0.2.2","0xc0000001","AES-CBC [RFC3602]","0x…","HMAC-SHA-1-96 [RFC2404]","0x…"
//!                          and in newer versions of Wireshark ,"64-bit","0x0": extended sequence numbers, their upper half
//! ```
//!
//! Each line is a row; `#` begins a comment. Fields are separated by commas, with or without double quotes. The key of an AEAD is
//! followed by its salt, and its integrity key is empty. A row with algorithms that groundlink does not support (AES-CTR, a
//! truncated ICV) is kept with their names. Key material never appears in an error message.

mod algorithms;

use std::collections::HashMap;
use std::net::IpAddr;

use data_encoding::HEXLOWER_PERMISSIVE;
use zeroize::Zeroizing;

use crate::crypto::{Encryption, Esn, Integrity, Opener, Protection, SaKeys, Secret};
use crate::net::Prefix;
use crate::wire::IkeSpi;

use algorithms::{TableAlgorithm, esp_encryption, esp_integrity, ike_encryption, ike_integrity};

/// The most rows of a table.
pub const MAX_ROWS: usize = 100_000;

/// An error in a key table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct KeyTableError {
    /// Line number, from 1.
    pub line: usize,
    /// Description of the error.
    pub what: String,
}

/// The keys of IKE SAs (`ikev2_decryption_table`), by SPIs.
#[derive(Default)]
pub struct IkeKeys {
    sas: HashMap<(IkeSpi, IkeSpi), IkeKeyRow>,
}

/// The keys of one IKE SA.
pub(super) enum IkeKeyRow {
    /// Keys of both directions.
    Open {
        /// For messages of the original initiator.
        initiator: Box<Opener>,
        /// For messages of the original responder.
        responder: Box<Opener>,
    },
    /// Names of algorithms that groundlink does not support.
    Unsupported(String),
}

/// The keys of Child SAs (`esp_sa`), in table order.
#[derive(Default)]
pub struct EspKeys {
    sas: Vec<EspKeyRow>,
    /// Indices of the rows for exactly one SPI.
    exact: HashMap<u32, Vec<usize>>,
    /// Indices of the rows with wildcards.
    wildcards: Vec<usize>,
}

/// The keys of one Child SA, and the packets that they are for.
pub(super) struct EspKeyRow {
    /// IP version; `None` matches both.
    is_ipv4: Option<bool>,
    /// Source addresses; `None` matches all.
    source: Option<Prefix>,
    /// Destination addresses; `None` matches all.
    destination: Option<Prefix>,
    spi: SpiPattern,
    /// Decryption context, or the names of algorithms that groundlink does not support.
    pub(super) opener: Result<Box<Opener>, String>,
    /// Length of the sequence numbers, if the table has it.
    pub(super) esn: Option<Esn>,
    /// Upper half of the extended sequence number of the first packet in the capture.
    pub(super) upper: u32,
}

/// The SPIs that equal `value` in the bits of `mask`.
struct SpiPattern {
    mask: u32,
    value: u32,
}

impl IkeKeys {
    /// Parses the table.
    ///
    /// # Errors
    /// A line is not a valid row.
    pub fn parse(text: &str) -> Result<IkeKeys, KeyTableError> {
        let mut keys = IkeKeys::default();
        for (line, fields) in rows(text)? {
            let (spis, sa) = ike_row(&fields).map_err(|what| KeyTableError { line, what })?;
            // Like Wireshark, use the first of two rows for the same SA.
            keys.sas.entry(spis).or_insert(sa);
        }
        Ok(keys)
    }

    /// The row for a pair of SPIs.
    pub(super) fn find(&self, spi_i: IkeSpi, spi_r: IkeSpi) -> Option<&IkeKeyRow> {
        self.sas.get(&(spi_i, spi_r))
    }
}

impl EspKeys {
    /// Parses the table.
    ///
    /// # Errors
    /// A line is not a valid row.
    pub fn parse(text: &str) -> Result<EspKeys, KeyTableError> {
        let mut keys = EspKeys::default();
        for (line, fields) in rows(text)? {
            let sa = esp_row(&fields).map_err(|what| KeyTableError { line, what })?;
            let index = keys.sas.len();
            if sa.spi.mask == u32::MAX {
                keys.exact.entry(sa.spi.value).or_default().push(index);
            } else {
                keys.wildcards.push(index);
            }
            keys.sas.push(sa);
        }
        Ok(keys)
    }

    /// The rows for a packet with their indices; rows with exactly its SPI come first, and at most [`MAX_TRIED`] are returned.
    pub(super) fn find(
        &self,
        source: IpAddr,
        destination: IpAddr,
        spi: u32,
    ) -> impl Iterator<Item = (usize, &EspKeyRow)> {
        let exact = self.exact.get(&spi).into_iter().flatten();
        exact
            .chain(&self.wildcards)
            .filter_map(|index| Some((*index, self.sas.get(*index)?)))
            .filter(move |(_, sa)| sa.matches(source, destination, spi))
            .take(MAX_TRIED)
    }
}

/// The most rows that are tried on one packet.
const MAX_TRIED: usize = 8;

impl EspKeyRow {
    fn matches(&self, source: IpAddr, destination: IpAddr, spi: u32) -> bool {
        let in_prefix = |prefix: &Option<Prefix>, address| {
            prefix
                .as_ref()
                .is_none_or(|prefix| prefix.contains(address))
        };
        self.is_ipv4
            .is_none_or(|is_ipv4| is_ipv4 == source.is_ipv4())
            && in_prefix(&self.source, source)
            && in_prefix(&self.destination, destination)
            && spi & self.spi.mask == self.spi.value
    }
}

/// The fields of a row, wiped when dropped because keys are among them.
type Fields = Zeroizing<Vec<String>>;

/// The fields of every row, with its line number.
fn rows(text: &str) -> Result<Vec<(usize, Fields)>, KeyTableError> {
    let mut rows = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let error = |what: &str| KeyTableError {
            line: number,
            what: what.to_owned(),
        };
        if rows.len() >= MAX_ROWS {
            return Err(error("too many rows"));
        }
        rows.push((number, fields(line).map_err(error)?));
    }
    Ok(rows)
}

fn fields(line: &str) -> Result<Fields, &'static str> {
    let mut fields = Fields::default();
    let mut rest = line;
    loop {
        let (field, behind) = match rest.trim_start().strip_prefix('"') {
            Some(quoted) => {
                let (field, behind) = quoted.split_once('"').ok_or("a quote is not closed")?;
                (field, behind.trim_start())
            }
            None => match rest.find(',') {
                Some(comma) => rest.split_at(comma),
                None => (rest, ""),
            },
        };
        fields.push(field.trim().to_owned());
        match behind.strip_prefix(',') {
            Some(next) => rest = next,
            None if behind.is_empty() => return Ok(fields),
            None => return Err("a comma is missing after a quoted field"),
        }
    }
}

fn ike_row(fields: &[String]) -> Result<((IkeSpi, IkeSpi), IkeKeyRow), String> {
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
        return Err(format!("{} fields instead of 8", fields.len()));
    };
    let spis = (ike_spi(spi_i)?, ike_spi(spi_r)?);
    let cipher = listed(ike_encryption(encryption), encryption, "cipher")?;
    let mac = listed(ike_integrity(integrity), integrity, "integrity algorithm")?;
    let keys = |encryption: &str, integrity: &str| {
        Ok::<SaKeys, String>(SaKeys {
            encryption: hex_key(encryption)?,
            integrity: hex_key(integrity)?,
        })
    };
    let (initiator, responder) = (keys(sk_ei, sk_ai)?, keys(sk_er, sk_ar)?);
    let names = format!("{encryption} with {integrity}");
    let (TableAlgorithm::Supported(cipher), TableAlgorithm::Supported(mac)) = (cipher, mac) else {
        return Ok((spis, IkeKeyRow::Unsupported(names)));
    };
    let row = IkeKeyRow::Open {
        initiator: opener(cipher, mac, &initiator, &names)?,
        responder: opener(cipher, mac, &responder, &names)?,
    };
    Ok((spis, row))
}

fn esp_row(fields: &[String]) -> Result<EspKeyRow, String> {
    let (
        [
            version,
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
        .ok_or_else(|| format!("{} fields instead of 8 or 10", fields.len()))?;
    let keys = SaKeys {
        encryption: esp_key(encryption_key)?,
        integrity: esp_key(integrity_key)?,
    };
    let (esn, upper) = sequence_numbers(numbers)?;
    Ok(EspKeyRow {
        is_ipv4: match version.as_str() {
            "IPv4" => Some(true),
            "IPv6" => Some(false),
            "*" | "Any" => None,
            other => return Err(format!("\"{other}\" is neither IPv4 nor IPv6")),
        },
        source: addresses(source)?,
        destination: addresses(destination)?,
        spi: spi_pattern(spi).ok_or_else(|| format!("\"{spi}\" is not an SPI"))?,
        opener: esp_opener(encryption, integrity, &keys)?,
        esn,
        upper,
    })
}

fn esp_opener(
    encryption: &str,
    integrity: &str,
    keys: &SaKeys,
) -> Result<Result<Box<Opener>, String>, String> {
    let key_len = keys.encryption.len();
    let cipher = listed(esp_encryption(encryption, key_len), encryption, "cipher")?;
    let mac = listed(esp_integrity(integrity), integrity, "integrity algorithm")?;
    let bits = key_len.saturating_mul(8);
    let unsupported = format!("{encryption} (a key of {bits} bits) with {integrity}");
    let TableAlgorithm::Supported(cipher) = cipher else {
        return Ok(Err(unsupported));
    };
    // An AEAD verifies itself, whichever ICV check is disabled in Wireshark.
    let mac = match mac {
        TableAlgorithm::Supported(mac) => mac,
        TableAlgorithm::Unsupported if cipher.is_aead() => None,
        TableAlgorithm::Unsupported => return Ok(Err(unsupported)),
    };
    if mac.is_none() && !cipher.is_aead() {
        return Ok(Err(unsupported));
    }
    opener(cipher, mac, keys, &format!("{encryption} with {integrity}")).map(Ok)
}

/// An algorithm of Wireshark's list.
fn listed<T>(algorithm: Option<T>, name: &str, kind: &str) -> Result<T, String> {
    algorithm.ok_or_else(|| format!("\"{name}\" is not in Wireshark's list: unknown {kind}"))
}

fn opener(
    encryption: &'static Encryption,
    integrity: Option<&'static Integrity>,
    keys: &SaKeys,
    names: &str,
) -> Result<Box<Opener>, String> {
    let protection = Protection {
        encryption,
        integrity,
    };
    Opener::new(protection, keys)
        .map(Box::new)
        .map_err(|error| format!("{error} ({names})"))
}

/// Octets in hexadecimal, with or without a leading `0x`.
fn hex(field: &str) -> Option<Vec<u8>> {
    let digits = field.strip_prefix("0x").unwrap_or(field);
    HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok()
}

fn hex_key(field: &str) -> Result<Secret, String> {
    hex(field)
        .map(Secret::new)
        .ok_or_else(|| "a key is not an even number of hexadecimal digits".to_owned())
}

/// A key of `esp_sa`: hexadecimal after `0x`, otherwise the characters themselves.
fn esp_key(field: &str) -> Result<Secret, String> {
    if field.starts_with("0x") {
        hex_key(field)
    } else {
        Ok(Secret::from_slice(field.as_bytes()))
    }
}

fn ike_spi(field: &str) -> Result<IkeSpi, String> {
    hex(field)
        .and_then(|octets| octets.try_into().ok())
        .map(|octets| IkeSpi(u64::from_be_bytes(octets)))
        .ok_or_else(|| "an SPI is not 16 hexadecimal digits".to_owned())
}

/// The two optional fields of newer tables.
fn sequence_numbers(fields: &[String]) -> Result<(Option<Esn>, u32), String> {
    let (length, upper) = match fields {
        [] => return Ok((None, 0)),
        [length] => (length, "0"),
        [length, upper] => (length, upper.as_str()),
        more => {
            let count = more.len().saturating_add(8);
            return Err(format!("{count} fields instead of 8 or 10"));
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

fn addresses(field: &str) -> Result<Option<Prefix>, String> {
    if field == "*" {
        return Ok(None);
    }
    let prefix = match field.parse::<IpAddr>() {
        Ok(address) => Prefix::host(address),
        Err(_) => field
            .parse()
            .map_err(|_| format!("\"{field}\" is neither an address, a prefix nor *"))?,
    };
    Ok(Some(prefix))
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
    // Fewer than eight digits are the lowest ones; a wildcard matches one digit.
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

impl std::fmt::Debug for IkeKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "keys of {} IKE SAs", self.sas.len())
    }
}

impl std::fmt::Debug for EspKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "keys of {} Child SAs", self.sas.len())
    }
}

#[cfg(test)]
mod tests;
