//! IKEv2 messages as bytes and as values (RFC 7296 §3).
//!
//! Total functions without keys, state or policy: every byte string is either a message or [`Malformed`] at an offset, and what was
//! accepted encodes to bytes that parse to the same value. [`Message`] is the door; one file a payload stands behind it.
//!
//! ```text
//! datagram ─▶ Message::parse ─▶ header · clear payloads · where the sealed part lies ─▶ (crypto opens) ─▶ sk::unpad ─▶ chain::parse
//! payloads ─▶ Message::encode_clear                                                                    ─▶ datagram
//! payloads ─▶ sk::frame ─▶ (crypto seals in place)                                                     ─▶ datagram
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
