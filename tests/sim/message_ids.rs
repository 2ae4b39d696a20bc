//! Message IDs and the window of one (RFC 7296 §2.1 to §2.3) between two compliant peers on a network that duplicates, delays and
//! loses: every request takes effect once.

use std::time::Duration;

use groundlink::ike::{Command, TunnelState};

use crate::pair::{Pair, Side, TUNNEL};
use crate::script::INFORM;
use crate::wire::{SimContent, SimDatagram, request_kind, response_kind};

const SECOND: Duration = Duration::from_secs(1);

fn bytes(datagram: &SimDatagram) -> &[u8] {
    match &datagram.content {
        SimContent::Ike(bytes) => bytes,
        SimContent::Esp(_) => panic!("not IKE"),
    }
}

/// A pair of which A sends liveness checks.
fn asking() -> (Pair, SimDatagram) {
    let mut pair = Pair::established();
    pair.hold_messages();
    // Only A sends liveness checks.
    pair.run_for(9 * SECOND - Duration::from_millis(100));
    let (tunnel, at) = (TUNNEL, pair.now);
    pair.command(Side::B, Command::EspReceived { tunnel, at });
    pair.run_for(SECOND);
    let request = pair.take(Side::A, request_kind(INFORM));
    (pair, request)
}

/// ```text
/// A                    B
/// │── 2 {} ───────────▶│
/// │        ╳── 2 {} ───│
/// │── 2 {} ───────────▶│  the same bytes
/// │◀── 2 {} ───────────│  the same bytes
/// ```
#[test]
fn a_lost_response_is_resent_for_a_retransmitted_request() {
    let (mut pair, request) = asking();
    let lost = pair.response_to(&request);
    pair.run_for(2 * SECOND);
    let again = pair.take(Side::A, request_kind(INFORM));
    assert_eq!(bytes(&again), bytes(&request));
    let answered = pair.response_to(&again);
    assert_eq!(bytes(&answered), bytes(&lost));
    pair.deliver_copy(&answered);
    pair.run_for(5 * SECOND);
    pair.assert_silent(Side::A);
    pair.assert_agreed();
}

/// ```text
/// A                    B
/// │── 2 {} ───────────▶│
/// │◀── 2 {} ───────────│
/// │◀── 2 {} ───────────│  not expected any more
/// │── 3 {} ───────────▶│
/// │◀── 2 {} ───────────│  still not expected
/// ```
#[test]
fn a_duplicate_or_late_response_counts_once() {
    let (mut pair, request) = asking();
    let first = pair.response_to(&request);
    pair.deliver_copy(&first);
    pair.deliver_copy(&first);
    // The last new message arrived 10 seconds ago; duplicates do not count.
    pair.run_for(10 * SECOND + SECOND / 2);
    let next = pair.take(Side::A, request_kind(INFORM));
    pair.deliver_copy(&first);
    pair.run_for(2 * SECOND);
    let repeated = pair.take(Side::A, request_kind(INFORM));
    assert_eq!(bytes(&repeated), bytes(&next), "it is asked still");
}

/// ```text
/// A                    B
/// │── 2 {} ──╲         │
/// │── 2 {} ───╲───────▶│
/// │◀── 2 {} ───╲───────│
/// │── 3 {} ─────╲─────▶│
/// │◀── 3 {} ─────╲─────│
/// │               ╲───▶│  already answered
/// ```
#[test]
fn a_request_that_arrives_after_its_successor_is_not_answered() {
    let (mut pair, delayed) = asking();
    let first = pair.response_to(&delayed);
    pair.deliver_copy(&first);
    let mut downs = 0;
    for _ in 0..3 {
        pair.run_for(10 * SECOND);
        while let Some(datagram) = pair.wire.take(Side::A) {
            pair.deliver_copy(&datagram);
        }
        while let Some(datagram) = pair.wire.take(Side::B) {
            downs += 1;
            pair.deliver_copy(&datagram);
        }
    }
    assert!(downs > 2);
    let heard = pair.b.sent.len();
    pair.deliver_copy(&delayed);
    assert_eq!(pair.b.sent.len(), heard);
    assert_eq!(pair.b.state(), TunnelState::Up);
}

/// ```text
/// A                    B
/// │── 2 {D(IKE)} ─────▶│
/// │        ╳── 2 {} ───│  the SA is gone at B
/// │── 2 {D(IKE)} ─────▶│
/// │◀── 2 {} ───────────│  and still responds
/// ```
#[test]
fn a_retransmitted_delete_gets_the_last_response_of_the_closed_sa() {
    let mut pair = Pair::established();
    pair.hold_messages();
    pair.command(Side::A, Command::Down(TUNNEL));
    let delete = pair.take(Side::A, request_kind(INFORM));
    let lost = pair.response_to(&delete);
    assert!(pair.b.ikes.is_empty());
    pair.run_for(2 * SECOND);
    let again = pair.take(Side::A, request_kind(INFORM));
    let answered = pair.response_to(&again);
    assert_eq!(bytes(&answered), bytes(&lost));
    assert!(!pair.a.endpoint.is_idle());
    pair.deliver_copy(&answered);
    assert!(pair.a.endpoint.is_idle());
    assert_eq!(pair.b.count("IkeDown"), 1);
}

/// ```text
/// A                    B
/// │── 2 {} ──╲ ╱─ 0 {}─│
/// │◀─────────╱ ╲──────▶│
/// │── 0 {} ──╲ ╱─ 2 {}─│  each side has its own message IDs
/// │◀─────────╱ ╲──────▶│
/// ```
#[test]
fn each_side_numbers_its_own_requests_and_responds_while_waiting() {
    let mut pair = Pair::established();
    pair.hold_messages();
    pair.run_for(10 * SECOND);
    let (of_a, of_b) = (
        pair.take(Side::A, request_kind(INFORM)),
        pair.take(Side::B, request_kind(INFORM)),
    );
    let to_a = pair.response_to(&of_a);
    let to_b = pair.response_to(&of_b);
    pair.deliver_copy(&to_a);
    pair.deliver_copy(&to_b);
    pair.run_for(3 * SECOND);
    pair.assert_silent(Side::A);
    pair.assert_silent(Side::B);
    assert_eq!(
        Some(response_kind(INFORM)),
        Some(crate::wire::Kind::of(bytes(&to_a)))
    );
}
