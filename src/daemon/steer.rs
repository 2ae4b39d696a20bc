//! Making the kernel's routes what [`paths`] says they should be, without a gap on the way.
//!
//! ```text
//!   install   pins ─▶ nowhere ─▶ into devices          before
//!   withdraw  from devices ─▶ nowhere ─▶ pins          after
//! ```
//!
//! What is there is read from the kernel each time: a route that somebody has removed comes back.

use std::net::IpAddr;

use crate::net::Prefix;
use crate::os::netlink::{LAST_RESORT_METRIC, Netlink, NetlinkError, PIN_METRIC, Route, Target};
use crate::paths::{self, Plan};

/// A route that could not be made.
#[derive(Debug)]
pub(super) struct Trouble {
    /// The devices it was for; none for one that leads nowhere or around.
    pub(super) devices: Vec<u32>,
    /// What the kernel said.
    pub(super) error: NetlinkError,
}

/// What has come of it.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Routes that could not be made.
    pub(super) troubles: Vec<Trouble>,
    /// Routes that were made and that no packet takes, in words.
    pub(super) overtaken: Vec<String>,
}

/// Makes the kernel's routes those of `plan`; `devices` are all tunnels' devices.
pub(super) fn apply(plan: &Plan, devices: &[u32], netlink: &mut Netlink) -> Outcome {
    let present = match netlink.own_routes() {
        Ok(present) => present,
        Err(error) => {
            let devices = Vec::new();
            return Outcome {
                troubles: vec![Trouble { devices, error }],
                overtaken: Vec::new(),
            };
        }
    };
    let mut troubles = Vec::new();
    let mut wanted = Vec::new();
    for peer in &plan.pins {
        match pin(*peer, devices, &present, netlink) {
            Ok(route) => wanted.extend(route),
            Err(error) => troubles.push(Trouble {
                devices: Vec::new(),
                error,
            }),
        }
    }
    // A tunnel's route for the very address of a peer, and with the metric of pins, gives way.
    let pinned = wanted.clone();
    let is_free = |route: &Route| !pinned.iter().any(|pin| name(pin) == name(route));
    wanted.extend(plan.routes.iter().map(route).filter(is_free));
    let changes = changes(&present, wanted);
    for route in &changes.install {
        if let Err(error) = netlink.install(route) {
            let devices = match &route.target {
                Target::Devices(devices) => devices.clone(),
                Target::Neighbour { .. } | Target::Unreachable => Vec::new(),
            };
            troubles.push(Trouble { devices, error });
        }
    }
    for (prefix, metric) in &changes.withdraw {
        if let Err(error) = netlink.withdraw(*prefix, *metric) {
            troubles.push(Trouble {
                devices: Vec::new(),
                error,
            });
        }
    }
    let overtaken = overtaken(changes.install, netlink);
    Outcome {
        troubles,
        overtaken,
    }
}

/// Of the new routes, those that somebody else's route goes before. That may be meant, but what was to be protected leaves in the
/// clear.
fn overtaken(mut new: Vec<Route>, netlink: &mut Netlink) -> Vec<String> {
    new.retain(|route| matches!(route.target, Target::Devices(_)));
    if new.is_empty() {
        return Vec::new();
    }
    // Whoever cannot list the routes has been told so already.
    let overtaking = netlink.overtaking(&new).unwrap_or_default();
    let words = |(Route { prefix, metric, .. }, other): (Route, u32)| {
        format!(
            "packets for {prefix} do not enter the tunnel: somebody else's route for it has the metric {other} and goes before ours \
             with {metric}; remove it, give the tunnel a lower `metric`, or name the two halves of {prefix} in `routes`"
        )
    };
    overtaking.into_iter().map(words).collect()
}

/// The route that holds the way to a peer where it is. While there is no way, an old pin stays: it costs nothing.
fn pin(
    peer: IpAddr,
    devices: &[u32],
    present: &[Route],
    netlink: &mut Netlink,
) -> Result<Option<Route>, NetlinkError> {
    match netlink.pin(peer, devices) {
        Err(error @ NetlinkError::NoWay(_)) => {
            let old = present
                .iter()
                .find(|route| route.prefix == Prefix::host(peer) && route.metric == PIN_METRIC);
            old.cloned().map(Some).ok_or(error)
        }
        result => result,
    }
}

fn route(wanted: &paths::Route) -> Route {
    match &wanted.target {
        paths::Target::Nowhere => Route::last_resort(wanted.prefix),
        paths::Target::Devices {
            metric,
            devices,
            source,
        } => Route {
            prefix: wanted.prefix,
            metric: *metric,
            target: Target::Devices(devices.clone()),
            source: *source,
        },
    }
}

/// The way from the present routes to the wanted ones.
#[derive(Debug, PartialEq, Eq)]
struct Changes {
    install: Vec<Route>,
    withdraw: Vec<(Prefix, u32)>,
}

fn changes(present: &[Route], wanted: Vec<Route>) -> Changes {
    let mut withdraw: Vec<(Prefix, u32)> = present
        .iter()
        .map(name)
        .filter(|gone| !wanted.iter().any(|route| name(route) == *gone))
        .collect();
    withdraw.sort_by_key(|(_, metric)| std::cmp::Reverse(rank(*metric)));
    let mut install: Vec<Route> = wanted
        .into_iter()
        .filter(|route| !present.iter().any(|there| same(there, route)))
        .collect();
    install.sort_by_key(|route| rank(route.metric));
    Changes { install, withdraw }
}

/// What tells a route from every other.
fn name(route: &Route) -> (Prefix, u32) {
    (route.prefix, route.metric)
}

/// Pins first, then what holds, then what carries.
fn rank(metric: u32) -> u8 {
    match metric {
        PIN_METRIC => 0,
        LAST_RESORT_METRIC => 1,
        _ => 2,
    }
}

/// Whether the kernel has this route already. It may list the devices in another order, and cannot tell a tunnel from a network
/// without routers.
fn same(one: &Route, other: &Route) -> bool {
    let plain = |route: &Route| match &route.target {
        Target::Devices(devices) => {
            let mut devices = devices.clone();
            devices.sort_unstable();
            Target::Devices(devices)
        }
        Target::Neighbour {
            device,
            gateway: None,
        } => Target::Devices(vec![*device]),
        target @ (Target::Neighbour { .. } | Target::Unreachable) => target.clone(),
    };
    (name(one), one.source) == (name(other), other.source) && plain(one) == plain(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(metric: u32, devices: &[u32]) -> Route {
        Route {
            prefix: "10.8.0.0/16".parse().unwrap(),
            metric,
            target: Target::Devices(devices.to_vec()),
            source: None,
        }
    }

    fn nowhere() -> Route {
        Route::last_resort("10.8.0.0/16".parse().unwrap())
    }

    fn pinned() -> Route {
        Route {
            prefix: "10.8.0.1/32".parse().unwrap(),
            metric: PIN_METRIC,
            target: Target::Neighbour {
                device: 2,
                gateway: None,
            },
            source: None,
        }
    }

    #[test]
    fn a_route_is_held_and_pinned_before_it_is_made_and_after_it_is_gone() {
        let all = vec![through(100, &[5]), pinned(), nowhere()];
        let made = changes(&[], all.clone());
        assert_eq!(made.install, [pinned(), nowhere(), through(100, &[5])]);
        let gone = changes(&all, vec![]);
        let metrics: Vec<u32> = gone.withdraw.iter().map(|(_, metric)| *metric).collect();
        assert_eq!(metrics, [100, LAST_RESORT_METRIC, PIN_METRIC]);
    }

    #[test]
    fn fewer_devices_replace_the_route_and_withdraw_nothing() {
        let changes = changes(&[through(100, &[5, 6])], vec![through(100, &[6])]);
        assert_eq!(changes.install, [through(100, &[6])]);
        assert!(changes.withdraw.is_empty());
    }

    #[test]
    fn what_is_there_already_is_left_alone_in_whatever_order() {
        let present = [through(100, &[6, 5]), nowhere()];
        let changes = changes(&present, vec![nowhere(), through(100, &[5, 6])]);
        assert!(changes.install.is_empty() && changes.withdraw.is_empty());
    }

    #[test]
    fn another_metric_is_another_route() {
        let changes = changes(&[through(100, &[5])], vec![through(200, &[5])]);
        assert_eq!(changes.install, [through(200, &[5])]);
        assert_eq!(changes.withdraw, [("10.8.0.0/16".parse().unwrap(), 100)]);
    }
}
