//! Selection of proposals (RFC 7296 §2.7, §3.3).
//!
//! ```text
//! initiator   SA { 1: aes128 | sha1 | prfsha1 | modp1024,  2: … }  ──▶
//!             ◀──  SA { 1: one transform of each type }              responder: its own order of preference decides
//! ```
//!
//! A proposal may require an additional key exchange (ADDKE1, RFC 9370). A peer without support for that transform type skips the
//! proposal and takes a later one without it.

use super::error::{Error, Incompatible};
use super::offer::{ADDITIONAL, INTEG_NONE, METHOD_NONE, Offer, usable};
use crate::crypto::{Encryption, EspProposal, EspSuite, Group, IkeProposal, IkeSuite, Protection};
use crate::wire::{Proposal, ProtocolId, Sa, Transform, TransformType};

pub use super::offer::words_of_all;

/// Our IKE proposals as an SA payload. `spi` is empty in IKE_SA_INIT, whose header carries the SPI, and the new SPI in a rekey
/// (RFC 7296 §3.3.1).
pub fn offer_ike(ours: &[IkeProposal], spi: &[u8]) -> Sa {
    offer(ours.iter().map(|ours| {
        let mut transforms = Vec::new();
        transforms.extend(ours.encryption.iter().map(|row| encryption(row)));
        transforms.extend(
            ours.integrity
                .iter()
                .map(|row| plain(TransformType::INTEG, row.id)),
        );
        transforms.extend(ours.prf.iter().map(|row| plain(TransformType::PRF, row.id)));
        transforms.extend(
            ours.groups
                .iter()
                .map(|row| plain(TransformType::KE, row.id)),
        );
        transforms.extend(additional(&ours.additional));
        (ProtocolId::IKE, spi.to_vec(), transforms)
    }))
}

/// Whether the exchange can include a PFS key exchange for the Child SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pfs {
    /// IKE_AUTH: no KE payload, so no group is proposed (RFC 7296 §1.2).
    Unnamed,
    /// CREATE_CHILD_SA: if the proposal has a group.
    AsProposed,
}

/// Our ESP proposals as they are offered. Where perfect forward secrecy is optional, the alternatives without it follow the others.
fn offered_esp(ours: &[EspProposal], pfs: Pfs) -> Vec<EspProposal> {
    let without = ours.iter().filter_map(EspProposal::without_pfs);
    match pfs {
        Pfs::Unnamed => ours.to_vec(),
        Pfs::AsProposed => ours.iter().cloned().chain(without).collect(),
    }
}

/// Our ESP proposals as an SA payload.
pub fn offer_esp(ours: &[EspProposal], spi: u32, pfs: Pfs) -> Sa {
    let count = ours.len();
    offer(
        offered_esp(ours, pfs)
            .iter()
            .enumerate()
            .map(|(index, ours)| {
                let mut transforms = Vec::new();
                transforms.extend(ours.encryption.iter().map(|row| encryption(row)));
                transforms.extend(
                    ours.integrity
                        .iter()
                        .map(|row| plain(TransformType::INTEG, row.id)),
                );
                match pfs {
                    Pfs::Unnamed => {}
                    Pfs::AsProposed => {
                        transforms.extend(
                            ours.groups
                                .iter()
                                .map(|row| plain(TransformType::KE, row.id)),
                        );
                        transforms.extend(additional(&ours.additional));
                        // OpenIKED matches an alternative without a group only by an explicit NONE (RFC 7296 §3.3.2).
                        transforms.extend(
                            (index >= count).then(|| plain(TransformType::KE, METHOD_NONE)),
                        );
                    }
                }
                transforms.extend(
                    ours.esn
                        .iter()
                        .map(|esn| plain(TransformType::ESN, esn.id())),
                );
                (ProtocolId::ESP, spi.to_be_bytes().to_vec(), transforms)
            }),
    )
}

fn offer(proposals: impl Iterator<Item = (ProtocolId, Vec<u8>, Vec<Transform>)>) -> Sa {
    let proposals = (1u8..)
        .zip(proposals)
        .map(|(number, (protocol, spi, transforms))| {
            Proposal::new(number, protocol, spi, transforms)
        })
        .collect();
    Sa { proposals }
}

/// The responder's choice: a suite, and the initiator's proposal that contains it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen<S> {
    /// The suite.
    pub suite: S,
    /// The number of the initiator's proposal.
    pub number: u8,
    /// The SPI in that proposal.
    pub spi: Vec<u8>,
    /// Optional key exchanges of the proposal that are not performed: the response names NONE (RFC 7296 §2.7, RFC 9370 §2.2.1).
    pub declined: Vec<TransformType>,
}

/// Chooses an IKE suite from a peer's offer: the first of our proposals that matches any of the peer's, with the first of our
/// transforms of each type that the peer offers.
pub fn choose_ike(ours: &[IkeProposal], theirs: &Sa) -> Option<Chosen<IkeSuite>> {
    ours.iter().find_map(|ours| {
        usable(theirs, ProtocolId::IKE).find_map(|proposal| {
            let offer = Offer(proposal);
            let suite = IkeSuite {
                protection: offer.protection(&ours.encryption, &ours.integrity)?,
                prf: *ours
                    .prf
                    .iter()
                    .find(|row| offer.has(TransformType::PRF, row.id))?,
                group: *ours
                    .groups
                    .iter()
                    .find(|row| offer.has(TransformType::KE, row.id))?,
                additional: offer.additional(&ours.additional)?,
            };
            Some(Chosen {
                suite,
                number: proposal.number,
                spi: proposal.spi.clone(),
                declined: offer.declined(suite.additional),
            })
        })
    })
}

/// Chooses an ESP suite from a peer's offer. A group in IKE_AUTH is ignored, since that exchange has no KE payload. In
/// CREATE_CHILD_SA both sides must have a common group, or none.
pub fn choose_esp(ours: &[EspProposal], theirs: &Sa, pfs: Pfs) -> Option<Chosen<EspSuite>> {
    offered_esp(ours, pfs).iter().find_map(|ours| {
        usable(theirs, ProtocolId::ESP).find_map(|proposal| {
            let offer = Offer(proposal);
            let (group, additional, declined) = match pfs {
                Pfs::Unnamed => (None, None, Vec::new()),
                Pfs::AsProposed => {
                    let additional = offer.additional(&ours.additional)?;
                    let group = offer.method(TransformType::KE, &ours.groups)?;
                    let mut declined = offer.declined(additional);
                    // RFC 7296 §2.7: the response has one transform of each type in the proposal.
                    if group.is_none() && offer.has(TransformType::KE, METHOD_NONE) {
                        declined.push(TransformType::KE);
                    }
                    (group, additional, declined)
                }
            };
            let suite = EspSuite {
                protection: offer.protection(&ours.encryption, &ours.integrity)?,
                group,
                additional,
                esn: *ours.esn.iter().find(|esn| offer.has_esn(**esn))?,
            };
            Some(Chosen {
                suite,
                number: proposal.number,
                spi: proposal.spi.clone(),
                declined,
            })
        })
    })
}

/// The SA payload of the response: the initiator's proposal number, our SPI, one transform of each type.
pub fn ike_response(chosen: &Chosen<IkeSuite>, spi: &[u8]) -> Sa {
    let suite = chosen.suite;
    let mut transforms = protection(suite.protection);
    transforms.push(plain(TransformType::PRF, suite.prf.id));
    transforms.push(plain(TransformType::KE, suite.group.id));
    transforms.extend(additional(suite.additional.as_slice()));
    transforms.extend(chosen.declined.iter().map(|kind| plain(*kind, METHOD_NONE)));
    response(chosen.number, ProtocolId::IKE, spi.to_vec(), transforms)
}

/// The SA payload of the response for ESP.
pub fn esp_response(chosen: &Chosen<EspSuite>, spi: u32) -> Sa {
    let mut transforms = protection(chosen.suite.protection);
    transforms.extend(
        chosen
            .suite
            .group
            .map(|row| plain(TransformType::KE, row.id)),
    );
    transforms.extend(additional(chosen.suite.additional.as_slice()));
    transforms.extend(chosen.declined.iter().map(|kind| plain(*kind, METHOD_NONE)));
    transforms.push(plain(TransformType::ESN, chosen.suite.esn.id()));
    response(
        chosen.number,
        ProtocolId::ESP,
        spi.to_be_bytes().to_vec(),
        transforms,
    )
}

fn response(number: u8, protocol: ProtocolId, spi: Vec<u8>, transforms: Vec<Transform>) -> Sa {
    Sa {
        proposals: vec![Proposal::new(number, protocol, spi, transforms)],
    }
}

/// Reads the suite and the SPI, if any, from a response. `None` unless the response has exactly one transform of each type from
/// the proposal that it names (RFC 7296 §3.3.6).
pub fn accept_ike(ours: &[IkeProposal], response: &Sa) -> Option<Chosen<IkeSuite>> {
    let (proposal, number) = single(response, ProtocolId::IKE)?;
    let chosen = choose_ike(std::slice::from_ref(ours.get(number)?), response)?;
    let expected = [
        chosen.suite.protection.integrity.is_some(),
        chosen.suite.additional.is_some(),
    ];
    let expected = expected.map(usize::from).iter().sum::<usize>();
    let expected = expected.saturating_add(3);
    (counted(proposal) == expected).then_some(chosen)
}

/// The same for ESP; also returns the peer's SPI, which cannot be one of the 256 reserved ones (RFC 4303 §2.1).
pub fn accept_esp(ours: &[EspProposal], response: &Sa, pfs: Pfs) -> Option<(EspSuite, u32)> {
    let (proposal, number) = single(response, ProtocolId::ESP)?;
    let mut offered = offered_esp(ours, pfs);
    let named = (number < offered.len()).then(|| offered.swap_remove(number))?;
    let chosen = choose_esp(&[named], response, pfs)?;
    let mut expected: usize = if chosen.suite.protection.integrity.is_some() {
        2
    } else {
        1
    };
    for exchange in [chosen.suite.group, chosen.suite.additional] {
        expected = expected.saturating_add(usize::from(exchange.is_some()));
    }
    // A responder without extended sequence numbers may omit their transform.
    if proposal
        .transforms
        .iter()
        .any(|transform| transform.kind == TransformType::ESN)
    {
        expected = expected.saturating_add(1);
    }
    if counted(proposal) != expected {
        return None;
    }
    Some((chosen.suite, esp_spi(&chosen.spi).ok()?))
}

/// An ESP SPI in a proposal.
///
/// # Errors
/// The SPI is not four octets, or one of the 256 reserved ones (RFC 4303 §2.1).
pub fn esp_spi(octets: &[u8]) -> Result<u32, Error> {
    let spi = octets.try_into().map(u32::from_be_bytes);
    let invalid = || {
        Error::Incompatible(Incompatible::Spi {
            spi: octets.to_vec(),
        })
    };
    spi.ok().filter(|spi| *spi > 255).ok_or_else(invalid)
}

fn single(response: &Sa, protocol: ProtocolId) -> Option<(&Proposal, usize)> {
    match response.proposals.as_slice() {
        [proposal] if proposal.protocol == protocol => {
            Some((proposal, usize::from(proposal.number).checked_sub(1)?))
        }
        _ => None,
    }
}

/// Number of transforms in a response, without an explicit "no integrity" of an AEAD cipher or an explicit "no key exchange".
fn counted(proposal: &Proposal) -> usize {
    let is_none = |transform: &Transform| {
        transform.kind == TransformType::INTEG && transform.id == INTEG_NONE
            || (transform.kind == TransformType::KE || ADDITIONAL.contains(&transform.kind))
                && transform.id == METHOD_NONE
    };
    proposal
        .transforms
        .iter()
        .filter(|transform| !is_none(transform))
        .count()
}

fn encryption(row: &Encryption) -> Transform {
    Transform::new(TransformType::ENCR, row.id, row.key_bits)
}

fn plain(kind: TransformType, id: u16) -> Transform {
    Transform::new(kind, id, None)
}

fn additional(methods: &[&'static Group]) -> impl Iterator<Item = Transform> {
    methods
        .iter()
        .map(|row| plain(TransformType::ADDKE1, row.id))
}

fn protection(chosen: Protection) -> Vec<Transform> {
    let mut transforms = vec![encryption(chosen.encryption)];
    transforms.extend(
        chosen
            .integrity
            .map(|row| plain(TransformType::INTEG, row.id)),
    );
    transforms
}

#[cfg(test)]
mod tests;
