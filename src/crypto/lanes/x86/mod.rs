//! Kernels for x86-64, and the types that prove that this CPU has their instructions.
//!
//! A function compiled for instructions that the CPU lacks must never be called. Values of [`AesNi`], [`Vaes`], [`Avx2`] and [`ShaNi`]
//! come only from `detect`; every safe function here takes one, which makes the call of the compiled function sound.

#![allow(
    unsafe_code,
    reason = "calling functions compiled for more than the baseline, and loads and stores of vectors"
)]
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::needless_range_loop,
    reason = "indices are constants or loop counters below the lengths of arrays, which the compiler unrolls"
)]

pub(super) mod aesni;
pub(super) mod cbc_scheduler;
pub(super) mod sha_avx2;
pub(super) mod sha_ni;
pub(super) mod vaes;

use core::arch::x86_64::*;

/// One block of AES.
pub(super) type Block = [u8; 16];

/// Proof that this CPU has AES-NI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AesNi(());

/// Proof that this CPU has VAES and AVX2 besides AES-NI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Vaes(AesNi);

/// Proof that this CPU has AVX2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Avx2(());

/// Proof that this CPU has SHA-NI, SSSE3 and SSE4.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ShaNi(());

impl AesNi {
    pub(super) fn detect() -> Option<AesNi> {
        (is_x86_feature_detected!("aes")).then_some(AesNi(()))
    }
}

impl Vaes {
    pub(super) fn detect() -> Option<Vaes> {
        let wide = is_x86_feature_detected!("vaes") && is_x86_feature_detected!("avx2");
        AesNi::detect().filter(|_| wide).map(Vaes)
    }

    /// The proof of AES-NI, which VAES includes.
    pub(super) fn narrow(self) -> AesNi {
        self.0
    }
}

impl Avx2 {
    pub(super) fn detect() -> Option<Avx2> {
        is_x86_feature_detected!("avx2").then_some(Avx2(()))
    }
}

impl ShaNi {
    pub(super) fn detect() -> Option<ShaNi> {
        let all = is_x86_feature_detected!("sha")
            && is_x86_feature_detected!("ssse3")
            && is_x86_feature_detected!("sse4.1");
        all.then_some(ShaNi(()))
    }
}

/// The constants of SHA-256 (FIPS 180-4 §4.2.2).
#[rustfmt::skip]
static SHA256_K: [[u32; 4]; 16] = [
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

#[inline(always)]
fn load(bytes: &Block) -> __m128i {
    // SAFETY: `bytes` has sixteen bytes to read; the load takes any alignment, and SSE2 is part of x86-64.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[inline(always)]
fn store(bytes: &mut Block, value: __m128i) {
    // SAFETY: `bytes` has sixteen bytes to write; the store takes any alignment, and SSE2 is part of x86-64.
    unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), value) }
}
