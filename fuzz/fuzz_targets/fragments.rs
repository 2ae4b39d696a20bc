//! No sequence of fragments makes the Protector of an IKE SA panic, exceed its memory bound, or accept unauthenticated content.
//!
//! The input is a script of datagrams: fragments and whole messages, encrypted with the peer's keys or not, with any number,
//! total, message ID and content. One Protector gets all of them, another only the authentic ones: both must return the same for
//! those. A message fragmented by the engine must be reassembled in any order. Run on the stable toolchain with `cargo fuzz run
//! -s none fragments fuzz/corpus/fragments fuzz/seeds/fragments`.
#![no_main]

use groundlink::crypto::{Generator, IkeProposal, IkeSuite, SaKeys, Sealer, Secret};
use groundlink::ike::{
    FragmentSize, FragmentSizes, Fragmentation, IkeKeys, Opened, Protector, Role, Unopened,
};
use groundlink::wire::{
    Critical, ExchangeType, Flags, Header, IkeSpi, Message, MessageId, Notify, NotifyType, Payload,
    PayloadType,
};
use libfuzzer_sys::fuzz_target;

const SUITES: [&str; 3] = [
    "aes128-sha256-modp2048",
    "aes256gcm16-prfsha256-modp2048",
    "3des-sha1-modp2048",
];

/// Octets before the content of [`Opened::int_auth`]: IKE header and generic header.
const BARE_HEADERS: usize = Header::LEN + 4;

fuzz_target!(|input: &[u8]| {
    let [suite, size, script @ ..] = input else {
        return;
    };
    let words = SUITES[usize::from(*suite) % SUITES.len()];
    let suite = IkeProposal::parse(words).expect("known words").0;
    let suite = suite.first().expect("one suite");
    let agreed = Fragmentation::Agreed(FragmentSizes::new(
        576 + 16 * u16::from(*size),
        [192, 0, 2, 1].into(),
    ));
    compare_protectors(suite, agreed, script);
    round_trip(suite, agreed, script);
});

/// One step of the script.
struct Step<'a> {
    sealed: bool,
    whole: bool,
    header: Header,
    first: PayloadType,
    number: u16,
    total: u16,
    content: &'a [u8],
}

impl<'a> Step<'a> {
    /// Takes a step from the script: six octets, then the content with the length in the last one.
    fn take(script: &mut &'a [u8]) -> Option<Step<'a>> {
        let (fixed, rest) = script.split_first_chunk::<6>()?;
        let [kind, id, number, total, first, length] = *fixed;
        // Short contents, and occasionally one near the memory bound.
        let length = match length {
            0..=0xef => usize::from(length),
            _ => 0x200 * usize::from(length - 0xee),
        };
        let (content, rest) = rest.split_at(length.min(rest.len()));
        *script = rest;
        let flags = Flags {
            initiator: true,
            response: kind & 4 != 0,
            version: false,
        };
        let exchange = match kind & 0x18 {
            0x18 => ExchangeType::INFORMATIONAL,
            0x10 => ExchangeType::IKE_SA_INIT,
            _ => ExchangeType::CREATE_CHILD_SA,
        };
        // Mostly valid numbers, and the largest one.
        let wide = |octet: u8| {
            if octet == 0xff {
                u16::MAX
            } else {
                u16::from(octet % 80)
            }
        };
        Some(Step {
            sealed: kind & 1 == 0,
            whole: kind & 2 != 0,
            header: Header::new(
                IkeSpi(1),
                IkeSpi(2),
                exchange,
                flags,
                MessageId(u32::from(id % 3)),
            ),
            first: PayloadType(first),
            number: wide(number),
            total: wide(total),
            content,
        })
    }

    /// The datagram of the step. Padding is part of the content, so it may be invalid.
    fn datagram(&self, suite: IkeSuite, sealer: &Sealer, counter: u64) -> Option<Vec<u8>> {
        let protection = suite.protection;
        let mut body = Vec::new();
        if !self.whole {
            body.extend_from_slice(&self.number.to_be_bytes());
            body.extend_from_slice(&self.total.to_be_bytes());
        }
        let aad_len = Header::LEN + 4 + body.len();
        body.resize(body.len() + protection.iv_len(), 0);
        let plain_at = body.len();
        body.extend_from_slice(self.content);
        let blocks = (body.len() - plain_at + 1).next_multiple_of(protection.block());
        let padding = blocks - (body.len() - plain_at) - 1;
        body.resize(body.len() + padding, 0);
        body.push(u8::try_from(padding).ok()?);
        body.resize(body.len() + protection.icv_len(), 0);
        let payload = Payload::Unknown {
            kind: if self.whole {
                PayloadType::SK
            } else {
                PayloadType::SKF
            },
            critical: Critical::No,
            body,
        };
        let mut bytes = Message::encode_clear(self.header, &[payload]).ok()?;
        bytes[Header::LEN] = self.first.0;
        if self.sealed {
            sealer.seal(&mut bytes, aad_len, counter, None).ok()?;
        }
        Some(bytes)
    }
}

fn compare_protectors(suite: IkeSuite, agreed: Fragmentation, mut script: &[u8]) {
    let peer =
        Sealer::new(suite.protection, &keys(suite).initiator, &[3; 16].into()).expect("keys fit");
    let [mut all_datagrams, mut peer_only] =
        [agreed; 2].map(|it| protector(suite, Role::Responder, it));
    let mut unasked = protector(suite, Role::Responder, Fragmentation::Unsupported);
    let mut counter = 0;
    while let Some(step) = Step::take(&mut script) {
        counter += 1;
        let Some(bytes) = step.datagram(suite, &peer, counter) else {
            continue;
        };
        let Ok(message) = Message::parse(&bytes) else {
            continue;
        };
        let result = all_datagrams.open(&message);
        if !step.sealed {
            assert_eq!(result, Err(Unopened::Forged), "nobody guesses an ICV");
            assert!(!all_datagrams.is_first_fragment(&message));
            continue;
        }
        assert_eq!(
            result,
            peer_only.open(&message),
            "an unauthenticated fragment changed the result"
        );
        if !step.whole {
            assert_eq!(unasked.open(&message), Err(Unopened::Forged));
            assert_eq!(all_datagrams.is_first_fragment(&message), step.number == 1);
        }
        if let Ok(Opened { int_auth: bare, .. }) = result {
            let content = bare.get(BARE_HEADERS..).unwrap_or_default();
            assert!(content.len() <= usize::from(u16::MAX));
            assert!(
                content
                    .windows(step.content.len().max(1))
                    .any(|part| part == step.content)
                    || step.content.is_empty()
                    || bare.is_empty(),
                "the last part is in the whole"
            );
            // The message is complete: a copy of its last fragment starts a new reassembly.
            if !step.whole && step.total > 1 {
                assert_eq!(all_datagrams.open(&message), Err(Unopened::Partial));
                assert_eq!(peer_only.open(&message), Err(Unopened::Partial));
            }
        }
    }
}

/// A message fragmented by the engine is reassembled in the order of the script.
fn round_trip(suite: IkeSuite, agreed: Fragmentation, script: &[u8]) {
    let mut ours = protector(suite, Role::Initiator, agreed);
    let mut theirs = protector(suite, Role::Responder, agreed);
    let flags = Flags {
        initiator: true,
        ..Flags::default()
    };
    let payloads = [Payload::Notify(Notify::new(
        NotifyType(40_000),
        script.to_vec(),
    ))];
    for (id, size) in [(0, FragmentSize::Configured), (1, FragmentSize::Minimum)] {
        let header = Header::new(
            IkeSpi(1),
            IkeSpi(2),
            ExchangeType::INFORMATIONAL,
            flags,
            MessageId(id),
        );
        let Some(pieces) = ours.seal(header, &payloads) else {
            return;
        };
        let mut datagrams = pieces.in_size(size).to_vec();
        for (index, octet) in script.iter().enumerate().take(datagrams.len()) {
            let other = usize::from(*octet) % datagrams.len();
            datagrams.swap(index, other);
        }
        let last = datagrams.len() - 1;
        for (index, datagram) in datagrams.iter().enumerate() {
            let message = Message::parse(datagram).expect("our own");
            match theirs.open(&message) {
                Ok(opened) => {
                    assert_eq!(index, last);
                    assert_eq!(opened.payloads.as_deref(), Ok(&payloads[..]));
                }
                Err(Unopened::Partial) => assert!(index < last),
                Err(Unopened::Forged) => assert!(last >= 64, "our own fragment {index} of {last}"),
            }
        }
    }
}

fn protector(suite: IkeSuite, role: Role, fragmentation: Fragmentation) -> Protector {
    let mut rng = Generator::from_seed([5; 32]);
    Protector::new(
        suite.protection,
        &keys(suite),
        role,
        fragmentation,
        &mut rng,
    )
    .expect("keys that fit")
}

fn keys(suite: IkeSuite) -> IkeKeys {
    let fill =
        |length: usize, tint: u8| Secret::new((0..length).map(|at| at as u8 ^ tint).collect());
    let direction = |tint| SaKeys {
        encryption: fill(suite.protection.encryption_key_len(), tint),
        integrity: fill(suite.protection.integrity_key_len(), tint),
    };
    IkeKeys {
        derive: fill(32, 1),
        initiator: direction(0x5a),
        responder: direction(0xa5),
        prove_initiator: fill(32, 2),
        prove_responder: fill(32, 3),
    }
}
