//! The engine's interface: datagrams, commands and time go in; datagrams, events and the next deadline come out.

mod attempt;
mod command;
mod datagram;
mod due;
mod duplicate_sa;
mod sas;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use self::sas::Sas;
use super::context::{Context, Output};
use super::cookie::Cookies;
use super::event::{Event, Transmit, View};
use super::exchange::auth::AuthSent;
use super::exchange::init::{HalfOpen, InitSent};
use super::exchange::intermediate::IntermediateSent;
use super::limits;
use super::sa::IkeSa;
use super::settings::{Settings, Start, TunnelId};
use super::tunnel::{ConnectState, Tunnel};
use super::unauthenticated::DropClass;
use super::window::LastResponse;
use crate::crypto::Generator;
use crate::net::{Time, TokenBucket, TunnelState};
use crate::wire::IkeSpi;

/// All tunnels and all IKE SAs of one daemon.
#[derive(Debug)]
pub struct Endpoint {
    rng: Generator,
    out: Output,
    tunnels: BTreeMap<TunnelId, Tunnel>,
    /// IKE SAs by our own SPI.
    sas: Sas,
    replies: TokenBucket,
    cookies: Cookies,
}

/// An IKE SA in any state, from its first message to its last response.
#[derive(Debug)]
enum Sa {
    InitSent(Box<InitSent>),
    IntermediateSent(Box<IntermediateSent>),
    AuthSent(Box<AuthSent>),
    HalfOpen(Box<HalfOpen>),
    Established(Box<IkeSa>),
    LastResponse(Box<LastResponse>),
}

impl Endpoint {
    /// An engine without tunnels. `rng` is its only source of randomness.
    pub fn new(rng: Generator) -> Endpoint {
        Endpoint {
            rng,
            out: Output::default(),
            tunnels: BTreeMap::new(),
            sas: Sas::default(),
            replies: limits::response_limit(),
            cookies: Cookies::default(),
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
        let sas = self.sas.values().map(Sa::next_timer);
        let tunnels = self.tunnels.values().map(Tunnel::next_timer);
        let next = sas.chain(tunnels).min().unwrap_or(Time::MAX);
        (next < Time::MAX).then_some(next)
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
        Some(View {
            state,
            waiting,
            since,
            remote: sa
                .map(IkeSa::remote)
                .or_else(|| tunnel.ends(tunnel.settings.local).map(|(_, remote)| remote)),
            ike: sa.map(IkeSa::view),
            child: sa.and_then(IkeSa::child_view),
            rekeys: tunnel.rekeys,
            rekey_check: tunnel.rekey_check.verdicts(),
            last_failure: tunnel.last_failure.clone(),
        })
    }

    /// Counters of dropped unauthenticated messages, by class.
    pub fn drop_counts(&self) -> impl Iterator<Item = (DropClass, u64)> + '_ {
        self.out.drops.counts()
    }

    /// The open IKE SAs of a tunnel.
    fn established(&self, id: TunnelId) -> impl Iterator<Item = &IkeSa> {
        self.sas.values().filter_map(move |sa| match sa {
            Sa::Established(sa) if sa.tunnel() == id && sa.is_open() => Some(sa.as_ref()),
            Sa::Established(_)
            | Sa::InitSent(_)
            | Sa::IntermediateSent(_)
            | Sa::AuthSent(_)
            | Sa::HalfOpen(_)
            | Sa::LastResponse(_) => None,
        })
    }

    /// Whether a tunnel has a Child SA.
    fn is_up(&self, id: TunnelId) -> bool {
        self.established(id).any(|sa| sa.child().is_some())
    }

    fn established_mut(&mut self, id: TunnelId) -> impl Iterator<Item = &mut IkeSa> {
        self.sas.values_mut().filter_map(move |sa| match sa {
            Sa::Established(sa) if sa.tunnel() == id && sa.is_open() => Some(sa.as_mut()),
            Sa::Established(_)
            | Sa::InitSent(_)
            | Sa::IntermediateSent(_)
            | Sa::AuthSent(_)
            | Sa::HalfOpen(_)
            | Sa::LastResponse(_) => None,
        })
    }

    /// Updates the states of the tunnels in the status view.
    fn update_states(&mut self, now: Time) {
        debug_assert!(
            self.sas.is_consistent(),
            "the index of SAs is not of these SAs"
        );
        let up: BTreeSet<TunnelId> = self
            .sas
            .values()
            .filter_map(|sa| match sa {
                Sa::Established(sa) if sa.is_open() && sa.child().is_some() => Some(sa.tunnel()),
                Sa::Established(_)
                | Sa::InitSent(_)
                | Sa::IntermediateSent(_)
                | Sa::AuthSent(_)
                | Sa::HalfOpen(_)
                | Sa::LastResponse(_) => None,
            })
            .collect();
        for (id, tunnel) in &mut self.tunnels {
            let state = tunnel.current_state(up.contains(id));
            if state != tunnel.state.0 {
                tunnel.state = (state, now);
                match state {
                    TunnelState::Up => {
                        let [jitter] = self.rng.bytes();
                        tunnel.rekey_check.on_up(now, jitter);
                    }
                    TunnelState::Down | TunnelState::Connecting | TunnelState::Failed => {
                        tunnel.rekey_check.on_down()
                    }
                }
            }
        }
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
        if spi > 255 && !has_child(sas, spi) {
            return spi;
        }
    }
}

/// Whether an SA has, or is about to have, a Child SA with this inbound SPI.
fn has_child(sas: &Sas, spi_in: u32) -> bool {
    sas.values().any(|sa| match sa {
        Sa::Established(sa) => sa.has_child(spi_in),
        Sa::AuthSent(sent) => sent.spi_in == spi_in,
        Sa::InitSent(_) | Sa::IntermediateSent(_) | Sa::HalfOpen(_) | Sa::LastResponse(_) => false,
    })
}

impl Sa {
    fn next_timer(&self) -> Time {
        match self {
            Sa::InitSent(sent) => sent.retransmit.due(),
            Sa::IntermediateSent(sent) => sent.retransmit.due(),
            Sa::AuthSent(sent) => sent.retransmit.due(),
            Sa::HalfOpen(half_open) => half_open.expires,
            Sa::Established(sa) => sa.next_timer(),
            Sa::LastResponse(last_response) => last_response.expires,
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
