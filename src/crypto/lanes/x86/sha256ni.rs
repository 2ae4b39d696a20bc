//! SHA-256 (FIPS 180-4 §6.2) with SHA-NI: two rounds an instruction, `L` messages interleaved.

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

/// The constants of FIPS 180-4 §4.2.2.
#[rustfmt::skip]
pub(super) static K: [[u32; 4]; 16] = [
    [0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5],
    [0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5],
    [0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3],
    [0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174],
    [0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc],
    [0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da],
    [0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7],
    [0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967],
    [0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13],
    [0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85],
    [0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3],
    [0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070],
    [0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5],
    [0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3],
    [0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208],
    [0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2],
];

/// A message under way, in the order that the instruction takes the state in.
#[derive(Clone, Copy)]
struct Lane {
    abef: __m128i,
    cdgh: __m128i,
    /// The last sixteen words of the message schedule, four to a register.
    words: [__m128i; 4],
}

#[target_feature(enable = "sha,ssse3,sse4.1")]
fn lanes<const L: usize>(states: [&mut HashState; L], messages: [&[HashBlock]; L]) {
    let zero = _mm_setzero_si128();
    let mut lanes = [Lane {
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
        four::<0, L>(&mut lanes, &messages, block);
        four::<1, L>(&mut lanes, &messages, block);
        four::<2, L>(&mut lanes, &messages, block);
        four::<3, L>(&mut lanes, &messages, block);
        four::<4, L>(&mut lanes, &messages, block);
        four::<5, L>(&mut lanes, &messages, block);
        four::<6, L>(&mut lanes, &messages, block);
        four::<7, L>(&mut lanes, &messages, block);
        four::<8, L>(&mut lanes, &messages, block);
        four::<9, L>(&mut lanes, &messages, block);
        four::<10, L>(&mut lanes, &messages, block);
        four::<11, L>(&mut lanes, &messages, block);
        four::<12, L>(&mut lanes, &messages, block);
        four::<13, L>(&mut lanes, &messages, block);
        four::<14, L>(&mut lanes, &messages, block);
        four::<15, L>(&mut lanes, &messages, block);
        for at in 0..L {
            lanes[at].abef = _mm_add_epi32(lanes[at].abef, saved[at].abef);
            lanes[at].cdgh = _mm_add_epi32(lanes[at].cdgh, saved[at].cdgh);
        }
    }
    for at in 0..L {
        let Lane { abef, cdgh, .. } = lanes[at];
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
fn four<const GROUP: usize, const L: usize>(
    lanes: &mut [Lane; L],
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
        let [k0, k1, k2, k3] = K[GROUP];
        let constants = _mm_set_epi32(k3 as i32, k2 as i32, k1 as i32, k0 as i32);
        let keyed = _mm_add_epi32(words, constants);
        lane.cdgh = _mm_sha256rnds2_epu32(lane.cdgh, lane.abef, keyed);
        let upper = _mm_shuffle_epi32::<0x0e>(keyed);
        lane.abef = _mm_sha256rnds2_epu32(lane.abef, lane.cdgh, upper);
    }
}
