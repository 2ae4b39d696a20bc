//! A whole message: header, payloads in the clear, and the sealed part if it has one (RFC 7296 §3.14, RFC 7383 §2.5).

use super::chain::{ChainError, Payload};
use super::codec::TooLong;
use super::header::Header;
use super::numbers::PayloadType;

/// An IKE message as it lies in a datagram (without the non-ESP marker of port 4500).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// The header.
    pub header: Header,
    /// The payloads in the clear, in front of the sealed one.
    pub clear: Vec<Payload>,
    /// The sealed payload, always the last.
    pub sealed: Option<Sealed>,
    /// All of the message.
    pub bytes: &'a [u8],
}

/// Where the sealed part lies, and what is inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sealed {
    /// The type of the first payload inside.
    pub first: PayloadType,
    /// Octets from the start of the message that are authenticated but not encrypted; the IV starts behind them.
    pub aad_len: usize,
    /// Whether it is all of the message.
    pub envelope: Envelope,
}

/// Whether a sealed payload holds all payloads or a part of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Envelope {
    /// SK: all of them.
    Whole,
    /// SKF: a fragment, to be joined with the others of the same message id (RFC 7383).
    Fragment {
        /// Which one, from 1.
        number: u16,
        /// Of how many.
        total: u16,
    },
}

impl<'a> Message<'a> {
    /// Reads a datagram.
    ///
    /// # Errors
    /// It is not a message of IKEv2, or holds a critical payload that nobody knows.
    pub fn parse(datagram: &'a [u8]) -> Result<Message<'a>, ChainError> {
        todo!()
    }

    /// Lays out a message without a sealed part; `next` and `length` of the header are filled in.
    ///
    /// # Errors
    /// A payload does not fit its length field.
    pub fn encode_clear(header: Header, payloads: &[Payload]) -> Result<Vec<u8>, TooLong> {
        todo!()
    }
}
