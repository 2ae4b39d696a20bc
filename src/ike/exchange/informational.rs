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
use crate::ike::messages::Informational;
use crate::ike::sa::{IkeSa, Job, SaOutcome};
use crate::wire::{Delete, Notify, NotifyType, Payload, ProtocolId};

/// The payloads of one of our requests.
pub fn request(job: &Job) -> Vec<Payload> {
    match job {
        Job::Liveness => Vec::new(),
        Job::InvalidSpi { spi } => {
            let data = spi.to_be_bytes().to_vec();
            vec![Payload::Notify(Notify::new(NotifyType::INVALID_SPI, data))]
        }
        // These have an exchange of their own.
        Job::RekeyChild { .. } | Job::CreateChild { .. } | Job::RekeyIke { .. } => Vec::new(),
        Job::DeleteChild { spi_in } => vec![Payload::Delete(Delete::esp(vec![*spi_in]))],
        Job::DeleteIke(why) => why
            .iter()
            .cloned()
            .map(Payload::Notify)
            .chain([Payload::Delete(Delete::ike())])
            .collect(),
    }
}

/// Whether a payload of a protected answer ends the SA (RFC 7296 §2.21.3).
pub fn is_fatal(payload: &Payload) -> bool {
    match payload {
        Payload::Notify(notify) => {
            notify.kind == NotifyType::INVALID_SYNTAX
                || notify.kind == NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD
        }
        _ => false,
    }
}

/// What the answer to one of our requests means.
pub fn on_response(job: &Job, payloads: &[Payload], closing: DownReason) -> SaOutcome {
    match job {
        Job::DeleteIke(_) => SaOutcome::Closed(closing),
        Job::Liveness
        | Job::InvalidSpi { .. }
        | Job::RekeyChild { .. }
        | Job::CreateChild { .. }
        | Job::RekeyIke { .. }
        | Job::DeleteChild { .. } => {
            if payloads.iter().any(is_fatal) {
                SaOutcome::Closed(closing)
            } else {
                SaOutcome::Open
            }
        }
    }
}

/// Answers a request of the peer.
pub fn respond(
    sa: &mut IkeSa,
    payloads: Vec<Payload>,
    cx: &mut Context<'_>,
) -> (Vec<Payload>, SaOutcome) {
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
        return (Vec::new(), SaOutcome::Closed(DownReason::PeerDisbelieves));
    }
    if message
        .deletes
        .iter()
        .any(|delete| delete.protocol == ProtocolId::IKE)
    {
        return (Vec::new(), SaOutcome::Closed(sa.on_ike_deleted(cx)));
    }
    let named = |spi_out: u32| {
        message
            .deletes
            .iter()
            .any(|delete| delete.protocol == ProtocolId::ESP && delete.spis.contains(&spi_out))
    };
    let gone = sa.on_children_deleted(named, cx);
    for notify in &message.notifies {
        if notify.kind == NotifyType::INVALID_SPI
            && let Ok(spi) = <[u8; 4]>::try_from(notify.data.as_slice())
        {
            sa.on_invalid_spi(u32::from_be_bytes(spi), cx);
        }
    }
    let answer = if gone.is_empty() {
        Vec::new()
    } else {
        vec![Payload::Delete(Delete::esp(gone))]
    };
    (answer, SaOutcome::Open)
}

/// Answers a request that authenticates but makes no sense. A broken message ends the SA (RFC 7296 §2.21.3); an unknown critical payload does not (§2.5).
pub fn refuse(error: &Error) -> (Vec<Payload>, SaOutcome) {
    let answer = vec![Payload::Notify(error.notify())];
    let outcome = match error {
        Error::Malformed(_) | Error::Misbehaved(_) => SaOutcome::Closed(DownReason::PeerDeleted),
        Error::UnsupportedCritical(_) | Error::Incompatible(_) | Error::Denied(_) => {
            SaOutcome::Open
        }
    };
    (answer, outcome)
}
