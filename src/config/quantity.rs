//! Quantities with a unit: durations (`"24h"`, `"1h30m"`, `"500ms"`) and amounts of traffic (`"10GB"`, `"4GiB"`, `"none"`).

use std::ops::RangeInclusive;
use std::time::Duration;

use super::diagnostic::Diagnostic;
use super::file::{ConfigValue, SpannedValue};
use super::value::Format;

/// Lifetime of an SA.
pub const LIFETIME: Format<Duration> = Format {
    read: lifetime,
    show: show_duration,
};
/// Interval of liveness checks.
pub const INTERVAL: Format<Duration> = Format {
    read: interval,
    show: show_duration,
};
/// Limit in bytes; `None` is `"none"`.
pub const BYTES: Format<Option<u64>> = Format {
    read: bytes,
    show: show_bytes,
};
/// Limit in packets; `None` is `"none"`.
pub const PACKETS: Format<Option<u64>> = Format {
    read: packets,
    show: show_packets,
};

/// Units of a duration in milliseconds, largest first.
const DURATION_UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Units of an amount of traffic in bytes, largest first.
const BYTE_UNITS: [(&str, u64); 9] = [
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

/// Maximum duration in milliseconds: ten years, far below an overflow of any sum of times.
const MAX_DURATION: u64 = 3650 * 86_400_000;

/// Minimum lifetime; with a shorter one a tunnel would only rekey.
const MIN_LIFETIME: Duration = Duration::from_secs(2);

/// Minimum interval of liveness checks.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// Range of `child-bytes`: below a megabyte a tunnel would only rekey, above 2^60 sequence numbers run out first.
const BYTE_RANGE: RangeInclusive<u64> = 1_000_000..=1 << 60;

/// Range of `child-packets`.
const PACKET_RANGE: RangeInclusive<u64> = 1000..=1 << 60;

fn lifetime(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<Duration> {
    at_least(MIN_LIFETIME, "lifetime", value, findings)
}

fn interval(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<Duration> {
    at_least(MIN_INTERVAL, "interval", value, findings)
}

fn at_least(
    minimum: Duration,
    name: &str,
    value: &SpannedValue,
    findings: &mut Vec<Diagnostic>,
) -> Option<Duration> {
    let duration = duration(value, findings)?;
    if duration < minimum {
        let what = format!("the {name} {} is too short", show_duration(&duration));
        let advice = format!("the minimum is {}", show_duration(&minimum));
        return value.reject(findings, what, advice);
    }
    Some(duration)
}

fn duration(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<Duration> {
    let text = match &value.value {
        ConfigValue::Text(text) => text,
        ConfigValue::Integer(number) => {
            let advice = format!("write \"{number}s\" for seconds");
            return value.reject(findings, "the duration has no unit", advice);
        }
        _ => return value.reject_type(findings, "a duration", "write it like \"24h\" or \"10s\""),
    };
    match parse_milliseconds(text) {
        Some(total) if total <= MAX_DURATION => Some(Duration::from_millis(total)),
        Some(_) => value.reject(findings, "the duration is longer than ten years", ""),
        None => {
            let advice = "write it like \"24h\", \"1h30m\", \"10s\" or \"500ms\"";
            value.reject(findings, format!("`{text}` is not a duration"), advice)
        }
    }
}

/// Parses numbers with units, each unit at most once and the largest first.
fn parse_milliseconds(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total = 0_u64;
    let mut last_unit = u64::MAX;
    while !rest.is_empty() {
        let (digits, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let unit_end = after.find(|c: char| c.is_ascii_digit());
        let (unit, after) = after.split_at(unit_end.unwrap_or(after.len()));
        let unit = scale(&DURATION_UNITS, unit).filter(|unit| *unit < last_unit)?;
        total = total.checked_add(digits.parse::<u64>().ok()?.checked_mul(unit)?)?;
        (last_unit, rest) = (unit, after);
    }
    (last_unit != u64::MAX).then_some(total)
}

fn scale(units: &[(&str, u64)], unit: &str) -> Option<u64> {
    let mut units = units.iter();
    units.find_map(|(name, scale)| (*name == unit).then_some(*scale))
}

/// Writes a duration as `"1h30m"`. Hours are the largest unit, since cloud consoles say 24 h.
fn show_duration(duration: &Duration) -> String {
    let mut left = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut shown = String::new();
    for (unit, scale) in DURATION_UNITS.into_iter().skip(1) {
        if left >= scale {
            shown += &format!("{}{unit}", left / scale);
            left %= scale;
        }
    }
    if shown.is_empty() {
        shown.push_str("0s");
    }
    format!("\"{shown}\"")
}

fn is_none(value: &SpannedValue) -> bool {
    matches!(&value.value, ConfigValue::Text(text) if text == "none")
}

fn bytes(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<Option<u64>> {
    let advice = "write it like \"10GB\" or \"4GiB\", or \"none\"";
    let amount = match &value.value {
        _ if is_none(value) => return Some(None),
        ConfigValue::Text(text) => parse_bytes(text),
        ConfigValue::Integer(number) => {
            let advice = format!("write \"{number}B\" for bytes");
            return value.reject(findings, "the amount of traffic has no unit", advice);
        }
        _ => return value.reject_type(findings, "an amount of traffic", advice),
    };
    match amount {
        Some(amount) if BYTE_RANGE.contains(&amount) => Some(Some(amount)),
        Some(amount) if amount < *BYTE_RANGE.start() => {
            let what = "the amount of traffic is too small: the tunnel would only rekey";
            value.reject(findings, what, "the minimum is \"1MB\"")
        }
        Some(_) => {
            let what = "the amount of traffic is more than a Child SA can carry";
            value.reject(findings, what, "write \"none\"")
        }
        None => value.reject(findings, "this is not an amount of traffic", advice),
    }
}

fn parse_bytes(text: &str) -> Option<u64> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let unit = scale(&BYTE_UNITS, unit)?;
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// Writes an amount in the largest unit that divides it.
fn show_bytes(amount: &Option<u64>) -> String {
    let Some(amount) = amount else {
        return "\"none\"".to_owned();
    };
    let mut units = BYTE_UNITS.iter();
    let unit = units.find(|(_, scale)| amount % scale == 0);
    unit.map_or(String::new(), |(unit, scale)| {
        format!("\"{}{unit}\"", amount / scale)
    })
}

fn packets(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<Option<u64>> {
    let number = match &value.value {
        _ if is_none(value) => return Some(None),
        ConfigValue::Integer(number) => u64::try_from(*number).ok(),
        _ => {
            let expected = "a number of packets or \"none\"";
            return value.reject_type(findings, expected, "write a number without quotes");
        }
    };
    match number.filter(|number| PACKET_RANGE.contains(number)) {
        Some(number) => Some(Some(number)),
        None => {
            let advice = format!("the minimum is {}, the maximum 2^60", PACKET_RANGE.start());
            value.reject(findings, "the number of packets is out of range", advice)
        }
    }
}

fn show_packets(number: &Option<u64>) -> String {
    number.map_or("\"none\"".to_owned(), |number| number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spanned(value: ConfigValue) -> SpannedValue {
        SpannedValue { span: 0..0, value }
    }

    fn read_duration(text: &str) -> Option<Duration> {
        duration(
            &spanned(ConfigValue::Text(text.to_owned())),
            &mut Vec::new(),
        )
    }

    fn read_bytes(value: ConfigValue) -> Option<Option<u64>> {
        bytes(&spanned(value), &mut Vec::new())
    }

    #[test]
    fn durations_are_read_and_written_back() {
        for text in ["24h", "1h30m", "10s", "500ms", "1m1s1ms", "240h"] {
            let shown = show_duration(&read_duration(text).unwrap());
            assert_eq!(shown, format!("\"{text}\""));
        }
        assert_eq!(read_duration("1d"), read_duration("24h"));
        assert_eq!(read_duration("0s"), Some(Duration::ZERO));
        assert_eq!(show_duration(&Duration::ZERO), "\"0s\"");
    }

    #[test]
    fn invalid_durations_are_rejected() {
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
            "4000d",
            "1w",
            "1M",
            "99999999999999999999s",
            "18446744073709551615d",
        ] {
            assert_eq!(read_duration(text), None, "{text}");
        }
    }

    #[test]
    fn amounts_are_read_and_written_back() {
        for text in ["10GB", "4GiB", "1MB", "1500kB", "1TiB", "1000001B"] {
            let amount = read_bytes(ConfigValue::Text(text.to_owned())).unwrap();
            assert_eq!(show_bytes(&amount), format!("\"{text}\""));
        }
        assert_eq!(read_bytes(ConfigValue::Text("none".to_owned())), Some(None));
        let amount = read_bytes(ConfigValue::Text("2000MB".into()));
        assert_eq!(amount, Some(Some(2_000_000_000)));
    }

    #[test]
    fn invalid_amounts_are_rejected() {
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
            assert_eq!(
                read_bytes(ConfigValue::Text(text.to_owned())),
                None,
                "{text}"
            );
        }
        assert_eq!(read_bytes(ConfigValue::Integer(5_000_000)), None);
    }
}
