//! From the peers to the tunnels' devices. The mirror image is [`egress`](super::egress).
//!
//! ```text
//!   socket ─▶ 1 what is it? keepalive · IKE ─▶ notice · ESP ─▶ 2 sad[spi] ─▶ 3 open: lengths, replay, ICV, padding, selectors
//!          ─▶ 4 loop? ─▶ 5 clamp TCP ─▶ … all packets for one device ─▶ device
//! ```
//!
//! One worker does this for the two ports of one address. A packet belongs to the SA that its SPI names, whichever socket it came
//! to and whoever seems to have sent it (RFC 4301 §4.1); the SA is taken for a run of packets at a time.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::counters::Refusals;
use super::egress::is_tunnel;
use super::limit::Limiter;
use super::notice::{Bell, LONGEST_IKE, Notice};
use super::tables::{Inlet, Inlets, Lane};
use super::worker::{Turn, Work};
use crate::esp::{Entry, Opening};
use crate::net::{Refusal, Time, mss};
use crate::os::{OutPacket, RecvBatch, Socket};

/// The worker of one address's sockets.
pub(super) struct Ingress {
    doors: [Door; 2],
    arrivals: RecvBatch,
    road: Road,
}

/// One socket and what may come to it.
struct Door {
    socket: Arc<dyn Socket>,
    admits: Admits,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Admits {
    /// UDP 500.
    Ike,
    /// UDP 4500: ESP, IKE behind a marker, and keepalives (RFC 3948 §2).
    IkeAndEsp,
}

/// What one packet after the other needs on its way.
struct Road {
    inlets: Arc<Inlets>,
    strays: Arc<Refusals>,
    bell: Bell,
    unknown: Limiter,
}

/// What a datagram is.
#[derive(Debug, PartialEq, Eq)]
enum Content<'a> {
    Keepalive,
    Ike(&'a [u8]),
    Esp(u32),
    Stray,
}

impl Ingress {
    pub(super) fn new(
        ike: Arc<dyn Socket>,
        nat: Arc<dyn Socket>,
        inlets: Arc<Inlets>,
        strays: Arc<Refusals>,
        bell: Bell,
    ) -> Ingress {
        let doors = [
            Door {
                socket: ike,
                admits: Admits::Ike,
            },
            Door {
                socket: nat,
                admits: Admits::IkeAndEsp,
            },
        ];
        let unknown = Limiter::new(5, Duration::from_secs(1));
        Ingress {
            doors,
            arrivals: RecvBatch::new(),
            road: Road {
                inlets,
                strays,
                bell,
                unknown,
            },
        }
    }
}

impl Work for Ingress {
    fn turn(&mut self, now: Time) -> Turn {
        let mut turn = Turn::Done;
        for door in &self.doors {
            turn = match door.socket.recv(&mut self.arrivals) {
                Ok(count) if count >= self.arrivals.limit() => Turn::More,
                // An error is what somebody said by ICMP, or a full queue: the socket is as good as before.
                Ok(_) | Err(_) => turn,
            };
            self.road.carry_all(door, &mut self.arrivals, now);
            self.arrivals.clear();
        }
        turn
    }

    fn wake_at(&self) -> Option<Time> {
        None
    }
}

impl Road {
    /// Takes a batch from one socket into the devices.
    fn carry_all(&mut self, door: &Door, arrivals: &mut RecvBatch, now: Time) {
        let inlets = Arc::clone(&self.inlets);
        let sad = inlets.load();
        let mut run: Option<Run<'_>> = None;
        let mut out = Outgoing::default();
        for arrival in arrivals.iter_mut() {
            let local = SocketAddr::new(arrival.local, door.socket.local().port());
            if arrival.bytes.is_empty() {
                self.strays.add(Refusal::Stray, 1);
            }
            for bytes in arrival.bytes.chunks_mut(arrival.segment.max(1)) {
                // 1. What it is.
                let spi = match classify(door.admits, bytes) {
                    Content::Keepalive => continue,
                    Content::Ike(message) => {
                        self.pass_up(Notice::Ike {
                            local,
                            remote: arrival.remote,
                            bytes: message.to_vec(),
                        });
                        continue;
                    }
                    Content::Stray => {
                        self.strays.add(Refusal::Stray, 1);
                        continue;
                    }
                    Content::Esp(spi) => spi,
                };

                // 2. Whose it is.
                let Some(entry) = sad.find(spi) else {
                    self.unknown_spi(spi, local, arrival.remote, now);
                    continue;
                };
                if run
                    .as_ref()
                    .is_none_or(|run| !Arc::ptr_eq(&run.entry.sa, &entry.sa))
                {
                    // The old SA is given back before the new one is taken: no worker ever holds two.
                    end(run.take(), now);
                }
                let run = run.get_or_insert_with(|| Run {
                    entry,
                    opening: entry.sa.lock(),
                });

                // 3. to 5.
                match run.open(bytes) {
                    Ok(inner) => out.push(&run.entry.beside.lane, inner),
                    Err(refusal) => run.entry.beside.lane.counters.refused.add(refusal, 1),
                }
            }
        }
        end(run, now);
        out.flush();
    }

    fn pass_up(&self, notice: Notice) {
        if let Err(refusal) = self.bell.ring(notice) {
            self.strays.add(refusal, 1);
        }
    }

    fn unknown_spi(&mut self, spi: u32, local: SocketAddr, remote: SocketAddr, now: Time) {
        self.strays.add(Refusal::UnknownSpi, 1);
        if self.unknown.allow(now) {
            self.pass_up(Notice::UnknownSpi { spi, local, remote });
        }
    }
}

/// 1. What a datagram is, by its first octets (RFC 3948 §2). An SPI is never zero, so four zero octets mark IKE.
fn classify(admits: Admits, bytes: &[u8]) -> Content<'_> {
    match admits {
        Admits::Ike => ike(bytes),
        Admits::IkeAndEsp if bytes == [0xff] => Content::Keepalive,
        Admits::IkeAndEsp => match bytes.split_first_chunk::<4>() {
            None => Content::Stray,
            Some(([0, 0, 0, 0], message)) => ike(message),
            Some((spi, _)) => Content::Esp(u32::from_be_bytes(*spi)),
        },
    }
}

/// Only what says its own length right is worth the control plane's time (RFC 7296 §3.1: the length is the header's last field).
fn ike(message: &[u8]) -> Content<'_> {
    const HEADER: usize = 28;
    let stated = message
        .first_chunk::<HEADER>()
        .and_then(|header| header.last_chunk::<4>());
    let honest = stated.is_some_and(|length| u32::from_be_bytes(*length) as usize == message.len());
    if honest && message.len() <= LONGEST_IKE {
        Content::Ike(message)
    } else {
        Content::Stray
    }
}

/// Packets in a row under one SA, which is held as long as they last.
struct Run<'t> {
    entry: &'t Entry<Inlet>,
    opening: Opening<'t>,
}

impl Run<'_> {
    /// Opens an ESP packet where it lies and gives its inner packet, ready for the device.
    fn open<'p>(&mut self, esp: &'p mut [u8]) -> Result<&'p [u8], Refusal> {
        let inlet = &self.entry.beside;

        // 3. Everything the SA itself decides.
        let opened = self.opening.open(esp)?;

        // 4. Our own outer address comes from nobody but us, and what goes to it as a tunnel would open another layer of this one.
        if opened.packet.source() == inlet.local {
            return Err(Refusal::Martian);
        }
        if opened.packet.destination() == inlet.local && is_tunnel(&opened.packet) {
            return Err(Refusal::Loop);
        }

        // 5. The far end's connections learn what fits, too: the peer may not clamp.
        let range = opened.range;
        let inner = esp.get_mut(range).ok_or(Refusal::Overflow)?;
        mss::clamp_mss(inner, inlet.clamp.v4, inlet.clamp.v6);
        Ok(inner)
    }
}

/// Gives an SA back; if any packet was the peer's own, the peer lives.
fn end(run: Option<Run<'_>>, now: Time) {
    if let Some(run) = run.filter(|run| run.opening.authentic() > 0) {
        run.entry.beside.lane.counters.heard_at(now);
    }
}

/// Opened packets on their way into one device, written together.
struct Outgoing<'t, 'p> {
    lane: Option<&'t Arc<Lane>>,
    packets: [OutPacket<'p>; Outgoing::MOST],
    len: usize,
}

impl Outgoing<'_, '_> {
    const MOST: usize = 64;
}

impl Default for Outgoing<'_, '_> {
    fn default() -> Self {
        Outgoing {
            lane: None,
            packets: [OutPacket::whole(&[]); Outgoing::MOST],
            len: 0,
        }
    }
}

impl<'t, 'p> Outgoing<'t, 'p> {
    fn push(&mut self, lane: &'t Arc<Lane>, inner: &'p [u8]) {
        if self.len == Outgoing::MOST || self.lane.is_some_and(|before| !Arc::ptr_eq(before, lane))
        {
            self.flush();
        }
        self.lane = Some(lane);
        if let Some(place) = self.packets.get_mut(self.len) {
            *place = OutPacket::whole(inner);
            self.len = self.len.saturating_add(1);
        }
    }

    fn flush(&mut self) {
        let mut rest = self.packets.get(..self.len).unwrap_or_default();
        let Some(lane) = self.lane.take() else { return };
        while !rest.is_empty() {
            rest = match lane.device.write(rest) {
                Ok(written @ 1..) => {
                    let (done, rest) = rest.split_at(written.min(rest.len()));
                    lane.counters.rx.add(
                        done.len() as u64,
                        done.iter().map(|packet| packet.len() as u64).sum(),
                    );
                    rest
                }
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    lane.counters.refused.add(Refusal::SendFailed, 1);
                    rest.split_first().map_or(&[], |(_, rest)| rest)
                }
                Ok(0) | Err(_) => {
                    lane.counters
                        .refused
                        .add(Refusal::DeviceFull, rest.len() as u64);
                    &[]
                }
            };
        }
        self.len = 0;
    }
}
