//! Table of the tunnels, indexed by name, peer address and timer, so that an event visits only the tunnels that it concerns.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::child_sas::ChildSas;
use super::rekey_loss::RekeyLoss;
use super::start_error::StartError;
use crate::config;
use crate::net::{Time, TimerQueue, TunnelId};
use crate::os::tun::Tun;

/// One tunnel: its settings, device and Child SAs.
pub(super) struct TunnelEntry {
    pub(super) settings: config::TunnelSettings,
    pub(super) device: Arc<Tun>,
    pub(super) children: ChildSas,
    /// Packets lost by rekeys.
    pub(super) loss: RekeyLoss,
    /// MTU of the device.
    pub(super) mtu: u16,
    /// Address of the peer, once known.
    pub(super) peer: Option<IpAddr>,
    /// Last ESP receive time reported to the IKE endpoint.
    pub(super) reported_rx: Option<Time>,
    /// Last ESP send time reported to the IKE endpoint.
    pub(super) reported_tx: Option<Time>,
    /// Whether `device` is the configured one: otherwise a placeholder, or one that another program has removed.
    pub(super) has_device: bool,
    /// Time at which the device was created after the start; `None` for the first one.
    pub(super) device_recreated: Option<Time>,
    /// Set while the tunnel waits for something of this machine.
    pub(super) unavailable: Option<Unavailable>,
    /// Whether packets without an SA bring the tunnel up (`start = "trap"`).
    pub(super) is_trap: bool,
}

/// What a tunnel waits for on this machine.
#[derive(Debug)]
pub(super) struct Unavailable {
    /// Code of `last_error`.
    pub(super) code: &'static str,
    /// What is missing.
    pub(super) error: StartError,
    /// Time since which it is missing.
    pub(super) since: Time,
    /// Whether the tunnel comes up once it is there: it was not down by request.
    pub(super) comes_up: bool,
    /// Time of the next attempt.
    pub(super) retry_at: Time,
}

impl Indexed for TunnelEntry {
    fn name(&self) -> &str {
        &self.settings.name
    }

    fn facts(&self) -> TunnelFacts {
        TunnelFacts {
            is_up: !self.children.is_empty(),
            peer: self.peer,
            timer: [
                self.children.next_timer(),
                self.loss.next_timer(),
                self.unavailable.as_ref().map(|waits| waits.retry_at),
            ]
            .into_iter()
            .flatten()
            .min(),
        }
    }
}

/// Entry of a [`TunnelTable`].
pub(super) trait Indexed {
    /// Name in the configuration; never changes.
    fn name(&self) -> &str;

    /// Facts that the table indexes.
    fn facts(&self) -> TunnelFacts;
}

/// Facts about a tunnel that the table indexes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TunnelFacts {
    /// Whether a Child SA is installed.
    pub(super) is_up: bool,
    /// Address of the peer.
    pub(super) peer: Option<IpAddr>,
    /// Earliest timer.
    pub(super) timer: Option<Time>,
}

/// All tunnels, by handle. A handle belongs to a tunnel's name and is never reused while the process runs.
pub(super) struct TunnelTable<T = TunnelEntry> {
    tunnels: BTreeMap<TunnelId, (T, TunnelFacts)>,
    ids: BTreeMap<String, TunnelId>,
    next_id: u32,
    /// Number of tunnels of each peer address.
    peers: BTreeMap<IpAddr, usize>,
    timers: TimerQueue<TunnelId>,
    up: usize,
    /// Tunnels that may have changed since the last [`TunnelTable::take_changed`].
    changed: BTreeSet<TunnelId>,
}

impl<T> Default for TunnelTable<T> {
    fn default() -> Self {
        TunnelTable {
            tunnels: BTreeMap::new(),
            ids: BTreeMap::new(),
            next_id: 0,
            peers: BTreeMap::new(),
            timers: TimerQueue::default(),
            up: 0,
            changed: BTreeSet::new(),
        }
    }
}

impl<T: Indexed> TunnelTable<T> {
    /// Handle for the tunnel of this name: the one that the name had before, or a new one.
    pub(super) fn id_for(&mut self, name: &str) -> TunnelId {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let id = TunnelId(self.next_id);
        self.next_id = self.next_id.saturating_add(1);
        self.ids.insert(name.to_owned(), id);
        id
    }

    /// Adds a tunnel under the handle of its name.
    pub(super) fn insert(&mut self, tunnel: T) {
        let id = self.id_for(tunnel.name());
        self.tunnels.insert(id, (tunnel, TunnelFacts::default()));
        self.reindex(id);
    }

    /// Changes a tunnel and brings the indexes up to date; `None` if there is none.
    pub(super) fn update<R>(
        &mut self,
        id: TunnelId,
        change: impl FnOnce(&mut T) -> R,
    ) -> Option<R> {
        let (tunnel, _) = self.tunnels.get_mut(&id)?;
        let result = change(tunnel);
        self.reindex(id);
        Some(result)
    }

    fn reindex(&mut self, id: TunnelId) {
        let Some((tunnel, facts)) = self.tunnels.get_mut(&id) else {
            return;
        };
        let new = tunnel.facts();
        let old = std::mem::replace(facts, new);
        self.changed.insert(id);
        match (old.is_up, new.is_up) {
            (false, true) => self.up = self.up.saturating_add(1),
            (true, false) => self.up = self.up.saturating_sub(1),
            (true, true) | (false, false) => {}
        }
        self.timers.set(id, new.timer.unwrap_or(Time::MAX));
        if old.peer != new.peer {
            if let Some(peer) = old.peer {
                match self.peers.get(&peer).map_or(0, |n| n.saturating_sub(1)) {
                    0 => self.peers.remove(&peer),
                    left => self.peers.insert(peer, left),
                };
            }
            if let Some(peer) = new.peer {
                let count = self.peers.entry(peer).or_default();
                *count = count.saturating_add(1);
            }
        }
    }

    /// Marks a tunnel whose state in the IKE endpoint may have changed.
    pub(super) fn mark_changed(&mut self, id: TunnelId) {
        self.changed.insert(id);
    }

    /// Marks every tunnel.
    pub(super) fn mark_all_changed(&mut self) {
        self.changed.extend(self.tunnels.keys());
    }

    /// Tunnels that may have changed since the last call.
    pub(super) fn take_changed(&mut self) -> BTreeSet<TunnelId> {
        std::mem::take(&mut self.changed)
    }

    /// Tunnel of this handle.
    pub(super) fn get(&self, id: TunnelId) -> Option<&T> {
        self.tunnels.get(&id).map(|(tunnel, _)| tunnel)
    }

    /// Tunnel of this name.
    pub(super) fn find(&self, name: &str) -> Option<TunnelId> {
        let id = self.ids.get(name)?;
        self.tunnels.contains_key(id).then_some(*id)
    }

    /// Whether a tunnel has its peer at this address.
    pub(super) fn is_peer(&self, address: IpAddr) -> bool {
        self.peers.contains_key(&address)
    }

    /// All tunnels, in configuration order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (TunnelId, &T)> {
        self.tunnels.iter().map(|(id, (tunnel, _))| (*id, tunnel))
    }

    /// Number of tunnels.
    pub(super) fn len(&self) -> usize {
        self.tunnels.len()
    }

    /// Number of tunnels with a Child SA.
    pub(super) fn up(&self) -> usize {
        self.up
    }

    /// Earliest timer of any tunnel.
    pub(super) fn next_timer(&self) -> Option<Time> {
        self.timers.next()
    }

    /// Tunnels whose timer has come.
    pub(super) fn due(&self, now: Time) -> Vec<TunnelId> {
        self.timers.due(now)
    }

    /// Removes all tunnels; their names keep their handles.
    pub(super) fn clear(&mut self) -> Vec<TunnelId> {
        let ids = self.tunnels.keys().copied().collect();
        self.tunnels.clear();
        self.peers.clear();
        self.timers = TimerQueue::default();
        self.changed.clear();
        self.up = 0;
        ids
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Entry that counts how often its facts are read.
    struct CountedEntry<'a> {
        name: String,
        facts: TunnelFacts,
        reads: &'a Cell<usize>,
    }

    impl Indexed for CountedEntry<'_> {
        fn name(&self) -> &str {
            &self.name
        }

        fn facts(&self) -> TunnelFacts {
            self.reads.set(self.reads.get() + 1);
            self.facts
        }
    }

    fn table(tunnels: u32, reads: &Cell<usize>) -> TunnelTable<CountedEntry<'_>> {
        let mut table = TunnelTable::default();
        for n in 0..tunnels {
            table.insert(CountedEntry {
                name: format!("tunnel-{n}"),
                facts: TunnelFacts {
                    is_up: false,
                    peer: Some(IpAddr::from(n.to_be_bytes())),
                    timer: Some(Time::from_secs(1000 + u64::from(n))),
                },
                reads,
            });
        }
        table.take_changed();
        reads.set(0);
        table
    }

    #[test]
    fn one_event_visits_one_tunnel_however_many_there_are() {
        for tunnels in [2, 2000] {
            let reads = Cell::new(0);
            let mut table = table(tunnels, &reads);
            let id = table.find("tunnel-1").unwrap();
            let now = Time::from_secs(1000);
            assert_eq!(table.next_timer(), Some(now));
            assert_eq!(table.due(now), [table.find("tunnel-0").unwrap()]);
            table.update(id, |tunnel| {
                tunnel.facts.is_up = true;
                tunnel.facts.peer = Some(IpAddr::from([192, 0, 2, 1]));
            });
            assert_eq!(table.up(), 1);
            assert!(table.is_peer(IpAddr::from([192, 0, 2, 1])));
            assert!(!table.is_peer(IpAddr::from(1u32.to_be_bytes())));
            assert_eq!(table.take_changed(), BTreeSet::from([id]));
            assert_eq!(reads.get(), 1, "of {tunnels} tunnels");
        }
    }

    #[test]
    fn indexes_follow_every_change() {
        let reads = Cell::new(0);
        let mut table = table(3, &reads);
        let peer = IpAddr::from([192, 0, 2, 1]);
        let ids: Vec<TunnelId> = table.iter().map(|(id, _)| id).collect();
        for id in &ids {
            table.update(*id, |tunnel| {
                tunnel.facts = TunnelFacts {
                    is_up: true,
                    peer: Some(peer),
                    timer: None,
                }
            });
        }
        assert_eq!((table.up(), table.next_timer()), (3, None));
        for id in &ids {
            assert!(table.is_peer(peer));
            table.update(*id, |tunnel| tunnel.facts = TunnelFacts::default());
        }
        assert_eq!((table.up(), table.is_peer(peer)), (0, false));
    }

    #[test]
    fn name_keeps_its_handle_and_no_handle_is_reused() {
        let reads = Cell::new(0);
        let mut table = table(2, &reads);
        let first = table.find("tunnel-0").unwrap();
        assert_eq!(table.clear().len(), 2);
        assert_eq!(table.find("tunnel-0"), None);
        let other = table.id_for("other");
        assert_eq!(table.id_for("tunnel-0"), first);
        assert!(![first, TunnelId(1)].contains(&other));
    }
}
