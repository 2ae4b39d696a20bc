//! IKE_INTERMEDIATE (RFC 9242) with an additional key exchange (RFC 9370 §2.2.2), between IKE_SA_INIT and IKE_AUTH.
//!
//! ```text
//! HDR(1), SK { KEi(1) }  ──▶
//!                 ◀──  HDR(1), SK { KEr(1) }
//!            or   ◀──  HDR(1), SK { N(INVALID_SYNTAX) }
//!
//! SKEYSEED(1) = prf(SK_d(0), SK(1) | Ni | Nr)       SK(1): what the exchange of KEi(1) and KEr(1) gives
//! all keys    = prf+(SKEYSEED(1), Ni | Nr | SPIi | SPIr)
//! ```
//!
//! Both messages are protected by the keys of IKE_SA_INIT, IKE_AUTH by the new ones, and its AUTH covers both messages: until then nobody has proved anything.
//! A peer that sends something else than it should is refused for good. What merely did not get through is repeated, as ever.

use crate::crypto::{Group, InvalidPublicValue, KeResponse, KeyExchange, Secret, WrongKeyLength};
use crate::ike::error::{self, Error, HandshakeStage};
use crate::ike::event::Datagram;
use crate::ike::exchange::init::{ours, public_value};
use crate::ike::failure::Failure;
use crate::ike::handshake::{
    Awaits, Context, HalfOpen, InitResult, IntermediateSent, LastResponse,
};
use crate::ike::key_schedule::IkeKeys;
use crate::ike::messages::{Intermediate, IntermediateAnswer};
use crate::ike::out_message::SentMessage;
use crate::ike::protect::{Opened, Protector};
use crate::ike::retransmit::{HANDSHAKE_PATIENCE, Retransmit};
use crate::ike::unauthenticated::DropClass;
use crate::ike::window::{Mark, Received, Request};
use crate::wire::{ExchangeType, Flags, Header, Ke, Message, MessageId, Payload, int_auth};

/// It comes right after IKE_SA_INIT.
const ID: MessageId = MessageId(1);

fn header(init: &InitResult, flags: Flags) -> Header {
    let exchange = ExchangeType::IKE_INTERMEDIATE;
    Header::new(init.spi_i, init.spi_r, exchange, flags, ID)
}

const REQUEST: Flags = Flags {
    initiator: true,
    response: false,
    version: false,
};

const RESPONSE: Flags = Flags {
    initiator: false,
    response: true,
    version: false,
};

/// Sends our half of the additional key exchange.
pub fn begin(
    mut init: InitResult,
    method: &'static Group,
    cx: &mut Context<'_>,
) -> Option<IntermediateSent> {
    let ke = KeyExchange::generate(method, cx.rng);
    let (header, payloads) = cx.impaired(header(&init, REQUEST), vec![public_value(&ke)]);
    let message = SentMessage {
        local: init.conn.local,
        remote: init.conn.remote,
        datagrams: init.protector.seal(header, &payloads)?,
    };
    cx.out.transmits.extend(message.transmits());
    let jitter = cx.jitter();
    Some(IntermediateSent {
        request: int_auth::sent(header, &payloads).ok()?,
        ke,
        retransmit: Retransmit::new(cx.now, message, HANDSHAKE_PATIENCE, jitter),
        init,
    })
}

/// Where an initiator is after a message.
#[derive(Debug)]
pub enum Progress {
    /// Still waiting: the message was not the peer's answer, or not all of it.
    Waiting(Box<IntermediateSent>),
    /// The keys are new: IKE_AUTH comes next.
    Done(Box<InitResult>),
    /// This attempt is over.
    Failed(Failure),
}

impl IntermediateSent {
    /// Whether a message is where its answer would be.
    pub fn awaits(&self, header: &Header) -> bool {
        header.exchange == ExchangeType::IKE_INTERMEDIATE
            && header.flags.response
            && header.message_id == ID
            && header.spi_r == self.init.spi_r
    }

    /// Takes an answer.
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
        let answer = payloads
            .map_err(Error::from)
            .and_then(IntermediateAnswer::read);
        let accepted = match answer {
            Ok(IntermediateAnswer::Accepted(accepted)) => self.agree(&accepted, &int_auth, cx),
            Ok(IntermediateAnswer::Refused(notify)) => {
                let ours = ours(&self.init.conn.settings, HandshakeStage::Intermediate);
                return Progress::Failed(error::refused(cx.now, &notify, &ours));
            }
            Err(error) => Err(error),
        };
        match accepted {
            Ok(()) => Progress::Done(Box::new(self.init)),
            Err(error) => Progress::Failed(error.failure(cx.now)),
        }
    }

    fn agree(
        &mut self,
        answer: &Intermediate,
        int_auth: &[u8],
        cx: &mut Context<'_>,
    ) -> Result<(), Error> {
        of_method(&answer.ke, self.ke.group())?;
        let shared = self.ke.agree(&answer.ke.data).map_err(invalid)?;
        renew(&mut self.init, &shared, &self.request, int_auth, cx).map_err(unfit)?;
        Ok(())
    }
}

/// Where a responder is after a request.
#[derive(Debug)]
pub enum Answered {
    /// It has been answered, or was nothing: the peer's next request is awaited.
    HalfOpen(Box<HalfOpen>),
    /// It has been refused, and nothing stands. The refusal is kept for repetitions.
    Refused {
        /// Why.
        failure: Failure,
        /// What is left.
        last_response: Box<LastResponse>,
    },
}

impl HalfOpen {
    /// Answers the peer's half of the additional key exchange. Where it comes from does not move the SA yet: IKE_AUTH does.
    pub fn on_intermediate(
        mut self,
        method: &'static Group,
        message: &Message<'_>,
        datagram: Datagram<'_>,
        cx: &mut Context<'_>,
    ) -> Answered {
        let opened = match self.init.protector.open(message) {
            Ok(opened) => opened,
            Err(unopened) => {
                cx.count_unopened(unopened);
                return Answered::HalfOpen(Box::new(self));
            }
        };
        let mark = opened.mark;
        match self.exchange(method, opened, datagram, cx) {
            Ok(()) => Answered::HalfOpen(Box::new(self)),
            Err(error) => self.refuse(&error, mark, datagram, cx),
        }
    }

    fn exchange(
        &mut self,
        method: &'static Group,
        opened: Opened,
        datagram: Datagram<'_>,
        cx: &mut Context<'_>,
    ) -> Result<(), Error> {
        let request = Intermediate::read(opened.payloads?)?;
        of_method(&request.ke, method)?;
        let KeResponse { public, shared } =
            KeyExchange::respond(method, &request.ke.data, cx.rng).map_err(invalid)?;
        let payloads = vec![Payload::Ke(Ke {
            group: method.id,
            data: public,
        })];
        let (header, payloads) = cx.impaired(header(&self.init, RESPONSE), payloads);
        let sealed = self.init.protector.seal(header, &payloads);
        let (Some(response), Ok(int_auth)) = (sealed, int_auth::sent(header, &payloads)) else {
            let error = "our answer to its IKE_INTERMEDIATE does not fit a message";
            return Err(Error::Misbehaved(error));
        };
        let before =
            renew(&mut self.init, &shared, &opened.int_auth, &int_auth, cx).map_err(unfit)?;
        self.before = Some(before);
        self.awaits = Awaits::Auth;
        cx.out.send(datagram.local, datagram.remote, &response);
        self.received.answered(opened.mark, response);
        Ok(())
    }

    fn refuse(
        mut self,
        error: &Error,
        mark: Mark,
        datagram: Datagram<'_>,
        cx: &mut Context<'_>,
    ) -> Answered {
        let mut received = Received::starting_at(ID.0);
        let notify = vec![Payload::Notify(error.notify())];
        let (header, payloads) = cx.impaired(header(&self.init, RESPONSE), notify);
        if let Some(response) = self.init.protector.seal(header, &payloads) {
            cx.out.send(datagram.local, datagram.remote, &response);
            received.answered(mark, response);
        }
        Answered::Refused {
            failure: error.failure(cx.now),
            last_response: Box::new(LastResponse::new(received, cx.now)),
        }
    }

    /// Repeats the answer to a repeated request.
    pub fn repeat(&self, message: &Message<'_>, datagram: Datagram<'_>, cx: &mut Context<'_>) {
        let response = match self
            .received
            .classify(message.header.message_id, datagram.bytes)
        {
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

fn of_method(ke: &Ke, method: &Group) -> Result<(), Error> {
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

fn unfit(_: WrongKeyLength) -> Error {
    Error::Misbehaved("its key exchange leads to keys of the wrong length")
}

/// Mixes a secret into the keys and has AUTH cover the exchange it comes from; gives back the protection as it was.
fn renew(
    init: &mut InitResult,
    shared: &Secret,
    request: &[u8],
    answer: &[u8],
    cx: &mut Context<'_>,
) -> Result<Protector, WrongKeyLength> {
    let suite = init.suite;
    // RFC 9370 §2.2.2 forms SKEYSEED(n) of SK_d(n-1) in the way in which rekeying forms it of the old SK_d.
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
        .add(suite.prf, &init.keys, request, answer);
    init.keys = keys;
    Ok(std::mem::replace(&mut init.protector, protector))
}
