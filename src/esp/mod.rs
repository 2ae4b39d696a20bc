//! ESP in tunnel mode (RFC 4303): seals and opens packets with a pair of security associations.
//!
//! ```text
//!   0                   1                   2                   3
//!   0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//!  ┌───────────────────────────────────────────────────────────────┐ ─┬─ ─
//!  │               security parameters index (SPI)                 │  │ authenticated
//!  ├───────────────────────────────────────────────────────────────┤  │
//!  │                       sequence number                         │  │
//!  ├───────────────────────────────────────────────────────────────┤  │  ─┬─
//!  │                  initialization vector (IV)                   │  │   │ `crypto` writes and reads it
//!  ├───────────────────────────────────────────────────────────────┤  │  ─┼─
//!  │                                                               │  │   │ encrypted
//!  ~          the inner packet, IPv4 or IPv6, whole                ~  │   │
//!  │               ┌───────────────────────────────────────────────┤  │   │
//!  │               │ padding 1, 2, 3, …                            │  │   │
//!  ├───────────────┴───────────────┬───────────────┬───────────────┤  │   │
//!  │                               │  pad length   │  next header  │  │   │ 4 is IPv4, 41 is IPv6, 59 is a dummy
//!  ├───────────────────────────────┴───────────────┴───────────────┤ ─┴─ ─┴─
//!  ~               integrity check value (ICV)                     ~
//!  └───────────────────────────────────────────────────────────────┘
//! ```
//!
//! With extended sequence numbers (ESN), packets contain the low half of the sequence number only; the ICV covers both halves.
//!
//! - [`Outbound`] seals, [`Inbound`] opens; each holds the keys, the selectors and the counters of one direction.
//! - [`replay`] is the anti-replay window, [`lifetime`] the limits of an SA, [`mtu`] the inner MTU.
//!
//! This module uses no sockets, clocks or threads; `datapath` passes the packets.
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

mod inbound;
pub mod lifetime;
pub mod mtu;
mod outbound;
pub mod replay;
mod traffic;
mod trailer;

pub use inbound::Inbound;
pub use inbound::{Decapsulated, InboundGuard, RxPacket};
pub use outbound::Outbound;
pub use outbound::{FramedPacket, OutboundGuard};
pub use traffic::Traffic;
pub use trailer::read as read_trailer;

/// Octets in front of the IV: SPI and sequence number.
pub const HEADER: usize = 8;

/// Alignment of the encrypted part: the block of the cipher, and at least four octets (RFC 4303 §2.4).
fn alignment(protection: crate::crypto::Protection) -> usize {
    protection.block().max(4)
}

#[cfg(test)]
pub(crate) mod testing;
