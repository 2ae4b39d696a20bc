//! Decryption of IKE messages with keys of a table (RFC 7296 §3.14, RFC 7383).
//!
//! ```text
//! SK  ──▶ keys of (SPIi, SPIr) and of the sender ──▶ decrypt ──▶ payloads
//! SKF ──▶ the same ──▶ Assembly of the engine ──▶ payloads, with the last fragment
//! ```

use std::collections::HashMap;

use crate::crypto::{OpenError, Opener};
use crate::ike::{Assembly, Fragment, Mark, MessageKey, Part};
use crate::wire::{ChainError, Envelope, Flags, IkeSpi, Message, Payload, Sealed, chain, sk};

use super::key_tables::{IkeKeyRow, IkeKeys};

/// IKE keys, and decrypted fragments of incomplete messages.
#[derive(Debug, Default)]
pub(super) struct IkeDecrypter {
    keys: IkeKeys,
    incomplete: HashMap<Direction, Assembly>,
}

/// The most SAs and directions with incomplete messages.
const MAX_INCOMPLETE: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Direction {
    spi_i: IkeSpi,
    spi_r: IkeSpi,
    flags: Flags,
}

/// The outcome of a decryption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decrypted {
    /// The payloads of the message.
    Payloads {
        /// Decrypted payloads.
        payloads: Vec<Payload>,
        /// Digest that identifies a retransmission.
        mark: Mark,
    },
    /// One fragment of a message whose other fragments are missing.
    Fragment,
    /// The key table has no row for the SA.
    NoKeys,
    /// The row in the key table names algorithms that groundlink does not support.
    Unsupported(String),
    /// The integrity check failed.
    Forged(OpenError),
    /// The message is authentic, but its payloads cannot be parsed.
    Malformed(ChainError),
}

impl IkeDecrypter {
    pub(super) fn new(keys: IkeKeys) -> IkeDecrypter {
        IkeDecrypter {
            keys,
            incomplete: HashMap::new(),
        }
    }

    /// Decrypts the encrypted payload of `message`.
    pub(super) fn decrypt(&mut self, message: &Message<'_>, sealed: Sealed) -> Decrypted {
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
        let (offset, content) = match open(opener, &mut bytes, sealed) {
            Ok(opened) => opened,
            Err(failure) => return failure,
        };
        match sealed.envelope {
            Envelope::Whole => {
                let mark = Mark::of(message.bytes);
                parsed(chain::parse(sealed.first, content, offset), mark)
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
        if self.incomplete.len() >= MAX_INCOMPLETE && !self.incomplete.contains_key(&direction) {
            self.incomplete.clear();
        }
        let assembly = self.incomplete.entry(direction).or_default();
        match assembly.add(MessageKey::of(header), part, fragment) {
            None => Decrypted::Fragment,
            Some(joined) => {
                self.incomplete.remove(&direction);
                parsed(chain::parse(joined.first, &joined.content, 0), joined.mark)
            }
        }
    }
}

/// Opens a message; returns the offset of its payloads and their octets.
fn open<'b>(
    opener: &Opener,
    bytes: &'b mut [u8],
    sealed: Sealed,
) -> Result<(usize, &'b [u8]), Decrypted> {
    let plain = opener
        .open(bytes, sealed.aad_len, None)
        .map_err(Decrypted::Forged)?;
    let offset = plain.start;
    let plain = bytes.get(plain).unwrap_or_default();
    let content = sk::unpad(plain).map_err(|malformed| Decrypted::Malformed(malformed.into()))?;
    Ok((offset, content))
}

fn parsed(payloads: Result<Vec<Payload>, ChainError>, mark: Mark) -> Decrypted {
    match payloads {
        Ok(payloads) => Decrypted::Payloads { payloads, mark },
        Err(error) => Decrypted::Malformed(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{Protection, SaKeys, Sealer, Secret, encryption};
    use crate::wire::{ExchangeType, Header, MessageId, Notify, NotifyType, PayloadType};

    const ROW: &str = "0000000000000001,0000000000000002,000102030405060708090a0b0c0d0e0f00112233,\
        101112131415161718191a1b1c1d1e1f00112233,\"AES-GCM-128 with 16 octet ICV [RFC5282]\",,,\"NONE [RFC4306]\"";

    fn decrypter() -> IkeDecrypter {
        IkeDecrypter::new(IkeKeys::parse(ROW).unwrap())
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

    const OVERHEAD: sk::Overhead = sk::Overhead {
        iv: 8,
        icv: 16,
        block: 1,
    };

    /// Seals with the keys of the original initiator.
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
        let sealer = Sealer::new(protection, &keys, &[0; 16].into()).unwrap();
        sealer
            .seal(&mut framed.bytes, framed.aad_len, counter, None)
            .unwrap();
        framed.bytes
    }

    fn decrypt(decrypter: &mut IkeDecrypter, bytes: &[u8]) -> Decrypted {
        let message = Message::parse(bytes).unwrap();
        decrypter.decrypt(&message, message.sealed.unwrap())
    }

    #[test]
    fn the_senders_keys_decrypt_a_message() {
        let sealed = seal(sk::frame(header(true), &notify(9), OVERHEAD).unwrap(), 1);
        let expected = Decrypted::Payloads {
            payloads: notify(9),
            mark: Mark::of(&sealed),
        };
        assert_eq!(decrypt(&mut decrypter(), &sealed), expected);
        let other_side = seal(sk::frame(header(false), &notify(9), OVERHEAD).unwrap(), 1);
        assert_eq!(
            decrypt(&mut decrypter(), &other_side),
            Decrypted::Forged(OpenError::WrongIcv)
        );
        let mut unknown = sealed;
        unknown[15] = 9;
        assert_eq!(decrypt(&mut decrypter(), &unknown), Decrypted::NoKeys);
    }

    #[test]
    fn a_fragmented_message_is_decrypted_with_its_last_fragment_each_time() {
        let framed = sk::frame_fragments(header(true), &notify(900), OVERHEAD, 400).unwrap();
        let mut fragments: Vec<Vec<u8>> = framed
            .into_iter()
            .zip(1..)
            .map(|(f, n)| seal(f, n))
            .collect();
        assert!(fragments.len() >= 3);
        let first = Mark::of(&fragments[0]);
        fragments.reverse();
        let mut decrypter = decrypter();
        for _ in 0..2 {
            let (last, before) = fragments.split_last().unwrap();
            for fragment in before {
                assert_eq!(decrypt(&mut decrypter, fragment), Decrypted::Fragment);
            }
            let expected = Decrypted::Payloads {
                payloads: notify(900),
                mark: first,
            };
            assert_eq!(decrypt(&mut decrypter, last), expected);
        }
        assert!(decrypter.incomplete.is_empty());
    }

    #[test]
    fn malformed_payloads_are_distinguished_from_forgery() {
        let mut framed = sk::frame(header(true), &notify(9), OVERHEAD).unwrap();
        framed.bytes[framed.aad_len - 4] = PayloadType::KE.0;
        let sealed = seal(framed, 1);
        let Decrypted::Payloads { payloads, .. } = decrypt(&mut decrypter(), &sealed) else {
            panic!("a notification can be read as a key exchange")
        };
        assert_eq!(payloads[0].kind(), PayloadType::KE);
        let mut framed = sk::frame(header(true), &notify(9), OVERHEAD).unwrap();
        framed.bytes[framed.aad_len - 4] = PayloadType::NONE.0;
        let sealed = seal(framed, 1);
        assert!(matches!(
            decrypt(&mut decrypter(), &sealed),
            Decrypted::Malformed(ChainError::Malformed(_))
        ));
    }

    #[test]
    fn the_number_of_incomplete_messages_is_bounded() {
        let rows: String = (1..=2 * MAX_INCOMPLETE)
            .map(|n| ROW.replacen("0000000000000001", &format!("{n:016x}"), 1) + "\n")
            .collect();
        let mut decrypter = IkeDecrypter::new(IkeKeys::parse(&rows).unwrap());
        for n in 1..=2 * MAX_INCOMPLETE as u64 {
            let header = Header {
                spi_i: IkeSpi(n),
                ..header(true)
            };
            let framed = sk::frame_fragments(header, &notify(900), OVERHEAD, 400).unwrap();
            let sealed = seal(framed.into_iter().next().unwrap(), n);
            assert_eq!(decrypt(&mut decrypter, &sealed), Decrypted::Fragment);
            assert!(decrypter.incomplete.len() <= MAX_INCOMPLETE);
        }
    }
}
