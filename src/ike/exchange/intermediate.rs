//! IKE_INTERMEDIATE (RFC 9242) with an additional key exchange (RFC 9370 §2.2.2), between IKE_SA_INIT and IKE_AUTH.
//!
//! ```text
//! HDR(1), SK { KEi(1) }  ──▶
//!                 ◀──  HDR(1), SK { KEr(1) }
//!            or   ◀──  HDR(1), SK { N(INVALID_SYNTAX) }
//!
//! SKEYSEED(1) = prf(SK_d(0), SK(1) | Ni | Nr)       SK(1): the secret of the key exchange of KEi(1) and KEr(1)
//! all keys    = prf+(SKEYSEED(1), Ni | Nr | SPIi | SPIr)
//! ```
//!
//! The keys of IKE_SA_INIT protect both messages, the new ones IKE_AUTH, whose AUTH covers both messages. An unacceptable message ends the handshake.

use super::init_responder::{Awaits, HalfOpen};
use super::payloads::{HANDSHAKE_REQUEST, HANDSHAKE_RESPONSE, ke_payload};
use crate::crypto::{Group, InvalidPublicValue, KeResponse, KeyExchange, Secret, WrongKeyLength};
use crate::ike::context::Context;
use crate::ike::error::{self, Error, HandshakeStage, OfferSummary};
use crate::ike::event::Datagram;
use crate::ike::failure::Failure;
use crate::ike::init_result::InitResult;
use crate::ike::key_schedule::IkeKeys;
use crate::ike::messages::{Intermediate, IntermediateResponse};
use crate::ike::out_message::SentMessage;
use crate::ike::protect::{Opened, Protector};
use crate::ike::retransmit::{HANDSHAKE_PATIENCE, Retransmit};
use crate::ike::unauthenticated::DropClass;
use crate::ike::window::{LastResponse, Mark, Received, Request};
use crate::wire::{ExchangeType, Flags, Header, Ke, Message, MessageId, Payload, int_auth};

/// The message ID: the exchange follows IKE_SA_INIT.
const ID: MessageId = MessageId(1);

/// Initiator: IKE_INTERMEDIATE is sent.
#[derive(Debug)]
pub struct IntermediateSent {
    /// State of the handshake.
    pub init: InitResult,
    /// The request and its retransmission timer.
    pub retransmit: Retransmit,
    ke: KeyExchange,
    /// The request in the form that AUTH covers.
    request: Vec<u8>,
}

/// State of the initiator after a message.
#[derive(Debug)]
pub enum Progress {
    /// The response is still awaited.
    Waiting(Box<IntermediateSent>),
    /// The new keys are known.
    Done(Box<InitResult>),
    /// The attempt has failed.
    Failed(Failure),
}

/// Sends our half of the additional key exchange; `None` if the message is too long.
pub fn initiate(
    mut init: InitResult,
    method: &'static Group,
    cx: &mut Context<'_>,
) -> Option<IntermediateSent> {
    let ke = KeyExchange::generate(method, cx.rng);
    let payloads = vec![ke_payload(&ke)];
    let (header, payloads) = cx.impaired(header(&init, HANDSHAKE_REQUEST), payloads);
    let message = SentMessage {
        local: init.conn.local,
        remote: init.conn.remote,
        datagrams: init.protector.seal(header, &payloads)?,
    };
    Some(IntermediateSent {
        retransmit: cx.send_request(message, HANDSHAKE_PATIENCE),
        request: int_auth::sent(header, &payloads).ok()?,
        ke,
        init,
    })
}

fn header(init: &InitResult, flags: Flags) -> Header {
    let exchange = ExchangeType::IKE_INTERMEDIATE;
    Header::new(init.spi_i, init.spi_r, exchange, flags, ID)
}

impl IntermediateSent {
    /// Whether the header is that of a response to the request.
    pub fn awaits(&self, header: &Header) -> bool {
        header.exchange == ExchangeType::IKE_INTERMEDIATE
            && header.flags.response
            && header.message_id == ID
            && header.spi_r == self.init.spi_r
    }

    /// Handles a response.
    pub fn on_response(mut self, message: &Message<'_>, cx: &mut Context<'_>) -> Progress {
        let Opened {
            payloads, int_auth, ..
        } = match self.init.protector.open(message) {
            Ok(opened) => opened,
            Err(unopened) => {
                cx.count_unopened(unopened);
                return Progress::Waiting(Box::new(self));
            }
        };
        let response = payloads
            .map_err(Error::from)
            .and_then(IntermediateResponse::read);
        let accepted = match response {
            Ok(IntermediateResponse::Accepted(accepted)) => self.accept(&accepted, &int_auth, cx),
            Ok(IntermediateResponse::Rejected(notify)) => {
                let settings = &self.init.conn.settings;
                let ours = OfferSummary::new(settings, HandshakeStage::Intermediate);
                return Progress::Failed(error::rejected_by_peer(cx.now, &notify, &ours));
            }
            Err(error) => Err(error),
        };
        match accepted {
            Ok(()) => Progress::Done(Box::new(self.init)),
            Err(error) => Progress::Failed(error.failure(cx.now)),
        }
    }

    fn accept(
        &mut self,
        response: &Intermediate,
        int_auth: &[u8],
        cx: &mut Context<'_>,
    ) -> Result<(), Error> {
        check_method(&response.ke, self.ke.group())?;
        let shared = self.ke.agree(&response.ke.data).map_err(invalid)?;
        update_keys(&mut self.init, &shared, &self.request, int_auth, cx).map_err(wrong_length)?;
        Ok(())
    }
}

/// State of the responder after a request.
#[derive(Debug)]
pub enum RequestOutcome {
    /// The request is answered or dropped. The peer's next request is awaited.
    HalfOpen(Box<HalfOpen>),
    /// The request is rejected, and the handshake is over.
    Rejected {
        /// Why.
        failure: Failure,
        /// The response, for repetitions of the request.
        last_response: Box<LastResponse>,
    },
}

impl HalfOpen {
    /// Answers the peer's half of the additional key exchange. The peer's address does not change here: only IKE_AUTH changes it.
    pub fn on_intermediate(
        mut self,
        method: &'static Group,
        message: &Message<'_>,
        datagram: Datagram<'_>,
        cx: &mut Context<'_>,
    ) -> RequestOutcome {
        let opened = match self.init.protector.open(message) {
            Ok(opened) => opened,
            Err(unopened) => {
                cx.count_unopened(unopened);
                return RequestOutcome::HalfOpen(Box::new(self));
            }
        };
        let mark = opened.mark;
        match self.exchange_keys(method, opened, datagram, cx) {
            Ok(()) => RequestOutcome::HalfOpen(Box::new(self)),
            Err(error) => self.reject_intermediate(&error, mark, datagram, cx),
        }
    }

    fn exchange_keys(
        &mut self,
        method: &'static Group,
        opened: Opened,
        datagram: Datagram<'_>,
        cx: &mut Context<'_>,
    ) -> Result<(), Error> {
        let request = Intermediate::read(opened.payloads?)?;
        check_method(&request.ke, method)?;
        let KeResponse { public, shared } =
            KeyExchange::respond(method, &request.ke.data, cx.rng).map_err(invalid)?;
        let payloads = vec![Payload::Ke(Ke {
            group: method.id,
            data: public,
        })];
        let (header, payloads) = cx.impaired(header(&self.init, HANDSHAKE_RESPONSE), payloads);
        let sealed = self.init.protector.seal(header, &payloads);
        let (Some(response), Ok(sent)) = (sealed, int_auth::sent(header, &payloads)) else {
            let error = "our response to its IKE_INTERMEDIATE does not fit a message";
            return Err(Error::Misbehaved(error));
        };
        let before = update_keys(&mut self.init, &shared, &opened.int_auth, &sent, cx)
            .map_err(wrong_length)?;
        self.before = Some(before);
        self.awaits = Awaits::Auth;
        cx.out.send(datagram.local, datagram.remote, &response);
        self.received.record_response(opened.mark, response);
        Ok(())
    }

    fn reject_intermediate(
        mut self,
        error: &Error,
        mark: Mark,
        datagram: Datagram<'_>,
        cx: &mut Context<'_>,
    ) -> RequestOutcome {
        let mut received = Received::starting_at(ID.0);
        let notify = vec![Payload::Notify(error.notify())];
        let (header, payloads) = cx.impaired(header(&self.init, HANDSHAKE_RESPONSE), notify);
        if let Some(response) = self.init.protector.seal(header, &payloads) {
            cx.out.send(datagram.local, datagram.remote, &response);
            received.record_response(mark, response);
        }
        RequestOutcome::Rejected {
            failure: error.failure(cx.now),
            last_response: Box::new(LastResponse::new(received, cx.now)),
        }
    }

    /// Repeats the response to a repeated request.
    pub fn repeat(&self, message: &Message<'_>, datagram: Datagram<'_>, cx: &mut Context<'_>) {
        let id = message.header.message_id;
        let response = match self.received.classify(id, datagram.bytes) {
            Request::Repeated(response) => Some(response),
            Request::Refragmented(response) => self
                .before
                .as_ref()
                .is_some_and(|before| before.is_first_fragment(message))
                .then_some(response),
            Request::New | Request::Stray => None,
        };
        match response {
            Some(response) => cx.out.send(datagram.local, datagram.remote, &response),
            None => cx.count_drop(DropClass::Stray),
        }
    }
}

fn check_method(ke: &Ke, method: &Group) -> Result<(), Error> {
    if ke.group == method.id {
        return Ok(());
    }
    Err(Error::Malformed(format!(
        "an additional key exchange by method {} instead of {method}",
        ke.group
    )))
}

fn invalid(invalid: InvalidPublicValue) -> Error {
    Error::Malformed(invalid.to_string())
}

fn wrong_length(_: WrongKeyLength) -> Error {
    Error::Misbehaved("its key exchange leads to keys of the wrong length")
}

/// Mixes a secret into the keys, and has AUTH cover the exchange that it comes from. Returns the previous protection.
fn update_keys(
    init: &mut InitResult,
    shared: &Secret,
    request: &[u8],
    response: &[u8],
    cx: &mut Context<'_>,
) -> Result<Protector, WrongKeyLength> {
    let suite = init.suite;
    // RFC 9370 §2.2.2 derives SKEYSEED(n) from SK_d(n-1) as rekeying derives SKEYSEED from the old SK_d.
    let keys = IkeKeys::rekeyed(
        (suite.prf, &init.keys.derive),
        suite,
        (shared, None),
        &init.nonces,
        init.spi_i,
        init.spi_r,
    );
    let protector = init
        .protector
        .successor(suite.protection, &keys, init.role, cx.rng)?;
    init.intermediates
        .add(suite.prf, &init.keys, request, response);
    init.keys = keys;
    Ok(std::mem::replace(&mut init.protector, protector))
}
