//! The format of Wireshark (draft-ietf-opsawg-pcapng).
//!
//! ```text
//! block:      | type (4) | length (4) | body …, a multiple of 4 | length again (4) |
//! section:    | 0a0d0d0a | length | 1a2b3c4d in the order of octets of the section | version, length | options |
//! interface:  | 1 | … | link type (2) | reserved (2) | snap length (4) | options: 9 resolution, 14 offset of its times |
//! packet:     | 6 | … | interface (4) | time (4+4) | captured (4) | on the wire (4) | octets … | options |
//! simple:     | 3 | … | on the wire (4) | octets … |              of the first interface, without a time
//! old packet: | 2 | … | interface (2) | drops (2) | time (4+4) | captured (4) | on the wire (4) | octets … | options |
//! ```
//!
//! Every other block is skipped. A block's length leads to the next one, so a packet that contradicts itself inside costs that
//! packet only; a length that cannot be true loses the rest.

use std::io::{self, Read};

use super::source::Source;
use super::{Concerns, Fault, Found, LinkType, MAX_FRAME_LEN, Order, Raw};

/// What is known of the section being read.
#[derive(Debug)]
pub(super) struct Format {
    order: Order,
    interfaces: Vec<Interface>,
    /// Whether the type of the first block was read as the file's magic number.
    begun: Begun,
    /// What is to be told of the block just read, behind its frame.
    queued: Option<&'static str>,
}

#[derive(Debug, PartialEq, Eq)]
enum Begun {
    Magic,
    Blocks,
}

#[derive(Clone, Copy, Debug)]
struct Interface {
    link: LinkType,
    snap_len: u32,
    resolution: u8,
    offset: i64,
}

/// The type of the block that begins a section, and so of every file: the same in both orders.
pub(super) const SECTION: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

const ORDER_MAGIC: u32 = 0x1a2b_3c4d;
const INTERFACE: u32 = 1;
const OLD_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const PACKET: u32 = 6;

/// The frame and what stands around it: more than any writer puts there.
const MAX_BLOCK_LEN: usize = MAX_FRAME_LEN + 65_536;

/// More interfaces than any machine has.
const MAX_INTERFACES: usize = 4096;

/// Microseconds: 10^-6.
const DEFAULT_RESOLUTION: u8 = 6;

impl Format {
    pub(super) const fn new() -> Format {
        Format {
            order: Order::Little,
            interfaces: Vec::new(),
            begun: Begun::Magic,
            queued: None,
        }
    }

    pub(super) fn next<R: Read>(&mut self, source: &mut Source<R>) -> io::Result<Found> {
        loop {
            if let Some(what) = self.queued.take() {
                return Ok(damaged(what, source.offset(), Concerns::NoFrame));
            }
            if let Some(found) = self.block(source)? {
                return Ok(found);
            }
        }
    }

    /// Reads a block; `None` if it holds nothing for us.
    fn block<R: Read>(&mut self, source: &mut Source<R>) -> io::Result<Option<Found>> {
        let start = match self.begun {
            Begun::Magic => source.offset().saturating_sub(4),
            Begun::Blocks => source.offset(),
        };
        let lost = |what| {
            Ok(Some(Found::Lost(Fault {
                what,
                offset: start,
                concerns: Concerns::NoFrame,
            })))
        };
        let mut kind = SECTION;
        if self.begun == Begun::Blocks {
            match source.fill(&mut kind)? {
                0 => return Ok(Some(Found::End)),
                4 => {}
                _ => return lost("the last block is cut"),
            }
        }
        self.begun = Begun::Blocks;
        let Some(length) = source.array::<4>()? else {
            return lost("the last block is cut");
        };
        let mut read = 8_u32;
        if kind == SECTION {
            let Some(magic) = source.array::<4>()? else {
                return lost("the last block is cut");
            };
            self.order = match [Order::Little, Order::Big]
                .into_iter()
                .find(|order| order.u32(magic) == ORDER_MAGIC)
            {
                Some(order) => order,
                None => return lost("a section does not say its order of octets"),
            };
            self.interfaces.clear();
            read = 12;
        }
        let length = self.order.u32(length);
        if !length.is_multiple_of(4) {
            return lost("the length of a block is not a multiple of four");
        }
        let Some(body) = length.checked_sub(read.saturating_add(4)) else {
            return lost("the length of a block is below its frame");
        };
        self.body(self.order.u32(kind), body, start, source, length)
    }

    /// Reads the body and the length that ends it.
    fn body<R: Read>(
        &mut self,
        kind: u32,
        len: u32,
        start: u64,
        source: &mut Source<R>,
        length: u32,
    ) -> io::Result<Option<Found>> {
        let concerns = match kind {
            PACKET | SIMPLE_PACKET | OLD_PACKET => Concerns::AFrame,
            _ => Concerns::NoFrame,
        };
        let wanted = matches!(kind, PACKET | SIMPLE_PACKET | OLD_PACKET | INTERFACE);
        let cut = |concerns| {
            Ok(Some(Found::Lost(Fault {
                what: "the last block is cut",
                offset: start,
                concerns,
            })))
        };
        let found = if wanted && len as usize <= MAX_BLOCK_LEN {
            let mut body = vec![0; len as usize];
            if source.fill(&mut body)? < body.len() {
                return cut(concerns);
            }
            self.content(kind, &body, start)
        } else {
            if !source.skip(u64::from(len))? {
                return cut(concerns);
            }
            wanted.then(|| damaged("a block is longer than any frame", start, concerns))
        };
        match source.array::<4>()? {
            Some(again) if self.order.u32(again) == length => {}
            Some(_) => self.queued = Some("the two lengths of a block differ"),
            None => self.queued = Some("the last block is cut"),
        }
        Ok(found)
    }

    fn content(&mut self, kind: u32, body: &[u8], start: u64) -> Option<Found> {
        let fields = Fields {
            rest: body,
            order: self.order,
        };
        if kind == INTERFACE {
            return self
                .interface(fields)
                .err()
                .map(|what| damaged(what, start, Concerns::NoFrame));
        }
        let frame = match kind {
            PACKET => self.packet(fields, Width::Four),
            OLD_PACKET => self.packet(fields, Width::Two),
            _ => self.simple(fields),
        };
        Some(match frame {
            Ok(raw) => Found::Frame(raw),
            Err(what) => damaged(what, start, Concerns::AFrame),
        })
    }

    fn interface(&mut self, mut fields: Fields<'_>) -> Result<(), &'static str> {
        if self.interfaces.len() >= MAX_INTERFACES {
            return Err("more interfaces than any machine has");
        }
        let cut = "the description of an interface is cut";
        let link = LinkType(fields.u16().ok_or(cut)?);
        fields.u16().ok_or(cut)?;
        let snap_len = fields.u32().ok_or(cut)?;
        let mut interface = Interface {
            link,
            snap_len,
            resolution: DEFAULT_RESOLUTION,
            offset: 0,
        };
        let options = interface.options(fields);
        self.interfaces.push(interface);
        options
    }

    fn packet(&self, mut fields: Fields<'_>, width: Width) -> Result<Raw, &'static str> {
        let cut = "a packet block is cut";
        let number = match width {
            Width::Four => fields.u32().ok_or(cut)?,
            Width::Two => {
                let number = fields.u16().ok_or(cut)?;
                fields.u16().ok_or(cut)?;
                u32::from(number)
            }
        };
        let interface = self
            .interfaces
            .get(number as usize)
            .ok_or("a packet of an interface that was not described")?;
        let (high, low) = (fields.u32().ok_or(cut)?, fields.u32().ok_or(cut)?);
        let captured = fields.u32().ok_or(cut)?;
        let wire_len = fields.u32().ok_or(cut)?;
        let bytes = fields
            .rest
            .get(..captured as usize)
            .filter(|bytes| bytes.len() <= MAX_FRAME_LEN)
            .ok_or("a packet longer than its block")?;
        Ok(Raw {
            time: Some(interface.time(u64::from(high) << 32 | u64::from(low))),
            link: interface.link,
            bytes: bytes.to_vec(),
            wire_len,
        })
    }

    fn simple(&self, mut fields: Fields<'_>) -> Result<Raw, &'static str> {
        let interface = self
            .interfaces
            .first()
            .ok_or("a packet of an interface that was not described")?;
        let wire_len = fields.u32().ok_or("a packet block is cut")?;
        // Zero means no limit.
        let limit = match interface.snap_len {
            0 => wire_len,
            limit => wire_len.min(limit),
        };
        let captured = fields.rest.len().min(limit as usize).min(MAX_FRAME_LEN);
        Ok(Raw {
            time: None,
            link: interface.link,
            bytes: fields.rest.get(..captured).unwrap_or_default().to_vec(),
            wire_len,
        })
    }
}

/// How wide the number of the interface is.
#[derive(Clone, Copy)]
enum Width {
    Two,
    Four,
}

impl Interface {
    /// Options that make no sense leave the values before them.
    fn options(&mut self, mut fields: Fields<'_>) -> Result<(), &'static str> {
        let cut = "an option of an interface is cut";
        while !fields.rest.is_empty() {
            let code = fields.u16().ok_or(cut)?;
            let length = usize::from(fields.u16().ok_or(cut)?);
            if code == END_OF_OPTIONS {
                break;
            }
            let value = fields.take(length).ok_or(cut)?;
            // Padded to four octets.
            fields
                .take(length.next_multiple_of(4).saturating_sub(length))
                .ok_or(cut)?;
            match (code, value) {
                (RESOLUTION, [resolution]) => self.resolution = *resolution,
                (TIME_OFFSET, value) => {
                    let octets: [u8; 8] = value
                        .try_into()
                        .map_err(|_| "the time offset of an interface has not 8 octets")?;
                    self.offset = match fields.order {
                        Order::Little => i64::from_le_bytes(octets),
                        Order::Big => i64::from_be_bytes(octets),
                    };
                }
                (RESOLUTION, _) => {
                    return Err("the time resolution of an interface has not 1 octet");
                }
                (_, _) => {}
            }
        }
        Ok(())
    }

    /// Nanoseconds since 1970. The resolution is 10^-n, or 2^-n with the highest bit set.
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

const END_OF_OPTIONS: u16 = 0;
const RESOLUTION: u16 = 9;
const TIME_OFFSET: u16 = 14;

const fn damaged(what: &'static str, offset: u64, concerns: Concerns) -> Found {
    Found::Damaged(Fault {
        what,
        offset,
        concerns,
    })
}

/// The fields of a body.
#[derive(Clone, Copy)]
struct Fields<'a> {
    rest: &'a [u8],
    order: Order,
}

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(self.order.u16(self.take(2)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(self.order.u32(self.take(4)?.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests;
