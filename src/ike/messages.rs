//! Messages as types whose required payloads are fields (RFC 7296 §1.2, §1.3, §1.4).
//!
//! A repeated payload makes a message malformed; unknown payloads are skipped, and any order is accepted (RFC 7296 §2.5).

use super::error::{Denied, Error, Incompatible};
use crate::wire::{
    Auth, Delete, ExchangeType, Header, Id, Ke, MessageId, Notify, NotifyType, Payload,
    PayloadType, ProtocolId, Sa, TrafficSelectors,
};

/// `HDR, SA, KE, N` of IKE_SA_INIT, in either direction.
#[derive(Clone, Debug)]
pub struct Init {
    /// SAi1 or SAr1.
    pub sa: Sa,
    /// KEi or KEr.
    pub ke: Ke,
    /// Ni or Nr: 16 to 256 bytes.
    pub nonce: Vec<u8>,
    /// The notifications.
    pub notifies: Vec<Notify>,
    /// The data of the Vendor ID payloads.
    pub vendors: Vec<Vec<u8>>,
}

/// Response to our IKE_SA_INIT, not authenticated.
#[derive(Clone, Debug)]
pub enum InitResponse {
    /// The peer accepts.
    Accepted(Box<Init>),
    /// The peer requires this cookie (RFC 7296 §2.6).
    Cookie(Vec<u8>),
    /// The peer requires a key exchange with this group.
    OtherGroup(u16),
    /// The peer rejects.
    Rejected(Notify),
}

/// `SK { IDi, [IDr,] AUTH, SAi2, TSi, TSr }`. IDr is ignored: we send our identity, and the initiator decides.
#[derive(Clone, Debug)]
pub struct AuthRequest {
    /// The initiator's identity.
    pub id: Id,
    /// AUTH; absent if the initiator requests EAP.
    pub auth: Option<Auth>,
    /// The initiator's proposals for the Child SA.
    pub sa: Sa,
    /// TSi.
    pub ts_i: TrafficSelectors,
    /// TSr.
    pub ts_r: TrafficSelectors,
    /// Whether USE_TRANSPORT_MODE is present.
    pub transport_mode: bool,
    /// Whether INITIAL_CONTACT is present.
    pub initial_contact: bool,
    /// PPK_IDENTITY: the post-quantum pre-shared key that the initiator used (RFC 8784).
    pub ppk_identity: Option<Vec<u8>>,
    /// NO_PPK_AUTH: AUTH without that key.
    pub no_ppk_auth: Option<Vec<u8>>,
}

/// Response to our IKE_AUTH.
#[derive(Clone, Debug)]
pub enum AuthResponse {
    /// `SK { IDr, AUTH, … }`: the peer authenticates itself.
    Proved {
        /// IDr.
        id: Id,
        /// AUTH.
        auth: Auth,
        /// Whether the peer used our post-quantum pre-shared key.
        ppk: PpkResponse,
        /// The Child SA, or the notification that rejects it.
        child: Result<ChildResponse, Notify>,
    },
    /// `SK { N }`: the peer rejects us.
    Rejected(Notify),
}

/// Responder's use of our PPK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PpkResponse {
    /// PPK_IDENTITY is present: the PPK is used.
    Used,
    /// PPK_IDENTITY is absent.
    Unmentioned,
}

/// `SK { KE }` of IKE_INTERMEDIATE, in either direction.
#[derive(Clone, Debug)]
pub struct Intermediate {
    /// KEi(1) or KEr(1).
    pub ke: Ke,
}

/// Response to our IKE_INTERMEDIATE.
#[derive(Clone, Debug)]
pub enum IntermediateResponse {
    /// The peer accepts.
    Accepted(Intermediate),
    /// The peer rejects.
    Rejected(Notify),
}

/// `SAr2, TSi, TSr`.
#[derive(Clone, Debug)]
pub struct ChildResponse {
    /// The chosen proposal.
    pub sa: Sa,
    /// TSi.
    pub ts_i: TrafficSelectors,
    /// TSr.
    pub ts_r: TrafficSelectors,
    /// Whether USE_TRANSPORT_MODE is present, which no request of ours asks for (RFC 7296 §1.3.1).
    pub transport_mode: bool,
}

/// Payloads that all kinds of CREATE_CHILD_SA have, in either direction.
#[derive(Clone, Debug)]
pub struct Renewal {
    /// The proposals, or the chosen one.
    pub sa: Sa,
    /// Ni or Nr: 16 to 256 bytes.
    pub nonce: Vec<u8>,
    /// The key exchange.
    pub ke: Option<Ke>,
    /// In a response, the data of ADDITIONAL_KEY_EXCHANGE.
    pub link: Option<Vec<u8>>,
}

/// `SK { KE, N(ADDITIONAL_KEY_EXCHANGE) }`: an IKE_FOLLOWUP_KE request.
#[derive(Clone, Debug)]
pub struct Followup {
    /// KEi(1).
    pub ke: Ke,
    /// The data of ADDITIONAL_KEY_EXCHANGE.
    pub link: Option<Vec<u8>>,
}

/// Response to our IKE_FOLLOWUP_KE.
#[derive(Clone, Debug)]
pub enum FollowupResponse {
    /// The SA is created. The peer's half of the key exchange.
    Made(Ke),
    /// The peer rejects.
    Rejected(Notify),
}

/// CREATE_CHILD_SA request.
#[derive(Clone, Debug)]
pub enum CreateRequest {
    /// `SK { SA, Ni, KEi }`: rekeys the IKE SA.
    Ike(Renewal),
    /// `SK { [N(REKEY_SA),] SA, Ni, [KEi,] TSi, TSr }`: creates or rekeys a Child SA.
    Child(Box<ChildRequest>),
}

/// Request for a Child SA.
#[derive(Clone, Debug)]
pub struct ChildRequest {
    /// REKEY_SA, which names the Child SA to rekey.
    pub rekeys: Option<Notify>,
    /// Proposals, nonce, key exchange.
    pub renewal: Renewal,
    /// TSi.
    pub ts_i: TrafficSelectors,
    /// TSr.
    pub ts_r: TrafficSelectors,
    /// Whether USE_TRANSPORT_MODE is present.
    pub transport_mode: bool,
}

/// Response to our CREATE_CHILD_SA.
#[derive(Clone, Debug)]
pub enum CreateResponse {
    /// The SA is created.
    Made {
        /// The chosen proposal, the peer's nonce and its half of the key exchange.
        renewal: Renewal,
        /// The selectors of a Child SA, the initiator's side first.
        selectors: Option<(TrafficSelectors, TrafficSelectors)>,
    },
    /// The peer requires a key exchange with this group.
    OtherGroup(u16),
    /// The peer rejects.
    Rejected(Notify),
}

/// `SK { [D …] [N …] }` of INFORMATIONAL.
#[derive(Clone, Debug)]
pub struct Informational {
    /// The DELETE payloads.
    pub deletes: Vec<Delete>,
    /// The notifications.
    pub notifies: Vec<Notify>,
}

impl Init {
    /// # Errors
    /// A required payload is missing or is repeated, or the nonce has an invalid length.
    pub fn read(payloads: Vec<Payload>) -> Result<Init, Error> {
        let mut set = PayloadSet::sort(payloads)?;
        Ok(Init {
            sa: required(set.sa.take(), "SA")?,
            ke: required(set.ke.take(), "KE")?,
            nonce: set.nonce()?,
            notifies: set.notifies,
            vendors: set.vendors,
        })
    }
}

impl InitResponse {
    /// # Errors
    /// It is incomplete, and not an error either.
    pub fn read(payloads: Vec<Payload>) -> Result<InitResponse, Error> {
        let mut set = PayloadSet::sort(payloads)?;
        if let (Some(sa), Some(ke)) = (set.sa.take(), set.ke.take()) {
            return Ok(InitResponse::Accepted(Box::new(Init {
                sa,
                ke,
                nonce: set.nonce()?,
                notifies: set.notifies,
                vendors: set.vendors,
            })));
        }
        for notify in set.notifies {
            if notify.kind == NotifyType::INVALID_KE_PAYLOAD {
                return required_group(&notify).map(InitResponse::OtherGroup);
            }
            if notify.kind == NotifyType::COOKIE && (1..=64).contains(&notify.data.len()) {
                return Ok(InitResponse::Cookie(notify.data));
            }
            if notify.kind.is_error() {
                return Ok(InitResponse::Rejected(notify));
            }
        }
        Err(missing("SA, KE or an error"))
    }
}

impl AuthRequest {
    /// # Errors
    /// A required payload is missing or is repeated, or no Child SA is requested.
    pub fn read(payloads: Vec<Payload>) -> Result<AuthRequest, Error> {
        let set = PayloadSet::sort(payloads)?;
        if set.auth.is_some() && set.sa.is_none() && set.ts_i.is_none() && set.ts_r.is_none() {
            return Err(Error::Incompatible(Incompatible::Childless));
        }
        Ok(AuthRequest {
            id: required(set.id_i, "IDi")?,
            auth: set.auth,
            sa: required(set.sa, "SA")?,
            ts_i: required(set.ts_i, "TSi")?,
            ts_r: required(set.ts_r, "TSr")?,
            transport_mode: of_kind(&set.notifies, NotifyType::USE_TRANSPORT_MODE).is_some(),
            initial_contact: of_kind(&set.notifies, NotifyType::INITIAL_CONTACT).is_some(),
            ppk_identity: of_kind(&set.notifies, NotifyType::PPK_IDENTITY),
            no_ppk_auth: of_kind(&set.notifies, NotifyType::NO_PPK_AUTH),
        })
    }
}

impl AuthResponse {
    /// # Errors
    /// It is incomplete, and not an error either; or the peer starts EAP.
    pub fn read(payloads: Vec<Payload>) -> Result<AuthResponse, Error> {
        let set = PayloadSet::sort(payloads)?;
        let ppk = match of_kind(&set.notifies, NotifyType::PPK_IDENTITY) {
            Some(_) => PpkResponse::Used,
            None => PpkResponse::Unmentioned,
        };
        if set.eap {
            return Err(Error::Denied(Denied::Method("EAP".to_owned())));
        }
        let transport_mode = of_kind(&set.notifies, NotifyType::USE_TRANSPORT_MODE).is_some();
        let rejection = set
            .notifies
            .into_iter()
            .find(|notify| notify.kind.is_error());
        let (Some(id), Some(auth)) = (set.id_r, set.auth) else {
            return rejection
                .map(AuthResponse::Rejected)
                .ok_or_else(|| missing("IDr, AUTH or an error"));
        };
        let child = match (rejection, set.sa, set.ts_i, set.ts_r) {
            (Some(rejection), ..) => Err(rejection),
            (None, Some(sa), Some(ts_i), Some(ts_r)) => Ok(ChildResponse {
                sa,
                ts_i,
                ts_r,
                transport_mode,
            }),
            (None, ..) => return Err(missing("SA, TSi, TSr or an error")),
        };
        Ok(AuthResponse::Proved {
            id,
            auth,
            ppk,
            child,
        })
    }
}

impl Intermediate {
    /// # Errors
    /// The public value is missing or is repeated.
    pub fn read(payloads: Vec<Payload>) -> Result<Intermediate, Error> {
        let set = PayloadSet::sort(payloads)?;
        Ok(Intermediate {
            ke: required(set.ke, "KE")?,
        })
    }
}

impl IntermediateResponse {
    /// # Errors
    /// It is incomplete, and not an error either.
    pub fn read(payloads: Vec<Payload>) -> Result<IntermediateResponse, Error> {
        let set = PayloadSet::sort(payloads)?;
        if let Some(rejection) = set
            .notifies
            .into_iter()
            .find(|notify| notify.kind.is_error())
        {
            return Ok(IntermediateResponse::Rejected(rejection));
        }
        let ke = required(set.ke, "KE or an error")?;
        Ok(IntermediateResponse::Accepted(Intermediate { ke }))
    }
}

impl CreateRequest {
    /// # Errors
    /// A required payload is missing or is repeated, or the nonce has an invalid length.
    pub fn read(payloads: Vec<Payload>) -> Result<CreateRequest, Error> {
        let mut set = PayloadSet::sort(payloads)?;
        let rekeys = set
            .notifies
            .iter()
            .find(|notify| notify.kind == NotifyType::REKEY_SA)
            .cloned();
        let renewal = set.renewal()?;
        let first = renewal.sa.proposals.first();
        if first.is_some_and(|proposal| proposal.protocol == ProtocolId::IKE) {
            return Ok(CreateRequest::Ike(renewal));
        }
        let transport_mode = of_kind(&set.notifies, NotifyType::USE_TRANSPORT_MODE).is_some();
        Ok(CreateRequest::Child(Box::new(ChildRequest {
            transport_mode,
            rekeys,
            renewal,
            ts_i: required(set.ts_i, "TSi")?,
            ts_r: required(set.ts_r, "TSr")?,
        })))
    }
}

impl CreateResponse {
    /// # Errors
    /// It is incomplete, and not an error either; or its Child SA uses transport mode, which no request of ours asks for (RFC 7296 §1.3.1).
    pub fn read(payloads: Vec<Payload>) -> Result<CreateResponse, Error> {
        let mut set = PayloadSet::sort(payloads)?;
        let rejection = set.notifies.iter().find(|notify| notify.kind.is_error());
        match rejection {
            Some(notify) if notify.kind == NotifyType::INVALID_KE_PAYLOAD => {
                required_group(notify).map(CreateResponse::OtherGroup)
            }
            Some(notify) => Ok(CreateResponse::Rejected(notify.clone())),
            None if of_kind(&set.notifies, NotifyType::USE_TRANSPORT_MODE).is_some() => {
                Err(Error::Incompatible(Incompatible::TransportMode))
            }
            None => Ok(CreateResponse::Made {
                renewal: set.renewal()?,
                selectors: set.ts_i.zip(set.ts_r),
            }),
        }
    }
}

impl Followup {
    /// # Errors
    /// The public value is missing or is repeated.
    pub fn read(payloads: Vec<Payload>) -> Result<Followup, Error> {
        let set = PayloadSet::sort(payloads)?;
        Ok(Followup {
            link: of_kind(&set.notifies, NotifyType::ADDITIONAL_KEY_EXCHANGE),
            ke: required(set.ke, "KE")?,
        })
    }
}

impl FollowupResponse {
    /// # Errors
    /// It is incomplete, and not an error either.
    pub fn read(payloads: Vec<Payload>) -> Result<FollowupResponse, Error> {
        let set = PayloadSet::sort(payloads)?;
        if let Some(rejection) = set
            .notifies
            .into_iter()
            .find(|notify| notify.kind.is_error())
        {
            return Ok(FollowupResponse::Rejected(rejection));
        }
        let ke = required(set.ke, "KE or an error")?;
        Ok(FollowupResponse::Made(ke))
    }
}

impl Informational {
    /// # Errors
    /// A payload that should be single is repeated.
    pub fn read(payloads: Vec<Payload>) -> Result<Informational, Error> {
        let set = PayloadSet::sort(payloads)?;
        Ok(Informational {
            deletes: set.deletes,
            notifies: set.notifies,
        })
    }
}

/// Payloads of a message by kind.
#[derive(Default)]
struct PayloadSet {
    sa: Option<Sa>,
    ke: Option<Ke>,
    id_i: Option<Id>,
    id_r: Option<Id>,
    auth: Option<Auth>,
    nonce: Option<Vec<u8>>,
    ts_i: Option<TrafficSelectors>,
    ts_r: Option<TrafficSelectors>,
    notifies: Vec<Notify>,
    deletes: Vec<Delete>,
    vendors: Vec<Vec<u8>>,
    /// Whether an EAP payload is present.
    eap: bool,
}

impl PayloadSet {
    fn sort(payloads: Vec<Payload>) -> Result<PayloadSet, Error> {
        let mut set = PayloadSet::default();
        for payload in payloads {
            match payload {
                Payload::Sa(sa) => once(&mut set.sa, sa, "SA")?,
                Payload::Ke(ke) => once(&mut set.ke, ke, "KE")?,
                Payload::IdI(id) => once(&mut set.id_i, id, "IDi")?,
                Payload::IdR(id) => once(&mut set.id_r, id, "IDr")?,
                Payload::Auth(auth) => once(&mut set.auth, auth, "AUTH")?,
                Payload::Nonce(nonce) => once(&mut set.nonce, nonce, "Nonce")?,
                Payload::TsI(ts) => once(&mut set.ts_i, ts, "TSi")?,
                Payload::TsR(ts) => once(&mut set.ts_r, ts, "TSr")?,
                Payload::Notify(notify) => set.notifies.push(notify),
                Payload::Delete(delete) => set.deletes.push(delete),
                Payload::Vendor(vendor) => set.vendors.push(vendor),
                Payload::Other { kind, .. } => set.eap |= kind == PayloadType::EAP,
                Payload::Unknown { .. } => {}
            }
        }
        Ok(set)
    }

    fn renewal(&mut self) -> Result<Renewal, Error> {
        Ok(Renewal {
            sa: required(self.sa.take(), "SA")?,
            nonce: self.nonce()?,
            ke: self.ke.take(),
            link: of_kind(&self.notifies, NotifyType::ADDITIONAL_KEY_EXCHANGE),
        })
    }

    fn nonce(&mut self) -> Result<Vec<u8>, Error> {
        let nonce = required(self.nonce.take(), "Nonce")?;
        if (MIN_NONCE..=MAX_NONCE).contains(&nonce.len()) {
            Ok(nonce)
        } else {
            Err(Error::Malformed(format!(
                "a nonce of {} bytes",
                nonce.len()
            )))
        }
    }
}

/// The data of the first notification of a kind.
fn of_kind(notifies: &[Notify], kind: NotifyType) -> Option<Vec<u8>> {
    notifies
        .iter()
        .find(|notify| notify.kind == kind)
        .map(|notify| notify.data.clone())
}

/// RFC 7296 §3.9.
const MIN_NONCE: usize = 16;
const MAX_NONCE: usize = 256;

fn once<T>(slot: &mut Option<T>, value: T, name: &str) -> Result<(), Error> {
    if slot.replace(value).is_some() {
        return Err(Error::Malformed(format!("payload {name} is repeated")));
    }
    Ok(())
}

fn required<T>(payload: Option<T>, name: &str) -> Result<T, Error> {
    payload.ok_or_else(|| missing(name))
}

/// The group in an INVALID_KE_PAYLOAD notification (RFC 7296 §1.2, §1.3).
fn required_group(notify: &Notify) -> Result<u16, Error> {
    <[u8; 2]>::try_from(notify.data.as_slice())
        .map(u16::from_be_bytes)
        .map_err(|_| Error::Malformed("INVALID_KE_PAYLOAD without a group".to_owned()))
}

fn missing(name: &str) -> Error {
    Error::Malformed(format!("payload {name} is missing"))
}

/// Checks the payloads of a captured message as its receiver would.
///
/// # Errors
/// Text: which payload is missing, repeated or invalid.
pub fn validate(header: &Header, payloads: &[Payload]) -> Result<(), String> {
    let payloads = payloads.to_vec();
    let read = match (header.exchange, header.flags.response) {
        (ExchangeType::IKE_SA_INIT, false) => Init::read(payloads).map(drop),
        (ExchangeType::IKE_SA_INIT, true) => InitResponse::read(payloads).map(drop),
        // Later IKE_AUTH exchanges belong to EAP or to a second authentication.
        (ExchangeType::IKE_AUTH, _) if header.message_id != MessageId(1) => Ok(()),
        (ExchangeType::IKE_AUTH, false) => AuthRequest::read(payloads).map(drop),
        (ExchangeType::IKE_AUTH, true) => AuthResponse::read(payloads).map(drop),
        (ExchangeType::IKE_INTERMEDIATE, false) => Intermediate::read(payloads).map(drop),
        (ExchangeType::IKE_INTERMEDIATE, true) => IntermediateResponse::read(payloads).map(drop),
        (ExchangeType::CREATE_CHILD_SA, false) => CreateRequest::read(payloads).map(drop),
        (ExchangeType::CREATE_CHILD_SA, true) => CreateResponse::read(payloads).map(drop),
        (ExchangeType::INFORMATIONAL, _) => Informational::read(payloads).map(drop),
        (_, _) => Ok(()),
    };
    match read {
        // Other receivers may accept what we reject: EAP, transport mode.
        Ok(()) | Err(Error::Incompatible(_) | Error::Denied(_)) => Ok(()),
        Err(Error::Malformed(what)) => Err(what),
        Err(Error::UnsupportedCritical(kind)) => {
            Err(format!("payload {kind} is critical and unknown"))
        }
        Err(Error::Misbehaved(what)) => Err(what.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Flags, IkeSpi, Ke, Notify, NotifyType, Sa};

    fn header(exchange: ExchangeType, response: bool) -> Header {
        let flags = Flags {
            response,
            ..Flags::default()
        };
        Header::new(IkeSpi(1), IkeSpi(2), exchange, flags, MessageId(1))
    }

    #[test]
    fn a_missing_payload_is_named_in_the_error() {
        let request = header(ExchangeType::IKE_SA_INIT, false);
        let response = header(ExchangeType::IKE_SA_INIT, true);
        let ke = Payload::Ke(Ke {
            group: 14,
            data: Vec::new(),
        });
        let sa = Payload::Sa(Sa::default());
        let short = validate(&request, std::slice::from_ref(&sa));
        assert_eq!(short, Err("payload KE is missing".to_owned()));
        let twice = validate(&request, &[ke.clone(), ke.clone()]);
        assert_eq!(twice, Err("payload KE is repeated".to_owned()));
        let whole = [sa, ke, Payload::Nonce(vec![0; 32])];
        assert_eq!(validate(&request, &whole), Ok(()));
        let rejection = Payload::Notify(Notify::new(NotifyType::NO_PROPOSAL_CHOSEN, Vec::new()));
        assert_eq!(validate(&response, &[rejection]), Ok(()));
        assert!(validate(&response, &[]).is_err());
        let create = header(ExchangeType::CREATE_CHILD_SA, false);
        assert!(validate(&create, &whole[..1]).is_err());
        assert_eq!(validate(&header(ExchangeType(240), false), &[]), Ok(()));
    }
}
