//! The clock: the only place where time comes from the system.

use nix::time::{ClockId, clock_gettime};

use crate::net::Time;

/// The time since boot. Suspends count (`CLOCK_BOOTTIME`), so that after one the peer's view and ours agree on how old an SA is;
/// it never jumps when somebody sets the date.
pub fn now() -> Time {
    let now =
        clock_gettime(ClockId::CLOCK_BOOTTIME).expect("CLOCK_BOOTTIME exists since Linux 2.6.39");
    let (seconds, nanos) = (now.tv_sec().cast_unsigned(), now.tv_nsec().cast_unsigned());
    Time::from_nanos(seconds * 1_000_000_000 + nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_that_of_the_kernel_and_never_runs_back() {
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        let (first, second) = (now(), now());
        assert!(first <= second);
        assert!(
            (first.as_secs_f64() - uptime).abs() < 5.0,
            "{first:?} against {uptime}"
        );
    }
}
