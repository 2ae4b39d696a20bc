//! Invalid messages: unauthenticated messages do not change an established SA and cost little.

use std::time::Duration;

use groundlink::crypto::Generator;
use groundlink::ike::{Content, TunnelState};
use groundlink::wire::{
    Delete, ExchangeType, Flags, Header, IkeSpi, Message, MessageId, Notify, NotifyType, Payload,
};

use crate::pair::{Pair, Side, settings};

const SECOND: Duration = Duration::from_secs(1);

fn sent_bytes(pair: &Pair, side: Side, index: usize) -> Vec<u8> {
    let node = match side {
        Side::A => &pair.a,
        Side::B => &pair.b,
    };
    match &node.sent[index].content {
        Content::Ike(bytes) => bytes.clone(),
        Content::Keepalive => Vec::new(),
    }
}

pub fn response(spi_i: IkeSpi, exchange: ExchangeType, payloads: &[Payload]) -> Vec<u8> {
    let flags = Flags {
        response: true,
        ..Flags::default()
    };
    let header = Header::new(spi_i, IkeSpi(0), exchange, flags, MessageId(0));
    Message::encode_clear(header, payloads).unwrap()
}

#[test]
fn n01_random_and_truncated_datagrams_change_nothing_and_are_not_answered() {
    let mut pair = Pair::established();
    let mut chance = Generator::from_seed([7; 32]);
    let quiet = pair.b.sent.len();
    for round in 0..3000u64 {
        let mut noise = vec![0; usize::try_from(chance.below(200)).unwrap()];
        chance.fill(&mut noise);
        let port = if round % 2 == 0 { 500 } else { 4500 };
        pair.inject(Side::B, port, &noise);
    }
    for index in 0..2 {
        let whole = sent_bytes(&pair, Side::A, index);
        for len in 0..whole.len() {
            pair.inject(Side::B, 500, &whole[..len]);
        }
    }
    assert_eq!(pair.b.sent.len(), quiet);
    pair.assert_agreed();
}

#[test]
fn p02_every_flipped_bit_of_a_protected_message_is_dropped() {
    let mut pair = Pair::established();
    let request = sent_bytes(&pair, Side::A, 1);
    let quiet = (pair.b.sent.len(), pair.b.events.len());
    // Except bits of the major version, which gets a response (n27).
    let version = 17 * 8 + 4..18 * 8;
    for bit in (0..request.len() * 8).filter(|bit| !version.contains(bit)) {
        let mut damaged = request.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        pair.inject(Side::B, 4500, &damaged);
    }
    assert_eq!((pair.b.sent.len(), pair.b.events.len()), quiet);
    pair.assert_agreed();
    // The unmodified message is a retransmission and gets its response again.
    pair.inject(Side::B, 4500, &request);
    assert_eq!(pair.b.sent.len(), quiet.0 + 1);
    assert_eq!(pair.b.sent[quiet.0], pair.b.sent[quiet.0 - 1]);
}

#[test]
fn p02_a_half_open_sa_survives_every_flipped_bit_of_its_ike_auth() {
    let pair = Pair::established();
    let (init, auth) = (sent_bytes(&pair, Side::A, 0), sent_bytes(&pair, Side::A, 1));
    let mut fresh = Pair::new(settings(Side::A), settings(Side::B));
    fresh.cut();
    fresh.inject(Side::B, 500, &init);
    for bit in 0..auth.len() * 8 {
        let mut damaged = auth.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        fresh.inject(Side::B, 4500, &damaged);
    }
    assert!(fresh.b.children.is_empty());
    fresh.inject(Side::B, 4500, &auth);
    assert_eq!(fresh.b.state(), TunnelState::Up, "{:?}", fresh.b.failures);
}

#[test]
fn n15_forged_error_responses_before_the_authentic_one_do_not_end_the_attempt() {
    for kind in [
        NotifyType::NO_PROPOSAL_CHOSEN,
        NotifyType::INVALID_SYNTAX,
        NotifyType::AUTHENTICATION_FAILED,
        NotifyType::INVALID_KE_PAYLOAD,
        // REDIRECT
        NotifyType(16407),
    ] {
        let mut pair = Pair::new(settings(Side::A), settings(Side::B));
        let init = Header::parse(&sent_bytes(&pair, Side::A, 0)).unwrap();
        let forged = response(
            init.spi_i,
            ExchangeType::IKE_SA_INIT,
            &[Payload::Notify(Notify::new(kind, vec![0, 1]))],
        );
        pair.inject(Side::A, 500, &forged);
        pair.run_for(SECOND);
        pair.assert_agreed();
    }
}

#[test]
fn n11_endless_cookie_requests_end_the_attempt() {
    let mut pair = Pair::new(settings(Side::A), settings(Side::B));
    pair.cut();
    for round in 0..20u8 {
        let Some(last) = pair.a.sent.len().checked_sub(1) else {
            break;
        };
        let init = Header::parse(&sent_bytes(&pair, Side::A, last)).unwrap();
        let cookie = Notify::new(NotifyType::COOKIE, vec![round; 20]);
        let asked = response(
            init.spi_i,
            ExchangeType::IKE_SA_INIT,
            &[Payload::Notify(cookie)],
        );
        pair.inject(Side::A, 500, &asked);
    }
    assert_eq!(pair.a.codes(), ["peer-misbehaved"]);
    assert!(pair.a.sent.len() <= 6);
}

#[test]
fn n10_a_cookie_is_prepended_to_an_otherwise_unchanged_request() {
    let mut pair = Pair::new(settings(Side::A), settings(Side::B));
    pair.cut();
    let first = sent_bytes(&pair, Side::A, 0);
    let spi_i = Header::parse(&first).unwrap().spi_i;
    let cookie = Notify::new(NotifyType::COOKIE, b"remember me".to_vec());
    let asked = response(
        spi_i,
        ExchangeType::IKE_SA_INIT,
        &[Payload::Notify(cookie.clone())],
    );
    pair.inject(Side::A, 500, &asked);
    let second = sent_bytes(&pair, Side::A, 1);
    let (first, second) = (
        Message::parse(&first).unwrap(),
        Message::parse(&second).unwrap(),
    );
    assert_eq!(second.clear[0], Payload::Notify(cookie));
    assert_eq!(second.clear[1..], first.clear[..]);
}

/// RFC 7296 §2.6.1 in both orders. The responses may be forged, so the offer does not change.
#[test]
fn n10_a_cookie_survives_a_change_of_group_and_the_group_survives_a_cookie() {
    let cookie = Payload::Notify(Notify::new(NotifyType::COOKIE, b"remember me".to_vec()));
    let group = Payload::Notify(Notify::new(NotifyType::INVALID_KE_PAYLOAD, vec![0, 31]));
    for order in [[&cookie, &group], [&group, &cookie]] {
        let mut a = settings(Side::A);
        let words = "aes128-sha256-ecp256-curve25519";
        a.ike = vec![groundlink::crypto::IkeProposal::parse(words).unwrap().0];
        let mut pair = Pair::new(a, settings(Side::B));
        pair.cut();
        let first = sent_bytes(&pair, Side::A, 0);
        let spi_i = Header::parse(&first).unwrap().spi_i;
        for wish in order {
            let asked = response(spi_i, ExchangeType::IKE_SA_INIT, std::slice::from_ref(wish));
            pair.inject(Side::A, 500, &asked);
        }
        assert_eq!(pair.a.sent.len(), 3);
        let last = sent_bytes(&pair, Side::A, 2);
        let (first, last) = (
            Message::parse(&first).unwrap(),
            Message::parse(&last).unwrap(),
        );
        assert_eq!(last.clear[0], cookie, "in front");
        let with_ke = |payload: &&Payload| matches!(payload, Payload::Ke(_));
        let ke = last.clear.iter().find(with_ke);
        assert!(matches!(ke, Some(Payload::Ke(ke)) if ke.group == 31));
        let others = |payloads: &[Payload]| -> Vec<Payload> {
            let others = payloads.iter().filter(|payload| !with_ke(payload));
            others.cloned().collect()
        };
        assert_eq!(others(&last.clear[1..]), others(&first.clear));
    }
}

#[test]
fn n13_an_init_request_with_wrong_ids_or_flags_is_dropped() {
    let pair = Pair::established();
    let init = sent_bytes(&pair, Side::A, 0);
    let mut fresh = Pair::new(settings(Side::A), settings(Side::B));
    fresh.cut();
    let mut dropped = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = init.clone();
        change(&mut bytes);
        let before = fresh.b.sent.len();
        fresh.inject(Side::B, 500, &bytes);
        assert_eq!(fresh.b.sent.len(), before);
    };
    dropped(&|bytes| bytes[8] = 1);
    dropped(&|bytes| bytes[23] = 1);
    dropped(&|bytes| bytes[19] = 0);
    dropped(&|bytes| bytes[..8].fill(0));
}

#[test]
fn n14_the_same_ike_sa_init_gets_the_same_response_and_another_body_with_its_spi_gets_none() {
    let pair = Pair::established();
    let init = sent_bytes(&pair, Side::A, 0);
    let mut fresh = Pair::new(settings(Side::A), settings(Side::B));
    fresh.cut();
    fresh.inject(Side::B, 500, &init);
    fresh.inject(Side::B, 500, &init);
    assert_eq!(fresh.b.sent.len(), 2);
    assert_eq!(fresh.b.sent[0], fresh.b.sent[1]);
    let mut other = init.clone();
    let last = other.len() - 1;
    other[last] ^= 1;
    fresh.inject(Side::B, 500, &other);
    assert_eq!(fresh.b.sent.len(), 2);
}

#[test]
fn n12_a_flood_of_half_open_handshakes_is_bounded_and_expires() {
    let pair = Pair::established();
    let init = sent_bytes(&pair, Side::A, 0);
    let mut victim = Pair::established();
    let before = victim.b.sent.len();
    for spi in 1..2000u64 {
        let mut bytes = init.clone();
        bytes[..8].copy_from_slice(&spi.to_be_bytes());
        victim.inject(Side::B, 500, &bytes);
    }
    // Three get a full response, the others a cookie request.
    let begun = (before..victim.b.sent.len())
        .map(|index| Header::parse(&sent_bytes(&victim, Side::B, index)).unwrap())
        .filter(|header| !header.spi_r.is_zero());
    assert_eq!(begun.count(), 3);
    victim.assert_agreed();
    victim.run_for(31 * SECOND);
    victim.assert_agreed();
}

#[test]
fn n25_a_handshake_without_ike_auth_expires() {
    let pair = Pair::established();
    let (init, auth) = (sent_bytes(&pair, Side::A, 0), sent_bytes(&pair, Side::A, 1));
    let mut fresh = Pair::new(settings(Side::A), settings(Side::B));
    fresh.cut();
    fresh.inject(Side::B, 500, &init);
    fresh.run_for(31 * SECOND);
    let before = fresh.b.sent.len();
    fresh.inject(Side::B, 4500, &auth);
    assert_eq!(fresh.b.sent.len(), before);
    assert!(fresh.b.children.is_empty());
}

#[test]
fn n17_unprotected_messages_of_an_established_sa_do_nothing() {
    let mut pair = Pair::established();
    let ike = pair.b.view().ike.unwrap();
    let quiet = (pair.b.sent.len(), pair.b.events.len());
    for exchange in [
        ExchangeType::IKE_AUTH,
        ExchangeType::INFORMATIONAL,
        ExchangeType::CREATE_CHILD_SA,
    ] {
        for id in 0..4 {
            let flags = Flags {
                initiator: true,
                ..Flags::default()
            };
            let header = Header::new(ike.spi_i, ike.spi_r, exchange, flags, MessageId(id));
            let bytes = Message::encode_clear(header, &[Payload::Delete(Delete::ike())]).unwrap();
            pair.inject(Side::B, 4500, &bytes);
        }
    }
    assert_eq!((pair.b.sent.len(), pair.b.events.len()), quiet);
    pair.assert_agreed();
}

#[test]
fn n27_other_major_versions_get_invalid_major_version_at_a_limited_rate_and_minor_ones_are_accepted()
 {
    let pair = Pair::established();
    let init = sent_bytes(&pair, Side::A, 0);
    let mut fresh = Pair::new(settings(Side::A), settings(Side::B));
    fresh.cut();
    for _ in 0..500 {
        let mut version_3 = init.clone();
        version_3[17] = 0x30;
        fresh.inject(Side::B, 500, &version_3);
    }
    let answers = fresh.b.sent.len();
    assert!((1..=20).contains(&answers), "{answers}");
    let answer = Message::parse(&sent_bytes(&fresh, Side::B, 0))
        .unwrap()
        .clear;
    assert!(
        matches!(&answer[0], Payload::Notify(notify) if notify.kind == NotifyType::INVALID_MAJOR_VERSION)
    );

    let mut version_2_5 = init;
    version_2_5[17] = 0x25;
    fresh.inject(Side::B, 500, &version_2_5);
    assert_eq!(fresh.b.sent.len(), answers + 1);
}

#[test]
fn n28_responses_to_unauthenticated_peers_are_never_larger_than_the_request() {
    let pair = Pair::established();
    let init = sent_bytes(&pair, Side::A, 0);
    let mut fresh = Pair::new(settings(Side::A), settings(Side::B));
    fresh.cut();
    let mut chance = Generator::from_seed([3; 32]);
    for _ in 0..2000 {
        let mut bytes = init.clone();
        let at = usize::try_from(chance.below(init.len() as u64)).unwrap();
        bytes[at] = chance.bytes::<1>()[0];
        let before = fresh.b.sent.len();
        fresh.inject_from(Side::B, "192.0.2.2:500", "198.51.100.99:500", &bytes);
        for index in before..fresh.b.sent.len() {
            assert!(sent_bytes(&fresh, Side::B, index).len() <= bytes.len());
        }
    }
}

#[test]
fn an_unconfigured_peer_gets_no_proposal_chosen_and_is_reported_by_address() {
    let pair = Pair::established();
    let init = sent_bytes(&pair, Side::A, 0);
    let mut fresh = Pair::new(settings(Side::A), settings(Side::B));
    fresh.cut();
    fresh.inject_from(Side::B, "192.0.2.2:500", "198.51.100.99:500", &init);
    assert_eq!(fresh.b.codes(), ["unknown-peer"]);
    assert!(fresh.b.failures[0].text.contains("198.51.100.99"));
}

#[test]
fn h06_unauthenticated_peers_do_not_flood_the_log_even_with_requests_too_short_to_answer() {
    let mut pair = Pair::established();
    let flags = Flags {
        initiator: true,
        ..Flags::default()
    };
    for spi in 1..2000 {
        let header = Header::new(
            IkeSpi(spi),
            IkeSpi(0),
            ExchangeType::IKE_SA_INIT,
            flags,
            MessageId(0),
        );
        let empty = Message::encode_clear(header, &[]).unwrap();
        pair.inject_from(Side::B, "192.0.2.2:500", "198.51.100.99:500", &empty);
    }
    assert!(pair.b.codes().len() <= 20, "{}", pair.b.codes().len());
    // The peer's own rate limit is not affected.
    pair.reboot(Side::B, settings(Side::B), 5);
    let mut a = settings(Side::A);
    a.ike = vec![
        groundlink::crypto::IkeProposal::parse("aes128-sha256-modp1024-curve25519")
            .unwrap()
            .0,
    ];
    for spi in 1..2000 {
        let header = Header::new(
            IkeSpi(spi),
            IkeSpi(0),
            ExchangeType::IKE_SA_INIT,
            flags,
            MessageId(0),
        );
        let empty = Message::encode_clear(header, &[]).unwrap();
        pair.inject_from(Side::B, "192.0.2.2:500", "198.51.100.99:500", &empty);
    }
    pair.reboot(Side::A, a, 6);
    pair.run_for(Duration::from_millis(100));
    pair.assert_agreed();
}

#[test]
fn n15_forged_requests_from_the_peers_address_do_not_change_the_status_of_an_established_tunnel() {
    let mut pair = Pair::established();
    let events = pair.b.events.len();
    let flags = Flags {
        initiator: true,
        ..Flags::default()
    };
    let header = Header::new(
        IkeSpi(0x77),
        IkeSpi(0),
        ExchangeType::IKE_SA_INIT,
        flags,
        MessageId(0),
    );
    for payloads in [vec![], vec![Payload::Nonce(vec![1; 20])]] {
        let forged = Message::encode_clear(header, &payloads).unwrap();
        pair.inject(Side::B, 500, &forged);
    }
    let mut other = sent_bytes(&pair, Side::A, 0);
    other[..8].fill(9);
    pair.inject(Side::B, 500, &other);
    pair.run_for(31 * SECOND);
    assert_eq!(pair.b.events.len(), events);
    assert!(pair.b.view().last_failure.is_none());
    pair.assert_agreed();
}

#[test]
fn n05_missing_or_duplicate_payloads_in_ike_sa_init_are_rejected_and_any_order_is_accepted() {
    let pair = Pair::established();
    let init = sent_bytes(&pair, Side::A, 0);
    let whole = Message::parse(&init).unwrap();
    let answer = |payloads: &[Payload]| {
        let mut fresh = Pair::new(settings(Side::A), settings(Side::B));
        fresh.cut();
        let bytes = Message::encode_clear(whole.header, payloads).unwrap();
        fresh.inject(Side::B, 500, &bytes);
        Message::parse(&sent_bytes(&fresh, Side::B, 0))
            .unwrap()
            .clear
    };
    let refused = |payloads: &[Payload]| {
        let answer = answer(payloads);
        assert!(
            matches!(&answer[..], [Payload::Notify(notify)] if notify.kind == NotifyType::INVALID_SYNTAX),
            "{answer:?}"
        );
    };
    for index in 0..3 {
        let mut missing = whole.clear.clone();
        missing.remove(index);
        refused(&missing);
        let mut doubled = whole.clear.clone();
        doubled.push(doubled[index].clone());
        refused(&doubled);
    }
    let mut reversed = whole.clear.clone();
    reversed.reverse();
    assert!(matches!(answer(&reversed)[0], Payload::Sa(_)));
}

#[test]
fn n07_weak_public_values_are_rejected() {
    let pair = Pair::established();
    let init = sent_bytes(&pair, Side::A, 0);
    let whole = Message::parse(&init).unwrap();
    let mut one = vec![0; 32];
    one[0] = 1;
    for value in [vec![0; 32], one, vec![0; 31], vec![0; 33], Vec::new()] {
        let mut fresh = Pair::new(settings(Side::A), settings(Side::B));
        fresh.cut();
        let mut payloads = whole.clear.clone();
        for payload in &mut payloads {
            if let Payload::Ke(ke) = payload {
                ke.data.clone_from(&value);
            }
        }
        let bytes = Message::encode_clear(whole.header, &payloads).unwrap();
        fresh.inject(Side::B, 500, &bytes);
        let header = Header::parse(&sent_bytes(&fresh, Side::B, 0)).unwrap();
        assert!(header.spi_r.is_zero(), "{value:?}");
    }
}

#[test]
fn p08_a_response_with_a_choice_not_offered_is_reported_and_the_authentic_one_still_accepted() {
    let honest = Pair::established();
    let answer = sent_bytes(&honest, Side::B, 0);
    let mut pair = Pair::new(settings(Side::A), settings(Side::B));
    let init = Header::parse(&sent_bytes(&pair, Side::A, 0)).unwrap();
    let mut payloads = Message::parse(&answer).unwrap().clear;
    if let Payload::Sa(sa) = &mut payloads[0] {
        sa.proposals[0].number = 2;
    }
    let flags = Flags {
        response: true,
        ..Flags::default()
    };
    let header = Header::new(
        init.spi_i,
        IkeSpi(0x99),
        ExchangeType::IKE_SA_INIT,
        flags,
        MessageId(0),
    );
    let forged = Message::encode_clear(header, &payloads).unwrap();
    pair.inject(Side::A, 500, &forged);
    assert_eq!(pair.a.codes(), ["peer-misbehaved"]);
    pair.run_for(SECOND);
    pair.assert_agreed();
}

#[test]
fn n23_our_own_messages_reflected_to_us_are_ignored() {
    let mut pair = Pair::new(settings(Side::A), settings(Side::B));
    pair.cut();
    let own = sent_bytes(&pair, Side::A, 0);
    let own_as_response = {
        let mut bytes = own.clone();
        bytes[19] = 0x20;
        bytes
    };
    pair.inject(Side::A, 500, &own);
    pair.inject(Side::A, 500, &own_as_response);
    assert!(pair.a.children.is_empty());
    assert_eq!(pair.a.state(), TunnelState::Connecting);
}
