//! Log lines as journal entries with fields, in the native protocol of systemd-journald.
//!
//! ```text
//!   NAME \n | length, 8 octets little-endian | value \n       one after another, one datagram an entry
//! ```
//!
//! Entries go through the [`LogQueue`], so a journald that does not read blocks only the thread of the queue.

use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::log_queue::LogQueue;

/// Socket of systemd-journald.
pub(super) const JOURNAL: &str = "/run/systemd/journal/socket";

/// Sink that sends each line as a datagram.
#[derive(Debug)]
pub(super) struct JournalSocket {
    socket: UnixDatagram,
    path: PathBuf,
}

impl JournalSocket {
    /// Socket that sends to `path`. An empty datagram, which journald discards, shows whether it listens.
    ///
    /// # Errors
    /// Nothing listens on `path`.
    pub(super) fn open(path: impl Into<PathBuf>) -> io::Result<JournalSocket> {
        let (socket, path) = (UnixDatagram::unbound()?, path.into());
        socket.send_to(&[], &path)?;
        Ok(JournalSocket { socket, path })
    }
}

impl Write for JournalSocket {
    fn write(&mut self, entry: &[u8]) -> io::Result<usize> {
        self.socket.send_to(entry, &self.path)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Layer that encodes events as journal entries.
#[derive(Debug)]
pub(super) struct JournalLayer(pub(super) LogQueue);

impl<S: Subscriber> Layer<S> for JournalLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut entry = Entry(Vec::with_capacity(256));
        // INFO is "notice": journalctl shows it in bold, DEBUG not.
        let priority = match *metadata.level() {
            Level::ERROR => "3",
            Level::WARN => "4",
            Level::INFO => "5",
            Level::DEBUG => "6",
            Level::TRACE => "7",
        };
        entry.field("PRIORITY", format_args!("{priority}"));
        entry.field("SYSLOG_IDENTIFIER", format_args!("groundlink"));
        entry.field("TARGET", format_args!("{}", metadata.target()));
        if let Some(file) = metadata.file() {
            entry.field("CODE_FILE", format_args!("{file}"));
        }
        if let Some(line) = metadata.line() {
            entry.field("CODE_LINE", format_args!("{line}"));
        }
        event.record(&mut entry);
        // Never fails: the queue counts what it drops.
        let _ = self.0.clone().write_all(&entry.0);
    }
}

/// Entry under construction.
struct Entry(Vec<u8>);

impl Entry {
    fn field(&mut self, name: &str, value: fmt::Arguments<'_>) {
        let mut text = String::new();
        // A value that cannot be formatted is left out from where it fails.
        let _ = text.write_fmt(value);
        self.0.extend(name.as_bytes());
        self.0.push(b'\n');
        self.0.extend((text.len() as u64).to_le_bytes());
        self.0.extend(text.as_bytes());
        self.0.push(b'\n');
    }
}

impl Visit for Entry {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.field(&name(field), format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.field(&name(field), format_args!("{value:?}"));
    }
}

/// Name of a field in the journal: capital letters, digits and underscores; our own begin with `GROUNDLINK_`.
fn name(field: &Field) -> String {
    if field.name() == "message" {
        return "MESSAGE".to_owned();
    }
    let word = field.name().chars().map(|letter| match letter {
        'a'..='z' => letter.to_ascii_uppercase(),
        'A'..='Z' | '0'..='9' => letter,
        _ => '_',
    });
    "GROUNDLINK_".chars().chain(word).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// Fields of a received entry.
    fn fields(mut entry: &[u8]) -> BTreeMap<String, String> {
        let mut fields = BTreeMap::new();
        while !entry.is_empty() {
            let end = entry.iter().position(|octet| *octet == b'\n').unwrap();
            let name = String::from_utf8(entry[..end].to_vec()).unwrap();
            entry = &entry[end + 1..];
            let (length, rest) = entry.split_first_chunk::<8>().unwrap();
            let length = u64::from_le_bytes(*length) as usize;
            fields.insert(name, String::from_utf8(rest[..length].to_vec()).unwrap());
            assert_eq!(rest[length], b'\n');
            entry = &rest[length + 1..];
        }
        fields
    }

    #[test]
    fn an_event_becomes_an_entry_with_its_fields() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        assert!(JournalSocket::open(&path).is_err(), "nothing listens");
        let journald = UnixDatagram::bind(&path).unwrap();
        journald
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let queue = LogQueue::start(JournalSocket::open(&path).unwrap()).unwrap();
        let subscriber = tracing_subscriber::registry().with(JournalLayer(queue));
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(tunnel = "ali-1", spi_in = %"c0ffee", count = 7, "one\nand two");
        });
        let mut buffer = [0; 4096];
        assert_eq!(journald.recv(&mut buffer).unwrap(), 0, "the first is empty");
        let length = journald.recv(&mut buffer).unwrap();
        let fields = fields(&buffer[..length]);
        for (name, value) in [
            ("PRIORITY", "4"),
            ("SYSLOG_IDENTIFIER", "groundlink"),
            ("MESSAGE", "one\nand two"),
            ("GROUNDLINK_TUNNEL", "ali-1"),
            ("GROUNDLINK_SPI_IN", "c0ffee"),
            ("GROUNDLINK_COUNT", "7"),
        ] {
            assert_eq!(fields.get(name).map(String::as_str), Some(value), "{name}");
        }
    }
}
