//! Capabilities and the memory protection of this process.

use std::fs;
use std::io;

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};

/// Capabilities that groundlink uses (capabilities(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Binding UDP port 500.
    NetBindService,
    /// Creating devices, addresses and routes.
    NetAdmin,
    /// Raw sockets for IP protocol 50.
    NetRaw,
    /// Creating namespaces.
    SysAdmin,
}

impl Capability {
    const fn bit(self) -> u64 {
        match self {
            Capability::NetBindService => 1 << 10,
            Capability::NetAdmin => 1 << 12,
            Capability::NetRaw => 1 << 13,
            Capability::SysAdmin => 1 << 21,
        }
    }

    /// Name as in capabilities(7) and systemd units.
    pub const fn name(self) -> &'static str {
        match self {
            Capability::NetBindService => "CAP_NET_BIND_SERVICE",
            Capability::NetAdmin => "CAP_NET_ADMIN",
            Capability::NetRaw => "CAP_NET_RAW",
            Capability::SysAdmin => "CAP_SYS_ADMIN",
        }
    }

    /// Whether the capability is in the effective set of this thread.
    pub fn is_held(self) -> bool {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
        effective(&status).is_some_and(|held| held & self.bit() != 0)
    }
}

fn effective(status: &str) -> Option<u64> {
    let hex = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(hex.trim(), 16).ok()
}

/// Disables core dumps and access to this process by other users, since its memory holds keys.
///
/// # Errors
/// Error of prctl(2).
pub fn disable_core_dumps() -> io::Result<()> {
    prctl::set_dumpable(false)?;
    // The dumpable flag suffices. The limit makes the setting visible; a sandbox may forbid it.
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_effective_set() {
        let status = "Name:\tx\nCapPrm:\tffffffffffffffff\nCapEff:\t0000000000001400\nCapBnd:\tffffffffffffffff\n";
        let held = effective(status).unwrap();
        assert_eq!(
            held,
            Capability::NetBindService.bit() | Capability::NetAdmin.bit()
        );
        assert_eq!(effective("Name:\tx\n"), None);
    }
}
