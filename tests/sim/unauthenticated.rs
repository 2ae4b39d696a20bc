//! Floods of IKE_SA_INIT requests: cookies, limits by source, and the cost of a rejection (RFC 7296 §2.6, RFC 8019).

use std::time::Duration;

use groundlink::crypto::{Generator, IkeProposal};
use groundlink::ike::{Command, Content, Datagram, DropClass, Settings, TunnelId, TunnelState};
use groundlink::wire::{ExchangeType, Header, Message, Notify, NotifyType, Payload};

use crate::pair::{Pair, Side, TUNNEL, settings};

const SECOND: Duration = Duration::from_secs(1);

/// The IKE_SA_INIT request of a compliant A.
fn init() -> Vec<u8> {
    Pair::new(settings(Side::A), settings(Side::B))
        .a
        .sent_ike(0)
}

/// The same request with another SPI.
fn init_of(spi: u64) -> Vec<u8> {
    let mut bytes = init();
    bytes[..8].copy_from_slice(&spi.to_be_bytes());
    bytes
}

/// The same request with this notification first.
fn with_first_payload(notify: NotifyType, data: &[u8], request: &[u8]) -> Vec<u8> {
    let message = Message::parse(request).unwrap();
    let mut payloads = vec![Payload::Notify(Notify::new(notify, data.to_vec()))];
    payloads.extend(message.clear);
    Message::encode_clear(message.header, &payloads).unwrap()
}

fn with_cookie(cookie: &[u8], request: &[u8]) -> Vec<u8> {
    with_first_payload(NotifyType::COOKIE, cookie, request)
}

/// B's responses.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Nothing,
    Cookie(Vec<u8>),
    InEarnest,
    Refusal(NotifyType),
}

fn response_to(pair: &mut Pair, remote: &str, bytes: &[u8]) -> Answer {
    let before = pair.b.sent.len();
    pair.inject_from(Side::B, "192.0.2.2:500", remote, bytes);
    assert!(pair.b.sent.len() <= before + 1, "one answer at most");
    if pair.b.sent.len() == before {
        return Answer::Nothing;
    }
    let answer = pair.b.sent_ike(before);
    let answer = Message::parse(&answer).unwrap();
    match &answer.clear[0] {
        _ if !answer.header.spi_r.is_zero() => Answer::InEarnest,
        Payload::Notify(notify) if notify.kind == NotifyType::COOKIE => {
            assert_eq!(answer.clear.len(), 1);
            Answer::Cookie(notify.data.clone())
        }
        Payload::Notify(notify) => Answer::Refusal(notify.kind),
        other => panic!("{other:?}"),
    }
}

const A: &str = "192.0.2.1:500";

/// A B whose half-open slots without a cookie are taken by spoofed requests from A's address.
fn pair_under_load() -> Pair {
    let mut a = settings(Side::A);
    a.start = groundlink::ike::Start::Add;
    let mut pair = Pair::new(a, settings(Side::B));
    fill_half_open_slots(&mut pair, 1000);
    pair
}

fn fill_half_open_slots(pair: &mut Pair, first_spi: u64) {
    for spi in first_spi..first_spi + 3 {
        assert_eq!(
            response_to(pair, "192.0.2.1:7", &init_of(spi)),
            Answer::InEarnest
        );
    }
}

fn half_open(pair: &Pair) -> usize {
    format!("{:?}", pair.b.endpoint)
        .matches("HalfOpen(")
        .count()
}

fn refused(pair: &Pair, class: DropClass) -> u64 {
    pair.b
        .endpoint
        .drop_counts()
        .find(|(of, _)| *of == class)
        .unwrap()
        .1
}

#[test]
fn n10_under_load_a_request_gets_a_cookie_and_no_state_is_kept_until_the_cookie_returns() {
    let mut pair = pair_under_load();
    let request = init_of(1);
    let Answer::Cookie(cookie) = response_to(&mut pair, A, &request) else {
        panic!("no cookie was asked for");
    };
    assert!((1..=64).contains(&cookie.len()));
    assert_eq!(half_open(&pair), 3);
    // The same request gets the same cookie: no state is kept.
    assert_eq!(
        response_to(&mut pair, A, &request),
        Answer::Cookie(cookie.clone())
    );
    let returned = with_cookie(&cookie, &request);
    assert_eq!(response_to(&mut pair, A, &returned), Answer::InEarnest);
    assert_eq!(half_open(&pair), 4);
    assert_eq!(refused(&pair, DropClass::CookieAsked), 2);
    // A retransmission belongs to the same handshake; the same request from another port is not accepted.
    assert_eq!(response_to(&mut pair, A, &returned), Answer::InEarnest);
    assert_eq!(half_open(&pair), 4);
    let elsewhere = response_to(&mut pair, "192.0.2.1:501", &returned);
    assert!(matches!(elsewhere, Answer::Cookie(_)), "{elsewhere:?}");
    assert_eq!(half_open(&pair), 4);
}

#[test]
fn n10_a_wrong_stale_or_foreign_cookie_gets_a_new_cookie() {
    let mut pair = pair_under_load();
    let request = init_of(1);
    let Answer::Cookie(cookie) = response_to(&mut pair, A, &request) else {
        panic!("no cookie was asked for");
    };
    let other_nonce = {
        let message = Message::parse(&request).unwrap();
        let mut payloads = message.clear.clone();
        for payload in &mut payloads {
            if let Payload::Nonce(nonce) = payload {
                nonce[0] ^= 1;
            }
        }
        Message::encode_clear(message.header, &payloads).unwrap()
    };
    let mut flipped = cookie.clone();
    flipped[5] ^= 0x10;
    let late = {
        let message = Message::parse(&request).unwrap();
        let mut payloads = message.clear;
        payloads.push(Payload::Notify(Notify::new(
            NotifyType::COOKIE,
            cookie.clone(),
        )));
        Message::encode_clear(message.header, &payloads).unwrap()
    };
    for bytes in [
        with_cookie(&[], &request),
        with_cookie(&cookie[..1], &request),
        with_cookie(&[cookie.as_slice(), &[0; 48]].concat(), &request),
        with_cookie(&flipped, &request),
        with_cookie(&cookie, &init_of(2)),
        with_cookie(&cookie, &other_nonce),
        with_first_payload(NotifyType::INITIAL_CONTACT, &cookie, &request),
        late,
    ] {
        let answer = response_to(&mut pair, A, &bytes);
        assert!(matches!(answer, Answer::Cookie(_)), "{answer:?}");
    }
    assert_eq!(half_open(&pair), 3);
    // A minute later, under load again.
    pair.run_for(61 * SECOND);
    fill_half_open_slots(&mut pair, 2000);
    let answer = response_to(&mut pair, A, &with_cookie(&cookie, &request));
    assert!(
        matches!(&answer, Answer::Cookie(fresh) if *fresh != cookie),
        "{answer:?}"
    );
    assert_eq!(half_open(&pair), 3);
}

#[test]
fn n10_a_malformed_request_gets_no_cookie() {
    let mut pair = pair_under_load();
    let request = init_of(1);
    let message = Message::parse(&request).unwrap();
    let payloads: Vec<Payload> = message
        .clear
        .iter()
        .filter(|payload| !matches!(payload, Payload::Nonce(_)))
        .cloned()
        .collect();
    let without = Message::encode_clear(message.header, &payloads).unwrap();
    assert_eq!(response_to(&mut pair, A, &without), Answer::Nothing);
    assert_eq!(refused(&pair, DropClass::Malformed), 1);
}

#[test]
fn n10_an_unsolicited_cookie_is_ignored() {
    let mut a = settings(Side::A);
    a.start = groundlink::ike::Start::Add;
    for cookie in [&b""[..], b"never asked for", &[7; 65]] {
        let mut pair = Pair::new(a.clone(), settings(Side::B));
        let bytes = with_cookie(cookie, &init());
        assert_eq!(response_to(&mut pair, A, &bytes), Answer::InEarnest);
    }
}

#[test]
fn n10_a_cookie_of_invalid_length_is_not_returned() {
    for len in [0, 65, 4000] {
        let mut pair = Pair::new(settings(Side::A), settings(Side::B));
        let spi_i = Header::parse(&pair.a.sent_ike(0)).unwrap().spi_i;
        let asked = crate::hostile::response(
            spi_i,
            ExchangeType::IKE_SA_INIT,
            &[Payload::Notify(Notify::new(
                NotifyType::COOKIE,
                vec![1; len],
            ))],
        );
        pair.inject(Side::A, 500, &asked);
        assert_eq!(pair.a.sent.len(), 1, "{len}");
        pair.run_for(SECOND);
        pair.assert_agreed();
    }
}

#[test]
fn n12_a_configured_peer_connects_with_a_cookie_while_its_address_is_spoofed() {
    let mut pair = pair_under_load();
    pair.command(Side::A, Command::Up(TUNNEL));
    pair.run_for(SECOND);
    pair.assert_agreed();
    assert!(refused(&pair, DropClass::CookieAsked) >= 1);
    // AUTH covers the IKE_SA_INIT with the cookie, or the tunnel would not be up.
    assert!(pair.a.sent.len() >= 3);
}

/// Settings where A's first group is not acceptable to B.
fn other_groups() -> (Settings, Settings) {
    let mut a = settings(Side::A);
    a.ike = vec![
        IkeProposal::parse("aes128-sha256-ecp256-curve25519")
            .unwrap()
            .0,
    ];
    (a, settings(Side::B))
}

/// ```text
/// A ── SAi1, KEi (ecp256), Ni ───────────────▶ B     under load
///   ◀───────────────────────────── N(COOKIE) ──
///   ── N(COOKIE), SAi1, KEi (ecp256), Ni ────▶
///   ◀───────────────── N(INVALID_KE_PAYLOAD) ──
///   ── N(COOKIE), SAi1, KEi (x25519), Ni ────▶
/// ```
#[test]
fn n10_cookie_then_invalid_ke_payload() {
    let (mut a, b) = other_groups();
    a.start = groundlink::ike::Start::Add;
    let mut pair = Pair::new(a, b);
    fill_half_open_slots(&mut pair, 1000);
    pair.command(Side::A, Command::Up(TUNNEL));
    pair.run_for(SECOND);
    pair.assert_agreed();
    assert_eq!(
        refused(&pair, DropClass::CookieAsked),
        1,
        "it holds for both"
    );
    assert_eq!(refused(&pair, DropClass::Declined), 1);
}

/// The reverse order: the load starts between the two requests.
#[test]
fn n10_invalid_ke_payload_then_cookie() {
    let (a, b) = other_groups();
    let mut pair = Pair::new(a, b);
    pair.run_for(Duration::from_millis(7));
    assert_eq!(refused(&pair, DropClass::Declined), 1);
    fill_half_open_slots(&mut pair, 1000);
    pair.run_for(SECOND);
    pair.assert_agreed();
    assert_eq!(refused(&pair, DropClass::CookieAsked), 1);
}

/// An established pair whose B has forty more configured peers, none of them connected.
fn hub() -> Pair {
    let mut pair = Pair::established();
    for n in 1..=40u8 {
        let mut more = settings(Side::B);
        more.peer = groundlink::ike::Peer::Address(extra_peer_address(n).parse().unwrap());
        let now = pair.now;
        pair.b
            .endpoint
            .add_tunnel(now, TunnelId(u32::from(n)), more);
    }
    pair
}

fn extra_peer_address(n: u8) -> String {
    format!("198.51.100.{n}")
}

/// Delivers a datagram to B alone and returns the octets of its responses.
fn send(pair: &mut Pair, remote: &str, bytes: &[u8]) -> usize {
    let now = pair.now;
    let datagram = Datagram {
        local: "192.0.2.2:500".parse().unwrap(),
        remote: remote.parse().unwrap(),
        bytes,
    };
    pair.b.endpoint.handle_datagram(now, datagram);
    let mut answered = 0;
    while let Some(transmit) = pair.b.endpoint.poll_transmit() {
        if let Content::Ike(bytes) = transmit.content {
            answered += bytes.len();
        }
    }
    while pair.b.endpoint.poll_event().is_some() {}
    answered
}

#[test]
fn n12_a_hundred_thousand_forged_requests_do_not_grow_memory_or_harm_the_tunnel() {
    let mut pair = hub();
    let mut chance = Generator::from_seed([12; 32]);
    let mut request = init();
    let (mut sent, mut answered) = (0, 0);
    let mut most = 0;
    for round in 0..100u32 {
        // More than thirty seconds in total: every liveness check comes due during the flood.
        pair.run_for(Duration::from_millis(400));
        for count in 0..1000u32 {
            request[..8].copy_from_slice(&(chance.u64() | 1).to_be_bytes());
            let remote = match count % 4 {
                // Random sources, the connected peer, one unconnected peer, and all peers.
                0 => format!("{}:500", std::net::Ipv4Addr::from(chance.u32())),
                1 => format!("192.0.2.1:{}", chance.below(65535) + 1),
                2 => format!("{}:500", extra_peer_address(1)),
                _ => format!(
                    "{}:500",
                    extra_peer_address(u8::try_from(chance.below(40)).unwrap() + 1)
                ),
            };
            sent += request.len();
            answered += send(&mut pair, &remote, &request);
        }
        if round % 10 == 0 {
            most = most.max(half_open(&pair));
        }
    }
    // Thirty in total, and three for the connected peer, which the limit of thirty does not cover.
    assert!((30..=33).contains(&most), "{most} half-open");
    assert!(answered < sent, "{answered} octets answered to {sent}");
    pair.assert_agreed();
    let liveness = pair
        .a
        .sent
        .iter()
        .filter(|transmit| match &transmit.content {
            Content::Ike(bytes) => {
                Header::parse(bytes).unwrap().exchange == ExchangeType::INFORMATIONAL
            }
            Content::Keepalive => false,
        })
        .count();
    assert!(liveness >= 3, "{liveness}");
    for class in [DropClass::CookieAsked, DropClass::UnknownPeer] {
        assert!(refused(&pair, class) > 20_000, "{class:?}");
    }
    // A configured peer among all of them connects.
    let remote = format!("{}:500", extra_peer_address(7));
    let request = init_of(77);
    let Answer::Cookie(cookie) = response_to(&mut pair, &remote, &request) else {
        panic!("no cookie was asked for");
    };
    let returned = with_cookie(&cookie, &request);
    assert_eq!(
        response_to(&mut pair, &remote, &returned),
        Answer::InEarnest
    );
    // After the flood its state expires.
    pair.run_for(31 * SECOND);
    assert_eq!(half_open(&pair), 0);
    assert_eq!(
        response_to(&mut pair, &remote, &init_of(78)),
        Answer::InEarnest
    );
}

#[test]
fn n12_valid_cookies_without_ike_auth_take_a_bounded_number_of_slots_for_a_short_time() {
    let mut pair = hub();
    let mut served = 0;
    for spi in 1..200 {
        let request = init_of(spi);
        match response_to(&mut pair, A, &request) {
            Answer::InEarnest => served += 1,
            Answer::Cookie(cookie) => {
                match response_to(&mut pair, A, &with_cookie(&cookie, &request)) {
                    Answer::InEarnest => served += 1,
                    other => panic!("{other:?}"),
                }
            }
            Answer::Nothing => {}
            Answer::Refusal(kind) => panic!("{kind}"),
        }
    }
    assert_eq!(served, 3 + 5);
    assert_eq!(half_open(&pair), 8);
    assert!(refused(&pair, DropClass::HalfOpenFull) > 100);
    // No other request competes for the slots.
    let other = format!("{}:500", extra_peer_address(1));
    assert_eq!(
        response_to(&mut pair, &other, &init_of(300)),
        Answer::InEarnest
    );
    pair.run_for(11 * SECOND);
    assert_eq!(half_open(&pair), 1, "only the other's is still awaited");
    pair.assert_agreed();
}

#[test]
fn n13_requests_with_wrong_ids_or_flags_take_no_slot() {
    let mut pair = pair_under_load();
    pair.run_for(31 * SECOND);
    for (at, value) in [(8, 1), (15, 1), (20, 1), (23, 1), (19, 0), (19, 0x10)] {
        for spi in 1..10 {
            let mut bytes = init_of(spi);
            bytes[at] = value;
            assert_eq!(response_to(&mut pair, A, &bytes), Answer::Nothing);
        }
    }
    assert_eq!(response_to(&mut pair, A, &init_of(0)), Answer::Nothing);
    assert_eq!(half_open(&pair), 0);
    assert_eq!(refused(&pair, DropClass::Stray), 6 * 9 + 1);
    fill_half_open_slots(&mut pair, 2000);
}

#[test]
fn n28_a_half_open_sa_sends_only_responses_and_never_retransmits() {
    let mut pair = pair_under_load();
    let before = pair.b.sent.len();
    pair.run_for(120 * SECOND);
    assert_eq!(pair.b.sent.len(), before);
    assert_eq!(half_open(&pair), 0);
}

#[test]
fn n28_no_cookie_is_requested_for_a_request_shorter_than_the_response() {
    let mut pair = pair_under_load();
    let message = init_of(1);
    let header = Message::parse(&message).unwrap().header;
    let tiny = Message::encode_clear(header, &[Payload::Nonce(vec![1; 16])]).unwrap();
    assert_eq!(tiny.len(), 48);
    assert_eq!(response_to(&mut pair, A, &tiny), Answer::Nothing);
}

#[test]
fn every_dropped_message_is_counted_by_its_class() {
    let mut pair = Pair::established();
    let count = |pair: &Pair| DropClass::ALL.map(|class| refused(pair, class));
    assert_eq!(count(&pair), [0; 9]);
    let auth = pair.a.sent_ike(1);
    let changed = |at: usize, value: u8| {
        let mut bytes = auth.clone();
        bytes[at] = value;
        bytes
    };
    let mut expect = |class: DropClass, remote: &str, bytes: &[u8]| {
        let before = refused(&pair, class);
        pair.inject_from(Side::B, "192.0.2.2:500", remote, bytes);
        assert_eq!(refused(&pair, class), before + 1, "{class:?}");
    };
    expect(DropClass::Malformed, A, &auth[..20]);
    expect(DropClass::Malformed, A, &changed(28 + 2, 0xff));
    expect(DropClass::WrongVersion, A, &changed(17, 0x10));
    expect(DropClass::UnknownSpi, A, &changed(8, auth[8] ^ 1));
    expect(DropClass::Stray, A, &changed(23, 9));
    expect(DropClass::Stray, A, &changed(19, 0x28));
    let mut next = changed(auth.len() - 1, !auth[auth.len() - 1]);
    next[23] = 2;
    expect(DropClass::Forged, A, &next);
    expect(DropClass::UnknownPeer, "203.0.113.9:500", &init());
    let mut bare = init_of(5);
    bare[16] = 0;
    bare.truncate(28);
    bare[24..28].copy_from_slice(&28u32.to_be_bytes());
    expect(DropClass::Declined, A, &bare);
    assert_eq!(pair.b.state(), TunnelState::Up);
    pair.assert_agreed();
}

#[test]
fn n23_a_gateway_does_not_connect_with_itself_over_reflected_messages() {
    let mut pair = Pair::new(settings(Side::A), settings(Side::B));
    pair.cut();
    let request = pair.a.sent_ike(0);
    pair.inject(Side::A, 500, &request);
    assert_eq!(pair.a.sent.len(), 1, "the reflection is not answered");
    // The reflected handshake does not block the real peer either.
    pair.no_impairment();
    pair.run_for(Duration::from_secs(5));
    pair.assert_agreed();
}
