//! The IKE header (RFC 7296 §3.1).
//!
//! ```text
//!  0               1               2               3
//! +---------------+---------------+---------------+---------------+
//! |                       IKE SA initiator's SPI                  |
//! |                                                               |
//! |                       IKE SA responder's SPI                  |
//! |                                                               |
//! | next payload  | major | minor | exchange type |  x x r v i x x x
//! |                          message id                           |
//! |                            length                             |
//! +---------------+---------------+---------------+---------------+
//! ```

use std::fmt;

use super::codec::{Cursor, Malformed, TooLong};
use super::numbers::{ExchangeType, PayloadType};

/// SPI of one side of an IKE SA; zero until the responder has chosen one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct IkeSpi(pub u64);

/// Message ID: counts the requests of one side of an IKE SA; a response has the ID of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MessageId(pub u32);

/// The flags. Reserved bits are ignored on receipt and sent as zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Flags {
    /// The sender is the original initiator of the IKE SA.
    pub initiator: bool,
    /// The message is a response.
    pub response: bool,
    /// The sender supports a higher major version.
    pub version: bool,
}

/// The IKE header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Header {
    /// SPI of the initiator.
    pub spi_i: IkeSpi,
    /// SPI of the responder; zero in the first request.
    pub spi_r: IkeSpi,
    /// Type of the first payload.
    pub next: PayloadType,
    /// Major version: 2 is parsed, others are answered.
    pub major: u8,
    /// Minor version: sent as 0, ignored on receipt.
    pub minor: u8,
    /// Exchange type.
    pub exchange: ExchangeType,
    /// Flags.
    pub flags: Flags,
    /// Message ID.
    pub message_id: MessageId,
    /// Length of the message in octets.
    pub length: u32,
}

const INITIATOR: u8 = 0x08;
const VERSION: u8 = 0x10;
const RESPONSE: u8 = 0x20;

impl Header {
    /// Length of the header in octets.
    pub const LEN: usize = 28;

    /// A header of version 2.0. The encoder of the message fills in `next` and `length`.
    #[must_use]
    pub const fn new(
        spi_i: IkeSpi,
        spi_r: IkeSpi,
        exchange: ExchangeType,
        flags: Flags,
        message_id: MessageId,
    ) -> Header {
        Header {
            spi_i,
            spi_r,
            next: PayloadType::NONE,
            major: 2,
            minor: 0,
            exchange,
            flags,
            message_id,
            length: 0,
        }
    }

    /// Parses the header of `datagram`, of any version.
    ///
    /// # Errors
    /// The datagram is shorter than a header, or its length differs from the length field.
    pub fn parse(datagram: &[u8]) -> Result<Header, Malformed> {
        let mut cursor = Cursor::new(datagram, 0);
        let spi_i = IkeSpi(cursor.u64("initiator's SPI truncated")?);
        let spi_r = IkeSpi(cursor.u64("responder's SPI truncated")?);
        let next = PayloadType(cursor.u8("header truncated")?);
        let version = cursor.u8("header truncated")?;
        let exchange = ExchangeType(cursor.u8("header truncated")?);
        let flags = cursor.u8("header truncated")?;
        let message_id = MessageId(cursor.u32("message id truncated")?);
        let mismatch = Malformed {
            what: "length differs from that of the datagram",
            offset: cursor.offset(),
        };
        let length = cursor.u32("length truncated")?;
        if usize::try_from(length) != Ok(datagram.len()) {
            return Err(mismatch);
        }
        Ok(Header {
            spi_i,
            spi_r,
            next,
            major: version >> 4,
            minor: version & 0x0f,
            exchange,
            flags: Flags {
                initiator: flags & INITIATOR != 0,
                response: flags & RESPONSE != 0,
                version: flags & VERSION != 0,
            },
            message_id,
            length,
        })
    }

    /// Appends the header without changes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.spi_i.0.to_be_bytes());
        out.extend_from_slice(&self.spi_r.0.to_be_bytes());
        out.push(self.next.0);
        out.push(self.major << 4 | self.minor & 0x0f);
        out.push(self.exchange.0);
        let bit = |set: bool, flag: u8| if set { flag } else { 0 };
        out.push(
            bit(self.flags.initiator, INITIATOR)
                | bit(self.flags.response, RESPONSE)
                | bit(self.flags.version, VERSION),
        );
        out.extend_from_slice(&self.message_id.0.to_be_bytes());
        out.extend_from_slice(&self.length.to_be_bytes());
    }

    /// Fills in the length field of a complete message.
    pub(super) fn fill_length(message: &mut [u8]) -> Result<(), TooLong> {
        let too_long = TooLong { what: "message" };
        let length = u32::try_from(message.len()).map_err(|_| too_long)?;
        let field = message.get_mut(LENGTH_AT..Header::LEN).ok_or(too_long)?;
        field.copy_from_slice(&length.to_be_bytes());
        Ok(())
    }
}

/// Offset of the length field.
const LENGTH_AT: usize = 24;

impl IkeSpi {
    /// The SPI of a side that has not chosen one.
    pub const ZERO: IkeSpi = IkeSpi(0);

    /// Whether no SPI is chosen.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for IkeSpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for IkeSpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl MessageId {
    /// The next message ID; `None` after the last, when the IKE SA must be closed (RFC 7296 §2.2).
    #[must_use]
    pub const fn next(self) -> Option<MessageId> {
        match self.0.checked_add(1) {
            Some(next) => Some(MessageId(next)),
            None => None,
        }
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        let flags = Flags {
            initiator: true,
            response: false,
            version: false,
        };
        Header {
            length: 28,
            ..Header::new(
                IkeSpi(1),
                IkeSpi(2),
                ExchangeType::INFORMATIONAL,
                flags,
                MessageId(7),
            )
        }
    }

    fn bytes(header: Header) -> Vec<u8> {
        let mut out = Vec::new();
        header.encode(&mut out);
        out
    }

    #[test]
    fn a_header_is_28_octets_and_round_trips() {
        let bytes = bytes(header());
        assert_eq!(bytes.len(), Header::LEN);
        assert_eq!(Header::parse(&bytes), Ok(header()));
    }

    #[test]
    fn n01_a_length_other_than_the_datagrams_is_rejected() {
        let whole = bytes(header());
        for cut in 0..whole.len() {
            assert!(Header::parse(&whole[..cut]).is_err(), "{cut} octets");
        }
        for length in [0, 27, 29, u32::MAX] {
            assert!(
                Header::parse(&bytes(Header { length, ..header() })).is_err(),
                "length {length}"
            );
        }
        let mut trailing = whole;
        trailing.push(0);
        assert!(Header::parse(&trailing).is_err());
    }

    #[test]
    fn n27_reserved_flags_and_minor_versions_are_ignored() {
        let mut bytes = bytes(header());
        bytes[17] = 0x2f;
        bytes[19] |= 0xc7;
        let read = Header::parse(&bytes).unwrap();
        assert_eq!(
            (read.major, read.minor, read.flags),
            (2, 15, header().flags)
        );
    }
}
