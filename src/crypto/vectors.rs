//! Reader of the published test vectors in `tests/vectors`: `name = value` lines under a `[title]`; a value may continue on
//! indented lines.

use std::collections::HashMap;

/// One test case of a file.
pub(crate) struct Case {
    pub title: String,
    fields: HashMap<String, String>,
}

impl Case {
    /// The text of a field.
    pub fn text(&self, name: &str) -> &str {
        self.fields
            .get(name)
            .unwrap_or_else(|| panic!("{}: no {name}", self.title))
    }

    /// The bytes of a hexadecimal field.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        bytes(self.text(name))
    }

    /// The number in an optional field of up to eight hexadecimal digits.
    pub fn number(&self, name: &str) -> Option<u32> {
        self.fields
            .get(name)
            .map(|digits| u32::from_str_radix(digits, 16).unwrap())
    }
}

/// The bytes of a hexadecimal string.
pub(crate) fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.chars().map(|c| c.to_digit(16).unwrap() as u8).collect();
    assert!(digits.len().is_multiple_of(2), "{hex}");
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

/// The cases of a file.
pub(crate) fn cases(file: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut name = String::new();
    for line in file
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        if let Some(title) = line.strip_prefix('[') {
            let title = title.trim_end_matches(']').to_owned();
            cases.push(Case {
                title,
                fields: HashMap::new(),
            });
            continue;
        }
        let fields = &mut cases.last_mut().expect("a title comes first").fields;
        let value = match line.split_once(" =") {
            Some((field, value)) => {
                name = field.to_owned();
                value
            }
            None => line,
        };
        fields
            .entry(name.clone())
            .or_default()
            .push_str(value.trim());
    }
    assert!(!cases.is_empty());
    cases
}
