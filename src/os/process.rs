//! Processes: capabilities, core dumps and descriptor limit of this process, and the process that holds a UDP port (/proc).

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Process on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Process ID.
    pub pid: u32,
    /// Command name.
    pub name: String,
}

impl Process {
    /// Process of this ID, with its command name from /proc; "?" if it has ended or is hidden.
    pub fn with_id(pid: u32) -> Process {
        let name = fs::read_to_string(format!("/proc/{pid}/comm"));
        let name = name.map_or("?".to_owned(), |name| name.trim_end().to_owned());
        Process { pid, name }
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.name, self.pid)
    }
}

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

/// Raises the limit of open descriptors to the hard limit and returns it. Each tunnel needs a descriptor; the default soft limit
/// is 1,024.
///
/// # Errors
/// Error of getrlimit(2) or setrlimit(2).
pub fn raise_fd_limit() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// Process whose socket prevents binding `wanted`; `None` if /proc does not show it (another user's process, another namespace, a
/// socket of the kernel).
pub fn holding_udp_port(wanted: SocketAddr) -> Option<Process> {
    // The kernel returns a table in several reads. A socket that closes meanwhile can hide the next one, so the search repeats.
    (0..3).find_map(|_| {
        conflicting_sockets(wanted)
            .into_iter()
            .find_map(holding_socket)
    })
}

fn conflicting_sockets(wanted: SocketAddr) -> Vec<u64> {
    ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| table.lines().filter_map(parse_line).collect::<Vec<_>>())
        .filter(|(bound, _)| conflicts(*bound, wanted))
        .map(|(_, inode)| inode)
        .collect()
}

/// Whether a bound socket conflicts: same port, and the same or an unspecified address.
fn conflicts(bound: SocketAddr, wanted: SocketAddr) -> bool {
    bound.port() == wanted.port()
        && (bound.ip() == wanted.ip()
            || bound.ip().is_unspecified()
            || wanted.ip().is_unspecified())
}

/// Parses `sl local_address remote_address st … inode …`; addresses are words in host byte order, in hex.
fn parse_line(line: &str) -> Option<(SocketAddr, u64)> {
    let mut columns = line.split_whitespace();
    let (address, port) = columns.nth(1)?.split_once(':')?;
    let inode = columns.nth(7)?.parse().ok()?;
    Some((
        SocketAddr::new(parse_address(address)?, u16::from_str_radix(port, 16).ok()?),
        inode,
    ))
}

fn parse_address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        Some(
            u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16)
                .ok()?
                .to_ne_bytes(),
        )
    };
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut octets = [0; 16];
            for (at, chunk) in octets.chunks_mut(4).enumerate() {
                chunk.copy_from_slice(&word(at)?);
            }
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

fn holding_socket(inode: u64) -> Option<Process> {
    let wanted = format!("socket:[{inode}]");
    let pids = fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    pids.into_iter()
        .find(|pid| has_descriptor(*pid, &wanted))
        .map(Process::with_id)
}

fn has_descriptor(pid: u32, wanted: &str) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    descriptors
        .flatten()
        .any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == wanted))
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

    #[test]
    fn the_descriptor_limit_is_raised_to_the_hard_limit() {
        let hard = raise_fd_limit().unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (hard, hard));
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn lines_of_proc_net_udp_are_parsed() {
        let v4 = "  483: 0100007F:01F4 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 15877 2 0000 0";
        assert_eq!(
            parse_line(v4),
            Some(("127.0.0.1:500".parse().unwrap(), 15877))
        );
        let v6 = " 4: 00000000000000000000000001000000:1194 00000000000000000000000000000000:0000 07 0:0 0:0 0 0 0 77 2 0 0";
        assert_eq!(parse_line(v6), Some(("[::1]:4500".parse().unwrap(), 77)));
        assert_eq!(
            parse_line(
                "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
            ),
            None
        );
    }

    #[test]
    fn a_socket_on_any_address_conflicts_of_every_address() {
        let at = |s: &str| s.parse::<SocketAddr>().unwrap();
        assert!(conflicts(at("0.0.0.0:500"), at("192.0.2.1:500")));
        assert!(conflicts(at("192.0.2.1:500"), at("0.0.0.0:500")));
        assert!(!conflicts(at("192.0.2.1:500"), at("192.0.2.2:500")));
        assert!(!conflicts(at("192.0.2.1:4500"), at("192.0.2.1:500")));
    }
}
