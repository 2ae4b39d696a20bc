//! Corners of pcapng, in both orders of octets.

use super::super::testing::{items, told};
use super::super::{Damage, Frame, Item};
use super::*;

/// A file under construction.
struct File {
    order: Order,
    bytes: Vec<u8>,
}

impl File {
    /// With a section header and no interface.
    fn new(order: Order) -> File {
        let mut file = File {
            order,
            bytes: Vec::new(),
        };
        let body = [file.u32(ORDER_MAGIC).to_vec(), vec![0; 12]].concat();
        file.block(u32::from_be_bytes(SECTION), &body);
        file
    }

    fn with_ethernet(order: Order, options: &[u8]) -> File {
        let mut file = File::new(order);
        let body = [file.u16(1).to_vec(), vec![0; 6], options.to_vec()].concat();
        file.block(INTERFACE, &body);
        file
    }

    fn u16(&self, value: u16) -> [u8; 2] {
        match self.order {
            Order::Little => value.to_le_bytes(),
            Order::Big => value.to_be_bytes(),
        }
    }

    fn u32(&self, value: u32) -> [u8; 4] {
        match self.order {
            Order::Little => value.to_le_bytes(),
            Order::Big => value.to_be_bytes(),
        }
    }

    fn block(&mut self, kind: u32, body: &[u8]) {
        let length = self.u32(u32::try_from(body.len()).unwrap() + 12);
        let kind = self.u32(kind);
        self.bytes
            .extend([&kind[..], &length, body, &length].concat());
    }

    fn packet(&mut self, interface: u32, ticks: u64, captured: u32, octets: &[u8]) {
        let fields = [
            interface,
            (ticks >> 32) as u32,
            ticks as u32,
            captured,
            captured,
        ];
        let mut body = fields.map(|value| self.u32(value)).concat();
        body.extend(octets);
        body.resize(body.len().next_multiple_of(4), 0);
        self.block(PACKET, &body);
    }

    fn option(&self, code: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len()).unwrap();
        let mut option = [&self.u16(code)[..], &self.u16(length), value].concat();
        option.resize(option.len().next_multiple_of(4), 0);
        option
    }
}

const BOTH: [Order; 2] = [Order::Little, Order::Big];

fn only_frame(bytes: &[u8]) -> Frame {
    match items(bytes).as_slice() {
        [Item::Frame(frame)] => frame.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_three_kinds_of_packets_are_read_and_other_blocks_skipped() {
    for order in BOTH {
        let mut file = File::with_ethernet(order, &[]);
        file.block(0x0bad_cafe, &[1; 64]);
        file.packet(0, 1_500_000, 3, b"one");
        let simple = [&file.u32(3)[..], b"two\0"].concat();
        file.block(SIMPLE_PACKET, &simple);
        let old = [
            file.u16(0).to_vec(),
            file.u16(9).to_vec(),
            [0, 2_000_000, 5, 77].map(|v| file.u32(v)).concat(),
            b"three\0\0\0".to_vec(),
        ]
        .concat();
        file.block(OLD_PACKET, &old);
        let read = items(&file.bytes);
        let frames: Vec<_> = read
            .iter()
            .map(|item| match item {
                Item::Frame(frame) => (frame.number, frame.time, frame.bytes.as_slice()),
                Item::Damage(damage) => panic!("{damage:?}"),
            })
            .collect();
        let expected: [(u64, Option<i128>, &[u8]); 3] = [
            (1, Some(1_500_000_000), b"one"),
            (2, None, b"two"),
            (3, Some(2_000_000_000), b"three"),
        ];
        assert_eq!(frames, expected, "{order:?}");
    }
}

#[test]
fn times_follow_the_resolution_and_the_offset_of_their_interface() {
    for (resolution, ticks, nanoseconds) in [
        (6, 5, 5_000),
        (9, 5, 5),
        (0, 5, 5_000_000_000),
        (12, 5_000, 5),
        (0x80, 5, 5_000_000_000),
        (0x8a, 512, 500_000_000),
        (0x7f, u64::MAX, 0),
        (0xff, u64::MAX, 0),
    ] {
        let options = File::new(Order::Big).option(RESOLUTION, &[resolution]);
        let mut file = File::with_ethernet(Order::Big, &options);
        file.packet(0, ticks, 1, b"a");
        let time = only_frame(&file.bytes).time;
        assert_eq!(time, Some(nanoseconds), "resolution {resolution:#x}");
    }
    let options = File::new(Order::Big).option(TIME_OFFSET, &(-3_i64).to_be_bytes());
    let mut file = File::with_ethernet(Order::Big, &options);
    file.packet(0, 0, 1, b"a");
    assert_eq!(only_frame(&file.bytes).time, Some(-3_000_000_000));
}

#[test]
fn each_section_has_its_order_and_its_interfaces() {
    let mut first = File::with_ethernet(Order::Little, &[]);
    first.packet(0, 0, 1, b"a");
    let mut second = File::new(Order::Big);
    second.packet(0, 0, 1, b"b");
    let raw = [second.u16(101).to_vec(), vec![0; 6]].concat();
    second.block(INTERFACE, &raw);
    second.packet(0, 0, 1, b"c");
    let told = told(&[first.bytes, second.bytes].concat());
    assert_eq!(
        told,
        [
            Ok(b"a".to_vec()),
            Err("a packet of an interface that was not described"),
            Ok(b"c".to_vec())
        ]
    );
}

#[test]
fn a_length_that_cannot_be_true_loses_the_rest() {
    for order in BOTH {
        for (length, said) in [
            (0, "below its frame"),
            (8, "below its frame"),
            (13, "not a multiple of four"),
            (0xffff_fffc, "the last block is cut"),
            (0xffff_ffff, "not a multiple of four"),
        ] {
            let mut file = File::with_ethernet(order, &[]);
            let at = file.bytes.len() + 4;
            file.packet(0, 0, 3, b"one");
            let length = file.u32(length);
            file.bytes[at..at + 4].copy_from_slice(&length);
            let told = told(&file.bytes);
            assert!(
                matches!(told.as_slice(), [Err(what)] if what.contains(said)),
                "{order:?} {length:?}: {told:?}"
            );
        }
    }
    let mut file = File::new(Order::Little);
    file.bytes[8] ^= 1;
    assert_eq!(
        told(&file.bytes),
        [Err("a section does not say its order of octets")]
    );
}

#[test]
fn a_packet_that_contradicts_itself_costs_only_itself() {
    let mut file = File::with_ethernet(Order::Little, &[]);
    file.packet(0, 0, 5, b"one");
    file.packet(0, 0, u32::MAX, b"one");
    file.block(PACKET, &[0; 8]);
    file.block(SIMPLE_PACKET, &[]);
    file.block(INTERFACE, &[0; 4]);
    let long = vec![0; MAX_BLOCK_LEN + 4];
    file.block(PACKET, &long);
    file.packet(0, 0, 4, b"last");
    let read = items(&file.bytes);
    let (last, rest) = read.split_last().unwrap();
    assert!(
        matches!(last, Item::Frame(frame) if frame.number == 6 && frame.bytes == b"last"),
        "{last:?}"
    );
    let said: Vec<_> = rest
        .iter()
        .map(|item| match item {
            Item::Damage(Damage { number, what, .. }) => (*number, *what),
            Item::Frame(frame) => panic!("{frame:?}"),
        })
        .collect();
    assert_eq!(
        said,
        [
            (1, "a packet longer than its block"),
            (2, "a packet longer than its block"),
            (3, "a packet block is cut"),
            (4, "a packet block is cut"),
            (5, "the description of an interface is cut"),
            (5, "a block is longer than any frame"),
        ]
    );
}

#[test]
fn options_that_make_no_sense_are_told_and_the_interface_stays() {
    let template = File::new(Order::Big);
    for options in [
        vec![0, 9],
        vec![0, 9, 0, 1],
        vec![0, 9, 0xff, 0xff, 6, 0, 0, 0],
        template.option(RESOLUTION, &[1, 2]),
        template.option(TIME_OFFSET, &[1, 2, 3, 4]),
    ] {
        let padded = {
            let mut padded = options.clone();
            padded.resize(padded.len().next_multiple_of(4), 0);
            padded
        };
        let mut file = File::with_ethernet(Order::Big, &padded);
        file.packet(0, 7, 1, b"a");
        let read = items(&file.bytes);
        let Some(Item::Frame(frame)) = read.last() else {
            panic!("{options:?}: {read:?}")
        };
        assert_eq!(frame.time, Some(7_000), "{options:?}");
        assert_eq!(read.len(), 2, "{options:?}: {read:?}");
    }
    let ended = [template.option(END_OF_OPTIONS, &[]), vec![0, 9, 0xff, 0xff]].concat();
    let mut file = File::with_ethernet(Order::Big, &ended);
    file.packet(0, 7, 1, b"a");
    only_frame(&file.bytes);
}

#[test]
fn the_two_lengths_must_agree() {
    let mut file = File::with_ethernet(Order::Little, &[]);
    file.packet(0, 0, 1, b"a");
    let last = file.bytes.len() - 4;
    file.bytes[last] ^= 4;
    file.packet(0, 0, 1, b"b");
    assert_eq!(
        told(&file.bytes),
        [
            Ok(b"a".to_vec()),
            Err("the two lengths of a block differ"),
            Ok(b"b".to_vec())
        ]
    );
}

#[test]
fn a_file_cut_anywhere_ends_quietly_or_says_so() {
    for order in BOTH {
        let mut file = File::with_ethernet(order, &[]);
        file.packet(0, 0, 3, b"one");
        let packet = file.bytes.len();
        file.packet(0, 0, 3, b"two");
        for cut in 4..file.bytes.len() {
            let told = told(&file.bytes[..cut]);
            let frames = told.iter().filter(|item| item.is_ok()).count();
            // A frame whose closing length is cut off is whole.
            assert_eq!(
                frames,
                usize::from(cut >= packet - 4) + usize::from(cut >= file.bytes.len() - 4),
                "{cut}"
            );
            let at_a_border = [28, 48, packet].contains(&cut);
            assert_eq!(
                told.last().is_some_and(Result::is_err),
                !at_a_border,
                "{order:?} {cut}: {told:?}"
            );
        }
    }
}

#[test]
fn a_simple_packet_is_as_long_as_the_snap_length_lets_it() {
    let mut file = File::new(Order::Little);
    let body = [file.u16(1).to_vec(), vec![0; 2], file.u32(2).to_vec()].concat();
    file.block(INTERFACE, &body);
    let simple = [&file.u32(100)[..], b"two\0"].concat();
    file.block(SIMPLE_PACKET, &simple);
    let frame = only_frame(&file.bytes);
    assert_eq!((frame.bytes.as_slice(), frame.wire_len), (&b"tw"[..], 100));
}
