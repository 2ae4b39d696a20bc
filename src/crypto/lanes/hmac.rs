//! HMAC (RFC 2104) with SHA-1 or SHA-256 over several messages at once, under one key.
//!
//! ```text
//!   once per key:     inner = H'(key ⊕ ipad)     outer = H'(key ⊕ opad)          H' compresses one block into the initial state
//!
//!   a message:        inner ─▶ 1. whole blocks of the message, in place
//!                           ─▶ 2. final blocks: the rest ‖ tail ‖ 80 00 … ‖ length      one block or two
//!                     outer ─▶ 3. final block: digest ‖ 80 00 … ‖ length                one block
//! ```
//!
//! Each of the three steps runs for all messages of a group before the next step.

use sha1::Sha1;
use sha1::digest::Digest;
use sha2::Sha256;
use zeroize::{ZeroizeOnDrop, Zeroizing};

use crate::crypto::mac::HashAlgorithm;
use crate::crypto::registry::Integrity;

use super::kernel::{Kernel, ShaUnit};
use super::scheduler::{HashBlock, HashJob, HashState, HashUnit, ShaAlgorithm, hash};

#[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
use super::x86::{
    sha_avx2::{Sha1Avx2, Sha256Avx2},
    sha_ni::{Sha1Ni, Sha256Ni},
};

/// Messages that take the three steps together.
const GROUP: usize = 16;

/// The initial state of SHA-1 (FIPS 180-4 §5.3.1).
const SHA1: HashState = [
    0x6745_2301,
    0xefcd_ab89,
    0x98ba_dcfe,
    0x1032_5476,
    0xc3d2_e1f0,
    0,
    0,
    0,
];

/// The initial state of SHA-256 (FIPS 180-4 §5.3.3).
const SHA256: HashState = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// An HMAC key; wiped when dropped.
#[derive(ZeroizeOnDrop)]
pub struct BatchHmac {
    #[zeroize(skip)]
    algorithm: ShaAlgorithm,
    #[zeroize(skip)]
    unit: ShaUnit,
    inner: HashState,
    outer: HashState,
}

/// A message to authenticate, and its tag.
#[derive(Clone, Copy, Default)]
pub struct HmacJob<'a> {
    /// The message without its tail.
    pub bytes: &'a [u8],
    /// Four more bytes: the high half of an extended sequence number, which is authenticated but not sent (RFC 4303 §2.2.1).
    pub tail: Option<[u8; 4]>,
    /// The whole tag, 20 bytes with SHA-1 and 32 with SHA-256; an ICV is its first bytes.
    pub tag: [u8; 32],
}

impl BatchHmac {
    /// HMAC with the hash of `row`, keyed with `key` of any length; `None` if the hash has no multi-buffer kernels.
    pub fn new(kernel: Kernel, row: &Integrity, key: &[u8]) -> Option<BatchHmac> {
        let mut block = Zeroizing::new([0; 64]);
        let (algorithm, start) = match row.hash {
            HashAlgorithm::Sha1 => (ShaAlgorithm::Sha1, SHA1),
            HashAlgorithm::Sha256 => (ShaAlgorithm::Sha256, SHA256),
            HashAlgorithm::Md5 | HashAlgorithm::Sha384 | HashAlgorithm::Sha512 => return None,
        };
        if key.len() <= block.len() {
            copy_prefix(&mut *block, key);
        } else {
            match algorithm {
                ShaAlgorithm::Sha1 => {
                    copy_prefix(&mut *block, &Zeroizing::new(Sha1::digest(key)));
                }
                ShaAlgorithm::Sha256 => {
                    copy_prefix(&mut *block, &Zeroizing::new(Sha256::digest(key)));
                }
            }
        }
        let keyed = |pad: u8| {
            let mut state = start;
            let padded = Zeroizing::new([block.map(|byte| byte ^ pad)]);
            algorithm.compress(&mut state, &*padded);
            state
        };
        Some(BatchHmac {
            algorithm,
            unit: kernel.sha,
            inner: keyed(0x36),
            outer: keyed(0x5c),
        })
    }

    /// Writes the tag of every message.
    pub fn authenticate(&self, messages: &mut [HmacJob<'_>]) {
        match (self.unit, self.algorithm) {
            (ShaUnit::Portable, algorithm) => self.run(&algorithm, messages),
            #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
            (ShaUnit::Avx2(unit), ShaAlgorithm::Sha1) => self.run(&Sha1Avx2(unit), messages),
            #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
            (ShaUnit::Avx2(unit), ShaAlgorithm::Sha256) => self.run(&Sha256Avx2(unit), messages),
            #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
            (ShaUnit::ShaNi(unit), ShaAlgorithm::Sha1) => self.run(&Sha1Ni(unit), messages),
            #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
            (ShaUnit::ShaNi(unit), ShaAlgorithm::Sha256) => self.run(&Sha256Ni(unit), messages),
        }
    }

    fn run<U: HashUnit>(&self, unit: &U, messages: &mut [HmacJob<'_>]) {
        let digest_len = self.algorithm.digest_len();
        for group in messages.chunks_mut(GROUP) {
            // 1.
            let mut jobs = [HashJob::default(); GROUP];
            for (job, message) in jobs.iter_mut().zip(group.iter()) {
                *job = HashJob::new(self.inner, message.bytes.as_chunks().0);
            }
            hash(unit, jobs.get_mut(..group.len()).unwrap_or_default());

            // 2.
            let mut ends = [FinalBlocks::default(); GROUP];
            let inputs = jobs.iter_mut().zip(&mut ends);
            for ((job, end), message) in inputs.zip(group.iter()) {
                *job = HashJob::new(job.state, end.of_message(message));
            }
            hash(unit, jobs.get_mut(..group.len()).unwrap_or_default());

            // 3.
            let mut ends = [FinalBlocks::default(); GROUP];
            for (job, end) in jobs.iter_mut().zip(&mut ends).take(group.len()) {
                *job = HashJob::new(self.outer, end.of_digest(&job.state, digest_len));
            }
            hash(unit, jobs.get_mut(..group.len()).unwrap_or_default());

            for (message, job) in group.iter_mut().zip(&jobs) {
                write_digest(&mut message.tag, &job.state, digest_len);
            }
        }
    }
}

/// The final blocks of a hash in HMAC: the bytes after the whole blocks, the padding and the length (FIPS 180-4 §5.1.1). The length
/// includes the block of the key.
#[derive(Clone, Copy)]
struct FinalBlocks([HashBlock; 2]);

impl Default for FinalBlocks {
    fn default() -> FinalBlocks {
        FinalBlocks([[0; 64]; 2])
    }
}

impl FinalBlocks {
    /// The final blocks of the inner hash: the rest of `message` and its tail. `self` is all zeros before.
    fn of_message(&mut self, message: &HmacJob<'_>) -> &[HashBlock] {
        let (_, rest) = message.bytes.as_chunks::<64>();
        let bytes = self.0.as_flattened_mut();
        copy_prefix(bytes, rest);
        let mut end = rest.len();
        let mut hashed = message.bytes.len() as u64;
        if let Some(tail) = message.tail {
            copy_prefix(bytes.get_mut(end..).unwrap_or_default(), &tail);
            end = end.saturating_add(tail.len());
            hashed = hashed.saturating_add(tail.len() as u64);
        }
        self.pad(end, hashed)
    }

    /// The final block of the outer hash: the digest of the inner one. `self` is all zeros before.
    fn of_digest(&mut self, digest: &HashState, len: usize) -> &[HashBlock] {
        write_digest(self.0.as_flattened_mut(), digest, len);
        self.pad(len, len as u64)
    }

    /// Pads the blocks after their first `end` bytes. `hashed` is the length of the message without the block of the key.
    fn pad(&mut self, end: usize, hashed: u64) -> &[HashBlock] {
        let used = if end < 64 - 8 { 1 } else { 2 };
        let blocks = self.0.get_mut(..used).unwrap_or_default();
        let bytes = blocks.as_flattened_mut();
        if let Some(mark) = bytes.get_mut(end) {
            *mark = 0x80;
        }
        if let Some(length) = bytes.last_chunk_mut() {
            let bits = hashed.saturating_add(64).saturating_mul(8);
            *length = bits.to_be_bytes();
        }
        blocks
    }
}

/// Writes the first `len` bytes of a digest.
fn write_digest(to: &mut [u8], digest: &HashState, len: usize) {
    let words = digest.iter().take(len / 4);
    for (bytes, word) in to.as_chunks_mut().0.iter_mut().zip(words) {
        *bytes = word.to_be_bytes();
    }
}

/// Copies `from` to the beginning of `to`.
pub(super) fn copy_prefix(to: &mut [u8], from: &[u8]) {
    if let Some(to) = to.get_mut(..from.len()) {
        to.copy_from_slice(from);
    }
}
