//! Eight messages of 32-bit words, turned so that a register has the same word of each.

use core::arch::x86_64::*;

use super::load;
use crate::crypto::lanes::hmac::{HashBlock, HashState};

/// Words in a register, and so messages.
pub(super) const EIGHT: usize = 8;

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn add(a: __m256i, b: __m256i) -> __m256i {
    _mm256_add_epi32(a, b)
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn xor(a: __m256i, b: __m256i) -> __m256i {
    _mm256_xor_si256(a, b)
}

/// Rotates every word by `LEFT` bits; `RIGHT` is what is left of 32.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn rotl<const LEFT: i32, const RIGHT: i32>(words: __m256i) -> __m256i {
    _mm256_or_si256(
        _mm256_slli_epi32::<LEFT>(words),
        _mm256_srli_epi32::<RIGHT>(words),
    )
}

/// The sixteen words of one block of every message, as numbers.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load_words(messages: &[&[HashBlock]; EIGHT], block: usize) -> [__m256i; 16] {
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
        words[4 * quarter..4 * quarter + 4].copy_from_slice(&turned(rows));
    }
    words
}

/// Rows to columns, in either half.
#[inline]
#[target_feature(enable = "avx2")]
fn turned([a, b, c, d]: [__m256i; 4]) -> [__m256i; 4] {
    let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
    let (ab_high, cd_high) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
    [
        _mm256_unpacklo_epi64(ab, cd),
        _mm256_unpackhi_epi64(ab, cd),
        _mm256_unpacklo_epi64(ab_high, cd_high),
        _mm256_unpackhi_epi64(ab_high, cd_high),
    ]
}

/// The states, word by word.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn states_in(states: &[HashState; EIGHT]) -> [__m256i; 8] {
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

/// The words, state by state.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn states_out(words: [__m256i; 8], states: &mut [HashState; EIGHT]) {
    for word in 0..8 {
        let mut of_all = [0_u32; EIGHT];
        // SAFETY: thirty-two bytes are there to write, at any alignment.
        unsafe { _mm256_storeu_si256(of_all.as_mut_ptr().cast(), words[word]) };
        for at in 0..EIGHT {
            states[at][word] = of_all[at];
        }
    }
}
