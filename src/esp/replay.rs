//! The anti-replay window (RFC 4303 §3.4.3), as a ring of 64-bit words that never shifts (RFC 6479).
//!
//! ```text
//!            stale            │          window: `size` numbers         │   ahead: always fresh
//!  ───────────────────────────┼─────────────────────────────────────────┼──────────────────────────▶ sequence
//!                       top - size                                     top
//!
//!  ring   [ word 0 ][ word 1 ][ word 2 ] … [ word n-1 ]      number s is in word (s / 64) mod n, bit s mod 64
//! ```
//!
//! Moving the window forward clears the whole words it enters, nothing else. The ring has at least one word more than the
//! window needs, so that clearing the word that `top` enters never clears a number inside the window.
//!
//! Numbers are 64 bits wide throughout. Without extended sequence numbers the high half is zero; with them only the low half
//! travels, and [`infer`] finds the high half from where the window stands.

/// Allowed window sizes, in packets.
pub const SIZES: std::ops::RangeInclusive<u32> = 64..=65_536;

/// Default window size. Reordering across paths or worker threads delays packets by hundreds.
pub const DEFAULT_SIZE: u32 = 4096;

/// Anti-replay window.
#[derive(Debug)]
pub struct Window {
    top: u64,
    size: u64,
    ring: Box<[u64]>,
}

impl Window {
    /// Empty window of `size` packets; a size outside [`SIZES`] is clamped.
    pub fn new(size: u32) -> Window {
        let size = u64::from(size.clamp(*SIZES.start(), *SIZES.end()));
        let words = size.div_ceil(64).saturating_add(1).next_power_of_two();
        Window {
            top: 0,
            size,
            ring: vec![0; words as usize].into_boxed_slice(),
        }
    }

    /// Highest recorded sequence number; 0 before the first.
    pub fn top(&self) -> u64 {
        self.top
    }

    /// Window size.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether `sequence` is inside or ahead of the window and not recorded. Zero is never sent (RFC 4303 §2.2).
    pub fn admits(&self, sequence: u64) -> bool {
        if sequence == 0 {
            return false;
        }
        if sequence > self.top {
            return true;
        }
        let recent = self.top.wrapping_sub(sequence) < self.size;
        recent
            && self
                .ring
                .get(self.word(sequence))
                .is_some_and(|word| word & bit(sequence) == 0)
    }

    /// Records `sequence` and moves the window up to it. The packet must be authentic and the number [admitted](Window::admits):
    /// a forged number would exclude valid ones (RFC 4303 §3.4.3).
    pub fn record(&mut self, sequence: u64) {
        if sequence > self.top {
            let entered = (sequence / 64)
                .wrapping_sub(self.top / 64)
                .min(self.ring.len() as u64);
            for step in 0..entered {
                let word = self.word(sequence.wrapping_sub(step.wrapping_mul(64)));
                if let Some(word) = self.ring.get_mut(word) {
                    *word = 0;
                }
            }
            self.top = sequence;
        }
        let word = self.word(sequence);
        if let Some(word) = self.ring.get_mut(word) {
            *word |= bit(sequence);
        }
    }

    /// Index of the word; the ring length is a power of two.
    fn word(&self, sequence: u64) -> usize {
        (sequence / 64) as usize & self.ring.len().wrapping_sub(1)
    }
}

fn bit(sequence: u64) -> u64 {
    1u64.wrapping_shl((sequence % 64) as u32)
}

/// The 64-bit number whose low half is `low`, as seen from a window of `size` whose highest number is `top`
/// (RFC 4303 appendix A2.2). `None` if that number would lie before zero or beyond 64 bits.
///
/// ```text
///  case A   ──[ high ···|■■■ window ■■■|····]──         low below the window: it must be of the next high half
///  case B   ──[···■■ win|dow ■■|···········]──         low at or above the window's bottom: still of the last high half
/// ```
pub fn infer(low: u32, top: u64, size: u64) -> Option<u64> {
    let (top_high, top_low) = (top >> 32, top & LOW);
    let bottom_low = top_low.wrapping_sub(size).wrapping_add(1) & LOW;
    let high = match (
        top_low >= size.saturating_sub(1),
        u64::from(low) >= bottom_low,
    ) {
        (true, true) | (false, false) => top_high,
        (true, false) => top_high.checked_add(1).filter(|high| *high <= LOW)?,
        (false, true) => top_high.checked_sub(1)?,
    };
    Some(high << 32 | u64::from(low))
}

const LOW: u64 = 0xffff_ffff;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    /// What a receiver does with an authentic packet.
    fn receive(window: &mut Window, sequence: u64) -> bool {
        let fresh = window.admits(sequence);
        if fresh {
            window.record(sequence);
        }
        fresh
    }

    #[test]
    fn e05_zero_is_never_accepted() {
        let mut window = Window::new(64);
        assert!(!receive(&mut window, 0));
        assert!(receive(&mut window, 1));
        assert!(!receive(&mut window, 0));
    }

    #[test]
    fn e05_a_repeated_number_is_rejected() {
        let mut window = Window::new(64);
        assert!(receive(&mut window, 7));
        assert!(!receive(&mut window, 7));
        assert!(receive(&mut window, 6));
        assert!(!receive(&mut window, 6));
    }

    #[test]
    fn e05_the_edge_of_the_window_is_exact_for_any_size() {
        for size in [64, 65, 100, 127, 128, 1000, 4096, 65_536] {
            for top in [1_000_000u64, 1_000_063, 1_000_064] {
                let mut window = Window::new(size);
                window.record(top);
                let size = u64::from(size);
                assert!(
                    receive(&mut window, top - (size - 1)),
                    "W-1 behind, size {size}"
                );
                assert!(!receive(&mut window, top - size), "W behind, size {size}");
                assert!(
                    !receive(&mut window, top - (size + 1)),
                    "W+1 behind, size {size}"
                );
            }
        }
    }

    #[test]
    fn e05_a_jump_of_two_to_the_31_moves_the_window() {
        let mut window = Window::new(4096);
        assert!((1..=5000).all(|sequence| receive(&mut window, sequence)));
        let far = 5000 + (1 << 31);
        assert!(receive(&mut window, far));
        assert!(!receive(&mut window, 5000));
        assert!((far - 4095..far).all(|sequence| receive(&mut window, sequence)));
        assert!((far - 4095..=far).all(|sequence| !receive(&mut window, sequence)));
    }

    #[test]
    fn a_size_out_of_range_is_clamped() {
        assert_eq!(Window::new(0).size(), 64);
        assert_eq!(Window::new(1_000_000).size(), 65_536);
    }

    #[test]
    fn e06_the_high_half_is_inferred_on_both_sides_of_a_wrap() {
        let wrap = 1u64 << 32;
        // Case A: the window lies inside one subspace.
        assert_eq!(infer(10_000, 10_000, 64), Some(10_000));
        assert_eq!(infer(10_000 - 63, 10_000, 64), Some(10_000 - 63));
        assert_eq!(infer(10_000 - 64, 10_000, 64), Some(wrap + 10_000 - 64));
        assert_eq!(infer(0, wrap - 1, 64), Some(wrap));
        // Case B: the window spans the wrap.
        assert_eq!(infer(0xffff_fffe, wrap + 5, 64), Some(wrap - 2));
        assert_eq!(infer(6, wrap + 5, 64), Some(wrap + 6));
    }

    #[test]
    fn e06_numbers_below_zero_or_beyond_64_bits_are_none() {
        assert_eq!(infer(0xffff_fff0, 5, 64), None);
        assert_eq!(infer(0, u64::MAX, 64), None);
    }

    #[test]
    fn e06_a_replay_across_the_wrap_is_rejected() {
        let wrap = 1u64 << 32;
        let mut window = Window::new(128);
        for sequence in wrap - 100..wrap + 20 {
            let inferred = infer(sequence as u32, window.top(), window.size());
            // The very first number seen is the one A2.2 cannot know; every later one follows from the window.
            let inferred = if window.top() == 0 {
                Some(sequence)
            } else {
                inferred
            };
            assert_eq!(inferred, Some(sequence));
            assert!(receive(&mut window, sequence));
        }
        for sequence in wrap - 100..wrap + 20 {
            assert_eq!(
                infer(sequence as u32, window.top(), window.size()),
                Some(sequence)
            );
            assert!(!receive(&mut window, sequence));
        }
    }

    proptest! {
        /// The ring agrees with a set that forgets nothing, whatever the order of packet.
        #[test]
        fn e05_the_ring_agrees_with_a_set(size in 64u32..300, steps in prop::collection::vec(-400i64..400, 1..400)) {
            let mut window = Window::new(size);
            let (mut seen, mut top, mut at) = (HashSet::new(), 0u64, 1000u64);
            for step in steps {
                at = at.saturating_add_signed(step);
                let recent = at > top || top - at < u64::from(size);
                let expected = at != 0 && recent && !seen.contains(&at);
                prop_assert_eq!(receive(&mut window, at), expected, "sequence {} top {}", at, top);
                if expected {
                    seen.insert(at);
                    top = top.max(at);
                }
            }
        }

        /// A sender within half the subspace of the window's top is always understood.
        #[test]
        fn e06_the_sent_number_is_inferred(top in 70_000u64..1 << 40, ahead in 0u64..1 << 31, behind in 0u64..4096, forward: bool) {
            let sent = if forward { top + ahead } else { top - behind };
            prop_assert_eq!(infer(sent as u32, top, 4096), Some(sent));
        }
    }
}
