//! Every cipher with every integrity algorithm: round trips, vectors, and each kind of damage.

use super::*;
use crate::crypto::keys::Secret;
use crate::crypto::registry::{ENCRYPTION, INTEGRITY};
use crate::crypto::{EspProposal, vectors};

/// Every cipher with every integrity algorithm it can be negotiated with.
fn protections() -> Vec<Protection> {
    let cbc = ENCRYPTION.iter().filter(|row| !row.is_aead());
    let cbc = cbc.flat_map(|encryption| {
        INTEGRITY.iter().map(move |integrity| Protection {
            encryption,
            integrity: Some(integrity),
        })
    });
    let aead = ENCRYPTION.iter().filter(|row| row.is_aead());
    cbc.chain(aead.map(|encryption| Protection {
        encryption,
        integrity: None,
    }))
    .collect()
}

fn keys(protection: Protection) -> SaKeys {
    let bytes = |len: usize| Secret::new((0..len).map(|i| i as u8 ^ 0x5a).collect());
    SaKeys {
        encryption: bytes(protection.encryption_key_len()),
        integrity: bytes(protection.integrity_key_len()),
    }
}

fn pair(protection: Protection) -> (Sealer, Opener) {
    let keys = keys(protection);
    (
        Sealer::new(protection, &keys, &[9; 16].into()).unwrap(),
        Opener::new(protection, &keys).unwrap(),
    )
}

const HEADER: [u8; 8] = [0xc0, 0xde, 0xba, 0x5e, 0, 0, 0, 1];
const TEXT: [u8; 48] = *b"forty-eight bytes of text, three whole blocks  .";

/// An ESP packet around [`TEXT`], sealed as number 1.
fn sealed(sealer: &Sealer, esn_high: Option<u32>) -> Vec<u8> {
    let protection = sealer.protection;
    let mut packet = HEADER.to_vec();
    packet.resize(HEADER.len() + protection.iv_len(), 0);
    packet.extend(TEXT);
    packet.resize(packet.len() + protection.icv_len(), 0);
    sealer.seal(&mut packet, HEADER.len(), 1, esn_high).unwrap();
    packet
}

#[test]
fn a_sealed_packet_opens_under_every_protection_with_and_without_esn() {
    for protection in protections() {
        let (sealer, opener) = pair(protection);
        for esn_high in [None, Some(0), Some(7)] {
            let mut packet = sealed(&sealer, esn_high);
            assert_eq!(packet[..8], HEADER, "{protection}");
            assert!(
                !packet.windows(TEXT.len()).any(|window| window == TEXT),
                "{protection}"
            );
            let plaintext = opener.open(&mut packet, HEADER.len(), esn_high).unwrap();
            assert_eq!(packet[plaintext], TEXT, "{protection}");
        }
    }
}

#[test]
fn packets_of_another_implementation_open_and_are_reproduced() {
    for case in vectors::cases(include_str!("../../../tests/vectors/esp-cbc-hmac.txt")) {
        let (proposal, _) = EspProposal::parse(case.text("esp")).unwrap();
        let protection = proposal.first().unwrap().protection;
        let keys = SaKeys {
            encryption: Secret::new(case.bytes("key")),
            integrity: Secret::new(case.bytes("integrity-key")),
        };
        let esn_high = case.number("esn-high");
        let plaintext = case.bytes("plaintext");
        let mut packet = case.bytes("packet");

        let opener = Opener::new(protection, &keys).unwrap();
        let opened = opener.open(&mut packet, 8, esn_high).unwrap();
        assert_eq!(packet[opened.clone()], plaintext, "{}", case.title);

        packet[8..opened.start].fill(0);
        packet[opened.end..].fill(0);
        let low = u32::from_be_bytes(packet[4..8].try_into().unwrap());
        let counter = u64::from(esn_high.unwrap_or(0)) << 32 | u64::from(low);
        let iv_key: [u8; 16] = case.bytes("iv-key").try_into().unwrap();
        let sealer = Sealer::new(protection, &keys, &iv_key.into()).unwrap();
        sealer.seal(&mut packet, 8, counter, esn_high).unwrap();
        assert_eq!(packet, case.bytes("packet"), "{}", case.title);
    }
}

#[test]
fn keys_of_the_wrong_length_are_rejected() {
    for protection in protections() {
        let keys = keys(protection);
        let short = Secret::from_slice(&keys.encryption.as_bytes()[1..]);
        let wrong = SaKeys {
            encryption: short,
            integrity: keys.integrity.clone(),
        };
        assert!(
            Sealer::new(protection, &wrong, &[0; 16].into()).is_err(),
            "{protection}"
        );
        let longer = Secret::new([keys.integrity.as_bytes(), &[0]].concat());
        let wrong = SaKeys {
            encryption: keys.encryption,
            integrity: longer,
        };
        assert!(Opener::new(protection, &wrong).is_err(), "{protection}");
    }
    let cbc_alone = Protection {
        encryption: &ENCRYPTION[0],
        integrity: None,
    };
    assert!(
        Opener::new(cbc_alone, &keys(cbc_alone)).is_err(),
        "CBC without integrity"
    );
}

#[test]
fn debug_shows_no_key_byte() {
    let protection = protections()[0];
    let shown = format!("{:?}", keys(protection));
    assert_eq!(shown, "SaKeys { encryption: …, integrity: … }");
}

#[test]
fn sealers_and_openers_are_send_and_sync() {
    fn shared<T: Send + Sync>() {}
    shared::<(Sealer, Opener)>();
}

#[test]
fn equal_plaintexts_have_different_ciphertexts() {
    for protection in protections() {
        let (sealer, _) = pair(protection);
        let seal = |counter| {
            let mut packet =
                vec![0; HEADER.len() + protection.iv_len() + 16 + protection.icv_len()];
            sealer
                .seal(&mut packet, HEADER.len(), counter, None)
                .unwrap();
            packet
        };
        let (first, second) = (seal(1), seal(2));
        let text = HEADER.len() + protection.iv_len()..;
        assert_ne!(first[text.clone()], second[text], "{protection}");
    }
}

#[test]
fn cbc_ivs_differ_between_sas_and_aead_ivs_count() {
    let cbc = protections()[0];
    let keys_ = keys(cbc);
    let iv = |iv_key: [u8; 16]| {
        sealed(&Sealer::new(cbc, &keys_, &iv_key.into()).unwrap(), None)[8..24].to_vec()
    };
    assert_ne!(iv([1; 16]), iv([2; 16]));
    assert_eq!(iv([1; 16]), iv([1; 16]));
    let aead = *protections().last().unwrap();
    assert_eq!(sealed(&pair(aead).0, None)[8..16], 1_u64.to_be_bytes());
}

#[test]
fn a_buffer_of_the_wrong_length_is_not_sealed() {
    for protection in protections() {
        let (sealer, _) = pair(protection);
        let overhead = protection.iv_len() + protection.icv_len();
        let seal = |len: usize, aad_len| sealer.seal(&mut vec![0; len], aad_len, 1, None);
        assert_eq!(seal(0, 0), Err(SealError::TooShort));
        assert_eq!(seal(7, 8), Err(SealError::TooShort));
        assert_eq!(
            seal(8 + overhead, 8),
            Err(SealError::TooShort),
            "{protection}: no plaintext"
        );
        assert_eq!(
            seal(usize::from(u16::MAX), usize::MAX),
            Err(SealError::TooShort)
        );
        if protection.block() > 1 {
            assert_eq!(
                seal(8 + overhead + protection.block() + 1, 8),
                Err(SealError::Misaligned)
            );
        } else {
            let mut packet = vec![0; 28 + overhead + 4];
            assert_eq!(
                sealer.seal(&mut packet, 28, 1, Some(0)),
                Err(SealError::NotEsp)
            );
        }
    }
}

#[test]
fn p02_e02_every_flipped_bit_is_rejected_and_nothing_is_decrypted() {
    for protection in protections() {
        let (sealer, opener) = pair(protection);
        let packet = sealed(&sealer, None);
        for bit in 0..packet.len() * 8 {
            let mut forged = packet.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            let before = forged.clone();
            assert_eq!(
                opener.open(&mut forged, HEADER.len(), None),
                Err(OpenError::WrongIcv),
                "{protection} {bit}"
            );
            match protection.integrity {
                Some(_) => assert_eq!(
                    forged, before,
                    "{protection}: changed before the ICV was checked"
                ),
                None => assert!(
                    !forged
                        .windows(16)
                        .any(|part| TEXT.windows(16).any(|text| text == part))
                ),
            }
        }
    }
}

#[test]
fn p02_e02_every_truncation_is_rejected() {
    for protection in protections() {
        let (sealer, opener) = pair(protection);
        let packet = sealed(&sealer, None);
        for len in 0..packet.len() {
            let mut truncated = packet[..len].to_vec();
            let overhead = HEADER.len() + protection.iv_len() + protection.icv_len();
            let expected = match len.checked_sub(overhead) {
                None | Some(0) => OpenError::TooShort,
                Some(text) if text % protection.block() != 0 => OpenError::Misaligned,
                Some(_) => OpenError::WrongIcv,
            };
            let opened = opener.open(&mut truncated, HEADER.len(), None);
            assert_eq!(opened, Err(expected), "{protection} {len}");
        }
    }
}

#[test]
fn e02_an_icv_of_96_bits_is_no_icv_of_hmac_sha2_256() {
    // Old Linux kernels truncate SHA2-256 to 96 bits; such a packet is four bytes short.
    let sha256 = INTEGRITY.iter().find(|row| row.word == "sha256");
    let protection = Protection {
        encryption: &ENCRYPTION[0],
        integrity: sha256,
    };
    let (sealer, opener) = pair(protection);
    let packet = sealed(&sealer, None);
    let mut truncated = packet[..packet.len() - 4].to_vec();
    assert_eq!(
        opener.open(&mut truncated, HEADER.len(), None),
        Err(OpenError::Misaligned)
    );
}

#[test]
fn another_high_half_of_the_sequence_number_is_rejected() {
    for protection in protections() {
        let (sealer, opener) = pair(protection);
        for (sent, assumed) in [(Some(1), Some(2)), (Some(1), None), (None, Some(0))] {
            let mut packet = sealed(&sealer, sent);
            assert_eq!(
                opener.open(&mut packet, HEADER.len(), assumed),
                Err(OpenError::WrongIcv),
                "{protection}"
            );
        }
    }
}

#[test]
fn a_packet_under_another_key_is_rejected() {
    for protection in protections() {
        let (sealer, _) = pair(protection);
        let mut other = keys(protection).encryption.as_bytes().to_vec();
        other[1] ^= 2;
        let keys = SaKeys {
            encryption: Secret::new(other),
            integrity: keys(protection).integrity,
        };
        let opener = Opener::new(protection, &keys).unwrap();
        let mut packet = sealed(&sealer, None);
        match (
            protection.integrity,
            opener.open(&mut packet, HEADER.len(), None),
        ) {
            // Encryption and integrity keys are separate: the ICV matches, but the plaintext is garbage.
            (Some(_), Ok(plaintext)) => assert_ne!(packet[plaintext], TEXT, "{protection}"),
            (None, result) => assert_eq!(result, Err(OpenError::WrongIcv), "{protection}"),
            (Some(_), Err(error)) => panic!("{protection}: {error}"),
        }
    }
}
