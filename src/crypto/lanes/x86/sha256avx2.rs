//! SHA-256 (FIPS 180-4 §6.2) with AVX2: the same word of eight messages in a register, as in [`super::sha1avx2`].

use core::arch::x86_64::*;

use super::Avx2;
use super::sha256ni::K;
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
    let mut state = states_in(states);
    let blocks = messages.iter().map(|message| message.len()).min();
    for block in 0..blocks.unwrap_or(0) {
        let mut words = load_words(messages, block);
        let saved = state;
        eight::<0>(&mut state, &mut words);
        eight::<8>(&mut state, &mut words);
        eight::<16>(&mut state, &mut words);
        eight::<24>(&mut state, &mut words);
        eight::<32>(&mut state, &mut words);
        eight::<40>(&mut state, &mut words);
        eight::<48>(&mut state, &mut words);
        eight::<56>(&mut state, &mut words);
        for word in 0..8 {
            state[word] = add(state[word], saved[word]);
        }
    }
    states_out(state, states);
}

/// Rounds `AT` to `AT + 7`; after eight, every word is where it began.
#[inline]
#[target_feature(enable = "avx2")]
fn eight<const AT: usize>(state: &mut [__m256i; 8], words: &mut [__m256i; 16]) {
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    // Majority is b where b = c and a otherwise; the next round's b ⊕ c is this one's a ⊕ b.
    let mut differ = xor(b, c);
    for at in AT..AT + 8 {
        let word = if at < 16 {
            words[at]
        } else {
            let (two, fifteen) = (words[(at + 14) % 16], words[(at + 1) % 16]);
            let recent = xor(
                xor(rotl::<15, 17>(two), rotl::<13, 19>(two)),
                _mm256_srli_epi32::<10>(two),
            );
            let old = xor(
                xor(rotl::<25, 7>(fifteen), rotl::<14, 18>(fifteen)),
                _mm256_srli_epi32::<3>(fifteen),
            );
            add(add(words[at % 16], words[(at + 9) % 16]), add(recent, old))
        };
        words[at % 16] = word;
        let keyed = add(word, _mm256_set1_epi32(K[at / 4][at % 4] as i32));
        let turned = xor(xor(rotl::<26, 6>(e), rotl::<21, 11>(e)), rotl::<7, 25>(e));
        let chosen = xor(g, _mm256_and_si256(e, xor(f, g)));
        let first = add(add(h, keyed), add(turned, chosen));
        let turned = xor(xor(rotl::<30, 2>(a), rotl::<19, 13>(a)), rotl::<10, 22>(a));
        let differs = xor(a, b);
        let majority = xor(b, _mm256_and_si256(differs, differ));
        differ = differs;
        (h, g, f, e) = (g, f, e, add(d, first));
        (d, c, b, a) = (c, b, a, add(first, add(turned, majority)));
    }
    *state = [a, b, c, d, e, f, g, h];
}
