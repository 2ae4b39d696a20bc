//! What decode says of one packet: an object of `--json`, and the text a person reads.
//!
//! ```text
//! #4  0.001905 s  192.0.2.2:500 → 192.0.2.1:500
//!     IKE_SA_INIT response 0, SPIs 602596a3177570ed 090f28b62a7ea6bc
//!       SA       1 IKE: aes128-sha1-modp1024
//!       …
//! ```

use std::fmt;

use serde::Serialize;

use crate::wire::{Header, IkeSpi};

use super::demux::HostPort;
use super::esp::EspView;
use super::payload::PayloadView;

/// One packet.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// Its place among the frames of the file, from 1.
    n: u64,
    /// Seconds since the first frame.
    #[serde(skip_serializing_if = "Option::is_none")]
    time_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    src: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dst: Option<String>,
    #[serde(flatten)]
    what: RecordBody,
    /// What is wrong with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// What else a person should know.
    #[serde(skip)]
    note: Option<String>,
}

/// What a packet is.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RecordBody {
    Ike(IkeView),
    Esp(EspView),
    Keepalive(bool),
    #[serde(untagged)]
    Nothing {},
}

/// An IKE message.
#[derive(Clone, Debug, Serialize)]
pub(super) struct IkeView {
    spi_i: String,
    spi_r: String,
    exchange: String,
    message_id: u32,
    flags: Vec<&'static str>,
    pub(super) payloads: Vec<PayloadView>,
    /// Whether all there is to read could be read.
    pub(super) decrypted: bool,
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
        }
    }
}

/// An SPI of IKE, as everybody writes it.
pub(super) fn spi(spi: IkeSpi) -> String {
    format!("{:016x}", spi.0)
}

impl Record {
    /// A line about a frame.
    pub(super) fn new(n: u64, time_s: Option<f64>) -> Record {
        Record {
            n,
            time_s,
            src: None,
            dst: None,
            what: RecordBody::Nothing {},
            error: None,
            note: None,
        }
    }

    pub(super) fn between(mut self, from: impl fmt::Display, to: impl fmt::Display) -> Record {
        self.src = Some(from.to_string());
        self.dst = Some(to.to_string());
        self
    }

    pub(super) fn ends(self, from: HostPort, to: HostPort) -> Record {
        self.between(from, to)
    }

    pub(super) fn saying(mut self, what: RecordBody) -> Record {
        self.what = what;
        self
    }

    pub(super) fn error(mut self, error: impl Into<String>) -> Record {
        self.error = Some(error.into());
        self
    }

    /// The object that `--json` writes.
    ///
    /// # Errors
    /// None is known.
    pub fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string(self)
    }

    pub(super) fn is_error(&self) -> bool {
        self.error.is_some()
    }

    pub(super) fn note(mut self, note: Option<String>) -> Record {
        self.note = note;
        self
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
        match &self.what {
            RecordBody::Ike(ike) => ike.fmt(f)?,
            RecordBody::Esp(esp) => writeln!(f, "    {esp}")?,
            RecordBody::Keepalive(_) => writeln!(f, "    NAT keepalive")?,
            RecordBody::Nothing {} => {}
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
        let kind = if self.flags.contains(&"response") {
            "response"
        } else {
            "request"
        };
        let side = if self.flags.contains(&"initiator") {
            "of the side that began"
        } else {
            "of the other side"
        };
        writeln!(
            f,
            "    {} {kind} {} {side}, SPIs {} {}",
            self.exchange, self.message_id, self.spi_i, self.spi_r
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
        view.payloads.push(PayloadView::sealed(Envelope::Whole, 60));
        view
    }

    #[test]
    fn json_has_the_keys_that_scripts_rely_on() {
        let line = Record::new(3, Some(0.5))
            .between("192.0.2.1:500", "192.0.2.2:500")
            .saying(RecordBody::Ike(message()));
        let expected = r#"{"n":3,"time_s":0.5,"src":"192.0.2.1:500","dst":"192.0.2.2:500","ike":{"spi_i":"0000000000000001","spi_r":"0000000000000002","exchange":"IKE_AUTH","message_id":1,"flags":["initiator","response"],"payloads":[{"type":"SK","length":60}],"decrypted":false}}"#;
        assert_eq!(serde_json::to_string(&line).unwrap(), expected);
        let broken = Record::new(4, None).error("cut at octet 3");
        let expected = r#"{"n":4,"error":"cut at octet 3"}"#;
        assert_eq!(serde_json::to_string(&broken).unwrap(), expected);
        let keepalive = Record::new(5, None).saying(RecordBody::Keepalive(true));
        let expected = r#"{"n":5,"keepalive":true}"#;
        assert_eq!(serde_json::to_string(&keepalive).unwrap(), expected);
    }

    #[test]
    fn text_has_the_packet_first_and_what_is_wrong_last() {
        let line = Record::new(3, Some(0.5))
            .between("192.0.2.1:500", "192.0.2.2:500")
            .saying(RecordBody::Ike(message()))
            .error("why");
        let expected = "#3  0.500000 s  192.0.2.1:500 → 192.0.2.2:500\n    IKE_AUTH response 1 of the side that began, \
            SPIs 0000000000000001 0000000000000002\n      SK       60 octets\n    error: why\n";
        assert_eq!(line.to_string(), expected);
    }
}
