//! Kernels: the instructions that run AES and SHA, of those that the CPU has.

use std::fmt;

#[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
use super::x86;

/// The instructions that run the lanes. A value exists only for what this CPU has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    pub(super) aes: AesUnit,
    pub(super) sha: ShaUnit,
}

/// The instructions that run AES.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AesUnit {
    Portable,
    #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
    AesNi(x86::AesNi),
    #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
    Vaes(x86::Vaes),
}

/// The instructions that run SHA-1 and SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ShaUnit {
    Portable,
    #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
    Avx2(x86::Avx2),
    #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
    ShaNi(x86::ShaNi),
}

impl Kernel {
    /// The portable reference, without instructions of our own choice.
    pub const PORTABLE: Kernel = Kernel {
        aes: AesUnit::Portable,
        sha: ShaUnit::Portable,
    };

    /// Kernels that cover every unit of this CPU, the portable one first and the best one last, for tests and benches. The AES and
    /// SHA units are independent, so not every pair of them is listed.
    pub fn all() -> impl Iterator<Item = Kernel> {
        let count = aes_units().count().max(sha_units().count());
        (1..=count).map(|up_to| Kernel {
            aes: aes_units().take(up_to).last().unwrap_or(AesUnit::Portable),
            sha: sha_units().take(up_to).last().unwrap_or(ShaUnit::Portable),
        })
    }
}

impl AesUnit {
    pub(super) fn word(self) -> &'static str {
        match self {
            AesUnit::Portable => "portable aes",
            #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
            AesUnit::AesNi(_) => "aes-ni x8",
            #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
            AesUnit::Vaes(_) => "vaes x16",
        }
    }
}

impl ShaUnit {
    pub(super) fn word(self) -> &'static str {
        match self {
            ShaUnit::Portable => "portable sha",
            #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
            ShaUnit::Avx2(_) => "avx2 x8",
            #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
            ShaUnit::ShaNi(_) => "sha-ni x4",
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Kernel::PORTABLE {
            return f.write_str("portable");
        }
        write!(f, "{}, {}", self.sha.word(), self.aes.word())
    }
}

/// The AES units of this CPU, slowest first.
pub(super) fn aes_units() -> impl Iterator<Item = AesUnit> {
    let units = std::iter::once(AesUnit::Portable);
    #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
    let units = units
        .chain(x86::AesNi::detect().map(AesUnit::AesNi))
        .chain(x86::Vaes::detect().map(AesUnit::Vaes));
    units
}

/// The SHA units of this CPU, slowest first.
pub(super) fn sha_units() -> impl Iterator<Item = ShaUnit> {
    let units = std::iter::once(ShaUnit::Portable);
    #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
    let units = units
        .chain(x86::Avx2::detect().map(ShaUnit::Avx2))
        .chain(x86::ShaNi::detect().map(ShaUnit::ShaNi));
    units
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_portable_kernel_comes_first_and_each_has_a_name() {
        let all: Vec<Kernel> = Kernel::all().collect();
        assert_eq!(all.first(), Some(&Kernel::PORTABLE));
        assert_eq!(Kernel::PORTABLE.to_string(), "portable");
        let mut names: Vec<String> = all.iter().map(Kernel::to_string).collect();
        names.dedup();
        assert_eq!(names.len(), all.len());
    }
}
