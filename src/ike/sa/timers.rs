//! Timers of an IKE SA: retransmission, liveness, keepalives, rekeying, expiry.

use super::ike_sa::{IkeSa, Phase, SaOutcome};
use super::request_state::Job;
use crate::ike::child_sa::{ChildSa, ChildState};
use crate::ike::context::Context;
use crate::ike::event::{Content, DownReason, Event, Transmit};
use crate::ike::retransmit::Step;
use crate::net::Time;

/// What is due for a Child SA.
enum ChildTimer {
    None,
    Rekey,
    Prefer,
    Delete(DownReason),
    Expire,
}

impl IkeSa {
    /// Does what is due now.
    pub fn on_timeout(&mut self, cx: &mut Context<'_>) -> SaOutcome {
        if let Some(outcome) = self.retransmit_request(cx) {
            return outcome;
        }
        if let Some((at, reason)) = self.close_at
            && at <= cx.now
        {
            self.close(reason, None, cx);
        }
        match self.phase {
            Phase::Closing(reason) if self.request.is_none() => return SaOutcome::Closed(reason),
            Phase::Closing(_) | Phase::Replaced => return SaOutcome::Open,
            Phase::Open => {}
        }
        if self.lifetime.hard_expiry <= cx.now {
            self.close(DownReason::Expired, None, cx);
            return SaOutcome::Open;
        }
        self.pending_followup
            .take_if(|pending| pending.expires <= cx.now);
        self.run_child_timers(cx);
        if self.is_open() {
            self.run_ike_timers(cx);
        }
        SaOutcome::Open
    }

    /// Repeats the outstanding request. If the peer has not answered in time, the SA is gone.
    fn retransmit_request(&mut self, cx: &mut Context<'_>) -> Option<SaOutcome> {
        let jitter = cx.jitter();
        match self.request.as_mut()?.retransmit.step(cx.now, jitter) {
            Step::Wait => None,
            Step::Again(transmits) => {
                cx.out.transmits.extend(transmits);
                self.idle.on_sent(cx.now);
                None
            }
            Step::GiveUp => Some(SaOutcome::Closed(match self.phase {
                Phase::Open => DownReason::PeerDead,
                Phase::Replaced | Phase::Closing(_) => self.closing_reason(),
            })),
        }
    }

    fn run_ike_timers(&mut self, cx: &mut Context<'_>) {
        if self.create_child_at.is_some_and(|at| at <= cx.now) {
            self.create_child_at = None;
            for policy in self.unserved() {
                self.create_child(policy, cx);
            }
        }
        if self.lifetime.rekey_at.is_some_and(|at| at <= cx.now) {
            self.rekey_ike(cx);
        }
        if self.lifetime.rejections > 0 && self.lifetime.renew_at <= cx.now {
            self.lifetime.renew_at = Time::MAX;
            self.output.renew = true;
        }
        if self.idle.liveness_due() <= cx.now && self.request.is_none() {
            self.queue_request(Job::Liveness, cx);
        }
        if self.idle.keepalive_due() <= cx.now {
            cx.out.transmits.push_back(Transmit {
                local: self.conn.local,
                remote: self.conn.remote,
                content: Content::Keepalive,
            });
            self.idle.on_sent(cx.now);
        }
    }

    fn run_child_timers(&mut self, cx: &mut Context<'_>) {
        let mut timers = Vec::new();
        for child in self.children.iter_mut() {
            if child.rejections > 0 && child.renew_at <= cx.now && child.is_usable() {
                child.renew_at = Time::MAX;
                self.output.renew = true;
            }
            timers.push((child.spi_in, child_timer(child, cx.now)));
        }
        for (spi_in, timer) in timers {
            match timer {
                ChildTimer::None => {}
                ChildTimer::Rekey => match self.newer_duplicate_of(spi_in) {
                    Some(newer) => self.yield_to_duplicate(spi_in, newer, cx),
                    None => self.rekey_child(spi_in, cx),
                },
                ChildTimer::Prefer => self.prefer(spi_in, cx),
                ChildTimer::Delete(reason) => self.delete_child(spi_in, reason, cx),
                ChildTimer::Expire => self.expire_child(spi_in, cx),
            }
        }
    }

    /// A newer active Child SA for the same traffic. Lost responses can leave two where one is enough; if both were rekeyed, they would stay two.
    fn newer_duplicate_of(&self, spi_in: u32) -> Option<u32> {
        let mut children = self.children.iter();
        let older = children.find(|child| child.spi_in == spi_in)?;
        let is_duplicate =
            |child: &ChildSa| child.state == ChildState::Active && child.policy == older.policy;
        let newer = children.rfind(|child| is_duplicate(child))?;
        Some(newer.spi_in)
    }

    /// Deletes a Child SA instead of rekeying it: a newer one carries its traffic.
    fn yield_to_duplicate(&mut self, spi_in: u32, newer: u32, cx: &mut Context<'_>) {
        cx.out.events.push_back(Event::ChildPreferred {
            tunnel: self.conn.tunnel,
            spi_in: newer,
        });
        self.output.reassert_winner = self.is_redundant();
        self.delete_child(spi_in, DownReason::Redundant, cx);
    }

    /// Removes a Child SA whose hard lifetime is over, and closes the IKE SA if it was the last.
    fn expire_child(&mut self, spi_in: u32, cx: &mut Context<'_>) {
        let is_deleting = self.is_deleting_child(spi_in);
        let policy = (self.children.by_spi_in(spi_in)).map(|child| child.policy.clone());
        self.drop_child(spi_in, DownReason::Expired, cx);
        if !self.children.any_usable() {
            return self.close(DownReason::Expired, None, cx);
        }
        if !is_deleting {
            self.queue_request(Job::DeleteChild { spi_in }, cx);
        }
        if let Some(policy) = policy.filter(|policy| !self.children.serves(policy)) {
            self.create_child(policy, cx);
        }
    }

    /// When [`on_timeout`](Self::on_timeout) is next due.
    pub fn next_timer(&self) -> Time {
        let request = self
            .request
            .as_ref()
            .map(|request| request.retransmit.due());
        let retransmit = request.unwrap_or(Time::MAX);
        let close = self.close_at.map_or(Time::MAX, |(at, _)| at);
        let pending = self.pending_followup.as_ref();
        match self.phase {
            Phase::Closing(_) => request.unwrap_or(Time::ZERO),
            Phase::Replaced => retransmit.min(close),
            Phase::Open => [
                retransmit,
                close,
                self.lifetime.hard_expiry,
                self.lifetime.rekey_at.unwrap_or(Time::MAX),
                match self.lifetime.rejections {
                    0 => Time::MAX,
                    _ => self.lifetime.renew_at,
                },
                self.create_child_at.unwrap_or(Time::MAX),
                pending.map_or(Time::MAX, |pending| pending.expires),
                self.children.next_timer(),
                // The retransmission of an outstanding request is a liveness check already.
                request.map_or(self.idle.liveness_due(), |_| Time::MAX),
                self.idle.keepalive_due(),
            ]
            .into_iter()
            .min()
            .unwrap_or(Time::MAX),
        }
    }
}

fn child_timer(child: &ChildSa, now: Time) -> ChildTimer {
    match child.state {
        _ if child.hard_expiry <= now => ChildTimer::Expire,
        ChildState::Active if child.rekey_at.is_some_and(|at| at <= now) => ChildTimer::Rekey,
        ChildState::AwaitingPeer { until, .. } if until <= now => ChildTimer::Prefer,
        ChildState::Replaced { until } if until <= now => ChildTimer::Delete(DownReason::Replaced),
        ChildState::Redundant { until } if until <= now => {
            ChildTimer::Delete(DownReason::Redundant)
        }
        ChildState::Active
        | ChildState::AwaitingPeer { .. }
        | ChildState::Replaced { .. }
        | ChildState::Redundant { .. }
        | ChildState::Deleting { .. } => ChildTimer::None,
    }
}
