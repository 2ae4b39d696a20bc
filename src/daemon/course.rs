//! Keeping carriers and routes in step with the tunnels: `paths` decides, `steer` does.

use std::net::IpAddr;
use std::time::Duration;

use tracing::{debug, warn};

use super::control_plane::{ControlPlane, is_trap};
use super::install::Tunnel;
use super::news::News;
use super::steer::{self, Outcome, Trouble};
use crate::config;
use crate::ike::TunnelId;
use crate::net::{Prefix, Time};
use crate::os::clock;
use crate::os::netlink::{HostAddress, source_inside};
use crate::os::tun::Carrier;
use crate::paths::{self, Carries};

/// What the routes were last made for.
#[derive(Debug, Default)]
pub(super) struct Course {
    made_for: Option<Vec<Leg>>,
    again: Option<Time>,
    /// Whether the way to a peer is held somewhere: the network may have changed since.
    pins: bool,
    complaints: News<String>,
}

/// All about a tunnel that can change its routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Leg {
    id: TunnelId,
    device: u32,
    carries: Carries,
    peer: Option<IpAddr>,
}

/// When a route that could not be made is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// How long changes of the network are gathered: they come in bursts, some of them our own.
const SETTLE: Duration = Duration::from_millis(200);

impl Course {
    /// When routes that could not be made are due again.
    pub(super) fn again(&self) -> Option<Time> {
        self.again
    }

    /// Before a peer is called: the way to it may be another than when it was last held.
    pub(super) fn review(&mut self, now: Time) {
        if self.pins {
            self.again = Some(now);
        }
    }

    /// Somebody has changed links, addresses or routes: ours may be gone, or lead the wrong way.
    pub(super) fn network_changed(&mut self, now: Time) {
        let soon = now + SETTLE;
        self.again = Some(self.again.map_or(soon, |again| again.min(soon)));
    }

    /// Says once what cannot be made, or is of no effect.
    fn complain(&mut self, outcome: &Outcome, now: Time) {
        let troubles = outcome.troubles.iter();
        let troubles = troubles.map(|trouble| trouble.error.to_string());
        for complaint in troubles.chain(outcome.overtaken.iter().cloned()) {
            if self.complaints.is_news(complaint.clone(), "", now) {
                warn!("{complaint}");
            }
        }
    }
}

/// Brings carriers and routes up to date. Tunnels that have just come up and whose routes cannot be made are returned, with the
/// reason: they are of no use.
pub(super) fn steer(core: &mut ControlPlane) -> Vec<(TunnelId, String)> {
    let now = clock::now();
    let legs: Vec<Leg> = core
        .tunnels
        .iter()
        .map(|(id, tunnel)| Leg {
            id: *id,
            device: tunnel.device.index(),
            carries: if !tunnel.children.is_empty() || is_trap(tunnel, *id, &core.endpoint) {
                Carries::Yes
            } else {
                Carries::No
            },
            peer: tunnel.peer,
        })
        .collect();
    let is_due = core.course.again.is_some_and(|again| again <= now);
    if core.course.made_for.as_ref() == Some(&legs) && !is_due {
        return Vec::new();
    }
    // A device carries before packets are routed into it, and until none is any more.
    for (leg, tunnel) in legs.iter().zip(core.tunnels.values()) {
        match leg.carries {
            Carries::Yes => {
                set_carrier(tunnel, Carrier::Up);
                // Whatever is wrong with the device shows when the route is made.
                let _ = core.netlink.await_queue(leg.device);
            }
            Carries::No => {}
        }
    }
    let addresses = core.netlink.addresses().unwrap_or_default();
    let tunnels: Vec<paths::Tunnel> = legs
        .iter()
        .zip(core.tunnels.values())
        .map(|(leg, tunnel)| signal(*leg, &tunnel.settings, &addresses))
        .collect();
    let devices: Vec<u32> = legs.iter().map(|leg| leg.device).collect();
    let plan = paths::plan(&tunnels);
    let outcome = steer::apply(&plan, &devices, &mut core.netlink);
    core.course.pins = !plan.pins.is_empty();
    for (leg, tunnel) in legs.iter().zip(core.tunnels.values()) {
        match leg.carries {
            Carries::Yes => {}
            Carries::No => set_carrier(tunnel, Carrier::Down),
        }
    }
    let failed = to_blame(&legs, core, &outcome.troubles);
    if failed.is_empty() {
        core.course.complain(&outcome, now);
    }
    core.course.again = (!outcome.troubles.is_empty() && failed.is_empty()).then(|| now + AGAIN);
    core.course.made_for = Some(legs);
    failed
}

/// Of the tunnels that a route was for, those that came up just now have broken it.
fn to_blame(legs: &[Leg], core: &ControlPlane, troubles: &[Trouble]) -> Vec<(TunnelId, String)> {
    let is_new = |leg: &&Leg| {
        let was = core
            .course
            .made_for
            .iter()
            .flatten()
            .find(|was| was.id == leg.id);
        was.is_none_or(|was| was.carries == Carries::No)
    };
    let has_child = |leg: &&Leg| {
        core.tunnels
            .get(&leg.id)
            .is_some_and(|tunnel| !tunnel.children.is_empty())
    };
    let reason = |leg: &Leg| {
        let trouble = troubles
            .iter()
            .find(|trouble| trouble.devices.contains(&leg.device))?;
        Some((leg.id, trouble.error.to_string()))
    };
    legs.iter()
        .filter(is_new)
        .filter(has_child)
        .filter_map(reason)
        .collect()
}

fn set_carrier(tunnel: &Tunnel, carrier: Carrier) {
    // Set again even if it should be so already: a device that was taken down has forgotten.
    if let Err(error) = tunnel.device.set_carrier(carrier) {
        // Somebody has removed the device: it tells so by itself.
        debug!(device = tunnel.device.name(), %error, "the carrier cannot be set");
    }
}

fn signal(leg: Leg, settings: &config::TunnelSettings, addresses: &[HostAddress]) -> paths::Tunnel {
    let local: Vec<Prefix> = settings
        .ike
        .policy
        .local
        .iter()
        .filter_map(|selector| selector.as_prefix())
        .collect();
    // Where anything may be the source, the kernel's choice is as good as any: the device's own address, if it has one.
    let sources = settings.routes.iter().filter_map(|route| {
        let of_family = |prefix: &&Prefix| prefix.is_ipv4() == route.is_ipv4();
        if local.iter().filter(of_family).any(Prefix::is_default) {
            return None;
        }
        source_inside(addresses, &local, route.address())
    });
    paths::Tunnel {
        device: leg.device,
        carries: leg.carries,
        routes: settings.routes.clone(),
        metric: settings.metric,
        sources: sources.collect(),
        fail_closed: settings.fail_closed,
        peer: leg.peer,
    }
}
