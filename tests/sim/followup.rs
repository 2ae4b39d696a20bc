//! Rekeys with an additional key exchange: CREATE_CHILD_SA, then IKE_FOLLOWUP_KE (RFC 9370 §2.2.4), and messages that cross them.

use std::time::Duration;

use groundlink::crypto::{EspProposal, IkeProposal};
use groundlink::ike::{Rekey, Settings};
use groundlink::wire::ExchangeType;

use crate::pair::{Pair, Side, settings};
use crate::script::{CREATE, INFORM};
use crate::wire::request_kind;

const FOLLOWUP: ExchangeType = ExchangeType::IKE_FOLLOWUP_KE;

const IKE: &str = "aes256gcm16-prfsha384-curve25519-ke1_mlkem768";
const ESP: &str = "aes256gcm16-curve25519-ke1_mlkem768";

fn hybrid(side: Side) -> Settings {
    let mut settings = settings(side);
    settings.ike = vec![IkeProposal::parse(IKE).unwrap().0];
    settings.esp = vec![EspProposal::parse(ESP).unwrap().0];
    // A message fits one datagram, so that the test can hold it back.
    settings.fragment_size = 4000;
    settings
}

/// Connected, with ESP in both directions ten times a second.
fn busy() -> Pair {
    let mut pair = Pair::new(hybrid(Side::A), hybrid(Side::B));
    pair.run_for(Duration::from_secs(1));
    pair.traffic(Duration::from_millis(100));
    pair.run_for(Duration::from_secs(1));
    pair.assert_agreed();
    pair
}

fn rekeys(pair: &Pair) -> [(u64, u64); 2] {
    [&pair.a, &pair.b].map(|node| {
        let rekeys = node.view().rekeys;
        (rekeys.child, rekeys.ike)
    })
}

#[test]
fn both_kinds_of_sa_are_rekeyed_by_each_side_without_packet_loss() {
    for side in [Side::A, Side::B] {
        let mut pair = busy();
        let before = pair.a.children[0].keys_in.encryption.clone();
        pair.rekey(side, Rekey::Child);
        pair.run_for(Duration::from_secs(60));
        pair.assert_agreed();
        assert_eq!(rekeys(&pair), [(1, 0); 2]);
        assert_ne!(pair.a.children[0].keys_in.encryption, before);
        let suite = pair.a.view().child.unwrap().suite;
        assert_eq!(suite.to_string(), ESP);

        pair.rekey(side, Rekey::Ike);
        pair.run_for(Duration::from_secs(60));
        pair.assert_agreed();
        assert_eq!(rekeys(&pair), [(1, 1); 2]);
        let ike = pair.b.view().ike.unwrap();
        assert_eq!(ike.suite.to_string(), IKE);
        assert!(ike.post_quantum);
        pair.assert_no_gap();
        assert!(pair.a.codes().is_empty() && pair.b.codes().is_empty());
    }
}

/// ```text
/// A                                         B
/// │── rekey X ─────────────────────────────▶│
/// │◀──────────────── N(ADDITIONAL, link) ───│   no SA is created yet
/// │── KEi(1), link ────────────────────────▶│
/// │◀──────────────────────────── KEr(1) ────│   the SA is created
/// │── DELETE X ────────────────────────────▶│
/// ```
#[test]
fn no_sa_is_installed_before_the_additional_key_exchange() {
    let mut pair = busy();
    pair.hold_messages();
    pair.rekey(Side::A, Rekey::Child);
    let create = pair.take(Side::A, request_kind(CREATE));
    let created = pair.response_to(&create);
    assert_eq!(pair.b.children.len(), 1);
    pair.deliver_copy(&created);
    assert_eq!(pair.a.children.len(), 1);
    let followup = pair.take(Side::A, request_kind(FOLLOWUP));
    let followed = pair.response_to(&followup);
    assert_eq!(pair.b.children.len(), 2);
    pair.deliver_copy(&followed);
    assert_eq!(pair.a.children.len(), 2);
    let delete = pair.take(Side::A, request_kind(INFORM));
    let deleted = pair.response_to(&delete);
    pair.deliver_copy(&deleted);
    pair.release_messages();
    pair.run_for(Duration::from_secs(20));
    pair.assert_agreed();
    pair.assert_no_gap();
}

#[test]
fn a_retransmitted_followup_gets_the_same_response_and_installs_nothing_twice() {
    let mut pair = busy();
    pair.hold_messages();
    pair.rekey(Side::A, Rekey::Child);
    let create = pair.take(Side::A, request_kind(CREATE));
    let created = pair.response_to(&create);
    pair.deliver_copy(&created);
    let followup = pair.take(Side::A, request_kind(FOLLOWUP));
    let first = pair.response_to(&followup);
    let again = pair.response_to(&followup);
    assert_eq!(
        format!("{:?}", first.content),
        format!("{:?}", again.content)
    );
    assert_eq!(pair.b.children.len(), 2);
    pair.deliver_copy(&again);
    pair.deliver_copy(&first);
    pair.release_messages();
    pair.run_for(Duration::from_secs(20));
    pair.assert_agreed();
    pair.assert_no_gap();
}

/// ```text
/// A                                         B
/// │── rekey X ──────────────╲ ╱─────────────│ rekey X
/// │◀────────────────────────╱ ╲────────────▶│
/// │◀── link ────────────────╱ ╲───── link ─▶│
/// │── KEi(1) ───────────────╲ ╱──── KEi(1) ─│
/// │◀────────────────────────╱ ╲────────────▶│
/// │◀── KEr(1) ──────────────╱ ╲─── KEr(1) ─▶│   both SAs exist; the nonces decide
/// ```
#[test]
fn p11_simultaneous_rekeys_of_either_kind_leave_one_sa_whichever_side_wins() {
    for what in [Rekey::Child, Rekey::Ike] {
        let mut winners = std::collections::BTreeSet::new();
        for seed in 0..8u8 {
            let seeds = (seed, seed.wrapping_add(50));
            let mut pair = Pair::with_seeds(hybrid(Side::A), hybrid(Side::B), seeds);
            pair.run_for(Duration::from_secs(1));
            pair.traffic(Duration::from_millis(100));
            pair.rekey(Side::A, what);
            pair.rekey(Side::B, what);
            pair.run_for(Duration::from_secs(90));
            pair.assert_agreed();
            pair.assert_no_gap();
            let codes = [pair.a.codes(), pair.b.codes()].concat();
            assert!(codes.is_empty(), "{codes:?}");
            winners.insert(pair.a.view().ike.unwrap().role as u8);
        }
        if what == Rekey::Ike {
            assert_eq!(winners.len(), 2, "each side wins sometimes");
        }
    }
}

/// ```text
/// A                                         B
/// │── rekey X ─────────────────────────────▶│
/// │◀──────────────────────────── link ──────│
/// │        ╱────────────────────── rekey X ─│   (delayed)
/// │── KEi(1) ──────────────────────────────▶│
/// │◀─────────────────────────── KEr(1) ─────│
/// │── DELETE X ───────────────────────────▶ │
/// │◀─────╯                                  │
/// │── TEMPORARY_FAILURE ──────────────────▶ │   A's SA stays
/// ```
#[test]
fn p11_a_rekey_request_after_the_collision_window_gets_temporary_failure() {
    for what in [Rekey::Child, Rekey::Ike] {
        let mut pair = busy();
        pair.hold_messages();
        pair.rekey(Side::A, what);
        let create = pair.take(Side::A, request_kind(CREATE));
        let created = pair.response_to(&create);
        pair.deliver_copy(&created);
        pair.rekey(Side::B, what);
        let late = pair.take(Side::B, request_kind(CREATE));
        let followup = pair.take(Side::A, request_kind(FOLLOWUP));
        let followed = pair.response_to(&followup);
        pair.deliver_copy(&followed);
        let _delete = pair.take(Side::A, request_kind(INFORM));
        pair.deliver_copy(&late);
        pair.release_messages();
        pair.run_for(Duration::from_secs(90));
        pair.assert_agreed();
        pair.assert_no_gap();
    }
}

/// ```text
/// A                                         B
/// │── rekey X ─────────────────────────────▶│
/// │◀──────────────────────────── link ──────│
/// │── KEi(1) ──╲                            │
/// │◀────────────────── rekey X, complete ──▶│   B completes its own rekey meanwhile
/// │             ╲──────────────────────────▶│   X is already replaced
/// │◀──────────────────── TEMPORARY_FAILURE ─│
/// ```
#[test]
fn p11_an_sa_replaced_before_its_followup_arrives_is_not_replaced_again() {
    let mut pair = busy();
    pair.hold_messages();
    pair.rekey(Side::A, Rekey::Child);
    let create = pair.take(Side::A, request_kind(CREATE));
    let created = pair.response_to(&create);
    pair.deliver_copy(&created);
    let followup = pair.take(Side::A, request_kind(FOLLOWUP));

    pair.rekey(Side::B, Rekey::Child);
    let other = pair.take(Side::B, request_kind(CREATE));
    let answered = pair.response_to(&other);
    pair.deliver_copy(&answered);
    let other = pair.take(Side::B, request_kind(FOLLOWUP));
    let answered = pair.response_to(&other);
    pair.deliver_copy(&answered);
    assert_eq!((pair.a.children.len(), pair.b.children.len()), (2, 2));

    let delete = pair.take(Side::B, request_kind(INFORM));
    let refused = pair.response_to(&followup);
    assert_eq!(pair.b.children.len(), 2, "nothing is made");
    pair.deliver_copy(&delete);
    pair.deliver_copy(&refused);
    pair.release_messages();
    pair.run_for(Duration::from_secs(90));
    pair.assert_agreed();
    pair.assert_no_gap();
    assert!(pair.a.codes().is_empty() && pair.b.codes().is_empty());
}

/// ```text
/// A                                         B
/// │── rekey X ─────────────────────────────▶│
/// │◀──────────────────────────── link ──────│
/// │            (a minute and more)          │   B discards its state
/// │── KEi(1), link ────────────────────────▶│
/// │◀────────────────────── STATE_NOT_FOUND ─│
/// ```
#[test]
fn an_incomplete_rekey_expires_and_is_retried() {
    for what in [Rekey::Child, Rekey::Ike] {
        // Longer than the peer keeps its state, so that neither side declares the other dead before.
        let mut patient = hybrid(Side::A);
        patient.dpd.timeout = Duration::from_secs(300);
        let mut other = hybrid(Side::B);
        other.dpd.timeout = Duration::from_secs(300);
        let mut pair = Pair::new(patient, other);
        pair.run_for(Duration::from_secs(2));
        pair.hold_messages();
        pair.rekey(Side::A, what);
        let create = pair.take(Side::A, request_kind(CREATE));
        let created = pair.response_to(&create);
        pair.deliver_copy(&created);
        let followup = pair.take(Side::A, request_kind(FOLLOWUP));
        pair.run_for(Duration::from_secs(61));
        // All other messages meanwhile are lost.
        while pair.wire.take(Side::B).is_some() {}
        let refused = pair.response_to(&followup);
        pair.deliver_copy(&refused);
        assert!(
            pair.a.failures[0].text.contains("STATE_NOT_FOUND"),
            "{:?}",
            pair.a.failures
        );
        pair.release_messages();
        pair.run_for(Duration::from_secs(120));
        pair.rekey(Side::A, what);
        pair.run_for(Duration::from_secs(60));
        pair.assert_agreed();
        for (child, ike) in rekeys(&pair) {
            let done = match what {
                Rekey::Child => child,
                Rekey::Ike => ike,
            };
            assert!(done >= 1, "{what:?}");
        }
    }
}
