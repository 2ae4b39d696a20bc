//! Behaviour of an authenticated peer: broken, hostile or unusual.

use std::time::Duration;

use groundlink::ike::{Command, TunnelState};
use groundlink::wire::{
    Auth, AuthMethod, Critical, Delete, ExchangeType, Id, IdType, Notify, NotifyType, Payload,
    PayloadType, ProtocolId,
};

use crate::esp::key;
use crate::pair::{Side, TUNNEL, settings};
use crate::scripted_peer::{SPI_OUT, ScriptedPeer, kinds, notify, raw};

const INFORMATIONAL: ExchangeType = ExchangeType::INFORMATIONAL;

#[test]
fn an_independent_key_schedule_and_auth_give_the_same_sa() {
    let mut scripted_peer = ScriptedPeer::established();
    assert!(scripted_peer.send_request(INFORMATIONAL, 2, &[]).is_empty());
    let child = &scripted_peer.pair.b.children[0];
    assert_eq!(child.spi_out, SPI_OUT);
    let (of_initiator, of_responder) = scripted_peer.ike_sa.child_keys(scripted_peer.nonces());
    assert_eq!(key(&child.keys_in), key(&of_initiator));
    assert_eq!(key(&child.keys_out), key(&of_responder));
}

#[test]
fn an_independent_key_schedule_gives_the_same_rekeyed_ike_sa_and_child_sas() {
    let mut scripted_peer = ScriptedPeer::established();
    let before = scripted_peer.pair.b.view().ike.unwrap();
    scripted_peer.rekey_ike(2);
    // Message IDs of the new IKE SA start at 0 (RFC 7296 §2.18).
    assert!(scripted_peer.send_request(INFORMATIONAL, 0, &[]).is_empty());
    let after = scripted_peer.pair.b.view().ike.unwrap();
    assert_ne!(before.spi_i, after.spi_i);
    let request = scripted_peer.rekeying(SPI_OUT, 0x2000);
    let answer = scripted_peer.send_request(ExchangeType::CREATE_CHILD_SA, 1, &request);
    let nonce = |payloads: &[Payload]| {
        let nonce = payloads.iter().find_map(|payload| match payload {
            Payload::Nonce(nonce) => Some(nonce.clone()),
            _ => None,
        });
        nonce.unwrap()
    };
    let (ours, theirs) = (nonce(&request), nonce(&answer));
    let (of_initiator, of_responder) = scripted_peer.ike_sa.child_keys((&ours, &theirs));
    let child = &scripted_peer.pair.b.children[1];
    assert_eq!(key(&child.keys_in), key(&of_initiator));
    assert_eq!(key(&child.keys_out), key(&of_responder));
}

#[test]
fn n18_other_exchanges_with_valid_keys_do_not_replace_ike_auth() {
    let mut scripted_peer = ScriptedPeer::keyed();
    for exchange in [INFORMATIONAL, ExchangeType::CREATE_CHILD_SA] {
        for id in 0..3 {
            let bytes = scripted_peer.seal(exchange, id, false, &[]);
            scripted_peer.deliver(&bytes);
        }
    }
    assert!(scripted_peer.heard().is_empty());
    assert_ne!(scripted_peer.pair.b.state(), TunnelState::Up);
    // The half-open SA still accepts the real IKE_AUTH.
    let request = scripted_peer.auth_request();
    scripted_peer.send_request(ExchangeType::IKE_AUTH, 1, &request);
    assert_eq!(scripted_peer.pair.b.state(), TunnelState::Up);
}

#[test]
fn n20_other_auth_methods_are_rejected_in_an_encrypted_response() {
    let mut tried = 0;
    let mut refuse = |change: &dyn Fn(&mut Vec<Payload>)| {
        let mut scripted_peer = ScriptedPeer::keyed();
        let mut request = scripted_peer.auth_request();
        change(&mut request);
        let answer = scripted_peer.send_request(ExchangeType::IKE_AUTH, 1, &request);
        assert_eq!(kinds(&answer), [NotifyType::AUTHENTICATION_FAILED]);
        assert_eq!(answer.len(), 1, "no other payload: {answer:?}");
        assert!(scripted_peer.pair.b.children.is_empty());
        assert_eq!(scripted_peer.pair.b.codes().len(), 1);
        // The SA is closed: only a retransmission gets the same response.
        let honest = scripted_peer.auth_request();
        let bytes = scripted_peer.seal(ExchangeType::IKE_AUTH, 1, false, &honest);
        scripted_peer.deliver(&bytes);
        assert!(scripted_peer.heard().is_empty());
        tried += 1;
    };
    for method in [0, 1, 3, 13, 14, 201] {
        refuse(&move |request| {
            if let Payload::Auth(auth) = &mut request[1] {
                auth.method = AuthMethod(method);
            }
        });
    }
    for len in [0, 1, 12, 16, 20, 31, 33, 64] {
        refuse(&move |request| {
            if let Payload::Auth(auth) = &mut request[1] {
                auth.data.resize(len, 0);
            }
        });
    }
    refuse(&|request| {
        request.remove(1);
    });
    refuse(&|request| request[1] = raw(PayloadType::EAP, &[3, 1, 0, 4]));
    assert_eq!(tried, 16);
}

#[test]
fn n21_auth_covers_the_identity_sent_and_logs_escape_control_characters() {
    for data in [
        Vec::new(),
        b"two\nlines\0and\x1b[31mcolour".to_vec(),
        vec![b'x'; 60_000],
    ] {
        let mut scripted_peer = ScriptedPeer::keyed();
        let id = Id::new(IdType::FQDN, data);
        let mut request = scripted_peer.auth_request();
        // AUTH with the right key, but for another identity than the one in the message.
        request[0] = Payload::IdI(id);
        let answer = scripted_peer.send_request(ExchangeType::IKE_AUTH, 1, &request);
        assert_eq!(kinds(&answer), [NotifyType::AUTHENTICATION_FAILED]);
        let text = &scripted_peer.pair.b.failures[0].text;
        assert!(
            text.len() < 600 && !text.chars().any(char::is_control),
            "{text:?}"
        );
    }
}

#[test]
fn n05_missing_or_duplicate_payloads_in_ike_auth_get_invalid_syntax() {
    for missing in [0, 2, 3, 4] {
        let mut scripted_peer = ScriptedPeer::keyed();
        let mut request = scripted_peer.auth_request();
        request.remove(missing);
        let answer = scripted_peer.send_request(ExchangeType::IKE_AUTH, 1, &request);
        assert_eq!(kinds(&answer), [NotifyType::INVALID_SYNTAX], "{missing}");
    }
    for doubled in 0..5 {
        let mut scripted_peer = ScriptedPeer::keyed();
        let mut request = scripted_peer.auth_request();
        request.push(request[doubled].clone());
        let answer = scripted_peer.send_request(ExchangeType::IKE_AUTH, 1, &request);
        assert_eq!(kinds(&answer), [NotifyType::INVALID_SYNTAX], "{doubled}");
    }
    let mut scripted_peer = ScriptedPeer::keyed();
    let mut request = scripted_peer.auth_request();
    request.reverse();
    scripted_peer.send_request(ExchangeType::IKE_AUTH, 1, &request);
    assert_eq!(
        scripted_peer.pair.b.state(),
        TunnelState::Up,
        "the order is free"
    );
}

#[test]
fn n26_unknown_encrypted_payloads_are_skipped_unless_critical() {
    let unknown = |kind: u8, critical| Payload::Unknown {
        kind: PayloadType(kind),
        critical,
        body: vec![1, 2, 3],
    };
    for kind in [1, 32, 49, 255] {
        let mut scripted_peer = ScriptedPeer::established();
        let answer = scripted_peer.send_request(INFORMATIONAL, 2, &[unknown(kind, Critical::No)]);
        assert!(answer.is_empty());
        let answer = scripted_peer.send_request(INFORMATIONAL, 3, &[unknown(kind, Critical::Yes)]);
        assert!(
            matches!(&answer[..], [Payload::Notify(notify)]
                if notify.kind == NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD && notify.data == [kind]),
            "{answer:?}"
        );
        assert_eq!(scripted_peer.pair.b.state(), TunnelState::Up);

        let mut scripted_peer = ScriptedPeer::keyed();
        let mut request = scripted_peer.auth_request();
        request.push(unknown(kind, Critical::Yes));
        let answer = scripted_peer.send_request(ExchangeType::IKE_AUTH, 1, &request);
        assert_eq!(kinds(&answer), [NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD]);
        assert_ne!(scripted_peer.pair.b.state(), TunnelState::Up);
    }
}

#[test]
fn p01_message_ids_outside_the_window_unsolicited_responses_and_wrong_flags_are_ignored() {
    let mut scripted_peer = ScriptedPeer::established();
    for id in [0, 1, 3, 100, u32::MAX] {
        let bytes = scripted_peer.seal(INFORMATIONAL, id, false, &[Payload::Delete(Delete::ike())]);
        scripted_peer.deliver(&bytes);
    }
    for id in [0, 1, 2, u32::MAX] {
        let answer = [notify(NotifyType::INVALID_SYNTAX)];
        let bytes = scripted_peer.seal(INFORMATIONAL, id, true, &answer);
        scripted_peer.deliver(&bytes);
    }
    assert!(scripted_peer.heard().is_empty());
    assert_eq!(scripted_peer.pair.b.state(), TunnelState::Up);
    // A response with the right message ID but another exchange type is ignored.
    let asked = scripted_peer.await_liveness();
    let bytes = scripted_peer.seal(ExchangeType::CREATE_CHILD_SA, asked, true, &[]);
    scripted_peer.deliver(&bytes);
    scripted_peer.pair.run_for(Duration::from_secs(2));
    assert!(!scripted_peer.heard().is_empty(), "it asks again");
}

#[test]
fn p03_empty_or_invalid_selectors_give_no_child_sa() {
    let mut scripted_peer = ScriptedPeer::keyed();
    let mut request = scripted_peer.auth_request();
    request[3] = raw(PayloadType::TSI, &[0, 0, 0, 0]);
    let answer = scripted_peer.send_request(ExchangeType::IKE_AUTH, 1, &request);
    assert_eq!(kinds(&answer), [NotifyType::TS_UNACCEPTABLE]);
    for body in [
        &[
            2, 0, 0, 0, 7, 0, 0, 16, 0, 0, 255, 255, 10, 1, 0, 0, 10, 1, 0, 255,
        ][..],
        &[
            1, 0, 0, 0, 7, 0, 0, 16, 0, 0, 255, 255, 10, 1, 0, 9, 10, 1, 0, 1,
        ],
        &[1, 0, 0, 0, 7, 0, 0, 3],
        &[255, 0, 0, 0],
    ] {
        let mut scripted_peer = ScriptedPeer::keyed();
        let mut request = scripted_peer.auth_request();
        request[3] = raw(PayloadType::TSI, body);
        let answer = scripted_peer.send_request(ExchangeType::IKE_AUTH, 1, &request);
        let kinds = kinds(&answer);
        assert!(
            kinds == [NotifyType::INVALID_SYNTAX] || kinds == [NotifyType::TS_UNACCEPTABLE],
            "{kinds:?}"
        );
        assert!(scripted_peer.pair.b.children.is_empty());
    }
}

#[test]
fn p06_deletes_of_unknown_spis_do_nothing_and_a_valid_one_closes_the_pair_once() {
    let mut scripted_peer = ScriptedPeer::established();
    let spi_in = scripted_peer.pair.b.children[0].spi_in;
    for (id, delete) in (2..).zip([
        Delete::esp(vec![]),
        Delete::esp(vec![1, 0xdead_beef]),
        // B's inbound SPI is the peer's outbound SPI, which a DELETE does not list.
        Delete::esp(vec![spi_in]),
        Delete::esp((0..16_000).collect()),
        Delete {
            protocol: ProtocolId::AH,
            spis: vec![SPI_OUT],
        },
    ]) {
        assert!(
            scripted_peer
                .send_request(INFORMATIONAL, id, &[Payload::Delete(delete)])
                .is_empty()
        );
    }
    assert_eq!(scripted_peer.pair.b.children.len(), 1);
    let twice = Payload::Delete(Delete::esp(vec![SPI_OUT, SPI_OUT]));
    let answer = scripted_peer.send_request(INFORMATIONAL, 7, &[twice.clone(), twice]);
    assert_eq!(answer, [Payload::Delete(Delete::esp(vec![spi_in]))]);
    assert!(scripted_peer.pair.b.children.is_empty());
    assert_eq!(scripted_peer.pair.b.count("ChildDown"), 1);
    // The IKE SA without a Child SA is closed too, crossing the peer's own DELETE, which gets an empty response.
    scripted_peer.pair.run_for(Duration::from_secs(2));
    assert_eq!(scripted_peer.heard()[0].1, [Payload::Delete(Delete::ike())]);
    let answer = scripted_peer.send_request(INFORMATIONAL, 8, &[Payload::Delete(Delete::ike())]);
    assert!(answer.is_empty());
    assert!(scripted_peer.pair.b.endpoint.is_idle());
    assert_eq!(scripted_peer.pair.b.count("ChildDown"), 1);
}

#[test]
fn p09_a_malformed_request_closes_the_ike_sa_and_its_child_sa() {
    let nonsense: [&[Payload]; 3] = [
        &[raw(PayloadType::DELETE, &[3, 4, 0, 9])],
        &[raw(PayloadType::NOTIFY, &[0])],
        &[
            raw(PayloadType::NONCE, &[0; 32]),
            raw(PayloadType::NONCE, &[0; 32]),
        ],
    ];
    for payloads in nonsense {
        let mut scripted_peer = ScriptedPeer::established();
        let answer = scripted_peer.send_request(INFORMATIONAL, 2, payloads);
        assert_eq!(kinds(&answer), [NotifyType::INVALID_SYNTAX]);
        assert!(
            scripted_peer.pair.b.children.is_empty(),
            "{:?}",
            scripted_peer.pair.b.events
        );
        assert_ne!(scripted_peer.pair.b.state(), TunnelState::Up);
    }
}

#[test]
fn p09_invalid_syntax_in_a_response_closes_the_ike_sa_and_its_child_sa() {
    let mut scripted_peer = ScriptedPeer::established();
    let asked = scripted_peer.await_liveness();
    let bytes = scripted_peer.seal(
        INFORMATIONAL,
        asked,
        true,
        &[notify(NotifyType::INVALID_SYNTAX)],
    );
    scripted_peer.deliver(&bytes);
    assert!(scripted_peer.pair.b.children.is_empty());
    assert!(scripted_peer.pair.b.endpoint.is_idle());
}

#[test]
fn p12_initial_contact_counts_only_in_ike_auth_from_an_authenticated_peer() {
    let mut scripted_peer = ScriptedPeer::established();
    let contact = || notify(NotifyType::INITIAL_CONTACT);
    assert!(
        scripted_peer
            .send_request(INFORMATIONAL, 2, &[contact()])
            .is_empty()
    );
    assert_eq!(scripted_peer.pair.b.children.len(), 1);

    // A second handshake with another key.
    let before = scripted_peer.pair.b.events.len();
    let mut second = ScriptedPeer::keyed_with(scripted_peer.pair, 0x5555);
    let mut request = second.auth_request();
    let id = Id::new(IdType::IPV4_ADDR, vec![192, 0, 2, 1]);
    request[1] = second.auth(&id, b"a guess");
    request.push(contact());
    let answer = second.send_request(ExchangeType::IKE_AUTH, 1, &request);
    assert_eq!(kinds(&answer), [NotifyType::AUTHENTICATION_FAILED]);
    assert_eq!(second.pair.b.children.len(), 1);
    assert_eq!(second.pair.b.events.len(), before, "no event is emitted");
    assert!(second.pair.b.view().last_failure.is_none());

    // With the right key the old SA is closed at once.
    second.pair.run_for(Duration::from_millis(10));
    let mut third = ScriptedPeer::keyed_with(second.pair, 0x6666);
    let mut request = third.auth_request();
    request.push(contact());
    third.send_request(ExchangeType::IKE_AUTH, 1, &request);
    assert_eq!(third.pair.b.children.len(), 1);
    assert_eq!(third.pair.b.state(), TunnelState::Up);
}

#[test]
fn p13_further_child_sas_with_the_same_selectors_are_created_up_to_a_limit() {
    let mut scripted_peer = ScriptedPeer::established();
    let mut made = 0;
    for id in 2..1002 {
        let request = scripted_peer.another_child(0x1000 + id);
        let answer = scripted_peer.send_request(ExchangeType::CREATE_CHILD_SA, id, &request);
        if kinds(&answer).is_empty() {
            made += 1;
        } else {
            assert_eq!(kinds(&answer), [NotifyType::NO_ADDITIONAL_SAS]);
        }
    }
    assert_eq!(made, 5, "with the first they are six");
    assert_eq!(scripted_peer.pair.b.children.len(), 6);
    assert_eq!(scripted_peer.pair.b.state(), TunnelState::Up);
}

/// Without this limit both Child SAs would be rekeyed for ever.
#[test]
fn p13_of_two_child_sas_for_the_same_traffic_the_older_is_deleted_when_rekeying_is_due() {
    let mut b = settings(Side::B);
    b.child_lifetime = Duration::from_secs(20);
    b.dpd.delay = Duration::from_secs(100);
    let mut scripted_peer = ScriptedPeer::established_with(b);
    let older = scripted_peer.pair.b.children[0].spi_in;
    scripted_peer.pair.run_for(Duration::from_secs(5));
    let request = scripted_peer.another_child(0x1001);
    scripted_peer.send_request(ExchangeType::CREATE_CHILD_SA, 2, &request);
    scripted_peer.send_request(INFORMATIONAL, 3, &[]);
    scripted_peer.pair.run_for(Duration::from_millis(13_100));
    let (request, payloads) = scripted_peer.asked();
    assert_eq!(payloads, [Payload::Delete(Delete::esp(vec![older]))]);
    scripted_peer.answer(&request, &[Payload::Delete(Delete::esp(vec![SPI_OUT]))]);
    let left: Vec<u32> = scripted_peer
        .pair
        .b
        .children
        .iter()
        .map(|child| child.spi_out)
        .collect();
    assert_eq!(left, [0x1001]);
    assert_ne!(scripted_peer.pair.b.outbound(), Some(older));
    assert_eq!(scripted_peer.pair.b.state(), TunnelState::Up);
}

/// Two Child SAs with the same peer SPI are closed together.
#[test]
fn p13_child_sas_with_the_same_peer_spi_are_closed_together() {
    let mut scripted_peer = ScriptedPeer::established();
    let request = scripted_peer.another_child(SPI_OUT);
    assert_eq!(
        kinds(&scripted_peer.send_request(ExchangeType::CREATE_CHILD_SA, 2, &request)),
        []
    );
    let spis = scripted_peer
        .pair
        .b
        .children
        .iter()
        .map(|child| child.spi_in);
    let spis: Vec<u32> = spis.collect();
    assert_eq!(spis.len(), 2);
    let gone = [Payload::Delete(Delete::esp(vec![SPI_OUT]))];
    let answer = scripted_peer.send_request(INFORMATIONAL, 3, &gone);
    assert_eq!(answer, [Payload::Delete(Delete::esp(spis))]);
    assert_eq!(scripted_peer.pair.b.count("ChildDown"), 2);
}

#[test]
fn p14_the_window_size_stays_one_whatever_the_peer_requests() {
    let mut scripted_peer = ScriptedPeer::established();
    for (id, size) in (2..).zip([0u32, 1, 100, u32::MAX]) {
        let wish = Notify::new(NotifyType::SET_WINDOW_SIZE, size.to_be_bytes().to_vec());
        assert!(
            scripted_peer
                .send_request(INFORMATIONAL, id, &[Payload::Notify(wish)])
                .is_empty()
        );
    }
    // A hundred requests at once in the wrong order: the one with the next message ID gets a response.
    for id in (6..106).rev() {
        let bytes = scripted_peer.seal(INFORMATIONAL, id, false, &[]);
        scripted_peer.deliver(&bytes);
    }
    let heard = scripted_peer.heard();
    assert_eq!(heard.len(), 1);
    assert_eq!(heard[0].0.message_id.0, 6);
}

#[test]
fn p15_a_flood_of_liveness_checks_is_answered_in_order_and_keeps_no_state() {
    let mut scripted_peer = ScriptedPeer::established();
    let before = format!("{:?}", scripted_peer.pair.b.endpoint).len();
    for id in 2..1002 {
        assert!(
            scripted_peer
                .send_request(INFORMATIONAL, id, &[])
                .is_empty()
        );
    }
    let after = format!("{:?}", scripted_peer.pair.b.endpoint).len();
    assert!(after < before + 2000, "{before} {after}");
    assert_eq!(scripted_peer.pair.b.state(), TunnelState::Up);
}

#[test]
fn n12_endless_rejected_handshakes_keep_a_bounded_number_of_responses() {
    let mut pair = ScriptedPeer::keyed().pair;
    pair.run_for(Duration::from_secs(31));
    for spi in 1..=400 {
        let mut scripted_peer = ScriptedPeer::keyed_with(pair, spi);
        let mut request = scripted_peer.auth_request();
        request[1] = Payload::Auth(Auth {
            method: AuthMethod::SHARED_KEY,
            data: vec![0; 32],
        });
        scripted_peer.send_request(ExchangeType::IKE_AUTH, 1, &request);
        pair = scripted_peer.pair;
    }
    let kept = format!("{:?}", pair.b.endpoint)
        .matches("LastResponse(")
        .count();
    assert!((1..=256).contains(&kept), "{kept}");
    assert_eq!(
        pair.b.failures.len(),
        2,
        "the same failure is reported once"
    );
    pair.run_for(Duration::from_secs(60));
    let kept = format!("{:?}", pair.b.endpoint)
        .matches("LastResponse(")
        .count();
    assert_eq!(kept, 0);
}

#[test]
fn n02_wrong_encrypted_lengths_and_padding_get_invalid_syntax() {
    let longer_than_all = [0, 0, 0xff, 0xff, 1, 2, 3, 4];
    let shorter_than_its_header = [0, 0, 0, 3, 1, 2, 3, 4];
    let padding_longer_than_all = [0xff; 16];
    let payloads: [&[u8]; 3] = [
        &longer_than_all,
        &shorter_than_its_header,
        &padding_longer_than_all,
    ];
    for plaintext in payloads {
        let mut scripted_peer = ScriptedPeer::established();
        let inside = (PayloadType::NOTIFY, plaintext);
        let sealed = scripted_peer.seal_plaintext(INFORMATIONAL, 2, false, inside);
        scripted_peer.deliver(&sealed);
        let heard = scripted_peer.heard();
        assert!(!heard.is_empty(), "{plaintext:?}");
        assert_eq!(kinds(&heard[0].1), [NotifyType::INVALID_SYNTAX]);
    }
}

/// Each Child SA is replaced before it sent a packet; the first is closed, and the peer deletes the last.
#[test]
fn p05_a_child_sa_that_never_sent_is_used_once_the_others_are_deleted() {
    let mut scripted_peer = ScriptedPeer::established();
    let first = scripted_peer.pair.b.children[0].spi_in;
    for (id, old, new) in [(2, SPI_OUT, 0x2000), (3, 0x2000, 0x3000)] {
        let request = scripted_peer.rekeying(old, new);
        let answer = scripted_peer.send_request(ExchangeType::CREATE_CHILD_SA, id, &request);
        assert_eq!(kinds(&answer), []);
    }
    let second = scripted_peer.pair.b.children[1].spi_in;
    scripted_peer.pair.command(
        Side::B,
        Command::SequenceExhausted {
            tunnel: TUNNEL,
            spi_in: first,
        },
    );
    scripted_peer.asked();
    let gone = [Payload::Delete(Delete::esp(vec![0x3000]))];
    scripted_peer.send_request(INFORMATIONAL, 4, &gone);
    assert_eq!(scripted_peer.pair.b.children.len(), 1);
    assert_eq!(scripted_peer.pair.b.outbound(), Some(second));
    assert_eq!(scripted_peer.pair.b.state(), TunnelState::Up);
}
