//! How effective values are written, so that what `check --explain` shows can be pasted into a file.

use std::time::Duration;

use super::duration::Span;
use super::settings::{Inside, Offload};
use crate::ike::{Encapsulation, PeerId, Start};

/// How a value looks in a file.
pub fn plain<T: std::fmt::Display>(value: &T) -> String {
    value.to_string()
}

/// How a string looks in a file.
pub fn quoted<T: std::fmt::Display>(value: &T) -> String {
    format!("\"{value}\"")
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
    match encapsulation {
        Encapsulation::Udp => quoted(&"udp"),
        Encapsulation::Auto => quoted(&"auto"),
        Encapsulation::Esp => quoted(&"esp"),
    }
}

/// How this key is written.
pub fn inside(inside: &Inside) -> String {
    format!("\"{}/{}\"", inside.address, inside.length)
}

/// How this key is written.
pub fn offload(offload: &Offload) -> String {
    match offload {
        Offload::Auto => quoted(&"auto"),
        Offload::Off => quoted(&"off"),
    }
}

/// How times are written.
pub fn duration(duration: &Duration) -> String {
    quoted(&Span(*duration))
}
