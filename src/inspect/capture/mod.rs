//! Capture files, read as a stream: pcap and pcapng, as tcpdump, Wireshark and the clouds' packet mirrors write them.
//!
//! ```text
//!   file ─▶ Reader::open (magic) ─▶ next ─▶ Frame { number, time, link type, octets }
//!                                       ─▶ Damage { what, where }      the file goes on, or ends here
//! ```
//!
//! A file is hostile: every length is compared with a bound before anything is allocated for it, and only one frame is held at a
//! time. What is damaged is told with its place in the file, and the reader goes on where the format lets it find the next frame.

mod pcap;
mod pcapng;
mod source;

use std::io::{self, Read};

use source::Source;

/// The longest frame that is read; no capture tool writes a longer one.
pub const MAX_FRAME_LEN: usize = 262_144;

/// What the first octets of a frame are (the registry at tcpdump.org/linktypes.html).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinkType(pub u16);

/// One packet as it was captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its place among the frames of the file, from 1.
    pub number: u64,
    /// When, in nanoseconds since 1970; a simple packet block of pcapng does not say.
    pub time: Option<i128>,
    /// What it begins with.
    pub link: LinkType,
    /// What was captured of it.
    pub bytes: Vec<u8>,
    /// How long it was on the wire.
    pub wire_len: u32,
}

/// A part of the file that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The frame it concerns, or the one it stands in front of.
    pub number: u64,
    /// What is wrong.
    pub what: &'static str,
    /// Where in the file.
    pub offset: u64,
}

/// What comes next in a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A frame.
    Frame(Frame),
    /// Something else than the format demands.
    Damage(Damage),
}

/// Why a file is no capture.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// It cannot be read at all.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// There is nothing in it.
    #[error("it is empty")]
    Empty,
    /// It begins with something else.
    #[error("it is neither pcap nor pcapng")]
    UnknownFormat,
}

/// A capture being read.
#[derive(Debug)]
pub struct Reader<R> {
    source: Source<R>,
    format: Format,
    frames: u64,
    state: State,
}

#[derive(Debug)]
enum Format {
    Pcap(pcap::Format),
    Pcapng(pcapng::Format),
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Reading,
    Ended,
}

/// What a format finds at the place where the reader stands.
enum Found {
    Frame(Raw),
    /// A frame or block is damaged, the next can be found.
    Damaged(Fault),
    /// What follows cannot be found any more.
    Lost(Fault),
    End,
}

/// A frame without its number.
struct Raw {
    time: Option<i128>,
    link: LinkType,
    bytes: Vec<u8>,
    wire_len: u32,
}

struct Fault {
    what: &'static str,
    offset: u64,
    concerns: Concerns,
}

/// Whether the damage takes a frame with it.
#[derive(PartialEq, Eq)]
enum Concerns {
    AFrame,
    NoFrame,
}

/// How the machine that wrote the file lays out numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Little,
    Big,
}

impl Order {
    const fn u16(self, octets: [u8; 2]) -> u16 {
        match self {
            Order::Little => u16::from_le_bytes(octets),
            Order::Big => u16::from_be_bytes(octets),
        }
    }

    const fn u32(self, octets: [u8; 4]) -> u32 {
        match self {
            Order::Little => u32::from_le_bytes(octets),
            Order::Big => u32::from_be_bytes(octets),
        }
    }
}

impl<R: Read> Reader<R> {
    /// Reads the magic number. `inner` should be buffered.
    ///
    /// # Errors
    /// It is not a capture file.
    pub fn open(inner: R) -> Result<Reader<R>, CaptureError> {
        let mut source = Source::new(inner);
        let mut magic = [0; 4];
        match source.fill(&mut magic)? {
            0 => return Err(CaptureError::Empty),
            4 => {}
            _ => return Err(CaptureError::UnknownFormat),
        }
        let format = if magic == pcapng::SECTION {
            Format::Pcapng(pcapng::Format::new())
        } else {
            Format::Pcap(
                pcap::Format::open(magic, &mut source)?.ok_or(CaptureError::UnknownFormat)?,
            )
        };
        Ok(Reader {
            source,
            format,
            frames: 0,
            state: State::Reading,
        })
    }

    /// The next frame or damage; `None` at the end.
    ///
    /// # Errors
    /// The file can no longer be read.
    pub fn next_item(&mut self) -> io::Result<Option<Item>> {
        if self.state == State::Ended {
            return Ok(None);
        }
        let found = match &mut self.format {
            Format::Pcap(format) => format.next(&mut self.source)?,
            Format::Pcapng(format) => format.next(&mut self.source)?,
        };
        Ok(match found {
            Found::Frame(raw) => {
                self.frames = self.frames.saturating_add(1);
                Some(Item::Frame(Frame {
                    number: self.frames,
                    time: raw.time,
                    link: raw.link,
                    bytes: raw.bytes,
                    wire_len: raw.wire_len,
                }))
            }
            Found::Damaged(fault) => Some(self.damage(&fault)),
            Found::Lost(fault) => {
                self.state = State::Ended;
                Some(self.damage(&fault))
            }
            Found::End => {
                self.state = State::Ended;
                None
            }
        })
    }

    fn damage(&mut self, fault: &Fault) -> Item {
        let number = self.frames.saturating_add(1);
        if fault.concerns == Concerns::AFrame {
            self.frames = number;
        }
        Item::Damage(Damage {
            number,
            what: fault.what,
            offset: fault.offset,
        })
    }
}

#[cfg(test)]
pub(super) mod testing {
    //! Files made by hand.

    use super::*;

    /// Everything in a file.
    pub(in crate::inspect) fn items(bytes: &[u8]) -> Vec<Item> {
        let mut reader = Reader::open(bytes).unwrap();
        let mut items = Vec::new();
        while let Some(item) = reader.next_item().unwrap() {
            items.push(item);
            assert!(items.len() <= bytes.len(), "the reader does not end");
        }
        items
    }

    /// The frames' octets, and what is said of the rest.
    pub(in crate::inspect) fn told(bytes: &[u8]) -> Vec<Result<Vec<u8>, &'static str>> {
        let tell = |item| match item {
            Item::Frame(frame) => Ok(frame.bytes),
            Item::Damage(damage) => Err(damage.what),
        };
        items(bytes).into_iter().map(tell).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_capture_is_not_read() {
        assert!(matches!(Reader::open(&[][..]), Err(CaptureError::Empty)));
        for bytes in [&b"abc"[..], b"#!/bin/sh\n", &[0; 100], &[0xd4, 0xc3, 0xb2]] {
            assert!(
                matches!(Reader::open(bytes), Err(CaptureError::UnknownFormat)),
                "{bytes:?}"
            );
        }
    }
}
