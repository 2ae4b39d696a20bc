//! Sealing and opening the messages of one IKE SA (RFC 7296 §3.14).

use super::event::Role;
use super::pieces::Pieces;
use super::schedule::IkeKeys;
use super::window::Mark;
use crate::crypto::{Generator, Opener, Protection, Sealer, WrongKeyLength};
use crate::wire::{ChainError, Envelope, Header, Message, Payload, bare, chain, sk};

/// Both directions of an IKE SA.
pub struct Protector {
    sealer: Sealer,
    opener: Opener,
    room: sk::Room,
    /// How many messages were sealed: the IV or its seed, so it never repeats (retransmissions are the same bytes, not sealed again).
    sealed: u64,
}

impl std::fmt::Debug for Protector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Protector")
            .field("sealed", &self.sealed)
            .finish_non_exhaustive()
    }
}

/// A message from the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// By which a repetition is known, if it is a request.
    pub mark: Mark,
    /// What is inside, unless that makes no sense.
    pub payloads: Result<Vec<Payload>, ChainError>,
    /// The message bare of its sealing and of fragments, as a later AUTH may cover it (RFC 9242 §3.3.2); empty if that makes no sense.
    pub bare: Vec<u8>,
}

/// Why a datagram made no message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unopened {
    /// Not from the peer, or damaged: it never happened.
    Forged,
}

impl Protector {
    /// Protection with the keys of the side that `role` names.
    ///
    /// # Errors
    /// The keys do not fit the algorithms.
    pub fn new(
        protection: Protection,
        keys: &IkeKeys,
        role: Role,
        rng: &mut Generator,
    ) -> Result<Protector, WrongKeyLength> {
        let (ours, theirs) = match role {
            Role::Initiator => (&keys.initiator, &keys.responder),
            Role::Responder => (&keys.responder, &keys.initiator),
        };
        Ok(Protector {
            sealer: Sealer::new(protection, ours, rng.bytes())?,
            opener: Opener::new(protection, theirs)?,
            room: sk::Room {
                iv: protection.iv_len(),
                icv: protection.icv_len(),
                block: protection.block(),
            },
            sealed: 0,
        })
    }

    /// Seals `payloads` into a message. `None` if they do not fit one, or if the counter is used up.
    pub fn seal(&mut self, header: Header, payloads: &[Payload]) -> Option<Pieces> {
        let mut framed = sk::frame(header, payloads, self.room).ok()?;
        self.sealed = self.sealed.checked_add(1)?;
        self.sealer
            .seal(&mut framed.bytes, framed.aad_len, self.sealed, None)
            .ok()?;
        Some(Pieces::whole(framed.bytes))
    }

    /// Opens a datagram of a message that is awaited. Payloads outside the sealed one are not believed and not returned.
    ///
    /// # Errors
    /// It has no sealed payload or does not authenticate.
    pub fn open(&mut self, message: &Message<'_>) -> Result<Opened, Unopened> {
        let sealed = message.sealed.ok_or(Unopened::Forged)?;
        match sealed.envelope {
            Envelope::Whole => {}
            // RFC 7383 §2.3: fragments come only after both sides said they support them, and we do not say so.
            Envelope::Fragment { .. } => return Err(Unopened::Forged),
        }
        let mut bytes = message.bytes.to_vec();
        let plain = self
            .opener
            .open(&mut bytes, sealed.aad_len, None)
            .map_err(|_| Unopened::Forged)?;
        let offset = plain.start;
        let plain = bytes.get(plain).ok_or(Unopened::Forged)?;
        let inner = sk::unpad(plain);
        let bare = inner.map_or_else(
            |_| Vec::new(),
            |inner| bare::theirs(message.bytes, sealed.first, inner).unwrap_or_default(),
        );
        let payloads = inner
            .map_err(ChainError::from)
            .and_then(|inner| chain::parse(sealed.first, inner, offset));
        Ok(Opened {
            mark: Mark::of(message.bytes),
            payloads,
            bare,
        })
    }
}
