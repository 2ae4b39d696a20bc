//! Looking on: a capture explained in words (`groundlink decode`).
//!
//! ```text
//! pcap, pcapng ─▶ capture::Reader ─▶ Decoder ─┬─▶ Record       a packet: text, or an object of --json
//! Wireshark's tables ─▶ IkeKeys, EspKeys ─────┘─▶ summary    who offered, chose, refused; what ESP carried
//! ```
//!
//! It is the product's own parsers that read: [`wire`](crate::wire) messages, [`crypto`](crate::crypto) opens, [`net`](crate::net) checks the
//! packet inside, and [`ike`](crate::ike) says whether a message has what it needs. So where a line says that something is refused, groundlink would
//! have refused it.
//!
//! Everything here is hostile input: no byte string makes it panic, and memory is bounded whatever the length of the file.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::panic,
        clippy::unreachable
    )
)]

pub mod capture;
mod decoder;
mod demux;
mod esp;
mod link;
mod names;
mod notify;
mod payload;
mod reassembly;
mod record;
mod sealed;
mod summary;
mod tables;
mod vendor;

pub use decoder::Decoder;
pub use record::Record;
pub use tables::{EspKeys, IkeKeys, KeyTableError, MAX_ROWS};
