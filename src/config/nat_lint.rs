//! `encapsulation = "esp"` where the file itself shows a NAT: then no tunnel can come up (RFC 7296 §2.23), and it is better said before.
//!
//! ```text
//!   this machine ── 10.0.0.5 ── NAT ── 203.0.113.7 ──▶ the peer
//!                local-address          address
//! ```

use std::net::IpAddr;

use super::diagnostic::Diagnostic;
use super::resolve::ResolvedTunnel;
use crate::ike::{Encapsulation, Peer};

/// Warns of a tunnel that insists on protocol 50 and lies behind a NAT by its own addresses.
pub fn across_nat(resolved: &ResolvedTunnel, findings: &mut Vec<Diagnostic>) {
    match resolved.tunnel.ike.encapsulation {
        Encapsulation::Esp => {}
        Encapsulation::Udp | Encapsulation::Auto => return,
    }
    let local = resolved.tunnel.ike.local;
    let why = match (resolved.address, &resolved.tunnel.ike.peer) {
        // What stands for every address of this machine tells nothing.
        _ if local.is_unspecified() => return,
        (Some(public), _) if public.is_ipv4() == local.is_ipv4() && public != local => {
            format!("the peer knows this machine by {public} and it sends from {local}")
        }
        (_, Peer::Address(peer)) if is_private(local) && !is_private(*peer) => {
            format!("{local} is a private address and {peer} a public one")
        }
        (_, Peer::Address(_) | Peer::Name(_)) => return,
    };
    findings.push(Diagnostic::warning(
        resolved.at.encapsulation.clone(),
        format!(
            "tunnel `{}` cannot come up across a NAT with `encapsulation = \"esp\"`: {why}",
            resolved.tunnel.name
        ),
        "set `encapsulation = \"auto\"`: ESP goes in UDP 4500 then where a NAT is seen, and as IP protocol 50 where none is",
    ));
}

/// An address that is not routed on the Internet: RFC 1918, RFC 6598 (carrier-grade NAT), link-local, RFC 4193.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [first, second, ..] = address.octets();
            address.is_private() || address.is_link_local() || (first == 100 && second & 0xc0 == 64)
        }
        IpAddr::V6(address) => address.is_unique_local() || address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_end_where_they_end() {
        let private = |text: &str| is_private(text.parse().unwrap());
        for inside in [
            "10.255.255.255",
            "172.31.0.1",
            "192.168.0.1",
            "100.64.0.0",
            "100.127.255.255",
            "169.254.1.1",
            "fd00::1",
            "fe80::1",
        ] {
            assert!(private(inside), "{inside}");
        }
        for outside in [
            "11.0.0.0",
            "172.32.0.1",
            "192.169.0.1",
            "100.63.255.255",
            "100.128.0.0",
            "203.0.113.7",
            "2001:db8::1",
        ] {
            assert!(!private(outside), "{outside}");
        }
    }
}
