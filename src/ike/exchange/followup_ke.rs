//! IKE_FOLLOWUP_KE (RFC 9370 §2.2.4): the additional key exchange of a CREATE_CHILD_SA exchange, of any of its three kinds.
//!
//! ```text
//! HDR, SK { SA, Ni, KEi, … }  ──▶                                                    CREATE_CHILD_SA as usual
//!         ◀──  HDR, SK { SA, Nr, KEr, …, N(ADDITIONAL_KEY_EXCHANGE, link) }          nothing is created yet
//!
//! HDR, SK { KEi(1), N(ADDITIONAL_KEY_EXCHANGE, link) }  ──▶
//!         ◀──  HDR, SK { KEr(1) }                                                    the SA is created
//!   or    ◀──  HDR, SK { N(STATE_NOT_FOUND) }                                        the responder does not know the link any more
//!
//! Child SA:  KEYMAT   = prf+(SK_d, SK(0) | Ni | Nr | SK(1))        SK(0), SK(1): the secrets of the two key exchanges
//! IKE SA:    SKEYSEED = prf(SK_d (old), SK(0) | Ni | Nr | SK(1))
//! ```
//!
//! `link` is data of the responder that identifies its pending exchange. Nothing is created before the second exchange, so collisions are resolved then, by the
//! same rules. The responses to our request come to `on_child_response` and `on_rekey_ike_response`.

use std::time::Duration;

use super::informational;
use super::outcome::{Rejection, Step};
use super::payloads::{check_public_value, ke_payload, respond_ke};
use crate::crypto::{Generator, Group, KeyExchange, Secret};
use crate::ike::collision::{self, Reply};
use crate::ike::context::Context;
use crate::ike::error::Error;
use crate::ike::messages::{CreateResponse, Followup, FollowupResponse, Renewal};
use crate::ike::sa::{
    AgreedChild, AgreedIke, AgreedSa, ChildOffer, FollowupOffer, IkeOffer, IkeSa, Job, Offer,
    PendingFollowup, SaOutcome,
};
use crate::wire::{ChainError, ExchangeType, Ke, Notify, NotifyType, Payload, TrafficSelectors};

/// How long an exchange stays pending: longer than a peer repeats its request.
const PENDING_TIMEOUT: Duration = Duration::from_secs(60);

impl<A> FollowupOffer<A> {
    /// Prepares a request by `method`. `link` is the data of ADDITIONAL_KEY_EXCHANGE in the peer's response, which must be there.
    pub fn new(
        agreed: A,
        method: &'static Group,
        link: Option<&Vec<u8>>,
        rng: &mut Generator,
    ) -> Result<FollowupOffer<A>, Error> {
        let link = link.ok_or(Error::Misbehaved(
            "it chose an additional key exchange and does not name it for IKE_FOLLOWUP_KE",
        ))?;
        Ok(FollowupOffer {
            agreed,
            link: link.clone(),
            ke: KeyExchange::generate(method, rng),
        })
    }

    fn payloads(&self) -> Vec<Payload> {
        vec![ke_payload(&self.ke), link_notify(self.link.clone())]
    }

    /// Takes the secret from the peer's response. Returns it with the SA that it completes.
    pub fn accept(self, theirs: &Ke) -> Result<(A, Secret), Error> {
        if theirs.group != self.ke.group().id {
            return Err(Error::Misbehaved(
                "its additional key exchange is not the one it chose",
            ));
        }
        let shared = check_public_value(self.ke.agree(&theirs.data))?;
        Ok((self.agreed, shared))
    }
}

/// Reads the response to our CREATE_CHILD_SA request, or to the IKE_FOLLOWUP_KE request `followup` that completes it. `accept` takes the agreed SA and the
/// method of its additional key exchange from the former.
pub fn read_response<A>(
    followup: Option<Box<FollowupOffer<A>>>,
    payloads: Result<Vec<Payload>, ChainError>,
    cx: &mut Context<'_>,
    accept: impl FnOnce(
        &Renewal,
        Option<(TrafficSelectors, TrafficSelectors)>,
    ) -> Result<(A, Option<&'static Group>), Error>,
) -> Result<Step<A>, Error> {
    if let Some(followup) = followup {
        return Ok(match FollowupResponse::read(payloads?)? {
            FollowupResponse::Made(ke) => {
                let (agreed, shared) = followup.accept(&ke)?;
                Step::Agreed(agreed, Some(shared))
            }
            FollowupResponse::Rejected(notify) => Step::Rejected(notify),
        });
    }
    Ok(match CreateResponse::read(payloads?)? {
        CreateResponse::Made { renewal, selectors } => match accept(&renewal, selectors)? {
            (agreed, None) => Step::Agreed(agreed, None),
            (agreed, Some(method)) => {
                let link = renewal.link.as_ref();
                Step::Followup(Box::new(FollowupOffer::new(agreed, method, link, cx.rng)?))
            }
        },
        CreateResponse::OtherGroup(group) => Step::OtherGroup(group),
        CreateResponse::Rejected(notify) => Step::Rejected(notify),
    })
}

impl IkeSa {
    /// Continues our request for a Child SA.
    pub fn follow_up_child(
        &mut self,
        job: Job,
        mut offer: ChildOffer,
        followup: Box<FollowupOffer<AgreedChild>>,
        cx: &mut Context<'_>,
    ) {
        let payloads = followup.payloads();
        offer.followup = Some(followup);
        let offer = Offer::Child(Box::new(offer));
        self.send_request(ExchangeType::IKE_FOLLOWUP_KE, job, payloads, offer, cx);
    }

    /// Continues our request to rekey the IKE SA.
    pub fn follow_up_ike(
        &mut self,
        job: Job,
        mut offer: IkeOffer,
        followup: Box<FollowupOffer<AgreedIke>>,
        cx: &mut Context<'_>,
    ) {
        let payloads = followup.payloads();
        offer.followup = Some(followup);
        let offer = Offer::Ike(Box::new(offer));
        self.send_request(ExchangeType::IKE_FOLLOWUP_KE, job, payloads, offer, cx);
    }

    /// Keeps an exchange of the peer that IKE_FOLLOWUP_KE must complete. Returns the notification for the response.
    pub fn await_followup(
        &mut self,
        agreed: AgreedSa,
        method: &'static Group,
        cx: &mut Context<'_>,
    ) -> Payload {
        let pending = PendingFollowup {
            agreed,
            expires: cx.now + PENDING_TIMEOUT,
            method,
            link: cx.rng.bytes(),
        };
        let notify = link_notify(pending.link.to_vec());
        self.pending_followup = Some(pending);
        notify
    }

    /// Handles the peer's request.
    pub fn on_followup_ke(
        &mut self,
        payloads: Vec<Payload>,
        cx: &mut Context<'_>,
    ) -> (Vec<Payload>, SaOutcome) {
        let request = match Followup::read(payloads) {
            Ok(request) => request,
            Err(error) => return informational::reject(&error),
        };
        let response = self.complete_followup(&request, cx);
        (self.response_payloads(response, cx), SaOutcome::Open)
    }

    fn complete_followup(
        &mut self,
        request: &Followup,
        cx: &mut Context<'_>,
    ) -> Result<Vec<Payload>, Rejection> {
        let pending = self
            .pending_followup
            .take_if(|pending| request.link.as_deref() == Some(pending.link.as_slice()))
            .ok_or(Rejection::notify(NotifyType::STATE_NOT_FOUND))?;
        // Meanwhile the SA to rekey may have gone, or an exchange of ours may have replaced it.
        let reply = match &pending.agreed {
            AgreedSa::Child { old: Some(old), .. } => {
                let child = self.children.by_spi_in(*old);
                collision::on_rekey_child(self.busy(), child.map(|child| child.state))
            }
            AgreedSa::Child { old: None, .. } => collision::on_create(self.busy()),
            AgreedSa::Ike(_) => collision::on_rekey_ike(self.busy()),
        };
        match reply {
            Reply::Execute => {}
            Reply::TemporaryFailure => {
                return Err(Rejection::notify(NotifyType::TEMPORARY_FAILURE));
            }
            Reply::ChildNotFound => return Err(Rejection::notify(NotifyType::CHILD_SA_NOT_FOUND)),
        }
        if request.ke.group != pending.method.id {
            return Err(Rejection::Error(Error::Misbehaved(
                "its additional key exchange is not the one we chose",
            )));
        }
        let (shared, ke) = respond_ke(pending.method, Some(&request.ke), cx.rng)?;
        match pending.agreed {
            AgreedSa::Child { old, agreed } => {
                if !self.children.has_room(old, &agreed.policy) {
                    return Err(Rejection::notify(NotifyType::NO_ADDITIONAL_SAS));
                }
                let created = agreed.with_keys(Some(&shared), self.parent(), cx);
                self.adopt_child(old, created, cx);
            }
            AgreedSa::Ike(agreed) => {
                let new = agreed.with_keys(Some(&shared), self);
                self.adopt_ike(new, cx)?;
            }
        }
        Ok(vec![ke])
    }
}

fn link_notify(link: Vec<u8>) -> Payload {
    Payload::Notify(Notify::new(NotifyType::ADDITIONAL_KEY_EXCHANGE, link))
}
