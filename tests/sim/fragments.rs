//! Fragmented messages (RFC 7383): between two engines over an impaired network, and from a hostile authenticated peer.

use std::time::Duration;

use groundlink::crypto::{EspProposal, Generator};
use groundlink::ike::{Command, Content, Identity, Rekey, Transmit, TunnelState};
use groundlink::wire::{
    Critical, Envelope, ExchangeType, Header, Message, Notify, NotifyType, Payload, PayloadType, sk,
};

use crate::pair::{LATENCY, Pair, Side, TUNNEL, settings};
use crate::scripted_peer::{ScriptedPeer, notify};

const INFORMATIONAL: ExchangeType = ExchangeType::INFORMATIONAL;

/// The smallest configurable packet minus IPv4 header, UDP header and non-ESP marker.
const MIN_DATAGRAM: usize = 576 - 32;

/// Two sides whose IKE_AUTH messages exceed one such packet in both directions.
fn with_long_ike_auth(fragment_size: u16) -> Pair {
    with_long_ike_auth_seeded(fragment_size, (1, 2))
}

fn with_long_ike_auth_seeded(fragment_size: u16, seeds: (u8, u8)) -> Pair {
    let [a, b] = [Side::A, Side::B].map(|side| {
        let mut settings = settings(side);
        settings.id = Identity::Fqdn(format!("{side:?}.").repeat(450));
        settings.fragment_size = fragment_size;
        settings
    });
    Pair::with_seeds(a, b, seeds)
}

fn envelope(transmit: &Transmit) -> Option<Envelope> {
    match &transmit.content {
        Content::Ike(bytes) => Some(Message::parse(bytes).unwrap().sealed?.envelope),
        Content::Keepalive => None,
    }
}

fn length(transmit: &Transmit) -> usize {
    match &transmit.content {
        Content::Ike(bytes) => bytes.len(),
        Content::Keepalive => 1,
    }
}

/// The number of fragments that a side has sent.
fn fragments(sent: &[Transmit]) -> usize {
    sent.iter()
        .filter(|transmit| matches!(envelope(transmit), Some(Envelope::Fragment { .. })))
        .count()
}

#[test]
fn long_messages_cross_in_fragments_no_larger_than_configured() {
    for fragment_size in [576, 700, 1000] {
        let mut pair = with_long_ike_auth(fragment_size);
        pair.run_for(Duration::from_secs(1));
        pair.assert_agreed();
        for node in [&pair.a, &pair.b] {
            assert!(fragments(&node.sent) >= 2, "{fragment_size}");
            assert!(
                node.sent
                    .iter()
                    .all(|transmit| length(transmit) + 32 <= usize::from(fragment_size)),
                "{fragment_size}"
            );
        }
    }
}

#[test]
fn fragmentation_support_carries_over_to_the_rekeyed_ike_sa() {
    // The public values of this group are too long for a small packet.
    let [a, b] = [Side::A, Side::B].map(|side| {
        let mut settings = settings(side);
        settings.esp = vec![EspProposal::parse("aes128-sha256-modp3072").unwrap().0];
        settings.fragment_size = 576;
        settings
    });
    let mut pair = Pair::new(a, b);
    pair.run_for(Duration::from_secs(1));
    pair.assert_agreed();
    for (side, what) in [(Side::A, Rekey::Ike), (Side::B, Rekey::Child)] {
        let tunnel = TUNNEL;
        pair.command(side, Command::Rekey { tunnel, what });
        pair.run_for(Duration::from_secs(20));
    }
    pair.assert_agreed();
    assert!(pair.b.view().rekeys.ike >= 1 && pair.b.view().rekeys.child >= 1);
    for node in [&pair.a, &pair.b] {
        assert!(fragments(&node.sent) >= 2);
        assert!(node.sent.iter().all(|sent| length(sent) <= MIN_DATAGRAM));
    }
}

#[test]
fn f02_lost_duplicated_and_reordered_fragments_complete_one_handshake() {
    for seed in 0..60u8 {
        let mut pair = with_long_ike_auth_seeded(576, (seed, seed.wrapping_add(100)));
        let mut dice = Generator::from_seed([seed; 32]);
        pair.impairment(move |_, _| {
            let [loss, copies, first, second] = dice.bytes::<4>();
            let delay = |byte: u8| Duration::from_millis(1 + u64::from(byte));
            match (loss % 4, copies % 3) {
                (0, _) => vec![],
                (_, 0) => vec![delay(first), delay(second)],
                _ => vec![delay(first)],
            }
        });
        pair.run_for(Duration::from_secs(80));
        pair.no_impairment();
        pair.run_for(Duration::from_secs(80));
        pair.assert_agreed();
        assert!(fragments(&pair.a.sent) >= 2, "seed {seed}");
        assert!(fragments(&pair.b.sent) >= 2, "seed {seed}");
    }
}

/// Drops datagrams of `side` longer than `narrow`.
fn narrow(pair: &mut Pair, side: Option<Side>) {
    pair.impairment(move |from, transmit| {
        let through = side.is_some_and(|side| side != from) || length(transmit) <= MIN_DATAGRAM;
        if through { vec![LATENCY] } else { vec![] }
    });
}

#[test]
fn the_initiator_detects_a_smaller_path_mtu_and_the_responder_adapts() {
    // In both directions, so that the response must be smaller at once; then in each direction alone.
    for side in [None, Some(Side::A), Some(Side::B)] {
        let mut pair = with_long_ike_auth(1280);
        narrow(&mut pair, side);
        pair.run_for(Duration::from_secs(20));
        pair.assert_agreed();
        assert!(
            pair.a.sent.iter().any(|sent| length(sent) > MIN_DATAGRAM),
            "whole first"
        );
    }
}

#[test]
fn a_retransmitted_response_is_not_encrypted_again() {
    let mut pair = with_long_ike_auth(576);
    let mut first_answer = true;
    pair.impairment(move |from, transmit| {
        let lost = from == Side::B && envelope(transmit).is_some() && first_answer;
        first_answer &= !matches!(envelope(transmit), Some(Envelope::Fragment { number, total }) if from == Side::B && number == total);
        if lost { vec![] } else { vec![LATENCY] }
    });
    pair.run_for(Duration::from_secs(3));
    pair.assert_agreed();
    let answers: Vec<&Transmit> = pair
        .b
        .sent
        .iter()
        .filter(|sent| envelope(sent).is_some())
        .collect();
    let (first, second) = answers.split_at(answers.len() / 2);
    assert!(first.len() >= 2);
    assert_eq!(first, second);
}

/// A payload that makes a message long.
fn filler() -> Payload {
    Payload::Notify(Notify::new(NotifyType(40_000), vec![7; 300]))
}

/// An established SA with a peer that supports fragmentation.
fn scripted_peer() -> ScriptedPeer {
    ScriptedPeer::keyed_for_fragments().authenticated()
}

/// The fragments of request 2, about three, not encrypted yet.
fn request(scripted_peer: &ScriptedPeer) -> Vec<sk::SealedLayout> {
    let frames = scripted_peer.fragments(INFORMATIONAL, 2, &[filler()], 200);
    assert!(frames.len() >= 3);
    frames
}

fn sealed(scripted_peer: &mut ScriptedPeer, frames: Vec<sk::SealedLayout>) -> Vec<Vec<u8>> {
    frames
        .into_iter()
        .map(|frame| scripted_peer.seal_frame(frame))
        .collect()
}

/// Overwrites the fragment number (4 octets before the encrypted part) or the total (2 octets before it).
fn put(frame: &mut sk::SealedLayout, before: usize, number: u16) {
    let at = frame.aad_len - before;
    frame.bytes[at..at + 2].copy_from_slice(&number.to_be_bytes());
}

/// B has not responded, and responds to the authentic request afterwards.
fn still_answers(scripted_peer: &mut ScriptedPeer, what: &str) {
    assert!(scripted_peer.heard().is_empty(), "{what} was answered");
    let frames = request(scripted_peer);
    for fragment in sealed(scripted_peer, frames) {
        scripted_peer.deliver(&fragment);
    }
    assert_eq!(scripted_peer.heard().len(), 1, "after {what}");
    assert_eq!(
        scripted_peer.pair.b.state(),
        TunnelState::Up,
        "after {what}"
    );
}

#[test]
fn f01_invalid_fragment_numbers_are_dropped() {
    for (number, total) in [
        (0, 0),
        (0, 3),
        (4, 3),
        (1, 65_535),
        (65_535, 65_535),
        (1, 65),
    ] {
        let mut scripted_peer = scripted_peer();
        for mut frame in request(&scripted_peer) {
            put(&mut frame, 4, number);
            put(&mut frame, 2, total);
            let bytes = scripted_peer.seal_frame(frame);
            scripted_peer.deliver(&bytes);
        }
        still_answers(&mut scripted_peer, &format!("{number} of {total}"));
    }
}

#[test]
fn f02_reversed_duplicate_and_refragmented_pieces_make_one_request() {
    let mut scripted_peer = scripted_peer();
    let old = scripted_peer.fragments(INFORMATIONAL, 2, &[filler()], 300);
    let old = sealed(&mut scripted_peer, old);
    let new = request(&scripted_peer);
    let new = sealed(&mut scripted_peer, new);
    assert!(old.len() < new.len());
    scripted_peer.deliver(&old[0]);
    for fragment in new.iter().skip(1).rev() {
        scripted_peer.deliver(fragment);
        scripted_peer.deliver(fragment);
    }
    for fragment in &old {
        scripted_peer.deliver(fragment);
    }
    assert!(scripted_peer.heard().is_empty());
    scripted_peer.deliver(&new[0]);
    assert_eq!(scripted_peer.heard().len(), 1);
}

#[test]
fn f03_a_forged_fragment_does_not_displace_the_authentic_one() {
    let mut scripted_peer = scripted_peer();
    let frames = request(&scripted_peer);
    let fragments = sealed(&mut scripted_peer, frames);
    for fragment in &fragments {
        for at in [Header::LEN + 20, fragment.len() - 1] {
            let mut forged = fragment.clone();
            forged[at] ^= 1;
            scripted_peer.deliver(&forged);
        }
        scripted_peer.deliver(fragment);
    }
    assert_eq!(scripted_peer.heard().len(), 1);
}

#[test]
fn f04_fragments_with_a_wrong_next_payload_are_dropped() {
    for (which, next) in [
        (0, PayloadType::NONE),
        (1, PayloadType::NOTIFY),
        (2, PayloadType::SK),
    ] {
        let mut scripted_peer = scripted_peer();
        let mut frames = request(&scripted_peer);
        frames[which].bytes[Header::LEN] = next.0;
        for fragment in sealed(&mut scripted_peer, frames) {
            scripted_peer.deliver(&fragment);
        }
        still_answers(&mut scripted_peer, &format!("fragment {which} with {next}"));
    }
}

#[test]
fn f04_a_fragment_with_unencrypted_payloads_is_dropped() {
    for count in [1, 63, 64, 200] {
        let mut scripted_peer = scripted_peer();
        for mut frame in request(&scripted_peer) {
            let mut chain: Vec<u8> = (0..count)
                .flat_map(|_| [PayloadType::VENDOR.0, 0, 0, 4])
                .collect();
            let last = chain.len() - 4;
            chain[last] = PayloadType::SKF.0;
            frame.bytes[16] = PayloadType::VENDOR.0;
            frame
                .bytes
                .splice(Header::LEN..Header::LEN, chain.iter().copied());
            frame.aad_len += chain.len();
            let length = u32::try_from(frame.bytes.len()).unwrap();
            frame.bytes[24..28].copy_from_slice(&length.to_be_bytes());
            let bytes = scripted_peer.seal_frame(frame);
            scripted_peer.deliver(&bytes);
        }
        still_answers(&mut scripted_peer, &format!("{count} payloads in front"));
    }
}

#[test]
fn f04_an_unfragmented_message_discards_its_partial_fragments() {
    let mut scripted_peer = scripted_peer();
    let frames = request(&scripted_peer);
    let fragments = sealed(&mut scripted_peer, frames);
    let (last, others) = fragments.split_last().unwrap();
    for fragment in others {
        scripted_peer.deliver(fragment);
    }
    assert!(scripted_peer.send_request(INFORMATIONAL, 2, &[]).is_empty());
    scripted_peer.deliver(last);
    assert!(scripted_peer.heard().is_empty(), "its message is answered");
    assert!(scripted_peer.send_request(INFORMATIONAL, 3, &[]).is_empty());
}

#[test]
fn f05_fragments_of_a_peer_that_did_not_negotiate_them_are_dropped() {
    let mut scripted_peer = ScriptedPeer::established();
    let frames = request(&scripted_peer);
    for fragment in sealed(&mut scripted_peer, frames) {
        scripted_peer.deliver(&fragment);
    }
    assert!(scripted_peer.heard().is_empty());
    assert!(
        scripted_peer
            .send_request(INFORMATIONAL, 2, &[filler()])
            .is_empty()
    );
}

#[test]
fn f05_fragments_in_ike_sa_init_are_dropped() {
    let mut scripted_peer = ScriptedPeer::keyed_for_fragments();
    for exchange in [ExchangeType::IKE_SA_INIT, ExchangeType(0)] {
        let frames = scripted_peer.fragments(exchange, 0, &[filler()], 200);
        for mut fragment in sealed(&mut scripted_peer, frames) {
            scripted_peer.deliver(&fragment);
            // As the first of a new SA.
            fragment[8..16].fill(0);
            scripted_peer.pair.inject(Side::B, 500, &fragment);
        }
    }
    assert!(scripted_peer.heard().is_empty());
    scripted_peer.authenticated();
}

#[test]
fn f05_a_peer_that_did_not_negotiate_fragmentation_gets_no_fragments() {
    let pair = with_long_ike_auth(576);
    let request = Message::parse(&pair.a.sent_ike(0)).unwrap().clear;
    assert!(
        request.contains(&notify(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED)),
        "we always ask"
    );
    let scripted_peer = ScriptedPeer::keyed();
    let answer = Message::parse(&scripted_peer.pair.b.sent_ike(0))
        .unwrap()
        .clear;
    assert!(!answer.contains(&notify(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED)));
    let scripted_peer = ScriptedPeer::keyed_for_fragments();
    let answer = Message::parse(&scripted_peer.pair.b.sent_ike(0))
        .unwrap()
        .clear;
    assert!(answer.contains(&notify(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED)));
}

#[test]
fn f06_incomplete_requests_block_nothing() {
    let mut scripted_peer = scripted_peer();
    for id in [2, 3, 4, 1000] {
        let frames = scripted_peer.fragments(INFORMATIONAL, id, &[filler(), filler()], 128);
        let fragments = sealed(&mut scripted_peer, frames);
        for fragment in fragments.iter().skip(1) {
            scripted_peer.deliver(fragment);
        }
    }
    assert!(scripted_peer.send_request(INFORMATIONAL, 2, &[]).is_empty());
    assert!(scripted_peer.send_request(INFORMATIONAL, 3, &[]).is_empty());
    // An incomplete handshake expires as usual, too.
    let mut half_open = ScriptedPeer::keyed_for_fragments();
    let request = half_open.auth_request();
    let frames = half_open.fragments(ExchangeType::IKE_AUTH, 1, &request, 128);
    let fragments = sealed(&mut half_open, frames);
    for fragment in fragments.iter().skip(1) {
        half_open.deliver(fragment);
    }
    half_open.pair.run_for(Duration::from_secs(31));
    half_open.deliver(&fragments[0]);
    assert!(half_open.heard().is_empty());
    assert_ne!(half_open.pair.b.state(), TunnelState::Up);
}

#[test]
fn f07_only_the_first_fragment_of_an_answered_request_resends_the_response() {
    let mut scripted_peer = scripted_peer();
    let again = request(&scripted_peer);
    let fragments = {
        let frames = request(&scripted_peer);
        sealed(&mut scripted_peer, frames)
    };
    for fragment in &fragments {
        scripted_peer.deliver(fragment);
    }
    let answered = scripted_peer.pair.b.sent.len();
    assert_eq!(scripted_peer.heard().len(), 1);
    for fragment in fragments.iter().skip(1) {
        scripted_peer.deliver(fragment);
    }
    assert!(scripted_peer.heard().is_empty());
    scripted_peer.deliver(&fragments[0]);
    assert_eq!(
        scripted_peer.pair.b.sent_ike(answered - 1),
        scripted_peer.pair.b.sent_ike(answered),
        "the same bytes"
    );
    assert_eq!(scripted_peer.heard().len(), 1);
    // The same when the request is refragmented, but not for a fragment that only resembles it.
    for (index, fragment) in sealed(&mut scripted_peer, again).into_iter().enumerate() {
        let mut forged = fragment.clone();
        *forged.last_mut().unwrap() ^= 1;
        scripted_peer.deliver(&forged);
        assert!(scripted_peer.heard().is_empty());
        scripted_peer.deliver(&fragment);
        assert_eq!(scripted_peer.heard().len(), usize::from(index == 0));
    }
    let whole = scripted_peer.seal(INFORMATIONAL, 2, false, &[filler()]);
    scripted_peer.deliver(&whole);
    assert!(
        scripted_peer.heard().is_empty(),
        "a whole message is no fragment 1"
    );
}

/// A payload with invalid content.
fn invalid_payload() -> Payload {
    Payload::Unknown {
        kind: PayloadType::SA,
        critical: Critical::No,
        body: vec![0xff; 300],
    }
}

#[test]
fn f08_malformed_content_in_valid_fragments_gets_invalid_syntax() {
    let mut scripted_peer = scripted_peer();
    let frames = scripted_peer.fragments(INFORMATIONAL, 2, &[invalid_payload()], 200);
    for fragment in sealed(&mut scripted_peer, frames) {
        scripted_peer.deliver(&fragment);
    }
    let heard = scripted_peer.heard();
    assert_eq!(heard[0].1, [notify(NotifyType::INVALID_SYNTAX)]);
    assert_ne!(scripted_peer.pair.b.state(), TunnelState::Up);

    let mut half_open = ScriptedPeer::keyed_for_fragments();
    let frames = half_open.fragments(ExchangeType::IKE_AUTH, 1, &[invalid_payload()], 200);
    for fragment in sealed(&mut half_open, frames) {
        half_open.deliver(&fragment);
    }
    let heard = half_open.heard();
    assert_eq!(heard[0].1, [notify(NotifyType::INVALID_SYNTAX)]);
    assert!(half_open.pair.b.children.is_empty());
}

#[test]
fn f09_a_fragment_shorter_than_its_own_header_or_longer_than_its_datagram_is_dropped() {
    let mut scripted_peer = scripted_peer();
    let frames = request(&scripted_peer);
    for fragment in sealed(&mut scripted_peer, frames) {
        for length in [0u16, 1, 4, 7, 8, 9, 12, 65_535] {
            let mut bytes = fragment.clone();
            bytes[Header::LEN + 2..Header::LEN + 4].copy_from_slice(&length.to_be_bytes());
            scripted_peer.deliver(&bytes);
            // The same with a datagram that ends at the end of the payload.
            bytes.truncate((Header::LEN + usize::from(length)).max(Header::LEN));
            let whole = u32::try_from(bytes.len()).unwrap();
            bytes[24..28].copy_from_slice(&whole.to_be_bytes());
            scripted_peer.deliver(&bytes);
        }
    }
    still_answers(&mut scripted_peer, "short and long fragments");
}

#[test]
fn f02_a_handshake_in_tiny_fragments_from_another_implementation_is_accepted() {
    let mut scripted_peer = ScriptedPeer::keyed_for_fragments();
    let request = scripted_peer.auth_request();
    let frames = scripted_peer.fragments(ExchangeType::IKE_AUTH, 1, &request, 90);
    let fragments = sealed(&mut scripted_peer, frames);
    assert!(fragments.len() > 8);
    for fragment in fragments.iter().rev() {
        scripted_peer.deliver(fragment);
    }
    assert_eq!(scripted_peer.heard().len(), 1);
    assert_eq!(scripted_peer.pair.b.state(), TunnelState::Up);
    scripted_peer.deliver(&fragments[0]);
    assert_eq!(scripted_peer.heard().len(), 1, "repeated on fragment 1");
    scripted_peer.deliver(&fragments[1]);
    assert!(scripted_peer.heard().is_empty());
}
