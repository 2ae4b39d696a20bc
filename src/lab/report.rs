//! The report of the lab, as text and as JSON.

use std::fmt::{self, Write as _};

use serde::Serialize;

use crate::net::counted;
use crate::status::{RekeyCounters, TrafficCounters, TunnelStatus};

/// The result of the lab. Its serialized form is `lab --json`, with stable keys.
#[derive(Debug, Serialize)]
pub struct LabReport {
    /// Whether all checks succeeded.
    pub ok: bool,
    /// `self` or `strongswan`.
    pub peer: &'static str,
    /// Configured IKE proposals.
    pub ike: String,
    /// Configured ESP proposals.
    pub esp: String,
    /// Time from the start of the initiator until side A is up; `null` if it did not come up.
    pub connect_ms: Option<f64>,
    /// Echo requests from host A to host B.
    pub ping: PingStats,
    /// TCP throughput, one direction after the other.
    pub tcp: TcpRates,
    /// Completed rekeys of all tunnels.
    pub rekeys: RekeyCounters,
    /// Tunnels of side A, as in `status --json`.
    pub tunnels: Vec<TunnelStatus>,
    /// Packets on the WAN before the TCP transfer; IP protocol 50 is counted until the end if ESP must be in UDP.
    pub wire: WireCounters,
    /// Failed checks.
    pub problems: Vec<LabProblem>,
    #[serde(skip)]
    pub(super) diagram: Diagram,
}

/// Statistics of the echo requests.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PingStats {
    /// Requests sent.
    pub sent: u32,
    /// Received replies, each counted once.
    pub received: u32,
    /// Mean round-trip time; `null` without a reply.
    pub rtt_avg_ms: Option<f64>,
}

/// TCP throughput.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct TcpRates {
    /// From host A to host B, in Mbit/s of payload.
    pub a_to_b_mbit: f64,
    /// From host B to host A.
    pub b_to_a_mbit: f64,
}

/// Packets on the WAN, by kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct WireCounters {
    /// IKE on port 500.
    pub ike_500: u64,
    /// IKE with non-ESP marker on port 4500.
    pub ike_4500: u64,
    /// ESP inside UDP 4500.
    pub esp_udp: u64,
    /// NAT keepalives.
    pub keepalives: u64,
    /// ESP as IP protocol 50, which many clouds and NATs drop.
    pub esp_native: u64,
    /// Unencrypted packets of the two networks.
    pub clear: u64,
    /// Anything else.
    pub other: u64,
}

/// A failed check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LabProblem {
    /// Description.
    pub text: String,
    /// Advice, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
    /// Last lines of the relevant log.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
}

impl LabProblem {
    /// A failed check without advice and log.
    pub fn new(text: impl Into<String>) -> LabProblem {
        LabProblem {
            text: text.into(),
            advice: None,
            log: Vec::new(),
        }
    }
}

/// Names and addresses in the diagram.
#[derive(Debug, Clone, Default)]
pub(super) struct Diagram {
    pub networks: [String; 2],
    pub hosts: [String; 2],
    pub gateways: [String; 2],
    pub programs: [String; 2],
    pub router: String,
    pub seconds: u32,
}

impl fmt::Display for LabReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        draw(f, &self.diagram)?;
        self.negotiated(f)?;
        match self.connect_ms {
            Some(ms) => line(f, "connected", &format!("{ms:.1} ms after start"))?,
            None => line(f, "connected", "no")?,
        }
        if self.connect_ms.is_some() {
            self.traffic(f)?;
        }
        writeln!(f)?;
        for problem in &self.problems {
            writeln!(f, "  failed: {}", problem.text)?;
            if let Some(advice) = &problem.advice {
                writeln!(f, "          {advice}")?;
            }
            for text in &problem.log {
                writeln!(f, "        | {text}")?;
            }
        }
        if self.ok {
            writeln!(f, "  ok: the tunnel carries traffic both ways")?;
        }
        Ok(())
    }
}

impl LabReport {
    /// Writes the negotiated suites, which are the same for all tunnels, and the traffic of each of several tunnels.
    fn negotiated(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(ike) = self.tunnels.iter().find_map(|tunnel| tunnel.ike.as_ref()) {
            let (role, nat) = (ike.role.phrase(), ike.nat.phrase());
            line(f, "IKE", &format!("{}, {role}, {nat}", ike.suite))?;
        }
        if let Some(child) = self.tunnels.iter().find_map(|tunnel| tunnel.child.as_ref()) {
            line(
                f,
                "ESP",
                &format!("{}, inner MTU {} bytes", child.suite, child.mtu),
            )?;
        }
        if self.tunnels.len() > 1 {
            for tunnel in &self.tunnels {
                let (sent, received) = (tunnel.tx.packets, tunnel.rx.packets);
                line(
                    f,
                    &tunnel.name,
                    &format!(
                        "{}, {} sent, {received} received",
                        tunnel.state.word(),
                        counted(sent, "packet")
                    ),
                )?;
            }
        }
        Ok(())
    }

    fn traffic(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PingStats {
            sent,
            received,
            rtt_avg_ms,
        } = &self.ping;
        let rtt = rtt_avg_ms.map_or(String::new(), |ms| format!(", {ms:.2} ms round trip"));
        line(f, "ping", &format!("{received} of {sent} replies{rtt}"))?;
        let speed = |mbit: f64| format!("{} for {} s", rate(mbit), self.diagram.seconds);
        line(f, "TCP A to B", &speed(self.tcp.a_to_b_mbit))?;
        line(f, "TCP B to A", &speed(self.tcp.b_to_a_mbit))?;
        let total = |pick: fn(&TunnelStatus) -> TrafficCounters| {
            let (packets, bytes) = self
                .tunnels
                .iter()
                .map(pick)
                .fold((0, 0), |(packets, bytes), counters| {
                    (packets + counters.packets, bytes + counters.bytes)
                });
            format!("{}, {}", counted(packets, "packet"), size(bytes))
        };
        line(f, "sent", &total(|tunnel| tunnel.tx))?;
        line(f, "received", &total(|tunnel| tunnel.rx))?;
        let RekeyCounters {
            child,
            ike,
            packets_lost,
        } = self.rekeys;
        if child + ike > 0 {
            let lost = counted(packets_lost, "packet");
            let text = format!("{child} child, {ike} ike; {lost} lost");
            line(f, "rekeys", &text)?;
        }
        let mut dropped = String::new();
        for tunnel in &self.tunnels {
            for (reason, count) in tunnel.refused.iter().filter(|(_, count)| **count > 0) {
                write!(
                    dropped,
                    "{}{count} {reason}",
                    if dropped.is_empty() { "" } else { ", " }
                )?;
            }
        }
        line(
            f,
            "dropped",
            if dropped.is_empty() {
                "nothing"
            } else {
                &dropped
            },
        )?;
        line(f, "on the wire", &self.wire.to_string())
    }
}

impl fmt::Display for WireCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.esp_native {
            0 => f.write_str("ESP in UDP 4500 only")?,
            count if self.esp_udp == 0 => {
                write!(
                    f,
                    "ESP as IP protocol 50 only, {}",
                    counted(count, "packet")
                )?;
            }
            count => write!(f, "{} of IP protocol 50", counted(count, "packet"))?,
        }
        match self.clear {
            0 => f.write_str(", nothing unencrypted"),
            count => write!(f, ", {} unencrypted", counted(count, "packet")),
        }
    }
}

/// Draws both sites:
///
/// ```text
/// ┌──────────┐  ┌────────────┐             ┌────────────┐  ┌──────────┐
/// │  host A  ├──┤ gateway A  ╞═════════════╡ gateway B  ├──┤  host B  │
/// ```
fn draw(f: &mut fmt::Formatter<'_>, diagram: &Diagram) -> fmt::Result {
    let host = |end: usize, title, edges| {
        boxed([title, &diagram.hosts[end], &diagram.networks[end]], edges)
    };
    let gateway = |end: usize, title, edges| {
        boxed(
            [title, &diagram.gateways[end], &diagram.programs[end]],
            edges,
        )
    };
    let left = [
        host(0, "host A", ['│', '├']),
        gateway(0, "gateway A", ['┤', '╞']),
    ];
    let right = [
        gateway(1, "gateway B", ['╡', '├']),
        host(1, "host B", ['┤', '│']),
    ];
    let width = diagram.router.chars().count() + 4;
    for row in 0..5 {
        let (lan, wan) = match row {
            1 => ("──", "═".repeat(width)),
            2 => ("  ", format!("{:^width$}", diagram.router)),
            _ => ("  ", " ".repeat(width)),
        };
        let [host_a, gateway_a] = left.each_ref().map(|cell| &cell[row]);
        let [gateway_b, host_b] = right.each_ref().map(|cell| &cell[row]);
        writeln!(f, "  {host_a}{lan}{gateway_a}{wan}{gateway_b}{lan}{host_b}")?;
    }
    writeln!(f)
}

/// The box of a machine; `edges` connect its first line to the links beside it.
fn boxed(lines: [&str; 3], edges: [char; 2]) -> [String; 5] {
    let width = lines
        .iter()
        .map(|line| line.chars().count())
        .max()
        .unwrap_or(0)
        + 2;
    let rule = "─".repeat(width);
    let [title, second, third] = lines.map(|line| format!("{line:^width$}"));
    [
        format!("┌{rule}┐"),
        format!("{}{title}{}", edges[0], edges[1]),
        format!("│{second}│"),
        format!("│{third}│"),
        format!("└{rule}┘"),
    ]
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, text: &str) -> fmt::Result {
    writeln!(f, "  {name:<12} {text}")
}

fn rate(mbit: f64) -> String {
    if mbit >= 1000.0 {
        format!("{:.2} Gbit/s", mbit / 1000.0)
    } else {
        format!("{mbit:.0} Mbit/s")
    }
}

fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["kB", "MB", "GB"] {
        if value < 1000.0 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    if unit == "B" {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> LabReport {
        LabReport {
            ok: true,
            peer: "self",
            ike: "aes128-sha1-modp1024".to_owned(),
            esp: "aes128-sha1-modp1024".to_owned(),
            connect_ms: Some(12.34),
            ping: PingStats {
                sent: 20,
                received: 20,
                rtt_avg_ms: Some(0.304),
            },
            tcp: TcpRates {
                a_to_b_mbit: 812.0,
                b_to_a_mbit: 1212.3,
            },
            rekeys: RekeyCounters::default(),
            tunnels: Vec::new(),
            wire: WireCounters::default(),
            problems: Vec::new(),
            diagram: Diagram {
                networks: ["10.1.0.0/24", "10.2.0.0/24"].map(str::to_owned),
                hosts: ["10.1.0.2", "10.2.0.2"].map(str::to_owned),
                gateways: ["192.0.2.1", "192.0.2.129"].map(str::to_owned),
                programs: ["groundlink", "groundlink"].map(str::to_owned),
                router: "router".to_owned(),
                seconds: 2,
            },
        }
    }

    #[test]
    fn json_has_the_stable_keys() {
        let json = serde_json::to_value(report()).unwrap();
        for key in [
            "ok",
            "peer",
            "ike",
            "esp",
            "connect_ms",
            "ping",
            "tcp",
            "rekeys",
            "tunnels",
        ] {
            assert!(json.get(key).is_some(), "{key} is missing");
        }
        assert_eq!(
            json["ping"],
            serde_json::json!({"sent": 20, "received": 20, "rtt_avg_ms": 0.304})
        );
        assert_eq!(
            json["tcp"],
            serde_json::json!({"a_to_b_mbit": 812.0, "b_to_a_mbit": 1212.3})
        );
        assert_eq!(
            json["rekeys"],
            serde_json::json!({"child": 0, "ike": 0, "packets_lost": 0})
        );
    }

    #[test]
    fn text_has_the_diagram_the_throughput_and_the_verdict() {
        let text = report().to_string();
        for part in [
            "gateway A",
            "192.0.2.129",
            "12.3 ms",
            "20 of 20",
            "812 Mbit/s",
            "1.21 Gbit/s",
            "nothing unencrypted",
            "ok:",
        ] {
            assert!(text.contains(part), "no {part} in\n{text}");
        }
        assert!(!text.contains("failed:") && !text.contains("rekeys"));
        let mut rekeyed = report();
        rekeyed.rekeys.child = 3;
        let text = rekeyed.to_string();
        let line = "3 child, 0 ike; 0 packets lost";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn a_failure_has_a_description_and_the_log() {
        let problem = LabProblem {
            text: "the tunnel did not come up".to_owned(),
            advice: Some("read the log".to_owned()),
            log: vec!["rejected".to_owned()],
        };
        let text = LabReport {
            ok: false,
            connect_ms: None,
            problems: vec![problem],
            ..report()
        }
        .to_string();
        assert!(
            text.contains("failed: the tunnel did not come up"),
            "{text}"
        );
        assert!(
            text.contains("| rejected") && !text.contains("  ok:") && !text.contains("Mbit"),
            "{text}"
        );
    }
}
