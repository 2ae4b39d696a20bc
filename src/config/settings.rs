//! The resolved configuration: every value set, no defaults left.

use std::net::IpAddr;
use std::path::PathBuf;

use super::secret::MissingSecret;
use crate::ike;
use crate::net::{Dscp, Prefix};
pub use crate::os::OffloadMode;
use crate::paths::FailClosed;

/// Resolved configuration of the daemon.
#[derive(Debug, Clone)]
pub struct Configuration {
    /// Settings of this machine.
    pub gateway: GatewaySettings,
    /// Settings of the tunnels, in the order of the file.
    pub tunnels: Vec<TunnelSettings>,
}

/// Settings of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewaySettings {
    /// Public address that the clouds know; `None` if every tunnel sets its own.
    pub address: Option<IpAddr>,
    /// Local address of tunnels without a `local-address`; `None` is any address of the peer's family.
    pub listen: Option<IpAddr>,
    /// Path of the control socket.
    pub control: PathBuf,
    /// Segmentation offload.
    pub offload: OffloadMode,
}

/// Settings of one tunnel.
#[derive(Debug, Clone)]
pub struct TunnelSettings {
    /// Name of the tunnel, unique.
    pub name: String,
    /// Name of its network device, unique.
    pub device: String,
    /// Name of its preset.
    pub preset: &'static str,
    /// Settings of IKE.
    pub ike: ike::Settings,
    /// Prefixes routed into the device while the tunnel is up.
    pub routes: Vec<Prefix>,
    /// Metric of the routes; equal metrics of several tunnels make one multipath route.
    pub metric: u32,
    /// Maximum size of inner packets.
    pub mtu: Mtu,
    /// Addresses of the device.
    pub inside: Vec<InsideAddress>,
    /// Limit of a Child SA in bytes of inner packets, in each direction.
    pub child_bytes: Option<u64>,
    /// Limit of a Child SA in packets, in each direction.
    pub child_packets: Option<u64>,
    /// Size of the replay window in packets: a power of two from 64 to 65536.
    pub replay_window: u32,
    /// DSCP of outer headers.
    pub dscp: Dscp,
    /// Why the pre-shared key or the PPK could not be read; with [`SecretPolicy::Deferred`](super::SecretPolicy::Deferred) only.
    pub missing_secret: Option<MissingSecret>,
    /// Handling of traffic for `routes` while no tunnel carries it.
    pub fail_closed: FailClosed,
}

/// Maximum size of inner packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mtu {
    /// Computed from the suite and the path: fits the smaller of `outer` and the MTU of the route to the peer, at most `inner`.
    Auto {
        /// Maximum outer packet of the cloud.
        outer: Option<u16>,
        /// Maximum inner packet of the cloud.
        inner: Option<u16>,
    },
    /// Set in the file.
    Fixed(u16),
}

/// Address of a device, with the prefix length of its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InsideAddress {
    /// Address of this machine.
    pub address: IpAddr,
    /// Prefix length of the network.
    pub length: u8,
}

/// Built-in defaults of keys that neither the file nor the preset sets.
pub mod default {
    use std::time::Duration;

    /// Path of the configuration.
    pub const FILE: &str = "/etc/groundlink/groundlink.toml";
    /// Path of the control socket.
    pub const CONTROL: &str = "/run/groundlink/control.sock";
    /// Preset of a tunnel.
    pub const PRESET: &str = "generic";
    /// Metric of routes.
    pub const METRIC: u32 = 100;
    /// Packets of the replay window: ECMP paths reorder widely at gigabit rates.
    pub const REPLAY_WINDOW: u32 = 4096;
    /// Time without packets after which the peer's liveness is checked.
    pub const DPD_DELAY: Duration = Duration::from_secs(10);
    /// Time without an answer after which the peer is considered dead.
    pub const DPD_TIMEOUT: Duration = Duration::from_secs(30);
    /// Maximum IP packet of an IKE message: what every IPv6 link carries (RFC 8200 §5), as other gateways choose.
    pub const FRAGMENT_SIZE: u16 = 1280;
}
