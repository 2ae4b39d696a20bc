//! Capture files read as a stream: pcap and pcapng, as tcpdump, Wireshark and the clouds' packet mirrors write them.
//!
//! ```text
//!   pcap    | file header (24)    | record: header (16), octets | record … |
//!   pcapng  | section header block | interface description | packet block | other block | …      (draft-ietf-opsawg-pcapng)
//!   block   | type (4) | length (4) | body, a multiple of 4 octets | length again (4) |
//! ```
//!
//! `pcap_parser` parses headers, records and blocks. The reader finds their limits itself: it allocates at most `MAX_BLOCK_LEN`
//! octets, skips blocks that hold no packet without storing them, and continues behind a damaged block. A length that cannot be
//! true ends the file, because nothing marks where the next record begins. Every damage is reported with its offset in the file.

use std::io::{self, ErrorKind, Read};

use pcap_parser::nom;
use pcap_parser::traits::PcapNGPacketBlock as _;
use pcap_parser::{
    Block, InterfaceDescriptionBlock, OptionCode, PcapHeader, parse_block_be, parse_block_le,
    parse_pcap_frame, parse_pcap_frame_be, parse_pcap_frame_modified, parse_pcap_header,
};

/// The longest frame that is read; no capture tool writes a longer one.
pub const MAX_FRAME_LEN: usize = 262_144;

/// The longest block that is stored: a frame with its options.
const MAX_BLOCK_LEN: usize = MAX_FRAME_LEN + 65_536;

/// The most interfaces of a section.
const MAX_INTERFACES: usize = 4096;

/// The link-layer header type of a frame (registry at tcpdump.org/linktypes.html).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinkType(pub u16);

/// One captured packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Number of the frame in the file, from 1.
    pub number: u64,
    /// Capture time in nanoseconds since 1970; a simple packet block of pcapng has none.
    pub time: Option<i128>,
    /// Type of the link-layer header.
    pub link: LinkType,
    /// Captured octets.
    pub bytes: Vec<u8>,
    /// Length of the packet on the wire.
    pub wire_len: u32,
}

/// A part of the file that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Number of the damaged frame, or of the next one.
    pub number: u64,
    /// Description of the damage.
    pub what: &'static str,
    /// Offset of the damaged record or block in the file.
    pub offset: u64,
}

/// The next element of a capture file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaptureItem {
    /// A packet.
    Frame(Frame),
    /// A part that violates the format.
    Damage(Damage),
}

/// The reason why a file cannot be read as a capture.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The file has no content.
    #[error("the file is empty")]
    Empty,
    /// The magic number is unknown.
    #[error("not a pcap or pcapng file")]
    UnknownFormat,
}

/// Reader of one capture file.
#[derive(Debug)]
pub struct CaptureReader<R> {
    source: Source<R>,
    format: Format,
    frames: u64,
    /// Damage to report before the next read.
    pending: Option<&'static str>,
    ended: bool,
}

#[derive(Debug)]
enum Format {
    Pcap(PcapHeader),
    Pcapng(Section),
}

/// State of the current pcapng section.
#[derive(Debug, Default)]
struct Section {
    big_endian: bool,
    interfaces: Vec<Interface>,
}

#[derive(Clone, Copy, Debug)]
struct Interface {
    link: LinkType,
    snap_len: u32,
    /// Option if_tsresol: 10^-n, or 2^-n with the highest bit set.
    resolution: u8,
    /// Option if_tsoffset, in seconds.
    offset: i64,
}

/// A read error inside the file: its description, and what it costs.
#[derive(Debug)]
struct Fault {
    what: &'static str,
    loss: Loss,
}

/// What a fault costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    /// No frame.
    Nothing,
    /// One frame.
    Frame,
    /// The rest of the file, with this frame in it or not.
    Rest { frame: bool },
}

impl Fault {
    const fn new(what: &'static str, loss: Loss) -> Fault {
        Fault { what, loss }
    }

    /// The file ends inside a block.
    const fn truncated(frame: bool) -> Fault {
        Fault::new("the last block is truncated", Loss::Rest { frame })
    }
}

/// A frame without its number.
struct RawFrame {
    time: Option<i128>,
    link: LinkType,
    bytes: Vec<u8>,
    wire_len: u32,
}

/// `None` is the end of the file.
type Next = Result<Option<RawFrame>, Fault>;

impl<R: Read> CaptureReader<R> {
    /// Reads the file header. `inner` should be buffered.
    ///
    /// # Errors
    /// The file is not a capture file.
    pub fn open(inner: R) -> Result<CaptureReader<R>, CaptureError> {
        let mut source = Source { inner, offset: 0 };
        let mut header = [0; PCAP_HEADER_LEN];
        let (magic, rest) = header.split_at_mut(SECTION_TYPE.len());
        match source.fill(magic)? {
            0 => return Err(CaptureError::Empty),
            4 => {}
            _ => return Err(CaptureError::UnknownFormat),
        }
        let format = if *magic == SECTION_TYPE {
            Format::Pcapng(Section::default())
        } else {
            source.fill(rest)?;
            let header = header.get(..source.offset as usize).unwrap_or_default();
            let (_, header) = parse_pcap_header(header).map_err(|_| CaptureError::UnknownFormat)?;
            Format::Pcap(header)
        };
        Ok(CaptureReader {
            source,
            format,
            frames: 0,
            pending: None,
            ended: false,
        })
    }

    /// Returns the next frame or damage; `None` at the end.
    ///
    /// # Errors
    /// The file can no longer be read.
    pub fn next_item(&mut self) -> io::Result<Option<CaptureItem>> {
        if self.ended {
            return Ok(None);
        }
        let mut offset = self.source.offset;
        let next = match &mut self.format {
            Format::Pcap(header) => self.source.record(header)?,
            Format::Pcapng(section) => loop {
                offset = self.source.offset;
                if let Some(what) = self.pending.take() {
                    break Err(Fault::new(what, Loss::Nothing));
                }
                // The file's magic number is the type of the first block.
                let begun = offset == SECTION_TYPE.len() as u64;
                if begun {
                    offset = 0;
                }
                match self.source.block(section, begun, &mut self.pending)? {
                    Ok(BlockContent::Skipped) => {}
                    Ok(BlockContent::Frame(frame)) => break Ok(Some(frame)),
                    Ok(BlockContent::End) => break Ok(None),
                    Err(fault) => break Err(fault),
                }
            },
        };
        let number = self.frames.saturating_add(1);
        Ok(match next {
            Ok(Some(raw)) => {
                self.frames = number;
                Some(CaptureItem::Frame(Frame {
                    number,
                    time: raw.time,
                    link: raw.link,
                    bytes: raw.bytes,
                    wire_len: raw.wire_len,
                }))
            }
            Ok(None) => {
                self.ended = true;
                None
            }
            Err(Fault { what, loss }) => {
                self.ended = matches!(loss, Loss::Rest { .. });
                if matches!(loss, Loss::Frame | Loss::Rest { frame: true }) {
                    self.frames = number;
                }
                Some(CaptureItem::Damage(Damage {
                    number,
                    what,
                    offset,
                }))
            }
        })
    }
}

/// The octets of a file in order, with the current offset.
#[derive(Debug)]
struct Source<R> {
    inner: R,
    offset: u64,
}

impl<R: Read> Source<R> {
    /// Fills `buffer` as far as the file reaches; returns how far that was.
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0_usize;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.inner.read(rest) {
                Ok(0) => break,
                Ok(count) => filled = filled.saturating_add(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.offset = self.offset.saturating_add(filled as u64);
        Ok(filled)
    }

    /// Appends `count` octets to `buffer`; `false` if the file ends before.
    fn append(&mut self, buffer: &mut Vec<u8>, count: usize) -> io::Result<bool> {
        let start = buffer.len();
        buffer.resize(start.saturating_add(count), 0);
        let filled = self.fill(buffer.get_mut(start..).unwrap_or_default())?;
        buffer.truncate(start.saturating_add(filled));
        Ok(filled == count)
    }

    /// Skips `count` octets; `false` if the file ends before.
    fn skip(&mut self, count: u64) -> io::Result<bool> {
        let skipped = io::copy(&mut (&mut self.inner).take(count), &mut io::sink())?;
        self.offset = self.offset.saturating_add(skipped);
        Ok(skipped == count)
    }

    /// Reads a pcap record. The parser returns the number of missing octets, so that the reader stops at the end of the record.
    fn record(&mut self, header: &PcapHeader) -> io::Result<Next> {
        let parse = if header.is_modified_format() {
            parse_pcap_frame_modified
        } else if header.is_bigendian() {
            parse_pcap_frame_be
        } else {
            parse_pcap_frame
        };
        let mut record = Vec::new();
        loop {
            let missing = match parse(&record) {
                Ok((_, frame)) => return Ok(Ok(Some(pcap_frame(header, &frame)))),
                Err(nom::Err::Incomplete(nom::Needed::Size(missing))) => missing.get(),
                Err(_) => return Ok(Err(Fault::new("not a record", Loss::Rest { frame: true }))),
            };
            let is_header = record.is_empty();
            if !is_header && missing > MAX_FRAME_LEN {
                let what =
                    "a record claims to be longer than any frame; what follows cannot be found";
                return Ok(Err(Fault::new(what, Loss::Rest { frame: true })));
            }
            if !self.append(&mut record, missing)? {
                return Ok(match (is_header, record.is_empty()) {
                    (true, true) => Ok(None),
                    (true, false) => Err(Fault::new(
                        "the header of the last record is truncated",
                        Loss::Rest { frame: false },
                    )),
                    (false, _) => Err(Fault::new(
                        "the last record is truncated",
                        Loss::Rest { frame: true },
                    )),
                });
            }
        }
    }

    /// Reads a pcapng block; `begun` means that the block type was already read as the file's magic number.
    fn block(
        &mut self,
        section: &mut Section,
        begun: bool,
        pending: &mut Option<&'static str>,
    ) -> io::Result<Result<BlockContent, Fault>> {
        let mut block = Vec::new();
        if begun {
            block.extend(SECTION_TYPE);
        } else if !self.append(&mut block, 4)? {
            return Ok(if block.is_empty() {
                Ok(BlockContent::End)
            } else {
                Err(Fault::truncated(false))
            });
        }
        if !self.append(&mut block, 4)? {
            return Ok(Err(Fault::truncated(false)));
        }
        if block.starts_with(&SECTION_TYPE) {
            if !self.append(&mut block, 4)? {
                return Ok(Err(Fault::truncated(false)));
            }
            let big_endian = match block.last_chunk() {
                Some([0x1a, 0x2b, 0x3c, 0x4d]) => true,
                Some([0x4d, 0x3c, 0x2b, 0x1a]) => false,
                _ => {
                    let what = "a section header without a valid byte-order magic";
                    return Ok(Err(Fault::new(what, Loss::Rest { frame: false })));
                }
            };
            *section = Section {
                big_endian,
                interfaces: Vec::new(),
            };
        }
        let (kind, length) = (section.u32_at(&block, 0), section.u32_at(&block, 4));
        if !length.is_multiple_of(4) {
            let what = "the length of a block is not a multiple of four";
            return Ok(Err(Fault::new(what, Loss::Rest { frame: false })));
        }
        let Some(rest) = (length as usize).checked_sub(block.len().saturating_add(4)) else {
            let what = "the length of a block is below its minimum";
            return Ok(Err(Fault::new(what, Loss::Rest { frame: false })));
        };
        let is_packet = matches!(kind, ENHANCED_PACKET | SIMPLE_PACKET | OBSOLETE_PACKET);
        let is_stored = is_packet || kind == INTERFACE_DESCRIPTION;
        let is_too_long = is_stored && rest > MAX_BLOCK_LEN;
        let whole = if is_stored && !is_too_long {
            self.append(&mut block, rest)?
        } else {
            self.skip(rest as u64)?
        };
        if !whole {
            return Ok(Err(Fault::truncated(is_packet)));
        }
        // A wrong copy of the length loses no data: the parser gets a correct copy.
        let mut copy = [0; 4];
        if self.fill(&mut copy)? < copy.len() {
            *pending = Some("the last block is truncated");
        } else if section.u32_at(&copy, 0) != length {
            *pending = Some("the two lengths of a block differ");
        }
        let loss = if is_packet {
            Loss::Frame
        } else {
            Loss::Nothing
        };
        if is_too_long {
            let what = "a block is longer than any frame";
            return Ok(Err(Fault::new(what, loss)));
        }
        if !is_stored {
            return Ok(Ok(BlockContent::Skipped));
        }
        block.extend_from_within(4..8);
        Ok(section
            .content(kind, block)
            .map_err(|what| Fault::new(what, loss)))
    }
}

/// What a block holds.
enum BlockContent {
    Frame(RawFrame),
    /// No packet.
    Skipped,
    /// The file has ended before it.
    End,
}

/// Octets of a pcap file header.
const PCAP_HEADER_LEN: usize = 24;

/// The type of a section header block, the same in both byte orders.
const SECTION_TYPE: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

const INTERFACE_DESCRIPTION: u32 = 1;
/// The block of early Wireshark versions, with an interface number of 2 octets and a drop count of 2.
const OBSOLETE_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

fn pcap_frame(header: &PcapHeader, frame: &pcap_parser::LegacyPcapBlock<'_>) -> RawFrame {
    let unit = if header.is_nanosecond_precision() {
        1
    } else {
        1000
    };
    let seconds = i128::from(frame.ts_sec).saturating_mul(1_000_000_000);
    RawFrame {
        time: Some(seconds.saturating_add(i128::from(frame.ts_usec).saturating_mul(unit))),
        // The upper half of the field describes frame check sequences.
        link: LinkType((header.network.0 & 0xffff) as u16),
        bytes: frame.data.to_vec(),
        wire_len: frame.origlen,
    }
}

impl Section {
    fn u32_at(&self, bytes: &[u8], at: usize) -> u32 {
        let octets = bytes.get(at..).and_then(<[u8]>::first_chunk);
        let octets = octets.copied().unwrap_or_default();
        if self.big_endian {
            u32::from_be_bytes(octets)
        } else {
            u32::from_le_bytes(octets)
        }
    }

    /// Parses a whole block of one of the stored types.
    fn content(&mut self, kind: u32, mut block: Vec<u8>) -> Result<BlockContent, &'static str> {
        if kind == OBSOLETE_PACKET {
            self.modernize(&mut block);
        }
        let parse = if self.big_endian {
            parse_block_be
        } else {
            parse_block_le
        };
        match (parse(&block), kind) {
            (Ok((_, Block::InterfaceDescription(description))), _) => {
                self.add_interface(&description)?;
                Ok(BlockContent::Skipped)
            }
            (Ok((_, Block::EnhancedPacket(packet))), _) => {
                let interface = self.interface(packet.if_id)?;
                let captured = packet.caplen as usize;
                if captured > MAX_FRAME_LEN {
                    return Err("a packet is longer than its block");
                }
                let ticks = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
                Ok(BlockContent::Frame(RawFrame {
                    time: Some(interface.time(ticks)),
                    link: interface.link,
                    bytes: packet.packet_data().to_vec(),
                    wire_len: packet.origlen,
                }))
            }
            (Ok((_, Block::SimplePacket(packet))), _) => {
                let interface = self.interface(0)?;
                // A snap length of zero means no limit.
                let limit = match interface.snap_len {
                    0 => MAX_FRAME_LEN,
                    limit => (limit as usize).min(MAX_FRAME_LEN),
                };
                let data = packet.packet_data();
                Ok(BlockContent::Frame(RawFrame {
                    time: None,
                    link: interface.link,
                    bytes: data.get(..limit).unwrap_or(data).to_vec(),
                    wire_len: packet.origlen,
                }))
            }
            (_, INTERFACE_DESCRIPTION) => Err("an interface description is too short"),
            (_, _) => Err("the fields of a packet block contradict its length"),
        }
    }

    /// Rewrites an obsolete packet block as an enhanced packet block; they differ in the type and the interface number.
    fn modernize(&self, block: &mut [u8]) {
        let Some([k0, .., k3, _, _, _, _, w0, w1, w2, w3]) = block.first_chunk_mut::<12>() else {
            return;
        };
        if self.big_endian {
            *k3 = ENHANCED_PACKET as u8;
            (*w2, *w3) = (*w0, *w1);
            (*w0, *w1) = (0, 0);
        } else {
            *k0 = ENHANCED_PACKET as u8;
            (*w2, *w3) = (0, 0);
        }
    }

    fn interface(&self, number: u32) -> Result<&Interface, &'static str> {
        self.interfaces
            .get(number as usize)
            .ok_or("a packet of an interface that was not described")
    }

    fn add_interface(
        &mut self,
        description: &InterfaceDescriptionBlock<'_>,
    ) -> Result<(), &'static str> {
        if self.interfaces.len() >= MAX_INTERFACES {
            return Err("too many interfaces in a section");
        }
        let mut interface = Interface {
            link: LinkType((description.linktype.0 & 0xffff) as u16),
            snap_len: description.snaplen,
            resolution: DEFAULT_RESOLUTION,
            offset: 0,
        };
        let mut result = Ok(());
        // Length of the options: the block without its type, lengths and fixed fields.
        let mut left = (description.block_len1 as usize).saturating_sub(20);
        for option in &description.options {
            left = left.saturating_sub(option.value.len().saturating_add(4));
            match (option.code, option.as_bytes()) {
                (OptionCode::EndOfOpt, _) => {
                    left = 0;
                    break;
                }
                (OptionCode::IfTsresol, Ok([resolution])) => interface.resolution = *resolution,
                (OptionCode::IfTsoffset, Ok(value)) if value.len() == 8 => {
                    let octets = value.try_into().unwrap_or_default();
                    interface.offset = if self.big_endian {
                        i64::from_be_bytes(octets)
                    } else {
                        i64::from_le_bytes(octets)
                    };
                }
                (OptionCode::IfTsresol | OptionCode::IfTsoffset, _) => {
                    result = Err("a time option of an interface has a wrong length");
                }
                _ => {}
            }
        }
        if left > 0 {
            result = Err("the options of an interface are truncated");
        }
        self.interfaces.push(interface);
        result
    }
}

/// Microseconds: 10^-6.
const DEFAULT_RESOLUTION: u8 = 6;

impl Interface {
    /// Nanoseconds since 1970.
    fn time(&self, ticks: u64) -> i128 {
        let scaled = u128::from(ticks).saturating_mul(1_000_000_000);
        let exponent = u32::from(self.resolution & 0x7f);
        let nanoseconds = if self.resolution & 0x80 == 0 {
            let divisor = 10_u128.checked_pow(exponent);
            divisor.and_then(|divisor| scaled.checked_div(divisor))
        } else {
            scaled.checked_shr(exponent)
        };
        let nanoseconds = i128::try_from(nanoseconds.unwrap_or_default()).unwrap_or(i128::MAX);
        i128::from(self.offset)
            .saturating_mul(1_000_000_000)
            .saturating_add(nanoseconds)
    }
}

#[cfg(test)]
mod tests;
