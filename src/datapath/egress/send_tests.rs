use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::tables::EgressState;
use super::super::testing::*;
use super::*;
use crate::esp::testing::policy;
use crate::os::memory::MemorySocket;
use crate::os::{RecvBatch, Socket, SocketOffload};

/// A socket on which the send of a packet of `longest` octets or more fails with `errno`.
struct Failing {
    inner: Arc<MemorySocket>,
    errno: i32,
    longest: usize,
    calls: AtomicUsize,
}

impl Socket for Failing {
    fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        self.inner.recv(batch)
    }

    fn send(&self, batch: &SendBatch) -> io::Result<usize> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let first = batch.messages().next().expect("not empty");
        if first.segment.min(first.bytes.len()) >= self.longest {
            return Err(io::Error::from_raw_os_error(self.errno));
        }
        // One message a call.
        let mut one = SendBatch::new();
        for packet in first.packets() {
            let slot = one.reserve(first.remote, first.local, first.class, packet.len());
            let mut slot = slot.expect("room");
            slot.bytes().copy_from_slice(packet);
            slot.commit(packet.len());
        }
        self.inner.send(&one)
    }

    fn offload(&self) -> SocketOffload {
        self.inner.offload()
    }

    fn local(&self) -> SocketAddr {
        self.inner.local()
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

/// Sends packets in one batch through a failing socket. Returns the gateways, the lengths that arrived and the number of sends.
fn sent(errno: i32, longest: usize, packets: &[Vec<u8>]) -> (Pair, Vec<usize>, usize) {
    let mut pair = Pair::connected("aes128-sha1");
    let socket = Arc::new(Failing {
        inner: pair.a.nat.clone(),
        errno,
        longest,
        calls: AtomicUsize::new(0),
    });
    let (a_out, b_in) = half("aes128-sha1", 9, policy());
    pair.b.accept([b_in]);
    let path = EgressPath {
        sa: Arc::new(a_out),
        socket: socket.clone(),
        local: A,
        remote: pair.b.nat.local(),
        mtu: MTU,
        dscp: Default::default(),
    };
    pair.a.set_egress(EgressState::Open(vec![path]));
    packets
        .iter()
        .for_each(|p| assert!(pair.a.device.inject(p)));
    pair.run(NOW);
    let arrived = pair.b.delivered().iter().map(Vec::len).collect();
    let calls = socket.calls.load(Ordering::Relaxed);
    (pair, arrived, calls)
}

#[test]
fn an_unreachable_peer_costs_one_send_a_batch() {
    let packets: Vec<_> = (0..60).map(|n| to_b(100 + n * 20)).collect();
    for errno in [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EINVAL] {
        let (pair, arrived, calls) = sent(errno, 0, &packets);
        assert_eq!((arrived.len(), calls), (0, 1));
        assert_eq!(pair.a.all_dropped(), [(DropReason::SendFailed, 60)]);
        assert_eq!(pair.a.counters().tx.packets(), 0);
    }
}

#[test]
fn a_firewall_that_rejects_everything_costs_few_sends_and_each_packet_is_counted() {
    let packets: Vec<_> = (0..60).map(|n| to_b(100 + n * 20)).collect();
    let (pair, arrived, calls) = sent(libc::EPERM, 0, &packets);
    assert_eq!((arrived.len(), calls), (0, 6));
    assert_eq!(pair.a.all_dropped(), [(DropReason::SendFailed, 60)]);
}

#[test]
fn packets_too_long_for_the_path_cost_a_send_a_message_and_shorter_ones_leave() {
    let row = |count, len| (0..count).map(move |_| to_b(len));
    let packets: Vec<_> = row(20, 1300)
        .chain(row(2, 100))
        .chain(row(20, 1300))
        .collect();
    let (pair, arrived, calls) = sent(libc::EMSGSIZE, 1000, &packets);
    // The first short packet ends the first message of long ones, and leaves without them.
    assert_eq!((arrived, calls), (vec![100, 100], 4));
    assert_eq!(pair.a.all_dropped(), [(DropReason::SendFailed, 40)]);
    assert_eq!(
        (pair.a.counters().tx.packets(), pair.a.counters().tx.bytes()),
        (2, 200)
    );
}
