//! The DELETE payload (RFC 7296 §3.11).
//!
//! ```text
//! | protocol (1) | SPI size (1) | count (2) | SPIs … |
//! ```

use super::codec::{Cursor, Malformed, TooLong, two_octets};
use super::numbers::ProtocolId;

/// The inbound SPIs of the SAs that the sender has deleted. A deleted IKE SA has none, since its SPIs are in the header.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Delete {
    /// Protocol of the SAs.
    pub protocol: ProtocolId,
    /// The SPIs. Empty for [`ProtocolId::IKE`].
    pub spis: Vec<u32>,
}

impl Delete {
    /// Deletes the IKE SA that carries the message.
    #[must_use]
    pub const fn ike() -> Delete {
        Delete {
            protocol: ProtocolId::IKE,
            spis: Vec::new(),
        }
    }

    /// Deletes ESP SAs.
    #[must_use]
    pub const fn esp(spis: Vec<u32>) -> Delete {
        Delete {
            protocol: ProtocolId::ESP,
            spis,
        }
    }

    pub(super) fn parse(mut body: Cursor<'_>) -> Result<Delete, Malformed> {
        let protocol = ProtocolId(body.u8("delete payload truncated")?);
        let size = body.u8("delete payload truncated")?;
        let count = body.u16("delete payload truncated")?;
        // An IKE SA has no SPI here, so its count is ignored; every other SA has an SPI of four octets.
        let fits = match protocol {
            ProtocolId::IKE => size == 0,
            _ => size == 4 || (size == 0 && count == 0),
        };
        if !fits {
            return Err(body.malformed("SPI size of the delete payload does not fit its protocol"));
        }
        let mut spis = Vec::new();
        if size == 4 {
            for _ in 0..count {
                spis.push(body.u32("SPIs of the delete payload truncated")?);
            }
        }
        if !body.is_empty() {
            return Err(body.malformed("octets after the SPIs of the delete payload"));
        }
        Ok(Delete { protocol, spis })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        let count = two_octets(self.spis.len(), "list of deleted SPIs")?;
        let size = if self.protocol == ProtocolId::IKE {
            0
        } else {
            4
        };
        out.extend_from_slice(&[self.protocol.0, size]);
        out.extend_from_slice(&count.to_be_bytes());
        out.extend(self.spis.iter().flat_map(|spi| spi.to_be_bytes()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> Result<Delete, Malformed> {
        Delete::parse(Cursor::new(bytes, 0))
    }

    #[test]
    fn p06_spis_round_trip_even_duplicate_and_unknown_ones() {
        assert_eq!(parse(&[1, 0, 0, 0]), Ok(Delete::ike()));
        assert_eq!(
            parse(&[3, 4, 0, 2, 0, 0, 1, 0, 0, 0, 1, 0]),
            Ok(Delete::esp(vec![256, 256]))
        );
        assert_eq!(parse(&[3, 4, 0, 0]), Ok(Delete::esp(vec![])));
        assert_eq!(parse(&[3, 0, 0, 0]), Ok(Delete::esp(vec![])));
    }

    #[test]
    fn p06_inconsistent_size_protocol_and_count_are_malformed() {
        for bytes in [
            &[1, 8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1][..], // IKE SPIs belong in the header
            &[1, 4, 0, 1, 0, 0, 0, 1],
            &[3, 8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1],
            &[3, 0, 0, 5],
            &[3, 4, 0, 1],
            &[3, 4, 0, 1, 0, 0, 0, 1, 0],
            &[3, 4, 0xff, 0xff, 0, 0, 0, 1],
            &[3, 4, 0],
        ] {
            assert!(parse(bytes).is_err(), "{bytes:?}");
        }
    }
}
