//! What an additional key exchange does to the SA (RFC 9370 §2.2.4): between CREATE_CHILD_SA and what it makes comes one more exchange.
//!
//! ```text
//!              who begins                                    who answers
//! settled      the request goes on as IKE_FOLLOWUP_KE        what was agreed on waits under its link, for a while
//! completed    made                                          made, unless what it replaces has changed meanwhile
//! ```
//!
//! Until it is completed nothing is made, so whatever crosses it is settled then, by the same rules as without it.

use super::IkeSa;
use super::renewal::{Chain, Refusal};
use super::request::Asked;
use crate::crypto::Group;
use crate::ike::children::Standing;
use crate::ike::collision::{self, Reply};
use crate::ike::error::Error;
use crate::ike::exchange::followup::{self, Pending, What};
use crate::ike::exchange::{create_child, informational, rekey_ike};
use crate::ike::handshake::Context;
use crate::ike::messages::{CreateAnswer, Followup, FollowupAnswer};
use crate::ike::sa::{Job, SaOutcome};
use crate::wire::{ExchangeType, Notify, NotifyType, Payload};

/// What an answer of the peer amounts to.
pub(super) enum Step<M, A> {
    /// It is made.
    Made(M),
    /// An additional key exchange comes first.
    Further(Box<followup::Asked<A>>),
    /// The peer wants a key exchange of this group.
    OtherGroup(u16),
    /// The peer refuses.
    Refused(Notify),
}

impl IkeSa {
    /// Reads the answer to our request for a Child SA.
    pub(super) fn read_child(
        &self,
        asked: &mut create_child::Asked,
        payloads: Chain,
        cx: &mut Context<'_>,
    ) -> Result<Step<create_child::Made, create_child::Agreed>, Error> {
        if let Some(followup) = asked.followup.take() {
            return Ok(match FollowupAnswer::read(payloads?)? {
                FollowupAnswer::Made(ke) => {
                    let (agreed, shared) = followup.conclude(&ke)?;
                    Step::Made(agreed.make(Some(&shared), self.parent(), cx))
                }
                FollowupAnswer::Refused(notify) => Step::Refused(notify),
            });
        }
        Ok(match CreateAnswer::read(payloads?)? {
            CreateAnswer::Made { renewal, selectors } => {
                let in_use = asked.old.and_then(|old| self.children.of_ours(old));
                let in_use = in_use.map(|child| &child.policy);
                let settings = &self.conn.settings;
                let agreed = asked.conclude(&renewal, selectors, in_use, settings)?;
                match agreed.suite.additional {
                    None => Step::Made(agreed.make(None, self.parent(), cx)),
                    Some(method) => Step::Further(Box::new(followup::Asked::begin(
                        agreed,
                        method,
                        renewal.link.as_ref(),
                        cx.rng,
                    )?)),
                }
            }
            CreateAnswer::OtherGroup(group) => Step::OtherGroup(group),
            CreateAnswer::Refused(notify) => Step::Refused(notify),
        })
    }

    /// Reads the answer to our request for another IKE SA.
    pub(super) fn read_ike(
        &self,
        asked: &mut rekey_ike::Asked,
        payloads: Chain,
        cx: &mut Context<'_>,
    ) -> Result<Step<rekey_ike::Made, rekey_ike::Agreed>, Error> {
        if let Some(followup) = asked.followup.take() {
            return Ok(match FollowupAnswer::read(payloads?)? {
                FollowupAnswer::Made(ke) => {
                    let (agreed, shared) = followup.conclude(&ke)?;
                    Step::Made(agreed.make(Some(&shared), self.parent()))
                }
                FollowupAnswer::Refused(notify) => Step::Refused(notify),
            });
        }
        Ok(match CreateAnswer::read(payloads?)? {
            CreateAnswer::Made { renewal, .. } => {
                let agreed = asked.conclude(&renewal, &self.conn.settings)?;
                match agreed.suite.additional {
                    None => Step::Made(agreed.make(None, self.parent())),
                    Some(method) => Step::Further(Box::new(followup::Asked::begin(
                        agreed,
                        method,
                        renewal.link.as_ref(),
                        cx.rng,
                    )?)),
                }
            }
            CreateAnswer::OtherGroup(group) => Step::OtherGroup(group),
            CreateAnswer::Refused(notify) => Step::Refused(notify),
        })
    }

    /// Our request for a Child SA goes on.
    pub(super) fn follow_up_child(
        &mut self,
        job: Job,
        mut asked: create_child::Asked,
        followup: Box<followup::Asked<create_child::Agreed>>,
        cx: &mut Context<'_>,
    ) {
        let payloads = followup.payloads();
        asked.followup = Some(followup);
        let asked = Asked::Child(Box::new(asked));
        self.send(ExchangeType::IKE_FOLLOWUP_KE, job, payloads, asked, cx);
    }

    /// Our request for another IKE SA goes on.
    pub(super) fn follow_up_ike(
        &mut self,
        job: Job,
        mut asked: rekey_ike::Asked,
        followup: Box<followup::Asked<rekey_ike::Agreed>>,
        cx: &mut Context<'_>,
    ) {
        let payloads = followup.payloads();
        asked.followup = Some(followup);
        let asked = Asked::Ike(Box::new(asked));
        self.send(ExchangeType::IKE_FOLLOWUP_KE, job, payloads, asked, cx);
    }

    /// What the peer has begun waits for the exchange that completes it. Gives what tells the peer so.
    pub(super) fn await_followup(
        &mut self,
        what: What,
        method: &'static Group,
        cx: &mut Context<'_>,
    ) -> Payload {
        let pending = Pending::new(what, method, cx.now, cx.rng);
        let link = pending.link();
        self.pending = Some(pending);
        link
    }

    /// Forgets what the peer has begun and not completed.
    pub(super) fn tend_pending(&mut self, cx: &mut Context<'_>) {
        self.pending.take_if(|pending| pending.until <= cx.now);
    }

    /// Answers an IKE_FOLLOWUP_KE request.
    pub(super) fn on_followup_request(
        &mut self,
        payloads: Vec<Payload>,
        cx: &mut Context<'_>,
    ) -> (Vec<Payload>, SaOutcome) {
        let request = match Followup::read(payloads) {
            Ok(request) => request,
            Err(error) => return informational::refuse(&error),
        };
        let answer = self.complete(&request, cx);
        (self.answer_or_refuse(answer, cx), SaOutcome::Open)
    }

    fn complete(
        &mut self,
        request: &Followup,
        cx: &mut Context<'_>,
    ) -> Result<Vec<Payload>, Refusal> {
        let plain = |kind| Refusal::Plain(Notify::new(kind, Vec::new()));
        let pending = self
            .pending
            .take_if(|pending| pending.is_meant(request))
            .ok_or(plain(NotifyType::STATE_NOT_FOUND))?;
        // What the peer began from may have gone, or been replaced by an exchange of ours.
        let reply = match &pending.what {
            What::Child { old: Some(old), .. } => {
                let standing: Option<Standing> =
                    self.children.of_ours(*old).map(|child| child.standing);
                collision::on_rekey_child(self.busy(), standing)
            }
            What::Child { old: None, .. } => collision::on_create(self.busy()),
            What::Ike(_) => collision::on_rekey_ike(self.busy()),
        };
        match reply {
            Reply::Usual => {}
            Reply::Later => return Err(plain(NotifyType::TEMPORARY_FAILURE)),
            Reply::NotFound => return Err(plain(NotifyType::CHILD_SA_NOT_FOUND)),
        }
        let (shared, answer) = pending.respond(&request.ke, cx.rng)?;
        match pending.what {
            What::Child { old, agreed } => {
                if !self.children.has_room() {
                    return Err(plain(NotifyType::NO_ADDITIONAL_SAS));
                }
                let made = agreed.make(Some(&shared), self.parent(), cx);
                self.adopt_child(old, made, cx);
            }
            What::Ike(agreed) => {
                let made = agreed.make(Some(&shared), self.parent());
                self.adopt_ike(made, cx)?;
            }
        }
        Ok(vec![answer])
    }
}
