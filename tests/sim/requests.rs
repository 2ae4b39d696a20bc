//! Child SA requests from a peer with the keys: every variant of an invalid CREATE_CHILD_SA and DELETE, each under valid keys.
//!
//! An unacceptable request is rejected, a malformed one closes the IKE SA (RFC 7296 §2.21.3), and a valid one is executed once.

use std::time::Duration;

use groundlink::ike::{PeerId, Rekey, TunnelState};
use groundlink::wire::{
    Delete, ExchangeType, Id, IdType, Notify, NotifyType, Payload, PayloadType, ProtocolId,
};

use crate::pair::{Side, settings};
use crate::scripted_peer::{PSK, SPI_OUT, ScriptedPeer, kinds, mute_pair, notify, raw};

const CREATE: ExchangeType = ExchangeType::CREATE_CHILD_SA;
const INFORMATIONAL: ExchangeType = ExchangeType::INFORMATIONAL;

/// B still has its one Child SA and responds.
pub fn assert_unharmed(scripted_peer: &mut ScriptedPeer, id: u32, case: &str) {
    assert_eq!(scripted_peer.pair.b.children.len(), 1, "{case}");
    assert_eq!(scripted_peer.pair.b.children[0].spi_out, SPI_OUT, "{case}");
    assert_eq!(scripted_peer.pair.b.state(), TunnelState::Up, "{case}");
    assert!(
        scripted_peer
            .send_request(INFORMATIONAL, id, &[])
            .is_empty(),
        "{case}"
    );
}

/// The IKE SA and its Child SA are closed.
pub fn assert_ended(scripted_peer: &ScriptedPeer, case: &str) {
    assert!(scripted_peer.pair.b.children.is_empty(), "{case}");
    assert!(scripted_peer.pair.b.ikes.is_empty(), "{case}");
}

fn replaced(mut payloads: Vec<Payload>, kind: PayloadType, with: Payload) -> Vec<Payload> {
    for payload in &mut payloads {
        if payload.kind() == kind {
            *payload = with.clone();
        }
    }
    payloads
}

/// The body of a TS payload.
fn selectors(count: u8, each: &[Vec<u8>]) -> Vec<u8> {
    let mut body = vec![count, 0, 0, 0];
    body.extend(each.concat());
    body
}

/// An encoded IPv4 selector for all protocols.
fn ipv4(ports: (u16, u16), first: [u8; 4], last: [u8; 4]) -> Vec<u8> {
    let (from, to) = (ports.0.to_be_bytes(), ports.1.to_be_bytes());
    let head = [7, 0, 0, 16, from[0], from[1], to[0], to[1]];
    [&head[..], &first, &last].concat()
}

const ANY_PORT: (u16, u16) = (0, 65_535);

#[test]
fn p03_selectors_of_create_child_sa_are_narrowed_or_rejected_and_never_widened() {
    let inside = || ipv4(ANY_PORT, [10, 1, 0, 0], [10, 1, 0, 255]);
    let disjoint = ipv4(ANY_PORT, [172, 16, 0, 0], [172, 16, 0, 255]);
    let ipv6 = [&[8, 0, 0, 40, 0, 0, 255, 255][..], &[0; 16], &[255; 16]].concat();
    let label = vec![10, 0, 0, 8, 1, 2, 3, 4];
    let refused = [
        ("none", selectors(0, &[])),
        ("disjoint", selectors(1, &[disjoint])),
        ("IPv6 where the other side is IPv4", selectors(1, &[ipv6])),
        ("only of a type that nobody knows", selectors(1, &[label])),
    ];
    let short = [&[7, 0, 0, 15][..], &inside()[4..15]].concat();
    let backwards = ipv4(ANY_PORT, [10, 1, 0, 9], [10, 1, 0, 1]);
    let bad_ports = ipv4((100, 50), [10, 1, 0, 0], [10, 1, 0, 255]);
    let broken = [
        ("two counted", selectors(2, &[inside()])),
        ("none counted", selectors(0, &[inside()])),
        ("255 counted", selectors(255, &[inside()])),
        ("length 3", selectors(1, &[vec![7, 0, 0, 3]])),
        ("length 15", selectors(1, &[short])),
        ("ends before it starts", selectors(1, &[backwards])),
        ("ports end before they start", selectors(1, &[bad_ports])),
        ("without a head", vec![1]),
    ];
    let everything = ipv4(ANY_PORT, [0; 4], [255; 4]);
    let hosts: Vec<Vec<u8>> = (0..255)
        .map(|n| ipv4(ANY_PORT, [10, 1, 0, n], [10, 1, 0, n]))
        .collect();
    let fine = [
        ("wider", selectors(1, &[everything])),
        ("255 hosts", selectors(255, &hosts)),
    ];
    // A new Child SA, and a replacement for another.
    for old in [None, Some(SPI_OUT)] {
        let send_with_selectors = |body: &[u8]| {
            let mut scripted_peer = ScriptedPeer::established();
            let request = match old {
                None => scripted_peer.another_child(0x2000),
                Some(old) => scripted_peer.rekeying(old, 0x2000),
            };
            let request = replaced(request, PayloadType::TSI, raw(PayloadType::TSI, body));
            let answer = scripted_peer.send_request(CREATE, 2, &request);
            (scripted_peer, answer)
        };
        for (case, body) in &refused {
            let (mut scripted_peer, answer) = send_with_selectors(body);
            assert_eq!(kinds(&answer), [NotifyType::TS_UNACCEPTABLE], "{case}");
            assert_unharmed(&mut scripted_peer, 3, case);
        }
        for (case, body) in &broken {
            let (scripted_peer, answer) = send_with_selectors(body);
            assert_eq!(kinds(&answer), [NotifyType::INVALID_SYNTAX], "{case}");
            assert_ended(&scripted_peer, case);
        }
        for (case, body) in &fine {
            let (scripted_peer, answer) = send_with_selectors(body);
            let policy = settings(Side::B).policy;
            // A replacement must have at least the selectors of the old Child SA (§2.9.2).
            if *case == "255 hosts" && old.is_some() {
                assert_eq!(kinds(&answer), [NotifyType::TS_UNACCEPTABLE], "{case}");
                continue;
            }
            assert_eq!(kinds(&answer), [], "{case}");
            let child = scripted_peer.pair.b.children.last().unwrap();
            let within = |selector| policy.remote[0].contains(selector);
            assert!(child.policy.remote.iter().all(within), "{case}: {child:?}");
            assert_eq!(child.policy.local, policy.local, "{case}");
        }
    }
}

#[test]
fn p04_a_rekey_of_an_unknown_child_sa_gets_child_sa_not_found() {
    let mut scripted_peer = ScriptedPeer::established();
    let spi_in = scripted_peer.pair.b.children[0].spi_in;
    let named = |protocol: u8, spi: &[u8]| Notify {
        protocol: ProtocolId(protocol),
        spi: spi.to_vec(),
        kind: NotifyType::REKEY_SA,
        data: Vec::new(),
    };
    let ours = SPI_OUT.to_be_bytes();
    let wrong = [
        named(0, &ours),
        named(1, &ours),
        named(2, &ours),
        named(4, &ours),
        named(255, &ours),
        named(3, &[]),
        named(0, &[]),
        named(3, &ours[..3]),
        named(3, &[ours, ours].concat()),
        named(3, &[0; 255]),
        named(3, &[0; 4]),
        named(3, &0xdead_beef_u32.to_be_bytes()),
        // The peer's outbound SPI, which is B's inbound SPI.
        named(3, &spi_in.to_be_bytes()),
    ];
    for (id, name) in (2..).step_by(2).zip(wrong) {
        let case = format!("{name:?}");
        let mut request = scripted_peer.rekeying(SPI_OUT, 0x2000 + id);
        request[0] = Payload::Notify(name.clone());
        let answer = scripted_peer.send_request(CREATE, id, &request);
        assert_eq!(kinds(&answer), [NotifyType::CHILD_SA_NOT_FOUND], "{case}");
        let [Payload::Notify(answer)] = &answer[..] else {
            panic!("{answer:?}")
        };
        assert_eq!((answer.protocol, &answer.spi), (name.protocol, &name.spi));
        assert_unharmed(&mut scripted_peer, id + 1, &case);
    }
}

#[test]
fn p05_a_child_sa_is_rekeyed_once_and_not_while_it_is_being_deleted() {
    let mut scripted_peer = ScriptedPeer::established();
    let request = scripted_peer.rekeying(SPI_OUT, 0x2000);
    assert_eq!(kinds(&scripted_peer.send_request(CREATE, 2, &request)), []);
    for id in 3..103 {
        let again = scripted_peer.rekeying(SPI_OUT, 0x2000 + id);
        let answer = scripted_peer.send_request(CREATE, id, &again);
        assert_eq!(kinds(&answer), [NotifyType::TEMPORARY_FAILURE]);
    }
    assert_eq!(scripted_peer.pair.b.children.len(), 2);

    // B has rekeyed it, and the response to its DELETE is about to arrive.
    let mut scripted_peer = ScriptedPeer::established();
    let (asked, request) = scripted_peer.have_b_rekey(Rekey::Child);
    let accepted = scripted_peer.accepting(&request, 0x2000);
    scripted_peer.answer(&asked, &accepted);
    let (delete, _) = scripted_peer.asked();
    let request = scripted_peer.rekeying(SPI_OUT, 0x3000);
    let answer = scripted_peer.send_request(CREATE, 2, &request);
    assert_eq!(kinds(&answer), [NotifyType::TEMPORARY_FAILURE]);
    scripted_peer.answer(&delete, &[]);
    let answer = scripted_peer.send_request(CREATE, 3, &request);
    assert_eq!(kinds(&answer), [NotifyType::CHILD_SA_NOT_FOUND]);
    assert_eq!(scripted_peer.pair.b.children.len(), 1);
}

#[test]
fn p05_endless_rekeying_keeps_a_bounded_number_of_child_sas_with_or_without_deletes() {
    let mut scripted_peer = ScriptedPeer::established();
    let mut old = SPI_OUT;
    for id in (2..402).step_by(2) {
        let new = 0x2000 + id;
        let request = scripted_peer.rekeying(old, new);
        assert_eq!(kinds(&scripted_peer.send_request(CREATE, id, &request)), []);
        let gone = [Payload::Delete(Delete::esp(vec![old]))];
        assert_eq!(
            scripted_peer
                .send_request(INFORMATIONAL, id + 1, &gone)
                .len(),
            1
        );
        assert_eq!(scripted_peer.pair.b.children.len(), 1);
        old = new;
    }
    assert_eq!(scripted_peer.pair.b.view().rekeys.child, 200);

    let mut scripted_peer = ScriptedPeer::established();
    let mut old = SPI_OUT;
    let mut refused = 0;
    for id in 2..102 {
        let new = 0x2000 + id;
        let request = scripted_peer.rekeying(old, new);
        let answer = scripted_peer.send_request(CREATE, id, &request);
        if kinds(&answer).is_empty() {
            old = new;
        } else {
            assert_eq!(kinds(&answer), [NotifyType::NO_ADDITIONAL_SAS]);
            refused += 1;
        }
    }
    assert_eq!((scripted_peer.pair.b.children.len(), refused), (6, 95));
    assert_eq!(scripted_peer.pair.b.state(), TunnelState::Up);
}

#[test]
fn p06_a_delete_of_the_ike_sa_with_its_child_sas_gets_an_empty_response() {
    for order in [[0, 1], [1, 0]] {
        let mut scripted_peer = ScriptedPeer::established();
        let both = [
            Payload::Delete(Delete::ike()),
            Payload::Delete(Delete::esp(vec![SPI_OUT])),
        ];
        let answer =
            scripted_peer.send_request(INFORMATIONAL, 2, &order.map(|index| both[index].clone()));
        assert!(answer.is_empty(), "{answer:?}");
        assert_ended(&scripted_peer, "both");
        assert_eq!(scripted_peer.pair.b.count("ChildDown"), 1);
        assert_eq!(scripted_peer.pair.b.count("IkeDown"), 1);
    }
}

#[test]
fn p06_a_contradictory_delete_gets_invalid_syntax() {
    let spi = SPI_OUT.to_be_bytes();
    for body in [
        [&[3, 4, 0xff, 0xff][..], &spi].concat(),
        [&[3, 8, 0, 1][..], &spi, &spi].concat(),
        [&[3, 0, 0, 1][..]].concat(),
        [&[1, 4, 0, 1][..], &spi].concat(),
        [&[3, 4, 0, 0][..], &spi].concat(),
    ] {
        let case = format!("{body:?}");
        let mut scripted_peer = ScriptedPeer::established();
        let answer =
            scripted_peer.send_request(INFORMATIONAL, 2, &[raw(PayloadType::DELETE, &body)]);
        assert_eq!(kinds(&answer), [NotifyType::INVALID_SYNTAX], "{case}");
        assert_ended(&scripted_peer, &case);
    }
}

/// ```text
/// B (rekeys X)                     peer
/// │── DELETE X ─────────╲ ╱─────────│ DELETE X
/// │◀────────────────────╱ ╲────────▶│
/// │── (nothing) ────────────────────│ DELETE X, retransmitted
/// ```
#[test]
fn p06_crossing_deletes_get_empty_responses() {
    let mut scripted_peer = ScriptedPeer::established();
    let (asked, request) = scripted_peer.have_b_rekey(Rekey::Child);
    let accepted = scripted_peer.accepting(&request, 0x2000);
    scripted_peer.answer(&asked, &accepted);
    let (delete, payloads) = scripted_peer.asked();
    assert!(
        matches!(&payloads[..], [Payload::Delete(_)]),
        "{payloads:?}"
    );
    let same = [Payload::Delete(Delete::esp(vec![SPI_OUT]))];
    assert!(
        scripted_peer
            .send_request(INFORMATIONAL, 2, &same)
            .is_empty()
    );
    scripted_peer.answer(&delete, &same);
    for id in 3..50 {
        assert!(
            scripted_peer
                .send_request(INFORMATIONAL, id, &same)
                .is_empty()
        );
    }
    assert!(
        scripted_peer.heard().is_empty(),
        "nothing goes back and forth"
    );
    assert_eq!(scripted_peer.pair.b.count("ChildDown"), 1);
    assert_eq!(scripted_peer.pair.b.children.len(), 1);
    assert_eq!(scripted_peer.pair.b.state(), TunnelState::Up);
}

#[test]
fn p12_initial_contact_unencrypted_or_from_another_identity_closes_nothing() {
    let mut b = settings(Side::B);
    b.peer_id = PeerId::Exactly("192.0.2.1".parse().unwrap());
    let scripted_peer = ScriptedPeer::keyed_with(mute_pair(b), 0x4444).authenticated();
    let contact = [notify(NotifyType::INITIAL_CONTACT)];
    let mut second = ScriptedPeer::keyed_with_payloads(scripted_peer.pair, 0x5555, &contact);
    assert_eq!(second.pair.b.children.len(), 1);

    // The right key with another peer's identity.
    let mut request = second.auth_request();
    let id = Id::new(IdType::IPV4_ADDR, vec![192, 0, 2, 9]);
    request[1] = second.auth(&id, PSK);
    request[0] = Payload::IdI(id);
    request.extend(contact);
    let answer = second.send_request(ExchangeType::IKE_AUTH, 1, &request);
    assert_eq!(kinds(&answer), [NotifyType::AUTHENTICATION_FAILED]);
    second.pair.run_for(Duration::from_secs(1));
    assert_eq!(second.pair.b.children.len(), 1);
    assert_eq!(second.pair.b.children[0].spi_out, SPI_OUT);
    assert_eq!(second.pair.b.state(), TunnelState::Up);
}

#[test]
fn p20_a_rekeyed_child_sa_keeps_its_selectors() {
    let any = raw(
        PayloadType::TSI,
        &selectors(1, &[ipv4(ANY_PORT, [0; 4], [255; 4])]),
    );
    let host = |kind, net| {
        let address = [10, net, 0, 7];
        raw(kind, &selectors(1, &[ipv4(ANY_PORT, address, address)]))
    };
    // All addresses on both sides: the selectors stay the same.
    let mut scripted_peer = ScriptedPeer::established();
    let before = scripted_peer.pair.b.children[0].policy.clone();
    let request = scripted_peer.rekeying(SPI_OUT, 0x2000);
    let request = replaced(request, PayloadType::TSI, any.clone());
    let Payload::Unknown { body, .. } = any else {
        panic!("raw")
    };
    let request = replaced(request, PayloadType::TSR, raw(PayloadType::TSR, &body));
    assert_eq!(kinds(&scripted_peer.send_request(CREATE, 2, &request)), []);
    assert_eq!(scripted_peer.pair.b.children[1].policy, before);

    // Narrower selectors on either side: rejected, and the old Child SA stays.
    for (kind, net) in [(PayloadType::TSI, 1), (PayloadType::TSR, 2)] {
        let mut scripted_peer = ScriptedPeer::established();
        let request = scripted_peer.rekeying(SPI_OUT, 0x2000);
        let request = replaced(request, kind, host(kind, net));
        let answer = scripted_peer.send_request(CREATE, 2, &request);
        assert_eq!(kinds(&answer), [NotifyType::TS_UNACCEPTABLE]);
        assert_unharmed(&mut scripted_peer, 3, "a host");
    }

    // B's rekey with such a response: the new Child SA is deleted, and the old one stays.
    for (kind, with) in [
        (PayloadType::TSI, raw(PayloadType::TSI, &body)),
        (PayloadType::TSR, raw(PayloadType::TSR, &body)),
        (PayloadType::TSI, host(PayloadType::TSI, 2)),
        (PayloadType::TSR, host(PayloadType::TSR, 1)),
    ] {
        let mut scripted_peer = ScriptedPeer::established();
        let (asked, request) = scripted_peer.have_b_rekey(Rekey::Child);
        let answer = replaced(scripted_peer.accepting(&request, 0x2000), kind, with);
        scripted_peer.answer(&asked, &answer);
        let (_, payloads) = scripted_peer.asked();
        assert!(
            matches!(&payloads[..], [Payload::Delete(_)]),
            "{payloads:?}"
        );
        assert_unharmed(&mut scripted_peer, 2, "answered so");
    }
}

/// Without a response the peer would repeat the request and then give the SA up; INVALID_SYNTAX would end the SA (RFC 7296
/// §2.21.3).
#[test]
fn a_request_of_an_unsupported_exchange_type_is_answered_and_fails_alone() {
    for exchange in [
        ExchangeType(0),
        ExchangeType(250),
        ExchangeType::IKE_AUTH,
        ExchangeType::IKE_INTERMEDIATE,
    ] {
        let mut scripted_peer = ScriptedPeer::established();
        let response = scripted_peer.send_request(exchange, 2, &[]);
        let expected = [NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD];
        assert_eq!(kinds(&response), expected, "{exchange}");
        assert_unharmed(&mut scripted_peer, 3, &exchange.to_string());
    }
}
