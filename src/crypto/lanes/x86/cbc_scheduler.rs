//! CBC scheduler: the texts of a batch through a kernel of fixed width, with as many slots in use as the batch allows.
//!
//! A step encrypts as many blocks of every slot as the shortest text still has. A kernel has a few widths; if no width fits, the slots
//! without a text encrypt scratch blocks.

use super::aesni::{self, Schedule};
use super::{AesNi, Block, Vaes, vaes};
use crate::crypto::lanes::scheduler::CbcJob;

/// Slots of the widest kernel.
const MAX_SLOTS: usize = 16;

/// Scratch blocks of a slot, so the maximum of a step with an idle slot.
const SCRATCH: usize = 16;

/// A CBC kernel.
pub(in crate::crypto::lanes) trait CbcUnit {
    /// Texts per step.
    const SLOTS: usize;

    /// Encrypts the texts, all of the same length, of at least the first `live` slots.
    fn step(
        self,
        schedule: &Schedule,
        live: usize,
        chains: &mut [Block; MAX_SLOTS],
        texts: &mut [&mut [Block]; MAX_SLOTS],
    );
}

impl CbcUnit for AesNi {
    const SLOTS: usize = 8;

    fn step(
        self,
        schedule: &Schedule,
        live: usize,
        chains: &mut [Block; MAX_SLOTS],
        texts: &mut [&mut [Block]; MAX_SLOTS],
    ) {
        match live {
            1 => narrow::<1>(self, schedule, chains, texts),
            2 => narrow::<2>(self, schedule, chains, texts),
            3 | 4 => narrow::<4>(self, schedule, chains, texts),
            _ => narrow::<8>(self, schedule, chains, texts),
        }
    }
}

impl CbcUnit for Vaes {
    const SLOTS: usize = MAX_SLOTS;

    fn step(
        self,
        schedule: &Schedule,
        live: usize,
        chains: &mut [Block; MAX_SLOTS],
        texts: &mut [&mut [Block]; MAX_SLOTS],
    ) {
        if live <= AesNi::SLOTS {
            self.narrow().step(schedule, live, chains, texts);
        } else {
            vaes::encrypt(self, schedule, chains, texts);
        }
    }
}

fn narrow<const N: usize>(
    unit: AesNi,
    schedule: &Schedule,
    chains: &mut [Block; MAX_SLOTS],
    texts: &mut [&mut [Block]; MAX_SLOTS],
) {
    if let (Some(chains), Some(texts)) = (chains.first_chunk_mut(), texts.first_chunk_mut()) {
        aesni::encrypt::<N>(unit, schedule, chains, texts);
    }
}

/// Encrypts every text, each a whole number of blocks.
pub(in crate::crypto::lanes) fn encrypt<W: CbcUnit + Copy>(
    unit: W,
    schedule: &Schedule,
    jobs: &mut [CbcJob<'_>],
) {
    let mut chains = [Block::default(); MAX_SLOTS];
    let mut rests: [&mut [Block]; MAX_SLOTS] = Default::default();
    let mut waiting = jobs
        .iter_mut()
        .map(|job| (job.iv, job.text.as_chunks_mut().0))
        .filter(|(_, text)| !text.is_empty());
    let mut live = 0;
    loop {
        // Unfinished texts move to the front, and the next texts follow them.
        let mut kept = 0;
        for slot in 0..live {
            if !rests[slot].is_empty() {
                rests.swap(kept, slot);
                chains.swap(kept, slot);
                kept += 1;
            }
        }
        live = kept;
        while live < W::SLOTS {
            let Some((iv, text)) = waiting.next() else {
                break;
            };
            chains[live] = iv;
            rests[live] = text;
            live += 1;
        }
        let Some(shortest) = rests[..live].iter().map(|rest| rest.len()).min() else {
            return;
        };
        if live.is_power_of_two() {
            step(unit, schedule, live, &mut chains, &mut rests, shortest);
        } else {
            let blocks = shortest.min(SCRATCH);
            let mut scratch = [[Block::default(); SCRATCH]; MAX_SLOTS / 2];
            let mut scratch = scratch.iter_mut();
            let mut texts: [&mut [Block]; MAX_SLOTS] = Default::default();
            for (slot, text) in texts.iter_mut().enumerate() {
                *text = if slot < live {
                    rests[slot].split_off_mut(..blocks).unwrap_or_default()
                } else {
                    scratch.next().map_or(&mut [], |idle| &mut idle[..blocks])
                };
            }
            unit.step(schedule, live, &mut chains, &mut texts);
        }
    }
}

/// A step without idle slots.
fn step<W: CbcUnit>(
    unit: W,
    schedule: &Schedule,
    live: usize,
    chains: &mut [Block; MAX_SLOTS],
    rests: &mut [&mut [Block]; MAX_SLOTS],
    blocks: usize,
) {
    let mut texts: [&mut [Block]; MAX_SLOTS] = Default::default();
    for (text, rest) in texts.iter_mut().zip(rests).take(live) {
        *text = rest.split_off_mut(..blocks).unwrap_or_default();
    }
    unit.step(schedule, live, chains, &mut texts);
}
