//! The type of an established IKE SA: creation, status, end.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::idle_timers::IdleTimers;
use super::request_state::{Job, Offer, OutboundRequest, PendingFollowup};
use crate::crypto::{IkeSuite, Secret, WrongKeyLength};
use crate::ike::child_sa::{
    self, CONFIRM_TIMEOUT_DUPLICATE, ChildSa, ChildState, Children, PEER_DELETE_TIMEOUT,
};
use crate::ike::collision::DuplicateSa;
use crate::ike::context::Context;
use crate::ike::event::{ChildView, DownReason, Event, IkeView, Rekey, Rekeys, Role, Sends};
use crate::ike::failure::Failure;
use crate::ike::init_result::{Connection, InitResult, PeerKind};
use crate::ike::key_schedule::{IkeKeys, Nonces};
use crate::ike::nat::Detected;
use crate::ike::protect::Protector;
use crate::ike::settings::Start;
use crate::ike::window::{LastResponse, Received};
use crate::net::{EspTransport, Policy, Time, TunnelId};
use crate::wire::{IkeSpi, MessageId, Notify};

/// An established IKE SA.
#[derive(Debug)]
pub struct IkeSa {
    pub(in crate::ike) conn: Connection,
    pub(in crate::ike) spi_i: IkeSpi,
    pub(in crate::ike) spi_r: IkeSpi,
    pub(in crate::ike) role: Role,
    pub(in crate::ike) suite: IkeSuite,
    /// Whether a secret that a quantum computer does not find is in SK_d, or in one that SK_d was derived from.
    pub(in crate::ike) post_quantum: bool,
    pub(in crate::ike) sk_d: Secret,
    pub(in crate::ike) nonces: Nonces,
    pub(in crate::ike) detected: Detected,
    pub(in crate::ike) transport: EspTransport,
    pub(in crate::ike) peer: PeerKind,
    pub(in crate::ike) protector: Protector,
    pub(in crate::ike) established: Time,
    pub(in crate::ike) first: Arc<FirstSa>,
    pub(in crate::ike) lifetime: IkeLifetime,
    /// Whether the daemon has had the IkeUp event.
    pub(in crate::ike) announced: bool,
    pub(in crate::ike) phase: Phase,
    /// The message ID of our next request; `None` when all are used.
    pub(in crate::ike) next_id: Option<MessageId>,
    pub(in crate::ike) request: Option<OutboundRequest>,
    /// The successor that the peer's rekey has created while ours is outstanding. Our response decides which of the two stays.
    pub(in crate::ike) colliding: Option<Box<IkeSa>>,
    pub(in crate::ike) pending_followup: Option<PendingFollowup>,
    pub(in crate::ike) jobs: VecDeque<Job>,
    /// The window of the peer's requests.
    pub(in crate::ike) received: Received,
    pub(in crate::ike) children: Children,
    /// The Child SA of IKE_AUTH, until the peer shows that it has received our response.
    pub(in crate::ike) unconfirmed: Option<u32>,
    pub(in crate::ike) idle: IdleTimers,
    pub(in crate::ike) close_at: Option<(Time, DownReason)>,
    /// When a Child SA is created because none is left.
    pub(in crate::ike) create_child_at: Option<Time>,
    /// How often in a row the peer was too busy to create one.
    pub(in crate::ike) create_child_retries: u32,
    /// Before this, INVALID_SPI is not sent again.
    pub(in crate::ike) invalid_spi_after: Time,
    pub(in crate::ike) output: SaOutput,
}

/// The first IKE SA of a sequence of rekeys. Duplicate SAs are compared by it, since the peer may know one of them only before and the other only after a rekey.
#[derive(Debug)]
pub struct FirstSa {
    nonces: Nonces,
    role: Role,
    established: Time,
}

/// Phase of an IKE SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It is in use.
    Open,
    /// The peer has rekeyed it and is about to delete it; its Child SAs are with its successor.
    Replaced,
    /// Our DELETE is queued or sent; only the response to it is awaited.
    Closing(DownReason),
}

/// Lifetime of an IKE SA.
#[derive(Clone, Copy, Debug)]
pub struct IkeLifetime {
    /// When it is due to be rekeyed.
    pub soft_expiry: Time,
    /// When we rekey it next; `None` while a rekey is under way.
    pub rekey_at: Option<Time>,
    /// When another IKE SA is created instead, if rekeying keeps failing.
    pub renew_at: Time,
    /// When it is deleted at the latest.
    pub hard_expiry: Time,
    /// How often in a row the peer has rejected a rekey.
    pub rejections: u32,
}

impl IkeLifetime {
    fn new(conn: &Connection, now: Time, jitter: u8) -> IkeLifetime {
        let lifetime = conn.settings.ike_lifetime;
        let (soft_expiry, renew_at) = child_sa::rekey_schedule(now, lifetime, jitter);
        IkeLifetime {
            soft_expiry,
            rekey_at: Some(soft_expiry),
            renew_at,
            hard_expiry: now + lifetime,
            rejections: 0,
        }
    }
}

/// Effects of a step on the endpoint and the tunnel.
#[derive(Debug, Default)]
pub struct SaOutput {
    /// IKE SAs that rekeying has created.
    #[allow(clippy::vec_box, reason = "the endpoint's table holds them boxed")]
    pub successors: Vec<Box<IkeSa>>,
    /// Failures to report.
    pub failures: Vec<Failure>,
    /// Completed rekeys.
    pub rekeys: Rekeys,
    /// Whether the peer rekeys, as far as this step has shown it.
    pub verdicts: Vec<(Rekey, Result<(), Failure>)>,
    /// A Child SA was created that rekeys no other: another IKE SA of the tunnel may have one too.
    pub serves: bool,
    /// The peer has confirmed a Child SA.
    pub confirmed: bool,
    /// A Child SA has begun to send although this IKE SA has lost against another: the other one's Child SA must be preferred again.
    pub reassert_winner: bool,
    /// The SA cannot be rekeyed and is about to expire: another IKE SA must be created.
    pub renew: bool,
}

/// Whether an IKE SA remains after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum SaOutcome {
    /// It remains.
    Open,
    /// It is gone, and there is nothing left to send.
    Closed(DownReason),
}

/// The parameters of an IKE SA that rekeying creates.
#[derive(Debug)]
pub struct NewIkeSa {
    /// The initiator's SPI.
    pub spi_i: IkeSpi,
    /// The responder's SPI.
    pub spi_r: IkeSpi,
    /// Our role in the exchange, and in the new SA.
    pub role: Role,
    /// The negotiated algorithms.
    pub suite: IkeSuite,
    /// The nonces of the exchange.
    pub nonces: Nonces,
    /// The keys.
    pub keys: IkeKeys,
}

/// How long an IKE SA without a Child SA is kept: the peer may be about to delete it, or to create a Child SA.
pub const CHILDLESS_GRACE: Duration = Duration::from_secs(1);

impl IkeSa {
    /// Creates the IKE SA of a completed handshake.
    pub fn establish(init: InitResult, child: Option<ChildSa>, cx: &mut Context<'_>) -> IkeSa {
        let now = cx.now;
        // All requests up to IKE_AUTH were the initiator's; the responder has sent none (RFC 7296 §2.2).
        let auth = init.intermediates.auth_id();
        let (next_id, first_expected) = match init.role {
            Role::Initiator => (auth.next(), MessageId(0)),
            Role::Responder => (Some(MessageId(0)), auth),
        };
        let close_at = child
            .is_none()
            .then(|| (now + CHILDLESS_GRACE, DownReason::Useless));
        let has_child = child.is_some();
        let mut sa = IkeSa {
            lifetime: IkeLifetime::new(&init.conn, now, cx.jitter()),
            post_quantum: init.is_post_quantum(),
            first: Arc::new(FirstSa {
                nonces: init.nonces.clone(),
                role: init.role,
                established: now,
            }),
            idle: IdleTimers::new(now, init.detected.us, init.conn.settings.dpd),
            spi_i: init.spi_i,
            spi_r: init.spi_r,
            role: init.role,
            suite: init.suite,
            sk_d: init.keys.derive,
            nonces: init.nonces,
            detected: init.detected,
            transport: init.transport,
            peer: init.peer,
            protector: init.protector,
            conn: init.conn,
            established: now,
            announced: false,
            phase: Phase::Open,
            next_id,
            request: None,
            colliding: None,
            pending_followup: None,
            jobs: VecDeque::new(),
            received: Received::starting_at(first_expected.0),
            unconfirmed: (child.as_ref().filter(|child| !child.confirmed))
                .map(|child| child.spi_in),
            children: Children::of(child),
            close_at,
            create_child_at: None,
            create_child_retries: 0,
            invalid_spi_after: now,
            output: SaOutput::default(),
        };
        if has_child && sa.conn.settings.start != Start::Add && !sa.unserved().is_empty() {
            sa.create_missing_later(Duration::ZERO, now);
        }
        sa
    }

    /// Creates the IKE SA that replaces this one. Its message IDs start at 0 (RFC 7296 §2.18).
    pub fn successor(
        &self,
        new: NewIkeSa,
        cx: &mut Context<'_>,
    ) -> Result<Box<IkeSa>, WrongKeyLength> {
        let protector =
            self.protector
                .successor(new.suite.protection, &new.keys, new.role, cx.rng)?;
        Ok(Box::new(IkeSa {
            conn: self.conn.clone(),
            spi_i: new.spi_i,
            spi_r: new.spi_r,
            role: new.role,
            suite: new.suite,
            post_quantum: self.post_quantum || new.suite.additional.is_some(),
            sk_d: new.keys.derive,
            nonces: new.nonces,
            detected: self.detected,
            transport: self.transport,
            peer: self.peer,
            protector,
            established: cx.now,
            first: self.first.clone(),
            lifetime: IkeLifetime::new(&self.conn, cx.now, cx.jitter()),
            announced: false,
            phase: Phase::Open,
            next_id: Some(MessageId(0)),
            request: None,
            colliding: None,
            pending_followup: None,
            jobs: VecDeque::new(),
            received: Received::starting_at(0),
            children: Children::default(),
            unconfirmed: None,
            idle: self.idle,
            close_at: None,
            create_child_at: None,
            create_child_retries: 0,
            invalid_spi_after: cx.now,
            output: SaOutput::default(),
        }))
    }

    /// The tunnel.
    pub fn tunnel(&self) -> TunnelId {
        self.conn.tunnel
    }

    /// Both SPIs, the initiator's first.
    pub fn spis(&self) -> (IkeSpi, IkeSpi) {
        (self.spi_i, self.spi_r)
    }

    /// Our SPI, by which the peer's messages find it.
    pub fn own_spi(&self) -> IkeSpi {
        match self.role {
            Role::Initiator => self.spi_i,
            Role::Responder => self.spi_r,
        }
    }

    /// Our role in the handshake or rekey that created it.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The peer's implementation.
    pub fn peer(&self) -> PeerKind {
        self.peer
    }

    /// When its handshake began.
    pub fn started(&self) -> Time {
        self.conn.started
    }

    /// The data by which it is compared with another IKE SA of the tunnel.
    pub fn as_duplicate(&self) -> DuplicateSa<'_> {
        DuplicateSa {
            nonces: &self.first.nonces,
            role: self.first.role,
            started: self.conn.started,
            established: self.first.established,
        }
    }

    /// When it was established.
    pub fn established(&self) -> Time {
        self.established
    }

    /// The peer's address and port.
    pub fn remote(&self) -> SocketAddr {
        self.conn.remote
    }

    /// Tunnel and addresses.
    pub fn conn(&self) -> &Connection {
        &self.conn
    }

    /// Whether it will be closed at a set time.
    pub fn will_close(&self) -> bool {
        self.close_at.is_some()
    }

    /// Whether it was never of use, because its Child SA was rejected.
    pub fn is_useless(&self) -> bool {
        matches!(self.close_at, Some((_, DownReason::Useless)))
    }

    /// Whether another IKE SA of the tunnel has won against it, so that it will be closed.
    pub fn is_redundant(&self) -> bool {
        matches!(self.close_at, Some((_, DownReason::Redundant)))
    }

    /// Cancels the closing of an SA that had lost: the winner is gone.
    pub fn cancel_close(&mut self) {
        if self.is_redundant() {
            self.close_at = None;
        }
    }

    /// The Child SA that sends.
    pub fn child(&self) -> Option<&ChildSa> {
        self.children.current()
    }

    /// Inbound SPIs of the Child SAs that exist or are being created.
    pub fn child_spis(&self) -> impl Iterator<Item = u32> + '_ {
        let offered = match self.request.as_ref().map(|request| &request.offer) {
            Some(Offer::Child(offer)) => Some(offer.spi_in),
            Some(Offer::None | Offer::Ike(_)) | None => None,
        };
        let pending = self.pending_followup.as_ref();
        let pending = pending.and_then(PendingFollowup::spi_in);
        let existing = self.children.iter().map(|child| child.spi_in);
        existing.chain(offered).chain(pending)
    }

    /// Whether a Child SA with this inbound SPI exists or is being created.
    pub fn has_child(&self, spi_in: u32) -> bool {
        self.child_spis().any(|known| known == spi_in)
    }

    /// The inbound SPIs of the active Child SAs, the newest of each traffic.
    pub fn sending(&self) -> Vec<u32> {
        let sending = self.children.sending();
        sending.map(|child| child.spi_in).collect()
    }

    /// Traffic of another IKE SA of the tunnel that no Child SA of this one carries.
    pub fn lacks(&self, other: &IkeSa) -> Vec<Policy> {
        let usable = other.children.iter().filter(|child| child.is_usable());
        let policies = usable.map(|child| child.policy.clone());
        policies
            .filter(|policy| !self.children.serves(policy))
            .collect()
    }

    /// Whether it is neither replaced nor being closed.
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Its last response, for repetitions of the request after the SA is gone.
    pub fn into_last_response(self, now: Time) -> LastResponse {
        LastResponse::new(self.received, now)
    }

    /// Takes the effects of the last step.
    pub fn take_output(&mut self) -> SaOutput {
        std::mem::take(&mut self.output)
    }

    /// The data that status reports show.
    pub fn view(&self) -> IkeView {
        IkeView {
            spi_i: self.spi_i,
            spi_r: self.spi_r,
            suite: self.suite,
            role: self.role,
            rekey_at: self.lifetime.rekey_at.unwrap_or(Time::ZERO),
            hard_expiry: self.lifetime.hard_expiry,
            nat: self.detected.view(self.conn.settings.encapsulation),
            post_quantum: self.post_quantum,
        }
    }

    /// The data of its Child SAs that status reports show, one for each traffic in order of creation.
    pub fn child_views(&self) -> Vec<ChildView> {
        let current = self.children.current_of_each();
        current.map(|child| child.view(self.transport)).collect()
    }

    /// Emits IkeUp, and ChildUp for the Child SA. Beside an IKE SA that carries the traffic, the new Child SA may have to wait until the peer confirms it.
    pub fn announce(&mut self, sends: Sends, cx: &mut Context<'_>) {
        self.announced = true;
        cx.out.events.push_back(Event::IkeUp {
            tunnel: self.conn.tunnel,
            ike: self.view(),
        });
        for child in self.children.iter_mut() {
            if sends == Sends::Later {
                child.state = ChildState::AwaitingPeer {
                    until: cx.now + CONFIRM_TIMEOUT_DUPLICATE,
                    extension: CONFIRM_TIMEOUT_DUPLICATE,
                    latest: cx.now + CONFIRM_TIMEOUT_DUPLICATE.saturating_mul(3),
                };
            }
            let child = child.to_event(&self.conn, self.transport, sends, None);
            cx.out.events.push_back(Event::ChildUp(Box::new(child)));
        }
    }

    /// Emits ChildDown for all Child SAs, and IkeDown.
    pub fn emit_down(&mut self, reason: DownReason, cx: &mut Context<'_>) {
        self.drop_children(reason, cx);
        if self.announced {
            cx.out.events.push_back(Event::IkeDown {
                tunnel: self.conn.tunnel,
                spis: self.spis(),
                reason,
            });
        }
    }

    /// Closes the SA: a DELETE is sent, and the SA is gone when the peer has answered it. Where another SA carries the traffic, the Child SAs receive until then:
    /// the peer may send over them as long as it has not read the DELETE. Otherwise traffic stops at once.
    pub fn close(&mut self, reason: DownReason, why: Option<Notify>, cx: &mut Context<'_>) {
        self.close_at = None;
        if reason.leaves_replacement() {
            self.children
                .iter_mut()
                .for_each(|child| child.state = ChildState::Deleting { reason });
        } else {
            self.drop_children(reason, cx);
        }
        match self.phase {
            Phase::Closing(_) => {}
            Phase::Open | Phase::Replaced => {
                self.phase = Phase::Closing(reason);
                self.jobs.clear();
                // The peer has the SA of a colliding rekey already.
                if let Some(mut colliding) = self.colliding.take() {
                    colliding.close(reason, None, cx);
                    self.output.successors.push(colliding);
                }
                self.queue_request(Job::DeleteIke(why), cx);
            }
        }
    }

    /// Closes the SA at that time, unless it will be closed earlier.
    pub fn close_later(&mut self, at: Time, reason: DownReason) {
        if self.close_at.is_none_or(|(earlier, _)| at < earlier) {
            self.close_at = Some((at, reason));
        }
    }

    /// Waits for the DELETE of the peer, which has replaced the SA, and closes it if none comes.
    pub fn await_delete(&mut self, cx: &mut Context<'_>) {
        self.close_later(cx.now + PEER_DELETE_TIMEOUT, DownReason::Replaced);
    }

    /// The reason to report if the SA ends now.
    pub fn closing_reason(&self) -> DownReason {
        match self.phase {
            Phase::Closing(reason) => reason,
            Phase::Replaced => DownReason::Replaced,
            // Either side may delete an SA that has lost against another one.
            Phase::Open if self.is_redundant() => DownReason::Redundant,
            Phase::Open => DownReason::PeerDeleted,
        }
    }

    /// Records authentic ESP received at that time.
    pub fn on_esp_received(&mut self, at: Time) {
        self.idle.on_received(at);
    }

    /// Records ESP sent at that time.
    pub fn on_esp_sent(&mut self, at: Time) {
        self.idle.on_sent(at);
    }

    /// Moves the peer to the source of a new authentic packet, if the peer is behind a NAT and we are not (RFC 7296 §2.23).
    pub fn follow(&mut self, remote: SocketAddr, cx: &mut Context<'_>) {
        let may_move = self.detected.peer && !self.detected.us;
        if !may_move || remote == self.conn.remote || !self.is_open() {
            return;
        }
        self.conn.remote = remote;
        if let Some(request) = &mut self.request {
            request.retransmit.redirect(remote);
        }
        cx.out.events.push_back(Event::PeerMoved {
            tunnel: self.conn.tunnel,
            remote,
        });
    }
}
