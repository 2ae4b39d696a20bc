//! CREATE_CHILD_SA that rekeys a Child SA (RFC 7296 §1.3.3, §2.8), make before break; collisions follow [`collision`].
//!
//! ```text
//!     initiator                                                     responder
//! 1.  rekey_child ─▶ rekey_child_request
//!     HDR, SK { N(REKEY_SA, old SPI), SA, Ni, [KEi,] TSi, TSr } ──▶  create_child::on_create_child ─▶ adopt_child: the new one receives
//! 2.  on_child_created: the new one receives and sends  ◀──  HDR, SK { SA, Nr, [KEr,] TSi, TSr }
//! 3.  HDR, SK { D(old SPI) } ──▶                                    informational::on_children_deleted; the new one sends
//! 4.  informational::on_informational_response  ◀──  HDR, SK { D(old SPI) }
//! ```
//!
//! The responder sends over the new Child SA once ESP or the peer's next request shows that the peer has it.

use std::time::Duration;

use super::create_child::CreatedChild;
use super::outcome::{MAX_TEMPORARY_FAILURES, RequestFailure, retry_pause};
use crate::ike::child_sa::{CONFIRM_TIMEOUT, ChildSa, ChildState, PEER_DELETE_TIMEOUT};
use crate::ike::collision::{self, Survivor};
use crate::ike::context::Context;
use crate::ike::error::{Error, rekey_rejected};
use crate::ike::event::{DownReason, Event, Rekey, Sends};
use crate::ike::sa::{ChildOffer, CollidingChild, IkeSa, Job, Offer};
use crate::net::Time;
use crate::wire::{Notify, NotifyType, Payload};

/// How long a peer may reject the rekeying of a Child SA whose limits are used up, before another IKE SA is created instead.
const SOFT_LIMIT_PATIENCE: Duration = Duration::from_secs(10);

impl IkeSa {
    /// Starts to rekey an active Child SA.
    pub fn rekey_child(&mut self, spi_in: u32, cx: &mut Context<'_>) {
        let Some(child) = self.children.by_spi_in_mut(spi_in) else {
            return;
        };
        if child.state == ChildState::Active {
            child.rekey_at = None;
            let group = None;
            self.queue_request(Job::RekeyChild { spi_in, group }, cx);
        }
    }

    /// Starts to rekey a Child SA that has reached a soft limit. A repeated notice has no effect.
    pub fn on_soft_limit(&mut self, spi_in: u32, cx: &mut Context<'_>) {
        let Some(child) = self.children.by_spi_in_mut(spi_in) else {
            return;
        };
        if child.soft_expiry > cx.now {
            child.soft_expiry = cx.now;
            child.renew_at = child.renew_at.min(cx.now + SOFT_LIMIT_PATIENCE);
            self.rekey_child(spi_in, cx);
        }
    }

    /// The request that rekeys a Child SA; `None` if the Child SA is not active any more.
    pub fn rekey_child_request(
        &self,
        spi_in: u32,
        group: Option<u16>,
        cx: &mut Context<'_>,
    ) -> Option<(Vec<Payload>, Offer)> {
        let old = self.children.by_spi_in(spi_in)?;
        let policy = self.rekey_selectors(old);
        (old.state == ChildState::Active)
            .then(|| self.child_request(Some(spi_in), policy, group, cx))
    }

    /// Installs the Child SA of our exchange. If the peer's exchange has created another for the same old one, the nonces decide which stays.
    pub fn on_child_created(
        &mut self,
        offer: &ChildOffer,
        created: CreatedChild,
        cx: &mut Context<'_>,
    ) {
        let CreatedChild { mut child, nonces } = created;
        // A colliding one that could not be installed, or that the peer has deleted, has lost whatever the nonces are.
        // Without an old one, only Child SAs for the same traffic collide.
        let collides = |other: &ChildSa| {
            offer.old.is_some()
                || (other.policy.covers(&child.policy) && child.policy.covers(&other.policy))
        };
        let exists = |colliding: &&CollidingChild| {
            (self.children.by_spi_in(colliding.spi_in)).is_some_and(collides)
        };
        let colliding = offer.colliding.as_ref().filter(exists);
        let survivor = colliding.map_or(Survivor::Ours, |colliding| {
            collision::survivor(&nonces, &colliding.nonces, self.role)
        });
        let spi_in = child.spi_in;
        match survivor {
            Survivor::Ours => {
                let colliding = colliding.map(|colliding| colliding.spi_in);
                self.install_child(child, Sends::Now, offer.old, cx);
                if let Some(colliding) =
                    colliding.and_then(|spi_in| self.children.by_spi_in_mut(spi_in))
                {
                    let until = cx.now + PEER_DELETE_TIMEOUT;
                    colliding.state = ChildState::Redundant { until };
                }
                if let Some(old) = offer.old {
                    self.delete_child(old, DownReason::Replaced, cx);
                    self.output.rekeys.child = self.output.rekeys.child.saturating_add(1);
                }
            }
            Survivor::Theirs => {
                // The peer may have begun to send over it: it receives until the peer has agreed to the deletion.
                let reason = DownReason::Redundant;
                child.state = ChildState::Deleting { reason };
                self.install_child(child, Sends::Later, offer.old, cx);
                self.queue_request(Job::DeleteChild { spi_in }, cx);
            }
        }
        if offer.old.is_some() {
            self.output.verdicts.push((Rekey::Child, Ok(())));
        }
        self.keep_open();
    }

    /// Installs the Child SA of the peer's exchange.
    pub fn adopt_child(&mut self, old: Option<u32>, created: CreatedChild, cx: &mut Context<'_>) {
        let CreatedChild { mut child, nonces } = created;
        let spi_in = child.spi_in;
        // Our own request for the same old one collides.
        match self.request.as_mut().map(|request| &mut request.offer) {
            Some(Offer::Child(offer))
                if offer.old == old && (old.is_some() || offer.policy.overlaps(&child.policy)) =>
            {
                offer.colliding = Some(CollidingChild { spi_in, nonces });
            }
            Some(Offer::Child(_) | Offer::Ike(_) | Offer::None) | None => {}
        }
        self.jobs.retain(|job| match job {
            Job::RekeyChild { spi_in, .. } => Some(*spi_in) != old,
            Job::CreateChild { policy, .. } => !policy.overlaps(&child.policy),
            Job::Liveness
            | Job::InvalidSpi { .. }
            | Job::RekeyIke { .. }
            | Job::DeleteChild { .. }
            | Job::DeleteIke(_) => true,
        });
        let sends = if self.children.serves(&child.policy) {
            child.state = ChildState::AwaitingPeer {
                until: cx.now + CONFIRM_TIMEOUT,
                extension: CONFIRM_TIMEOUT,
                latest: Time::MAX,
            };
            Sends::Later
        } else {
            Sends::Now
        };
        if let Some(old) = old.and_then(|old| self.children.by_spi_in_mut(old)) {
            old.state = ChildState::Replaced {
                until: cx.now + PEER_DELETE_TIMEOUT,
            };
            self.output.verdicts.push((Rekey::Child, Ok(())));
        }
        self.install_child(child, sends, old, cx);
        self.keep_open();
    }

    fn install_child(
        &mut self,
        child: ChildSa,
        sends: Sends,
        replaces: Option<u32>,
        cx: &mut Context<'_>,
    ) {
        self.output.reassert_winner = self.is_redundant();
        self.output.serves |= replaces.is_none();
        let event = child.to_event(&self.conn, self.transport, sends, replaces);
        cx.out.events.push_back(Event::ChildUp(Box::new(event)));
        self.children.push(child, replaces);
    }

    /// Deletes the Child SA of an unusable response, which the peer may have created.
    pub fn on_child_unusable(&mut self, offer: &ChildOffer, error: &Error, cx: &mut Context<'_>) {
        let spi_in = offer.spi_in;
        self.queue_request(Job::DeleteChild { spi_in }, cx);
        let failure = RequestFailure::Rejected(error.failure(cx.now));
        self.on_child_failed(offer, failure, cx);
    }

    /// Handles a response that is an error notification.
    pub fn on_child_rejected(&mut self, offer: &ChildOffer, notify: &Notify, cx: &mut Context<'_>) {
        if notify.kind == NotifyType::CHILD_SA_NOT_FOUND
            && let Some(old) = offer.old
        {
            // If the requests have collided, the peer's exchange has replaced it.
            return match &offer.colliding {
                Some(colliding) => self.prefer(colliding.spi_in, cx),
                None => self.replace_lost(old, cx),
            };
        }
        let settings = &self.conn.settings;
        let failure = || rekey_rejected(cx.now, Rekey::Child, notify, settings);
        let failure = if notify.kind == NotifyType::TEMPORARY_FAILURE {
            let old = offer.old.and_then(|old| self.children.by_spi_in(old));
            let lasts = old.is_some_and(|old| old.rejections >= MAX_TEMPORARY_FAILURES);
            RequestFailure::Temporary(lasts.then(failure))
        } else {
            RequestFailure::Rejected(failure())
        };
        self.on_child_failed(offer, failure, cx);
    }

    /// Reports a failed request and schedules the next one, unless the peer's exchange has rekeyed the Child SA.
    fn on_child_failed(
        &mut self,
        offer: &ChildOffer,
        failure: RequestFailure,
        cx: &mut Context<'_>,
    ) {
        let jitter = cx.jitter();
        let child = offer.old.and_then(|old| self.children.by_spi_in_mut(old));
        if let Some(child) = child {
            if child.state != ChildState::Active {
                return;
            }
            child.rejections = child.rejections.saturating_add(1);
            let soon = cx.now + retry_pause(child.hard_expiry, child.rejections, cx.now, jitter);
            child.rekey_at = Some(failure.retry_at(soon, child.soft_expiry));
            return self.report_rekey_failure(Rekey::Child, failure);
        }
        match failure {
            RequestFailure::Temporary(failure) => {
                if offer.old.is_none() {
                    self.retry_create_child(jitter, cx);
                }
                self.output.failures.extend(failure);
            }
            RequestFailure::Rejected(failure) => self.output.failures.push(failure),
        }
    }

    /// Reports a failed rekey. TEMPORARY_FAILURE, however often, does not show whether the peer rekeys: it is no verdict of the rekey check.
    pub fn report_rekey_failure(&mut self, what: Rekey, failure: RequestFailure) {
        match failure {
            RequestFailure::Temporary(failure) => self.output.failures.extend(failure),
            RequestFailure::Rejected(failure) => {
                self.output.failures.push(failure.clone());
                self.output.verdicts.push((what, Err(failure)));
            }
        }
    }
}
