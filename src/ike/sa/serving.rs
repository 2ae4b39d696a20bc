//! Which of its Child SAs serves, and what becomes of an IKE SA when none does.
//!
//! ```text
//! one goes ──▶ a waiting one sends ──▶ else one that was replaced serves again ──▶ else another is made ──▶ else the IKE SA goes too
//! ```
//!
//! An IKE SA without a Child SA serves nobody, and misleads whoever judges by it.

use std::time::Duration;

use super::{CHILDLESS_GRACE, IkeSa, Job};
use crate::ike::children::{ChildSa, Standing, WAIT_FOR_PEER};
use crate::ike::event::{DownReason, Event, Role};
use crate::ike::handshake::Context;
use crate::ike::settings::Start;
use crate::net::Time;

impl IkeSa {
    /// Takes all Child SAs out.
    pub(super) fn drop_children(&mut self, reason: DownReason, cx: &mut Context<'_>) {
        while let Some(child) = self.children.pop() {
            self.tell_down(child.spi_in, reason, cx);
        }
    }

    /// Takes a Child SA out. What waits takes its place first, so that there is never a moment without one that sends.
    pub(super) fn drop_child(&mut self, spi_in: u32, reason: DownReason, cx: &mut Context<'_>) {
        let Some(gone) = self.children.remove(spi_in) else {
            return;
        };
        let carries = |child: &ChildSa| match child.standing {
            Standing::Working => true,
            Standing::Replaced { .. }
            | Standing::Waiting { .. }
            | Standing::Redundant { .. }
            | Standing::Leaving { .. } => false,
        };
        let could_send = |child: &ChildSa| match child.standing {
            Standing::Working | Standing::Replaced { .. } | Standing::Leaving { .. } => true,
            Standing::Waiting { .. } | Standing::Redundant { .. } => false,
        };
        let was_sending = match gone.standing {
            Standing::Working | Standing::Replaced { .. } => true,
            Standing::Waiting { .. } | Standing::Redundant { .. } => false,
            // Only for want of a better one.
            Standing::Leaving { .. } => !self.children.iter().any(could_send),
        };
        if was_sending && !self.children.iter().any(carries) {
            let waiting = self.children.iter().rev().find(|child| child.is_of_use());
            if let Some(next) = waiting.map(|child| child.spi_in) {
                self.prefer(next, cx);
            }
        }
        self.tell_down(spi_in, reason, cx);
    }

    /// From now on we send over this Child SA.
    pub fn prefer(&mut self, spi_in: u32, cx: &mut Context<'_>) {
        let Some(child) = self.children.of_ours_mut(spi_in) else {
            return;
        };
        match child.standing {
            Standing::Waiting { .. } => {
                child.standing = Standing::Working;
                cx.out.events.push_back(Event::ChildPreferred {
                    tunnel: self.conn.tunnel,
                    spi_in,
                });
                self.output.reassert_winner = self.has_lost();
            }
            Standing::Working
            | Standing::Replaced { .. }
            | Standing::Redundant { .. }
            | Standing::Leaving { .. } => {}
        }
    }

    /// Whether the peer has the Child SA that serves for certain.
    pub fn is_known(&self) -> bool {
        self.children.current().is_some_and(|child| child.known)
    }

    /// The peer has sent over this Child SA.
    pub fn on_child_heard(&mut self, spi_in: u32, cx: &mut Context<'_>) {
        if let Some(child) = self.children.of_ours_mut(spi_in) {
            self.output.known |= !child.known;
            child.known = true;
        }
        self.prefer(spi_in, cx);
    }

    /// The peer has answered us. It can do so only over an IKE SA that stands at its end as well, and the Child SA of IKE_AUTH with it.
    pub(super) fn on_answered(&mut self, cx: &mut Context<'_>) {
        if let Some(spi_in) = self.unproved.take() {
            self.on_child_heard(spi_in, cx);
        }
    }

    /// Asks the peer something that it can answer only when it has heard our IKE_AUTH, unless it is known to.
    pub fn prove(&mut self, cx: &mut Context<'_>) {
        if self.unproved.is_some() {
            self.ask(Job::Liveness, cx);
        }
    }

    /// The peer asks something new, so with its window of one it has heard our answer to what it asked before, and acted on it (RFC 7296 §2.3).
    pub(super) fn on_next_request(&mut self, cx: &mut Context<'_>) {
        let mut newest = None;
        for child in self.children.iter_mut() {
            self.output.known |= !child.known;
            child.known = true;
            if child.is_of_use() {
                newest = Some(child.spi_in);
            }
        }
        if let Some(spi_in) = newest {
            self.prefer(spi_in, cx);
        }
    }

    fn tell_down(&self, spi_in: u32, reason: DownReason, cx: &mut Context<'_>) {
        cx.out.events.push_back(Event::ChildDown {
            tunnel: self.conn.tunnel,
            spi_in,
            reason,
        });
    }

    /// Whether another IKE SA of the tunnel has won against this one: it goes, whatever happens in it meanwhile.
    pub fn has_lost(&self) -> bool {
        matches!(self.close_at, Some((_, DownReason::Redundant)))
    }

    /// The one that has won is gone, so this one stays.
    pub fn cancel_close(&mut self) {
        if self.has_lost() {
            self.close_at = None;
        }
    }

    /// A Child SA serves again, so the IKE SA stays that was to be closed for want of one. One that lost against another goes all the same.
    pub(super) fn stay(&mut self) {
        (self.restore_at, self.put_off) = (None, 0);
        if !self.has_lost() {
            self.close_at = None;
        }
    }

    /// Deletes a Child SA that cannot work, and with the last one the IKE SA, which serves no other purpose.
    pub fn give_up_child(&mut self, spi_in: u32, reason: DownReason, cx: &mut Context<'_>) {
        if self.children.of_ours(spi_in).is_none() {
            return;
        }
        self.drop_child(spi_in, reason, cx);
        self.ask(Job::DeleteChild { spi_in }, cx);
        self.revive(cx);
        if !self.children.any_of_use() {
            self.close_later(cx.now, reason);
        }
    }

    /// Where nothing of use is left, a Child SA that still stands at both ends has to serve: the newest that was replaced, or else one that lost a collision. It
    /// may never have sent before: a peer may rekey what we still waited to use, or delete the winner.
    pub(super) fn revive(&mut self, cx: &mut Context<'_>) {
        if self.children.any_of_use() {
            return;
        }
        let rank = |child: &ChildSa| match child.standing {
            Standing::Replaced { .. } => 2,
            Standing::Redundant { .. } => 1,
            Standing::Working | Standing::Waiting { .. } | Standing::Leaving { .. } => 0,
        };
        let best = self.children.iter().max_by_key(|child| rank(child));
        let Some((spi_in, rank)) = best.map(|child| (child.spi_in, rank(child))) else {
            return;
        };
        // The peer may not have heard of one that lost, but it still has what it has not agreed to delete.
        let is_known = self.children.of_ours(spi_in).is_some_and(|best| best.known);
        let not_yet = !is_known && self.children.iter().any(is_being_replaced);
        let wait = if not_yet {
            WAIT_FOR_PEER
        } else {
            Duration::ZERO
        };
        if rank > 0
            && let Some(child) = self.children.of_ours_mut(spi_in)
        {
            child.standing = Standing::Waiting {
                until: cx.now + wait,
                patience: WAIT_FOR_PEER,
                end: Time::MAX,
            };
            child.rekey_at = Some(child.soft_expiry.max(child.renew_at));
            if !not_yet {
                self.prefer(spi_in, cx);
            }
        }
    }

    /// No Child SA is left that serves. The peer may be about to make another, or to close the IKE SA too; if it does neither, we do.
    pub(super) fn on_no_child_left(&mut self, cx: &mut Context<'_>) {
        self.revive(cx);
        if self.children.any_of_use() || !self.is_open() {
            return;
        }
        match self.conn.settings.start {
            Start::Auto => {
                // Whoever initiated the IKE SA is the first to try, so that the two sides rather do not cross.
                let grace = match self.role {
                    Role::Initiator => CHILDLESS_GRACE,
                    Role::Responder => CHILDLESS_GRACE.saturating_mul(3),
                };
                self.restore_at.get_or_insert(cx.now + grace);
            }
            Start::Trap | Start::Add => {
                self.close_later(cx.now + CHILDLESS_GRACE, DownReason::PeerDeleted);
            }
        }
    }

    /// The peer has lost a Child SA, or never had it: another is made at once.
    pub(super) fn replace_lost(&mut self, spi_in: u32, cx: &mut Context<'_>) {
        self.drop_child(spi_in, DownReason::PeerDeleted, cx);
        self.revive(cx);
        if !self.children.any_of_use() {
            self.ask(Job::CreateChild { group: None }, cx);
        }
    }
}

fn is_being_replaced(child: &ChildSa) -> bool {
    let reason = DownReason::Replaced;
    child.standing == Standing::Leaving { reason }
}
