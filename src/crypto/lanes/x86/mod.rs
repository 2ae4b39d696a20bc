//! The kernels for x86-64, and the proofs that this CPU runs them.
//!
//! A function compiled for instructions that the CPU lacks must never be called. [`AesNi`], [`Vaes`], [`Avx2`] and [`ShaNi`] can
//! only be had from `detect`; every safe function here takes one, and so may call the function behind it.

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
pub(super) mod hashes;
mod sha1avx2;
mod sha1ni;
mod sha256avx2;
mod sha256ni;
pub(super) mod slots;
pub(super) mod vaes;
mod words;

use core::arch::x86_64::*;

use zeroize::{Zeroize, ZeroizeOnDrop};

/// One block of AES.
pub(super) type Block = [u8; 16];

/// This CPU has AES-NI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AesNi(());

/// This CPU has VAES and AVX2 besides AES-NI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Vaes(AesNi);

/// This CPU has AVX2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Avx2(());

/// This CPU has SHA-NI, with SSSE3 and SSE4.1.
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

    /// What has VAES has AES-NI.
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

/// The round keys of AES, for encryption or for decryption; wiped when dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
#[repr(align(16))]
pub(super) struct Schedule {
    keys: [Block; 15],
    /// 10, 12 or 14.
    rounds: usize,
}

#[inline(always)]
fn load(bytes: &Block) -> __m128i {
    // SAFETY: sixteen bytes are there to read, at any alignment; SSE2 is part of x86-64.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[inline(always)]
fn store(bytes: &mut Block, value: __m128i) {
    // SAFETY: sixteen bytes are there to write, at any alignment; SSE2 is part of x86-64.
    unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), value) }
}
