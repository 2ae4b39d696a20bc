//! INFORMATIONAL (RFC 7296 §1.4): liveness, errors, and SAs that are gone. Every request is answered, an empty one with an empty answer.
//!
//! ```text
//! HDR, SK { }          ──▶      ◀──  HDR, SK { }           are you there?
//! HDR, SK { D(ESP) }   ──▶      ◀──  HDR, SK { D(ESP) }    a Child SA goes in pairs: each side names its inbound SPI
//! HDR, SK { D(IKE) }   ──▶      ◀──  HDR, SK { }           the IKE SA and everything in it
//! ```

use crate::ike::error::Error;
use crate::ike::event::DownReason;
use crate::ike::handshake::Context;
use crate::ike::sa::{Fate, IkeSa, Job};
use crate::ike::shape::Informational;
use crate::wire::{Delete, NotifyType, Payload, ProtocolId};

/// The payloads of one of our requests.
pub fn request(job: &Job) -> Vec<Payload> {
    match job {
        Job::Liveness => Vec::new(),
        Job::DeleteChild { spi_in } => vec![Payload::Delete(Delete::esp(vec![*spi_in]))],
        Job::DeleteIke(why) => why
            .iter()
            .cloned()
            .map(Payload::Notify)
            .chain([Payload::Delete(Delete::ike())])
            .collect(),
    }
}

/// What the answer to one of our requests means. INVALID_SYNTAX in a protected answer ends the SA (RFC 7296 §2.21.3).
pub fn on_response(job: &Job, payloads: &[Payload], closing: DownReason) -> Fate {
    let fatal = payloads.iter().any(|payload| match payload {
        Payload::Notify(notify) => notify.kind == NotifyType::INVALID_SYNTAX,
        _ => false,
    });
    match job {
        Job::DeleteIke(_) => Fate::Gone(closing),
        Job::Liveness | Job::DeleteChild { .. } if fatal => Fate::Gone(closing),
        Job::Liveness | Job::DeleteChild { .. } => Fate::Lives,
    }
}

/// Answers a request of the peer.
pub fn respond(
    sa: &mut IkeSa,
    payloads: Vec<Payload>,
    cx: &mut Context<'_>,
) -> (Vec<Payload>, Fate) {
    let message = match Informational::read(payloads) {
        Ok(message) => message,
        Err(error) => return refuse(&error),
    };
    // RFC 7296 §2.21.2: this is how an initiator says that it does not believe us after all, with a delete beside it or without.
    if message
        .notifies
        .iter()
        .any(|notify| notify.kind == NotifyType::AUTHENTICATION_FAILED)
    {
        return (Vec::new(), Fate::Gone(DownReason::PeerDisbelieves));
    }
    if message
        .deletes
        .iter()
        .any(|delete| delete.protocol == ProtocolId::IKE)
    {
        return (Vec::new(), Fate::Gone(DownReason::PeerDeleted));
    }
    let named = |spi_out: u32| {
        message
            .deletes
            .iter()
            .any(|delete| delete.protocol == ProtocolId::ESP && delete.spis.contains(&spi_out))
    };
    let mut answer = Vec::new();
    if let Some((spi_in, spi_out)) = sa.child().map(|child| (child.spi_in, child.spi_out))
        && named(spi_out)
    {
        // RFC 7296 §1.4.1: when both deletes cross, neither answer names the SA again.
        if !sa.is_deleting_child(spi_in) {
            answer.push(Payload::Delete(Delete::esp(vec![spi_in])));
        }
        sa.lose_child(cx);
    }
    (answer, Fate::Lives)
}

/// Answers a request that authenticates but makes no sense. A broken message ends the SA (RFC 7296 §2.21.3); an unknown critical payload does not (§2.5).
pub fn refuse(error: &Error) -> (Vec<Payload>, Fate) {
    let answer = vec![Payload::Notify(error.notify())];
    let fate = match error {
        Error::Malformed(_) | Error::Misbehaved(_) => Fate::Gone(DownReason::PeerDeleted),
        Error::UnsupportedCritical(_) | Error::Incompatible(_) | Error::Denied(_) => Fate::Lives,
    };
    (answer, fate)
}
