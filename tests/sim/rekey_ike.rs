//! Rekeying the IKE SA (RFC 7296 §1.3.2, §2.8.2, §2.18, §2.25): the new IKE SA inherits the Child SA unchanged, and ESP is not
//! interrupted.
//!
//! X is the IKE SA to be rekeyed and Y its replacement; in a collision Ya is the one that A initiated.

use std::time::Duration;

use groundlink::crypto::IkeProposal;
use groundlink::ike::{Command, Rekey, Settings, TunnelState};

use crate::message_orders::{Losses, ONE_WHEN_FAST, every_order};
use crate::pair::{Pair, Side, TUNNEL, settings};
use crate::script::{BOTH, CREATE, INFORM};
use crate::wire::request_kind;

const SECOND: Duration = Duration::from_secs(1);

fn with_ike(a: &str, b: &str) -> (Settings, Settings) {
    let mut ends = (settings(Side::A), settings(Side::B));
    ends.0.ike = vec![IkeProposal::parse(a).unwrap().0];
    ends.1.ike = vec![IkeProposal::parse(b).unwrap().0];
    ends
}

fn crossed(seed: u8) -> Pair {
    let mut pair = Pair::busy_with_seeds(seed);
    pair.hold_messages();
    pair.rekey(Side::A, Rekey::Ike);
    pair.rekey(Side::B, Rekey::Ike);
    pair
}

/// ```text
/// A                                  B
/// │── rekey X ──────────────────────▶│ Y
/// │◀─────────────────────────── Y ───│
/// │ Y                                │
/// │── DELETE X (over X) ────────────▶│
/// │◀─────────────────────────── {} ──│
/// ```
#[test]
fn regular() {
    for ike in ["aes128-sha256-curve25519", "aes256gcm16-prfsha384-ecp384"] {
        for side in BOTH {
            let (a, b) = with_ike(ike, ike);
            let mut pair = Pair::busy_with(a, b);
            let (old, child) = (pair.a.ikes.clone(), pair.a.children[0].spi_in);
            pair.hold_messages();
            pair.rekey(side, Rekey::Ike);
            let request = pair.take(side, request_kind(CREATE));
            let response = pair.response_to(&request);
            pair.run_for(SECOND / 2);
            pair.deliver_copy(&response);
            let delete = pair.take(side, request_kind(INFORM));
            let deleted = pair.response_to(&delete);
            pair.deliver_copy(&deleted);
            pair.assert_done((0, 1));
            assert!(pair.a.ikes.is_disjoint(&old));
            assert_eq!(pair.a.children[0].spi_in, child, "it has moved along");
            assert!(pair.a.down_reasons.is_empty() && pair.b.down_reasons.is_empty());
        }
    }
}

/// The new IKE SA has all functions of the old one: liveness checks, rekeys of the Child SA and of itself, and deletion.
#[test]
fn the_new_ike_sa_manages_the_inherited_child_sa() {
    for side in BOTH {
        for next in BOTH {
            let mut pair = Pair::busy();
            pair.rekey(side, Rekey::Ike);
            pair.run_for(SECOND);
            pair.rekey(next, Rekey::Child);
            pair.run_for(SECOND);
            pair.rekey(next, Rekey::Ike);
            pair.run_for(SECOND);
            pair.rekey(side, Rekey::Child);
            pair.assert_done((2, 2));
            pair.command(next, Command::Down(TUNNEL));
            pair.run_for(SECOND);
            assert!(pair.a.children.is_empty() && pair.b.children.is_empty());
            assert_eq!(pair.node(next).state(), TunnelState::Down);
        }
    }
}

/// A dead peer is detected over the new IKE SA as over the old one.
#[test]
fn liveness_checks_use_the_new_ike_sa() {
    let mut pair = Pair::established();
    pair.rekey(Side::B, Rekey::Ike);
    pair.run_for(60 * SECOND);
    pair.assert_agreed();
    pair.cut();
    pair.run_for(60 * SECOND);
    assert_eq!(pair.a.codes()[0], "peer-dead");
    pair.no_impairment();
    pair.run_for(120 * SECOND);
    pair.assert_agreed();
}

/// ```text
/// A                                  B
/// │── rekey X, KE 31 ───────────────▶│
/// │◀────── INVALID_KE_PAYLOAD 19 ────│
/// │── rekey X, KE 19 ───────────────▶│
/// │◀─────────────────────────── Y ───│
/// ```
///
/// A rekey starts with the group of X, so B's configured group has to change after X is established.
#[test]
fn ke_invalid() {
    let (a, b) = with_ike("aes128-sha256-curve25519-ecp256", "aes128-sha256-ecp256");
    let mut pair = Pair::busy_with(a, b);
    for side in BOTH {
        pair.rekey(side, Rekey::Ike);
        pair.run_for(5 * SECOND);
    }
    pair.assert_done((0, 2));
}

/// ```text
/// A                                  B
/// │── rekey X ───────────╲ ╱─────────│ rekey X
/// │◀─────────────────────╱ ╲────────▶│
/// │── Yb ────────────────╲ ╱─────────│ Ya
/// │◀─────────────────────╱ ╲────────▶│  both know four nonces
/// │── DELETE X ──────────╲ ╱─────────│ DELETE Yb       if Ya stays
/// │── DELETE Ya ─────────╲ ╱─────────│ DELETE X        if Yb stays
/// │◀─────────────────────╱ ╲────────▶│
/// ```
#[test]
fn p11_collision_each_side_wins() {
    Pair::until_each_side_has_won(crossed, |pair| {
        let (of_a, of_b) = (
            pair.take(Side::A, request_kind(CREATE)),
            pair.take(Side::B, request_kind(CREATE)),
        );
        let to_b = pair.response_to(&of_b);
        let to_a = pair.response_to(&of_a);
        pair.deliver_copy(&to_a);
        pair.deliver_copy(&to_b);
        pair.release_messages();
        pair.assert_done((0, 1));
        pair.ike_winner()
    });
}

/// All messages of a collision arrive in every order.
#[test]
fn p11_collision_in_every_order() {
    for seed in 0..4 {
        let runs = every_order(
            8,
            Losses::None,
            || crossed(seed),
            |mut pair| {
                pair.release_messages();
                pair.assert_connected_throughout();
            },
        );
        assert!(runs > 20, "{runs}");
    }
}

/// The same collision with each message lost once.
#[test]
fn p11_collision_in_every_order_with_each_message_lost_once() {
    let seeds = if cfg!(debug_assertions) { 1 } else { 4 };
    for seed in 0..seeds {
        every_order(
            8,
            ONE_WHEN_FAST,
            || crossed(seed),
            |mut pair| {
                pair.release_messages();
                pair.assert_connected_throughout();
            },
        );
    }
}

/// A receives B's request after it has its own Ya and closes X (RFC 7296 §2.8.2).
///
/// ```text
/// A                                  B
/// │── rekey X ──────────────────────▶│
/// │     ╱────────────────── rekey X ─│
/// │◀───╱──────────────────────── Ya ─│
/// │── DELETE X ──╲─────────────────▶ │
/// │◀─╯             any request now    │
/// ```
#[test]
fn p11_collision_that_one_side_does_not_see() {
    for seed in 0..8 {
        for side in BOTH {
            let mut pair = crossed(seed);
            let other = side.other();
            let of_side = pair.take(side, request_kind(CREATE));
            let delayed = pair.take(other, request_kind(CREATE));
            let made = pair.response_to(&of_side);
            pair.deliver_copy(&made);
            pair.deliver_copy(&delayed);
            pair.release_messages();
            pair.assert_connected_throughout();
        }
    }
}

/// The four loss patterns of a collision.
#[test]
fn p11_collision_with_requests_lost() {
    for lost in [[false, false], [true, false], [false, true], [true, true]] {
        for seed in 0..6 {
            let mut pair = crossed(seed);
            for side in BOTH {
                let request = pair.take(side, request_kind(CREATE));
                if !lost[side as usize] {
                    pair.wire.schedule(pair.now, request);
                }
            }
            pair.release_messages();
            pair.assert_connected_throughout();
        }
    }
}

/// ```text
/// A                                  B
/// │── rekey X ──────────────────────▶│ Y
/// │            ╱──────────────── Y ──│
/// │── rekey X ╱─────────────────────▶│  retransmitted: the same response
/// │◀─────────╱────────────────── Y ──│
/// │── DELETE╱X ─────────────────────▶│
/// │◀───────╯                         │  not expected any more
/// ```
#[test]
fn delayed_response() {
    for side in BOTH {
        let mut pair = Pair::busy();
        pair.hold_messages();
        pair.rekey(side, Rekey::Ike);
        let request = pair.take(side, request_kind(CREATE));
        let delayed = pair.response_to(&request);
        pair.run_for(3 * SECOND / 2);
        let again = pair.take(side, request_kind(CREATE));
        let response = pair.response_to(&again);
        pair.deliver_copy(&response);
        let delete = pair.take(side, request_kind(INFORM));
        let deleted = pair.response_to(&delete);
        pair.deliver_copy(&delayed);
        pair.deliver_copy(&deleted);
        pair.deliver_copy(&delayed);
        pair.assert_silent(Side::A);
        pair.assert_silent(Side::B);
        pair.assert_done((0, 1));
    }
}

/// A retransmitted request that arrives after its IKE SA is closed.
#[test]
fn p11_a_delayed_duplicate_request_after_the_exchange_is_ignored() {
    for side in BOTH {
        let mut pair = Pair::busy();
        pair.hold_messages();
        pair.rekey(side, Rekey::Ike);
        let delayed = pair.take(side, request_kind(CREATE));
        pair.run_for(3 * SECOND / 2);
        let again = pair.take(side, request_kind(CREATE));
        let response = pair.response_to(&again);
        pair.deliver_copy(&response);
        let delete = pair.take(side, request_kind(INFORM));
        let deleted = pair.response_to(&delete);
        pair.deliver_copy(&deleted);
        pair.deliver_copy(&delayed);
        pair.assert_silent(side.other());
        pair.slow_traffic();
        pair.run_for(300 * SECOND);
        pair.deliver_copy(&delayed);
        pair.assert_silent(side.other());
        pair.release_messages();
        pair.assert_done((0, 1));
    }
}

/// ```text
/// A                                  B
/// │── rekey X ───────────╲ ╱─────────│ DELETE X
/// │◀─────────────────────╱ ╲────────▶│
/// │── {} ────────────────╲ ╱─────────│ TEMPORARY_FAILURE
/// ```
#[test]
fn ike_rekey_against_ike_delete_in_every_order() {
    for side in BOTH {
        let begin = || {
            let mut pair = Pair::busy();
            pair.hold_messages();
            pair.rekey(side, Rekey::Ike);
            pair.command(side.other(), Command::Reset(TUNNEL));
            pair
        };
        every_order(8, ONE_WHEN_FAST, begin, |mut pair| {
            pair.release_messages();
            pair.slow_traffic();
            pair.run_for(120 * SECOND);
            pair.assert_agreed();
        });
    }
}

/// ```text
/// A                                  B
/// │── rekey X ───────────╲ ╱─────────│ DELETE the Child SA (limit reached)
/// ```
#[test]
fn ike_rekey_against_child_delete_in_every_order() {
    for side in BOTH {
        let begin = || {
            let mut pair = Pair::busy();
            let other = side.other();
            let (tunnel, spi_in) = (TUNNEL, pair.node(other).children[0].spi_in);
            pair.hold_messages();
            pair.rekey(side, Rekey::Ike);
            pair.command(other, Command::SequenceExhausted { tunnel, spi_in });
            pair
        };
        every_order(8, ONE_WHEN_FAST, begin, |mut pair| {
            pair.release_messages();
            pair.slow_traffic();
            pair.run_for(120 * SECOND);
            pair.assert_agreed();
        });
    }
}

/// Each side rekeys both SAs at once.
#[test]
fn p11_all_rekeys_at_once() {
    for seed in 0..20 {
        let mut pair = Pair::busy_with_seeds(seed);
        for side in BOTH {
            let first = if seed % 2 == 0 {
                Rekey::Ike
            } else {
                Rekey::Child
            };
            let second = if seed % 2 == 0 {
                Rekey::Child
            } else {
                Rekey::Ike
            };
            pair.rekey(side, first);
            pair.rekey(side, second);
            pair.run_for(Duration::from_millis(u64::from(seed % 7)));
        }
        pair.assert_connected_throughout();
    }
}

/// Repeated rekeys before the lifetime ends, without a gap, whichever side has the shorter lifetime.
#[test]
fn repeated_soft_expiry() {
    for lives in [(60, 1000), (1000, 60), (60, 60), (90, 70)] {
        let (mut a, mut b) = (settings(Side::A), settings(Side::B));
        a.ike_lifetime = Duration::from_secs(lives.0);
        b.ike_lifetime = Duration::from_secs(lives.1);
        a.child_lifetime = 50 * SECOND;
        let mut pair = Pair::busy_with(a, b);
        pair.slow_traffic();
        pair.run_for(900 * SECOND);
        pair.await_agreement(30 * SECOND);
        pair.assert_no_gap();
        let rekeys = pair.a.view().rekeys;
        assert!((10..30).contains(&rekeys.ike), "{lives:?} {rekeys:?}");
    }
}

/// No response arrives any more: the SA ends with its hard lifetime, and the tunnel reconnects.
#[test]
fn hard_expiry_without_a_response() {
    let (mut a, b) = (settings(Side::A), settings(Side::B));
    a.ike_lifetime = 100 * SECOND;
    let mut pair = Pair::busy_with(a, b);
    pair.slow_traffic();
    pair.run_for(75 * SECOND);
    pair.cut();
    pair.run_for(60 * SECOND);
    assert!(pair.a.ikes.is_empty());
    pair.no_impairment();
    pair.run_for(120 * SECOND);
    pair.assert_agreed();
}
