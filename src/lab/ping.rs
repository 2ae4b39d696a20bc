//! ICMP echo requests (RFC 792, RFC 4443) and statistics of their replies.

use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use etherparse::{
    IcmpEchoHeader, Icmpv4Header, Icmpv4Slice, Icmpv4Type, Icmpv6Header, Icmpv6Slice, Icmpv6Type,
    Ipv4HeaderSlice,
};
use socket2::{Domain, Protocol, Socket, Type};

use super::interrupt::Interrupt;
use super::report::PingStats;

/// Time between two requests.
const INTERVAL: Duration = Duration::from_millis(20);

/// Time to wait for the reply to the last request.
const REPLY_TIMEOUT: Duration = Duration::from_secs(1);

/// A raw socket that sends echo requests from one host.
#[derive(Debug)]
pub struct Pinger {
    socket: Socket,
    target: IpAddr,
    identifier: u16,
}

impl Pinger {
    /// Opens a socket in the namespace of the calling thread.
    pub fn new(target: IpAddr) -> io::Result<Pinger> {
        let (domain, protocol) = match target {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
        socket.connect(&SocketAddr::new(target, 0).into())?;
        // Any identifier is unique: no other process uses the namespace.
        Ok(Pinger {
            socket,
            target,
            identifier: 0x6c62,
        })
    }

    /// Sends `count` requests and waits for the replies. Each reply counts once.
    pub fn ping(&self, count: u16, interrupt: &Interrupt) -> io::Result<PingStats> {
        let mut sent_at: Vec<Instant> = Vec::with_capacity(count.into());
        let mut round_trips: Vec<Option<Duration>> = vec![None; count.into()];
        let begin = Instant::now();
        for sequence in 0..count {
            sent_at.push(Instant::now());
            // An error (no route while the tunnel is down) counts as a lost packet.
            let _ = self
                .socket
                .send(&request(self.target, self.identifier, sequence));
            self.collect(
                begin + INTERVAL * (u32::from(sequence) + 1),
                &sent_at,
                &mut round_trips,
            )?;
            interrupt.check().map_err(io::Error::other)?;
        }
        self.collect(Instant::now() + REPLY_TIMEOUT, &sent_at, &mut round_trips)?;
        let replies: Vec<Duration> = round_trips.into_iter().flatten().collect();
        let received = replies.len() as u32;
        let total_ms = replies.iter().sum::<Duration>().as_secs_f64() * 1e3;
        Ok(PingStats {
            sent: count.into(),
            received,
            rtt_avg_ms: (received > 0).then(|| total_ms / f64::from(received)),
        })
    }

    /// Sends one request and waits for its reply; returns the round-trip time, or `None` after `timeout`.
    pub fn once(&self, sequence: u16, timeout: Duration) -> io::Result<Option<Duration>> {
        let sent = Instant::now();
        // An error counts as a lost packet.
        let _ = self
            .socket
            .send(&request(self.target, self.identifier, sequence));
        let mut buffer = [0; 1500];
        loop {
            let left = timeout.saturating_sub(sent.elapsed());
            if left.is_zero() {
                return Ok(None);
            }
            self.socket.set_read_timeout(Some(left))?;
            let reply = match (&self.socket).read(&mut buffer) {
                Ok(length) => buffer
                    .get(..length)
                    .and_then(|bytes| self.reply_sequence(bytes)),
                // A timeout, or an ICMP error about a lost packet.
                Err(_) => None,
            };
            if reply == Some(sequence) {
                return Ok(Some(sent.elapsed()));
            }
        }
    }

    /// Receives replies until `deadline`, or until every request has one.
    fn collect(
        &self,
        deadline: Instant,
        sent_at: &[Instant],
        round_trips: &mut [Option<Duration>],
    ) -> io::Result<()> {
        let mut buffer = [0; 1500];
        while round_trips.iter().any(Option::is_none) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.socket.set_read_timeout(Some(left))?;
            let length = match (&self.socket).read(&mut buffer) {
                Ok(length) => length,
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) =>
                {
                    break;
                }
                // An ICMP error about a lost packet.
                Err(_) => continue,
            };
            let Some(sequence) = buffer
                .get(..length)
                .and_then(|bytes| self.reply_sequence(bytes))
            else {
                continue;
            };
            let (Some(slot), Some(sent)) = (
                round_trips.get_mut(usize::from(sequence)),
                sent_at.get(usize::from(sequence)),
            ) else {
                continue;
            };
            slot.get_or_insert(sent.elapsed());
        }
        // All replies are there: wait until the next request is due.
        if sent_at.len() < round_trips.len() {
            std::thread::sleep(deadline.saturating_duration_since(Instant::now()));
        }
        Ok(())
    }

    /// The sequence number of a reply to one of our requests.
    fn reply_sequence(&self, bytes: &[u8]) -> Option<u16> {
        // A raw IPv4 socket delivers the IP header, a raw ICMPv6 socket does not (RFC 3542 §3).
        let (echo, payload) = match self.target {
            IpAddr::V4(_) => {
                let header = Ipv4HeaderSlice::from_slice(bytes).ok()?;
                let icmp = Icmpv4Slice::from_slice(bytes.get(header.slice().len()..)?).ok()?;
                match icmp.icmp_type() {
                    Icmpv4Type::EchoReply(echo) => (echo, icmp.payload()),
                    _ => return None,
                }
            }
            IpAddr::V6(_) => {
                let icmp = Icmpv6Slice::from_slice(bytes).ok()?;
                match icmp.icmp_type() {
                    Icmpv6Type::EchoReply(echo) => (echo, icmp.payload()),
                    _ => return None,
                }
            }
        };
        (echo.id == self.identifier && payload == pattern(echo.seq)).then_some(echo.seq)
    }
}

/// Payload of one request, so that a damaged reply or one with another request's payload does not count.
fn pattern(sequence: u16) -> [u8; 56] {
    std::array::from_fn(|i| (sequence as u8).wrapping_mul(31).wrapping_add(i as u8))
}

fn request(target: IpAddr, id: u16, seq: u16) -> Vec<u8> {
    let (echo, payload) = (IcmpEchoHeader { id, seq }, pattern(seq));
    let header = match target {
        IpAddr::V4(_) => {
            let request = Icmpv4Type::EchoRequest(echo);
            let header = Icmpv4Header::with_checksum(request, &payload);
            header.to_bytes().to_vec()
        }
        // The kernel fills in the checksum of ICMPv6.
        IpAddr::V6(_) => {
            let header = Icmpv6Header::new(Icmpv6Type::EchoRequest(echo));
            header.to_bytes().to_vec()
        }
    };
    [header.as_slice(), &payload].concat()
}
