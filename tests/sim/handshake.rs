//! IKE_SA_INIT and IKE_AUTH: success, errors, and every kind of loss, delay and duplication.

use std::time::Duration;

use groundlink::crypto::{EspProposal, IkeProposal, Secret};
use groundlink::ike::{
    Command, Identity, NatLocation, PeerId, Psk, Role, Settings, Start, TunnelState,
};
use groundlink::net::Prefix;

use crate::pair::{LATENCY, Pair, Side, TUNNEL, settings};

fn ike(words: &[&str]) -> Vec<IkeProposal> {
    words
        .iter()
        .map(|words| IkeProposal::parse(words).unwrap().0)
        .collect()
}

fn esp(words: &[&str]) -> Vec<EspProposal> {
    words
        .iter()
        .map(|words| EspProposal::parse(words).unwrap().0)
        .collect()
}

fn prefixes(texts: &[&str]) -> Vec<groundlink::net::Selector> {
    texts
        .iter()
        .map(|text| text.parse::<Prefix>().unwrap().into())
        .collect()
}

fn with(side: Side, change: impl FnOnce(&mut Settings)) -> Settings {
    let mut settings = settings(side);
    change(&mut settings);
    settings
}

#[test]
fn four_messages_establish_a_tunnel_with_the_same_sas_on_both_sides() {
    let pair = Pair::established();
    assert_eq!(pair.a.sent.len(), 2);
    assert_eq!(pair.b.sent.len(), 2);
    assert_eq!(pair.a.view().ike.unwrap().role, Role::Initiator);
    assert_eq!(pair.b.view().ike.unwrap().role, Role::Responder);
}

#[test]
fn forced_encapsulation_moves_everything_after_the_first_exchange_to_port_4500() {
    let pair = Pair::established();
    let ports: Vec<u16> = pair
        .a
        .sent
        .iter()
        .map(|transmit| transmit.remote.port())
        .collect();
    assert_eq!(ports, [500, 4500]);
    assert_eq!(pair.a.view().ike.unwrap().nat, NatLocation::Forced);
    assert_eq!(pair.b.view().ike.unwrap().nat, NatLocation::Forced);
    assert_eq!(pair.a.children[0].remote.port(), 4500);
    assert_eq!(pair.b.children[0].remote.port(), 4500);
}

#[test]
fn every_kind_of_suite_gives_the_same_keys_on_both_sides() {
    for (ike_words, esp_words) in [
        ("aes128-sha1-modp1024", "aes128-sha1-modp1024"),
        ("aes256-sha256-ecp256", "aes256-sha256"),
        ("aes128gcm16-prfsha256-curve25519", "aes128gcm16"),
        ("aes256gcm16-prfsha384-ecp384", "aes256gcm16-ecp384"),
        ("aes192-sha512-ecp521", "aes192-sha512"),
        ("chacha20poly1305-prfsha256-curve25519", "chacha20poly1305"),
        ("3des-sha1-modp1536", "3des-sha1"),
    ] {
        let set = |side| {
            with(side, |settings| {
                settings.ike = ike(&[ike_words]);
                settings.esp = esp(&[esp_words]);
            })
        };
        let mut pair = Pair::new(set(Side::A), set(Side::B));
        pair.run_for(Duration::from_secs(1));
        pair.assert_agreed();
        assert_eq!(pair.a.view().ike.unwrap().suite.to_string(), ike_words);
    }
}

#[test]
fn invalid_ke_payload_is_answered_with_the_requested_group() {
    let a = with(Side::A, |settings| {
        settings.ike = ike(&["aes128-sha256-modp1024-curve25519"])
    });
    let mut pair = Pair::new(a, settings(Side::B));
    pair.run_for(Duration::from_secs(1));
    pair.assert_agreed();
    assert_eq!(pair.a.sent.len(), 3, "one more IKE_SA_INIT");
    assert!(pair.a.codes().is_empty() && pair.b.codes().is_empty());
}

#[test]
fn the_responders_order_of_proposals_decides() {
    let a = with(Side::A, |settings| {
        settings.ike = ike(&["aes128-sha256-curve25519", "aes256-sha512-curve25519"]);
        settings.esp = esp(&["aes128-sha256", "aes256gcm16"]);
    });
    let b = with(Side::B, |settings| {
        settings.ike = ike(&["aes256-sha512-curve25519", "aes128-sha256-curve25519"]);
        settings.esp = esp(&["aes256gcm16", "aes128-sha256"]);
    });
    let mut pair = Pair::new(a, b);
    pair.run_for(Duration::from_secs(1));
    pair.assert_agreed();
    assert_eq!(
        pair.a.view().ike.unwrap().suite.to_string(),
        "aes256-sha512-curve25519"
    );
    assert_eq!(
        pair.a.view().child.unwrap().suite.to_string(),
        "aes256gcm16"
    );
}

#[test]
fn p03_selectors_are_narrowed_to_the_intersection_and_never_widened() {
    let a = with(Side::A, |settings| {
        settings.policy.local = prefixes(&["10.1.0.0/16", "10.9.0.0/24"]);
        settings.policy.remote = prefixes(&["0.0.0.0/0"]);
    });
    let b = with(Side::B, |settings| {
        settings.policy.local = prefixes(&["10.2.0.0/24", "10.3.0.0/24"]);
        settings.policy.remote = prefixes(&["10.1.0.0/24"]);
    });
    let mut pair = Pair::new(a, b);
    pair.run_for(Duration::from_secs(1));
    pair.assert_agreed();
    let policy = &pair.a.children[0].policy;
    assert_eq!(policy.local, prefixes(&["10.1.0.0/24"]));
    assert_eq!(policy.remote, prefixes(&["10.2.0.0/24", "10.3.0.0/24"]));
}

#[test]
fn a_wrong_psk_is_reported_on_both_sides_and_retried() {
    let b = with(Side::B, |settings| {
        settings.psk = Psk(Secret::from_slice(b"another key"))
    });
    let mut pair = Pair::new(settings(Side::A), b);
    pair.run_for(Duration::from_millis(400));
    assert_eq!(pair.a.codes(), ["authentication-failed"]);
    assert_eq!(pair.b.codes(), ["authentication-failed"]);
    assert_eq!(pair.a.state(), TunnelState::Connecting);
    let first = pair.a.sent.len();
    pair.run_for(Duration::from_secs(60));
    assert!(pair.a.sent.len() > first, "it keeps trying");
    assert!(pair.a.sent.len() < first + 30, "but not without pauses");
    assert!(pair.a.children.is_empty() && pair.b.children.is_empty());
}

#[test]
fn n21_the_right_key_with_another_identity_is_rejected_and_both_identities_are_reported() {
    let b = with(Side::B, |settings| {
        settings.peer_id = PeerId::Exactly(Identity::Fqdn("office.example.org".to_owned()));
    });
    let mut pair = Pair::new(settings(Side::A), b);
    pair.run_for(Duration::from_millis(400));
    assert_eq!(pair.b.codes(), ["peer-id-mismatch"]);
    let failure = &pair.b.failures[0];
    assert!(
        failure.text.contains("192.0.2.1") && failure.text.contains("office.example.org"),
        "{failure:?}"
    );
    assert_eq!(pair.a.codes(), ["authentication-failed"]);

    // The initiator expects another responder: it has to delete the IKE SA, which the responder considers established.
    let a = with(Side::A, |settings| {
        settings.peer_id = PeerId::Exactly(Identity::Fqdn("cloud.example.org".to_owned()));
    });
    let mut pair = Pair::new(a, settings(Side::B));
    pair.run_for(Duration::from_secs(1));
    assert_eq!(pair.a.codes()[0], "peer-id-mismatch");
    assert_eq!(pair.b.codes()[0], "authentication-failed");
    assert!(pair.b.children.is_empty(), "{:?}", pair.b.events);
    assert_ne!(pair.b.state(), TunnelState::Up);
}

#[test]
fn n21_the_same_octets_with_another_id_type_are_another_identity() {
    let a = with(Side::A, |settings| {
        settings.id = Identity::KeyId(b"gw".to_vec())
    });
    let b = with(Side::B, |settings| {
        settings.peer_id = PeerId::Exactly(Identity::Fqdn("gw".to_owned()))
    });
    let mut pair = Pair::new(a, b);
    pair.run_for(Duration::from_secs(1));
    assert_eq!(pair.b.codes(), ["peer-id-mismatch"]);
}

#[test]
fn without_a_common_ike_proposal_both_sides_report_both_offers() {
    let b = with(Side::B, |settings| {
        settings.ike = ike(&["aes256-sha512-modp2048"])
    });
    let mut pair = Pair::new(settings(Side::A), b);
    pair.run_for(Duration::from_secs(5));
    assert_eq!(pair.a.codes()[0], "no-proposal-chosen");
    assert_eq!(pair.b.codes()[0], "no-proposal-chosen");
    let advice = &pair.b.failures[0].advice;
    assert!(
        advice.contains("`ike = \"aes128-sha256-curve25519\"`"),
        "{advice}"
    );
    let text = &pair.b.failures[0].text;
    assert!(
        text.contains("aes128-sha256-curve25519") && text.contains("aes256-sha512-modp2048"),
        "{text}"
    );
}

#[test]
fn without_a_common_esp_proposal_the_ike_sa_is_deleted() {
    let b = with(Side::B, |settings| settings.esp = esp(&["aes256gcm16"]));
    let mut pair = Pair::new(settings(Side::A), b);
    pair.run_for(Duration::from_secs(2));
    assert_eq!(pair.a.codes()[0], "no-proposal-chosen-esp");
    assert_eq!(pair.b.codes()[0], "no-proposal-chosen-esp");
    // The deletion of the IKE SA that follows is not a new failure and must not replace the cause.
    for node in [&pair.a, &pair.b] {
        let last = node.view().last_failure.map(|failure| failure.code);
        assert_eq!(last, Some("no-proposal-chosen-esp"), "{:?}", node.codes());
    }
    assert!(pair.a.children.is_empty() && pair.b.children.is_empty());
    pair.command(Side::A, Command::Down(TUNNEL));
    pair.run_for(Duration::from_secs(5));
    assert!(pair.a.endpoint.is_idle() && pair.b.endpoint.is_idle());
}

#[test]
fn p03_disjoint_selectors_get_ts_unacceptable() {
    let b = with(Side::B, |settings| {
        settings.policy.local = prefixes(&["10.77.0.0/24"])
    });
    let mut pair = Pair::new(settings(Side::A), b);
    pair.run_for(Duration::from_secs(2));
    assert_eq!(pair.a.codes()[0], "ts-unacceptable");
    assert_eq!(pair.b.codes()[0], "ts-unacceptable");
    assert!(pair.b.failures[0].text.contains("10.77.0.0/24"));
}

#[test]
fn an_unresponsive_peer_is_reported_early_and_retried_with_backoff() {
    let mut pair = Pair::new(settings(Side::A), settings(Side::B));
    pair.cut();
    pair.run_for(Duration::from_secs(8));
    assert_eq!(
        pair.a.view().last_failure.unwrap().code,
        "peer-not-responding"
    );
    assert_eq!(pair.a.state(), TunnelState::Connecting);
    pair.run_for(Duration::from_secs(12 * 3600));
    let per_hour = pair.a.sent.len() / 12;
    assert!(
        (60..600).contains(&per_hour),
        "{per_hour} datagrams an hour"
    );
    assert!(pair.a.failures.len() < 12 * 60 * 2);
    pair.no_impairment();
    pair.run_for(Duration::from_secs(120));
    pair.assert_agreed();
}

#[test]
fn retransmissions_are_identical_and_get_the_same_response() {
    let mut pair = Pair::new(settings(Side::A), settings(Side::B));
    let mut dropped = 0;
    // The first response of B is lost twice.
    pair.impairment(move |side, _| {
        if side == Side::B && dropped < 2 {
            dropped += 1;
            return Vec::new();
        }
        vec![LATENCY]
    });
    pair.run_for(Duration::from_secs(10));
    pair.assert_agreed();
    assert_eq!(pair.b.sent[0], pair.b.sent[1]);
    assert_eq!(pair.b.sent[1], pair.b.sent[2]);
}

#[test]
fn the_tunnel_comes_up_when_any_single_message_is_lost_once() {
    for lost in 0..4 {
        let mut pair = Pair::new(settings(Side::A), settings(Side::B));
        let mut seen = 0;
        pair.impairment(move |_, _| {
            seen += 1;
            if seen == lost {
                Vec::new()
            } else {
                vec![LATENCY]
            }
        });
        pair.run_for(Duration::from_secs(20));
        pair.assert_agreed();
    }
}

#[test]
fn duplicates_and_late_copies_of_every_message_change_nothing() {
    let mut pair = Pair::new(settings(Side::A), settings(Side::B));
    pair.impairment(|_, _| {
        vec![
            LATENCY,
            LATENCY * 2,
            Duration::from_secs(3),
            Duration::from_secs(40),
        ]
    });
    pair.run_for(Duration::from_secs(200));
    pair.assert_agreed();
    assert_eq!((pair.a.count("ChildUp"), pair.b.count("ChildUp")), (1, 1));
}

#[test]
fn heavy_random_loss_delay_and_duplication_converge_on_one_tunnel() {
    for seed in 0..60u8 {
        let mut pair = Pair::with_seeds(
            settings(Side::A),
            settings(Side::B),
            (seed, seed.wrapping_add(100)),
        );
        let mut chance = groundlink::crypto::Generator::from_seed([seed ^ 0x5a; 32]);
        pair.impairment(move |_, _| {
            let copies = match chance.below(10) {
                0..3 => 0,
                3..5 => 2,
                _ => 1,
            };
            (0..copies)
                .map(|_| Duration::from_millis(chance.below(800)))
                .collect()
        });
        pair.run_for(Duration::from_secs(120));
        pair.no_impairment();
        pair.run_for(Duration::from_secs(180));
        pair.assert_agreed();
    }
}

#[test]
fn p11_simultaneous_initiation_leaves_one_sa_whichever_side_wins() {
    let mut winners = std::collections::BTreeSet::new();
    for seed in 0..20u8 {
        let b = with(Side::B, |settings| settings.start = Start::Auto);
        let mut pair = Pair::with_seeds(settings(Side::A), b, (seed, seed.wrapping_add(77)));
        pair.run_for(Duration::from_secs(40));
        pair.assert_agreed();
        let ike = pair.a.view().ike.unwrap();
        assert_eq!(ike.spi_i, pair.b.view().ike.unwrap().spi_i);
        winners.insert(ike.role == Role::Initiator);
        let before = (pair.a.events.len(), pair.b.events.len());
        pair.run_for(Duration::from_secs(3600));
        assert_eq!(
            (pair.a.events.len(), pair.b.events.len()),
            before,
            "no flapping"
        );
        assert!(pair.a.codes().is_empty() && pair.b.codes().is_empty());
    }
    assert_eq!(winners.len(), 2, "each side wins sometimes");
}

#[test]
fn simultaneous_initiation_with_loss_converges() {
    for seed in 0..30u8 {
        let b = with(Side::B, |settings| settings.start = Start::Auto);
        let mut pair = Pair::with_seeds(settings(Side::A), b, (seed, seed.wrapping_add(50)));
        let mut chance = groundlink::crypto::Generator::from_seed([seed ^ 0x33; 32]);
        pair.impairment(move |_, _| match chance.below(10) {
            0..3 => Vec::new(),
            _ => vec![Duration::from_millis(chance.below(400))],
        });
        pair.run_for(Duration::from_secs(60));
        pair.no_impairment();
        pair.run_for(Duration::from_secs(240));
        pair.assert_agreed();
    }
}

#[test]
fn both_sides_detect_a_nat_and_only_the_one_behind_it_sends_keepalives() {
    // The NAT rewrites A's source to 203.0.113.9 with other ports, and back.
    let a = with(Side::A, |settings| {
        settings.encapsulation = groundlink::ike::Encapsulation::Auto
    });
    let b = with(Side::B, |settings| {
        settings.encapsulation = groundlink::ike::Encapsulation::Auto;
        settings.peer = groundlink::ike::Peer::Address("203.0.113.9".parse().unwrap());
    });
    let mut pair = Pair::new(a, b);
    pair.nat("203.0.113.9");
    pair.run_for(Duration::from_secs(3));
    pair.assert_agreed();
    assert_eq!(pair.a.view().ike.unwrap().nat, NatLocation::Us);
    assert_eq!(pair.b.view().ike.unwrap().nat, NatLocation::Peer);
    assert_eq!(pair.b.children[0].remote.to_string(), "203.0.113.9:14500");
}
