//! AES with AES-NI: one instruction a round; two can start each cycle, and a result takes four cycles.
//!
//! ```text
//!   cycle     0    1    2    3    4    5 …
//!   port 0   L1r1 L3r1 L5r1 L7r1 L1r2 L3r2      eight lanes keep both ports busy
//!   port 1   L2r1 L4r1 L6r1 L8r1 L2r2 L4r2      (L: lane, r: round)
//! ```

use core::arch::x86_64::*;

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{AesNi, Block, load, store};

/// The round keys of AES, for encryption or for decryption; wiped when dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
#[repr(align(16))]
pub(in crate::crypto::lanes) struct Schedule {
    pub(super) keys: [Block; 15],
    /// Rounds: 10, 12 or 14.
    pub(super) rounds: usize,
}

/// The round keys for encryption; `None` if `key` is not 16, 24 or 32 bytes.
pub(in crate::crypto::lanes) fn expand(_: AesNi, key: &[u8]) -> Option<Schedule> {
    let rounds = match key.len() {
        16 => 10,
        24 => 12,
        32 => 14,
        _ => return None,
    };
    let mut schedule = Schedule {
        keys: [[0; 16]; 15],
        rounds,
    };
    // SAFETY: the argument proves that the CPU has AES-NI.
    unsafe { fill(&mut schedule, key) };
    Some(schedule)
}

impl Schedule {
    /// The round keys of the equivalent inverse cipher (FIPS 197 §5.3.5).
    pub(in crate::crypto::lanes) fn inverse(&self, _: AesNi) -> Schedule {
        // SAFETY: the argument proves that the CPU has AES-NI.
        unsafe { invert(self) }
    }
}

/// Encrypts texts of one length in place. `chains` has the previous ciphertext block of each text, and gets its last one.
pub(super) fn encrypt<const N: usize>(
    _: AesNi,
    schedule: &Schedule,
    chains: &mut [Block; N],
    texts: &mut [&mut [Block]; N],
) {
    // SAFETY: the argument proves that the CPU has AES-NI.
    unsafe {
        match schedule.rounds {
            10 => encrypt_lanes::<N, 10>(schedule, chains, texts),
            12 => encrypt_lanes::<N, 12>(schedule, chains, texts),
            _ => encrypt_lanes::<N, 14>(schedule, chains, texts),
        }
    }
}

/// Encrypts every block separately.
pub(in crate::crypto::lanes) fn encrypt_blocks(
    unit: AesNi,
    schedule: &Schedule,
    blocks: &mut [Block; 16],
) {
    for group in blocks.as_chunks_mut::<8>().0 {
        let mut texts = group.each_mut().map(std::slice::from_mut);
        encrypt(unit, schedule, &mut [Block::default(); 8], &mut texts);
    }
}

/// Decrypts one text in place.
pub(in crate::crypto::lanes) fn decrypt(
    _: AesNi,
    schedule: &Schedule,
    iv: Block,
    text: &mut [Block],
) {
    // SAFETY: the argument proves that the CPU has AES-NI.
    unsafe {
        match schedule.rounds {
            10 => decrypt_text::<10>(schedule, iv, text),
            12 => decrypt_text::<12>(schedule, iv, text),
            _ => decrypt_text::<14>(schedule, iv, text),
        }
    }
}

/// Expands the key (FIPS 197 §5.2).
#[target_feature(enable = "aes")]
fn fill(schedule: &mut Schedule, key: &[u8]) {
    let of_key = key.len() / 4;
    let (words, _) = schedule.keys.as_flattened_mut().as_chunks_mut::<4>();
    for (word, given) in words.iter_mut().zip(key.as_chunks::<4>().0) {
        *word = *given;
    }
    let mut round_constant = 1_u32;
    for at in of_key..4 * (schedule.rounds + 1) {
        let before = u32::from_le_bytes(words[at - 1]);
        let added = if at % of_key == 0 {
            let added = substitute(before).rotate_right(8) ^ round_constant;
            round_constant = (round_constant << 1) ^ ((round_constant >> 7) * 0x11b);
            added
        } else if of_key > 6 && at % of_key == 4 {
            substitute(before)
        } else {
            before
        };
        words[at] = (u32::from_le_bytes(words[at - of_key]) ^ added).to_le_bytes();
    }
}

/// SubWord in constant time: the lowest word of the result of AESKEYGENASSIST.
#[target_feature(enable = "aes")]
fn substitute(word: u32) -> u32 {
    let words = _mm_set1_epi32(word as i32);
    _mm_cvtsi128_si32(_mm_aeskeygenassist_si128::<0>(words)) as u32
}

#[target_feature(enable = "aes")]
fn invert(forward: &Schedule) -> Schedule {
    let rounds = forward.rounds;
    let mut inverse = Schedule {
        keys: [[0; 16]; 15],
        rounds,
    };
    for round in 0..=rounds {
        let key = load(&forward.keys[rounds - round]);
        let outer = round == 0 || round == rounds;
        let key = if outer { key } else { _mm_aesimc_si128(key) };
        store(&mut inverse.keys[round], key);
    }
    inverse
}

#[target_feature(enable = "aes")]
fn encrypt_lanes<const N: usize, const ROUNDS: usize>(
    schedule: &Schedule,
    chains: &mut [Block; N],
    texts: &mut [&mut [Block]; N],
) {
    let blocks = texts.iter().map(|text| text.len()).min().unwrap_or(0);
    let mut state = [_mm_setzero_si128(); N];
    for lane in 0..N {
        state[lane] = load(&chains[lane]);
    }
    for block in 0..blocks {
        let whitening = load(&schedule.keys[0]);
        for lane in 0..N {
            // SAFETY: `blocks` is the length of the shortest text.
            let text = load(unsafe { texts[lane].get_unchecked(block) });
            state[lane] = _mm_xor_si128(state[lane], _mm_xor_si128(text, whitening));
        }
        for round in 1..ROUNDS {
            let key = load(&schedule.keys[round]);
            for lane in 0..N {
                state[lane] = _mm_aesenc_si128(state[lane], key);
            }
        }
        let last = load(&schedule.keys[ROUNDS]);
        for lane in 0..N {
            state[lane] = _mm_aesenclast_si128(state[lane], last);
            // SAFETY: `blocks` is the length of the shortest text.
            store(unsafe { texts[lane].get_unchecked_mut(block) }, state[lane]);
        }
    }
    for lane in 0..N {
        store(&mut chains[lane], state[lane]);
    }
}

#[target_feature(enable = "aes")]
fn decrypt_text<const ROUNDS: usize>(schedule: &Schedule, iv: Block, text: &mut [Block]) {
    let mut chain = iv;
    let (eights, rest) = text.as_chunks_mut::<8>();
    for group in eights {
        chain = decrypt_group::<8, ROUNDS>(schedule, chain, group);
    }
    let (pairs, rest) = rest.as_chunks_mut::<2>();
    for group in pairs {
        chain = decrypt_group::<2, ROUNDS>(schedule, chain, group);
    }
    for block in rest {
        chain = decrypt_group::<1, ROUNDS>(schedule, chain, std::array::from_mut(block));
    }
}

/// Decrypts `N` blocks in place and returns the last ciphertext block.
#[inline]
#[target_feature(enable = "aes")]
fn decrypt_group<const N: usize, const ROUNDS: usize>(
    schedule: &Schedule,
    chain: Block,
    group: &mut [Block; N],
) -> Block {
    let mut state = [_mm_setzero_si128(); N];
    let whitening = load(&schedule.keys[0]);
    for lane in 0..N {
        state[lane] = _mm_xor_si128(load(&group[lane]), whitening);
    }
    for round in 1..ROUNDS {
        let key = load(&schedule.keys[round]);
        for lane in 0..N {
            state[lane] = _mm_aesdec_si128(state[lane], key);
        }
    }
    let last = load(&schedule.keys[ROUNDS]);
    let mut before = load(&chain);
    for lane in 0..N {
        let cipher = load(&group[lane]);
        let plain = _mm_xor_si128(_mm_aesdeclast_si128(state[lane], last), before);
        store(&mut group[lane], plain);
        before = cipher;
    }
    let mut end = chain;
    store(&mut end, before);
    end
}
