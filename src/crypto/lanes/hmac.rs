//! HMAC (RFC 2104) with SHA-1 or SHA-256 over several messages at once, under one key.
//!
//! ```text
//!   once per key:     inner = H'(key ⊕ ipad)     outer = H'(key ⊕ opad)          H' is one block into the initial state
//!
//!   a message:        inner ─▶ body: whole blocks of the message, where they lie
//!                           ─▶ end:  the rest ‖ tail ‖ 80 00 … ‖ length          one block or two
//!                     outer ─▶ end:  digest ‖ 80 00 … ‖ length                   one block
//! ```
//!
//! The bodies of several messages go through the unit in lanes (`jobs`), then their ends, then the outer hashes.

use sha1::Sha1;
use sha1::digest::Digest;
use sha2::Sha256;
use zeroize::{ZeroizeOnDrop, Zeroizing};

use crate::crypto::mac::HashAlgorithm;
use crate::crypto::registry::Integrity;

use super::final_blocks::{FinalBlocks, fill, write};
use super::scheduler::{HashJob, HashUnit, MAX_SLOTS, hash};
use super::{Kernel, ShaUnit};

#[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
use super::x86::hashes::{Sha1Avx2, Sha1Ni, Sha256Avx2, Sha256Ni};

/// The words a hash goes on from; SHA-1 uses the first five.
pub(super) type HashState = [u32; 8];

/// What a hash takes in one step.
pub(super) type HashBlock = [u8; 64];

/// Messages that go through the three steps together.
const MAX_LANES: usize = 16;

/// FIPS 180-4 §5.3.1.
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

/// FIPS 180-4 §5.3.3.
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

/// A key to authenticate with; wiped when dropped.
#[derive(ZeroizeOnDrop)]
pub struct BatchHmac {
    #[zeroize(skip)]
    algorithm: Algorithm,
    #[zeroize(skip)]
    unit: ShaUnit,
    inner: HashState,
    outer: HashState,
}

/// A message, and where its tag goes.
#[derive(Clone, Copy, Default)]
pub struct HmacJob<'a> {
    /// The message, but for the tail.
    pub bytes: &'a [u8],
    /// Four more bytes: the high half of an extended sequence number, which is authenticated and not sent (RFC 4303 §2.2.1).
    pub tail: Option<[u8; 4]>,
    /// The whole tag: 20 bytes with SHA-1 and 32 with SHA-256, of which an ICV is the beginning.
    pub tag: [u8; 32],
}

/// A hash that has lanes.
#[derive(Clone, Copy)]
pub(super) enum Algorithm {
    Sha1,
    Sha256,
}

impl BatchHmac {
    /// HMAC with the hash of `row`, keyed with `key` of any length; `None` if the hash has no lanes.
    pub fn new(kernel: Kernel, row: &Integrity, key: &[u8]) -> Option<BatchHmac> {
        let mut block = Zeroizing::new([0; 64]);
        let (algorithm, start) = match row.hash {
            HashAlgorithm::Sha1 => (Algorithm::Sha1, SHA1),
            HashAlgorithm::Sha256 => (Algorithm::Sha256, SHA256),
            HashAlgorithm::Md5 | HashAlgorithm::Sha384 | HashAlgorithm::Sha512 => return None,
        };
        if key.len() > block.len() {
            match algorithm {
                Algorithm::Sha1 => fill(&mut *block, &Zeroizing::new(Sha1::digest(key))),
                Algorithm::Sha256 => fill(&mut *block, &Zeroizing::new(Sha256::digest(key))),
            }
        } else {
            fill(&mut *block, key);
        }
        let half = |pad: u8| {
            let mut state = start;
            let padded = Zeroizing::new([block.map(|byte| byte ^ pad)]);
            algorithm.portable(&mut state, &*padded);
            state
        };
        Some(BatchHmac {
            algorithm,
            unit: kernel.sha,
            inner: half(0x36),
            outer: half(0x5c),
        })
    }

    /// Writes the tag of every message.
    pub fn authenticate(&self, messages: &mut [HmacJob<'_>]) {
        match (self.unit, self.algorithm) {
            (ShaUnit::Portable, algorithm) => self.run(&algorithm, messages),
            #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
            (ShaUnit::Avx2(unit), Algorithm::Sha1) => self.run(&Sha1Avx2(unit), messages),
            #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
            (ShaUnit::Avx2(unit), Algorithm::Sha256) => self.run(&Sha256Avx2(unit), messages),
            #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
            (ShaUnit::ShaNi(unit), Algorithm::Sha1) => self.run(&Sha1Ni(unit), messages),
            #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
            (ShaUnit::ShaNi(unit), Algorithm::Sha256) => self.run(&Sha256Ni(unit), messages),
        }
    }

    fn run<U: HashUnit>(&self, unit: &U, messages: &mut [HmacJob<'_>]) {
        let digest_len = self.algorithm.digest_len();
        for group in messages.chunks_mut(MAX_LANES) {
            let mut jobs = [HashJob::default(); MAX_LANES];
            for (job, message) in jobs.iter_mut().zip(group.iter()) {
                *job = HashJob::new(self.inner, message.bytes.as_chunks().0);
            }
            hash(unit, jobs.get_mut(..group.len()).unwrap_or_default());

            let mut ends = [FinalBlocks::default(); MAX_LANES];
            let places = jobs.iter_mut().zip(&mut ends);
            for ((job, end), message) in places.zip(group.iter()) {
                *job = HashJob::new(job.state, end.of_message(message));
            }
            hash(unit, jobs.get_mut(..group.len()).unwrap_or_default());

            let mut ends = [FinalBlocks::default(); MAX_LANES];
            for (job, end) in jobs.iter_mut().zip(&mut ends).take(group.len()) {
                *job = HashJob::new(self.outer, end.of_digest(&job.state, digest_len));
            }
            hash(unit, jobs.get_mut(..group.len()).unwrap_or_default());

            for (message, job) in group.iter_mut().zip(&jobs) {
                write(&mut message.tag, &job.state, digest_len);
            }
        }
    }
}

impl Algorithm {
    fn digest_len(self) -> usize {
        match self {
            Algorithm::Sha1 => 20,
            Algorithm::Sha256 => 32,
        }
    }

    /// The reference.
    pub(super) fn portable(self, state: &mut HashState, blocks: &[HashBlock]) {
        match self {
            Algorithm::Sha1 => {
                if let Some(state) = state.first_chunk_mut() {
                    sha1::block_api::compress(state, blocks);
                }
            }
            Algorithm::Sha256 => sha2::block_api::compress256(state, blocks),
        }
    }
}

/// One message after the other.
impl HashUnit for Algorithm {
    const SLOTS: usize = 1;

    fn step(
        &self,
        _: usize,
        states: &mut [HashState; MAX_SLOTS],
        blocks: &[&[HashBlock]; MAX_SLOTS],
    ) {
        let ([state, ..], [blocks, ..]) = (states, blocks);
        self.portable(state, blocks);
    }
}
