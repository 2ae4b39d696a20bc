//! SHA-1 (FIPS 180-4 §6.1) with AVX2: the same word of eight messages in a register, so that an instruction is a step of all.
//!
//! ```text
//!   memory   message 1: w0 w1 w2 …      registers   w0 = m1 m2 m3 m4 │ m5 m6 m7 m8
//!            message 2: w0 w1 w2 …                  w1 = m1 m2 m3 m4 │ m5 m6 m7 m8
//! ```

use core::arch::x86_64::*;

use super::Avx2;
use super::words::{EIGHT, add, load_words, rotl, states_in, states_out, xor};
use crate::crypto::lanes::hmac::{HashBlock, HashState};

/// Takes the messages' next blocks, as many of each, into their states.
pub(in crate::crypto::lanes) fn compress(
    _: Avx2,
    states: &mut [HashState; EIGHT],
    messages: &[&[HashBlock]; EIGHT],
) {
    // SAFETY: AVX2 is there, as the argument proves.
    unsafe { lanes(states, messages) }
}

#[target_feature(enable = "avx2")]
fn lanes(states: &mut [HashState; EIGHT], messages: &[&[HashBlock]; EIGHT]) {
    let [a, b, c, d, e, rest @ ..] = states_in(states);
    let mut state = [a, b, c, d, e];
    let blocks = messages.iter().map(|message| message.len()).min();
    for block in 0..blocks.unwrap_or(0) {
        let mut words = load_words(messages, block);
        let saved = state;
        five::<0, 0>(&mut state, &mut words);
        five::<5, 0>(&mut state, &mut words);
        five::<10, 0>(&mut state, &mut words);
        five::<15, 0>(&mut state, &mut words);
        five::<20, 1>(&mut state, &mut words);
        five::<25, 1>(&mut state, &mut words);
        five::<30, 1>(&mut state, &mut words);
        five::<35, 1>(&mut state, &mut words);
        five::<40, 2>(&mut state, &mut words);
        five::<45, 2>(&mut state, &mut words);
        five::<50, 2>(&mut state, &mut words);
        five::<55, 2>(&mut state, &mut words);
        five::<60, 3>(&mut state, &mut words);
        five::<65, 3>(&mut state, &mut words);
        five::<70, 3>(&mut state, &mut words);
        five::<75, 3>(&mut state, &mut words);
        for word in 0..5 {
            state[word] = add(state[word], saved[word]);
        }
    }
    let [a, b, c, d, e] = state;
    let [f, g, h] = rest;
    states_out([a, b, c, d, e, f, g, h], states);
}

/// Rounds `AT` to `AT + 4`, with the function and constant number `F`; after five, every word is where it began.
#[inline]
#[target_feature(enable = "avx2")]
fn five<const AT: usize, const F: usize>(state: &mut [__m256i; 5], words: &mut [__m256i; 16]) {
    let k = _mm256_set1_epi32([0x5a82_7999, 0x6ed9_eba1, 0x8f1b_bcdc, 0xca62_c1d6_u32][F] as i32);
    let [mut a, mut b, mut c, mut d, mut e] = *state;
    for at in AT..AT + 5 {
        let word = if at < 16 {
            words[at]
        } else {
            let sum = xor(
                xor(words[(at + 13) % 16], words[(at + 8) % 16]),
                xor(words[(at + 2) % 16], words[at % 16]),
            );
            rotl::<1, 31>(sum)
        };
        words[at % 16] = word;
        let mixed = match F {
            0 => xor(_mm256_and_si256(b, xor(c, d)), d),
            2 => _mm256_or_si256(
                _mm256_and_si256(b, c),
                _mm256_and_si256(d, _mm256_or_si256(b, c)),
            ),
            _ => xor(b, xor(c, d)),
        };
        let fed = add(add(e, add(word, k)), mixed);
        (e, d, c, b, a) = (d, c, rotl::<30, 2>(b), a, add(rotl::<5, 27>(a), fed));
    }
    *state = [a, b, c, d, e];
}
