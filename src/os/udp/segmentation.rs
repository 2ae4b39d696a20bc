//! Which messages leave as one piece (`UDP_SEGMENT`), and what is learnt when the kernel will not have one.
//!
//! ```text
//!   EIO, ENOPROTOOPT, EOPNOTSUPP   the way out cannot do it: off, for good
//!   EINVAL, EMSGSIZE               the segments may just be larger than the device takes, while single datagrams are fragmented:
//!                                  trains of segments this long go one by one, and every now and then one is tried again
//! ```
//!
//! Nothing is learnt unless the same packets left one by one: then it was the train, and not where it was going.

use std::io;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use super::super::{Message, Sending};

/// What one socket has learnt.
#[derive(Debug)]
pub(super) struct Segmentation {
    /// The longest segment of a train.
    longest: AtomicUsize,
    /// Trains in a row that went one by one because their segments are longer.
    held_back: AtomicU32,
}

impl Segmentation {
    const OFF: usize = 0;
    const ANY: usize = usize::MAX;
    /// A path MTU that has shrunk, or seemed to, may grow again; one call in so many that fails costs nothing.
    const RETRY: u32 = 4096;
    /// Every IPv4 host takes a packet of 576 bytes (RFC 791 §3.1): shorter segments were not too long.
    const FITS_ANYWHERE: usize = 576 - 20 - 8;

    pub(super) fn new(wanted: Sending) -> Segmentation {
        let longest = match wanted {
            Sending::Segments => Self::ANY,
            Sending::Single => Self::OFF,
        };
        Segmentation {
            longest: AtomicUsize::new(longest),
            held_back: AtomicU32::new(0),
        }
    }

    /// What is done as things stand.
    pub(super) fn state(&self) -> Sending {
        match self.longest.load(Ordering::Relaxed) {
            Self::OFF => Sending::Single,
            _ => Sending::Segments,
        }
    }

    /// Whether this message leaves in one piece.
    pub(super) fn takes(&self, message: &Message<'_>) -> bool {
        if message.bytes.len() <= message.segment {
            return false;
        }
        let longest = self.longest.load(Ordering::Relaxed);
        if message.segment <= longest {
            return true;
        }
        if longest == Self::OFF {
            return false;
        }
        if self.held_back.fetch_add(1, Ordering::Relaxed) < Self::RETRY {
            return false;
        }
        self.held_back.store(0, Ordering::Relaxed);
        self.longest.store(Self::ANY, Ordering::Relaxed);
        true
    }

    /// Whether it may have been the train that the kernel refused, and not each of its packets.
    pub(super) fn is_in_question(error: &io::Error) -> bool {
        matches!(
            error.raw_os_error(),
            Some(libc::EIO | libc::ENOPROTOOPT | libc::EOPNOTSUPP | libc::EINVAL | libc::EMSGSIZE)
        )
    }

    /// This train was refused, and its packets left one by one.
    pub(super) fn refused(&self, message: &Message<'_>, error: &io::Error) {
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

    #[test]
    fn one_packet_is_no_train() {
        let segmentation = Segmentation::new(Sending::Segments);
        assert!(!segmentation.takes(&message(100, &[0; 100])));
        assert!(!segmentation.takes(&message(0, &[])));
        assert!(segmentation.takes(&message(100, &[0; 101])));
        assert!(!Segmentation::new(Sending::Single).takes(&message(100, &[0; 101])));
    }

    #[test]
    fn a_way_out_that_cannot_do_it_is_believed_for_good() {
        for (number, segment) in [
            (libc::EIO, 1400),
            (libc::ENOPROTOOPT, 1400),
            (libc::EOPNOTSUPP, 1400),
            (libc::EINVAL, 500),
        ] {
            let segmentation = Segmentation::new(Sending::Segments);
            assert!(Segmentation::is_in_question(&error(number)));
            segmentation.refused(&message(segment, &[0; 3000]), &error(number));
            assert_eq!(segmentation.state(), Sending::Single);
            for _ in 0..10_000 {
                assert!(!segmentation.takes(&message(100, &[0; 300])));
            }
        }
    }

    #[test]
    fn segments_that_are_too_long_go_one_by_one_and_are_tried_again_rarely() {
        let segmentation = Segmentation::new(Sending::Segments);
        let bytes = [0; 9000];
        segmentation.refused(&message(1473, &bytes), &error(libc::EMSGSIZE));
        segmentation.refused(&message(2000, &bytes), &error(libc::EINVAL));
        assert_eq!(segmentation.state(), Sending::Segments);
        assert!(segmentation.takes(&message(1472, &bytes)));
        let long = message(1473, &bytes);
        let tried = (0..20_000).filter(|_| {
            let taken = segmentation.takes(&long);
            if taken {
                segmentation.refused(&long, &error(libc::EINVAL));
            }
            taken
        });
        assert!((1..=5).contains(&tried.count()));
    }

    #[test]
    fn a_way_that_is_closed_says_nothing_about_trains() {
        for number in [libc::ENETUNREACH, libc::EPERM, libc::EAGAIN, libc::ENOBUFS] {
            assert!(!Segmentation::is_in_question(&error(number)));
        }
    }
}
