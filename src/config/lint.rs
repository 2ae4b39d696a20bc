//! What no single value shows: tunnels that contradict each other or themselves, and algorithms better not used.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::Range;

use super::diagnostic::{Diagnostic, Severity};
use super::file::{Table, Value};
use super::nat_lint;
use super::resolve::ResolvedTunnel;
use super::settings::{GatewaySettings, Mtu};
use crate::crypto::Status;
use crate::ike::Peer;
use crate::net::Prefix;

/// Everything that is wrong between tunnels and within each.
pub fn tunnels(
    tunnels: &[ResolvedTunnel],
    gateway: &GatewaySettings,
    findings: &mut Vec<Diagnostic>,
) {
    for (index, tunnel) in tunnels.iter().enumerate() {
        for earlier in &tunnels[..index] {
            pair(earlier, tunnel, findings);
        }
        addresses(tunnel, gateway, findings);
        selectors(tunnel, findings);
        overlaps(tunnel, findings);
        routes(tunnel, findings);
        algorithms(tunnel, findings);
        nat_lint::across_nat(tunnel, findings);
    }
}

/// Two tunnels must differ in name; that is told of tunnels that are otherwise unusable, too.
pub fn names(tunnels: &[Table], findings: &mut Vec<Diagnostic>) {
    let mut seen = BTreeSet::new();
    for entry in tunnels.iter().filter_map(|table| table.entry("name")) {
        if let Value::Text(name) = &entry.value.value
            && !seen.insert(name)
        {
            findings.push(Diagnostic::error(
                entry.value.at.clone(),
                format!("there are two tunnels named `{name}`"),
                "names are how `status`, `up` and `down` know them: give one another name",
            ));
        }
    }
}

/// Two tunnels must differ in device, and incoming messages must be able to tell them apart.
fn pair(earlier: &ResolvedTunnel, later: &ResolvedTunnel, findings: &mut Vec<Diagnostic>) {
    let (first, second) = (&earlier.tunnel, &later.tunnel);
    if first.name != second.name && first.device == second.device {
        let what = format!(
            "tunnels `{}` and `{}` would share the device `{}`",
            first.name, second.name, second.device
        );
        findings.push(Diagnostic::error(
            later.at.device.clone(),
            what,
            "each tunnel has a device of its own: set another `device`",
        ));
    }
    if same_peer(&first.ike.peer, &second.ike.peer)
        && may_be_same(first.ike.local, second.ike.local)
    {
        let what = format!(
            "tunnels `{}` and `{}` cannot be told apart: same peer, same local address",
            first.name, second.name
        );
        let advice = "give each its own `local-address`; the peer sees two gateways then";
        findings.push(Diagnostic::error(later.at.peer.clone(), what, advice));
    }
    if let (Some(one), Some(other)) = (first.inside, second.inside)
        && one.address == other.address
    {
        let what = format!(
            "tunnels `{}` and `{}` have the same address {} inside",
            first.name, second.name, one.address
        );
        findings.push(Diagnostic::error(
            later.at.header.clone(),
            what,
            "give each device its own `inside` address",
        ));
    }
}

fn same_peer(one: &Peer, other: &Peer) -> bool {
    match (one, other) {
        (Peer::Address(one), Peer::Address(other)) => one == other,
        (Peer::Name(one), Peer::Name(other)) => one
            .trim_end_matches('.')
            .eq_ignore_ascii_case(other.trim_end_matches('.')),
        (Peer::Address(_), Peer::Name(_)) | (Peer::Name(_), Peer::Address(_)) => false,
    }
}

/// Whether a message to one of these addresses may be for both: "any address" includes the other's.
fn may_be_same(one: IpAddr, other: IpAddr) -> bool {
    one == other
        || (one.is_ipv4() == other.is_ipv4() && (one.is_unspecified() || other.is_unspecified()))
}

/// The outer addresses have to fit together.
fn addresses(resolved: &ResolvedTunnel, gateway: &GatewaySettings, findings: &mut Vec<Diagnostic>) {
    let (tunnel, at) = (&resolved.tunnel, &resolved.at);
    let Peer::Address(peer) = tunnel.ike.peer else {
        return;
    };
    let local = tunnel.ike.local;
    if local.is_ipv4() != peer.is_ipv4() {
        let what = format!(
            "{local} cannot reach {peer}: one is {}, the other {}",
            family(local.is_ipv4()),
            family(peer.is_ipv4())
        );
        let advice = format!(
            "set `local-address` to one of this machine's {} addresses",
            family(peer.is_ipv4())
        );
        findings.push(Diagnostic::error(at.local_address.clone(), what, advice));
    }
    if peer == local || Some(peer) == gateway.address {
        findings.push(Diagnostic::error(
            at.peer.clone(),
            format!("the peer {peer} is this gateway itself"),
            "write the address of the cloud's gateway",
        ));
    }
}

/// The selectors have to leave something to carry.
fn selectors(resolved: &ResolvedTunnel, findings: &mut Vec<Diagnostic>) {
    let (at, local, remote) = (&resolved.at, &resolved.local, &resolved.remote);
    for (key, prefixes, place) in [("local", local, &at.local), ("remote", remote, &at.remote)] {
        if prefixes.is_empty() {
            findings.push(Diagnostic::error(
                place.clone(),
                format!("`{key}` is empty, so nothing may pass"),
                "list the networks, or \"0.0.0.0/0\" for all",
            ));
        }
    }
    for ipv4 in [true, false] {
        let sides = [
            ("local", local, &at.local, "remote"),
            ("remote", remote, &at.remote, "local"),
        ];
        for ((key, prefixes, place, without), opposite) in sides.into_iter().zip([remote, local]) {
            if has(prefixes, ipv4) && !has(opposite, ipv4) && !opposite.is_empty() {
                let what = format!(
                    "`{key}` has {0} prefixes and `{without}` has none, so no {0} packet fits both",
                    family(ipv4)
                );
                findings.push(Diagnostic::error(
                    place.clone(),
                    what,
                    format!(
                        "add an {} prefix to `{without}` or leave these out",
                        family(ipv4)
                    ),
                ));
            }
        }
    }
}

/// A network is on one side only.
fn overlaps(resolved: &ResolvedTunnel, findings: &mut Vec<Diagnostic>) {
    let (at, local, remote) = (&resolved.at, &resolved.local, &resolved.remote);
    for theirs in remote.iter().filter(|prefix| !prefix.is_default()) {
        for ours in local.iter().filter(|prefix| !prefix.is_default()) {
            if ours == theirs {
                let what = format!("{ours} is both `local` and `remote`");
                findings.push(Diagnostic::error(
                    at.remote.clone(),
                    what,
                    "a network is behind one gateway only; renumber or translate one side",
                ));
            } else if ours.contains_prefix(theirs) {
                let what = format!("{theirs} in `remote` is part of {ours} in `local`");
                findings.push(Diagnostic::warning(at.remote.clone(), what, "hosts on the local network will look for it next to them, not behind this gateway"));
            }
        }
    }
}

/// What is routed into the tunnel has to fit through it.
fn routes(resolved: &ResolvedTunnel, findings: &mut Vec<Diagnostic>) {
    let (tunnel, at, remote) = (&resolved.tunnel, &resolved.at, &resolved.remote);
    for route in tunnel
        .routes
        .iter()
        .filter(|route| !remote.iter().any(|theirs| theirs.contains_prefix(route)))
    {
        let what = format!(
            "the route {route} leads packets into the tunnel that `remote` does not let through"
        );
        findings.push(Diagnostic::warning(
            at.routes.clone(),
            what,
            "widen `remote` (on both sides) or narrow `routes`",
        ));
    }
    // RFC 8200 §5: every IPv6 link carries 1280 bytes.
    if let (Mtu::Fixed(mtu @ ..1280), true) = (tunnel.mtu, has(&resolved.local, false)) {
        findings.push(Diagnostic::error(
            at.mtu.clone(),
            format!("an MTU of {mtu} is too small for IPv6"),
            "1280 is the least",
        ));
    }
}

fn has(prefixes: &[Prefix], ipv4: bool) -> bool {
    prefixes.iter().any(|prefix| prefix.is_ipv4() == ipv4)
}

fn family(ipv4: bool) -> &'static str {
    if ipv4 { "IPv4" } else { "IPv6" }
}

/// Weak algorithms work where they are named, and `check` says what there is instead; broken ones need `allow-weak` as well.
fn algorithms(resolved: &ResolvedTunnel, findings: &mut Vec<Diagnostic>) {
    let settings = &resolved.tunnel.ike;
    let ike: Vec<_> = settings
        .ike
        .iter()
        .flat_map(|proposal| proposal.weak())
        .collect();
    let esp: Vec<_> = settings
        .esp
        .iter()
        .flat_map(|proposal| proposal.weak())
        .collect();
    level(
        resolved,
        "ike",
        &ike,
        &resolved.at.ike,
        &resolved.preset.instead_ike,
        findings,
    );
    level(
        resolved,
        "esp",
        &esp,
        &resolved.at.esp,
        &resolved.preset.instead_esp,
        findings,
    );
}

fn level(
    resolved: &ResolvedTunnel,
    key: &str,
    found: &[(&'static str, Status)],
    at: &Range<usize>,
    instead: &str,
    findings: &mut Vec<Diagnostic>,
) {
    let name = &resolved.tunnel.name;
    let broken = words(found, Status::Forbidden);
    let weak = words(found, Status::Weak);
    if !broken.is_empty() && !resolved.allow_weak {
        let what = format!("`{key}` of tunnel `{name}` names broken algorithms: {broken}");
        let advice = format!(
            "use \"{instead}\" on both sides; if the peer can do no better, `allow-weak = true` on this tunnel lets it pass"
        );
        findings.push(Diagnostic::new(Severity::Lint, at.clone(), what, advice));
    } else if !broken.is_empty() {
        let what = format!(
            "`{key}` of tunnel `{name}` names broken algorithms, as `allow-weak` lets it: {broken}"
        );
        findings.push(Diagnostic::warning(
            at.clone(),
            what,
            format!("use \"{instead}\" on both sides as soon as the peer can"),
        ));
    }
    if !weak.is_empty() {
        let what = format!("`{key}` of tunnel `{name}` names weak algorithms: {weak}");
        let who = if resolved.preset.name == "generic" {
            "most peers support"
        } else {
            "this cloud supports"
        };
        findings.push(Diagnostic::warning(
            at.clone(),
            what,
            format!("{who} \"{instead}\"; change both sides"),
        ));
    }
}

/// The words of one status, each once.
fn words(found: &[(&'static str, Status)], wanted: Status) -> String {
    let mut words: Vec<&str> = Vec::new();
    for (word, status) in found {
        if *status == wanted && !words.contains(word) {
            words.push(word);
        }
    }
    words.join(", ")
}
