//! Cryptography: the algorithms IKEv2 and ESP negotiate, each one row of a table, behind doors that are hard to misuse.
//!
//! This is the only folder that names a cryptography crate. What the rest of the program holds are rows of the [registry],
//! values made of rows ([`IkeSuite`], [`EspSuite`], [`Protection`]) and three machines built from them:
//!
//! ```text
//!   "aes128-sha1-modp1024" ──parse──▶ IkeProposal ──negotiated──▶ IkeSuite ─┬─ group ──────▶ KeyExchange ── g^ir ─┐
//!                                          │                                ├─ prf ────────▶ Prf::expand ◀────────┘
//!                                       registry                            │                    │ SaKeys
//!                                 (id, word, sizes)                         └─ protection ─▶ Sealer / Opener
//! ```
//!
//! The same [`Sealer`] and [`Opener`] protect ESP packets and IKE's encrypted payloads: both are
//! `associated data ‖ IV ‖ ciphertext ‖ ICV` (RFC 4303 §2, RFC 7296 §3.14, RFC 5282 §3).
//!
//! Randomness comes from a [`Generator`] handed in, so that a test can replay an exchange; nothing here asks the operating system.

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

mod aead;
mod cbc;
mod digest;
mod kex;
mod keys;
pub mod lanes;
mod mac;
mod prf;
mod protect;
mod random;
pub mod registry;
mod suite;
#[cfg(test)]
pub(crate) mod vectors;

pub use digest::sha1;
pub use kex::{InvalidPublicValue, KeResponse, KeyExchange};
pub use keys::{IvKey, Secret, equal};
pub use mac::hmac_sha256;
pub use protect::{OpenError, Opener, SaKeys, SealError, Sealer, WrongKeyLength};
pub use random::Generator;
pub use registry::{
    ADDITIONAL, AlgorithmStatus, ENCRYPTION, Encryption, GROUP, Group, INTEGRITY, Integrity, PRF,
    Prf, additional, encryption, group, integrity, prf,
};
pub use suite::{
    Esn, EspProposal, EspSuite, Hint, IkeProposal, IkeSuite, ProposalError, ProposalErrorKind,
    Protection,
};
