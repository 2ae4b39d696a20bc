//! Both sides touch the same SA at the same time: what to answer, and which SA stays. Pure decisions.
//!
//! # Both begin
//!
//! When both sides start at once, each ends up with the SA it initiated and the one the peer did:
//!
//! ```text
//! A                         B
//! │── IKE_SA_INIT ──╲ ╱─────│        both handshakes run to their end,
//! │◀────────────────╱ ╲────▶│        so both sides hold both SAs;
//! │── IKE_AUTH … ───────────│        both see the same four nonces:
//! │                         │        the SA with the lowest one is closed
//! │── DELETE ──────────────▶│        by the side that initiated it
//! ```
//!
//! That is the rule of RFC 7296 §2.8.1 for crossed rekeys, applied to crossed beginnings; a groundlink knows another by its Vendor ID, so both apply it. Any
//! other peer keeps what it likes: there the newest authenticated SA stays, and we close the older. [`choose_survivor`] decides.
//!
//! # Both rekey the same SA (§2.8.1, §2.8.2)
//!
//! ```text
//! A                                         B
//! │── rekey X, Ni1 ──────────╲ ╱────────────│ rekey X, Ni2
//! │◀─────────────────────────╱ ╲───────────▶│
//! │── Nr2, making Y2 ────────╲ ╱────────────│ Nr1, making Y1
//! │◀─────────────────────────╱ ╲───────────▶│
//! │      both compare min(Ni1, Nr1) with min(Ni2, Nr2): the SA of the exchange with the lowest nonce goes
//! │── DELETE X ────────────────────────────▶│    if Y1 stays: A began it, so A deletes X,
//! │◀──────────────────────────── DELETE Y2 ─│    and B deletes its own Y2
//! ```
//!
//! [`survivor`] decides. A side that did not see the collision, because the peer's answer came before the peer's request, has begun to delete X: it answers
//! TEMPORARY_FAILURE, and the peer, which did see it, then has the other's SA already:
//!
//! ```text
//! A                                         B
//! │── rekey X ─────────────────────────────▶│
//! │        ╱───────────────────── rekey X ──│   (delayed)
//! │◀──────╱──────────────────────── Y1 ─────│
//! │── DELETE X ───────────────────────────▶ │
//! │◀─────╯                                  │
//! │── TEMPORARY_FAILURE ──────────────────▶ │   Y1 stands
//! ```
//!
//! # A request meets something of ours under way (§2.25)
//!
//! | the peer wants to | while we | answer |
//! |---|---|---|
//! | rekey a Child SA | rekey it too | as usual; the nonces decide |
//! | | delete it, or it has been replaced | TEMPORARY_FAILURE |
//! | | do not know it | CHILD_SA_NOT_FOUND |
//! | make or rekey a Child SA | rekey or close the IKE SA | TEMPORARY_FAILURE |
//! | delete a Child SA | delete it too | as usual, without naming it again |
//! | | rekey it, or the IKE SA | as usual |
//! | rekey the IKE SA | rekey it too | as usual; the nonces decide |
//! | | make, rekey or delete a Child SA | TEMPORARY_FAILURE |
//! | | close it, or it has been replaced | TEMPORARY_FAILURE |
//! | close the IKE SA | rekey or close it | as usual, and our own request is forgotten |

use std::cmp::Ordering;

use super::child_sa::ChildState;
use super::event::Role;
use super::init_result::PeerKind;
use super::key_schedule::Nonces;
use crate::net::Time;

/// What the decision needs to know of an SA.
#[derive(Clone, Copy, Debug)]
pub struct DuplicateSa<'a> {
    /// Its nonces.
    pub nonces: &'a Nonces,
    /// Whether we initiated it.
    pub role: Role,
    /// When its handshake began.
    pub started: Time,
    /// When it was established.
    pub established: Time,
}

/// Which of two SAs stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The one established first.
    Older,
    /// The one established last.
    Newer,
}

/// Who tells the peer that the other one goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closer {
    /// We do.
    Us,
    /// The peer does; we only wait for it.
    Peer,
}

/// Decides between two SAs.
pub fn choose_survivor(
    older: DuplicateSa<'_>,
    newer: DuplicateSa<'_>,
    peer: PeerKind,
) -> (Keep, Closer) {
    // A handshake begun after the other was established does not cross it: the peer knows the first SA no more, or wants a new one.
    let crossed = newer.started <= older.established;
    match peer {
        PeerKind::Groundlink if crossed => {
            let (keep, redundant) = if lowest(older.nonces) < lowest(newer.nonces) {
                (Keep::Newer, older)
            } else {
                (Keep::Older, newer)
            };
            let closer = match redundant.role {
                Role::Initiator => Closer::Us,
                Role::Responder => Closer::Peer,
            };
            (keep, closer)
        }
        PeerKind::Groundlink | PeerKind::Other => (Keep::Newer, Closer::Us),
    }
}

/// Which of two exchanges that rekeyed the same SA stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survivor {
    /// The one we began.
    Ours,
    /// The one the peer began.
    Theirs,
}

/// Decides between two exchanges that rekeyed the same SA: the one with the lowest of the four nonces loses. Should both have it, which takes a broken random
/// generator, the exchange begun by the side that initiated the IKE SA stands; `role` says which side that is.
pub fn survivor(ours: &Nonces, theirs: &Nonces, role: Role) -> Survivor {
    match (lowest(ours).cmp(lowest(theirs)), role) {
        (Ordering::Less, _) | (Ordering::Equal, Role::Responder) => Survivor::Theirs,
        (Ordering::Greater, _) | (Ordering::Equal, Role::Initiator) => Survivor::Ours,
    }
}

fn lowest(nonces: &Nonces) -> &[u8] {
    nonces.initiator.as_slice().min(&nonces.responder)
}

/// What we have under way on an IKE SA when a request of the peer comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// Nothing that touches an SA.
    Idle,
    /// A Child SA is being made, rekeyed or deleted.
    Child,
    /// The IKE SA is being rekeyed.
    Rekeying,
    /// The IKE SA is being closed, or another has taken its conn.
    Leaving,
}

/// How to answer a request of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Do what it asks.
    Usual,
    /// TEMPORARY_FAILURE: it may ask again.
    Later,
    /// CHILD_SA_NOT_FOUND.
    NotFound,
}

/// The peer wants to make a Child SA.
pub fn on_create(busy: Busy) -> Reply {
    match busy {
        Busy::Idle | Busy::Child => Reply::Usual,
        Busy::Rekeying | Busy::Leaving => Reply::Later,
    }
}

/// The peer wants to rekey the Child SA that stands so with us, if we have it.
pub fn on_rekey_child(busy: Busy, standing: Option<ChildState>) -> Reply {
    match (on_create(busy), standing) {
        (Reply::Later | Reply::NotFound, _) => Reply::Later,
        (Reply::Usual, None) => Reply::NotFound,
        (Reply::Usual, Some(ChildState::Active | ChildState::AwaitingPeer { .. })) => Reply::Usual,
        // It has one already in its place, or is about to lose this one: a second rekeying of the same SA is never granted.
        (
            Reply::Usual,
            Some(
                ChildState::Replaced { .. }
                | ChildState::Redundant { .. }
                | ChildState::Deleting { .. },
            ),
        ) => Reply::Later,
    }
}

/// The peer wants to rekey the IKE SA.
pub fn on_rekey_ike(busy: Busy) -> Reply {
    match busy {
        Busy::Idle | Busy::Rekeying => Reply::Usual,
        Busy::Child | Busy::Leaving => Reply::Later,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ike::event::DownReason;

    fn nonces(initiator: u8, responder: u8) -> Nonces {
        Nonces {
            initiator: vec![initiator; 32],
            responder: vec![responder; 32],
        }
    }

    fn rival(nonces: &Nonces, role: Role, started: u64, established: u64) -> DuplicateSa<'_> {
        DuplicateSa {
            nonces,
            role,
            started: Time::ZERO + Duration::from_millis(started),
            established: Time::ZERO + Duration::from_millis(established),
        }
    }

    #[test]
    fn p11_crossed_handshakes_are_settled_alike_on_both_sides_whoever_wins() {
        for (first, second) in [(nonces(1, 9), nonces(5, 6)), (nonces(7, 9), nonces(5, 6))] {
            // The same two SAs seen from A, which initiated the first, and from B, which initiated the second and heard of both in the other order.
            let at_a = choose_survivor(
                rival(&first, Role::Initiator, 0, 30),
                rival(&second, Role::Responder, 10, 40),
                PeerKind::Groundlink,
            );
            let at_b = choose_survivor(
                rival(&second, Role::Initiator, 5, 35),
                rival(&first, Role::Responder, 15, 45),
                PeerKind::Groundlink,
            );
            let a_keeps_first = at_a.0 == Keep::Older;
            let b_keeps_first = at_b.0 == Keep::Newer;
            assert_eq!(a_keeps_first, b_keeps_first);
            // Exactly one of them closes the redundant SA: its creator.
            assert_ne!(at_a.1, at_b.1);
            assert_eq!(at_a.1 == Closer::Us, !a_keeps_first);
        }
    }

    #[test]
    fn a_peer_that_begins_again_later_gets_the_new_sa() {
        let (old, new) = (nonces(9, 9), nonces(1, 1));
        let verdict = choose_survivor(
            rival(&old, Role::Initiator, 0, 30),
            rival(&new, Role::Responder, 5000, 5030),
            PeerKind::Groundlink,
        );
        assert_eq!(verdict, (Keep::Newer, Closer::Us));
    }

    #[test]
    fn with_other_peers_the_newest_stays() {
        let (old, new) = (nonces(9, 9), nonces(1, 1));
        let verdict = choose_survivor(
            rival(&old, Role::Initiator, 0, 30),
            rival(&new, Role::Responder, 10, 40),
            PeerKind::Other,
        );
        assert_eq!(verdict, (Keep::Newer, Closer::Us));
    }

    #[test]
    fn p11_of_two_rekeyings_the_one_with_the_lowest_nonce_goes_and_both_sides_say_the_same() {
        for (first, second, first_stands) in [
            (nonces(1, 9), nonces(5, 6), false),
            (nonces(7, 8), nonces(6, 9), true),
            (nonces(9, 2), nonces(3, 3), false),
        ] {
            let at_a = survivor(&first, &second, Role::Initiator);
            let at_b = survivor(&second, &first, Role::Responder);
            assert_eq!(at_a == Survivor::Ours, first_stands);
            assert_eq!(at_b == Survivor::Theirs, first_stands);
        }
    }

    #[test]
    fn p11_equal_nonces_are_settled_alike_on_both_sides() {
        let same = nonces(4, 4);
        assert_eq!(survivor(&same, &same, Role::Initiator), Survivor::Ours);
        assert_eq!(survivor(&same, &same, Role::Responder), Survivor::Theirs);
    }

    #[test]
    fn p05_what_is_on_its_way_out_is_not_rekeyed_again() {
        let until = Time::ZERO;
        let reply = |standing| on_rekey_child(Busy::Idle, standing);
        assert_eq!(reply(None), Reply::NotFound);
        assert_eq!(reply(Some(ChildState::Active)), Reply::Usual);
        assert_eq!(
            reply(Some(ChildState::AwaitingPeer {
                until,
                extension: Duration::ZERO,
                latest: until,
            })),
            Reply::Usual
        );
        assert_eq!(reply(Some(ChildState::Replaced { until })), Reply::Later);
        assert_eq!(reply(Some(ChildState::Redundant { until })), Reply::Later);
        let leaving = ChildState::Deleting {
            reason: DownReason::Replaced,
        };
        assert_eq!(reply(Some(leaving)), Reply::Later);
    }

    #[test]
    fn requests_that_meet_ours_are_answered_as_section_2_25_says() {
        for (busy, create, rekey_ike) in [
            (Busy::Idle, Reply::Usual, Reply::Usual),
            (Busy::Child, Reply::Usual, Reply::Later),
            (Busy::Rekeying, Reply::Later, Reply::Usual),
            (Busy::Leaving, Reply::Later, Reply::Later),
        ] {
            assert_eq!(on_create(busy), create, "{busy:?}");
            let working = Some(ChildState::Active);
            assert_eq!(on_rekey_child(busy, working), create, "{busy:?}");
            assert_eq!(on_rekey_ike(busy), rekey_ike, "{busy:?}");
        }
    }
}
