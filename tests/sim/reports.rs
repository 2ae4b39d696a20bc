//! Reports of a peer's faults: the code names what happened, and on which side.

use std::time::Duration;

use groundlink::ike::{Command, DownReason, DropClass, Rekey, TunnelState};
use groundlink::wire::{
    Delete, ExchangeType, NotifyType, Payload, PayloadType, Transform, TransformType,
};

use crate::pair::{Pair, Side, TUNNEL, settings};
use crate::scripted_peer::{SPI_OUT, ScriptedPeer, esp_offer, kinds, notify, raw};

const CREATE: ExchangeType = ExchangeType::CREATE_CHILD_SA;
const INFORMATIONAL: ExchangeType = ExchangeType::INFORMATIONAL;

#[test]
fn a_rekey_in_transport_mode_is_deleted_and_the_old_child_sa_stays() {
    let mut peer = ScriptedPeer::established();
    let (header, request) = peer.have_b_rekey(Rekey::Child);
    let mut response = peer.accepting(&request, 0x2000);
    response.push(notify(NotifyType::USE_TRANSPORT_MODE));
    peer.answer(&header, &response);
    assert_eq!(peer.pair.b.codes(), ["transport-mode"]);
    let (_, delete) = peer.asked();
    assert!(matches!(&delete[..], [Payload::Delete(_)]), "{delete:?}");
    assert_eq!(peer.pair.b.count("ChildUp"), 1);
    assert_eq!(peer.pair.b.state(), TunnelState::Up);
}

#[test]
fn a_reserved_spi_is_named_in_every_exchange() {
    let offers = |spi: u32| Payload::Sa(esp_offer(spi));
    for spi in [0, 1, 255] {
        let mut peer = ScriptedPeer::keyed();
        let mut request = peer.auth_request();
        request[2] = offers(spi);
        let response = peer.send_request(ExchangeType::IKE_AUTH, 1, &request);
        assert_eq!(kinds(&response), [NotifyType::NO_PROPOSAL_CHOSEN]);
        assert_eq!(peer.pair.b.codes(), ["invalid-spi"], "{spi}");

        let mut peer = ScriptedPeer::established();
        let request = peer.rekeying(SPI_OUT, spi);
        let response = peer.send_request(CREATE, 2, &request);
        assert_eq!(kinds(&response), [NotifyType::NO_PROPOSAL_CHOSEN]);
        assert_eq!(peer.pair.b.codes(), ["invalid-spi"], "{spi}");
    }
}

/// RFC 7296 §2.7: the response has one transform of each type in the proposal, and ESP has no PRF.
#[test]
fn an_esp_proposal_with_a_prf_is_skipped() {
    let with_prf = || {
        let mut sa = esp_offer(SPI_OUT);
        let transforms = &mut sa.proposals[0].transforms;
        transforms.push(Transform::new(TransformType::PRF, 5, None));
        sa
    };
    let mut peer = ScriptedPeer::keyed();
    let mut request = peer.auth_request();
    request[2] = Payload::Sa(with_prf());
    let response = peer.send_request(ExchangeType::IKE_AUTH, 1, &request);
    assert_eq!(kinds(&response), [NotifyType::NO_PROPOSAL_CHOSEN]);

    let mut peer = ScriptedPeer::keyed();
    let mut request = peer.auth_request();
    let mut sa = with_prf();
    let mut second = esp_offer(SPI_OUT).proposals.remove(0);
    second.number = 2;
    sa.proposals.push(second);
    request[2] = Payload::Sa(sa);
    let response = peer.send_request(ExchangeType::IKE_AUTH, 1, &request);
    let chosen = response.iter().find_map(|payload| match payload {
        Payload::Sa(sa) => Some(sa.proposals[0].number),
        _ => None,
    });
    assert_eq!(chosen, Some(2));
}

#[test]
fn an_invalid_request_is_the_reason_why_this_gateway_closes_the_ike_sa() {
    let mut peer = ScriptedPeer::established();
    peer.send_request(INFORMATIONAL, 2, &[raw(PayloadType::NOTIFY, &[0])]);
    assert_eq!(peer.pair.b.codes(), ["invalid-syntax"]);
    assert_eq!(peer.pair.b.down_reasons, [DownReason::InvalidRequest]);
}

#[test]
fn a_request_rejected_as_invalid_is_not_a_deletion_by_the_peer() {
    let mut peer = ScriptedPeer::established();
    let id = peer.await_liveness();
    let fatal = [notify(NotifyType::INVALID_SYNTAX)];
    let bytes = peer.seal(INFORMATIONAL, id, true, &fatal);
    peer.deliver(&bytes);
    assert_eq!(peer.pair.b.codes(), ["rejected-as-invalid"]);
    assert_eq!(peer.pair.b.down_reasons, [DownReason::RequestRejected]);
}

#[test]
fn the_peer_has_deleted_only_what_its_delete_names() {
    let delete_child = [Payload::Delete(Delete::esp(vec![SPI_OUT]))];
    let mut peer = ScriptedPeer::established();
    peer.pair.command(Side::B, Command::Down(TUNNEL));
    peer.heard();
    peer.send_request(INFORMATIONAL, 2, &[Payload::Delete(Delete::ike())]);
    assert_eq!(peer.pair.b.down_reasons, [DownReason::Requested]);
    assert!(peer.pair.b.codes().is_empty());

    let mut peer = ScriptedPeer::established();
    peer.send_request(INFORMATIONAL, 2, &delete_child);
    assert_eq!(peer.pair.b.down_reasons, [DownReason::PeerDeleted]);
}

/// RFC 6023: an initiator may leave the Child SA out.
#[test]
fn a_peer_that_wants_no_child_sa_is_named() {
    let mut peer = ScriptedPeer::keyed();
    let request = peer.auth_request()[..2].to_vec();
    let response = peer.send_request(ExchangeType::IKE_AUTH, 1, &request);
    assert_eq!(kinds(&response), [NotifyType::INVALID_SYNTAX]);
    assert_eq!(peer.pair.b.codes(), ["childless"]);
}

#[test]
fn selectors_of_a_peer_in_transport_mode_are_named_as_such() {
    let mut peer = ScriptedPeer::keyed();
    let mut request = peer.auth_request();
    request[3] = raw(PayloadType::TSI, &[0, 0, 0, 0]);
    request.push(notify(NotifyType::USE_TRANSPORT_MODE));
    let response = peer.send_request(ExchangeType::IKE_AUTH, 1, &request);
    assert_eq!(kinds(&response), [NotifyType::TS_UNACCEPTABLE]);
    assert_eq!(peer.pair.b.codes(), ["transport-mode"]);
}

/// ```text
/// A                                B
/// │── request ────────────────────▶│ ── response, late ─╮
/// │── the same request ───────────▶│ ── response ───────│───▶│
/// │◀───────────────────────────────────────────────────╯      answered already
/// ```
#[test]
fn a_second_response_to_a_repeated_request_is_not_counted() {
    let mut pair = Pair::new(settings(Side::A), settings(Side::B));
    // Each message takes longer than the first retransmission.
    pair.impairment(|_, _| vec![Duration::from_millis(700)]);
    pair.run_for(Duration::from_secs(60));
    pair.assert_agreed();
    let stray = |(class, count): (DropClass, u64)| (class == DropClass::Stray).then_some(count);
    for node in [&pair.a, &pair.b] {
        assert!(node.sent.len() > 6, "requests were repeated");
        assert_eq!(node.endpoint.drop_counts().find_map(stray), Some(0));
    }
}
