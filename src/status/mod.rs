//! Status of the gateway as one value: what `status --json` and `GET /v1/status` print, and what `lab --json` repeats a tunnel at a time.
//!
//! Field names are the stable JSON keys of `docs/interface.md`, which a test compares with these types. States are the enums of
//! [`crate::net`] and print as their stable words. Points in time (`since_s`, `at_s`) are seconds since the daemon started, the scale of
//! `uptime_s`; `…_in_s` counts from now.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use crate::net::{
    EspTransport, GsoSupport, NatLocation, ReceiveOffload, RekeyVerdict, Role, SendOffload,
    TunnelState, WaitingFor,
};

/// Status of the whole gateway at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Version of the daemon, which may differ from the version of the client.
    pub version: String,
    /// Seconds since the daemon started.
    pub uptime_s: f64,
    /// Every tunnel, in configuration order.
    pub tunnels: Vec<TunnelStatus>,
    /// Groups of tunnels; empty in this version.
    pub groups: Vec<serde_json::Value>,
    /// IKE messages dropped before authentication, by class (the words of `ike::DropClass`).
    #[serde(default)]
    pub ike_refused: BTreeMap<String, u64>,
    /// Dropped packets that belong to no tunnel, by reason (the metric names of `net::DropReason`).
    #[serde(default)]
    pub unmatched: BTreeMap<String, u64>,
    /// Offload in effect; absent from older daemons.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offload: Option<OffloadStatus>,
    /// Time stamp counter ticks spent by the packet workers, by processing step (the words of `datapath::ProfileStep`).
    #[serde(default)]
    pub ticks: BTreeMap<String, u64>,
}

/// Offload in effect now: the minimum over all devices and over all sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffloadStatus {
    /// GSO packets to and from the TUN devices.
    pub tun: GsoSupport,
    /// UDP segmentation towards the peers.
    pub send: SendOffload,
    /// UDP receive offload from the peers.
    pub receive: ReceiveOffload,
}

/// Status of one tunnel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TunnelStatus {
    /// Name in the configuration.
    pub name: String,
    /// Name of the TUN device.
    pub device: String,
    /// Operational state.
    pub state: TunnelState,
    /// Event that a connecting or failed tunnel waits for; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<WaitingFor>,
    /// Address and port of the peer; its name while that is not resolved.
    pub peer: String,
    /// Time at which the tunnel entered its state.
    pub since_s: f64,
    /// IKE SA, while there is one.
    pub ike: Option<IkeSaStatus>,
    /// First of `children`, while there is one.
    pub child: Option<ChildSaStatus>,
    /// Child SAs that send, one for each set of traffic selectors in order of creation; absent from older daemons.
    #[serde(default)]
    pub children: Vec<ChildSaStatus>,
    /// Inner traffic received from the peer and delivered.
    pub rx: TrafficCounters,
    /// Inner traffic sent to the peer.
    pub tx: TrafficCounters,
    /// Dropped packets by reason (the metric names of `net::DropReason`).
    pub refused: BTreeMap<String, u64>,
    /// Completed rekeys.
    pub rekeys: RekeyCounters,
    /// Result of `rekey-check`; absent where it is not configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rekey_check: Option<RekeyCheckStatus>,
    /// Seconds until the next attempt to connect; absent while none is planned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_s: Option<f64>,
    /// What works less well than configured, now.
    #[serde(default)]
    pub warnings: Vec<TunnelWarning>,
    /// Most recent failure; kept after recovery.
    pub last_error: Option<LastError>,
}

/// Something that a tunnel does not do as configured, although it is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelWarning {
    /// Stable word.
    pub code: String,
    /// What happens, and why.
    pub text: String,
    /// What to change, and where.
    pub advice: String,
}

/// Status of an IKE SA.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IkeSaStatus {
    /// Initiator's SPI, 16 hex digits.
    pub spi_i: String,
    /// Responder's SPI, 16 hex digits.
    pub spi_r: String,
    /// Negotiated algorithms in configuration words.
    pub suite: String,
    /// Role of this gateway.
    pub role: Role,
    /// Seconds until the next rekey; `null` for an SA without a limit.
    pub rekey_in_s: Option<f64>,
    /// Result of NAT detection.
    pub nat: NatLocation,
    /// Whether recorded traffic stays secret from a later quantum computer.
    pub post_quantum: bool,
}

/// Status of a Child SA: the pair of ESP SAs that carries packets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChildSaStatus {
    /// SPI of inbound packets, 8 hex digits.
    pub spi_in: String,
    /// SPI of outbound packets, 8 hex digits.
    pub spi_out: String,
    /// Negotiated algorithms in configuration words; includes the PFS group after a rekey with PFS.
    pub suite: String,
    /// Negotiated local traffic selectors.
    pub local: Vec<String>,
    /// Negotiated remote traffic selectors.
    pub remote: Vec<String>,
    /// Seconds until the next rekey; `null` for an SA without a limit.
    pub rekey_in_s: Option<f64>,
    /// Largest inner packet in bytes.
    pub mtu: u16,
    /// Transport of its ESP packets.
    #[serde(default)]
    pub encapsulation: EspTransport,
    /// Inner traffic received over it since its last rekey.
    #[serde(default)]
    pub rx: TrafficCounters,
    /// Inner traffic sent over it since its last rekey.
    #[serde(default)]
    pub tx: TrafficCounters,
}

/// Packet and byte counters of inner traffic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficCounters {
    /// Packets.
    pub packets: u64,
    /// Bytes, inner headers included.
    pub bytes: u64,
}

/// Completed rekeys, initiated by either side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RekeyCounters {
    /// Rekeys of the IKE SA.
    pub ike: u64,
    /// Rekeys of the Child SA.
    pub child: u64,
    /// Packets dropped for lack of an SA within 5 s of a rekey.
    pub packets_lost: u64,
}

/// Result of rekeying each SA once soon after the first connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RekeyCheckStatus {
    /// Result for the Child SA.
    pub child: RekeyVerdict,
    /// Result for the IKE SA.
    pub ike: RekeyVerdict,
}

/// Failure of a tunnel, with advice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastError {
    /// Time of the failure.
    pub at_s: f64,
    /// Stable word for scripts, such as `no-proposal-chosen`.
    pub code: String,
    /// Description, with both sides' values where they differ.
    pub text: String,
    /// Advice.
    pub advice: String,
}
