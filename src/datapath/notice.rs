//! Notices from the workers to the control plane.
//!
//! ```text
//!   internal   demand, first packet, peer moved, soft and hard lifetime limits, device gone    drained first
//!   external   IKE messages, unknown SPIs                                                      what anybody can send
//! ```
//!
//! Both queues are bounded. A worker never waits for the control plane: a notice for which there is no room is dropped and counted.
//! Internal notices are repeated while their cause lasts, and IKE retransmits. The external queue bounds two classes further, so that a
//! flood of one leaves room for the others: reports of unknown SPIs, and IKE_SA_INIT requests, which no known peer has to have sent.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use crate::net::{DropReason, Time, TunnelId};
use crate::os::poll::Signal;

/// An event for the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// An IKE message, without the non-ESP marker.
    Ike {
        /// Our address and port.
        local: SocketAddr,
        /// The sender's address and port.
        remote: SocketAddr,
        /// The message.
        bytes: Vec<u8>,
    },
    /// Traffic waits for a Child SA of this tunnel. Repeated once a second.
    Demand(TunnelId),
    /// ESP packets of an unknown SPI. Limited in rate.
    UnknownSpi {
        /// The SPI.
        spi: u32,
        /// Our address and port.
        local: SocketAddr,
        /// The sender's address and port.
        remote: SocketAddr,
    },
    /// The first authentic packet of an inbound SA that was installed with [`FirstPacket::Awaited`](super::FirstPacket::Awaited).
    FirstPacket {
        /// The SA's tunnel.
        tunnel: TunnelId,
        /// The SA's SPI.
        spi_in: u32,
    },
    /// The newest authentic packet came from another address than the peer's known one. At most once a second, and repeated for the
    /// same address after ten seconds.
    PeerMoved {
        /// The SA's tunnel.
        tunnel: TunnelId,
        /// The SA's SPI.
        spi_in: u32,
        /// The packet's source.
        remote: SocketAddr,
        /// Time of the packet.
        at: Time,
    },
    /// An SA has reached a soft limit of its lifetime. Repeated once a second while it carries packets.
    NearEnd {
        /// The SA's tunnel.
        tunnel: TunnelId,
        /// The SA.
        sa: ChildSpi,
    },
    /// An SA has reached a hard limit of its lifetime and carries nothing more. Repeated once a second while packets arrive for it.
    Ended {
        /// The SA's tunnel.
        tunnel: TunnelId,
        /// The SA.
        sa: ChildSpi,
    },
    /// Another process has removed the tunnel's device. Repeated once a minute until the tunnel is removed or added again.
    DeviceGone(TunnelId),
}

/// The SPI of one direction of a Child SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChildSpi {
    /// The inbound SA.
    In(u32),
    /// The outbound SA.
    Out(u32),
}

/// The longest IKE message that is passed on. Certificates take some kilobytes; a longer message is abuse.
pub const MAX_IKE_MESSAGE: usize = 16_384;

/// The receiving end. Its descriptor is readable while notices wait.
#[derive(Debug)]
pub struct Notices {
    internal: Receiver<Notice>,
    external: Receiver<Notice>,
    unknown_spis: Quota,
    initial_requests: Quota,
    waiting: Signal,
}

/// The sending end, for the workers.
#[derive(Clone, Debug)]
pub(super) struct NoticeSender {
    internal: SyncSender<Notice>,
    external: SyncSender<Notice>,
    unknown_spis: Quota,
    initial_requests: Quota,
    waiting: Signal,
}

/// How much of the external queue one class of notices takes, and may take.
#[derive(Clone, Debug)]
struct Quota {
    used: Arc<AtomicUsize>,
    max: usize,
}

/// Two queues of at most `capacity` notices each.
pub(super) fn channel(capacity: usize) -> std::io::Result<(NoticeSender, Notices)> {
    let waiting = Signal::new()?;
    let (internal_sender, internal) = sync_channel(capacity);
    let (external_sender, external) = sync_channel(capacity);
    let unknown_spis = Quota::new(capacity.div_ceil(16));
    let initial_requests = Quota::new(capacity.div_ceil(2));
    let sender = NoticeSender {
        internal: internal_sender,
        external: external_sender,
        unknown_spis: unknown_spis.clone(),
        initial_requests: initial_requests.clone(),
        waiting: waiting.clone(),
    };
    let receiver = Notices {
        internal,
        external,
        unknown_spis,
        initial_requests,
        waiting,
    };
    Ok((sender, receiver))
}

impl Quota {
    fn new(max: usize) -> Quota {
        Quota {
            used: Arc::default(),
            max,
        }
    }

    fn take(&self) -> Result<(), DropReason> {
        let take = |used: usize| (used < self.max).then(|| used.saturating_add(1));
        self.used
            .fetch_update(Relaxed, Relaxed, take)
            .map(|_| ())
            .map_err(|_| DropReason::NoticeFull)
    }

    fn give_back(&self) {
        self.used.fetch_sub(1, Relaxed);
    }
}

impl Notices {
    /// The oldest internal notice, or else the oldest external one. `None` once no notice waits; the descriptor is not readable then
    /// until one comes.
    pub fn next(&self) -> Option<Notice> {
        self.poll().or_else(|| {
            self.waiting.clear();
            // A notice from before the clear is found here; a later one sets the signal again.
            self.poll()
        })
    }

    fn poll(&self) -> Option<Notice> {
        self.internal.try_recv().ok().or_else(|| {
            let notice = self.external.try_recv().ok()?;
            if let Some(quota) = quota(&notice, &self.unknown_spis, &self.initial_requests) {
                quota.give_back();
            }
            Some(notice)
        })
    }
}

impl AsFd for Notices {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.waiting.as_fd()
    }
}

impl NoticeSender {
    /// Queues a notice.
    pub(super) fn send(&self, notice: Notice) -> Result<(), DropReason> {
        let queue = match &notice {
            Notice::Ike { .. } | Notice::UnknownSpi { .. } => &self.external,
            Notice::Demand(_)
            | Notice::FirstPacket { .. }
            | Notice::PeerMoved { .. }
            | Notice::NearEnd { .. }
            | Notice::Ended { .. }
            | Notice::DeviceGone(_) => &self.internal,
        };
        let quota = quota(&notice, &self.unknown_spis, &self.initial_requests);
        quota.map_or(Ok(()), Quota::take)?;
        if queue.try_send(notice).is_err() {
            quota.inspect(|quota| quota.give_back());
            return Err(DropReason::NoticeFull);
        }
        self.waiting.set();
        Ok(())
    }
}

/// The quota that a notice counts against.
fn quota<'q>(
    notice: &Notice,
    unknown_spis: &'q Quota,
    initial_requests: &'q Quota,
) -> Option<&'q Quota> {
    match notice {
        Notice::UnknownSpi { .. } => Some(unknown_spis),
        Notice::Ike { bytes, .. } if is_initial_request(bytes) => Some(initial_requests),
        Notice::Ike { .. }
        | Notice::Demand(_)
        | Notice::FirstPacket { .. }
        | Notice::PeerMoved { .. }
        | Notice::NearEnd { .. }
        | Notice::Ended { .. }
        | Notice::DeviceGone(_) => None,
    }
}

/// Whether an IKE message is the first of an initiator: the responder's SPI is zero, as in some responses to us (RFC 7296 §2.6), and the
/// Response flag is clear (§3.1).
fn is_initial_request(message: &[u8]) -> bool {
    const RESPONSE: u8 = 0x20;
    let is_request = message.get(19).is_none_or(|flags| flags & RESPONSE == 0);
    is_request && message.get(8..16) == Some(&[0; 8])
}

/// Sends the notices of a lasting condition: the first at once, then at most one an interval.
#[derive(Debug)]
pub(super) struct RateLimitedNotice {
    notices: NoticeSender,
    interval: Duration,
    last: Option<Time>,
}

impl RateLimitedNotice {
    pub(super) fn every(interval: Duration, notices: &NoticeSender) -> RateLimitedNotice {
        RateLimitedNotice {
            notices: notices.clone(),
            interval,
            last: None,
        }
    }

    /// Queues the notice unless one was queued within the interval. A notice that a full queue rejects does not count.
    pub(super) fn send(&mut self, notice: Notice, now: Time) -> Result<(), DropReason> {
        if self
            .last
            .is_some_and(|last| now.since(last) < self.interval)
        {
            return Ok(());
        }
        self.notices.send(notice)?;
        self.last = Some(now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{B, OTHER_ADDRESS, message};
    use super::*;
    use crate::os::poll::Waiter;

    fn readable(notices: &Notices) -> bool {
        let waiter = Waiter::new().unwrap();
        waiter.watch(notices.as_fd(), 0).unwrap();
        let ready = waiter.wait(Some(Duration::ZERO)).unwrap();
        !ready.tokens().is_empty()
    }

    fn ike(responder_spi: u8) -> Notice {
        let mut bytes = message(60, 60);
        bytes[8..16].fill(responder_spi);
        Notice::Ike {
            local: SocketAddr::new(B, 500),
            remote: OTHER_ADDRESS,
            bytes,
        }
    }

    fn unknown_spi(spi: u32) -> Notice {
        Notice::UnknownSpi {
            spi,
            local: SocketAddr::new(B, 4500),
            remote: OTHER_ADDRESS,
        }
    }

    #[test]
    fn the_descriptor_is_readable_while_notices_wait() {
        let (sender, notices) = channel(4).unwrap();
        assert!(!readable(&notices));
        for tunnel in [1, 2] {
            sender.send(Notice::Demand(TunnelId(tunnel))).unwrap();
        }
        assert!(readable(&notices));
        assert_eq!(notices.next(), Some(Notice::Demand(TunnelId(1))));
        assert!(readable(&notices));
        assert_eq!(notices.next(), Some(Notice::Demand(TunnelId(2))));
        assert_eq!(notices.next(), None);
        assert!(!readable(&notices));
    }

    #[test]
    fn a_full_queue_takes_notices_again_once_one_is_read() {
        let (sender, notices) = channel(2).unwrap();
        let results: Vec<_> = (0..3)
            .map(|n| sender.send(Notice::Demand(TunnelId(n))))
            .collect();
        assert_eq!(results, [Ok(()), Ok(()), Err(DropReason::NoticeFull)]);
        assert!(notices.next().is_some());
        assert_eq!(sender.send(Notice::Demand(TunnelId(9))), Ok(()));
    }

    #[test]
    fn internal_notices_find_room_behind_a_flood_of_ike_and_are_read_first() {
        let (sender, notices) = channel(8).unwrap();
        while sender.send(ike(1)).is_ok() {}
        let gone = Notice::DeviceGone(TunnelId(1));
        assert_eq!(sender.send(gone.clone()), Ok(()));
        assert_eq!(notices.next(), Some(gone));
        assert_eq!(notices.next(), Some(ike(1)));
    }

    #[test]
    fn unknown_spis_and_initial_requests_leave_room_for_ike_of_known_peers() {
        let (sender, notices) = channel(32).unwrap();
        let taken = |notice: &dyn Fn(u32) -> Notice| {
            (0..100).filter(|n| sender.send(notice(*n)).is_ok()).count()
        };
        assert_eq!(taken(&unknown_spi), 2);
        assert_eq!(taken(&|_| ike(0)), 16);
        assert_eq!(taken(&|_| ike(1)), 14, "the rest of the queue");
        while notices.next().is_some() {}
        assert_eq!((taken(&unknown_spi), taken(&|_| ike(0))), (2, 16));
        // A response to our IKE_SA_INIT may have no responder SPI either.
        let Notice::Ike {
            local,
            remote,
            mut bytes,
        } = ike(0)
        else {
            unreachable!()
        };
        bytes[19] = 0x20;
        let response = Notice::Ike {
            local,
            remote,
            bytes,
        };
        assert_eq!(sender.send(response), Ok(()));
    }

    #[test]
    fn a_rate_limited_notice_that_a_full_queue_rejects_is_sent_at_the_next_try() {
        let (sender, notices) = channel(1).unwrap();
        let mut limited = RateLimitedNotice::every(Duration::from_secs(60), &sender);
        let (gone, now) = (Notice::DeviceGone(TunnelId(1)), Time::from_secs(5));
        sender.send(Notice::Demand(TunnelId(2))).unwrap();
        assert_eq!(limited.send(gone.clone(), now), Err(DropReason::NoticeFull));
        assert!(notices.next().is_some());
        assert_eq!(limited.send(gone.clone(), now), Ok(()));
        assert_eq!(limited.send(gone.clone(), now), Ok(()));
        assert_eq!((notices.next(), notices.next()), (Some(gone), None));
    }
}
