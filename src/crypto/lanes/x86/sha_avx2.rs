//! SHA-1 and SHA-256 (FIPS 180-4 §6.1, §6.2) with AVX2: a register has the same word of eight messages, and an instruction is a step
//! of all eight.
//!
//! ```text
//!   memory   message 1: w0 w1 w2 …      registers   w0 = m1 m2 m3 m4 │ m5 m6 m7 m8
//!            message 2: w0 w1 w2 …                  w1 = m1 m2 m3 m4 │ m5 m6 m7 m8
//! ```

use core::arch::x86_64::*;

use super::{Avx2, SHA256_K, load};
use crate::crypto::lanes::scheduler::{HashBlock, HashState, HashUnit, MAX_SLOTS, ShaAlgorithm};

/// Defines a hash unit of eight lanes. One message alone is faster with the portable code.
macro_rules! hash_unit {
    ($(#[$doc:meta])* $name:ident, $compress:ident, $alone:expr) => {
        $(#[$doc])*
        pub(in crate::crypto::lanes) struct $name(pub(in crate::crypto::lanes) Avx2);

        impl HashUnit for $name {
            const SLOTS: usize = MAX_SLOTS;

            fn step(
                &self,
                live: usize,
                states: &mut [HashState; MAX_SLOTS],
                blocks: &[&[HashBlock]; MAX_SLOTS],
            ) {
                if live == 1 {
                    $alone.step(live, states, blocks);
                } else {
                    $compress(self.0, states, blocks);
                }
            }
        }
    };
}

hash_unit!(
    /// SHA-1 with AVX2.
    Sha1Avx2, sha1_compress, ShaAlgorithm::Sha1
);

hash_unit!(
    /// SHA-256 with AVX2.
    Sha256Avx2, sha256_compress, ShaAlgorithm::Sha256
);

/// Compresses the blocks of the messages, equally many of each, into their states.
fn sha1_compress(_: Avx2, states: &mut [HashState; EIGHT], messages: &[&[HashBlock]; EIGHT]) {
    // SAFETY: the argument proves that the CPU has AVX2.
    unsafe { sha1_lanes(states, messages) }
}

#[target_feature(enable = "avx2")]
fn sha1_lanes(states: &mut [HashState; EIGHT], messages: &[&[HashBlock]; EIGHT]) {
    let [a, b, c, d, e, rest @ ..] = states_in(states);
    let mut state = [a, b, c, d, e];
    let blocks = messages.iter().map(|message| message.len()).min();
    for block in 0..blocks.unwrap_or(0) {
        let mut words = load_words(messages, block);
        let saved = state;
        sha1_five::<0, 0>(&mut state, &mut words);
        sha1_five::<5, 0>(&mut state, &mut words);
        sha1_five::<10, 0>(&mut state, &mut words);
        sha1_five::<15, 0>(&mut state, &mut words);
        sha1_five::<20, 1>(&mut state, &mut words);
        sha1_five::<25, 1>(&mut state, &mut words);
        sha1_five::<30, 1>(&mut state, &mut words);
        sha1_five::<35, 1>(&mut state, &mut words);
        sha1_five::<40, 2>(&mut state, &mut words);
        sha1_five::<45, 2>(&mut state, &mut words);
        sha1_five::<50, 2>(&mut state, &mut words);
        sha1_five::<55, 2>(&mut state, &mut words);
        sha1_five::<60, 3>(&mut state, &mut words);
        sha1_five::<65, 3>(&mut state, &mut words);
        sha1_five::<70, 3>(&mut state, &mut words);
        sha1_five::<75, 3>(&mut state, &mut words);
        for word in 0..5 {
            state[word] = add(state[word], saved[word]);
        }
    }
    let [a, b, c, d, e] = state;
    let [f, g, h] = rest;
    states_out([a, b, c, d, e, f, g, h], states);
}

/// Rounds `AT` to `AT + 4`, with the function and constant number `F`; after five rounds every word is back in its variable.
#[inline]
#[target_feature(enable = "avx2")]
fn sha1_five<const AT: usize, const F: usize>(state: &mut [__m256i; 5], words: &mut [__m256i; 16]) {
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

/// Compresses the blocks of the messages, equally many of each, into their states.
fn sha256_compress(_: Avx2, states: &mut [HashState; EIGHT], messages: &[&[HashBlock]; EIGHT]) {
    // SAFETY: the argument proves that the CPU has AVX2.
    unsafe { sha256_lanes(states, messages) }
}

#[target_feature(enable = "avx2")]
fn sha256_lanes(states: &mut [HashState; EIGHT], messages: &[&[HashBlock]; EIGHT]) {
    let mut state = states_in(states);
    let blocks = messages.iter().map(|message| message.len()).min();
    for block in 0..blocks.unwrap_or(0) {
        let mut words = load_words(messages, block);
        let saved = state;
        sha256_eight::<0>(&mut state, &mut words);
        sha256_eight::<8>(&mut state, &mut words);
        sha256_eight::<16>(&mut state, &mut words);
        sha256_eight::<24>(&mut state, &mut words);
        sha256_eight::<32>(&mut state, &mut words);
        sha256_eight::<40>(&mut state, &mut words);
        sha256_eight::<48>(&mut state, &mut words);
        sha256_eight::<56>(&mut state, &mut words);
        for word in 0..8 {
            state[word] = add(state[word], saved[word]);
        }
    }
    states_out(state, states);
}

/// Rounds `AT` to `AT + 7`; after eight rounds every word is back in its variable.
#[inline]
#[target_feature(enable = "avx2")]
fn sha256_eight<const AT: usize>(state: &mut [__m256i; 8], words: &mut [__m256i; 16]) {
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    // Majority is b where b = c, and a otherwise. The b ⊕ c of the next round is the a ⊕ b of this one.
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
        let keyed = add(word, _mm256_set1_epi32(SHA256_K[at / 4][at % 4] as i32));
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

/// Words in a register, so messages per step.
const EIGHT: usize = 8;

#[inline]
#[target_feature(enable = "avx2")]
fn add(a: __m256i, b: __m256i) -> __m256i {
    _mm256_add_epi32(a, b)
}

#[inline]
#[target_feature(enable = "avx2")]
fn xor(a: __m256i, b: __m256i) -> __m256i {
    _mm256_xor_si256(a, b)
}

/// Rotates every word left by `LEFT` bits; `RIGHT` is 32 - `LEFT`.
#[inline]
#[target_feature(enable = "avx2")]
fn rotl<const LEFT: i32, const RIGHT: i32>(words: __m256i) -> __m256i {
    _mm256_or_si256(
        _mm256_slli_epi32::<LEFT>(words),
        _mm256_srli_epi32::<RIGHT>(words),
    )
}

/// The sixteen words of one block of every message, in native byte order.
#[inline]
#[target_feature(enable = "avx2")]
fn load_words(messages: &[&[HashBlock]; EIGHT], block: usize) -> [__m256i; 16] {
    let big_endian =
        _mm256_broadcastsi128_si256(_mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203));
    let mut words = [_mm256_setzero_si256(); 16];
    for quarter in 0..4 {
        let mut rows = [_mm256_setzero_si256(); 4];
        for at in 0..4 {
            let low = load(&messages[at][block].as_chunks().0[quarter]);
            let high = load(&messages[at + 4][block].as_chunks().0[quarter]);
            rows[at] = _mm256_shuffle_epi8(_mm256_set_m128i(high, low), big_endian);
        }
        words[4 * quarter..4 * quarter + 4].copy_from_slice(&transposed(rows));
    }
    words
}

/// Transposes the 4×4 words of either half.
#[inline]
#[target_feature(enable = "avx2")]
fn transposed([a, b, c, d]: [__m256i; 4]) -> [__m256i; 4] {
    let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
    let (ab_high, cd_high) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
    [
        _mm256_unpacklo_epi64(ab, cd),
        _mm256_unpackhi_epi64(ab, cd),
        _mm256_unpacklo_epi64(ab_high, cd_high),
        _mm256_unpackhi_epi64(ab_high, cd_high),
    ]
}

/// The states, one register for each word.
#[inline]
#[target_feature(enable = "avx2")]
fn states_in(states: &[HashState; EIGHT]) -> [__m256i; 8] {
    let mut words = [_mm256_setzero_si256(); 8];
    for word in 0..8 {
        let [a, b, c, d, e, f, g, h] = states;
        words[word] = _mm256_set_epi32(
            h[word] as i32,
            g[word] as i32,
            f[word] as i32,
            e[word] as i32,
            d[word] as i32,
            c[word] as i32,
            b[word] as i32,
            a[word] as i32,
        );
    }
    words
}

/// Writes the registers back to the states.
#[inline]
#[target_feature(enable = "avx2")]
fn states_out(words: [__m256i; 8], states: &mut [HashState; EIGHT]) {
    for word in 0..8 {
        let mut of_all = [0_u32; EIGHT];
        // SAFETY: `of_all` has thirty-two bytes to write; the store takes any alignment.
        unsafe { _mm256_storeu_si256(of_all.as_mut_ptr().cast(), words[word]) };
        for at in 0..EIGHT {
            states[at][word] = of_all[at];
        }
    }
}
