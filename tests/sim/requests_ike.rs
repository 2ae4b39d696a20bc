//! Requests for the IKE SA itself from a peer with the keys: invalid and endless rekeys, requests on an IKE SA that was rekeyed,
//! reauthentication.

use std::time::Duration;

use groundlink::crypto::{Generator, IkeProposal, KeyExchange};
use groundlink::ike::{Sends, TunnelState};
use groundlink::wire::{
    Delete, ExchangeType, Ke, Notify, NotifyType, Payload, Sa, Transform, TransformType,
};

use crate::pair::{Side, settings};
use crate::requests::{assert_ended, assert_unharmed};
use crate::scripted_peer::{SPI_OUT, ScriptedPeer, esp_offer, ike_offer, kinds};

const CREATE: ExchangeType = ExchangeType::CREATE_CHILD_SA;
const INFORMATIONAL: ExchangeType = ExchangeType::INFORMATIONAL;

/// A request to rekey the IKE SA with this offer and an optional KE payload.
fn rekeying_ike(sa: Sa, ke: Option<Ke>) -> Vec<Payload> {
    let mut payloads = vec![Payload::Sa(sa), Payload::Nonce(vec![8; 32])];
    payloads.extend(ke.map(Payload::Ke));
    payloads
}

fn offer(spi: &[u8], change: impl FnOnce(&mut Vec<Transform>)) -> Sa {
    let mut sa = ike_offer();
    sa.proposals[0].spi = spi.to_vec();
    change(&mut sa.proposals[0].transforms);
    sa
}

fn curve25519(len: usize) -> Option<Ke> {
    let group = IkeProposal::parse("aes128-sha256-curve25519")
        .unwrap()
        .0
        .groups[0];
    let ke = KeyExchange::generate(group, &mut Generator::from_seed([77; 32]));
    let mut data = ke.public().to_vec();
    data.resize(len, 0);
    Some(Ke {
        group: group.id,
        data,
    })
}

#[test]
fn p07_invalid_requests_to_rekey_the_ike_sa_are_rejected() {
    let aead = |transforms: &mut Vec<Transform>| {
        transforms[0] = Transform::new(TransformType::ENCR, 20, Some(128));
    };
    let group = |id| {
        move |transforms: &mut Vec<Transform>| {
            transforms[3] = Transform::new(TransformType::KE, id, None);
        }
    };
    let (good, whole) = ([9; 8], || curve25519(32));
    let modp = Some(Ke {
        group: 14,
        data: vec![2; 256],
    });
    let zeros = Some(Ke {
        group: 31,
        data: vec![0; 32],
    });
    let no_proposal = NotifyType::NO_PROPOSAL_CHOSEN;
    let other_group = NotifyType::INVALID_KE_PAYLOAD;
    let mut b = settings(Side::B);
    b.ike.push(
        IkeProposal::parse("aes128gcm16-prfsha256-curve25519")
            .unwrap()
            .0,
    );
    let mut scripted_peer = ScriptedPeer::established_with(b);
    for (id, (case, sa, ke, expected)) in (2..).step_by(2).zip([
        ("no SPI", offer(&[], |_| {}), whole(), no_proposal),
        (
            "an SPI of four octets",
            offer(&[9; 4], |_| {}),
            whole(),
            no_proposal,
        ),
        (
            "an SPI of nine",
            offer(&[9; 9], |_| {}),
            whole(),
            no_proposal,
        ),
        (
            "an SPI of zeros",
            offer(&[0; 8], |_| {}),
            whole(),
            no_proposal,
        ),
        ("no KE", offer(&good, |_| {}), None, other_group),
        ("another group", offer(&good, |_| {}), modp, other_group),
        (
            "31 octets of KE",
            offer(&good, |_| {}),
            curve25519(31),
            no_proposal,
        ),
        (
            "no octets of KE",
            offer(&good, |_| {}),
            curve25519(0),
            no_proposal,
        ),
        (
            "a KE of small order",
            offer(&good, |_| {}),
            zeros,
            no_proposal,
        ),
        (
            "no group",
            offer(&good, |all| all.truncate(3)),
            whole(),
            no_proposal,
        ),
        ("group NONE", offer(&good, group(0)), whole(), no_proposal),
        (
            "a group not configured",
            offer(&good, group(14)),
            whole(),
            no_proposal,
        ),
        (
            "AEAD beside integrity",
            offer(&good, aead),
            whole(),
            no_proposal,
        ),
        (
            "no proposal at all",
            Sa::default(),
            whole(),
            NotifyType::INVALID_SYNTAX,
        ),
    ]) {
        let answer = scripted_peer.send_request(CREATE, id, &rekeying_ike(sa, ke));
        assert_eq!(kinds(&answer), [expected], "{case}");
        if expected == NotifyType::INVALID_SYNTAX {
            assert_ended(&scripted_peer, case);
            break;
        }
        assert_unharmed(&mut scripted_peer, id + 1, case);
        assert_eq!(scripted_peer.pair.b.ikes.len(), 1, "{case}");
    }
}

#[test]
fn p07_reusing_the_spi_of_an_established_ike_sa_harms_neither() {
    let mut scripted_peer = ScriptedPeer::established();
    for (spi, case) in [
        (scripted_peer.ike_sa.spi_i, "the peer's own"),
        (scripted_peer.ike_sa.spi_r, "the one at our end"),
    ] {
        let mut scripted_peer = ScriptedPeer::established();
        let sa = offer(&spi.0.to_be_bytes(), |_| {});
        let answer = scripted_peer.send_request(CREATE, 2, &rekeying_ike(sa, curve25519(32)));
        assert_eq!(kinds(&answer), [], "{case}");
        assert_eq!(scripted_peer.pair.b.ikes.len(), 1, "{case}");
        // The old IKE SA has handed over its Child SA and closes without one.
        let gone = [Payload::Delete(Delete::ike())];
        assert!(
            scripted_peer
                .send_request(INFORMATIONAL, 3, &gone)
                .is_empty(),
            "{case}"
        );
        assert_eq!(scripted_peer.pair.b.children.len(), 1, "{case}");
        assert_eq!(scripted_peer.pair.b.ikes.len(), 1, "{case}");
        assert_eq!(scripted_peer.pair.b.state(), TunnelState::Up, "{case}");
    }
    assert!(scripted_peer.heard().is_empty());
}

#[test]
fn p07_endless_ike_sa_rekeys_keep_a_bounded_number_and_the_child_sa_stays_in_use() {
    let mut scripted_peer = ScriptedPeer::established();
    let mut id = 2;
    let mut former = Vec::new();
    for _ in 0..100 {
        former.push(scripted_peer.rekey_ike(id));
        id = 0;
    }
    assert_eq!(scripted_peer.pair.b.view().rekeys.ike, 100);
    assert_eq!(scripted_peer.pair.b.ikes.len(), 1);
    assert_eq!(scripted_peer.pair.b.children.len(), 1);
    assert_eq!(scripted_peer.pair.b.count("ChildDown"), 0);
    let kept = format!("{:?}", scripted_peer.pair.b.endpoint)
        .matches("Established(")
        .count();
    assert!((2..=9).contains(&kept), "{kept}");
    assert!(scripted_peer.send_request(INFORMATIONAL, 0, &[]).is_empty());
}

/// ```text
/// peer ── rekey the IKE SA ──▶ B        peer ── over the old IKE SA: rekey, create, delete a Child SA, rekey it again ──▶ B
/// ```
#[test]
fn p07_a_rekeyed_ike_sa_accepts_only_its_delete() {
    let mut scripted_peer = ScriptedPeer::established();
    let mut old = scripted_peer.rekey_ike(2);
    std::mem::swap(&mut scripted_peer.ike_sa, &mut old);
    let later = [NotifyType::TEMPORARY_FAILURE];
    let request = scripted_peer.rekeying(SPI_OUT, 0x2000);
    assert_eq!(
        kinds(&scripted_peer.send_request(CREATE, 3, &request)),
        later
    );
    let request = scripted_peer.another_child(0x2000);
    assert_eq!(
        kinds(&scripted_peer.send_request(CREATE, 4, &request)),
        later
    );
    let sa = offer(&[9; 8], |_| {});
    let request = rekeying_ike(sa, curve25519(32));
    assert_eq!(
        kinds(&scripted_peer.send_request(CREATE, 5, &request)),
        later
    );
    let delete = [Payload::Delete(Delete::esp(vec![SPI_OUT]))];
    assert!(
        scripted_peer
            .send_request(INFORMATIONAL, 6, &delete)
            .is_empty()
    );
    assert_eq!(
        scripted_peer.pair.b.children.len(),
        1,
        "it belongs to the new one"
    );
    let lost = Notify::new(NotifyType::INVALID_SPI, SPI_OUT.to_be_bytes().to_vec());
    let lost = [Payload::Notify(lost)];
    assert!(
        scripted_peer
            .send_request(INFORMATIONAL, 7, &lost)
            .is_empty()
    );
    let end = [Payload::Delete(Delete::ike())];
    assert!(
        scripted_peer
            .send_request(INFORMATIONAL, 8, &end)
            .is_empty()
    );

    std::mem::swap(&mut scripted_peer.ike_sa, &mut old);
    assert_unharmed(&mut scripted_peer, 0, "over the new one");
    assert_eq!(scripted_peer.pair.b.count("IkeDown"), 0);
}

#[test]
fn a_second_ike_sa_takes_over_sending_and_closes_the_old_one_once_the_peer_answers() {
    let scripted_peer = ScriptedPeer::established();
    let mut second = ScriptedPeer::keyed_with(scripted_peer.pair, 0x5555);
    let mut request = second.auth_request();
    request[2] = Payload::Sa(esp_offer(0x2000));
    let sealed = second.seal(ExchangeType::IKE_AUTH, 1, false, &request);
    second.deliver(&sealed);
    let (first, new) = (&second.pair.b.children[0], &second.pair.b.children[1]);
    let (first, new) = (first.spi_in, new.spi_in);
    // The peer retransmits, so our response was lost.
    second.pair.run_for(Duration::from_secs(4));
    second.deliver(&sealed);
    second.pair.run_for(Duration::from_secs(4));
    assert_eq!(second.pair.b.outbound(), Some(first));
    assert_eq!(second.pair.b.count("IkeDown"), 0);
    let heard = second.heard();
    let probe = heard.iter().rfind(|(header, _)| !header.flags.response);
    let probe = probe.expect("it asks whether we are there").0;
    second.answer(&probe, &[]);
    assert_eq!(second.pair.b.outbound(), Some(new));
    // The old one is closed a second later, and receives until the peer has answered the DELETE.
    second.pair.run_for(Duration::from_secs(2));
    assert_eq!(second.pair.b.count("ChildDown"), 0);
    second.pair.run_for(Duration::from_secs(31));
    assert_eq!(second.pair.b.count("ChildDown"), 1);
}

/// Reauthentication (RFC 7296 §2.8.3): a peer authenticates a second IKE SA beside the old one, as some peers do in place of
/// rekeying.
#[test]
fn make_before_break_reauthentication_always_has_a_child_sa() {
    let scripted_peer = ScriptedPeer::established();
    let mut second = ScriptedPeer::keyed_with(scripted_peer.pair, 0x5555);
    let mut request = second.auth_request();
    request[2] = Payload::Sa(esp_offer(0x2000));
    let sealed = second.seal(ExchangeType::IKE_AUTH, 1, false, &request);
    second.deliver(&sealed);
    let heard = second.heard();
    let [(_, answer), (asked, probe)] = &heard[..] else {
        panic!("{heard:?}")
    };
    assert_eq!(kinds(answer), []);
    // A response to this request shows that the peer received the response to IKE_AUTH.
    assert_eq!((asked.exchange, &probe[..]), (INFORMATIONAL, &[][..]));
    assert_eq!(second.pair.b.children.len(), 2, "both receive");
    let mark = second.pair.b.events.len();
    assert!(second.pair.b.children[1].sends == Sends::Later);
    // The peer closes the old IKE SA, or B does: the new one is in use either way.
    let mut old = scripted_peer.ike_sa;
    std::mem::swap(&mut second.ike_sa, &mut old);
    let end = [Payload::Delete(Delete::ike())];
    assert!(second.send_request(INFORMATIONAL, 2, &end).is_empty());
    let done = &second.pair.b.events[mark..];
    assert_eq!(done, ["ChildPreferred", "ChildDown", "IkeDown"]);
    std::mem::swap(&mut second.ike_sa, &mut old);
    second.pair.run_for(Duration::from_secs(5));
    assert_eq!(second.pair.b.children.len(), 1);
    assert_eq!(second.pair.b.children[0].spi_out, 0x2000);
    assert_eq!(second.pair.b.state(), TunnelState::Up);
    second.heard();
    assert!(second.send_request(INFORMATIONAL, 2, &[]).is_empty());
}
