//! Time: repeating, giving up, trying again.

use super::{Endpoint, Sa, cx};
use crate::ike::failure::Failure;
use crate::ike::limits;
use crate::ike::retransmit::Step;
use crate::ike::settings::TunnelId;
use crate::ike::tunnel::Plan;
use crate::net::Time;
use crate::wire::IkeSpi;

impl Endpoint {
    /// Does everything that is due at `now`.
    pub fn handle_timeout(&mut self, now: Time) {
        let due: Vec<IkeSpi> = self
            .sas
            .iter()
            .filter(|(_, sa)| sa.next_timer() <= now)
            .map(|(spi, _)| *spi)
            .collect();
        for own in due {
            if let Some(sa) = self.sas.remove(&own) {
                self.on_sa_due(now, own, sa);
            }
        }
        let due: Vec<(TunnelId, Plan)> = self
            .tunnels
            .iter()
            .filter(|(_, tunnel)| tunnel.next_timer() <= now)
            .map(|(id, tunnel)| (*id, tunnel.plan))
            .collect();
        for (id, plan) in due {
            match plan {
                Plan::Retry { .. } => self.connect(now, id),
                Plan::Resolving { .. } => self.on_resolved(now, id, None),
                Plan::Rest | Plan::Attempt | Plan::GivenUp => {}
            }
        }
        self.tend(now);
    }

    pub(super) fn on_sa_due(&mut self, now: Time, own: IkeSpi, sa: Sa) {
        let jitter = self.jitter();
        match sa {
            Sa::InitSent(mut sent) => {
                let (tunnel, remote) = (sent.place.tunnel, sent.place.remote);
                match sent.ladder.step(now, jitter) {
                    Step::Wait => {
                        self.sas.insert(own, Sa::InitSent(sent));
                    }
                    Step::Again(transmit) => {
                        self.out.transmits.push_back(transmit);
                        let copies = sent.ladder.sent();
                        self.sas.insert(own, Sa::InitSent(sent));
                        if copies == limits::COPIES_BEFORE_NEWS {
                            self.note(tunnel, limits::silent_at_init(now, remote));
                        }
                    }
                    Step::GiveUp => {
                        let failure = sent
                            .refusal
                            .unwrap_or_else(|| limits::silent_at_init(now, remote));
                        self.on_attempt_failed(tunnel, Failure { at: now, ..failure });
                    }
                }
            }
            Sa::AuthSent(mut sent) => {
                let (tunnel, remote) = (sent.keyed.place.tunnel, sent.keyed.place.remote);
                match sent.ladder.step(now, jitter) {
                    Step::Wait => {
                        self.sas.insert(own, Sa::AuthSent(sent));
                    }
                    Step::Again(transmit) => {
                        self.out.transmits.push_back(transmit);
                        let copies = sent.ladder.sent();
                        self.sas.insert(own, Sa::AuthSent(sent));
                        if copies == limits::COPIES_BEFORE_NEWS {
                            self.note(tunnel, limits::silent_at_auth(now, remote));
                        }
                    }
                    Step::GiveUp => {
                        self.on_attempt_failed(tunnel, limits::silent_at_auth(now, remote))
                    }
                }
            }
            Sa::HalfOpen(half_open) => {
                if now < half_open.expires {
                    self.sas.insert(own, Sa::HalfOpen(half_open));
                }
            }
            Sa::Remnant(remnant) => {
                if now < remnant.expires {
                    self.sas.insert(own, Sa::Remnant(remnant));
                }
            }
            Sa::Established(mut sa) => {
                let was_open = sa.is_open();
                let (tunnel, lived) = (sa.tunnel(), now.since(sa.established()));
                let mut cx = cx(now, &mut self.rng, &mut self.out);
                let fate = sa.on_timeout(&mut cx);
                let closing = was_open && !sa.is_open();
                self.after(now, own, sa, fate);
                // The traffic is without an SA from the DELETE on, not only from its answer.
                if closing {
                    self.on_lost(now, tunnel, lived);
                }
            }
        }
    }
}
