//! Closest pair of two lists of proposals without a common one, and the configuration that would make it match.

use std::fmt;

use super::offer::{Offer, usable};
use crate::crypto::{
    ADDITIONAL, AlgorithmStatus, ENCRYPTION, Encryption, Esn, EspProposal, GROUP, Group, INTEGRITY,
    IkeProposal, IkeSuite, Integrity, PRF, PfsDemand, Protection,
};
use crate::wire::{ProtocolId, Sa, TransformType};

/// The peer's proposal that is closest to one of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClosestProposal {
    /// The kinds of algorithm without a common one.
    differ: Vec<&'static str>,
    /// The closest suite that the peer would accept, in configuration words.
    pub words: String,
}

impl fmt::Display for ClosestProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "differs in {}", self.differ.join(" and "))
    }
}

/// The closest IKE proposal; `None` if each of theirs needs an algorithm that we do not have.
pub fn ike(ours: &[IkeProposal], theirs: &Sa) -> Option<ClosestProposal> {
    closest(theirs, ProtocolId::IKE, ours, |ours, offer, differ| {
        let protection = protection(&ours.encryption, &ours.integrity, offer, differ)?;
        let suite = IkeSuite {
            protection,
            prf: agree("PRF", &ours.prf, PRF, differ, |row| {
                offer.has(TransformType::PRF, row.id)
            })?,
            group: agree("group", &ours.groups, GROUP, differ, |row| {
                offer.has(TransformType::KE, row.id)
            })?,
            additional: additional(&ours.additional, offer, differ),
        };
        Some(suite.to_string())
    })
}

/// The closest ESP proposal, without the PFS group: IKE_AUTH does not show the peer's.
pub fn esp(ours: &[EspProposal], theirs: &Sa) -> Option<ClosestProposal> {
    closest(theirs, ProtocolId::ESP, ours, |ours, offer, differ| {
        let protection = protection(&ours.encryption, &ours.integrity, offer, differ)?;
        if !ours.esn.iter().any(|esn| offer.has_esn(*esn)) {
            differ.push("sequence numbers");
        }
        Some(esp_words(protection, ours, offer))
    })
}

/// The configuration that lets a peer rekey that proposes another PFS group, or none, and nothing else that differs; `None` if we have none of its groups.
pub fn pfs(ours: &[EspProposal], theirs: &Sa) -> Option<String> {
    usable(theirs, ProtocolId::ESP).find_map(|proposal| {
        let offer = Offer(proposal);
        ours.iter().find_map(|ours| {
            let protection = offer.protection(&ours.encryption, &ours.integrity)?;
            ours.esn.iter().find(|esn| offer.has_esn(**esn))?;
            if offer.method(TransformType::KE, &[]).is_some() {
                let pfs = match ours.groups.is_empty() {
                    true => PfsDemand::Required,
                    false => PfsDemand::Optional,
                };
                return Some(esp_words(
                    protection,
                    &EspProposal {
                        pfs,
                        ..ours.clone()
                    },
                    &offer,
                ));
            }
            let group = GROUP
                .iter()
                .find(|row| {
                    row.status == AlgorithmStatus::Secure && offer.has(TransformType::KE, row.id)
                })
                .or_else(|| {
                    GROUP
                        .iter()
                        .find(|row| offer.has(TransformType::KE, row.id))
                })?;
            let groups = vec![group];
            let additional = Vec::new();
            Some(esp_words(
                protection,
                &EspProposal {
                    groups,
                    additional,
                    ..ours.clone()
                },
                &offer,
            ))
        })
    })
}

/// A proposal with this protection and the key exchanges of another one, in configuration words.
fn esp_words(protection: Protection, of: &EspProposal, offer: &Offer<'_>) -> String {
    let mut esn = of.esn.iter().chain(&[Esn::No, Esn::Yes]);
    let esn = esn.find(|esn| offer.has_esn(**esn)).copied();
    EspProposal {
        encryption: vec![protection.encryption],
        integrity: protection.integrity.into_iter().collect(),
        groups: of.groups.first().copied().into_iter().collect(),
        additional: of.additional.first().copied().into_iter().collect(),
        pfs: of.pfs,
        esn: vec![esn.unwrap_or(Esn::No)],
    }
    .to_string()
}

fn closest<P>(
    theirs: &Sa,
    protocol: ProtocolId,
    ours: &[P],
    compare: impl Fn(&P, &Offer<'_>, &mut Vec<&'static str>) -> Option<String>,
) -> Option<ClosestProposal> {
    let mut found: Option<ClosestProposal> = None;
    for proposal in usable(theirs, protocol) {
        for ours in ours {
            let mut differ = Vec::new();
            let Some(words) = compare(ours, &Offer(proposal), &mut differ) else {
                continue;
            };
            let nearer = found
                .as_ref()
                .is_none_or(|found| differ.len() < found.differ.len());
            // A closest pair without a difference would have been chosen.
            if nearer && !differ.is_empty() {
                found = Some(ClosestProposal { differ, words });
            }
        }
    }
    found
}

fn protection(
    encryption: &[&'static Encryption],
    integrity: &[&'static Integrity],
    offer: &Offer<'_>,
    differ: &mut Vec<&'static str>,
) -> Option<Protection> {
    let cipher = agree("encryption", encryption, ENCRYPTION, differ, |row| {
        offer.has_encryption(row)
    })?;
    let integrity = if cipher.is_aead() {
        None
    } else {
        Some(agree("integrity", integrity, INTEGRITY, differ, |row| {
            offer.has(TransformType::INTEG, row.id)
        })?)
    };
    Some(Protection {
        encryption: cipher,
        integrity,
    })
}

/// The additional key exchange of the peer's proposal.
fn additional(
    ours: &[&'static Group],
    offer: &Offer<'_>,
    differ: &mut Vec<&'static str>,
) -> Option<&'static Group> {
    offer.additional(ours).unwrap_or_else(|| {
        differ.push("additional key exchange");
        ADDITIONAL
            .iter()
            .find(|row| offer.has(TransformType::ADDKE1, row.id))
    })
}

/// The row that both sides have; else one that only the peer has, recorded as a difference.
fn agree<R>(
    kind: &'static str,
    ours: &[&'static R],
    all: &'static [R],
    differ: &mut Vec<&'static str>,
    has: impl Fn(&R) -> bool,
) -> Option<&'static R> {
    if let Some(common) = ours.iter().find(|row| has(row)) {
        return Some(common);
    }
    differ.push(kind);
    all.iter().find(|row| has(row))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ike::negotiate::{Pfs, offer_esp, offer_ike};

    fn proposals(words: &[&str]) -> Vec<IkeProposal> {
        words
            .iter()
            .map(|words| IkeProposal::parse(words).unwrap().0)
            .collect()
    }

    #[test]
    fn the_pair_with_the_fewest_differences_is_reported_with_its_configuration() {
        let ours = proposals(&["aes128-sha1-modp1024"]);
        let theirs = offer_ike(
            &proposals(&[
                "aes256gcm16-prfsha384-ecp384",
                "aes256-aes128-sha1-modp2048",
                "aes256-sha512-modp4096",
            ]),
            &[],
        );
        let closest = ike(&ours, &theirs).unwrap();
        assert_eq!(closest.words, "aes128-sha1-modp2048");
        assert_eq!(closest.to_string(), "differs in group");
    }

    #[test]
    fn several_differences_are_all_named() {
        let ours = proposals(&["aes128gcm16-prfsha256-curve25519"]);
        let theirs = offer_ike(&proposals(&["aes128-sha256-modp2048"]), &[]);
        let closest = ike(&ours, &theirs).unwrap();
        assert_eq!(closest.words, "aes128-sha256-modp2048");
        assert_eq!(
            closest.to_string(),
            "differs in encryption and integrity and group"
        );
    }

    #[test]
    fn an_additional_key_exchange_that_one_side_lacks_is_named() {
        let (with, without) = (
            "aes256gcm16-prfsha384-ecp384-ke1_mlkem768",
            "aes256gcm16-prfsha384-ecp384",
        );
        for (ours, theirs) in [(with, without), (without, with)] {
            let theirs_offered = offer_ike(&proposals(&[theirs]), &[]);
            let closest = ike(&proposals(&[ours]), &theirs_offered).unwrap();
            assert_eq!(closest.words, theirs);
            assert_eq!(closest.to_string(), "differs in additional key exchange");
        }
    }

    #[test]
    fn unsupported_algorithms_are_not_advised() {
        let ours = proposals(&["aes128-sha1-modp1024"]);
        let mut theirs = offer_ike(&proposals(&["aes128-sha1-modp2048"]), &[]);
        theirs.proposals[0].transforms[0].id = 23;
        assert_eq!(ike(&ours, &theirs), None);
        theirs.proposals.clear();
        assert_eq!(ike(&ours, &theirs), None);
    }

    #[test]
    fn the_advice_for_a_pfs_mismatch_is_a_proposal_that_the_peer_matches() {
        let list = |words: &[&str]| -> Vec<EspProposal> {
            let parse = |words: &&str| EspProposal::parse(words).unwrap().0;
            words.iter().map(parse).collect()
        };
        let ours = list(&[
            "aes256gcm16-curve25519-noesn-esn",
            "aes256-sha256-curve25519",
        ]);
        for (theirs, advised) in [
            (&["aes256gcm16-modp2048-ecp256"][..], "aes256gcm16-modp2048"),
            (&["aes256gcm16"], "aes256gcm16-curve25519-nopfs"),
            (
                &["aes128gcm16-modp2048", "aes256-sha256-modp1024"],
                "aes256-sha256-modp1024",
            ),
            (&["aes256gcm16-modp2048-esn"], "aes256gcm16-modp2048-esn"),
        ] {
            let mut theirs = offer_esp(&list(theirs), 0x1000, Pfs::AsProposed);
            // A cipher of which this version knows nothing.
            let unknown = crate::wire::Transform::new(TransformType::ENCR, 23, None);
            theirs.proposals[0].transforms.insert(0, unknown);
            let words = pfs(&ours, &theirs).unwrap();
            assert_eq!(words, advised);
            let edited = list(&[&words]);
            assert!(crate::ike::negotiate::choose_esp(&edited, &theirs, Pfs::AsProposed).is_some());
        }
    }

    #[test]
    fn of_esp_our_own_pfs_group_is_kept() {
        let esp_words = |words: &str| vec![EspProposal::parse(words).unwrap().0];
        let theirs = offer_esp(&esp_words("aes256-sha256"), 0x1000, Pfs::Unnamed);
        let closest = esp(&esp_words("aes128-sha256-modp2048"), &theirs).unwrap();
        assert_eq!(closest.words, "aes256-sha256-modp2048");
        assert_eq!(closest.to_string(), "differs in encryption");
        let theirs = offer_esp(&esp_words("aes256gcm16-esn"), 0x1000, Pfs::Unnamed);
        let closest = esp(&esp_words("aes256gcm16"), &theirs).unwrap();
        assert_eq!(closest.words, "aes256gcm16-esn");
        assert_eq!(closest.to_string(), "differs in sequence numbers");
    }
}
