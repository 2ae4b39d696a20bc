//! Five network namespaces and the virtual links between them.
//!
//! ```text
//!  host A          gateway A             WAN             gateway B         host B
//!  eth0 ────── lan0   wan0 ────── leg-a     leg-b ────── wan0   lan0 ────── eth0
//! ```
//!
//! The namespaces have no names: they exist as long as a file descriptor or process of the lab, so nothing remains however the lab
//! ends.

use std::io::{self, Write as _};
use std::net::IpAddr;
use std::process::{Command, Stdio};

use super::addressing::{Addressing, Site};
use super::options::{LabOptions, NatPlacement, Side};
use super::wire_tap::WireTap;
use crate::os::netlink::NetlinkError;
use crate::os::netns::Namespace;

/// Network namespaces of the lab.
#[derive(Debug)]
pub struct Topology {
    hosts: [Namespace; 2],
    gateways: [Namespace; 2],
    wan: Namespace,
}

/// An error while the namespaces are set up.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// The process may not create network namespaces.
    #[error("no permission to create network namespaces: run with sudo, or outside the container")]
    Forbidden,
    /// The kernel rejected a namespace or a sysctl.
    #[error("{what}: {source}")]
    Namespace {
        /// Failed operation.
        what: String,
        /// Error of the system.
        source: io::Error,
    },
    /// The kernel rejected a link, an address or a route.
    #[error(transparent)]
    Network(#[from] NetlinkError),
    /// The WAN router's NAT could not be set up.
    #[error("cannot set up NAT on the WAN router: {0}")]
    Nat(String),
    /// The packet socket on the router could not be opened.
    #[error("cannot open a packet socket on the WAN router: {0}")]
    WireTap(io::Error),
}

fn no_entry(source: io::Error) -> TopologyError {
    TopologyError::Namespace {
        what: "cannot enter a network namespace".to_owned(),
        source,
    }
}

fn new_namespace() -> Result<Namespace, TopologyError> {
    Namespace::new().map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => TopologyError::Forbidden,
        _ => TopologyError::Namespace {
            what: "cannot create a network namespace".to_owned(),
            source,
        },
    })
}

impl Topology {
    /// Creates the namespaces, with all links up and routes set.
    pub fn new(options: &LabOptions, addressing: &Addressing) -> Result<Topology, TopologyError> {
        let topology = Topology {
            hosts: [new_namespace()?, new_namespace()?],
            gateways: [new_namespace()?, new_namespace()?],
            wan: new_namespace()?,
        };
        for namespace in topology
            .hosts
            .iter()
            .chain(&topology.gateways)
            .chain([&topology.wan])
        {
            // Duplicate address detection would delay every IPv6 address by a second.
            for scope in ["all", "default"] {
                set(namespace, &format!("net/ipv6/conf/{scope}/accept_dad"), "0")?;
            }
        }
        for (side, leg) in [(Side::A, "leg-a"), (Side::B, "leg-b")] {
            topology.connect_site(addressing.site(side), leg)?;
        }
        for router in topology.gateways.iter().chain([&topology.wan]) {
            enable_forwarding(router)?;
        }
        match options.nat {
            NatPlacement::None => {}
            NatPlacement::Us => topology.set_up_nat(addressing, Side::A)?,
            NatPlacement::Peer => topology.set_up_nat(addressing, Side::B)?,
        }
        Ok(topology)
    }

    /// The host behind a gateway.
    pub fn host(&self, side: Side) -> &Namespace {
        &self.hosts[index(side)]
    }

    /// The gateway of a side.
    pub fn gateway(&self, side: Side) -> &Namespace {
        &self.gateways[index(side)]
    }

    /// The router between the gateways.
    pub fn wan(&self) -> &Namespace {
        &self.wan
    }

    /// Starts to count the packets that pass the router.
    pub fn wire_tap(&self, addressing: &Addressing) -> Result<WireTap, TopologyError> {
        self.wan
            .run(|| WireTap::new(addressing))
            .map_err(no_entry)?
            .map_err(TopologyError::WireTap)
    }

    fn connect_site(&self, site: &Site, leg: &str) -> Result<(), TopologyError> {
        let (host, gateway) = (self.host(site.side), self.gateway(site.side));
        host.connect("eth0", gateway, "lan0")?;
        gateway.connect("wan0", &self.wan, leg)?;
        let bits = site.network.length();
        configure(host, "eth0", &[site.host], bits, Some(site.inside))?;
        configure(gateway, "lan0", &[site.inside], bits, None)?;
        configure(
            gateway,
            "wan0",
            &site.outside,
            site.outside_bits,
            Some(site.router),
        )?;
        configure(&self.wan, leg, &[site.router], site.outside_bits, None)
    }

    /// Puts `side` behind an address of the router.
    ///
    /// Outgoing packets get another source port, as with most NATs; packets to ports 500 and 4500 are forwarded to the gateway, as
    /// with a cloud's one-to-one address.
    fn set_up_nat(&self, addressing: &Addressing, side: Side) -> Result<(), TopologyError> {
        let (leg, inside, public) = match side {
            Side::A => ("leg-b", &addressing.a, addressing.b.router),
            Side::B => ("leg-a", &addressing.b, addressing.a.router),
        };
        let Some(gateway) = inside.outside.first() else {
            return Ok(());
        };
        let rules = format!(
            "table ip lab {{
  chain out {{
    type nat hook postrouting priority srcnat;
    ip saddr {gateway} oifname {leg} meta l4proto udp masquerade to :20000-29999
    ip saddr {gateway} oifname {leg} masquerade
  }}
  chain in {{
    type nat hook prerouting priority dstnat;
    iifname {leg} ip daddr {public} udp dport {{ 500, 4500 }} dnat to {gateway}
  }}
}}
"
        );
        let fail = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => {
                TopologyError::Nat("nft is not installed: apt install nftables".to_owned())
            }
            _ => TopologyError::Nat(error.to_string()),
        };
        let mut command = Command::new("nft");
        self.wan.enter(&mut command).map_err(no_entry)?;
        command
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut nft = command.spawn().map_err(fail)?;
        if let Some(mut stdin) = nft.stdin.take() {
            stdin.write_all(rules.as_bytes()).map_err(fail)?;
        }
        let output = nft.wait_with_output().map_err(fail)?;
        if output.status.success() {
            return Ok(());
        }
        Err(TopologyError::Nat(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        ))
    }
}

/// Applies the settings of `systemd/sysctl.conf`.
fn enable_forwarding(router: &Namespace) -> Result<(), TopologyError> {
    for (name, value) in [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv4/fib_multipath_hash_policy", "1"),
        ("net/ipv6/fib_multipath_hash_policy", "1"),
        ("net/ipv4/conf/all/rp_filter", "2"),
        ("net/ipv4/conf/default/rp_filter", "2"),
    ] {
        set(router, name, value)?;
    }
    Ok(())
}

fn set(namespace: &Namespace, name: &str, value: &str) -> Result<(), TopologyError> {
    namespace
        .set(name, value)
        .map_err(|source| TopologyError::Namespace {
            what: format!("cannot set {name} = {value} in a network namespace"),
            source,
        })
}

/// Assigns the addresses of a device, sets it up, and adds a default route through `router`.
fn configure(
    namespace: &Namespace,
    device: &str,
    addresses: &[IpAddr],
    bits: u8,
    router: Option<IpAddr>,
) -> Result<(), TopologyError> {
    let mut netlink = namespace.netlink()?;
    let device = netlink.link_named(device)?.index;
    for address in addresses {
        netlink.add_address(device, *address, bits)?;
    }
    netlink.set_up(device)?;
    match router {
        Some(router) => Ok(netlink.add_default_route(device, router)?),
        None => Ok(()),
    }
}

fn index(side: Side) -> usize {
    match side {
        Side::A => 0,
        Side::B => 1,
    }
}
