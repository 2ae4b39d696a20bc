//! What CREATE_CHILD_SA does to the SA, at either end: make before break (RFC 7296 §2.8), and collisions settled by [`collision`].
//!
//! ```text
//!              who begins                                  who answers
//! Child SA     new one in and out, old one out: DELETE     new one in; out when ESP or the peer's next request shows that it is known
//! IKE SA       Child SAs move, DELETE of the old one       Child SAs move, the old one waits for its DELETE
//! ```

use super::followup::Step;
use super::request::Asked;
use super::{IkeSa, Job, SaOutcome};
use crate::ike::children::{ChildSa, DELETE_FOR_PEER, Standing, WAIT_FOR_PEER};
use crate::ike::collision::{self, Reply, Survivor};
use crate::ike::error::{Error, Incompatible};
use crate::ike::event::{DownReason, Event, Rekey, Sends};
use crate::ike::exchange::create_child::{self, CollidingChild, Made, Parent};
use crate::ike::exchange::followup::What;
use crate::ike::exchange::informational;
use crate::ike::failure::Failure;
use crate::ike::handshake::Context;
use crate::ike::messages::{ChildRequest, CreateRequest};
use crate::ike::rekey_refusal;
use crate::ike::retransmit::back_off;
use crate::net::Time;
use crate::wire::{ChainError, Notify, NotifyType, Payload, ProtocolId};

/// Why we do not do what the peer asks.
pub(super) enum Refusal {
    /// As the rules of collisions have it: nothing to tell.
    Plain(Notify),
    /// It is worth telling.
    Error(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        Refusal::Error(error)
    }
}

/// Why nothing came of a request of ours.
pub(super) enum Denial {
    /// The peer has other things under way: it is asked again soon. After a while people should know.
    Busy(Option<Failure>),
    /// The peer does not want it, or cannot: what was only a trial or a person's wish is not asked for again before it is due anyway.
    Refused(Failure),
}

impl Denial {
    /// When to ask again, given a pause that grows and when it is due.
    pub(super) fn again(&self, soon: Time, due: Time) -> Time {
        match self {
            Denial::Busy(_) => soon,
            Denial::Refused(_) => soon.max(due),
        }
    }

    pub(super) fn failure(self) -> Option<Failure> {
        match self {
            Denial::Busy(failure) => failure,
            Denial::Refused(failure) => Some(failure),
        }
    }
}

/// After so many answers in a row that the peer is busy, it is told like a refusal.
pub(super) const BUSY_FOR_LONG: u32 = 5;

/// How often a peer may be too busy for the Child SA that a tunnel lacks, before another IKE SA is the faster way.
const MOST_PUT_OFF: u32 = 3;

/// A chain that was opened, or what is wrong with it.
pub(super) type Chain = Result<Vec<Payload>, ChainError>;

impl IkeSa {
    pub(super) fn parent(&self) -> Parent<'_> {
        Parent {
            settings: &self.conn.settings,
            prf: self.suite.prf,
            derive: &self.derive,
        }
    }

    /// Answers a CREATE_CHILD_SA request.
    pub(super) fn on_create_request(
        &mut self,
        payloads: Vec<Payload>,
        cx: &mut Context<'_>,
    ) -> (Vec<Payload>, SaOutcome) {
        let answer = match CreateRequest::read(payloads) {
            Ok(CreateRequest::Ike(renewal)) => self.peer_rekeys_ike(&renewal, cx),
            Ok(CreateRequest::Child(request)) => self.peer_makes_child(&request, cx),
            Err(error) => return informational::refuse(&error),
        };
        (self.answer_or_refuse(answer, cx), SaOutcome::Open)
    }

    /// The payloads of an answer. A refusal that is worth it is told.
    pub(super) fn answer_or_refuse(
        &mut self,
        answer: Result<Vec<Payload>, Refusal>,
        cx: &mut Context<'_>,
    ) -> Vec<Payload> {
        answer.unwrap_or_else(|refusal| {
            vec![Payload::Notify(match refusal {
                Refusal::Plain(notify) => notify,
                Refusal::Error(error) => {
                    // Being asked for another group is how an exchange may well begin (RFC 7296 §1.3): nothing to tell.
                    if !matches!(error, Error::Incompatible(Incompatible::Group { .. })) {
                        self.output.failures.push(error.failure(cx.now));
                    }
                    notify_of(&error)
                }
            })]
        })
    }

    fn peer_makes_child(
        &mut self,
        request: &ChildRequest,
        cx: &mut Context<'_>,
    ) -> Result<Vec<Payload>, Refusal> {
        let old = request.rekeys.as_ref().map(|notify| {
            let spi_out = u32::from_be_bytes(notify.spi.as_slice().try_into().ok()?);
            let child = self.children.of_peers(spi_out)?;
            (notify.protocol == ProtocolId::ESP).then_some((child.spi_in, child.standing))
        });
        let reply = match old {
            Some(old) => collision::on_rekey_child(self.busy(), old.map(|(_, standing)| standing)),
            None => collision::on_create(self.busy()),
        };
        let plain = |kind| Err(Refusal::Plain(Notify::new(kind, Vec::new())));
        match reply {
            Reply::Usual => {}
            Reply::Later => return plain(NotifyType::TEMPORARY_FAILURE),
            Reply::NotFound => {
                let kind = NotifyType::CHILD_SA_NOT_FOUND;
                return Err(Refusal::Plain(match &request.rekeys {
                    // The one the peer named.
                    Some(named) => Notify {
                        kind,
                        data: Vec::new(),
                        ..named.clone()
                    },
                    None => Notify::new(kind, Vec::new()),
                }));
            }
        }
        if !self.children.has_room() {
            return plain(NotifyType::NO_ADDITIONAL_SAS);
        }
        let old = old.flatten().map(|(spi_in, _)| spi_in);
        let spi_in = self.fresh_child_spi(cx);
        let in_use = old.and_then(|old| self.children.of_ours(old));
        let (agreed, mut payloads) = create_child::respond(
            request,
            in_use.map(|child| &child.policy),
            spi_in,
            &self.conn.settings,
            cx.rng,
        )?;
        match agreed.suite.additional {
            None => {
                let made = agreed.make(None, self.parent(), cx);
                self.adopt_child(old, made, cx);
            }
            Some(method) => {
                let agreed = Box::new(agreed);
                payloads.push(self.await_followup(What::Child { old, agreed }, method, cx));
            }
        }
        Ok(payloads)
    }

    /// Puts the Child SA of the peer's exchange to work.
    pub(super) fn adopt_child(&mut self, old: Option<u32>, made: Made, cx: &mut Context<'_>) {
        let Made { mut child, nonces } = made;
        let spi_in = child.spi_in;
        if let Some(asked) = self.crossing(old) {
            asked.colliding = Some(CollidingChild { spi_in, nonces });
        }
        self.jobs.retain(|job| match job {
            Job::RekeyChild { spi_in, .. } => Some(*spi_in) != old,
            Job::CreateChild { .. } => false,
            Job::Liveness
            | Job::InvalidSpi { .. }
            | Job::RekeyIke { .. }
            | Job::DeleteChild { .. }
            | Job::DeleteIke(_) => true,
        });
        let sends = if self.children.any_of_use() {
            child.standing = Standing::Waiting {
                until: cx.now + WAIT_FOR_PEER,
                patience: WAIT_FOR_PEER,
                end: Time::MAX,
            };
            Sends::Later
        } else {
            Sends::Now
        };
        if let Some(old) = old.and_then(|old| self.children.of_ours_mut(old)) {
            old.standing = Standing::Replaced {
                until: cx.now + DELETE_FOR_PEER,
            };
            self.output.verdicts.push((Rekey::Child, Ok(())));
        }
        self.stay();
        self.put_to_work(child, sends, old, cx);
    }

    /// Our own request under way that the peer's crosses: one that begins from the same Child SA.
    fn crossing(&mut self, old: Option<u32>) -> Option<&mut create_child::Asked> {
        match &mut self.request.as_mut()?.asked {
            Asked::Child(asked) if asked.old == old => Some(asked),
            Asked::Child(_) | Asked::Ike(_) | Asked::Informational => None,
        }
    }

    fn put_to_work(
        &mut self,
        child: ChildSa,
        sends: Sends,
        replaces: Option<u32>,
        cx: &mut Context<'_>,
    ) {
        self.output.reassert_winner = self.has_lost();
        self.output.serves |= replaces.is_none();
        let news = child.announced(&self.conn, self.transport, sends, replaces);
        cx.out.events.push_back(Event::ChildUp(Box::new(news)));
        self.children.push(child);
    }

    /// The answer to our request for a Child SA.
    pub(super) fn on_child_answer(
        &mut self,
        job: &Job,
        mut asked: create_child::Asked,
        payloads: Chain,
        cx: &mut Context<'_>,
    ) -> SaOutcome {
        if is_fatal(&payloads) {
            return SaOutcome::Closed(self.closing_reason());
        }
        if !self.is_open() {
            return SaOutcome::Open;
        }
        match self.read_child(&mut asked, payloads, cx) {
            Ok(Step::Made(made)) => self.on_child_made(&asked, made, cx),
            Ok(Step::Further(followup)) => {
                self.follow_up_child(job.clone(), asked, followup, cx);
                return SaOutcome::Open;
            }
            Ok(Step::OtherGroup(group)) => self.on_other_child_group(&asked, group, cx),
            Ok(Step::Refused(notify)) => self.on_child_refused(&asked, &notify, cx),
            Err(error) => self.on_child_useless(&asked, &error, cx),
        }
        // Nothing serves, and it was this request that should have changed it.
        let makes_child = |job: &Job| match job {
            Job::CreateChild { .. } => true,
            Job::RekeyChild { .. }
            | Job::Liveness
            | Job::InvalidSpi { .. }
            | Job::RekeyIke { .. }
            | Job::DeleteChild { .. }
            | Job::DeleteIke(_) => false,
        };
        let tries_again = self.jobs.iter().any(makes_child) || self.restore_at.is_some();
        if makes_child(job) && !tries_again && !self.children.any_of_use() {
            self.close(DownReason::Useless, None, cx);
        }
        SaOutcome::Open
    }

    fn on_child_made(
        &mut self,
        asked: &create_child::Asked,
        Made { mut child, nonces }: Made,
        cx: &mut Context<'_>,
    ) {
        // A rival that could not be installed, or that the peer has deleted, has lost whatever the nonces say.
        let alive = |colliding: &&CollidingChild| self.children.of_ours(colliding.spi_in).is_some();
        let verdict = (asked.colliding.as_ref().filter(alive))
            .map_or(Survivor::Ours, |colliding| {
                collision::survivor(&nonces, &colliding.nonces, self.role)
            });
        let new = child.spi_in;
        match verdict {
            Survivor::Ours => {
                self.put_to_work(child, Sends::Now, asked.old, cx);
                if let Some(colliding) = &asked.colliding
                    && let Some(colliding) = self.children.of_ours_mut(colliding.spi_in)
                {
                    colliding.standing = Standing::Redundant {
                        until: cx.now + DELETE_FOR_PEER,
                    };
                }
                if let Some(old) = asked.old
                    && self.children.of_ours(old).is_some()
                {
                    self.delete_child(old, DownReason::Replaced, cx);
                }
            }
            Survivor::Theirs => {
                // The peer may have begun to send over it: it takes in until the peer has agreed that it is gone.
                let reason = DownReason::Redundant;
                child.standing = Standing::Leaving { reason };
                self.put_to_work(child, Sends::Later, asked.old, cx);
                self.ask(Job::DeleteChild { spi_in: new }, cx);
            }
        }
        if asked.old.is_some() {
            if verdict == Survivor::Ours {
                self.output.rekeys.child = self.output.rekeys.child.saturating_add(1);
            }
            self.output.verdicts.push((Rekey::Child, Ok(())));
        }
        self.stay();
    }

    /// The peer may have made a Child SA with which nothing can be done, and is told so.
    fn on_child_useless(
        &mut self,
        asked: &create_child::Asked,
        error: &Error,
        cx: &mut Context<'_>,
    ) {
        let spi_in = asked.spi_in;
        self.ask(Job::DeleteChild { spi_in }, cx);
        self.on_child_failed(asked, Denial::Refused(error.failure(cx.now)), cx);
    }

    fn on_other_child_group(
        &mut self,
        asked: &create_child::Asked,
        group: u16,
        cx: &mut Context<'_>,
    ) {
        if !asked.may_use(&self.conn.settings, group) || asked.colliding.is_some() {
            let wanted = group.to_be_bytes().to_vec();
            let notify = Notify::new(NotifyType::INVALID_KE_PAYLOAD, wanted);
            return self.on_child_refused(asked, &notify, cx);
        }
        let group = Some(group);
        let job = match asked.old {
            Some(spi_in) => Job::RekeyChild { spi_in, group },
            None => Job::CreateChild { group },
        };
        self.ask(job, cx);
    }

    fn on_child_refused(
        &mut self,
        asked: &create_child::Asked,
        notify: &Notify,
        cx: &mut Context<'_>,
    ) {
        let refused = || rekey_refusal::refused(cx.now, Rekey::Child, notify, &self.conn.settings);
        if notify.kind == NotifyType::TEMPORARY_FAILURE {
            let old = asked.old.and_then(|old| self.children.of_ours(old));
            let for_long = old.is_some_and(|old| old.refusals >= BUSY_FOR_LONG);
            let busy = Denial::Busy(for_long.then(refused));
            return self.on_child_failed(asked, busy, cx);
        }
        if notify.kind == NotifyType::CHILD_SA_NOT_FOUND
            && let Some(old) = asked.old
        {
            // With a rival it was the peer's exchange that replaced it.
            match &asked.colliding {
                Some(colliding) => self.prefer(colliding.spi_in, cx),
                None => self.replace_lost(old, cx),
            }
            return;
        }
        let refused = Denial::Refused(refused());
        self.on_child_failed(asked, refused, cx);
    }

    /// Nothing came of our request. Later it is tried again, unless the peer's exchange has done it.
    fn on_child_failed(
        &mut self,
        asked: &create_child::Asked,
        denial: Denial,
        cx: &mut Context<'_>,
    ) {
        let jitter = cx.jitter();
        let Some(child) = asked.old.and_then(|old| self.children.of_ours_mut(old)) else {
            // A peer that was only busy is asked for a Child SA in place of none again, soon and not often.
            let is_busy = matches!(denial, Denial::Busy(_));
            if is_busy && asked.old.is_none() && self.put_off < MOST_PUT_OFF {
                self.put_off = self.put_off.saturating_add(1);
                self.restore_at = Some(cx.now + back_off(self.put_off, jitter));
            }
            self.output.failures.extend(denial.failure());
            return;
        };
        if child.standing != Standing::Working {
            return;
        }
        child.refusals = child.refusals.saturating_add(1);
        let soon = cx.now + pause(child.hard_expiry, child.refusals, cx.now, jitter);
        child.rekey_at = Some(denial.again(soon, child.soft_expiry));
        if let Some(failure) = denial.failure() {
            self.output.failures.push(failure.clone());
            self.output.verdicts.push((Rekey::Child, Err(failure)));
        }
    }
}

/// INVALID_SYNTAX and UNSUPPORTED_CRITICAL_PAYLOAD in a protected answer end the SA (RFC 7296 §2.21.3).
pub(super) fn is_fatal(payloads: &Chain) -> bool {
    payloads.iter().flatten().any(informational::is_fatal)
}

/// What answers a request that asks for something else than we want, or for nothing that can be.
fn notify_of(error: &Error) -> Notify {
    match error {
        // INVALID_SYNTAX would end the IKE SA at the peer (RFC 7296 §2.21.3), over an exchange that harms nothing but itself.
        Error::Misbehaved(_) => Notify::new(NotifyType::NO_PROPOSAL_CHOSEN, Vec::new()),
        Error::Malformed(_)
        | Error::UnsupportedCritical(_)
        | Error::Incompatible(_)
        | Error::Denied(_) => error.notify(),
    }
}

/// How long to wait before another request to rekey: longer each time, and never past half of what is left.
pub(super) fn pause(end: Time, refused: u32, now: Time, jitter: u8) -> std::time::Duration {
    back_off(refused, jitter).min(end.since(now).mul_f64(0.5))
}
