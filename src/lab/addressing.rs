//! IP addresses of the lab.
//!
//! ```text
//! host A ─── gateway A ─────────── WAN router ─────────── gateway B ─── host B
//! 10.1.0.2   10.1.0.1                                      10.2.0.1      10.2.0.2
//!            192.0.2.1 …4   .126            .254   192.0.2.129 …132
//! ```
//!
//! Tunnel *n* connects the *n*-th outer address of A to the *n*-th of B. The outer addresses of a gateway behind NAT are private
//! (100.64.0.0/10), and its peer uses the router's address on the peer's own leg.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::options::{AddressFamily, LabOptions, Side};
use crate::net::Prefix;

/// Addresses of both sites.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addressing {
    /// Site A.
    pub a: Site,
    /// Site B.
    pub b: Site,
}

/// Addresses of one site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Side of the site.
    pub side: Side,
    /// The network behind the gateway.
    pub network: Prefix,
    /// Host in that network.
    pub host: IpAddr,
    /// Gateway in that network.
    pub inside: IpAddr,
    /// Outer addresses of the gateway, one for each tunnel.
    pub outside: Vec<IpAddr>,
    /// Prefix length of the leg.
    pub outside_bits: u8,
    /// The router's address on this leg.
    pub router: IpAddr,
    /// Addresses that the other side uses for the gateway, one for each tunnel.
    pub public: Vec<IpAddr>,
}

impl Addressing {
    /// Assigns the addresses for `options`.
    pub fn new(options: &LabOptions) -> Addressing {
        let mut a = site(options, Side::A);
        let mut b = site(options, Side::B);
        if options.is_behind_nat(Side::A) {
            a.public = vec![b.router; a.outside.len()];
        }
        if options.is_behind_nat(Side::B) {
            b.public = vec![a.router; b.outside.len()];
        }
        Addressing { a, b }
    }

    /// The site of `side`.
    pub fn site(&self, side: Side) -> &Site {
        match side {
            Side::A => &self.a,
            Side::B => &self.b,
        }
    }
}

impl Site {
    /// Whether `address` is in the network behind this gateway.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.network.contains(address)
    }
}

fn site(options: &LabOptions, side: Side) -> Site {
    let (network, host, inside) = inner(options.inner, side);
    let (first, outside_bits, router) = outer(options, side);
    let outside: Vec<IpAddr> = (0..options.tunnels).map(|n| nth(first, n)).collect();
    Site {
        side,
        network,
        host,
        inside,
        public: outside.clone(),
        outside,
        outside_bits,
        router,
    }
}

fn inner(family: AddressFamily, side: Side) -> (Prefix, IpAddr, IpAddr) {
    let number = match side {
        Side::A => 1,
        Side::B => 2,
    };
    match family {
        AddressFamily::V4 => {
            let address = |last| IpAddr::V4(Ipv4Addr::new(10, number, 0, last));
            (Prefix::containing(address(0), 24), address(2), address(1))
        }
        AddressFamily::V6 => {
            let address =
                |last| IpAddr::V6(Ipv6Addr::new(0xfd00, number.into(), 0, 0, 0, 0, 0, last));
            (Prefix::containing(address(0), 64), address(2), address(1))
        }
    }
}

/// The gateway's first outer address, the prefix length of its leg, and the router's address.
fn outer(options: &LabOptions, side: Side) -> (IpAddr, u8, IpAddr) {
    let v4 = |a, b, c, d| IpAddr::V4(Ipv4Addr::new(a, b, c, d));
    match (options.outer, options.is_behind_nat(side), side) {
        (AddressFamily::V4, false, Side::A) => (v4(192, 0, 2, 1), 25, v4(192, 0, 2, 126)),
        (AddressFamily::V4, false, Side::B) => (v4(192, 0, 2, 129), 25, v4(192, 0, 2, 254)),
        (AddressFamily::V4, true, Side::A) => (v4(100, 64, 1, 1), 24, v4(100, 64, 1, 254)),
        (AddressFamily::V4, true, Side::B) => (v4(100, 64, 2, 1), 24, v4(100, 64, 2, 254)),
        (AddressFamily::V6, _, _) => {
            let leg = match side {
                Side::A => 0xa,
                Side::B => 0xb,
            };
            let address = |last| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, leg, 0, 0, 0, 0, last));
            (address(1), 64, address(0xfe))
        }
    }
}

fn nth(first: IpAddr, n: u8) -> IpAddr {
    match first {
        IpAddr::V4(first) => {
            IpAddr::V4(Ipv4Addr::from_bits(first.to_bits().wrapping_add(n.into())))
        }
        IpAddr::V6(first) => {
            IpAddr::V6(Ipv6Addr::from_bits(first.to_bits().wrapping_add(n.into())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::options::NatPlacement;
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn every_tunnel_has_its_own_pair_of_addresses() {
        let plan = Addressing::new(&LabOptions {
            tunnels: 4,
            ..LabOptions::default()
        });
        assert_eq!(
            plan.a.outside,
            ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"].map(ip)
        );
        assert_eq!(
            plan.b.public,
            ["192.0.2.129", "192.0.2.130", "192.0.2.131", "192.0.2.132"].map(ip)
        );
    }

    #[test]
    fn the_peer_of_a_gateway_behind_nat_uses_the_routers_address() {
        let plan = Addressing::new(&LabOptions {
            nat: NatPlacement::Us,
            ..LabOptions::default()
        });
        assert_eq!(plan.a.outside, [ip("100.64.1.1")]);
        assert_eq!(plan.a.public, [ip("192.0.2.254")]);
        assert_eq!(plan.b.public, [ip("192.0.2.129")]);
    }

    #[test]
    fn ipv6_is_available_inside_and_outside() {
        let plan = Addressing::new(&LabOptions {
            outer: AddressFamily::V6,
            inner: AddressFamily::V6,
            ..LabOptions::default()
        });
        assert_eq!(plan.b.outside, [ip("2001:db8:b::1")]);
        assert!(plan.a.contains(ip("fd00:1::2")) && !plan.a.contains(ip("fd00:2::2")));
    }
}
