//! Protection of the messages of one IKE SA (RFC 7296 §3.14): encryption and decryption, with fragmentation (RFC 7383).
//!
//! ```text
//! payloads ──▶ seal ──▶ Datagrams: SK, or SKF 1 … SKF n
//! SK  ────────▶ open ──▶ Opened
//! SKF ────────▶ open ──▶ Assembly ──▶ Opened when complete
//! ```

use super::event::Role;
use super::fragments::{Assembly, Fragment, Joined, MessageKey, Part};
use super::key_schedule::IkeKeys;
use super::out_message::{Datagrams, Fragmentation};
use super::window::Mark;
use crate::crypto::{Generator, IvKey, Opener, Protection, Sealer, WrongKeyLength};
use crate::wire::{
    ChainError, Envelope, Header, Message, Payload, PayloadType, Sealed, chain, int_auth, sk,
};

/// The keys and counters of both directions of an IKE SA.
pub struct Protector {
    sealer: Sealer,
    opener: Opener,
    overhead: sk::Overhead,
    /// Number of encrypted messages: the IV or its seed, so an IV never repeats. Retransmissions reuse the encrypted bytes.
    sealed: u64,
    fragmentation: Fragmentation,
    requests: Assembly,
    responses: Assembly,
    /// Length of the longest fragment of the peer's last request; `None` if that request was not fragmented.
    request_fragment_len: Option<usize>,
}

impl std::fmt::Debug for Protector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Protector")
            .field("sealed", &self.sealed)
            .field("fragmentation", &self.fragmentation)
            .finish_non_exhaustive()
    }
}

/// A decrypted message from the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Hash by which a repeated request is recognised.
    pub mark: Mark,
    /// The payloads, unless they are malformed.
    pub payloads: Result<Vec<Payload>, ChainError>,
    /// The message as IntAuth covers it (RFC 9242 §3.3.2); empty if the message is malformed.
    pub int_auth: Vec<u8>,
}

/// Why a datagram yields no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unopened {
    /// The integrity check failed, or the fragment is not needed: the datagram is ignored.
    Forged,
    /// The fragment is authentic, but the message is incomplete.
    Partial,
}

impl Protector {
    /// Protection with our role's keys.
    ///
    /// # Errors
    /// The keys do not fit the algorithms.
    pub fn new(
        protection: Protection,
        keys: &IkeKeys,
        role: Role,
        fragmentation: Fragmentation,
        rng: &mut Generator,
    ) -> Result<Protector, WrongKeyLength> {
        let (ours, theirs) = match role {
            Role::Initiator => (&keys.initiator, &keys.responder),
            Role::Responder => (&keys.responder, &keys.initiator),
        };
        Ok(Protector {
            sealer: Sealer::new(protection, ours, &IvKey::random(rng))?,
            opener: Opener::new(protection, theirs)?,
            overhead: sk::Overhead {
                iv: protection.iv_len(),
                icv: protection.icv_len(),
                block: protection.block(),
            },
            sealed: 0,
            fragmentation,
            requests: Assembly::default(),
            responses: Assembly::default(),
            request_fragment_len: None,
        })
    }

    /// Protection with the keys of the IKE SA that replaces this one.
    ///
    /// # Errors
    /// The keys do not fit the algorithms.
    pub fn successor(
        &self,
        protection: Protection,
        keys: &IkeKeys,
        role: Role,
        rng: &mut Generator,
    ) -> Result<Protector, WrongKeyLength> {
        Protector::new(protection, keys, role, self.fragmentation, rng)
    }

    /// Whether both sides announced fragmentation, and the sizes.
    pub fn fragmentation(&self) -> Fragmentation {
        self.fragmentation
    }

    /// Encrypts `payloads` into a message, fragmented if it is too long. `None` if it does not fit even so, or if the counter is
    /// exhausted.
    pub fn seal(&mut self, header: Header, payloads: &[Payload]) -> Option<Datagrams> {
        let Fragmentation::Agreed(sizes) = self.fragmentation else {
            return self
                .seal_in(header, payloads, usize::MAX)
                .map(|datagrams| Datagrams::fragmented(datagrams, Vec::new()));
        };
        // A peer that sends smaller datagrams than we do may know the path MTU better (RFC 7383 §2.5.1).
        let configured = match self.request_fragment_len {
            Some(len) if header.flags.response => len.clamp(sizes.minimum, sizes.configured),
            Some(_) | None => sizes.configured,
        };
        let datagrams = self.seal_in(header, payloads, configured)?;
        let smaller = if datagrams
            .iter()
            .any(|datagram| datagram.len() > sizes.minimum)
        {
            self.seal_in(header, payloads, sizes.minimum)?
        } else {
            Vec::new()
        };
        Some(Datagrams::fragmented(datagrams, smaller))
    }

    /// Encrypts `payloads` into datagrams of at most `max_len` octets.
    fn seal_in(
        &mut self,
        header: Header,
        payloads: &[Payload],
        max_len: usize,
    ) -> Option<Vec<Vec<u8>>> {
        let frames = match sk::frame(header, payloads, self.overhead) {
            Ok(whole) if whole.bytes.len() <= max_len => vec![whole],
            Ok(_) | Err(_) => sk::frame_fragments(header, payloads, self.overhead, max_len).ok()?,
        };
        frames
            .into_iter()
            .map(|frame| self.seal_frame(frame))
            .collect()
    }

    fn seal_frame(&mut self, mut layout: sk::SealedLayout) -> Option<Vec<u8>> {
        self.sealed = self.sealed.checked_add(1)?;
        self.sealer
            .seal(&mut layout.bytes, layout.aad_len, self.sealed, None)
            .ok()?;
        Some(layout.bytes)
    }

    /// Decrypts a datagram of an expected message. Payloads outside the encrypted one are ignored.
    ///
    /// # Errors
    /// The datagram has no encrypted payload, fails authentication, or is a fragment of an incomplete message.
    pub fn open(&mut self, message: &Message<'_>) -> Result<Opened, Unopened> {
        let sealed = message.sealed.ok_or(Unopened::Forged)?;
        match sealed.envelope {
            Envelope::Whole => self.open_whole(message, sealed),
            Envelope::Fragment { number, total } => {
                self.open_fragment(message, sealed, Part { number, total })
            }
        }
    }

    fn open_whole(&mut self, message: &Message<'_>, sealed: Sealed) -> Result<Opened, Unopened> {
        let plain = self.decrypt(message, sealed)?;
        self.assembly(message).clear();
        if !message.header.flags.response {
            self.request_fragment_len = None;
        }
        Ok(match sk::unpad(&plain) {
            Ok(content) => self.opened(message, Mark::of(message.bytes), sealed.first, content),
            Err(malformed) => Opened {
                mark: Mark::of(message.bytes),
                payloads: Err(malformed.into()),
                int_auth: Vec::new(),
            },
        })
    }

    fn open_fragment(
        &mut self,
        message: &Message<'_>,
        sealed: Sealed,
        part: Part,
    ) -> Result<Opened, Unopened> {
        let key = MessageKey::of(&message.header);
        if !self.may_be_fragment(message) || !self.assembly(message).needs(key, part) {
            return Err(Unopened::Forged);
        }
        // A fragment is authenticated before it is stored: a forged fragment must not replace a valid one.
        let plain = self.decrypt(message, sealed)?;
        let content = sk::unpad(&plain).map_err(|_| Unopened::Forged)?;
        let fragment = Fragment {
            first: sealed.first,
            content: content.to_vec(),
            mark: Mark::of(message.bytes),
            datagram_len: message.bytes.len(),
        };
        let Joined {
            first,
            content,
            mark,
            datagram_len,
        } = self
            .assembly(message)
            .add(key, part, fragment)
            .ok_or(Unopened::Partial)?;
        if !message.header.flags.response {
            self.request_fragment_len = Some(datagram_len);
        }
        Ok(self.opened(message, mark, first, &content))
    }

    /// The message with the complete `content`; `message` is its last datagram.
    fn opened(
        &self,
        message: &Message<'_>,
        mark: Mark,
        first: PayloadType,
        content: &[u8],
    ) -> Opened {
        let offset = message.sealed.map_or(0, |sealed| sealed.aad_len);
        Opened {
            mark,
            payloads: chain::parse(first, content, offset.saturating_add(self.overhead.iv)),
            int_auth: int_auth::received(message.bytes, first, content).unwrap_or_default(),
        }
    }

    /// Whether the message is an authentic fragment 1. The first fragment of an answered request triggers retransmission of the
    /// response, also if the peer has fragmented the request in another size (RFC 7383 §2.6.1).
    pub fn is_first_fragment(&self, message: &Message<'_>) -> bool {
        message.sealed.is_some_and(|sealed| match sealed.envelope {
            Envelope::Fragment { number: 1, .. } => {
                self.may_be_fragment(message) && self.decrypt(message, sealed).is_ok()
            }
            Envelope::Fragment { .. } | Envelope::Whole => false,
        })
    }

    /// Whether a fragment is allowed: both sides announced fragmentation, and no payload precedes the encrypted one (RFC 7383
    /// §2.3, §2.5).
    fn may_be_fragment(&self, message: &Message<'_>) -> bool {
        match self.fragmentation {
            Fragmentation::Unsupported => false,
            Fragmentation::Agreed(_) => message.clear.is_empty(),
        }
    }

    fn assembly(&mut self, message: &Message<'_>) -> &mut Assembly {
        if message.header.flags.response {
            &mut self.responses
        } else {
            &mut self.requests
        }
    }

    /// The decrypted content, padding included.
    fn decrypt(&self, message: &Message<'_>, sealed: Sealed) -> Result<Vec<u8>, Unopened> {
        let mut bytes = message.bytes.to_vec();
        let plain = self
            .opener
            .open(&mut bytes, sealed.aad_len, None)
            .map_err(|_| Unopened::Forged)?;
        bytes.get(plain).map(<[u8]>::to_vec).ok_or(Unopened::Forged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{IkeProposal, IkeSuite, SaKeys, Secret};
    use crate::ike::out_message::{FragmentSize, FragmentSizes};
    use crate::wire::{ExchangeType, Flags, IkeSpi, MessageId, Notify, NotifyType};

    const SIZES: FragmentSizes = FragmentSizes {
        configured: 1000,
        minimum: 500,
    };

    /// Both ends of an SA.
    fn ends(fragmentation: Fragmentation) -> [Protector; 2] {
        let words = "aes128-sha256-modp2048";
        let suite: IkeSuite = IkeProposal::parse(words).unwrap().0.first().unwrap();
        let direction = |tint: u8| SaKeys {
            encryption: Secret::from_slice(&[tint; 16]),
            integrity: Secret::from_slice(&[tint; 32]),
        };
        let secret = || Secret::from_slice(&[9; 32]);
        let keys = IkeKeys {
            derive: secret(),
            initiator: direction(1),
            responder: direction(2),
            prove_initiator: secret(),
            prove_responder: secret(),
        };
        let mut rng = Generator::from_seed([1; 32]);
        [Role::Initiator, Role::Responder].map(|role| {
            Protector::new(suite.protection, &keys, role, fragmentation, &mut rng).unwrap()
        })
    }

    fn header(response: bool) -> Header {
        let flags = Flags {
            initiator: !response,
            response,
            version: false,
        };
        let exchange = ExchangeType::INFORMATIONAL;
        Header::new(IkeSpi(1), IkeSpi(2), exchange, flags, MessageId(2))
    }

    fn payloads(size: usize) -> Vec<Payload> {
        let notify = Notify::new(NotifyType(40_000), vec![7; size]);
        vec![Payload::Notify(notify)]
    }

    fn open(protector: &mut Protector, datagram: &[u8]) -> Result<Opened, Unopened> {
        protector.open(&Message::parse(datagram).unwrap())
    }

    /// Number of datagrams of a message in both sizes.
    fn counts(datagrams: &Datagrams) -> [usize; 2] {
        [FragmentSize::Configured, FragmentSize::Minimum].map(|size| datagrams.in_size(size).len())
    }

    #[test]
    fn f02_a_message_above_the_limit_is_fragmented_in_both_sizes() {
        for (size, expected) in [(0, [1, 1]), (400, [1, 1]), (900, [1, 3]), (2000, [3, 5])] {
            let [mut ours, mut theirs] = ends(Fragmentation::Agreed(SIZES));
            let datagrams = ours.seal(header(false), &payloads(size)).unwrap();
            assert_eq!(counts(&datagrams), expected, "{size}");
            for (limit, most) in [
                (FragmentSize::Configured, SIZES.configured),
                (FragmentSize::Minimum, SIZES.minimum),
            ] {
                let (last, others) = datagrams.in_size(limit).split_last().unwrap();
                assert!(last.len() <= most);
                for fragment in others {
                    assert!(fragment.len() <= most);
                    assert_eq!(open(&mut theirs, fragment), Err(Unopened::Partial));
                }
                let opened = open(&mut theirs, last).unwrap();
                assert_eq!(opened.payloads, Ok(payloads(size)));
                assert_eq!(opened.mark, Mark::of(&datagrams.in_size(limit)[0]));
            }
        }
    }

    #[test]
    fn f05_without_negotiated_fragmentation_messages_are_whole_and_fragments_are_dropped() {
        let [mut ours, _] = ends(Fragmentation::Agreed(SIZES));
        let [mut silent, mut theirs] = ends(Fragmentation::Unsupported);
        let datagrams = silent.seal(header(false), &payloads(2000)).unwrap();
        assert_eq!(counts(&datagrams), [1, 1]);
        assert!(open(&mut theirs, &datagrams.in_size(FragmentSize::Configured)[0]).is_ok());
        let fragments = ours.seal(header(false), &payloads(2000)).unwrap();
        for fragment in fragments.in_size(FragmentSize::Configured) {
            assert_eq!(open(&mut theirs, fragment), Err(Unopened::Forged));
        }
    }

    #[test]
    fn response_fragments_are_no_larger_than_those_of_the_request() {
        let [mut ours, mut theirs] = ends(Fragmentation::Agreed(SIZES));
        let question = ours.seal(header(false), &payloads(900)).unwrap();
        for (size, expected) in [
            (FragmentSize::Minimum, [3, 3]),
            (FragmentSize::Configured, [1, 3]),
        ] {
            for datagram in question.in_size(size) {
                let _ = open(&mut theirs, datagram);
            }
            let response = theirs.seal(header(true), &payloads(900)).unwrap();
            assert_eq!(counts(&response), expected);
        }
    }

    #[test]
    fn no_two_datagrams_have_the_same_iv() {
        let [mut ours, _] = ends(Fragmentation::Agreed(SIZES));
        let mut ivs = std::collections::BTreeSet::new();
        for _ in 0..20 {
            let datagrams = ours.seal(header(false), &payloads(2000)).unwrap();
            for datagram in [FragmentSize::Configured, FragmentSize::Minimum]
                .iter()
                .flat_map(|size| datagrams.in_size(*size))
            {
                let aad_len = Message::parse(datagram).unwrap().sealed.unwrap().aad_len;
                assert!(ivs.insert(datagram[aad_len..aad_len + 16].to_vec()));
            }
        }
        assert_eq!(ivs.len(), 20 * 8);
    }
}
