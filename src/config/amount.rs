//! Amounts of traffic: `"10GB"`, `"4GiB"`, a number of packets, or `"none"`.

use std::ops::RangeInclusive;

use super::diagnostic::Diagnostic;
use super::file::{SpannedValue, Value};
use super::value::refuse;

/// The units of an amount, largest first, and how many bytes each has.
const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1000),
    ("B", 1),
];

/// What a Child SA may be limited to. Below a megabyte rekeying would be all a tunnel does; above, sequence numbers end first.
const BYTES: RangeInclusive<u64> = 1_000_000..=1 << 60;

/// The same in packets.
const PACKETS: RangeInclusive<u64> = 1000..=1 << 60;

/// How many bytes a Child SA may carry each way; `None` is `"none"`.
pub fn bytes(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<Option<u64>> {
    let how = "write it like \"10GB\" or \"4GiB\", or \"none\"";
    let amount = match &value.value {
        Value::Text(text) if text == "none" => return Some(None),
        Value::Text(text) => amount(text),
        Value::Integer(number) => {
            return refuse(
                findings,
                value.at.clone(),
                "an amount of traffic needs its unit",
                format!("write \"{number}B\""),
            );
        }
        other => {
            return refuse(
                findings,
                value.at.clone(),
                format!("this takes an amount of traffic, not {}", other.kind()),
                how,
            );
        }
    };
    match amount {
        Some(amount) if BYTES.contains(&amount) => Some(Some(amount)),
        Some(amount) if amount < *BYTES.start() => refuse(
            findings,
            value.at.clone(),
            "this is too little: the tunnel would do nothing but rekey",
            "\"1MB\" is the least",
        ),
        Some(_) => refuse(
            findings,
            value.at.clone(),
            "this is more than any Child SA can carry",
            "write \"none\"",
        ),
        None => refuse(
            findings,
            value.at.clone(),
            "this is not an amount of traffic",
            how,
        ),
    }
}

/// How many packets a Child SA may carry each way; `None` is `"none"`.
pub fn packets(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<Option<u64>> {
    let number = match &value.value {
        Value::Text(text) if text == "none" => return Some(None),
        Value::Integer(number) => u64::try_from(*number).ok(),
        other => {
            return refuse(
                findings,
                value.at.clone(),
                format!(
                    "this takes a number of packets or \"none\", not {}",
                    other.kind()
                ),
                "write it without quotes",
            );
        }
    };
    match number.filter(|number| PACKETS.contains(number)) {
        Some(number) => Some(Some(number)),
        None => refuse(
            findings,
            value.at.clone(),
            "this is no number of packets that a Child SA can be limited to",
            format!("{} is the least", PACKETS.start()),
        ),
    }
}

/// How an amount is written: with the largest unit of which it is a whole number.
pub fn show_bytes(amount: &Option<u64>) -> String {
    let Some(amount) = amount else {
        return "\"none\"".to_owned();
    };
    let mut whole = UNITS.iter().filter(|(_, size)| amount % size == 0);
    whole.next().map_or(String::new(), |(unit, size)| {
        format!("\"{}{unit}\"", amount / size)
    })
}

/// How a number of packets is written.
pub fn show_packets(number: &Option<u64>) -> String {
    number.map_or("\"none\"".to_owned(), |number| number.to_string())
}

fn amount(text: &str) -> Option<u64> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let (_, size) = UNITS.into_iter().find(|(word, _)| *word == unit)?;
    digits.parse::<u64>().ok()?.checked_mul(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: Value) -> Option<Option<u64>> {
        bytes(&SpannedValue { at: 0..0, value }, &mut Vec::new())
    }

    #[test]
    fn amounts_are_read_and_written_back() {
        for text in ["10GB", "4GiB", "1MB", "1500kB", "1TiB", "1000001B"] {
            let amount = read(Value::Text(text.to_owned())).unwrap();
            assert_eq!(show_bytes(&amount), format!("\"{text}\""));
        }
        assert_eq!(read(Value::Text("none".to_owned())), Some(None));
        assert_eq!(
            read(Value::Text("2000MB".into())),
            Some(Some(2_000_000_000))
        );
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        for text in [
            "",
            "GB",
            "10",
            "10 GB",
            "10gb",
            "-1GB",
            "1.5GB",
            "999kB",
            "0B",
            "99999999999TB",
            "1GBGB",
        ] {
            assert_eq!(read(Value::Text(text.to_owned())), None, "{text}");
        }
        assert_eq!(read(Value::Integer(5_000_000)), None);
    }
}
