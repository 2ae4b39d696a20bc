//! Frames of every kind, and their summary.

use etherparse::PacketBuilder;

use super::*;
use crate::crypto::IkeProposal;
use crate::ike;
use crate::inspect::capture::LinkType;
use crate::net::Packet;
use crate::net::fragment::fragments;
use crate::wire::{ExchangeType, Flags, IkeSpi, Ke, MessageId, Notify, NotifyType};

const RAW: LinkType = LinkType(101);

/// A decoder and the number of its frames.
struct Session {
    decoder: Decoder,
    number: u64,
}

impl Session {
    fn new() -> Session {
        Session {
            decoder: Decoder::default(),
            number: 0,
        }
    }

    fn link(&mut self, link: LinkType, bytes: &[u8]) -> Option<String> {
        self.number += 1;
        let frame = Frame {
            number: self.number,
            time: Some(i128::from(self.number) * 1_000_000_000),
            link,
            bytes: bytes.to_vec(),
            wire_len: 0,
        };
        let record = self.decoder.item(&CaptureItem::Frame(frame))?;
        Some(record.json().unwrap())
    }

    fn ip(&mut self, bytes: &[u8]) -> Option<String> {
        self.link(RAW, bytes)
    }

    /// An IKE message on port 500; host 1 to host 2 or back.
    fn ike(&mut self, from: u8, message: &[u8]) -> String {
        self.ip(&udp(from, 500, message)).unwrap()
    }

    fn summary(self) -> String {
        self.decoder.summary().join("\n")
    }
}

fn udp(from: u8, port: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ipv4([192, 0, 2, from], [192, 0, 2, 3 - from], 64)
        .udp(port, port)
        .write(&mut bytes, payload)
        .unwrap();
    bytes
}

fn message(
    spi_i: u64,
    exchange: ExchangeType,
    id: u32,
    response: bool,
    payloads: &[Payload],
) -> Vec<u8> {
    let flags = Flags {
        initiator: !response,
        response,
        version: false,
    };
    let header = Header::new(IkeSpi(spi_i), IkeSpi(0), exchange, flags, MessageId(id));
    Message::encode_clear(header, payloads).unwrap()
}

fn init(spi_i: u64, words: &str) -> Vec<u8> {
    let proposal = IkeProposal::parse(words).unwrap().0;
    let payloads = [
        Payload::Sa(ike::offer_ike(&[proposal], &[])),
        Payload::Ke(Ke {
            group: 2,
            data: vec![0; 128],
        }),
        Payload::Nonce(vec![0; 32]),
    ];
    message(spi_i, ExchangeType::IKE_SA_INIT, 0, false, &payloads)
}

fn response(spi_i: u64, kind: NotifyType, data: &[u8]) -> Vec<u8> {
    let notify = Payload::Notify(Notify::new(kind, data.to_vec()));
    message(spi_i, ExchangeType::IKE_SA_INIT, 0, true, &[notify])
}

#[test]
fn a_message_in_ip_fragments_is_decoded_with_the_last_fragment() {
    let mut packet = udp(1, 500, &init(1, "aes128-sha1-modp1024"));
    packet[6] = 0;
    let pieces: Vec<Vec<u8>> = fragments(&Packet::parse(&packet).unwrap(), 100)
        .unwrap()
        .map(|fragment| {
            let mut out = vec![0; fragment.len()];
            assert!(fragment.write(&mut out));
            out
        })
        .collect();
    let mut session = Session::new();
    let (last, before) = pieces.split_last().unwrap();
    for piece in before {
        assert_eq!(session.ip(piece), None);
    }
    assert!(session.ip(last).unwrap().contains("aes128-sha1-modp1024"));
    assert_eq!(session.ip(&pieces[0]), None);
    let summary = session.summary();
    assert!(summary.contains("1 IP packet with missing"), "{summary}");
    assert!(summary.contains("IP fragments of packets"), "{summary}");
    assert!(!summary.contains("neither IKE nor ESP"), "{summary}");
}

#[test]
fn keepalives_native_esp_and_other_traffic_are_distinguished() {
    let mut session = Session::new();
    let keepalive = session.ip(&udp(1, 4500, &[0xff])).unwrap();
    assert!(keepalive.contains("\"keepalive\":true"), "{keepalive}");
    let mut native = udp(1, 1, &[0; 8]);
    native[9] = 50;
    let native = session.ip(&native).unwrap();
    assert!(
        native
            .contains("\"src\":\"192.0.2.1\",\"dst\":\"192.0.2.2\",\"esp\":{\"spi\":\"00010001\""),
        "{native}"
    );
    assert_eq!(session.ip(&udp(1, 53, b"what is the address")), None);
    assert_eq!(session.link(LinkType(105), b"beacon"), None);
    let summary = session.summary();
    for expected in [
        "1 NAT keepalive",
        "1 frame of neither",
        "1 frame of an unsupported link type",
        "no keys",
    ] {
        assert!(summary.contains(expected), "{expected}: {summary}");
    }
}

#[test]
fn errors_have_an_offset_and_decoding_continues() {
    let good = udp(1, 500, &init(1, "aes128-sha1-modp1024"));
    let mut session = Session::new();
    let mut short_message = init(1, "aes128-sha1-modp1024");
    short_message.truncate(60);
    let mut version_3 = init(1, "aes128-sha1-modp1024");
    version_3[17] = 0x30;
    let mut inside = init(1, "aes128-sha1-modp1024");
    inside[30] = 0xff;
    let without_ke = message(
        1,
        ExchangeType::IKE_SA_INIT,
        0,
        false,
        &[Payload::Nonce(vec![0; 32])],
    );
    for (frame, expected) in [
        (good[..15].to_vec(), "octet 0"),
        (good[..60].to_vec(), "only a part of the packet"),
        (
            udp(1, 500, &short_message),
            "length differs from that of the datagram at octet 24 of the message",
        ),
        (udp(1, 500, &version_3), "IKE version 3, at octet 17"),
        (udp(1, 500, &inside), "exceeds the message at octet"),
        (udp(1, 500, &without_ke), "payload SA is missing"),
        (udp(1, 500, &[]), "octet 0 of the message"),
        (udp(1, 4500, &[1, 2]), "neither IKE nor ESP"),
        (
            udp(1, 4500, &[1, 2, 3, 4, 5]),
            "ESP header truncated at octet 5",
        ),
    ] {
        let line = session.ip(&frame).unwrap();
        assert!(
            line.contains("\"error\":") && line.contains(expected),
            "{expected}: {line}"
        );
    }
    assert!(!session.ip(&good).unwrap().contains("error"));
    let cut = session.link(LinkType(1), &[0; 13]).unwrap();
    assert!(
        cut.contains("Ethernet header truncated at octet 13"),
        "{cut}"
    );
    assert!(session.summary().contains("10 packets with an error"));
}

#[test]
fn a_rejected_group_a_cookie_and_a_retransmission_are_summarized() {
    let mut session = Session::new();
    let request = init(1, "aes128-sha1-modp1024");
    session.ike(1, &request);
    session.ike(1, &request);
    session.ike(2, &response(1, NotifyType::COOKIE, &[7; 20]));
    session.ike(1, &init(1, "aes128-sha1-modp1024-modp2048"));
    session.ike(2, &response(1, NotifyType::INVALID_KE_PAYLOAD, &[0, 14]));
    session.ike(1, &init(1, "aes128-sha1-modp2048"));
    session.ike(2, &response(9, NotifyType::NO_PROPOSAL_CHOSEN, &[]));
    let summary = session.summary();
    for expected in [
        "192.0.2.2 requested a cookie from 192.0.2.1",
        "it requests modp2048 (14) instead of modp1024 (2)",
        "1 retransmitted messages",
        "the request from 192.0.2.1 has no response in this capture",
        "192.0.2.2 responded to a request that is not in this capture",
    ] {
        assert!(summary.contains(expected), "{expected}: {summary}");
    }
}

#[test]
fn memory_is_bounded() {
    let mut session = Session::new();
    for spi in 1..=3000 {
        session.ike(1, &init(spi, "aes128-sha1-modp1024"));
    }
    for id in 0..2000 {
        session.ike(1, &message(1, ExchangeType::INFORMATIONAL, id, false, &[]));
    }
    for spi in 256..3000_u32 {
        let esp = [spi.to_be_bytes(), [0, 0, 0, 1]].concat();
        session.ip(&udp(1, 4500, &esp)).unwrap();
    }
    let summary = session.summary();
    assert!(
        summary.lines().count() < 3000,
        "{}",
        summary.lines().count()
    );
    for expected in [
        "further IKE SAs",
        "further SPIs",
        "more exchanges are not in the summary",
    ] {
        assert!(summary.contains(expected), "{expected}");
    }
}

#[test]
fn time_is_relative_to_the_first_frame() {
    let mut session = Session::new();
    assert_eq!(session.ip(&udp(1, 53, b"")), None);
    let line = session.ike(1, &init(1, "aes128-sha1-modp1024"));
    assert!(line.starts_with("{\"n\":2,\"time_s\":1.0,"), "{line}");
}

/// An IKE message of SPIs 1 and 2 with an encrypted payload that holds this many octets.
fn sealed(exchange: u8, response: bool, id: u8, octets: u16) -> Vec<u8> {
    let mut bytes = vec![0; 28 + 4 + usize::from(octets)];
    (bytes[7], bytes[15], bytes[16], bytes[17]) = (1, 2, 46, 0x20);
    (bytes[18], bytes[19]) = (exchange, if response { 0x20 } else { 0x08 });
    bytes[23] = id;
    let length = u32::try_from(bytes.len()).unwrap();
    bytes[24..28].copy_from_slice(&length.to_be_bytes());
    bytes[30..32].copy_from_slice(&(octets + 4).to_be_bytes());
    bytes
}

#[test]
fn a_short_response_to_an_encrypted_create_child_sa_is_a_likely_rejection() {
    let mut session = Session::new();
    session.ike(1, &sealed(36, false, 5, 240));
    session.ike(2, &sealed(36, true, 5, 44));
    session.ike(1, &sealed(36, false, 6, 240));
    session.ike(2, &sealed(36, true, 6, 240));
    let summary = session.summary();
    assert_eq!(
        summary.matches("most likely NO_PROPOSAL_CHOSEN").count(),
        1,
        "{summary}"
    );
    assert!(
        summary.contains("CREATE_CHILD_SA 5: ") && summary.contains("192.0.2.2 rejected"),
        "{summary}"
    );
}

#[test]
fn a_repetition_names_its_first_frame_and_json_has_the_note() {
    let mut session = Session::new();
    let message = sealed(35, false, 1, 200);
    assert!(!session.ike(1, &message).contains("note"));
    session.ike(1, &sealed(35, false, 2, 200));
    let again = session.ike(1, &message);
    assert!(again.contains("\"note\":\"a repetition of #1\""), "{again}");
    assert!(
        again.contains("\"encrypted\":true") && !again.contains("authentic"),
        "{again}"
    );
}

#[test]
fn an_ikev1_message_is_named_and_counted() {
    let mut message = init(1, "aes128-sha1-modp1024");
    for (exchange, name) in [
        (2, "IKEv1 Main Mode"),
        (32, "IKEv1 Quick Mode"),
        (99, "IKEv1 exchange 99"),
    ] {
        let mut session = Session::new();
        (message[17], message[18]) = (0x10, exchange);
        let shown = session.ike(1, &message);
        assert!(
            shown.contains(&format!("\"exchange\":\"{name}\"")),
            "{shown}"
        );
        assert!(!shown.contains("error"), "{shown}");
        let summary = session.summary();
        assert!(summary.contains("1 message of IKEv1"), "{summary}");
    }
}

#[test]
fn packets_cut_by_the_snap_length_show_their_addresses_and_are_few() {
    let whole = udp(1, 500, &init(1, "aes128-sha1-modp1024"));
    let mut session = Session::new();
    let shown: Vec<String> = (0..10).filter_map(|_| session.ip(&whole[..60])).collect();
    assert_eq!(shown.len(), 3);
    assert!(
        shown[0].contains("\"src\":\"192.0.2.1\",\"dst\":\"192.0.2.2\""),
        "{}",
        shown[0]
    );
    let summary = session.summary();
    assert!(
        summary.contains("10 packets of which the capture holds only a part"),
        "{summary}"
    );
}

#[test]
fn records_and_the_summary_have_the_time_of_day() {
    for (seconds, expected) in [
        (0, "1970-01-01T00:00:00.000000Z"),
        (951_868_800, "2000-03-01T00:00:00.000000Z"),
        (1_709_164_799, "2024-02-28T23:59:59.000000Z"),
        (1_709_164_800, "2024-02-29T00:00:00.000000Z"),
        (-1, "1969-12-31T23:59:59.000000Z"),
    ] {
        assert_eq!(time_of_day(seconds * 1_000_000_000), expected);
    }
    assert_eq!(time_of_day(1_234_567), "1970-01-01T00:00:00.001234Z");
    let mut session = Session::new();
    let shown = session.ike(1, &init(1, "aes128-sha1-modp1024"));
    assert!(
        shown.contains("\"time\":\"1970-01-01T00:00:01.000000Z\""),
        "{shown}"
    );
    session.ip(&udp(1, 53, b"x"));
    let times = "captured from 1970-01-01T00:00:01.000000Z to 1970-01-01T00:00:02.000000Z";
    let summary = session.summary();
    assert!(summary.contains(times), "{summary}");
}
