//! Five network namespaces and the wires between them.
//!
//! ```text
//!  host A          gateway A             WAN             gateway B         host B
//!  eth0 ────── lan0   wan0 ────── leg-a     leg-b ────── wan0   lan0 ────── eth0
//! ```
//!
//! The namespaces have no names: they live as long as a file descriptor or a process of ours, so nothing stays behind however the
//! lab ends.

use std::io::{self, Write as _};
use std::net::IpAddr;
use std::process::{Command, Stdio};

use super::addressing::{Addressing, Site};
use super::options::{LabOptions, NatPlacement, Side};
use super::wire_tap::WireTap;
use crate::os::netlink::NetlinkError;
use crate::os::netns::Namespace;

/// The machines of the lab.
#[derive(Debug)]
pub struct Topology {
    hosts: [Namespace; 2],
    gateways: [Namespace; 2],
    wan: Namespace,
}

/// Why it could not be built.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// We may not make machines.
    #[error("network namespaces may not be made here: run with sudo, or outside the container")]
    Forbidden,
    /// The kernel refused a namespace or a setting.
    #[error("{what}: {source}")]
    Namespace {
        /// What was being done.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel refused a link, an address, a route.
    #[error(transparent)]
    Network(#[from] NetlinkError),
    /// The translating router could not be set up.
    #[error("the NAT of the WAN router cannot be set up: {0}")]
    Nat(String),
    /// No packet socket on the router.
    #[error("the WAN router cannot be watched: {0}")]
    WireTap(io::Error),
}

fn no_entry(source: io::Error) -> TopologyError {
    TopologyError::Namespace {
        what: "a network namespace cannot be entered".to_owned(),
        source,
    }
}

fn machine() -> Result<Namespace, TopologyError> {
    Namespace::new().map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => TopologyError::Forbidden,
        _ => TopologyError::Namespace {
            what: "a network namespace cannot be made".to_owned(),
            source,
        },
    })
}

impl Topology {
    /// Builds it, with everything up and routed.
    pub fn new(options: &LabOptions, plan: &Addressing) -> Result<Topology, TopologyError> {
        let world = Topology {
            hosts: [machine()?, machine()?],
            gateways: [machine()?, machine()?],
            wan: machine()?,
        };
        for namespace in world
            .hosts
            .iter()
            .chain(&world.gateways)
            .chain([&world.wan])
        {
            // Without this an IPv6 address cannot be used for its first second.
            for scope in ["all", "default"] {
                set(namespace, &format!("net/ipv6/conf/{scope}/accept_dad"), "0")?;
            }
        }
        for (side, leg) in [(Side::A, "leg-a"), (Side::B, "leg-b")] {
            world.wire_site(plan.site(side), leg)?;
        }
        for router in world.gateways.iter().chain([&world.wan]) {
            forward(router)?;
        }
        match options.nat {
            NatPlacement::None => {}
            NatPlacement::Us => world.translate(plan, Side::A)?,
            NatPlacement::Peer => world.translate(plan, Side::B)?,
        }
        Ok(world)
    }

    /// The host behind a gateway.
    pub fn host(&self, side: Side) -> &Namespace {
        &self.hosts[index(side)]
    }

    /// A gateway.
    pub fn gateway(&self, side: Side) -> &Namespace {
        &self.gateways[index(side)]
    }

    /// The router between them.
    pub fn wan(&self) -> &Namespace {
        &self.wan
    }

    /// Begins to watch what passes the router.
    pub fn tap(&self, plan: &Addressing) -> Result<WireTap, TopologyError> {
        self.wan
            .run(|| WireTap::new(plan))
            .map_err(no_entry)?
            .map_err(TopologyError::WireTap)
    }

    fn wire_site(&self, site: &Site, leg: &str) -> Result<(), TopologyError> {
        let (host, gateway) = (self.host(site.side), self.gateway(site.side));
        host.connect("eth0", gateway, "lan0")?;
        gateway.connect("wan0", &self.wan, leg)?;
        let bits = site.network.length();
        plug(host, "eth0", &[site.host], bits, Some(site.inside))?;
        plug(gateway, "lan0", &[site.inside], bits, None)?;
        plug(
            gateway,
            "wan0",
            &site.outside,
            site.outside_bits,
            Some(site.router),
        )?;
        plug(&self.wan, leg, &[site.router], site.outside_bits, None)
    }

    /// Puts `side` behind an address of the router's.
    ///
    /// What the gateway sends leaves from another port too, as most translators do it; what comes for ports 500 and 4500 is
    /// passed in, as a cloud's one-to-one address does it.
    fn translate(&self, plan: &Addressing, side: Side) -> Result<(), TopologyError> {
        let (leg, inside, public) = match side {
            Side::A => ("leg-b", &plan.a, plan.b.router),
            Side::B => ("leg-a", &plan.b, plan.a.router),
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

/// What `systemd/sysctl.conf` sets on a gateway.
fn forward(router: &Namespace) -> Result<(), TopologyError> {
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

fn set(machine: &Namespace, name: &str, value: &str) -> Result<(), TopologyError> {
    machine
        .set(name, value)
        .map_err(|source| TopologyError::Namespace {
            what: format!("{name} = {value} cannot be set in a network namespace"),
            source,
        })
}

/// Gives a device its addresses, switches it on, and points the rest of the world at `router`.
fn plug(
    machine: &Namespace,
    device: &str,
    addresses: &[IpAddr],
    bits: u8,
    router: Option<IpAddr>,
) -> Result<(), TopologyError> {
    let mut netlink = machine.netlink()?;
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
