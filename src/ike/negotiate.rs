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
mod tests {
    use super::*;
    use crate::ike::offer::without_additional;

    fn ike(words: &str) -> Vec<IkeProposal> {
        vec![IkeProposal::parse(words).unwrap().0]
    }

    fn esp(words: &str) -> Vec<EspProposal> {
        vec![EspProposal::parse(words).unwrap().0]
    }

    /// A peer's proposal with a change.
    fn theirs(words: &str, change: impl FnOnce(&mut Proposal)) -> Sa {
        let mut sa = offer_ike(&ike(words), &[]);
        change(&mut sa.proposals[0]);
        sa
    }

    #[test]
    fn our_own_offer_is_accepted_with_its_proposal_number() {
        let ours = [
            ike("aes128-sha1-modp1024"),
            ike("aes256gcm16-prfsha384-ecp384"),
        ]
        .concat();
        let mut offer = offer_ike(&ours, &[]);
        offer.proposals.remove(0);
        let chosen = choose_ike(&ours, &offer).unwrap();
        assert_eq!(chosen.number, 2);
        assert_eq!(chosen.suite.to_string(), "aes256gcm16-prfsha384-ecp384");
        assert_eq!(accept_ike(&ours, &ike_response(&chosen, &[])), Some(chosen));
    }

    #[test]
    fn an_additional_key_exchange_is_agreed_on_or_its_proposal_is_skipped() {
        let with = "aes256gcm16-prfsha384-ecp384-ke1_mlkem768";
        let without = "aes256gcm16-prfsha384-ecp384";
        let both = [ike(with), ike(without)].concat();
        for (ours, theirs, agreed, number) in [
            (ike(with), ike(with), Some(with), 1),
            (both.clone(), both.clone(), Some(with), 1),
            (both.clone(), ike(without), Some(without), 1),
            (ike(without), both.clone(), Some(without), 2),
            (ike(with), ike(without), None, 0),
            (ike(without), ike(with), None, 0),
        ] {
            let chosen = choose_ike(&ours, &offer_ike(&theirs, &[]));
            let suite = chosen.as_ref().map(|chosen| chosen.suite.to_string());
            assert_eq!(suite.as_deref(), agreed, "{ours:?} {theirs:?}");
            let Some(chosen) = chosen else { continue };
            assert_eq!(chosen.number, number);
            let response = ike_response(&chosen, &[]);
            assert_eq!(accept_ike(&theirs, &response), Some(chosen));
        }
        let alternatives = ike("aes256gcm16-prfsha384-ecp384-ke1_mlkem1024-ke1_mlkem768");
        let chosen = choose_ike(&ike(with), &offer_ike(&alternatives, &[])).unwrap();
        assert_eq!(chosen.suite.to_string(), with);
    }

    #[test]
    fn an_optional_additional_key_exchange_is_declined_in_the_response() {
        let with = "aes256gcm16-prfsha384-ecp384-ke1_mlkem768";
        let lenient = theirs(with, |proposal| {
            for kind in [TransformType::ADDKE1, TransformType::ADDKE3] {
                proposal.transforms.push(plain(kind, METHOD_NONE));
            }
        });
        let chosen = choose_ike(&ike("aes256gcm16-prfsha384-ecp384"), &lenient).unwrap();
        assert_eq!(chosen.suite.additional, None);
        let of_kind = |response: &Sa, kind| {
            let transforms = response.proposals[0].transforms.iter();
            let ids = transforms.filter(|row| row.kind == kind).map(|row| row.id);
            ids.collect::<Vec<_>>()
        };
        let response = ike_response(&chosen, &[]);
        assert_eq!(of_kind(&response, TransformType::ADDKE1), [METHOD_NONE]);
        assert_eq!(of_kind(&response, TransformType::ADDKE3), [METHOD_NONE]);

        let chosen = choose_ike(&ike(with), &lenient).unwrap();
        let response = ike_response(&chosen, &[]);
        assert_eq!(of_kind(&response, TransformType::ADDKE1), [36]);
        assert_eq!(of_kind(&response, TransformType::ADDKE3), [METHOD_NONE]);

        // A second additional key exchange is not supported.
        let strict = theirs(with, |proposal| {
            proposal.transforms.push(plain(TransformType::ADDKE2, 37));
        });
        assert_eq!(choose_ike(&ike(with), &strict), None);
    }

    #[test]
    fn proposals_that_require_ike_intermediate_are_ignored_without_support_for_it() {
        let with = "aes256gcm16-prfsha384-ecp384-ke1_mlkem768";
        let both = [ike(with), ike("aes256gcm16-prfsha384-ecp384")].concat();
        let left = without_additional(&offer_ike(&both, &[]));
        let numbers: Vec<u8> = left.proposals.iter().map(|row| row.number).collect();
        assert_eq!(numbers, [2]);
    }

    #[test]
    fn n08_a_response_with_more_or_fewer_transforms_than_offered_is_rejected() {
        let with = ike("aes256gcm16-prfsha384-ecp384-ke1_mlkem768-ke1_mlkem1024");
        let chosen = choose_ike(&with, &offer_ike(&with, &[])).unwrap();
        let good = ike_response(&chosen, &[]);
        assert!(accept_ike(&with, &good).is_some());
        let changed = |change: &dyn Fn(&mut Vec<Transform>)| {
            let mut response = good.clone();
            change(&mut response.proposals[0].transforms);
            response
        };
        for bad in [
            changed(&|rows| rows.retain(|row| row.kind != TransformType::ADDKE1)),
            changed(&|rows| rows.push(plain(TransformType::ADDKE1, 37))),
            changed(&|rows| rows.push(plain(TransformType::ADDKE2, 36))),
        ] {
            assert_eq!(accept_ike(&with, &bad), None, "{bad:?}");
        }
        let without = ike("aes256gcm16-prfsha384-ecp384");
        assert_eq!(accept_ike(&without, &good), None);
    }

    #[test]
    fn a_child_sa_has_an_additional_key_exchange_only_with_pfs() {
        let ours = esp("aes256gcm16-ecp384-ke1_mlkem768");
        let suite = |pfs| {
            let chosen = choose_esp(&ours, &offer_esp(&ours, 0x1000, pfs), pfs).unwrap();
            let response = esp_response(&chosen, 0x2000);
            let accepted = accept_esp(&ours, &response, pfs).unwrap();
            assert_eq!(accepted, (chosen.suite, 0x2000));
            chosen.suite.to_string()
        };
        assert_eq!(suite(Pfs::Unnamed), "aes256gcm16");
        assert_eq!(suite(Pfs::AsProposed), "aes256gcm16-ecp384-ke1_mlkem768");
    }

    #[test]
    fn n03_an_unknown_attribute_disables_a_transform_and_an_unknown_type_its_proposal() {
        let ours = ike("aes128-sha256-curve25519");
        let attribute = theirs("aes128-sha256-curve25519", |proposal| {
            proposal.transforms[0].unknown_attributes = vec![0x80, 0x63, 0, 1];
        });
        assert_eq!(choose_ike(&ours, &attribute), None);
        let kind = theirs("aes128-sha256-curve25519", |proposal| {
            proposal.transforms.push(plain(TransformType(99), 1));
        });
        assert_eq!(choose_ike(&ours, &kind), None);
        for bits in [None, Some(0), Some(1), Some(65_535)] {
            let length = theirs("aes128-sha256-curve25519", |proposal| {
                proposal.transforms[0].key_bits = bits;
            });
            assert_eq!(choose_ike(&ours, &length), None, "{bits:?}");
        }
    }

    #[test]
    fn n04_a_proposal_with_a_missing_type_or_an_aead_with_integrity_is_not_chosen() {
        let ours = ike("aes128-sha256-curve25519");
        for kind in [
            TransformType::ENCR,
            TransformType::INTEG,
            TransformType::PRF,
            TransformType::KE,
        ] {
            let cut = theirs("aes128-sha256-curve25519", |proposal| {
                proposal
                    .transforms
                    .retain(|transform| transform.kind != kind);
            });
            assert_eq!(choose_ike(&ours, &cut), None, "{kind}");
        }
        let ours = ike("aes128gcm16-prfsha256-curve25519");
        let both = |id| {
            theirs("aes128gcm16-prfsha256-curve25519", |proposal| {
                proposal.transforms.push(plain(TransformType::INTEG, id));
            })
        };
        assert_eq!(choose_ike(&ours, &both(12)), None);
        assert!(
            choose_ike(&ours, &both(INTEG_NONE)).is_some(),
            "an explicit none is allowed"
        );
    }

    #[test]
    fn p08_a_response_with_anything_not_offered_is_rejected() {
        let ours = esp("aes128-sha256");
        let chosen = choose_esp(
            &ours,
            &offer_esp(&ours, 0x1234_5678, Pfs::Unnamed),
            Pfs::Unnamed,
        )
        .unwrap();
        let good = esp_response(&chosen, 0xabcd_0000);
        assert_eq!(
            accept_esp(&ours, &good, Pfs::Unnamed).map(|(_, spi)| spi),
            Some(0xabcd_0000)
        );
        let bad = |change: &dyn Fn(&mut Sa)| {
            let mut response = good.clone();
            change(&mut response);
            assert_eq!(
                accept_esp(&ours, &response, Pfs::Unnamed),
                None,
                "{response:?}"
            );
        };
        bad(&|sa| sa.proposals[0].number = 2);
        bad(&|sa| sa.proposals[0].number = 0);
        bad(&|sa| sa.proposals.push(good.proposals[0].clone()));
        bad(&|sa| sa.proposals[0].protocol = ProtocolId::AH);
        bad(&|sa| sa.proposals[0].spi = vec![0, 0, 0, 255]);
        bad(&|sa| sa.proposals[0].spi = vec![0; 4]);
        bad(&|sa| sa.proposals[0].spi.clear());
        bad(&|sa| sa.proposals[0].transforms[0].key_bits = Some(256));
        bad(&|sa| {
            sa.proposals[0]
                .transforms
                .push(plain(TransformType::INTEG, 2))
        });
        bad(&|sa| {
            sa.proposals[0]
                .transforms
                .push(plain(TransformType::KE, 14))
        });
    }

    #[test]
    fn a_group_in_the_esp_offer_of_ike_auth_is_ignored() {
        let ours = esp("aes128-sha1-modp1024");
        let mut offer = offer_esp(&ours, 0x1234_5678, Pfs::Unnamed);
        assert!(
            offer.proposals[0]
                .transforms
                .iter()
                .all(|transform| transform.kind != TransformType::KE)
        );
        offer.proposals[0]
            .transforms
            .push(plain(TransformType::KE, 14));
        assert_eq!(
            choose_esp(&ours, &offer, Pfs::Unnamed)
                .unwrap()
                .suite
                .to_string(),
            "aes128-sha1"
        );
    }

    #[test]
    fn a_peers_proposal_is_printed_in_configuration_words_and_unknown_ids_as_numbers() {
        let known = offer_ike(&ike("aes256-sha256-modp2048"), &[]);
        assert_eq!(words_of_all(&known, 3), "aes256-sha256-modp2048");
        let several = theirs("aes256gcm16-prfsha384-ecp384-ke1_mlkem768", |proposal| {
            proposal.transforms.push(plain(TransformType::ADDKE1, 0));
            proposal.transforms.push(plain(TransformType::ADDKE2, 31));
        });
        assert_eq!(
            words_of_all(&several, 3),
            "aes256gcm16-prfsha384-ecp384-ke1_mlkem768-ke1_none-ke2_curve25519"
        );
        let strange = theirs("aes128gcm16-prfsha256-curve25519", |proposal| {
            proposal.transforms[0].id = 23;
        });
        assert_eq!(words_of_all(&strange, 3), "encr(23)-prfsha256-curve25519");
    }

    #[test]
    fn a_pfs_group_must_be_common_or_absent_on_both_sides() {
        let chosen = |ours: &str, theirs: &str| {
            let offer = offer_esp(&esp(theirs), 0x1000, Pfs::AsProposed);
            let ours = esp(ours);
            let chosen = choose_esp(&ours, &offer, Pfs::AsProposed)?;
            let response = esp_response(&chosen, 0x2000);
            let accepted = accept_esp(&esp(theirs), &response, Pfs::AsProposed);
            assert_eq!(accepted, Some((chosen.suite, 0x2000)));
            Some(chosen.suite.to_string())
        };
        let with = "aes128-sha256-modp2048-curve25519";
        assert_eq!(
            chosen("aes128-sha256-curve25519", with).as_deref(),
            Some("aes128-sha256-curve25519")
        );
        assert_eq!(
            chosen("aes128-sha256", "aes128-sha256").as_deref(),
            Some("aes128-sha256")
        );
        assert_eq!(chosen("aes128-sha256", with), None);
        assert_eq!(chosen(with, "aes128-sha256"), None);
        assert_eq!(chosen("aes128-sha256-ecp384", with), None);
    }

    /// RFC 7296 §2.7, §3.3.2: OpenIKED offers NONE as the only group of a rekey, and accepts no response without it.
    #[test]
    fn an_explicit_offer_of_no_group_gets_an_explicit_response() {
        let esp = |words: &str| vec![EspProposal::parse(words).unwrap().0];
        let none = plain(TransformType::KE, METHOD_NONE);
        let mut theirs = offer_esp(&esp("aes128gcm16"), 0x1000, Pfs::AsProposed);
        theirs.proposals[0].transforms.push(none.clone());
        for ours in ["aes128gcm16-curve25519-nopfs", "aes128gcm16"] {
            let chosen = choose_esp(&esp(ours), &theirs, Pfs::AsProposed).unwrap();
            assert_eq!(chosen.suite.group, None);
            let response = esp_response(&chosen, 0x2000);
            assert!(response.proposals[0].transforms.contains(&none), "{ours}");
        }
        let required = esp("aes128gcm16-curve25519");
        assert_eq!(choose_esp(&required, &theirs, Pfs::AsProposed), None);
    }

    #[test]
    fn a_group_is_preferred_to_none_whatever_the_order_of_the_peer() {
        let esp = |words: &[&str]| -> Vec<EspProposal> {
            let parse = |words: &&str| EspProposal::parse(words).unwrap().0;
            words.iter().map(parse).collect()
        };
        let ours = esp(&[
            "aes256gcm16-curve25519-nopfs",
            "aes256-sha256-curve25519-nopfs",
        ]);
        for (theirs, group) in [
            (
                esp(&["aes256gcm16", "aes256-sha256-curve25519"]),
                Some("curve25519"),
            ),
            (esp(&["aes256gcm16-curve25519-nopfs"]), Some("curve25519")),
            (esp(&["aes256-sha256"]), None),
        ] {
            let offer = offer_esp(&theirs, 0x1000, Pfs::AsProposed);
            let chosen = choose_esp(&ours, &offer, Pfs::AsProposed).unwrap();
            assert_eq!(chosen.suite.group.map(|group| group.word), group);
            let response = esp_response(&chosen, 0x2000);
            let accepted = accept_esp(&theirs, &response, Pfs::AsProposed).unwrap();
            assert_eq!(accepted, (chosen.suite, 0x2000));
        }
    }
}
