//! Whether trains of datagrams work here, found out before anybody depends on them.
//!
//! ```text
//!   127.0.0.1:a ── 500, 500, 100 octets by UDP_SEGMENT ──▶ 127.0.0.1:b      as one piece by UDP_GRO?
//! ```

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::UdpSocket;
use crate::os::poll::Waiter;
use crate::os::{ReceiveOffload, RecvBatch, SendBatch, SendOffload, Socket, SocketOffload};

/// How long the datagrams may take over the loopback device, which usually delivers within the call that sends.
const PATIENCE: Duration = Duration::from_millis(500);

/// Shorter than any MTU, so that a refusal is not about the length.
const SEGMENTS: [usize; 3] = [500, 500, 100];

/// Sends a train to ourselves and says what works.
///
/// # Errors
/// It could not be tried: no loopback device, no descriptor; `TimedOut` if nothing arrives, which a packet filter on the loopback device
/// may have done and which says nothing about trains.
pub fn probe_gso() -> io::Result<SocketOffload> {
    let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let bind = || UdpSocket::bind(here, SocketOffload::FULL).map_err(io::Error::other);
    let (from, to) = (bind()?, bind()?);
    let sent = train(&from, &to)?;
    let arrived = receive(&to, sent.len())?;
    let works = SocketOffload {
        send: from.offload().send,
        receive: to.offload().receive,
    };
    judge(works, &sent, &arrived)
}

/// What arrived in some pieces says about sockets that have not been refused anything.
fn judge(
    works: SocketOffload,
    sent: &[Vec<u8>],
    (pieces, received): &(usize, Vec<Vec<u8>>),
) -> io::Result<SocketOffload> {
    if received.is_empty() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    if received != sent {
        return Ok(SocketOffload::NONE);
    }
    // What was sent one by one is not joined on this device, which says nothing about others.
    let joined = *pieces == 1 || works.send == SendOffload::Single;
    Ok(SocketOffload {
        receive: if joined {
            works.receive
        } else {
            ReceiveOffload::Single
        },
        ..works
    })
}

/// Sends the train and says what was in it.
fn train(from: &UdpSocket, to: &UdpSocket) -> io::Result<Vec<Vec<u8>>> {
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

/// Receives so many datagrams, and says in how many pieces they came. Fewer, if the rest takes too long.
fn receive(socket: &UdpSocket, wanted: usize) -> io::Result<(usize, Vec<Vec<u8>>)> {
    let waiter = Waiter::new()?;
    waiter.watch(socket.as_fd(), 0)?;
    let deadline = Instant::now() + PATIENCE;
    let mut batch = RecvBatch::with_limit(wanted);
    let (mut pieces, mut received) = (0, Vec::new());
    while received.len() < wanted {
        match socket.recv(&mut batch) {
            Ok(count) => pieces += count,
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
        for mut piece in batch.iter_mut() {
            received.extend(piece.segments().map(|segment| segment.to_vec()));
        }
    }
    Ok((pieces, received))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_passes() {
        assert_eq!(probe_gso().unwrap(), SocketOffload::FULL);
    }

    #[test]
    fn a_train_that_never_arrives_is_no_verdict_and_one_that_arrives_otherwise_is() {
        let sent = SEGMENTS.map(|len| vec![7; len]);
        let judged = |pieces, received: &[Vec<u8>]| {
            let arrived = (pieces, received.to_vec());
            judge(SocketOffload::FULL, &sent, &arrived).map_err(|error| error.kind())
        };
        assert_eq!(judged(0, &[]), Err(io::ErrorKind::TimedOut));
        assert_eq!(judged(1, &sent), Ok(SocketOffload::FULL));
        let apart = SocketOffload {
            receive: ReceiveOffload::Single,
            ..SocketOffload::FULL
        };
        assert_eq!(judged(3, &sent), Ok(apart));
        assert_eq!(judged(1, &[vec![7; 1100]]), Ok(SocketOffload::NONE));
    }
}
