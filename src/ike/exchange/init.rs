//! IKE_SA_INIT (RFC 7296 §1.2): algorithms, public values and nonces, in the clear.
//!
//! ```text
//! HDR(SPIi, 0), [N(COOKIE),] SAi1, KEi, Ni, N(NAT-D source, destination), N(fragments), [N(intermediate), N(USE_PPK),] V  ──▶
//!                 ◀──  HDR(SPIi, SPIr), SAr1, KEr, Nr, N(NAT-D source, destination), N(fragments), [N(intermediate), N(USE_PPK),] V
//!            or   ◀──  HDR(SPIi, 0), N(INVALID_KE_PAYLOAD | NO_PROPOSAL_CHOSEN | COOKIE)
//! ```
//!
//! Nothing here is authenticated. A refusal therefore ends an attempt only after a while in which the true answer may still come (§2.21.1), and the responder
//! keeps no state before it has an offer it could accept. Of several answers that could be accepted the first wins (§2.4); if that was a forged one, the attempt
//! runs out and the next begins with a new SPI.

use std::net::SocketAddr;
use std::time::Duration;

use crate::crypto::{Group, KeResponse, KeyExchange};
use crate::ike::authn::Intermediates;
use crate::ike::closest_proposal;
use crate::ike::error::{
    self, Denied, Error, HandshakeStage, Incompatible, OfferSummary, PpkFault,
};
use crate::ike::event::{Datagram, Role};
use crate::ike::failure::Failure;
use crate::ike::half_open::ReturnRoutability;
use crate::ike::handshake::{
    Awaits, Connection, Context, HalfOpen, InitResult, InitSent, PeerKind, VENDOR_ID,
};
use crate::ike::key_schedule::{IkeKeys, Nonces};
use crate::ike::messages::{Init, InitAnswer};
use crate::ike::nat;
use crate::ike::negotiate;
use crate::ike::offer::without_additional;
use crate::ike::out_message::{Datagrams, FragmentSizes, Fragmentation, SentMessage};
use crate::ike::ppk::PpkUse;
use crate::ike::protect::Protector;
use crate::ike::retransmit::{HANDSHAKE_PATIENCE, Retransmit};
use crate::ike::settings::{Encapsulation, Ppk, Settings};
use crate::ike::unauthenticated::DropClass;
use crate::ike::window::Received;
use crate::net::{EspTransport, Time};
use crate::wire::{
    ExchangeType, Flags, Header, IkeSpi, Ke, Message, MessageId, Notify, NotifyType, Payload,
};

/// Bytes of our nonces: at least half the key of every PRF we know (RFC 7296 §2.10).
pub const NONCE_LEN: usize = 32;

/// How often a peer may have us begin again before we take it to be playing.
const MAX_RESTARTS: u8 = 4;

/// How long after a refusal the true answer may still come.
const FORGERY_GRACE: Duration = Duration::from_secs(2);

/// The UDP port where a handshake begins.
pub const IKE_PORT: u16 = 500;

/// The UDP port of everything behind a NAT, and of ESP in UDP (RFC 3948).
pub const NAT_PORT: u16 = 4500;

const FROM_INITIATOR: Flags = Flags {
    initiator: true,
    response: false,
    version: false,
};

const FROM_RESPONDER: Flags = Flags {
    initiator: false,
    response: true,
    version: false,
};

/// Where an initiator is after a message or a timer.
#[derive(Debug)]
pub enum Progress {
    /// Still waiting for an answer.
    Waiting(Box<InitSent>),
    /// The shared secret is known: IKE_AUTH comes next.
    Done(Box<InitResult>),
    /// This attempt is over.
    Failed(Failure),
}

impl InitSent {
    /// Begins: sends the first message.
    pub fn begin(conn: Connection, spi_i: IkeSpi, cx: &mut Context<'_>) -> Option<InitSent> {
        let group = conn.settings.ike.first()?.groups.first()?;
        let ke = KeyExchange::generate(group, cx.rng);
        let mut nonce = vec![0; NONCE_LEN];
        cx.rng.fill(&mut nonce);
        let nat = nat::notifies(
            spi_i,
            IkeSpi::ZERO,
            conn.local,
            conn.remote,
            conn.settings.encapsulation,
            cx.rng,
        );
        let message = request(&conn, spi_i, &ke, &nonce, &nat, None, cx)?;
        let retransmit = send(&conn, &message, cx);
        Some(InitSent {
            conn,
            spi_i,
            ke,
            nonce,
            nat,
            message,
            cookie: None,
            restarts: 0,
            refusal: None,
            retransmit,
        })
    }

    /// The same again, with another group or a cookie, and nothing else changed: a cookie may be bound to the rest (RFC 7296 §2.6), and a forged answer must
    /// not weaken the proposals (§1.2).
    fn again(mut self, cx: &mut Context<'_>) -> Progress {
        self.restarts = self.restarts.saturating_add(1);
        if self.restarts > MAX_RESTARTS {
            let error = Error::Misbehaved("it has us begin the handshake again and again");
            return Progress::Failed(error.failure(cx.now));
        }
        let cookie = self.cookie.as_deref();
        let Some(message) = request(
            &self.conn,
            self.spi_i,
            &self.ke,
            &self.nonce,
            &self.nat,
            cookie,
            cx,
        ) else {
            return Progress::Waiting(Box::new(self));
        };
        self.retransmit = send(&self.conn, &message, cx);
        self.message = message;
        Progress::Waiting(Box::new(self))
    }

    /// Takes an answer. What is not worth believing changes nothing.
    pub fn on_response(
        mut self,
        message: &Message<'_>,
        datagram: Datagram<'_>,
        cx: &mut Context<'_>,
    ) -> Progress {
        let Ok(answer) = InitAnswer::read(message.clear.clone()) else {
            cx.count_drop(DropClass::Malformed);
            return Progress::Waiting(Box::new(self));
        };
        match answer {
            InitAnswer::Accepted(init) => self.accepted(*init, message, datagram, cx),
            InitAnswer::Cookie(cookie) => {
                self.cookie = Some(cookie);
                self.again(cx)
            }
            InitAnswer::OtherGroup(wanted) => match self.offered(wanted) {
                Some(group) => {
                    self.ke = KeyExchange::generate(group, cx.rng);
                    self.again(cx)
                }
                None => {
                    let notify = Notify::new(
                        NotifyType::INVALID_KE_PAYLOAD,
                        wanted.to_be_bytes().to_vec(),
                    );
                    self.refused(&notify, cx.now)
                }
            },
            InitAnswer::Refused(notify) => self.refused(&notify, cx.now),
        }
    }

    /// A group the peer may ask for: one we offered and have not tried just now.
    fn offered(&self, wanted: u16) -> Option<&'static Group> {
        self.conn
            .settings
            .ike
            .iter()
            .flat_map(|proposal| proposal.groups.iter())
            .find(|group| group.id == wanted && group.id != self.ke.group().id)
            .copied()
    }

    fn refused(self, notify: &Notify, now: Time) -> Progress {
        let failure = error::refused(
            now,
            notify,
            &ours(&self.conn.settings, HandshakeStage::Init),
        );
        self.doubted(failure)
    }

    /// Nothing can come of this answer. It may be forged, so the attempt ends only after a while in which the true one may still come.
    fn doubted(mut self, failure: Failure) -> Progress {
        let now = failure.at;
        self.refusal.get_or_insert(failure);
        self.retransmit.expect_end_by(now + FORGERY_GRACE);
        Progress::Waiting(Box::new(self))
    }

    fn accepted(
        mut self,
        init: Init,
        message: &Message<'_>,
        datagram: Datagram<'_>,
        cx: &mut Context<'_>,
    ) -> Progress {
        let settings = &self.conn.settings;
        let misbehaved = |what| Error::Misbehaved(what).failure(cx.now);
        let Some(suite) = negotiate::accept_ike(&settings.ike, &init.sa).map(|chosen| chosen.suite)
        else {
            return self.doubted(misbehaved("it chose an IKE suite that we did not offer"));
        };
        // It may be the answer to our first message, before we changed the group.
        if init.ke.group != suite.group.id || suite.group != self.ke.group() {
            return Progress::Waiting(Box::new(self));
        }
        if message.header.spi_r.is_zero() {
            return self.doubted(misbehaved("its answer to IKE_SA_INIT has no SPI"));
        }
        if suite.additional.is_some() && !says(&init, NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED) {
            return self.doubted(misbehaved(
                "it chose an additional key exchange and no IKE_INTERMEDIATE to make it in",
            ));
        }
        let ppk = PpkUse::announced(settings.ppk.as_ref(), &init.notifies);
        if ppk == PpkUse::Unused && settings.ppk.as_ref().is_some_and(Ppk::is_required) {
            return self.doubted(Error::Denied(Denied::Ppk(PpkFault::Unused)).failure(cx.now));
        }
        let Ok(shared) = self.ke.agree(&init.ke.data) else {
            return self.doubted(misbehaved("its public value is not valid"));
        };
        let (spi_i, spi_r) = (self.spi_i, message.header.spi_r);
        let detected = nat::detect(
            init.notifies.iter(),
            spi_i,
            spi_r,
            datagram.local,
            datagram.remote,
        );
        // The peer hashes the source address that it sees; if that is not the one we have hashed, it sees a NAT.
        let misnamed = match settings.encapsulation {
            Encapsulation::Udp => false,
            Encapsulation::Auto | Encapsulation::Esp => self.conn.local.ip() != datagram.local.ip(),
        };
        let detected = detected.map(|seen| nat::Detected {
            us: seen.us || misnamed,
            ..seen
        });
        let (detected, transport) = match nat::choose_transport(detected, settings.encapsulation) {
            Ok(settled) => settled,
            Err(what) => return self.doubted(Error::Incompatible(what).failure(cx.now)),
        };
        let nonces = Nonces {
            initiator: std::mem::take(&mut self.nonce),
            responder: init.nonce,
        };
        let keys = IkeKeys::derive(suite, &shared, &nonces, spi_i, spi_r);
        let fragmentation = fragmentation(settings, &init.notifies, datagram.remote);
        let Ok(protector) = Protector::new(
            suite.protection,
            &keys,
            Role::Initiator,
            fragmentation,
            cx.rng,
        ) else {
            return Progress::Failed(
                Error::Misbehaved("its answer leads to keys of the wrong length").failure(cx.now),
            );
        };
        let mut conn = self.conn;
        conn.local.set_ip(datagram.local.ip());
        match transport {
            EspTransport::Udp => {
                conn.local.set_port(NAT_PORT);
                conn.remote.set_port(NAT_PORT);
            }
            // No NAT, no ports to keep open: IKE stays where it began (RFC 7296 §2.23).
            EspTransport::Esp => {}
        }
        Progress::Done(Box::new(InitResult {
            conn,
            spi_i,
            spi_r,
            role: Role::Initiator,
            suite,
            nonces,
            keys,
            protector,
            detected,
            transport,
            ppk,
            intermediates: Intermediates::default(),
            peer: peer_kind(&init.vendors),
            init_request: self.message,
            init_response: datagram.bytes.to_vec(),
        }))
    }
}

fn send(conn: &Connection, message: &[u8], cx: &mut Context<'_>) -> Retransmit {
    let message = SentMessage {
        local: conn.local,
        remote: conn.remote,
        datagrams: Datagrams::whole(message.to_vec()),
    };
    cx.out.transmits.extend(message.transmits());
    let jitter = cx.jitter();
    Retransmit::new(cx.now, message, HANDSHAKE_PATIENCE, jitter)
}

fn request(
    conn: &Connection,
    spi_i: IkeSpi,
    ke: &KeyExchange,
    nonce: &[u8],
    nat: &[Payload; 2],
    cookie: Option<&[u8]>,
    cx: &Context<'_>,
) -> Option<Vec<u8>> {
    let settings = &conn.settings;
    let mut payloads = Vec::new();
    payloads.extend(
        cookie.map(|cookie| Payload::Notify(Notify::new(NotifyType::COOKIE, cookie.to_vec()))),
    );
    payloads.push(Payload::Sa(negotiate::offer_ike(&settings.ike, &[])));
    payloads.push(public_value(ke));
    payloads.push(Payload::Nonce(nonce.to_vec()));
    payloads.extend(nat.iter().cloned());
    payloads.push(fact(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED));
    let additional = settings.ike.iter().any(|ike| !ike.additional.is_empty());
    payloads.extend(additional.then(|| fact(NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED)));
    payloads.extend(settings.ppk.is_some().then(|| fact(NotifyType::USE_PPK)));
    payloads.push(Payload::Vendor(VENDOR_ID.to_vec()));
    let header = Header::new(
        spi_i,
        IkeSpi::ZERO,
        ExchangeType::IKE_SA_INIT,
        FROM_INITIATOR,
        MessageId(0),
    );
    let (header, payloads) = cx.impaired(header, payloads);
    Message::encode_clear(header, &payloads).ok()
}

/// The KE payload of our half of a key exchange.
pub fn public_value(ke: &KeyExchange) -> Payload {
    Payload::Ke(Ke {
        group: ke.group().id,
        data: ke.public().to_vec(),
    })
}

/// What we can do. The responder says so only to who can do it too (RFC 7383 §2.3, RFC 9242 §3.1, RFC 8784 §3).
fn fact(kind: NotifyType) -> Payload {
    Payload::Notify(Notify::new(kind, Vec::new()))
}

/// Whether the peer says that it can do something.
fn says(init: &Init, kind: NotifyType) -> bool {
    init.notifies.iter().any(|notify| notify.kind == kind)
}

/// What comes of what the peer says; we always say that we understand fragments.
fn fragmentation(settings: &Settings, notifies: &[Notify], remote: SocketAddr) -> Fragmentation {
    let supported = notifies
        .iter()
        .any(|notify| notify.kind == NotifyType::IKEV2_FRAGMENTATION_SUPPORTED);
    if supported {
        Fragmentation::Agreed(FragmentSizes::new(settings.fragment_size, remote.ip()))
    } else {
        Fragmentation::Unsupported
    }
}

fn peer_kind(vendors: &[Vec<u8>]) -> PeerKind {
    if vendors.iter().any(|vendor| vendor == VENDOR_ID) {
        PeerKind::Groundlink
    } else {
        PeerKind::Other
    }
}

/// What we ask a peer for, in words.
pub fn ours(settings: &Settings, stage: HandshakeStage) -> OfferSummary {
    OfferSummary {
        stage,
        ike: join(settings.ike.iter()),
        esp: join(settings.esp.iter()),
        id: settings.id.clone(),
        selectors: selectors(&settings.policy.local, &settings.policy.remote),
        ppk: settings.ppk.as_ref().map(|ppk| ppk.id.clone()),
        encapsulation: settings.encapsulation,
    }
}

/// Values in a row, separated by commas.
pub fn join(values: impl Iterator<Item = impl std::fmt::Display>) -> String {
    values
        .map(|value| value.to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

/// Traffic selectors the way people write them, ours first.
pub fn selectors(local: &[crate::net::Selector], remote: &[crate::net::Selector]) -> String {
    format!(
        "{} === {}",
        join(local.iter().take(30)),
        join(remote.iter().take(30))
    )
}

/// What a responder makes of an IKE_SA_INIT request.
#[derive(Debug)]
pub enum Answered {
    /// It can go on; the answer is in the state.
    HalfOpen(Box<HalfOpen>),
    /// It cannot; the answer, if it deserves one, and what a person should know, if anything.
    Refused {
        /// The datagram to send back.
        answer: Option<Vec<u8>>,
        /// What to tell.
        failure: Option<Failure>,
    },
}

/// Answers an IKE_SA_INIT request for a tunnel, and waits `patience` for IKE_AUTH.
pub fn respond(
    conn: Connection,
    spi_r: IkeSpi,
    message: &Message<'_>,
    routability: ReturnRoutability,
    patience: Duration,
    cx: &mut Context<'_>,
) -> Answered {
    let spi_i = message.header.spi_i;
    match try_respond(conn, spi_r, message, cx) {
        Ok(init) => Answered::HalfOpen(Box::new(HalfOpen {
            awaits: init
                .suite
                .additional
                .map_or(Awaits::Auth, Awaits::Intermediate),
            received: Received::starting_at(1),
            before: None,
            init,
            routability,
            expires: cx.now + patience,
        })),
        // Being asked for another group is how a handshake may well begin (RFC 7296 §1.2): nothing to tell.
        Err(error @ Error::Incompatible(Incompatible::Group { .. })) => Answered::Refused {
            answer: refuse(spi_i, error.notify()),
            failure: None,
        },
        Err(error) => Answered::Refused {
            answer: refuse(spi_i, error.notify()),
            failure: Some(error.failure(cx.now)),
        },
    }
}

/// The message that refuses an IKE_SA_INIT request; it leaves no state behind, so its responder SPI is zero.
pub fn refuse(spi_i: IkeSpi, notify: Notify) -> Option<Vec<u8>> {
    let header = Header::new(
        spi_i,
        IkeSpi::ZERO,
        ExchangeType::IKE_SA_INIT,
        FROM_RESPONDER,
        MessageId(0),
    );
    Message::encode_clear(header, &[Payload::Notify(notify)]).ok()
}

fn try_respond(
    conn: Connection,
    spi_r: IkeSpi,
    message: &Message<'_>,
    cx: &mut Context<'_>,
) -> Result<InitResult, Error> {
    let settings = conn.settings.clone();
    let spi_i = message.header.spi_i;
    let mut init = Init::read(message.clear.clone())?;
    // RFC 7296 §3.3.1: the header names the SA, so what says another name beside it contradicts itself.
    init.sa.proposals.retain(|proposal| proposal.spi.is_empty());
    let offer = if says(&init, NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED) {
        init.sa.clone()
    } else {
        without_additional(&init.sa)
    };
    let chosen = negotiate::choose_ike(&settings.ike, &offer).ok_or_else(|| {
        Error::Incompatible(Incompatible::Ike {
            theirs: negotiate::words_of_all(&init.sa, 8),
            ours: join(settings.ike.iter()),
            closest: closest_proposal::ike(&settings.ike, &init.sa),
        })
    })?;
    let suite = chosen.suite;
    if init.ke.group != suite.group.id {
        return Err(Error::Incompatible(Incompatible::Group {
            wanted: suite.group.id,
        }));
    }
    let detected = nat::detect(
        init.notifies.iter(),
        spi_i,
        IkeSpi::ZERO,
        conn.local,
        conn.remote,
    );
    let (detected, transport) =
        nat::choose_transport(detected, settings.encapsulation).map_err(Error::Incompatible)?;
    let KeResponse { public, shared } = KeyExchange::respond(suite.group, &init.ke.data, cx.rng)
        .map_err(|invalid| Error::Malformed(invalid.to_string()))?;
    let mut nonce = vec![0; NONCE_LEN];
    cx.rng.fill(&mut nonce);

    let mut payloads = vec![
        Payload::Sa(negotiate::answer_ike(&chosen, &[])),
        Payload::Ke(Ke {
            group: suite.group.id,
            data: public,
        }),
        Payload::Nonce(nonce.clone()),
    ];
    payloads.extend(nat::notifies(
        spi_i,
        spi_r,
        conn.local,
        conn.remote,
        settings.encapsulation,
        cx.rng,
    ));
    let fragmentation = fragmentation(&settings, &init.notifies, conn.remote);
    match fragmentation {
        Fragmentation::Agreed(_) => {
            payloads.push(fact(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED));
        }
        Fragmentation::Unsupported => {}
    }
    if suite.additional.is_some() {
        payloads.push(fact(NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED));
    }
    let ppk = PpkUse::announced(settings.ppk.as_ref(), &init.notifies);
    match ppk {
        PpkUse::Announced => payloads.push(fact(NotifyType::USE_PPK)),
        PpkUse::Unused | PpkUse::Mixed => {}
    }
    payloads.push(Payload::Vendor(VENDOR_ID.to_vec()));
    let header = Header::new(
        spi_i,
        spi_r,
        ExchangeType::IKE_SA_INIT,
        FROM_RESPONDER,
        MessageId(0),
    );
    let (header, payloads) = cx.impaired(header, payloads);
    let response = Message::encode_clear(header, &payloads)
        .map_err(|long| Error::Malformed(long.to_string()))?;

    let nonces = Nonces {
        initiator: init.nonce,
        responder: nonce,
    };
    let keys = IkeKeys::derive(suite, &shared, &nonces, spi_i, spi_r);
    let protector = Protector::new(
        suite.protection,
        &keys,
        Role::Responder,
        fragmentation,
        cx.rng,
    )
    .map_err(|_| Error::Misbehaved("its offer leads to keys of the wrong length"))?;
    Ok(InitResult {
        conn,
        spi_i,
        spi_r,
        role: Role::Responder,
        suite,
        nonces,
        keys,
        protector,
        detected,
        transport,
        ppk,
        intermediates: Intermediates::default(),
        peer: peer_kind(&init.vendors),
        init_request: message.bytes.to_vec(),
        init_response: response,
    })
}
