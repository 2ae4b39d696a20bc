//! Whole blocks of several messages, through a unit that hashes a few messages at a time.
//!
//! ```text
//!   slot 1   ▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓│▓▓▓▓▓▓▓      ▓ blocks   │ the shortest ends here: one step of the unit,
//!   slot 2   ▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓│▒▒▒▒▒▒▒        then the next job ▒ takes its slot
//! ```

use super::hmac::{HashBlock, HashState};

/// Slots of the widest unit.
pub(super) const MAX_SLOTS: usize = 8;

/// Blocks to take into a state.
#[derive(Clone, Copy, Default)]
pub(super) struct HashJob<'a> {
    pub(super) state: HashState,
    blocks: &'a [HashBlock],
}

/// What runs a hash over several messages.
pub(super) trait HashUnit {
    /// How many it takes at a time, at most [`MAX_SLOTS`].
    const SLOTS: usize;

    /// Takes the blocks of the first `live` slots, as many of each, into their states; what it leaves in the other states does
    /// not matter. Every other slot has blocks to read as well.
    fn step(
        &self,
        live: usize,
        states: &mut [HashState; MAX_SLOTS],
        blocks: &[&[HashBlock]; MAX_SLOTS],
    );
}

impl<'a> HashJob<'a> {
    pub(super) fn new(state: HashState, blocks: &'a [HashBlock]) -> HashJob<'a> {
        HashJob { state, blocks }
    }
}

/// Does all jobs, after which none has blocks left.
pub(super) fn hash<U: HashUnit>(unit: &U, jobs: &mut [HashJob<'_>]) {
    let mut waiting = jobs.iter_mut().filter(|job| !job.blocks.is_empty());
    let mut slots: [Option<&mut HashJob<'_>>; MAX_SLOTS] = Default::default();
    for slot in slots.iter_mut().take(U::SLOTS) {
        *slot = waiting.next();
    }
    loop {
        // Those under way close ranks; behind them, idle slots read what the first reads.
        let Some(first) = slots.iter().flatten().next().map(|job| job.blocks) else {
            return;
        };
        let (mut states, mut blocks) = ([HashState::default(); MAX_SLOTS], [first; MAX_SLOTS]);
        let (mut live, mut shortest) = (0_usize, first.len());
        let places = states.iter_mut().zip(&mut blocks);
        for ((state, block), job) in places.zip(slots.iter().flatten()) {
            (*state, *block) = (job.state, job.blocks);
            shortest = shortest.min(block.len());
            live = live.saturating_add(1);
        }
        for block in &mut blocks {
            *block = block.get(..shortest).unwrap_or_default();
        }
        unit.step(live, &mut states, &blocks);
        let under_way = slots.iter_mut().take(U::SLOTS);
        let mut states = states.into_iter();
        for slot in under_way {
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
