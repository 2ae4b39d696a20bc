//! SHA-1 and SHA-256 (FIPS 180-4 §6.1, §6.2) with SHA-NI, `L` messages interleaved.
//!
//! SHA-1 takes four rounds an instruction: SHA1RNDS4 takes six cycles and can start every second cycle, and every four rounds need the
//! four before. One message leaves the unit idle most of the time, four fill it. Four messages have more words than there are
//! registers; the loads and stores of the rest run in parallel. SHA-256 takes two rounds an instruction.

use core::arch::x86_64::*;

use super::{SHA256_K, ShaNi, load};
use crate::crypto::lanes::scheduler::{HashBlock, HashState, HashUnit, MAX_SLOTS};

/// Defines a hash unit of four lanes.
macro_rules! hash_unit {
    ($(#[$doc:meta])* $name:ident, $compress:ident) => {
        $(#[$doc])*
        pub(in crate::crypto::lanes) struct $name(pub(in crate::crypto::lanes) ShaNi);

        impl HashUnit for $name {
            const SLOTS: usize = 4;

            fn step(
                &self,
                live: usize,
                states: &mut [HashState; MAX_SLOTS],
                blocks: &[&[HashBlock]; MAX_SLOTS],
            ) {
                let ([a, b, c, d, ..], [p, q, r, s, ..]) = (states, blocks);
                match live {
                    1 => $compress(self.0, [a], [p]),
                    2 => $compress(self.0, [a, b], [p, q]),
                    3 => $compress(self.0, [a, b, c], [p, q, r]),
                    _ => $compress(self.0, [a, b, c, d], [p, q, r, s]),
                }
            }
        }
    };
}

hash_unit!(
    /// SHA-1 with SHA-NI.
    Sha1Ni, sha1_compress
);

hash_unit!(
    /// SHA-256 with SHA-NI.
    Sha256Ni, sha256_compress
);

/// Compresses the blocks of the messages, equally many of each, into their states.
fn sha1_compress<const L: usize>(
    _: ShaNi,
    states: [&mut HashState; L],
    messages: [&[HashBlock]; L],
) {
    // SAFETY: the argument proves that the CPU has SHA-NI, SSSE3 and SSE4.1.
    unsafe { sha1_lanes::<L>(states, messages) }
}

/// One message during its rounds.
#[derive(Clone, Copy)]
struct Sha1Lane {
    abcd: __m128i,
    /// `abcd` before the last four rounds: its A, rotated, is the next E.
    before: __m128i,
    /// The last sixteen words of the message schedule, four to a register.
    words: [__m128i; 4],
}

#[target_feature(enable = "sha,ssse3,sse4.1")]
fn sha1_lanes<const L: usize>(states: [&mut HashState; L], messages: [&[HashBlock]; L]) {
    let zero = _mm_setzero_si128();
    let mut lanes = [Sha1Lane {
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
        sha1_four::<0, 0, L>(&mut lanes, &e, &messages, block);
        sha1_four::<1, 0, L>(&mut lanes, &e, &messages, block);
        sha1_four::<2, 0, L>(&mut lanes, &e, &messages, block);
        sha1_four::<3, 0, L>(&mut lanes, &e, &messages, block);
        sha1_four::<4, 0, L>(&mut lanes, &e, &messages, block);
        sha1_four::<5, 1, L>(&mut lanes, &e, &messages, block);
        sha1_four::<6, 1, L>(&mut lanes, &e, &messages, block);
        sha1_four::<7, 1, L>(&mut lanes, &e, &messages, block);
        sha1_four::<8, 1, L>(&mut lanes, &e, &messages, block);
        sha1_four::<9, 1, L>(&mut lanes, &e, &messages, block);
        sha1_four::<10, 2, L>(&mut lanes, &e, &messages, block);
        sha1_four::<11, 2, L>(&mut lanes, &e, &messages, block);
        sha1_four::<12, 2, L>(&mut lanes, &e, &messages, block);
        sha1_four::<13, 2, L>(&mut lanes, &e, &messages, block);
        sha1_four::<14, 2, L>(&mut lanes, &e, &messages, block);
        sha1_four::<15, 3, L>(&mut lanes, &e, &messages, block);
        sha1_four::<16, 3, L>(&mut lanes, &e, &messages, block);
        sha1_four::<17, 3, L>(&mut lanes, &e, &messages, block);
        sha1_four::<18, 3, L>(&mut lanes, &e, &messages, block);
        sha1_four::<19, 3, L>(&mut lanes, &e, &messages, block);
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
fn sha1_four<const GROUP: usize, const F: i32, const L: usize>(
    lanes: &mut [Sha1Lane; L],
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

/// Compresses the blocks of the messages, equally many of each, into their states.
fn sha256_compress<const L: usize>(
    _: ShaNi,
    states: [&mut HashState; L],
    messages: [&[HashBlock]; L],
) {
    // SAFETY: the argument proves that the CPU has SHA-NI, SSSE3 and SSE4.1.
    unsafe { sha256_lanes::<L>(states, messages) }
}

/// One message during its rounds, its state in the order of the instruction's operands.
#[derive(Clone, Copy)]
struct Sha256Lane {
    abef: __m128i,
    cdgh: __m128i,
    /// The last sixteen words of the message schedule, four to a register.
    words: [__m128i; 4],
}

#[target_feature(enable = "sha,ssse3,sse4.1")]
fn sha256_lanes<const L: usize>(states: [&mut HashState; L], messages: [&[HashBlock]; L]) {
    let zero = _mm_setzero_si128();
    let mut lanes = [Sha256Lane {
        abef: zero,
        cdgh: zero,
        words: [zero; 4],
    }; L];
    for at in 0..L {
        let [a, b, c, d, e, f, g, h] = *states[at];
        lanes[at].abef = _mm_set_epi32(a as i32, b as i32, e as i32, f as i32);
        lanes[at].cdgh = _mm_set_epi32(c as i32, d as i32, g as i32, h as i32);
    }
    let blocks = messages.iter().map(|message| message.len()).min();
    for block in 0..blocks.unwrap_or(0) {
        let saved = lanes;
        sha256_four::<0, L>(&mut lanes, &messages, block);
        sha256_four::<1, L>(&mut lanes, &messages, block);
        sha256_four::<2, L>(&mut lanes, &messages, block);
        sha256_four::<3, L>(&mut lanes, &messages, block);
        sha256_four::<4, L>(&mut lanes, &messages, block);
        sha256_four::<5, L>(&mut lanes, &messages, block);
        sha256_four::<6, L>(&mut lanes, &messages, block);
        sha256_four::<7, L>(&mut lanes, &messages, block);
        sha256_four::<8, L>(&mut lanes, &messages, block);
        sha256_four::<9, L>(&mut lanes, &messages, block);
        sha256_four::<10, L>(&mut lanes, &messages, block);
        sha256_four::<11, L>(&mut lanes, &messages, block);
        sha256_four::<12, L>(&mut lanes, &messages, block);
        sha256_four::<13, L>(&mut lanes, &messages, block);
        sha256_four::<14, L>(&mut lanes, &messages, block);
        sha256_four::<15, L>(&mut lanes, &messages, block);
        for at in 0..L {
            lanes[at].abef = _mm_add_epi32(lanes[at].abef, saved[at].abef);
            lanes[at].cdgh = _mm_add_epi32(lanes[at].cdgh, saved[at].cdgh);
        }
    }
    for at in 0..L {
        let Sha256Lane { abef, cdgh, .. } = lanes[at];
        let words = [
            _mm_extract_epi32::<3>(abef),
            _mm_extract_epi32::<2>(abef),
            _mm_extract_epi32::<3>(cdgh),
            _mm_extract_epi32::<2>(cdgh),
            _mm_extract_epi32::<1>(abef),
            _mm_extract_epi32::<0>(abef),
            _mm_extract_epi32::<1>(cdgh),
            _mm_extract_epi32::<0>(cdgh),
        ];
        for word in 0..8 {
            states[at][word] = words[word] as u32;
        }
    }
}

/// Rounds `4 * GROUP` to `4 * GROUP + 3` of every lane.
#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn sha256_four<const GROUP: usize, const L: usize>(
    lanes: &mut [Sha256Lane; L],
    messages: &[&[HashBlock]; L],
    block: usize,
) {
    let big_endian = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    for at in 0..L {
        let lane = &mut lanes[at];
        let words = if GROUP < 4 {
            let (quarters, _) = messages[at][block].as_chunks();
            _mm_shuffle_epi8(load(&quarters[GROUP]), big_endian)
        } else {
            let (first, second) = (lane.words[GROUP % 4], lane.words[(GROUP + 1) % 4]);
            let (third, fourth) = (lane.words[(GROUP + 2) % 4], lane.words[(GROUP + 3) % 4]);
            let seven_ago = _mm_alignr_epi8::<4>(fourth, third);
            let sum = _mm_add_epi32(_mm_sha256msg1_epu32(first, second), seven_ago);
            _mm_sha256msg2_epu32(sum, fourth)
        };
        lane.words[GROUP % 4] = words;
        let [k0, k1, k2, k3] = SHA256_K[GROUP];
        let constants = _mm_set_epi32(k3 as i32, k2 as i32, k1 as i32, k0 as i32);
        let keyed = _mm_add_epi32(words, constants);
        lane.cdgh = _mm_sha256rnds2_epu32(lane.cdgh, lane.abef, keyed);
        let upper = _mm_shuffle_epi32::<0x0e>(keyed);
        lane.abef = _mm_sha256rnds2_epu32(lane.abef, lane.cdgh, upper);
    }
}
