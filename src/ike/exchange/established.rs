//! Messages of an established IKE SA: from the opened message to its exchange, and from a job to its request.
//!
//! ```text
//! request   on_message ─▶ IkeSa::open_request ─▶ the exchange ─▶ payloads ─▶ IkeSa::respond
//! response  on_message ─▶ IkeSa::open_response ─▶ the exchange ─▶ IkeSa::send_next
//! job       IkeSa::queue_request ─▶ IkeSa::send_next ─▶ build_request ─▶ IkeSa::send_request
//! ```

use super::informational;
use super::payloads::is_fatal;
use crate::ike::context::Context;
use crate::ike::event::{Datagram, DownReason, Role};
use crate::ike::sa::{IkeSa, Job, Offer, Phase, SaOutcome};
use crate::ike::unauthenticated::DropClass;
use crate::wire::{ExchangeType, Message, Notify, NotifyType, Payload};

impl IkeSa {
    /// Handles a message of this SA, request or response.
    pub fn on_message(
        &mut self,
        message: &Message<'_>,
        datagram: Datagram<'_>,
        cx: &mut Context<'_>,
    ) -> SaOutcome {
        let header = message.header;
        // RFC 7296 §2.2: each side numbers its own requests, so the initiator flag must name the peer.
        let peer_is_initiator = self.role == Role::Responder;
        if header.flags.initiator != peer_is_initiator
            || self.spis() != (header.spi_i, header.spi_r)
        {
            cx.count_drop(DropClass::Stray);
            return SaOutcome::Open;
        }
        if header.flags.response {
            self.on_response(message, datagram, cx)
        } else {
            self.on_request(message, datagram, cx)
        }
    }

    fn on_request(
        &mut self,
        message: &Message<'_>,
        datagram: Datagram<'_>,
        cx: &mut Context<'_>,
    ) -> SaOutcome {
        let Some((request, payloads)) = self.open_request(message, datagram, cx) else {
            return SaOutcome::Open;
        };
        let (response, outcome) = match (request.exchange, payloads) {
            (_, Err(error)) => informational::reject(&error.into()),
            (ExchangeType::INFORMATIONAL, Ok(payloads)) => self.on_informational(payloads, cx),
            (ExchangeType::CREATE_CHILD_SA, Ok(payloads)) => self.on_create_child(payloads, cx),
            (ExchangeType::IKE_FOLLOWUP_KE, Ok(payloads)) => self.on_followup_ke(payloads, cx),
            (_, Ok(_)) => (vec![unsupported_exchange()], SaOutcome::Open),
        };
        self.respond(request, response, datagram, cx);
        outcome
    }

    fn on_response(
        &mut self,
        message: &Message<'_>,
        datagram: Datagram<'_>,
        cx: &mut Context<'_>,
    ) -> SaOutcome {
        let Some((request, payloads)) = self.open_response(message, datagram, cx) else {
            return SaOutcome::Open;
        };
        let fatal = payloads.as_ref().is_ok_and(|payloads| is_fatal(payloads));
        if matches!(request.job, Job::DeleteIke(_)) {
            return SaOutcome::Closed(self.closing_reason());
        }
        if fatal {
            return SaOutcome::Closed(match self.phase {
                Phase::Open => DownReason::RequestRejected,
                Phase::Replaced | Phase::Closing(_) => self.closing_reason(),
            });
        }
        match request.offer {
            // RFC 7296 §2.21.3 lets a response that cannot be parsed count as one: these requests need no more.
            Offer::None => self.on_informational_response(&request.job, cx),
            Offer::Child(offer) => self.on_child_response(&request.job, *offer, payloads, cx),
            Offer::Ike(offer) => self.on_rekey_ike_response(request.job, *offer, payloads, cx),
        }
        self.send_next(cx);
        SaOutcome::Open
    }

    /// The payloads of a request, and what its response will be compared with; `None` if the job is no longer needed.
    pub fn build_request(&self, job: &Job, cx: &mut Context<'_>) -> Option<(Vec<Payload>, Offer)> {
        match job {
            Job::Liveness | Job::DeleteChild { .. } | Job::DeleteIke(_) => {
                Some((informational::request(job), Offer::None))
            }
            // The response that created this Child SA may have been overtaken by ESP: INVALID_SPI would have the peer replace it.
            Job::InvalidSpi { spi } => (self.children.by_spi_in(*spi).is_none())
                .then(|| (informational::request(job), Offer::None)),
            Job::RekeyChild { spi_in, group } => self.rekey_child_request(*spi_in, *group, cx),
            Job::CreateChild { policy, group } => self.create_child_request(policy, *group, cx),
            Job::RekeyIke { group } => self.rekey_ike_request(*group, cx),
        }
    }
}

/// Answers a request of an exchange type that an established SA does not have. Without a response the peer would repeat the request and then give the SA up.
///
/// INVALID_SYNTAX would delete the IKE SA at both ends (RFC 7296 §2.21.3), over an exchange that has changed nothing; and a peer that tries the exchange again
/// after each handshake would never keep a tunnel. strongSwan answers with UNSUPPORTED_CRITICAL_PAYLOAD for payload type 0, libreswan with INVALID_IKE_SPI, and
/// both keep the SA. Any error type fails just the request (§3.10.1); we send the one that says that something is not supported, as strongSwan does.
fn unsupported_exchange() -> Payload {
    let kind = NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD;
    Payload::Notify(Notify::new(kind, vec![0]))
}
