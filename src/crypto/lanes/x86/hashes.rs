//! Hands the messages of a batch to a kernel for hashing, so that it runs as full as the batch allows.

use super::{Avx2, ShaNi, sha1avx2, sha1ni, sha256avx2, sha256ni};
use crate::crypto::lanes::hmac::{Algorithm, HashBlock, HashState};
use crate::crypto::lanes::scheduler::{HashUnit, MAX_SLOTS};

/// SHA-1 with SHA-NI.
pub(in crate::crypto::lanes) struct Sha1Ni(pub(in crate::crypto::lanes) ShaNi);

/// SHA-256 with SHA-NI.
pub(in crate::crypto::lanes) struct Sha256Ni(pub(in crate::crypto::lanes) ShaNi);

/// SHA-1 with AVX2.
pub(in crate::crypto::lanes) struct Sha1Avx2(pub(in crate::crypto::lanes) Avx2);

/// SHA-256 with AVX2.
pub(in crate::crypto::lanes) struct Sha256Avx2(pub(in crate::crypto::lanes) Avx2);

impl HashUnit for Sha1Ni {
    const SLOTS: usize = 4;

    fn step(
        &self,
        live: usize,
        states: &mut [HashState; MAX_SLOTS],
        blocks: &[&[HashBlock]; MAX_SLOTS],
    ) {
        let ([a, b, c, d, ..], [p, q, r, s, ..]) = (states, blocks);
        match live {
            1 => sha1ni::compress(self.0, [a], [p]),
            2 => sha1ni::compress(self.0, [a, b], [p, q]),
            3 => sha1ni::compress(self.0, [a, b, c], [p, q, r]),
            _ => sha1ni::compress(self.0, [a, b, c, d], [p, q, r, s]),
        }
    }
}

impl HashUnit for Sha256Ni {
    const SLOTS: usize = 4;

    fn step(
        &self,
        live: usize,
        states: &mut [HashState; MAX_SLOTS],
        blocks: &[&[HashBlock]; MAX_SLOTS],
    ) {
        let ([a, b, c, d, ..], [p, q, r, s, ..]) = (states, blocks);
        match live {
            1 => sha256ni::compress(self.0, [a], [p]),
            2 => sha256ni::compress(self.0, [a, b], [p, q]),
            3 => sha256ni::compress(self.0, [a, b, c], [p, q, r]),
            _ => sha256ni::compress(self.0, [a, b, c, d], [p, q, r, s]),
        }
    }
}

impl HashUnit for Sha1Avx2 {
    const SLOTS: usize = MAX_SLOTS;

    fn step(
        &self,
        live: usize,
        states: &mut [HashState; MAX_SLOTS],
        blocks: &[&[HashBlock]; MAX_SLOTS],
    ) {
        if live == 1 {
            Algorithm::Sha1.step(live, states, blocks);
        } else {
            sha1avx2::compress(self.0, states, blocks);
        }
    }
}

impl HashUnit for Sha256Avx2 {
    const SLOTS: usize = MAX_SLOTS;

    fn step(
        &self,
        live: usize,
        states: &mut [HashState; MAX_SLOTS],
        blocks: &[&[HashBlock]; MAX_SLOTS],
    ) {
        if live == 1 {
            Algorithm::Sha256.step(live, states, blocks);
        } else {
            sha256avx2::compress(self.0, states, blocks);
        }
    }
}
