//! Use of `UDP_SEGMENT` after rejections by the kernel.
//!
//! ```text
//!   EIO, ENOPROTOOPT, EOPNOTSUPP   the output device does not support it: all packets are sent one by one
//!   EINVAL, EMSGSIZE               the segments may exceed the MTU, where single datagrams are fragmented:
//!                                  segments of at least this length are sent one by one
//! ```
//!
//! A rejection counts only if the same packets were then sent one by one: otherwise the destination was the reason. Since one
//! socket serves all peers and routes change, GSO is tried again after an interval.

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::super::{Message, SendOffload};
use crate::net::{MIN_MTU_IPV4, Time};

/// GSO state of one socket.
#[derive(Debug)]
pub(super) struct GsoState {
    wanted: SendOffload,
    /// Maximum segment length sent by GSO.
    longest: AtomicUsize,
    /// Time when longer segments are tried again, in nanoseconds since boot.
    again: AtomicU64,
}

impl GsoState {
    const OFF: usize = 0;
    const ANY: usize = usize::MAX;
    /// Interval between tries. The route or the path MTU may have changed; one failed call in this time costs nothing.
    const RETRY_INTERVAL: Duration = Duration::from_secs(60);
    /// Every host accepts IPv4 packets of this size, so a length below was not the reason.
    const FITS_ANYWHERE: usize = MIN_MTU_IPV4 as usize - 20 - 8;

    pub(super) fn new(wanted: SendOffload) -> GsoState {
        let longest = match wanted {
            SendOffload::Segments => Self::ANY,
            SendOffload::Short | SendOffload::Single => Self::OFF,
        };
        GsoState {
            wanted,
            longest: AtomicUsize::new(longest),
            again: AtomicU64::new(0),
        }
    }

    /// Offload in use.
    pub(super) fn state(&self) -> SendOffload {
        match self.longest.load(Ordering::Relaxed) {
            Self::OFF => SendOffload::Single,
            Self::ANY => SendOffload::Segments,
            _ => SendOffload::Short,
        }
    }

    /// Whether this message is sent by GSO. The clock is read only after a rejection.
    pub(super) fn takes(&self, message: &Message<'_>, now: impl FnOnce() -> Time) -> bool {
        message.bytes.len() > message.segment
            && (message.segment <= self.longest.load(Ordering::Relaxed) || self.retries(now))
    }

    /// Whether a longer message is tried. One of the workers tries, the others follow.
    #[cold]
    fn retries(&self, now: impl FnOnce() -> Time) -> bool {
        if self.wanted != SendOffload::Segments {
            return false;
        }
        let (at, now) = (self.again.load(Ordering::Relaxed), now());
        let first = now.as_nanos() >= at && {
            let next = (now + Self::RETRY_INTERVAL).as_nanos();
            let mine = self
                .again
                .compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
            mine.is_ok()
        };
        if first {
            self.longest.store(Self::ANY, Ordering::Relaxed);
        }
        first
    }

    /// Whether the kernel may have rejected the GSO send and not the single packets.
    pub(super) fn may_be_about_gso(error: &io::Error) -> bool {
        matches!(
            error.raw_os_error(),
            Some(libc::EIO | libc::ENOPROTOOPT | libc::EOPNOTSUPP | libc::EINVAL | libc::EMSGSIZE)
        )
    }

    /// Records that the kernel rejected a GSO send whose packets were then sent one by one.
    #[cold]
    pub(super) fn rejected(&self, message: &Message<'_>, error: &io::Error, now: Time) {
        let next = (now + Self::RETRY_INTERVAL).as_nanos();
        self.again.store(next, Ordering::Relaxed);
        let may_be_its_length = matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EMSGSIZE));
        if may_be_its_length && message.segment > Self::FITS_ANYWHERE {
            self.longest
                .fetch_min(message.segment - 1, Ordering::Relaxed);
        } else {
            self.longest.store(Self::OFF, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(segment: usize, bytes: &[u8]) -> Message<'_> {
        Message {
            remote: "192.0.2.1:4500".parse().unwrap(),
            local: "192.0.2.2".parse().unwrap(),
            class: 0,
            segment,
            bytes,
        }
    }

    fn error(number: i32) -> io::Error {
        io::Error::from_raw_os_error(number)
    }

    const NOW: Time = Time::from_secs(1000);

    fn later(seconds: u64) -> Time {
        NOW + Duration::from_secs(seconds)
    }

    #[test]
    fn a_single_packet_is_not_sent_by_gso() {
        let gso = GsoState::new(SendOffload::Segments);
        let takes = |message| gso.takes(&message, || unreachable!("nothing was rejected"));
        assert!(!takes(message(100, &[0; 100])));
        assert!(!takes(message(0, &[])));
        assert!(takes(message(100, &[0; 101])));
    }

    #[test]
    fn gso_that_was_not_requested_is_never_tried() {
        let gso = GsoState::new(SendOffload::Single);
        assert!(!gso.takes(&message(100, &[0; 101]), || Time::MAX));
        assert_eq!(gso.state(), SendOffload::Single);
    }

    #[test]
    fn a_device_without_gso_is_retried_after_an_interval() {
        for (number, segment) in [
            (libc::EIO, 1400),
            (libc::ENOPROTOOPT, 1400),
            (libc::EOPNOTSUPP, 1400),
            (libc::EINVAL, 500),
        ] {
            let gso = GsoState::new(SendOffload::Segments);
            assert!(GsoState::may_be_about_gso(&error(number)));
            gso.rejected(&message(segment, &[0; 3000]), &error(number), NOW);
            assert_eq!(gso.state(), SendOffload::Single);
            let short = message(100, &[0; 300]);
            for second in 0..60 {
                assert!(!gso.takes(&short, || later(second)));
            }
            // A second rejection starts the interval again.
            assert!(gso.takes(&short, || later(60)));
            gso.rejected(&short, &error(number), later(60));
            assert!(!gso.takes(&short, || later(119)));
            // Without a second rejection, GSO is on again.
            assert!(gso.takes(&short, || later(120)));
            assert_eq!(gso.state(), SendOffload::Segments);
            assert!(gso.takes(&short, || later(121)));
        }
    }

    #[test]
    fn segments_that_are_too_long_are_retried_once_an_interval() {
        let gso = GsoState::new(SendOffload::Segments);
        let bytes = [0; 9000];
        gso.rejected(&message(2000, &bytes), &error(libc::EINVAL), NOW);
        gso.rejected(&message(1473, &bytes), &error(libc::EMSGSIZE), NOW);
        assert_eq!(gso.state(), SendOffload::Short);
        assert!(gso.takes(&message(1472, &bytes), || NOW));
        let long = message(1473, &bytes);
        let tried = (0..600).filter(|second| {
            let taken = gso.takes(&long, || later(*second));
            if taken {
                gso.rejected(&long, &error(libc::EINVAL), later(*second));
            }
            taken
        });
        assert_eq!(tried.count(), 9);
        assert_eq!(gso.state(), SendOffload::Short);
    }

    #[test]
    fn an_unreachable_destination_does_not_disable_gso() {
        for number in [libc::ENETUNREACH, libc::EPERM, libc::EAGAIN, libc::ENOBUFS] {
            assert!(!GsoState::may_be_about_gso(&error(number)));
        }
    }
}
