//! Which messages leave as one piece (`UDP_SEGMENT`), and what is learnt when the kernel will not have one.
//!
//! ```text
//!   EIO, ENOPROTOOPT, EOPNOTSUPP   the way out cannot do it: everything goes one by one
//!   EINVAL, EMSGSIZE               the segments may just be larger than the device takes, while single datagrams are fragmented:
//!                                  trains of segments this long go one by one
//! ```
//!
//! Nothing is learnt unless the same packets left one by one: then it was the train, and not where it was going. Nor is it learnt
//! for ever: one socket serves every peer, and the way to one of them may change. After a rest the next train is tried.

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::super::{Message, SendOffload};
use crate::net::{MIN_MTU_IPV4, Time};

/// What one socket has learnt.
#[derive(Debug)]
pub(super) struct GsoState {
    wanted: SendOffload,
    /// The longest segment of a train.
    longest: AtomicUsize,
    /// When a longer one is tried again, in nanoseconds since boot.
    again: AtomicU64,
}

impl GsoState {
    const OFF: usize = 0;
    const ANY: usize = usize::MAX;
    /// A route that was refused may be replaced, a path MTU that has shrunk may grow; one call in so long that fails costs nothing.
    const REST: Duration = Duration::from_secs(60);
    /// Every IPv4 host takes a packet of 576 bytes (RFC 791 §3.1): shorter segments were not too long.
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

    /// What is done as things stand.
    pub(super) fn state(&self) -> SendOffload {
        match self.longest.load(Ordering::Relaxed) {
            Self::OFF => SendOffload::Single,
            Self::ANY => SendOffload::Segments,
            _ => SendOffload::Short,
        }
    }

    /// Whether this message leaves in one piece. What time it is, is asked only where one has been refused.
    pub(super) fn takes(&self, message: &Message<'_>, now: impl FnOnce() -> Time) -> bool {
        message.bytes.len() > message.segment
            && (message.segment <= self.longest.load(Ordering::Relaxed) || self.tries_again(now))
    }

    /// Whether one that is longer than the kernel took is tried all the same. Of several workers one does; the others follow.
    #[cold]
    fn tries_again(&self, now: impl FnOnce() -> Time) -> bool {
        if self.wanted != SendOffload::Segments {
            return false;
        }
        let (at, now) = (self.again.load(Ordering::Relaxed), now());
        let first = now.as_nanos() >= at && {
            let next = (now + Self::REST).as_nanos();
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

    /// Whether it may have been the train that the kernel refused, and not each of its packets.
    pub(super) fn is_in_question(error: &io::Error) -> bool {
        matches!(
            error.raw_os_error(),
            Some(libc::EIO | libc::ENOPROTOOPT | libc::EOPNOTSUPP | libc::EINVAL | libc::EMSGSIZE)
        )
    }

    /// This train was refused, and its packets left one by one.
    #[cold]
    pub(super) fn refused(&self, message: &Message<'_>, error: &io::Error, now: Time) {
        let next = (now + Self::REST).as_nanos();
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
    fn one_packet_is_no_train() {
        let segmentation = GsoState::new(SendOffload::Segments);
        let takes = |message| segmentation.takes(&message, || unreachable!("nothing was refused"));
        assert!(!takes(message(100, &[0; 100])));
        assert!(!takes(message(0, &[])));
        assert!(takes(message(100, &[0; 101])));
    }

    #[test]
    fn what_was_never_wanted_is_never_tried() {
        let segmentation = GsoState::new(SendOffload::Single);
        assert!(!segmentation.takes(&message(100, &[0; 101]), || Time::MAX));
        assert_eq!(segmentation.state(), SendOffload::Single);
    }

    #[test]
    fn a_way_out_that_cannot_do_it_is_believed_for_a_while_and_asked_again() {
        for (number, segment) in [
            (libc::EIO, 1400),
            (libc::ENOPROTOOPT, 1400),
            (libc::EOPNOTSUPP, 1400),
            (libc::EINVAL, 500),
        ] {
            let segmentation = GsoState::new(SendOffload::Segments);
            assert!(GsoState::is_in_question(&error(number)));
            segmentation.refused(&message(segment, &[0; 3000]), &error(number), NOW);
            assert_eq!(segmentation.state(), SendOffload::Single);
            let train = message(100, &[0; 300]);
            for second in 0..60 {
                assert!(!segmentation.takes(&train, || later(second)));
            }
            // Refused once more, it is left alone for as long again.
            assert!(segmentation.takes(&train, || later(60)));
            segmentation.refused(&train, &error(number), later(60));
            assert!(!segmentation.takes(&train, || later(119)));
            // And where it is not, all is as it was.
            assert!(segmentation.takes(&train, || later(120)));
            assert_eq!(segmentation.state(), SendOffload::Segments);
            assert!(segmentation.takes(&train, || later(121)));
        }
    }

    #[test]
    fn segments_that_are_too_long_go_one_by_one_and_are_tried_again_rarely() {
        let segmentation = GsoState::new(SendOffload::Segments);
        let bytes = [0; 9000];
        segmentation.refused(&message(2000, &bytes), &error(libc::EINVAL), NOW);
        segmentation.refused(&message(1473, &bytes), &error(libc::EMSGSIZE), NOW);
        assert_eq!(segmentation.state(), SendOffload::Short);
        assert!(segmentation.takes(&message(1472, &bytes), || NOW));
        let long = message(1473, &bytes);
        let tried = (0..600).filter(|second| {
            let taken = segmentation.takes(&long, || later(*second));
            if taken {
                segmentation.refused(&long, &error(libc::EINVAL), later(*second));
            }
            taken
        });
        assert_eq!(tried.count(), 9);
        assert_eq!(segmentation.state(), SendOffload::Short);
    }

    #[test]
    fn a_way_that_is_closed_says_nothing_about_trains() {
        for number in [libc::ENETUNREACH, libc::EPERM, libc::EAGAIN, libc::ENOBUFS] {
            assert!(!GsoState::is_in_question(&error(number)));
        }
    }
}
