//! `groundlink decode`: a capture explained in words.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use zeroize::Zeroizing;

use super::outcome::{Exit, Failure};
use crate::inspect::capture::{CaptureError, CaptureReader};
use crate::inspect::{Decoder, EspKeys, IkeKeys, KeyTableError};

/// Says what every IKE message and ESP packet of a capture is, what was negotiated, who refused what and why
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  groundlink decode trouble.pcapng
  groundlink decode trouble.pcapng --ike-keys ikev2_decryption_table --esp-keys esp_sa
  tcpdump -i eth0 -c 100 -w - udp port 500 or udp port 4500 or proto 50 | groundlink decode -

Reads pcap and pcapng. The keys are in Wireshark's own table files, as Wireshark's profile folder and \
strongSwan's save-keys plugin have them; without them what is encrypted stays closed, and the rest is told.

Exit status: 0 the file was read, also with broken packets in it · 1 it could not be read · \
2 a table of keys is wrong")]
pub(crate) struct Decode {
    /// The capture: pcap or pcapng; `-` is stdin
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Keys of IKE SAs: Wireshark's `ikev2_decryption_table`
    #[arg(long, value_name = "F")]
    pub ike_keys: Option<PathBuf>,
    /// Keys of Child SAs: Wireshark's `esp_sa`
    #[arg(long, value_name = "F")]
    pub esp_keys: Option<PathBuf>,
    /// One JSON object a line for each packet, and no summary
    #[arg(long)]
    pub json: bool,
}

/// The longest table file that is read.
const LONGEST_TABLE: u64 = 32 << 20;

impl Decode {
    pub fn execute(self) -> Result<Exit, Failure> {
        let ike = table(self.ike_keys.as_deref(), IkeKeys::parse)?;
        let esp = table(self.esp_keys.as_deref(), EspKeys::parse)?;
        let decoder = Decoder::new(ike, esp);
        let stdout = BufWriter::new(io::stdout().lock());
        if self.file == Path::new("-") {
            return self.write_records(BufReader::new(io::stdin().lock()), decoder, stdout);
        }
        let file = File::open(&self.file).map_err(|error| self.unreadable(error.into()))?;
        self.write_records(BufReader::with_capacity(1 << 18, file), decoder, stdout)
    }

    fn write_records(
        &self,
        file: impl Read,
        mut decoder: Decoder,
        mut out: impl Write,
    ) -> Result<Exit, Failure> {
        let unreadable = |error| self.unreadable(error);
        let mut reader = CaptureReader::open(file).map_err(unreadable)?;
        while let Some(item) = reader
            .next_item()
            .map_err(|error| unreadable(error.into()))?
        {
            let Some(line) = decoder.item(&item) else {
                continue;
            };
            let written = if self.json {
                line.json()
                    .map_err(io::Error::from)
                    .and_then(|line| writeln!(out, "{line}"))
            } else {
                writeln!(out, "{line}")
            };
            if let Err(error) = written {
                return on_write_error(error);
            }
        }
        let last = if self.json {
            out.flush()
        } else {
            summary(&mut out, decoder)
        };
        last.map_or_else(on_write_error, |()| Ok(Exit::Done))
    }

    fn unreadable(&self, error: CaptureError) -> Failure {
        let what = format!("{} cannot be read: {error}", self.file.display());
        let advice = match error {
            CaptureError::Io(_) => "",
            CaptureError::Empty | CaptureError::UnknownFormat => {
                "`tcpdump -w FILE` and Wireshark write what it reads"
            }
        };
        Failure::failed(what, advice)
    }
}

fn summary(out: &mut impl Write, decoder: Decoder) -> io::Result<()> {
    writeln!(out, "Summary")?;
    for line in decoder.summary() {
        writeln!(out, "  {line}")?;
    }
    out.flush()
}

/// A reader that has gone (`groundlink decode F | head -1`) is no error.
fn on_write_error(error: io::Error) -> Result<Exit, Failure> {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Ok(Exit::Done);
    }
    let what = format!("cannot write to stdout: {error}");
    Err(Failure::failed(what, ""))
}

/// Reads a table of keys; none is an empty one.
fn table<T: Default>(
    path: Option<&Path>,
    parse: impl Fn(&str) -> Result<T, KeyTableError>,
) -> Result<T, Failure> {
    let Some(path) = path else {
        return Ok(T::default());
    };
    let shown = path.display();
    let mut text = Zeroizing::new(String::new());
    let read = |file: File| {
        // In one piece: a text that grows would leave copies of the keys behind.
        text.reserve(file.metadata()?.len().min(LONGEST_TABLE) as usize);
        file.take(LONGEST_TABLE).read_to_string(&mut text)
    };
    File::open(path)
        .and_then(read)
        .map_err(|error| Failure::usage(format!("{shown} cannot be read: {error}"), ""))?;
    parse(&text).map_err(|error| {
        Failure::usage(
            format!("{shown}, {error}"),
            "Wireshark writes such a file itself: Preferences, Protocols, ISAKMP or ESP",
        )
    })
}
