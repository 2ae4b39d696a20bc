//! Who is who in IKE_AUTH: making our proof and checking the peer's, with the post-quantum pre-shared key where one is used (RFC 8784 §3).
//!
//! ```text
//! responder: the initiator sent…            ours is required          ours is optional
//!   no USE_PPK                              refused                   without
//!   PPK_IDENTITY as ours                    with it                   with it
//!   PPK_IDENTITY of another, NO_PPK_AUTH    refused                   without, proved by NO_PPK_AUTH
//!   PPK_IDENTITY of another                 refused                   refused: its AUTH is made with a key we lack
//! initiator: the responder sent…
//!   PPK_IDENTITY                            with it                   with it
//!   none                                    refused                   without: it has checked our NO_PPK_AUTH
//! ```

use crate::ike::authn::{self, Signed};
use crate::ike::error::{Denied, Error, PpkFault};
use crate::ike::event::Role;
use crate::ike::handshake::{InitResult, id_payload};
use crate::ike::key_schedule::IkeKeys;
use crate::ike::messages::{AuthRequest, PpkAnswer};
use crate::ike::ppk::{self, PpkUse};
use crate::ike::settings::{PeerId, Ppk, PpkDemand};
use crate::wire::{Auth, AuthMethod, Id, Notify, NotifyType, Payload};

/// What an initiator says about itself: IDi, AUTH, and with a PPK which one and, if that is optional, the proof without it.
pub fn initiator_auth_payloads(init: &InitResult, id: &Id) -> Vec<Payload> {
    let plain = prove(init, &init.keys, id);
    let Some(ppk) = announced(init) else {
        return vec![Payload::IdI(id.clone()), Payload::Auth(plain)];
    };
    let mixed = ppk.mix(init.suite.prf, &init.keys);
    let notify = |kind, data| Payload::Notify(Notify::new(kind, data));
    let mut payloads = vec![
        Payload::IdI(id.clone()),
        Payload::Auth(prove(init, &mixed, id)),
        notify(NotifyType::PPK_IDENTITY, ppk.identity()),
    ];
    match ppk.demand {
        PpkDemand::Required => {}
        PpkDemand::Optional => payloads.push(notify(NotifyType::NO_PPK_AUTH, plain.data)),
    }
    payloads
}

/// What a responder says about itself, when the initiator is believed: IDr, AUTH, and that the PPK is in use.
pub fn responder_auth_payloads(init: &InitResult, id: &Id) -> Vec<Payload> {
    let mut payloads = vec![
        Payload::IdR(id.clone()),
        Payload::Auth(prove(init, &init.keys, id)),
    ];
    match init.ppk {
        PpkUse::Mixed => payloads.push(Payload::Notify(Notify::new(
            NotifyType::PPK_IDENTITY,
            Vec::new(),
        ))),
        PpkUse::Unused | PpkUse::Announced => {}
    }
    payloads
}

/// Checks a responder that has answered IKE_AUTH; its use of the PPK decides what the keys are.
pub fn check_responder(
    init: &mut InitResult,
    id: &Id,
    auth: &Auth,
    answer: PpkAnswer,
) -> Result<(), Error> {
    if let Some(ppk) = announced(init).cloned() {
        match (answer, ppk.demand) {
            (PpkAnswer::Used, PpkDemand::Required | PpkDemand::Optional) => mix(init, &ppk),
            (PpkAnswer::Unmentioned, PpkDemand::Optional) => init.ppk = PpkUse::Unused,
            (PpkAnswer::Unmentioned, PpkDemand::Required) => {
                return Err(denied(PpkFault::Declined { ours: ppk.id }));
            }
        }
    }
    check(init, id, of_method(auth)?)
}

/// Checks an initiator; its use of the PPK, and our demand for it, decide what the keys are.
pub fn check_initiator(init: &mut InitResult, request: &AuthRequest) -> Result<(), Error> {
    let auth = request
        .auth
        .as_ref()
        .ok_or_else(|| Error::Denied(Denied::Method("EAP".to_owned())))?;
    let auth = of_method(auth)?;
    let Some(ppk) = announced(init).cloned() else {
        check(init, &request.id, auth)?;
        // Whoever lacks even the pre-shared key need not learn what else we ask for.
        let required = init.conn.settings.ppk.as_ref();
        return match required.map(|ppk| ppk.demand) {
            Some(PpkDemand::Required) => Err(denied(PpkFault::Unused)),
            Some(PpkDemand::Optional) | None => Ok(()),
        };
    };
    if request.ppk_identity.as_deref() == Some(ppk.identity().as_slice()) {
        let otherwise = request
            .no_ppk_auth
            .as_deref()
            .is_some_and(|auth| check(init, &request.id, auth).is_ok());
        mix(init, &ppk);
        return check(init, &request.id, auth).map_err(|error| match error {
            Error::Denied(Denied::Key { .. }) if otherwise => {
                denied(PpkFault::OtherKey { id: ppk.id })
            }
            other => other,
        });
    }
    let without = match (&request.ppk_identity, &request.no_ppk_auth, ppk.demand) {
        (Some(_), Some(auth), PpkDemand::Optional) => auth,
        (None, _, PpkDemand::Optional) => auth,
        (Some(_), None, PpkDemand::Optional) | (_, _, PpkDemand::Required) => {
            return Err(denied(PpkFault::OtherIdentity {
                theirs: ppk::shown(request.ppk_identity.as_deref().unwrap_or_default()),
                ours: ppk.id,
            }));
        }
    };
    init.ppk = PpkUse::Unused;
    check(init, &request.id, without)
}

fn denied(fault: PpkFault) -> Error {
    Error::Denied(Denied::Ppk(fault))
}

/// Our PPK, if both sides have said that they have one.
fn announced(init: &InitResult) -> Option<&Ppk> {
    match init.ppk {
        PpkUse::Announced => init.conn.settings.ppk.as_ref(),
        PpkUse::Unused | PpkUse::Mixed => None,
    }
}

fn mix(init: &mut InitResult, ppk: &Ppk) {
    init.keys = ppk.mix(init.suite.prf, &init.keys);
    init.ppk = PpkUse::Mixed;
}

/// Our AUTH payload, with the keys of the case that we have the PPK, or do not.
fn prove(init: &InitResult, keys: &IkeKeys, id: &Id) -> Auth {
    let signed = match init.role {
        Role::Initiator => signed_by_initiator(init, keys, id),
        Role::Responder => signed_by_responder(init, keys, id),
    };
    Auth {
        method: AuthMethod::SHARED_KEY,
        data: authn::auth(init.suite.prf, &init.conn.settings.psk, signed)
            .as_bytes()
            .to_vec(),
    }
}

fn of_method(auth: &Auth) -> Result<&[u8], Error> {
    if auth.method != AuthMethod::SHARED_KEY {
        return Err(Error::Denied(Denied::Method(auth.method.to_string())));
    }
    Ok(&auth.data)
}

/// Checks who the peer is and that it knows the key; the key first, so that only its holder learns whom we expect.
fn check(init: &InitResult, id: &Id, auth: &[u8]) -> Result<(), Error> {
    let settings = &init.conn.settings;
    let signed = match init.role {
        Role::Initiator => signed_by_responder(init, &init.keys, id),
        Role::Responder => signed_by_initiator(init, &init.keys, id),
    };
    if !authn::verify(init.suite.prf, &settings.psk, signed, auth) {
        return Err(Error::Denied(Denied::Key { id: id.to_string() }));
    }
    match &settings.peer_id {
        PeerId::Any => Ok(()),
        PeerId::Exactly(expected) if id_payload(expected) == *id => Ok(()),
        PeerId::Exactly(expected) => Err(Error::Denied(Denied::Identity {
            theirs: id.to_string(),
            ours: expected.clone(),
        })),
    }
}

fn signed_by_initiator<'a>(init: &'a InitResult, keys: &'a IkeKeys, id: &'a Id) -> Signed<'a> {
    Signed {
        first_message: &init.init_request,
        nonce: &init.nonces.responder,
        prove: &keys.prove_initiator,
        id,
        intermediates: &init.intermediates,
    }
}

fn signed_by_responder<'a>(init: &'a InitResult, keys: &'a IkeKeys, id: &'a Id) -> Signed<'a> {
    Signed {
        first_message: &init.init_response,
        nonce: &init.nonces.initiator,
        prove: &keys.prove_responder,
        id,
        intermediates: &init.intermediates,
    }
}
