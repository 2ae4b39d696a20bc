//! Parser and encoder of IKEv2 messages (RFC 7296 §3).
//!
//! All functions are total and have no keys, state or policy. A byte string is either a message or [`Malformed`] at an offset,
//! and an accepted message encodes to bytes that parse to the same value. [`Message`] is the entry point; each payload has its
//! own file.
//!
//! ```text
//! datagram ─▶ Message::parse ─▶ header · clear payloads · position of the encrypted payload ─▶ (crypto decrypts) ─▶ sk::unpad ─▶ chain::parse
//! payloads ─▶ Message::encode_clear                                                                    ─▶ datagram
//! payloads ─▶ sk::frame ─▶ (crypto encrypts in place)                                                     ─▶ datagram
//! ```
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

mod auth;
pub mod chain;
mod codec;
mod delete;
mod distinguished_name;
mod header;
mod id;
mod init_peek;
pub mod int_auth;
mod ke;
mod message;
mod nonce;
mod notify;
mod numbers;
mod sa;
pub mod sk;
mod ts;

pub use auth::Auth;
pub use chain::{ChainError, Critical, Payload};
pub use codec::{Cursor, Malformed, TooLong};
pub use delete::Delete;
pub use header::{Flags, Header, IkeSpi, MessageId};
pub use id::Id;
pub use init_peek::InitPeek;
pub use ke::Ke;
pub use message::{Envelope, Message, Sealed};
pub use notify::Notify;
pub use numbers::{
    AuthMethod, ExchangeType, IdType, NotifyType, PayloadType, ProtocolId, TransformType, TsType,
};
pub use sa::{Invalid, Proposal, Sa, Transform};
pub use ts::TrafficSelectors;
