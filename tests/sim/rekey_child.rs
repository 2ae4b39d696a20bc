//! Rekeying a Child SA (RFC 7296 §1.3.3, §2.8, §2.25): alone, simultaneous with the peer's rekey, and with loss and delay. ESP
//! flows in both directions in every test, and no packet is lost.
//!
//! X is the Child SA to be rekeyed and Y its replacement; in a collision Ya is the one that A initiated.

use std::time::Duration;

use groundlink::crypto::EspProposal;
use groundlink::ike::{Command, DownReason, Rekey, RekeyCheck, Settings};

use crate::message_orders::{Losses, ONE_WHEN_FAST, every_order};
use crate::pair::{Pair, Side, TUNNEL, settings};
use crate::script::{BOTH, CREATE, INFORM};
use crate::wire::{request_kind, response_kind};

const SECOND: Duration = Duration::from_secs(1);

/// Both sides with this ESP proposal.
fn with_esp(a: &str, b: &str) -> (Settings, Settings) {
    let mut ends = (settings(Side::A), settings(Side::B));
    ends.0.esp = vec![EspProposal::parse(a).unwrap().0];
    ends.1.esp = vec![EspProposal::parse(b).unwrap().0];
    ends
}

/// Both sides have requested a rekey of X, and neither request has arrived.
fn crossed(seed: u8) -> Pair {
    let mut pair = Pair::busy_with_seeds(seed);
    pair.hold_messages();
    pair.rekey(Side::A, Rekey::Child);
    pair.rekey(Side::B, Rekey::Child);
    pair
}

/// ```text
/// A                                  B
/// │── rekey X ──────────────────────▶│ Y receives
/// │◀─────────────────────────── Y ───│
/// │ Y receives and sends             │
/// │── DELETE X ─────────────────────▶│ Y sends, X only receives
/// │◀────────────────── DELETE X ─────│
/// │ X only receives                  │
/// ```
#[test]
fn regular() {
    for esp in [
        "aes128-sha256",
        "aes128-sha256-curve25519",
        "aes128gcm16-ecp256",
    ] {
        for side in BOTH {
            let (a, b) = with_esp(esp, esp);
            let mut pair = Pair::busy_with(a, b);
            let old = pair.a.children[0].spi_in;
            pair.hold_messages();
            pair.rekey(side, Rekey::Child);
            let request = pair.take(side, request_kind(CREATE));
            let response = pair.response_to(&request);
            assert_eq!(pair.node(side.other()).children.len(), 2);
            assert_eq!(pair.node(side).children.len(), 1);
            pair.run_for(SECOND / 2);
            pair.deliver_copy(&response);
            pair.run_for(SECOND / 2);
            let delete = pair.take(side, request_kind(INFORM));
            let deleted = pair.response_to(&delete);
            assert_eq!(pair.node(side.other()).children.len(), 1);
            pair.deliver_copy(&deleted);
            assert_eq!(pair.node(side).children.len(), 1);
            pair.assert_done((1, 0));
            assert_ne!(pair.a.children[0].spi_in, old);
            assert_eq!(pair.a.down_reasons, [DownReason::Replaced]);
            assert_eq!(pair.b.down_reasons, [DownReason::Replaced]);
        }
    }
}

/// The responder sends over Y after the first packet received on Y, and not before.
///
/// ```text
/// A                                  B
/// │── rekey X ──────────────────────▶│ Y receives
/// │◀─────────────────────────── Y ───│
/// │ Y receives and sends             │
/// │══ ESP over Y ═══════════════════▶│ Y sends
/// │      ╳────────────── DELETE X ───│
/// ```
#[test]
fn the_responder_sends_over_the_new_sa_after_the_first_packet_on_it() {
    let mut pair = Pair::busy();
    pair.hold_messages();
    pair.rekey(Side::A, Rekey::Child);
    let old = pair.b.outbound();
    let request = pair.take(Side::A, request_kind(CREATE));
    let response = pair.response_to(&request);
    pair.run_for(SECOND / 2);
    assert_eq!(pair.b.outbound(), old, "A does not know Y yet");
    pair.deliver_copy(&response);
    pair.run_for(SECOND / 2);
    assert_ne!(pair.b.outbound(), old, "A has shown that it knows Y");
    pair.release_messages();
    pair.assert_done((1, 0));
}

/// ```text
/// A                                  B
/// │── rekey X, KE 31 ───────────────▶│
/// │◀────── INVALID_KE_PAYLOAD 19 ────│
/// │── rekey X, KE 19 ───────────────▶│
/// │◀─────────────────────────── Y ───│
/// ```
#[test]
fn ke_invalid() {
    let many = "aes128-sha256-curve25519-ecp256";
    let (a, b) = with_esp(many, "aes128-sha256-ecp256");
    let mut pair = Pair::busy_with(a, b);
    pair.hold_messages();
    pair.rekey(Side::A, Rekey::Child);
    let first = pair.take(Side::A, request_kind(CREATE));
    let refused = pair.response_to(&first);
    assert_eq!(pair.b.children.len(), 1);
    pair.deliver_copy(&refused);
    let second = pair.take(Side::A, request_kind(CREATE));
    let made = pair.response_to(&second);
    pair.deliver_copy(&made);
    pair.release_messages();
    pair.assert_done((1, 0));
}

/// ```text
/// A                                  B
/// │── rekey X, KE 31 ───────╲ ╱──────│ rekey X, KE 19
/// │◀────────────────────────╱ ╲─────▶│
/// │── Yb ───────────────────╲ ╱──────│ INVALID_KE_PAYLOAD 19
/// │◀────────────────────────╱ ╲─────▶│
/// │   and in every other order       │
/// ```
#[test]
fn ke_invalid_in_a_collision() {
    let many = "aes128-sha256-curve25519-ecp256";
    let begin = || {
        let (a, b) = with_esp(many, "aes128-sha256-ecp256");
        let mut pair = Pair::busy_with(a, b);
        pair.hold_messages();
        pair.rekey(Side::A, Rekey::Child);
        pair.rekey(Side::B, Rekey::Child);
        pair
    };
    every_order(8, Losses::None, begin, |mut pair| {
        pair.release_messages();
        pair.assert_connected_throughout();
    });
}

/// Different PFS groups do not show before the first rekey. The existing Child SA stays in use.
///
/// ```text
/// A                                  B
/// │── rekey X, KE 31 ───────────────▶│
/// │◀─────── NO_PROPOSAL_CHOSEN ──────│
/// ```
#[test]
fn p10_a_rejected_rekey_leaves_the_child_sa_unchanged_until_the_retry_is_due() {
    let (a, b) = with_esp("aes128-sha256-curve25519", "aes128-sha256-ecp256");
    let mut pair = Pair::busy_with(a, b);
    pair.rekey(Side::A, Rekey::Child);
    pair.run_for(20 * SECOND);
    pair.assert_agreed();
    pair.assert_no_gap();
    assert!(pair.a.down_reasons.is_empty() && pair.b.down_reasons.is_empty());
    assert!(!pair.a.codes().is_empty(), "the failure is reported");
}

/// ```text
/// A                                  B
/// │── rekey X ──────────────────────▶│ Y
/// │◀─────────────────────────── Y ───│   the limits of X have no effect any more
/// ```
#[test]
fn the_responder_ignores_soft_limits_of_a_rekeyed_sa() {
    let mut pair = Pair::busy();
    let (tunnel, spi_in) = (TUNNEL, pair.b.children[0].spi_in);
    pair.hold_messages();
    pair.rekey(Side::A, Rekey::Child);
    let request = pair.take(Side::A, request_kind(CREATE));
    let response = pair.response_to(&request);
    pair.command(Side::B, Command::SoftLimit { tunnel, spi_in });
    pair.assert_silent(Side::B);
    pair.deliver_copy(&response);
    pair.release_messages();
    pair.assert_done((1, 0));
}

/// Both sides approach the same limit at once since both count the same packets: one Y remains in every order.
#[test]
fn soft_limits_of_both_sides_at_once() {
    let begin = || {
        let mut pair = Pair::busy();
        pair.hold_messages();
        for side in BOTH {
            let (tunnel, spi_in) = (TUNNEL, pair.node(side).children[0].spi_in);
            pair.command(side, Command::SoftLimit { tunnel, spi_in });
        }
        pair
    };
    every_order(8, Losses::None, begin, |mut pair| {
        pair.release_messages();
        pair.assert_connected_throughout();
    });
}

/// ```text
/// A                                  B
/// │── rekey X ──────────────────────▶│ Y
/// │◀─────────────────────────── Y ───│
/// │── DELETE X ──────────╲ ╱─────────│ DELETE X (X has reached its limit)
/// │◀─────────────────────╱ ╲────────▶│
/// │── {} ────────────────╲ ╱─────────│ {}
/// ```
#[test]
fn the_responder_may_also_delete_the_rekeyed_sa() {
    let begin = || {
        let mut pair = Pair::busy();
        let (tunnel, spi_in) = (TUNNEL, pair.b.children[0].spi_in);
        pair.hold_messages();
        pair.rekey(Side::A, Rekey::Child);
        let request = pair.take(Side::A, request_kind(CREATE));
        let response = pair.response_to(&request);
        pair.deliver_copy(&response);
        pair.command(Side::B, Command::SequenceExhausted { tunnel, spi_in });
        pair
    };
    every_order(8, ONE_WHEN_FAST, begin, |mut pair| {
        pair.release_messages();
        pair.slow_traffic();
        pair.run_for(60 * SECOND);
        pair.assert_agreed();
    });
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
        pair.run_for(SECOND / 10);
        pair.deliver_copy(&to_a);
        pair.deliver_copy(&to_b);
        pair.run_for(SECOND / 10);
        assert_eq!(pair.a.children.len(), 3);
        assert_eq!(pair.b.children.len(), 3);
        let (of_a, of_b) = (
            pair.take(Side::A, request_kind(INFORM)),
            pair.take(Side::B, request_kind(INFORM)),
        );
        let to_a = pair.response_to(&of_a);
        let to_b = pair.response_to(&of_b);
        pair.deliver_copy(&to_a);
        pair.deliver_copy(&to_b);
        pair.assert_silent(Side::A);
        pair.assert_silent(Side::B);
        pair.assert_done((1, 0));
        pair.child_winner()
    });
}

/// The same collision where the response overtakes the peer's request, so that A detects the collision too late (RFC 7296
/// §2.8.1).
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
            pair.run_for(SECOND / 10);
            let delete = pair.take(side, request_kind(INFORM));
            let refused = pair.response_to(&delayed);
            pair.deliver_copy(&refused);
            let deleted = pair.response_to(&delete);
            pair.deliver_copy(&deleted);
            pair.release_messages();
            pair.assert_connected_throughout();
        }
    }
}

/// Both sides rekey X, and the eight messages arrive in every order.
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
        assert!(runs > 50, "{runs}");
    }
}

/// The same collision with each message lost once and retransmitted a second later.
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

/// The four loss patterns of a collision: either request lost at first, both, or neither.
///
/// ```text
/// A                                  B
/// │── rekey X ───────╳   ╳───────────│ rekey X
/// │   a second or so later           │
/// │── rekey X ───────────────────────│ …
/// ```
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
        pair.rekey(side, Rekey::Child);
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
        pair.assert_done((1, 0));
    }
}

/// A request that arrives after all other messages of its exchange, even after the DELETE.
#[test]
fn p11_a_delayed_duplicate_request_after_the_exchange_is_ignored() {
    for side in BOTH {
        let mut pair = Pair::busy();
        pair.hold_messages();
        pair.rekey(side, Rekey::Child);
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
        pair.assert_done((1, 0));
    }
}

/// The peer rekeys the same SA a second time before it has deleted it. With a window of one this takes a manual rekey command.
#[test]
fn p05_rekeyed_twice_in_a_row() {
    for side in BOTH {
        let mut pair = Pair::busy();
        for _ in 0..5 {
            pair.rekey(side, Rekey::Child);
        }
        pair.run_for(SECOND / 2);
        pair.rekey(side, Rekey::Child);
        pair.rekey(side.other(), Rekey::Child);
        pair.assert_connected_throughout();
    }
}

/// ```text
/// A                                  B
/// │── rekey X ──────────────────────▶│ Y
/// │◀─────────────────────────── Y ───│
/// │── DELETE X ─────╳                │  endlessly
/// ```
#[test]
fn an_unanswered_delete_ends_the_ike_sa_and_the_tunnel_reconnects() {
    for side in BOTH {
        let mut pair = Pair::busy();
        pair.hold_messages();
        pair.rekey(side, Rekey::Child);
        let request = pair.take(side, request_kind(CREATE));
        let response = pair.response_to(&request);
        pair.deliver_copy(&response);
        pair.slow_traffic();
        // All IKE messages of A and B are lost from now on; ESP continues.
        pair.run_for(100 * SECOND);
        while pair.wire.waiting() > 0 {
            pair.wire.take_nth(0);
        }
        pair.release_messages();
        pair.slow_traffic();
        pair.run_for(120 * SECOND);
        pair.assert_agreed();
    }
}

/// No response arrives after the request: the old SA stays in use until its hard lifetime ends, and then the tunnel reconnects.
#[test]
fn hard_expiry_without_a_response() {
    let (mut a, b) = (settings(Side::A), settings(Side::B));
    a.child_lifetime = 100 * SECOND;
    let mut pair = Pair::busy_with(a, b);
    pair.slow_traffic();
    pair.run_for(75 * SECOND);
    pair.cut();
    pair.run_for(40 * SECOND);
    assert!(pair.a.children.is_empty(), "its lifetime is over");
    pair.no_impairment();
    pair.run_for(120 * SECOND);
    pair.assert_agreed();
}

/// Repeated rekeys before the lifetime ends, without a gap, whichever side has the shorter lifetime.
#[test]
fn repeated_soft_expiry() {
    for lives in [(40, 1000), (1000, 40), (40, 40), (60, 45)] {
        let (mut a, mut b) = (settings(Side::A), settings(Side::B));
        a.child_lifetime = Duration::from_secs(lives.0);
        b.child_lifetime = Duration::from_secs(lives.1);
        let mut pair = Pair::busy_with(a, b);
        pair.slow_traffic();
        pair.run_for(600 * SECOND);
        pair.await_agreement(30 * SECOND);
        pair.assert_no_gap();
        let rekeys = pair.a.view().rekeys;
        assert!((12..30).contains(&rekeys.child), "{lives:?} {rekeys:?}");
        assert_eq!(rekeys.ike, 0);
    }
}

/// The rekey check of a new tunnel: both SAs once and not again.
#[test]
fn the_rekey_check_after_connecting_loses_no_packet() {
    let (mut a, mut b) = (settings(Side::A), settings(Side::B));
    a.rekey_check = RekeyCheck::Once;
    b.rekey_check = RekeyCheck::Once;
    let mut pair = Pair::busy_with(a, b);
    pair.slow_traffic();
    pair.run_for(1200 * SECOND);
    pair.assert_agreed();
    pair.assert_no_gap();
    assert_eq!(pair.a.count("RekeyChecked"), 2);
    let rekeys = pair.a.view().rekeys;
    assert!(rekeys.child >= 1 && rekeys.ike >= 1, "{rekeys:?}");
    assert!(rekeys.child <= 2 && rekeys.ike <= 2, "{rekeys:?}");
}

/// ```text
/// A                                  B
/// │── rekey X ───────────╲ ╱─────────│ DELETE X (limit reached)
/// │◀─────────────────────╱ ╲────────▶│
/// │── DELETE X ──────────╲ ╱─────────│ TEMPORARY_FAILURE
/// ```
#[test]
fn p05_rekey_against_delete_in_every_order() {
    for side in BOTH {
        let begin = || {
            let mut pair = Pair::busy();
            let other = side.other();
            let (tunnel, spi_in) = (TUNNEL, pair.node(other).children[0].spi_in);
            pair.hold_messages();
            pair.rekey(side, Rekey::Child);
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

/// ```text
/// A                                  B
/// │── rekey X ───────────╲ ╱─────────│ rekey the IKE SA
/// │◀─────────────────────╱ ╲────────▶│
/// │── TEMPORARY_FAILURE ─╲ ╱─────────│ TEMPORARY_FAILURE
/// │   later, each side by itself      │
/// ```
#[test]
fn p11_child_rekey_against_ike_rekey_in_every_order() {
    for side in BOTH {
        let begin = || {
            let mut pair = Pair::busy();
            pair.hold_messages();
            pair.rekey(side, Rekey::Child);
            pair.rekey(side.other(), Rekey::Ike);
            pair
        };
        every_order(8, ONE_WHEN_FAST, begin, |mut pair| {
            pair.release_messages();
            pair.assert_connected_throughout();
        });
    }
}

/// ```text
/// A                                  B
/// │── rekey X ───────────╲ ╱─────────│ DELETE the IKE SA
/// │◀─────────────────────╱ ╲────────▶│
/// │── {} ────────────────╲ ╱─────────│ TEMPORARY_FAILURE, or nothing
/// ```
#[test]
fn child_rekey_against_ike_delete_in_every_order() {
    for side in BOTH {
        let begin = || {
            let mut pair = Pair::busy();
            pair.hold_messages();
            pair.rekey(side, Rekey::Child);
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

/// A Child SA that cannot be installed leaves the old one in use.
#[test]
fn p18_a_rekeyed_child_sa_that_cannot_be_installed_is_retried_without_packet_loss() {
    for broken in BOTH {
        for side in BOTH {
            let mut pair = Pair::busy();
            pair.slow_traffic();
            pair.node(broken).broken_installs = 1;
            pair.rekey(side, Rekey::Child);
            pair.run_for(300 * SECOND);
            pair.assert_agreed();
            assert_eq!(pair.node(broken).codes()[0], "install-failed");
        }
    }
}

/// An unsolicited response does nothing.
#[test]
fn a_response_after_the_exchange_is_ignored() {
    let mut pair = Pair::busy();
    pair.hold_messages();
    pair.rekey(Side::A, Rekey::Child);
    let request = pair.take(Side::A, request_kind(CREATE));
    pair.deliver_copy(&request);
    let response = pair.take(Side::B, response_kind(CREATE));
    pair.deliver_copy(&response);
    pair.deliver_copy(&response);
    pair.deliver_copy(&response);
    assert_eq!(pair.a.children.len(), 2);
    pair.release_messages();
    pair.assert_done((1, 0));
}

/// B's X has expired, so B sends over Y at once, and the packet arrives before the response that creates Y at A. A's INVALID_SPI
/// notification waits behind its request and is dropped when the response arrives: otherwise B would close Y.
///
/// ```text
/// A                                  B
/// │── rekey X ──────────────────────▶│ Y receives
/// │◀═══════════════════ ESP over Y ══│
/// │◀─────────────────────────── Y ───│
/// │── DELETE X ─────────────────────▶│   and no INVALID_SPI
/// ```
#[test]
fn invalid_spi_is_not_sent_for_an_spi_installed_meanwhile() {
    let mut pair = Pair::busy();
    pair.hold_messages();
    pair.rekey(Side::A, Rekey::Child);
    let request = pair.take(Side::A, request_kind(CREATE));
    let response = pair.response_to(&request);
    let (remote, spi) = (pair.b.children[1].local, pair.b.children[1].spi_out);
    pair.command(Side::A, Command::UnknownSpi { remote, spi });
    pair.deliver_copy(&response);
    pair.release_messages();
    pair.assert_done((1, 0));
}
