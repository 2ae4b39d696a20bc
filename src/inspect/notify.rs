//! A notify payload in the output, with the meaning of its data (RFC 7296 §3.10.1 and the RFCs of the extensions).

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use data_encoding::HEXLOWER;
use serde::Serialize;

use crate::ike;
use crate::net::counted;
use crate::wire::{IkeSpi, Notify, NotifyType, PayloadType};

use super::names;

/// SPIs and addresses of a message, which NAT detection hashes.
#[derive(Clone, Copy, Debug)]
pub(super) struct MessageContext {
    /// Initiator's SPI.
    pub(super) spi_i: IkeSpi,
    /// Responder's SPI.
    pub(super) spi_r: IkeSpi,
    /// Source address in the capture.
    pub(super) from: SocketAddr,
    /// Destination address in the capture.
    pub(super) to: SocketAddr,
}

/// A notify payload.
#[derive(Clone, Debug, Serialize)]
pub(super) struct NotifyView {
    name: Option<&'static str>,
    number: u16,
    error: bool,
    protocol: String,
    protocol_number: u8,
    spi: String,
    data: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    meaning: Option<String>,
}

impl NotifyView {
    pub(super) fn new(notify: &Notify, context: &MessageContext) -> NotifyView {
        NotifyView {
            name: notify.kind.name(),
            number: notify.kind.0,
            error: notify.kind.is_error(),
            protocol: notify.protocol.to_string(),
            protocol_number: notify.protocol.0,
            spi: HEXLOWER.encode(&notify.spi),
            data: HEXLOWER.encode(&notify.data),
            meaning: meaning(notify, context),
        }
    }
}

impl fmt::Display for NotifyView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name {
            Some(name) => write!(f, "{name} ({})", self.number)?,
            None => write!(f, "number {}", self.number)?,
        }
        if self.error {
            f.write_str(", an error")?;
        }
        if !self.spi.is_empty() {
            write!(f, ", for {} {}", self.protocol, self.spi)?;
        }
        if let Some(meaning) = &self.meaning {
            write!(f, ": {meaning}")?;
        }
        Ok(())
    }
}

/// The meaning of the data, where it is known and not obvious.
fn meaning(notify: &Notify, context: &MessageContext) -> Option<String> {
    let data = notify.data.as_slice();
    match notify.kind {
        NotifyType::NAT_DETECTION_SOURCE_IP => Some(nat(
            data,
            context,
            context.from,
            "a NAT in front of the sender, or forced UDP encapsulation",
        )),
        NotifyType::NAT_DETECTION_DESTINATION_IP => Some(nat(
            data,
            context,
            context.to,
            "a NAT in front of the receiver",
        )),
        NotifyType::INVALID_KE_PAYLOAD => match data {
            [high, low] => {
                let group = u16::from_be_bytes([*high, *low]);
                Some(format!("requests {}", names::group_name(group)))
            }
            _ => None,
        },
        NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD => match data {
            [kind] => Some(format!("payload {}", PayloadType(*kind))),
            _ => None,
        },
        NotifyType::REDIRECT | NotifyType::REDIRECTED_FROM => gateway(data),
        NotifyType::COOKIE => Some(counted(data.len() as u64, "octet")),
        NotifyType::SET_WINDOW_SIZE => {
            number(data).map(|size| format!("window of {size} requests"))
        }
        NotifyType::AUTH_LIFETIME => {
            number(data).map(|seconds| format!("reauthenticate within {seconds} s"))
        }
        NotifyType::SIGNATURE_HASH_ALGORITHMS => Some(hashes(data)),
        NotifyType::PPK_IDENTITY => match data.split_first() {
            Some((1, id)) => Some(format!("0x{}", HEXLOWER.encode(id))),
            Some((2, id)) => Some(format!("\"{}\"", id.escape_ascii())),
            Some((_, _)) | None => None,
        },
        _ => None,
    }
}

/// The gateway that a redirection names (RFC 5685 §6): type, length, identity, perhaps a nonce.
fn gateway(data: &[u8]) -> Option<String> {
    let ([kind, length], rest) = data.split_first_chunk()?;
    let identity = rest.get(..usize::from(*length))?;
    match kind {
        1 => Some(IpAddr::from(<[u8; 4]>::try_from(identity).ok()?).to_string()),
        2 => Some(IpAddr::from(<[u8; 16]>::try_from(identity).ok()?).to_string()),
        3 => Some(identity.escape_ascii().to_string()),
        _ => None,
    }
}

fn nat(data: &[u8], context: &MessageContext, end: SocketAddr, otherwise: &str) -> String {
    if data == ike::nat_hash(context.spi_i, context.spi_r, end) {
        format!("matches {end}")
    } else {
        format!("does not match {end}: {otherwise}")
    }
}

fn number(data: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(data.try_into().ok()?))
}

/// RFC 7427 §7.
fn hashes(data: &[u8]) -> String {
    let names = data.chunks_exact(2).map(|pair| match pair {
        [0, 1] => "SHA-1".to_owned(),
        [0, 2] => "SHA-256".to_owned(),
        [0, 3] => "SHA-384".to_owned(),
        [0, 4] => "SHA-512".to_owned(),
        [0, 5] => "identity".to_owned(),
        other => HEXLOWER.encode(other),
    });
    names.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> MessageContext {
        MessageContext {
            spi_i: IkeSpi(1),
            spi_r: IkeSpi(2),
            from: "192.0.2.1:500".parse().unwrap(),
            to: "192.0.2.2:500".parse().unwrap(),
        }
    }

    fn shown(kind: NotifyType, data: &[u8]) -> String {
        NotifyView::new(&Notify::new(kind, data.to_vec()), &context()).to_string()
    }

    #[test]
    fn nat_detection_hashes_are_compared_with_the_packet_addresses() {
        let context = context();
        let fits = ike::nat_hash(context.spi_i, context.spi_r, context.from);
        let kind = NotifyType::NAT_DETECTION_SOURCE_IP;
        assert!(shown(kind, &fits).ends_with("matches 192.0.2.1:500"));
        assert!(shown(kind, &[0; 20]).contains("does not match 192.0.2.1:500: a NAT"));
        let kind = NotifyType::NAT_DETECTION_DESTINATION_IP;
        assert!(shown(kind, &fits).contains("does not match 192.0.2.2:500"));
    }

    #[test]
    fn known_notify_data_is_explained() {
        for (kind, data, expected) in [
            (
                NotifyType::INVALID_KE_PAYLOAD,
                &[0, 14][..],
                "INVALID_KE_PAYLOAD (17), an error: requests modp2048 (14)",
            ),
            (
                NotifyType::INVALID_KE_PAYLOAD,
                &[0],
                "INVALID_KE_PAYLOAD (17), an error",
            ),
            (NotifyType::COOKIE, &[0; 20], "COOKIE (16390): 20 octets"),
            (
                NotifyType::REDIRECT,
                &[1, 4, 192, 0, 2, 9, 7, 7],
                "REDIRECT (16407): 192.0.2.9",
            ),
            (
                NotifyType::REDIRECTED_FROM,
                b"\x03\x0egw.example.org",
                "REDIRECTED_FROM (16408): gw.example.org",
            ),
            (
                NotifyType::SET_WINDOW_SIZE,
                &[0, 0, 0, 5],
                "SET_WINDOW_SIZE (16385): window of 5 requests",
            ),
            (
                NotifyType::SIGNATURE_HASH_ALGORITHMS,
                &[0, 2, 0, 9],
                "SIGNATURE_HASH_ALGORITHMS (16431): SHA-256, 0009",
            ),
            (
                NotifyType::PPK_IDENTITY,
                b"\x02a\n",
                "PPK_IDENTITY (16436): \"a\\n\"",
            ),
            (NotifyType(40_000), &[1], "number 40000"),
        ] {
            assert_eq!(shown(kind, data), expected);
        }
        let rekey = Notify::about_esp(NotifyType::REKEY_SA, 0xc000_0001);
        assert_eq!(
            NotifyView::new(&rekey, &context()).to_string(),
            "REKEY_SA (16393), for ESP c0000001"
        );
    }
}
