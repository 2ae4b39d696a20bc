//! Selection of the Child SA that sends, and what follows when none is left.
//!
//! ```text
//! the sending one goes ──▶ one that awaits the peer sends ──▶ else a replaced one is reactivated ──▶ else another is created ──▶ else the IKE SA goes too
//! ```
//!
//! An IKE SA without a Child SA carries no traffic, and appears healthy to a check of the IKE SA alone.

use std::time::Duration;

use super::ike_sa::{CHILDLESS_GRACE, IkeSa};
use super::request_state::Job;
use crate::ike::child_sa::{CONFIRM_TIMEOUT, ChildSa, ChildState};
use crate::ike::context::Context;
use crate::ike::event::{DownReason, Event, Role};
use crate::ike::settings::Start;
use crate::net::Time;

impl IkeSa {
    /// Removes all Child SAs.
    pub fn drop_children(&mut self, reason: DownReason, cx: &mut Context<'_>) {
        while let Some(child) = self.children.pop() {
            self.emit_child_down(child.spi_in, reason, cx);
        }
    }

    /// Removes a Child SA. If it was the last that sends, another one starts to send first, so that traffic is never without one.
    pub fn drop_child(&mut self, spi_in: u32, reason: DownReason, cx: &mut Context<'_>) {
        let Some(gone) = self.children.remove(spi_in) else {
            return;
        };
        let can_send = |child: &ChildSa| match child.state {
            ChildState::Active | ChildState::Replaced { .. } | ChildState::Deleting { .. } => true,
            ChildState::AwaitingPeer { .. } | ChildState::Redundant { .. } => false,
        };
        let was_sending = match gone.state {
            ChildState::Active | ChildState::Replaced { .. } => true,
            ChildState::AwaitingPeer { .. } | ChildState::Redundant { .. } => false,
            // It sends only where there is no better one.
            ChildState::Deleting { .. } => !self.children.iter().any(can_send),
        };
        if was_sending {
            self.prefer_newest_unless_active(cx);
        }
        self.emit_child_down(spi_in, reason, cx);
    }

    /// If no Child SA is active, the newest usable one starts to send.
    pub fn prefer_newest_unless_active(&mut self, cx: &mut Context<'_>) {
        let is_active = |child: &ChildSa| child.state == ChildState::Active;
        if self.children.iter().any(is_active) {
            return;
        }
        let newest = self.children.iter().rev().find(|child| child.is_usable());
        if let Some(spi_in) = newest.map(|child| child.spi_in) {
            self.prefer(spi_in, cx);
        }
    }

    /// Makes a Child SA in state `AwaitingPeer` the one that sends.
    pub fn prefer(&mut self, spi_in: u32, cx: &mut Context<'_>) {
        let Some(child) = self.children.by_spi_in_mut(spi_in) else {
            return;
        };
        match child.state {
            ChildState::AwaitingPeer { .. } => {
                child.state = ChildState::Active;
                cx.out.events.push_back(Event::ChildPreferred {
                    tunnel: self.conn.tunnel,
                    spi_in,
                });
                self.output.reassert_winner = self.is_redundant();
            }
            ChildState::Active
            | ChildState::Replaced { .. }
            | ChildState::Redundant { .. }
            | ChildState::Deleting { .. } => {}
        }
    }

    /// Whether the peer certainly has the Child SA that sends.
    pub fn is_confirmed(&self) -> bool {
        self.children.current().is_some_and(|child| child.confirmed)
    }

    /// The peer has sent ESP over this Child SA.
    pub fn on_child_confirmed(&mut self, spi_in: u32, cx: &mut Context<'_>) {
        if let Some(child) = self.children.by_spi_in_mut(spi_in) {
            self.output.confirmed |= !child.confirmed;
            child.confirmed = true;
        }
        self.prefer(spi_in, cx);
    }

    /// Confirms the Child SA of IKE_AUTH: the peer has answered a request, which it can only over an IKE SA that it has established, with that Child SA.
    pub fn confirm_first_child(&mut self, cx: &mut Context<'_>) {
        if let Some(spi_in) = self.unconfirmed.take() {
            self.on_child_confirmed(spi_in, cx);
        }
    }

    /// Sends a liveness check, unless the peer has confirmed the Child SA of IKE_AUTH: its response confirms that.
    pub fn request_confirmation(&mut self, cx: &mut Context<'_>) {
        if self.unconfirmed.is_some() {
            self.queue_request(Job::Liveness, cx);
        }
    }

    /// Confirms all Child SAs: with its window of one, the peer sends a new request only after it has processed our last response (RFC 7296 §2.3).
    pub fn confirm_children(&mut self, cx: &mut Context<'_>) {
        let mut newest = None;
        for child in self.children.iter_mut() {
            self.output.confirmed |= !child.confirmed;
            child.confirmed = true;
            if child.is_usable() {
                newest = Some(child.spi_in);
            }
        }
        if let Some(spi_in) = newest {
            self.prefer(spi_in, cx);
        }
    }

    fn emit_child_down(&self, spi_in: u32, reason: DownReason, cx: &mut Context<'_>) {
        cx.out.events.push_back(Event::ChildDown {
            tunnel: self.conn.tunnel,
            spi_in,
            reason,
        });
    }

    /// Keeps an IKE SA that was to be closed for lack of a Child SA: it has one again. An SA that has lost against another is closed nevertheless.
    pub fn keep_open(&mut self) {
        (self.create_child_at, self.create_child_retries) = (None, 0);
        if !self.is_redundant() {
            self.close_at = None;
        }
    }

    /// Deletes a Child SA that cannot be used, and the IKE SA if it was the last.
    pub fn give_up_child(&mut self, spi_in: u32, reason: DownReason, cx: &mut Context<'_>) {
        if self.children.by_spi_in(spi_in).is_none() {
            return;
        }
        self.drop_child(spi_in, reason, cx);
        self.queue_request(Job::DeleteChild { spi_in }, cx);
        self.reactivate_child(cx);
        if !self.children.any_usable() {
            self.close_later(cx.now, reason);
        }
    }

    /// If no Child SA is usable, reactivates one that both sides still have: the newest replaced one, else one that lost a collision. Neither need ever have sent:
    /// a peer may rekey a Child SA that still awaits it, or delete the winner of a collision.
    pub fn reactivate_child(&mut self, cx: &mut Context<'_>) {
        if self.children.any_usable() {
            return;
        }
        let rank = |child: &ChildSa| match child.state {
            ChildState::Replaced { .. } => 2,
            ChildState::Redundant { .. } => 1,
            ChildState::Active | ChildState::AwaitingPeer { .. } | ChildState::Deleting { .. } => 0,
        };
        let best = self.children.iter().max_by_key(|child| rank(child));
        let Some((spi_in, rank, confirmed)) =
            best.map(|child| (child.spi_in, rank(child), child.confirmed))
        else {
            return;
        };
        if rank == 0 {
            return;
        }
        // The peer may not know one that lost yet, but it still has the one that it has not agreed to delete.
        let waits = !confirmed && self.children.iter().any(is_being_replaced);
        let wait = if waits {
            CONFIRM_TIMEOUT
        } else {
            Duration::ZERO
        };
        if let Some(child) = self.children.by_spi_in_mut(spi_in) {
            child.state = ChildState::AwaitingPeer {
                until: cx.now + wait,
                extension: CONFIRM_TIMEOUT,
                latest: Time::MAX,
            };
            child.rekey_at = Some(child.soft_expiry.max(child.renew_at));
        }
        if !waits {
            self.prefer(spi_in, cx);
        }
    }

    /// Handles the loss of a Child SA. If none is usable, the peer may be about to create one or to delete the IKE SA; if it does neither, we do.
    pub fn on_no_child_left(&mut self, cx: &mut Context<'_>) {
        self.reactivate_child(cx);
        if self.children.any_usable() || !self.is_open() {
            return;
        }
        match self.conn.settings.start {
            Start::Auto => {
                // The initiator of the IKE SA tries first, so that the requests of both sides are unlikely to cross.
                let grace = match self.role {
                    Role::Initiator => CHILDLESS_GRACE,
                    Role::Responder => CHILDLESS_GRACE.saturating_mul(3),
                };
                self.create_child_at.get_or_insert(cx.now + grace);
            }
            Start::Trap | Start::Add => {
                self.close_later(cx.now + CHILDLESS_GRACE, DownReason::PeerDeleted);
            }
        }
    }

    /// Replaces a Child SA that the peer does not have.
    pub fn replace_lost(&mut self, spi_in: u32, cx: &mut Context<'_>) {
        self.drop_child(spi_in, DownReason::PeerDeleted, cx);
        self.reactivate_child(cx);
        if !self.children.any_usable() {
            self.queue_request(Job::CreateChild { group: None }, cx);
        }
    }
}

fn is_being_replaced(child: &ChildSa) -> bool {
    let reason = DownReason::Replaced;
    child.state == ChildState::Deleting { reason }
}
