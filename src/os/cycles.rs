//! The processor's own counter, for benches that speak of cycles.

#![allow(unsafe_code, reason = "reading the time stamp counter")]

/// The time stamp counter; `None` where there is none that counts cycles.
///
/// On today's x86-64 it runs at one fixed rate, close to the clock the CPU is sold with, whatever the core's own clock does at the
/// moment. The instruction may run a little before or after its neighbours: good for thousands of cycles, not for ten.
pub fn now() -> Option<u64> {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: every x86-64 has the instruction. Where a system forbids it to programs, which none does by default, the
        // process ends; it touches no memory.
        Some(unsafe { core::arch::x86_64::_rdtsc() })
    }
    #[cfg(not(target_arch = "x86_64"))]
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn it_counts_on() {
        let before = now().unwrap();
        let spent = (0..1000).fold(0u64, |sum, n| std::hint::black_box(sum ^ n));
        assert!(now().unwrap() > before, "{spent}");
    }
}
