//! The SA payload and its proposals (RFC 7296 §3.3).
//!
//! ```text
//! proposal:  | 0 last, 2 more | 0 | length (2) | number (1) | protocol (1) | SPI size (1) | transforms (1) | SPI … | transforms … |
//! transform: | 0 last, 3 more | 0 | length (2) | type (1) | 0 | id (2) | attributes … |
//! attribute: | 1, type (15 bits) | value (2) |   or   | 0, type (15 bits) | length (2) | value … |
//! ```

use super::codec::{Cursor, Malformed, TooLong, fill_length_u16, octet};
use super::numbers::{ProtocolId, TransformType};

/// Proposals, in order of preference.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Sa {
    /// The proposals.
    pub proposals: Vec<Proposal>,
}

/// A proposal: one transform of each of its types is to be chosen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Proposal {
    /// Proposal number; the response repeats that of the chosen proposal.
    pub number: u8,
    /// Protocol of the SA.
    pub protocol: ProtocolId,
    /// The sender's SPI; empty for the first IKE SA.
    pub spi: Vec<u8>,
    /// The transforms, in order of preference within a type.
    pub transforms: Vec<Transform>,
    /// The parse error of a malformed proposal, which cannot be chosen and has no transforms here.
    pub invalid: Option<Invalid>,
}

/// The error of a malformed proposal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Invalid {
    /// Description of the error.
    pub what: &'static str,
    /// The octets of the proposal, from its number on.
    pub raw: Vec<u8>,
}

/// A transform: one algorithm.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Transform {
    /// Transform type.
    pub kind: TransformType,
    /// Transform ID.
    pub id: u16,
    /// Key length in bits, for algorithms with several.
    pub key_bits: Option<u16>,
    /// Unknown attributes, or a second key length. A transform with any must not be chosen (RFC 7296 §3.3.6).
    pub unknown_attributes: Vec<u8>,
}

impl Proposal {
    /// A proposal to send.
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
            invalid: None,
        }
    }
}

impl Transform {
    /// A transform to send.
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
        let mut proposals = Vec::new();
        while !body.is_empty() {
            let start = body;
            if proposals.len() >= MAX_PROPOSALS {
                return Err(start.malformed("more than 255 proposals"));
            }
            let (mark, inside) = substructure(&mut body)?;
            if mark != Mark::of(&body, MORE_PROPOSALS) {
                return Err(start.malformed("last-proposal marker missing or misplaced"));
            }
            proposals.push(Proposal::parse(inside));
        }
        Ok(Sa { proposals })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        let mut rest = self.proposals.iter().peekable();
        while let Some(proposal) = rest.next() {
            let start = out.len();
            let mark = if rest.peek().is_some() {
                MORE_PROPOSALS
            } else {
                LAST
            };
            out.extend_from_slice(&[mark, 0, 0, 0]);
            proposal.encode(out)?;
            fill_length_u16(out, start, "proposal")?;
        }
        Ok(())
    }
}

impl Proposal {
    /// A malformed proposal invalidates only itself: the peer may offer another one that is acceptable.
    fn parse(inside: Cursor<'_>) -> Proposal {
        Proposal::read(inside).unwrap_or_else(|malformed| {
            let mut octets = inside.rest().iter().copied();
            let number = octets.next().unwrap_or_default();
            let protocol = ProtocolId(octets.next().unwrap_or_default());
            let invalid = Invalid {
                what: malformed.what,
                raw: inside.rest().to_vec(),
            };
            Proposal {
                number,
                protocol,
                spi: Vec::new(),
                transforms: Vec::new(),
                invalid: Some(invalid),
            }
        })
    }

    fn read(mut inside: Cursor<'_>) -> Result<Proposal, Malformed> {
        let number = inside.u8("proposal truncated")?;
        let protocol = ProtocolId(inside.u8("proposal truncated")?);
        let spi_size = inside.u8("proposal truncated")?;
        let count = inside.u8("proposal truncated")?;
        let spi = inside
            .take(usize::from(spi_size), "SPI of a proposal truncated")?
            .to_vec();
        let mut transforms = Vec::new();
        for _ in 0..count {
            let start = inside;
            let (mark, transform) = substructure(&mut inside)?;
            if mark != Mark::of(&inside, MORE_TRANSFORMS) {
                return Err(start.malformed("last-transform marker missing or misplaced"));
            }
            transforms.push(Transform::parse(transform)?);
        }
        if !inside.is_empty() {
            return Err(inside.malformed("more transforms than the proposal states"));
        }
        Ok(Proposal::new(number, protocol, spi, transforms))
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        if let Some(invalid) = &self.invalid {
            out.extend_from_slice(&invalid.raw);
            return Ok(());
        }
        let spi_size = octet(self.spi.len(), "SPI of a proposal")?;
        let count = octet(self.transforms.len(), "list of transforms")?;
        out.extend_from_slice(&[self.number, self.protocol.0, spi_size, count]);
        out.extend_from_slice(&self.spi);
        let mut rest = self.transforms.iter().peekable();
        while let Some(transform) = rest.next() {
            let start = out.len();
            let mark = if rest.peek().is_some() {
                MORE_TRANSFORMS
            } else {
                LAST
            };
            out.extend_from_slice(&[mark, 0, 0, 0]);
            transform.encode(out);
            fill_length_u16(out, start, "transform")?;
        }
        Ok(())
    }
}

impl Transform {
    fn parse(mut inside: Cursor<'_>) -> Result<Transform, Malformed> {
        let kind = TransformType(inside.u8("transform truncated")?);
        inside.u8("transform truncated")?;
        let mut transform = Transform::new(kind, inside.u16("transform truncated")?, None);
        while !inside.is_empty() {
            let start = inside;
            let attribute = inside.u16("attribute truncated")?;
            let value = inside.u16("attribute truncated")?;
            if attribute == KEY_LENGTH && transform.key_bits.is_none() {
                transform.key_bits = Some(value);
                continue;
            }
            if attribute & SHORT_FORM == 0 {
                inside.take(usize::from(value), "value of an attribute truncated")?;
            }
            transform
                .unknown_attributes
                .extend_from_slice(inside.read_since(start));
        }
        Ok(transform)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.kind.0, 0]);
        out.extend_from_slice(&self.id.to_be_bytes());
        if let Some(bits) = self.key_bits {
            out.extend_from_slice(&KEY_LENGTH.to_be_bytes());
            out.extend_from_slice(&bits.to_be_bytes());
        }
        out.extend_from_slice(&self.unknown_attributes);
    }
}

/// Proposal numbers have one octet.
const MAX_PROPOSALS: usize = u8::MAX as usize;

const LAST: u8 = 0;
const MORE_PROPOSALS: u8 = 2;
const MORE_TRANSFORMS: u8 = 3;

/// Attribute format bit: the value is in the length field.
const SHORT_FORM: u16 = 0x8000;

/// Attribute 14, key length, which has only the short form (RFC 7296 §3.3.5).
const KEY_LENGTH: u16 = SHORT_FORM | 14;

/// The octet that states whether another substructure follows.
#[derive(PartialEq, Eq)]
struct Mark(u8);

impl Mark {
    /// The required value; `rest` is what follows the substructure.
    fn of(rest: &Cursor<'_>, more: u8) -> Mark {
        Mark(if rest.is_empty() { LAST } else { more })
    }
}

/// Parses the header that proposals and transforms share: `| mark | reserved | length (2) | inside … |`.
fn substructure<'a>(cursor: &mut Cursor<'a>) -> Result<(Mark, Cursor<'a>), Malformed> {
    let start = *cursor;
    let mark = Mark(cursor.u8("proposal or transform truncated")?);
    cursor.u8("proposal or transform truncated")?;
    let length = cursor.u16("proposal or transform truncated")?;
    let inside = usize::from(length)
        .checked_sub(4)
        .ok_or(start.malformed("proposal or transform length shorter than its header"))?;
    Ok((
        mark,
        cursor.sub(
            inside,
            "proposal or transform length exceeds the enclosing structure",
        )?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> Result<Sa, Malformed> {
        Sa::parse(Cursor::new(bytes, 0))
    }

    fn encode(sa: &Sa) -> Vec<u8> {
        let mut out = Vec::new();
        sa.encode(&mut out).unwrap();
        out
    }

    fn aes_and_prf() -> Vec<Transform> {
        vec![
            Transform::new(TransformType::ENCR, 12, Some(128)),
            Transform::new(TransformType::PRF, 2, None),
        ]
    }

    fn two_proposals() -> Sa {
        Sa {
            proposals: vec![
                Proposal::new(1, ProtocolId::ESP, vec![1, 2, 3, 4], aes_and_prf()),
                Proposal::new(2, ProtocolId::IKE, Vec::new(), aes_and_prf()),
            ],
        }
    }

    #[test]
    fn proposals_have_the_layout_of_rfc_7296() {
        let sa = Sa {
            proposals: vec![Proposal::new(1, ProtocolId::IKE, Vec::new(), aes_and_prf())],
        };
        #[rustfmt::skip]
        let expected = [
            0, 0, 0, 28, 1, 1, 0, 2,
            3, 0, 0, 12, 1, 0, 0, 12, 0x80, 14, 0, 128,
            0, 0, 0, 8, 2, 0, 0, 2,
        ];
        assert_eq!(encode(&sa), expected);
        assert_eq!(parse(&expected), Ok(sa));
        assert_eq!(parse(&encode(&two_proposals())), Ok(two_proposals()));
    }

    #[test]
    fn n03_a_malformed_proposal_does_not_affect_the_other() {
        let good = encode(&two_proposals());
        // Offsets in the first proposal: its transforms start at 12, the attribute of the first at 20.
        for (at, value, case) in [
            (6, 255, "SPI size 255"),
            (6, 3, "SPI size short"),
            (7, 0, "no transform counted"),
            (7, 1, "one transform counted"),
            (7, 3, "three transforms counted"),
            (12, 0, "first transform marked last"),
            (15, 3, "transform length below its header"),
            (15, 11, "attribute truncated"),
            (15, 255, "transform beyond the proposal"),
            (20, 0, "long form reaching beyond"),
            (24, 3, "last transform marked as followed"),
        ] {
            let mut bytes = good.clone();
            bytes[at] = value;
            let read = parse(&bytes).unwrap_or_else(|e| panic!("{case}: {e}"));
            let [flawed, whole] = read.proposals.as_slice() else {
                panic!("{case}")
            };
            assert!(
                flawed.invalid.is_some() && flawed.transforms.is_empty(),
                "{case}: {flawed:?}"
            );
            assert_eq!(
                (flawed.number, flawed.protocol),
                (1, ProtocolId::ESP),
                "{case}"
            );
            assert_eq!(*whole, two_proposals().proposals[1], "{case}");
            assert_eq!(encode(&read), bytes, "{case}: encodes as it came");
        }
    }

    #[test]
    fn n03_proposals_that_exceed_their_length_are_malformed() {
        let good = encode(&two_proposals());
        for (at, value) in [(0, 0), (0, 3), (2, 255), (3, 0), (3, 3), (32, 2)] {
            let mut bytes = good.clone();
            bytes[at] = value;
            assert!(parse(&bytes).is_err(), "{value} at {at}");
        }
        for cut in (1..good.len()).filter(|&cut| cut != 32) {
            assert!(parse(&good[..cut]).is_err(), "cut at {cut}");
        }
        assert!(
            parse(&[2, 0, 0, 4].repeat(300)).is_err(),
            "300 empty proposals"
        );
    }

    #[test]
    fn n03_only_one_key_length_in_the_short_form_is_accepted() {
        let transform = |attributes: &[u8]| {
            let bytes = [&[1, 0, 0, 12], attributes].concat();
            Transform::parse(Cursor::new(&bytes, 0))
        };
        for bits in [0, 1, 65535] {
            let read = transform(&[&[0x80, 14][..], &u16::to_be_bytes(bits)].concat()).unwrap();
            assert_eq!(
                (read.key_bits, read.unknown_attributes.len()),
                (Some(bits), 0)
            );
        }
        let twice = transform(&[0x80, 14, 0, 128, 0x80, 14, 1, 0]).unwrap();
        assert_eq!(
            (twice.key_bits, twice.unknown_attributes),
            (Some(128), vec![0x80, 14, 1, 0])
        );
        let long = transform(&[0, 14, 0, 2, 0, 128]).unwrap();
        assert_eq!(
            (long.key_bits, long.unknown_attributes),
            (None, vec![0, 14, 0, 2, 0, 128])
        );
        let other = transform(&[0x80, 15, 0, 1, 0x80, 14, 0, 128]).unwrap();
        assert_eq!(
            (other.key_bits, other.unknown_attributes),
            (Some(128), vec![0x80, 15, 0, 1])
        );
        assert!(transform(&[0, 14, 0, 3, 0, 128]).is_err());
        assert!(transform(&[0x80, 14, 0]).is_err());
    }
}
