//! What the gateway is doing, as one value. Its field names are the stable keys of `status --json` and `/v1/status`.
//!
//! Points in time (`since_s`, `at_s`) are seconds since the daemon started, the scale of `uptime_s`; `…_in_s` counts from now.
//!
//! ```json
//! {"version":"…","uptime_s":12.5,"tunnels":[{"name":"gcp-1","device":"gl-gcp-1","state":"up","peer":"35.197.191.225:4500",
//!  "since_s":9.1,"ike":{"spi_i":"…","spi_r":"…","suite":"aes128-sha1-modp1024","role":"initiator","rekey_in_s":80000.0,"nat":"forced",
//!  "post_quantum":false},"child":{"spi_in":"…","spi_out":"…","suite":"aes128-sha1","local":["…"],"remote":["…"],"rekey_in_s":80000.0,
//!  "mtu":1390,"encapsulation":"udp"},"rx":{"packets":0,"bytes":0},"tx":{"packets":0,"bytes":0},"refused":{"replay":0,"auth":0},
//!  "rekeys":{"ike":0,"child":0,"packets_lost":0},"last_error":{"at_s":3.2,"code":"no-proposal-chosen","text":"…","advice":"…"}}],
//!  "groups":[],"ike_refused":{"malformed":0,"forged":0},"offload":{"tun":"tcp+udp","send":"segments","receive":"joined"},
//!  "ticks":{"read":0,"seal":0}}
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The whole gateway at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The version of the daemon, which may not be that of the program that asks.
    pub version: String,
    /// Seconds since the daemon started.
    pub uptime_s: f64,
    /// Every tunnel, in the order of the configuration.
    pub tunnels: Vec<Tunnel>,
    /// Groups of tunnels; none in this version.
    pub groups: Vec<serde_json::Value>,
    /// IKE messages that came to nothing before their sender had proved anything, by reason (`ike::Refused`'s words).
    #[serde(default)]
    pub ike_refused: BTreeMap<String, u64>,
    /// What the kernel does for many packets at once; absent from daemons before it was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offload: Option<Offload>,
    /// Ticks of the processor's counter that the packets' workers have spent so far, by stage of the road (`datapath::Stage`'s words).
    #[serde(default)]
    pub ticks: BTreeMap<String, u64>,
}

/// What the kernel does for many packets at once: the least of what all devices and all sockets have, as things stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offload {
    /// Super-packets to and from the tunnels' devices.
    pub tun: SuperPackets,
    /// How packets leave for the peers.
    pub send: Sending,
    /// How packets come from the peers.
    pub receive: Receiving,
}

/// What the tunnels' devices take and give in one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SuperPackets {
    /// Nothing: packet by packet.
    #[serde(rename = "none")]
    None,
    /// TCP segments.
    #[serde(rename = "tcp")]
    Tcp,
    /// TCP segments and UDP datagrams.
    #[serde(rename = "tcp+udp")]
    TcpAndUdp,
}

impl SuperPackets {
    /// The word in JSON.
    pub fn word(self) -> &'static str {
        match self {
            SuperPackets::None => "none",
            SuperPackets::Tcp => "tcp",
            SuperPackets::TcpAndUdp => "tcp+udp",
        }
    }
}

/// How packets leave for the peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sending {
    /// Equal ones in one piece (`UDP_SEGMENT`).
    Segments,
    /// Equal ones in one piece if they are short; longer ones each on its own.
    Short,
    /// Each on its own.
    Single,
}

impl Sending {
    /// The word in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Sending::Segments => "segments",
            Sending::Short => "short",
            Sending::Single => "single",
        }
    }
}

/// How packets come from the peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Receiving {
    /// Equal ones in one piece (`UDP_GRO`).
    Joined,
    /// Each on its own.
    Single,
}

impl Receiving {
    /// The word in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Receiving::Joined => "joined",
            Receiving::Single => "single",
        }
    }
}

/// One tunnel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tunnel {
    /// Its name in the configuration.
    pub name: String,
    /// Its network device.
    pub device: String,
    /// Whether it carries traffic, or why not.
    pub state: State,
    /// What it waits for while it is connecting or has failed; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// The peer's address and port; the name while it is not resolved.
    pub peer: String,
    /// When it entered this state.
    pub since_s: f64,
    /// The IKE SA, while there is one.
    pub ike: Option<Ike>,
    /// The Child SA, while there is one.
    pub child: Option<Child>,
    /// What came from the peer and was delivered.
    pub rx: Counters,
    /// What was sent to the peer.
    pub tx: Counters,
    /// Packets not carried, by reason (`net::DropReason`'s metric names).
    pub refused: BTreeMap<String, u64>,
    /// Completed rekeys.
    pub rekeys: Rekeys,
    /// Whether the peer rekeys, where the tunnel was asked to find out (`rekey-check`); absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rekey_check: Option<RekeyCheck>,
    /// The last thing that went wrong; stays after it was overcome.
    pub last_error: Option<LastError>,
}

/// Whether a tunnel carries traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Asked for; holds until `up` or a restart.
    Down,
    /// Being negotiated, or waiting: between retries, for the peer (`add`), for traffic (`trap`).
    Connecting,
    /// It carries traffic.
    Up,
    /// We will not try again by ourselves; `last_error` says why.
    Failed,
}

impl State {
    /// The word in JSON and in the table.
    pub fn word(self) -> &'static str {
        match self {
            State::Down => "down",
            State::Connecting => "connecting",
            State::Up => "up",
            State::Failed => "failed",
        }
    }
}

/// What a tunnel without an SA waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Waiting {
    /// An answer from the peer or the name service.
    Answer,
    /// The end of the pause before the next attempt.
    Retry,
    /// A packet that wants through (`start = "trap"`).
    Traffic,
    /// The peer, or `groundlink up` (`start = "add"`).
    Peer,
}

impl Waiting {
    /// For people.
    pub fn phrase(self) -> &'static str {
        match self {
            Waiting::Answer => "waiting for an answer",
            Waiting::Retry => "pausing before the next attempt",
            Waiting::Traffic => "waiting for traffic",
            Waiting::Peer => "waiting for the peer",
        }
    }
}

/// An IKE SA.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ike {
    /// The initiator's SPI, 16 hex digits.
    pub spi_i: String,
    /// The responder's SPI, 16 hex digits.
    pub spi_r: String,
    /// The agreed algorithms in configuration words.
    pub suite: String,
    /// Who started it.
    pub role: Role,
    /// Seconds until it is replaced; `null` when it does not end.
    pub rekey_in_s: Option<f64>,
    /// Where a NAT was seen.
    pub nat: Nat,
    /// Whether recorded traffic stays secret from a later quantum computer.
    pub post_quantum: bool,
}

/// Who started an SA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// This gateway.
    Initiator,
    /// The peer.
    Responder,
}

impl Role {
    /// For people.
    pub fn phrase(self) -> &'static str {
        match self {
            Role::Initiator => "we started",
            Role::Responder => "the peer started",
        }
    }
}

/// Where NAT detection saw an address being translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Nat {
    /// Nowhere.
    None,
    /// In front of this gateway.
    Us,
    /// In front of the peer.
    Peer,
    /// In front of both.
    Both,
    /// UDP encapsulation was asked for, so detection was made to find one.
    Forced,
}

impl Nat {
    /// For people.
    pub fn phrase(self) -> &'static str {
        match self {
            Nat::None => "no NAT",
            Nat::Us => "NAT in front of us",
            Nat::Peer => "NAT in front of the peer",
            Nat::Both => "NAT in front of both",
            Nat::Forced => "UDP encapsulation asked for",
        }
    }
}

/// A Child SA: the pair of ESP SAs that carries packets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Child {
    /// The SPI on packets that come in, 8 hex digits.
    pub spi_in: String,
    /// The SPI on packets that go out, 8 hex digits.
    pub spi_out: String,
    /// The agreed algorithms in configuration words; names the PFS group once a PFS rekey has happened.
    pub suite: String,
    /// The agreed traffic selectors, ours.
    pub local: Vec<String>,
    /// The agreed traffic selectors, theirs.
    pub remote: Vec<String>,
    /// Seconds until it is replaced; `null` when it does not end.
    pub rekey_in_s: Option<f64>,
    /// The largest inner packet.
    pub mtu: u16,
    /// What carries its packets.
    #[serde(default)]
    pub encapsulation: Encapsulation,
}

/// What stands between the outer IP header and ESP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encapsulation {
    /// A UDP header (RFC 3948).
    #[default]
    Udp,
    /// Nothing: IP protocol 50.
    Esp,
}

/// Packets and bytes of inner traffic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// How many packets.
    pub packets: u64,
    /// How many bytes, inner headers included.
    pub bytes: u64,
}

/// Completed rekeys, whichever side started them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rekeys {
    /// Of the IKE SA.
    pub ike: u64,
    /// Of the Child SA.
    pub child: u64,
    /// Packets refused for want of an SA within 5 s of a rekey.
    pub packets_lost: u64,
}

/// What came of rekeying each SA once soon after the first connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RekeyCheck {
    /// Of the Child SA.
    pub child: Verdict,
    /// Of the IKE SA.
    pub ike: Verdict,
}

/// Whether the peer rekeys an SA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Not tried yet, or not answered yet.
    Pending,
    /// It does.
    Accepted,
    /// It does not.
    Refused,
}

impl Verdict {
    /// The word in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Pending => "pending",
            Verdict::Accepted => "accepted",
            Verdict::Refused => "refused",
        }
    }
}

/// Something that went wrong, and what to change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastError {
    /// When.
    pub at_s: f64,
    /// A stable word for scripts: `no-proposal-chosen`.
    pub code: String,
    /// What happened, theirs against ours.
    pub text: String,
    /// What to do about it.
    pub advice: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The contract: these keys, spelled like this, in this order.
    const CONTRACT: &str = r#"{"version":"0.1.0","uptime_s":12.5,"tunnels":[{"name":"gcp-1","device":"gl-gcp-1","state":"up","peer":"35.197.191.225:4500","since_s":9.1,"ike":{"spi_i":"0011223344556677","spi_r":"8899aabbccddeeff","suite":"aes128-sha1-modp1024","role":"initiator","rekey_in_s":80000.0,"nat":"forced","post_quantum":false},"child":{"spi_in":"c0000001","spi_out":"c0000002","suite":"aes128-sha1","local":["10.0.0.0/24"],"remote":["10.1.0.0/24"],"rekey_in_s":null,"mtu":1390,"encapsulation":"udp"},"rx":{"packets":1,"bytes":84},"tx":{"packets":2,"bytes":168},"refused":{"auth":0,"replay":3},"rekeys":{"ike":0,"child":0,"packets_lost":0},"last_error":{"at_s":3.2,"code":"no-proposal-chosen","text":"t","advice":"a"}}],"groups":[],"ike_refused":{"forged":0,"malformed":7},"offload":{"tun":"tcp+udp","send":"segments","receive":"joined"},"ticks":{"open":9,"seal":8}}"#;

    #[test]
    fn the_json_keys_are_those_of_the_contract() {
        let snapshot: Snapshot = serde_json::from_str(CONTRACT).unwrap();
        assert_eq!(serde_json::to_string(&snapshot).unwrap(), CONTRACT);
        assert_eq!(snapshot.tunnels[0].state, State::Up);
    }

    #[test]
    fn what_is_offloaded_is_written_as_its_words() {
        for tun in [
            SuperPackets::None,
            SuperPackets::Tcp,
            SuperPackets::TcpAndUdp,
        ] {
            assert_eq!(serde_json::to_value(tun).unwrap(), tun.word());
        }
        for send in [Sending::Segments, Sending::Short, Sending::Single] {
            assert_eq!(serde_json::to_value(send).unwrap(), send.word());
        }
        for receive in [Receiving::Joined, Receiving::Single] {
            assert_eq!(serde_json::to_value(receive).unwrap(), receive.word());
        }
    }

    #[test]
    fn every_state_is_written_as_its_word() {
        for state in [State::Down, State::Connecting, State::Up, State::Failed] {
            assert_eq!(serde_json::to_value(state).unwrap(), state.word());
        }
    }
}
