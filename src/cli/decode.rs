//! `groundlink decode`: explains a packet capture.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use zeroize::Zeroizing;

use super::common::{Exit, Failure, on_write_error};
use crate::inspect::capture::{CaptureError, CaptureReader};
use crate::inspect::{Decoder, EspKeys, IkeKeys, KeyTableError};

/// Explain every IKE message and ESP packet of a capture: what was negotiated, who rejected what, and why
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  groundlink decode trouble.pcapng
  groundlink decode trouble.pcapng --ike-keys ikev2_decryption_table --esp-keys esp_sa
  tcpdump -i eth0 -c 100 -w - udp port 500 or udp port 4500 or proto 50 | groundlink decode -

Reads pcap and pcapng, also compressed with gzip. The key files are Wireshark's tables, as found in Wireshark's profile directory and written \
by strongSwan's save-keys plugin. Without keys, encrypted contents are not shown.

Exit status: 0 the capture was read, broken packets included · 1 it could not be read · \
2 a key file is wrong")]
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
    /// Print one JSON object per packet, and no summary
    #[arg(long)]
    pub json: bool,
}

/// Maximum size of a key file in bytes.
const MAX_KEY_FILE_SIZE: u64 = 32 << 20;

impl Decode {
    pub fn execute(self) -> Result<Exit, Failure> {
        let ike = table(self.ike_keys.as_deref(), IkeKeys::parse)?;
        let esp = table(self.esp_keys.as_deref(), EspKeys::parse)?;
        let decoder = Decoder::new(ike, esp);
        let stdout = BufWriter::new(io::stdout().lock());
        if self.file == Path::new("-") {
            return self.write_records(BufReader::new(io::stdin().lock()), decoder, stdout);
        }
        let mut file = File::open(&self.file).map_err(|error| self.unreadable(error.into()))?;
        if is_gzip(&mut file).map_err(|error| self.unreadable(error.into()))? {
            return self.write_compressed(file, decoder, stdout);
        }
        self.write_records(BufReader::with_capacity(1 << 18, file), decoder, stdout)
    }

    /// Decodes a capture that gzip decompresses beside this program.
    fn write_compressed(
        &self,
        file: File,
        decoder: Decoder,
        stdout: impl Write,
    ) -> Result<Exit, Failure> {
        let cannot = |error: io::Error| {
            let what = format!("cannot run gzip for {}: {error}", self.file.display());
            Failure::failed(what, "install gzip, or decompress the file first")
        };
        let mut gzip = Command::new("gzip")
            .arg("-dc")
            .stdin(file)
            .stdout(Stdio::piped())
            .spawn()
            .map_err(cannot)?;
        let Some(output) = gzip.stdout.take() else {
            return Err(cannot(io::ErrorKind::BrokenPipe.into()));
        };
        let decoded =
            self.write_records(BufReader::with_capacity(1 << 18, output), decoder, stdout);
        // The pipe is closed: gzip ends.
        let status = gzip.wait().map_err(cannot)?;
        match decoded {
            Ok(Exit::Done) if status.code() == Some(1) => {
                let what = format!("cannot decompress {} to its end", self.file.display());
                Err(Failure::failed(
                    what,
                    "the file is damaged or still being written",
                ))
            }
            other => other,
        }
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
        let what = format!("cannot read {}: {error}", self.file.display());
        let advice = match error {
            CaptureError::Io(_) => "",
            CaptureError::Empty | CaptureError::UnknownFormat => {
                "write a capture with `tcpdump -w FILE` or Wireshark"
            }
        };
        Failure::failed(what, advice)
    }
}

/// Whether a file begins as gzip (RFC 1952 §2.3.1); it is read from its beginning afterwards.
fn is_gzip(file: &mut File) -> io::Result<bool> {
    let mut magic = [0; 2];
    // A pipe cannot be rewound, and is read as it is.
    if !file.metadata()?.is_file() {
        return Ok(false);
    }
    let read = file.read(&mut magic)?;
    file.rewind()?;
    Ok(read == 2 && magic == [0x1f, 0x8b])
}

fn summary(out: &mut impl Write, decoder: Decoder) -> io::Result<()> {
    writeln!(out, "Summary")?;
    for line in decoder.summary() {
        writeln!(out, "  {line}")?;
    }
    out.flush()
}

/// Reads a file of keys; without a path there are no keys.
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
        // One allocation: a text that grows would leave copies of the keys behind.
        text.reserve(file.metadata()?.len().min(MAX_KEY_FILE_SIZE) as usize);
        file.take(MAX_KEY_FILE_SIZE).read_to_string(&mut text)
    };
    File::open(path)
        .and_then(read)
        .map_err(|error| Failure::usage(format!("cannot read {shown}: {error}"), ""))?;
    parse(&text).map_err(|error| {
        Failure::usage(
            format!("{shown}, {error}"),
            "Wireshark can write such a file: Preferences, Protocols, ISAKMP or ESP",
        )
    })
}
