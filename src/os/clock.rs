//! Clocks: the time since boot and the CPU cycle counter. No other module reads the system's time.

#[cfg(target_arch = "x86_64")]
use std::sync::LazyLock;

use nix::time::{ClockId, clock_gettime};

use crate::net::Time;

/// Time since boot. `CLOCK_BOOTTIME` includes suspends, so that after one both peers agree on the age of an SA, and does not jump
/// when the date is set.
pub fn now() -> Time {
    let now =
        clock_gettime(ClockId::CLOCK_BOOTTIME).expect("CLOCK_BOOTTIME exists since Linux 2.6.39");
    let (seconds, nanos) = (now.tv_sec().cast_unsigned(), now.tv_nsec().cast_unsigned());
    Time::from_nanos(seconds * 1_000_000_000 + nanos)
}

/// Time stamp counter; `None` on machines without one.
///
/// On current x86-64 CPUs the counter has a constant rate near the nominal clock rate. The instruction is not ordered with its
/// neighbours: differences of thousands of cycles are meaningful, differences of ten are not.
#[allow(unsafe_code, reason = "reading the time stamp counter")]
pub fn cycles() -> Option<u64> {
    #[cfg(target_arch = "x86_64")]
    if *TSC_ALLOWED {
        // SAFETY: every x86-64 CPU has the instruction, `TSC_ALLOWED` shows that the system permits it, and it accesses no memory.
        return Some(unsafe { core::arch::x86_64::_rdtsc() });
    }
    None
}

/// Whether programs may read the counter. With `PR_TSC_SIGSEGV`, reading it would terminate the process.
#[cfg(target_arch = "x86_64")]
static TSC_ALLOWED: LazyLock<bool> = LazyLock::new(tsc_allowed);

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "prctl(PR_GET_TSC) has no safe wrapper")]
fn tsc_allowed() -> bool {
    let mut mode: libc::c_int = 0;
    // SAFETY: PR_GET_TSC writes one int through the pointer.
    let result = unsafe { libc::prctl(libc::PR_GET_TSC, &raw mut mode) };
    result == 0 && mode == libc::PR_TSC_ENABLE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_the_uptime_of_the_kernel_and_is_monotonic() {
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        let (first, second) = (now(), now());
        assert!(first <= second);
        assert!(
            (first.as_secs_f64() - uptime).abs() < 5.0,
            "{first:?} against {uptime}"
        );
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_counter_increases() {
        let before = cycles().unwrap();
        let spent = (0..1000).fold(0u64, |sum, n| std::hint::black_box(sum ^ n));
        assert!(cycles().unwrap() > before, "{spent}");
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    #[allow(unsafe_code, reason = "forbidding the time stamp counter")]
    fn without_permission_there_is_no_counter() {
        // The setting applies to the calling thread.
        std::thread::spawn(|| {
            // SAFETY: PR_SET_TSC takes a number.
            let forbidden = unsafe { libc::prctl(libc::PR_SET_TSC, libc::PR_TSC_SIGSEGV) };
            assert_eq!(forbidden, 0);
            assert!(!tsc_allowed());
        })
        .join()
        .unwrap();
        assert!(tsc_allowed());
    }
}
