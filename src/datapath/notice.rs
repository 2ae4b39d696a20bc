//! Notices from the workers to the control plane.
//!
//! ```text
//!   internal      demand, first packet, peer moved, soft and hard lifetime limits, device gone    drained first
//!   of an SA      IKE messages with a responder's SPI, and responses                           ┐
//!   with cookie   IKE_SA_INIT requests that begin with a COOKIE                                │ in turn: what anybody
//!   repeated      IKE_SA_INIT requests that were dropped before                                │ can send
//!   initial       other IKE_SA_INIT requests                                                   │
//!   unknown SPI   reports of ESP packets of no SA                                              ┘
//! ```
//!
//! Every queue is bounded. A worker never waits for the control plane: a notice for which there is no room is dropped and counted.
//! Internal notices are repeated while their cause lasts, and IKE retransmits. A flood fills its own queue only, and each queue is served at
//! least as often as any other, so neither spoofed IKE_SA_INIT requests nor forged SPIs displace a message of another kind. The class is only what the
//! sender wrote: a flood may imitate any. A request that a flood displaced therefore has a queue of its own when it is repeated. The queue of initial requests holds some tens of
//! milliseconds of a flood, since the control plane may have to wait that long for a core.

use std::cell::Cell;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use super::dropped_requests::DroppedRequests;
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

/// Class of an external notice; each has a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// An IKE message with a responder's SPI, or a response.
    OfSa,
    /// An IKE_SA_INIT request that begins with a COOKIE.
    WithCookie,
    /// An IKE_SA_INIT request that was dropped before.
    Repeated,
    /// Another IKE_SA_INIT request.
    Initial,
    /// ESP packets of no SA.
    UnknownSpi,
}

/// Number of classes.
const CLASSES: usize = 5;

/// How many times as many initial requests may wait as notices of another class.
const INITIAL_FACTOR: usize = 8;

/// Mean length of the IKE messages that a queue holds when it is full.
const MEAN_LENGTH: usize = 512;

/// The receiving end. Its descriptor is readable while notices wait.
#[derive(Debug)]
pub struct Notices {
    internal: Receiver<Notice>,
    external: [(Receiver<Notice>, Quota); CLASSES],
    /// The external queue to look at first.
    turn: Cell<usize>,
    waiting: Signal,
}

/// The sending end, for the workers.
#[derive(Clone, Debug)]
pub(super) struct NoticeSender {
    internal: SyncSender<Notice>,
    external: [(SyncSender<Notice>, Quota); CLASSES],
    dropped: Arc<DroppedRequests>,
    waiting: Signal,
}

/// How many octets of IKE messages a queue holds, and may hold.
#[derive(Clone, Debug)]
struct Quota {
    used: Arc<AtomicUsize>,
    max: usize,
}

/// Queues of at most `capacity` notices each; more of initial requests, and fewer of unknown SPIs.
pub(super) fn channel(capacity: usize) -> std::io::Result<(NoticeSender, Notices)> {
    let waiting = Signal::new()?;
    let (internal_sender, internal) = sync_channel(capacity);
    let sizes = [
        capacity,
        capacity,
        capacity,
        capacity.saturating_mul(INITIAL_FACTOR),
        capacity.div_ceil(16),
    ];
    let queues = sizes.map(|size| {
        let quota = Quota {
            used: Arc::default(),
            max: size.saturating_mul(MEAN_LENGTH).max(MAX_IKE_MESSAGE),
        };
        let (sender, receiver) = sync_channel(size);
        ((sender, quota.clone()), (receiver, quota))
    });
    let [a, b, c, d, e] = queues;
    let sender = NoticeSender {
        internal: internal_sender,
        external: [a.0, b.0, c.0, d.0, e.0],
        dropped: Arc::default(),
        waiting: waiting.clone(),
    };
    let receiver = Notices {
        internal,
        external: [a.1, b.1, c.1, d.1, e.1],
        turn: Cell::new(0),
        waiting,
    };
    Ok((sender, receiver))
}

impl Quota {
    /// Takes room for a message, or fails.
    fn take(&self, octets: usize) -> Result<(), ()> {
        let take = |used: usize| {
            let total = used.saturating_add(octets);
            (total <= self.max).then_some(total)
        };
        let taken = self.used.fetch_update(Relaxed, Relaxed, take);
        taken.map(|_| ()).map_err(|_| ())
    }

    fn give_back(&self, octets: usize) {
        self.used.fetch_sub(octets, Relaxed);
    }
}

impl Notices {
    /// The oldest internal notice, or else the oldest of the next external queue that has one. `None` once no notice waits; the
    /// descriptor is not readable then until one comes.
    pub fn next(&self) -> Option<Notice> {
        self.poll().or_else(|| {
            self.waiting.clear();
            // A notice from before the clear is found here; a later one sets the signal again.
            self.poll()
        })
    }

    fn poll(&self) -> Option<Notice> {
        if let Ok(notice) = self.internal.try_recv() {
            return Some(notice);
        }
        let turn = self.turn.get();
        let (before, after) = self.external.split_at_checked(turn)?;
        let mut queues = (turn..).zip(after.iter().chain(before));
        let (served, notice) = queues.find_map(|(number, (queue, quota))| {
            let notice = queue.try_recv().ok()?;
            quota.give_back(length(&notice));
            Some((number, notice))
        })?;
        // The queue after the one that was served: an empty one passes its turn to nobody.
        self.turn.set(served.wrapping_add(1) % CLASSES);
        Some(notice)
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
        match notice {
            Notice::Ike {
                remote,
                bytes,
                local,
            } => {
                let class = match ike_class(&bytes) {
                    Class::Initial if self.dropped.contains(remote, &bytes) => Class::Repeated,
                    class => class,
                };
                self.send_external(
                    class,
                    Notice::Ike {
                        local,
                        remote,
                        bytes,
                    },
                )
            }
            Notice::UnknownSpi { .. } => self.send_external(Class::UnknownSpi, notice),
            Notice::Demand(_)
            | Notice::FirstPacket { .. }
            | Notice::PeerMoved { .. }
            | Notice::NearEnd { .. }
            | Notice::Ended { .. }
            | Notice::DeviceGone(_) => {
                let sent = self.internal.try_send(notice);
                self.queued(sent.is_ok())
            }
        }
    }

    fn send_external(&self, class: Class, notice: Notice) -> Result<(), DropReason> {
        let (queue, quota) = self
            .external
            .get(class as usize)
            .ok_or(DropReason::NoticeFull)?;
        let octets = length(&notice);
        let rejected = match quota.take(octets) {
            Err(_) => Some(notice),
            Ok(()) => match queue.try_send(notice) {
                Ok(()) => None,
                Err(TrySendError::Full(notice) | TrySendError::Disconnected(notice)) => {
                    quota.give_back(octets);
                    Some(notice)
                }
            },
        };
        match (class, rejected) {
            // A flood may begin with a COOKIE, too.
            (Class::WithCookie, Some(notice)) if self.is_repeated(&notice) => {
                self.send_external(Class::Repeated, notice)
            }
            (Class::Initial | Class::WithCookie, Some(Notice::Ike { remote, bytes, .. })) => {
                self.dropped.insert(remote, &bytes);
                self.queued(false)
            }
            (_, rejected) => self.queued(rejected.is_none()),
        }
    }

    /// Whether this IKE_SA_INIT request was dropped before.
    fn is_repeated(&self, notice: &Notice) -> bool {
        matches!(notice, Notice::Ike { remote, bytes, .. } if self.dropped.contains(*remote, bytes))
    }

    fn queued(&self, sent: bool) -> Result<(), DropReason> {
        if !sent {
            return Err(DropReason::NoticeFull);
        }
        self.waiting.set();
        Ok(())
    }
}

/// Octets of an IKE message that a notice holds.
fn length(notice: &Notice) -> usize {
    match notice {
        Notice::Ike { bytes, .. } => bytes.len(),
        Notice::UnknownSpi { .. }
        | Notice::Demand(_)
        | Notice::FirstPacket { .. }
        | Notice::PeerMoved { .. }
        | Notice::NearEnd { .. }
        | Notice::Ended { .. }
        | Notice::DeviceGone(_) => 0,
    }
}

/// The class of an IKE message. It is the first of an initiator if the responder's SPI is zero, as in some responses to us (RFC 7296 §2.6),
/// and the Response flag is clear (§3.1). The COOKIE notification is then the first payload (§2.6).
fn ike_class(message: &[u8]) -> Class {
    const RESPONSE: u8 = 0x20;
    const NOTIFY: u8 = 41;
    const COOKIE: [u8; 2] = 16_390u16.to_be_bytes();
    let is_request = message.get(19).is_none_or(|flags| flags & RESPONSE == 0);
    if !is_request || message.get(8..16) != Some(&[0; 8]) {
        return Class::OfSa;
    }
    let has_cookie = message.get(16) == Some(&NOTIFY) && message.get(34..36) == Some(&COOKIE);
    if has_cookie {
        Class::WithCookie
    } else {
        Class::Initial
    }
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

    /// The IKE_SA_INIT request that returns a cookie.
    fn with_cookie() -> Notice {
        initial(|bytes| {
            bytes[16] = 41;
            bytes[34..36].copy_from_slice(&[0x40, 0x06]);
        })
    }

    /// An IKE_SA_INIT request with changed octets.
    fn initial(change: impl FnOnce(&mut [u8])) -> Notice {
        let mut notice = ike(0);
        if let Notice::Ike { bytes, .. } = &mut notice {
            change(bytes);
        }
        notice
    }

    #[test]
    fn n12_each_class_has_room_of_its_own_whatever_fills_the_others() {
        let (sender, notices) = channel(32).unwrap();
        let taken = |notice: &dyn Fn(u32) -> Notice| {
            let sent = (0..1000).filter(|n| sender.send(notice(*n)).is_ok());
            sent.count()
        };
        // One of them is dropped; the rest repeat it.
        assert_eq!(taken(&|_| ike(0)), 32 * INITIAL_FACTOR + 32);
        assert_eq!(taken(&unknown_spi), 2);
        assert_eq!(taken(&|_| ike(1)), 32);
        assert_eq!(taken(&|_| with_cookie()), 32);
        while notices.next().is_some() {}
        // The request with a cookie was dropped before: those beyond its queue are repeated ones.
        assert_eq!((taken(&unknown_spi), taken(&|_| with_cookie())), (2, 64));
        // A response to our IKE_SA_INIT may have no responder SPI either.
        let response = initial(|bytes| bytes[19] = 0x20);
        assert_eq!(sender.send(response), Ok(()));
    }

    #[test]
    fn n12_messages_of_sas_and_returned_cookies_are_next_however_many_initial_requests_wait() {
        let (sender, notices) = channel(64).unwrap();
        while sender.send(ike(0)).is_ok() {}
        for _ in 0..4 {
            sender.send(ike(1)).unwrap();
            sender.send(with_cookie()).unwrap();
        }
        let first: Vec<Notice> = (0..12).filter_map(|_| notices.next()).collect();
        let count = |of: &Notice| first.iter().filter(|notice| *notice == of).count();
        assert_eq!((count(&ike(1)), count(&with_cookie())), (4, 4));
    }

    #[test]
    fn n12_a_queue_that_waits_is_served_as_often_as_a_flooded_one_beside_empty_ones() {
        let (sender, notices) = channel(64).unwrap();
        while sender.send(ike(0)).is_ok() {}
        for _ in 0..64 {
            sender.send(ike(1)).unwrap();
        }
        let first: Vec<Notice> = (0..60).filter_map(|_| notices.next()).collect();
        let of_sa = first.iter().filter(|notice| **notice == ike(1)).count();
        assert!(of_sa >= 20, "{of_sa}");
    }

    #[test]
    fn n12_a_request_that_was_dropped_finds_room_when_it_is_repeated() {
        let (sender, notices) = channel(64).unwrap();
        let request = |spi: u8| initial(|bytes| bytes[..8].fill(spi));
        while sender.send(request(1)).is_ok() {}
        assert_eq!(sender.send(request(2)), Err(DropReason::NoticeFull));
        assert_eq!(sender.send(request(3)), Err(DropReason::NoticeFull));
        assert_eq!(sender.send(request(2)), Ok(()), "it is repeated");
        let first: Vec<Notice> = (0..2).filter_map(|_| notices.next()).collect();
        assert!(first.contains(&request(2)), "before all that wait");
    }

    #[test]
    fn long_initial_requests_are_bounded_by_their_octets() {
        let (sender, notices) = channel(64).unwrap();
        let long = || Notice::Ike {
            local: SocketAddr::new(B, 500),
            remote: OTHER_ADDRESS,
            bytes: vec![0; MAX_IKE_MESSAGE],
        };
        let sent = (0..1000).filter(|_| sender.send(long()).is_ok()).count();
        // The queue of repeated requests has room for the longest one or two, too.
        let most = 64 * INITIAL_FACTOR * MEAN_LENGTH / MAX_IKE_MESSAGE;
        assert!((most..=most + 2).contains(&sent), "{sent}");
        assert!(notices.next().is_some());
        assert_eq!(sender.send(long()), Ok(()));
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
