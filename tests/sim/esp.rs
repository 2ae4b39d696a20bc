//! A model of ESP: packets with the SPI, the keys and the sequence number of a real one.
//!
//! The model handles Child SAs as the daemon does: inbound installed first, outbound on request, and a replaced Child SA still
//! receives for a while.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use groundlink::crypto::SaKeys;
use groundlink::ike::{Child, Command, DownReason, Sends, TunnelId};
use groundlink::net::{Policy, Time};

/// Time for which a replaced Child SA still receives.
pub const RETIRED_SA_GRACE: Duration = Duration::from_secs(5);

/// Minimum interval between two reports of packets with an unknown SPI.
const UNKNOWN_SPI_INTERVAL: Duration = Duration::from_secs(1);

/// Both keys of one direction, which identify the SA of a packet.
pub type Key = Vec<u8>;

pub fn key(keys: &SaKeys) -> Key {
    [keys.encryption.as_bytes(), keys.integrity.as_bytes()].concat()
}

/// A simulated ESP packet.
#[derive(Clone, Debug)]
pub struct Packet {
    pub tunnel: TunnelId,
    pub spi: u32,
    pub key: Key,
    pub sequence: u64,
    /// The outbound SPI of the replaced SA, if that SA could have carried the packet as well: a receiver with either SA must
    /// decrypt the packet.
    pub instead_of: Option<u32>,
    /// Whether this SA was out of use and is the only one left: delivery of the packet is not guaranteed.
    pub last_resort: bool,
}

/// The result of a received packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The packet was decrypted.
    Opened,
    /// The SA never existed.
    Unknown,
    /// The SA was removed at this time for this reason.
    Gone(Time, DownReason),
}

struct Inbound {
    tunnel: TunnelId,
    key: Key,
    remote: SocketAddr,
    awaited: bool,
    /// The time until which a replaced SA still receives.
    until: Time,
    /// The highest sequence number so far: only a higher one updates the peer address.
    highest: u64,
}

struct Outbound {
    spi_in: u32,
    /// The inbound SPI of the SA that this one replaces.
    replaces: Option<u32>,
    policy: Policy,
    packet: Packet,
    local: SocketAddr,
    remote: SocketAddr,
}

impl Outbound {
    /// Whether another SA of the tunnel is for the same traffic.
    fn is_beside(&self, other: &Outbound) -> bool {
        self.packet.tunnel == other.packet.tunnel && self.policy.covers(&other.policy)
    }
}

/// The Child SAs of one gateway.
#[derive(Default)]
pub struct Esp {
    inbound: BTreeMap<u32, Inbound>,
    /// Outbound SAs; the last one of a tunnel is used for sending.
    outbound: Vec<Outbound>,
    /// Outbound SAs that may not send yet.
    waiting: Vec<Outbound>,
    gone: BTreeMap<u32, (Time, DownReason)>,
    /// The outbound SPI for each inbound SPI that ever existed.
    pairs: BTreeMap<u32, u32>,
    /// Replacements as (old, new) inbound SPIs.
    successions: Vec<(u32, u32)>,
    unknown_spi_reported_at: Time,
}

impl Esp {
    pub fn install(&mut self, child: &Child) {
        self.pairs.insert(child.spi_in, child.spi_out);
        let succession = child.replaces.map(|old| (old, child.spi_in));
        self.successions.extend(succession);
        let keys = (key(&child.keys_in), key(&child.keys_out));
        let known = self.inbound.insert(
            child.spi_in,
            Inbound {
                tunnel: child.tunnel,
                key: keys.0,
                remote: child.remote,
                awaited: child.sends == Sends::Later,
                until: Time::MAX,
                highest: 0,
            },
        );
        assert!(known.is_none(), "{:08x} is still at work", child.spi_in);
        let outbound = Outbound {
            spi_in: child.spi_in,
            replaces: child.replaces,
            policy: child.policy.clone(),
            packet: Packet {
                tunnel: child.tunnel,
                spi: child.spi_out,
                key: keys.1,
                sequence: 0,
                instead_of: None,
                last_resort: false,
            },
            local: child.local,
            remote: child.remote,
        };
        match child.sends {
            Sends::Now => self.make_preferred(outbound),
            Sends::Later => self.waiting.push(outbound),
        }
    }

    pub fn prefer(&mut self, spi_in: u32) {
        let moves = |from: &mut Vec<Outbound>| {
            let index = from.iter().position(|sa| sa.spi_in == spi_in)?;
            Some(from.remove(index))
        };
        let preferred = moves(&mut self.outbound).or_else(|| moves(&mut self.waiting));
        self.make_preferred(preferred.expect("only what is installed is preferred"));
    }

    fn make_preferred(&mut self, mut best: Outbound) {
        best.packet.last_resort = false;
        let others = self.outbound.iter_mut();
        for other in others.filter(|sa| best.is_beside(sa)) {
            other.packet.last_resort = true;
        }
        self.outbound.push(best);
    }

    pub fn remove(&mut self, now: Time, spi_in: u32, reason: DownReason) {
        let found = self.outbound.iter().position(|sa| sa.spi_in == spi_in);
        let removed = found.map(|index| self.outbound.remove(index));
        self.waiting.retain(|sa| sa.spi_in != spi_in);
        if let (Some(removed), true) = (removed, reason.leaves_replacement()) {
            let newer = &self.outbound[found.unwrap_or(0)..];
            if !newer.iter().any(|sa| sa.is_beside(&removed)) {
                let mut rest = self.outbound.iter_mut().rev();
                if let Some(next) = rest.find(|sa| sa.is_beside(&removed)) {
                    next.packet.last_resort = false;
                }
            }
        }
        self.inbound.retain(|_, sa| sa.until > now);
        if !reason.leaves_replacement() {
            self.inbound.remove(&spi_in);
        } else if let Some(sa) = self.inbound.get_mut(&spi_in) {
            sa.until = now + RETIRED_SA_GRACE;
        }
        self.gone.insert(spi_in, (now, reason));
    }

    /// The peer of a tunnel has a new address.
    pub fn moved(&mut self, tunnel: TunnelId, remote: SocketAddr) {
        let waiting = self.waiting.iter_mut();
        for sa in self.outbound.iter_mut().chain(waiting) {
            if sa.packet.tunnel == tunnel {
                sa.remote = remote;
            }
        }
        for sa in self.inbound.values_mut().filter(|sa| sa.tunnel == tunnel) {
            sa.remote = remote;
        }
    }

    /// The inbound SPI of the Child SA used for sending.
    pub fn sender(&self, tunnel: TunnelId) -> Option<u32> {
        let mut of_tunnel = self.outbound.iter().rev();
        of_tunnel
            .find(|sa| sa.packet.tunnel == tunnel)
            .map(|sa| sa.spi_in)
    }

    /// Whether an SA sends this traffic: as in the daemon, one that may not send yet does if there is no other.
    pub fn sends(&self, tunnel: TunnelId, traffic: &Policy) -> bool {
        let mut all = self.outbound.iter().chain(&self.waiting);
        all.any(|sa| sa.packet.tunnel == tunnel && sa.policy.covers(traffic))
    }

    /// The next packet to send of this traffic, or of any, with its local and remote address.
    pub fn send(
        &mut self,
        tunnel: TunnelId,
        traffic: Option<&Policy>,
    ) -> Option<(SocketAddr, SocketAddr, Packet)> {
        let carries = |sa: &Outbound| {
            let covers = |traffic| sa.policy.covers(traffic);
            sa.packet.tunnel == tunnel && traffic.is_none_or(covers)
        };
        if traffic.is_some() && !self.outbound.iter().any(carries) {
            let sa = self.waiting.iter_mut().rfind(|sa| carries(sa))?;
            sa.packet.sequence += 1;
            return Some((sa.local, sa.remote, sa.packet.clone()));
        }
        let is_lost = |spi: &u32| matches!(self.gone.get(spi), Some((_, reason)) if !reason.leaves_replacement());
        // An SA whose replacement was closed for good could not carry the packet.
        let could_carry = |spi: &u32| !is_lost(spi) && !self.successors(*spi).iter().any(is_lost);
        let mut best = self.outbound.iter();
        let best = best.rposition(carries)?;
        let replaced = self.outbound[best].replaces.filter(could_carry);
        let instead_of = replaced.map(|spi| self.pairs[&spi]);
        let sa = &mut self.outbound[best];
        sa.packet.sequence += 1;
        sa.packet.instead_of = instead_of;
        Some((sa.local, sa.remote, sa.packet.clone()))
    }

    /// Processes a received packet; returns the result and the commands for the engine.
    pub fn receive(
        &mut self,
        now: Time,
        remote: SocketAddr,
        packet: &Packet,
    ) -> (Arrival, Vec<Command>) {
        let mut commands = Vec::new();
        let found = self.inbound.get_mut(&packet.spi);
        let Some(sa) = found.filter(|sa| sa.until > now) else {
            let arrival = match self.gone.get(&packet.spi) {
                Some((at, reason)) => Arrival::Gone(*at, *reason),
                None => Arrival::Unknown,
            };
            if now >= self.unknown_spi_reported_at + UNKNOWN_SPI_INTERVAL {
                self.unknown_spi_reported_at = now;
                let spi = packet.spi;
                commands.push(Command::UnknownSpi { remote, spi });
            }
            return (arrival, commands);
        };
        assert_eq!(sa.key, packet.key, "one SPI, two keys: {:08x}", packet.spi);
        let (tunnel, spi_in, at) = (sa.tunnel, packet.spi, now);
        commands.push(Command::EspReceived { tunnel, at });
        if std::mem::take(&mut sa.awaited) {
            commands.push(Command::ChildConfirmed { tunnel, spi_in });
        }
        if packet.sequence > sa.highest {
            sa.highest = packet.sequence;
            if remote != sa.remote {
                commands.push(Command::EspSource {
                    tunnel,
                    spi_in,
                    remote,
                    at,
                });
            }
        }
        (Arrival::Opened, commands)
    }

    /// All direct and indirect replacements of an SA.
    fn successors(&self, spi_in: u32) -> Vec<u32> {
        let mut chain = vec![spi_in];
        let mut next = 0;
        while let Some(old) = chain.get(next).copied() {
            let successors = self.successions.iter().filter(|(from, _)| *from == old);
            chain.extend(successors.map(|(_, successor)| successor));
            next += 1;
        }
        chain.split_off(1)
    }

    /// Whether the gateway once had this SA and removed it.
    pub fn was_removed(&self, spi_in: u32) -> bool {
        self.gone.contains_key(&spi_in)
    }

    /// Whether the gateway has this SA, or had it until it was replaced.
    pub fn has_or_has_replaced(&self, spi_in: u32) -> bool {
        match self.gone.get(&spi_in) {
            Some((_, reason)) => reason.leaves_replacement(),
            None => self.inbound.contains_key(&spi_in),
        }
    }

    /// The number of SAs at `now`, including replaced ones that still receive.
    pub fn len(&self, now: Time) -> usize {
        self.inbound.values().filter(|sa| sa.until > now).count()
    }
}
