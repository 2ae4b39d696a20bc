//! Settings of the kernel (/proc/sys) that decide whether tunnels work, and what to say where they are wrong.

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;

/// Reads a setting by its name with dots, e.g. `net.ipv4.ip_forward`; slashes work too, and are needed where a device's name has
/// dots.
///
/// # Errors
/// There is no such setting in this kernel or namespace.
pub fn read(setting: &str) -> io::Result<String> {
    Ok(fs::read_to_string(path(setting))?.trim_end().to_owned())
}

/// Changes a setting.
///
/// # Errors
/// There is none, or it may not be changed (CAP_NET_ADMIN for `net.*`; a read-only /proc/sys in containers).
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

/// Loosens the reverse-path filter of one device: packets from a tunnel are welcome though the way back may be another tunnel
/// (RFC 3704 §2.4). The kernel takes the larger of this and `all`, so 2 (loose) here wins over 1 (strict) there.
///
/// # Errors
/// See [`write()`].
pub fn loosen_reverse_path_filter(device: &str) -> io::Result<()> {
    write(&format!("net/ipv4/conf/{device}/rp_filter"), "2")
}

/// A setting that stands in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its name.
    pub setting: &'static str,
    /// What it is.
    pub value: String,
    /// What it should be.
    pub wanted: &'static str,
    /// What does not work like this.
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
}

/// systemd/sysctl.conf sets the same; a test compares the two.
const RULES: [Rule; 5] = [
    Rule {
        setting: "net.ipv4.ip_forward",
        bad: "0",
        wanted: "1",
        why: "IPv4 packets of other machines do not pass through this one",
    },
    Rule {
        setting: "net.ipv6.conf.all.forwarding",
        bad: "0",
        wanted: "1",
        why: "IPv6 packets of other machines do not pass through this one",
    },
    Rule {
        setting: "net.ipv4.fib_multipath_hash_policy",
        bad: "0",
        wanted: "1",
        why: "several tunnels share IPv4 flows by address only, so one pair of hosts uses one tunnel",
    },
    Rule {
        setting: "net.ipv6.fib_multipath_hash_policy",
        bad: "0",
        wanted: "1",
        why: "several tunnels share IPv6 flows by address only, so one pair of hosts uses one tunnel",
    },
    Rule {
        setting: "net.ipv4.conf.all.rp_filter",
        bad: "1",
        wanted: "2",
        why: "strict reverse-path filtering drops what comes back through another tunnel than it left by",
    },
];

/// What is wrong with the settings of this namespace. A setting that this kernel does not have is not wrong.
pub fn findings() -> Vec<Finding> {
    findings_in(|setting| read(setting).ok())
}

fn findings_in(read: impl Fn(&str) -> Option<String>) -> Vec<Finding> {
    RULES
        .iter()
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
    fn settings_are_found_by_their_names() {
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
    fn only_what_is_wrong_is_a_finding_and_says_what_to_do() {
        let settings = |name: &str| match name {
            "net.ipv4.ip_forward" => Some("1".to_owned()),
            "net.ipv4.fib_multipath_hash_policy" => Some("0".to_owned()),
            "net.ipv4.conf.all.rp_filter" => Some("2".to_owned()),
            _ => None,
        };
        let found = findings_in(settings);
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
    fn the_shipped_settings_are_the_ones_looked_for() {
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
