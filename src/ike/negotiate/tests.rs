//! Tests of negotiation: offers, choices, responses and what is rejected.

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
