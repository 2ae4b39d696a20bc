//! Contents of a key file: bytes to key, with every surprise in between reported.
//!
//! Without `encoding`, one trailing newline is removed, `0x…` is hexadecimal, `0s…` base64 and anything else the bytes themselves.

use std::sync::LazyLock;

use data_encoding::{BASE64_NOPAD, Encoding, HEXLOWER_PERMISSIVE};
use zeroize::Zeroizing;

use crate::crypto::Secret;

/// Purpose of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// Authentication (RFC 7296 §2.15).
    Psk,
    /// Post-quantum security of the IKE SA's keys (RFC 8784).
    Ppk,
}

impl KeyKind {
    /// Name of the kind in error texts.
    pub fn word(self) -> &'static str {
        match self {
            KeyKind::Psk => "PSK",
            KeyKind::Ppk => "PPK",
        }
    }
}

/// Why a key could not be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyFileError {
    /// This user may not read the file; another user may.
    AccessDenied {
        /// What happened.
        what: String,
        /// What to do.
        advice: String,
    },
    /// The file must not be used as it is.
    Invalid {
        /// What is wrong.
        what: String,
        /// What to do.
        advice: String,
    },
}

/// A loaded key.
#[derive(Debug, Clone)]
pub struct LoadedKey {
    /// The key.
    pub key: Secret,
    /// Findings about the key, none of which quotes it.
    pub findings: Vec<KeyFinding>,
}

/// Encoding of a key in its file, as `encoding` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyEncoding {
    /// The bytes themselves, whatever they begin with.
    Text,
    /// Hex digits, with or without `0x`.
    Hex,
    /// Base64 (RFC 4648 §4).
    Base64,
}

/// A finding about a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyFinding {
    /// Whether it is a warning, else a note.
    pub is_warning: bool,
    /// What is remarkable.
    pub what: &'static str,
    /// What to do.
    pub advice: &'static str,
}

const fn warning(what: &'static str, advice: &'static str) -> KeyFinding {
    KeyFinding {
        is_warning: true,
        what,
        advice,
    }
}

const fn note(what: &'static str, advice: &'static str) -> KeyFinding {
    KeyFinding {
        is_warning: false,
        what,
        advice,
    }
}

const SHORT_PSK: KeyFinding = warning(
    "this pre-shared key is short: an attacker who answers in the peer's place can find it by an offline search",
    "generate a strong one with `groundlink psk` and set it on both sides",
);

const SHORT_PPK: KeyFinding = warning(
    "this post-quantum pre-shared key has fewer than 256 bits, of which a quantum computer leaves half (RFC 8784 section 6)",
    "generate a strong one with `groundlink psk` and set it on both sides",
);

const BLANKS: KeyFinding = warning(
    "this pre-shared key begins or ends with a blank, a carriage return or a second newline, which are part of the key",
    "if they are not meant, write the file with `printf %s KEY > FILE`",
);

const BYTE_ORDER_MARK: KeyFinding = warning(
    "this key file starts with a UTF-8 byte order mark, whose three bytes are part of the key",
    "save the file without a byte order mark",
);

const UTF_16: KeyFinding = warning(
    "this key file looks like UTF-16 text: its bytes are the key, every second one of them zero",
    "save the file as ASCII or UTF-8 without a byte order mark",
);

const QUOTES: KeyFinding = warning(
    "this key file starts and ends with a quotation mark, which are part of the key",
    "remove them, or keep them with `encoding = \"text\"`",
);

const UPPER_CASE_MARK: KeyFinding = warning(
    "this key starts with 0X or 0S and is read as text: only 0x and 0s are read as hexadecimal and base64",
    "remove the mark and write `encoding = \"hex\"` or `\"base64\"`, or keep it with `encoding = \"text\"`",
);

const READ_AS_HEX: KeyFinding = note(
    "this key file starts with 0x and is read as hexadecimal",
    "`encoding = \"hex\"` settles that, `encoding = \"text\"` makes 0x part of the key",
);

const READ_AS_BASE64: KeyFinding = note(
    "this key file starts with 0s and is read as base64",
    "`encoding = \"text\"` makes 0s part of the key",
);

/// Minimum length of a textual PSK: a shorter one can be found by an offline search (RFC 7296 §2.15).
const PSK_MIN_CHARACTERS: usize = 20;

/// Minimum length of a binary PSK: 112 bits.
const PSK_MIN_BYTES: usize = 14;

/// Minimum length of a binary PPK: 256 bits.
const PPK_MIN_BYTES: usize = 32;

/// Minimum length of a textual PPK: 256 bits in letters and digits.
const PPK_MIN_CHARACTERS: usize = 43;

/// What is wrong with the contents of a key file, and advice; neither quotes the file.
#[derive(Debug, PartialEq, Eq)]
pub struct KeyFormatError {
    /// What is wrong, after the name of the file.
    pub what: &'static str,
    /// What to do.
    pub advice: &'static str,
}

/// Decodes the contents of a key file.
pub fn decode(
    contents: &[u8],
    kind: KeyKind,
    encoding: Option<KeyEncoding>,
) -> Result<LoadedKey, KeyFormatError> {
    let bytes = contents.strip_suffix(b"\n").unwrap_or(contents);
    if bytes.is_empty() {
        return Err(KeyFormatError {
            what: "is empty",
            advice: "store a key in it; `groundlink psk` generates one",
        });
    }
    let (key, found) = match encoding {
        Some(encoding) => (decode_as(bytes, encoding)?, encoding),
        None => detect(bytes)?,
    };
    let mut findings = Vec::new();
    match (encoding, found) {
        (_, KeyEncoding::Text) => findings.extend(text_findings(bytes, encoding)),
        (None, KeyEncoding::Hex) => findings.push(READ_AS_HEX),
        (None, KeyEncoding::Base64) => findings.push(READ_AS_BASE64),
        (Some(_), KeyEncoding::Hex | KeyEncoding::Base64) => {}
    }
    let (minimum, short) = match (kind, found) {
        (KeyKind::Psk, KeyEncoding::Text) => (PSK_MIN_CHARACTERS, SHORT_PSK),
        (KeyKind::Psk, KeyEncoding::Hex | KeyEncoding::Base64) => (PSK_MIN_BYTES, SHORT_PSK),
        (KeyKind::Ppk, KeyEncoding::Text) => (PPK_MIN_CHARACTERS, SHORT_PPK),
        (KeyKind::Ppk, KeyEncoding::Hex | KeyEncoding::Base64) => (PPK_MIN_BYTES, SHORT_PPK),
    };
    if key.len() < minimum {
        findings.push(short);
    }
    Ok(LoadedKey { key, findings })
}

/// Decodes a key by the mark it starts with.
fn detect(bytes: &[u8]) -> Result<(Secret, KeyEncoding), KeyFormatError> {
    if bytes.starts_with(b"0x") {
        let key = decode_as(bytes, KeyEncoding::Hex).map_err(|_| KeyFormatError {
            what: "starts with 0x, but the rest is not hexadecimal",
            advice: "write two hex digits for each byte, and nothing else, or set `encoding = \"text\"`",
        })?;
        return Ok((key, KeyEncoding::Hex));
    }
    if let Some(text) = bytes.strip_prefix(b"0s") {
        let key = decode_as(text, KeyEncoding::Base64).map_err(|_| KeyFormatError {
            what: "starts with 0s, but the rest is not base64",
            advice: "write base64 in one line, and nothing else, or set `encoding = \"text\"`",
        })?;
        return Ok((key, KeyEncoding::Base64));
    }
    Ok((Secret::from_slice(bytes), KeyEncoding::Text))
}

fn decode_as(bytes: &[u8], encoding: KeyEncoding) -> Result<Secret, KeyFormatError> {
    match encoding {
        KeyEncoding::Text => Ok(Secret::from_slice(bytes)),
        KeyEncoding::Hex => {
            let digits = bytes.strip_prefix(b"0x").unwrap_or(bytes);
            decode_with(&HEXLOWER_PERMISSIVE, digits).ok_or(KeyFormatError {
                what: "is not hexadecimal, as `encoding` says",
                advice: "write two hex digits for each byte, and nothing else",
            })
        }
        KeyEncoding::Base64 => decode_with(&BASE64, without_padding(bytes)).ok_or(KeyFormatError {
            what: "is not base64, as `encoding` says",
            advice: "write base64 in one line, and nothing else",
        }),
    }
}

/// What a person who looks at the text of the key does not see. With `encoding = "text"`, quotes and marks are meant.
fn text_findings(bytes: &[u8], encoding: Option<KeyEncoding>) -> Vec<KeyFinding> {
    let is_blank = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_whitespace);
    let is_quoted =
        |quote: &[u8]| bytes.len() > 1 && bytes.starts_with(quote) && bytes.ends_with(quote);
    let is_detected = encoding.is_none();
    let has_upper_mark = bytes.starts_with(b"0X") || bytes.starts_with(b"0S");
    let found = [
        (is_blank(bytes.first()) || is_blank(bytes.last()), BLANKS),
        (bytes.starts_with(b"\xef\xbb\xbf"), BYTE_ORDER_MARK),
        (is_utf_16(bytes), UTF_16),
        (is_detected && (is_quoted(b"\"") || is_quoted(b"'")), QUOTES),
        (is_detected && has_upper_mark, UPPER_CASE_MARK),
    ];
    let present = found.into_iter().filter(|(applies, _)| *applies);
    present.map(|(_, finding)| finding).collect()
}

/// Whether bytes look like ASCII in UTF-16: they start with a byte order mark, or one byte of each pair is zero and the other is not.
fn is_utf_16(bytes: &[u8]) -> bool {
    let zero_at = |offset: usize| {
        let mut pairs = bytes.chunks_exact(2);
        bytes.len() > 3
            && pairs.all(|pair| {
                pair.get(offset) == Some(&0) && pair.get(1 - offset).is_some_and(|byte| *byte != 0)
            })
    };
    bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") || zero_at(0) || zero_at(1)
}

/// Base64 (RFC 4648 §4) without padding. Unused bits of the last digit may be set, as other implementations accept them.
static BASE64: LazyLock<Encoding> = LazyLock::new(|| {
    let mut specification = BASE64_NOPAD.specification();
    specification.check_trailing_bits = false;
    specification
        .encoding()
        .expect("base64 without a check is a valid encoding")
});

/// Base64 text without its padding, if the padding is correct; other text is left as it is.
fn without_padding(text: &[u8]) -> &[u8] {
    if !text.len().is_multiple_of(4) {
        return text;
    }
    let text = text.strip_suffix(b"=").unwrap_or(text);
    text.strip_suffix(b"=").unwrap_or(text)
}

/// Decodes a key of at least one byte into a buffer that is wiped also if decoding fails halfway.
fn decode_with(encoding: &Encoding, text: &[u8]) -> Option<Secret> {
    let length = encoding
        .decode_len(text.len())
        .ok()
        .filter(|length| *length > 0)?;
    let mut key = Zeroizing::new(vec![0; length]);
    encoding.decode_mut(text, &mut key).ok()?;
    Some(Secret::new(std::mem::take(&mut *key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key, and the findings by their first words that tell them apart.
    fn read(contents: &[u8], encoding: Option<KeyEncoding>) -> (Vec<u8>, Vec<KeyFinding>) {
        let loaded = decode(contents, KeyKind::Psk, encoding).unwrap();
        (loaded.key.as_bytes().to_vec(), loaded.findings)
    }

    fn utf_16(text: &str, mark: &[u8], encode: fn(u16) -> [u8; 2]) -> Vec<u8> {
        [
            mark.to_vec(),
            text.encode_utf16().flat_map(encode).collect(),
        ]
        .concat()
    }

    #[test]
    fn how_a_surprising_key_is_read_is_reported() {
        let key = "Q7vYd0x3LmZk9TtR2sWcUe8HnB5gJpAi";
        let little = utf_16(key, b"\xff\xfe", u16::to_le_bytes);
        let without_mark = utf_16(key, b"", u16::to_be_bytes);
        for (contents, finding) in [
            ([b"\xef\xbb\xbf", key.as_bytes()].concat(), BYTE_ORDER_MARK),
            (little, UTF_16),
            (without_mark, UTF_16),
            (format!("\"{key}\"").into_bytes(), QUOTES),
            (format!("'{key}'").into_bytes(), QUOTES),
            (format!("0X{key}").into_bytes(), UPPER_CASE_MARK),
            (format!("{key}\r\n").into_bytes(), BLANKS),
        ] {
            let (bytes, findings) = read(&contents, None);
            assert_eq!(findings, [finding]);
            let text = contents.strip_suffix(b"\n").unwrap_or(&contents);
            assert_eq!(bytes, text, "the bytes themselves are the key");
        }
        assert_eq!(read(key.as_bytes(), None).1, []);
        let hex = "0x000102030405060708090a0b0c0d";
        assert_eq!(read(hex.as_bytes(), None).1, [READ_AS_HEX]);
        assert_eq!(read(b"0sAAECAwQFBgcICQoLDA0=", None).1, [READ_AS_BASE64]);
    }

    #[test]
    fn an_encoding_settles_how_a_key_is_read() {
        let hex = b"000102030405060708090a0b0c0d\n";
        let decoded: Vec<u8> = (0..14).collect();
        assert_eq!(read(hex, Some(KeyEncoding::Hex)), (decoded.clone(), vec![]));
        let marked = [b"0x", &hex[..]].concat();
        assert_eq!(
            read(&marked, Some(KeyEncoding::Hex)),
            (decoded.clone(), vec![])
        );
        let base64 = b"AAECAwQFBgcICQoLDA0=";
        assert_eq!(read(base64, Some(KeyEncoding::Base64)), (decoded, vec![]));
        let literal = b"0x000102030405060708090a0b0c0d";
        assert_eq!(
            read(literal, Some(KeyEncoding::Text)),
            (literal.to_vec(), vec![])
        );
        let quoted = b"\"Q7vYd0x3LmZk9TtR2sWc\"";
        assert_eq!(
            read(quoted, Some(KeyEncoding::Text)),
            (quoted.to_vec(), vec![])
        );
        for (contents, encoding) in [("xyz", KeyEncoding::Hex), ("a", KeyEncoding::Base64)] {
            let error = decode(contents.as_bytes(), KeyKind::Psk, Some(encoding)).unwrap_err();
            assert!(error.what.contains("as `encoding` says"), "{error:?}");
        }
    }
}
