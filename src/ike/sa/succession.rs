//! What rekeying the IKE SA does to it, at either end: its Child SAs move to the one that takes its place (RFC 7296 §1.3.2, §2.8, §2.18).
//!
//! ```text
//! old ── rekeyed ──▶ new, with all Child SAs and jobs; whoever began deletes the old one, the other waits for that
//! ```

use super::followup::Step;
use super::renewal::{BUSY_FOR_LONG, Chain, Denial, Refusal, is_fatal, pause};
use super::request::Asked;
use super::{IkeSa, Job, Phase, SaOutcome};
use crate::crypto::WrongKeyLength;
use crate::ike::children::DELETE_FOR_PEER;
use crate::ike::collision::{self, Reply, Survivor};
use crate::ike::error::Error;
use crate::ike::event::{DownReason, Event, Rekey};
use crate::ike::exchange::followup::What;
use crate::ike::exchange::rekey_ike;
use crate::ike::handshake::Context;
use crate::ike::messages::Renewal;
use crate::ike::rekey_refusal;
use crate::wire::{Notify, NotifyType, Payload};

impl IkeSa {
    pub(super) fn peer_rekeys_ike(
        &mut self,
        renewal: &Renewal,
        cx: &mut Context<'_>,
    ) -> Result<Vec<Payload>, Refusal> {
        match collision::on_rekey_ike(self.busy()) {
            Reply::Usual => {}
            Reply::Later | Reply::NotFound => {
                let later = Notify::new(NotifyType::TEMPORARY_FAILURE, Vec::new());
                return Err(Refusal::Plain(later));
            }
        }
        let (agreed, mut payloads) = rekey_ike::respond(renewal, &self.conn.settings, cx.rng)?;
        match agreed.suite.additional {
            None => {
                let made = agreed.make(None, self.parent());
                self.adopt_ike(made, cx)?;
            }
            Some(method) => {
                let what = What::Ike(Box::new(agreed));
                payloads.push(self.await_followup(what, method, cx));
            }
        }
        Ok(payloads)
    }

    /// The IKE SA of the peer's exchange takes the place of this one, or competes with ours for it.
    pub(super) fn adopt_ike(
        &mut self,
        made: rekey_ike::Made,
        cx: &mut Context<'_>,
    ) -> Result<(), Refusal> {
        let new = self
            .succeed(made, cx)
            .map_err(|_| Error::Misbehaved("its offer leads to keys of the wrong length"))?;
        self.output.verdicts.push((Rekey::Ike, Ok(())));
        match self.request.as_mut().map(|request| &mut request.asked) {
            Some(Asked::Ike(asked)) if asked.colliding.is_some() => {
                let later = Notify::new(NotifyType::TEMPORARY_FAILURE, Vec::new());
                return Err(Refusal::Plain(later));
            }
            // Which of the two stays shows when our own answer comes.
            Some(Asked::Ike(asked)) => asked.colliding = Some(new),
            Some(Asked::Child(_) | Asked::Informational) | None => {
                self.hand_over(new, cx);
                self.await_delete(cx);
            }
        }
        Ok(())
    }

    /// The answer to our request for another IKE SA.
    pub(super) fn on_ike_answer(
        &mut self,
        job: Job,
        mut asked: rekey_ike::Asked,
        payloads: Chain,
        cx: &mut Context<'_>,
    ) -> SaOutcome {
        if is_fatal(&payloads) {
            return SaOutcome::Closed(self.closing_reason());
        }
        if let Phase::Closing(reason) = self.phase {
            self.reject(asked, payloads, reason, cx);
            return SaOutcome::Open;
        }
        let step = self.read_ike(&mut asked, payloads, cx);
        let colliding = asked.colliding.take();
        match step {
            Ok(Step::Further(followup)) => {
                asked.colliding = colliding;
                self.follow_up_ike(job, asked, followup, cx);
            }
            Ok(Step::Made(made)) => match self.succeed(made, cx) {
                Ok(new) => self.on_ike_made(new, colliding, cx),
                Err(WrongKeyLength { .. }) => {
                    let error = Error::Misbehaved("its answer leads to keys of the wrong length");
                    self.on_ike_failed(colliding, Denial::Refused(error.failure(cx.now)), cx);
                }
            },
            Ok(Step::OtherGroup(group))
                if colliding.is_none() && asked.may_use(&self.conn.settings, group) =>
            {
                let group = Some(group);
                self.ask(Job::RekeyIke { group }, cx);
            }
            Ok(Step::OtherGroup(group)) => {
                let wanted = group.to_be_bytes().to_vec();
                let notify = Notify::new(NotifyType::INVALID_KE_PAYLOAD, wanted);
                self.on_ike_refused(colliding, &notify, cx);
            }
            Ok(Step::Refused(notify)) => self.on_ike_refused(colliding, &notify, cx),
            Err(error) => self.on_ike_failed(colliding, Denial::Refused(error.failure(cx.now)), cx),
        }
        SaOutcome::Open
    }

    /// Nobody wants the IKE SA that we asked for any more, but it stands at the peer now, and is closed there too.
    fn reject(
        &mut self,
        mut asked: rekey_ike::Asked,
        payloads: Chain,
        reason: DownReason,
        cx: &mut Context<'_>,
    ) {
        if let Ok(Step::Made(made)) = self.read_ike(&mut asked, payloads, cx)
            && let Ok(mut new) = self.succeed(made, cx)
        {
            new.close(reason, None, cx);
            self.output.successors.push(new);
        }
    }

    fn on_ike_refused(
        &mut self,
        colliding: Option<Box<IkeSa>>,
        notify: &Notify,
        cx: &mut Context<'_>,
    ) {
        let refused = || rekey_refusal::refused(cx.now, Rekey::Ike, notify, &self.conn.settings);
        let denial = if notify.kind == NotifyType::TEMPORARY_FAILURE {
            let for_long = self.life.refusals >= BUSY_FOR_LONG;
            Denial::Busy(for_long.then(refused))
        } else {
            Denial::Refused(refused())
        };
        self.on_ike_failed(colliding, denial, cx);
    }

    fn on_ike_made(
        &mut self,
        mut new: Box<IkeSa>,
        colliding: Option<Box<IkeSa>>,
        cx: &mut Context<'_>,
    ) {
        self.output.verdicts.push((Rekey::Ike, Ok(())));
        let Some(mut colliding) = colliding else {
            self.hand_over(new, cx);
            return self.close(DownReason::Replaced, None, cx);
        };
        match collision::survivor(&new.nonces, &colliding.nonces, self.role) {
            Survivor::Ours => {
                colliding.close_later(cx.now + DELETE_FOR_PEER, DownReason::Redundant);
                self.hand_over(new, cx);
                self.output.successors.push(colliding);
                self.close(DownReason::Replaced, None, cx);
            }
            Survivor::Theirs => {
                self.hand_over(colliding, cx);
                new.close(DownReason::Redundant, None, cx);
                self.output.successors.push(new);
                self.await_delete(cx);
            }
        }
    }

    /// Nothing came of our request. If the peer's exchange crossed it, that one has done it.
    fn on_ike_failed(
        &mut self,
        colliding: Option<Box<IkeSa>>,
        denial: Denial,
        cx: &mut Context<'_>,
    ) {
        if let Some(colliding) = colliding {
            self.hand_over(colliding, cx);
            return self.await_delete(cx);
        }
        let jitter = cx.jitter();
        let life = &mut self.life;
        life.refusals = life.refusals.saturating_add(1);
        let soon = cx.now + pause(life.hard_expiry, life.refusals, cx.now, jitter);
        life.rekey_at = Some(denial.again(soon, life.soft_expiry));
        if let Some(failure) = denial.failure() {
            self.output.failures.push(failure.clone());
            self.output.verdicts.push((Rekey::Ike, Err(failure)));
        }
    }

    /// Another IKE SA takes the place of this one, with its Child SAs and what was still to be asked.
    pub(super) fn hand_over(&mut self, mut to: Box<IkeSa>, cx: &mut Context<'_>) {
        while let Some(child) = self.children.pop() {
            to.children.push(child);
        }
        to.jobs.extend(self.jobs.drain(..).filter(|job| match job {
            Job::RekeyChild { .. }
            | Job::CreateChild { .. }
            | Job::InvalidSpi { .. }
            | Job::DeleteChild { .. } => true,
            Job::Liveness | Job::RekeyIke { .. } | Job::DeleteIke(_) => false,
        }));
        to.restore_at = self.restore_at.take();
        // What was to be closed is not saved by having fresh keys.
        to.close_at = self.close_at.take();
        to.idle = self.idle;
        to.announced = self.announced;
        to.conn.remote = self.conn.remote;
        self.announced = false;
        self.phase = Phase::Replaced;
        self.output.rekeys.ike = self.output.rekeys.ike.saturating_add(1);
        cx.out.events.push_back(Event::IkeRekeyed {
            tunnel: self.conn.tunnel,
            old: self.spis(),
            ike: to.view(),
        });
        to.pump(cx);
        self.output.successors.push(to);
    }
}
