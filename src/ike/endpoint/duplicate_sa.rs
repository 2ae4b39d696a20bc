//! Duplicate IKE SAs of one tunnel: which one stays, and when the other is closed. Both sides may initiate at once, and an
//! expiring SA is replaced by a new one established beside it, so two SAs for a moment are normal.
//!
//! ```text
//!  another SA carries traffic ──▶ resolve_duplicates ─┬─▶ the loser is closed once the peer certainly has the winner
//!                                                    │   (`close_losers`), or after 30 s
//!                                                    └─ the winner is removed first ──▶ the loser stays (`cancel_close`)
//! ```

use super::{Endpoint, cx};
use crate::ike::child_sa::{ChildSa, ChildState};
use crate::ike::collision::{self, Closer, Keep};
use crate::ike::event::{DownReason, Event, Role};
use crate::ike::sa::IkeSa;
use crate::ike::settings::TunnelId;
use crate::ike::{CLOSE_AFTER, CLOSE_FOR_PEER_AFTER};
use crate::net::Time;

impl Endpoint {
    /// Chooses between an SA that now carries traffic and those of the tunnel that already do.
    pub(super) fn resolve_duplicates(&mut self, now: Time, sa: &mut IkeSa) {
        let tunnel = sa.tunnel();
        let (mut lost_to, mut won, mut missing) = (None, false, Vec::new());
        self.for_each_established(tunnel, |other| {
            // An SA that is closing has already lost to another one.
            if other.will_close() {
                return;
            }
            if other.child().is_none() {
                // The other SA was about to create a Child SA because it had none; now the tunnel has one.
                other.close_later(now + CLOSE_AFTER, DownReason::Redundant);
                return;
            }
            let (is_newer, keep, closer) = compare(other, sa);
            let loses = match keep {
                Keep::Older => is_newer,
                Keep::Newer => !is_newer,
            };
            // Until the peer has certainly established the winner, the peer may have no SA but the loser. Nor may the winner have a Child SA for all traffic yet.
            let (winner, loser) = if loses {
                (&*other, &*sa)
            } else {
                (&*sa, &*other)
            };
            let lacks = winner.lacks(loser);
            let at = match closer {
                Closer::Us if winner.is_confirmed() && lacks.is_empty() => now + CLOSE_AFTER,
                Closer::Us | Closer::Peer => now + CLOSE_FOR_PEER_AFTER,
            };
            if loses {
                lost_to = Some((other.own_spi(), other.sending(), at));
            } else {
                missing.extend(lacks);
                other.close_later(at, DownReason::Redundant);
                won = true;
            }
        });
        let mut cx = cx(now, &mut self.rng, &mut self.out);
        if let Some((winner, sending, at)) = lost_to {
            sa.close_later(at, DownReason::Redundant);
            for spi_in in sending {
                let preferred = Event::ChildPreferred { tunnel, spi_in };
                cx.out.events.push_back(preferred);
            }
            if let Some(winner) = self.sas.established_mut(winner) {
                winner.request_confirmation(&mut cx);
            }
        } else if won {
            sa.request_confirmation(&mut cx);
            // A peer that narrows to one network in IKE_AUTH gets requests for the others from the initiator.
            if sa.role() == Role::Initiator {
                for policy in missing {
                    sa.create_child(policy, &mut cx);
                }
            }
        }
    }

    /// Closes the SAs that lost to this one: the peer certainly has the Child SA of this one.
    pub(super) fn close_losers(&mut self, now: Time, sa: &IkeSa) {
        self.for_each_established(sa.tunnel(), |other| {
            let is_ours = || compare(other, sa).2 == Closer::Us;
            if other.is_redundant() && is_ours() && sa.lacks(other).is_empty() {
                other.close_later(now + CLOSE_AFTER, DownReason::Redundant);
            }
        });
    }

    /// Selects the Child SA of the winner for sending again, after a step of a loser.
    pub(super) fn prefer_winner(&mut self, tunnel: TunnelId) {
        let sending = self
            .established(tunnel)
            .find(|sa| !sa.will_close() && sends(sa))
            .map(IkeSa::sending);
        for spi_in in sending.unwrap_or_default() {
            let preferred = Event::ChildPreferred { tunnel, spi_in };
            self.out.events.push_back(preferred);
        }
    }

    /// Promotes a Child SA that waits for the peer, if the sending one was removed since event number `before`, or is being deleted with its IKE SA. Its event
    /// comes before that of the removal, so that the tunnel always has a sending Child SA.
    pub(super) fn promote_waiting_child(
        &mut self,
        now: Time,
        tunnel: TunnelId,
        before: usize,
        is_closing: bool,
    ) {
        let is_down = |event: &Event| matches!(event, Event::ChildDown { .. });
        let first_down = self.out.events.range(before..).position(is_down);
        let end = is_closing.then(|| self.out.events.len().saturating_sub(before));
        let Some(at) = first_down.or(end) else {
            return;
        };
        if self.established(tunnel).any(sends) {
            return;
        }
        let waiting = self.established(tunnel).filter_map(|sa| {
            let child = sa.child().filter(|child| child.is_usable())?;
            Some((
                (!sa.is_redundant(), sa.established()),
                sa.own_spi(),
                child.spi_in,
            ))
        });
        let Some((_, own, spi_in)) = waiting.max_by_key(|(rank, ..)| *rank) else {
            return;
        };
        let mut cx = cx(now, &mut self.rng, &mut self.out);
        if let Some(sa) = self.sas.established_mut(own) {
            sa.prefer(spi_in, &mut cx);
            // The sending Child SA is already the preferred one.
            sa.take_output();
        }
        if let Some(preferred) = self.out.events.pop_back() {
            self.out.events.insert(before.saturating_add(at), preferred);
        }
    }

    /// Cancels the closing of a loser: the IKE SA that won was removed.
    pub(super) fn cancel_close(&mut self, id: TunnelId) {
        let serves = |sa: &IkeSa| sa.child().is_some();
        if self
            .established(id)
            .any(|sa| serves(sa) && !sa.is_redundant())
        {
            return;
        }
        let serving = self.established(id).filter(|sa| serves(sa));
        let newest = serving.max_by_key(|sa| sa.established());
        let newest = newest.map(IkeSa::own_spi);
        if let Some(sa) = newest.and_then(|own| self.sas.established_mut(own)) {
            sa.cancel_close();
        }
    }
}

/// Whether the SA has a Child SA that sends, rather than one that waits for the peer.
fn sends(sa: &IkeSa) -> bool {
    let works = |child: &ChildSa| child.state == ChildState::Active;
    sa.child().is_some_and(works)
}

/// Chooses between two SAs of a tunnel; the first value is whether `sa` is the newer one. Usually it is, but an old SA that had
/// lost its Child SA may have created another.
fn compare(other: &IkeSa, sa: &IkeSa) -> (bool, Keep, Closer) {
    let (one, another) = (other.as_duplicate(), sa.as_duplicate());
    let is_newer = one.established <= another.established;
    let (older, newer) = match is_newer {
        true => (one, another),
        false => (another, one),
    };
    let (keep, closer) = collision::choose_survivor(older, newer, sa.peer());
    (is_newer, keep, closer)
}
