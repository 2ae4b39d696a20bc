//! Jobs of the kernels, and the scheduler of hash jobs: the whole blocks of several messages through a unit that hashes a few at a
//! time.
//!
//! ```text
//!   slot 1   ▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓│▓▓▓▓▓▓▓      ▓ blocks   │ the shortest job ends here: one step of the unit,
//!   slot 2   ▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓│▒▒▒▒▒▒▒        then the next job ▒ takes its slot
//! ```

/// One text to encrypt in place with CBC.
#[derive(Default)]
pub struct CbcJob<'a> {
    /// The IV.
    pub iv: [u8; 16],
    /// A whole number of blocks.
    pub text: &'a mut [u8],
}

/// The chaining value of a hash; SHA-1 uses the first five words.
pub(super) type HashState = [u32; 8];

/// One input block of a hash.
pub(super) type HashBlock = [u8; 64];

/// Slots of the widest unit.
pub(super) const MAX_SLOTS: usize = 8;

/// A hash function over several messages at once.
pub(super) trait HashUnit {
    /// Messages per step, at most [`MAX_SLOTS`].
    const SLOTS: usize;

    /// Compresses the blocks of the first `live` slots, equally many of each, into their states. The other states may be changed
    /// arbitrarily. Every slot has blocks to read.
    fn step(
        &self,
        live: usize,
        states: &mut [HashState; MAX_SLOTS],
        blocks: &[&[HashBlock]; MAX_SLOTS],
    );
}

/// Blocks to compress into a state.
#[derive(Clone, Copy, Default)]
pub(super) struct HashJob<'a> {
    pub(super) state: HashState,
    blocks: &'a [HashBlock],
}

impl<'a> HashJob<'a> {
    pub(super) fn new(state: HashState, blocks: &'a [HashBlock]) -> HashJob<'a> {
        HashJob { state, blocks }
    }
}

/// Runs all jobs to their last block.
pub(super) fn hash<U: HashUnit>(unit: &U, jobs: &mut [HashJob<'_>]) {
    let mut waiting = jobs.iter_mut().filter(|job| !job.blocks.is_empty());
    let mut slots: [Option<&mut HashJob<'_>>; MAX_SLOTS] = Default::default();
    for slot in slots.iter_mut().take(U::SLOTS) {
        *slot = waiting.next();
    }
    loop {
        // Unfinished jobs move to the front; idle slots behind them read the blocks of the first.
        let Some(first) = slots.iter().flatten().next().map(|job| job.blocks) else {
            return;
        };
        let (mut states, mut blocks) = ([HashState::default(); MAX_SLOTS], [first; MAX_SLOTS]);
        let (mut live, mut shortest) = (0_usize, first.len());
        let inputs = states.iter_mut().zip(&mut blocks);
        for ((state, block), job) in inputs.zip(slots.iter().flatten()) {
            (*state, *block) = (job.state, job.blocks);
            shortest = shortest.min(block.len());
            live = live.saturating_add(1);
        }
        for block in &mut blocks {
            *block = block.get(..shortest).unwrap_or_default();
        }
        unit.step(live, &mut states, &blocks);
        let mut states = states.into_iter();
        for slot in slots.iter_mut().take(U::SLOTS) {
            let Some(job) = slot else { continue };
            if let Some(state) = states.next() {
                job.state = state;
            }
            job.blocks = job.blocks.get(shortest..).unwrap_or_default();
            if job.blocks.is_empty() {
                *slot = waiting.next();
            }
        }
    }
}

/// A hash with multi-buffer kernels. As a [`HashUnit`] it is the portable reference, one message at a time.
#[derive(Clone, Copy)]
pub(super) enum ShaAlgorithm {
    Sha1,
    Sha256,
}

impl ShaAlgorithm {
    pub(super) fn digest_len(self) -> usize {
        match self {
            ShaAlgorithm::Sha1 => 20,
            ShaAlgorithm::Sha256 => 32,
        }
    }

    /// Compresses `blocks` into `state` with the block function of the `sha1` or `sha2` crate.
    pub(super) fn compress(self, state: &mut HashState, blocks: &[HashBlock]) {
        match self {
            ShaAlgorithm::Sha1 => {
                if let Some(state) = state.first_chunk_mut() {
                    sha1::block_api::compress(state, blocks);
                }
            }
            ShaAlgorithm::Sha256 => sha2::block_api::compress256(state, blocks),
        }
    }
}

impl HashUnit for ShaAlgorithm {
    const SLOTS: usize = 1;

    fn step(
        &self,
        _: usize,
        states: &mut [HashState; MAX_SLOTS],
        blocks: &[&[HashBlock]; MAX_SLOTS],
    ) {
        let ([state, ..], [blocks, ..]) = (states, blocks);
        self.compress(state, blocks);
    }
}
