//! What the lab found out, for people and for scripts.

use std::fmt::{self, Write as _};

use serde::Serialize;

use crate::status::{RekeyCounters, TrafficCounters, TunnelStatus};

/// The outcome. Its serialised form is `lab --json`, and its keys are stable.
#[derive(Debug, Serialize)]
pub struct LabReport {
    /// Whether everything the lab checks is well.
    pub ok: bool,
    /// `self` or `strongswan`.
    pub peer: &'static str,
    /// The IKE proposals asked for.
    pub ike: String,
    /// The ESP proposals asked for.
    pub esp: String,
    /// From starting the side that connects until our side says up; `null` if it never did.
    pub connect_ms: Option<f64>,
    /// Echo requests from host A to host B.
    pub ping: PingStats,
    /// One TCP direction after the other.
    pub tcp: TcpRates,
    /// Completed rekeys of all tunnels together.
    pub rekeys: RekeyCounters,
    /// Our tunnels, as in `status --json`.
    pub tunnels: Vec<TunnelStatus>,
    /// What the WAN router saw pass, until TCP began; where ESP is to go in UDP, protocol 50 is watched to the end.
    pub wire: WireCounters,
    /// Why it is not ok; empty when it is.
    pub problems: Vec<Problem>,
    #[serde(skip)]
    pub(super) drawing: Diagram,
}

/// How the echo requests went.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PingStats {
    /// Requests sent.
    pub sent: u32,
    /// Answers that came back, each counted once.
    pub received: u32,
    /// Their mean round trip; `null` without an answer.
    pub rtt_avg_ms: Option<f64>,
}

/// How fast TCP went.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct TcpRates {
    /// From host A to host B, in Mbit/s of payload.
    pub a_to_b_mbit: f64,
    /// From host B to host A.
    pub b_to_a_mbit: f64,
}

/// Packets on the WAN, sorted by what an observer takes them for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct WireCounters {
    /// IKE on port 500.
    pub ike_500: u64,
    /// IKE behind the non-ESP marker on port 4500.
    pub ike_4500: u64,
    /// ESP inside UDP 4500.
    pub esp_udp: u64,
    /// NAT keepalives.
    pub keepalives: u64,
    /// ESP as protocol 50, which many clouds and NATs drop.
    pub esp_native: u64,
    /// Packets of the two networks, in the clear.
    pub clear: u64,
    /// Anything else.
    pub other: u64,
}

/// One thing that is not well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What happened.
    pub text: String,
    /// What to do about it, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
    /// The last lines of a log that tell more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
}

impl Problem {
    /// A problem that explains itself.
    pub fn new(text: impl Into<String>) -> Problem {
        Problem {
            text: text.into(),
            advice: None,
            log: Vec::new(),
        }
    }
}

/// The names and addresses of the picture.
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
        draw(f, &self.drawing)?;
        self.negotiated(f)?;
        match self.connect_ms {
            Some(ms) => line(f, "connected", &format!("{ms:.1} ms after the start"))?,
            None => line(f, "connected", "no")?,
        }
        if self.connect_ms.is_some() {
            self.traffic(f)?;
        }
        writeln!(f)?;
        for problem in &self.problems {
            writeln!(f, "  not ok: {}", problem.text)?;
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
    /// What the tunnels agreed on, which is the same for all of them, and which of several carried how much.
    fn negotiated(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(ike) = self.tunnels.iter().find_map(|tunnel| tunnel.ike.as_ref()) {
            let (role, nat) = (ike.role.phrase(), ike.nat.phrase());
            line(f, "IKE", &format!("{}, {role}, {nat}", ike.suite))?;
        }
        if let Some(child) = self.tunnels.iter().find_map(|tunnel| tunnel.child.as_ref()) {
            line(
                f,
                "ESP",
                &format!(
                    "{}, inner packets of up to {} bytes",
                    child.suite, child.mtu
                ),
            )?;
        }
        if self.tunnels.len() > 1 {
            for tunnel in &self.tunnels {
                let (sent, received) = (tunnel.tx.packets, tunnel.rx.packets);
                line(
                    f,
                    &tunnel.name,
                    &format!(
                        "{}, {sent} packets sent, {received} received",
                        tunnel.state.word()
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
        let rtt = rtt_avg_ms.map_or(String::new(), |ms| format!(", {ms:.2} ms there and back"));
        line(f, "ping", &format!("{received} of {sent} answered{rtt}"))?;
        let speed = |mbit: f64| format!("{} for {} s", rate(mbit), self.drawing.seconds);
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
            format!("{packets} packets, {}", size(bytes))
        };
        line(f, "sent", &total(|tunnel| tunnel.tx))?;
        line(f, "received", &total(|tunnel| tunnel.rx))?;
        let RekeyCounters {
            child,
            ike,
            packets_lost,
        } = self.rekeys;
        if child + ike > 0 {
            let text = format!(
                "{child} of Child SAs, {ike} of IKE SAs, {packets_lost} packets lost by them"
            );
            line(f, "rekeys", &text)?;
        }
        let mut refused = String::new();
        for tunnel in &self.tunnels {
            for (reason, count) in tunnel.refused.iter().filter(|(_, count)| **count > 0) {
                write!(
                    refused,
                    "{}{count} {reason}",
                    if refused.is_empty() { "" } else { ", " }
                )?;
            }
        }
        line(
            f,
            "refused",
            if refused.is_empty() {
                "nothing"
            } else {
                &refused
            },
        )?;
        line(f, "on the wire", &self.wire.to_string())
    }
}

impl fmt::Display for WireCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.esp_native {
            0 => f.write_str("ESP in UDP 4500 only")?,
            count if self.esp_udp == 0 => write!(f, "ESP as protocol 50 only, {count} packets")?,
            count => write!(f, "{count} packets of protocol 50")?,
        }
        match self.clear {
            0 => f.write_str(", nothing in the clear"),
            count => write!(f, ", {count} packets in the clear"),
        }
    }
}

/// Two sites and what lies between them:
///
/// ```text
/// ┌──────────┐  ┌────────────┐             ┌────────────┐  ┌──────────┐
/// │  host A  ├──┤ gateway A  ╞═════════════╡ gateway B  ├──┤  host B  │
/// ```
fn draw(f: &mut fmt::Formatter<'_>, drawing: &Diagram) -> fmt::Result {
    let host = |end: usize, title, edges| {
        boxed([title, &drawing.hosts[end], &drawing.networks[end]], edges)
    };
    let gateway = |end: usize, title, edges| {
        boxed(
            [title, &drawing.gateways[end], &drawing.programs[end]],
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
    let width = drawing.router.chars().count() + 4;
    for row in 0..5 {
        let (lan, wan) = match row {
            1 => ("──", "═".repeat(width)),
            2 => ("  ", format!("{:^width$}", drawing.router)),
            _ => ("  ", " ".repeat(width)),
        };
        let [host_a, gateway_a] = left.each_ref().map(|cell| &cell[row]);
        let [gateway_b, host_b] = right.each_ref().map(|cell| &cell[row]);
        writeln!(f, "  {host_a}{lan}{gateway_a}{wan}{gateway_b}{lan}{host_b}")?;
    }
    writeln!(f)
}

/// A machine; `edges` join its first line to the links beside it.
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
            drawing: Diagram {
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
    fn the_json_keys_are_those_of_the_contract() {
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
    fn a_person_sees_the_way_the_speed_and_the_verdict() {
        let text = report().to_string();
        for part in [
            "gateway A",
            "192.0.2.129",
            "12.3 ms",
            "20 of 20",
            "812 Mbit/s",
            "1.21 Gbit/s",
            "nothing in the clear",
            "ok:",
        ] {
            assert!(text.contains(part), "no {part} in\n{text}");
        }
        assert!(!text.contains("not ok") && !text.contains("rekeys"));
        let mut rekeyed = report();
        rekeyed.rekeys.child = 3;
        let text = rekeyed.to_string();
        let line = "3 of Child SAs, 0 of IKE SAs, 0 packets lost by them";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn a_failure_says_what_happened_and_shows_the_log() {
        let problem = Problem {
            text: "the tunnel did not come up".to_owned(),
            advice: Some("read the log".to_owned()),
            log: vec!["refused".to_owned()],
        };
        let text = LabReport {
            ok: false,
            connect_ms: None,
            problems: vec![problem],
            ..report()
        }
        .to_string();
        assert!(
            text.contains("not ok: the tunnel did not come up"),
            "{text}"
        );
        assert!(
            text.contains("| refused") && !text.contains("  ok:") && !text.contains("Mbit"),
            "{text}"
        );
    }
}
