//! Where what comes from the network and is not carried is counted, or passed up to the control plane.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::counters::PacketDropCounters;
use super::inbound_batch::Run;
use super::notice::{Notice, NoticeSender};
use super::tun_writer::TunWriter;
use crate::net::TokenBucket;
use crate::net::{DropReason, Time};

/// The desk of one worker.
pub(super) struct Desk {
    unmatched: Arc<PacketDropCounters>,
    notices_tx: NoticeSender,
    unknown: TokenBucket,
}

impl Desk {
    pub(super) fn new(unmatched: Arc<PacketDropCounters>, notices_tx: NoticeSender) -> Desk {
        Desk {
            unmatched,
            notices_tx,
            unknown: TokenBucket::new(5, Duration::from_secs(1)),
        }
    }

    /// Something that is not carried.
    pub(super) fn refuse(&self, reason: DropReason) {
        self.unmatched.add(reason, 1);
    }

    /// Gives an SA back, and passes up what it has to say.
    pub(super) fn end<'t>(&self, run: Option<Run<'t, '_>>, out: &mut TunWriter<'t>, now: Time) {
        let told = run.map_or(Ok(()), |run| run.end(out, now, &self.notices_tx));
        if let Err(reason) = told {
            self.unmatched.add(reason, 1);
        }
    }

    /// Whether an error of receiving is more than that nothing was there; it is counted then. What is said by ICMP is none here.
    #[cold]
    pub(super) fn is_trouble(&self, error: &io::Error) -> bool {
        let trouble = error.kind() != io::ErrorKind::WouldBlock;
        if trouble {
            self.unmatched.add(DropReason::ReceiveFailed, 1);
        }
        trouble
    }

    pub(super) fn pass_up(&self, notice: Notice) {
        if let Err(reason) = self.notices_tx.send(notice) {
            self.unmatched.add(reason, 1);
        }
    }

    pub(super) fn unknown_spi(
        &mut self,
        spi: u32,
        local: SocketAddr,
        remote: SocketAddr,
        now: Time,
    ) {
        self.unmatched.add(DropReason::UnknownSpi, 1);
        if self.unknown.allow(now) {
            self.pass_up(Notice::UnknownSpi { spi, local, remote });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::super::worker_thread::PollOutcome;
    use super::*;

    #[test]
    fn a_full_queue_of_notices_drops_ike_and_carries_esp() {
        let mut pair = Pair::connected("aes128-sha1");
        for _ in 0..20 {
            assert!(pair.b.ike.inject(STRANGER, &message(60, 60)));
        }
        assert_eq!(pair.a_to_b(&[to_b(60)]), [to_b(60)]);
        assert_eq!(pair.b.notices().len(), 8);
        assert_eq!(pair.b.unmatched.count(DropReason::NoticeFull), 12);
    }

    #[test]
    fn a_socket_in_trouble_is_left_alone_for_a_while_counted_and_as_good_as_before() {
        let mut pair = Pair::connected("aes128-sha1");
        for _ in 0..3 {
            pair.b.nat.fail_recv(io::ErrorKind::OutOfMemory);
        }
        for _ in 0..2 {
            assert_eq!(pair.b.ingress.all(NOW), PollOutcome::Backoff);
        }
        // As long as another socket brings something there is no rest.
        assert!(pair.b.ike.inject(STRANGER, &[0xff]));
        assert_eq!(pair.b.ingress.all(NOW), PollOutcome::Done);
        assert_eq!(pair.b.ingress.all(NOW), PollOutcome::Done, "nothing waits");
        assert_eq!(pair.b.unmatched.count(DropReason::ReceiveFailed), 3);
        assert!(pair.a.device.inject(&to_b(60)));
        pair.turn(NOW);
        assert_eq!(pair.b.delivered(), [to_b(60)]);
    }

    #[test]
    fn e01_unknown_and_reserved_spis_are_refused_and_mentioned_now_and_then() {
        let mut pair = Pair::connected("aes128-sha1");
        for spi in (1..=255u32).chain([0xdead_beef]) {
            assert!(
                pair.b
                    .nat
                    .inject(STRANGER, &[&spi.to_be_bytes()[..], &[0; 60]].concat())
            );
        }
        while pair.b.ingress.all(NOW) == PollOutcome::More {}
        assert_eq!(
            pair.b.unmatched.iter().collect::<Vec<_>>(),
            [(DropReason::UnknownSpi, 256)]
        );
        assert_eq!(pair.b.notices().len(), 5);
        assert_eq!(pair.b.delivered(), Vec::<Vec<u8>>::new());
    }
}
