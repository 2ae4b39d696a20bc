//! What the peer asks of us: every request in the window is answered, whatever we wait for ourselves (RFC 7296 §2.1, §2.3, §2.25).

use super::request::{Asked, Direction};
use super::{IkeSa, Phase, SaOutcome};
use crate::ike::children::{DELETE_FOR_PEER, Standing};
use crate::ike::collision::Busy;
use crate::ike::event::{Datagram, DownReason, Role};
use crate::ike::exchange::informational;
use crate::ike::handshake::Context;
use crate::ike::out_message::{Datagrams, FragmentSize};
use crate::ike::protect::Opened;
use crate::ike::sa::Job;
use crate::ike::unauthenticated::DropClass;
use crate::ike::window;
use crate::net::Time;
use crate::wire::{ExchangeType, Message};

impl IkeSa {
    /// Takes a message of this SA, request or response.
    pub fn on_message(
        &mut self,
        message: &Message<'_>,
        datagram: Datagram<'_>,
        cx: &mut Context<'_>,
    ) -> SaOutcome {
        // RFC 7296 §2.2: each side numbers its own requests, so the flag must name the side that is not us.
        let theirs = self.role == Role::Responder;
        if message.header.flags.initiator != theirs {
            cx.count_drop(DropClass::Stray);
            return SaOutcome::Open;
        }
        if message.header.flags.response {
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
        let id = message.header.message_id;
        match self.received.classify(id, datagram.bytes) {
            window::Request::New => {}
            window::Request::Repeated(response) => {
                self.wait_on(cx.now);
                self.reply(&response, FragmentSize::Configured, datagram, cx);
                return SaOutcome::Open;
            }
            window::Request::Refragmented(response) => {
                if self.protector.is_first_fragment(message) {
                    self.reply(&response, FragmentSize::Minimum, datagram, cx);
                } else {
                    cx.count_drop(DropClass::Stray);
                }
                return SaOutcome::Open;
            }
            window::Request::Stray => {
                cx.count_drop(DropClass::Stray);
                return SaOutcome::Open;
            }
        }
        let Opened { mark, payloads, .. } = match self.protector.open(message) {
            Ok(opened) => opened,
            Err(why) => {
                cx.count_unopened(why);
                return SaOutcome::Open;
            }
        };
        self.idle.heard(cx.now);
        self.follow(datagram.remote, cx);
        self.on_next_request(cx);
        let exchange = message.header.exchange;
        let (payloads, outcome) = match payloads {
            Err(error) => informational::refuse(&error.into()),
            Ok(payloads) if exchange == ExchangeType::INFORMATIONAL => {
                informational::respond(self, payloads, cx)
            }
            Ok(payloads) if exchange == ExchangeType::CREATE_CHILD_SA => {
                self.on_create_request(payloads, cx)
            }
            Ok(payloads) if exchange == ExchangeType::IKE_FOLLOWUP_KE => {
                self.on_followup_request(payloads, cx)
            }
            // Another exchange has no place here; the peer may have meant another SA.
            Ok(_) => return SaOutcome::Open,
        };
        let header = self.header(exchange, id, Direction::Response);
        let (header, payloads) = cx.impaired(header, payloads);
        let Some(response) = self.protector.seal(header, &payloads) else {
            return SaOutcome::Open;
        };
        if !self.received.answered(mark, response.clone()) {
            self.close(DownReason::Expired, None, cx);
        }
        self.reply(&response, FragmentSize::Configured, datagram, cx);
        outcome
    }

    /// The peer has not heard our answer yet, so it cannot have acted on it.
    fn wait_on(&mut self, now: Time) {
        self.children
            .iter_mut()
            .for_each(|child| child.wait_on(now));
        match (self.phase, &mut self.close_at) {
            (Phase::Replaced, Some((at, _))) => *at = now + DELETE_FOR_PEER,
            (Phase::Replaced, None) | (Phase::Open | Phase::Closing(_), _) => {}
        }
    }

    /// Answers go where the question came from (RFC 7296 §2.11).
    fn reply(
        &mut self,
        response: &Datagrams,
        size: FragmentSize,
        datagram: Datagram<'_>,
        cx: &mut Context<'_>,
    ) {
        let copies = response.transmits(size, datagram.local, datagram.remote);
        cx.out.transmits.extend(copies);
        // A repetition may come from anywhere, and the way there keeps no NAT of ours open.
        if datagram.remote == self.conn.remote {
            self.idle.sent(cx.now);
        }
    }

    /// What we have under way.
    pub(super) fn busy(&self) -> Busy {
        match (self.phase, self.request.as_ref().map(|out| &out.asked)) {
            (Phase::Replaced | Phase::Closing(_), _) => Busy::Leaving,
            (Phase::Open, Some(Asked::Ike(_))) => Busy::Rekeying,
            (Phase::Open, Some(Asked::Child(_))) => Busy::Child,
            (Phase::Open, Some(Asked::Informational)) => {
                let deletes = |job: &Job| match job {
                    Job::DeleteChild { .. } => true,
                    Job::Liveness
                    | Job::InvalidSpi { .. }
                    | Job::RekeyChild { .. }
                    | Job::CreateChild { .. }
                    | Job::RekeyIke { .. }
                    | Job::DeleteIke(_) => false,
                };
                if self.request.as_ref().is_some_and(|out| deletes(&out.job)) {
                    Busy::Child
                } else {
                    Busy::Idle
                }
            }
            (Phase::Open, None) => Busy::Idle,
        }
    }

    /// The peer has deleted these of its Child SAs (by its SPIs). Gives our SPIs for the answer: SAs are deleted in pairs (RFC 7296 §1.4.1).
    pub fn on_children_deleted(
        &mut self,
        named: impl Fn(u32) -> bool,
        cx: &mut Context<'_>,
    ) -> Vec<u32> {
        let mut answer = Vec::new();
        let gone: Vec<(u32, Standing)> = self
            .children
            .iter()
            .filter(|child| named(child.spi_out))
            .map(|child| (child.spi_in, child.standing))
            .collect();
        for (spi_in, standing) in gone {
            let delete = Job::DeleteChild { spi_in };
            // When both deletes cross, neither answer names the SA again. One of ours that has not left yet is not sent any more.
            if (self.request.as_ref()).is_none_or(|request| request.job != delete) {
                answer.push(spi_in);
            }
            self.jobs.retain(|job| *job != delete);
            let reason = match standing {
                Standing::Leaving { reason } => reason,
                Standing::Replaced { .. } => {
                    self.output.rekeys.child = self.output.rekeys.child.saturating_add(1);
                    DownReason::Replaced
                }
                Standing::Redundant { .. } => DownReason::Redundant,
                Standing::Working | Standing::Waiting { .. } => DownReason::PeerDeleted,
            };
            self.drop_child(spi_in, reason, cx);
        }
        if !self.children.any_of_use() {
            self.on_no_child_left(cx);
        }
        answer
    }

    /// The peer gets ESP for an SPI that it does not have; it says so under protection, so it is believed (RFC 7296 §1.5).
    pub fn on_invalid_spi(&mut self, spi_out: u32, cx: &mut Context<'_>) {
        let lost = self.children.of_peers(spi_out);
        // What is being replaced or deleted may well be gone there already.
        if let Some(child) = lost.filter(|child| child.standing == Standing::Working) {
            self.replace_lost(child.spi_in, cx);
        }
    }

    /// The peer closes the IKE SA. If it had just rekeyed it as we did, its SA is the one that stays; our own request is forgotten (RFC 7296 §2.25.2).
    pub fn on_ike_deleted(&mut self, cx: &mut Context<'_>) -> DownReason {
        if let Some(request) = self.request.take()
            && let Asked::Ike(asked) = request.asked
            && let Some(colliding) = asked.colliding
        {
            self.hand_over(colliding, cx);
        }
        self.closing_reason()
    }
}
