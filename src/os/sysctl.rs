//! Kernel settings (/proc/sys) that tunnels depend on.

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;

/// Reads a setting by its dotted name, such as `net.ipv4.ip_forward`. Slashes work too, and are necessary for device names with
/// dots.
///
/// # Errors
/// The kernel or namespace has no such setting.
pub fn read(setting: &str) -> io::Result<String> {
    Ok(fs::read_to_string(path(setting))?.trim_end().to_owned())
}

/// Changes a setting.
///
/// # Errors
/// There is no such setting, or it is not writable (CAP_NET_ADMIN for `net.*`; read-only /proc/sys in containers).
pub fn write(setting: &str, value: &str) -> io::Result<()> {
    fs::write(path(setting), value)
}

fn path(setting: &str) -> PathBuf {
    let relative = if setting.contains('/') {
        setting.to_owned()
    } else {
        setting.replace('.', "/")
    };
    PathBuf::from("/proc/sys").join(relative)
}

/// Sets loose reverse-path filtering on one device, since replies may return through another tunnel (RFC 3704 §2.4). The kernel
/// applies the maximum of this value and `all`, so 2 (loose) overrides 1 (strict).
///
/// # Errors
/// See [`write()`].
pub fn loosen_reverse_path_filter(device: &str) -> io::Result<()> {
    write(&format!("net/ipv4/conf/{device}/rp_filter"), "2")
}

/// A setting with an unsuitable value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Name.
    pub setting: &'static str,
    /// Current value.
    pub value: String,
    /// Recommended value.
    pub wanted: &'static str,
    /// Consequence of the current value.
    pub why: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding {
            setting,
            value,
            wanted,
            why,
        } = self;
        write!(
            f,
            "{setting} = {value}: {why}; set it with `sysctl -w {setting}={wanted}`, or install systemd/sysctl.conf"
        )
    }
}

struct Rule {
    setting: &'static str,
    bad: &'static str,
    wanted: &'static str,
    why: &'static str,
    /// Least number of tunnels for which it matters.
    tunnels: usize,
}

/// Recommended settings. systemd/sysctl.conf sets the same; a test compares both.
const RULES: [Rule; 5] = [
    Rule {
        setting: "net.ipv4.ip_forward",
        bad: "0",
        wanted: "1",
        why: "IPv4 packets of other hosts are not forwarded",
        tunnels: 1,
    },
    Rule {
        setting: "net.ipv6.conf.all.forwarding",
        bad: "0",
        wanted: "1",
        why: "IPv6 packets of other hosts are not forwarded",
        tunnels: 1,
    },
    Rule {
        setting: "net.ipv4.fib_multipath_hash_policy",
        bad: "0",
        wanted: "1",
        why: "multipath routes hash IPv4 flows by address only, so each pair of hosts uses one tunnel",
        tunnels: 2,
    },
    Rule {
        setting: "net.ipv6.fib_multipath_hash_policy",
        bad: "0",
        wanted: "1",
        why: "multipath routes hash IPv6 flows by address only, so each pair of hosts uses one tunnel",
        tunnels: 2,
    },
    Rule {
        setting: "net.ipv4.conf.all.rp_filter",
        bad: "1",
        wanted: "2",
        why: "strict reverse-path filtering drops replies that return through another tunnel",
        tunnels: 2,
    },
];

/// Unsuitable settings of this namespace for a number of tunnels. Settings that this kernel does not have are skipped.
pub fn findings(tunnels: usize) -> Vec<Finding> {
    findings_in(tunnels, |setting| read(setting).ok())
}

fn findings_in(tunnels: usize, read: impl Fn(&str) -> Option<String>) -> Vec<Finding> {
    RULES
        .iter()
        .filter(|rule| rule.tunnels <= tunnels)
        .filter_map(|rule| {
            let value = read(rule.setting).filter(|value| value == rule.bad)?;
            Some(Finding {
                setting: rule.setting,
                value,
                wanted: rule.wanted,
                why: rule.why,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_by_name() {
        assert_eq!(
            path("net.ipv4.ip_forward"),
            PathBuf::from("/proc/sys/net/ipv4/ip_forward")
        );
        assert_eq!(
            path("net/ipv4/conf/eth0.5/rp_filter"),
            PathBuf::from("/proc/sys/net/ipv4/conf/eth0.5/rp_filter")
        );
        assert!(read("kernel.ostype").is_ok_and(|value| value == "Linux"));
        assert!(read("net.no.such.setting").is_err());
    }

    #[test]
    fn unsuitable_settings_are_findings_with_advice() {
        let settings = |name: &str| match name {
            "net.ipv4.ip_forward" => Some("1".to_owned()),
            "net.ipv4.fib_multipath_hash_policy" => Some("0".to_owned()),
            "net.ipv4.conf.all.rp_filter" => Some("2".to_owned()),
            _ => None,
        };
        assert!(
            findings_in(1, settings).is_empty(),
            "one tunnel has no multipath route"
        );
        let found = findings_in(2, settings);
        assert_eq!(
            found.iter().map(|f| f.setting).collect::<Vec<_>>(),
            ["net.ipv4.fib_multipath_hash_policy"]
        );
        assert!(
            found[0]
                .to_string()
                .contains("sysctl -w net.ipv4.fib_multipath_hash_policy=1")
        );
    }

    #[test]
    fn systemd_sysctl_conf_sets_the_recommended_values() {
        let shipped = include_str!("../../systemd/sysctl.conf");
        for Rule {
            setting, wanted, ..
        } in RULES
        {
            assert!(
                shipped
                    .lines()
                    .any(|line| line == format!("{setting} = {wanted}")),
                "{setting}"
            );
        }
    }
}
