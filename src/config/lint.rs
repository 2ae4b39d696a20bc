//! Lints: what no single value shows. Tunnels that contradict each other or themselves, and algorithms better not used.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Range;

use super::diagnostic::{Diagnostic, Severity};
use super::file::{ConfigTable, ConfigValue};
use super::settings::{GatewaySettings, Mtu};
use super::tunnel::ResolvedTunnel;
use crate::crypto::AlgorithmStatus;
use crate::ike::{Encapsulation, MAX_TRAFFICS, Peer, SelectorMode};
use crate::net::{MIN_MTU_IPV6, Prefix, Selector};

/// Checks each tunnel, and the tunnels against each other.
pub fn lint(tunnels: &[ResolvedTunnel], gateway: &GatewaySettings, findings: &mut Vec<Diagnostic>) {
    shared_resources(tunnels, findings);
    ambiguous_peers(tunnels, findings);
    default_routes(tunnels, findings);
    for tunnel in tunnels {
        addresses(tunnel, gateway, findings);
        selectors(tunnel, findings);
        pairs(tunnel, findings);
        overlaps(tunnel, findings);
        routes(tunnel, findings);
        algorithms(tunnel, findings);
        nat_lint(tunnel, findings);
    }
}

/// Tunnel names must be unique, among invalid tunnels too.
pub fn duplicate_names(tunnels: &[ConfigTable], findings: &mut Vec<Diagnostic>) {
    let mut seen = BTreeSet::new();
    for entry in tunnels.iter().filter_map(|table| table.entry("name")) {
        if let ConfigValue::Text(name) = &entry.value.value
            && !seen.insert(name)
        {
            let what = format!("two tunnels have the name `{name}`");
            let advice =
                "rename one of them: `status`, `up` and `down` select a tunnel by its name";
            entry.value.reject::<()>(findings, what, advice);
        }
    }
}

/// Devices and inside addresses must be unique.
fn shared_resources(tunnels: &[ResolvedTunnel], findings: &mut Vec<Diagnostic>) {
    let mut devices = BTreeMap::new();
    let mut addresses = BTreeMap::new();
    for tunnel in tunnels {
        let (name, device) = (&tunnel.settings.name, &tunnel.settings.device);
        // Of tunnels with the same name, only the name is reported.
        if let Some(other) = devices.insert(device, name)
            && other != name
        {
            let what = format!("tunnels `{other}` and `{name}` have the same device `{device}`");
            let advice = "set another `device` in one of them";
            findings.push(Diagnostic::error(tunnel.spans.device.clone(), what, advice));
        }
        for inside in &tunnel.settings.inside {
            let address = inside.address;
            let Some(other) = addresses.insert(address, name) else {
                continue;
            };
            let what =
                format!("tunnels `{other}` and `{name}` have the same `inside` address {address}");
            let advice = "set another `inside` address in one of them";
            findings.push(Diagnostic::error(tunnel.spans.header.clone(), what, advice));
        }
    }
}

/// Local address and peer must select one tunnel for an incoming message.
fn ambiguous_peers(tunnels: &[ResolvedTunnel], findings: &mut Vec<Diagnostic>) {
    let mut by_peer: BTreeMap<String, Vec<&ResolvedTunnel>> = BTreeMap::new();
    for tunnel in tunnels {
        let peer = match &tunnel.settings.ike.peer {
            Peer::Address(address) => address.to_string(),
            Peer::Name(name) => name.trim_end_matches('.').to_ascii_lowercase(),
        };
        let same_peer = by_peer.entry(peer).or_default();
        let local = tunnel.settings.ike.local;
        let other = same_peer
            .iter()
            .find(|other| may_be_same(other.settings.ike.local, local));
        if let Some(other) = other {
            let (first, second) = (&other.settings.name, &tunnel.settings.name);
            let what = format!(
                "tunnels `{first}` and `{second}` have the same peer and the same local address"
            );
            let advice =
                "set a `local-address` of its own in each: the peer then sees two gateways";
            findings.push(Diagnostic::error(tunnel.spans.peer.clone(), what, advice));
        }
        same_peer.push(tunnel);
    }
}

/// Default routes are not steered by source, so tunnels with one must agree on their sources.
fn default_routes(tunnels: &[ResolvedTunnel], findings: &mut Vec<Diagnostic>) {
    for ipv4 in [true, false] {
        let is_default = |route: &Prefix| route.is_default() && route.is_ipv4() == ipv4;
        let local = |tunnel: &ResolvedTunnel| -> BTreeSet<Prefix> {
            let local = tunnel.local.iter().copied();
            local.filter(|prefix| prefix.is_ipv4() == ipv4).collect()
        };
        let mut with_default = tunnels
            .iter()
            .filter(|tunnel| tunnel.settings.routes.iter().any(is_default));
        let Some(first) = with_default.next() else {
            continue;
        };
        for tunnel in with_default.filter(|tunnel| local(tunnel) != local(first)) {
            let (one, other) = (&first.settings.name, &tunnel.settings.name);
            let route = if ipv4 { "0.0.0.0/0" } else { "::/0" };
            let what = format!(
                "tunnels `{one}` and `{other}` have the route {route} and different `local` networks, but default routes are not steered by \
                 source: packets from the networks of one of them are dropped"
            );
            let advice = "list in `routes` of each the networks behind its peer, which are steered by source, or set the same `local` in both";
            let span = tunnel.spans.routes.clone();
            findings.push(Diagnostic::warning(span, what, advice));
        }
    }
}

/// Whether a message to one address may be for the other: an unspecified address includes every address of its family.
fn may_be_same(one: IpAddr, other: IpAddr) -> bool {
    let unspecified = one.is_unspecified() || other.is_unspecified();
    one == other || (one.is_ipv4() == other.is_ipv4() && unspecified)
}

/// Local and peer address must be of one family, and different.
fn addresses(tunnel: &ResolvedTunnel, gateway: &GatewaySettings, findings: &mut Vec<Diagnostic>) {
    let Peer::Address(peer) = tunnel.settings.ike.peer else {
        return;
    };
    let local = tunnel.settings.ike.local;
    if local.is_ipv4() != peer.is_ipv4() {
        let (ours, theirs) = (family(local.is_ipv4()), family(peer.is_ipv4()));
        let what = format!("the local address {local} is {ours}, but the peer {peer} is {theirs}");
        let advice = format!("set `local-address` to an {theirs} address of this machine");
        let span = tunnel.spans.local_address.clone();
        findings.push(Diagnostic::error(span, what, advice));
    }
    if peer == local || Some(peer) == gateway.address {
        let what = format!("the peer {peer} is this gateway itself");
        let advice = "write the address of the cloud's gateway";
        findings.push(Diagnostic::error(tunnel.spans.peer.clone(), what, advice));
    }
}

/// The selectors must allow some traffic.
fn selectors(tunnel: &ResolvedTunnel, findings: &mut Vec<Diagnostic>) {
    let local = ("local", &tunnel.local, &tunnel.spans.local);
    let remote = ("remote", &tunnel.remote, &tunnel.spans.remote);
    for ((key, prefixes, span), (opposite_key, opposite, _)) in [(local, remote), (remote, local)] {
        if prefixes.is_empty() {
            let what = format!("`{key}` is empty, so the tunnel carries no traffic");
            let advice = "list the networks, or \"0.0.0.0/0\" for all";
            findings.push(Diagnostic::error(span.clone(), what, advice));
        }
        for ipv4 in [true, false] {
            if has(prefixes, ipv4) && !has(opposite, ipv4) && !opposite.is_empty() {
                let family = family(ipv4);
                let what = format!(
                    "`{key}` has {family} prefixes and `{opposite_key}` has none, so the tunnel carries no {family} traffic"
                );
                let advice = format!(
                    "add an {family} prefix to `{opposite_key}`, or remove those of `{key}`"
                );
                findings.push(Diagnostic::error(span.clone(), what, advice));
            }
        }
    }
}

/// With `selectors = "pairs"`, the number of Child SAs is bounded.
fn pairs(tunnel: &ResolvedTunnel, findings: &mut Vec<Diagnostic>) {
    let pairs: usize = match tunnel.settings.ike.selectors {
        SelectorMode::Together => return,
        SelectorMode::Pairs => {
            let policy = &tunnel.settings.ike.policy;
            let of =
                |all: &[Selector], ipv4| all.iter().filter(|one| one.is_ipv4() == ipv4).count();
            let pairs =
                [true, false].map(|ipv4| of(&policy.local, ipv4) * of(&policy.remote, ipv4));
            pairs.into_iter().sum()
        }
    };
    if pairs > MAX_TRAFFICS {
        let what = format!(
            "`selectors = \"pairs\"` makes {pairs} Child SAs of these networks, more than {MAX_TRAFFICS}"
        );
        let advice = "write fewer, larger networks in `local` and `remote`, or divide them among several tunnels";
        findings.push(Diagnostic::error(tunnel.spans.remote.clone(), what, advice));
    }
}

/// A network must be on one side only.
fn overlaps(tunnel: &ResolvedTunnel, findings: &mut Vec<Diagnostic>) {
    let span = &tunnel.spans.remote;
    for theirs in tunnel.remote.iter().filter(|prefix| !prefix.is_default()) {
        for ours in tunnel.local.iter().filter(|prefix| !prefix.is_default()) {
            if ours == theirs {
                let what = format!("{ours} is in both `local` and `remote`");
                let advice = "renumber one of the networks, or translate its addresses (NAT)";
                findings.push(Diagnostic::error(span.clone(), what, advice));
            } else if ours.contains_prefix(theirs) {
                let what = format!("{theirs} in `remote` is part of {ours} in `local`");
                let advice = "hosts of the local network expect these addresses on their own link and do not send to this gateway";
                findings.push(Diagnostic::warning(span.clone(), what, advice));
            }
        }
    }
}

/// What is routed into the tunnel must be allowed by its selectors (no more than the Child SA covers is routed) and its MTU.
fn routes(tunnel: &ResolvedTunnel, findings: &mut Vec<Diagnostic>) {
    let is_allowed = |route: &Prefix| {
        tunnel
            .remote
            .iter()
            .any(|remote| remote.contains_prefix(route))
    };
    for route in tunnel
        .settings
        .routes
        .iter()
        .filter(|route| !is_allowed(route))
    {
        let what = format!(
            "the route {route} is not within `remote`, so no packet for it enters the tunnel"
        );
        let advice = "extend `remote` (on both sides) or shorten `routes`";
        findings.push(Diagnostic::warning(
            tunnel.spans.routes.clone(),
            what,
            advice,
        ));
    }
    // RFC 8200 §5: every IPv6 link carries 1280 bytes.
    if let (Mtu::Fixed(mtu @ ..MIN_MTU_IPV6), true) =
        (tunnel.settings.mtu, has(&tunnel.local, false))
    {
        let what = format!("an MTU of {mtu} is too small for IPv6");
        let advice = "the minimum is 1280";
        findings.push(Diagnostic::error(tunnel.spans.mtu.clone(), what, advice));
    }
}

fn has(prefixes: &[Prefix], ipv4: bool) -> bool {
    prefixes.iter().any(|prefix| prefix.is_ipv4() == ipv4)
}

fn family(ipv4: bool) -> &'static str {
    if ipv4 { "IPv4" } else { "IPv6" }
}

/// Warns of weak algorithms and names an alternative; broken algorithms also need `allow-weak`.
fn algorithms(tunnel: &ResolvedTunnel, findings: &mut Vec<Diagnostic>) {
    let (ike, esp) = (&tunnel.settings.ike.ike, &tunnel.settings.ike.esp);
    let in_ike: Vec<_> = ike.iter().flat_map(|proposal| proposal.weak()).collect();
    let in_esp: Vec<_> = esp.iter().flat_map(|proposal| proposal.weak()).collect();
    let (spans, preset) = (&tunnel.spans, tunnel.preset);
    weak_algorithms(
        tunnel,
        "ike",
        &in_ike,
        &spans.ike,
        &preset.instead_ike,
        findings,
    );
    weak_algorithms(
        tunnel,
        "esp",
        &in_esp,
        &spans.esp,
        &preset.instead_esp,
        findings,
    );
}

fn weak_algorithms(
    tunnel: &ResolvedTunnel,
    key: &str,
    found: &[(&'static str, AlgorithmStatus)],
    span: &Range<usize>,
    instead: &str,
    findings: &mut Vec<Diagnostic>,
) {
    let name = &tunnel.settings.name;
    let broken = words(found, AlgorithmStatus::Forbidden);
    let weak = words(found, AlgorithmStatus::Weak);
    if !broken.is_empty() {
        let what = format!("`{key}` of tunnel `{name}` has broken algorithms: {broken}");
        let finding = if tunnel.allow_weak {
            let advice = format!("use \"{instead}\" on both sides as soon as the peer supports it");
            Diagnostic::warning(span.clone(), what, advice)
        } else {
            let advice = format!(
                "use \"{instead}\" on both sides, or set `allow-weak = true` in this tunnel if the peer supports nothing better"
            );
            Diagnostic::new(Severity::Lint, span.clone(), what, advice)
        };
        findings.push(finding);
    }
    if !weak.is_empty() {
        let what = format!("`{key}` of tunnel `{name}` has weak algorithms: {weak}");
        let supporter = if tunnel.preset.name == "generic" {
            "most peers support"
        } else {
            "this cloud supports"
        };
        let advice = format!("{supporter} \"{instead}\"; change both sides");
        findings.push(Diagnostic::warning(span.clone(), what, advice));
    }
}

/// The configuration words of the algorithms with this status, without duplicates.
fn words(found: &[(&'static str, AlgorithmStatus)], wanted: AlgorithmStatus) -> String {
    let mut words: Vec<&str> = Vec::new();
    for (word, status) in found {
        if *status == wanted && !words.contains(word) {
            words.push(word);
        }
    }
    words.join(", ")
}

/// Warns of `encapsulation = "esp"` across a NAT that the addresses show: such a tunnel cannot come up (RFC 7296 §2.23).
///
/// ```text
///   this machine ── 10.0.0.5 ── NAT ── 203.0.113.7 ──▶ the peer
///                local-address          address
/// ```
fn nat_lint(tunnel: &ResolvedTunnel, findings: &mut Vec<Diagnostic>) {
    match tunnel.settings.ike.encapsulation {
        Encapsulation::Esp => {}
        Encapsulation::Udp | Encapsulation::Auto => return,
    }
    let local = tunnel.settings.ike.local;
    let why = match (tunnel.address, &tunnel.settings.ike.peer) {
        // An unspecified address shows nothing.
        _ if local.is_unspecified() => return,
        (Some(public), _) if public.is_ipv4() == local.is_ipv4() && public != local => {
            format!("this machine sends from {local}, but the peer knows it as {public}")
        }
        (_, Peer::Address(peer)) if is_private(local) && !is_private(*peer) => {
            format!("{local} is a private address and {peer} a public one")
        }
        (_, Peer::Address(_) | Peer::Name(_)) => return,
    };
    let what = format!(
        "tunnel `{}` cannot come up across a NAT with `encapsulation = \"esp\"`: {why}",
        tunnel.settings.name
    );
    let advice = "set `encapsulation = \"auto\"`: ESP then uses UDP 4500 across a NAT, and IP protocol 50 otherwise";
    findings.push(Diagnostic::warning(
        tunnel.spans.encapsulation.clone(),
        what,
        advice,
    ));
}

/// Whether the Internet does not route an address: RFC 1918, RFC 6598 (carrier-grade NAT), link-local, RFC 4193.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [first, second, ..] = address.octets();
            address.is_private() || address.is_link_local() || (first == 100 && second & 0xc0 == 64)
        }
        IpAddr::V6(address) => address.is_unique_local() || address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_address_ranges_are_exact() {
        let private = |text: &str| is_private(text.parse().unwrap());
        for inside in [
            "10.255.255.255",
            "172.31.0.1",
            "192.168.0.1",
            "100.64.0.0",
            "100.127.255.255",
            "169.254.1.1",
            "fd00::1",
            "fe80::1",
        ] {
            assert!(private(inside), "{inside}");
        }
        for outside in [
            "11.0.0.0",
            "172.32.0.1",
            "192.169.0.1",
            "100.63.255.255",
            "100.128.0.0",
            "203.0.113.7",
            "2001:db8::1",
        ] {
            assert!(!private(outside), "{outside}");
        }
    }
}
