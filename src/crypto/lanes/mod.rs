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
//!   [Sealer] ──▶ cbc::Encryptor ──▶ vaes ×16 │ aes-ni ×8 │ portable
//!        └─────▶ hmac::Hmac ──────▶ sha-ni ×2 │ portable
//!   [Opener] ──▶ hmac::Hmac, then cbc::Decryptor: the blocks of one packet are independent
//! ```
//!
//! [`Kernel`] names what runs, chosen from what the CPU has. The portable form is the reference, built on the block functions of
//! the `aes`, `sha1` and `sha2` crates; every other is tested against it. CPUs with AVX2 but without SHA-NI hash portably, one
//! packet at a time.

pub mod cbc;
pub mod hmac;
mod open;
mod seal;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(test)]
mod differential;

use std::fmt;

pub use open::{Incoming, Opener};
pub use seal::{GROUP, Outgoing, Sealer};

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
    #[cfg(target_arch = "x86_64")]
    AesNi(x86::AesNi),
    #[cfg(target_arch = "x86_64")]
    Vaes(x86::Vaes),
}

/// What hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ShaUnit {
    Portable,
    #[cfg(target_arch = "x86_64")]
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
        let last_aes = aes_units().last().unwrap_or(AesUnit::Portable);
        let last_sha = sha_units().last().unwrap_or(ShaUnit::Portable);
        Kernel {
            aes: last_aes,
            sha: last_sha,
        }
    }

    /// Every one this CPU has, the portable first: what tests and benches go through.
    pub fn all() -> impl Iterator<Item = Kernel> {
        aes_units().flat_map(|aes| sha_units().map(move |sha| Kernel { aes, sha }))
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Kernel::PORTABLE {
            return f.write_str("portable");
        }
        f.write_str(match self.sha {
            ShaUnit::Portable => "portable sha",
            #[cfg(target_arch = "x86_64")]
            ShaUnit::ShaNi(_) => "sha-ni x2",
        })?;
        f.write_str(match self.aes {
            AesUnit::Portable => ", portable aes",
            #[cfg(target_arch = "x86_64")]
            AesUnit::AesNi(_) => ", aes-ni x8",
            #[cfg(target_arch = "x86_64")]
            AesUnit::Vaes(_) => ", vaes x16",
        })
    }
}

/// Slowest first.
fn aes_units() -> impl Iterator<Item = AesUnit> {
    let portable = std::iter::once(AesUnit::Portable);
    #[cfg(target_arch = "x86_64")]
    let portable = portable
        .chain(x86::AesNi::detect().map(AesUnit::AesNi))
        .chain(x86::Vaes::detect().map(AesUnit::Vaes));
    portable
}

/// Slowest first.
fn sha_units() -> impl Iterator<Item = ShaUnit> {
    let portable = std::iter::once(ShaUnit::Portable);
    #[cfg(target_arch = "x86_64")]
    let portable = portable.chain(x86::ShaNi::detect().map(ShaUnit::ShaNi));
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
