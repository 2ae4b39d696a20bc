//! IKE_AUTH (RFC 7296 §1.2, §2.15): both sides prove the pre-shared key and create the first Child SA.
//!
//! ```text
//! HDR, SK { IDi, AUTH, [N(PPK_IDENTITY), N(NO_PPK_AUTH),] [N(INITIAL_CONTACT),] SAi2, TSi, TSr }  ──▶
//!                 ◀──  HDR, SK { IDr, AUTH, [N(PPK_IDENTITY),] SAr2, TSi, TSr }
//!            or   ◀──  HDR, SK { IDr, AUTH, N(NO_PROPOSAL_CHOSEN | TS_UNACCEPTABLE) }     an IKE SA without a Child SA
//!            or   ◀──  HDR, SK { N(AUTHENTICATION_FAILED) }                               no IKE SA
//! ```
//!
//! We do not send the optional IDr: a peer with another identity then names it, and we can report it.
//!
//! With a post-quantum pre-shared key (RFC 8784 §3), the responder's use of it and both demands decide what the keys are:
//!
//! ```text
//! responder: the initiator sent…            ours is required          ours is optional
//!   no USE_PPK                              rejected                  without it
//!   PPK_IDENTITY as ours                    with it                   with it
//!   PPK_IDENTITY of another, NO_PPK_AUTH    rejected                  without it, by NO_PPK_AUTH
//!   PPK_IDENTITY of another                 rejected                  rejected: its AUTH needs a key that we lack
//! initiator: the responder sent…
//!   PPK_IDENTITY                            with it                   with it
//!   none                                    rejected                  without it: it has checked our NO_PPK_AUTH
//! ```

use super::create_child::{Parent, accept_selectors};
use super::init_responder::HalfOpen;
use super::payloads::{HANDSHAKE_REQUEST, HANDSHAKE_RESPONSE, notify};
use crate::crypto::EspSuite;
use crate::ike::authn::{self, Signed};
use crate::ike::child_sa::ChildSa;
use crate::ike::closest_proposal;
use crate::ike::context::Context;
use crate::ike::error::{
    self, Denied, Error, HandshakeStage, Incompatible, OfferSummary, PpkFault,
};
use crate::ike::event::{Datagram, Event, Role};
use crate::ike::failure::Failure;
use crate::ike::identity::PeerId;
use crate::ike::init_result::InitResult;
use crate::ike::key_schedule::IkeKeys;
use crate::ike::messages::{AuthRequest, AuthResponse, ChildResponse, PpkResponse};
use crate::ike::negotiate::{self, Chosen, Pfs};
use crate::ike::offer::{join, selectors};
use crate::ike::out_message::{Datagrams, SentMessage};
use crate::ike::ppk::{self, PpkUse};
use crate::ike::protect::Opened;
use crate::ike::retransmit::{HANDSHAKE_PATIENCE, Retransmit};
use crate::ike::sa::{AgreedChild, IkeSa, Job};
use crate::ike::settings::{Ppk, PpkDemand, Settings};
use crate::ike::window::{LastResponse, Mark, Received};
use crate::net::{EspTransport, NAT_PORT, Policy, narrow};
use crate::wire::{
    Auth, AuthMethod, ExchangeType, Flags, Header, Id, Message, Notify, NotifyType, Payload,
};

/// Whether we send INITIAL_CONTACT: the peer then deletes older IKE SAs with us (RFC 7296 §2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitialContact {
    /// This is the only IKE SA between the two identities.
    Send,
    /// There is, or may be, another.
    Omit,
}

/// Use of the IKE SA that our IKE_AUTH may create.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It serves its tunnel.
    Serve,
    /// It is not needed any more. The peer may have created it already, so the response is awaited and the SA deleted.
    Close,
}

/// Initiator: IKE_AUTH is sent.
#[derive(Debug)]
pub struct AuthSent {
    /// State of the handshake.
    pub init: InitResult,
    /// What the IKE SA is for.
    pub purpose: Purpose,
    /// The inbound SPI of the Child SA that we offer.
    pub spi_in: u32,
    /// The request and its retransmission timer.
    pub retransmit: Retransmit,
}

/// Outcome of an IKE_AUTH exchange.
#[derive(Debug)]
pub enum Concluded {
    /// Both sides are authenticated.
    Established {
        /// The IKE SA, with its Child SA if there is one.
        sa: Box<IkeSa>,
        /// Why there is no Child SA.
        failure: Option<Failure>,
        /// Whether the peer sent INITIAL_CONTACT.
        initial_contact: bool,
    },
    /// The peer has established an IKE SA that we reject: it must be deleted.
    Rejected {
        /// The IKE SA, to be closed with the notification.
        sa: Box<IkeSa>,
        /// Why.
        failure: Failure,
        /// The notification.
        notify: Notify,
    },
    /// There is no IKE SA.
    Failed {
        /// Why.
        failure: Failure,
        /// Our response, for repetitions of the request.
        last_response: Option<Box<LastResponse>>,
    },
}

/// State of the initiator after a message.
#[derive(Debug)]
pub enum Progress {
    /// The response is still awaited.
    Waiting(Box<AuthSent>),
    /// The exchange is over.
    Concluded(Concluded),
}

/// Sends IKE_AUTH; `None` if the message is too long.
pub fn initiate(
    mut init: InitResult,
    spi_in: u32,
    contact: InitialContact,
    cx: &mut Context<'_>,
) -> Option<AuthSent> {
    let settings = init.conn.settings.clone();
    let mut payloads = initiator_auth_payloads(&init, &settings.id.payload());
    match contact {
        InitialContact::Send => payloads.push(notify(NotifyType::INITIAL_CONTACT)),
        InitialContact::Omit => {}
    }
    let proposals = negotiate::offer_esp(&settings.esp, spi_in, Pfs::Unnamed);
    payloads.push(Payload::Sa(proposals));
    let offered = settings.first_policy();
    payloads.push(Payload::TsI(offered.local.into()));
    payloads.push(Payload::TsR(offered.remote.into()));
    let (header, payloads) = cx.impaired(header(&init, HANDSHAKE_REQUEST), payloads);
    let message = SentMessage {
        local: init.conn.local,
        remote: init.conn.remote,
        datagrams: init.protector.seal(header, &payloads)?,
    };
    cx.out.events.push_back(Event::ChildOffered {
        tunnel: init.conn.tunnel,
        spi_in,
    });
    Some(AuthSent {
        init,
        purpose: Purpose::Serve,
        spi_in,
        retransmit: cx.send_request(message, HANDSHAKE_PATIENCE),
    })
}

fn header(init: &InitResult, flags: Flags) -> Header {
    let id = init.intermediates.auth_id();
    Header::new(init.spi_i, init.spi_r, ExchangeType::IKE_AUTH, flags, id)
}

impl AuthSent {
    /// Handles a response.
    pub fn on_response(mut self, message: &Message<'_>, cx: &mut Context<'_>) -> Progress {
        let Opened { payloads, .. } = match self.init.protector.open(message) {
            Ok(opened) => opened,
            Err(why) => {
                cx.count_unopened(why);
                return Progress::Waiting(Box::new(self));
            }
        };
        let AuthSent {
            mut init, spi_in, ..
        } = self;
        let response = payloads.map_err(Error::from).and_then(AuthResponse::read);
        let checked = response.and_then(|response| match response {
            AuthResponse::Proved {
                id,
                auth,
                ppk,
                child,
            } => check_responder(&mut init, &id, &auth, ppk).map(|()| Ok(child)),
            AuthResponse::Rejected(notify) => Ok(Err(notify)),
        });
        Progress::Concluded(match checked {
            Ok(Ok(child)) => establish(init, spi_in, child, cx),
            Ok(Err(notify)) => Concluded::Failed {
                failure: rejected_by_peer(&init.conn.settings, &notify, cx),
                last_response: None,
            },
            // The peer takes the IKE SA to be established, so it must be deleted (RFC 7296 §2.21.2).
            Err(error) => Concluded::Rejected {
                failure: error.failure(cx.now),
                notify: error.notify(),
                sa: Box::new(IkeSa::establish(init, None, cx)),
            },
        })
    }
}

fn rejected_by_peer(settings: &Settings, notify: &Notify, cx: &Context<'_>) -> Failure {
    let ours = OfferSummary::new(settings, HandshakeStage::Auth);
    error::rejected_by_peer(cx.now, notify, &ours)
}

/// Establishes the IKE SA of an authenticated responder, with the Child SA of its response.
fn establish(
    init: InitResult,
    spi_in: u32,
    child: Result<ChildResponse, Notify>,
    cx: &mut Context<'_>,
) -> Concluded {
    let settings = init.conn.settings.clone();
    let peer_has_child = child.is_ok();
    let accepted = match child {
        Ok(response) => accept_child(&response, &settings).map_err(|error| error.failure(cx.now)),
        Err(notify) => Err(rejected_by_peer(&settings, &notify, cx)),
    };
    let (child, failure) = match accepted {
        Ok((suite, spi_out, policy)) => {
            let child = create_child(&init, suite, (spi_in, spi_out), policy, cx);
            (Some(child), None)
        }
        Err(failure) => (None, Some(failure)),
    };
    let mut sa = Box::new(IkeSa::establish(init, child, cx));
    if peer_has_child && failure.is_some() {
        sa.queue_request(Job::DeleteChild { spi_in }, cx);
    }
    Concluded::Established {
        sa,
        failure,
        initial_contact: false,
    }
}

/// Checks the Child SA of a response: its suite and its selectors must be within what we offered.
fn accept_child(
    response: &ChildResponse,
    settings: &Settings,
) -> Result<(EspSuite, u32, Policy), Error> {
    if response.transport_mode {
        return Err(Error::Incompatible(Incompatible::TransportMode));
    }
    let policy = accept_selectors(&response.ts_i, &response.ts_r, &settings.first_policy()).ok_or(
        Error::Misbehaved("it responded with a Child SA that we did not offer"),
    )?;
    let (suite, spi_out) = negotiate::accept_esp(&settings.esp, &response.sa, Pfs::Unnamed).ok_or(
        Error::Misbehaved("it chose an ESP suite that we did not offer"),
    )?;
    Ok((suite, spi_out, policy))
}

fn create_child(
    init: &InitResult,
    suite: EspSuite,
    (spi_in, spi_out): (u32, u32),
    policy: Policy,
    cx: &mut Context<'_>,
) -> ChildSa {
    let agreed = AgreedChild {
        suite,
        role: init.role,
        spi_in,
        spi_out,
        policy,
        shared: None,
        nonces: init.nonces.clone(),
    };
    let parent = Parent {
        prf: init.suite.prf,
        sk_d: &init.keys.derive,
        settings: &init.conn.settings,
    };
    agreed.with_keys(None, parent, cx).child
}

impl HalfOpen {
    /// Handles an IKE_AUTH request. The state comes back if the message is not the peer's.
    pub fn on_auth(
        mut self,
        message: &Message<'_>,
        datagram: Datagram<'_>,
        spi_in: u32,
        cx: &mut Context<'_>,
    ) -> Result<Concluded, Box<HalfOpen>> {
        let Opened { mark, payloads, .. } = match self.init.protector.open(message) {
            Ok(opened) => opened,
            Err(why) => {
                cx.count_unopened(why);
                return Err(Box::new(self));
            }
        };
        let request = payloads.map_err(Error::from).and_then(AuthRequest::read);
        // RFC 7296 §2.23: the initiator may have moved to port 4500, where a NAT may map it to another address or port.
        self.init.conn.local = datagram.local;
        self.init.conn.remote = datagram.remote;
        let checked = request.and_then(|request| {
            check_initiator(&mut self.init, &request)?;
            Ok(request)
        });
        Ok(match checked {
            Ok(request) => authenticated(self.init, &request, mark, datagram, spi_in, cx),
            Err(error) => reject(self.init, &error, mark, datagram, cx),
        })
    }
}

/// Answers an initiator that is not authenticated. No IKE SA is created.
fn reject(
    mut init: InitResult,
    error: &Error,
    mark: Mark,
    datagram: Datagram<'_>,
    cx: &mut Context<'_>,
) -> Concluded {
    let mut received = Received::starting_at(init.intermediates.auth_id().0);
    let payloads = vec![Payload::Notify(error.notify())];
    let (header, payloads) = cx.impaired(header(&init, HANDSHAKE_RESPONSE), payloads);
    if let Some(response) = init.protector.seal(header, &payloads) {
        respond(response, &mut received, mark, datagram, cx);
    }
    Concluded::Failed {
        failure: error.failure(cx.now),
        last_response: Some(Box::new(LastResponse::new(received, cx.now))),
    }
}

/// Answers an authenticated initiator, and establishes the IKE SA.
fn authenticated(
    mut init: InitResult,
    request: &AuthRequest,
    mark: Mark,
    datagram: Datagram<'_>,
    spi_in: u32,
    cx: &mut Context<'_>,
) -> Concluded {
    let mut payloads = responder_auth_payloads(&init, &init.conn.settings.id.payload());
    let (child, failure) = match choose_child(&init, request, datagram) {
        Ok((chosen, spi_out, policy)) => {
            payloads.push(Payload::Sa(negotiate::esp_response(&chosen, spi_in)));
            payloads.push(Payload::TsI(policy.remote.clone().into()));
            payloads.push(Payload::TsR(policy.local.clone().into()));
            let child = create_child(&init, chosen.suite, (spi_in, spi_out), policy, cx);
            (Some(child), None)
        }
        Err(error) => {
            payloads.push(Payload::Notify(error.notify()));
            (None, Some(error.failure(cx.now)))
        }
    };
    let (header, payloads) = cx.impaired(header(&init, HANDSHAKE_RESPONSE), payloads);
    let Some(response) = init.protector.seal(header, &payloads) else {
        let error = Error::Misbehaved("our response to its IKE_AUTH does not fit a message");
        return reject(init, &error, mark, datagram, cx);
    };
    let mut sa = IkeSa::establish(init, child, cx);
    respond(response, &mut sa.received, mark, datagram, cx);
    Concluded::Established {
        sa: Box::new(sa),
        failure,
        initial_contact: request.initial_contact,
    }
}

/// A Child SA chosen from the request: the proposal, the outbound SPI, the selectors.
type ChosenChild = (Chosen<EspSuite>, u32, Policy);

fn choose_child(
    init: &InitResult,
    request: &AuthRequest,
    datagram: Datagram<'_>,
) -> Result<ChosenChild, Error> {
    let settings = &init.conn.settings;
    match init.transport {
        // A peer that has detected the NAT, real or forced, and stays on port 500 could not receive ESP in UDP.
        EspTransport::Udp if datagram.local.port() != NAT_PORT => {
            return Err(Error::Incompatible(Incompatible::NatTraversal));
        }
        EspTransport::Udp | EspTransport::Esp => {}
    }
    let no_proposal = || {
        Error::Incompatible(Incompatible::Esp {
            theirs: negotiate::words_of_all(&request.sa, 8),
            ours: join(settings.esp.iter()),
            closest: closest_proposal::esp(&settings.esp, &request.sa),
        })
    };
    let chosen =
        negotiate::choose_esp(&settings.esp, &request.sa, Pfs::Unnamed).ok_or_else(no_proposal)?;
    let spi_out = negotiate::esp_spi(&chosen.spi)?;
    let policy = Policy {
        local: narrow(&request.ts_r.selectors, &settings.policy.local),
        remote: narrow(&request.ts_i.selectors, &settings.policy.remote),
    };
    if policy.local.is_empty() || policy.remote.is_empty() {
        if request.transport_mode {
            return Err(Error::Incompatible(Incompatible::TransportMode));
        }
        return Err(Error::Incompatible(Incompatible::Selectors {
            theirs: selectors(&request.ts_r.selectors, &request.ts_i.selectors),
            ours: selectors(&settings.policy.local, &settings.policy.remote),
        }));
    }
    Ok((chosen, spi_out, policy))
}

/// Sends a response to where its request came from, and keeps it for repetitions of the request.
fn respond(
    response: Datagrams,
    received: &mut Received,
    mark: Mark,
    datagram: Datagram<'_>,
    cx: &mut Context<'_>,
) {
    cx.out.send(datagram.local, datagram.remote, &response);
    received.record_response(mark, response);
}

/// The identity payloads of an initiator: IDi, AUTH, and with a PPK its identity and, if it is optional, the proof without it.
fn initiator_auth_payloads(init: &InitResult, id: &Id) -> Vec<Payload> {
    let plain = auth_payload(init, &init.keys, id);
    let Some(ppk) = announced(init) else {
        return vec![Payload::IdI(id.clone()), Payload::Auth(plain)];
    };
    let mixed = ppk.mix(init.suite.prf, &init.keys);
    let notify = |kind, data| Payload::Notify(Notify::new(kind, data));
    let mut payloads = vec![
        Payload::IdI(id.clone()),
        Payload::Auth(auth_payload(init, &mixed, id)),
        notify(NotifyType::PPK_IDENTITY, ppk.identity()),
    ];
    match ppk.demand {
        PpkDemand::Required => {}
        PpkDemand::Optional => payloads.push(notify(NotifyType::NO_PPK_AUTH, plain.data)),
    }
    payloads
}

/// The identity payloads of a responder: IDr, AUTH, and PPK_IDENTITY if the PPK is used.
fn responder_auth_payloads(init: &InitResult, id: &Id) -> Vec<Payload> {
    let mut payloads = vec![
        Payload::IdR(id.clone()),
        Payload::Auth(auth_payload(init, &init.keys, id)),
    ];
    match init.ppk {
        PpkUse::Mixed => payloads.push(Payload::Notify(Notify::new(
            NotifyType::PPK_IDENTITY,
            Vec::new(),
        ))),
        PpkUse::Unused | PpkUse::Announced => {}
    }
    payloads
}

/// Authenticates the responder. Its use of the PPK decides what the keys are.
fn check_responder(
    init: &mut InitResult,
    id: &Id,
    auth: &Auth,
    response: PpkResponse,
) -> Result<(), Error> {
    if let Some(ppk) = announced(init).cloned() {
        match (response, ppk.demand) {
            (PpkResponse::Used, PpkDemand::Required | PpkDemand::Optional) => mix(init, &ppk),
            (PpkResponse::Unmentioned, PpkDemand::Optional) => init.ppk = PpkUse::Unused,
            (PpkResponse::Unmentioned, PpkDemand::Required) => {
                return Err(denied(PpkFault::Declined { ours: ppk.id }));
            }
        }
    }
    check(init, id, of_method(auth)?)
}

/// Authenticates the initiator. Its use of the PPK, and our demand for it, decide what the keys are.
fn check_initiator(init: &mut InitResult, request: &AuthRequest) -> Result<(), Error> {
    let auth = request
        .auth
        .as_ref()
        .ok_or_else(|| Error::Denied(Denied::Method("EAP".to_owned())))?;
    let auth = of_method(auth)?;
    let Some(ppk) = announced(init).cloned() else {
        check(init, &request.id, auth)?;
        // Only a peer with the pre-shared key learns that a PPK is required.
        let required = init.conn.settings.ppk.as_ref();
        return match required.map(|ppk| ppk.demand) {
            Some(PpkDemand::Required) => Err(denied(PpkFault::Unused)),
            Some(PpkDemand::Optional) | None => Ok(()),
        };
    };
    if request.ppk_identity.as_deref() == Some(ppk.identity().as_slice()) {
        let otherwise = request
            .no_ppk_auth
            .as_deref()
            .is_some_and(|auth| check(init, &request.id, auth).is_ok());
        mix(init, &ppk);
        return check(init, &request.id, auth).map_err(|error| match error {
            Error::Denied(Denied::Key { .. }) if otherwise => {
                denied(PpkFault::OtherKey { id: ppk.id })
            }
            other => other,
        });
    }
    let without = match (&request.ppk_identity, &request.no_ppk_auth, ppk.demand) {
        (Some(_), Some(auth), PpkDemand::Optional) => auth,
        (None, _, PpkDemand::Optional) => auth,
        (Some(_), None, PpkDemand::Optional) | (_, _, PpkDemand::Required) => {
            return Err(denied(PpkFault::OtherIdentity {
                theirs: ppk::shown(request.ppk_identity.as_deref().unwrap_or_default()),
                ours: ppk.id,
            }));
        }
    };
    init.ppk = PpkUse::Unused;
    check(init, &request.id, without)
}

fn denied(fault: PpkFault) -> Error {
    Error::Denied(Denied::Ppk(fault))
}

/// Our PPK, if both sides have announced one.
fn announced(init: &InitResult) -> Option<&Ppk> {
    match init.ppk {
        PpkUse::Announced => init.conn.settings.ppk.as_ref(),
        PpkUse::Unused | PpkUse::Mixed => None,
    }
}

fn mix(init: &mut InitResult, ppk: &Ppk) {
    init.keys = ppk.mix(init.suite.prf, &init.keys);
    init.ppk = PpkUse::Mixed;
}

/// Our AUTH payload, under keys with the PPK or without it.
fn auth_payload(init: &InitResult, keys: &IkeKeys, id: &Id) -> Auth {
    let signed = signed_by(init.role, init, keys, id);
    Auth {
        method: AuthMethod::SHARED_KEY,
        data: authn::auth(init.suite.prf, &init.conn.settings.psk, signed)
            .as_bytes()
            .to_vec(),
    }
}

fn of_method(auth: &Auth) -> Result<&[u8], Error> {
    if auth.method != AuthMethod::SHARED_KEY {
        return Err(Error::Denied(Denied::Method(auth.method.to_string())));
    }
    Ok(&auth.data)
}

/// Checks the peer's AUTH and identity. AUTH comes first, so that only a peer with the pre-shared key learns which identity we expect.
fn check(init: &InitResult, id: &Id, auth: &[u8]) -> Result<(), Error> {
    let settings = &init.conn.settings;
    let signed = signed_by(init.role.other(), init, &init.keys, id);
    if !authn::verify(init.suite.prf, &settings.psk, signed, auth) {
        return Err(Error::Denied(Denied::Key { id: id.to_string() }));
    }
    match &settings.peer_id {
        PeerId::Any => Ok(()),
        PeerId::Exactly(expected) if expected.payload() == *id => Ok(()),
        PeerId::Exactly(expected) => Err(Error::Denied(Denied::Identity {
            theirs: id.to_string(),
            ours: expected.clone(),
        })),
    }
}

/// What the AUTH of one role covers.
fn signed_by<'a>(role: Role, init: &'a InitResult, keys: &'a IkeKeys, id: &'a Id) -> Signed<'a> {
    let (first_message, nonce, prove) = match role {
        Role::Initiator => (
            &init.init_request,
            &init.nonces.responder,
            &keys.prove_initiator,
        ),
        Role::Responder => (
            &init.init_response,
            &init.nonces.initiator,
            &keys.prove_responder,
        ),
    };
    Signed {
        first_message,
        nonce,
        prove,
        id,
        intermediates: &init.intermediates,
    }
}
