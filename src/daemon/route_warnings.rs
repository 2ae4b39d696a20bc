//! Warnings about the routes of a tunnel that is up: what it does not carry, why, and what to change. For `status` and the log.

use super::route_sync::Overridden;
use crate::config::TunnelSettings;
use crate::net::{Policy, Prefix, Selector};
use crate::paths;
use crate::status::TunnelWarning;

impl Overridden {
    /// The warning for a tunnel of this route.
    pub(super) fn warning(&self) -> TunnelWarning {
        let Overridden {
            prefix,
            metric,
            foreign_metric,
            ..
        } = self;
        TunnelWarning {
            code: "route-overridden".to_owned(),
            text: format!(
                "packets for {prefix} do not enter the tunnel: another program's route for it has metric {foreign_metric} and precedes \
                 ours with {metric}"
            ),
            advice: advice(*prefix, *metric, *foreign_metric),
        }
    }
}

/// The warning for a tunnel whose Child SAs cover less than it is configured for.
pub(super) fn narrowed(settings: &TunnelSettings, agreed: &Policy) -> Option<TunnelWarning> {
    let Policy { local, remote } = &settings.ike.policy;
    // What `remote` does not contain is a matter of the configuration alone: `check` says so.
    let routed = paths::carried(&settings.routes, remote);
    let carried = paths::carried(&settings.routes, &agreed.remote);
    let carried: Vec<Selector> = carried.into_iter().map(Selector::from).collect();
    let to = paths::missing(&routed, &carried);
    let from = paths::missing(&prefixes(local), &agreed.local);
    let mut lost = Vec::new();
    if !to.is_empty() {
        lost.push(format!(
            "other addresses of {} are not routed into the tunnel",
            list(&to)
        ));
    }
    if !from.is_empty() {
        lost.push(format!(
            "packets from other addresses of {} are dropped",
            list(&from)
        ));
    }
    if lost.is_empty() {
        return None;
    }
    let agreed = format!("{} <-> {}", list(&agreed.local), list(&agreed.remote));
    Some(TunnelWarning {
        code: "narrowed".to_owned(),
        text: format!("the peer agreed only to {agreed}: {}", lost.join(", and ")),
        advice: format!(
            "on the peer, set its local networks to {} and its remote ones to {}; or remove from `remote` and `local` of this tunnel what it \
             shall not carry",
            list(remote),
            list(local)
        ),
    })
}

fn prefixes(selectors: &[Selector]) -> Vec<Prefix> {
    selectors.iter().flat_map(Selector::prefixes).collect()
}

fn list<T: ToString>(items: &[T]) -> String {
    let words: Vec<String> = items.iter().map(T::to_string).collect();
    words.join(", ")
}

/// What puts the tunnel's route first again.
fn advice(prefix: Prefix, metric: u32, foreign_metric: u32) -> String {
    let family = if prefix.is_ipv4() { "" } else { "-6 " };
    // The host's default route leads to the peers: it stays, behind the tunnel's.
    let first = if prefix.is_default() {
        format!(
            "give the other route a metric above {metric} where it is configured, so that the routes to the peers still find it"
        )
    } else {
        format!("remove the other route (`ip {family}route del {prefix} metric {foreign_metric}`)")
    };
    let mut ways = vec![first];
    // The lowest metric of a tunnel is 1.
    if let Some(lower) = foreign_metric.checked_sub(1).filter(|metric| *metric > 0) {
        ways.push(format!("set `metric = {lower}` for the tunnel"));
    }
    // The halves of a default route would precede every default route of the host, also while no tunnel is up.
    if let Some([low, high]) = prefix.halves().filter(|_| !prefix.is_default()) {
        ways.push(format!(
            "write `routes = [\"{low}\", \"{high}\"]` in place of {prefix}"
        ));
    }
    let ways = ways.join(", or ");
    if prefix.is_default() {
        return format!(
            "{ways}; what only the other route reaches, except the peers, then becomes unreachable outside the tunnel: first add routes to the \
             networks that you administer this host from"
        );
    }
    ways
}

#[cfg(test)]
mod tests {
    fn advice(prefix: &str, foreign_metric: u32) -> String {
        super::advice(prefix.parse().unwrap(), 100, foreign_metric)
    }

    #[test]
    fn only_what_can_be_done_is_advised() {
        let all = advice("10.2.0.0/24", 5);
        for way in [
            "`ip route del 10.2.0.0/24 metric 5`",
            "`metric = 4`",
            "`routes = [\"10.2.0.0/25\", \"10.2.0.128/25\"]`",
        ] {
            assert!(all.contains(way), "{all}");
        }
        for lowest in [0, 1] {
            assert!(!advice("10.2.0.0/24", lowest).contains("`metric ="));
        }
        assert!(!advice("10.2.0.1/32", 5).contains("routes = "));
    }

    #[test]
    fn the_default_route_of_the_host_is_never_to_be_removed() {
        for default in ["0.0.0.0/0", "::/0"] {
            for foreign_metric in [0, 1, 50] {
                let advice = advice(default, foreign_metric);
                assert!(!advice.contains("route del"), "{advice}");
                assert!(!advice.contains("routes = "), "{advice}");
                for word in ["a metric above 100", "becomes unreachable"] {
                    assert!(advice.contains(word), "{advice}");
                }
            }
            assert!(advice(default, 50).contains("`metric = 49`"));
        }
    }
}
