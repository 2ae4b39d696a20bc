//! Outcomes of CREATE_CHILD_SA and IKE_FOLLOWUP_KE, for Child SAs and IKE SAs alike.

use std::time::Duration;

use crate::crypto::Secret;
use crate::ike::error::Error;
use crate::ike::failure::Failure;
use crate::ike::retransmit::back_off;
use crate::ike::sa::FollowupOffer;
use crate::net::Time;
use crate::wire::{Notify, NotifyType};

/// Meaning of the peer's response. `A` is the agreed SA without keys.
pub enum Step<A> {
    /// The SA is agreed; with the secret of its additional key exchange.
    Agreed(A, Option<Secret>),
    /// An additional key exchange comes first.
    Followup(Box<FollowupOffer<A>>),
    /// The peer asks for a key exchange of this group.
    OtherGroup(u16),
    /// The peer rejects the request.
    Rejected(Notify),
}

/// Why we reject a request of the peer.
pub enum Rejection {
    /// The collision rules or a limit require this notification: nothing to report.
    Notify(Notify),
    /// The configurations differ, or the peer is at fault: reported.
    Error(Error),
}

impl From<Error> for Rejection {
    fn from(error: Error) -> Rejection {
        Rejection::Error(error)
    }
}

impl Rejection {
    /// A rejection by a notification without data.
    pub fn notify(kind: NotifyType) -> Rejection {
        Rejection::Notify(Notify::new(kind, Vec::new()))
    }
}

/// After so many TEMPORARY_FAILURE in a row, they are reported like a rejection.
pub const MAX_TEMPORARY_FAILURES: u32 = 5;

/// Why our request has created nothing.
pub enum RequestFailure {
    /// TEMPORARY_FAILURE: the request is repeated soon. It holds a failure to report once it lasts.
    Temporary(Option<Failure>),
    /// The peer rejects the request, or its response is unusable: the request is not repeated before the SA is due.
    Rejected(Failure),
}

impl RequestFailure {
    /// When to repeat the request, given a growing pause and when the SA is due.
    pub fn retry_at(&self, soon: Time, due: Time) -> Time {
        match self {
            RequestFailure::Temporary(_) => soon,
            RequestFailure::Rejected(_) => soon.max(due),
        }
    }
}

/// The pause before another request to rekey: longer each time, and at most half of the remaining lifetime.
pub fn retry_pause(hard_expiry: Time, rejections: u32, now: Time, jitter: u8) -> Duration {
    back_off(rejections, jitter).min(hard_expiry.since(now).mul_f64(0.5))
}
