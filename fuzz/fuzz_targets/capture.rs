//! No file makes `decode` panic, with or without keys.
//!
//! The input is a capture file. It is also used as one frame of every link layer, as a UDP payload on both ports, and as a key
//! table, so that the fuzzer need not guess the outer layers. Run on the stable toolchain with `cargo fuzz run -s none capture
//! fuzz/corpus/capture fuzz/seeds/capture`; the seeds are the captures of `tests/captures`.
#![no_main]

use groundlink::inspect::capture::{CaptureItem, CaptureReader, Frame, LinkType};
use groundlink::inspect::{Decoder, EspKeys, IkeKeys};
use libfuzzer_sys::fuzz_target;

/// The keys of the seeds.
const IKE: [&str; 3] = [
    include_str!("../../tests/captures/connect.ikev2_decryption_table"),
    include_str!("../../tests/captures/wrong-psk.ikev2_decryption_table"),
    include_str!("../../tests/captures/fragments-rekey.ikev2_decryption_table"),
];
const ESP: [&str; 2] = [
    include_str!("../../tests/captures/connect.esp_sa"),
    include_str!("../../tests/captures/fragments-rekey.esp_sa"),
];

/// Null, Ethernet, raw, loopback, cooked, IPv4, IPv6, cooked 2, and an unknown link layer.
const LINKS: [u16; 9] = [0, 1, 101, 108, 113, 228, 229, 276, 105];

fuzz_target!(|input: &[u8]| {
    file(input, Decoder::default());
    file(input, with_keys());
    let links = LINKS.map(|link| (link, input.to_vec()));
    let ports = [500, 4500].map(|port| (101, datagram(port, input)));
    frames(links.into_iter().chain(ports), with_keys());
    if let Ok(text) = std::str::from_utf8(input) {
        let _ = IkeKeys::parse(text);
        let _ = EspKeys::parse(text);
    }
});

fn with_keys() -> Decoder {
    let ike = IkeKeys::parse(&IKE.concat()).expect("the tables of the tests are good");
    let esp = EspKeys::parse(&ESP.concat()).expect("the tables of the tests are good");
    Decoder::new(ike, esp)
}

/// The reader terminates and returns at most one item for each octet of the file.
fn file(input: &[u8], mut decoder: Decoder) {
    let Ok(mut reader) = CaptureReader::open(input) else {
        return;
    };
    let mut items = 0;
    while let Some(item) = reader.next_item().expect("a slice can be read") {
        items += 1;
        assert!(items <= input.len(), "more items than octets");
        decode_item(&mut decoder, &item);
    }
    let _ = decoder.summary();
}

fn frames(frames: impl Iterator<Item = (u16, Vec<u8>)>, mut decoder: Decoder) {
    for (link, bytes) in frames {
        let item = CaptureItem::Frame(Frame {
            number: 1,
            time: None,
            link: LinkType(link),
            bytes,
            wire_len: 0,
        });
        // Decoded twice: a retransmission has its own code path.
        decode_item(&mut decoder, &item);
        decode_item(&mut decoder, &item);
    }
    let _ = decoder.summary();
}

fn decode_item(decoder: &mut Decoder, item: &CaptureItem) {
    if let Some(line) = decoder.item(item) {
        assert!(!line.to_string().is_empty());
        line.json().expect("every line is an object");
    }
}

/// An IPv4 packet around a datagram.
fn datagram(port: u16, payload: &[u8]) -> Vec<u8> {
    let payload = &payload[..payload.len().min(60_000)];
    let udp = u16::try_from(payload.len() + 8).expect("cut above");
    let mut packet = vec![0x45, 0];
    packet.extend((udp + 20).to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
    packet.extend([port, port, udp, 0].map(u16::to_be_bytes).concat());
    packet.extend(payload);
    packet
}
