//! Processes: how many descriptors ours may have, and whose socket that is which stands in the way (what /proc says about a port
//! that is taken).

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// A process of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// What it calls itself.
    pub name: String,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.name, self.pid)
    }
}

/// Allows this process as many descriptors as its limits let it allow itself: a tunnel takes one, and the limit that a shell hands
/// down is 1,024. Says how many that are.
///
/// # Errors
/// The kernel does not tell, or refuses.
pub fn raise_fd_limit() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// The process that keeps us from binding `wanted`; `None` where /proc does not tell (another user's process, another namespace,
/// a socket of the kernel).
pub fn holding_udp_port(wanted: SocketAddr) -> Option<Process> {
    // The tables are read piece by piece, and a socket that closes meanwhile can make the kernel skip its neighbour: look again.
    (0..3).find_map(|_| {
        sockets_in_the_way(wanted)
            .into_iter()
            .find_map(holding_socket)
    })
}

fn sockets_in_the_way(wanted: SocketAddr) -> Vec<u64> {
    ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| table.lines().filter_map(parse_line).collect::<Vec<_>>())
        .filter(|(bound, _)| stands_in_the_way(*bound, wanted))
        .map(|(_, inode)| inode)
        .collect()
}

/// A socket on the same port and address, or on any address.
fn stands_in_the_way(bound: SocketAddr, wanted: SocketAddr) -> bool {
    bound.port() == wanted.port()
        && (bound.ip() == wanted.ip()
            || bound.ip().is_unspecified()
            || wanted.ip().is_unspecified())
}

/// `sl local_address remote_address st … inode …`: addresses are host-order words in hex.
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
        .map(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            Process {
                pid,
                name: name.trim_end().to_owned(),
            }
        })
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
    fn as_many_descriptors_as_there_may_be_are_allowed() {
        let hard = raise_fd_limit().unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (hard, hard));
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn lines_of_the_kernels_tables_are_understood() {
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
    fn a_socket_on_any_address_stands_in_the_way_of_every_address() {
        let at = |s: &str| s.parse::<SocketAddr>().unwrap();
        assert!(stands_in_the_way(at("0.0.0.0:500"), at("192.0.2.1:500")));
        assert!(stands_in_the_way(at("192.0.2.1:500"), at("0.0.0.0:500")));
        assert!(!stands_in_the_way(at("192.0.2.1:500"), at("192.0.2.2:500")));
        assert!(!stands_in_the_way(
            at("192.0.2.1:4500"),
            at("192.0.2.1:500")
        ));
    }
}
