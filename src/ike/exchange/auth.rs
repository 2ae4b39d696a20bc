//! IKE_AUTH (RFC 7296 §1.2): both sides prove the pre-shared key and make the first Child SA.
//!
//! ```text
//! HDR, SK { IDi, AUTH, [N(PPK_IDENTITY), N(NO_PPK_AUTH),] [N(INITIAL_CONTACT),] SAi2, TSi, TSr }  ──▶
//!                 ◀──  HDR, SK { IDr, AUTH, [N(PPK_IDENTITY),] SAr2, TSi, TSr }
//!            or   ◀──  HDR, SK { IDr, AUTH, N(NO_PROPOSAL_CHOSEN | TS_UNACCEPTABLE) }     the IKE SA stands, without a Child SA
//!            or   ◀──  HDR, SK { N(AUTHENTICATION_FAILED) }                               nothing stands
//! ```
//!
//! We do not send the optional IDr: a peer that is not who we expect then tells us who it is, and we can say so, instead of a bare refusal.

use crate::crypto::{EspSuite, IvKey};
use crate::ike::children::{self, ChildSa, Standing};
use crate::ike::closest_proposal;
use crate::ike::error::{self, Error, HandshakeStage, Incompatible};
use crate::ike::event::{Datagram, Role};
use crate::ike::exchange::create_child::part_of;
use crate::ike::exchange::init::{NAT_PORT, join, ours, selectors};
use crate::ike::exchange::proof;
use crate::ike::failure::Failure;
use crate::ike::handshake::{
    AuthSent, Context, HalfOpen, InitResult, LastResponse, Purpose, id_payload,
};
use crate::ike::key_schedule::ChildSeed;
use crate::ike::messages::{AuthAnswer, AuthRequest, ChildAnswer};
use crate::ike::negotiate::{self, Pfs};
use crate::ike::out_message::{Datagrams, SentMessage};
use crate::ike::protect::Opened;
use crate::ike::retransmit::{HANDSHAKE_PATIENCE, Retransmit};
use crate::ike::sa::IkeSa;
use crate::ike::window::{Mark, Received};
use crate::net::{EspTransport, Policy, narrow};
use crate::wire::{ExchangeType, Flags, Header, Message, Notify, NotifyType, Payload};

/// Whether we tell the peer to forget what it had with us (RFC 7296 §2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitialContact {
    /// This is the only IKE SA between us.
    Send,
    /// There is, or may be, another.
    Omit,
}

/// An IKE_AUTH exchange that has come to its end.
#[derive(Debug)]
pub enum Concluded {
    /// Both sides are who they should be. The Child SA, if there is one, has its keys beside it.
    Established {
        /// The IKE SA.
        sa: Box<IkeSa>,
        /// What went wrong with the Child SA.
        failure: Option<Failure>,
        /// Whether the peer said that this is its only IKE SA with us.
        initial_contact: bool,
    },
    /// The peer knows an IKE SA that we do not want: it must be told.
    Rejected {
        /// To be closed with the notification that says why.
        sa: Box<IkeSa>,
        /// Why.
        failure: Failure,
        /// The notification.
        notify: Notify,
    },
    /// Nothing came about. The answer to the request, if we gave one, is kept for repetitions.
    Failed {
        /// Why.
        failure: Failure,
        /// What is left.
        last_response: Option<Box<LastResponse>>,
    },
}

/// Sends IKE_AUTH.
pub fn begin(
    mut init: InitResult,
    spi_in: u32,
    contact: InitialContact,
    cx: &mut Context<'_>,
) -> Option<AuthSent> {
    let settings = init.conn.settings.clone();
    let id = id_payload(&settings.id);
    let mut payloads = proof::initiator_auth_payloads(&init, &id);
    match contact {
        InitialContact::Send => payloads.push(Payload::Notify(Notify::new(
            NotifyType::INITIAL_CONTACT,
            Vec::new(),
        ))),
        InitialContact::Omit => {}
    }
    payloads.push(Payload::Sa(negotiate::offer_esp(
        &settings.esp,
        spi_in,
        Pfs::Unnamed,
    )));
    payloads.push(Payload::TsI(settings.policy.local.clone().into()));
    payloads.push(Payload::TsR(settings.policy.remote.clone().into()));
    let flags = Flags {
        initiator: true,
        response: false,
        version: false,
    };
    let header = Header::new(
        init.spi_i,
        init.spi_r,
        ExchangeType::IKE_AUTH,
        flags,
        init.intermediates.auth_id(),
    );
    let (header, payloads) = cx.impaired(header, payloads);
    let message = SentMessage {
        local: init.conn.local,
        remote: init.conn.remote,
        datagrams: init.protector.seal(header, &payloads)?,
    };
    cx.out.transmits.extend(message.transmits());
    let jitter = cx.jitter();
    let retransmit = Retransmit::new(cx.now, message, HANDSHAKE_PATIENCE, jitter);
    Some(AuthSent {
        init,
        purpose: Purpose::Serve,
        spi_in,
        retransmit,
    })
}

/// Where an initiator is after a message.
#[derive(Debug)]
pub enum Progress {
    /// Still waiting: the message was not the peer's answer.
    Waiting(Box<AuthSent>),
    /// The exchange is over.
    Concluded(Concluded),
}

impl AuthSent {
    /// Takes an answer.
    pub fn on_response(mut self, message: &Message<'_>, cx: &mut Context<'_>) -> Progress {
        let Opened { payloads, .. } = match self.init.protector.open(message) {
            Ok(opened) => opened,
            Err(why) => {
                cx.count_unopened(why);
                return Progress::Waiting(Box::new(self));
            }
        };
        let answer = payloads.map_err(Error::from).and_then(AuthAnswer::read);
        let AuthSent {
            mut init, spi_in, ..
        } = self;
        Progress::Concluded(match answer {
            Ok(AuthAnswer::Proved {
                id,
                auth,
                ppk,
                child,
            }) => match proof::check_responder(&mut init, &id, &auth, ppk) {
                Ok(()) => proved(init, spi_in, child, cx),
                Err(error) => reject(init, &error, cx),
            },
            Ok(AuthAnswer::Refused(notify)) => Concluded::Failed {
                failure: error::refused(
                    cx.now,
                    &notify,
                    &ours(&init.conn.settings, HandshakeStage::Auth),
                ),
                last_response: None,
            },
            Err(error) => reject(init, &error, cx),
        })
    }
}

/// The peer takes the IKE SA to be established; we do not want it, and say so (RFC 7296 §2.21.2).
fn reject(init: InitResult, error: &Error, cx: &mut Context<'_>) -> Concluded {
    Concluded::Rejected {
        sa: Box::new(IkeSa::establish(init, None, cx)),
        failure: error.failure(cx.now),
        notify: error.notify(),
    }
}

fn proved(
    init: InitResult,
    spi_in: u32,
    child: Result<ChildAnswer, Notify>,
    cx: &mut Context<'_>,
) -> Concluded {
    let settings = init.conn.settings.clone();
    let agreed = match child {
        Ok(answer) => accept_child(&answer, &settings.policy)
            .ok_or(Error::Misbehaved(
                "it answered with a Child SA that we did not offer",
            ))
            .and_then(|policy| {
                let (suite, spi_out) =
                    negotiate::accept_esp(&settings.esp, &answer.sa, Pfs::Unnamed).ok_or(
                        Error::Misbehaved("it chose an ESP suite that we did not offer"),
                    )?;
                Ok((suite, spi_out, policy))
            })
            .map_err(|error| error.failure(cx.now)),
        Err(notify) => Err(error::refused(
            cx.now,
            &notify,
            &ours(&settings, HandshakeStage::Auth),
        )),
    };
    let (child, failure) = match agreed {
        Ok((suite, spi_out, policy)) => (
            Some(make_child(&init, suite, (spi_in, spi_out), policy, cx)),
            None,
        ),
        Err(failure) => (None, Some(failure)),
    };
    Concluded::Established {
        sa: Box::new(IkeSa::establish(init, child, cx)),
        failure,
        initial_contact: false,
    }
}

/// The narrowed selectors, if they are what we offered or part of it (RFC 7296 §2.9).
fn accept_child(answer: &ChildAnswer, offered: &Policy) -> Option<Policy> {
    Some(Policy {
        local: part_of(&answer.ts_i, &offered.local)?,
        remote: part_of(&answer.ts_r, &offered.remote)?,
    })
}

fn make_child(
    init: &InitResult,
    suite: EspSuite,
    spis: (u32, u32),
    policy: Policy,
    cx: &mut Context<'_>,
) -> ChildSa {
    let seed = ChildSeed {
        prf: init.suite.prf,
        derive: &init.keys.derive,
        shared: None,
        additional: None,
        nonces: &init.nonces,
    };
    let (keys_out, keys_in) = seed.keys(suite, init.role);
    let (spi_in, spi_out) = spis;
    let lifetime = init.conn.settings.child_lifetime;
    let (soft_expiry, renew_at) = children::rekey_schedule(cx.now, lifetime, cx.jitter());
    ChildSa {
        spi_in,
        spi_out,
        suite,
        policy,
        role: init.role,
        soft_expiry,
        rekey_at: Some(soft_expiry),
        renew_at,
        hard_expiry: cx.now + lifetime,
        refusals: 0,
        keys_in,
        keys_out,
        iv_key: IvKey::random(cx.rng),
        standing: Standing::Working,
        known: init.role == Role::Initiator,
    }
}

impl HalfOpen {
    /// Answers an IKE_AUTH request. The state comes back untouched when the message is not the peer's.
    pub fn on_request(
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
        // RFC 7296 §2.23: the initiator may have moved to port 4500, and a NAT may have chosen other ports for that.
        self.init.conn.local = datagram.local;
        self.init.conn.remote = datagram.remote;
        let request = request.and_then(|request| {
            proof::check_initiator(&mut self.init, &request)?;
            Ok(request)
        });
        Ok(match request {
            Ok(request) => authenticated(self.init, &request, mark, datagram, spi_in, cx),
            Err(error) => refuse(self.init, &error, mark, datagram, cx),
        })
    }
}

fn refuse(
    mut init: InitResult,
    error: &Error,
    mark: Mark,
    datagram: Datagram<'_>,
    cx: &mut Context<'_>,
) -> Concluded {
    let mut received = Received::starting_at(init.intermediates.auth_id().0);
    let (header, payloads) = cx.impaired(
        response_header(&init),
        vec![Payload::Notify(error.notify())],
    );
    if let Some(response) = init.protector.seal(header, &payloads) {
        answer(response, &mut received, mark, datagram, cx);
    }
    Concluded::Failed {
        failure: error.failure(cx.now),
        last_response: Some(Box::new(LastResponse::new(received, cx.now))),
    }
}

fn authenticated(
    mut init: InitResult,
    request: &AuthRequest,
    mark: Mark,
    datagram: Datagram<'_>,
    spi_in: u32,
    cx: &mut Context<'_>,
) -> Concluded {
    let id = id_payload(&init.conn.settings.id);
    let mut payloads = proof::responder_auth_payloads(&init, &id);
    let (child, failure) = match choose_child(&init, request, datagram) {
        Ok((chosen, spi_out, policy)) => {
            payloads.push(Payload::Sa(negotiate::answer_esp(&chosen, spi_in)));
            payloads.push(Payload::TsI(policy.remote.clone().into()));
            payloads.push(Payload::TsR(policy.local.clone().into()));
            let child = make_child(&init, chosen.suite, (spi_in, spi_out), policy, cx);
            (Some(child), None)
        }
        Err(error) => {
            payloads.push(Payload::Notify(error.notify()));
            (None, Some(error.failure(cx.now)))
        }
    };
    let (header, payloads) = cx.impaired(response_header(&init), payloads);
    let Some(response) = init.protector.seal(header, &payloads) else {
        let error = Error::Misbehaved("our answer to its IKE_AUTH does not fit a message");
        return refuse(init, &error, mark, datagram, cx);
    };
    let mut sa = IkeSa::establish(init, child, cx);
    answer(response, sa.received_mut(), mark, datagram, cx);
    Concluded::Established {
        sa: Box::new(sa),
        failure,
        initial_contact: request.initial_contact,
    }
}

type ChosenChild = (negotiate::Chosen<EspSuite>, u32, Policy);

fn choose_child(
    init: &InitResult,
    request: &AuthRequest,
    datagram: Datagram<'_>,
) -> Result<ChosenChild, Error> {
    let settings = &init.conn.settings;
    match init.transport {
        // A peer that saw the NAT, real or forced, and stays on port 500 could not receive what we send.
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
    let spi_out = negotiate::esp_spi(&chosen.spi).ok_or_else(no_proposal)?;
    let policy = Policy {
        local: narrow(&request.ts_r.selectors, &settings.policy.local),
        remote: narrow(&request.ts_i.selectors, &settings.policy.remote),
    };
    if policy.local.is_empty() || policy.remote.is_empty() {
        return Err(Error::Incompatible(Incompatible::Selectors {
            theirs: selectors(&request.ts_r.selectors, &request.ts_i.selectors),
            ours: selectors(&settings.policy.local, &settings.policy.remote),
        }));
    }
    Ok((chosen, spi_out, policy))
}

fn response_header(init: &InitResult) -> Header {
    let flags = Flags {
        initiator: false,
        response: true,
        version: false,
    };
    Header::new(
        init.spi_i,
        init.spi_r,
        ExchangeType::IKE_AUTH,
        flags,
        init.intermediates.auth_id(),
    )
}

/// Sends a response where its request came from, and keeps it for repetitions.
fn answer(
    response: Datagrams,
    received: &mut Received,
    mark: Mark,
    datagram: Datagram<'_>,
    cx: &mut Context<'_>,
) {
    cx.out.send(datagram.local, datagram.remote, &response);
    received.answered(mark, response);
}
