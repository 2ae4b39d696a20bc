//! The processor's own counter, for benches that speak of cycles.

#![allow(unsafe_code, reason = "reading the time stamp counter")]

#[cfg(target_arch = "x86_64")]
use std::sync::LazyLock;

/// The time stamp counter; `None` where there is none that counts cycles.
///
/// On today's x86-64 it runs at one fixed rate, close to the clock the CPU is sold with, whatever the core's own clock does at the
/// moment. The instruction may run a little before or after its neighbours: good for thousands of cycles, not for ten.
pub fn now() -> Option<u64> {
    #[cfg(target_arch = "x86_64")]
    if *ALLOWED {
        // SAFETY: every x86-64 has the instruction, and the system lets this program use it; it touches no memory.
        return Some(unsafe { core::arch::x86_64::_rdtsc() });
    }
    None
}

/// Whether the system lets programs read the counter: where it does not (`PR_TSC_SIGSEGV`), trying ends the process. Asked once.
#[cfg(target_arch = "x86_64")]
static ALLOWED: LazyLock<bool> = LazyLock::new(allowed);

#[cfg(target_arch = "x86_64")]
fn allowed() -> bool {
    let mut mode: libc::c_int = 0;
    // SAFETY: PR_GET_TSC writes one int to where the pointer shows.
    let asked = unsafe { libc::prctl(libc::PR_GET_TSC, &raw mut mode) };
    asked == 0 && mode == libc::PR_TSC_ENABLE
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

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn where_the_system_forbids_it_there_is_none() {
        // A thread asks for itself alone.
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
