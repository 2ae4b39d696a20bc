//! Two IKE SAs for one tunnel: which one stays, and who closes the other. Pure decisions.
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
//! other peer keeps what it likes: there the newest authenticated SA stays, and we close the older.

use super::event::Role;
use super::handshake::PeerKind;
use super::schedule::Nonces;
use crate::net::Time;

/// What the decision needs to know of an SA.
#[derive(Clone, Copy, Debug)]
pub struct Rival<'a> {
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
pub fn settle(older: Rival<'_>, newer: Rival<'_>, peer: PeerKind) -> (Keep, Closer) {
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

fn lowest(nonces: &Nonces) -> &[u8] {
    nonces.initiator.as_slice().min(&nonces.responder)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn nonces(initiator: u8, responder: u8) -> Nonces {
        Nonces {
            initiator: vec![initiator; 32],
            responder: vec![responder; 32],
        }
    }

    fn rival(nonces: &Nonces, role: Role, started: u64, established: u64) -> Rival<'_> {
        Rival {
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
            let at_a = settle(
                rival(&first, Role::Initiator, 0, 30),
                rival(&second, Role::Responder, 10, 40),
                PeerKind::Groundlink,
            );
            let at_b = settle(
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
        let verdict = settle(
            rival(&old, Role::Initiator, 0, 30),
            rival(&new, Role::Responder, 5000, 5030),
            PeerKind::Groundlink,
        );
        assert_eq!(verdict, (Keep::Newer, Closer::Us));
    }

    #[test]
    fn with_other_peers_the_newest_stays() {
        let (old, new) = (nonces(9, 9), nonces(1, 1));
        let verdict = settle(
            rival(&old, Role::Initiator, 0, 30),
            rival(&new, Role::Responder, 10, 40),
            PeerKind::Other,
        );
        assert_eq!(verdict, (Keep::Newer, Closer::Us));
    }
}
