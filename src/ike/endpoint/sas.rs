//! All IKE SAs, and beside them what a stranger's first message is looked up in, so that it costs O(log n) however many there are.
//!
//! ```text
//!  our SPI ─────────────────────────────────▶ SA
//!  (address and port, SPIi) of a half-open ──▶ our SPI          the same message again?
//!  SPIi of one that a peer has begun ────────▶ how many         ... or again after its handshake is over?
//!  tunnel ───────────────────────────────────▶ how many stand
//!  source ───────────────────────────────────▶ how many are half-open
//! ```

use std::collections::BTreeMap;
use std::collections::btree_map::{Iter, Values, ValuesMut};
use std::net::SocketAddr;

use super::Sa;
use crate::ike::event::Role;
use crate::ike::half_open::{HalfOpenTable, Source};
use crate::ike::settings::TunnelId;
use crate::wire::IkeSpi;

/// All IKE SAs by our own SPI. None changes its SPIs, tunnel, or (while half-open) address where it lies: it is taken out and put back.
#[derive(Debug, Default)]
pub(super) struct Sas {
    all: BTreeMap<IkeSpi, Sa>,
    index: Index,
}

/// What is known without walking over them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Index {
    half_open: BTreeMap<(SocketAddr, IkeSpi), IkeSpi>,
    begun_by_peers: Counts<IkeSpi>,
    standing: Counts<TunnelId>,
    half_open_table: HalfOpenTable,
}

/// How many there are of each; nothing for those of which there are none.
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

    /// The half-open SA that this peer has begun under this SPI.
    pub fn half_open(&self, remote: SocketAddr, spi_i: IkeSpi) -> Option<&Sa> {
        let own = self.index.half_open.get(&(remote, spi_i))?;
        self.all.get(own)
    }

    /// Whether a peer has begun an SA under this SPI that is past its handshake.
    pub fn is_past_handshake(&self, spi_i: IkeSpi) -> bool {
        self.index.begun_by_peers.of(&spi_i) > 0
    }

    /// How many established SAs a tunnel has, those being closed included.
    pub fn standing(&self, tunnel: TunnelId) -> usize {
        self.index.standing.of(&tunnel)
    }

    /// Those that are half-open, counted.
    pub fn half_open_table(&self) -> &HalfOpenTable {
        &self.index.half_open_table
    }

    /// Under load those who came before are awaited no longer than those who come now.
    pub fn hurry(&mut self) {
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

    /// Whether what was kept up to date is what a recount finds.
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
                    self.begun_by_peers.add(sa.spis().0);
                }
                self.standing.add(sa.tunnel());
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
                    self.begun_by_peers.take(sa.spis().0);
                }
                self.standing.take(sa.tunnel());
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
