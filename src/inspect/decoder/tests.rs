//! Frames of every kind, and what the summary makes of them.

use etherparse::PacketBuilder;

use super::*;
use crate::crypto::IkeProposal;
use crate::ike;
use crate::inspect::capture::LinkType;
use crate::net::fragment::fragments;
use crate::wire::{ExchangeType, Flags, IkeSpi, Ke, MessageId, Notify, NotifyType};

const RAW: LinkType = LinkType(101);

/// A decoder and the frames it is shown.
struct Watched {
    decoder: Decoder,
    number: u64,
}

impl Watched {
    fn new() -> Watched {
        Watched {
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
        let line = self.decoder.item(&Item::Frame(frame))?;
        Some(line.json().unwrap())
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

fn answer(spi_i: u64, kind: NotifyType, data: &[u8]) -> Vec<u8> {
    let notify = Payload::Notify(Notify::new(kind, data.to_vec()));
    message(spi_i, ExchangeType::IKE_SA_INIT, 0, true, &[notify])
}

#[test]
fn a_message_in_fragments_of_ip_is_read_with_the_last_of_them() {
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
    let mut watched = Watched::new();
    let (last, before) = pieces.split_last().unwrap();
    for piece in before {
        assert_eq!(watched.ip(piece), None);
    }
    assert!(watched.ip(last).unwrap().contains("aes128-sha1-modp1024"));
    assert_eq!(watched.ip(&pieces[0]), None);
    assert!(watched.summary().contains("1 IP packets whose fragments"));
}

#[test]
fn keepalives_native_esp_and_other_traffic_are_told_apart() {
    let mut watched = Watched::new();
    let keepalive = watched.ip(&udp(1, 4500, &[0xff])).unwrap();
    assert!(keepalive.contains("\"keepalive\":true"), "{keepalive}");
    let mut native = udp(1, 1, &[0; 8]);
    native[9] = 50;
    let native = watched.ip(&native).unwrap();
    assert!(
        native
            .contains("\"src\":\"192.0.2.1\",\"dst\":\"192.0.2.2\",\"esp\":{\"spi\":\"00010001\""),
        "{native}"
    );
    assert_eq!(watched.ip(&udp(1, 53, b"what is the address")), None);
    assert_eq!(watched.link(LinkType(105), b"beacon"), None);
    let summary = watched.summary();
    for said in [
        "1 NAT keepalives",
        "1 frames are neither",
        "1 frames of a link type",
        "no keys",
    ] {
        assert!(summary.contains(said), "{said}: {summary}");
    }
}

#[test]
fn what_is_broken_says_where_and_the_rest_goes_on() {
    let good = udp(1, 500, &init(1, "aes128-sha1-modp1024"));
    let mut watched = Watched::new();
    let mut short_message = init(1, "aes128-sha1-modp1024");
    short_message.truncate(60);
    let mut version_1 = init(1, "aes128-sha1-modp1024");
    version_1[17] = 0x10;
    let mut inside = init(1, "aes128-sha1-modp1024");
    inside[30] = 0xff;
    let without_ke = message(
        1,
        ExchangeType::IKE_SA_INIT,
        0,
        false,
        &[Payload::Nonce(vec![0; 32])],
    );
    for (frame, said) in [
        (good[..15].to_vec(), "octet 0"),
        (good[..60].to_vec(), "only a part of the packet"),
        (
            udp(1, 500, &short_message),
            "length is not the datagram's at octet 24 of the message",
        ),
        (udp(1, 500, &version_1), "IKE version 1, at octet 17"),
        (udp(1, 500, &inside), "beyond the message at octet"),
        (udp(1, 500, &without_ke), "payload SA is missing"),
        (udp(1, 500, &[]), "octet 0 of the message"),
        (udp(1, 4500, &[1, 2]), "neither IKE nor ESP"),
        (
            udp(1, 4500, &[1, 2, 3, 4, 5]),
            "ESP cut inside its header at octet 5",
        ),
    ] {
        let line = watched.ip(&frame).unwrap();
        assert!(
            line.contains("\"error\":") && line.contains(said),
            "{said}: {line}"
        );
    }
    assert!(!watched.ip(&good).unwrap().contains("error"));
    let cut = watched.link(LinkType(1), &[0; 13]).unwrap();
    assert!(cut.contains("Ethernet header cut at octet 12"), "{cut}");
    assert!(watched.summary().contains("10 packets with an error"));
}

#[test]
fn a_refused_group_a_cookie_and_a_repetition_are_summed_up() {
    let mut watched = Watched::new();
    let request = init(1, "aes128-sha1-modp1024");
    watched.ike(1, &request);
    watched.ike(1, &request);
    watched.ike(2, &answer(1, NotifyType::COOKIE, &[7; 20]));
    watched.ike(1, &init(1, "aes128-sha1-modp1024-modp2048"));
    watched.ike(2, &answer(1, NotifyType::INVALID_KE_PAYLOAD, &[0, 14]));
    watched.ike(1, &init(1, "aes128-sha1-modp2048"));
    watched.ike(2, &answer(9, NotifyType::NO_PROPOSAL_CHOSEN, &[]));
    let summary = watched.summary();
    for said in [
        "192.0.2.2 asked 192.0.2.1 to try again with a cookie",
        "it wants a key exchange of modp2048 (14), not modp1024 (2)",
        "1 messages were sent again",
        "the request of 192.0.2.1 has no answer in this capture",
        "192.0.2.2 answered a request that is not in this capture",
    ] {
        assert!(summary.contains(said), "{said}: {summary}");
    }
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut watched = Watched::new();
    for spi in 1..=3000 {
        watched.ike(1, &init(spi, "aes128-sha1-modp1024"));
    }
    for id in 0..2000 {
        watched.ike(1, &message(1, ExchangeType::INFORMATIONAL, id, false, &[]));
    }
    for spi in 256..3000_u32 {
        let esp = [spi.to_be_bytes(), [0, 0, 0, 1]].concat();
        watched.ip(&udp(1, 4500, &esp)).unwrap();
    }
    let summary = watched.summary();
    assert!(
        summary.lines().count() < 3000,
        "{}",
        summary.lines().count()
    );
    for said in [
        "further IKE SAs",
        "further SPIs",
        "more exchanges are not summed up",
    ] {
        assert!(summary.contains(said), "{said}");
    }
}

#[test]
fn time_counts_from_the_first_frame() {
    let mut watched = Watched::new();
    assert_eq!(watched.ip(&udp(1, 53, b"")), None);
    let line = watched.ike(1, &init(1, "aes128-sha1-modp1024"));
    assert!(line.starts_with("{\"n\":2,\"time_s\":1.0,"), "{line}");
}
