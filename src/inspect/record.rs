//! The output of decode for one packet: a JSON object of `--json`, or text.
//!
//! ```text
//! #4  0.001905 s  192.0.2.2:500 → 192.0.2.1:500
//!     IKE_SA_INIT response 0, SPIs 602596a3177570ed 090f28b62a7ea6bc
//!       SA       1 IKE: aes128-sha1-modp1024
//!       …
//! ```

use std::fmt;

use serde::Serialize;

use super::esp::EspView;
use super::payload::PayloadView;
use crate::wire::{Header, IkeSpi};

/// The decoded form of one packet.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// Number of the frame in the file, from 1.
    n: u64,
    /// Seconds since the first frame.
    #[serde(skip_serializing_if = "Option::is_none")]
    time_s: Option<f64>,
    /// Time of day (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    src: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dst: Option<String>,
    #[serde(flatten)]
    body: RecordBody,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// A remark.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

/// The content of a packet.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RecordBody {
    Ike(IkeView),
    Esp(EspView),
    Keepalive(bool),
    #[serde(untagged)]
    Unknown {},
}

/// An IKE message.
#[derive(Clone, Debug, Serialize)]
pub(super) struct IkeView {
    spi_i: String,
    spi_r: String,
    pub(super) exchange: String,
    message_id: u32,
    pub(super) flags: Vec<&'static str>,
    pub(super) payloads: Vec<PayloadView>,
    /// Whether every payload could be read.
    pub(super) decrypted: bool,
    #[serde(flatten)]
    pub(super) protection: Protection,
    /// Whether the message is one of IKEv1, which has other flags.
    #[serde(skip)]
    pub(super) is_ikev1: bool,
}

/// Whether a message is encrypted, and what its integrity check says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Protection {
    encrypted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    authentic: Option<bool>,
}

impl Protection {
    /// Encrypted; `authentic` is `None` without keys for the check.
    pub(super) fn encrypted(authentic: Option<bool>) -> Protection {
        Protection {
            encrypted: true,
            authentic,
        }
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.encrypted, self.authentic) {
            (false, _) => "not encrypted",
            (true, None) => "encrypted, no keys",
            (true, Some(true)) => "encrypted and authentic",
            (true, Some(false)) => "encrypted, not authentic",
        })
    }
}

impl IkeView {
    pub(super) fn new(header: &Header) -> IkeView {
        let flags = [
            (header.flags.initiator, "initiator"),
            (header.flags.response, "response"),
            (header.flags.version, "version"),
        ];
        IkeView {
            spi_i: spi(header.spi_i),
            spi_r: spi(header.spi_r),
            exchange: header.exchange.to_string(),
            message_id: header.message_id.0,
            flags: flags
                .into_iter()
                .filter_map(|(set, word)| set.then_some(word))
                .collect(),
            payloads: Vec::new(),
            decrypted: false,
            protection: Protection::default(),
            is_ikev1: false,
        }
    }
}

/// An IKE SPI as 16 hexadecimal digits.
pub(super) fn spi(spi: IkeSpi) -> String {
    format!("{:016x}", spi.0)
}

impl Record {
    /// A record of a frame whose content is not known yet.
    pub(super) fn new(n: u64, time_s: Option<f64>) -> Record {
        Record {
            n,
            time_s,
            time: None,
            src: None,
            dst: None,
            body: RecordBody::Unknown {},
            error: None,
            note: None,
        }
    }

    pub(super) fn between(mut self, from: impl fmt::Display, to: impl fmt::Display) -> Record {
        self.src = Some(from.to_string());
        self.dst = Some(to.to_string());
        self
    }

    pub(super) fn body(mut self, body: RecordBody) -> Record {
        self.body = body;
        self
    }

    pub(super) fn error(mut self, error: impl Into<String>) -> Record {
        self.error = Some(error.into());
        self
    }

    /// Adds the time of day.
    pub(super) fn at(mut self, time: Option<String>) -> Record {
        self.time = time;
        self
    }

    /// Adds a remark to those that stand.
    pub(super) fn note(mut self, note: Option<String>) -> Record {
        self.note = match (self.note.take(), note) {
            (Some(standing), Some(more)) => Some(format!("{standing}; {more}")),
            (standing, more) => standing.or(more),
        };
        self
    }

    /// Number of the frame.
    pub(super) fn number(&self) -> u64 {
        self.n
    }

    pub(super) fn is_error(&self) -> bool {
        self.error.is_some()
    }

    /// The JSON object of `--json`.
    ///
    /// # Errors
    /// None is known.
    pub fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string(self)
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.n)?;
        if let Some(time) = self.time_s {
            write!(f, "  {time:.6} s")?;
        }
        if let (Some(src), Some(dst)) = (&self.src, &self.dst) {
            write!(f, "  {src} → {dst}")?;
        }
        writeln!(f)?;
        match &self.body {
            RecordBody::Ike(ike) => ike.fmt(f)?,
            RecordBody::Esp(esp) => writeln!(f, "    {esp}")?,
            RecordBody::Keepalive(_) => writeln!(f, "    NAT keepalive")?,
            RecordBody::Unknown {} => {}
        }
        if let Some(note) = &self.note {
            writeln!(f, "    {note}")?;
        }
        match &self.error {
            Some(error) => writeln!(f, "    error: {error}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for IkeView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_ikev1 {
            let IkeView {
                exchange,
                spi_i,
                spi_r,
                ..
            } = self;
            return writeln!(f, "    {exchange}, SPIs {spi_i} {spi_r}");
        }
        let kind = if self.flags.contains(&"response") {
            "response"
        } else {
            "request"
        };
        let sender = if self.flags.contains(&"initiator") {
            "original initiator"
        } else {
            "original responder"
        };
        writeln!(
            f,
            "    {} {kind} {} from the {sender}, SPIs {} {}, {}",
            self.exchange, self.message_id, self.spi_i, self.spi_r, self.protection
        )?;
        self.payloads
            .iter()
            .try_for_each(|payload| writeln!(f, "      {payload}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Envelope, ExchangeType, Flags, MessageId};

    fn message() -> IkeView {
        let flags = Flags {
            initiator: true,
            response: true,
            version: false,
        };
        let header = Header::new(
            IkeSpi(1),
            IkeSpi(2),
            ExchangeType::IKE_AUTH,
            flags,
            MessageId(1),
        );
        let mut view = IkeView::new(&header);
        view.protection = Protection::encrypted(None);
        view.payloads
            .push(PayloadView::encrypted(Envelope::Whole, 60));
        view
    }

    #[test]
    fn json_has_the_stable_keys() {
        let ike = Record::new(3, Some(0.5))
            .between("192.0.2.1:500", "192.0.2.2:500")
            .body(RecordBody::Ike(message()));
        for (record, expected) in [
            (
                ike,
                r#"{"n":3,"time_s":0.5,"src":"192.0.2.1:500","dst":"192.0.2.2:500","ike":{"spi_i":"0000000000000001","spi_r":"0000000000000002","exchange":"IKE_AUTH","message_id":1,"flags":["initiator","response"],"payloads":[{"type":"SK","length":60}],"decrypted":false,"encrypted":true}}"#,
            ),
            (
                Record::new(4, None).error("truncated at octet 3"),
                r#"{"n":4,"error":"truncated at octet 3"}"#,
            ),
            (
                Record::new(5, None).body(RecordBody::Keepalive(true)),
                r#"{"n":5,"keepalive":true}"#,
            ),
        ] {
            assert_eq!(record.json().unwrap(), expected);
        }
    }

    #[test]
    fn text_begins_with_the_packet_and_ends_with_the_error() {
        let record = Record::new(3, Some(0.5))
            .between("192.0.2.1:500", "192.0.2.2:500")
            .body(RecordBody::Ike(message()))
            .error("why");
        let expected = "#3  0.500000 s  192.0.2.1:500 → 192.0.2.2:500\n    IKE_AUTH response 1 from the original initiator, \
            SPIs 0000000000000001 0000000000000002, encrypted, no keys\n      SK       60 octets\n    error: why\n";
        assert_eq!(record.to_string(), expected);
    }
}
