//! ICMP echo (RFC 792, RFC 4443) of chosen sizes: the answer has the content of the request.

use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use groundlink::lab::Lab;
use groundlink::lab::options::Side;
use socket2::{Domain, Protocol, Socket, Type};

use super::content::Content;
use super::load::probes;

const PATIENCE: Duration = Duration::from_secs(5);

/// Sends a request with a payload of each of these sizes from host A to host B, one after the other.
///
/// # Errors
/// Which one has no answer.
pub fn of_sizes(lab: &Lab, sizes: &[usize]) -> Result<(), String> {
    let target = lab.addressing().b.host;
    let socket = lab.topology().host(Side::A).run(|| open(target));
    let socket = socket
        .and_then(|socket| socket)
        .map_err(|error| error.to_string())?;
    for size in probes(sizes) {
        let begin = Instant::now();
        while !answered(&socket, target, 0, size, Duration::from_millis(100)) {
            if begin.elapsed() > PATIENCE {
                return Err(format!("no answer to any echo request of {size} octets"));
            }
        }
    }
    for (sequence, size) in (1..).zip(sizes) {
        if !answered(&socket, target, sequence, *size, PATIENCE) {
            return Err(format!("no answer to an echo request of {size} octets"));
        }
    }
    Ok(())
}

fn open(target: IpAddr) -> io::Result<Socket> {
    let (domain, protocol) = match target {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    // Not connected: an ICMP error would become one of this socket.
    Ok(socket)
}

/// Sends one request; whether its answer comes in time.
fn answered(
    mut socket: &Socket,
    target: IpAddr,
    sequence: u16,
    size: usize,
    patience: Duration,
) -> bool {
    let (ask, reply) = match target {
        IpAddr::V4(_) => (8, 0),
        IpAddr::V6(_) => (128, 129),
    };
    let _ = socket.send_to(
        &message(ask, target, sequence, size),
        &SocketAddr::new(target, 0).into(),
    );
    let expected = message(reply, target, sequence, size);
    let begin = Instant::now();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let left = patience.saturating_sub(begin.elapsed());
        if left.is_zero() {
            return false;
        }
        socket.set_read_timeout(Some(left)).unwrap();
        let Ok(length) = socket.read(&mut buffer) else {
            return false;
        };
        // A raw IPv4 socket delivers the IP header too, a raw ICMPv6 one does not (RFC 3542 §3).
        let at = match target {
            IpAddr::V4(_) => usize::from(buffer[0] & 0xf) * 4,
            IpAddr::V6(_) => 0,
        };
        let mut is = buffer[at..length].to_vec();
        if target.is_ipv6() {
            // The kernel fills in this checksum and looks at it.
            is[2..4].fill(0);
        }
        if is == expected {
            return true;
        }
    }
}

fn message(kind: u8, target: IpAddr, sequence: u16, size: usize) -> Vec<u8> {
    let mut message = vec![0; 8 + size];
    message[0] = kind;
    message[4..6].copy_from_slice(b"gl");
    message[6..8].copy_from_slice(&sequence.to_be_bytes());
    Content(0xec40).fill(sequence.into(), &mut message[8..]);
    if target.is_ipv4() {
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    message
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
