//! What is inside an encrypted payload, where a table has the keys (RFC 7296 §3.14, RFC 7383).
//!
//! ```text
//! SK  ──▶ keys of (SPIi, SPIr), of the side that sent it ──▶ open ──▶ payloads
//! SKF ──▶ the same ──▶ waits in the engine's Assembly ──▶ payloads with the last one
//! ```

use std::collections::HashMap;

use crate::crypto::{OpenError, Opener};
use crate::ike::{Assembly, Fragment, Mark, MessageKey, Part};
use crate::wire::{ChainError, Envelope, Flags, IkeSpi, Message, Payload, Sealed, chain, sk};

use super::tables::{IkeKeyRow, IkeKeys};

/// The keys, and the fragments that were opened with them.
#[derive(Debug, Default)]
pub(super) struct IkeOpener {
    keys: IkeKeys,
    waiting: HashMap<Direction, Assembly>,
}

/// SAs and directions in which fragments may wait at a time.
const MAX_WAITING: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Direction {
    spi_i: IkeSpi,
    spi_r: IkeSpi,
    flags: Flags,
}

/// What became of an encrypted payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decrypted {
    /// It was read.
    Read {
        /// What is in it.
        payloads: Vec<Payload>,
        /// By which a repetition of the message is known.
        mark: Mark,
    },
    /// It was opened, and the rest of the message is to come.
    Partial,
    /// No table has its keys.
    NoKeys,
    /// A table has them, for algorithms that we do not run.
    Unsupported(String),
    /// The keys do not open it.
    Forged(OpenError),
    /// It is authentic and makes no sense.
    Nonsense(ChainError),
}

impl IkeOpener {
    pub(super) fn new(keys: IkeKeys) -> IkeOpener {
        IkeOpener {
            keys,
            waiting: HashMap::new(),
        }
    }

    /// Opens the encrypted payload of `message`.
    pub(super) fn open(&mut self, message: &Message<'_>, sealed: Sealed) -> Decrypted {
        let header = &message.header;
        let opener = match self.keys.find(header.spi_i, header.spi_r) {
            None => return Decrypted::NoKeys,
            Some(IkeKeyRow::Unsupported(words)) => return Decrypted::Unsupported(words.clone()),
            Some(IkeKeyRow::Open {
                initiator,
                responder,
            }) => {
                if header.flags.initiator {
                    initiator
                } else {
                    responder
                }
            }
        };
        let mut bytes = message.bytes.to_vec();
        let (offset, content) = match decrypt(opener, &mut bytes, sealed) {
            Ok(opened) => opened,
            Err(inside) => return inside,
        };
        match sealed.envelope {
            Envelope::Whole => {
                let mark = Mark::of(message.bytes);
                read(chain::parse(sealed.first, content, offset), mark)
            }
            Envelope::Fragment { number, total } => {
                let fragment = Fragment {
                    first: sealed.first,
                    content: content.to_vec(),
                    mark: Mark::of(message.bytes),
                    datagram_len: message.bytes.len(),
                };
                self.join(message, Part { number, total }, fragment)
            }
        }
    }

    fn join(&mut self, message: &Message<'_>, part: Part, fragment: Fragment) -> Decrypted {
        let header = &message.header;
        let direction = Direction {
            spi_i: header.spi_i,
            spi_r: header.spi_r,
            flags: header.flags,
        };
        if self.waiting.len() >= MAX_WAITING && !self.waiting.contains_key(&direction) {
            self.waiting.clear();
        }
        let assembly = self.waiting.entry(direction).or_default();
        match assembly.add(MessageKey::of(header), part, fragment) {
            None => Decrypted::Partial,
            Some(joined) => {
                self.waiting.remove(&direction);
                read(chain::parse(joined.first, &joined.content, 0), joined.mark)
            }
        }
    }
}

/// Where in the message the payloads begin, and what they are.
fn decrypt<'b>(
    opener: &Opener,
    bytes: &'b mut [u8],
    sealed: Sealed,
) -> Result<(usize, &'b [u8]), Decrypted> {
    let plain = opener
        .open(bytes, sealed.aad_len, None)
        .map_err(Decrypted::Forged)?;
    let offset = plain.start;
    let plain = bytes.get(plain).unwrap_or_default();
    let content = sk::unpad(plain).map_err(|malformed| Decrypted::Nonsense(malformed.into()))?;
    Ok((offset, content))
}

fn read(payloads: Result<Vec<Payload>, ChainError>, mark: Mark) -> Decrypted {
    match payloads {
        Ok(payloads) => Decrypted::Read { payloads, mark },
        Err(error) => Decrypted::Nonsense(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{Protection, SaKeys, Sealer, Secret, encryption};
    use crate::wire::{ExchangeType, Header, MessageId, Notify, NotifyType, PayloadType};

    const ROW: &str = "0000000000000001,0000000000000002,000102030405060708090a0b0c0d0e0f00112233,\
        101112131415161718191a1b1c1d1e1f00112233,\"AES-GCM-128 with 16 octet ICV [RFC5282]\",,,\"NONE [RFC4306]\"";

    fn opener() -> IkeOpener {
        IkeOpener::new(IkeKeys::parse(ROW).unwrap())
    }

    fn header(initiator: bool) -> Header {
        let flags = Flags {
            initiator,
            ..Flags::default()
        };
        Header::new(
            IkeSpi(1),
            IkeSpi(2),
            ExchangeType::INFORMATIONAL,
            flags,
            MessageId(3),
        )
    }

    fn notify(size: usize) -> Vec<Payload> {
        vec![Payload::Notify(Notify::new(
            NotifyType::COOKIE,
            vec![7; size],
        ))]
    }

    const ROOM: sk::Overhead = sk::Overhead {
        iv: 8,
        icv: 16,
        block: 1,
    };

    /// With the keys of the side that initiated the SA.
    fn seal(mut framed: sk::SealedLayout, counter: u64) -> Vec<u8> {
        let mut key: Vec<u8> = (0..16).collect();
        key.extend([0, 0x11, 0x22, 0x33]);
        let keys = SaKeys {
            encryption: Secret::new(key),
            integrity: Secret::new(Vec::new()),
        };
        let protection = Protection {
            encryption: encryption(20, Some(128)).unwrap(),
            integrity: None,
        };
        let sealer = Sealer::new(protection, &keys, [0; 16]).unwrap();
        sealer
            .seal(&mut framed.bytes, framed.aad_len, counter, None)
            .unwrap();
        framed.bytes
    }

    fn open(opener: &mut IkeOpener, bytes: &[u8]) -> Decrypted {
        let message = Message::parse(bytes).unwrap();
        opener.open(&message, message.sealed.unwrap())
    }

    #[test]
    fn the_keys_of_the_sender_open_a_message() {
        let sealed = seal(sk::frame(header(true), &notify(9), ROOM).unwrap(), 1);
        let expected = Decrypted::Read {
            payloads: notify(9),
            mark: Mark::of(&sealed),
        };
        assert_eq!(open(&mut opener(), &sealed), expected);
        let other_side = seal(sk::frame(header(false), &notify(9), ROOM).unwrap(), 1);
        assert_eq!(
            open(&mut opener(), &other_side),
            Decrypted::Forged(OpenError::WrongIcv)
        );
        let mut unknown = sealed;
        unknown[15] = 9;
        assert_eq!(open(&mut opener(), &unknown), Decrypted::NoKeys);
    }

    #[test]
    fn fragments_are_read_with_the_last_of_them_and_again_when_repeated() {
        let framed = sk::frame_fragments(header(true), &notify(900), ROOM, 400).unwrap();
        let mut pieces: Vec<Vec<u8>> = framed
            .into_iter()
            .zip(1..)
            .map(|(f, n)| seal(f, n))
            .collect();
        assert!(pieces.len() >= 3);
        let first = Mark::of(&pieces[0]);
        pieces.reverse();
        let mut opener = opener();
        for _ in 0..2 {
            let (last, before) = pieces.split_last().unwrap();
            for piece in before {
                assert_eq!(open(&mut opener, piece), Decrypted::Partial);
            }
            let expected = Decrypted::Read {
                payloads: notify(900),
                mark: first,
            };
            assert_eq!(open(&mut opener, last), expected);
        }
        assert!(opener.waiting.is_empty());
    }

    #[test]
    fn nonsense_inside_is_told_apart_from_forgery() {
        let mut framed = sk::frame(header(true), &notify(9), ROOM).unwrap();
        framed.bytes[framed.aad_len - 4] = PayloadType::KE.0;
        let sealed = seal(framed, 1);
        let Decrypted::Read { payloads, .. } = open(&mut opener(), &sealed) else {
            panic!("a notification can be read as a key exchange")
        };
        assert_eq!(payloads[0].kind(), PayloadType::KE);
        let mut framed = sk::frame(header(true), &notify(9), ROOM).unwrap();
        framed.bytes[framed.aad_len - 4] = PayloadType::NONE.0;
        let sealed = seal(framed, 1);
        assert!(matches!(
            open(&mut opener(), &sealed),
            Decrypted::Nonsense(ChainError::Malformed(_))
        ));
    }

    #[test]
    fn what_waits_is_bounded() {
        let rows: String = (1..=2 * MAX_WAITING)
            .map(|n| ROW.replacen("0000000000000001", &format!("{n:016x}"), 1) + "\n")
            .collect();
        let mut opener = IkeOpener::new(IkeKeys::parse(&rows).unwrap());
        for n in 1..=2 * MAX_WAITING as u64 {
            let header = Header {
                spi_i: IkeSpi(n),
                ..header(true)
            };
            let framed = sk::frame_fragments(header, &notify(900), ROOM, 400).unwrap();
            let sealed = seal(framed.into_iter().next().unwrap(), n);
            assert_eq!(open(&mut opener, &sealed), Decrypted::Partial);
            assert!(opener.waiting.len() <= MAX_WAITING);
        }
    }
}
