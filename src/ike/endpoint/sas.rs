//! Table of all IKE SAs, with the indexes that make lookups for unauthenticated messages O(log n).
//!
//! ```text
//!  our SPI ─────────────────────────────────▶ SA
//!  (address and port, SPIi) of a half-open ──▶ our SPI          repeated request?
//!  SPIi of an SA that a peer initiated ──────▶ count            ... repeated after the handshake?
//!  tunnel ───────────────────────────────────▶ count of established SAs
//!  source ───────────────────────────────────▶ count of half-open SAs
//! ```

use std::collections::BTreeMap;
use std::collections::btree_map::{Iter, Values, ValuesMut};
use std::net::SocketAddr;

use super::Sa;
use crate::ike::event::Role;
use crate::ike::half_open::{HalfOpenTable, Source};
use crate::ike::settings::TunnelId;
use crate::wire::IkeSpi;

/// All IKE SAs by our own SPI. An SA must be removed and inserted again to change its SPIs, tunnel or (while half-open) address,
/// which are indexed.
#[derive(Debug, Default)]
pub(super) struct Sas {
    all: BTreeMap<IkeSpi, Sa>,
    index: Index,
}

/// Indexes and counters of the SAs.
#[derive(Debug, Default, PartialEq, Eq)]
struct Index {
    half_open: BTreeMap<(SocketAddr, IkeSpi), IkeSpi>,
    initiated_by_peers: Counts<IkeSpi>,
    established_count: Counts<TunnelId>,
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

    pub fn values_mut(&mut self) -> ValuesMut<'_, IkeSpi, Sa> {
        self.all.values_mut()
    }

    pub fn iter(&self) -> Iter<'_, IkeSpi, Sa> {
        self.all.iter()
    }

    pub fn insert(&mut self, own: IkeSpi, sa: Sa) {
        self.index.enter(own, &sa);
        if let Some(before) = self.all.insert(own, sa) {
            self.index.leave(&before);
        }
    }

    pub fn remove(&mut self, own: &IkeSpi) -> Option<Sa> {
        let sa = self.all.remove(own)?;
        self.index.leave(&sa);
        Some(sa)
    }

    pub fn retain(&mut self, mut keep: impl FnMut(&IkeSpi, &mut Sa) -> bool) {
        let index = &mut self.index;
        self.all.retain(|own, sa| {
            let kept = keep(own, sa);
            if !kept {
                index.leave(sa);
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
        self.index.established_count.of(&tunnel)
    }

    /// Counters of the half-open SAs.
    pub fn half_open_table(&self) -> &HalfOpenTable {
        &self.index.half_open_table
    }

    /// Shortens the lifetimes of older half-open SAs to that of new ones under load.
    pub fn shorten_lifetimes(&mut self) {
        let half_open_table = &self.index.half_open_table;
        for sa in self.all.values_mut() {
            match sa {
                Sa::HalfOpen(half_open) => {
                    let conn = &half_open.init.conn;
                    let life = half_open_table.life(conn.remote.ip().into());
                    half_open.expires = half_open.expires.min(conn.started + life);
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
        recount == self.index
    }
}

impl Index {
    fn enter(&mut self, own: IkeSpi, sa: &Sa) {
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
                self.established_count.add(sa.tunnel());
            }
            Sa::InitSent(_) | Sa::IntermediateSent(_) | Sa::AuthSent(_) | Sa::LastResponse(_) => {}
        }
    }

    fn leave(&mut self, sa: &Sa) {
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
                self.established_count.take(sa.tunnel());
            }
            Sa::InitSent(_) | Sa::IntermediateSent(_) | Sa::AuthSent(_) | Sa::LastResponse(_) => {}
        }
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
