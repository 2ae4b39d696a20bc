//! IKE_SA_INIT (RFC 7296 §1.2): algorithms, public values and nonces, in the clear. This file is the initiator; the responder is
//! [`init_responder`](super::init_responder).
//!
//! ```text
//! HDR(SPIi, 0), [N(COOKIE),] SAi1, KEi, Ni, N(NAT-D source, destination), N(fragments), [N(intermediate), N(USE_PPK),] V  ──▶
//!                 ◀──  HDR(SPIi, SPIr), SAr1, KEr, Nr, N(NAT-D source, destination), N(fragments), [N(intermediate), N(USE_PPK),] V
//!            or   ◀──  HDR(SPIi, 0), N(INVALID_KE_PAYLOAD | NO_PROPOSAL_CHOSEN | COOKIE)
//! ```
//!
//! Nothing here is authenticated. The initiator therefore keeps waiting after a rejection, for a while in which the true response may still come (§2.21.1). The
//! responder keeps no state before it has an acceptable offer. Of several acceptable responses the first counts (§2.4); if it was forged, the attempt times out,
//! and the next one has a new SPI.

use std::net::SocketAddr;
use std::time::Duration;

use super::payloads::{HANDSHAKE_REQUEST, fresh_nonce, ke_payload, notify};
use crate::crypto::{Group, IkeSuite, KeyExchange, Secret};
use crate::ike::authn::Intermediates;
use crate::ike::context::Context;
use crate::ike::error::{self, Denied, Error, HandshakeStage, OfferSummary, PpkFault};
use crate::ike::event::{Datagram, Role};
use crate::ike::failure::Failure;
use crate::ike::init_result::{Connection, InitResult, PeerKind};
use crate::ike::key_schedule::{IkeKeys, Nonces};
use crate::ike::messages::{Init, InitResponse};
use crate::ike::nat::{self, Detected};
use crate::ike::negotiate;
use crate::ike::out_message::{Datagrams, FragmentSizes, Fragmentation, SentMessage};
use crate::ike::ppk::PpkUse;
use crate::ike::protect::Protector;
use crate::ike::retransmit::{HANDSHAKE_PATIENCE, Retransmit};
use crate::ike::settings::{Encapsulation, Ppk, Settings};
use crate::ike::unauthenticated::DropClass;
use crate::net::{EspTransport, NAT_PORT, Time};
use crate::wire::{ExchangeType, Header, IkeSpi, Message, MessageId, Notify, NotifyType, Payload};

/// How often a peer may ask for another cookie or group.
const MAX_RESTARTS: u8 = 4;

/// How long the true response may still come after a rejection that may be forged.
const FORGERY_GRACE: Duration = Duration::from_secs(2);

/// The Vendor ID payload by which groundlinks recognise each other.
pub(super) const VENDOR_ID: &[u8] = b"groundlink IKEv2 1";

/// Initiator: IKE_SA_INIT is sent.
#[derive(Debug)]
pub struct InitSent {
    /// Tunnel and addresses.
    pub conn: Connection,
    /// The last rejection, which may be forged.
    pub rejection: Option<Failure>,
    /// The request and its retransmission timer.
    pub retransmit: Retransmit,
    spi_i: IkeSpi,
    ke: KeyExchange,
    nonce: Vec<u8>,
    /// The NAT detection notifications, which are the same in each request.
    nat: [Payload; 2],
    /// The last request, which AUTH covers.
    request: Vec<u8>,
    cookie: Option<Vec<u8>>,
    restarts: u8,
}

/// State of the initiator after a message.
#[derive(Debug)]
pub enum Progress {
    /// The response is still awaited.
    Waiting(Box<InitSent>),
    /// The keys are known.
    Done(Box<InitResult>),
    /// The attempt has failed.
    Failed(Failure),
}

/// Why a response that accepts our offer is not used.
enum Unusable {
    /// It answers an earlier request of ours.
    Stale,
    /// It is invalid, incompatible or forged.
    Error(Error),
}

impl From<Error> for Unusable {
    fn from(error: Error) -> Unusable {
        Unusable::Error(error)
    }
}

impl InitSent {
    /// Sends the first message; `None` if it is too long.
    pub fn initiate(conn: Connection, spi_i: IkeSpi, cx: &mut Context<'_>) -> Option<InitSent> {
        let group = conn.settings.ike.first()?.groups.first()?;
        let ke = KeyExchange::generate(group, cx.rng);
        let nonce = fresh_nonce(cx.rng);
        let encapsulation = conn.settings.encapsulation;
        let (local, remote) = (conn.local, conn.remote);
        let nat = nat::notifies(spi_i, IkeSpi::ZERO, local, remote, encapsulation, cx.rng);
        let payloads = request_payloads(&conn.settings, &ke, &nonce, &nat, None);
        let request = encode_request(spi_i, payloads, cx)?;
        let retransmit = send_request(&conn, &request, cx);
        Some(InitSent {
            conn,
            spi_i,
            ke,
            nonce,
            nat,
            request,
            cookie: None,
            restarts: 0,
            rejection: None,
            retransmit,
        })
    }

    /// Repeats the request with another group or a cookie and nothing else changed: the cookie may be bound to the rest (RFC 7296 §2.6), and a forged response
    /// must not weaken the proposals (§1.2).
    fn restart(mut self, cx: &mut Context<'_>) -> Progress {
        self.restarts = self.restarts.saturating_add(1);
        if self.restarts > MAX_RESTARTS {
            let error = Error::Misbehaved("it makes us restart the handshake again and again");
            return Progress::Failed(error.failure(cx.now));
        }
        let cookie = self.cookie.as_deref();
        let settings = &self.conn.settings;
        let payloads = request_payloads(settings, &self.ke, &self.nonce, &self.nat, cookie);
        if let Some(request) = encode_request(self.spi_i, payloads, cx) {
            self.retransmit = send_request(&self.conn, &request, cx);
            self.request = request;
        }
        Progress::Waiting(Box::new(self))
    }

    /// Handles a response.
    pub fn on_response(
        mut self,
        message: &Message<'_>,
        datagram: Datagram<'_>,
        cx: &mut Context<'_>,
    ) -> Progress {
        let Ok(response) = InitResponse::read(message.clear.clone()) else {
            cx.count_drop(DropClass::Malformed);
            return Progress::Waiting(Box::new(self));
        };
        match response {
            InitResponse::Accepted(init) => match self.complete(*init, message, datagram, cx) {
                Ok(result) => Progress::Done(Box::new(result)),
                Err(Unusable::Stale) => Progress::Waiting(Box::new(self)),
                Err(Unusable::Error(error)) => self.doubt(error.failure(cx.now)),
            },
            InitResponse::Cookie(cookie) => {
                self.cookie = Some(cookie);
                self.restart(cx)
            }
            InitResponse::OtherGroup(wanted) => match self.untried_group(wanted) {
                Some(group) => {
                    self.ke = KeyExchange::generate(group, cx.rng);
                    self.restart(cx)
                }
                None => {
                    let wanted = wanted.to_be_bytes().to_vec();
                    let notify = Notify::new(NotifyType::INVALID_KE_PAYLOAD, wanted);
                    self.on_rejected(&notify, cx.now)
                }
            },
            InitResponse::Rejected(notify) => self.on_rejected(&notify, cx.now),
        }
    }

    /// The group that the peer asks for, if we offer it and have not tried it last.
    fn untried_group(&self, wanted: u16) -> Option<&'static Group> {
        self.conn
            .settings
            .ike
            .iter()
            .flat_map(|proposal| proposal.groups.iter())
            .find(|group| group.id == wanted && group.id != self.ke.group().id)
            .copied()
    }

    fn on_rejected(self, notify: &Notify, now: Time) -> Progress {
        let ours = OfferSummary::new(&self.conn.settings, HandshakeStage::Init);
        self.doubt(error::rejected_by_peer(now, notify, &ours))
    }

    /// Keeps waiting for a short time: the response cannot be used, but it may be forged.
    fn doubt(mut self, failure: Failure) -> Progress {
        let now = failure.at;
        self.rejection.get_or_insert(failure);
        self.retransmit.expect_end_by(now + FORGERY_GRACE);
        Progress::Waiting(Box::new(self))
    }

    /// Checks a response that accepts our offer, and derives the keys.
    fn complete(
        &self,
        init: Init,
        message: &Message<'_>,
        datagram: Datagram<'_>,
        cx: &mut Context<'_>,
    ) -> Result<InitResult, Unusable> {
        let spi_r = message.header.spi_r;
        let suite = self.check_suite(&init, spi_r)?;
        let ppk = self.check_ppk(&init)?;
        let shared = (self.ke.agree(&init.ke.data))
            .map_err(|_| Error::Misbehaved("its public value is not valid"))?;
        let (detected, transport) = self.detect_nat(&init, spi_r, datagram)?;
        let mut conn = self.conn.clone();
        conn.local.set_ip(datagram.local.ip());
        match transport {
            EspTransport::Udp => {
                conn.local.set_port(NAT_PORT);
                conn.remote.set_port(NAT_PORT);
            }
            // Without a NAT there is no mapping to keep: IKE stays on its port (RFC 7296 §2.23).
            EspTransport::Esp => {}
        }
        let agreement = Agreement {
            fragmentation: fragmentation(&conn.settings, &init, datagram.remote),
            conn,
            spis: (self.spi_i, spi_r),
            role: Role::Initiator,
            suite,
            shared,
            nonces: Nonces {
                initiator: self.nonce.clone(),
                responder: init.nonce,
            },
            nat: (detected, transport),
            ppk,
            peer: peer_kind(&init.vendors),
            messages: (self.request.clone(), datagram.bytes.to_vec()),
        };
        Ok(agreement.with_keys("its response leads to keys of the wrong length", cx)?)
    }

    fn check_suite(&self, init: &Init, spi_r: IkeSpi) -> Result<IkeSuite, Unusable> {
        let suite = negotiate::accept_ike(&self.conn.settings.ike, &init.sa)
            .map(|chosen| chosen.suite)
            .ok_or(Error::Misbehaved(
                "it chose an IKE suite that we did not offer",
            ))?;
        // It may answer our first request, before the group was changed.
        if init.ke.group != suite.group.id || suite.group != self.ke.group() {
            return Err(Unusable::Stale);
        }
        if spi_r.is_zero() {
            return Err(Error::Misbehaved("its response to IKE_SA_INIT has no SPI").into());
        }
        if suite.additional.is_some() && !has(init, NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED) {
            return Err(Error::Misbehaved(
                "it chose an additional key exchange and no IKE_INTERMEDIATE to make it in",
            )
            .into());
        }
        Ok(suite)
    }

    fn check_ppk(&self, init: &Init) -> Result<PpkUse, Error> {
        let ours = self.conn.settings.ppk.as_ref();
        let ppk = PpkUse::announced(ours, &init.notifies);
        if ppk == PpkUse::Unused && ours.is_some_and(Ppk::is_required) {
            return Err(Error::Denied(Denied::Ppk(PpkFault::Unused)));
        }
        Ok(ppk)
    }

    fn detect_nat(
        &self,
        init: &Init,
        spi_r: IkeSpi,
        datagram: Datagram<'_>,
    ) -> Result<(Detected, EspTransport), Error> {
        let (local, remote) = (datagram.local, datagram.remote);
        let detected = nat::detect(init.notifies.iter(), self.spi_i, spi_r, local, remote);
        let encapsulation = self.conn.settings.encapsulation;
        // The peer hashes the source address that it sees. If we have hashed another one, it sees a NAT.
        let wrong_source = match encapsulation {
            Encapsulation::Udp => false,
            Encapsulation::Auto | Encapsulation::Esp => self.conn.local.ip() != local.ip(),
        };
        let detected = detected.map(|seen| Detected {
            us: seen.us || wrong_source,
            ..seen
        });
        nat::choose_transport(detected, encapsulation).map_err(Error::Incompatible)
    }
}

/// Outcome of both roles before the keys are derived.
pub(super) struct Agreement {
    pub conn: Connection,
    pub spis: (IkeSpi, IkeSpi),
    pub role: Role,
    pub suite: IkeSuite,
    pub shared: Secret,
    pub nonces: Nonces,
    pub nat: (Detected, EspTransport),
    pub fragmentation: Fragmentation,
    pub ppk: PpkUse,
    pub peer: PeerKind,
    pub messages: (Vec<u8>, Vec<u8>),
}

impl Agreement {
    /// Derives the keys. They always fit the suite; if not, the error says `wrong_length`.
    pub fn with_keys(
        self,
        wrong_length: &'static str,
        cx: &mut Context<'_>,
    ) -> Result<InitResult, Error> {
        let (spi_i, spi_r) = self.spis;
        let keys = IkeKeys::derive(self.suite, &self.shared, &self.nonces, spi_i, spi_r);
        let protection = self.suite.protection;
        let protector = Protector::new(protection, &keys, self.role, self.fragmentation, cx.rng)
            .map_err(|_| Error::Misbehaved(wrong_length))?;
        let (init_request, init_response) = self.messages;
        let (detected, transport) = self.nat;
        Ok(InitResult {
            conn: self.conn,
            spi_i,
            spi_r,
            role: self.role,
            suite: self.suite,
            nonces: self.nonces,
            keys,
            protector,
            detected,
            transport,
            ppk: self.ppk,
            intermediates: Intermediates::default(),
            peer: self.peer,
            init_request,
            init_response,
        })
    }
}

fn request_payloads(
    settings: &Settings,
    ke: &KeyExchange,
    nonce: &[u8],
    nat: &[Payload; 2],
    cookie: Option<&[u8]>,
) -> Vec<Payload> {
    let mut payloads = Vec::new();
    payloads.extend(
        cookie.map(|cookie| Payload::Notify(Notify::new(NotifyType::COOKIE, cookie.to_vec()))),
    );
    payloads.push(Payload::Sa(negotiate::offer_ike(&settings.ike, &[])));
    payloads.push(ke_payload(ke));
    payloads.push(Payload::Nonce(nonce.to_vec()));
    payloads.extend(nat.iter().cloned());
    payloads.push(notify(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED));
    let additional = settings.ike.iter().any(|ike| !ike.additional.is_empty());
    payloads.extend(additional.then(|| notify(NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED)));
    payloads.extend(settings.ppk.is_some().then(|| notify(NotifyType::USE_PPK)));
    payloads.push(Payload::Vendor(VENDOR_ID.to_vec()));
    payloads
}

fn encode_request(spi_i: IkeSpi, payloads: Vec<Payload>, cx: &Context<'_>) -> Option<Vec<u8>> {
    let exchange = ExchangeType::IKE_SA_INIT;
    let header = Header::new(
        spi_i,
        IkeSpi::ZERO,
        exchange,
        HANDSHAKE_REQUEST,
        MessageId(0),
    );
    let (header, payloads) = cx.impaired(header, payloads);
    Message::encode_clear(header, &payloads).ok()
}

fn send_request(conn: &Connection, request: &[u8], cx: &mut Context<'_>) -> Retransmit {
    let message = SentMessage {
        local: conn.local,
        remote: conn.remote,
        datagrams: Datagrams::whole(request.to_vec()),
    };
    cx.send_request(message, HANDSHAKE_PATIENCE)
}

pub(super) fn has(init: &Init, kind: NotifyType) -> bool {
    init.notifies.iter().any(|notify| notify.kind == kind)
}

/// What both sides support of fragmentation; we always do.
pub(super) fn fragmentation(settings: &Settings, init: &Init, remote: SocketAddr) -> Fragmentation {
    if has(init, NotifyType::IKEV2_FRAGMENTATION_SUPPORTED) {
        Fragmentation::Agreed(FragmentSizes::new(settings.fragment_size, remote.ip()))
    } else {
        Fragmentation::Unsupported
    }
}

pub(super) fn peer_kind(vendors: &[Vec<u8>]) -> PeerKind {
    if vendors.iter().any(|vendor| vendor == VENDOR_ID) {
        PeerKind::Groundlink
    } else {
        PeerKind::Other
    }
}
