//! What time brings: repeating, liveness, keepalives, rekeying, and the end.

use std::time::Duration;

use super::{IkeSa, Job, Phase, SaOutcome};
use crate::ike::children::{ChildSa, DELETE_FOR_PEER, Standing};
use crate::ike::event::{Content, DownReason, Event, Transmit};
use crate::ike::handshake::Context;
use crate::ike::retransmit::Step;
use crate::ike::timers;
use crate::net::Time;

/// What is to be done about a Child SA.
enum Due {
    Nothing,
    Rekey,
    Prefer,
    Delete(DownReason),
    End,
}

/// How long a peer may refuse to rekey a Child SA that is used up before another IKE SA is made instead.
const WORN_PATIENCE: Duration = Duration::from_secs(10);

impl IkeSa {
    /// Does what is due.
    pub fn on_timeout(&mut self, cx: &mut Context<'_>) -> SaOutcome {
        let jitter = cx.jitter();
        if let Some(request) = &mut self.request {
            match request.retransmit.step(cx.now, jitter) {
                Step::Wait => {}
                Step::Again(transmits) => {
                    cx.out.transmits.extend(transmits);
                    self.idle.sent(cx.now);
                }
                Step::GiveUp => {
                    let reason = match self.phase {
                        Phase::Open => DownReason::PeerDead,
                        Phase::Replaced => DownReason::Replaced,
                        Phase::Closing(reason) => reason,
                    };
                    return SaOutcome::Closed(reason);
                }
            }
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
        if self.life.hard_expiry <= cx.now {
            self.close(DownReason::Expired, None, cx);
            return SaOutcome::Open;
        }
        self.tend_pending(cx);
        self.tend_children(cx);
        if self.is_open() {
            self.tend_self(cx);
        }
        SaOutcome::Open
    }

    fn tend_self(&mut self, cx: &mut Context<'_>) {
        if self.restore_at.is_some_and(|at| at <= cx.now) {
            self.restore_at = None;
            if !self.children.any_of_use() {
                self.ask(Job::CreateChild { group: None }, cx);
            }
        }
        if self.life.rekey_at.is_some_and(|at| at <= cx.now) {
            self.life.rekey_at = None;
            self.ask(Job::RekeyIke { group: None }, cx);
        }
        if self.life.refusals > 0 && self.life.renew_at <= cx.now {
            self.life.renew_at = Time::MAX;
            self.output.renew = true;
        }
        if self.idle.liveness_due() <= cx.now && self.request.is_none() {
            self.ask(Job::Liveness, cx);
        }
        if self.idle.keepalive_due() <= cx.now {
            cx.out.transmits.push_back(Transmit {
                local: self.conn.local,
                remote: self.conn.remote,
                content: Content::Keepalive,
            });
            self.idle.sent(cx.now);
        }
    }

    fn tend_children(&mut self, cx: &mut Context<'_>) {
        let mut dues = Vec::new();
        for child in self.children.iter_mut() {
            if child.refusals > 0 && child.renew_at <= cx.now && child.is_of_use() {
                child.renew_at = Time::MAX;
                self.output.renew = true;
            }
            let due = match child.standing {
                _ if child.hard_expiry <= cx.now => Due::End,
                Standing::Working if child.rekey_at.is_some_and(|at| at <= cx.now) => Due::Rekey,
                Standing::Waiting { until, .. } if until <= cx.now => Due::Prefer,
                Standing::Replaced { until } if until <= cx.now => {
                    Due::Delete(DownReason::Replaced)
                }
                Standing::Redundant { until } if until <= cx.now => {
                    Due::Delete(DownReason::Redundant)
                }
                Standing::Working
                | Standing::Waiting { .. }
                | Standing::Replaced { .. }
                | Standing::Redundant { .. }
                | Standing::Leaving { .. } => Due::Nothing,
            };
            dues.push((child.spi_in, due));
        }
        for (spi_in, due) in dues {
            match due {
                Due::Nothing => {}
                Due::Rekey => match self.twin_of(spi_in) {
                    Some(twin) => self.yield_to_twin(spi_in, twin, cx),
                    None => self.rekey_child(spi_in, cx),
                },
                Due::Prefer => self.prefer(spi_in, cx),
                Due::Delete(reason) => self.delete_child(spi_in, reason, cx),
                Due::End => self.end_child(spi_in, cx),
            }
        }
    }

    /// A younger one for the same traffic. Lost answers and an SA that ends among them can leave two where one should be; rekeyed, they would stay two.
    fn twin_of(&self, spi_in: u32) -> Option<u32> {
        let mut line = self.children.iter();
        let older = line.find(|child| child.spi_in == spi_in)?;
        let is_twin =
            |child: &ChildSa| child.standing == Standing::Working && child.policy == older.policy;
        line.rfind(|child| is_twin(child)).map(|child| child.spi_in)
    }

    /// One of two is enough.
    fn yield_to_twin(&mut self, spi_in: u32, twin: u32, cx: &mut Context<'_>) {
        // Unless a third one sends anyway.
        if self
            .children
            .current()
            .is_some_and(|current| current.spi_in == twin)
        {
            cx.out.events.push_back(Event::ChildPreferred {
                tunnel: self.conn.tunnel,
                spi_in: twin,
            });
            self.output.reassert_winner = self.has_lost();
        }
        self.delete_child(spi_in, DownReason::Redundant, cx);
    }

    /// A Child SA is used up but for a rest: it is due now, however old it is. Said again, that is no news.
    pub fn on_worn(&mut self, spi_in: u32, cx: &mut Context<'_>) {
        let Some(child) = self.children.of_ours_mut(spi_in) else {
            return;
        };
        if child.soft_expiry > cx.now {
            child.soft_expiry = cx.now;
            child.renew_at = child.renew_at.min(cx.now + WORN_PATIENCE);
            self.rekey_child(spi_in, cx);
        }
    }

    /// Begins to rekey a Child SA that works.
    pub fn rekey_child(&mut self, spi_in: u32, cx: &mut Context<'_>) {
        let Some(child) = self.children.of_ours_mut(spi_in) else {
            return;
        };
        if child.standing == Standing::Working {
            child.rekey_at = None;
            let job = Job::RekeyChild {
                spi_in,
                group: None,
            };
            self.ask(job, cx);
        }
    }

    /// Begins to rekey the IKE SA.
    pub fn rekey_ike(&mut self, cx: &mut Context<'_>) {
        if self.is_open() {
            self.life.rekey_at = None;
            self.ask(Job::RekeyIke { group: None }, cx);
        }
    }

    /// Deletes a Child SA over which nothing is sent any more; what is on its way to us still comes in until the peer has answered.
    pub(super) fn delete_child(&mut self, spi_in: u32, reason: DownReason, cx: &mut Context<'_>) {
        if let Some(child) = self.children.of_ours_mut(spi_in) {
            child.standing = Standing::Leaving { reason };
            self.let_waiting_send(cx);
            self.ask(Job::DeleteChild { spi_in }, cx);
        }
    }

    /// If none works any more, the newest that waits begins to send.
    fn let_waiting_send(&mut self, cx: &mut Context<'_>) {
        let works = |standing| standing == Standing::Working;
        if self.children.iter().any(|child| works(child.standing)) {
            return;
        }
        let waiting = self.children.iter().rev().find(|child| child.is_of_use());
        if let Some(spi_in) = waiting.map(|child| child.spi_in) {
            self.prefer(spi_in, cx);
        }
    }

    /// The hard lifetime of a Child SA is over.
    fn end_child(&mut self, spi_in: u32, cx: &mut Context<'_>) {
        let told = self.is_deleting_child(spi_in);
        self.drop_child(spi_in, DownReason::Expired, cx);
        if !self.children.any_of_use() {
            return self.close(DownReason::Expired, None, cx);
        }
        if !told {
            self.ask(Job::DeleteChild { spi_in }, cx);
        }
    }

    /// When [`on_timeout`](Self::on_timeout) has something to do.
    pub fn next_timer(&self) -> Time {
        let request = self
            .request
            .as_ref()
            .map(|request| request.retransmit.due());
        let retransmit = request.unwrap_or(Time::MAX);
        let close = self.close_at.map_or(Time::MAX, |(at, _)| at);
        match self.phase {
            Phase::Closing(_) => request.unwrap_or(Time::ZERO),
            Phase::Replaced => retransmit.min(close),
            Phase::Open => timers::earliest([
                retransmit,
                close,
                self.life.hard_expiry,
                self.life.rekey_at.unwrap_or(Time::MAX),
                if self.life.refusals > 0 {
                    self.life.renew_at
                } else {
                    Time::MAX
                },
                self.restore_at.unwrap_or(Time::MAX),
                self.pending
                    .as_ref()
                    .map_or(Time::MAX, |pending| pending.until),
                self.children.next_timer(),
                // While a request is outstanding its own retransmission proves whether the peer lives.
                request.map_or(self.idle.liveness_due(), |_| Time::MAX),
                self.idle.keepalive_due(),
            ]),
        }
    }

    /// The peer, who began what replaced this IKE SA, is to delete it; should it not, we do.
    pub(super) fn await_delete(&mut self, cx: &mut Context<'_>) {
        self.close_later(cx.now + DELETE_FOR_PEER, DownReason::Replaced);
    }
}
