//! From payloads to messages in which nothing is missing (RFC 7296 §1.2, §1.3, §1.4).
//!
//! Each exchange's message is a type whose required payloads are fields. A payload that stands twice counts as malformed; unknown ones are skipped, and the
//! order is free (RFC 7296 §2.5).

use super::error::Error;
use crate::wire::{
    Auth, Delete, Id, Ke, Notify, NotifyType, Payload, ProtocolId, Sa, TrafficSelectors,
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
    /// Everything else the message notifies of.
    pub notifies: Vec<Notify>,
    /// Marks of the peer's maker.
    pub vendors: Vec<Vec<u8>>,
}

/// What answers our IKE_SA_INIT. None of it is authenticated yet.
#[derive(Clone, Debug)]
pub enum InitAnswer {
    /// The peer goes on.
    Accepted(Box<Init>),
    /// The peer wants proof that we receive at our address: the same again with this cookie in front (RFC 7296 §2.6).
    Cookie(Vec<u8>),
    /// The peer wants a key exchange of this group.
    OtherGroup(u16),
    /// The peer refuses.
    Refused(Notify),
}

/// `SK { IDi, [IDr,] AUTH, SAi2, TSi, TSr }`. Whom the initiator hopes for (IDr) does not matter: we say who we are, and it decides.
#[derive(Clone, Debug)]
pub struct AuthRequest {
    /// Who the initiator is.
    pub id: Id,
    /// The initiator's proof; absent when it asks for EAP.
    pub auth: Option<Auth>,
    /// The initiator's proposals for the Child SA.
    pub sa: Sa,
    /// What the initiator's side may send.
    pub ts_i: TrafficSelectors,
    /// What the responder's side may send.
    pub ts_r: TrafficSelectors,
    /// Whether INITIAL_CONTACT stands in it.
    pub initial_contact: bool,
    /// Which post-quantum pre-shared key the initiator used (RFC 8784).
    pub ppk_identity: Option<Vec<u8>>,
    /// The initiator's proof without that key.
    pub no_ppk_auth: Option<Vec<u8>>,
}

/// What answers our IKE_AUTH.
#[derive(Clone, Debug)]
pub enum AuthAnswer {
    /// `SK { IDr, AUTH, … }`: the peer proves who it is.
    Proved {
        /// Who it is.
        id: Id,
        /// The proof.
        auth: Auth,
        /// Whether the peer used our post-quantum pre-shared key for it.
        ppk: PpkAnswer,
        /// The Child SA, or why there is none.
        child: Result<ChildAnswer, Notify>,
    },
    /// `SK { N }`: the peer does not want us.
    Refused(Notify),
}

/// What a responder made of our PPK_IDENTITY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PpkAnswer {
    /// It has the key, and used it.
    Used,
    /// It said nothing about it.
    Unmentioned,
}

/// `SK { KE }` of IKE_INTERMEDIATE, in either direction.
#[derive(Clone, Debug)]
pub struct Intermediate {
    /// KEi(1) or KEr(1).
    pub ke: Ke,
}

/// What answers our IKE_INTERMEDIATE.
#[derive(Clone, Debug)]
pub enum IntermediateAnswer {
    /// The peer goes on.
    Accepted(Intermediate),
    /// The peer refuses.
    Refused(Notify),
}

/// `SAr2, TSi, TSr`.
#[derive(Clone, Debug)]
pub struct ChildAnswer {
    /// What the responder chose.
    pub sa: Sa,
    /// What the initiator's side may send.
    pub ts_i: TrafficSelectors,
    /// What the responder's side may send.
    pub ts_r: TrafficSelectors,
}

/// What both kinds of CREATE_CHILD_SA have, in either direction.
#[derive(Clone, Debug)]
pub struct Renewal {
    /// Proposals, or what was chosen of them.
    pub sa: Sa,
    /// Ni or Nr: 16 to 256 bytes.
    pub nonce: Vec<u8>,
    /// A key exchange of its own.
    pub ke: Option<Ke>,
    /// In an answer, what IKE_FOLLOWUP_KE goes on with.
    pub link: Option<Vec<u8>>,
}

/// `SK { KE, N(ADDITIONAL_KEY_EXCHANGE) }`: an IKE_FOLLOWUP_KE request.
#[derive(Clone, Debug)]
pub struct Followup {
    /// KEi(1).
    pub ke: Ke,
    /// What it goes on with.
    pub link: Option<Vec<u8>>,
}

/// What answers our IKE_FOLLOWUP_KE.
#[derive(Clone, Debug)]
pub enum FollowupAnswer {
    /// The peer has made what was begun; its half of the key exchange.
    Made(Ke),
    /// The peer refuses.
    Refused(Notify),
}

/// What a CREATE_CHILD_SA request asks for.
#[derive(Clone, Debug)]
pub enum CreateRequest {
    /// `SK { SA, Ni, KEi }`: an IKE SA in place of this one.
    Ike(Renewal),
    /// `SK { [N(REKEY_SA),] SA, Ni, [KEi,] TSi, TSr }`: a Child SA, perhaps in place of another.
    Child(Box<ChildRequest>),
}

/// A Child SA that the peer wants.
#[derive(Clone, Debug)]
pub struct ChildRequest {
    /// The REKEY_SA notification that names the one it takes the place of.
    pub rekeys: Option<Notify>,
    /// Proposals, nonce, key exchange.
    pub renewal: Renewal,
    /// What the initiator's side may send.
    pub ts_i: TrafficSelectors,
    /// What the responder's side may send.
    pub ts_r: TrafficSelectors,
}

/// What answers our CREATE_CHILD_SA.
#[derive(Clone, Debug)]
pub enum CreateAnswer {
    /// It is made.
    Made {
        /// What was chosen, the peer's nonce and its half of the key exchange.
        renewal: Renewal,
        /// The selectors of a Child SA, the initiator's side first.
        selectors: Option<(TrafficSelectors, TrafficSelectors)>,
    },
    /// The peer wants a key exchange of this group.
    OtherGroup(u16),
    /// The peer refuses.
    Refused(Notify),
}

/// `SK { [D …] [N …] }` of INFORMATIONAL.
#[derive(Clone, Debug)]
pub struct Informational {
    /// SAs that are gone.
    pub deletes: Vec<Delete>,
    /// Errors and facts.
    pub notifies: Vec<Notify>,
}

impl Init {
    /// # Errors
    /// A required payload is missing or stands twice, or the nonce has no lawful length.
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

impl InitAnswer {
    /// # Errors
    /// It is neither an error nor complete.
    pub fn read(payloads: Vec<Payload>) -> Result<InitAnswer, Error> {
        let mut set = PayloadSet::sort(payloads)?;
        if let (Some(sa), Some(ke)) = (set.sa.take(), set.ke.take()) {
            return Ok(InitAnswer::Accepted(Box::new(Init {
                sa,
                ke,
                nonce: set.nonce()?,
                notifies: set.notifies,
                vendors: set.vendors,
            })));
        }
        for notify in set.notifies {
            if notify.kind == NotifyType::INVALID_KE_PAYLOAD {
                return group_asked_for(&notify).map(InitAnswer::OtherGroup);
            }
            if notify.kind == NotifyType::COOKIE && (1..=64).contains(&notify.data.len()) {
                return Ok(InitAnswer::Cookie(notify.data));
            }
            if notify.kind.is_error() {
                return Ok(InitAnswer::Refused(notify));
            }
        }
        Err(missing("SA, KE or an error"))
    }
}

impl AuthRequest {
    /// # Errors
    /// A required payload is missing or stands twice.
    pub fn read(payloads: Vec<Payload>) -> Result<AuthRequest, Error> {
        let set = PayloadSet::sort(payloads)?;
        Ok(AuthRequest {
            id: required(set.id_i, "IDi")?,
            auth: set.auth,
            sa: required(set.sa, "SA")?,
            ts_i: required(set.ts_i, "TSi")?,
            ts_r: required(set.ts_r, "TSr")?,
            initial_contact: of_kind(&set.notifies, NotifyType::INITIAL_CONTACT).is_some(),
            ppk_identity: of_kind(&set.notifies, NotifyType::PPK_IDENTITY),
            no_ppk_auth: of_kind(&set.notifies, NotifyType::NO_PPK_AUTH),
        })
    }
}

impl AuthAnswer {
    /// # Errors
    /// It is neither an error nor complete.
    pub fn read(payloads: Vec<Payload>) -> Result<AuthAnswer, Error> {
        let set = PayloadSet::sort(payloads)?;
        let ppk = match of_kind(&set.notifies, NotifyType::PPK_IDENTITY) {
            Some(_) => PpkAnswer::Used,
            None => PpkAnswer::Unmentioned,
        };
        let refusal = set
            .notifies
            .into_iter()
            .find(|notify| notify.kind.is_error());
        let (Some(id), Some(auth)) = (set.id_r, set.auth) else {
            return refusal
                .map(AuthAnswer::Refused)
                .ok_or_else(|| missing("IDr, AUTH or an error"));
        };
        let child = match (refusal, set.sa, set.ts_i, set.ts_r) {
            (Some(refusal), ..) => Err(refusal),
            (None, Some(sa), Some(ts_i), Some(ts_r)) => Ok(ChildAnswer { sa, ts_i, ts_r }),
            (None, ..) => return Err(missing("SA, TSi, TSr or an error")),
        };
        Ok(AuthAnswer::Proved {
            id,
            auth,
            ppk,
            child,
        })
    }
}

impl Intermediate {
    /// # Errors
    /// The public value is missing or stands twice.
    pub fn read(payloads: Vec<Payload>) -> Result<Intermediate, Error> {
        let set = PayloadSet::sort(payloads)?;
        Ok(Intermediate {
            ke: required(set.ke, "KE")?,
        })
    }
}

impl IntermediateAnswer {
    /// # Errors
    /// It is neither an error nor complete.
    pub fn read(payloads: Vec<Payload>) -> Result<IntermediateAnswer, Error> {
        let set = PayloadSet::sort(payloads)?;
        if let Some(refusal) = set
            .notifies
            .into_iter()
            .find(|notify| notify.kind.is_error())
        {
            return Ok(IntermediateAnswer::Refused(refusal));
        }
        let ke = required(set.ke, "KE or an error")?;
        Ok(IntermediateAnswer::Accepted(Intermediate { ke }))
    }
}

impl CreateRequest {
    /// # Errors
    /// A required payload is missing or stands twice, or the nonce has no lawful length.
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
        Ok(CreateRequest::Child(Box::new(ChildRequest {
            rekeys,
            renewal,
            ts_i: required(set.ts_i, "TSi")?,
            ts_r: required(set.ts_r, "TSr")?,
        })))
    }
}

impl CreateAnswer {
    /// # Errors
    /// It is neither an error nor complete.
    pub fn read(payloads: Vec<Payload>) -> Result<CreateAnswer, Error> {
        let mut set = PayloadSet::sort(payloads)?;
        let refusal = set.notifies.iter().find(|notify| notify.kind.is_error());
        match refusal {
            Some(notify) if notify.kind == NotifyType::INVALID_KE_PAYLOAD => {
                group_asked_for(notify).map(CreateAnswer::OtherGroup)
            }
            Some(notify) => Ok(CreateAnswer::Refused(notify.clone())),
            None => Ok(CreateAnswer::Made {
                renewal: set.renewal()?,
                selectors: set.ts_i.zip(set.ts_r),
            }),
        }
    }
}

impl Followup {
    /// # Errors
    /// The public value is missing or stands twice.
    pub fn read(payloads: Vec<Payload>) -> Result<Followup, Error> {
        let set = PayloadSet::sort(payloads)?;
        Ok(Followup {
            link: of_kind(&set.notifies, NotifyType::ADDITIONAL_KEY_EXCHANGE),
            ke: required(set.ke, "KE")?,
        })
    }
}

impl FollowupAnswer {
    /// # Errors
    /// It is neither an error nor complete.
    pub fn read(payloads: Vec<Payload>) -> Result<FollowupAnswer, Error> {
        let set = PayloadSet::sort(payloads)?;
        if let Some(refusal) = set
            .notifies
            .into_iter()
            .find(|notify| notify.kind.is_error())
        {
            return Ok(FollowupAnswer::Refused(refusal));
        }
        let ke = required(set.ke, "KE or an error")?;
        Ok(FollowupAnswer::Made(ke))
    }
}

impl Informational {
    /// # Errors
    /// A payload that should be single stands twice.
    pub fn read(payloads: Vec<Payload>) -> Result<Informational, Error> {
        let set = PayloadSet::sort(payloads)?;
        Ok(Informational {
            deletes: set.deletes,
            notifies: set.notifies,
        })
    }
}

/// Payloads by kind, before anyone has asked which must be there.
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
                Payload::Other { .. } | Payload::Unknown { .. } => {}
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

fn once<T>(place: &mut Option<T>, value: T, name: &str) -> Result<(), Error> {
    if place.replace(value).is_some() {
        return Err(Error::Malformed(format!("payload {name} stands twice")));
    }
    Ok(())
}

fn required<T>(payload: Option<T>, name: &str) -> Result<T, Error> {
    payload.ok_or_else(|| missing(name))
}

/// The group in an INVALID_KE_PAYLOAD notification (RFC 7296 §1.2, §1.3).
fn group_asked_for(notify: &Notify) -> Result<u16, Error> {
    <[u8; 2]>::try_from(notify.data.as_slice())
        .map(u16::from_be_bytes)
        .map_err(|_| Error::Malformed("INVALID_KE_PAYLOAD without a group".to_owned()))
}

fn missing(name: &str) -> Error {
    Error::Malformed(format!("payload {name} is missing"))
}
