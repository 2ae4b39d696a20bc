//! The clock: the only place that reads the system's time.

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
}
