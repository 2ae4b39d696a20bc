//! Hands the texts of a batch to a kernel of fixed width, so that it runs as full as the batch allows.
//!
//! A step encrypts as many blocks of every slot as the shortest text still has. A kernel comes in a few widths; a slot without a
//! text, where no width fits, encrypts scratch.

use super::{AesNi, Block, Schedule, Vaes, aesni, vaes};
use crate::crypto::lanes::cbc::CbcJob;

/// Slots of the widest kernel.
const MAX_SLOTS: usize = 16;

/// Blocks of scratch a slot has, and so the most that a step takes when one is idle.
const SCRATCH: usize = 16;

/// A kernel of some width.
pub(in crate::crypto::lanes) trait CbcUnit {
    /// Slots it can fill.
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

/// Encrypts every lane, each a whole number of blocks.
pub(in crate::crypto::lanes) fn encrypt<W: CbcUnit + Copy>(
    unit: W,
    schedule: &Schedule,
    lanes: &mut [CbcJob<'_>],
) {
    let mut chains = [Block::default(); MAX_SLOTS];
    let mut rests: [&mut [Block]; MAX_SLOTS] = Default::default();
    let mut waiting = lanes
        .iter_mut()
        .map(|lane| (lane.iv, lane.text.as_chunks_mut().0))
        .filter(|(_, text)| !text.is_empty());
    let mut live = 0;
    loop {
        // Slots that ended close ranks, and the next texts come after them.
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

/// A step with every slot of the width live.
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
