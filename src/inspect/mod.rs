//! Decoding of captures: a capture file explained packet by packet (`groundlink decode`).
//!
//! ```text
//! pcap, pcapng ─▶ CaptureReader ─▶ Decoder ─┬─▶ Record    a packet: text, or an object of --json
//! Wireshark's tables ─▶ IkeKeys, EspKeys ───┘─▶ summary   what was offered, chosen and rejected; what ESP carried
//! ```
//!
//! The parsers of the gateway read the packets: [`wire`](crate::wire) parses messages, [`crypto`](crate::crypto) decrypts them,
//! [`net`](crate::net) checks inner packets, and [`ike`](crate::ike) checks that a message has the payloads that its exchange
//! requires. A record therefore reports an error exactly where the gateway would reject the packet. `etherparse` and `pcap_parser`
//! read the layers that the gateway never sees: capture files, link-layer and outer IP headers.
//!
//! All input is untrusted: no octet string causes a panic, and memory is bounded for files of any length.
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
mod decrypt;
mod demux;
mod esp;
mod key_tables;
mod names;
mod notify;
mod payload;
mod reassembly;
mod record;
mod summary;

pub use decoder::Decoder;
pub use key_tables::{EspKeys, IkeKeys, KeyTableError, MAX_ROWS};
pub use record::Record;
