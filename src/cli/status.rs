//! `groundlink status`: how the tunnels are, for people and for scripts.
//!
//! ```text
//! ali-1  up for 9 min 12 s  47.88.10.20:4500  device gl-ali-1
//!   ike       aes128-sha1-modp1024, initiated by us, UDP encapsulation forced, renewed in 22 h 13 min
//!   child     aes128-sha1, 192.168.1.0/24 <-> 172.16.1.0/24, MTU 1390, renewed in 22 h 13 min
//!   received  1,204 packets, 1.2 MB
//!   sent      1,100 packets, 0.9 MB
//!   refused   3 replay
//!   rekeys    7 of the child, 2 of the ike, no packet lost; the peer rekeys both
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::Args;

use super::GlobalArgs;
use super::ask::{parse_response, request, tunnel_path};
use super::outcome::{Exit, Failure, print};
use crate::control::client::HttpMethod;
use crate::status::{
    ChildSaStatus, EspTransport, IkeSaStatus, LastError, RekeyCheckStatus, RekeyCounters,
    RekeyVerdict, Snapshot, TrafficCounters, TunnelState, TunnelStatus,
};

/// Tunnels, SAs, counters, and the last failure in words
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  groundlink status\n  groundlink status ali-1 --json\n\nExit status: 0 all up · 4 a tunnel is not up · 3 the daemon is not reachable"
)]
pub(crate) struct Status {
    /// Only this tunnel
    tunnel: Option<String>,
    /// One JSON object on stdout instead of text
    #[arg(long)]
    json: bool,
}

impl Status {
    pub fn execute(self, global: &GlobalArgs) -> Result<Exit, Failure> {
        // A name that no tunnel can have is a mistake on the command line, whatever the daemon would say.
        self.tunnel.as_deref().map(tunnel_path).transpose()?;
        let mut value = request(&global.control_socket(), HttpMethod::Get, "/v1/status")?;
        let mut snapshot: Snapshot = parse_response(value.clone())?;
        if let Some(name) = &self.tunnel {
            choose(name, &mut snapshot, &mut value)?;
        }
        // What the daemon said is passed on as it is: it may be newer than this program and say more.
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

/// Leaves only one tunnel.
fn choose(
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
            format!("there are: {}", known.join(", ")),
        ));
    }
    snapshot.tunnels.retain(|tunnel| tunnel.name == name);
    if let Some(tunnels) = value["tunnels"].as_array_mut() {
        tunnels.retain(|tunnel| tunnel["name"] == name);
    }
    Ok(())
}

/// The whole snapshot for people.
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
    let refused = nonzero(&snapshot.ike_refused);
    if !refused.is_empty() {
        let _ = writeln!(text, "IKE messages refused: {refused}");
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

/// The lines below a tunnel: what they are about, and what they say.
fn details(tunnel: &TunnelStatus, now: f64) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    lines.extend(tunnel.ike.as_ref().map(|ike| ("ike", self::ike(ike))));
    lines.extend(
        tunnel
            .child
            .as_ref()
            .map(|child| ("child", self::child(child))),
    );
    if tunnel.state == TunnelState::Up || tunnel.rx.packets > 0 || tunnel.tx.packets > 0 {
        lines.push(("received", counters(&tunnel.rx)));
        lines.push(("sent", counters(&tunnel.tx)));
    }
    let refused = nonzero(&tunnel.refused);
    if !refused.is_empty() {
        lines.push(("refused", refused));
    }
    lines.extend(rekeys(tunnel).map(|line| ("rekeys", line)));
    lines.extend(
        tunnel
            .last_error
            .as_ref()
            .into_iter()
            .flat_map(|error| last_error(tunnel, error, now)),
    );
    lines
}

/// What rekeying has come to, once there is something to tell.
fn rekeys(tunnel: &TunnelStatus) -> Option<String> {
    let RekeyCounters {
        ike,
        child,
        packets_lost,
    } = &tunnel.rekeys;
    let lost = match packets_lost {
        0 => "no packet lost".to_owned(),
        1 => "1 packet lost".to_owned(),
        lost => format!("{} packets lost", grouped(*lost)),
    };
    let done = (ike + child > 0).then(|| {
        let (child, ike) = (grouped(*child), grouped(*ike));
        format!("{child} of the child, {ike} of the ike, {lost}")
    });
    let parts: Vec<String> = done
        .into_iter()
        .chain(tunnel.rekey_check.as_ref().map(rekey_check))
        .collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn rekey_check(check: &RekeyCheckStatus) -> String {
    let of = |wanted: RekeyVerdict| {
        let all = [(check.child, "child"), (check.ike, "ike")];
        let named = all.iter().filter(|(verdict, _)| *verdict == wanted);
        let words: Vec<&str> = named.map(|(_, word)| *word).collect();
        match words.as_slice() {
            [] => None,
            [one] => Some(format!("the {one}")),
            _ => Some("both".to_owned()),
        }
    };
    let parts = [
        of(RekeyVerdict::Refused).map(|what| format!("the peer refuses to rekey {what}")),
        of(RekeyVerdict::Accepted).map(|what| format!("the peer rekeys {what}")),
        of(RekeyVerdict::Pending).map(|what| format!("to be tried: {what}")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn ike(ike: &IkeSaStatus) -> String {
    let safe = if ike.post_quantum {
        ", post-quantum"
    } else {
        ""
    };
    format!(
        "{}{safe}, {}, {}{}",
        ike.suite,
        ike.role.phrase(),
        ike.nat.phrase(),
        ends(ike.rekey_in_s)
    )
}

fn child(child: &ChildSaStatus) -> String {
    let (local, remote) = (child.local.join(" "), child.remote.join(" "));
    let carried = match child.encapsulation {
        EspTransport::Udp => "",
        EspTransport::Esp => " as IP protocol 50",
    };
    format!(
        "{}{carried}, {local} <-> {remote}, MTU {}{}",
        child.suite,
        child.mtu,
        ends(child.rekey_in_s)
    )
}

fn ends(seconds: Option<f64>) -> String {
    seconds.map_or(String::new(), |seconds| {
        format!(", renewed in {}", span(seconds))
    })
}

/// The last failure: in full while it matters, in one line once it was overcome.
fn last_error(tunnel: &TunnelStatus, error: &LastError, now: f64) -> Vec<(&'static str, String)> {
    let ago = span(now - error.at_s);
    if tunnel.state == TunnelState::Up && error.at_s < tunnel.since_s {
        return vec![(
            "before",
            format!("{} ({}, {ago} ago)", error.text, error.code),
        )];
    }
    let mut lines = vec![(
        "problem",
        format!("{} ({}, {ago} ago)", error.text, error.code),
    )];
    if !error.advice.is_empty() {
        lines.push(("do", error.advice.clone()));
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

/// What was refused at all: "3 replay, 1 short".
fn nonzero(counts: &BTreeMap<String, u64>) -> String {
    let words: Vec<String> = counts
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(name, count)| format!("{} {name}", grouped(*count)))
        .collect();
    words.join(", ")
}

/// 1204 as "1,204".
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

/// Decimal units, as network people count.
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

/// The two largest parts of a time: "9 min 12 s", "22 h 13 min".
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
        GsoSupport, NatLocation, OffloadStatus, ReceiveOffload, Role, SendOffload, WaitingFor,
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
            rx: TrafficCounters::default(),
            tx: TrafficCounters::default(),
            refused: [("auth".to_owned(), 0), ("replay".to_owned(), 3)].into(),
            rekeys: RekeyCounters::default(),
            rekey_check: None,
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
            offload: None,
            ticks: Default::default(),
        }
    }

    #[test]
    fn a_tunnel_that_is_up_shows_what_it_carries() {
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
  ike       aes128-sha1-modp1024, initiated by us, UDP encapsulation forced, renewed in 22 h 13 min
  child     aes128-sha1, 192.168.1.0/24 <-> 172.16.1.0/24, MTU 1390
  received  1,204 packets, 1.2 MB
  sent      1 packet, 84 B
  refused   3 replay
1 of 1 up; groundlink 0.1.0 running for 10 min 52 s
";
        assert_eq!(text(&snapshot(vec![up.clone()])), expected);

        up.child.as_mut().unwrap().encapsulation = EspTransport::Esp;
        let native = expected.replace("aes128-sha1, 192", "aes128-sha1 as IP protocol 50, 192");
        assert_eq!(text(&snapshot(vec![up])), native);
    }

    #[test]
    fn rekeys_are_counted_and_what_the_peer_refuses_stands_out() {
        let mut up = tunnel("a", TunnelState::Up);
        assert_eq!(rekeys(&up), None);
        let check = |child, ike| Some(RekeyCheckStatus { child, ike });
        up.rekey_check = check(RekeyVerdict::Pending, RekeyVerdict::Pending);
        assert_eq!(rekeys(&up).unwrap(), "to be tried: both");
        up.rekeys = RekeyCounters {
            ike: 2,
            child: 1007,
            packets_lost: 0,
        };
        up.rekey_check = check(RekeyVerdict::Accepted, RekeyVerdict::Accepted);
        assert_eq!(
            rekeys(&up).unwrap(),
            "1,007 of the child, 2 of the ike, no packet lost; the peer rekeys both"
        );
        up.rekeys.packets_lost = 1;
        up.rekey_check = check(RekeyVerdict::Refused, RekeyVerdict::Pending);
        assert_eq!(
            rekeys(&up).unwrap(),
            "1,007 of the child, 2 of the ike, 1 packet lost; the peer refuses to rekey the child, to be tried: the ike"
        );
    }

    #[test]
    fn a_tunnel_that_fails_says_why_and_what_to_do_and_columns_stay_aligned() {
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
  problem   the peer accepts none of our IKE proposals (no-proposal-chosen, 2 s ago)
  do        set `ike` to what the peer has
a           down for 9 min 12 s                                         47.88.10.20:4500  device gl-a
0 of 2 up; groundlink 0.1.0 running for 10 min 52 s
";
        assert_eq!(text(&snapshot(vec![failing, down])), expected);
    }

    #[test]
    fn refused_messages_are_a_line_only_when_there_are_some() {
        let mut all = snapshot(vec![tunnel("a", TunnelState::Up)]);
        assert!(!text(&all).contains("IKE messages"));
        all.ike_refused.insert("unknown-peer".to_owned(), 1204);
        assert!(text(&all).contains("\nIKE messages refused: 1,204 unknown-peer\n"));
    }

    #[test]
    fn what_the_kernel_does_for_many_packets_at_once_is_a_line() {
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
    fn a_failure_that_was_overcome_is_one_line() {
        let mut up = tunnel("a", TunnelState::Up);
        up.last_error = Some(LastError {
            at_s: 3.0,
            code: "c".to_owned(),
            text: "t".to_owned(),
            advice: "a".to_owned(),
        });
        let text = text(&snapshot(vec![up]));
        assert!(
            text.contains("  before    t (c, 10 min 49 s ago)\n") && !text.contains("  do "),
            "{text}"
        );
    }

    #[test]
    fn choosing_a_tunnel_narrows_text_and_json() {
        let mut all = snapshot(vec![
            tunnel("a", TunnelState::Up),
            tunnel("b", TunnelState::Up),
        ]);
        let mut value = serde_json::to_value(&all).unwrap();
        choose("b", &mut all, &mut value).unwrap();
        assert_eq!(
            (
                all.tunnels.len(),
                value["tunnels"].as_array().unwrap().len()
            ),
            (1, 1)
        );
        let failure = choose("c", &mut all, &mut value).unwrap_err();
        assert_eq!(
            (failure.exit, failure.advice.as_str()),
            (Exit::Failed, "there are: b")
        );
    }

    #[test]
    fn numbers_are_shown_for_people() {
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
