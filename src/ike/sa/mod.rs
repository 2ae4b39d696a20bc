//! An established IKE SA: its phase × its outstanding request × the jobs behind it × its Child SAs.
//!
//! A peer's request is served whatever we wait for ourselves; rekeying, liveness and delete are requests of ours, never phases. The window is one in both
//! directions (RFC 7296 §2.3), so whatever we want next waits in the queue of jobs.
//!
//! - here: how an SA begins, what it shows of itself, how it ends;
//! - [`request`]: what we ask of the peer, and what becomes of its answers;
//! - [`answer`]: what the peer asks of us;
//! - [`renewal`]: what making and rekeying Child SAs do to it, at either end of the exchange; [`succession`]: what rekeying the IKE SA does;
//! - [`followup`]: the same where an additional key exchange comes between;
//! - [`serving`]: which Child SA serves, and what follows when none does;
//! - [`due`]: what is to be done when time comes.

mod answer;
mod due;
mod followup;
mod renewal;
mod request;
mod serving;
mod succession;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use super::children::{self, ChildSa, Children, Standing, WAIT_BESIDE};
use super::collision::DuplicateSa;
use super::event::{ChildView, DownReason, Event, IkeView, Rekey, Rekeys, Role, Sends};
use super::exchange::followup::Pending;
use super::exchange::rekey_ike;
use super::failure::Failure;
use super::handshake::{Connection, Context, InitResult, LastResponse, PeerKind};
use super::key_schedule::Nonces;
use super::nat::Detected;
use super::protect::Protector;
use super::settings::TunnelId;
use super::timers::IdleTimers;
use super::window::Received;
use crate::crypto::{IkeSuite, Secret, WrongKeyLength};
use crate::net::{EspTransport, Time};
use crate::wire::{IkeSpi, MessageId, Notify};

pub use request::Job;
use request::Outstanding;

/// An established IKE SA.
#[derive(Debug)]
pub struct IkeSa {
    conn: Connection,
    spi_i: IkeSpi,
    spi_r: IkeSpi,
    role: Role,
    suite: IkeSuite,
    /// Whether a secret that a quantum computer does not find out is in SK_d, or in one that it comes from.
    post_quantum: bool,
    /// SK_d.
    derive: Secret,
    nonces: Nonces,
    detected: Detected,
    transport: EspTransport,
    peer: PeerKind,
    protector: Protector,
    established: Time,
    first: Arc<FirstSa>,
    life: Life,
    announced: bool,
    phase: Phase,
    next_id: Option<MessageId>,
    request: Option<Outstanding>,
    /// What the peer has begun and has yet to complete.
    pending: Option<Pending>,
    jobs: VecDeque<Job>,
    received: Received,
    children: Children,
    /// The Child SA of IKE_AUTH, as long as it has not shown that the peer has heard our answer.
    unproved: Option<u32>,
    idle: IdleTimers,
    close_at: Option<(Time, DownReason)>,
    /// When a Child SA that the peer deleted is to be made again.
    restore_at: Option<Time>,
    /// How often in a row the peer has been too busy for that.
    put_off: u32,
    /// When the peer may be told of an unknown SPI again.
    tell_again: Time,
    output: SaOutput,
}

/// The first of the line of which an SA is the last: rekeying makes no new acquaintance. Its handshake began at `conn.started`.
#[derive(Debug)]
struct FirstSa {
    nonces: Nonces,
    role: Role,
    established: Time,
}

/// Whether the SA is there to stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// Another IKE SA has taken its place and its Child SAs; the peer, who began that, is about to delete it.
    Replaced,
    /// A DELETE is on its way, or about to be; nothing but the answer to it is awaited.
    Closing(DownReason),
}

/// How long the SA lives.
#[derive(Clone, Copy, Debug)]
struct Life {
    /// When it is due to be rekeyed.
    soft_expiry: Time,
    /// When we rekey it next; `None` while that is under way.
    rekey_at: Option<Time>,
    /// When another IKE SA is made from scratch, if the peer has refused to rekey.
    renew_at: Time,
    hard_expiry: Time,
    /// How often the peer has refused, or was too busy.
    refusals: u32,
}

impl Life {
    fn begin(conn: &Connection, now: Time, jitter: u8) -> Life {
        let lifetime = conn.settings.ike_lifetime;
        let (soft_expiry, renew_at) = children::rekey_schedule(now, lifetime, jitter);
        Life {
            soft_expiry,
            rekey_at: Some(soft_expiry),
            renew_at,
            hard_expiry: now + lifetime,
            refusals: 0,
        }
    }
}

/// What a step has brought about beyond the SA itself.
#[derive(Debug, Default)]
pub struct SaOutput {
    /// IKE SAs that came of rekeying this one.
    #[allow(clippy::vec_box, reason = "they go boxed into the endpoint's table")]
    pub successors: Vec<Box<IkeSa>>,
    /// What people should know.
    pub failures: Vec<Failure>,
    /// Completed rekeys.
    pub rekeys: Rekeys,
    /// Whether the peer rekeys, as far as that has shown.
    pub verdicts: Vec<(Rekey, Result<(), Failure>)>,
    /// Whether it has got a Child SA that takes no other's place, and may stand beside another IKE SA that has done so in the meantime.
    pub serves: bool,
    /// Whether the peer has shown only now that it has a Child SA of it.
    pub known: bool,
    /// Whether a Child SA has begun to send though another IKE SA has won against this one.
    pub reassert_winner: bool,
    /// Whether another IKE SA should be made from scratch: this one cannot be rekeyed, and its end comes near.
    pub renew: bool,
}

/// Whether an SA goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum SaOutcome {
    /// It does.
    Open,
    /// It is over; nothing is left to say to the peer.
    Closed(DownReason),
}

/// How long an IKE SA without a Child SA is kept: the peer may still be about to delete it itself, or to make another.
const CHILDLESS_GRACE: std::time::Duration = std::time::Duration::from_secs(1);

/// How often a peer is told that it sends ESP for an SPI that we do not have.
const TELL_AGAIN: std::time::Duration = std::time::Duration::from_secs(10);

impl IkeSa {
    /// Makes an IKE SA of a finished handshake. Its Child SA is announced by [`announce`](Self::announce).
    pub fn establish(init: InitResult, child: Option<ChildSa>, cx: &mut Context<'_>) -> IkeSa {
        let post_quantum = init.is_post_quantum();
        let InitResult {
            conn,
            spi_i,
            spi_r,
            role,
            suite,
            nonces,
            keys,
            protector,
            detected,
            transport,
            peer,
            intermediates,
            ..
        } = init;
        let now = cx.now;
        // All requests up to IKE_AUTH were the initiator's; the responder has made none (RFC 7296 §2.2).
        let auth = intermediates.auth_id();
        let (ours, theirs) = match role {
            Role::Initiator => (auth.next(), MessageId(0)),
            Role::Responder => (Some(MessageId(0)), auth),
        };
        let first = Arc::new(FirstSa {
            nonces: nonces.clone(),
            role,
            established: now,
        });
        let close_at = child
            .is_none()
            .then(|| (now + CHILDLESS_GRACE, DownReason::Useless));
        IkeSa {
            spi_i,
            spi_r,
            role,
            suite,
            post_quantum,
            derive: keys.derive,
            nonces,
            detected,
            transport,
            peer,
            protector,
            established: now,
            first,
            life: Life::begin(&conn, now, cx.jitter()),
            announced: false,
            phase: Phase::Open,
            next_id: ours,
            request: None,
            pending: None,
            jobs: VecDeque::new(),
            received: Received::starting_at(theirs.0),
            unproved: (child.as_ref().filter(|child| !child.known)).map(|child| child.spi_in),
            children: Children::of(child),
            idle: IdleTimers::new(now, detected.us, conn.settings.dpd),
            close_at,
            restore_at: None,
            put_off: 0,
            tell_again: now,
            output: SaOutput::default(),
            conn,
        }
    }

    /// Makes the IKE SA that takes the place of this one; its message ids begin anew (RFC 7296 §2.18).
    fn succeed(
        &self,
        made: rekey_ike::Made,
        cx: &mut Context<'_>,
    ) -> Result<Box<IkeSa>, WrongKeyLength> {
        let rekey_ike::Made {
            spi_i,
            spi_r,
            role,
            suite,
            nonces,
            keys,
        } = made;
        let protector = self
            .protector
            .successor(suite.protection, &keys, role, cx.rng)?;
        let conn = self.conn.clone();
        Ok(Box::new(IkeSa {
            spi_i,
            spi_r,
            role,
            suite,
            post_quantum: self.post_quantum || suite.additional.is_some(),
            derive: keys.derive,
            nonces,
            detected: self.detected,
            transport: self.transport,
            peer: self.peer,
            protector,
            established: cx.now,
            first: self.first.clone(),
            life: Life::begin(&conn, cx.now, cx.jitter()),
            announced: false,
            phase: Phase::Open,
            next_id: Some(MessageId(0)),
            request: None,
            pending: None,
            jobs: VecDeque::new(),
            received: Received::starting_at(0),
            children: Children::default(),
            unproved: None,
            idle: self.idle,
            close_at: None,
            restore_at: None,
            put_off: 0,
            tell_again: cx.now,
            output: SaOutput::default(),
            conn,
        }))
    }

    /// Which tunnel it serves.
    pub fn tunnel(&self) -> TunnelId {
        self.conn.tunnel
    }

    /// Both SPIs, the initiator's first.
    pub fn spis(&self) -> (IkeSpi, IkeSpi) {
        (self.spi_i, self.spi_r)
    }

    /// The SPI by which the peer's messages name it to us.
    pub fn own_spi(&self) -> IkeSpi {
        match self.role {
            Role::Initiator => self.spi_i,
            Role::Responder => self.spi_r,
        }
    }

    /// Which side we were.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Who made the peer.
    pub fn peer(&self) -> PeerKind {
        self.peer
    }

    /// When its handshake began.
    pub fn started(&self) -> Time {
        self.conn.started
    }

    /// What the decision between it and another of the tunnel needs to know. The peer may know the one only before and the other only after rekeying, so what
    /// counts is how the line began.
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

    /// Where the peer is.
    pub fn remote(&self) -> SocketAddr {
        self.conn.remote
    }

    /// Its tunnel and addresses.
    pub fn conn(&self) -> &Connection {
        &self.conn
    }

    /// Whether it will be closed in a while.
    pub fn is_leaving(&self) -> bool {
        self.close_at.is_some()
    }

    /// Whether it has never been of use: its Child SA was refused.
    pub fn is_useless(&self) -> bool {
        matches!(self.close_at, Some((_, DownReason::Useless)))
    }

    /// The Child SA that sends.
    pub fn child(&self) -> Option<&ChildSa> {
        self.children.current()
    }

    /// Whether one of its Child SAs has this SPI at our end.
    pub fn has_child(&self, spi_in: u32) -> bool {
        self.children.of_ours(spi_in).is_some()
            || self.request.as_ref().and_then(Outstanding::spi_in) == Some(spi_in)
            || self.pending.as_ref().and_then(Pending::spi_in) == Some(spi_in)
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
    pub fn into_last_response(self, now: Time) -> LastResponse {
        LastResponse::new(self.received, now)
    }

    /// What the last step has brought about.
    pub fn take_output(&mut self) -> SaOutput {
        std::mem::take(&mut self.output)
    }

    /// As status reports show it.
    pub fn view(&self) -> IkeView {
        IkeView {
            spi_i: self.spi_i,
            spi_r: self.spi_r,
            suite: self.suite,
            role: self.role,
            rekey_at: self.life.rekey_at.unwrap_or(Time::ZERO),
            hard_expiry: self.life.hard_expiry,
            nat: self.detected.view(self.conn.settings.encapsulation),
            post_quantum: self.post_quantum,
        }
    }

    /// Its Child SA as status reports show it.
    pub fn child_view(&self) -> Option<ChildView> {
        self.child().map(|child| child.view(self.transport))
    }

    /// Tells the rest of the program that the SA, and its Child SA if it has one, are there. Where another serves, the new one may have to wait until the peer
    /// shows that it has heard our answer.
    pub fn announce(&mut self, sends: Sends, cx: &mut Context<'_>) {
        self.announced = true;
        cx.out.events.push_back(Event::IkeUp {
            tunnel: self.conn.tunnel,
            ike: self.view(),
        });
        for child in self.children.iter_mut() {
            if sends == Sends::Later {
                child.standing = Standing::Waiting {
                    until: cx.now + WAIT_BESIDE,
                    patience: WAIT_BESIDE,
                    end: cx.now + WAIT_BESIDE.saturating_mul(3),
                };
            }
            let child = child.announced(&self.conn, self.transport, sends, None);
            cx.out.events.push_back(Event::ChildUp(Box::new(child)));
        }
    }

    /// Tells that the SA, and its Child SAs with it, is gone.
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

    /// Closes the SA: traffic stops now, the peer is told, and the SA is gone when it has answered.
    pub fn close(&mut self, reason: DownReason, why: Option<Notify>, cx: &mut Context<'_>) {
        self.close_at = None;
        match self.phase {
            Phase::Closing(_) => {}
            Phase::Open | Phase::Replaced => {
                self.phase = Phase::Closing(reason);
                self.drop_children(reason, cx);
                self.jobs.clear();
                // What came of a crossing exchange stands at the peer already.
                if let Some(mut colliding) =
                    self.request.as_mut().and_then(Outstanding::take_colliding)
                {
                    colliding.close(reason, None, cx);
                    self.output.successors.push(colliding);
                }
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

    /// Tells the peer, not too often, that it sends ESP for an SPI that we do not have. Anybody can make us say so, hence only one such thing waits to be said.
    pub fn tell_invalid_spi(&mut self, spi: u32, cx: &mut Context<'_>) {
        let waits = |job: &Job| match job {
            Job::InvalidSpi { .. } => true,
            Job::Liveness
            | Job::RekeyChild { .. }
            | Job::CreateChild { .. }
            | Job::RekeyIke { .. }
            | Job::DeleteChild { .. }
            | Job::DeleteIke(_) => false,
        };
        if self.is_open() && self.tell_again <= cx.now && !self.jobs.iter().any(waits) {
            self.tell_again = cx.now + TELL_AGAIN;
            self.ask(Job::InvalidSpi { spi }, cx);
        }
    }

    /// Authentic ESP came in.
    pub fn heard(&mut self, at: Time) {
        self.idle.heard(at);
    }

    /// Something left for the peer.
    pub fn sent(&mut self, at: Time) {
        self.idle.sent(at);
    }

    /// Something fresh and authentic came from there. A peer behind a NAT is followed, unless we are behind one ourselves (RFC 7296 §2.23).
    pub fn follow(&mut self, remote: SocketAddr, cx: &mut Context<'_>) {
        let may_move = self.detected.peer && !self.detected.us;
        if !may_move || remote == self.conn.remote || !self.is_open() {
            return;
        }
        self.conn.remote = remote;
        if let Some(request) = &mut self.request {
            request.redirect(remote);
        }
        cx.out.events.push_back(Event::PeerMoved {
            tunnel: self.conn.tunnel,
            remote,
        });
    }
}
