//! Errors of IKE exchanges: the notification that answers each, and the failure text for the operator.

use super::closest_proposal::ClosestProposal;
use super::event::{NatLocation, Rekey};
use super::failure::Failure;
use super::identity::Identity;
use super::offer::{join, selectors};
use super::settings::{Encapsulation, Settings};
use crate::net::Time;
use crate::wire::{ChainError, Notify, NotifyType, PayloadType};

/// Why an exchange failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The message violates the message format or lacks a required payload.
    Malformed(String),
    /// A critical payload has an unknown type.
    UnsupportedCritical(PayloadType),
    /// The two configurations are incompatible.
    Incompatible(Incompatible),
    /// The peer's response violates the protocol.
    Misbehaved(&'static str),
    /// The peer failed to authenticate.
    Denied(Denied),
}

/// A difference between the two configurations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incompatible {
    /// No common proposal for the IKE SA.
    Ike {
        /// The peer's proposals, in words.
        theirs: String,
        /// Our proposals, in words.
        ours: String,
        /// The pair of proposals with the fewest differences.
        closest: Option<ClosestProposal>,
    },
    /// No common proposal for the Child SA.
    Esp {
        /// The peer's proposals, in words.
        theirs: String,
        /// Our proposals, in words.
        ours: String,
        /// The pair of proposals with the fewest differences.
        closest: Option<ClosestProposal>,
    },
    /// The proposals for the Child SA differ only in the PFS group.
    Pfs {
        /// The peer's proposals, in words.
        theirs: String,
        /// Our proposals, in words.
        ours: String,
        /// The proposal of this tunnel that would match, in words; `None` if this version has none of the peer's groups.
        matching: Option<String>,
    },
    /// The chosen proposal names an SPI that no SA can have.
    Spi {
        /// The octets of the SPI.
        spi: Vec<u8>,
    },
    /// The peer uses transport mode; a tunnel needs tunnel mode.
    TransportMode,
    /// The peer requests an IKE SA without a Child SA (RFC 6023).
    Childless,
    /// The KE payload uses a group other than the chosen one.
    Group {
        /// The chosen group.
        wanted: u16,
    },
    /// No common traffic selectors.
    Selectors {
        /// The peer's traffic selectors.
        theirs: String,
        /// Our traffic selectors.
        ours: String,
    },
    /// The peer does not support NAT traversal, and the configuration requires UDP encapsulation.
    NatTraversal,
    /// A NAT is on the path, or the peer forces UDP encapsulation, and the configuration requires IP protocol 50.
    NatBetween {
        /// Location of the NAT.
        seen: NatLocation,
    },
}

/// Why the authentication of a peer failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The AUTH payload does not match our pre-shared key.
    Key {
        /// The peer's identity.
        id: String,
    },
    /// The pre-shared key is right, but the identity is not the configured one.
    Identity {
        /// The peer's identity.
        theirs: String,
        /// The configured identity.
        ours: Identity,
    },
    /// The post-quantum pre-shared key (RFC 8784) is missing or differs.
    Ppk(PpkFault),
    /// The authentication method is not a pre-shared key.
    Method(String),
}

/// A mismatch of the post-quantum pre-shared keys (PPK, RFC 8784).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PpkFault {
    /// The peer does not use a PPK.
    Unused,
    /// The peer uses a PPK identity that we do not have.
    OtherIdentity {
        /// The peer's PPK identity, in words.
        theirs: String,
        /// Our PPK identity.
        ours: String,
    },
    /// The PPK identities match, the keys differ.
    OtherKey {
        /// The PPK identity.
        id: String,
    },
    /// The peer authenticated without the PPK.
    Declined {
        /// Our PPK identity.
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
    /// The notification that rejects the peer's message (RFC 7296 §2.21).
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
                | Incompatible::Spi { .. }
                | Incompatible::NatTraversal
                | Incompatible::NatBetween { .. } => {
                    Notify::new(NotifyType::NO_PROPOSAL_CHOSEN, Vec::new())
                }
                Incompatible::Group { wanted } => Notify::new(
                    NotifyType::INVALID_KE_PAYLOAD,
                    wanted.to_be_bytes().to_vec(),
                ),
                Incompatible::Selectors { .. } | Incompatible::TransportMode => {
                    Notify::new(NotifyType::TS_UNACCEPTABLE, Vec::new())
                }
                // RFC 6023 §3: the response of a responder without support.
                Incompatible::Childless => Notify::new(NotifyType::INVALID_SYNTAX, Vec::new()),
            },
            Error::Denied(_) => Notify::new(NotifyType::AUTHENTICATION_FAILED, Vec::new()),
        }
    }

    /// The failure to report: we reject the peer's message because of this error.
    pub fn failure(&self, at: Time) -> Failure {
        let (code, text, advice) = match self {
            Error::Malformed(what) => (
                "invalid-syntax",
                format!("the peer sent an invalid message: {what}"),
                "Capture the exchange and report it: one of the two implementations has a bug."
                    .to_owned(),
            ),
            Error::UnsupportedCritical(kind) => (
                "unsupported-critical-payload",
                format!(
                    "the peer sent the critical payload type {kind}, which this version does not support"
                ),
                "Disable this extension on the peer.".to_owned(),
            ),
            Error::Incompatible(what) => what.describe(),
            Error::Misbehaved(what) => (
                "peer-misbehaved",
                format!("the peer violated the protocol: {what}"),
                "Capture the exchange and report it: one of the two implementations has a bug."
                    .to_owned(),
            ),
            Error::Denied(why) => why.describe(),
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
    fn describe(&self) -> (&'static str, String, String) {
        match self {
            Incompatible::Ike {
                theirs,
                ours,
                closest,
            } => (
                "no-proposal-chosen",
                no_common_proposal("IKE", theirs, ours),
                edit("ike", theirs, ours, closest.as_ref(), ""),
            ),
            Incompatible::Esp {
                theirs,
                ours,
                closest,
            } => (
                "no-proposal-chosen-esp",
                no_common_proposal("ESP", theirs, ours),
                edit(
                    "esp",
                    theirs,
                    ours,
                    closest.as_ref(),
                    " The PFS group is negotiated only at the first rekey.",
                ),
            ),
            Incompatible::Pfs {
                theirs,
                ours,
                matching,
            } => (
                "pfs-mismatch",
                format!("the peer rekeys the Child SA with {theirs}; we accept {ours}"),
                match matching {
                    Some(words) => format!(
                        "Use the same PFS group on both sides: set `esp = \"{words}\"` on this tunnel, or {ours} on the peer (phase 2)."
                    ),
                    None => format!(
                        "Set {ours} on the peer (phase 2): this version supports none of its PFS groups."
                    ),
                },
            ),
            Incompatible::Spi { spi } => (
                "invalid-spi",
                format!(
                    "the peer proposes the SPI \"{}\", which no SA can have (RFC 7296 §3.3.1, RFC 4303 §2.1)",
                    spi.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
                ),
                "Capture the exchange and report it: the peer's implementation has a bug.".to_owned(),
            ),
            Incompatible::TransportMode => (
                "transport-mode",
                "the peer uses transport mode (USE_TRANSPORT_MODE), which carries no networks; this tunnel uses tunnel mode".to_owned(),
                "Set the peer to tunnel mode (strongSwan: `mode = tunnel`; libreswan: `type=tunnel`).".to_owned(),
            ),
            Incompatible::Childless => (
                "childless",
                "the peer requests an IKE SA without a Child SA (RFC 6023), which this version does not support".to_owned(),
                "Have the peer create the Child SA in IKE_AUTH (strongSwan: `childless = allow`).".to_owned(),
            ),
            Incompatible::Group { wanted } => (
                "invalid-ke-payload",
                format!("the KE payload does not use the chosen group {wanted}"),
                "List the same group first on both sides.".to_owned(),
            ),
            Incompatible::Selectors { theirs, ours } => (
                "ts-unacceptable",
                format!(
                    "no common traffic selectors: the peer proposes {theirs}; we allow {ours}"
                ),
                "Make `local` and `remote` on this tunnel the mirror image of the peer's traffic selectors."
                    .to_owned(),
            ),
            Incompatible::NatTraversal => (
                "no-nat-traversal",
                "the peer does not support NAT traversal, so it cannot receive UDP-encapsulated ESP".to_owned(),
                "Enable NAT traversal on the peer.".to_owned(),
            ),
            Incompatible::NatBetween { seen } => (
                "nat-in-between",
                match seen {
                    NatLocation::Us => "we are behind a NAT, and this tunnel has `encapsulation = \"esp\"`: IP protocol 50 does not pass a NAT".to_owned(),
                    NatLocation::Both => "we and the peer are behind NATs, and this tunnel has `encapsulation = \"esp\"`: IP protocol 50 does not pass a NAT".to_owned(),
                    NatLocation::Peer | NatLocation::Forced | NatLocation::None => "the peer is behind a NAT or forces UDP encapsulation, and this tunnel has `encapsulation = \"esp\"`".to_owned(),
                },
                "Set `encapsulation = \"auto\"` (or \"udp\") on this tunnel, or stop forcing UDP encapsulation on the peer.".to_owned(),
            ),
        }
    }
}

impl Denied {
    fn describe(&self) -> (&'static str, String, String) {
        match self {
            Denied::Key { id } => (
                "authentication-failed",
                format!("the pre-shared key of the peer {id} is not that of this tunnel"),
                "Compare the pre-shared keys of both sides; check for trailing spaces and newlines.".to_owned(),
            ),
            Denied::Identity { theirs, ours } => (
                "peer-id-mismatch",
                format!("the peer identifies as {theirs}; this tunnel expects {ours}"),
                format!("Set `peer-id = \"{theirs}\"` (or \"any\") on this tunnel, or {ours} as the peer's own identity."),
            ),
            Denied::Ppk(fault) => fault.describe(),
            Denied::Method(method) => (
                "authentication-method",
                format!("the peer authenticates by {method}; this tunnel uses a pre-shared key"),
                "Set the peer to pre-shared key authentication.".to_owned(),
            ),
        }
    }
}

impl PpkFault {
    fn describe(&self) -> (&'static str, String, String) {
        match self {
            PpkFault::Unused => (
                "ppk-unused",
                "this tunnel requires a post-quantum pre-shared key, and the peer does not use one"
                    .to_owned(),
                "Configure the same PPK on the peer, or set `required = false` in this tunnel's `ppk`."
                    .to_owned(),
            ),
            PpkFault::OtherIdentity { theirs, ours } => (
                "ppk-identity",
                format!(
                    "the peer uses the post-quantum pre-shared key {theirs}; this tunnel has \"{ours}\""
                ),
                "Use the same `id` for the PPK on both sides.".to_owned(),
            ),
            PpkFault::OtherKey { id } => (
                "ppk-mismatch",
                format!(
                    "the pre-shared keys match, but the post-quantum pre-shared keys \"{id}\" differ"
                ),
                "Compare the PPKs of both sides; check for trailing spaces and newlines."
                    .to_owned(),
            ),
            PpkFault::Declined { ours } => (
                "ppk-declined",
                format!(
                    "the peer has no post-quantum pre-shared key \"{ours}\" and continued without it, but this tunnel requires it"
                ),
                "Configure the PPK with this `id` on the peer.".to_owned(),
            ),
        }
    }
}

fn no_common_proposal(kind: &str, theirs: &str, ours: &str) -> String {
    let theirs = match theirs {
        "" => "nothing: its SA payload is empty",
        words => words,
    };
    format!("no common {kind} proposal: the peer offers {theirs}; we accept {ours}")
}

/// Advice that makes the closest pair of proposals match. A peer offers nothing if its own kernel supports none of its algorithms, as
/// OpenIKED on Linux does.
fn edit(
    key: &str,
    theirs: &str,
    ours: &str,
    closest: Option<&ClosestProposal>,
    note: &str,
) -> String {
    match closest {
        None if theirs.is_empty() => format!(
            "Set {ours} on the peer, and look in its log for algorithms that it does not support itself."
        ),
        Some(closest) => format!(
            "Closest match {closest}: set `{key} = \"{}\"` on this tunnel, or {ours} on the peer.{note}",
            closest.words
        ),
        None => format!("Set {ours} on the peer: this version supports none of its algorithms."),
    }
}

/// The failure to report: the peer rejected our request in the stage that `ours` names.
pub fn rejected_by_peer(at: Time, notify: &Notify, ours: &OfferSummary) -> Failure {
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
        // A peer behind a NAT that requires IP protocol 50 sends NO_PROPOSAL_CHOSEN too, as we do.
        let (or_nat, without_nat) = match encapsulation {
            Encapsulation::Udp | Encapsulation::Auto => ("", ""),
            Encapsulation::Esp => (
                "; or it detected a NAT, which `encapsulation = \"esp\"` does not pass",
                " Across a NAT set `encapsulation = \"auto\"` on both sides.",
            ),
        };
        match stage {
            HandshakeStage::Init | HandshakeStage::Intermediate => (
                "no-proposal-chosen",
                format!(
                    "the peer rejected our IKE proposal {ike}, or has no configuration for our address{or_nat}"
                ),
                format!(
                    "Set the peer's phase 1 (IKE) to {ike}, or `ike` on this tunnel to the peer's; check which address the peer has configured for us.{without_nat}"
                ),
            ),
            HandshakeStage::Auth => (
                "no-proposal-chosen-esp",
                format!("the peer rejected our ESP proposal {esp}"),
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
                "the peer rejected our authentication as {id}: its pre-shared key differs, or it expects another identity{}",
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
            format!("the peer rejected our traffic selectors: {selectors}"),
            "Make `local` and `remote` on this tunnel the mirror image of the peer's traffic selectors. A peer in transport mode has no networks: set it to tunnel mode.".to_owned(),
        )
    } else if notify.kind == NotifyType::TEMPORARY_FAILURE {
        (
            "peer-unavailable",
            "the peer cannot accept a tunnel now (TEMPORARY_FAILURE): it is busy, or its operator has taken the tunnel down".to_owned(),
            "The next attempt follows; take the tunnel up on the peer.".to_owned(),
        )
    } else if notify.kind == NotifyType::INVALID_SYNTAX && *stage == HandshakeStage::Auth {
        (
            "rejected-as-invalid",
            "the peer rejected our IKE_AUTH request as invalid (INVALID_SYNTAX)".to_owned(),
            "A peer that requires childless IKE SAs (strongSwan: `childless = force`) rejects every request with a Child SA: set it to `childless = allow`. Otherwise see the peer's log.".to_owned(),
        )
    } else if notify.kind == NotifyType::INVALID_KE_PAYLOAD {
        (
            "invalid-ke-payload",
            format!("the peer requires a key exchange group that {ike} does not contain"),
            "Add the peer's group to `ike` on this tunnel.".to_owned(),
        )
    } else {
        (
            "refused-by-peer",
            format!("the peer rejected the request with {}", notify.kind),
            "See the peer's log for the reason.".to_owned(),
        )
    };
    Failure {
        at,
        code,
        text,
        advice,
    }
}

/// Our side of a request that the peer rejected.
#[derive(Clone, Debug)]
pub struct OfferSummary {
    /// The exchange.
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
    /// The configured encapsulation of ESP.
    pub encapsulation: Encapsulation,
}

/// The exchange in which a peer rejected our request.
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
    /// A summary of the offer made with these settings.
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
            Rekey::Child => " Check the PFS group: it is used only in rekeys.",
            Rekey::Ike => "",
        };
        format!(
            "Set the peer's {phase} to {ours}, or `{key}` on this tunnel to the peer's.{group} Until then the tunnel is re-established before its SAs expire."
        )
    } else if notify.kind == NotifyType::NO_ADDITIONAL_SAS {
        "The peer does not support rekeying: the tunnel is re-established before its SAs expire. Enable rekeying on the peer if possible.".to_owned()
    } else if notify.kind == NotifyType::TS_UNACCEPTABLE {
        "Make `local` and `remote` on this tunnel the mirror image of the peer's traffic selectors."
            .to_owned()
    } else {
        "See the peer's log for the reason.".to_owned()
    };
    Failure {
        at,
        code: "rekey-refused",
        text: format!(
            "the peer rejected the rekey of the {sa} with {}; we propose {ours}",
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

    #[test]
    fn an_empty_offer_is_called_nothing() {
        let incompatible = Incompatible::Esp {
            theirs: String::new(),
            ours: "aes256gcm16".to_owned(),
            closest: None,
        };
        let (_, text, advice) = incompatible.describe();
        assert!(text.contains("the peer offers nothing: "), "{text}");
        assert!(advice.contains("in its log"), "{advice}");
    }
}
