//! Selection of the kernel by a self-test: each unit of this CPU computes the same as the portable one, over texts and messages of many lengths.
//!
//! A CPU that reports an instruction and computes it wrongly (an emulated one may) would garble packets that the peer then drops, and drop
//! those of the peer as forged.

use std::sync::LazyLock;

use super::cbc::{CbcDecryptor, CbcEncryptor, CbcJob};
use super::hmac::{BatchHmac, HmacJob};
use super::kernel::{AesUnit, Kernel, ShaUnit, aes_units, sha_units};
use crate::crypto::registry::{ENCRYPTION, INTEGRITY};

impl Kernel {
    /// The fastest kernel of this CPU that passes its self-test.
    pub fn best() -> Kernel {
        SELECTED.kernel
    }

    /// The units of this CPU that compute wrongly and are not used.
    pub fn failed() -> &'static [&'static str] {
        &SELECTED.failed
    }
}

/// The outcome of the self-test, which runs once.
static SELECTED: LazyLock<SelectedKernel> = LazyLock::new(|| {
    let (aes, failed_aes) = select(aes_units(), aes_is_correct);
    let (sha, failed_sha) = select(sha_units(), sha_is_correct);
    let failed_aes = failed_aes.into_iter().map(AesUnit::word);
    let failed_sha = failed_sha.into_iter().map(ShaUnit::word);
    SelectedKernel {
        kernel: Kernel {
            aes: aes.unwrap_or(AesUnit::Portable),
            sha: sha.unwrap_or(ShaUnit::Portable),
        },
        failed: failed_aes.chain(failed_sha).collect(),
    }
});

struct SelectedKernel {
    kernel: Kernel,
    failed: Vec<&'static str>,
}

/// The last of the units that is correct, and those that are not.
fn select<U: Copy>(
    units: impl Iterator<Item = U>,
    is_correct: impl Fn(U) -> bool,
) -> (Option<U>, Vec<U>) {
    let (correct, failed): (Vec<U>, Vec<U>) = units.partition(|unit| is_correct(*unit));
    (correct.last().copied(), failed)
}

/// More texts than the widest unit has slots, so that slots are refilled.
const TEXTS: usize = 37;

/// Whether an AES unit encrypts and decrypts as the portable one does.
fn aes_is_correct(unit: AesUnit) -> bool {
    aes_answers(unit) == aes_answers(AesUnit::Portable)
}

/// Whether a SHA unit computes the tags that the portable one does.
fn sha_is_correct(unit: ShaUnit) -> bool {
    sha_answers(unit) == sha_answers(ShaUnit::Portable)
}

/// Texts of 16 to 1424 bytes, in no order of length.
fn texts() -> Vec<Vec<u8>> {
    let length = |number: usize| {
        (number.wrapping_mul(31) % 89)
            .wrapping_add(1)
            .wrapping_mul(16)
    };
    (0..TEXTS)
        .map(|number| pattern(number, length(number)))
        .collect()
}

fn pattern(seed: usize, length: usize) -> Vec<u8> {
    let byte = |at: usize| (at.wrapping_mul(seed | 1).wrapping_add(at >> 3) & 0xff) as u8;
    (0..length).map(byte).collect()
}

/// Every text encrypted, and every text decrypted, under a key of each length.
fn aes_answers(aes: AesUnit) -> Vec<Vec<u8>> {
    let kernel = Kernel {
        aes,
        sha: ShaUnit::Portable,
    };
    let mut answers = Vec::new();
    for row in ENCRYPTION {
        let key = pattern(7, row.key_len);
        let pair = CbcEncryptor::new(kernel, row, &key).zip(CbcDecryptor::new(kernel, row, &key));
        let Some((encryptor, decryptor)) = pair else {
            continue;
        };
        let mut encrypted = texts();
        let mut jobs: Vec<CbcJob<'_>> = encrypted
            .iter_mut()
            .map(|text| CbcJob {
                iv: [0x5a; 16],
                text,
            })
            .collect();
        let mut decrypted = texts();
        let is_done = encryptor.encrypt(&mut jobs).is_ok()
            && decrypted
                .iter_mut()
                .all(|text| decryptor.decrypt(&[0xa5; 16], text).is_ok());
        if is_done {
            answers.append(&mut encrypted);
            answers.append(&mut decrypted);
        }
    }
    answers
}

/// The tag of every text, with and without a tail, for each hash that has kernels.
fn sha_answers(sha: ShaUnit) -> Vec<[u8; 32]> {
    let kernel = Kernel {
        aes: AesUnit::Portable,
        sha,
    };
    let texts = texts();
    let mut answers = Vec::new();
    for row in INTEGRITY {
        let Some(hmac) = BatchHmac::new(kernel, row, &pattern(9, row.key_len)) else {
            continue;
        };
        let mut jobs: Vec<HmacJob<'_>> = texts
            .iter()
            .enumerate()
            .map(|(number, text)| HmacJob {
                // Odd lengths, too.
                bytes: text.get(number % 5..).unwrap_or(text),
                tail: number.is_multiple_of(2).then_some([1, 2, 3, 4]),
                tag: [0; 32],
            })
            .collect();
        hmac.authenticate(&mut jobs);
        answers.extend(jobs.iter().map(|job| job.tag));
    }
    answers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_kernel_is_the_last_one_and_every_unit_of_this_cpu_is_correct() {
        assert_eq!(Kernel::all().last(), Some(Kernel::best()));
        assert_eq!(Kernel::failed(), [""; 0]);
    }

    #[test]
    fn a_unit_that_computes_wrongly_is_not_selected_and_is_named() {
        let units = || ["portable", "narrow", "wide"].into_iter();
        let without =
            |wrong: &'static [&'static str]| select(units(), |unit| !wrong.contains(&unit));
        assert_eq!(without(&[]), (Some("wide"), vec![]));
        assert_eq!(without(&["wide"]), (Some("narrow"), vec!["wide"]));
        let (selected, failed) = without(&["narrow", "wide"]);
        assert_eq!(
            (selected, failed),
            (Some("portable"), vec!["narrow", "wide"])
        );
    }

    #[test]
    fn the_answers_cover_every_algorithm_with_kernels() {
        // Three key lengths, both directions; two hashes.
        assert_eq!(aes_answers(AesUnit::Portable).len(), 3 * 2 * TEXTS);
        let tags = sha_answers(ShaUnit::Portable);
        assert_eq!(tags.len(), 2 * TEXTS);
        assert!(tags.iter().all(|tag| *tag != [0; 32]));
        let lengths: std::collections::BTreeSet<usize> = texts().iter().map(Vec::len).collect();
        assert!(lengths.len() > 30 && lengths.first() < Some(&64) && lengths.last() > Some(&1300));
    }
}
