//! An established IKE SA: its phase × its outstanding request × the jobs behind it × its Child SA.
//!
//! A peer's request is served whatever we wait for ourselves; liveness and delete are requests of ours, never phases. The window is one in both directions
//! (RFC 7296 §2.3), so whatever we want next waits in the queue of jobs.

use std::collections::VecDeque;

use super::child::ChildSa;
use super::event::{
    Child, ChildView, Content, Datagram, DownReason, Event, IkeView, Role, Sends, Transmit,
};
use super::exchange::informational;
use super::handshake::{Context, Keyed, PeerKind, Place, Remnant};
use super::pieces::{Cut, Parcel, Pieces};
use super::protect::{Opened, Protector};
use super::refused::Refused;
use super::retransmit::{Retransmit, Step};
use super::schedule::Nonces;
use super::settings::TunnelId;
use super::timers::{self, Quiet};
use super::window::{self, Received};
use crate::crypto::IkeSuite;
use crate::net::Time;
use crate::wire::{
    ExchangeType, Flags, Header, IkeSpi, Message, MessageId, Notify, NotifyType, Payload,
};

/// An established IKE SA.
#[derive(Debug)]
pub struct IkeSa {
    place: Place,
    spi_i: IkeSpi,
    spi_r: IkeSpi,
    role: Role,
    suite: IkeSuite,
    nonces: Nonces,
    nat: super::event::NatView,
    peer: PeerKind,
    protector: Protector,
    established: Time,
    hard_expiry: Time,
    announced: bool,
    phase: Phase,
    next_id: Option<MessageId>,
    request: Option<Outstanding>,
    jobs: VecDeque<Job>,
    received: Received,
    child: Option<ChildSa>,
    quiet: Quiet,
    close_at: Option<(Time, DownReason)>,
}

/// Whether the SA is there to stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// A DELETE is on its way, or about to be; nothing but the answer to it is awaited.
    Closing(DownReason),
}

/// Something to ask of the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    /// An empty INFORMATIONAL: are you there?
    Liveness,
    /// This Child SA is gone.
    DeleteChild {
        /// Its SPI at our end.
        spi_in: u32,
    },
    /// This IKE SA is gone, perhaps because of something.
    DeleteIke(Option<Notify>),
}

#[derive(Debug)]
struct Outstanding {
    job: Job,
    id: MessageId,
    ladder: Retransmit,
}

/// Whether an SA goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Fate {
    /// It does.
    Lives,
    /// It is over; nothing is left to say to the peer.
    Gone(DownReason),
}

/// How long an IKE SA without a Child SA is kept: the peer may still be about to delete it itself.
const CHILDLESS_GRACE: std::time::Duration = std::time::Duration::from_secs(1);

/// More jobs than this never wait; one of each kind is all that makes sense.
const MOST_JOBS: usize = 4;

impl IkeSa {
    /// Makes an IKE SA of a finished handshake. Its Child SA is announced by [`announce`](Self::announce).
    pub fn establish(keyed: Keyed, child: Option<ChildSa>, now: Time) -> IkeSa {
        let Keyed {
            place,
            spi_i,
            spi_r,
            role,
            suite,
            nonces,
            protector,
            detected,
            peer,
            ..
        } = keyed;
        let settings = &place.settings;
        // IKE_SA_INIT and IKE_AUTH were the initiator's requests 0 and 1; the responder has made none (RFC 7296 §2.2).
        let (ours, theirs) = match role {
            Role::Initiator => (2, 0),
            Role::Responder => (0, 1),
        };
        let close_at = child
            .is_none()
            .then(|| (now + CHILDLESS_GRACE, DownReason::Useless));
        IkeSa {
            spi_i,
            spi_r,
            role,
            suite,
            nonces,
            nat: detected.view(settings.encapsulation),
            peer,
            protector,
            established: now,
            hard_expiry: now + settings.ike_lifetime,
            announced: false,
            phase: Phase::Open,
            next_id: Some(MessageId(ours)),
            request: None,
            jobs: VecDeque::new(),
            received: Received::starting_at(theirs),
            child,
            quiet: Quiet::new(now, detected.us, settings.dpd),
            close_at,
            place,
        }
    }

    /// Which tunnel it serves.
    pub fn tunnel(&self) -> TunnelId {
        self.place.tunnel
    }

    /// Both SPIs, the initiator's first.
    pub fn spis(&self) -> (IkeSpi, IkeSpi) {
        (self.spi_i, self.spi_r)
    }

    /// Which side we were.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Who made the peer.
    pub fn peer(&self) -> PeerKind {
        self.peer
    }

    /// The nonces of its handshake.
    pub fn nonces(&self) -> &Nonces {
        &self.nonces
    }

    /// When its handshake began.
    pub fn started(&self) -> Time {
        self.place.started
    }

    /// When it was established.
    pub fn established(&self) -> Time {
        self.established
    }

    /// Where the peer is.
    pub fn remote(&self) -> std::net::SocketAddr {
        self.place.remote
    }

    /// Its tunnel and addresses.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Whether it will be closed in a while.
    pub fn is_leaving(&self) -> bool {
        self.close_at.is_some()
    }

    /// Whether it has never been of use: its Child SA was refused.
    pub fn is_useless(&self) -> bool {
        matches!(self.close_at, Some((_, DownReason::Useless)))
    }

    /// Its Child SA.
    pub fn child(&self) -> Option<&ChildSa> {
        self.child.as_ref()
    }

    /// Whether it is there to stay, that is not being closed.
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// The window of the peer's requests, for the exchange that established the SA.
    pub fn received_mut(&mut self) -> &mut Received {
        &mut self.received
    }

    /// What is left of it when it is gone.
    pub fn into_remnant(self, now: Time) -> Remnant {
        Remnant::new(self.received, now)
    }

    /// As status reports show it.
    pub fn view(&self) -> IkeView {
        IkeView {
            spi_i: self.spi_i,
            spi_r: self.spi_r,
            suite: self.suite,
            role: self.role,
            rekey_at: self.hard_expiry,
            hard_expiry: self.hard_expiry,
            nat: self.nat,
            post_quantum: false,
        }
    }

    /// Its Child SA as status reports show it.
    pub fn child_view(&self) -> Option<ChildView> {
        self.child.as_ref().map(|child| ChildView {
            spi_in: child.spi_in,
            spi_out: child.spi_out,
            suite: child.suite,
            policy: child.policy.clone(),
            rekey_at: child.hard_expiry,
            hard_expiry: child.hard_expiry,
        })
    }

    /// Tells the rest of the program that the SA, and its Child SA if it has one, are there.
    pub fn announce(&mut self, cx: &mut Context<'_>) {
        self.announced = true;
        cx.out.events.push_back(Event::IkeUp {
            tunnel: self.place.tunnel,
            ike: self.view(),
        });
        if let Some(child) = &self.child {
            cx.out.events.push_back(Event::ChildUp(Box::new(Child {
                tunnel: self.place.tunnel,
                spi_in: child.spi_in,
                spi_out: child.spi_out,
                suite: child.suite,
                keys_in: child.keys_in.clone(),
                keys_out: child.keys_out.clone(),
                iv_key: child.iv_key,
                policy: child.policy.clone(),
                local: self.place.local,
                remote: self.place.remote,
                role: self.role,
                hard_expiry: child.hard_expiry,
                sends: Sends::Now,
                replaces: None,
            })));
        }
    }

    /// Tells that the SA, and its Child SA with it, is gone.
    pub fn bury(&mut self, reason: DownReason, cx: &mut Context<'_>) {
        self.drop_child(reason, cx);
        if self.announced {
            cx.out.events.push_back(Event::IkeDown {
                tunnel: self.place.tunnel,
                spis: self.spis(),
                reason,
            });
        }
    }

    /// Takes the Child SA out.
    pub fn drop_child(&mut self, reason: DownReason, cx: &mut Context<'_>) {
        if let Some(child) = self.child.take() {
            cx.out.events.push_back(Event::ChildDown {
                tunnel: self.place.tunnel,
                spi_in: child.spi_in,
                reason,
            });
        }
    }

    /// Closes the SA: traffic stops now, the peer is told, and the SA is gone when it has answered.
    pub fn close(&mut self, reason: DownReason, why: Option<Notify>, cx: &mut Context<'_>) {
        self.close_at = None;
        match self.phase {
            Phase::Closing(_) => {}
            Phase::Open => {
                self.phase = Phase::Closing(reason);
                self.drop_child(reason, cx);
                self.jobs.clear();
                self.ask(Job::DeleteIke(why), cx);
            }
        }
    }

    /// Closes the SA a little later, once its rival carries the traffic.
    pub fn close_later(&mut self, at: Time, reason: DownReason) {
        if self.close_at.is_none_or(|(earlier, _)| at < earlier) {
            self.close_at = Some((at, reason));
        }
    }

    /// Deletes the Child SA, and with it the IKE SA, which serves no other purpose.
    pub fn give_up_child(&mut self, spi_in: u32, reason: DownReason, cx: &mut Context<'_>) {
        if self
            .child
            .as_ref()
            .is_some_and(|child| child.spi_in == spi_in)
        {
            self.drop_child(reason, cx);
            self.ask(Job::DeleteChild { spi_in }, cx);
            self.close_later(cx.now, reason);
        }
    }

    /// Authentic ESP came in.
    pub fn heard(&mut self, at: Time) {
        self.quiet.heard(at);
    }

    /// Something left for the peer.
    pub fn sent(&mut self, at: Time) {
        self.quiet.sent(at);
    }

    /// Queues a request, and sends it if none is outstanding.
    pub fn ask(&mut self, job: Job, cx: &mut Context<'_>) {
        if self.jobs.len() < MOST_JOBS && !self.jobs.contains(&job) {
            self.jobs.push_back(job);
        }
        self.pump(cx);
    }

    /// Sends the next job, if the window allows.
    fn pump(&mut self, cx: &mut Context<'_>) {
        if self.request.is_some() {
            return;
        }
        let Some(job) = self.jobs.pop_front() else {
            return;
        };
        // RFC 7296 §2.2: the SA is closed before its numbers wrap, so the last one is for the goodbye.
        let last = self.next_id.is_some_and(|id| id.next().is_none());
        if last && self.is_open() {
            return self.close(DownReason::Expired, None, cx);
        }
        let sealed = self.next_id.and_then(|id| {
            let header = self.header(ExchangeType::INFORMATIONAL, id, Direction::Request);
            Some((
                id,
                self.protector.seal(header, &informational::request(&job))?,
            ))
        });
        let Some((id, pieces)) = sealed else {
            // Nothing can be said any more: `on_timeout` buries an SA that is closing in silence.
            return self.close(DownReason::Expired, None, cx);
        };
        self.next_id = id.next();
        let parcel = Parcel {
            local: self.place.local,
            remote: self.place.remote,
            pieces,
        };
        cx.out.transmits.extend(parcel.transmits());
        self.quiet.sent(cx.now);
        let jitter = cx.jitter();
        let ladder = Retransmit::new(cx.now, parcel, self.place.settings.dpd.timeout, jitter);
        self.request = Some(Outstanding { job, id, ladder });
    }

    fn header(&self, exchange: ExchangeType, id: MessageId, direction: Direction) -> Header {
        let flags = Flags {
            initiator: self.role == Role::Initiator,
            response: direction == Direction::Response,
            version: false,
        };
        Header::new(self.spi_i, self.spi_r, exchange, flags, id)
    }

    /// Takes a message of this SA, request or response.
    pub fn on_message(
        &mut self,
        message: &Message<'_>,
        datagram: Datagram<'_>,
        cx: &mut Context<'_>,
    ) -> Fate {
        // RFC 7296 §2.2: each side numbers its own requests, so the flag must name the side that is not us.
        let theirs = self.role == Role::Responder;
        if message.header.flags.initiator != theirs {
            cx.refuse(Refused::Stray);
            return Fate::Lives;
        }
        if message.header.flags.response {
            self.on_response(message, cx)
        } else {
            self.on_request(message, datagram, cx)
        }
    }

    fn on_request(
        &mut self,
        message: &Message<'_>,
        datagram: Datagram<'_>,
        cx: &mut Context<'_>,
    ) -> Fate {
        let id = message.header.message_id;
        match self.received.classify(id, datagram.bytes) {
            window::Request::New => {}
            window::Request::Repeated(response) => {
                self.reply(&response, Cut::Usual, datagram, cx);
                return Fate::Lives;
            }
            window::Request::Recut(response) => {
                if self.protector.is_first_fragment(message) {
                    self.reply(&response, Cut::Smaller, datagram, cx);
                }
                return Fate::Lives;
            }
            window::Request::Stray => {
                cx.refuse(Refused::Stray);
                return Fate::Lives;
            }
        }
        let Opened { mark, payloads, .. } = match self.protector.open(message) {
            Ok(opened) => opened,
            Err(why) => {
                cx.unopened(why);
                return Fate::Lives;
            }
        };
        self.quiet.heard(cx.now);
        let exchange = message.header.exchange;
        let (payloads, fate) = match payloads {
            Err(error) => informational::refuse(&error.into()),
            Ok(payloads) if exchange == ExchangeType::INFORMATIONAL => {
                informational::respond(self, payloads, cx)
            }
            // A responder that makes no further SAs says so (RFC 7296 §1.3, §4): the peer then begins anew.
            Ok(_) if exchange == ExchangeType::CREATE_CHILD_SA => {
                let notify = Notify::new(NotifyType::NO_ADDITIONAL_SAS, Vec::new());
                (vec![Payload::Notify(notify)], Fate::Lives)
            }
            // Another exchange has no place here; the peer may have meant another SA.
            Ok(_) => return Fate::Lives,
        };
        let Some(response) = self
            .protector
            .seal(self.header(exchange, id, Direction::Response), &payloads)
        else {
            return Fate::Lives;
        };
        if !self.received.answered(mark, response.clone()) {
            self.close(DownReason::Expired, None, cx);
        }
        self.reply(&response, Cut::Usual, datagram, cx);
        fate
    }

    /// Answers go where the question came from (RFC 7296 §2.11).
    fn reply(&mut self, response: &Pieces, cut: Cut, datagram: Datagram<'_>, cx: &mut Context<'_>) {
        let copies = response.transmits(cut, datagram.local, datagram.remote);
        cx.out.transmits.extend(copies);
        // A repetition may come from anywhere, and the way there keeps no NAT of ours open.
        if datagram.remote == self.place.remote {
            self.quiet.sent(cx.now);
        }
    }

    fn on_response(&mut self, message: &Message<'_>, cx: &mut Context<'_>) -> Fate {
        let header = message.header;
        let awaited = self.request.as_ref().is_some_and(|request| {
            request.id == header.message_id && header.exchange == ExchangeType::INFORMATIONAL
        });
        if !awaited {
            cx.refuse(Refused::Stray);
            return Fate::Lives;
        }
        let Opened { payloads, .. } = match self.protector.open(message) {
            Ok(opened) => opened,
            Err(why) => {
                cx.unopened(why);
                return Fate::Lives;
            }
        };
        // Nonsense is an answer too, and that is all these requests ask for.
        let payloads = payloads.unwrap_or_default();
        self.quiet.heard(cx.now);
        let Some(Outstanding { job, .. }) = self.request.take() else {
            return Fate::Lives;
        };
        let fate = informational::on_response(&job, &payloads, self.closing_reason());
        if fate == Fate::Lives {
            self.pump(cx);
        }
        fate
    }

    fn closing_reason(&self) -> DownReason {
        match self.phase {
            Phase::Closing(reason) => reason,
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

    /// The peer has deleted the Child SA: without one the IKE SA has no purpose.
    pub fn lose_child(&mut self, cx: &mut Context<'_>) {
        self.drop_child(DownReason::PeerDeleted, cx);
        self.close_later(cx.now + CHILDLESS_GRACE, DownReason::PeerDeleted);
    }

    /// Does what is due.
    pub fn on_timeout(&mut self, cx: &mut Context<'_>) -> Fate {
        let jitter = cx.jitter();
        if let Some(request) = &mut self.request {
            match request.ladder.step(cx.now, jitter) {
                Step::Wait => {}
                Step::Again(transmits) => {
                    cx.out.transmits.extend(transmits);
                    self.quiet.sent(cx.now);
                }
                Step::GiveUp => {
                    let reason = match self.phase {
                        Phase::Open => DownReason::PeerDead,
                        Phase::Closing(reason) => reason,
                    };
                    return Fate::Gone(reason);
                }
            }
        }
        match self.phase {
            Phase::Closing(reason) if self.request.is_none() => return Fate::Gone(reason),
            Phase::Closing(_) => return Fate::Lives,
            Phase::Open => {}
        }
        if let Some((at, reason)) = self.close_at
            && at <= cx.now
        {
            self.close(reason, None, cx);
            return Fate::Lives;
        }
        if self.expiry() <= cx.now {
            self.close(DownReason::Expired, None, cx);
            return Fate::Lives;
        }
        if self.quiet.liveness_due() <= cx.now && self.request.is_none() {
            self.ask(Job::Liveness, cx);
        }
        if self.quiet.keepalive_due() <= cx.now {
            cx.out.transmits.push_back(Transmit {
                local: self.place.local,
                remote: self.place.remote,
                content: Content::Keepalive,
            });
            self.quiet.sent(cx.now);
        }
        Fate::Lives
    }

    fn expiry(&self) -> Time {
        let child = self
            .child
            .as_ref()
            .map_or(Time::MAX, |child| child.hard_expiry);
        self.hard_expiry.min(child)
    }

    /// When [`on_timeout`](Self::on_timeout) has something to do.
    pub fn next_timer(&self) -> Time {
        let request = self.request.as_ref().map(|request| request.ladder.due());
        let ladder = request.unwrap_or(Time::MAX);
        match self.phase {
            Phase::Closing(_) => request.unwrap_or(Time::ZERO),
            Phase::Open => timers::earliest([
                ladder,
                self.close_at.map_or(Time::MAX, |(at, _)| at),
                self.expiry(),
                // While a request is outstanding its own ladder proves whether the peer lives.
                request.map_or(self.quiet.liveness_due(), |_| Time::MAX),
                self.quiet.keepalive_due(),
            ]),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request,
    Response,
}
