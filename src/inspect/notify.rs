//! A notification as decode shows it, with what its data mean (RFC 7296 §3.10.1 and the RFCs of the extensions).

use std::fmt;
use std::net::SocketAddr;

use serde::Serialize;

use crate::ike;
use crate::wire::{IkeSpi, Notify, NotifyType, PayloadType};

use super::names;
use super::payload::hex;

/// Where a message was seen: what NAT detection compares with.
#[derive(Clone, Copy, Debug)]
pub(super) struct MessageContext {
    /// The SPIs of its header.
    pub(super) spi_i: IkeSpi,
    /// The SPIs of its header.
    pub(super) spi_r: IkeSpi,
    /// Where it came from, as the capture saw it.
    pub(super) from: SocketAddr,
    /// Where it went.
    pub(super) to: SocketAddr,
}

/// A notification.
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
    pub(super) fn new(notify: &Notify, place: &MessageContext) -> NotifyView {
        NotifyView {
            name: notify.kind.name(),
            number: notify.kind.0,
            error: notify.kind.is_error(),
            protocol: notify.protocol.to_string(),
            protocol_number: notify.protocol.0,
            spi: hex(&notify.spi),
            data: hex(&notify.data),
            meaning: meaning(notify, place),
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
            write!(f, ", about {} {}", self.protocol, self.spi)?;
        }
        if let Some(meaning) = &self.meaning {
            write!(f, ": {meaning}")?;
        }
        Ok(())
    }
}

/// What the data say, where that is known and not obvious.
fn meaning(notify: &Notify, place: &MessageContext) -> Option<String> {
    let data = notify.data.as_slice();
    match notify.kind {
        NotifyType::NAT_DETECTION_SOURCE_IP => Some(nat(
            data,
            place,
            place.from,
            "a NAT in front of the sender, or UDP encapsulation asked for",
        )),
        NotifyType::NAT_DETECTION_DESTINATION_IP => {
            Some(nat(data, place, place.to, "a NAT in front of the receiver"))
        }
        NotifyType::INVALID_KE_PAYLOAD => match data {
            [high, low] => {
                let group = u16::from_be_bytes([*high, *low]);
                Some(format!("wants {}", names::group_in_words(group)))
            }
            _ => None,
        },
        NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD => match data {
            [kind] => Some(format!("payload {}", PayloadType(*kind))),
            _ => None,
        },
        NotifyType::COOKIE => Some(format!("{} octets", data.len())),
        NotifyType::SET_WINDOW_SIZE => {
            number(data).map(|size| format!("{size} requests at a time"))
        }
        NotifyType::AUTH_LIFETIME => {
            number(data).map(|seconds| format!("authenticate again within {seconds} s"))
        }
        NotifyType::SIGNATURE_HASH_ALGORITHMS => Some(hashes(data)),
        NotifyType::PPK_IDENTITY => match data.split_first() {
            Some((1, id)) => Some(format!("0x{}", hex(id))),
            Some((2, id)) => Some(format!("\"{}\"", id.escape_ascii())),
            Some((_, _)) | None => None,
        },
        _ => None,
    }
}

fn nat(data: &[u8], place: &MessageContext, end: SocketAddr, otherwise: &str) -> String {
    if data == ike::nat_hash(place.spi_i, place.spi_r, end) {
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
        other => hex(other),
    });
    names.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> MessageContext {
        MessageContext {
            spi_i: IkeSpi(1),
            spi_r: IkeSpi(2),
            from: "192.0.2.1:500".parse().unwrap(),
            to: "192.0.2.2:500".parse().unwrap(),
        }
    }

    fn told(kind: NotifyType, data: &[u8]) -> String {
        NotifyView::new(&Notify::new(kind, data.to_vec()), &place()).to_string()
    }

    #[test]
    fn nat_detection_is_compared_with_the_addresses_of_the_packet() {
        let place = place();
        let fits = ike::nat_hash(place.spi_i, place.spi_r, place.from);
        let kind = NotifyType::NAT_DETECTION_SOURCE_IP;
        assert!(told(kind, &fits).ends_with("matches 192.0.2.1:500"));
        assert!(told(kind, &[0; 20]).contains("does not match 192.0.2.1:500: a NAT"));
        let kind = NotifyType::NAT_DETECTION_DESTINATION_IP;
        assert!(told(kind, &fits).contains("does not match 192.0.2.2:500"));
    }

    #[test]
    fn data_are_told_where_they_mean_something() {
        for (kind, data, said) in [
            (
                NotifyType::INVALID_KE_PAYLOAD,
                &[0, 14][..],
                "INVALID_KE_PAYLOAD (17), an error: wants modp2048 (14)",
            ),
            (
                NotifyType::INVALID_KE_PAYLOAD,
                &[0],
                "INVALID_KE_PAYLOAD (17), an error",
            ),
            (NotifyType::COOKIE, &[0; 20], "COOKIE (16390): 20 octets"),
            (
                NotifyType::SET_WINDOW_SIZE,
                &[0, 0, 0, 5],
                "SET_WINDOW_SIZE (16385): 5 requests at a time",
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
            assert_eq!(told(kind, data), said);
        }
        let rekey = Notify::about_esp(NotifyType::REKEY_SA, 0xc000_0001);
        assert_eq!(
            NotifyView::new(&rekey, &place()).to_string(),
            "REKEY_SA (16393), about ESP c0000001"
        );
    }
}
