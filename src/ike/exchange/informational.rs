//! INFORMATIONAL (RFC 7296 §1.4): liveness checks, errors and deletions. Every request is answered, an empty one with an empty response.
//!
//! ```text
//! HDR, SK { }          ──▶      ◀──  HDR, SK { }           liveness check
//! HDR, SK { D(ESP) }   ──▶      ◀──  HDR, SK { D(ESP) }    a Child SA is deleted in pairs: each side names its inbound SPI
//! HDR, SK { D(IKE) }   ──▶      ◀──  HDR, SK { }           the IKE SA and all its Child SAs
//! HDR, SK { N(INVALID_SPI) }  ──▶   ◀──  HDR, SK { }       ESP came for an SPI that the sender does not have
//! ```

use std::collections::BTreeSet;
use std::time::Duration;

use crate::ike::child_sa::ChildState;
use crate::ike::context::Context;
use crate::ike::error::Error;
use crate::ike::event::DownReason;
use crate::ike::messages::Informational;
use crate::ike::sa::{IkeSa, Job, SaOutcome};
use crate::wire::{Delete, Notify, NotifyType, Payload, ProtocolId};

/// The least time between two INVALID_SPI notifications.
const INVALID_SPI_INTERVAL: Duration = Duration::from_secs(10);

/// The payloads of our request.
pub fn request(job: &Job) -> Vec<Payload> {
    match job {
        Job::InvalidSpi { spi } => {
            let data = spi.to_be_bytes().to_vec();
            vec![Payload::Notify(Notify::new(NotifyType::INVALID_SPI, data))]
        }
        Job::DeleteChild { spi_in } => vec![Payload::Delete(Delete::esp(vec![*spi_in]))],
        Job::DeleteIke(why) => why
            .iter()
            .cloned()
            .map(Payload::Notify)
            .chain([Payload::Delete(Delete::ike())])
            .collect(),
        Job::Liveness | Job::RekeyChild { .. } | Job::CreateChild { .. } | Job::RekeyIke { .. } => {
            Vec::new()
        }
    }
}

/// Rejects an authentic request that cannot be parsed. That ends the IKE SA (RFC 7296 §2.21.3); an unknown critical payload does not (§2.5).
pub fn reject(error: &Error) -> (Vec<Payload>, SaOutcome) {
    let response = vec![Payload::Notify(error.notify())];
    let outcome = match error {
        Error::Malformed(_) | Error::Misbehaved(_) => SaOutcome::Closed(DownReason::InvalidRequest),
        Error::UnsupportedCritical(_) | Error::Incompatible(_) | Error::Denied(_) => {
            SaOutcome::Open
        }
    };
    (response, outcome)
}

impl IkeSa {
    /// Handles the peer's request.
    pub fn on_informational(
        &mut self,
        payloads: Vec<Payload>,
        cx: &mut Context<'_>,
    ) -> (Vec<Payload>, SaOutcome) {
        let request = match Informational::read(payloads) {
            Ok(request) => request,
            Err(error) => return reject(&error),
        };
        // RFC 7296 §2.21.2: an initiator that does not accept our identity says so in INFORMATIONAL, with a DELETE beside it or without.
        if request
            .notifies
            .iter()
            .any(|notify| notify.kind == NotifyType::AUTHENTICATION_FAILED)
        {
            return (Vec::new(), SaOutcome::Closed(DownReason::IdentityRejected));
        }
        if request
            .deletes
            .iter()
            .any(|delete| delete.protocol == ProtocolId::IKE)
        {
            return (Vec::new(), SaOutcome::Closed(self.on_ike_deleted(cx)));
        }
        let named = |spi_out: u32| {
            request
                .deletes
                .iter()
                .any(|delete| delete.protocol == ProtocolId::ESP && delete.spis.contains(&spi_out))
        };
        let deleted = self.on_children_deleted(named, cx);
        for notify in &request.notifies {
            if notify.kind == NotifyType::INVALID_SPI
                && let Ok(spi) = <[u8; 4]>::try_from(notify.data.as_slice())
            {
                self.on_invalid_spi(u32::from_be_bytes(spi), cx);
            }
        }
        let response = (!deleted.is_empty()).then(|| Payload::Delete(Delete::esp(deleted)));
        (response.into_iter().collect(), SaOutcome::Open)
    }

    /// Removes the Child SAs that the peer has deleted, named by their outbound SPIs. Returns the inbound SPIs for the response: SAs are deleted in pairs
    /// (RFC 7296 §1.4.1).
    fn on_children_deleted(
        &mut self,
        named: impl Fn(u32) -> bool,
        cx: &mut Context<'_>,
    ) -> Vec<u32> {
        let mut response = Vec::new();
        let gone: Vec<(u32, ChildState, u32)> = self
            .children
            .iter()
            .filter(|child| named(child.spi_out))
            .map(|child| (child.spi_in, child.state, child.traffic))
            .collect();
        let traffics: BTreeSet<u32> = gone.iter().map(|(.., traffic)| *traffic).collect();
        for (spi_in, state, _) in gone {
            let delete = Job::DeleteChild { spi_in };
            // When both deletions cross, neither response names the SA again. A queued one is not sent any more.
            if (self.request.as_ref()).is_none_or(|request| request.job != delete) {
                response.push(spi_in);
            }
            self.jobs.retain(|job| *job != delete);
            let reason = match state {
                ChildState::Deleting { reason } => reason,
                ChildState::Replaced { .. } => {
                    self.output.rekeys.child = self.output.rekeys.child.saturating_add(1);
                    DownReason::Replaced
                }
                ChildState::Redundant { .. } => DownReason::Redundant,
                ChildState::Active | ChildState::AwaitingPeer { .. } => DownReason::PeerDeleted,
            };
            self.drop_child(spi_in, reason, cx);
        }
        for traffic in traffics {
            self.on_child_lost(traffic, cx);
        }
        response
    }

    /// Replaces the Child SA for which the peer sends INVALID_SPI: the notification is protected, so it is trusted (RFC 7296 §1.5).
    fn on_invalid_spi(&mut self, spi_out: u32, cx: &mut Context<'_>) {
        let lost = self.children.by_spi_out(spi_out);
        // One that is being replaced or deleted may be gone at the peer already.
        if let Some(child) = lost.filter(|child| child.state == ChildState::Active) {
            self.replace_lost(child.spi_in, cx);
        }
    }

    /// Handles the peer's deletion of the IKE SA. If both sides had rekeyed it, the peer's successor stays, and our own request is dropped (RFC 7296 §2.25.2).
    fn on_ike_deleted(&mut self, cx: &mut Context<'_>) -> DownReason {
        self.request = None;
        if let Some(colliding) = self.colliding.take() {
            self.hand_over(colliding, cx);
        }
        self.closing_reason()
    }

    /// Handles the response to a request of ours: a deleted Child SA is gone now.
    pub fn on_informational_response(&mut self, job: &Job, cx: &mut Context<'_>) {
        let Job::DeleteChild { spi_in } = job else {
            return;
        };
        if let Some(child) = self.children.by_spi_in(*spi_in)
            && let ChildState::Deleting { reason } = child.state
        {
            let traffic = child.traffic;
            self.drop_child(*spi_in, reason, cx);
            self.on_child_lost(traffic, cx);
        }
    }

    /// Stops sending over a Child SA and deletes it. It receives until the peer has answered.
    pub fn delete_child(&mut self, spi_in: u32, reason: DownReason, cx: &mut Context<'_>) {
        if let Some(child) = self.children.by_spi_in_mut(spi_in) {
            child.state = ChildState::Deleting { reason };
            let traffic = child.traffic;
            self.prefer_newest_unless_active(traffic, cx);
            self.queue_request(Job::DeleteChild { spi_in }, cx);
        }
    }

    /// Whether our DELETE for this Child SA is queued or sent.
    pub fn is_deleting_child(&self, spi_in: u32) -> bool {
        let job = Job::DeleteChild { spi_in };
        let is_sent = self
            .request
            .as_ref()
            .is_some_and(|request| request.job == job);
        is_sent || self.jobs.contains(&job)
    }

    /// Tells the peer, at a limited rate, that it sends ESP for an unknown SPI. Anybody can send such ESP, so one notification at most is queued.
    pub fn notify_invalid_spi(&mut self, spi: u32, cx: &mut Context<'_>) {
        let is_queued = |job: &Job| matches!(job, Job::InvalidSpi { .. });
        if self.is_open() && self.invalid_spi_after <= cx.now && !self.jobs.iter().any(is_queued) {
            self.invalid_spi_after = cx.now + INVALID_SPI_INTERVAL;
            self.queue_request(Job::InvalidSpi { spi }, cx);
        }
    }
}
