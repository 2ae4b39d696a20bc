//! Description of the machine that a benchmark ran on.

use std::fmt;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// Machine, kernel and time of a benchmark.
#[derive(Debug, Clone, Serialize)]
pub struct MachineInfo {
    /// groundlink's version.
    pub version: &'static str,
    /// CPU model.
    pub cpu: String,
    /// Number of hardware threads.
    pub cores: usize,
    /// Kernel release.
    pub kernel: String,
    /// Date and time in UTC.
    pub date: String,
    /// Load average of the minute before the benchmark; a value well above zero means that other work ran on the machine.
    pub load: Option<f64>,
}

impl MachineInfo {
    /// Describes this machine now.
    pub fn current() -> MachineInfo {
        let cpu = fs::read_to_string("/proc/cpuinfo")
            .ok()
            .and_then(|text| model(&text))
            .unwrap_or_else(|| format!("unnamed {} CPU", std::env::consts::ARCH));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let load = fs::read_to_string("/proc/loadavg")
            .ok()
            .and_then(|text| text.split(' ').next()?.parse().ok());
        let since_1970 = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        MachineInfo {
            version: env!("CARGO_PKG_VERSION"),
            cpu,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: kernel.trim().to_owned(),
            date: date(since_1970),
            load,
        }
    }
}

impl fmt::Display for MachineInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MachineInfo {
            version,
            cpu,
            cores,
            kernel,
            date,
            load,
        } = self;
        let cores = match cores {
            1 => "1 core".to_owned(),
            several => format!("{several} cores"),
        };
        write!(
            f,
            "{cpu}, {cores}, Linux {kernel}\ngroundlink {version}, {date}"
        )?;
        match load {
            Some(load) => write!(f, ", load before {load:.2}"),
            None => Ok(()),
        }
    }
}

/// The first `model name` of /proc/cpuinfo; ARM CPUs have none.
fn model(cpuinfo: &str) -> Option<String> {
    cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .and_then(|rest| rest.split_once(':'))
        .map(|(_, name)| name.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Formats a time as `2026-01-31 09:05 UTC`.
fn date(since_1970: u64) -> String {
    let (days, seconds) = (since_1970 / 86_400, since_1970 % 86_400);
    // Proleptic Gregorian calendar with years that begin on 1 March, so that a leap day is the last day; eras of 400 years.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    let year = era * 400 + year + later;
    let (hour, minute) = (seconds / 3600, seconds / 60 % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_follow_the_gregorian_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_399, "2000-02-28 23:59 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (951_868_800, "2000-03-01 00:00 UTC"),
            (1_798_761_599, "2026-12-31 23:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
        ] {
            assert_eq!(date(seconds), text);
        }
    }

    #[test]
    fn the_cpu_model_is_the_first_one_listed() {
        let text = "processor\t: 0\nmodel name\t: AMD EPYC   7763\nflags : a\nmodel name\t: AMD EPYC   7763\n";
        assert_eq!(model(text).as_deref(), Some("AMD EPYC 7763"));
        assert_eq!(model("processor : 0\nFeatures : fp aes\n"), None);
    }
}
