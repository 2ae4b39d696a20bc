//! IKE_FOLLOWUP_KE (RFC 9370 §2.2.4): the additional key exchange of a rekeying, or of a Child SA made anew.
//!
//! ```text
//! HDR, SK { SA, Ni, KEi, … }  ──▶                                                    CREATE_CHILD_SA, as ever
//!         ◀──  HDR, SK { SA, Nr, KEr, …, N(ADDITIONAL_KEY_EXCHANGE, link) }          nothing is made yet
//!
//! HDR, SK { KEi(1), N(ADDITIONAL_KEY_EXCHANGE, link) }  ──▶
//!         ◀──  HDR, SK { KEr(1) }                                                    now it is
//!   or    ◀──  HDR, SK { N(STATE_NOT_FOUND) }                                        it never was, or too long ago
//!
//! Child SA:  KEYMAT   = prf+(SK_d, SK(0) | Ni | Nr | SK(1))        SK(0), SK(1): what the two key exchanges give
//! IKE SA:    SKEYSEED = prf(SK_d (old), SK(0) | Ni | Nr | SK(1))
//! ```
//!
//! `link` is the responder's own; it tells which of its unfinished exchanges goes on. Here are the messages; what they do to the SA is in
//! [`sa`](crate::ike::sa).

use std::time::Duration;

use super::{create_child, rekey_ike};
use crate::crypto::{Generator, Group, KeyExchange, Secret};
use crate::ike::error::Error;
use crate::ike::exchange::create_child::{answer_ke, invalid};
use crate::ike::exchange::init::public_value;
use crate::ike::messages::Followup;
use crate::net::Time;
use crate::wire::{Ke, Notify, NotifyType, Payload};

/// How long a peer may take from the answer of CREATE_CHILD_SA to its next request; it repeats that for less long.
pub const PATIENCE: Duration = Duration::from_secs(60);

const LINK_LEN: usize = 8;

/// Our request, while it is under way, and what it completes.
#[derive(Debug)]
pub struct Asked<A> {
    /// What CREATE_CHILD_SA has settled.
    pub agreed: A,
    link: Vec<u8>,
    ke: KeyExchange,
}

impl<A> Asked<A> {
    /// Prepares a request by `method`; `link` is what the peer's answer gave.
    ///
    /// # Errors
    /// It gave none.
    pub fn begin(
        agreed: A,
        method: &'static Group,
        link: Option<&Vec<u8>>,
        rng: &mut Generator,
    ) -> Result<Asked<A>, Error> {
        let link = link.ok_or(Error::Misbehaved(
            "it chose an additional key exchange and does not say how to go on",
        ))?;
        Ok(Asked {
            agreed,
            link: link.clone(),
            ke: KeyExchange::generate(method, rng),
        })
    }

    /// The payloads of the request.
    pub fn payloads(&self) -> Vec<Payload> {
        vec![public_value(&self.ke), link(self.link.clone())]
    }

    /// The secret of the peer's answer, and what it completes.
    ///
    /// # Errors
    /// The answer is not one to what was asked.
    pub fn conclude(self, theirs: &Ke) -> Result<(A, Secret), Error> {
        if theirs.group != self.ke.group().id {
            return Err(Error::Misbehaved(
                "its additional key exchange is not the one it chose",
            ));
        }
        let shared = invalid(self.ke.agree(&theirs.data))?;
        Ok((self.agreed, shared))
    }
}

/// What we have agreed to and the peer has to complete. There is one at most: a peer makes one exchange at a time.
#[derive(Debug)]
pub struct Pending {
    /// What it is.
    pub what: What,
    /// When it is forgotten.
    pub until: Time,
    method: &'static Group,
    link: [u8; LINK_LEN],
}

/// What CREATE_CHILD_SA has begun.
#[derive(Debug)]
pub enum What {
    /// A Child SA.
    Child {
        /// The SPI at our end of the one that it rekeys.
        old: Option<u32>,
        /// The new one.
        agreed: Box<create_child::Agreed>,
    },
    /// An IKE SA in place of this one.
    Ike(Box<rekey_ike::Agreed>),
}

impl Pending {
    /// Remembers what awaits an exchange by `method`.
    pub fn new(what: What, method: &'static Group, now: Time, rng: &mut Generator) -> Pending {
        Pending {
            what,
            until: now + PATIENCE,
            method,
            link: rng.bytes(),
        }
    }

    /// What tells the peer how to go on.
    pub fn link(&self) -> Payload {
        link(self.link.to_vec())
    }

    /// Whether a request goes on with this.
    pub fn is_meant(&self, request: &Followup) -> bool {
        request.link.as_deref() == Some(self.link.as_slice())
    }

    /// The SPI at our end of a Child SA that may come of it.
    pub fn spi_in(&self) -> Option<u32> {
        match &self.what {
            What::Child { agreed, .. } => Some(agreed.spi_in()),
            What::Ike(_) => None,
        }
    }

    /// Answers the request that goes on with this: the secret, and our half.
    ///
    /// # Errors
    /// The peer uses another method, or sends a value that no honest peer sends.
    pub fn respond(&self, theirs: &Ke, rng: &mut Generator) -> Result<(Secret, Payload), Error> {
        if theirs.group != self.method.id {
            return Err(Error::Misbehaved(
                "its additional key exchange is not the one we chose",
            ));
        }
        answer_ke(self.method, Some(theirs), rng)
    }
}

fn link(data: Vec<u8>) -> Payload {
    Payload::Notify(Notify::new(NotifyType::ADDITIONAL_KEY_EXCHANGE, data))
}
