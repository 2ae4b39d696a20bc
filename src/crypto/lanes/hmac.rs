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
//! Two messages go through the unit block by block. When one is done its lane takes the next; the last may go alone.

use sha1::Sha1;
use sha1::digest::Digest;
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::crypto::mac::Hash;
use crate::crypto::registry::Integrity;

use super::{Kernel, ShaUnit};

#[cfg(target_arch = "x86_64")]
use super::x86::{ShaNi, sha1ni, sha256ni};

/// The words a hash goes on from; SHA-1 uses the first five.
pub(super) type State = [u32; 8];

/// What a hash takes in one step.
pub(super) type Chunk = [u8; 64];

/// Lanes of the unit.
const LANES: usize = 2;

/// FIPS 180-4 §5.3.1.
const SHA1: State = [
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
const SHA256: State = [
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
pub struct Hmac {
    #[zeroize(skip)]
    algorithm: Algorithm,
    #[zeroize(skip)]
    unit: ShaUnit,
    inner: State,
    outer: State,
}

/// A message, and where its tag goes.
#[derive(Clone, Copy, Default)]
pub struct Message<'a> {
    /// The message, but for the tail.
    pub bytes: &'a [u8],
    /// Four more bytes: the high half of an extended sequence number, which is authenticated and not sent (RFC 4303 §2.2.1).
    pub tail: Option<[u8; 4]>,
    /// The whole tag: 20 bytes with SHA-1 and 32 with SHA-256, of which an ICV is the beginning.
    pub tag: [u8; 32],
}

#[derive(Clone, Copy)]
enum Algorithm {
    Sha1,
    Sha256,
}

/// A step of a hash, over as many blocks of each of `L` messages.
trait Compress<const L: usize> {
    fn compress(&self, states: &mut [State; L], messages: [&[Chunk]; L]);
}

impl Hmac {
    /// HMAC with the hash of `row`, keyed with `key` of any length; `None` if the hash has no lanes.
    pub fn new(kernel: Kernel, row: &Integrity, key: &[u8]) -> Option<Hmac> {
        let mut block = [0; 64];
        let (algorithm, start) = match row.hash {
            Hash::Sha1 => (Algorithm::Sha1, SHA1),
            Hash::Sha256 => (Algorithm::Sha256, SHA256),
            Hash::Md5 | Hash::Sha384 | Hash::Sha512 => return None,
        };
        if key.len() > block.len() {
            match algorithm {
                Algorithm::Sha1 => fill(&mut block, &Sha1::digest(key)),
                Algorithm::Sha256 => fill(&mut block, &Sha256::digest(key)),
            }
        } else {
            fill(&mut block, key);
        }
        let half = |pad: u8| {
            let mut state = [start];
            let mut padded = block.map(|byte| byte ^ pad);
            algorithm.portable(&mut state, [&[padded]]);
            padded.zeroize();
            let [state] = state;
            state
        };
        let hmac = Hmac {
            algorithm,
            unit: kernel.sha,
            inner: half(0x36),
            outer: half(0x5c),
        };
        block.zeroize();
        Some(hmac)
    }

    /// Writes the tag of every message.
    pub fn authenticate(&self, messages: &mut [Message<'_>]) {
        match (self.unit, self.algorithm) {
            (ShaUnit::Portable, algorithm) => self.run(&Portable(algorithm), messages),
            #[cfg(target_arch = "x86_64")]
            (ShaUnit::ShaNi(unit), Algorithm::Sha1) => self.run(&Sha1Ni(unit), messages),
            #[cfg(target_arch = "x86_64")]
            (ShaUnit::ShaNi(unit), Algorithm::Sha256) => self.run(&Sha256Ni(unit), messages),
        }
    }

    fn run<C: Compress<1> + Compress<LANES>>(&self, unit: &C, messages: &mut [Message<'_>]) {
        let mut waiting = messages.iter_mut();
        let mut take = || waiting.next().map(|message| self.lane(message));
        let (mut first, mut second) = (take(), take());
        loop {
            match (&mut first, &mut second) {
                (Some(a), Some(b)) => {
                    let (left, right) = (a.left(), b.left());
                    let blocks = left.len().min(right.len());
                    let mut states = [a.state, b.state];
                    unit.compress(&mut states, [cut(left, blocks), cut(right, blocks)]);
                    [a.state, b.state] = states;
                    if a.advance(blocks, self) {
                        first = take();
                    }
                    if b.advance(blocks, self) {
                        second = take();
                    }
                }
                (Some(alone), None) | (None, Some(alone)) => {
                    let left = alone.left();
                    let blocks = left.len();
                    let mut states = [alone.state];
                    unit.compress(&mut states, [left]);
                    [alone.state] = states;
                    if alone.advance(blocks, self) {
                        (first, second) = (take(), None);
                    }
                }
                (None, None) => return,
            }
        }
    }

    fn lane<'l, 'a>(&self, message: &'l mut Message<'a>) -> Lane<'l> {
        let (body, rest) = message.bytes.as_chunks::<64>();
        let mut end = [[0; 64]; 2];
        let bytes = end.as_flattened_mut();
        let mut marked = rest.len();
        fill(bytes, rest);
        if let Some(tail) = message.tail {
            fill(bytes.get_mut(marked..).unwrap_or_default(), &tail);
            marked = marked.saturating_add(tail.len());
        }
        // What was hashed for the key counts as well.
        let hashed = (message.bytes.len() as u64)
            .saturating_add(message.tail.map_or(0, |tail| tail.len() as u64))
            .saturating_add(64);
        let blocks = if marked < 64 - 8 { 1 } else { 2 };
        finish(end.get_mut(..blocks).unwrap_or_default(), marked, hashed);
        Lane {
            state: self.inner,
            body,
            end,
            left: (0, blocks),
            stage: Stage::Inner,
            tag: &mut message.tag,
        }
    }
}

/// A message under way.
struct Lane<'a> {
    state: State,
    /// Whole blocks, where they lie.
    body: &'a [Chunk],
    /// What comes after the body.
    end: [Chunk; 2],
    /// Which blocks of the end are still to come.
    left: (usize, usize),
    stage: Stage,
    tag: &'a mut [u8; 32],
}

enum Stage {
    Inner,
    Outer,
}

impl Lane<'_> {
    /// The next blocks; never none.
    fn left(&self) -> &[Chunk] {
        if self.body.is_empty() {
            self.end.get(self.left.0..self.left.1).unwrap_or_default()
        } else {
            self.body
        }
    }

    /// Goes on past `blocks` blocks; true when the tag is written.
    fn advance(&mut self, blocks: usize, hmac: &Hmac) -> bool {
        if !self.body.is_empty() {
            self.body = self.body.get(blocks..).unwrap_or_default();
            return false;
        }
        self.left.0 = self.left.0.saturating_add(blocks);
        if self.left.0 < self.left.1 {
            return false;
        }
        let digest_len = hmac.algorithm.digest_len();
        let digest = self.tag.as_chunks_mut().0;
        for (bytes, word) in digest.iter_mut().zip(self.state).take(digest_len / 4) {
            *bytes = word.to_be_bytes();
        }
        match self.stage {
            Stage::Inner => {
                let [outer, _] = &mut self.end;
                *outer = [0; 64];
                fill(outer, self.tag.get(..digest_len).unwrap_or_default());
                let hashed = (digest_len as u64).saturating_add(64);
                finish(std::slice::from_mut(outer), digest_len, hashed);
                (self.state, self.left, self.stage) = (hmac.outer, (0, 1), Stage::Outer);
                false
            }
            Stage::Outer => true,
        }
    }
}

/// Pads what ends at `marked`: FIPS 180-4 §5.1.1. `hashed` is how many bytes there were in all.
fn finish(blocks: &mut [Chunk], marked: usize, hashed: u64) {
    let bytes = blocks.as_flattened_mut();
    if let Some(mark) = bytes.get_mut(marked) {
        *mark = 0x80;
    }
    if let Some(length) = bytes.last_chunk_mut() {
        *length = hashed.saturating_mul(8).to_be_bytes();
    }
}

/// Copies `from` to the beginning of `to`.
fn fill(to: &mut [u8], from: &[u8]) {
    if let Some(to) = to.get_mut(..from.len()) {
        to.copy_from_slice(from);
    }
}

fn cut(blocks: &[Chunk], count: usize) -> &[Chunk] {
    blocks.get(..count).unwrap_or_default()
}

impl Algorithm {
    fn digest_len(self) -> usize {
        match self {
            Algorithm::Sha1 => 20,
            Algorithm::Sha256 => 32,
        }
    }

    /// The reference: one message after the other.
    fn portable<const L: usize>(self, states: &mut [State; L], messages: [&[Chunk]; L]) {
        for (state, blocks) in states.iter_mut().zip(messages) {
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
}

struct Portable(Algorithm);

impl<const L: usize> Compress<L> for Portable {
    fn compress(&self, states: &mut [State; L], messages: [&[Chunk]; L]) {
        self.0.portable(states, messages);
    }
}

#[cfg(target_arch = "x86_64")]
struct Sha1Ni(ShaNi);

#[cfg(target_arch = "x86_64")]
impl<const L: usize> Compress<L> for Sha1Ni {
    fn compress(&self, states: &mut [State; L], messages: [&[Chunk]; L]) {
        sha1ni::compress(self.0, states, messages);
    }
}

#[cfg(target_arch = "x86_64")]
struct Sha256Ni(ShaNi);

#[cfg(target_arch = "x86_64")]
impl<const L: usize> Compress<L> for Sha256Ni {
    fn compress(&self, states: &mut [State; L], messages: [&[Chunk]; L]) {
        sha256ni::compress(self.0, states, messages);
    }
}
