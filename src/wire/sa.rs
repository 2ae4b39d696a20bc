//! Proposals (RFC 7296 §3.3).
//!
//! ```text
//! proposal:  | 0 last, 2 more | 0 | length (2) | number (1) | protocol (1) | SPI size (1) | transforms (1) | SPI … | transforms … |
//! transform: | 0 last, 3 more | 0 | length (2) | type (1) | 0 | id (2) | attributes … |
//! attribute: | 1, type (15 bits) | value (2) |   or   | 0, type (15 bits) | length (2) | value … |
//! ```

use super::codec::{Cursor, Malformed, TooLong};
use super::numbers::{ProtocolId, TransformType};

/// Proposals, most wanted first.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Sa {
    /// The proposals.
    pub proposals: Vec<Proposal>,
}

/// One proposal: for each type of transform it names, one of them is to be chosen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Proposal {
    /// Its number, repeated in the answer that chooses it.
    pub number: u8,
    /// What kind of SA.
    pub protocol: ProtocolId,
    /// The sender's SPI; empty for the first IKE SA.
    pub spi: Vec<u8>,
    /// The transforms, in order of preference within a type.
    pub transforms: Vec<Transform>,
    /// Why it cannot be chosen, if its inside contradicts itself; it then shows no transforms.
    pub flaw: Option<Flaw>,
}

/// What is wrong inside a proposal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Flaw {
    /// What is wrong.
    pub what: &'static str,
    /// The proposal as it came, from its number on.
    pub raw: Vec<u8>,
}

/// One algorithm.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Transform {
    /// What it is for.
    pub kind: TransformType,
    /// Its number within that type.
    pub id: u16,
    /// The key length in bits, where the algorithm has several.
    pub key_bits: Option<u16>,
    /// Attributes we do not understand, a second key length among them. A transform that has any must not be chosen (RFC 7296 §3.3.6).
    pub unknown_attributes: Vec<u8>,
}

impl Proposal {
    /// A proposal of our own.
    #[must_use]
    pub const fn new(
        number: u8,
        protocol: ProtocolId,
        spi: Vec<u8>,
        transforms: Vec<Transform>,
    ) -> Proposal {
        Proposal {
            number,
            protocol,
            spi,
            transforms,
            flaw: None,
        }
    }
}

impl Transform {
    /// A transform of our own.
    #[must_use]
    pub const fn new(kind: TransformType, id: u16, key_bits: Option<u16>) -> Transform {
        Transform {
            kind,
            id,
            key_bits,
            unknown_attributes: Vec::new(),
        }
    }
}

impl Sa {
    pub(super) fn parse(mut body: Cursor<'_>) -> Result<Sa, Malformed> {
        todo!()
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        todo!()
    }
}
