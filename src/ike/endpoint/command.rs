//! What the rest of the program asks.

use std::net::IpAddr;

use super::{Endpoint, Sa, cx};
use crate::ike::event::{Command, DownReason};
use crate::ike::limits;
use crate::ike::sa::Fate;
use crate::ike::settings::{Start, TunnelId};
use crate::ike::tunnel::{Plan, Wish};
use crate::net::Time;

impl Endpoint {
    /// Does what the rest of the program asks.
    pub fn handle_command(&mut self, now: Time, command: Command) {
        match command {
            Command::Up(id) => self.up(now, id),
            Command::Down(id) => {
                self.down(now, id);
            }
            Command::Reset(id) => {
                self.down(now, id);
                if let Some(tunnel) = self.tunnels.get_mut(&id) {
                    tunnel.last_failure = None;
                }
                self.up(now, id);
            }
            Command::Demand(id) => {
                let wants = self.tunnels.get(&id).is_some_and(|tunnel| {
                    tunnel.wish == Wish::Serve
                        && tunnel.settings.start == Start::Trap
                        && tunnel.plan == Plan::Rest
                        && tunnel.not_before <= now
                });
                if wants && !self.is_up(id) {
                    self.connect(now, id);
                }
            }
            Command::Resolved { tunnel, address } => self.on_resolved(now, tunnel, address),
            Command::Heard { tunnel, at } => {
                self.established_mut(tunnel).for_each(|sa| sa.heard(at))
            }
            Command::Sent { tunnel, at } => self.established_mut(tunnel).for_each(|sa| sa.sent(at)),
            Command::Rekey { .. }
            | Command::SoftLimit { .. }
            | Command::ChildHeard { .. }
            | Command::SeenFrom { .. }
            | Command::UnknownSpi { .. } => {}
            Command::InstallFailed {
                tunnel,
                spi_in,
                why,
            } => {
                self.note(tunnel, limits::not_installed(now, why));
                self.give_up_child(now, tunnel, spi_in, DownReason::Useless);
            }
            Command::SequenceExhausted { tunnel, spi_in } => {
                self.give_up_child(now, tunnel, spi_in, DownReason::Expired);
            }
            Command::Shutdown => {
                let all: Vec<TunnelId> = self.tunnels.keys().copied().collect();
                for id in all {
                    self.down(now, id);
                }
            }
        }
        self.tend(now);
    }

    pub(super) fn up(&mut self, now: Time, id: TunnelId) {
        let Some(tunnel) = self.tunnels.get_mut(&id) else {
            return;
        };
        tunnel.wish = Wish::Serve;
        tunnel.failures = 0;
        let idle = match tunnel.plan {
            Plan::Rest | Plan::Retry { .. } | Plan::GivenUp => true,
            Plan::Resolving { .. } | Plan::Attempt => false,
        };
        if idle && !self.is_up(id) {
            self.connect(now, id);
        }
    }

    pub(super) fn down(&mut self, now: Time, id: TunnelId) {
        if let Some(tunnel) = self.tunnels.get_mut(&id) {
            tunnel.wish = Wish::Down;
            tunnel.plan = Plan::Rest;
        }
        self.abandon_attempts(id);
        self.sas.retain(|_, sa| match sa {
            Sa::HalfOpen(half_open) => half_open.keyed.place.tunnel != id,
            Sa::InitSent(_) | Sa::AuthSent(_) | Sa::Established(_) | Sa::Remnant(_) => true,
        });
        let mut cx = cx(now, &mut self.rng, &mut self.out);
        for sa in self.sas.values_mut() {
            match sa {
                Sa::Established(sa) if sa.tunnel() == id => {
                    sa.close(DownReason::Asked, None, &mut cx)
                }
                Sa::Established(_)
                | Sa::InitSent(_)
                | Sa::AuthSent(_)
                | Sa::HalfOpen(_)
                | Sa::Remnant(_) => {}
            }
        }
    }

    pub(super) fn on_resolved(&mut self, now: Time, id: TunnelId, address: Option<IpAddr>) {
        let Some(tunnel) = self.tunnels.get_mut(&id) else {
            return;
        };
        let connects = match tunnel.plan {
            Plan::Resolving { .. } => true,
            Plan::Rest | Plan::Attempt | Plan::Retry { .. } | Plan::GivenUp => false,
        };
        match address {
            Some(address) => {
                tunnel.address = Some(address);
                if connects {
                    self.begin(now, id);
                }
            }
            None => {
                let failure = limits::unresolved(now, &tunnel.settings.peer.to_string());
                if connects {
                    self.on_attempt_failed(id, failure);
                } else {
                    self.note_unless_up(id, failure);
                }
            }
        }
    }

    pub(super) fn give_up_child(
        &mut self,
        now: Time,
        tunnel: TunnelId,
        spi_in: u32,
        reason: DownReason,
    ) {
        let owners = self.sas.iter().filter_map(|(own, sa)| match sa {
            Sa::Established(sa) if sa.tunnel() == tunnel => Some(*own),
            Sa::Established(_)
            | Sa::InitSent(_)
            | Sa::AuthSent(_)
            | Sa::HalfOpen(_)
            | Sa::Remnant(_) => None,
        });
        for own in owners.collect::<Vec<_>>() {
            if let Some(Sa::Established(sa)) = self.sas.remove(&own) {
                self.step(now, own, sa, |sa, cx| {
                    sa.give_up_child(spi_in, reason, cx);
                    Fate::Lives
                });
            }
        }
    }
}
