//! Distinguished names (RFC 5280 §4.1.2.4), read as text such as `C=DE, O=Example, CN=gw`.
//!
//! ```text
//! SEQUENCE { SET { SEQUENCE { OBJECT IDENTIFIER, string }, … }, … }
//! ```

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_IDENTIFIER: u8 = 0x06;

/// Attribute types and their short names (RFC 4519 §2, RFC 2985 §5.2.1).
const ATTRIBUTES: [(&[u8], &str); 12] = [
    (&[0x55, 4, 3], "CN"),
    (&[0x55, 4, 4], "SN"),
    (&[0x55, 4, 5], "serialNumber"),
    (&[0x55, 4, 6], "C"),
    (&[0x55, 4, 7], "L"),
    (&[0x55, 4, 8], "ST"),
    (&[0x55, 4, 9], "street"),
    (&[0x55, 4, 10], "O"),
    (&[0x55, 4, 11], "OU"),
    (&[0x55, 4, 12], "title"),
    (
        &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25],
        "DC",
    ),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1], "E"),
];

/// The text of a name in DER; `None` if it is malformed. Characters other than printable ASCII are escaped.
pub(super) fn text(der: &[u8]) -> Option<String> {
    let (mut names, rest) = element(der, SEQUENCE)?;
    if !rest.is_empty() {
        return None;
    }
    let mut parts: Vec<String> = Vec::new();
    while !names.is_empty() {
        let (mut set, rest) = element(names, SET)?;
        names = rest;
        while !set.is_empty() {
            let (attribute, rest) = element(set, SEQUENCE)?;
            set = rest;
            let (identifier, value) = element(attribute, OBJECT_IDENTIFIER)?;
            let (_, value, _) = any_element(value)?;
            let name = ATTRIBUTES
                .iter()
                .find(|(known, _)| *known == identifier)
                .map_or_else(|| oid(identifier), |(_, name)| (*name).to_owned());
            parts.push(format!("{name}={}", value.escape_ascii()));
        }
    }
    Some(parts.join(", "))
}

/// The content of an element with this tag, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = any_element(der)?;
    (found == tag).then_some((content, rest))
}

/// Tag and content of the first element, and what follows it.
fn any_element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81 => {
            let (length, rest) = rest.split_first()?;
            (usize::from(*length), rest)
        }
        0x82 => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

/// An object identifier as hexadecimal digits.
fn oid(identifier: &[u8]) -> String {
    let digits: String = identifier
        .iter()
        .map(|octet| format!("{octet:02x}"))
        .collect();
    format!("oid-{digits}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_attribute_by_attribute() {
        let der = b"\x30\x2d\x31\x0b\x30\x09\x06\x03\x55\x04\x06\x13\x02DE\
            \x31\x0f\x30\x0d\x06\x03\x55\x04\x0a\x0c\x06E\x1b\xc3\xa4mp\
            \x31\x0d\x30\x0b\x06\x03\x55\x04\x03\x0c\x04gw-1";
        assert_eq!(text(der).unwrap(), "C=DE, O=E\\x1b\\xc3\\xa4mp, CN=gw-1");
        for cut in 0..der.len() {
            assert_eq!(text(&der[..cut]), None, "{cut}");
        }
    }

    #[test]
    fn an_unknown_attribute_has_its_object_identifier() {
        let der = b"\x30\x0b\x31\x09\x30\x07\x06\x02\x2a\x03\x0c\x01x";
        assert_eq!(text(der).unwrap(), "oid-2a03=x");
    }
}
