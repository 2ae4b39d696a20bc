//! All tunnels, indexed by peer address and timer, so that a datagram or a timeout visits only the tunnels that it concerns.

use std::collections::btree_map::Keys;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::ike::half_open::{Configured, Source};
use crate::ike::tunnel::Tunnel;
use crate::net::{Time, TimerQueue, TunnelId};

/// All tunnels of an endpoint. [`Tunnels::reindex`] updates the indexes of a tunnel that was borrowed mutably.
#[derive(Debug, Default)]
pub(super) struct Tunnels {
    all: BTreeMap<TunnelId, Tunnel>,
    timers: TimerQueue<TunnelId>,
    /// Tunnels by the address of their peer, with their local addresses.
    by_address: BTreeMap<IpAddr, BTreeSet<(IpAddr, TunnelId)>>,
    /// Number of tunnels whose peer's address is in a source.
    by_source: BTreeMap<Source, usize>,
    /// Address under which `by_address` holds each tunnel.
    addresses: BTreeMap<TunnelId, IpAddr>,
    /// Tunnels borrowed mutably since [`Tunnels::take_touched`].
    touched: BTreeSet<TunnelId>,
}

#[cfg(test)]
thread_local! {
    /// Number of tunnels visited on this thread.
    static VISITS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

impl Tunnels {
    pub fn get(&self, id: &TunnelId) -> Option<&Tunnel> {
        count_visit();
        self.all.get(id)
    }

    pub fn get_mut(&mut self, id: &TunnelId) -> Option<&mut Tunnel> {
        self.touched.insert(*id);
        count_visit();
        self.all.get_mut(id)
    }

    pub fn keys(&self) -> Keys<'_, TunnelId, Tunnel> {
        self.all.keys()
    }

    pub fn insert(&mut self, id: TunnelId, tunnel: Tunnel) {
        self.all.insert(id, tunnel);
        self.touched.insert(id);
        self.reindex(id);
    }

    /// The first tunnel between these addresses, or else the first with this peer that leaves its local address unspecified.
    pub fn between(&self, local: IpAddr, remote: IpAddr) -> Option<TunnelId> {
        let tunnels = self.by_address.get(&remote)?;
        let first_from = |local: IpAddr| {
            let all = (local, TunnelId(0))..=(local, TunnelId(u32::MAX));
            tunnels.range(all).next().map(|(_, id)| *id)
        };
        // A name may have addresses of both families, whichever the unspecified local address has.
        let any = [
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        ];
        first_from(local).or_else(|| any.into_iter().filter_map(first_from).min())
    }

    /// Number of tunnels: those with their peer in this source, and all.
    pub fn configured(&self, source: Source) -> Configured {
        Configured {
            of_source: self.by_source.get(&source).copied().unwrap_or(0),
            all: self.all.len(),
        }
    }

    /// Tunnels whose timers have expired, in order of their handles.
    pub fn due(&self, now: Time) -> Vec<TunnelId> {
        let mut due = self.timers.due(now);
        due.sort_unstable();
        due
    }

    /// Time of the first timer.
    pub fn next_timer(&self) -> Option<Time> {
        self.timers.next()
    }

    /// Tunnels that may have changed since the last call.
    pub fn take_touched(&mut self) -> BTreeSet<TunnelId> {
        std::mem::take(&mut self.touched)
    }

    /// Updates the indexes of a tunnel.
    pub fn reindex(&mut self, id: TunnelId) {
        count_visit();
        let Some(tunnel) = self.all.get(&id) else {
            return;
        };
        self.timers.set(id, tunnel.next_timer());
        if self.addresses.get(&id).copied() == tunnel.address {
            return;
        }
        if let Some(old) = self.addresses.remove(&id)
            && let Some(ids) = self.by_address.get_mut(&old)
        {
            ids.remove(&(tunnel.settings.local, id));
            if ids.is_empty() {
                self.by_address.remove(&old);
            }
            let source = Source::from(old);
            match self
                .by_source
                .get(&source)
                .map(|count| count.saturating_sub(1))
            {
                Some(0) | None => self.by_source.remove(&source),
                Some(left) => self.by_source.insert(source, left),
            };
        }
        if let Some(address) = tunnel.address {
            self.addresses.insert(id, address);
            let ids = self.by_address.entry(address).or_default();
            ids.insert((tunnel.settings.local, id));
            let count = self.by_source.entry(address.into()).or_default();
            *count = count.saturating_add(1);
        }
    }

    /// Whether the timers are those of the tunnels.
    pub fn is_consistent(&self) -> bool {
        let mut timers = TimerQueue::default();
        for (id, tunnel) in &self.all {
            timers.set(*id, tunnel.next_timer());
        }
        timers == self.timers
    }
}

fn count_visit() {
    #[cfg(test)]
    VISITS.set(VISITS.get() + 1);
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::VISITS;
    use crate::crypto::Generator;
    use crate::ike::settings::tests::settings;
    use crate::ike::settings::{Peer, Settings, Start};
    use crate::ike::{Command, Endpoint};
    use crate::net::{Time, TunnelId};

    const NOW: Time = Time::from_secs(1000);

    fn endpoint(tunnels: u32) -> Endpoint {
        let mut endpoint = Endpoint::new(Generator::from_seed([7; 32]));
        for n in 0..tunnels {
            let settings = Settings {
                peer: Peer::Address(IpAddr::from((0x0a00_0000 + n).to_be_bytes())),
                start: Start::Add,
                ..settings("aes128-sha256-curve25519", "aes128-sha256")
            };
            endpoint.add_tunnel(NOW, TunnelId(n), settings);
        }
        endpoint
    }

    #[test]
    fn one_event_visits_one_tunnel_however_many_there_are() {
        let visits = [2, 2000].map(|tunnels| {
            let mut endpoint = endpoint(tunnels);
            VISITS.set(0);
            endpoint.handle_command(NOW, Command::Up(TunnelId(1)));
            while endpoint.poll_event().is_some() {}
            while endpoint.poll_transmit().is_some() {}
            for _ in 0..3 {
                let due = endpoint.poll_timeout().unwrap();
                endpoint.handle_timeout(due);
            }
            VISITS.get()
        });
        assert_eq!(visits[0], visits[1]);
        assert!(visits[0] < 50, "{visits:?}");
    }

    #[test]
    fn a_tunnel_with_an_unspecified_address_serves_its_peer_in_both_families() {
        for (unspecified, peer) in [("0.0.0.0", "2001:db8::1"), ("::", "192.0.2.1")] {
            let peer: IpAddr = peer.parse().unwrap();
            let mut endpoint = Endpoint::new(Generator::from_seed([7; 32]));
            let settings = Settings {
                local: unspecified.parse().unwrap(),
                peer: Peer::Address(peer),
                start: Start::Add,
                ..settings("aes128-sha256-curve25519", "aes128-sha256")
            };
            endpoint.add_tunnel(NOW, TunnelId(3), settings);
            let ours = match peer {
                IpAddr::V4(_) => "192.0.2.9",
                IpAddr::V6(_) => "2001:db8::9",
            };
            let found = endpoint.tunnels.between(ours.parse().unwrap(), peer);
            assert_eq!(found, Some(TunnelId(3)), "{unspecified}");
        }
    }
}
