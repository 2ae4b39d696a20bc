//! IKE_SA_INIT as the responder: chooses the algorithms and answers with its half of the key exchange (RFC 7296 §1.2); the messages are drawn in
//! [`init`](super::init).
//!
//! Nothing is kept before the offer is acceptable. The state that follows is the half-open SA, which the next requests of the handshake complete.

use std::time::Duration;

use super::init::{Agreement, VENDOR_ID, fragmentation, has, peer_kind};
use super::payloads::{HANDSHAKE_RESPONSE, fresh_nonce, notify, respond_ke};
use crate::crypto::{Group, IkeSuite};
use crate::ike::closest_proposal;
use crate::ike::context::Context;
use crate::ike::error::{Error, Incompatible};
use crate::ike::event::Role;
use crate::ike::failure::Failure;
use crate::ike::half_open::ReturnRoutability;
use crate::ike::init_result::{Connection, InitResult};
use crate::ike::key_schedule::Nonces;
use crate::ike::messages::Init;
use crate::ike::nat;
use crate::ike::negotiate::{self, Chosen};
use crate::ike::offer::{join, without_additional};
use crate::ike::out_message::Fragmentation;
use crate::ike::ppk::PpkUse;
use crate::ike::protect::Protector;
use crate::ike::settings::Settings;
use crate::ike::window::Received;
use crate::net::Time;
use crate::wire::{ExchangeType, Header, IkeSpi, Message, MessageId, Notify, NotifyType, Payload};

/// Responder: IKE_SA_INIT is answered.
#[derive(Debug)]
pub struct HalfOpen {
    /// State of the handshake.
    pub init: InitResult,
    /// The next request.
    pub awaits: Awaits,
    /// The window of requests after IKE_SA_INIT, with the last response.
    pub received: Received,
    /// The protection of that response and its request, if the keys have changed since.
    pub before: Option<Protector>,
    /// Whether the peer has shown that it receives at its address.
    pub routability: ReturnRoutability,
    /// When the state is dropped.
    pub expires: Time,
}

/// Next request of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaits {
    /// IKE_INTERMEDIATE, with an additional key exchange by this method.
    Intermediate(&'static Group),
    /// IKE_AUTH.
    Auth,
}

/// Outcome of an IKE_SA_INIT request.
#[derive(Debug)]
pub enum RequestOutcome {
    /// The handshake continues; the response is in the state.
    HalfOpen(Box<HalfOpen>),
    /// The request is rejected.
    Rejected {
        /// The response, if there is one.
        response: Option<Vec<u8>>,
        /// The failure to report, if there is one.
        failure: Option<Failure>,
    },
}

/// Answers an IKE_SA_INIT request for a tunnel. The state expires after `patience`.
pub fn respond(
    conn: Connection,
    spi_r: IkeSpi,
    message: &Message<'_>,
    routability: ReturnRoutability,
    patience: Duration,
    cx: &mut Context<'_>,
) -> RequestOutcome {
    let spi_i = message.header.spi_i;
    match try_respond(conn, spi_r, message, cx) {
        Ok(init) => RequestOutcome::HalfOpen(Box::new(HalfOpen {
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
        // INVALID_KE_PAYLOAD is an ordinary first answer (RFC 7296 §1.2): nothing to report.
        Err(error @ Error::Incompatible(Incompatible::Group { .. })) => RequestOutcome::Rejected {
            response: rejection(spi_i, error.notify()),
            failure: None,
        },
        Err(error) => RequestOutcome::Rejected {
            response: rejection(spi_i, error.notify()),
            failure: Some(error.failure(cx.now)),
        },
    }
}

/// The message that rejects an IKE_SA_INIT request. Its responder SPI is zero, since no state is kept.
pub fn rejection(spi_i: IkeSpi, notify: Notify) -> Option<Vec<u8>> {
    let exchange = ExchangeType::IKE_SA_INIT;
    let header = Header::new(
        spi_i,
        IkeSpi::ZERO,
        exchange,
        HANDSHAKE_RESPONSE,
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
    let (spi_i, encapsulation) = (message.header.spi_i, settings.encapsulation);
    let init = Init::read(message.clear.clone())?;
    let chosen = choose_suite(&settings, &init)?;
    let suite = chosen.suite;
    let (local, remote) = (conn.local, conn.remote);
    let detected = nat::detect(init.notifies.iter(), spi_i, IkeSpi::ZERO, local, remote);
    let nat = nat::choose_transport(detected, encapsulation).map_err(Error::Incompatible)?;
    let (shared, ke) = respond_ke(suite.group, Some(&init.ke), cx.rng)?;
    let nonce = fresh_nonce(cx.rng);
    let ppk = PpkUse::announced(settings.ppk.as_ref(), &init.notifies);
    let fragmentation = fragmentation(&settings, &init, remote);
    let mut payloads = vec![
        Payload::Sa(negotiate::ike_response(&chosen, &[])),
        ke,
        Payload::Nonce(nonce.clone()),
    ];
    let nat_notifies = nat::notifies(spi_i, spi_r, local, remote, encapsulation, cx.rng);
    payloads.extend(nat_notifies);
    payloads.extend(extensions(fragmentation, suite, ppk));
    payloads.push(Payload::Vendor(VENDOR_ID.to_vec()));
    let response = encode_response(spi_i, spi_r, payloads, cx)?;
    let agreement = Agreement {
        fragmentation,
        conn,
        spis: (spi_i, spi_r),
        role: Role::Responder,
        suite,
        shared,
        nonces: Nonces {
            initiator: init.nonce,
            responder: nonce,
        },
        nat,
        ppk,
        peer: peer_kind(&init.vendors),
        messages: (message.bytes.to_vec(), response),
    };
    agreement.with_keys("its offer leads to keys of the wrong length", cx)
}

fn encode_response(
    spi_i: IkeSpi,
    spi_r: IkeSpi,
    payloads: Vec<Payload>,
    cx: &Context<'_>,
) -> Result<Vec<u8>, Error> {
    let exchange = ExchangeType::IKE_SA_INIT;
    let header = Header::new(spi_i, spi_r, exchange, HANDSHAKE_RESPONSE, MessageId(0));
    let (header, payloads) = cx.impaired(header, payloads);
    Message::encode_clear(header, &payloads).map_err(|long| Error::Malformed(long.to_string()))
}

/// Chooses a suite from the initiator's offer. An initiator without IKE_INTERMEDIATE cannot make an additional key exchange.
fn choose_suite(settings: &Settings, init: &Init) -> Result<Chosen<IkeSuite>, Error> {
    let mut theirs = init.sa.clone();
    // RFC 7296 §3.3.1: the SPI is in the header, so a proposal with another one contradicts it.
    theirs.proposals.retain(|proposal| proposal.spi.is_empty());
    let chosen = if has(init, NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED) {
        negotiate::choose_ike(&settings.ike, &theirs)
    } else {
        negotiate::choose_ike(&settings.ike, &without_additional(&theirs))
    };
    let chosen = chosen.ok_or_else(|| {
        Error::Incompatible(Incompatible::Ike {
            theirs: negotiate::words_of_all(&theirs, 8),
            ours: join(settings.ike.iter()),
            closest: closest_proposal::ike(&settings.ike, &theirs),
        })
    })?;
    let wanted = chosen.suite.group.id;
    if init.ke.group != wanted {
        return Err(Error::Incompatible(Incompatible::Group { wanted }));
    }
    Ok(chosen)
}

/// The notifications of extensions in a response: those that the initiator supports too (RFC 7383 §2.3, RFC 9242 §3.1, RFC 8784 §3).
fn extensions(fragmentation: Fragmentation, suite: IkeSuite, ppk: PpkUse) -> Vec<Payload> {
    let mut payloads = Vec::new();
    match fragmentation {
        Fragmentation::Agreed(_) => {
            payloads.push(notify(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED));
        }
        Fragmentation::Unsupported => {}
    }
    if suite.additional.is_some() {
        payloads.push(notify(NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED));
    }
    match ppk {
        PpkUse::Announced => payloads.push(notify(NotifyType::USE_PPK)),
        PpkUse::Unused | PpkUse::Mixed => {}
    }
    payloads
}
