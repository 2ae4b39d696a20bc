//! Every kernel of this CPU against published vectors, and against the one-packet [`Sealer`](crate::crypto::Sealer) and
//! [`Opener`](crate::crypto::Opener).

use proptest::prelude::*;

use super::cbc::{CbcDecryptor, CbcEncryptor, CbcJob, NotBlocks};
use super::hmac::{BatchHmac, HmacJob};
use super::{BatchOpener, BatchSealer, Kernel, OpenJob, SealJob};
use crate::crypto::mac::Mac;
use crate::crypto::protect::Protection;
use crate::crypto::registry::{ENCRYPTION, Encryption, INTEGRITY, Integrity};
use crate::crypto::{OpenError, SaKeys, SealError, Secret, vectors};

fn aes() -> impl Iterator<Item = &'static Encryption> {
    ENCRYPTION.iter().filter(|row| row.word.len() == 6)
}

fn hashes() -> impl Iterator<Item = &'static Integrity> {
    INTEGRITY
        .iter()
        .filter(|row| matches!(row.word, "sha1" | "sha256"))
}

fn protections() -> Vec<Protection> {
    aes()
        .flat_map(|encryption| {
            hashes().map(move |row| Protection {
                encryption,
                integrity: Some(row),
            })
        })
        .collect()
}

fn keys(protection: Protection, seed: u8) -> SaKeys {
    let bytes = |len: usize| Secret::new((0..len).map(|i| (i as u8).wrapping_mul(seed)).collect());
    SaKeys {
        encryption: bytes(protection.encryption_key_len()),
        integrity: bytes(protection.integrity_key_len()),
    }
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(seed | 1);
            (state >> 56) as u8
        })
        .collect()
}

#[test]
fn keys_are_wiped_when_dropped() {
    fn wiped<T: zeroize::ZeroizeOnDrop>() {}
    wiped::<BatchHmac>();
    #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
    wiped::<super::x86::aesni::Schedule>();
}

#[test]
fn algorithms_without_kernels_are_rejected() {
    for kernel in Kernel::all() {
        for row in ENCRYPTION {
            let ours = aes().any(|aes| aes == row);
            let key = vec![1; row.key_len];
            assert_eq!(
                CbcEncryptor::new(kernel, row, &key).is_some(),
                ours,
                "{row}"
            );
            assert_eq!(
                CbcDecryptor::new(kernel, row, &key).is_some(),
                ours,
                "{row}"
            );
            assert!(CbcEncryptor::new(kernel, row, &key[1..]).is_none(), "{row}");
        }
        for row in INTEGRITY {
            let ours = hashes().any(|hash| hash == row);
            assert_eq!(
                BatchHmac::new(kernel, row, &[1; 20]).is_some(),
                ours,
                "{row}"
            );
        }
    }
}

#[test]
fn a_text_that_is_not_whole_blocks_leaves_the_batch_unchanged() {
    for kernel in Kernel::all() {
        let encryptor = CbcEncryptor::new(kernel, &ENCRYPTION[0], &[1; 16]).unwrap();
        let (mut good, mut bad) = ([0; 32], [0; 33]);
        let mut lanes = [
            CbcJob {
                iv: [0; 16],
                text: &mut good,
            },
            CbcJob {
                iv: [0; 16],
                text: &mut bad,
            },
        ];
        assert_eq!(encryptor.encrypt(&mut lanes), Err(NotBlocks));
        assert_eq!(good, [0; 32]);

        let protection = protections()[0];
        let keys = keys(protection, 3);
        let sealer = BatchSealer::new(kernel, protection, &keys, &[7; 16].into())
            .unwrap()
            .unwrap();
        for (len, fault) in [(36, SealError::TooShort), (53, SealError::Misaligned)] {
            let (mut good, mut bad) = (vec![0; 52], vec![0; len]);
            let mut batch = [&mut good, &mut bad].map(|bytes| SealJob {
                bytes,
                counter: 1,
                esn_high: None,
            });
            assert_eq!(sealer.seal(&mut batch), Err(fault));
            assert_eq!(good, [0; 52]);
        }
    }
}

/// Encrypts `copies` copies of one text.
fn encrypt_copies(
    kernel: Kernel,
    row: &Encryption,
    key: &[u8],
    iv: &[u8],
    text: &[u8],
    copies: usize,
) -> Vec<Vec<u8>> {
    let mut texts = vec![text.to_vec(); copies];
    let mut lanes: Vec<_> = texts
        .iter_mut()
        .map(|text| CbcJob {
            iv: iv.try_into().unwrap(),
            text,
        })
        .collect();
    CbcEncryptor::new(kernel, row, key)
        .unwrap()
        .encrypt(&mut lanes)
        .unwrap();
    texts
}

#[test]
fn aes_cbc_of_rfc_3602_through_every_kernel_and_number_of_lanes() {
    let cases = vectors::cases(include_str!("../../../tests/vectors/aes-cbc.txt"));
    assert_eq!(cases.len(), 8);
    for kernel in Kernel::all() {
        for case in &cases {
            let (key, iv) = (case.bytes("key"), case.bytes("iv"));
            for copies in 1..=33 {
                let texts = encrypt_copies(
                    kernel,
                    &ENCRYPTION[0],
                    &key,
                    &iv,
                    &case.bytes("plaintext"),
                    copies,
                );
                for mut text in texts {
                    assert_eq!(text, case.bytes("ciphertext"), "{kernel} {}", case.title);
                    CbcDecryptor::new(kernel, &ENCRYPTION[0], &key)
                        .unwrap()
                        .decrypt(iv.as_slice().try_into().unwrap(), &mut text)
                        .unwrap();
                    assert_eq!(text, case.bytes("plaintext"), "{kernel} {}", case.title);
                }
            }
        }
    }
}

/// NIST SP 800-38A F.2.1, F.2.3 and F.2.5: keys of every length, four blocks.
#[test]
fn aes_cbc_of_sp_800_38a_through_every_kernel() {
    let iv = vectors::bytes("000102030405060708090a0b0c0d0e0f");
    let plain = vectors::bytes(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e5130c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710",
    );
    let cases = [
        (
            "2b7e151628aed2a6abf7158809cf4f3c",
            "7649abac8119b246cee98e9b12e9197d5086cb9b507219ee95db113a917678b273bed6b8e3c1743b7116e69e222295163ff1caa1681fac09120eca307586e1a7",
        ),
        (
            "8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b",
            "4f021db243bc633d7178183a9fa071e8b4d9ada9ad7dedf4e5e738763f69145a571b242012fb7ae07fa9baac3df102e008b0e27988598881d920a9e64f5615cd",
        ),
        (
            "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
            "f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d39f23369a9d9bacfa530e26304231461b2eb05e2c39be9fcda6c19078c6a9d1b",
        ),
    ];
    for kernel in Kernel::all() {
        for (row, (key, cipher)) in aes().zip(cases) {
            let key = vectors::bytes(key);
            for mut text in encrypt_copies(kernel, row, &key, &iv, &plain, 17) {
                assert_eq!(text, vectors::bytes(cipher), "{kernel} {row}");
                let decryptor = CbcDecryptor::new(kernel, row, &key).unwrap();
                decryptor
                    .decrypt(iv.as_slice().try_into().unwrap(), &mut text)
                    .unwrap();
                assert_eq!(text, plain, "{kernel} {row}");
            }
        }
    }
}

#[test]
fn hmac_of_rfc_2202_and_rfc_4231_through_every_kernel() {
    let cases = vectors::cases(include_str!("../../../tests/vectors/hmac.txt"));
    for kernel in Kernel::all() {
        for row in hashes() {
            let cases = cases.iter().filter(|case| case.text("hash") == row.word);
            let cases: Vec<_> = cases
                .map(|case| (case.bytes("key"), case.bytes("data"), case.bytes("digest")))
                .collect();
            assert!(cases.len() >= 6);
            for (key, data, digest) in &cases {
                let hmac = BatchHmac::new(kernel, row, key).unwrap();
                for copies in 1..=11 {
                    let message = HmacJob {
                        bytes: data,
                        ..HmacJob::default()
                    };
                    let mut messages = vec![message; copies];
                    hmac.authenticate(&mut messages);
                    for message in messages {
                        assert_eq!(message.tag[..digest.len()], digest[..], "{kernel} {row}");
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Any lengths, in any order, with keys of every length: every kernel encrypts like the portable one, and decrypts the result.
    #[test]
    fn cbc_of_every_kernel_agrees(lengths in prop::collection::vec(0usize..100, 0..40), seed: u64) {
        for row in aes() {
            let key = noise(row.key_len, seed);
            let plain: Vec<_> = lengths.iter().map(|len| noise(len * 16, seed ^ *len as u64)).collect();
            let ivs: Vec<[u8; 16]> = (0..lengths.len()).map(|i| noise(16, seed ^ i as u64).try_into().unwrap()).collect();
            let encrypted = |kernel| {
                let mut texts = plain.clone();
                let mut lanes: Vec<_> = texts.iter_mut().zip(&ivs).map(|(text, iv)| CbcJob { iv: *iv, text }).collect();
                CbcEncryptor::new(kernel, row, &key).unwrap().encrypt(&mut lanes).unwrap();
                texts
            };
            let expected = encrypted(Kernel::PORTABLE);
            for kernel in Kernel::all() {
                prop_assert_eq!(&encrypted(kernel), &expected, "{}", kernel);
                let decryptor = CbcDecryptor::new(kernel, row, &key).unwrap();
                for ((text, iv), plain) in expected.iter().zip(&ivs).zip(&plain) {
                    let mut text = text.clone();
                    decryptor.decrypt(iv, &mut text).unwrap();
                    prop_assert_eq!(&text, plain, "{}", kernel);
                }
            }
        }
    }

    /// Any lengths, with and without a tail, keys of any length: every kernel agrees with the HMAC of one message at a time.
    #[test]
    fn hmac_of_every_kernel_agrees(lengths in prop::collection::vec((0usize..400, any::<Option<u32>>()), 0..20), key in prop::collection::vec(any::<u8>(), 0..150), seed: u64) {
        let bytes: Vec<_> = lengths.iter().map(|(len, _)| noise(*len, seed)).collect();
        for row in hashes() {
            for kernel in Kernel::all() {
                let mut messages: Vec<_> = bytes.iter().zip(&lengths).map(|(bytes, (_, tail))| HmacJob {
                    bytes, tail: tail.map(u32::to_be_bytes), tag: [0; 32],
                }).collect();
                BatchHmac::new(kernel, row, &key).unwrap().authenticate(&mut messages);
                for message in messages {
                    let mut mac = Mac::new(row.hash, &key);
                    mac.update(message.bytes);
                    mac.update(message.tail.as_ref().map_or(&[], |tail| tail));
                    let expected = mac.finish();
                    let expected = expected.as_bytes();
                    prop_assert_eq!(&message.tag[..expected.len()], expected, "{} {}", kernel, row);
                }
            }
        }
    }

    /// A batch of packets is sealed bit for bit as one packet at a time, and opened again. Modified packets are rejected and left
    /// unchanged, whatever other packets the batch has.
    #[test]
    fn p02_e02_batches_are_sealed_and_opened_like_single_packets(
        shape in prop::collection::vec((1usize..95, any::<Option<u32>>(), prop::option::of(any::<prop::sample::Index>())), 1..64),
        seed: u8,
    ) {
        for protection in protections() {
            let keys = keys(protection, seed);
            let reference = crate::crypto::Sealer::new(protection, &keys, &[seed; 16].into()).unwrap();
            let plain: Vec<_> = shape.iter().map(|(blocks, ..)| noise(8 + 16 + blocks * 16 + protection.icv_len(), u64::from(seed))).collect();
            let mut expected = plain.clone();
            for (i, (packet, (_, high, _))) in expected.iter_mut().zip(&shape).enumerate() {
                reference.seal(packet, 8, i as u64, *high).unwrap();
            }
            for kernel in Kernel::all() {
                let mut sealed = plain.clone();
                let mut batch: Vec<_> = sealed.iter_mut().zip(&shape).enumerate().map(|(i, (bytes, (_, high, _)))| SealJob {
                    bytes, counter: i as u64, esn_high: *high,
                }).collect();
                BatchSealer::new(kernel, protection, &keys, &[seed; 16].into()).unwrap().unwrap().seal(&mut batch).unwrap();
                prop_assert_eq!(&sealed, &expected, "{} {}", kernel, protection);

                for (packet, (_, _, flip)) in sealed.iter_mut().zip(&shape) {
                    if let Some(flip) = flip {
                        let at = flip.index(packet.len());
                        packet[at] ^= 0x10;
                    }
                }
                let received = sealed.clone();
                let mut batch: Vec<_> = sealed.iter_mut().zip(&shape).map(|(bytes, (_, high, _))| OpenJob {
                    bytes, esn_high: *high, plaintext: Err(OpenError::TooShort),
                }).collect();
                BatchOpener::new(kernel, protection, &keys).unwrap().unwrap().open(&mut batch);
                for (i, packet) in batch.iter().enumerate() {
                    if shape[i].2.is_some() {
                        prop_assert_eq!(&packet.plaintext, &Err(OpenError::WrongIcv));
                        prop_assert_eq!(&packet.bytes[..], &received[i][..]);
                    } else {
                        let range = packet.plaintext.clone().unwrap();
                        prop_assert_eq!(&packet.bytes[range.clone()], &plain[i][range]);
                    }
                }
            }
        }
    }

    /// A batch of packets of any lengths has the same results as one packet at a time.
    #[test]
    fn p02_every_length_has_the_same_result_as_alone(lengths in prop::collection::vec(0usize..120, 1..40)) {
        for protection in protections() {
            let keys = keys(protection, 5);
            let alone = crate::crypto::Opener::new(protection, &keys).unwrap();
            for kernel in Kernel::all() {
                let mut packets: Vec<_> = lengths.iter().map(|len| noise(*len, 9)).collect();
                let expected: Vec<_> = packets.iter().map(|packet| alone.open(&mut packet.clone(), 8, None)).collect();
                let mut batch: Vec<_> = packets.iter_mut().map(|bytes| OpenJob { bytes, esn_high: None, plaintext: Ok(0..0) }).collect();
                BatchOpener::new(kernel, protection, &keys).unwrap().unwrap().open(&mut batch);
                let found: Vec<_> = batch.into_iter().map(|packet| packet.plaintext).collect();
                prop_assert_eq!(&found, &expected, "{} {}", kernel, protection);
            }
        }
    }
}
