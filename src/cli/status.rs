//! `groundlink status`: state of the tunnels, as text or JSON.
//!
//! ```text
//! ali-1  up for 9 min 12 s  47.88.10.20:4500  device gl-ali-1
//!   ike       aes128-sha1-modp1024, initiated by us, UDP encapsulation forced, next rekey in 22 h 13 min
//!   child     aes128-sha1, 192.168.1.0/24 <-> 172.16.1.0/24, MTU 1390, next rekey in 22 h 13 min
//!   received  1,204 packets, 1.2 MB
//!   sent      1,100 packets, 0.9 MB
//!   dropped   3 replay
//!   rekeys    7 child, 2 ike; 0 packets lost; rekey check accepted
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::Args;

use super::common::{Exit, Failure, GlobalArgs, print};
use super::request::{parse_response, request, tunnel_path};
use crate::control::client::HttpMethod;
use crate::status::{
    ChildSaStatus, EspTransport, IkeSaStatus, LastError, RekeyCheckStatus, RekeyCounters,
    RekeyVerdict, Snapshot, TrafficCounters, TunnelState, TunnelStatus,
};

/// Show tunnels, SAs, counters, and the last error of each tunnel
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  groundlink status\n  groundlink status ali-1 --json\n\nExit status: 0 all tunnels are up · 3 the daemon is not reachable · 4 a tunnel is not up"
)]
pub(crate) struct Status {
    /// Show only this tunnel
    tunnel: Option<String>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

impl Status {
    pub fn execute(self, global: &GlobalArgs) -> Result<Exit, Failure> {
        // An invalid name is an error of the command line, whether the daemon runs or not.
        self.tunnel.as_deref().map(tunnel_path).transpose()?;
        let mut value = request(&global.control_socket(), HttpMethod::Get, "/v1/status")?;
        let mut snapshot: Snapshot = parse_response(value.clone())?;
        if let Some(name) = &self.tunnel {
            select(name, &mut snapshot, &mut value)?;
        }
        // The JSON of the daemon is printed unchanged: a newer daemon may have more keys.
        let text = if self.json {
            format!("{value}\n")
        } else {
            text(&snapshot)
        };
        print(text.as_bytes())?;
        let all_up = snapshot
            .tunnels
            .iter()
            .all(|tunnel| tunnel.state == TunnelState::Up);
        Ok(if all_up { Exit::Done } else { Exit::Unhealthy })
    }
}

/// Removes all tunnels but one.
fn select(
    name: &str,
    snapshot: &mut Snapshot,
    value: &mut serde_json::Value,
) -> Result<(), Failure> {
    if !snapshot.tunnels.iter().any(|tunnel| tunnel.name == name) {
        let known: Vec<&str> = snapshot
            .tunnels
            .iter()
            .map(|tunnel| tunnel.name.as_str())
            .collect();
        return Err(Failure::failed(
            format!("there is no tunnel `{name}`"),
            format!("the tunnels are: {}", known.join(", ")),
        ));
    }
    snapshot.tunnels.retain(|tunnel| tunnel.name == name);
    if let Some(tunnels) = value["tunnels"].as_array_mut() {
        tunnels.retain(|tunnel| tunnel["name"] == name);
    }
    Ok(())
}

/// The snapshot as text.
fn text(snapshot: &Snapshot) -> String {
    let width =
        |part: fn(&TunnelStatus) -> usize| snapshot.tunnels.iter().map(part).max().unwrap_or(0);
    let (names, peers) = (
        width(|tunnel| tunnel.name.len()),
        width(|tunnel| tunnel.peer.len()),
    );
    let states = snapshot
        .tunnels
        .iter()
        .map(|tunnel| state(tunnel, snapshot.uptime_s).len())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for tunnel in &snapshot.tunnels {
        let state = state(tunnel, snapshot.uptime_s);
        let _ = writeln!(
            text,
            "{:names$}  {state:states$}  {:peers$}  device {}",
            tunnel.name, tunnel.peer, tunnel.device
        );
        for (label, line) in details(tunnel, snapshot.uptime_s) {
            let _ = writeln!(text, "  {label:8}  {line}");
        }
    }
    let dropped = nonzero(&snapshot.ike_refused);
    if !dropped.is_empty() {
        let _ = writeln!(text, "IKE messages dropped: {dropped}");
    }
    let unmatched = nonzero(&snapshot.unmatched);
    if !unmatched.is_empty() {
        let _ = writeln!(text, "packets of no tunnel dropped: {unmatched}");
    }
    if let Some(offload) = &snapshot.offload {
        let _ = writeln!(
            text,
            "offload: devices {}, send {}, receive {}",
            offload.tun.word(),
            offload.send.word(),
            offload.receive.word()
        );
    }
    let up = snapshot
        .tunnels
        .iter()
        .filter(|tunnel| tunnel.state == TunnelState::Up)
        .count();
    let all = snapshot.tunnels.len();
    let running = span(snapshot.uptime_s);
    let _ = writeln!(
        text,
        "{up} of {all} up; groundlink {} running for {running}",
        snapshot.version
    );
    text
}

fn state(tunnel: &TunnelStatus, now: f64) -> String {
    let waiting = tunnel
        .waiting
        .map_or(String::new(), |waiting| format!(", {}", waiting.phrase()));
    format!(
        "{} for {}{waiting}",
        tunnel.state.word(),
        span(now - tunnel.since_s)
    )
}

/// The lines below a tunnel: each a label and a text.
fn details(tunnel: &TunnelStatus, now: f64) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    lines.extend(tunnel.ike.as_ref().map(|ike| ("ike", self::ike(ike))));
    // An older daemon has `child` only.
    let children = match tunnel.children.as_slice() {
        [] => tunnel.child.as_slice(),
        children => children,
    };
    lines.extend(children.iter().map(|child| ("child", self::child(child))));
    if tunnel.state == TunnelState::Up || tunnel.rx.packets > 0 || tunnel.tx.packets > 0 {
        lines.push(("received", counters(&tunnel.rx)));
        lines.push(("sent", counters(&tunnel.tx)));
    }
    let dropped = nonzero(&tunnel.refused);
    if !dropped.is_empty() {
        lines.push(("dropped", dropped));
    }
    lines.extend(rekeys(tunnel).map(|line| ("rekeys", line)));
    for warning in &tunnel.warnings {
        lines.push(("warning", format!("{} ({})", warning.text, warning.code)));
        lines.push(("advice", warning.advice.clone()));
    }
    lines.extend(
        tunnel
            .last_error
            .as_ref()
            .into_iter()
            .flat_map(|error| last_error(tunnel, error, now)),
    );
    lines
}

/// Completed rekeys and the result of the rekey check; `None` before the first.
fn rekeys(tunnel: &TunnelStatus) -> Option<String> {
    let RekeyCounters {
        ike,
        child,
        packets_lost,
    } = &tunnel.rekeys;
    let lost = match packets_lost {
        1 => "1 packet lost".to_owned(),
        lost => format!("{} packets lost", grouped(*lost)),
    };
    let done = (ike + child > 0)
        .then(|| format!("{} child, {} ike; {lost}", grouped(*child), grouped(*ike)));
    let check = tunnel.rekey_check.as_ref().map(rekey_check);
    let parts: Vec<String> = done.into_iter().chain(check).collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn rekey_check(check: &RekeyCheckStatus) -> String {
    let describe = |verdict| match verdict {
        RekeyVerdict::Pending => "pending",
        RekeyVerdict::Accepted => "accepted",
        RekeyVerdict::Refused => "rejected by the peer",
    };
    let (child, ike) = (describe(check.child), describe(check.ike));
    if check.child == check.ike {
        format!("rekey check {child}")
    } else {
        format!("rekey check of the child {child}, of the ike {ike}")
    }
}

fn ike(ike: &IkeSaStatus) -> String {
    let post_quantum = if ike.post_quantum {
        ", post-quantum"
    } else {
        ""
    };
    format!(
        "{}{post_quantum}, {}, {}{}",
        ike.suite,
        ike.role.phrase(),
        ike.nat.phrase(),
        next_rekey(ike.rekey_in_s)
    )
}

fn child(child: &ChildSaStatus) -> String {
    let (local, remote) = (child.local.join(" "), child.remote.join(" "));
    let transport = match child.encapsulation {
        EspTransport::Udp => "",
        EspTransport::Esp => " as IP protocol 50",
    };
    format!(
        "{}{transport}, {local} <-> {remote}, MTU {}{}",
        child.suite,
        child.mtu,
        next_rekey(child.rekey_in_s)
    )
}

fn next_rekey(seconds: Option<f64>) -> String {
    seconds.map_or(String::new(), |seconds| {
        format!(", next rekey in {}", span(seconds))
    })
}

/// The last error: with advice while it persists, in one line once the tunnel is up again.
fn last_error(tunnel: &TunnelStatus, error: &LastError, now: f64) -> Vec<(&'static str, String)> {
    let ago = span(now - error.at_s);
    if tunnel.state == TunnelState::Up && error.at_s < tunnel.since_s {
        return vec![(
            "resolved",
            format!("{} ({}, {ago} ago)", error.text, error.code),
        )];
    }
    let mut lines = vec![(
        "error",
        format!("{} ({}, {ago} ago)", error.text, error.code),
    )];
    if !error.advice.is_empty() {
        lines.push(("advice", error.advice.clone()));
    }
    lines
}

fn counters(counters: &TrafficCounters) -> String {
    let packets = if counters.packets == 1 {
        "packet"
    } else {
        "packets"
    };
    format!(
        "{} {packets}, {}",
        grouped(counters.packets),
        bytes(counters.bytes)
    )
}

/// Counters above zero: "3 replay, 1 short".
fn nonzero(counts: &BTreeMap<String, u64>) -> String {
    let words: Vec<String> = counts
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(name, count)| format!("{} {name}", grouped(*count)))
        .collect();
    words.join(", ")
}

/// A number with groups of three digits: "1,204".
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// An amount in decimal units: "1.2 MB".
fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if number < 1000 {
        return format!("{number} B");
    }
    let mut scaled = number as f64;
    let mut unit = "B";
    for larger in UNITS {
        if scaled < 999.95 {
            break;
        }
        scaled /= 1000.0;
        unit = larger;
    }
    format!("{scaled:.1} {unit}")
}

/// A duration by its two largest units: "9 min 12 s", "22 h 13 min".
fn span(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    let parts = [
        ("d", whole / 86_400),
        ("h", whole / 3600 % 24),
        ("min", whole / 60 % 60),
        ("s", whole % 60),
    ];
    let shown: Vec<String> = parts
        .iter()
        .skip_while(|(_, count)| *count == 0)
        .take(2)
        .filter(|(_, count)| *count > 0)
        .map(|(unit, count)| format!("{count} {unit}"))
        .collect();
    if shown.is_empty() {
        "0 s".to_owned()
    } else {
        shown.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{
        GsoSupport, NatLocation, OffloadStatus, ReceiveOffload, Role, SendOffload, TunnelWarning,
        WaitingFor,
    };

    fn tunnel(name: &str, state: TunnelState) -> TunnelStatus {
        TunnelStatus {
            name: name.to_owned(),
            device: format!("gl-{name}"),
            state,
            waiting: None,
            peer: "47.88.10.20:4500".to_owned(),
            since_s: 100.0,
            ike: None,
            child: None,
            children: Vec::new(),
            rx: TrafficCounters::default(),
            tx: TrafficCounters::default(),
            refused: [("auth".to_owned(), 0), ("replay".to_owned(), 3)].into(),
            rekeys: RekeyCounters::default(),
            rekey_check: None,
            next_attempt_s: None,
            warnings: Vec::new(),
            last_error: None,
        }
    }

    fn snapshot(tunnels: Vec<TunnelStatus>) -> Snapshot {
        Snapshot {
            version: "0.1.0".to_owned(),
            uptime_s: 652.0,
            tunnels,
            groups: Vec::new(),
            ike_refused: [("forged".to_owned(), 0)].into(),
            unmatched: [("unknown-spi".to_owned(), 0)].into(),
            offload: None,
            ticks: Default::default(),
        }
    }

    #[test]
    fn a_tunnel_that_is_up_shows_its_sas_and_counters() {
        let mut up = tunnel("ali-1", TunnelState::Up);
        up.ike = Some(IkeSaStatus {
            spi_i: "0".repeat(16),
            spi_r: "0".repeat(16),
            suite: "aes128-sha1-modp1024".to_owned(),
            role: Role::Initiator,
            rekey_in_s: Some(79_980.0),
            nat: NatLocation::Forced,
            post_quantum: false,
        });
        up.child = Some(ChildSaStatus {
            spi_in: "c0000001".to_owned(),
            spi_out: "c0000002".to_owned(),
            suite: "aes128-sha1".to_owned(),
            local: vec!["192.168.1.0/24".to_owned()],
            remote: vec!["172.16.1.0/24".to_owned()],
            rekey_in_s: None,
            mtu: 1390,
            encapsulation: EspTransport::Udp,
            rx: TrafficCounters::default(),
            tx: TrafficCounters::default(),
        });
        up.rx = TrafficCounters {
            packets: 1204,
            bytes: 1_234_567,
        };
        up.tx = TrafficCounters {
            packets: 1,
            bytes: 84,
        };
        let expected = "\
ali-1  up for 9 min 12 s  47.88.10.20:4500  device gl-ali-1
  ike       aes128-sha1-modp1024, initiated by us, UDP encapsulation forced, next rekey in 22 h 13 min
  child     aes128-sha1, 192.168.1.0/24 <-> 172.16.1.0/24, MTU 1390
  received  1,204 packets, 1.2 MB
  sent      1 packet, 84 B
  dropped   3 replay
1 of 1 up; groundlink 0.1.0 running for 10 min 52 s
";
        assert_eq!(text(&snapshot(vec![up.clone()])), expected);

        up.child.as_mut().unwrap().encapsulation = EspTransport::Esp;
        let native = expected.replace("aes128-sha1, 192", "aes128-sha1 as IP protocol 50, 192");
        assert_eq!(text(&snapshot(vec![up])), native);
    }

    #[test]
    fn rekeys_and_the_result_of_the_rekey_check_are_shown() {
        let mut up = tunnel("a", TunnelState::Up);
        assert_eq!(rekeys(&up), None);
        let check = |child, ike| Some(RekeyCheckStatus { child, ike });
        up.rekey_check = check(RekeyVerdict::Pending, RekeyVerdict::Pending);
        assert_eq!(rekeys(&up).unwrap(), "rekey check pending");
        up.rekeys = RekeyCounters {
            ike: 2,
            child: 1007,
            packets_lost: 0,
        };
        up.rekey_check = check(RekeyVerdict::Accepted, RekeyVerdict::Accepted);
        assert_eq!(
            rekeys(&up).unwrap(),
            "1,007 child, 2 ike; 0 packets lost; rekey check accepted"
        );
        up.rekeys.packets_lost = 1;
        up.rekey_check = check(RekeyVerdict::Refused, RekeyVerdict::Pending);
        assert_eq!(
            rekeys(&up).unwrap(),
            "1,007 child, 2 ike; 1 packet lost; rekey check of the child rejected by the peer, of the ike pending"
        );
    }

    #[test]
    fn an_error_is_shown_with_advice_and_columns_are_aligned() {
        let mut failing = tunnel("gcp-backup", TunnelState::Connecting);
        failing.refused.clear();
        failing.waiting = Some(WaitingFor::Retry);
        failing.last_error = Some(LastError {
            at_s: 650.0,
            code: "no-proposal-chosen".to_owned(),
            text: "the peer accepts none of our IKE proposals".to_owned(),
            advice: "set `ike` to what the peer has".to_owned(),
        });
        let mut down = tunnel("a", TunnelState::Down);
        down.refused.clear();
        let expected = "\
gcp-backup  connecting for 9 min 12 s, pausing before the next attempt  47.88.10.20:4500  device gl-gcp-backup
  error     the peer accepts none of our IKE proposals (no-proposal-chosen, 2 s ago)
  advice    set `ike` to what the peer has
a           down for 9 min 12 s                                         47.88.10.20:4500  device gl-a
0 of 2 up; groundlink 0.1.0 running for 10 min 52 s
";
        assert_eq!(text(&snapshot(vec![failing, down])), expected);
    }

    #[test]
    fn warnings_are_shown_with_advice() {
        let mut up = tunnel("a", TunnelState::Up);
        up.warnings.push(TunnelWarning {
            code: "c".to_owned(),
            text: "t".to_owned(),
            advice: "do".to_owned(),
        });
        let text = text(&snapshot(vec![up]));
        assert!(
            text.contains("  warning   t (c)\n  advice    do\n"),
            "{text}"
        );
    }

    #[test]
    fn dropped_ike_messages_are_shown_only_if_there_are_any() {
        let mut all = snapshot(vec![tunnel("a", TunnelState::Up)]);
        assert!(!text(&all).contains("IKE messages"));
        all.ike_refused.insert("unknown-peer".to_owned(), 1204);
        assert!(text(&all).contains("\nIKE messages dropped: 1,204 unknown-peer\n"));
    }

    #[test]
    fn dropped_packets_of_no_tunnel_are_shown_only_if_there_are_any() {
        let mut all = snapshot(vec![tunnel("a", TunnelState::Up)]);
        assert!(!text(&all).contains("no tunnel"));
        all.unmatched.insert("unknown-spi".to_owned(), 1_200_000);
        assert!(text(&all).contains("\npackets of no tunnel dropped: 1,200,000 unknown-spi\n"));
    }

    #[test]
    fn offload_is_shown_only_if_the_daemon_reports_it() {
        let mut all = snapshot(vec![tunnel("a", TunnelState::Up)]);
        assert!(!text(&all).contains("offload"));
        all.offload = Some(OffloadStatus {
            tun: GsoSupport::TcpAndUdp,
            send: SendOffload::Single,
            receive: ReceiveOffload::Joined,
        });
        let line = "\noffload: devices tcp+udp, send single, receive joined\n";
        assert!(text(&all).contains(line));
    }

    #[test]
    fn a_resolved_error_is_one_line() {
        let mut up = tunnel("a", TunnelState::Up);
        up.last_error = Some(LastError {
            at_s: 3.0,
            code: "c".to_owned(),
            text: "t".to_owned(),
            advice: "a".to_owned(),
        });
        let text = text(&snapshot(vec![up]));
        assert!(
            text.contains("  resolved  t (c, 10 min 49 s ago)\n") && !text.contains("  advice "),
            "{text}"
        );
    }

    #[test]
    fn selecting_a_tunnel_removes_the_others_from_text_and_json() {
        let mut all = snapshot(vec![
            tunnel("a", TunnelState::Up),
            tunnel("b", TunnelState::Up),
        ]);
        let mut value = serde_json::to_value(&all).unwrap();
        select("b", &mut all, &mut value).unwrap();
        assert_eq!(
            (
                all.tunnels.len(),
                value["tunnels"].as_array().unwrap().len()
            ),
            (1, 1)
        );
        let failure = select("c", &mut all, &mut value).unwrap_err();
        assert_eq!(
            (failure.exit, failure.advice.as_str()),
            (Exit::Failed, "the tunnels are: b")
        );
    }

    #[test]
    fn numbers_are_shown_with_units_and_groups() {
        assert_eq!(
            [0, 999, 1000, 999_950, 1_234_567_890].map(bytes),
            ["0 B", "999 B", "1.0 kB", "1.0 MB", "1.2 GB"]
        );
        assert_eq!(
            [0, 999, 1000, 1_000_000].map(grouped),
            ["0", "999", "1,000", "1,000,000"]
        );
        assert_eq!(
            [-1.0, 0.4, 59.9, 60.0, 3600.0, 90_061.0].map(span),
            ["0 s", "0 s", "59 s", "1 min", "1 h", "1 d 1 h"]
        );
    }
}
