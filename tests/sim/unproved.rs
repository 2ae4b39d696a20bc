//! IKE_AUTH before authentication: requests out of order, AUTH with other keys, reflected values (RFC 7296 §2.15, §2.21.2).

use std::time::Duration;

use groundlink::ike::{Command, DropClass, TunnelState};
use groundlink::wire::{
    Delete, ExchangeType, Flags, Header, Id, IdType, Message, MessageId, Notify, NotifyType,
    Payload,
};

use crate::init::fresh;
use crate::pair::{Pair, Side, TUNNEL, settings};
use crate::scripted_peer::{PSK, SPI_OUT, ScriptedPeer, esp_offer, notify};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn n19_nothing_is_rekeyed_or_deleted_before_ike_auth() {
    let mut scripted_peer = ScriptedPeer::keyed();
    let rekey = Payload::Notify(Notify::about_esp(NotifyType::REKEY_SA, SPI_OUT));
    let requests = [
        (
            ExchangeType::CREATE_CHILD_SA,
            vec![rekey, Payload::Sa(esp_offer(9))],
        ),
        (
            ExchangeType::INFORMATIONAL,
            vec![Payload::Delete(Delete::ike())],
        ),
        (
            ExchangeType::INFORMATIONAL,
            vec![Payload::Delete(Delete::esp(vec![SPI_OUT]))],
        ),
    ];
    for (exchange, payloads) in requests {
        for id in [0, 1, 2] {
            let bytes = scripted_peer.seal(exchange, id, false, &payloads);
            scripted_peer.deliver(&bytes);
        }
    }
    assert!(scripted_peer.heard().is_empty());
    let request = scripted_peer.auth_request();
    scripted_peer.send_request(ExchangeType::IKE_AUTH, 1, &request);
    assert_eq!(scripted_peer.pair.b.state(), TunnelState::Up);
}

#[test]
fn n21_auth_with_another_peers_key_fails() {
    let mut scripted_peer = ScriptedPeer::keyed();
    let mut request = scripted_peer.auth_request();
    let id = Id::new(IdType::IPV4_ADDR, vec![192, 0, 2, 1]);
    assert_eq!(request[1], scripted_peer.auth(&id, PSK));
    request[1] = scripted_peer.auth(&id, b"the key of somebody else");
    let answer = scripted_peer.send_request(ExchangeType::IKE_AUTH, 1, &request);
    assert_eq!(answer, [notify(NotifyType::AUTHENTICATION_FAILED)]);
    assert!(scripted_peer.pair.b.children.is_empty());
}

#[test]
fn n22_an_unconfigured_peer_leaves_no_state_however_often_it_retries() {
    let honest = Pair::established();
    let (first, second) = (honest.a.sent_ike(0), honest.a.sent_ike(1));
    let mut pair = fresh();
    pair.command(Side::B, Command::Down(TUNNEL));
    for remote in ["192.0.2.1", "203.0.113.5"] {
        for _ in 0..10 {
            pair.inject_from(Side::B, "192.0.2.2:500", &format!("{remote}:500"), &first);
            pair.inject_from(
                Side::B,
                "192.0.2.2:4500",
                &format!("{remote}:4500"),
                &second,
            );
        }
    }
    let answers: Vec<Vec<u8>> = (0..pair.b.sent.len())
        .map(|at| pair.b.sent_ike(at))
        .collect();
    assert_eq!(answers.len(), 20);
    // The first is the peer of a tunnel that is down, the second of none.
    let kinds = [
        NotifyType::TEMPORARY_FAILURE,
        NotifyType::NO_PROPOSAL_CHOSEN,
    ];
    let expected = kinds.into_iter().flat_map(|kind| [kind; 10]);
    for (answer, kind) in answers.into_iter().zip(expected) {
        let message = Message::parse(&answer).unwrap();
        assert_eq!(message.clear, [notify(kind)]);
        assert!(message.header.spi_r.is_zero());
    }
    assert!(!format!("{:?}", pair.b.endpoint).contains("HalfOpen("));
    let unknown = pair
        .b
        .endpoint
        .drop_counts()
        .find(|(class, _)| *class == DropClass::UnknownSpi);
    assert_eq!(unknown, Some((DropClass::UnknownSpi, 20)));
}

/// A's own values are reflected as if they were the responder's: A's own AUTH is not valid as B's.
#[test]
fn n23_our_own_nonce_key_spi_and_auth_reflected_do_not_authenticate() {
    let mut pair = Pair::new(settings(Side::A), settings(Side::B));
    pair.cut();
    let own = pair.a.sent_ike(0);
    let message = Message::parse(&own).unwrap();
    let flags = Flags {
        response: true,
        ..Flags::default()
    };
    let spi = message.header.spi_i;
    let header = Header::new(spi, spi, ExchangeType::IKE_SA_INIT, flags, MessageId(0));
    let mirrored = Message::encode_clear(header, &message.clear).unwrap();
    pair.inject(Side::A, 500, &mirrored);
    for index in 1..pair.a.sent.len() {
        let mut proof = pair.a.sent_ike(index);
        pair.inject(Side::A, 4500, &proof);
        proof[19] = 0x20;
        pair.inject(Side::A, 4500, &proof);
    }
    assert!(pair.a.children.is_empty());
    assert_eq!(pair.a.state(), TunnelState::Connecting);
    pair.no_impairment();
    pair.run_for(300 * SECOND);
    pair.assert_agreed();
}

#[test]
fn n24_ike_auth_with_other_content_is_ignored_and_a_retransmission_gets_the_same_response() {
    let mut scripted_peer = ScriptedPeer::keyed();
    let request = scripted_peer.auth_request();
    let bytes = scripted_peer.seal(ExchangeType::IKE_AUTH, 1, false, &request);
    scripted_peer.deliver(&bytes);
    let first = scripted_peer.pair.b.sent.len() - 1;
    let mut other = request.clone();
    other.push(notify(NotifyType::INITIAL_CONTACT));
    for payloads in [&other[..], &request[..], &[]] {
        let changed = scripted_peer.seal(ExchangeType::IKE_AUTH, 1, false, payloads);
        assert_ne!(changed, bytes);
        scripted_peer.deliver(&changed);
        assert_eq!(scripted_peer.pair.b.sent.len(), first + 1);
    }
    scripted_peer.deliver(&bytes);
    assert_eq!(
        scripted_peer.pair.b.sent[first + 1],
        scripted_peer.pair.b.sent[first]
    );
    assert_eq!(scripted_peer.pair.b.state(), TunnelState::Up);
}
