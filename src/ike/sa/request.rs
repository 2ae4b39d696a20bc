//! What we ask of the peer, one request at a time, and what becomes of its answers (RFC 7296 §1.3, §1.4, §2.1).

use std::net::SocketAddr;

use super::{IkeSa, Phase, SaOutcome};
use crate::ike::children::Standing;
use crate::ike::event::{Datagram, DownReason, Role};
use crate::ike::exchange::{create_child, informational, rekey_ike};
use crate::ike::handshake::Context;
use crate::ike::out_message::SentMessage;
use crate::ike::protect::Opened;
use crate::ike::retransmit::Retransmit;
use crate::ike::unauthenticated::DropClass;
use crate::wire::{ExchangeType, Flags, Header, Message, MessageId, Notify, Payload};

/// Something to ask of the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    /// An empty INFORMATIONAL: are you there?
    Liveness,
    /// ESP came for an SPI that we do not have (RFC 7296 §1.5).
    InvalidSpi {
        /// The SPI.
        spi: u32,
    },
    /// Fresh keys for this Child SA.
    RekeyChild {
        /// Its SPI at our end.
        spi_in: u32,
        /// The group the peer asks for.
        group: Option<u16>,
    },
    /// A Child SA, since there is none.
    CreateChild {
        /// The group the peer asks for.
        group: Option<u16>,
    },
    /// Fresh keys for this IKE SA.
    RekeyIke {
        /// The group the peer asks for.
        group: Option<u16>,
    },
    /// This Child SA is gone.
    DeleteChild {
        /// Its SPI at our end.
        spi_in: u32,
    },
    /// This IKE SA is gone, perhaps because of something.
    DeleteIke(Option<Notify>),
}

impl Job {
    fn exchange(&self) -> ExchangeType {
        match self {
            Job::Liveness
            | Job::InvalidSpi { .. }
            | Job::DeleteChild { .. }
            | Job::DeleteIke(_) => ExchangeType::INFORMATIONAL,
            Job::RekeyChild { .. } | Job::CreateChild { .. } | Job::RekeyIke { .. } => {
                ExchangeType::CREATE_CHILD_SA
            }
        }
    }
}

/// A request on its way.
#[derive(Debug)]
pub struct Outstanding {
    pub(super) job: Job,
    pub(super) asked: Asked,
    pub(super) retransmit: Retransmit,
    id: MessageId,
    exchange: ExchangeType,
}

/// What a request needs when its answer comes.
#[derive(Debug)]
pub(super) enum Asked {
    /// Nothing.
    Informational,
    /// Our half of a Child SA.
    Child(Box<create_child::Asked>),
    /// Our half of an IKE SA.
    Ike(Box<rekey_ike::Asked>),
}

impl Outstanding {
    /// The SPI of a Child SA that is being made.
    pub fn spi_in(&self) -> Option<u32> {
        match &self.asked {
            Asked::Child(asked) => Some(asked.spi_in),
            Asked::Informational | Asked::Ike(_) => None,
        }
    }

    /// The IKE SA that the peer's crossing exchange made.
    pub fn take_colliding(&mut self) -> Option<Box<IkeSa>> {
        match &mut self.asked {
            Asked::Ike(asked) => asked.colliding.take(),
            Asked::Informational | Asked::Child(_) => None,
        }
    }

    /// The peer has moved.
    pub fn redirect(&mut self, remote: SocketAddr) {
        self.retransmit.redirect(remote);
    }
}

/// More jobs than this never wait: one of each kind, and a delete for each Child SA that a peer can have us make.
const MOST_JOBS: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Request,
    Response,
}

impl IkeSa {
    /// Queues a request, and sends it if none is outstanding.
    pub fn ask(&mut self, job: Job, cx: &mut Context<'_>) {
        let under_way = self.request.as_ref().is_some_and(|out| out.job == job);
        if self.jobs.len() < MOST_JOBS && !self.jobs.contains(&job) && !under_way {
            self.jobs.push_back(job);
        }
        self.pump(cx);
    }

    /// Sends the next job that is still called for, if the window allows.
    pub(super) fn pump(&mut self, cx: &mut Context<'_>) {
        while self.request.is_none() && self.phase != Phase::Replaced {
            let Some(job) = self.jobs.pop_front() else {
                return;
            };
            // RFC 7296 §2.2: the SA is closed before its numbers wrap, so the last one is for the goodbye.
            let last = self.next_id.is_some_and(|id| id.next().is_none());
            if last && self.is_open() {
                return self.close(DownReason::Expired, None, cx);
            }
            let Some((payloads, asked)) = self.prepare(&job, cx) else {
                continue;
            };
            self.send(job.exchange(), job, payloads, asked, cx);
        }
    }

    /// The payloads of a request, and what its answer will be compared with; `None` when nobody wants it any more.
    fn prepare(&self, job: &Job, cx: &mut Context<'_>) -> Option<(Vec<Payload>, Asked)> {
        let settings = &self.conn.settings;
        let child = |old, group, cx: &mut Context<'_>| {
            let spi_in = self.fresh_child_spi(cx);
            let asked = create_child::Asked::begin(settings, old, group, spi_in, cx.rng);
            Some((asked.payloads(settings), Asked::Child(Box::new(asked))))
        };
        match job {
            Job::Liveness | Job::DeleteChild { .. } | Job::DeleteIke(_) => {
                Some((informational::request(job), Asked::Informational))
            }
            // The answer that brought the SPI may have overtaken the complaint that it is not there, and the peer would make another in its conn.
            Job::InvalidSpi { spi } => self
                .children
                .of_ours(*spi)
                .is_none()
                .then(|| (informational::request(job), Asked::Informational)),
            Job::RekeyChild { spi_in, group } => {
                let old = self.children.of_ours(*spi_in)?;
                (old.standing == Standing::Working)
                    .then(|| child(Some(*spi_in), *group, cx))
                    .flatten()
            }
            Job::CreateChild { group } => (!self.children.any_of_use())
                .then(|| child(None, *group, cx))
                .flatten(),
            Job::RekeyIke { group } => {
                let asked = rekey_ike::Asked::begin(settings, *group, cx.rng)?;
                Some((asked.payloads(settings), Asked::Ike(Box::new(asked))))
            }
        }
    }

    pub(super) fn send(
        &mut self,
        exchange: ExchangeType,
        job: Job,
        payloads: Vec<Payload>,
        asked: Asked,
        cx: &mut Context<'_>,
    ) {
        let sealed = self.next_id.and_then(|id| {
            let header = self.header(exchange, id, Direction::Request);
            let (header, payloads) = cx.impaired(header, payloads);
            Some((id, self.protector.seal(header, &payloads)?))
        });
        let Some((id, datagrams)) = sealed else {
            // Nothing can be said any more: `on_timeout` buries an SA that is closing in silence.
            return self.close(DownReason::Expired, None, cx);
        };
        self.next_id = id.next();
        let message = SentMessage {
            local: self.conn.local,
            remote: self.conn.remote,
            datagrams,
        };
        cx.out.transmits.extend(message.transmits());
        self.idle.sent(cx.now);
        let jitter = cx.jitter();
        let retransmit = Retransmit::new(cx.now, message, self.conn.settings.dpd.timeout, jitter);
        self.request = Some(Outstanding {
            job,
            asked,
            id,
            exchange,
            retransmit,
        });
    }

    pub(super) fn header(
        &self,
        exchange: ExchangeType,
        id: MessageId,
        direction: Direction,
    ) -> Header {
        let flags = Flags {
            initiator: self.role == Role::Initiator,
            response: direction == Direction::Response,
            version: false,
        };
        Header::new(self.spi_i, self.spi_r, exchange, flags, id)
    }

    /// An ESP SPI that no Child SA of ours has; the first 256 are reserved (RFC 4303 §2.1).
    pub(super) fn fresh_child_spi(&self, cx: &mut Context<'_>) -> u32 {
        loop {
            let spi = cx.rng.u32();
            if spi > 255 && !self.has_child(spi) && !(cx.taken)(spi) {
                return spi;
            }
        }
    }

    pub(super) fn on_response(
        &mut self,
        message: &Message<'_>,
        datagram: Datagram<'_>,
        cx: &mut Context<'_>,
    ) -> SaOutcome {
        let header = message.header;
        let awaited = self.request.as_ref().is_some_and(|request| {
            request.id == header.message_id && header.exchange == request.exchange
        });
        if !awaited {
            cx.count_drop(DropClass::Stray);
            return SaOutcome::Open;
        }
        let Opened { payloads, .. } = match self.protector.open(message) {
            Ok(opened) => opened,
            Err(why) => {
                cx.count_unopened(why);
                return SaOutcome::Open;
            }
        };
        self.idle.heard(cx.now);
        self.follow(datagram.remote, cx);
        let Some(Outstanding { job, asked, .. }) = self.request.take() else {
            return SaOutcome::Open;
        };
        self.on_answered(cx);
        let outcome = match asked {
            Asked::Informational => {
                // Nonsense is an answer too, and that is all these requests ask for.
                let payloads = payloads.unwrap_or_default();
                let outcome = informational::on_response(&job, &payloads, self.closing_reason());
                if let Job::DeleteChild { spi_in } = job {
                    self.on_deleted(spi_in, cx);
                }
                outcome
            }
            Asked::Child(asked) => self.on_child_answer(&job, *asked, payloads, cx),
            Asked::Ike(asked) => self.on_ike_answer(job, *asked, payloads, cx),
        };
        if outcome == SaOutcome::Open {
            self.pump(cx);
        }
        outcome
    }

    /// The peer has agreed that a Child SA is gone.
    fn on_deleted(&mut self, spi_in: u32, cx: &mut Context<'_>) {
        if let Some(Standing::Leaving { reason }) =
            self.children.of_ours(spi_in).map(|child| child.standing)
        {
            self.drop_child(spi_in, reason, cx);
            if !self.children.any_of_use() {
                self.on_no_child_left(cx);
            }
        }
    }

    pub(super) fn closing_reason(&self) -> DownReason {
        match self.phase {
            Phase::Closing(reason) => reason,
            Phase::Replaced => DownReason::Replaced,
            Phase::Open => DownReason::PeerDeleted,
        }
    }

    /// Whether the peer's DELETE for this Child SA crosses one of ours.
    pub fn is_deleting_child(&self, spi_in: u32) -> bool {
        let job = Job::DeleteChild { spi_in };
        self.jobs.contains(&job)
            || self
                .request
                .as_ref()
                .is_some_and(|request| request.job == job)
    }
}
