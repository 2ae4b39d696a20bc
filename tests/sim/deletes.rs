//! Deletion of SAs (RFC 7296 §1.4.1, §2.25): alone, crossing, during rekeys, and lost.

use std::time::Duration;

use groundlink::ike::{Command, DownReason, Rekey, Start, TunnelState};

use crate::message_orders::{Losses, ONE_WHEN_FAST, every_order};
use crate::pair::{Pair, Side, TUNNEL, settings};
use crate::script::{BOTH, INFORM};
use crate::wire::request_kind;

const SECOND: Duration = Duration::from_secs(1);

fn exhaust(pair: &mut Pair, side: Side) {
    let (tunnel, spi_in) = (TUNNEL, pair.node(side).children[0].spi_in);
    pair.command(side, Command::SequenceExhausted { tunnel, spi_in });
}

/// ```text
/// A                                  B
/// │── DELETE X (limit) ─────────────▶│
/// │◀────────────────── DELETE X ─────│
/// │   and the tunnel reconnects       │
/// ```
#[test]
fn p19_child_delete() {
    for side in BOTH {
        let mut pair = Pair::busy();
        let old = pair.a.children[0].spi_in;
        exhaust(&mut pair, side);
        assert_ne!(pair.node(side).outbound(), Some(old), "it sends no more");
        pair.run_for(60 * SECOND);
        pair.assert_agreed();
        assert_ne!(pair.a.children[0].spi_in, old);
    }
}

/// ```text
/// A                                  B
/// │── DELETE X ──────────╲ ╱─────────│ DELETE X
/// │◀─────────────────────╱ ╲────────▶│
/// │── {} ────────────────╲ ╱─────────│ {}       neither lists it again
/// ```
#[test]
fn p06_child_deletes_cross_in_every_order() {
    let begin = || {
        let mut pair = Pair::busy();
        pair.hold_messages();
        exhaust(&mut pair, Side::A);
        exhaust(&mut pair, Side::B);
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
/// │── DELETE X ──────────╲ ╱─────────│ rekey the IKE SA
/// ```
#[test]
fn child_delete_against_ike_delete_in_every_order() {
    for side in BOTH {
        let begin = || {
            let mut pair = Pair::busy();
            pair.hold_messages();
            exhaust(&mut pair, side);
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
/// │── DELETE the IKE SA ────────────▶│
/// │◀─────────────────────────── {} ──│
/// ```
#[test]
fn ike_delete() {
    for side in BOTH {
        let mut pair = Pair::busy();
        pair.hold_messages();
        pair.command(side, Command::Down(TUNNEL));
        let delete = pair.take(side, request_kind(INFORM));
        let deleted = pair.response_to(&delete);
        assert_eq!(
            pair.node(side.other()).down_reasons,
            [DownReason::PeerDeleted]
        );
        pair.deliver_copy(&deleted);
        assert_eq!(pair.node(side).down_reasons, [DownReason::Requested]);
        assert!(pair.a.ikes.is_empty() && pair.b.ikes.is_empty());
        assert_eq!(pair.node(side).state(), TunnelState::Down);
    }
}

/// ```text
/// A                                  B
/// │── DELETE the IKE SA ─╲ ╱─────────│ DELETE the IKE SA
/// │◀─────────────────────╱ ╲────────▶│
/// │── {} ────────────────╲ ╱─────────│ {}
/// ```
#[test]
fn p06_ike_deletes_cross_in_every_order() {
    let begin = || {
        let mut pair = Pair::busy();
        pair.hold_messages();
        for side in BOTH {
            pair.command(side, Command::Down(TUNNEL));
        }
        pair
    };
    every_order(8, ONE_WHEN_FAST, begin, |mut pair| {
        pair.release_messages();
        pair.slow_traffic();
        pair.run_for(60 * SECOND);
        for side in BOTH {
            let node = pair.node(side);
            assert_eq!(node.state(), TunnelState::Down);
            assert!(node.ikes.is_empty() && node.endpoint.is_idle());
        }
    });
}

/// Both sides reset at once: the DELETEs cross, and so do the handshakes that follow.
#[test]
fn both_reset_at_once_in_every_order() {
    let begin = || {
        let mut pair = Pair::busy();
        pair.hold_messages();
        for side in BOTH {
            pair.command(side, Command::Reset(TUNNEL));
        }
        pair
    };
    every_order(8, Losses::None, begin, |mut pair| {
        pair.release_messages();
        pair.slow_traffic();
        pair.run_for(120 * SECOND);
        pair.assert_agreed();
    });
}

/// A peer that deletes a Child SA and creates a new one at once: the DELETE does not affect the new one.
#[test]
fn delete_then_create() {
    for side in BOTH {
        for seed in 0..6 {
            let mut pair = Pair::busy_with_seeds(seed);
            pair.slow_traffic();
            for _ in 0..3 {
                pair.command(side, Command::Reset(TUNNEL));
                pair.run_for(Duration::from_millis(u64::from(seed) * 7));
            }
            pair.run_for(120 * SECOND);
            pair.assert_agreed();
        }
    }
}

/// ```text
/// A                                  B
/// │── DELETE the IKE SA ──╳          │   until A times out
/// ```
#[test]
fn a_lost_delete_is_recovered_by_liveness_checks() {
    for side in BOTH {
        let mut pair = Pair::busy();
        pair.slow_traffic();
        pair.cut();
        pair.command(side, Command::Down(TUNNEL));
        pair.run_for(90 * SECOND);
        for side in BOTH {
            assert!(pair.node(side).ikes.is_empty(), "{side:?}");
        }
        pair.no_impairment();
        pair.command(side, Command::Up(TUNNEL));
        pair.run_for(120 * SECOND);
        pair.assert_agreed();
    }
}

/// Both sides rekey the IKE SA while the operator takes the tunnel down: it stays down.
#[test]
fn a_tunnel_taken_down_while_its_sas_are_rekeyed_stays_down() {
    for what in [Rekey::Child, Rekey::Ike] {
        for side in BOTH {
            let begin = || {
                let (a, mut b) = (settings(Side::A), settings(Side::B));
                b.start = Start::Auto;
                let mut pair = Pair::busy_with(a, b);
                pair.hold_messages();
                pair.rekey(side, what);
                for side in BOTH {
                    pair.command(side, Command::Down(TUNNEL));
                }
                pair
            };
            every_order(8, Losses::None, begin, |mut pair| {
                pair.release_messages();
                pair.run_for(120 * SECOND);
                for side in BOTH {
                    let node = pair.node(side);
                    assert_eq!(node.state(), TunnelState::Down);
                    assert!(node.ikes.is_empty() && node.children.is_empty());
                }
            });
        }
    }
}
