//! Selection of the Child SA that sends, and what follows when none is left: for each traffic by itself, since a peer may have a Child SA for
//! each of its networks.
//!
//! ```text
//! the sending one goes ──▶ one that awaits the peer sends ──▶ else a replaced one is reactivated ──▶ else another is created ──▶ else the IKE SA goes too
//! ```
//!
//! An IKE SA without a Child SA carries no traffic, and appears healthy to a check of the IKE SA alone.

use std::collections::BTreeMap;
use std::time::Duration;

use super::ike_sa::{CHILDLESS_GRACE, IkeSa};
use super::request_state::Job;
use crate::ike::child_sa::{CONFIRM_TIMEOUT, ChildSa, ChildState};
use crate::ike::context::Context;
use crate::ike::event::{DownReason, Event, Role};
use crate::ike::settings::Start;
use crate::net::{Policy, Time};

impl IkeSa {
    /// Removes all Child SAs.
    pub fn drop_children(&mut self, reason: DownReason, cx: &mut Context<'_>) {
        while let Some(child) = self.children.pop() {
            self.emit_child_down(child.spi_in, reason, cx);
        }
    }

    /// Removes a Child SA. If it was the last of its traffic that sends, another one starts to send first, so that traffic is never without one.
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
            ChildState::Deleting { .. } => !self.children.of_traffic(gone.traffic).any(can_send),
        };
        if was_sending {
            self.prefer_newest_unless_active(gone.traffic, cx);
        }
        self.emit_child_down(spi_in, reason, cx);
    }

    /// If no Child SA of this traffic is active, the newest usable one starts to send.
    pub fn prefer_newest_unless_active(&mut self, traffic: u32, cx: &mut Context<'_>) {
        let is_active = |child: &ChildSa| child.state == ChildState::Active;
        if self.children.of_traffic(traffic).any(is_active) {
            return;
        }
        let usable = |child: &&ChildSa| child.is_usable();
        let newest = self.children.of_traffic(traffic).rfind(usable);
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
        let mut newest = BTreeMap::new();
        for child in self.children.iter_mut() {
            self.output.confirmed |= !child.confirmed;
            child.confirmed = true;
            if child.is_usable() {
                newest.insert(child.traffic, child.spi_in);
            }
        }
        for spi_in in newest.into_values() {
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
        if self.unserved().is_empty() {
            (self.create_child_at, self.create_child_retries) = (None, 0);
        }
        if !self.is_redundant() {
            self.close_at = None;
        }
    }

    /// Deletes a Child SA that cannot be used, and the IKE SA if it was the last.
    pub fn give_up_child(&mut self, spi_in: u32, reason: DownReason, cx: &mut Context<'_>) {
        let Some(child) = self.children.by_spi_in(spi_in) else {
            return;
        };
        let (traffic, policy) = (child.traffic, child.policy.clone());
        self.drop_child(spi_in, reason, cx);
        self.queue_request(Job::DeleteChild { spi_in }, cx);
        self.reactivate_child(traffic, cx);
        if !self.children.any_usable() {
            self.close_later(cx.now, reason);
        } else if reason == DownReason::Expired && !self.children.serves(&policy) {
            self.create_child(policy, cx);
        }
    }

    /// If no Child SA of this traffic is usable, reactivates one that both sides still have: the newest replaced one, else one that lost a collision. Neither need
    /// ever have sent: a peer may rekey a Child SA that still awaits it, or delete the winner of a collision.
    pub fn reactivate_child(&mut self, traffic: u32, cx: &mut Context<'_>) {
        if self.children.any_usable_of(traffic) {
            return;
        }
        let rank = |child: &ChildSa| match child.state {
            ChildState::Replaced { .. } => 2,
            ChildState::Redundant { .. } => 1,
            ChildState::Active | ChildState::AwaitingPeer { .. } | ChildState::Deleting { .. } => 0,
        };
        let of_traffic = self.children.of_traffic(traffic);
        let best = of_traffic.max_by_key(|child| rank(child));
        let Some((spi_in, rank, confirmed)) =
            best.map(|child| (child.spi_in, rank(child), child.confirmed))
        else {
            return;
        };
        if rank == 0 {
            return;
        }
        // The peer may not know one that lost yet, but it still has the one that it has not agreed to delete.
        let waits = !confirmed && self.children.of_traffic(traffic).any(is_being_replaced);
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

    /// Handles the loss of a Child SA of this traffic. If none is usable, the peer may be about to create one or to delete the IKE SA; if it does neither, we do.
    pub fn on_child_lost(&mut self, traffic: u32, cx: &mut Context<'_>) {
        self.reactivate_child(traffic, cx);
        if !self.is_open() || self.unserved().is_empty() {
            return;
        }
        match self.conn.settings.start {
            Start::Auto => self.create_missing_later(CHILDLESS_GRACE, cx.now),
            Start::Trap | Start::Add if self.children.any_usable() => {}
            Start::Trap | Start::Add => {
                self.close_later(cx.now + CHILDLESS_GRACE, DownReason::NoChildLeft);
            }
        }
    }

    /// Creates what is missing after `grace`. The initiator of the IKE SA tries first, so that the requests of both sides are unlikely to cross.
    pub fn create_missing_later(&mut self, grace: Duration, now: Time) {
        let grace = match self.role {
            Role::Initiator => grace,
            Role::Responder => CHILDLESS_GRACE.saturating_mul(3),
        };
        self.create_child_at.get_or_insert(now + grace);
    }

    /// Selectors that the tunnel is to have Child SAs for, and has none.
    pub fn unserved(&self) -> Vec<Policy> {
        let mut wanted = self.conn.settings.child_policies();
        wanted.retain(|policy| !self.children.serves(policy));
        wanted
    }

    /// Starts to create a Child SA with these selectors.
    pub fn create_child(&mut self, policy: Policy, cx: &mut Context<'_>) {
        let group = None;
        self.queue_request(Job::CreateChild { policy, group }, cx);
    }

    /// Replaces a Child SA that the peer does not have.
    pub fn replace_lost(&mut self, spi_in: u32, cx: &mut Context<'_>) {
        let Some(child) = self.children.by_spi_in(spi_in) else {
            return;
        };
        let (traffic, policy) = (child.traffic, child.policy.clone());
        self.drop_child(spi_in, DownReason::UnknownToPeer, cx);
        self.reactivate_child(traffic, cx);
        if !self.children.any_usable() {
            for policy in self.unserved() {
                self.create_child(policy, cx);
            }
        } else if !self.children.serves(&policy) {
            self.create_child(policy, cx);
        }
    }
}

fn is_being_replaced(child: &ChildSa) -> bool {
    let reason = DownReason::Replaced;
    child.state == ChildState::Deleting { reason }
}
