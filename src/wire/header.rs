//! The header of every IKE message (RFC 7296 §3.1).
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

/// Names one side of an IKE SA; zero until the responder has chosen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct IkeSpi(pub u64);

/// Counts the requests of one side of an IKE SA; a response repeats its request's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MessageId(pub u32);

/// The flag bits. Reserved ones are neither read nor sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Flags {
    /// Sent by the side that initiated the IKE SA.
    pub initiator: bool,
    /// Answers the request with the same message id.
    pub response: bool,
    /// The sender could speak a higher major version.
    pub version: bool,
}

/// The header of an IKE message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Header {
    /// Chosen by the side that initiated the IKE SA.
    pub spi_i: IkeSpi,
    /// Chosen by the other side; zero in the first request.
    pub spi_r: IkeSpi,
    /// What the first payload is.
    pub next: PayloadType,
    /// 2; what else arrives is answered, not read.
    pub major: u8,
    /// 0; a higher one is accepted and ignored.
    pub minor: u8,
    /// What the message is about.
    pub exchange: ExchangeType,
    /// Who speaks, and whether it answers.
    pub flags: Flags,
    /// Which request it is, or answers.
    pub message_id: MessageId,
    /// Octets of the whole message.
    pub length: u32,
}

const INITIATOR: u8 = 0x08;
const VERSION: u8 = 0x10;
const RESPONSE: u8 = 0x20;

impl Header {
    /// Octets of a header.
    pub const LEN: usize = 28;

    /// A header of version 2.0. `next` and `length` are filled in by whoever lays out the message.
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

    /// Reads the header of `datagram`, of any version.
    ///
    /// # Errors
    /// The datagram is shorter than a header, or its length is not the one the header says.
    pub fn parse(datagram: &[u8]) -> Result<Header, Malformed> {
        let mut cursor = Cursor::new(datagram, 0);
        let spi_i = IkeSpi(cursor.u64("initiator's SPI cut")?);
        let spi_r = IkeSpi(cursor.u64("responder's SPI cut")?);
        let next = PayloadType(cursor.u8("header cut")?);
        let version = cursor.u8("header cut")?;
        let exchange = ExchangeType(cursor.u8("header cut")?);
        let flags = cursor.u8("header cut")?;
        let message_id = MessageId(cursor.u32("message id cut")?);
        let mismatch = Malformed {
            what: "length is not the datagram's",
            offset: cursor.offset(),
        };
        let length = cursor.u32("length cut")?;
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

    /// Appends the header as it is.
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

    /// Fills in the length of a message that `message` holds whole.
    pub(super) fn fill_length(message: &mut [u8]) -> Result<(), TooLong> {
        let too_long = TooLong { what: "message" };
        let length = u32::try_from(message.len()).map_err(|_| too_long)?;
        let field = message.get_mut(LENGTH_AT..Header::LEN).ok_or(too_long)?;
        field.copy_from_slice(&length.to_be_bytes());
        Ok(())
    }
}

/// Where the length stands.
const LENGTH_AT: usize = 24;

impl IkeSpi {
    /// No SPI chosen yet.
    pub const ZERO: IkeSpi = IkeSpi(0);

    /// Whether none is chosen yet.
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
    /// The one after it; `None` at the end, where the IKE SA must close (RFC 7296 §2.2).
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
    fn a_header_is_28_octets_and_comes_back() {
        let bytes = bytes(header());
        assert_eq!(bytes.len(), Header::LEN);
        assert_eq!(Header::parse(&bytes), Ok(header()));
    }

    #[test]
    fn n01_a_length_that_is_not_the_datagrams_is_refused() {
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
