//! Collisions: both sides act on the same SA at once. Pure decisions on the response and on the SA that stays.
//!
//! # Both initiate
//!
//! When both sides initiate at once, each has the SA that it initiated and the one that the peer initiated:
//!
//! ```text
//! A                         B
//! │── IKE_SA_INIT ──╲ ╱─────│        both handshakes complete,
//! │◀────────────────╱ ╲────▶│        so both sides have both SAs;
//! │── IKE_AUTH … ───────────│        both have the same four nonces:
//! │                         │        the SA with the lowest one is closed
//! │── DELETE ──────────────▶│        by the side that initiated it
//! ```
//!
//! That is the rule of RFC 7296 §2.8.1 for simultaneous rekeys, applied to simultaneous IKE_SA_INIT exchanges. Two groundlinks
//! recognise each other by Vendor ID and both apply it. Other peers choose freely: with them the newest authenticated SA stays,
//! and we close the older one. [`choose_survivor`] decides.
//!
//! # Both rekey the same SA (§2.8.1, §2.8.2)
//!
//! ```text
//! A                                         B
//! │── rekey X, Ni1 ──────────╲ ╱────────────│ rekey X, Ni2
//! │◀─────────────────────────╱ ╲───────────▶│
//! │── Nr2, creates Y2 ───────╲ ╱────────────│ Nr1, creates Y1
//! │◀─────────────────────────╱ ╲───────────▶│
//! │      both compare min(Ni1, Nr1) with min(Ni2, Nr2): the SA of the exchange with the lowest nonce is deleted
//! │── DELETE X ────────────────────────────▶│    if Y1 stays: A initiated it, so A deletes X,
//! │◀──────────────────────────── DELETE Y2 ─│    and B deletes its own Y2
//! ```
//!
//! [`survivor`] decides. If the peer's response arrives before the peer's request, a side does not see the collision and has
//! already sent the DELETE of X. That side responds TEMPORARY_FAILURE, and the peer, which did see the collision, already has the
//! new SA:
//!
//! ```text
//! A                                         B
//! │── rekey X ─────────────────────────────▶│
//! │        ╱───────────────────── rekey X ──│   (delayed)
//! │◀──────╱──────────────────────── Y1 ─────│
//! │── DELETE X ───────────────────────────▶ │
//! │◀─────╯                                  │
//! │── TEMPORARY_FAILURE ──────────────────▶ │   Y1 stays
//! ```
//!
//! # A request arrives while our own request is pending (§2.25)
//!
//! | request of the peer | our pending operation | response |
//! |---|---|---|
//! | rekey a Child SA | its rekey | as usual; the nonces decide |
//! | | its deletion, or it has been replaced | TEMPORARY_FAILURE |
//! | | unknown Child SA | CHILD_SA_NOT_FOUND |
//! | create or rekey a Child SA | rekey or deletion of the IKE SA | TEMPORARY_FAILURE |
//! | delete a Child SA | its deletion | as usual, without its SPI |
//! | | its rekey, or that of the IKE SA | as usual |
//! | rekey the IKE SA | its rekey | as usual; the nonces decide |
//! | | creation, rekey or deletion of a Child SA | TEMPORARY_FAILURE |
//! | | its deletion, or it has been replaced | TEMPORARY_FAILURE |
//! | delete the IKE SA | its rekey or deletion | as usual, and our request is discarded |

use std::cmp::Ordering;

use super::child_sa::ChildState;
use super::event::Role;
use super::init_result::PeerKind;
use super::key_schedule::Nonces;
use crate::net::Time;

/// An SA as the decision sees it.
#[derive(Clone, Copy, Debug)]
pub struct DuplicateSa<'a> {
    /// The nonces.
    pub nonces: &'a Nonces,
    /// Our role in the handshake.
    pub role: Role,
    /// Start of the handshake.
    pub started: Time,
    /// Time of establishment.
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

/// Which side deletes the other SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closer {
    /// We send the DELETE.
    Us,
    /// The peer sends the DELETE.
    Peer,
}

/// Chooses between two SAs.
pub fn choose_survivor(
    older: DuplicateSa<'_>,
    newer: DuplicateSa<'_>,
    peer: PeerKind,
) -> (Keep, Closer) {
    // A handshake that starts after the other SA was established is no collision: the peer has lost the first SA, or wants to
    // replace it.
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

/// Which of two simultaneous rekeys of the same SA stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survivor {
    /// The exchange that we initiated.
    Ours,
    /// The exchange that the peer initiated.
    Theirs,
}

/// Chooses between two simultaneous rekeys of the same SA: the one with the lowest of the four nonces loses. If both have it,
/// because a random generator is broken, the exchange of the IKE SA's initiator stays; `role` is our role in the IKE SA.
pub fn survivor(ours: &Nonces, theirs: &Nonces, role: Role) -> Survivor {
    match (lowest(ours).cmp(lowest(theirs)), role) {
        (Ordering::Less, _) | (Ordering::Equal, Role::Responder) => Survivor::Theirs,
        (Ordering::Greater, _) | (Ordering::Equal, Role::Initiator) => Survivor::Ours,
    }
}

fn lowest(nonces: &Nonces) -> &[u8] {
    nonces.initiator.as_slice().min(&nonces.responder)
}

/// Our pending operation on an IKE SA when the peer's request arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// None that concerns an SA.
    Idle,
    /// A Child SA is being created, rekeyed or deleted.
    Child,
    /// The IKE SA is being rekeyed.
    Rekeying,
    /// The IKE SA is being closed, or another has replaced it.
    Closing,
}

/// How to answer the peer's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The request is executed.
    Execute,
    /// TEMPORARY_FAILURE: the peer may retry.
    TemporaryFailure,
    /// CHILD_SA_NOT_FOUND.
    ChildNotFound,
}

/// A request to create a Child SA.
pub fn on_create(busy: Busy) -> Reply {
    match busy {
        Busy::Idle | Busy::Child => Reply::Execute,
        Busy::Rekeying | Busy::Closing => Reply::TemporaryFailure,
    }
}

/// A request to rekey a Child SA in this state; `None` if the Child SA does not exist.
pub fn on_rekey_child(busy: Busy, state: Option<ChildState>) -> Reply {
    match (on_create(busy), state) {
        (Reply::TemporaryFailure | Reply::ChildNotFound, _) => Reply::TemporaryFailure,
        (Reply::Execute, None) => Reply::ChildNotFound,
        (Reply::Execute, Some(ChildState::Active | ChildState::AwaitingPeer { .. })) => {
            Reply::Execute
        }
        // The peer already has a successor, or the Child SA is about to be deleted: a second rekey of the same SA is never
        // accepted.
        (
            Reply::Execute,
            Some(
                ChildState::Replaced { .. }
                | ChildState::Redundant { .. }
                | ChildState::Deleting { .. },
            ),
        ) => Reply::TemporaryFailure,
    }
}

/// A request to rekey the IKE SA.
pub fn on_rekey_ike(busy: Busy) -> Reply {
    match busy {
        Busy::Idle | Busy::Rekeying => Reply::Execute,
        Busy::Child | Busy::Closing => Reply::TemporaryFailure,
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

    fn duplicate(nonces: &Nonces, role: Role, started: u64, established: u64) -> DuplicateSa<'_> {
        DuplicateSa {
            nonces,
            role,
            started: Time::ZERO + Duration::from_millis(started),
            established: Time::ZERO + Duration::from_millis(established),
        }
    }

    #[test]
    fn p11_both_sides_choose_the_same_survivor_of_simultaneous_handshakes() {
        for (first, second) in [(nonces(1, 9), nonces(5, 6)), (nonces(7, 9), nonces(5, 6))] {
            // The same two SAs as A sees them, which initiated the first, and as B does, which initiated the second and saw both
            // in the other order.
            let at_a = choose_survivor(
                duplicate(&first, Role::Initiator, 0, 30),
                duplicate(&second, Role::Responder, 10, 40),
                PeerKind::Groundlink,
            );
            let at_b = choose_survivor(
                duplicate(&second, Role::Initiator, 5, 35),
                duplicate(&first, Role::Responder, 15, 45),
                PeerKind::Groundlink,
            );
            let a_keeps_first = at_a.0 == Keep::Older;
            let b_keeps_first = at_b.0 == Keep::Newer;
            assert_eq!(a_keeps_first, b_keeps_first);
            // Exactly one side closes the redundant SA: its initiator.
            assert_ne!(at_a.1, at_b.1);
            assert_eq!(at_a.1 == Closer::Us, !a_keeps_first);
        }
    }

    #[test]
    fn a_peer_that_initiates_again_later_gets_the_new_sa() {
        let (old, new) = (nonces(9, 9), nonces(1, 1));
        let verdict = choose_survivor(
            duplicate(&old, Role::Initiator, 0, 30),
            duplicate(&new, Role::Responder, 5000, 5030),
            PeerKind::Groundlink,
        );
        assert_eq!(verdict, (Keep::Newer, Closer::Us));
    }

    #[test]
    fn with_other_peers_the_newest_stays() {
        let (old, new) = (nonces(9, 9), nonces(1, 1));
        let verdict = choose_survivor(
            duplicate(&old, Role::Initiator, 0, 30),
            duplicate(&new, Role::Responder, 10, 40),
            PeerKind::Other,
        );
        assert_eq!(verdict, (Keep::Newer, Closer::Us));
    }

    #[test]
    fn p11_both_sides_delete_the_rekey_with_the_lowest_nonce() {
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
    fn p11_both_sides_choose_the_same_survivor_with_equal_nonces() {
        let same = nonces(4, 4);
        assert_eq!(survivor(&same, &same, Role::Initiator), Survivor::Ours);
        assert_eq!(survivor(&same, &same, Role::Responder), Survivor::Theirs);
    }

    #[test]
    fn p05_an_sa_being_deleted_is_not_rekeyed_again() {
        let until = Time::ZERO;
        let reply = |state| on_rekey_child(Busy::Idle, state);
        assert_eq!(reply(None), Reply::ChildNotFound);
        assert_eq!(reply(Some(ChildState::Active)), Reply::Execute);
        assert_eq!(
            reply(Some(ChildState::AwaitingPeer {
                until,
                extension: Duration::ZERO,
                latest: until,
            })),
            Reply::Execute
        );
        assert_eq!(
            reply(Some(ChildState::Replaced { until })),
            Reply::TemporaryFailure
        );
        assert_eq!(
            reply(Some(ChildState::Redundant { until })),
            Reply::TemporaryFailure
        );
        let leaving = ChildState::Deleting {
            reason: DownReason::Replaced,
        };
        assert_eq!(reply(Some(leaving)), Reply::TemporaryFailure);
    }

    #[test]
    fn colliding_requests_are_answered_by_section_2_25() {
        for (busy, create, rekey_ike) in [
            (Busy::Idle, Reply::Execute, Reply::Execute),
            (Busy::Child, Reply::Execute, Reply::TemporaryFailure),
            (Busy::Rekeying, Reply::TemporaryFailure, Reply::Execute),
            (
                Busy::Closing,
                Reply::TemporaryFailure,
                Reply::TemporaryFailure,
            ),
        ] {
            assert_eq!(on_create(busy), create, "{busy:?}");
            let working = Some(ChildState::Active);
            assert_eq!(on_rekey_child(busy, working), create, "{busy:?}");
            assert_eq!(on_rekey_ike(busy), rekey_ike, "{busy:?}");
        }
    }
}
