//! How effective values are written, so that what `check --explain` shows can be pasted into a file.

use std::time::Duration;

use super::duration::DurationText;
use super::settings::{InsideAddress, OffloadMode};
use crate::ike::{Encapsulation, PeerId, Start};
use crate::net::Dscp;

/// How a value looks in a file.
pub fn plain<T: std::fmt::Display>(value: &T) -> String {
    value.to_string()
}

/// How a string looks in a file: also one with quotes or with control characters, which a terminal would obey.
pub fn quoted<T: std::fmt::Display>(value: &T) -> String {
    let mut shown = String::from("\"");
    for character in value.to_string().chars() {
        match character {
            '"' | '\\' => shown.extend(['\\', character]),
            control if control.is_control() => {
                shown.push_str(&format!("\\u{:04X}", u32::from(control)));
            }
            other => shown.push(other),
        }
    }
    shown.push('"');
    shown
}

/// How a list looks in a file.
pub fn list<T: std::fmt::Display>(values: &[T]) -> String {
    let items: Vec<String> = values.iter().map(quoted).collect();
    format!("[{}]", items.join(", "))
}

/// How this key is written.
pub fn peer_id(peer_id: &PeerId) -> String {
    match peer_id {
        PeerId::Any => quoted(&"any"),
        PeerId::Exactly(identity) => quoted(identity),
    }
}

/// How this key is written.
pub fn start(start: &Start) -> String {
    match start {
        Start::Auto => quoted(&"auto"),
        Start::Trap => quoted(&"trap"),
        Start::Add => quoted(&"add"),
    }
}

/// How this key is written.
pub fn encapsulation(encapsulation: &Encapsulation) -> String {
    quoted(&encapsulation.word())
}

/// How this key is written.
pub fn dscp(dscp: &Dscp) -> String {
    match dscp {
        Dscp::Copied => quoted(&"copy"),
        Dscp::Cleared => quoted(&"clear"),
    }
}

/// How this key is written.
pub fn inside(inside: &InsideAddress) -> String {
    format!("\"{}/{}\"", inside.address, inside.length)
}

/// How this key is written.
pub fn offload(offload: &OffloadMode) -> String {
    match offload {
        OffloadMode::Auto => quoted(&"auto"),
        OffloadMode::Off => quoted(&"off"),
    }
}

/// How times are written.
pub fn duration(duration: &Duration) -> String {
    quoted(&DurationText(*duration))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h04_what_a_string_holds_is_shown_as_it_can_be_pasted_and_obeyed_by_no_terminal() {
        let text = "a\"b\\c\u{1b}[31m\u{9b}\u{7f}é";
        let shown = quoted(&text);
        assert_eq!(shown, r#""a\"b\\c\u001B[31m\u009B\u007Fé""#);
        let pasted: toml::Value =
            toml::from_str::<toml::Table>(&format!("v = {shown}")).unwrap()["v"].clone();
        assert_eq!(pasted.as_str(), Some(text));
    }
}
