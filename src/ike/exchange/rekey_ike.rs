//! CREATE_CHILD_SA that rekeys the IKE SA (RFC 7296 §1.3.2, §2.8, §2.18); collisions follow [`collision`].
//!
//! ```text
//!     initiator                                         responder
//! 1.  rekey_ike ─▶ rekey_ike_request
//!     HDR, SK { SA (new SPIi), Ni, KEi }  ──▶            create_child::on_create_child ─▶ rekey_ike_for_peer ─▶ adopt_ike
//! 2.  on_rekey_ike_response ─▶ on_ike_created  ◀──  HDR, SK { SA (new SPIr), Nr, KEr }
//! 3.  HDR, SK { D(IKE) }  ──▶                           informational::on_ike_deleted
//!                              ◀──  HDR, SK { }
//! ```
//!
//! The Child SAs move to the new IKE SA (`hand_over`), whose message IDs start at 0. The initiator deletes the old one.

use super::followup_ke::read_response;
use super::outcome::{MAX_TEMPORARY_FAILURES, Rejection, RequestFailure, Step, retry_pause};
use super::payloads::{check_public_value, fresh_nonce, ke_payload, respond_ke};
use crate::crypto::{Generator, KeyExchange, Secret};
use crate::ike::child_sa::PEER_DELETE_TIMEOUT;
use crate::ike::closest_proposal;
use crate::ike::collision::{self, Reply, Survivor};
use crate::ike::context::Context;
use crate::ike::error::{Error, Incompatible, rekey_rejected};
use crate::ike::event::{DownReason, Event, Rekey, Role};
use crate::ike::key_schedule::{IkeKeys, Nonces};
use crate::ike::messages::Renewal;
use crate::ike::negotiate;
use crate::ike::offer::join;
use crate::ike::sa::{AgreedIke, AgreedSa, IkeOffer, IkeSa, Job, NewIkeSa, Offer, Phase};
use crate::ike::settings::Settings;
use crate::wire::{ChainError, IkeSpi, Notify, NotifyType, Payload};

impl IkeSa {
    /// Starts to rekey the IKE SA.
    pub fn rekey_ike(&mut self, cx: &mut Context<'_>) {
        if self.is_open() {
            self.lifetime.rekey_at = None;
            self.queue_request(Job::RekeyIke { group: None }, cx);
        }
    }

    /// The request that rekeys the IKE SA.
    pub fn rekey_ike_request(
        &self,
        group: Option<u16>,
        cx: &mut Context<'_>,
    ) -> Option<(Vec<Payload>, Offer)> {
        let settings = &self.conn.settings;
        let offer = IkeOffer::new(settings, group, cx.rng)?;
        Some((offer.payloads(settings), Offer::Ike(Box::new(offer))))
    }

    /// Handles the response to our request.
    pub fn on_rekey_ike_response(
        &mut self,
        job: Job,
        mut offer: IkeOffer,
        payloads: Result<Vec<Payload>, ChainError>,
        cx: &mut Context<'_>,
    ) {
        let followup = offer.followup.take();
        let step = read_response(followup, payloads, cx, |renewal, _| {
            let agreed = offer.accept(renewal, &self.conn.settings)?;
            let additional = agreed.suite.additional;
            Ok((agreed, additional))
        });
        let created = match step {
            Ok(Step::Agreed(agreed, additional)) => self
                .successor(agreed.with_keys(additional.as_ref(), self), cx)
                .map_err(|_| Error::Misbehaved("its response leads to keys of the wrong length")),
            Ok(_) if !self.is_open() => return,
            Ok(Step::Followup(followup)) => {
                return self.follow_up_ike(job, offer, followup, cx);
            }
            Ok(Step::OtherGroup(group)) => return self.on_other_ike_group(&offer, group, cx),
            Ok(Step::Rejected(notify)) => return self.on_rekey_ike_rejected(&notify, cx),
            Err(error) => Err(error),
        };
        match (created, self.phase) {
            // The new IKE SA is not needed any more, but it exists at the peer.
            (Ok(mut new), Phase::Closing(reason)) => {
                new.close(reason, None, cx);
                self.output.successors.push(new);
            }
            (Err(_), Phase::Closing(_)) => {}
            (Ok(new), Phase::Open | Phase::Replaced) => self.on_ike_created(new, cx),
            (Err(error), Phase::Open | Phase::Replaced) => {
                let failure = RequestFailure::Rejected(error.failure(cx.now));
                self.on_rekey_ike_failed(failure, cx);
            }
        }
    }

    /// Replaces the IKE SA by that of our exchange. If the peer's exchange has created another, the nonces decide which stays.
    fn on_ike_created(&mut self, mut new: Box<IkeSa>, cx: &mut Context<'_>) {
        self.output.verdicts.push((Rekey::Ike, Ok(())));
        let Some(mut colliding) = self.colliding.take() else {
            self.hand_over(new, cx);
            return self.close(DownReason::Replaced, None, cx);
        };
        match collision::survivor(&new.nonces, &colliding.nonces, self.role) {
            Survivor::Ours => {
                colliding.close_later(cx.now + PEER_DELETE_TIMEOUT, DownReason::Redundant);
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

    /// Repeats the request with the group that the peer has asked for.
    fn on_other_ike_group(&mut self, offer: &IkeOffer, group: u16, cx: &mut Context<'_>) {
        if self.colliding.is_none() && offer.may_use(&self.conn.settings, group) {
            let group = Some(group);
            return self.queue_request(Job::RekeyIke { group }, cx);
        }
        let wanted = group.to_be_bytes().to_vec();
        let notify = Notify::new(NotifyType::INVALID_KE_PAYLOAD, wanted);
        self.on_rekey_ike_rejected(&notify, cx);
    }

    fn on_rekey_ike_rejected(&mut self, notify: &Notify, cx: &mut Context<'_>) {
        let failure = || rekey_rejected(cx.now, Rekey::Ike, notify, &self.conn.settings);
        let failure = if notify.kind == NotifyType::TEMPORARY_FAILURE {
            let lasts = self.lifetime.rejections >= MAX_TEMPORARY_FAILURES;
            RequestFailure::Temporary(lasts.then(failure))
        } else {
            RequestFailure::Rejected(failure())
        };
        self.on_rekey_ike_failed(failure, cx);
    }

    /// Reports a failed request and schedules the next one. If the peer's exchange has collided with it, that one has rekeyed the SA.
    fn on_rekey_ike_failed(&mut self, failure: RequestFailure, cx: &mut Context<'_>) {
        if let Some(colliding) = self.colliding.take() {
            self.hand_over(colliding, cx);
            return self.await_delete(cx);
        }
        let jitter = cx.jitter();
        let lifetime = &mut self.lifetime;
        lifetime.rejections = lifetime.rejections.saturating_add(1);
        let pause = retry_pause(lifetime.hard_expiry, lifetime.rejections, cx.now, jitter);
        lifetime.rekey_at = Some(failure.retry_at(cx.now + pause, lifetime.soft_expiry));
        self.report_rekey_failure(Rekey::Ike, failure);
    }

    /// Rekeys the IKE SA for the peer.
    pub fn rekey_ike_for_peer(
        &mut self,
        request: &Renewal,
        cx: &mut Context<'_>,
    ) -> Result<Vec<Payload>, Rejection> {
        match collision::on_rekey_ike(self.busy()) {
            Reply::Execute => {}
            Reply::TemporaryFailure | Reply::ChildNotFound => {
                return Err(Rejection::notify(NotifyType::TEMPORARY_FAILURE));
            }
        }
        let (agreed, mut payloads) = choose_ike(request, &self.conn.settings, cx.rng)?;
        match agreed.suite.additional {
            None => {
                let new = agreed.with_keys(None, self);
                self.adopt_ike(new, cx)?;
            }
            Some(method) => {
                let agreed = AgreedSa::Ike(Box::new(agreed));
                payloads.push(self.await_followup(agreed, method, cx));
            }
        }
        Ok(payloads)
    }

    /// Replaces the IKE SA by that of the peer's exchange. While our own request is outstanding, both are kept until its response.
    pub fn adopt_ike(&mut self, new: NewIkeSa, cx: &mut Context<'_>) -> Result<(), Rejection> {
        if self.colliding.is_some() {
            return Err(Rejection::notify(NotifyType::TEMPORARY_FAILURE));
        }
        let new = self
            .successor(new, cx)
            .map_err(|_| Error::Misbehaved("its offer leads to keys of the wrong length"))?;
        self.output.verdicts.push((Rekey::Ike, Ok(())));
        match self.request.as_ref().map(|request| &request.offer) {
            Some(Offer::Ike(_)) => self.colliding = Some(new),
            Some(Offer::Child(_) | Offer::None) | None => {
                self.hand_over(new, cx);
                self.await_delete(cx);
            }
        }
        Ok(())
    }

    /// Moves the Child SAs and the queued jobs to the IKE SA that replaces this one.
    pub fn hand_over(&mut self, mut to: Box<IkeSa>, cx: &mut Context<'_>) {
        to.children.append(&mut self.children);
        to.jobs.extend(self.jobs.drain(..).filter(|job| match job {
            Job::RekeyChild { .. }
            | Job::CreateChild { .. }
            | Job::InvalidSpi { .. }
            | Job::DeleteChild { .. } => true,
            Job::Liveness | Job::RekeyIke { .. } | Job::DeleteIke(_) => false,
        }));
        to.create_child_at = self.create_child_at.take();
        // New keys do not save an SA that was to be closed.
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
        to.send_next(cx);
        self.output.successors.push(to);
    }
}

impl IkeOffer {
    /// Prepares a request; `None` without a proposal, which no configuration allows. `group` is the one that the peer has asked for.
    fn new(settings: &Settings, group: Option<u16>, rng: &mut Generator) -> Option<IkeOffer> {
        let group_forced = group.is_some();
        let groups = || settings.ike.iter().flat_map(|proposal| &proposal.groups);
        let group = groups()
            .find(|offered| Some(offered.id) == group)
            .or_else(|| groups().next())?;
        let ke = KeyExchange::generate(group, rng);
        let nonce = fresh_nonce(rng);
        Some(IkeOffer {
            group_forced,
            followup: None,
            spi: fresh_spi(rng),
            nonce,
            ke,
        })
    }

    /// The payloads of the request.
    fn payloads(&self, settings: &Settings) -> Vec<Payload> {
        let spi = self.spi.0.to_be_bytes();
        vec![
            Payload::Sa(negotiate::offer_ike(&settings.ike, &spi)),
            Payload::Nonce(self.nonce.clone()),
            ke_payload(&self.ke),
        ]
    }

    /// Whether the group that the peer asks for is worth a second request: one that we offer and have not tried. The peer may ask once.
    fn may_use(&self, settings: &Settings, group: u16) -> bool {
        let mut groups = settings.ike.iter().flat_map(|proposal| &proposal.groups);
        !self.group_forced
            && self.ke.group().id != group
            && groups.any(|offered| offered.id == group)
    }

    /// Checks the response and takes the new IKE SA from it.
    fn accept(&self, response: &Renewal, settings: &Settings) -> Result<AgreedIke, Error> {
        let chosen = negotiate::accept_ike(&settings.ike, &response.sa).ok_or(
            Error::Misbehaved("it chose an IKE suite that we did not offer"),
        )?;
        let spi_r = ike_spi(&chosen.spi).ok_or(Error::Misbehaved(
            "its response has no SPI for the new IKE SA",
        ))?;
        let theirs = response
            .ke
            .as_ref()
            .filter(|ke| ke.group == chosen.suite.group.id && chosen.suite.group == self.ke.group())
            .ok_or(Error::Misbehaved(
                "its key exchange is not the one it chose",
            ))?;
        let shared = check_public_value(self.ke.agree(&theirs.data))?;
        Ok(AgreedIke {
            spi_i: self.spi,
            spi_r,
            role: Role::Initiator,
            suite: chosen.suite,
            nonces: Nonces {
                initiator: self.nonce.clone(),
                responder: response.nonce.clone(),
            },
            shared,
        })
    }
}

/// Chooses an IKE SA from the peer's request. Returns it with the payloads of the response.
fn choose_ike(
    request: &Renewal,
    settings: &Settings,
    rng: &mut Generator,
) -> Result<(AgreedIke, Vec<Payload>), Error> {
    let ours = &settings.ike;
    let no_proposal = || {
        Error::Incompatible(Incompatible::Ike {
            theirs: negotiate::words_of_all(&request.sa, 8),
            ours: join(ours.iter()),
            closest: closest_proposal::ike(ours, &request.sa),
        })
    };
    let chosen = negotiate::choose_ike(ours, &request.sa).ok_or_else(no_proposal)?;
    let spi_i = ike_spi(&chosen.spi).ok_or_else(|| {
        Error::Incompatible(Incompatible::Spi {
            spi: chosen.spi.clone(),
        })
    })?;
    let suite = chosen.suite;
    let (shared, ke) = respond_ke(suite.group, request.ke.as_ref(), rng)?;
    let spi_r = fresh_spi(rng);
    let nonce = fresh_nonce(rng);
    let payloads = vec![
        Payload::Sa(negotiate::ike_response(&chosen, &spi_r.0.to_be_bytes())),
        Payload::Nonce(nonce.clone()),
        ke,
    ];
    let agreed = AgreedIke {
        spi_i,
        spi_r,
        role: Role::Responder,
        suite,
        nonces: Nonces {
            initiator: request.nonce.clone(),
            responder: nonce,
        },
        shared,
    };
    Ok((agreed, payloads))
}

impl AgreedIke {
    /// Derives the keys from SK_d of the old IKE SA. `additional` is the secret of the additional key exchange.
    pub fn with_keys(self, additional: Option<&Secret>, old: &IkeSa) -> NewIkeSa {
        let keys = IkeKeys::rekeyed(
            (old.suite.prf, &old.sk_d),
            self.suite,
            (&self.shared, additional),
            &self.nonces,
            self.spi_i,
            self.spi_r,
        );
        NewIkeSa {
            spi_i: self.spi_i,
            spi_r: self.spi_r,
            role: self.role,
            suite: self.suite,
            nonces: self.nonces,
            keys,
        }
    }
}

/// An SPI of eight octets that is not zero.
fn ike_spi(bytes: &[u8]) -> Option<IkeSpi> {
    let spi = IkeSpi(u64::from_be_bytes(bytes.try_into().ok()?));
    (!spi.is_zero()).then_some(spi)
}

/// A new SPI. A collision with another one of ours has a probability of 2^-64, and would only keep the new SA out of the endpoint's table.
fn fresh_spi(rng: &mut Generator) -> IkeSpi {
    loop {
        let spi = IkeSpi(rng.u64());
        if !spi.is_zero() {
            return spi;
        }
    }
}
