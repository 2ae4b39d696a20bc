//! A line of a table file: fields between commas, in double quotes or bare.

use zeroize::Zeroizing;

use super::{KeyTableError, MAX_ROWS};

/// The fields of a row, keys among them: wiped when dropped.
pub(super) type Fields = Zeroizing<Vec<String>>;

/// The fields of every row, with the number of its line.
pub(super) fn rows(text: &str) -> Result<Vec<(usize, Fields)>, KeyTableError> {
    let mut rows = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let bad = |what: &str| KeyTableError {
            line: number,
            what: what.to_owned(),
        };
        if rows.len() >= MAX_ROWS {
            return Err(bad("more rows than are read"));
        }
        rows.push((number, fields(line).map_err(bad)?));
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
            None => return Err("a comma is missing behind a quote"),
        }
    }
}

/// Octets in hexadecimal, with or without `0x` in front.
pub(super) fn hex(field: &str) -> Option<Vec<u8>> {
    let digits = field.strip_prefix("0x").unwrap_or(field);
    if !digits.is_ascii() {
        return None;
    }
    digits
        .as_bytes()
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect()
}

fn digit(character: u8) -> Option<u8> {
    let value = char::from(character).to_digit(16)?;
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_quoted_or_bare_and_may_be_empty() {
        let text = "# made by hand\n\n 00ff , \"AES-CBC [RFC3602]\",,\"a, b\"\n";
        let expected = ["00ff", "AES-CBC [RFC3602]", "", "a, b"].map(str::to_owned);
        assert_eq!(rows(text), Ok(vec![(3, Fields::new(expected.to_vec()))]));
    }

    #[test]
    fn a_line_that_is_no_row_is_told_with_its_number() {
        for (text, what) in [
            ("a\n\"open", "a quote is not closed"),
            ("#\n\"a\"b", "a comma is missing behind a quote"),
        ] {
            let error = rows(text).unwrap_err();
            assert_eq!((error.line, error.what.as_str()), (2, what));
        }
        assert!(rows(&"a\n".repeat(MAX_ROWS + 1)).is_err());
    }

    #[test]
    fn hexadecimal_is_read_in_pairs() {
        assert_eq!(hex("0x00fF"), Some(vec![0, 255]));
        assert_eq!(hex("00ff"), Some(vec![0, 255]));
        assert_eq!(hex(""), Some(vec![]));
        for wrong in ["0", "0x123", "zz", "+1", "ää"] {
            assert_eq!(hex(wrong), None, "{wrong}");
        }
    }
}
