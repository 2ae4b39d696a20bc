//! What this process may do, and what it must not leave behind.

use std::fs;
use std::io;

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};

/// A capability a gateway needs (capabilities(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// To bind UDP 500.
    NetBindService,
    /// To make devices, addresses and routes.
    NetAdmin,
    /// To send and receive protocol 50.
    NetRaw,
    /// To make namespaces.
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

    /// As systemd and the manual write it.
    pub const fn name(self) -> &'static str {
        match self {
            Capability::NetBindService => "CAP_NET_BIND_SERVICE",
            Capability::NetAdmin => "CAP_NET_ADMIN",
            Capability::NetRaw => "CAP_NET_RAW",
            Capability::SysAdmin => "CAP_SYS_ADMIN",
        }
    }

    /// Whether this thread has it in effect.
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

/// Lets no core dump be written and nobody but root look into this process: its memory holds keys.
///
/// # Errors
/// What the kernel said.
pub fn disable_core_dumps() -> io::Result<()> {
    prctl::set_dumpable(false)?;
    // Not dumpable is enough; the limit is for those who look. A sandbox may forbid it.
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
