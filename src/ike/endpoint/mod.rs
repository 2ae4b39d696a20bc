//! The engine's interface: datagrams, commands and time go in; datagrams, events and the next deadline come out.

mod attempt;
mod command;
mod datagram;
mod due;
mod duplicate_sa;
mod sas;
mod shutdown;
mod starts;
mod step;
mod tunnels;

use std::sync::Arc;

use self::sas::{Sa, Sas};
use self::shutdown::Shutdown;
use self::starts::Starts;
use self::tunnels::Tunnels;
use super::context::{Context, Output};
use super::cookie::Cookies;
use super::event::{Event, Transmit, View};
use super::limits;
use super::sa::IkeSa;
use super::settings::{Settings, Start, TunnelId};
use super::tunnel::{ConnectState, Tunnel};
use super::unauthenticated::DropClass;
use crate::crypto::Generator;
use crate::net::{Time, TokenBucket, TunnelState};
use crate::wire::IkeSpi;

/// All tunnels and all IKE SAs of one daemon.
#[derive(Debug)]
pub struct Endpoint {
    rng: Generator,
    out: Output,
    tunnels: Tunnels,
    /// IKE SAs by our own SPI.
    sas: Sas,
    replies: TokenBucket,
    cookies: Cookies,
    starts: Starts,
    /// Progress of [`Command::Shutdown`](crate::ike::Command::Shutdown).
    shutdown: Option<Shutdown>,
}

impl Endpoint {
    /// An engine without tunnels. `rng` is its only source of randomness.
    pub fn new(rng: Generator) -> Endpoint {
        Endpoint {
            rng,
            out: Output::default(),
            tunnels: Tunnels::default(),
            sas: Sas::default(),
            replies: limits::response_limit(),
            cookies: Cookies::default(),
            starts: Starts::default(),
            shutdown: None,
        }
    }

    /// Adds a tunnel; a tunnel with `start = auto` connects at once.
    pub fn add_tunnel(&mut self, now: Time, id: TunnelId, settings: Settings) {
        let mut tunnel = Tunnel::new(Arc::new(settings), now);
        match tunnel.settings.start {
            Start::Auto => tunnel.connect_state = ConnectState::Retry { at: now },
            Start::Trap | Start::Add => {}
        }
        self.tunnels.insert(id, tunnel);
        self.handle_timeout(now);
    }

    /// The deviations from the protocol that a test has set.
    #[cfg(feature = "testing")]
    pub fn impair(&mut self) -> &mut super::impair::Impair {
        &mut self.out.impair
    }

    /// Number of IKE SAs in any state.
    #[cfg(feature = "testing")]
    pub fn sa_count(&self) -> usize {
        self.sas.values().len()
    }

    /// The next datagram to send. The caller handles all events first: see [`poll_event`](Self::poll_event).
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.out.transmits.pop_front()
    }

    /// The next event. The caller handles all events before it sends datagrams, so that a Child SA is installed before the peer
    /// may send over it.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.out.events.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next, if no other call comes before.
    pub fn poll_timeout(&self) -> Option<Time> {
        let shutdown = self.shutdown.as_ref().and_then(Shutdown::next_timer);
        let timers = [
            self.sas.next_timer(),
            self.tunnels.next_timer(),
            self.starts.next_timer(),
            shutdown,
        ];
        timers.into_iter().flatten().min()
    }

    /// Whether every DELETE of [`Command::Shutdown`](crate::ike::Command::Shutdown) has been answered or has timed out.
    pub fn is_idle(&self) -> bool {
        !self.sas.values().any(|sa| match sa {
            // The SA that a pending IKE_AUTH has established at the peer is closed when the response arrives.
            Sa::Established(_) | Sa::AuthSent(_) => true,
            Sa::InitSent(_) | Sa::IntermediateSent(_) | Sa::HalfOpen(_) | Sa::LastResponse(_) => {
                false
            }
        })
    }

    /// The status of a tunnel.
    pub fn view(&self, id: TunnelId) -> Option<View> {
        let tunnel = self.tunnels.get(&id)?;
        let sa = self
            .established(id)
            .max_by_key(|sa| (sa.child().is_some(), !sa.will_close(), sa.established()));
        let (state, since) = tunnel.state;
        let waiting = match state {
            TunnelState::Connecting | TunnelState::Failed => Some(tunnel.waiting()),
            TunnelState::Down | TunnelState::Up => None,
        };
        let next_attempt = match tunnel.connect_state {
            ConnectState::Retry { at } if state == TunnelState::Connecting => Some(at),
            ConnectState::Retry { .. }
            | ConnectState::Queued
            | ConnectState::Idle
            | ConnectState::Resolving { .. }
            | ConnectState::Connecting
            | ConnectState::Failed => None,
        };
        let children = sa.map(IkeSa::child_views).unwrap_or_default();
        Some(View {
            next_attempt,
            state,
            waiting,
            since,
            remote: sa
                .map(IkeSa::remote)
                .or_else(|| tunnel.ends(tunnel.settings.local).map(|(_, remote)| remote)),
            ike: sa.map(IkeSa::view),
            child: children.first().cloned(),
            children,
            rekeys: tunnel.rekeys,
            rekey_check: tunnel.rekey_check.verdicts(),
            last_failure: tunnel.last_failure.clone(),
        })
    }

    /// Counters of dropped unauthenticated messages, by class.
    pub fn drop_counts(&self) -> impl Iterator<Item = (DropClass, u64)> + '_ {
        self.out.drops.counts()
    }

    /// Tunnels with an IKE SA whose timer has expired: [`handle_timeout`](Self::handle_timeout) should know of their ESP traffic.
    pub fn due_tunnels(&self, now: Time) -> impl Iterator<Item = TunnelId> {
        let sas = self.sas.due(now).into_iter();
        sas.filter_map(move |own| self.sas.established(own).map(IkeSa::tunnel))
    }

    /// The open IKE SAs of a tunnel.
    fn established(&self, id: TunnelId) -> impl Iterator<Item = &IkeSa> {
        let sas = self.sas.of_tunnel(id);
        sas.filter_map(move |own| self.sas.established(own))
            .filter(|sa| sa.is_open())
    }

    /// Whether a tunnel has a Child SA.
    fn is_up(&self, id: TunnelId) -> bool {
        self.established(id).any(|sa| sa.child().is_some())
    }

    /// Applies a change to every open IKE SA of a tunnel.
    fn for_each_established(&mut self, id: TunnelId, mut change: impl FnMut(&mut IkeSa)) {
        for own in self.sas.of_tunnel(id).collect::<Vec<_>>() {
            if let Some(sa) = self.sas.established_mut(own).filter(|sa| sa.is_open()) {
                change(sa);
            }
        }
    }

    /// Updates the states and timers of the tunnels that may have changed.
    fn update_states(&mut self, now: Time) {
        self.start_queued(now);
        let mut touched = self.sas.take_touched();
        touched.extend(self.tunnels.take_touched());
        for id in touched {
            let is_up = self.is_up(id);
            if let Some(tunnel) = self.tunnels.get_mut(&id) {
                let state = tunnel.current_state(is_up);
                if state != tunnel.state.0 {
                    tunnel.state = (state, now);
                    match state {
                        TunnelState::Up => {
                            let [jitter] = self.rng.bytes();
                            tunnel.rekey_check.on_up(now, jitter);
                        }
                        TunnelState::Down | TunnelState::Connecting | TunnelState::Failed => {
                            tunnel.rekey_check.on_down();
                        }
                    }
                }
            }
            self.tunnels.reindex(id);
        }
        self.tunnels.take_touched();
        debug_assert!(
            self.sas.is_consistent() && self.tunnels.is_consistent(),
            "the indexes differ from newly built ones"
        );
    }

    fn jitter(&mut self) -> u8 {
        let [byte] = self.rng.bytes::<1>();
        byte
    }

    fn fresh_spi(&mut self) -> IkeSpi {
        loop {
            let spi = IkeSpi(self.rng.u64());
            if !spi.is_zero() && !self.sas.contains_key(&spi) {
                return spi;
            }
        }
    }
}

/// An unused ESP SPI; the first 256 are reserved (RFC 4303 §2.1).
fn fresh_child_spi(sas: &Sas, rng: &mut Generator) -> u32 {
    loop {
        let spi = rng.u32();
        if spi > 255 && !sas.has_child(spi) {
            return spi;
        }
    }
}

/// Context of a step that creates no Child SA.
fn cx<'a>(now: Time, rng: &'a mut Generator, out: &'a mut Output) -> Context<'a> {
    Context {
        now,
        rng,
        out,
        taken: &|_| false,
    }
}

/// Context of a step that sets no timer.
fn cx_without_time<'a>(rng: &'a mut Generator, out: &'a mut Output) -> Context<'a> {
    cx(Time::ZERO, rng, out)
}
