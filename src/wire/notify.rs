//! The NOTIFY payload (RFC 7296 §3.10): an error or a status, for one SA or for the message.
//!
//! ```text
//! | protocol (1) | SPI size (1) | type (2) | SPI … | data … |
//! ```

use super::codec::{Cursor, Malformed, TooLong, octet};
use super::numbers::{NotifyType, ProtocolId};

/// A notification.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Notify {
    /// Protocol of the SPI; [`ProtocolId::NONE`] without an SPI.
    pub protocol: ProtocolId,
    /// SPI of the SA; empty for the IKE SA or none.
    pub spi: Vec<u8>,
    /// Notify message type.
    pub kind: NotifyType,
    /// Notification data.
    pub data: Vec<u8>,
}

impl Notify {
    /// A notification without an SPI.
    #[must_use]
    pub const fn new(kind: NotifyType, data: Vec<u8>) -> Notify {
        Notify {
            protocol: ProtocolId::NONE,
            spi: Vec::new(),
            kind,
            data,
        }
    }

    /// A notification for an ESP SA.
    #[must_use]
    pub fn about_esp(kind: NotifyType, spi: u32) -> Notify {
        Notify {
            protocol: ProtocolId::ESP,
            spi: spi.to_be_bytes().to_vec(),
            kind,
            data: Vec::new(),
        }
    }

    pub(super) fn parse(mut body: Cursor<'_>) -> Result<Notify, Malformed> {
        let protocol = ProtocolId(body.u8("notify payload truncated")?);
        let spi_size = body.u8("notify payload truncated")?;
        let kind = NotifyType(body.u16("notify payload truncated")?);
        let spi = body
            .take(usize::from(spi_size), "SPI of the notify payload truncated")?
            .to_vec();
        Ok(Notify {
            protocol,
            spi,
            kind,
            data: body.take_rest().to_vec(),
        })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        out.extend_from_slice(&[
            self.protocol.0,
            octet(self.spi.len(), "SPI of a notification")?,
        ]);
        out.extend_from_slice(&self.kind.0.to_be_bytes());
        out.extend_from_slice(&self.spi);
        out.extend_from_slice(&self.data);
        Ok(())
    }
}
