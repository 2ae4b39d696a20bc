//! Corners of pcap and pcapng, in both byte orders.

use super::*;

/// Byte order of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Little,
    Big,
}

const ORDERS: [Order; 2] = [Order::Little, Order::Big];

fn u32_in(order: Order, value: u32) -> [u8; 4] {
    match order {
        Order::Little => value.to_le_bytes(),
        Order::Big => value.to_be_bytes(),
    }
}

/// Everything in a file.
fn items(bytes: &[u8]) -> Vec<CaptureItem> {
    let mut reader = CaptureReader::open(bytes).unwrap();
    let mut items = Vec::new();
    while let Some(item) = reader.next_item().unwrap() {
        items.push(item);
        assert!(items.len() <= bytes.len(), "the reader does not end");
    }
    items
}

/// The octets of each frame, and the description of each damage.
fn outcomes(bytes: &[u8]) -> Vec<Result<Vec<u8>, &'static str>> {
    let outcome = |item| match item {
        CaptureItem::Frame(frame) => Ok(frame.bytes),
        CaptureItem::Damage(damage) => Err(damage.what),
    };
    items(bytes).into_iter().map(outcome).collect()
}

#[test]
fn other_files_are_rejected() {
    assert!(matches!(
        CaptureReader::open(&[][..]),
        Err(CaptureError::Empty)
    ));
    for bytes in [&b"abc"[..], b"#!/bin/sh\n", &[0; 100], &[0xd4, 0xc3, 0xb2]] {
        assert!(
            matches!(CaptureReader::open(bytes), Err(CaptureError::UnknownFormat)),
            "{bytes:?}"
        );
    }
}

const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;

fn pcap_header(order: Order, magic: u32) -> Vec<u8> {
    let mut file = u32_in(order, magic).to_vec();
    file.extend([0; 16]);
    file.extend(u32_in(order, 0x3000_0001));
    file
}

fn record(order: Order, times: [u32; 2], bytes: &[u8]) -> Vec<u8> {
    let len = u32::try_from(bytes.len()).unwrap();
    let mut record = [times[0], times[1], len, len + 5]
        .map(|value| u32_in(order, value))
        .concat();
    record.extend(bytes);
    record
}

#[test]
fn both_byte_orders_and_time_units_are_read() {
    for order in ORDERS {
        for (magic, nanoseconds) in [(MICROSECONDS, 7_000_009_000), (NANOSECONDS, 7_000_000_009)] {
            let bytes = [pcap_header(order, magic), record(order, [7, 9], b"frame")].concat();
            let read = items(&bytes);
            let [CaptureItem::Frame(frame)] = read.as_slice() else {
                panic!("{order:?}: {read:?}")
            };
            assert_eq!((frame.number, frame.link), (1, LinkType(1)));
            assert_eq!((frame.time, frame.wire_len), (Some(nanoseconds), 10));
            assert_eq!(frame.bytes, b"frame");
        }
    }
}

#[test]
fn a_truncated_pcap_file_yields_its_whole_records_and_a_damage() {
    let order = Order::Little;
    let start = pcap_header(order, MICROSECONDS);
    let one = record(order, [1, 0], b"one");
    let two = record(order, [2, 0], b"second");
    let whole = [start.clone(), one.clone(), two].concat();
    for cut in start.len()..whole.len() {
        let outcomes = outcomes(&whole[..cut]);
        let behind_one = start.len() + one.len();
        let frames = outcomes.iter().filter(|item| item.is_ok()).count();
        assert_eq!(frames, usize::from(cut >= behind_one), "{cut}");
        let at_a_border = cut == start.len() || cut == behind_one;
        assert_eq!(
            outcomes.last().is_some_and(Result::is_err),
            !at_a_border,
            "{cut}"
        );
    }
    for cut in 1..start.len() {
        assert!(CaptureReader::open(&start[..cut]).is_err(), "{cut}");
    }
}

#[test]
fn a_record_longer_than_any_frame_is_not_allocated() {
    let order = Order::Little;
    for length in [MAX_FRAME_LEN as u32 + 1, u32::MAX] {
        let mut bytes = [
            pcap_header(order, MICROSECONDS),
            record(order, [1, 0], b"a"),
        ]
        .concat();
        bytes.extend([0; 8]);
        bytes.extend(u32_in(order, length));
        bytes.extend([0; 100]);
        let outcomes = outcomes(&bytes);
        assert_eq!(outcomes.len(), 2);
        assert!(
            outcomes[1]
                .as_ref()
                .is_err_and(|what| what.contains("longer than any frame"))
        );
    }
}

const SECTION_HEADER: u32 = u32::from_be_bytes(SECTION_TYPE);

/// A pcapng file under construction.
struct Pcapng {
    order: Order,
    bytes: Vec<u8>,
}

impl Pcapng {
    /// With a section header and no interface.
    fn new(order: Order) -> Pcapng {
        let mut file = Pcapng {
            order,
            bytes: Vec::new(),
        };
        let body = [file.u32(0x1a2b_3c4d).to_vec(), vec![0; 12]].concat();
        file.block(SECTION_HEADER, &body);
        file
    }

    fn with_ethernet(order: Order, options: &[u8]) -> Pcapng {
        let mut file = Pcapng::new(order);
        let body = [file.u16(1).to_vec(), vec![0; 6], options.to_vec()].concat();
        file.block(INTERFACE_DESCRIPTION, &body);
        file
    }

    fn u16(&self, value: u16) -> [u8; 2] {
        match self.order {
            Order::Little => value.to_le_bytes(),
            Order::Big => value.to_be_bytes(),
        }
    }

    fn u32(&self, value: u32) -> [u8; 4] {
        u32_in(self.order, value)
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
        self.block(ENHANCED_PACKET, &body);
    }

    fn option(&self, code: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len()).unwrap();
        let mut option = [&self.u16(code)[..], &self.u16(length), value].concat();
        option.resize(option.len().next_multiple_of(4), 0);
        option
    }
}

fn only_frame(bytes: &[u8]) -> Frame {
    match items(bytes).as_slice() {
        [CaptureItem::Frame(frame)] => frame.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn enhanced_simple_and_obsolete_packets_are_read_and_other_blocks_skipped() {
    for order in ORDERS {
        let mut file = Pcapng::with_ethernet(order, &[]);
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
        file.block(OBSOLETE_PACKET, &old);
        let read = items(&file.bytes);
        let frames: Vec<_> = read
            .iter()
            .map(|item| match item {
                CaptureItem::Frame(frame) => (frame.number, frame.time, frame.bytes.as_slice()),
                CaptureItem::Damage(damage) => panic!("{damage:?}"),
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
        let options = Pcapng::new(Order::Big).option(9, &[resolution]);
        let mut file = Pcapng::with_ethernet(Order::Big, &options);
        file.packet(0, ticks, 1, b"a");
        let time = only_frame(&file.bytes).time;
        assert_eq!(time, Some(nanoseconds), "resolution {resolution:#x}");
    }
    let options = Pcapng::new(Order::Big).option(14, &(-3_i64).to_be_bytes());
    let mut file = Pcapng::with_ethernet(Order::Big, &options);
    file.packet(0, 0, 1, b"a");
    assert_eq!(only_frame(&file.bytes).time, Some(-3_000_000_000));
}

#[test]
fn each_section_has_its_own_byte_order_and_interfaces() {
    let mut first = Pcapng::with_ethernet(Order::Little, &[]);
    first.packet(0, 0, 1, b"a");
    let mut second = Pcapng::new(Order::Big);
    second.packet(0, 0, 1, b"b");
    let raw = [second.u16(101).to_vec(), vec![0; 6]].concat();
    second.block(INTERFACE_DESCRIPTION, &raw);
    second.packet(0, 0, 1, b"c");
    let outcomes = outcomes(&[first.bytes, second.bytes].concat());
    assert_eq!(
        outcomes,
        [
            Ok(b"a".to_vec()),
            Err("a packet of an interface that was not described"),
            Ok(b"c".to_vec())
        ]
    );
}

#[test]
fn an_impossible_block_length_ends_the_file() {
    for order in ORDERS {
        for (length, expected) in [
            (0, "below its minimum"),
            (8, "below its minimum"),
            (13, "not a multiple of four"),
            (0xffff_fffc, "the last block is truncated"),
            (0xffff_ffff, "not a multiple of four"),
        ] {
            let mut file = Pcapng::with_ethernet(order, &[]);
            let at = file.bytes.len() + 4;
            file.packet(0, 0, 3, b"one");
            let length = file.u32(length);
            file.bytes[at..at + 4].copy_from_slice(&length);
            let outcomes = outcomes(&file.bytes);
            assert!(
                matches!(outcomes.as_slice(), [Err(what)] if what.contains(expected)),
                "{order:?} {length:?}: {outcomes:?}"
            );
        }
    }
    let mut file = Pcapng::new(Order::Little);
    file.bytes[8] ^= 1;
    assert_eq!(
        outcomes(&file.bytes),
        [Err("a section header without a valid byte-order magic")]
    );
}

#[test]
fn a_damaged_packet_block_costs_only_itself() {
    let mut file = Pcapng::with_ethernet(Order::Little, &[]);
    file.packet(0, 0, 5, b"one");
    file.packet(0, 0, u32::MAX, b"one");
    file.block(ENHANCED_PACKET, &[0; 8]);
    file.block(SIMPLE_PACKET, &[]);
    file.block(INTERFACE_DESCRIPTION, &[0; 4]);
    let long = vec![0; MAX_BLOCK_LEN + 4];
    file.block(ENHANCED_PACKET, &long);
    file.packet(0, 0, 4, b"last");
    let read = items(&file.bytes);
    let (last, rest) = read.split_last().unwrap();
    assert!(
        matches!(last, CaptureItem::Frame(frame) if frame.number == 6 && frame.bytes == b"last"),
        "{last:?}"
    );
    let damages: Vec<_> = rest
        .iter()
        .map(|item| match item {
            CaptureItem::Damage(Damage { number, what, .. }) => (*number, *what),
            CaptureItem::Frame(frame) => panic!("{frame:?}"),
        })
        .collect();
    assert_eq!(
        damages,
        [
            (1, "the fields of a packet block contradict its length"),
            (2, "the fields of a packet block contradict its length"),
            (3, "the fields of a packet block contradict its length"),
            (4, "the fields of a packet block contradict its length"),
            (5, "an interface description is too short"),
            (5, "a block is longer than any frame"),
        ]
    );
}

#[test]
fn damaged_options_are_reported_and_the_interface_is_kept() {
    let template = Pcapng::new(Order::Big);
    for options in [
        vec![0, 9],
        vec![0, 9, 0, 1],
        vec![0, 9, 0xff, 0xff, 6, 0, 0, 0],
        template.option(9, &[1, 2]),
        template.option(14, &[1, 2, 3, 4]),
    ] {
        let padded = {
            let mut padded = options.clone();
            padded.resize(padded.len().next_multiple_of(4), 0);
            padded
        };
        let mut file = Pcapng::with_ethernet(Order::Big, &padded);
        file.packet(0, 7, 1, b"a");
        let read = items(&file.bytes);
        let Some(CaptureItem::Frame(frame)) = read.last() else {
            panic!("{options:?}: {read:?}")
        };
        assert_eq!(frame.time, Some(7_000), "{options:?}");
        assert_eq!(read.len(), 2, "{options:?}: {read:?}");
    }
    let ended = [template.option(0, &[]), vec![0, 9, 0xff, 0xff]].concat();
    let mut file = Pcapng::with_ethernet(Order::Big, &ended);
    file.packet(0, 7, 1, b"a");
    only_frame(&file.bytes);
}

#[test]
fn the_two_lengths_of_a_block_must_agree() {
    let mut file = Pcapng::with_ethernet(Order::Little, &[]);
    file.packet(0, 0, 1, b"a");
    let last = file.bytes.len() - 4;
    file.bytes[last] ^= 4;
    file.packet(0, 0, 1, b"b");
    assert_eq!(
        outcomes(&file.bytes),
        [
            Ok(b"a".to_vec()),
            Err("the two lengths of a block differ"),
            Ok(b"b".to_vec())
        ]
    );
}

#[test]
fn a_truncated_pcapng_file_ends_at_a_block_boundary_or_with_a_damage() {
    for order in ORDERS {
        let mut file = Pcapng::with_ethernet(order, &[]);
        file.packet(0, 0, 3, b"one");
        let packet = file.bytes.len();
        file.packet(0, 0, 3, b"two");
        for cut in 4..file.bytes.len() {
            let outcomes = outcomes(&file.bytes[..cut]);
            let frames = outcomes.iter().filter(|item| item.is_ok()).count();
            // A frame whose closing length is cut off is whole.
            assert_eq!(
                frames,
                usize::from(cut >= packet - 4) + usize::from(cut >= file.bytes.len() - 4),
                "{cut}"
            );
            let at_a_border = [28, 48, packet].contains(&cut);
            assert_eq!(
                outcomes.last().is_some_and(Result::is_err),
                !at_a_border,
                "{order:?} {cut}: {outcomes:?}"
            );
        }
    }
}

#[test]
fn a_simple_packet_is_limited_by_the_snap_length() {
    let mut file = Pcapng::new(Order::Little);
    let body = [file.u16(1).to_vec(), vec![0; 2], file.u32(2).to_vec()].concat();
    file.block(INTERFACE_DESCRIPTION, &body);
    let simple = [&file.u32(100)[..], b"two\0"].concat();
    file.block(SIMPLE_PACKET, &simple);
    let frame = only_frame(&file.bytes);
    assert_eq!((frame.bytes.as_slice(), frame.wire_len), (&b"tw"[..], 100));
}
