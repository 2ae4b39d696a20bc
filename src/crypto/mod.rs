//! Cryptography: the algorithms that IKEv2 and ESP negotiate, each one row of a table, behind types that are hard to misuse.
//!
//! This is the only folder that names a cryptography crate. The rest of the program holds rows of the registry, values made of rows
//! ([`IkeSuite`], [`EspSuite`], [`Protection`]) and what is built from them:
//!
//! ```text
//!   "aes128-sha1-modp1024" ──parse──▶ IkeProposal ──negotiated──▶ IkeSuite ─┬─ group ──────▶ KeyExchange ── g^ir ─┐
//!                                          │                                ├─ prf ────────▶ Prf::expand ◀────────┘
//!                                       registry                            │                    │ SaKeys
//!                                 (id, word, sizes)                         └─ protection ─▶ Sealer / Opener
//! ```
//!
//! The same [`Sealer`] and [`Opener`] protect ESP packets and IKE's encrypted payloads: both are
//! `associated data ‖ IV ‖ ciphertext ‖ ICV` (RFC 4303 §2, RFC 7296 §3.14, RFC 5282 §3). [`lanes`] seals and opens batches of ESP
//! packets faster.
//!
//! Randomness comes from a [`Generator`] argument, so that a test can replay an exchange; nothing here asks the operating system.

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
mod kex;
mod key_exchange;
mod keys;
pub mod lanes;
mod mac;
mod prf;
mod protect;
mod random;
mod registry;
mod suite;
#[cfg(test)]
pub(crate) mod vectors;

pub use kex::{InvalidPublicValue, KeResponse};
pub use key_exchange::KeyExchange;
pub use keys::{IvKey, Secret, equal};
pub use mac::{hmac_sha256, sha1};
pub use protect::{OpenError, Opener, Protection, SaKeys, SealError, Sealer, WrongKeyLength};
pub use random::Generator;
pub use registry::{
    ADDITIONAL, AlgorithmStatus, ENCRYPTION, Encryption, Esn, GROUP, Group, INTEGRITY, Integrity,
    PRF, Prf, additional, encryption, group, integrity, prf,
};
pub use suite::{
    EspProposal, EspSuite, Hint, IkeProposal, IkeSuite, PfsDemand, ProposalError, ProposalErrorKind,
};
