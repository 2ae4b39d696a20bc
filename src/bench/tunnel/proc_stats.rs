//! What a process takes of the machine, from /proc.

use std::fs;
use std::time::Duration;

/// CPU time of all threads of a process since it began, in user and kernel mode. What the kernel does for it in softirqs of others
/// is not in it.
pub(super) fn cpu_time(process: u32) -> Option<Duration> {
    parse_stat(&fs::read_to_string(format!("/proc/{process}/stat")).ok()?)
}

/// Resident memory in bytes.
pub(super) fn resident(process: u32) -> Option<u64> {
    parse_status(&fs::read_to_string(format!("/proc/{process}/status")).ok()?)
}

/// A tick of /proc: USER_HZ, 100 on every architecture we build for.
const TICK: Duration = Duration::from_millis(10);

/// proc_pid_stat(5): the name stands in parentheses and may hold anything; utime and stime are fields 14 and 15.
fn parse_stat(stat: &str) -> Option<Duration> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    let mut fields = behind_name.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(TICK * user + TICK * system)
}

fn parse_status(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_moves_no_field() {
        let stat = "7 (a) (b c) S 1 7 7 0 -1 4194560 99 0 0 0 150 25 3 4 20 0 3 0 100 1 2";
        assert_eq!(parse_stat(stat), Some(Duration::from_millis(1750)));
        assert_eq!(parse_stat("7 (a) S 1"), None);
    }

    #[test]
    fn memory_is_what_is_resident() {
        let status = "Name:\tx\nVmHWM:\t 9999 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(parse_status(status), Some(1 << 20));
    }

    #[test]
    fn this_process_has_both() {
        let process = std::process::id();
        assert!(cpu_time(process).is_some());
        assert!(resident(process).unwrap() > 100_000);
    }
}
