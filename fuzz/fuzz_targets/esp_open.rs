//! No input makes ESP decapsulation panic, and an accepted packet is an IP packet within the selectors, accepted once.
//!
//! The first octet selects a suite. The rest is used three times: as an ESP packet; as the plaintext of an ESP packet, trailer
//! included, sealed with valid keys so that the fuzzer passes the ICV; and as an inner packet that is sealed and opened again.
//! Run on the stable toolchain with `cargo fuzz run -s none esp_open fuzz/corpus/esp_open fuzz/seeds/esp_open`.
#![no_main]

use groundlink::crypto::{Esn, EspProposal, EspSuite, SaKeys, Sealer, Secret};
use groundlink::esp::{HEADER, Inbound, Outbound};
use groundlink::net::{DropReason, Packet, Policy, Prefix};
use libfuzzer_sys::fuzz_target;

const SUITES: [&str; 6] = [
    "aes128-sha1",
    "aes256-sha512-esn",
    "aes128gcm16",
    "aes256gcm16-esn",
    "chacha20poly1305",
    "3des-md5",
];
const SPI: u32 = 0xc0de_0001;
const IV_KEY: [u8; 16] = [7; 16];

fuzz_target!(|input: &[u8]| {
    let [choice, bytes @ ..] = input else { return };
    let words = SUITES[usize::from(*choice) % SUITES.len()];
    let suite = EspProposal::parse(words)
        .expect("known words")
        .0
        .first()
        .expect("one suite");
    as_esp(suite, bytes);
    as_plaintext(suite, bytes);
    as_inner(suite, bytes);
});

fn as_esp(suite: EspSuite, bytes: &[u8]) {
    let refusal = open(&inbound(suite), &mut bytes.to_vec()).expect_err("nobody guesses an ICV");
    assert!(matches!(
        refusal,
        DropReason::Short | DropReason::Auth | DropReason::Replay
    ));
}

fn as_plaintext(suite: EspSuite, plaintext: &[u8]) {
    let mut esp = [SPI.to_be_bytes(), 1u32.to_be_bytes()].concat();
    esp.resize(esp.len() + suite.protection.iv_len(), 0);
    esp.extend_from_slice(plaintext);
    esp.resize(esp.len() + suite.protection.icv_len(), 0);
    let sealer =
        Sealer::new(suite.protection, &keys(suite), &IV_KEY.into()).expect("keys that fit");
    let high = (suite.esn == Esn::Yes).then_some(0);
    if sealer.seal(&mut esp, HEADER, 1, high).is_err() {
        return;
    }
    let inbound = inbound(suite);
    let again = esp.clone();
    match open(&inbound, &mut esp) {
        Ok(inner) => {
            assert!(plaintext.starts_with(&inner));
            let packet = Packet::parse(&inner).expect("a packet");
            assert!(policy().permits_inbound(&packet) && !packet.is_martian());
        }
        Err(refusal) => assert!(!matches!(refusal, DropReason::Auth | DropReason::Replay)),
    }
    let refusal = open(&inbound, &mut again.clone())
        .expect_err("the number is spent, unless it was never looked at");
    assert!(matches!(refusal, DropReason::Replay | DropReason::Short));
}

fn as_inner(suite: EspSuite, bytes: &[u8]) {
    let Ok(packet) = Packet::parse(bytes) else {
        return;
    };
    let outbound =
        Outbound::new(SPI, suite, &keys(suite), &IV_KEY.into(), mirrored()).expect("keys that fit");
    let mut room = vec![0xee; outbound.sealed_len(packet.len())];
    let sealed = outbound.seal(&packet, &mut room).expect("room enough");
    assert_eq!(sealed, room.len());
    match open(&inbound(suite), &mut room) {
        Ok(inner) => assert_eq!(inner, packet.bytes()),
        Err(DropReason::Martian) => assert!(packet.is_martian()),
        Err(DropReason::Inner) => assert!(!outbound.permits(&packet)),
        Err(refusal) => panic!("a whole packet was refused: {refusal}"),
    }
}

fn open(inbound: &Inbound, esp: &mut [u8]) -> Result<Vec<u8>, DropReason> {
    let opened = inbound.lock().open(esp).map(|opened| {
        let inner = opened.packet.bytes().to_vec();
        (opened.range, inner)
    });
    opened.map(|(range, inner)| {
        assert_eq!(
            esp.get(range),
            Some(&inner[..]),
            "the range is where the packet lies"
        );
        inner
    })
}

fn inbound(suite: EspSuite) -> Inbound {
    Inbound::new(SPI, suite, &keys(suite), policy(), 64).expect("keys that fit")
}

fn keys(suite: EspSuite) -> SaKeys {
    let protection = suite.protection;
    let fill = |length: usize| Secret::new((0..length).map(|at| at as u8 ^ 0x5a).collect());
    SaKeys {
        encryption: fill(protection.encryption_key_len()),
        integrity: fill(protection.integrity_key_len()),
    }
}

/// Half of all addresses, so that a packet may lie inside or outside.
fn policy() -> Policy {
    let half = || {
        ["0.0.0.0/1", "8000::/1"]
            .map(|text| text.parse::<Prefix>().expect("a prefix").into())
            .to_vec()
    };
    Policy {
        local: half(),
        remote: half(),
    }
}

fn mirrored() -> Policy {
    let Policy { local, remote } = policy();
    Policy {
        local: remote,
        remote: local,
    }
}
