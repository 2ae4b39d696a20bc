//! Lanes: several packets of a batch encrypted and authenticated at once on one core.
//!
//! CBC encryption and a hash are chains: each block waits for the one before, and the CPU's units for AES and SHA, which could
//! start something new almost every cycle, idle while they wait. Packets do not wait for each other, so lanes take one block of
//! each of several packets in turn (a "multi-buffer" design):
//!
//! ```text
//!             one packet at a time                     lanes
//!   unit   P1.b1 ····· P1.b2 ····· P1.b3      P1.b1 P2.b1 P3.b1 … P8.b1 P1.b2 P2.b2 …
//!                 idle        idle                    never idle
//! ```
//!
//! Packets of different lengths share lanes: whichever ends gives its lane to the next one of the batch.
//!
//! ```text
//!   [BatchSealer] ──▶ cbc::CbcEncryptor ──▶ vaes ×16 │ aes-ni ×8 │ portable
//!        └─────▶ hmac::BatchHmac ──────▶ sha-ni ×4 │ avx2 ×8 │ portable
//!   [BatchOpener] ──▶ hmac::BatchHmac, then cbc::CbcDecryptor: the blocks of one packet are independent
//! ```
//!
//! [`Kernel`] names what runs, chosen from what the CPU has. The portable form is the reference, built on the block functions of
//! the `aes`, `sha1` and `sha2` crates; every other is tested against it. On other processors than x86-64 it is all there is, and
//! the feature `portable` leaves the others out here, too, so that every x86-64 can test what those run.
//!
//! What each came to on one core of a Zen 3 (48 packets of 1408 bytes, Gbit/s; the machine was shared, best of 3,000):
//!
//! | unit | HMAC-SHA1 | HMAC-SHA-256 | AES-128-CBC encrypt / decrypt |
//! |---|---|---|---|
//! | sha-ni ×2 | 18.7 | 17.9 | |
//! | sha-ni ×4 | 26.1 | 20.2 | |
//! | avx2 ×8 | 21.4 | 11.1 | |
//! | `sha1` and `sha2` crates, one message at a time (with SHA-NI where the CPU has it) | 12.4 | 10.2 | |
//! | aes-ni ×8 | | | 57 / 66 |
//! | vaes ×16 | | | 96 / 108 |
//!
//! Two lanes of SHA-NI wait for each other: SHA1RNDS4 starts every second cycle and takes six. Four lanes come closer to the
//! unit's limit than two, though their words no longer fit the registers; three reach 23.0. AVX2 serves CPUs without SHA-NI; on
//! this one it would not win, and eight lanes want eight packets.
//!
//! Stitching, the AES rounds of one group of packets between the SHA rounds of the group before, gained nothing. Raw kernels, 48 buffers
//! of 1408 bytes, one run on that CPU:
//!
//! | design | Gbit/s |
//! |---|---|
//! | VAES ×16, then SHA-NI ×4 (as here) | 26.2 |
//! | AES-NI ×8, then SHA-NI ×4 | 23.0 |
//! | stitched: eight lanes of AES-NI, four of SHA-NI | 13.4 |
//! | stitched: four and four | 12.4 |
//! | stitched: eight and two | 10.9 |
//!
//! Four lanes of SHA-1 fill the sixteen registers by themselves; with AES between them about 300 moves a block go to the stack and back. VAES
//! between them is worse still: SHA-NI has no VEX form, and the SHA rounds alone, compiled among VEX-encoded instructions, fall
//! from 34 to 12.

pub mod cbc;
mod final_blocks;
pub mod hmac;
mod open;
mod scheduler;
mod seal;
#[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
mod x86;

#[cfg(test)]
mod differential;
#[cfg(test)]
mod known_answers;

use std::fmt;

pub use open::{BatchOpener, OpenJob};
pub use seal::{BatchSealer, MAX_LANES, SealJob};

/// Which instructions run the lanes. A value exists only for what this CPU has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    aes: AesUnit,
    sha: ShaUnit,
}

/// What encrypts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AesUnit {
    Portable,
    #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
    AesNi(x86::AesNi),
    #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
    Vaes(x86::Vaes),
}

/// What hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ShaUnit {
    Portable,
    #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
    Avx2(x86::Avx2),
    #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
    ShaNi(x86::ShaNi),
}

impl Kernel {
    /// The reference: no instruction of our own choosing.
    pub const PORTABLE: Kernel = Kernel {
        aes: AesUnit::Portable,
        sha: ShaUnit::Portable,
    };

    /// The fastest this CPU has.
    pub fn best() -> Kernel {
        Kernel::all().last().unwrap_or(Kernel::PORTABLE)
    }

    /// Enough of them that each unit this CPU has is in one, the portable first and the best last: what tests and benches go
    /// through. The units do not know of each other, so not every pair is needed.
    pub fn all() -> impl Iterator<Item = Kernel> {
        let most = aes_units().count().max(sha_units().count());
        (1..=most).map(|up_to| Kernel {
            aes: aes_units().take(up_to).last().unwrap_or(AesUnit::Portable),
            sha: sha_units().take(up_to).last().unwrap_or(ShaUnit::Portable),
        })
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Kernel::PORTABLE {
            return f.write_str("portable");
        }
        f.write_str(match self.sha {
            ShaUnit::Portable => "portable sha",
            #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
            ShaUnit::Avx2(_) => "avx2 x8",
            #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
            ShaUnit::ShaNi(_) => "sha-ni x4",
        })?;
        f.write_str(match self.aes {
            AesUnit::Portable => ", portable aes",
            #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
            AesUnit::AesNi(_) => ", aes-ni x8",
            #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
            AesUnit::Vaes(_) => ", vaes x16",
        })
    }
}

/// Slowest first.
fn aes_units() -> impl Iterator<Item = AesUnit> {
    let portable = std::iter::once(AesUnit::Portable);
    #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
    let portable = portable
        .chain(x86::AesNi::detect().map(AesUnit::AesNi))
        .chain(x86::Vaes::detect().map(AesUnit::Vaes));
    portable
}

/// Slowest first.
fn sha_units() -> impl Iterator<Item = ShaUnit> {
    let portable = std::iter::once(ShaUnit::Portable);
    #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
    let portable = portable
        .chain(x86::Avx2::detect().map(ShaUnit::Avx2))
        .chain(x86::ShaNi::detect().map(ShaUnit::ShaNi));
    portable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_portable_kernel_comes_first_and_the_best_last() {
        let all: Vec<Kernel> = Kernel::all().collect();
        assert_eq!(all.first(), Some(&Kernel::PORTABLE));
        assert_eq!(all.last(), Some(&Kernel::best()));
        assert_eq!(Kernel::PORTABLE.to_string(), "portable");
        let mut names: Vec<String> = all.iter().map(Kernel::to_string).collect();
        names.dedup();
        assert_eq!(names.len(), all.len());
    }
}
