//! Echo requests (RFC 792, RFC 4443), counted.

use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::interrupt::Interrupt;
use super::report::PingStats;

/// How the echo requests are spaced, and how long the last one may take.
const INTERVAL: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(1);

/// Sends echo requests from one host.
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
        // Any number will do: the namespace is ours alone.
        Ok(Pinger {
            socket,
            target,
            identifier: 0x6c62,
        })
    }

    /// Sends `count` requests and waits for their answers. Each answer counts once; a missing one is only counted as missing.
    pub fn ping(&self, count: u16, interrupt: &Interrupt) -> io::Result<PingStats> {
        let mut sent_at: Vec<Instant> = Vec::with_capacity(count.into());
        let mut round_trips: Vec<Option<Duration>> = vec![None; count.into()];
        let begin = Instant::now();
        for sequence in 0..count {
            sent_at.push(Instant::now());
            // An error here (no route while the tunnel is down) is a lost packet, not a broken lab.
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
        self.collect(Instant::now() + PATIENCE, &sent_at, &mut round_trips)?;
        let answered: Vec<Duration> = round_trips.into_iter().flatten().collect();
        let received = answered.len() as u32;
        let total_ms = answered.iter().sum::<Duration>().as_secs_f64() * 1e3;
        Ok(PingStats {
            sent: count.into(),
            received,
            rtt_avg_ms: (received > 0).then(|| total_ms / f64::from(received)),
        })
    }

    /// Sends one request and waits for its answer: the time there and back, or `None` if it did not come.
    pub fn once(&self, sequence: u16, patience: Duration) -> io::Result<Option<Duration>> {
        let sent = Instant::now();
        // An error here is a lost packet, as it is with many of them.
        let _ = self
            .socket
            .send(&request(self.target, self.identifier, sequence));
        let mut buffer = [0; 1500];
        loop {
            let left = patience.saturating_sub(sent.elapsed());
            if left.is_zero() {
                return Ok(None);
            }
            self.socket.set_read_timeout(Some(left))?;
            let answered = match (&self.socket).read(&mut buffer) {
                Ok(length) => buffer.get(..length).and_then(|bytes| self.answered(bytes)),
                // The time is up, or an ICMP error is about a lost packet.
                Err(_) => None,
            };
            if answered == Some(sequence) {
                return Ok(Some(sent.elapsed()));
            }
        }
    }

    /// Takes answers until `deadline`, or until there is nothing left to wait for.
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
            let Some(sequence) = buffer.get(..length).and_then(|bytes| self.answered(bytes)) else {
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
        // All answered: the next request still waits for its turn.
        if sent_at.len() < round_trips.len() {
            std::thread::sleep(deadline.saturating_duration_since(Instant::now()));
        }
        Ok(())
    }

    /// The sequence number of an answer to one of our requests.
    fn answered(&self, bytes: &[u8]) -> Option<u16> {
        // A raw IPv4 socket delivers the IP header too, a raw ICMPv6 one does not (RFC 3542 §3).
        let (message, reply) = match self.target {
            IpAddr::V4(_) => (
                bytes.get(usize::from(bytes.first()? & 0xf) * 4..)?,
                ECHO_REPLY_V4,
            ),
            IpAddr::V6(_) => (bytes, ECHO_REPLY_V6),
        };
        let (&[kind, _, _, _, id1, id2, seq1, seq2], payload) = message.split_first_chunk::<8>()?;
        let sequence = u16::from_be_bytes([seq1, seq2]);
        let ours = kind == reply
            && u16::from_be_bytes([id1, id2]) == self.identifier
            && payload == pattern(sequence);
        ours.then_some(sequence)
    }
}

const ECHO_REQUEST_V4: u8 = 8;
const ECHO_REPLY_V4: u8 = 0;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;

/// Bytes that belong to one request, so that an answer with another's payload or a damaged one does not count.
fn pattern(sequence: u16) -> [u8; 56] {
    std::array::from_fn(|i| (sequence as u8).wrapping_mul(31).wrapping_add(i as u8))
}

fn request(target: IpAddr, identifier: u16, sequence: u16) -> Vec<u8> {
    let kind = match target {
        IpAddr::V4(_) => ECHO_REQUEST_V4,
        IpAddr::V6(_) => ECHO_REQUEST_V6,
    };
    let mut message = vec![kind, 0, 0, 0];
    message.extend(identifier.to_be_bytes());
    message.extend(sequence.to_be_bytes());
    message.extend(pattern(sequence));
    if target.is_ipv4() {
        // The kernel fills in the checksum of ICMPv6, not that of ICMP.
        let sum = internet_checksum(&message);
        message.splice(2..4, sum.to_be_bytes());
    }
    message
}

/// RFC 1071.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_request_carries_a_checksum_that_sums_to_nothing() {
        let message = request(IpAddr::V4(Ipv4Addr::LOCALHOST), 1, 2);
        assert_eq!(message.len(), 64);
        assert_eq!(internet_checksum(&message), 0);
    }
}
