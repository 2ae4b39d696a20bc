//! Every kernel this CPU has against published vectors, with any number of slots in use.

use super::Kernel;
use super::cbc::{CbcDecryptor, CbcEncryptor, CbcJob};
use super::differential::{aes, hashes};
use super::hmac::{BatchHmac, HmacJob};
use crate::crypto::registry::{ENCRYPTION, Encryption};
use crate::crypto::vectors;

/// As many copies of one case as there are lanes and some more.
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
