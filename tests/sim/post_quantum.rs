//! Post-quantum security: ML-KEM in IKE_INTERMEDIATE (RFC 9370, RFC 9242) and post-quantum pre-shared keys (RFC 8784).

use std::time::Duration;

use groundlink::crypto::{Generator, IkeProposal, Secret};
use groundlink::ike::{Content, Ppk, PpkDemand, Psk, Role, Settings, Start, TunnelState};
use groundlink::wire::{ExchangeType, Header};

use crate::pair::{LATENCY, Pair, Side, settings};

const HYBRID: &str = "aes256gcm16-prfsha384-curve25519-ke1_mlkem768";
const CLASSIC: &str = "aes256gcm16-prfsha384-curve25519";

fn with(side: Side, change: impl FnOnce(&mut Settings)) -> Settings {
    let mut settings = settings(side);
    change(&mut settings);
    settings
}

fn proposing(side: Side, words: &[&str]) -> Settings {
    with(side, |settings| {
        settings.ike = words
            .iter()
            .map(|words| IkeProposal::parse(words).unwrap().0)
            .collect();
    })
}

fn hybrid() -> Pair {
    Pair::new(proposing(Side::A, &[HYBRID]), proposing(Side::B, &[HYBRID]))
}

/// The exchange type of a datagram.
fn exchange(content: &Content) -> Option<ExchangeType> {
    match content {
        Content::Ike(bytes) => Some(Header::parse(bytes).unwrap().exchange),
        Content::Keepalive => None,
    }
}

/// The exchanges that a side sent, by type and message ID, without retransmissions and further fragments.
fn sent_exchanges(pair: &mut Pair, side: Side) -> Vec<(ExchangeType, u32)> {
    let mut sent = Vec::new();
    for transmit in &pair.node(side).sent {
        if let Content::Ike(bytes) = &transmit.content {
            let header = Header::parse(bytes).unwrap();
            sent.push((header.exchange, header.message_id.0));
        }
    }
    sent.dedup();
    sent
}

fn is_post_quantum(pair: &Pair) -> (bool, bool) {
    let of = |view: groundlink::ike::View| view.ike.unwrap().post_quantum;
    (of(pair.a.view()), of(pair.b.view()))
}

#[test]
fn ml_kem_runs_between_ike_sa_init_and_ike_auth_and_both_sides_agree() {
    for word in ["ke1_mlkem768", "ke1_mlkem1024"] {
        for rest in [
            "aes256gcm16-prfsha384-ecp384",
            "aes128-sha1-modp1024",
            "chacha20poly1305-prfsha256-curve25519",
        ] {
            let words = format!("{rest}-{word}");
            let mut pair = Pair::new(proposing(Side::A, &[&words]), proposing(Side::B, &[&words]));
            pair.run_for(Duration::from_secs(2));
            pair.assert_agreed();
            assert_eq!(pair.a.view().ike.unwrap().suite.to_string(), words);
            assert_eq!(is_post_quantum(&pair), (true, true));
            let expected = [
                (ExchangeType::IKE_SA_INIT, 0),
                (ExchangeType::IKE_INTERMEDIATE, 1),
                (ExchangeType::IKE_AUTH, 2),
            ];
            assert_eq!(sent_exchanges(&mut pair, Side::A), expected);
            assert_eq!(sent_exchanges(&mut pair, Side::B), expected);
        }
    }
}

#[test]
fn message_ids_continue_after_ml_kem() {
    let mut pair = hybrid();
    pair.run_for(Duration::from_secs(120));
    pair.assert_agreed();
    for side in [Side::A, Side::B] {
        assert!(
            sent_exchanges(&mut pair, side)
                .iter()
                .any(|(exchange, _)| *exchange == ExchangeType::INFORMATIONAL),
            "liveness was proved"
        );
        let codes = pair.node(side).codes();
        assert!(codes.is_empty(), "{codes:?}");
    }
}

#[test]
fn proposals_with_and_without_ml_kem_match_peers_of_both_kinds() {
    for (a, b, agreed) in [
        (vec![HYBRID, CLASSIC], vec![HYBRID], HYBRID),
        (vec![HYBRID, CLASSIC], vec![CLASSIC], CLASSIC),
        (vec![HYBRID], vec![HYBRID, CLASSIC], HYBRID),
        (vec![CLASSIC], vec![HYBRID, CLASSIC], CLASSIC),
        (vec![CLASSIC, HYBRID], vec![CLASSIC, HYBRID], CLASSIC),
    ] {
        let mut pair = Pair::new(proposing(Side::A, &a), proposing(Side::B, &b));
        pair.run_for(Duration::from_secs(2));
        pair.assert_agreed();
        assert_eq!(pair.a.view().ike.unwrap().suite.to_string(), agreed);
        let hybrid = agreed == HYBRID;
        assert_eq!(is_post_quantum(&pair), (hybrid, hybrid));
    }
}

#[test]
fn an_ml_kem_mismatch_is_reported_on_both_sides() {
    let mut pair = Pair::new(
        proposing(Side::A, &[HYBRID]),
        proposing(Side::B, &[CLASSIC]),
    );
    pair.run_for(Duration::from_secs(5));
    assert_eq!(pair.a.codes()[0], "no-proposal-chosen");
    assert_eq!(pair.b.codes()[0], "no-proposal-chosen");
    let failure = &pair.b.failures[0];
    assert!(failure.text.contains(HYBRID), "{}", failure.text);
    assert!(
        failure.advice.contains("additional key exchange") && failure.advice.contains(HYBRID),
        "{}",
        failure.advice
    );
}

#[test]
fn without_ml_kem_configured_nothing_of_it_is_sent() {
    let pair = Pair::established();
    let first = pair.a.sent_ike(0);
    let contains = |number: u16| {
        first
            .windows(2)
            .any(|window| window == number.to_be_bytes())
    };
    assert!(contains(16388), "NAT_DETECTION_SOURCE_IP");
    assert!(!contains(16438), "INTERMEDIATE_EXCHANGE_SUPPORTED");
    assert!(!contains(16435), "USE_PPK");
    assert_eq!(is_post_quantum(&pair), (false, false));
}

#[test]
fn the_tunnel_comes_up_when_any_single_datagram_is_lost_once() {
    for lost in 0..12 {
        let mut pair = hybrid();
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
        assert_eq!(is_post_quantum(&pair), (true, true));
    }
}

#[test]
fn duplicates_and_late_copies_of_every_message_change_nothing() {
    let mut pair = hybrid();
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
    let ups = |events: &[&str]| events.iter().filter(|event| **event == "ChildUp").count();
    assert_eq!((ups(&pair.a.events), ups(&pair.b.events)), (1, 1));
}

#[test]
fn loss_delay_and_reordering_converge_on_one_tunnel() {
    for seed in 0..30u8 {
        let mut pair = Pair::with_seeds(
            proposing(Side::A, &[HYBRID]),
            proposing(Side::B, &[HYBRID]),
            (seed, seed.wrapping_add(100)),
        );
        let mut chance = Generator::from_seed([seed ^ 0x5a; 32]);
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
fn p11_simultaneous_initiation_leaves_one_sa() {
    for seed in 0..10u8 {
        let b = with(Side::B, |settings| {
            *settings = proposing(Side::B, &[HYBRID]);
            settings.start = Start::Auto;
        });
        let a = proposing(Side::A, &[HYBRID]);
        let mut pair = Pair::with_seeds(a, b, (seed, seed.wrapping_add(77)));
        pair.run_for(Duration::from_secs(40));
        pair.assert_agreed();
    }
}

#[test]
fn a_peer_that_never_answers_ike_intermediate_is_reported() {
    let mut pair = hybrid();
    pair.impairment(|_, transmit| match exchange(&transmit.content) {
        Some(ExchangeType::IKE_INTERMEDIATE) => Vec::new(),
        _ => vec![LATENCY],
    });
    pair.run_for(Duration::from_secs(10));
    let failure = &pair.a.failures[0];
    assert_eq!(failure.code, "peer-not-responding");
    assert!(
        failure.text.contains("IKE_INTERMEDIATE"),
        "{}",
        failure.text
    );
    pair.run_for(Duration::from_secs(600));
    assert_ne!(pair.a.state(), TunnelState::Up);
    pair.no_impairment();
    pair.run_for(Duration::from_secs(120));
    pair.assert_agreed();
}

#[test]
fn n25_a_half_open_sa_is_not_kept_longer_by_ike_intermediate() {
    let mut pair = hybrid();
    pair.impairment(|_, transmit| match exchange(&transmit.content) {
        Some(ExchangeType::IKE_AUTH) => Vec::new(),
        _ => vec![LATENCY],
    });
    pair.run_for(Duration::from_secs(35));
    assert_eq!(pair.b.codes(), ["peer-not-responding"]);
}

#[test]
fn n24_other_content_with_the_message_id_of_ike_intermediate_changes_nothing() {
    let mut pair = hybrid();
    pair.impairment(|side, transmit| match (side, exchange(&transmit.content)) {
        (Side::A, Some(ExchangeType::IKE_AUTH)) => Vec::new(),
        _ => vec![LATENCY],
    });
    pair.run_for(Duration::from_millis(500));
    let request = (0..pair.a.sent.len())
        .map(|index| pair.a.sent_ike(index))
        .find(|bytes| Header::parse(bytes).unwrap().exchange == ExchangeType::IKE_INTERMEDIATE)
        .unwrap();
    let before = pair.b.sent.len();
    pair.inject(Side::B, 4500, &request);
    let repeated = pair.b.sent.len();
    assert!(repeated > before, "the same bytes get the answer again");
    for at in [28, 60, request.len() - 1] {
        let mut other = request.clone();
        other[at] ^= 1;
        pair.inject(Side::B, 4500, &other);
    }
    assert_eq!(pair.b.sent.len(), repeated);
    pair.no_impairment();
    pair.run_for(Duration::from_secs(20));
    pair.assert_agreed();
}

fn ppk(id: &str, key: &[u8], demand: PpkDemand) -> Option<Ppk> {
    Some(Ppk {
        id: id.to_owned(),
        key: Secret::from_slice(key),
        demand,
    })
}

const KEY: &[u8] = b"thirty-two bytes of shared chance";

fn ppk_pair(a: Option<Ppk>, b: Option<Ppk>) -> Pair {
    let mut pair = Pair::new(
        with(Side::A, |settings| settings.ppk = a),
        with(Side::B, |settings| settings.ppk = b),
    );
    pair.run_for(Duration::from_secs(1));
    pair
}

#[test]
fn a_common_ppk_is_mixed_into_the_keys_whether_required_or_not() {
    use PpkDemand::{Optional, Required};
    for (a, b) in [
        (Required, Required),
        (Required, Optional),
        (Optional, Required),
        (Optional, Optional),
    ] {
        let pair = ppk_pair(ppk("q", KEY, a), ppk("q", KEY, b));
        pair.assert_agreed();
        assert_eq!(is_post_quantum(&pair), (true, true));
        assert_eq!(pair.a.sent.len(), 2, "no message more");
    }
}

#[test]
fn an_optional_ppk_that_the_peer_lacks_is_not_used() {
    use PpkDemand::{Optional, Required};
    for (a, b) in [
        (ppk("q", KEY, Optional), None),
        (None, ppk("q", KEY, Optional)),
        (ppk("q", KEY, Optional), ppk("other", KEY, Optional)),
    ] {
        let pair = ppk_pair(a, b);
        pair.assert_agreed();
        assert_eq!(is_post_quantum(&pair), (false, false));
        assert_eq!(pair.a.view().ike.unwrap().role, Role::Initiator);
    }
    // One side requires it: no tunnel comes up.
    for (a, b) in [
        (ppk("q", KEY, Required), ppk("other", KEY, Optional)),
        (ppk("q", KEY, Optional), ppk("other", KEY, Required)),
    ] {
        let pair = ppk_pair(a, b);
        assert_ne!(pair.a.state(), TunnelState::Up);
        assert_eq!(pair.b.codes()[0], "ppk-identity");
        let failure = &pair.b.failures[0].text;
        assert!(
            failure.contains("\"q\"") && failure.contains("\"other\""),
            "{failure}"
        );
    }
}

#[test]
fn a_required_ppk_that_the_peer_does_not_use_is_reported_on_the_side_that_requires_it() {
    let mut pair = ppk_pair(ppk("q", KEY, PpkDemand::Required), None);
    pair.run_for(Duration::from_secs(5));
    assert_eq!(pair.a.codes()[0], "ppk-unused");
    assert_ne!(pair.a.state(), TunnelState::Up);

    let pair = ppk_pair(None, ppk("q", KEY, PpkDemand::Required));
    assert_eq!(pair.b.codes()[0], "ppk-unused");
    assert_eq!(pair.a.codes()[0], "authentication-failed");
    assert!(pair.b.children.is_empty() && pair.a.children.is_empty());
}

#[test]
fn a_peer_without_the_psk_does_not_learn_that_a_ppk_is_required() {
    let a = with(Side::A, |settings| {
        settings.psk = Psk(Secret::from_slice(b"another key"));
    });
    let b = with(Side::B, |settings| {
        settings.ppk = ppk("q", KEY, PpkDemand::Required);
    });
    let mut pair = Pair::new(a, b);
    pair.run_for(Duration::from_millis(400));
    assert_eq!(pair.b.codes(), ["authentication-failed"]);
}

#[test]
fn a_ppk_mismatch_is_distinguished_from_a_psk_mismatch() {
    let other = || ppk("q", b"other bytes", PpkDemand::Required);
    let pair = ppk_pair(ppk("q", KEY, PpkDemand::Optional), other());
    assert_eq!(pair.b.codes()[0], "ppk-mismatch");
    assert_eq!(pair.a.codes()[0], "authentication-failed");
    let failure = &pair.a.failures[0].text;
    assert!(failure.contains("PPK \"q\""), "{failure}");

    // Without NO_PPK_AUTH of an optional PPK the cause is not known.
    let pair = ppk_pair(ppk("q", KEY, PpkDemand::Required), other());
    assert_eq!(pair.b.codes()[0], "authentication-failed");
    assert_eq!(pair.a.codes()[0], "authentication-failed");
    assert!(pair.a.children.is_empty() && pair.b.children.is_empty());
}

#[test]
fn ml_kem_and_a_ppk_go_together_and_the_ppk_changes_the_keys_of_the_child_sa() {
    let run = |key: Option<&[u8]>| {
        let side = |side| {
            with(side, |settings| {
                *settings = proposing(side, &[HYBRID]);
                settings.ppk = key.and_then(|key| ppk("q", key, PpkDemand::Required));
            })
        };
        let mut pair = Pair::new(side(Side::A), side(Side::B));
        pair.run_for(Duration::from_secs(2));
        pair.assert_agreed();
        assert_eq!(is_post_quantum(&pair), (true, true));
        pair.a.children[0].keys_in.encryption.clone()
    };
    let keys = [run(None), run(Some(KEY)), run(Some(b"other bytes"))];
    assert!(keys[0] != keys[1] && keys[1] != keys[2] && keys[0] != keys[2]);
    assert_eq!(keys[1], run(Some(KEY)), "all else is the same");
}
