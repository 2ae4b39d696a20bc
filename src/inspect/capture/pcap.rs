//! The classic format, as `tcpdump -w` writes it (draft-ietf-opsawg-pcap).
//!
//! ```text
//! file:   | magic | version (2+2) | reserved (4+4) | snap length | link type | records …
//! record: | seconds | micro- or nanoseconds | captured length | length on the wire | octets …
//! ```
//!
//! The magic number tells the order of octets and the unit of the fraction. Nothing marks where a record begins, so behind a length
//! that cannot be true the rest of the file is lost.

use std::io::{self, Read};

use super::source::Source;
use super::{Concerns, Fault, Found, LinkType, MAX_FRAME_LEN, Order, Raw};

/// What the header of the file says.
#[derive(Debug)]
pub(super) struct Format {
    order: Order,
    /// Nanoseconds in a unit of the fraction.
    unit: u32,
    link: LinkType,
}

const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;

impl Format {
    /// Reads the rest of the header; `None` if it is not one.
    pub(super) fn open<R: Read>(
        magic: [u8; 4],
        source: &mut Source<R>,
    ) -> io::Result<Option<Format>> {
        let found =
            [Order::Little, Order::Big]
                .into_iter()
                .find_map(|order| match order.u32(magic) {
                    MICROSECONDS => Some((order, 1000)),
                    NANOSECONDS => Some((order, 1)),
                    _ => None,
                });
        let Some((order, unit)) = found else {
            return Ok(None);
        };
        let Some(rest) = source.array::<20>()? else {
            return Ok(None);
        };
        let [.., l0, l1, l2, l3] = rest;
        // The upper half of the field tells of frame check sequences.
        let link = LinkType((order.u32([l0, l1, l2, l3]) & 0xffff) as u16);
        Ok(Some(Format { order, unit, link }))
    }

    pub(super) fn next<R: Read>(&mut self, source: &mut Source<R>) -> io::Result<Found> {
        let offset = source.offset();
        let lost = |what, concerns| {
            Ok(Found::Lost(Fault {
                what,
                offset,
                concerns,
            }))
        };
        let mut header = [0; 16];
        match source.fill(&mut header)? {
            0 => return Ok(Found::End),
            16 => {}
            _ => return lost("the header of a record is cut", Concerns::NoFrame),
        }
        let [
            s0,
            s1,
            s2,
            s3,
            f0,
            f1,
            f2,
            f3,
            c0,
            c1,
            c2,
            c3,
            w0,
            w1,
            w2,
            w3,
        ] = header;
        let seconds = self.order.u32([s0, s1, s2, s3]);
        let fraction = self.order.u32([f0, f1, f2, f3]);
        let captured = self.order.u32([c0, c1, c2, c3]) as usize;
        if captured > MAX_FRAME_LEN {
            return lost(
                "a record claims to be longer than any frame; what follows cannot be found",
                Concerns::AFrame,
            );
        }
        let mut bytes = vec![0; captured];
        if source.fill(&mut bytes)? < captured {
            return lost("the last record is cut", Concerns::AFrame);
        }
        let nanoseconds = i128::from(fraction).saturating_mul(i128::from(self.unit));
        let time = i128::from(seconds)
            .saturating_mul(1_000_000_000)
            .saturating_add(nanoseconds);
        Ok(Found::Frame(Raw {
            time: Some(time),
            link: self.link,
            bytes,
            wire_len: self.order.u32([w0, w1, w2, w3]),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{items, told};
    use super::super::{Item, Reader};
    use super::*;

    fn number(order: Order, value: u32) -> [u8; 4] {
        match order {
            Order::Little => value.to_le_bytes(),
            Order::Big => value.to_be_bytes(),
        }
    }

    fn file(order: Order, magic: u32) -> Vec<u8> {
        let mut file = number(order, magic).to_vec();
        file.extend([0; 16]);
        file.extend(number(order, 0x3000_0001));
        file
    }

    fn record(order: Order, times: [u32; 2], bytes: &[u8]) -> Vec<u8> {
        let len = u32::try_from(bytes.len()).unwrap();
        let mut record = [times[0], times[1], len, len + 5]
            .map(|value| number(order, value))
            .concat();
        record.extend(bytes);
        record
    }

    #[test]
    fn both_orders_and_both_units_are_read() {
        for order in [Order::Little, Order::Big] {
            for (magic, nanoseconds) in
                [(MICROSECONDS, 7_000_009_000), (NANOSECONDS, 7_000_000_009)]
            {
                let bytes = [file(order, magic), record(order, [7, 9], b"frame")].concat();
                let read = items(&bytes);
                let [Item::Frame(frame)] = read.as_slice() else {
                    panic!("{order:?}: {read:?}")
                };
                assert_eq!((frame.number, frame.link), (1, LinkType(1)));
                assert_eq!((frame.time, frame.wire_len), (Some(nanoseconds), 10));
                assert_eq!(frame.bytes, b"frame");
            }
        }
    }

    #[test]
    fn a_file_cut_anywhere_gives_what_is_whole_and_says_so() {
        let order = Order::Little;
        let start = file(order, MICROSECONDS);
        let one = record(order, [1, 0], b"one");
        let two = record(order, [2, 0], b"second");
        let whole = [start.clone(), one.clone(), two].concat();
        for cut in start.len()..whole.len() {
            let told = told(&whole[..cut]);
            let behind_one = start.len() + one.len();
            let frames = told.iter().filter(|item| item.is_ok()).count();
            assert_eq!(frames, usize::from(cut >= behind_one), "{cut}");
            let at_a_border = cut == start.len() || cut == behind_one;
            assert_eq!(
                told.last().is_some_and(Result::is_err),
                !at_a_border,
                "{cut}"
            );
        }
        for cut in 1..start.len() {
            assert!(Reader::open(&start[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn a_record_longer_than_any_frame_is_not_allocated() {
        let order = Order::Little;
        for length in [MAX_FRAME_LEN as u32 + 1, u32::MAX] {
            let mut bytes = [file(order, MICROSECONDS), record(order, [1, 0], b"a")].concat();
            bytes.extend([0; 8]);
            bytes.extend(number(order, length));
            bytes.extend([0; 100]);
            let told = told(&bytes);
            assert_eq!(told.len(), 2);
            assert!(
                told[1]
                    .as_ref()
                    .is_err_and(|what| what.contains("longer than any frame"))
            );
        }
    }
}
