//! What the workers tell the control plane: a bounded queue going up.
//!
//! A worker never waits for the control plane: when the queue is full a notice is dropped and counted. What matters is said
//! again while it holds (a demand, an SA near its end), and IKE retransmits by itself.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use super::TunnelId;
use crate::net::TokenBucket;
use crate::net::{DropReason, Time};
use crate::os::poll::Signal;

/// Something only the control plane can act upon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// An IKE message came in. The non-ESP marker is cut off.
    Ike {
        /// The address and port of ours it came to.
        local: SocketAddr,
        /// Where it came from.
        remote: SocketAddr,
        /// The message.
        bytes: Vec<u8>,
    },
    /// Traffic wants to enter a tunnel that waits for some. Said again, once a second, as long as it does.
    Demand(TunnelId),
    /// ESP came for an SA that does not exist. Said only now and then, however many come.
    UnknownSpi {
        /// The SPI in question.
        spi: u32,
        /// The address and port of ours it came to.
        local: SocketAddr,
        /// Where it came from.
        remote: SocketAddr,
    },
    /// The first authentic packet came in over an SA for which the control plane waits ([`FirstPacket`](super::FirstPacket)).
    ChildHeard {
        /// Whose SA it is.
        tunnel: TunnelId,
        /// Its SPI.
        spi_in: u32,
    },
    /// An authentic packet, newer than all before it, came from another place than where the peer is known to be. Said once a place
    /// and second, and again after a while.
    SeenFrom {
        /// Whose peer it is.
        tunnel: TunnelId,
        /// The SPI the packet came with.
        spi_in: u32,
        /// Where it came from.
        remote: SocketAddr,
        /// When.
        at: Time,
    },
    /// An SA has carried nearly as much as it may. Said again, once a second, as long as it carries.
    NearEnd {
        /// Whose SA it is.
        tunnel: TunnelId,
        /// Which of them.
        sa: ChildSpi,
    },
    /// An SA has carried as much as it may, and stops by itself. Said again, once a second, as long as anything wants through.
    Ended {
        /// Whose SA it is.
        tunnel: TunnelId,
        /// Which of them.
        sa: ChildSpi,
    },
    /// The tunnel's device was removed under us and carries nothing any more. Said again, once a minute, until the tunnel is
    /// added anew or removed.
    DeviceGone(TunnelId),
}

/// One direction of a Child SA, by its SPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChildSpi {
    /// It opens what comes in.
    In(u32),
    /// It seals what goes out.
    Out(u32),
}

/// The longest IKE message that is passed on. Peers send certificates of some kilobytes; beyond this is abuse.
pub const MAX_IKE_MESSAGE: usize = 16_384;

/// The receiving end, for the control plane. Its descriptor is readable while notices wait, so that it fits any poller.
#[derive(Debug)]
pub struct Notices {
    queue: Receiver<Notice>,
    waiting: Signal,
}

/// The sending end, for the workers.
#[derive(Clone, Debug)]
pub(super) struct NoticeSender {
    queue: SyncSender<Notice>,
    waiting: Signal,
}

/// A queue that holds at most `capacity` notices.
pub(super) fn channel(capacity: usize) -> std::io::Result<(NoticeSender, Notices)> {
    let waiting = Signal::new()?;
    let (sender, receiver) = sync_channel(capacity);
    Ok((
        NoticeSender {
            queue: sender,
            waiting: waiting.clone(),
        },
        Notices {
            queue: receiver,
            waiting,
        },
    ))
}

impl Notices {
    /// The oldest notice. `None` once there is no more; the descriptor is then quiet until one comes.
    pub fn next(&self) -> Option<Notice> {
        self.queue.try_recv().ok().or_else(|| {
            self.waiting.clear();
            // What came before the signal was cleared is seen here; what comes later sets it again.
            self.queue.try_recv().ok()
        })
    }
}

impl AsFd for Notices {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.waiting.as_fd()
    }
}

impl NoticeSender {
    /// Passes a notice up.
    pub(super) fn send(&self, notice: Notice) -> Result<(), DropReason> {
        self.queue
            .try_send(notice)
            .map_err(|_| DropReason::NoticeFull)?;
        self.waiting.set();
        Ok(())
    }
}

/// Something that goes on for a while: said at once, then again at this interval as long as it lasts.
#[derive(Debug)]
pub(super) struct RateLimitedNotice {
    notices_tx: NoticeSender,
    limit: TokenBucket,
}

impl RateLimitedNotice {
    pub(super) fn every(interval: Duration, notices_tx: &NoticeSender) -> RateLimitedNotice {
        RateLimitedNotice {
            notices_tx: notices_tx.clone(),
            limit: TokenBucket::new(1, interval),
        }
    }

    /// Passes the notice up, unless that was done a moment ago.
    pub(super) fn say(&mut self, notice: Notice, now: Time) -> Result<(), DropReason> {
        if self.limit.allow(now) {
            self.notices_tx.send(notice)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::poll::Waiter;

    fn readable(notices: &Notices) -> bool {
        let waiter = Waiter::new().unwrap();
        waiter.watch(notices.as_fd(), 0).unwrap();
        !waiter
            .wait(Some(Duration::ZERO))
            .unwrap()
            .tokens()
            .is_empty()
    }

    #[test]
    fn the_descriptor_is_readable_while_notices_wait() {
        let (notices_tx, notices) = channel(4).unwrap();
        assert!(!readable(&notices));
        for tunnel in [1, 2] {
            notices_tx.send(Notice::Demand(TunnelId(tunnel))).unwrap();
        }
        assert!(readable(&notices));
        assert_eq!(notices.next(), Some(Notice::Demand(TunnelId(1))));
        assert!(readable(&notices));
        assert_eq!(notices.next(), Some(Notice::Demand(TunnelId(2))));
        assert_eq!(notices.next(), None);
        assert!(!readable(&notices));
    }

    #[test]
    fn a_full_queue_refuses_and_goes_on_later() {
        let (notices_tx, notices) = channel(2).unwrap();
        let results: Vec<_> = (0..3)
            .map(|n| notices_tx.send(Notice::Demand(TunnelId(n))))
            .collect();
        assert_eq!(results, [Ok(()), Ok(()), Err(DropReason::NoticeFull)]);
        assert!(notices.next().is_some());
        assert_eq!(notices_tx.send(Notice::Demand(TunnelId(9))), Ok(()));
    }
}
