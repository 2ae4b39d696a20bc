//! Every kernel this CPU has against the one-packet doors that know nothing of lanes.

use proptest::prelude::*;

use super::cbc::{CbcDecryptor, CbcEncryptor, CbcJob, NotBlocks};
use super::hmac::{BatchHmac, HmacJob};
use super::{BatchOpener, BatchSealer, Kernel, OpenJob, SealJob};
use crate::crypto::mac::Mac;
use crate::crypto::registry::{ENCRYPTION, Encryption, INTEGRITY, Integrity};
use crate::crypto::suite::Protection;
use crate::crypto::{OpenError, SaKeys, SealError, Secret};

pub(super) fn aes() -> impl Iterator<Item = &'static Encryption> {
    ENCRYPTION.iter().filter(|row| row.word.len() == 6)
}

pub(super) fn hashes() -> impl Iterator<Item = &'static Integrity> {
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
    wiped::<super::x86::Schedule>();
}

#[test]
fn what_has_no_lanes_is_not_taken() {
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
fn a_text_that_is_not_whole_blocks_leaves_the_batch_alone() {
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Any lengths, in any order, with keys of every length: every kernel encrypts as the portable one, and decrypts it again.
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

    /// A batch of packets is sealed as they would be one by one, bit for bit, and opened again; those that were changed on the
    /// way are refused untouched, whatever stands beside them.
    #[test]
    fn p02_e02_batches_are_sealed_and_opened_as_packets_are(
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

    /// Whatever arrives, opening ends with the same verdict as for one packet.
    #[test]
    fn p02_every_length_gets_the_verdict_it_gets_alone(lengths in prop::collection::vec(0usize..120, 1..40)) {
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
