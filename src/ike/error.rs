//! What can be wrong with a peer's message, by whose fault it is: one match says which notification answers it, one what a person should know.

use super::closest_proposal::ClosestProposal;
use super::event::{NatLocation, Rekey};
use super::failure::Failure;
use super::offer::{join, selectors};
use super::settings::{Encapsulation, Identity, Settings};
use crate::net::Time;
use crate::wire::{ChainError, Notify, NotifyType, PayloadType};

/// Why an exchange did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The message breaks the rules of the wire or lacks a required payload.
    Malformed(String),
    /// A payload we do not know insists on being understood.
    UnsupportedCritical(PayloadType),
    /// Both sides are well, but want different things.
    Incompatible(Incompatible),
    /// The peer answered with something its role or our request does not allow.
    Misbehaved(&'static str),
    /// The peer did not prove who it is.
    Denied(Denied),
}

/// What two configurations disagree about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incompatible {
    /// No proposal for the IKE SA is acceptable to both.
    Ike {
        /// The peer's, in words.
        theirs: String,
        /// Ours, in words.
        ours: String,
        /// The pair that comes closest.
        closest: Option<ClosestProposal>,
    },
    /// No proposal for the Child SA is.
    Esp {
        /// The peer's, in words.
        theirs: String,
        /// Ours, in words.
        ours: String,
        /// The pair that comes closest.
        closest: Option<ClosestProposal>,
    },
    /// The proposals for the Child SA differ in nothing but the group of its own key exchange.
    Pfs {
        /// The peer's, in words.
        theirs: String,
        /// Ours, in words.
        ours: String,
    },
    /// The key exchange was made with another group than the one chosen.
    Group {
        /// The group to use instead.
        wanted: u16,
    },
    /// The traffic selectors have nothing in common.
    Selectors {
        /// What the peer wants to reach, and from where.
        theirs: String,
        /// What our configuration allows.
        ours: String,
    },
    /// The peer does not know NAT traversal, and the configuration demands UDP encapsulation.
    NatTraversal,
    /// A NAT stands in between, or the peer forces UDP encapsulation, and the configuration demands protocol 50.
    NatBetween {
        /// Where.
        seen: NatLocation,
    },
}

/// Why a peer is not believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Its AUTH does not prove our pre-shared key.
    Key {
        /// Who it says it is.
        id: String,
    },
    /// It proves the key, but it is not who it should be.
    Identity {
        /// Who it says it is.
        theirs: String,
        /// Who it should be.
        ours: Identity,
    },
    /// It does not have our post-quantum pre-shared key (RFC 8784).
    Ppk(PpkFault),
    /// It authenticates by something else than a pre-shared key.
    Method(String),
}

/// How a peer turns out not to have our post-quantum pre-shared key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PpkFault {
    /// It does not use any.
    Unused,
    /// It asks for one that we do not have.
    OtherIdentity {
        /// Which, in words.
        theirs: String,
        /// Ours.
        ours: String,
    },
    /// The identity is the same, the key is not.
    OtherKey {
        /// Which.
        id: String,
    },
    /// It went on without.
    Declined {
        /// Ours.
        ours: String,
    },
}

impl From<ChainError> for Error {
    fn from(error: ChainError) -> Error {
        match error {
            ChainError::Malformed(malformed) => Error::Malformed(malformed.to_string()),
            ChainError::UnsupportedCritical(kind) => Error::UnsupportedCritical(kind),
            ChainError::MajorVersion(_) => Error::Malformed(error.to_string()),
        }
    }
}

impl Error {
    /// The notification that answers the peer (RFC 7296 §2.21).
    pub fn notify(&self) -> Notify {
        match self {
            Error::Malformed(_) | Error::Misbehaved(_) => {
                Notify::new(NotifyType::INVALID_SYNTAX, Vec::new())
            }
            Error::UnsupportedCritical(kind) => {
                Notify::new(NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD, vec![kind.0])
            }
            Error::Incompatible(what) => match what {
                Incompatible::Ike { .. }
                | Incompatible::Esp { .. }
                | Incompatible::Pfs { .. }
                | Incompatible::NatTraversal
                | Incompatible::NatBetween { .. } => {
                    Notify::new(NotifyType::NO_PROPOSAL_CHOSEN, Vec::new())
                }
                Incompatible::Group { wanted } => Notify::new(
                    NotifyType::INVALID_KE_PAYLOAD,
                    wanted.to_be_bytes().to_vec(),
                ),
                Incompatible::Selectors { .. } => {
                    Notify::new(NotifyType::TS_UNACCEPTABLE, Vec::new())
                }
            },
            Error::Denied(_) => Notify::new(NotifyType::AUTHENTICATION_FAILED, Vec::new()),
        }
    }

    /// What a person should know: we refuse the peer because of this.
    pub fn failure(&self, at: Time) -> Failure {
        let (code, text, advice) = match self {
            Error::Malformed(what) => (
                "invalid-syntax",
                format!("the peer sent a message we cannot read: {what}"),
                "Capture the exchange and report it: one of the two implementations is wrong."
                    .to_owned(),
            ),
            Error::UnsupportedCritical(kind) => (
                "unsupported-critical-payload",
                format!(
                    "the peer insists on payload type {kind}, which this version does not know"
                ),
                "Turn off the extension on the peer.".to_owned(),
            ),
            Error::Incompatible(what) => what.told(),
            Error::Misbehaved(what) => (
                "peer-misbehaved",
                format!("the peer broke the protocol: {what}"),
                "Capture the exchange and report it: one of the two implementations is wrong."
                    .to_owned(),
            ),
            Error::Denied(why) => why.told(),
        };
        Failure {
            at,
            code,
            text,
            advice,
        }
    }
}

impl Incompatible {
    fn told(&self) -> (&'static str, String, String) {
        match self {
            Incompatible::Ike {
                theirs,
                ours,
                closest,
            } => (
                "no-proposal-chosen",
                format!("no common IKE proposal: the peer offers {theirs}; we accept {ours}"),
                edit("ike", ours, closest.as_ref(), ""),
            ),
            Incompatible::Esp {
                theirs,
                ours,
                closest,
            } => (
                "no-proposal-chosen-esp",
                format!("no common ESP proposal: the peer offers {theirs}; we accept {ours}"),
                edit(
                    "esp",
                    ours,
                    closest.as_ref(),
                    " The peer's PFS group does not show before the first rekey.",
                ),
            ),
            Incompatible::Pfs { theirs, ours } => (
                "pfs-mismatch",
                format!("the peer rekeys the Child SA with {theirs}; we accept {ours}"),
                format!(
                    "Give both sides the same PFS group: set `esp = \"{theirs}\"` on this tunnel, or {ours} on the peer (phase 2)."
                ),
            ),
            Incompatible::Group { wanted } => (
                "invalid-ke-payload",
                format!("the key exchange came with another group than the chosen one, {wanted}"),
                "Name the same group first on both sides.".to_owned(),
            ),
            Incompatible::Selectors { theirs, ours } => (
                "ts-unacceptable",
                format!(
                    "the traffic selectors have nothing in common: the peer wants {theirs}; we allow {ours}"
                ),
                "Make `local` and `remote` on this tunnel the mirror image of the peer's."
                    .to_owned(),
            ),
            Incompatible::NatTraversal => (
                "no-nat-traversal",
                "the peer does not know NAT traversal, so it cannot receive ESP in UDP".to_owned(),
                "Turn on NAT traversal on the peer.".to_owned(),
            ),
            Incompatible::NatBetween { seen } => (
                "nat-in-between",
                match seen {
                    NatLocation::Us => "a NAT stands in front of us, and this tunnel has `encapsulation = \"esp\"`: IP protocol 50 does not pass it".to_owned(),
                    NatLocation::Both => "NATs stand in front of us and of the peer, and this tunnel has `encapsulation = \"esp\"`: IP protocol 50 does not pass them".to_owned(),
                    NatLocation::Peer | NatLocation::Forced | NatLocation::None => "a NAT stands in front of the peer, or the peer forces UDP encapsulation, and this tunnel has `encapsulation = \"esp\"`".to_owned(),
                },
                "Set `encapsulation = \"auto\"` (or \"udp\") on this tunnel; on the peer do not force UDP encapsulation.".to_owned(),
            ),
        }
    }
}

impl Denied {
    fn told(&self) -> (&'static str, String, String) {
        match self {
            Denied::Key { id } => (
                "authentication-failed",
                format!("the peer {id} does not prove the pre-shared key of this tunnel"),
                "Compare the pre-shared keys of both sides; mind blanks and newlines at their ends.".to_owned(),
            ),
            Denied::Identity { theirs, ours } => (
                "peer-id-mismatch",
                format!("the peer says it is {theirs}; this tunnel expects {ours}"),
                format!("Set `peer-id = \"{theirs}\"` (or \"any\") on this tunnel, or {ours} as the peer's own identity."),
            ),
            Denied::Ppk(fault) => fault.told(),
            Denied::Method(method) => (
                "authentication-method",
                format!("the peer authenticates by {method}; this tunnel uses a pre-shared key"),
                "Set the peer to pre-shared key authentication.".to_owned(),
            ),
        }
    }
}

impl PpkFault {
    fn told(&self) -> (&'static str, String, String) {
        match self {
            PpkFault::Unused => (
                "ppk-unused",
                "this tunnel requires a post-quantum pre-shared key, and the peer does not use any"
                    .to_owned(),
                "Give the peer the same PPK, or set `required = false` in this tunnel's `ppk`."
                    .to_owned(),
            ),
            PpkFault::OtherIdentity { theirs, ours } => (
                "ppk-identity",
                format!(
                    "the peer uses the post-quantum pre-shared key {theirs}; this tunnel has \"{ours}\""
                ),
                "Give the PPK the same `id` on both sides.".to_owned(),
            ),
            PpkFault::OtherKey { id } => (
                "ppk-mismatch",
                format!(
                    "the peer proves the pre-shared key, but its post-quantum pre-shared key \"{id}\" is another one"
                ),
                "Compare the PPKs of both sides; mind blanks and newlines at their ends."
                    .to_owned(),
            ),
            PpkFault::Declined { ours } => (
                "ppk-declined",
                format!(
                    "the peer has no post-quantum pre-shared key \"{ours}\" and went on without, though this tunnel requires it"
                ),
                "Give the peer the PPK under this `id`.".to_owned(),
            ),
        }
    }
}

/// What to write so that the closest pair of proposals meets.
fn edit(key: &str, ours: &str, closest: Option<&ClosestProposal>, note: &str) -> String {
    match closest {
        Some(closest) => format!(
            "The nearest {closest}: set `{key} = \"{}\"` on this tunnel, or {ours} on the peer.{note}",
            closest.words
        ),
        None => format!("Set {ours} on the peer: it offers nothing this version has."),
    }
}

/// What a person should know: the peer refuses us, in IKE_SA_INIT or with `ours` in IKE_AUTH.
pub fn refused(at: Time, notify: &Notify, ours: &OfferSummary) -> Failure {
    let OfferSummary {
        stage,
        ike,
        esp,
        id,
        selectors,
        ppk,
        encapsulation,
    } = ours;
    let (code, text, advice) = if notify.kind == NotifyType::NO_PROPOSAL_CHOSEN {
        // A peer that sees a NAT and insists on protocol 50, as we do here, has no better word for it either.
        let (or_nat, without_nat) = match encapsulation {
            Encapsulation::Udp | Encapsulation::Auto => ("", ""),
            Encapsulation::Esp => (
                "; or it sees a NAT in between, which `encapsulation = \"esp\"` does not pass",
                " Across a NAT set `encapsulation = \"auto\"` on both sides.",
            ),
        };
        match stage {
            HandshakeStage::Init | HandshakeStage::Intermediate => (
                "no-proposal-chosen",
                format!(
                    "the peer refuses our IKE proposal {ike}, or has no configuration for our address{or_nat}"
                ),
                format!(
                    "Set the peer's phase 1 (IKE) to {ike}, or `ike` on this tunnel to the peer's; check the address the peer expects us at.{without_nat}"
                ),
            ),
            HandshakeStage::Auth => (
                "no-proposal-chosen-esp",
                format!("the peer refuses our ESP proposal {esp}"),
                format!(
                    "Set the peer's phase 2 (ESP) to {esp}, or `esp` on this tunnel to the peer's."
                ),
            ),
        }
    } else if notify.kind == NotifyType::AUTHENTICATION_FAILED {
        let also = |words: &str| match ppk {
            Some(ppk) => format!("{words}\"{ppk}\""),
            None => String::new(),
        };
        (
            "authentication-failed",
            format!(
                "the peer does not believe that we are {id}: it has another pre-shared key, or expects another identity{}",
                also(", or does not have our PPK ")
            ),
            format!(
                "Compare the pre-shared keys of both sides, and check that the peer expects the identity {id}{}.",
                also(" and has the same PPK ")
            ),
        )
    } else if notify.kind == NotifyType::TS_UNACCEPTABLE {
        (
            "ts-unacceptable",
            format!("the peer refuses our traffic selectors: {selectors}"),
            "Make `local` and `remote` on this tunnel the mirror image of the peer's.".to_owned(),
        )
    } else if notify.kind == NotifyType::INVALID_KE_PAYLOAD {
        (
            "invalid-ke-payload",
            format!("the peer asks for a key exchange group that {ike} does not name"),
            "Name the peer's group in `ike` on this tunnel.".to_owned(),
        )
    } else {
        (
            "refused-by-peer",
            format!("the peer refuses with {}", notify.kind),
            "Look into the peer's log for its reason.".to_owned(),
        )
    };
    Failure {
        at,
        code,
        text,
        advice,
    }
}

/// What we had asked for when the peer refused.
#[derive(Clone, Debug)]
pub struct OfferSummary {
    /// In which exchange.
    pub stage: HandshakeStage,
    /// Our IKE proposals, in words.
    pub ike: String,
    /// Our ESP proposals, in words.
    pub esp: String,
    /// Our identity.
    pub id: Identity,
    /// Our traffic selectors, `local === remote`.
    pub selectors: String,
    /// The identity of our post-quantum pre-shared key.
    pub ppk: Option<String>,
    /// What we would have carry ESP.
    pub encapsulation: Encapsulation,
}

/// The exchange in which a peer refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeStage {
    /// IKE_SA_INIT.
    Init,
    /// IKE_INTERMEDIATE.
    Intermediate,
    /// IKE_AUTH.
    Auth,
}

impl OfferSummary {
    /// What we offer under these settings.
    pub fn new(settings: &Settings, stage: HandshakeStage) -> OfferSummary {
        OfferSummary {
            stage,
            ike: join(settings.ike.iter()),
            esp: join(settings.esp.iter()),
            id: settings.id.clone(),
            selectors: selectors(&settings.policy.local, &settings.policy.remote),
            ppk: settings.ppk.as_ref().map(|ppk| ppk.id.clone()),
            encapsulation: settings.encapsulation,
        }
    }
}

/// The failure to report when the peer rejects a rekey.
pub fn rekey_rejected(at: Time, what: Rekey, notify: &Notify, settings: &Settings) -> Failure {
    let (sa, key, phase) = match what {
        Rekey::Child => ("Child SA", "esp", "phase 2"),
        Rekey::Ike => ("IKE SA", "ike", "phase 1"),
    };
    let ours = match what {
        Rekey::Child => join(settings.esp.iter()),
        Rekey::Ike => join(settings.ike.iter()),
    };
    let advice = if notify.kind == NotifyType::NO_PROPOSAL_CHOSEN
        || notify.kind == NotifyType::INVALID_KE_PAYLOAD
    {
        let group = match what {
            Rekey::Child => " Mind the PFS group: it takes part in rekeying only.",
            Rekey::Ike => "",
        };
        format!(
            "Set the peer's {phase} to {ours}, or `{key}` on this tunnel to the peer's.{group} Until then the tunnel is made anew before its SAs expire."
        )
    } else if notify.kind == NotifyType::NO_ADDITIONAL_SAS {
        "The peer does not rekey at all: the tunnel is made anew before its SAs expire. Turn rekeying on at the peer, if it can.".to_owned()
    } else if notify.kind == NotifyType::TS_UNACCEPTABLE {
        "Make `local` and `remote` on this tunnel the mirror image of the peer's.".to_owned()
    } else {
        "Look into the peer's log for its reason.".to_owned()
    };
    Failure {
        at,
        code: "rekey-refused",
        text: format!(
            "the peer refuses to rekey the {sa} with {}; we propose {ours}",
            notify.kind
        ),
        advice,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ike::settings::tests::settings;

    #[test]
    fn a_rejected_rekey_names_our_proposals_and_the_pfs_group() {
        let settings = settings("aes128-sha256-modp2048", "aes128-sha1-modp1024");
        let notify = Notify::new(NotifyType::NO_PROPOSAL_CHOSEN, Vec::new());
        let failure = rekey_rejected(Time::ZERO, Rekey::Child, &notify, &settings);
        assert!(failure.text.contains("NO_PROPOSAL_CHOSEN"));
        assert!(failure.text.contains("aes128-sha1-modp1024"));
        assert!(failure.advice.contains("PFS group"));
        let failure = rekey_rejected(Time::ZERO, Rekey::Ike, &notify, &settings);
        assert!(failure.text.contains("aes128-sha256-modp2048"));
    }
}
