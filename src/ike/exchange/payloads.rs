//! Payloads and checks that several exchanges share.

use crate::crypto::{Generator, Group, InvalidPublicValue, KeyExchange, Secret};
use crate::ike::error::{Error, Incompatible};
use crate::ike::key_schedule::NONCE_LEN;
use crate::wire::{Flags, Ke, Notify, NotifyType, Payload};

/// Flags of a request of the handshake.
pub const HANDSHAKE_REQUEST: Flags = Flags {
    initiator: true,
    response: false,
    version: false,
};

/// Flags of a response of the handshake.
pub const HANDSHAKE_RESPONSE: Flags = Flags {
    initiator: false,
    response: true,
    version: false,
};

/// A new nonce.
pub fn fresh_nonce(rng: &mut Generator) -> Vec<u8> {
    let mut nonce = vec![0; NONCE_LEN];
    rng.fill(&mut nonce);
    nonce
}

/// A notification without data.
pub fn notify(kind: NotifyType) -> Payload {
    Payload::Notify(Notify::new(kind, Vec::new()))
}

/// The KE payload of our half of a key exchange.
pub fn ke_payload(ke: &KeyExchange) -> Payload {
    Payload::Ke(Ke {
        group: ke.group().id,
        data: ke.public().to_vec(),
    })
}

/// The responder's half of a key exchange: the shared secret and the KE payload.
///
/// # Errors
/// The peer used another group, or none, or its public value is invalid.
pub fn respond_ke(
    group: &'static Group,
    theirs: Option<&Ke>,
    rng: &mut Generator,
) -> Result<(Secret, Payload), Error> {
    let theirs = theirs
        .filter(|ke| ke.group == group.id)
        .ok_or(Error::Incompatible(Incompatible::Group {
            wanted: group.id,
        }))?;
    let response = check_public_value(KeyExchange::respond(group, &theirs.data, rng))?;
    let payload = Payload::Ke(Ke {
        group: group.id,
        data: response.public,
    });
    Ok((response.shared, payload))
}

/// Maps an invalid public value to an error that ends the exchange, but not the IKE SA.
pub fn check_public_value<T>(outcome: Result<T, InvalidPublicValue>) -> Result<T, Error> {
    outcome.map_err(|_| Error::Misbehaved("its public value is not valid"))
}

/// Whether a protected response ends the IKE SA: INVALID_SYNTAX or UNSUPPORTED_CRITICAL_PAYLOAD (RFC 7296 §2.21.3).
pub fn is_fatal(payloads: &[Payload]) -> bool {
    payloads.iter().any(|payload| match payload {
        Payload::Notify(notify) => {
            notify.kind == NotifyType::INVALID_SYNTAX
                || notify.kind == NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD
        }
        _ => false,
    })
}
