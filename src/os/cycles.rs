//! CPU cycle counter, for benchmarks.

#![allow(unsafe_code, reason = "reading the time stamp counter")]

#[cfg(target_arch = "x86_64")]
use std::sync::LazyLock;

/// Time stamp counter; `None` on machines without one.
///
/// On current x86-64 CPUs the counter has a constant rate near the nominal clock rate. The instruction is not ordered with its
/// neighbours: differences of thousands of cycles are meaningful, differences of ten are not.
pub fn now() -> Option<u64> {
    #[cfg(target_arch = "x86_64")]
    if *ALLOWED {
        // SAFETY: every x86-64 CPU has the instruction, `ALLOWED` shows that the system permits it, and it accesses no memory.
        return Some(unsafe { core::arch::x86_64::_rdtsc() });
    }
    None
}

/// Whether programs may read the counter. With `PR_TSC_SIGSEGV`, reading it would terminate the process.
#[cfg(target_arch = "x86_64")]
static ALLOWED: LazyLock<bool> = LazyLock::new(allowed);

#[cfg(target_arch = "x86_64")]
fn allowed() -> bool {
    let mut mode: libc::c_int = 0;
    // SAFETY: PR_GET_TSC writes one int through the pointer.
    let asked = unsafe { libc::prctl(libc::PR_GET_TSC, &raw mut mode) };
    asked == 0 && mode == libc::PR_TSC_ENABLE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_counter_increases() {
        let before = now().unwrap();
        let spent = (0..1000).fold(0u64, |sum, n| std::hint::black_box(sum ^ n));
        assert!(now().unwrap() > before, "{spent}");
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn without_permission_there_is_no_counter() {
        // The setting applies to the calling thread.
        std::thread::spawn(|| {
            // SAFETY: PR_SET_TSC takes a number.
            let forbidden = unsafe { libc::prctl(libc::PR_SET_TSC, libc::PR_TSC_SIGSEGV) };
            assert_eq!(forbidden, 0);
            assert!(!allowed());
        })
        .join()
        .unwrap();
        assert!(allowed());
    }
}
