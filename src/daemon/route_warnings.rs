//! Warnings about the routes of a tunnel that is up: what it does not carry, why, and what to change. For `status` and the log.

use super::route_sync::Overridden;
use crate::net::Prefix;
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
            advice: advice(*prefix, *foreign_metric),
        }
    }
}

/// What puts the tunnel's route first again.
fn advice(prefix: Prefix, foreign_metric: u32) -> String {
    let family = if prefix.is_ipv4() { "" } else { "-6 " };
    let mut ways = vec![format!(
        "remove the other route (`ip {family}route del {prefix} metric {foreign_metric}`)"
    )];
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
    ways.join(", or ")
}

#[cfg(test)]
mod tests {
    fn advice(prefix: &str, foreign_metric: u32) -> String {
        super::advice(prefix.parse().unwrap(), foreign_metric)
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
        assert_eq!(
            advice("::/0", 1),
            "remove the other route (`ip -6 route del ::/0 metric 1`)"
        );
    }
}
