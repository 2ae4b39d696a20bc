//! Tables that the control plane writes and the workers read once a batch.
//!
//! ```text
//!   egress    tunnel ──▶ EgressState     outbound SAs to a peer · trap for the first packets · closed
//!   ingress   SPI ─────▶ InboundEntry    inbound SA and its tunnel
//! ```

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use super::counters::Counters;
use super::early_packets::EarlyPackets;
use super::sa_events::InboundEvents;
use crate::esp::{Inbound, Outbound, mtu};
use crate::net::{Dscp, Policy, TunnelId};
use crate::os::icmp_socket::IcmpSocket;
use crate::os::poll::Signal;
use crate::os::{Device, Socket};

/// One tunnel as the control plane and the workers share it.
pub(super) struct TunnelShared {
    pub(super) id: TunnelId,
    pub(super) device: Arc<dyn Device>,
    pub(super) egress: ArcSwap<EgressState>,
    pub(super) counters: Arc<Counters>,
    /// Sends ICMP errors from this machine's own address; `None` without CAP_NET_RAW.
    pub(super) icmp: Option<Arc<IcmpSocket>>,
    /// Wakes the tunnel's egress worker after a change of `egress`.
    pub(super) waker: Signal,
}

/// What happens to packets that the kernel routes into a tunnel's device.
#[derive(Clone)]
pub(super) enum EgressState {
    /// No SA: they are dropped.
    Closed,
    /// No SA yet: packets within these selectors wait for one, and the control plane receives `Notice::Demand`.
    Trap(Policy),
    /// They are sealed under the first of these SAs whose selectors cover them. All SAs belong to this tunnel.
    Open(Vec<EgressPath>),
}

/// An outbound SA and where its packets go.
#[derive(Clone)]
pub struct EgressPath {
    /// The outbound SA.
    pub sa: Arc<Outbound>,
    /// The socket that sends: bound to the port of ESP in UDP, or a raw socket for native ESP.
    pub socket: Arc<dyn Socket>,
    /// Outer source address; unspecified leaves the choice to the kernel.
    pub local: IpAddr,
    /// Outer destination; port 0 for native ESP.
    pub remote: SocketAddr,
    /// The largest inner packet ([`mtu::inner`]).
    pub mtu: u16,
    /// What the outer header's DSCP field holds.
    pub dscp: Dscp,
}

/// The largest TCP segment sizes that fit a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MssClamp {
    pub(super) v4: u16,
    pub(super) v6: u16,
}

impl MssClamp {
    /// The sizes for an inner MTU.
    pub(super) fn for_mtu(mtu: u16) -> MssClamp {
        MssClamp {
            v4: mtu::mss_ipv4(mtu),
            v6: mtu::mss_ipv6(mtu),
        }
    }
}

/// How the read of a batch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadOutcome {
    /// The batch was full: more may wait.
    More,
    /// The source was emptied.
    Done,
    /// Nothing waited.
    Empty,
    /// The source cannot be read, temporarily or for good.
    Failed,
}

/// An inbound SA and its tunnel.
#[derive(Clone)]
pub(super) struct InboundEntry {
    pub(super) sa: Arc<Inbound>,
    pub(super) tunnel: Arc<TunnelShared>,
    /// Our outer address, to which the peer sends.
    pub(super) local: IpAddr,
    /// The peer's known address; `None` once the SA is replaced and its packets no longer show where the peer is.
    pub(super) remote: Option<SocketAddr>,
    pub(super) clamp: MssClamp,
    pub(super) events: Arc<InboundEvents>,
}

/// The security association database (RFC 4301 §4.4.2): the inbound SAs of all tunnels, by SPI. The SPI alone identifies the SA, since a
/// NAT may change the peer's address at any time (RFC 4301 §4.1, RFC 3948 §4).
///
/// The table is split by the low octet of the SPI. A change copies one shard of references, about 1/256 of the table.
pub(super) struct InboundTable {
    shards: [ArcSwap<Shard>; SHARDS],
    /// Packets for SAs that are not installed yet.
    pub(super) early: EarlyPackets,
}

/// The SAs whose SPIs have one low octet.
pub(super) type Shard = HashMap<u32, Arc<InboundEntry>, BuildHasherDefault<SpiHasher>>;

/// Number of values of an octet.
const SHARDS: usize = 256;

impl InboundTable {
    /// The shard that holds this SPI if any does. It stays as it is while the guard lives.
    #[allow(clippy::indexing_slicing, reason = "an octet indexes an array of 256")]
    pub(super) fn shard(&self, spi: u32) -> Guard<Arc<Shard>> {
        self.at(spi).load()
    }

    /// Adds an SA. An SA with the same SPI is replaced.
    pub(super) fn insert(&self, entry: InboundEntry) {
        let spi = entry.sa.spi();
        self.change(spi, |shard| {
            shard.insert(spi, Arc::new(entry));
        });
    }

    /// Changes the entry with this SPI, if there is one and it belongs to `tunnel`.
    pub(super) fn update(
        &self,
        spi: u32,
        tunnel: &Arc<TunnelShared>,
        update: impl FnOnce(&mut InboundEntry),
    ) {
        self.change(spi, |shard| {
            if let Some(entry) = shard.get_mut(&spi)
                && Arc::ptr_eq(&entry.tunnel, tunnel)
            {
                update(Arc::make_mut(entry));
            }
        });
    }

    /// Removes the SA with this SPI, if there is one and it belongs to `tunnel`.
    pub(super) fn remove(&self, spi: u32, tunnel: &Arc<TunnelShared>) {
        self.change(spi, |shard| {
            let ours = |entry: &Arc<InboundEntry>| Arc::ptr_eq(&entry.tunnel, tunnel);
            if shard.get(&spi).is_some_and(ours) {
                shard.remove(&spi);
            }
        });
    }

    /// Replaces one shard. Only the control plane's thread does this.
    fn change(&self, spi: u32, change: impl FnOnce(&mut Shard)) {
        let shared = self.at(spi);
        let mut shard = Shard::clone(&shared.load());
        change(&mut shard);
        shared.store(Arc::new(shard));
    }

    #[allow(clippy::indexing_slicing, reason = "an octet indexes an array of 256")]
    fn at(&self, spi: u32) -> &ArcSwap<Shard> {
        let [.., low] = spi.to_be_bytes();
        &self.shards[usize::from(low)]
    }
}

impl Default for InboundTable {
    fn default() -> Self {
        InboundTable {
            shards: std::array::from_fn(|_| ArcSwap::default()),
            early: EarlyPackets::default(),
        }
    }
}

/// A hash of an SPI. SPIs are random numbers of our own, so no peer can aim them at one bucket.
#[derive(Debug, Default)]
pub(super) struct SpiHasher(u64);

impl Hasher for SpiHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, spi: u32) {
        self.0 = (self.0.rotate_left(8) ^ u64::from(spi)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::super::sa_events::FirstPacket;
    use super::super::testing::{A, MTU, tunnel};
    use super::*;
    use crate::esp::testing::pair_with_spi;
    use crate::os::memory::MemoryDevice;

    fn entry(spi: u32, tunnel: &Arc<TunnelShared>) -> InboundEntry {
        InboundEntry {
            sa: Arc::new(pair_with_spi("aes128gcm16", spi).1),
            tunnel: tunnel.clone(),
            local: A,
            remote: None,
            clamp: MssClamp::for_mtu(MTU),
            events: Arc::new(InboundEvents::new(FirstPacket::Ordinary)),
        }
    }

    #[test]
    fn each_spi_finds_its_own_sa_and_no_other() {
        let device = Arc::new(MemoryDevice::new(1).unwrap());
        let tunnels = [TunnelId(1), TunnelId(2)].map(|id| tunnel(id, &device));
        let table = InboundTable::default();
        let owner = |spi: u32| &tunnels[(spi % 2) as usize];
        for spi in 256..2000 {
            table.insert(entry(spi, owner(spi)));
        }
        for spi in 256..2000 {
            let shard = table.shard(spi);
            let found = &shard[&spi];
            assert_eq!(found.sa.spi(), spi);
            assert_eq!(found.tunnel.id, owner(spi).id);
        }
        // E01: zero, the reserved SPIs and unknown ones.
        for spi in [0, 1, 255, 2000, u32::MAX] {
            assert!(!table.shard(spi).contains_key(&spi));
        }
        table.remove(300, owner(301));
        assert!(table.shard(300).contains_key(&300), "another tunnel's SA");
        table.remove(300, owner(300));
        assert!(!table.shard(300).contains_key(&300));
        assert!(table.shard(556).contains_key(&556), "of the same shard");
    }

    #[test]
    fn a_change_copies_one_shard_and_leaves_the_others_as_they_are() {
        let device = Arc::new(MemoryDevice::new(1).unwrap());
        let tunnel = tunnel(TunnelId(1), &device);
        let table = InboundTable::default();
        for spi in 256..768 {
            table.insert(entry(spi, &tunnel));
        }
        let before: Vec<_> = (0..256).map(|low| table.shard(low).clone()).collect();
        table.update(300, &tunnel, |entry| {
            entry.remote = Some(SocketAddr::new(A, 1))
        });
        let changed = |low: &u32| !Arc::ptr_eq(&before[*low as usize], &table.shard(*low));
        assert_eq!((0..256).filter(changed).collect::<Vec<_>>(), [300 % 256]);
    }
}
