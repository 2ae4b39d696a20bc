//! One step of an established IKE SA (a message, a command or a timer), and its effects on the endpoint and the tunnel.

use std::time::Duration;

use super::sas::Sa;
use super::{Endpoint, cx, cx_without_time};
use crate::ike::context::Context;
use crate::ike::event::{DownReason, Event, Rekey, Rekeys};
use crate::ike::failure::Failure;
use crate::ike::limits;
use crate::ike::sa::{IkeSa, SaOutcome};
use crate::ike::settings::TunnelId;
use crate::ike::tunnel::{AdminState, ConnectState};
use crate::net::Time;
use crate::wire::IkeSpi;

impl Endpoint {
    /// Runs one step of an established SA and applies its outputs.
    pub(super) fn step(
        &mut self,
        now: Time,
        own: IkeSpi,
        mut sa: Box<IkeSa>,
        step: impl FnOnce(&mut IkeSa, &mut Context<'_>) -> SaOutcome,
    ) {
        let (tunnel, lived, was_open) = (sa.tunnel(), now.since(sa.established()), sa.is_open());
        let before = self.out.events.len();
        let taken = |spi_in| self.sas.has_child(spi_in);
        let mut cx = Context {
            now,
            rng: &mut self.rng,
            out: &mut self.out,
            taken: &taken,
        };
        let outcome = step(&mut sa, &mut cx);
        let output = sa.take_output();
        let mut cx = self::cx(now, &mut self.rng, &mut self.out);
        let is_continued = sa.is_open() || !output.successors.is_empty();
        for successor in output.successors {
            self.sas
                .insert(successor.own_spi(), Sa::Established(successor));
        }
        let is_open = match outcome {
            SaOutcome::Open => {
                if output.serves && sa.is_open() && !sa.will_close() {
                    self.resolve_duplicates(now, &mut sa);
                }
                if output.confirmed && is_continued && !sa.is_redundant() {
                    self.close_losers(now, &sa);
                }
                let is_open = sa.is_open();
                self.sas.insert(own, Sa::Established(sa));
                is_open
            }
            SaOutcome::Closed(reason) => {
                sa.emit_down(reason, &mut cx);
                // The reason why the SA is useless has already been reported in more detail.
                if was_open
                    && !self.is_up(tunnel)
                    && !sa.is_useless()
                    && let Some(failure) = limits::sa_removed(now, reason, sa.remote())
                {
                    self.record_failure(tunnel, failure);
                }
                self.keep_last_response(own, Box::new(sa.into_last_response(now)));
                false
            }
        };
        self.remove_excess_closing(tunnel);
        for failure in output.failures {
            self.record_failure(tunnel, failure);
        }
        self.record_rekeys(tunnel, output.rekeys, output.verdicts);
        if output.reassert_winner {
            self.prefer_winner(tunnel);
        }
        if output.renew {
            self.replace_ike_sa(now, tunnel);
        }
        // Traffic has no SA from the DELETE on, not only from its response.
        if was_open && !is_open {
            self.cancel_close(tunnel);
            self.on_lost(now, tunnel, lived);
        }
        self.promote_waiting_child(now, tunnel, before, was_open && !is_open);
    }

    /// Counts rekeys and records the results of the rekey check.
    fn record_rekeys(
        &mut self,
        id: TunnelId,
        rekeys: Rekeys,
        verdicts: Vec<(Rekey, Result<(), Failure>)>,
    ) {
        let Some(tunnel) = self.tunnels.get_mut(&id) else {
            return;
        };
        tunnel.rekeys.ike = tunnel.rekeys.ike.saturating_add(rekeys.ike);
        tunnel.rekeys.child = tunnel.rekeys.child.saturating_add(rekeys.child);
        for (what, result) in verdicts {
            if tunnel.rekey_check.record(what, result.is_ok()) {
                self.out.events.push_back(Event::RekeyChecked {
                    tunnel: id,
                    what,
                    result,
                });
            }
        }
    }

    /// Connects again, because the IKE SA cannot be rekeyed and nears its end: the new SA replaces the old one.
    fn replace_ike_sa(&mut self, now: Time, id: TunnelId) {
        let idle = self.tunnels.get(&id).is_some_and(|tunnel| {
            tunnel.connect_state == ConnectState::Idle && tunnel.admin == AdminState::Up
        });
        if idle {
            self.connect(now, id);
        }
    }

    /// Bounds the closing IKE SAs of a tunnel, which a peer accumulates by rekeying repeatedly or by never answering a DELETE.
    /// The oldest are removed.
    fn remove_excess_closing(&mut self, id: TunnelId) {
        loop {
            let sas = self.sas.of_tunnel(id);
            let ending = sas.filter_map(|own| self.sas.established(own));
            let ending = ending.filter(|sa| !sa.is_open());
            let ending: Vec<_> = ending.map(|sa| (sa.established(), sa.own_spi())).collect();
            if ending.len() <= limits::MAX_ENDING {
                return;
            }
            let Some((_, oldest)) = ending.into_iter().min() else {
                return;
            };
            if let Some(Sa::Established(mut sa)) = self.sas.remove(&oldest) {
                let mut cx = cx_without_time(&mut self.rng, &mut self.out);
                sa.emit_down(DownReason::Replaced, &mut cx);
            }
        }
    }

    pub(super) fn on_lost(&mut self, now: Time, id: TunnelId, lived: Duration) {
        let others = self.established(id).next().is_some();
        let jitter = self.jitter();
        if let Some(tunnel) = self.tunnels.get_mut(&id)
            && !others
            && tunnel.connect_state == ConnectState::Idle
        {
            tunnel.on_lost(now, lived, jitter);
        }
    }
}
