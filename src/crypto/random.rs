//! Randomness as an argument: a ChaCha20 generator, seeded once at the start of the program or of a test.

use std::fmt;

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

/// A cryptographically strong random generator that can be replayed from its seed.
///
/// The daemon seeds the generator from the operating system. A test seeds it with constants, and so can force the outcome of a
/// collision.
pub struct Generator(ChaCha20Rng);

impl Generator {
    /// A generator whose output depends on `seed` alone.
    pub fn from_seed(seed: [u8; 32]) -> Generator {
        Generator(ChaCha20Rng::from_seed(seed))
    }

    /// Fills `buffer` with random bytes.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        self.0.fill_bytes(buffer);
    }

    /// `N` random bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }

    /// A random 32-bit number.
    pub fn u32(&mut self) -> u32 {
        self.0.next_u32()
    }

    /// A random 64-bit number.
    pub fn u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A uniform number in `0..bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        let Some(last) = bound.checked_sub(1) else {
            return 0;
        };
        // A candidate has as many bits as `last`. One above it is drawn again, with a probability below one half.
        let mask = u64::MAX.checked_shr(last.leading_zeros()).unwrap_or(0);
        loop {
            let candidate = self.u64() & mask;
            if candidate <= last {
                return candidate;
            }
        }
    }

    /// The generator as the crates of the key exchange methods take it.
    pub(super) fn inner(&mut self) -> &mut ChaCha20Rng {
        &mut self.0
    }
}

impl fmt::Debug for Generator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Generator(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_determines_the_numbers() {
        let mut a = Generator::from_seed([7; 32]);
        let mut b = Generator::from_seed([7; 32]);
        assert_eq!(a.bytes::<33>(), b.bytes::<33>());
        assert_eq!(
            (a.u32(), a.u64(), a.below(1000)),
            (b.u32(), b.u64(), b.below(1000))
        );
    }

    #[test]
    fn below_is_uniform_below_its_bound() {
        let mut rng = Generator::from_seed([2; 32]);
        for bound in [1, 2, 3, 7, 1 << 63, (1 << 63) + 1, u64::MAX] {
            assert!((0..100).all(|_| rng.below(bound) < bound));
        }
        let mut seen = [0u32; 5];
        for _ in 0..5000 {
            seen[rng.below(5) as usize] += 1;
        }
        assert!(seen.iter().all(|&n| (800..1200).contains(&n)), "{seen:?}");
        assert_eq!(rng.below(0), 0);
    }

    #[test]
    fn debug_shows_no_state() {
        assert_eq!(
            format!("{:?}", Generator::from_seed([3; 32])),
            "Generator(…)"
        );
    }
}
