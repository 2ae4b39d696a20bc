//! Additional key exchanges from a peer with the keys (RFC 9370 §2.2.4): omitted, invalid, completed twice, answered wrongly.
//!
//! No SA is created before the exchange completes as negotiated, and the Child SA in use always stays.

use std::time::Duration;

use groundlink::crypto::{EspProposal, Generator, Group, KeyExchange};
use groundlink::ike::{Rekey, TunnelState};
use groundlink::wire::{
    Delete, ExchangeType, Ke, Notify, NotifyType, Payload, PayloadType, Transform, TransformType,
};

use crate::esp::key;
use crate::pair::{Side, settings};
use crate::requests::assert_unharmed;
use crate::scripted_peer::{SPI_OUT, ScriptedPeer, kinds, notify};

const CREATE: ExchangeType = ExchangeType::CREATE_CHILD_SA;
const FOLLOWUP: ExchangeType = ExchangeType::IKE_FOLLOWUP_KE;
const INFORMATIONAL: ExchangeType = ExchangeType::INFORMATIONAL;

fn proposal() -> EspProposal {
    let words = "aes128-sha256-curve25519-ke1_mlkem768";
    EspProposal::parse(words).unwrap().0
}

/// B requires ML-KEM in addition to Curve25519 for every Child SA except the first.
fn hybrid() -> ScriptedPeer {
    let mut b = settings(Side::B);
    b.esp = vec![proposal()];
    ScriptedPeer::established_with(b)
}

/// The peer's side of a key exchange.
fn ours(group: &'static Group) -> KeyExchange {
    KeyExchange::generate(group, &mut Generator::from_seed([5; 32]))
}

/// The peer's KE payload.
fn half(group: &'static Group) -> Payload {
    let ke = ours(group);
    let (group, data) = (group.id, ke.public().to_vec());
    Payload::Ke(Ke { group, data })
}

fn cut(ke: &Payload) -> Payload {
    let Payload::Ke(ke) = ke else {
        panic!("{ke:?}")
    };
    let mut ke = ke.clone();
    ke.data.pop();
    Payload::Ke(ke)
}

/// Chooses or offers both key exchanges.
fn both_exchanges(mut payloads: Vec<Payload>) -> Vec<Payload> {
    for payload in &mut payloads {
        if let Payload::Sa(sa) = payload {
            let transforms = &mut sa.proposals[0].transforms;
            transforms.push(Transform::new(TransformType::KE, 31, None));
            transforms.push(Transform::new(TransformType::ADDKE1, 36, None));
        }
    }
    payloads.push(half(proposal().groups[0]));
    payloads
}

fn link(data: &[u8]) -> Payload {
    let kind = NotifyType::ADDITIONAL_KEY_EXCHANGE;
    Payload::Notify(Notify::new(kind, data.to_vec()))
}

/// Requests a rekey of B's Child SA and returns the link to the IKE_FOLLOWUP_KE exchange.
fn begin(scripted_peer: &mut ScriptedPeer, id: u32) -> Payload {
    let request = both_exchanges(scripted_peer.rekeying(SPI_OUT, 0x2000 + id));
    let answer = scripted_peer.send_request(CREATE, id, &request);
    let is_link =
        |payload: &&Payload| kinds(&[(*payload).clone()]) == [NotifyType::ADDITIONAL_KEY_EXCHANGE];
    answer.iter().find(is_link).cloned().unwrap()
}

/// KEYMAT includes both secrets.
#[test]
fn an_independent_key_schedule_with_an_additional_key_exchange_gives_the_same_keys() {
    let mut scripted_peer = hybrid();
    let request = both_exchanges(scripted_peer.rekeying(SPI_OUT, 0x2000));
    let created = scripted_peer.send_request(CREATE, 2, &request);
    let part = |payloads: &[Payload], kind| {
        let part = payloads.iter().find_map(|payload| match payload {
            Payload::Nonce(nonce) if kind == PayloadType::NONCE => Some(nonce.clone()),
            Payload::Ke(ke) if kind == PayloadType::KE => Some(ke.data.clone()),
            _ => None,
        });
        part.unwrap()
    };
    let is_link = |payload: &&Payload| matches!(payload, Payload::Notify(_));
    let link = created.iter().find(is_link).unwrap().clone();
    let kem = proposal().additional[0];
    let followed = scripted_peer.send_request(FOLLOWUP, 3, &[half(kem), link]);
    let agree = |group, answer: &[Payload]| {
        let theirs = part(answer, PayloadType::KE);
        ours(group).agree(&theirs).unwrap()
    };
    let (first, additional) = (agree(proposal().groups[0], &created), agree(kem, &followed));
    let nonces = [&request, &created].map(|payloads| part(payloads, PayloadType::NONCE));
    let (of_initiator, of_responder) = scripted_peer.ike_sa.fresh_child_keys(
        first.as_bytes(),
        (&nonces[0], &nonces[1]),
        additional.as_bytes(),
    );
    let child = &scripted_peer.pair.b.children[1];
    assert_eq!(key(&child.keys_in), key(&of_initiator));
    assert_eq!(key(&child.keys_out), key(&of_responder));
}

#[test]
fn p05_a_rekey_is_completed_once_and_only_with_its_own_link() {
    let mut scripted_peer = hybrid();
    let kem = || half(proposal().additional[0]);
    let not_found = [NotifyType::STATE_NOT_FOUND];
    let answer = scripted_peer.send_request(FOLLOWUP, 2, &[kem(), link(&[7; 8])]);
    assert_eq!(kinds(&answer), not_found, "nothing has begun");

    // A hundred incomplete rekeys leave one that can be completed: the last.
    let first = begin(&mut scripted_peer, 3);
    let last = (4..103)
        .map(|id| begin(&mut scripted_peer, id))
        .last()
        .unwrap();
    assert_eq!(scripted_peer.pair.b.children.len(), 1);
    for (id, wrong) in (103..).zip([vec![kem(), first], vec![kem(), link(&[])], vec![kem()]]) {
        assert_eq!(
            kinds(&scripted_peer.send_request(FOLLOWUP, id, &wrong)),
            not_found
        );
    }
    let answer = scripted_peer.send_request(FOLLOWUP, 106, &[kem(), last.clone()]);
    assert!(
        matches!(&answer[..], [Payload::Ke(ke)] if ke.group == 36),
        "{answer:?}"
    );
    assert_eq!(scripted_peer.pair.b.children.len(), 2);
    assert_eq!(
        kinds(&scripted_peer.send_request(FOLLOWUP, 107, &[kem(), last])),
        not_found
    );
    assert_eq!(scripted_peer.pair.b.children.len(), 2);
}

#[test]
fn p07_an_additional_key_exchange_other_than_negotiated_creates_no_sa() {
    let kem = || half(proposal().additional[0]);
    let other = half(
        EspProposal::parse("aes128-sha256-curve25519-ke1_mlkem1024")
            .unwrap()
            .0
            .additional[0],
    );
    let refused = [NotifyType::NO_PROPOSAL_CHOSEN];
    for (case, ke) in [
        ("another method", other),
        ("the first one again", half(proposal().groups[0])),
        ("a key that is too short", cut(&kem())),
    ] {
        let mut scripted_peer = hybrid();
        let link = begin(&mut scripted_peer, 2);
        let answer = scripted_peer.send_request(FOLLOWUP, 3, &[ke, link.clone()]);
        assert_eq!(kinds(&answer), refused, "{case}");
        let answer = scripted_peer.send_request(FOLLOWUP, 4, &[kem(), link]);
        assert_eq!(kinds(&answer), [NotifyType::STATE_NOT_FOUND], "{case}");
        assert_unharmed(&mut scripted_peer, 5, case);
        // A new rekey may start.
        let link = begin(&mut scripted_peer, 6);
        assert_eq!(
            kinds(&scripted_peer.send_request(FOLLOWUP, 7, &[kem(), link])),
            []
        );
        assert_eq!(scripted_peer.pair.b.children.len(), 2);
    }

    // The Child SA is deleted after the start of the rekey: there is nothing to replace.
    let mut scripted_peer = hybrid();
    let link = begin(&mut scripted_peer, 2);
    let gone = [Payload::Delete(Delete::esp(vec![SPI_OUT]))];
    scripted_peer.send_request(INFORMATIONAL, 3, &gone);
    let answer = scripted_peer.send_request(FOLLOWUP, 4, &[kem(), link]);
    assert_eq!(kinds(&answer), [NotifyType::CHILD_SA_NOT_FOUND]);
    assert!(scripted_peer.pair.b.children.is_empty());
}

/// B requests a rekey and gets a valid response; returns B's next request.
fn asked_to_follow() -> (ScriptedPeer, groundlink::wire::Header, Vec<Payload>) {
    let mut scripted_peer = hybrid();
    let (asked, request) = scripted_peer.have_b_rekey(Rekey::Child);
    let mut answer = both_exchanges(scripted_peer.accepting(&request, 0x2000));
    answer.push(link(b"this one"));
    scripted_peer.answer(&asked, &answer);
    let (asked, request) = scripted_peer.asked();
    assert_eq!(asked.exchange, FOLLOWUP);
    assert!(request.contains(&link(b"this one")), "as it was given");
    (scripted_peer, asked, request)
}

/// A valid response.
fn encapsulated(request: &[Payload]) -> Payload {
    let theirs = request.iter().find_map(|payload| match payload {
        Payload::Ke(ke) => Some(&ke.data),
        _ => None,
    });
    let group = proposal().additional[0];
    let rng = &mut Generator::from_seed([6; 32]);
    let answer = KeyExchange::respond(group, theirs.unwrap(), rng).unwrap();
    let (group, data) = (group.id, answer.public);
    Payload::Ke(Ke { group, data })
}

#[test]
fn p08_an_invalid_additional_key_exchange_response_discards_only_its_own_child_sa() {
    let (mut scripted_peer, asked, request) = asked_to_follow();
    scripted_peer.answer(&asked, &[encapsulated(&request)]);
    assert_eq!(scripted_peer.pair.b.children.len(), 2, "answered well");

    let mut answers = vec![
        ("nothing", Vec::new()),
        ("the wrong method", vec![half(proposal().groups[0])]),
        ("a ciphertext too short", vec![cut(&encapsulated(&request))]),
        ("two of them", vec![encapsulated(&request); 2]),
    ];
    for refusal in [
        NotifyType::STATE_NOT_FOUND,
        NotifyType::TEMPORARY_FAILURE,
        NotifyType::NO_PROPOSAL_CHOSEN,
        NotifyType(8000),
    ] {
        answers.push(("a refusal", vec![notify(refusal)]));
    }
    for (case, answer) in answers {
        let (mut scripted_peer, asked, _) = asked_to_follow();
        scripted_peer.answer(&asked, &answer);
        for (header, payloads) in scripted_peer.heard() {
            assert!(
                matches!(&payloads[..], [Payload::Delete(_)]),
                "{case}: {payloads:?}"
            );
            scripted_peer.answer(&header, &[]);
        }
        assert_eq!(scripted_peer.pair.b.view().rekeys.child, 0, "{case}");
        assert_unharmed(&mut scripted_peer, 2, case);
        let (again, _) = scripted_peer.have_b_rekey(Rekey::Child);
        assert_eq!(again.exchange, CREATE, "{case}: it begins at the beginning");
    }

    // A choice without a link for the next exchange.
    let mut scripted_peer = hybrid();
    let (asked, request) = scripted_peer.have_b_rekey(Rekey::Child);
    let answer = both_exchanges(scripted_peer.accepting(&request, 0x2000));
    scripted_peer.answer(&asked, &answer);
    let (_, payloads) = scripted_peer.asked();
    assert_eq!(payloads[0].kind(), PayloadType::DELETE);
    assert_unharmed(&mut scripted_peer, 2, "no link");
}

#[test]
fn p05_an_incomplete_rekey_expires_after_a_minute() {
    let mut scripted_peer = hybrid();
    let link = begin(&mut scripted_peer, 2);
    for id in 3..16 {
        scripted_peer.pair.run_for(Duration::from_secs(5));
        assert!(
            scripted_peer
                .send_request(INFORMATIONAL, id, &[])
                .is_empty()
        );
    }
    let kem = half(proposal().additional[0]);
    let answer = scripted_peer.send_request(FOLLOWUP, 16, &[kem, link]);
    assert_eq!(kinds(&answer), [NotifyType::STATE_NOT_FOUND]);
    assert_eq!(scripted_peer.pair.b.children.len(), 1);
    assert_eq!(scripted_peer.pair.b.state(), TunnelState::Up);
}
