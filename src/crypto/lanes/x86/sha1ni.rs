//! SHA-1 (FIPS 180-4 §6.1) with SHA-NI: four rounds an instruction, `L` messages interleaved.
//!
//! SHA1RNDS4 takes six cycles and can start every second one, and every four rounds need the four before: one message leaves the
//! unit idle most of the time, four fill it. They have more words under way than there are registers; the stores and loads that
//! this costs run beside.

use core::arch::x86_64::*;

use super::{ShaNi, load};
use crate::crypto::lanes::hmac::{HashBlock, HashState};

/// Takes the messages' next blocks, as many of each, into their states.
pub(in crate::crypto::lanes) fn compress<const L: usize>(
    _: ShaNi,
    states: [&mut HashState; L],
    messages: [&[HashBlock]; L],
) {
    // SAFETY: SHA-NI, SSSE3 and SSE4.1 are there, as the argument proves.
    unsafe { lanes::<L>(states, messages) }
}

/// A message under way.
#[derive(Clone, Copy)]
struct Lane {
    abcd: __m128i,
    /// `abcd` as it was before the last four rounds: its A, turned, is the next E.
    before: __m128i,
    /// The last sixteen words of the message schedule, four to a register.
    words: [__m128i; 4],
}

#[target_feature(enable = "sha,ssse3,sse4.1")]
fn lanes<const L: usize>(states: [&mut HashState; L], messages: [&[HashBlock]; L]) {
    let zero = _mm_setzero_si128();
    let mut lanes = [Lane {
        abcd: zero,
        before: zero,
        words: [zero; 4],
    }; L];
    let mut e = [zero; L];
    for at in 0..L {
        let [a, b, c, d, e0, ..] = *states[at];
        lanes[at].abcd = _mm_set_epi32(a as i32, b as i32, c as i32, d as i32);
        e[at] = _mm_set_epi32(e0 as i32, 0, 0, 0);
    }
    let blocks = messages.iter().map(|message| message.len()).min();
    for block in 0..blocks.unwrap_or(0) {
        let saved = (lanes, e);
        four::<0, 0, L>(&mut lanes, &e, &messages, block);
        four::<1, 0, L>(&mut lanes, &e, &messages, block);
        four::<2, 0, L>(&mut lanes, &e, &messages, block);
        four::<3, 0, L>(&mut lanes, &e, &messages, block);
        four::<4, 0, L>(&mut lanes, &e, &messages, block);
        four::<5, 1, L>(&mut lanes, &e, &messages, block);
        four::<6, 1, L>(&mut lanes, &e, &messages, block);
        four::<7, 1, L>(&mut lanes, &e, &messages, block);
        four::<8, 1, L>(&mut lanes, &e, &messages, block);
        four::<9, 1, L>(&mut lanes, &e, &messages, block);
        four::<10, 2, L>(&mut lanes, &e, &messages, block);
        four::<11, 2, L>(&mut lanes, &e, &messages, block);
        four::<12, 2, L>(&mut lanes, &e, &messages, block);
        four::<13, 2, L>(&mut lanes, &e, &messages, block);
        four::<14, 2, L>(&mut lanes, &e, &messages, block);
        four::<15, 3, L>(&mut lanes, &e, &messages, block);
        four::<16, 3, L>(&mut lanes, &e, &messages, block);
        four::<17, 3, L>(&mut lanes, &e, &messages, block);
        four::<18, 3, L>(&mut lanes, &e, &messages, block);
        four::<19, 3, L>(&mut lanes, &e, &messages, block);
        for at in 0..L {
            e[at] = _mm_sha1nexte_epu32(lanes[at].before, saved.1[at]);
            lanes[at].abcd = _mm_add_epi32(lanes[at].abcd, saved.0[at].abcd);
        }
    }
    for at in 0..L {
        let abcd = lanes[at].abcd;
        states[at][0] = _mm_extract_epi32::<3>(abcd) as u32;
        states[at][1] = _mm_extract_epi32::<2>(abcd) as u32;
        states[at][2] = _mm_extract_epi32::<1>(abcd) as u32;
        states[at][3] = _mm_extract_epi32::<0>(abcd) as u32;
        states[at][4] = _mm_extract_epi32::<3>(e[at]) as u32;
    }
}

/// Rounds `4 * GROUP` to `4 * GROUP + 3` of every lane, with the function and constant number `F`.
#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn four<const GROUP: usize, const F: i32, const L: usize>(
    lanes: &mut [Lane; L],
    e: &[__m128i; L],
    messages: &[&[HashBlock]; L],
    block: usize,
) {
    let big_endian = _mm_set_epi64x(0x0001_0203_0405_0607, 0x0809_0a0b_0c0d_0e0f);
    for at in 0..L {
        let lane = &mut lanes[at];
        let words = if GROUP < 4 {
            let (quarters, _) = messages[at][block].as_chunks();
            _mm_shuffle_epi8(load(&quarters[GROUP]), big_endian)
        } else {
            let (first, second) = (lane.words[GROUP % 4], lane.words[(GROUP + 1) % 4]);
            let (third, fourth) = (lane.words[(GROUP + 2) % 4], lane.words[(GROUP + 3) % 4]);
            let sum = _mm_xor_si128(_mm_sha1msg1_epu32(first, second), third);
            _mm_sha1msg2_epu32(sum, fourth)
        };
        lane.words[GROUP % 4] = words;
        let with_e = if GROUP == 0 {
            _mm_add_epi32(e[at], words)
        } else {
            _mm_sha1nexte_epu32(lane.before, words)
        };
        lane.before = lane.abcd;
        lane.abcd = _mm_sha1rnds4_epu32::<F>(lane.abcd, with_e);
    }
}
