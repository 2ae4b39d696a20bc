//! A model of ESP: packets that carry what matters of a real one, namely the SPI, the keys and the sequence number.
//!
//! It does with Child SAs what the daemon does with them: inbound first, outbound when told, and a Child SA that was replaced still receives for a while.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use groundlink::crypto::SaKeys;
use groundlink::ike::{Child, Command, DownReason, Sends, TunnelId};
use groundlink::net::Time;

/// How long a Child SA that was replaced still receives.
pub const STRAGGLERS: Duration = Duration::from_secs(5);

/// How often somebody who sends over an SA that is not there is reported.
const STRANGERS: Duration = Duration::from_secs(1);

/// Both keys of one direction: whoever has the same can open the packet.
pub type Key = Vec<u8>;

pub fn key(keys: &SaKeys) -> Key {
    [keys.encryption.as_bytes(), keys.integrity.as_bytes()].concat()
}

/// What flies in place of an ESP packet.
#[derive(Clone, Debug)]
pub struct Packet {
    pub tunnel: TunnelId,
    pub spi: u32,
    pub key: Key,
    pub sequence: u64,
    pub made: Made,
    /// When its sender installed the SA.
    pub since: Time,
}

/// Where the SA of a packet comes from, as its sender knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// From a handshake: the responder sends before the initiator has the answer, and that packet is early.
    ByHandshake,
    /// From a rekey: not a packet may be lost.
    ByRekey,
}

/// What becomes of a packet that arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Opened.
    Opened,
    /// The SA was never there.
    Unknown,
    /// It was, and went at that time for this reason.
    Gone(Time, DownReason),
}

struct Inbound {
    tunnel: TunnelId,
    key: Key,
    remote: SocketAddr,
    awaited: bool,
    /// Once replaced, it is kept so long.
    until: Time,
    /// The highest sequence number so far: what is not higher moves nobody.
    highest: u64,
}

struct Outbound {
    spi_in: u32,
    packet: Packet,
    local: SocketAddr,
    remote: SocketAddr,
}

/// The Child SAs of one gateway.
#[derive(Default)]
pub struct Esp {
    inbound: BTreeMap<u32, Inbound>,
    /// The last of a tunnel sends.
    outbound: Vec<Outbound>,
    /// Those that may not send yet.
    waiting: Vec<Outbound>,
    gone: BTreeMap<u32, (Time, DownReason)>,
    strangers_told: Time,
}

impl Esp {
    pub fn install(&mut self, now: Time, child: &Child) {
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
            packet: Packet {
                tunnel: child.tunnel,
                spi: child.spi_out,
                key: keys.1,
                sequence: 0,
                made: match child.replaces {
                    Some(_) => Made::ByRekey,
                    None => Made::ByHandshake,
                },
                since: now,
            },
            local: child.local,
            remote: child.remote,
        };
        match child.sends {
            Sends::Now => self.outbound.push(outbound),
            Sends::Later => self.waiting.push(outbound),
        }
    }

    pub fn prefer(&mut self, spi_in: u32) {
        let moves = |from: &mut Vec<Outbound>| {
            let index = from.iter().position(|sa| sa.spi_in == spi_in)?;
            Some(from.remove(index))
        };
        let preferred = moves(&mut self.outbound).or_else(|| moves(&mut self.waiting));
        self.outbound
            .push(preferred.expect("only what is installed is preferred"));
    }

    pub fn remove(&mut self, now: Time, spi_in: u32, reason: DownReason) {
        self.outbound.retain(|sa| sa.spi_in != spi_in);
        self.waiting.retain(|sa| sa.spi_in != spi_in);
        self.inbound.retain(|_, sa| sa.until > now);
        match reason {
            DownReason::Replaced | DownReason::Redundant => {
                if let Some(sa) = self.inbound.get_mut(&spi_in) {
                    sa.until = now + STRAGGLERS;
                }
            }
            DownReason::Asked
            | DownReason::PeerDeleted
            | DownReason::PeerDisbelieves
            | DownReason::PeerDead
            | DownReason::Expired
            | DownReason::PeerRestarted
            | DownReason::Useless => {
                self.inbound.remove(&spi_in);
            }
        }
        self.gone.insert(spi_in, (now, reason));
    }

    /// The peer of a tunnel is somewhere else.
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

    /// The inbound SPI of the Child SA that sends.
    pub fn sender(&self, tunnel: TunnelId) -> Option<u32> {
        let mut of_tunnel = self.outbound.iter().rev();
        of_tunnel
            .find(|sa| sa.packet.tunnel == tunnel)
            .map(|sa| sa.spi_in)
    }

    /// A packet to send, with where it leaves from and where it goes.
    pub fn send(&mut self, tunnel: TunnelId) -> Option<(SocketAddr, SocketAddr, Packet)> {
        let mut of_tunnel = self.outbound.iter_mut().rev();
        let sa = of_tunnel.find(|sa| sa.packet.tunnel == tunnel)?;
        sa.packet.sequence += 1;
        Some((sa.local, sa.remote, sa.packet.clone()))
    }

    /// A packet came: what it is, and what the engine is to know of it.
    pub fn receive(
        &mut self,
        now: Time,
        remote: SocketAddr,
        packet: &Packet,
    ) -> (Arrival, Vec<Command>) {
        let mut news = Vec::new();
        let found = self.inbound.get_mut(&packet.spi);
        let Some(sa) = found.filter(|sa| sa.until > now) else {
            let arrival = match self.gone.get(&packet.spi) {
                Some((at, reason)) => Arrival::Gone(*at, *reason),
                None => Arrival::Unknown,
            };
            if now >= self.strangers_told + STRANGERS {
                self.strangers_told = now;
                let spi = packet.spi;
                news.push(Command::UnknownSpi { remote, spi });
            }
            return (arrival, news);
        };
        assert_eq!(sa.key, packet.key, "one SPI, two keys: {:08x}", packet.spi);
        let (tunnel, spi_in, at) = (sa.tunnel, packet.spi, now);
        news.push(Command::Heard { tunnel, at });
        if std::mem::take(&mut sa.awaited) {
            news.push(Command::ChildHeard { tunnel, spi_in });
        }
        if packet.sequence > sa.highest {
            sa.highest = packet.sequence;
            if remote != sa.remote {
                news.push(Command::SeenFrom {
                    tunnel,
                    spi_in,
                    remote,
                    at,
                });
            }
        }
        (Arrival::Opened, news)
    }

    /// How many SAs it holds at `now`, stragglers too.
    pub fn len(&self, now: Time) -> usize {
        self.inbound.values().filter(|sa| sa.until > now).count()
    }
}
