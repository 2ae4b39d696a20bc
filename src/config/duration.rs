//! Lengths of time: `"24h"`, `"1h30m"`, `"500ms"`.

use std::fmt;
use std::time::Duration;

use super::diagnostic::Diagnostic;
use super::file::{SpannedValue, Value};
use super::value::refuse;

/// A lifetime: at least 2 s, below which rekeying would be all a tunnel does.
pub fn lifetime(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<Duration> {
    let lifetime = duration(value, findings)?;
    if lifetime < Duration::from_secs(2) {
        return refuse(
            findings,
            value.at.clone(),
            format!("a lifetime of {} is too short", DurationText(lifetime)),
            "\"2s\" is the least",
        );
    }
    Some(lifetime)
}

/// An interval of liveness checks.
pub fn interval(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<Duration> {
    let interval = duration(value, findings)?;
    if interval < Duration::from_millis(100) {
        return refuse(
            findings,
            value.at.clone(),
            format!("an interval of {} is too short", DurationText(interval)),
            "\"100ms\" is the least",
        );
    }
    Some(interval)
}

/// The units of a duration, largest first, in milliseconds.
const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// A length of time: `"24h"`, `"1h30m"`, `"500ms"`.
pub fn duration(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<Duration> {
    let text = match &value.value {
        Value::Text(text) => text,
        Value::Integer(number) => {
            return refuse(
                findings,
                value.at.clone(),
                "a time needs its unit",
                format!("write \"{number}s\""),
            );
        }
        other => {
            return refuse(
                findings,
                value.at.clone(),
                format!("this takes a time, not {}", other.kind()),
                "write it like \"24h\" or \"10s\"",
            );
        }
    };
    match milliseconds(text) {
        // Ten years is for ever in networking, and far below what any sum of times could overflow.
        Some(total) if total <= 3650 * 86_400_000 => Some(Duration::from_millis(total)),
        Some(_) => refuse(
            findings,
            value.at.clone(),
            "this is more than ten years",
            "",
        ),
        None => refuse(
            findings,
            value.at.clone(),
            format!("`{text}` is not a time"),
            "write it like \"24h\", \"1h30m\", \"10s\" or \"500ms\"",
        ),
    }
}

fn milliseconds(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total = 0_u64;
    let mut largest_left = u64::MAX;
    while !rest.is_empty() {
        let (digits, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let (unit, after) = after.split_at(
            after
                .find(|c: char| c.is_ascii_digit())
                .unwrap_or(after.len()),
        );
        let (_, size) = UNITS.into_iter().find(|(word, _)| *word == unit)?;
        if size >= largest_left {
            return None;
        }
        largest_left = size;
        total = total.checked_add(digits.parse::<u64>().ok()?.checked_mul(size)?)?;
        rest = after;
    }
    (largest_left != u64::MAX).then_some(total)
}

/// A duration as it is written in the file.
pub struct DurationText(pub Duration);

impl fmt::Display for DurationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if left == 0 {
            return f.write_str("0s");
        }
        for (word, size) in UNITS {
            // Days are for reading, not for writing back: clouds speak of 24 h.
            if left >= size && word != "d" {
                write!(f, "{}{word}", left / size)?;
                left %= size;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Duration> {
        let value = SpannedValue {
            at: 0..0,
            value: Value::Text(text.to_owned()),
        };
        duration(&value, &mut Vec::new())
    }

    #[test]
    fn times_are_read_and_written_back() {
        for text in ["24h", "1h30m", "10s", "500ms", "1m1s1ms", "240h"] {
            assert_eq!(DurationText(read(text).unwrap()).to_string(), text);
        }
        assert_eq!(read("1d"), read("24h"));
        assert_eq!(read("0s"), Some(Duration::ZERO));
        assert_eq!(DurationText(Duration::ZERO).to_string(), "0s");
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "1",
            "s",
            "h1",
            "1h1h",
            "1s1h",
            "1 h",
            "-1s",
            "1.5h",
            "99999999999999999999s",
            "18446744073709551615d",
            "4000d",
            "1w",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
