//! AES with VAES: as with AES-NI, but two blocks in each register.
//!
//! ```text
//!   ymm0 = lane 1 ‖ lane 2,  ymm1 = lane 3 ‖ lane 4, …  ymm7 = lane 15 ‖ lane 16
//! ```

use core::arch::x86_64::*;

use super::aesni::{self, Schedule};
use super::{Block, Vaes, load, store};

/// Registers in use, two lanes each.
const PAIRS: usize = 8;

/// Encrypts sixteen texts of one length in place. `chains` has the previous ciphertext block of each text, and gets its last one.
pub(super) fn encrypt(
    _: Vaes,
    schedule: &Schedule,
    chains: &mut [Block; 2 * PAIRS],
    texts: &mut [&mut [Block]; 2 * PAIRS],
) {
    // SAFETY: the argument proves that the CPU has VAES and AVX2.
    unsafe {
        match schedule.rounds {
            10 => encrypt_lanes::<10>(schedule, chains, texts),
            12 => encrypt_lanes::<12>(schedule, chains, texts),
            _ => encrypt_lanes::<14>(schedule, chains, texts),
        }
    }
}

/// Decrypts one text in place.
pub(in crate::crypto::lanes) fn decrypt(
    unit: Vaes,
    schedule: &Schedule,
    iv: Block,
    text: &mut [Block],
) {
    // SAFETY: the argument proves that the CPU has VAES and AVX2.
    let (chain, rest) = unsafe {
        match schedule.rounds {
            10 => decrypt_pairs::<10>(schedule, iv, text),
            12 => decrypt_pairs::<12>(schedule, iv, text),
            _ => decrypt_pairs::<14>(schedule, iv, text),
        }
    };
    aesni::decrypt(unit.narrow(), schedule, chain, rest);
}

#[inline]
#[target_feature(enable = "avx2")]
fn pair(low: &Block, high: &Block) -> __m256i {
    _mm256_set_m128i(load(high), load(low))
}

#[inline]
#[target_feature(enable = "avx2")]
fn twice(key: &Block) -> __m256i {
    _mm256_broadcastsi128_si256(load(key))
}

#[target_feature(enable = "vaes,avx2")]
fn encrypt_lanes<const ROUNDS: usize>(
    schedule: &Schedule,
    chains: &mut [Block; 2 * PAIRS],
    texts: &mut [&mut [Block]; 2 * PAIRS],
) {
    let blocks = texts.iter().map(|text| text.len()).min().unwrap_or(0);
    let mut state = [_mm256_setzero_si256(); PAIRS];
    for at in 0..PAIRS {
        state[at] = pair(&chains[2 * at], &chains[2 * at + 1]);
    }
    for block in 0..blocks {
        let whitening = twice(&schedule.keys[0]);
        for at in 0..PAIRS {
            // SAFETY: `blocks` is the length of the shortest text.
            let text = unsafe {
                pair(
                    texts[2 * at].get_unchecked(block),
                    texts[2 * at + 1].get_unchecked(block),
                )
            };
            state[at] = _mm256_xor_si256(state[at], _mm256_xor_si256(text, whitening));
        }
        for round in 1..ROUNDS {
            let key = twice(&schedule.keys[round]);
            for at in 0..PAIRS {
                state[at] = _mm256_aesenc_epi128(state[at], key);
            }
        }
        let last = twice(&schedule.keys[ROUNDS]);
        for at in 0..PAIRS {
            state[at] = _mm256_aesenclast_epi128(state[at], last);
            // SAFETY: `blocks` is the length of the shortest text.
            let (low, high) = unsafe {
                let [low, high] = texts.get_disjoint_unchecked_mut([2 * at, 2 * at + 1]);
                (low.get_unchecked_mut(block), high.get_unchecked_mut(block))
            };
            store(low, _mm256_castsi256_si128(state[at]));
            store(high, _mm256_extracti128_si256::<1>(state[at]));
        }
    }
    for at in 0..PAIRS {
        store(&mut chains[2 * at], _mm256_castsi256_si128(state[at]));
        store(
            &mut chains[2 * at + 1],
            _mm256_extracti128_si256::<1>(state[at]),
        );
    }
}

/// Decrypts groups of sixteen and eight blocks. Returns the last ciphertext block and the blocks that are left.
#[target_feature(enable = "vaes,avx2")]
fn decrypt_pairs<'t, const ROUNDS: usize>(
    schedule: &Schedule,
    iv: Block,
    text: &'t mut [Block],
) -> (Block, &'t mut [Block]) {
    let mut chain = iv;
    let (groups, rest) = text.as_chunks_mut::<{ 2 * PAIRS }>();
    for group in groups {
        chain = decrypt_group::<PAIRS, ROUNDS>(schedule, chain, group);
    }
    let (groups, rest) = rest.as_chunks_mut::<PAIRS>();
    for group in groups {
        chain = decrypt_group::<{ PAIRS / 2 }, ROUNDS>(schedule, chain, group);
    }
    (chain, rest)
}

/// Decrypts a group of twice `N` blocks in place and returns the last ciphertext block.
#[inline]
#[target_feature(enable = "vaes,avx2")]
fn decrypt_group<const N: usize, const ROUNDS: usize>(
    schedule: &Schedule,
    chain: Block,
    group: &mut [Block],
) -> Block {
    let (group, _) = group.as_chunks_mut::<2>();
    let Some(group) = group.first_chunk_mut::<N>() else {
        return chain;
    };
    let end = group[N - 1][1];
    let mut state = [_mm256_setzero_si256(); N];
    let whitening = twice(&schedule.keys[0]);
    for at in 0..N {
        state[at] = _mm256_xor_si256(pair(&group[at][0], &group[at][1]), whitening);
    }
    for round in 1..ROUNDS {
        let key = twice(&schedule.keys[round]);
        for at in 0..N {
            state[at] = _mm256_aesdec_epi128(state[at], key);
        }
    }
    let last = twice(&schedule.keys[ROUNDS]);
    // From the last block to the first, so that each block still finds the ciphertext before it.
    for at in (0..N).rev() {
        let before = if at == 0 { chain } else { group[at - 1][1] };
        let before = pair(&before, &group[at][0]);
        let plain = _mm256_xor_si256(_mm256_aesdeclast_epi128(state[at], last), before);
        store(&mut group[at][0], _mm256_castsi256_si128(plain));
        store(&mut group[at][1], _mm256_extracti128_si256::<1>(plain));
    }
    end
}
