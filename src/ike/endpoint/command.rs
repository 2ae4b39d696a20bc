//! What the rest of the program asks.

use std::net::IpAddr;

use super::{Endpoint, Sa, cx};
use crate::ike::event::{Command, DownReason};
use crate::ike::limits;
use crate::ike::settings::{Start, TunnelId};
use crate::ike::tunnel::{Aim, Plan, Wish};
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
                if wants && self.established(id).next().is_none() {
                    self.connect(now, id);
                }
            }
            Command::Resolved { tunnel, address } => self.on_resolved(now, tunnel, address),
            Command::Heard { tunnel, at } => {
                self.established_mut(tunnel).for_each(|sa| sa.heard(at))
            }
            Command::Sent { tunnel, at } => self.established_mut(tunnel).for_each(|sa| sa.sent(at)),
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
        if idle && self.established(id).next().is_none() {
            self.connect(now, id);
        }
    }

    pub(super) fn down(&mut self, now: Time, id: TunnelId) {
        if let Some(tunnel) = self.tunnels.get_mut(&id) {
            tunnel.wish = Wish::Down;
            tunnel.plan = Plan::Rest;
        }
        // An IKE_AUTH on its way may already stand at the peer: it is closed when the answer comes.
        self.sas.retain(|_, sa| match sa {
            Sa::InitSent(sent) => sent.place.tunnel != id,
            Sa::HalfOpen(half_open) => half_open.keyed.place.tunnel != id,
            Sa::AuthSent(_) | Sa::Established(_) | Sa::Remnant(_) => true,
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
        let aim = match tunnel.plan {
            Plan::Resolving { aim, .. } => aim,
            Plan::Rest | Plan::Attempt | Plan::Retry { .. } | Plan::GivenUp => return,
        };
        let peer = tunnel.settings.peer.to_string();
        match (address, aim) {
            (Some(address), Aim::Connect) => {
                tunnel.address = Some(address);
                self.begin(now, id);
            }
            (Some(address), Aim::Recognise) => {
                tunnel.address = Some(address);
                tunnel.plan = Plan::Rest;
            }
            (None, _) => {
                self.on_attempt_failed(id, limits::unresolved(now, &peer));
                if aim == Aim::Recognise {
                    self.set_plan(id, Plan::Rest);
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
        let mut cx = cx(now, &mut self.rng, &mut self.out);
        for sa in self.sas.values_mut() {
            match sa {
                Sa::Established(sa) if sa.tunnel() == tunnel => {
                    sa.give_up_child(spi_in, reason, &mut cx)
                }
                Sa::Established(_)
                | Sa::InitSent(_)
                | Sa::AuthSent(_)
                | Sa::HalfOpen(_)
                | Sa::Remnant(_) => {}
            }
        }
    }
}
