//! A configuration in full: every value resolved, nothing left to default.

use std::net::IpAddr;
use std::path::PathBuf;

use crate::ike;
use crate::net::{Dscp, Prefix};

/// What the daemon runs with.
#[derive(Debug, Clone)]
pub struct Configuration {
    /// This machine.
    pub gateway: GatewaySettings,
    /// The tunnels, in the order of the file.
    pub tunnels: Vec<TunnelSettings>,
}

/// This machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewaySettings {
    /// The public address the clouds know. Not needed where every tunnel says its own.
    pub address: Option<IpAddr>,
    /// Where tunnels without a `local-address` bind; `None` is any address of the peer's family.
    pub listen: Option<IpAddr>,
    /// The control socket.
    pub control: PathBuf,
    /// Whether the kernel may hand us packets larger than the MTU.
    pub offload: OffloadMode,
}

/// Segmentation offload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffloadMode {
    /// Where the kernel and the device can.
    Auto,
    /// Never: one packet at a time.
    Off,
}

/// One tunnel: a peer, a device, and what goes between them.
#[derive(Debug, Clone)]
pub struct TunnelSettings {
    /// Its name, unique.
    pub name: String,
    /// Its network device, unique.
    pub device: String,
    /// The preset its values started from.
    pub preset: &'static str,
    /// All that IKE needs. `local` is where the tunnel binds and sends from; unspecified means any address.
    pub ike: ike::Settings,
    /// What is routed into the device while the tunnel is up.
    pub routes: Vec<Prefix>,
    /// Metric of those routes; equal metrics over several tunnels make one multipath route.
    pub metric: u32,
    /// How large inner packets may be.
    pub mtu: Mtu,
    /// An address on the device.
    pub inside: Option<InsideAddress>,
    /// How many bytes of inner packets a Child SA may carry each way.
    pub child_bytes: Option<u64>,
    /// How many packets a Child SA may carry each way.
    pub child_packets: Option<u64>,
    /// Packets of the replay window: a power of two from 64 to 65536.
    pub replay_window: u32,
    /// What outer headers say about the class of service of what is inside.
    pub dscp: Dscp,
    /// What happens to traffic for `routes` while no tunnel carries it.
    pub fail_closed: FailClosed,
}

/// How large inner packets may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mtu {
    /// From the suite and the path: what fits the smallest of the route's MTU to the peer and `outer`, and never above `inner`.
    Auto {
        /// The largest outer packet the cloud takes.
        outer: Option<u16>,
        /// The largest inner packet the cloud takes.
        inner: Option<u16>,
    },
    /// As the file says.
    Fixed(u16),
}

/// An address on a device, with the length of the network it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InsideAddress {
    /// The address of this end.
    pub address: IpAddr,
    /// The length of its network.
    pub length: u8,
}

/// What happens to traffic for a remote prefix while no tunnel carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailClosed {
    /// An unreachable route holds it back.
    Hold,
    /// It goes wherever the other routes lead.
    Leak,
}

/// What a file left unsaid when nothing else gives a value.
pub mod default {
    use std::time::Duration;

    /// Where the configuration is.
    pub const FILE: &str = "/etc/groundlink/groundlink.toml";
    /// Where the control socket is.
    pub const CONTROL: &str = "/run/groundlink/control.sock";
    /// The preset of a tunnel that names none.
    pub const PRESET: &str = "generic";
    /// Metric of routes.
    pub const METRIC: u32 = 100;
    /// Packets of the replay window: ECMP paths and gigabit rates reorder widely.
    pub const REPLAY_WINDOW: u32 = 4096;
    /// When to probe a silent peer.
    pub const DPD_DELAY: Duration = Duration::from_secs(10);
    /// When to give up a silent peer.
    pub const DPD_TIMEOUT: Duration = Duration::from_secs(30);
    /// The largest IP packet of an IKE message: what every IPv6 link carries (RFC 8200 §5), and other gateways' habit.
    pub const FRAGMENT_SIZE: u16 = 1280;
}
