//! Table of all IKE SAs, with the indexes that make lookups for unauthenticated messages O(log n).
//!
//! ```text
//!  our SPI ─────────────────────────────────▶ SA
//!  (address and port, SPIi) of a half-open ──▶ our SPI          repeated request?
//!  SPIi of an SA that a peer initiated ──────▶ count            ... repeated after the handshake?
//!  tunnel ───────────────────────────────────▶ own SPIs of its established SAs, and of its handshakes
//!  inbound ESP SPI ──────────────────────────▶ count of Child SAs that have it or will have it
//!  our identity and the peer's address ──────▶ count of SAs and handshakes
//!  expiry of a last response ────────────────▶ own SPI
//!  timer ────────────────────────────────────▶ own SPI
//!  source ───────────────────────────────────▶ count of half-open SAs
//! ```

use std::collections::btree_map::{Iter, Values};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use crate::ike::event::Role;
use crate::ike::exchange::auth::AuthSent;
use crate::ike::exchange::init::InitSent;
use crate::ike::exchange::init_responder::HalfOpen;
use crate::ike::exchange::intermediate::IntermediateSent;
use crate::ike::half_open::{HalfOpenTable, Source};
use crate::ike::identity::Identity;
use crate::ike::init_result::Connection;
use crate::ike::sa::IkeSa;
use crate::ike::settings::TunnelId;
use crate::ike::window::LastResponse;
use crate::net::{Time, TimerQueue};
use crate::wire::IkeSpi;

/// An IKE SA in any state, from its first message to its last response.
#[derive(Debug)]
pub(super) enum Sa {
    InitSent(Box<InitSent>),
    IntermediateSent(Box<IntermediateSent>),
    AuthSent(Box<AuthSent>),
    HalfOpen(Box<HalfOpen>),
    Established(Box<IkeSa>),
    LastResponse(Box<LastResponse>),
}

/// All IKE SAs by our own SPI. An SA must be removed and inserted again to change its SPIs, tunnel or (while half-open) address,
/// which are indexed.
#[derive(Debug, Default)]
pub(super) struct Sas {
    all: BTreeMap<IkeSpi, Sa>,
    index: Index,
    timers: TimerQueue<IkeSpi>,
    /// SAs borrowed mutably since their timers were last read.
    stale: BTreeSet<IkeSpi>,
    /// Tunnels whose established SAs may have changed since [`Sas::take_touched`].
    touched: BTreeSet<TunnelId>,
}

/// Indexes and counters of the SAs.
#[derive(Debug, Default, PartialEq, Eq)]
struct Index {
    half_open: BTreeMap<(SocketAddr, IkeSpi), IkeSpi>,
    initiated_by_peers: Counts<IkeSpi>,
    by_tunnel: BTreeMap<TunnelId, BTreeSet<IkeSpi>>,
    handshakes: BTreeMap<TunnelId, BTreeSet<IkeSpi>>,
    children: Counts<u32>,
    by_peer: Counts<(Identity, IpAddr)>,
    last_responses: BTreeSet<(Time, IkeSpi)>,
    half_open_table: HalfOpenTable,
}

/// Number of SAs for each key; keys with none are absent.
#[derive(Debug, PartialEq, Eq)]
struct Counts<K: Ord>(BTreeMap<K, usize>);

impl Sas {
    pub fn get(&self, own: &IkeSpi) -> Option<&Sa> {
        self.all.get(own)
    }

    pub fn contains_key(&self, own: &IkeSpi) -> bool {
        self.all.contains_key(own)
    }

    pub fn values(&self) -> Values<'_, IkeSpi, Sa> {
        self.all.values()
    }

    /// Own SPIs of the established SAs of a tunnel, including those being closed.
    pub fn of_tunnel(&self, tunnel: TunnelId) -> impl Iterator<Item = IkeSpi> + '_ {
        let spis = self.index.by_tunnel.get(&tunnel);
        spis.into_iter().flatten().copied()
    }

    /// Own SPIs of the handshakes of a tunnel, in both roles.
    pub fn handshakes_of(&self, tunnel: TunnelId) -> Vec<IkeSpi> {
        let spis = self.index.handshakes.get(&tunnel);
        spis.into_iter().flatten().copied().collect()
    }

    /// Removes the handshakes of a tunnel that `select` selects.
    pub fn remove_handshakes(&mut self, tunnel: TunnelId, select: impl Fn(&Sa) -> bool) {
        for own in self.handshakes_of(tunnel) {
            if self.get(&own).is_some_and(&select) {
                self.remove(&own);
            }
        }
    }

    /// Whether an SA has, or is about to have, a Child SA with this inbound SPI.
    pub fn has_child(&self, spi_in: u32) -> bool {
        self.index.children.of(&spi_in) > 0
    }

    /// Whether there is an SA or a handshake between this identity of ours and this address of a peer.
    pub fn is_known_peer(&self, id: &Identity, peer: IpAddr) -> bool {
        self.index.by_peer.of(&(id.clone(), peer)) > 0
    }

    /// The last response that expires first, and the number of last responses.
    pub fn oldest_last_response(&self) -> (Option<IkeSpi>, usize) {
        let oldest = self.index.last_responses.first().map(|(_, own)| *own);
        (oldest, self.index.last_responses.len())
    }

    /// Established SA with this own SPI.
    pub fn established(&self, own: IkeSpi) -> Option<&IkeSa> {
        match self.all.get(&own)? {
            Sa::Established(sa) => Some(sa),
            Sa::InitSent(_)
            | Sa::IntermediateSent(_)
            | Sa::AuthSent(_)
            | Sa::HalfOpen(_)
            | Sa::LastResponse(_) => None,
        }
    }

    /// Established SA with this own SPI, borrowed mutably: its timer and tunnel are updated later.
    pub fn established_mut(&mut self, own: IkeSpi) -> Option<&mut IkeSa> {
        match self.all.get_mut(&own)? {
            Sa::Established(sa) => {
                self.stale.insert(own);
                self.touched.insert(sa.tunnel());
                Some(sa)
            }
            Sa::InitSent(_)
            | Sa::IntermediateSent(_)
            | Sa::AuthSent(_)
            | Sa::HalfOpen(_)
            | Sa::LastResponse(_) => None,
        }
    }

    /// Own SPIs of the SAs whose timers have expired, in order of SPI.
    pub fn due(&self, now: Time) -> Vec<IkeSpi> {
        let mut due = self.timers.due(now);
        due.sort_unstable();
        due
    }

    /// Time of the first timer.
    pub fn next_timer(&self) -> Option<Time> {
        self.timers.next()
    }

    /// Reads the timers of SAs borrowed mutably, and returns the tunnels whose established SAs may have changed.
    pub fn take_touched(&mut self) -> BTreeSet<TunnelId> {
        for own in std::mem::take(&mut self.stale) {
            let timer = self.all.get(&own).map_or(Time::MAX, Sa::next_timer);
            self.timers.set(own, timer);
        }
        std::mem::take(&mut self.touched)
    }

    pub fn iter(&self) -> Iter<'_, IkeSpi, Sa> {
        self.all.iter()
    }

    pub fn insert(&mut self, own: IkeSpi, sa: Sa) {
        self.timers.set(own, sa.next_timer());
        if let Some(before) = self.all.remove(&own) {
            self.index.leave(own, &before);
        }
        self.index.enter(own, &sa);
        self.touched.extend(established_tunnel(&sa));
        self.all.insert(own, sa);
    }

    pub fn remove(&mut self, own: &IkeSpi) -> Option<Sa> {
        let sa = self.all.remove(own)?;
        self.index.leave(*own, &sa);
        self.timers.set(*own, Time::MAX);
        self.touched.extend(established_tunnel(&sa));
        Some(sa)
    }

    pub fn retain(&mut self, mut keep: impl FnMut(&IkeSpi, &mut Sa) -> bool) {
        let Sas {
            all,
            index,
            timers,
            touched,
            ..
        } = self;
        all.retain(|own, sa| {
            let kept = keep(own, sa);
            if !kept {
                index.leave(*own, sa);
                timers.set(*own, Time::MAX);
                touched.extend(established_tunnel(sa));
            }
            kept
        });
    }

    /// The half-open SA that this peer has initiated with this SPI.
    pub fn half_open(&self, remote: SocketAddr, spi_i: IkeSpi) -> Option<&Sa> {
        let own = self.index.half_open.get(&(remote, spi_i))?;
        self.all.get(own)
    }

    /// Whether a peer has initiated an SA with this SPI that is past its handshake.
    pub fn is_past_handshake(&self, spi_i: IkeSpi) -> bool {
        self.index.initiated_by_peers.of(&spi_i) > 0
    }

    /// Number of established SAs of a tunnel, including those being closed.
    pub fn established_count(&self, tunnel: TunnelId) -> usize {
        self.index.by_tunnel.get(&tunnel).map_or(0, BTreeSet::len)
    }

    /// Counters of the half-open SAs.
    pub fn half_open_table(&self) -> &HalfOpenTable {
        &self.index.half_open_table
    }

    /// Shortens the lifetimes of older half-open SAs to that of new ones under load.
    pub fn shorten_lifetimes(&mut self) {
        let half_open_table = &self.index.half_open_table;
        for (own, sa) in &mut self.all {
            match sa {
                Sa::HalfOpen(half_open) => {
                    let conn = &half_open.init.conn;
                    let life = half_open_table.life(conn.remote.ip().into());
                    half_open.expires = half_open.expires.min(conn.started + life);
                    self.timers.set(*own, half_open.expires);
                }
                Sa::InitSent(_)
                | Sa::IntermediateSent(_)
                | Sa::AuthSent(_)
                | Sa::Established(_)
                | Sa::LastResponse(_) => {}
            }
        }
    }

    /// Whether the indexes equal newly built ones.
    pub fn is_consistent(&self) -> bool {
        let mut recount = Index::default();
        self.all
            .iter()
            .for_each(|(own, sa)| recount.enter(*own, sa));
        let mut timers = TimerQueue::default();
        for (own, sa) in &self.all {
            timers.set(*own, sa.next_timer());
        }
        recount == self.index && timers == self.timers
    }
}

impl Sa {
    /// Tunnel and addresses.
    fn conn(&self) -> Option<&Connection> {
        match self {
            Sa::InitSent(sent) => Some(&sent.conn),
            Sa::IntermediateSent(sent) => Some(&sent.init.conn),
            Sa::AuthSent(sent) => Some(&sent.init.conn),
            Sa::HalfOpen(half_open) => Some(&half_open.init.conn),
            Sa::Established(sa) => Some(sa.conn()),
            Sa::LastResponse(_) => None,
        }
    }

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

impl Index {
    fn enter(&mut self, own: IkeSpi, sa: &Sa) {
        if let Some(conn) = sa.conn() {
            self.by_peer
                .add((conn.settings.id.clone(), conn.remote.ip()));
            if established_tunnel(sa).is_none() {
                self.handshakes.entry(conn.tunnel).or_default().insert(own);
            }
        }
        match sa {
            Sa::HalfOpen(half_open) => {
                let (remote, spi_i) = (half_open.init.conn.remote, half_open.init.spi_i);
                self.half_open.insert((remote, spi_i), own);
                self.half_open_table
                    .enter(Source::from(remote.ip()), half_open.routability);
            }
            Sa::Established(sa) => {
                if sa.role() == Role::Responder {
                    self.initiated_by_peers.add(sa.spis().0);
                }
                self.by_tunnel.entry(sa.tunnel()).or_default().insert(own);
                sa.child_spis().for_each(|spi_in| self.children.add(spi_in));
            }
            Sa::AuthSent(sent) => self.children.add(sent.spi_in),
            Sa::LastResponse(last_response) => {
                self.last_responses.insert((last_response.expires, own));
            }
            Sa::InitSent(_) | Sa::IntermediateSent(_) => {}
        }
    }

    fn leave(&mut self, own: IkeSpi, sa: &Sa) {
        if let Some(conn) = sa.conn() {
            self.by_peer
                .take((conn.settings.id.clone(), conn.remote.ip()));
            remove_spi(&mut self.handshakes, conn.tunnel, own);
        }
        match sa {
            Sa::HalfOpen(half_open) => {
                let (remote, spi_i) = (half_open.init.conn.remote, half_open.init.spi_i);
                self.half_open.remove(&(remote, spi_i));
                self.half_open_table
                    .leave(Source::from(remote.ip()), half_open.routability);
            }
            Sa::Established(sa) => {
                if sa.role() == Role::Responder {
                    self.initiated_by_peers.take(sa.spis().0);
                }
                remove_spi(&mut self.by_tunnel, sa.tunnel(), own);
                sa.child_spis()
                    .for_each(|spi_in| self.children.take(spi_in));
            }
            Sa::AuthSent(sent) => self.children.take(sent.spi_in),
            Sa::LastResponse(last_response) => {
                self.last_responses.remove(&(last_response.expires, own));
            }
            Sa::InitSent(_) | Sa::IntermediateSent(_) => {}
        }
    }
}

/// Removes an SPI from the list of a tunnel; a tunnel without SPIs has no list.
fn remove_spi(lists: &mut BTreeMap<TunnelId, BTreeSet<IkeSpi>>, tunnel: TunnelId, own: IkeSpi) {
    if let Some(spis) = lists.get_mut(&tunnel) {
        spis.remove(&own);
        if spis.is_empty() {
            lists.remove(&tunnel);
        }
    }
}

/// Tunnel of an established SA.
fn established_tunnel(sa: &Sa) -> Option<TunnelId> {
    match sa {
        Sa::Established(sa) => Some(sa.tunnel()),
        Sa::InitSent(_)
        | Sa::IntermediateSent(_)
        | Sa::AuthSent(_)
        | Sa::HalfOpen(_)
        | Sa::LastResponse(_) => None,
    }
}

impl<K: Ord> Counts<K> {
    fn of(&self, key: &K) -> usize {
        self.0.get(key).copied().unwrap_or(0)
    }

    fn add(&mut self, key: K) {
        let count = self.0.entry(key).or_default();
        *count = count.saturating_add(1);
    }

    fn take(&mut self, key: K) {
        match self.of(&key).saturating_sub(1) {
            0 => self.0.remove(&key),
            left => self.0.insert(key, left),
        };
    }
}

impl<K: Ord> Default for Counts<K> {
    fn default() -> Self {
        Counts(BTreeMap::new())
    }
}
