//! Probe of UDP GSO and GRO on the loopback device at startup.
//!
//! ```text
//!   127.0.0.1:a ── 500, 500, 100 octets by UDP_SEGMENT ──▶ 127.0.0.1:b      joined by UDP_GRO?
//! ```

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::UdpSocket;
use crate::os::poll::Waiter;
use crate::os::{ReceiveOffload, RecvBatch, SendBatch, SendOffload, Socket, SocketOffload};

/// Timeout. The loopback device usually delivers within the send call.
const TIMEOUT: Duration = Duration::from_millis(500);

/// Shorter than any MTU, so that the length cannot be the reason of a rejection.
const SEGMENTS: [usize; 3] = [500, 500, 100];

/// Sends datagrams by GSO to this host and returns the offloads that work.
///
/// # Errors
/// The probe was impossible: no loopback device, no descriptor. `TimedOut` if nothing arrives, for example because of a packet
/// filter on the loopback device; such an error does not concern GSO.
pub fn probe_gso() -> io::Result<SocketOffload> {
    let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let bind = || UdpSocket::bind(here, SocketOffload::FULL).map_err(io::Error::other);
    let (from, to) = (bind()?, bind()?);
    let sent = send(&from, &to)?;
    let arrived = receive(&to, sent.len())?;
    let works = SocketOffload {
        send: from.offload().send,
        receive: to.offload().receive,
    };
    evaluate(works, &sent, &arrived)
}

/// Offloads that work, given the datagrams that arrived and the number of receives.
fn evaluate(
    works: SocketOffload,
    sent: &[Vec<u8>],
    (receives, received): &(usize, Vec<Vec<u8>>),
) -> io::Result<SocketOffload> {
    if received.is_empty() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    if received != sent {
        return Ok(SocketOffload::NONE);
    }
    // Datagrams sent one by one are not joined on the loopback device, although other devices may join them.
    let joined = *receives == 1 || works.send == SendOffload::Single;
    Ok(SocketOffload {
        receive: if joined {
            works.receive
        } else {
            ReceiveOffload::Single
        },
        ..works
    })
}

/// Sends the datagrams and returns them.
fn send(from: &UdpSocket, to: &UdpSocket) -> io::Result<Vec<Vec<u8>>> {
    let mut batch = SendBatch::with_limit(SEGMENTS.len());
    let mut sent = Vec::new();
    for (fill, len) in (1..).zip(SEGMENTS) {
        let slot = batch.reserve(to.local(), from.local().ip(), 0, len);
        let mut slot = slot.ok_or(io::ErrorKind::InvalidInput)?;
        slot.bytes().fill(fill);
        slot.commit(len);
        sent.push(vec![fill; len]);
    }
    while !batch.is_empty() {
        let count = from.send(&batch)?;
        batch.advance(count);
    }
    Ok(sent)
}

/// Receives `wanted` datagrams, or fewer before the timeout, and returns the number of messages that contained them too.
fn receive(socket: &UdpSocket, wanted: usize) -> io::Result<(usize, Vec<Vec<u8>>)> {
    let waiter = Waiter::new()?;
    waiter.watch(socket.as_fd(), 0)?;
    let deadline = Instant::now() + TIMEOUT;
    let mut batch = RecvBatch::with_limit(wanted);
    let (mut receives, mut received) = (0, Vec::new());
    while received.len() < wanted {
        match socket.recv(&mut batch) {
            Ok(count) => receives += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let rest = deadline.saturating_duration_since(Instant::now());
                if rest.is_zero() {
                    break;
                }
                waiter.wait(Some(rest))?;
                continue;
            }
            Err(error) => return Err(error),
        }
        for mut datagram in batch.iter_mut() {
            received.extend(datagram.segments().map(|segment| segment.to_vec()));
        }
    }
    Ok((receives, received))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_supports_gso_and_gro() {
        assert_eq!(probe_gso().unwrap(), SocketOffload::FULL);
    }

    #[test]
    fn a_lost_probe_is_an_error_and_a_changed_one_disables_the_offload() {
        let sent = SEGMENTS.map(|len| vec![7; len]);
        let evaluated = |receives, received: &[Vec<u8>]| {
            let arrived = (receives, received.to_vec());
            evaluate(SocketOffload::FULL, &sent, &arrived).map_err(|error| error.kind())
        };
        assert_eq!(evaluated(0, &[]), Err(io::ErrorKind::TimedOut));
        assert_eq!(evaluated(1, &sent), Ok(SocketOffload::FULL));
        let single = SocketOffload {
            receive: ReceiveOffload::Single,
            ..SocketOffload::FULL
        };
        assert_eq!(evaluated(3, &sent), Ok(single));
        assert_eq!(evaluated(1, &[vec![7; 1100]]), Ok(SocketOffload::NONE));
    }
}
