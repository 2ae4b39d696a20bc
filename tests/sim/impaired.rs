//! A peer that runs the engine with exactly one defect in its messages, under valid keys.
//!
//! The exhaustive test covers every exchange, request and response, and every payload omitted, emptied, truncated, enlarged or
//! duplicated. The engine must not panic, the invariants of the monitor hold, and both sides agree once the peer behaves. The
//! other tests check specific results.

use std::time::Duration;

use groundlink::ike::impair::{Change, Rule, Which};
use groundlink::ike::{Command, Rekey, Start, TunnelState};
use groundlink::wire::{Critical, ExchangeType, Header, NotifyType, Payload, PayloadType};

use crate::pair::{LATENCY, Pair, Side, TUNNEL, settings};

const MINUTE: Duration = Duration::from_secs(60);

const EXCHANGES: [ExchangeType; 4] = [
    ExchangeType::IKE_SA_INIT,
    ExchangeType::IKE_AUTH,
    ExchangeType::CREATE_CHILD_SA,
    ExchangeType::INFORMATIONAL,
];

const KINDS: [PayloadType; 11] = [
    PayloadType::SA,
    PayloadType::KE,
    PayloadType::IDI,
    PayloadType::IDR,
    PayloadType::AUTH,
    PayloadType::NONCE,
    PayloadType::NOTIFY,
    PayloadType::DELETE,
    PayloadType::VENDOR,
    PayloadType::TSI,
    PayloadType::TSR,
];

fn unknown(kind: u8, critical: Critical) -> Payload {
    Payload::Unknown {
        kind: PayloadType(kind),
        critical,
        body: vec![1, 2, 3],
    }
}

/// The defects of a message with payloads of these types.
pub fn changes(kinds: &[PayloadType]) -> Vec<Change> {
    let mut changes: Vec<Change> = kinds
        .iter()
        .flat_map(|kind| {
            [
                Change::Omit(*kind),
                Change::Empty(*kind),
                Change::Replace(*kind, vec![0xff]),
                Change::Replace(*kind, vec![0; 3000]),
                Change::Duplicate(*kind),
            ]
        })
        .collect();
    changes.extend([
        Change::Only(Vec::new()),
        Change::Reverse,
        Change::Prepend(vec![unknown(49, Critical::No)]),
        Change::Append(vec![unknown(255, Critical::Yes)]),
        Change::Append((0..1000).map(|_| unknown(200, Critical::No)).collect()),
        Change::Header(|header| header.exchange = ExchangeType(243)),
        Change::Header(|header| header.major = 3),
        Change::Header(|header| header.minor = 15),
        Change::Header(|header| header.spi_r = header.spi_i),
    ]);
    changes
}

/// A sends the defective messages in both roles; its SAs have short lifetimes, so that every exchange takes place.
fn misbehaving(rules: impl IntoIterator<Item = Rule>) -> Pair {
    let mut a = settings(Side::A);
    a.child_lifetime = Duration::from_secs(40);
    a.ike_lifetime = Duration::from_secs(100);
    let mut pair = Pair::new(a, settings(Side::B));
    for rule in rules {
        pair.a.endpoint.impair().add(rule);
    }
    pair
}

fn stop_misbehaving(pair: &mut Pair) {
    pair.a.endpoint.impair().clear();
}

#[test]
fn any_single_defect_is_survived_and_both_sides_agree_once_the_peer_behaves() {
    for exchange in EXCHANGES {
        for which in [Which::Request, Which::Response] {
            for change in changes(&KINDS) {
                let rule = Rule {
                    exchange,
                    which,
                    change,
                };
                let case = format!("{rule:?}");
                let result = std::panic::catch_unwind(|| {
                    let mut pair = misbehaving([]);
                    pair.run_for(Duration::from_secs(1));
                    pair.a.endpoint.impair().add(rule.clone());
                    pair.run_for(Duration::from_secs(130));
                    pair.command(
                        Side::B,
                        Command::Rekey {
                            tunnel: TUNNEL,
                            what: Rekey::Child,
                        },
                    );
                    pair.run_for(Duration::from_secs(20));
                    pair.command(
                        Side::B,
                        Command::Rekey {
                            tunnel: TUNNEL,
                            what: Rekey::Ike,
                        },
                    );
                    pair.run_for(MINUTE);
                    stop_misbehaving(&mut pair);
                    pair.run_for(5 * MINUTE);
                    pair.assert_agreed();
                });
                assert!(result.is_ok(), "with {case}");
            }
        }
    }
}

/// B requests a rekey, and A's responses are changed.
fn answered_with(what: Rekey, change: Change) -> Pair {
    let mut pair = Pair::established();
    pair.a.endpoint.impair().add(Rule {
        exchange: ExchangeType::CREATE_CHILD_SA,
        which: Which::Response,
        change,
    });
    pair.command(
        Side::B,
        Command::Rekey {
            tunnel: TUNNEL,
            what,
        },
    );
    pair.run_for(Duration::from_secs(2));
    pair
}

#[test]
fn p08_an_invalid_rekey_response_discards_the_new_child_sa_and_keeps_the_old() {
    for change in [
        Change::Replace(PayloadType::SA, child_answer(|_| {})),
        Change::Replace(PayloadType::SA, child_answer(|sa| sa[4] = 9)),
        Change::Replace(PayloadType::SA, child_answer(|sa| sa[8..12].fill(0))),
        Change::Replace(
            PayloadType::SA,
            child_answer(|sa| sa[8..12].copy_from_slice(&[0, 0, 0, 255])),
        ),
        Change::Replace(PayloadType::TSI, all_ipv4_addresses()),
        Change::Replace(PayloadType::TSR, all_ipv4_addresses()),
        Change::Append(vec![Payload::Ke(groundlink::wire::Ke {
            group: 31,
            data: vec![9; 32],
        })]),
    ] {
        let case = format!("{change:?}");
        let mut pair = answered_with(Rekey::Child, change);
        assert_eq!(pair.b.state(), TunnelState::Up, "{case}");
        assert_eq!(pair.b.view().rekeys.child, 0, "{case}");
        assert_eq!(pair.b.codes(), ["peer-misbehaved"], "{case}");
        stop_misbehaving(&mut pair);
        pair.command(
            Side::B,
            Command::Rekey {
                tunnel: TUNNEL,
                what: Rekey::Child,
            },
        );
        pair.run_for(5 * MINUTE);
        pair.assert_agreed();
        assert_eq!(pair.b.view().rekeys.child, 1, "tried again: {case}");
        assert_eq!(pair.b.count("IkeUp"), 1, "the IKE SA stood: {case}");
    }
}

/// The body of an SA payload: proposal 1, ESP, our SPI, AES-CBC-192 with HMAC-SHA1-96, which was not offered.
fn child_answer(change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut sa = vec![
        0, 0, 0, 40, 1, 3, 4, 3, 0x11, 0x22, 0x33, 0x44, //
        3, 0, 0, 12, 1, 0, 0, 12, 0x80, 14, 0, 192, //
        3, 0, 0, 8, 3, 0, 0, 2, //
        0, 0, 0, 8, 5, 0, 0, 0,
    ];
    change(&mut sa);
    sa
}

/// The body of a TS payload: every IPv4 address.
fn all_ipv4_addresses() -> Vec<u8> {
    vec![
        1, 0, 0, 0, 7, 0, 0, 16, 0, 0, 255, 255, 0, 0, 0, 0, 255, 255, 255, 255,
    ]
}

#[test]
fn p09_invalid_syntax_or_an_unknown_critical_payload_in_a_response_closes_the_sa_and_a_new_one_follows()
 {
    for kind in [7u16, 1] {
        let body = [&[0, 0][..], &kind.to_be_bytes()].concat();
        let notify = Payload::Unknown {
            kind: PayloadType::NOTIFY,
            critical: Critical::No,
            body,
        };
        let mut pair = answered_with(Rekey::Child, Change::Only(vec![notify]));
        assert_eq!(pair.b.count("IkeDown"), 1, "type {kind}");
        stop_misbehaving(&mut pair);
        pair.run_for(5 * MINUTE);
        pair.assert_agreed();
    }
}

#[test]
fn n26_an_unknown_critical_payload_in_a_request_is_rejected_with_its_type_and_the_sa_stays() {
    let mut pair = Pair::established();
    pair.a.endpoint.impair().add(Rule {
        exchange: ExchangeType::CREATE_CHILD_SA,
        which: Which::Request,
        change: Change::Prepend(vec![unknown(255, Critical::Yes)]),
    });
    pair.command(
        Side::A,
        Command::Rekey {
            tunnel: TUNNEL,
            what: Rekey::Child,
        },
    );
    pair.run_for(LATENCY * 3);
    // The response closes the SA on the side that sent the request, not on the side that rejected it.
    assert_eq!(pair.a.count("IkeDown"), 1);
    assert_eq!(pair.b.count("IkeDown"), 0);
    assert_eq!(pair.b.state(), TunnelState::Up);
}

#[test]
fn reordered_and_unknown_payloads_are_accepted() {
    for change in [
        Change::Reverse,
        Change::Prepend(vec![unknown(49, Critical::No)]),
        Change::Header(|header| header.minor = 15),
    ] {
        for what in [Rekey::Child, Rekey::Ike] {
            let pair = answered_with(what, change.clone());
            pair.assert_agreed();
            let rekeys = pair.b.view().rekeys;
            assert_eq!(rekeys.child + rekeys.ike, 1, "{change:?}");
        }
    }
}

#[test]
fn p07_an_invalid_request_to_rekey_the_ike_sa_is_rejected_and_the_old_one_stays() {
    for change in [
        Change::Omit(PayloadType::KE),
        Change::Replace(PayloadType::KE, vec![0, 2, 0, 0, 1]),
        Change::Replace(PayloadType::SA, ike_offer(&[])),
        Change::Replace(PayloadType::SA, ike_offer(&[0; 8])),
        Change::Replace(PayloadType::SA, ike_offer(&[1, 2, 3, 4])),
    ] {
        let case = format!("{change:?}");
        let mut pair = Pair::established();
        pair.a.endpoint.impair().add(Rule {
            exchange: ExchangeType::CREATE_CHILD_SA,
            which: Which::Request,
            change,
        });
        pair.command(
            Side::A,
            Command::Rekey {
                tunnel: TUNNEL,
                what: Rekey::Ike,
            },
        );
        pair.run_for(Duration::from_secs(2));
        assert_eq!(pair.b.state(), TunnelState::Up, "{case}");
        assert_eq!(pair.b.count("IkeRekeyed"), 0, "{case}");
        assert_eq!(pair.b.count("IkeDown"), 0, "{case}");
        stop_misbehaving(&mut pair);
        pair.run_for(10 * MINUTE);
        pair.assert_agreed();
        assert_eq!(pair.b.count("IkeUp"), 1, "{case}");
    }
}

/// The body of an SA payload with an acceptable offer and this SPI.
fn ike_offer(spi: &[u8]) -> Vec<u8> {
    let length = u8::try_from(8 + spi.len() + 12 + 8 + 8 + 8).unwrap();
    let mut sa = vec![0, 0, 0, length, 1, 1, u8::try_from(spi.len()).unwrap(), 4];
    sa.extend(spi);
    sa.extend([3, 0, 0, 12, 1, 0, 0, 12, 0x80, 14, 0, 128]);
    sa.extend([3, 0, 0, 8, 3, 0, 0, 12]);
    sa.extend([3, 0, 0, 8, 2, 0, 0, 5]);
    sa.extend([0, 0, 0, 8, 4, 0, 0, 31]);
    sa
}

#[test]
fn a_rule_can_change_the_header_sent() {
    let mut pair = Pair::established();
    let change: fn(&mut Header) = |header| header.exchange = ExchangeType(250);
    pair.a.endpoint.impair().add(Rule {
        exchange: ExchangeType::CREATE_CHILD_SA,
        which: Which::Request,
        change: Change::Header(change),
    });
    pair.command(
        Side::A,
        Command::Rekey {
            tunnel: TUNNEL,
            what: Rekey::Child,
        },
    );
    pair.run_for(LATENCY);
    let sent = (0..pair.a.sent.len()).map(|index| pair.a.sent_ike(index));
    let mut exchanges = sent.map(|bytes| Header::parse(&bytes).unwrap().exchange);
    assert!(exchanges.any(|exchange| exchange == ExchangeType(250)));
}

/// A notification without data.
fn notification(kind: u16) -> Payload {
    Payload::Unknown {
        kind: PayloadType::NOTIFY,
        critical: Critical::No,
        body: [&[0, 0][..], &kind.to_be_bytes()].concat(),
    }
}

const REFUSALS: [u16; 4] = [
    14, // NO_PROPOSAL_CHOSEN
    35, // NO_ADDITIONAL_SAS
    38, // TS_UNACCEPTABLE
    43, // TEMPORARY_FAILURE
];

fn never_rekeying(b: groundlink::ike::Settings, kind: u16) -> Pair {
    let mut pair = Pair::new(settings(Side::A), b);
    pair.a.endpoint.impair().add(Rule {
        exchange: ExchangeType::CREATE_CHILD_SA,
        which: Which::Response,
        change: Change::Only(vec![notification(kind)]),
    });
    pair.run_for(Duration::from_secs(1));
    pair.assert_agreed();
    pair
}

#[test]
fn p10_a_peer_that_never_rekeys_gets_a_new_ike_sa_before_expiry_without_traffic_loss() {
    for kind in REFUSALS {
        for (child, ike) in [(100, 86_400), (86_400, 100)] {
            let mut b = settings(Side::B);
            b.child_lifetime = Duration::from_secs(child);
            b.ike_lifetime = Duration::from_secs(ike);
            let mut pair = never_rekeying(b, kind);
            let since = pair.b.view().since;
            let sent = pair.b.sent.len();
            pair.run_for(10 * MINUTE);
            assert_eq!(pair.b.view().since, since, "type {kind}: up all the time");
            assert_eq!(pair.b.view().rekeys.child + pair.b.view().rekeys.ike, 0);
            let made = pair.b.count("IkeUp");
            assert!((6..=9).contains(&made), "type {kind}: {made} IKE SAs");
            let sent = pair.b.sent.len() - sent;
            assert!(sent < 400, "type {kind}: {sent} datagrams in ten minutes");
        }
    }
}

#[test]
fn p19_a_child_sa_near_its_limit_that_the_peer_does_not_rekey_is_replaced_by_a_new_ike_sa() {
    let mut pair = never_rekeying(settings(Side::B), 14);
    let spi_in = pair.b.children[0].spi_in;
    for _ in 0..15 {
        pair.command(
            Side::B,
            Command::SoftLimit {
                tunnel: TUNNEL,
                spi_in,
            },
        );
        pair.run_for(Duration::from_secs(1));
    }
    assert_eq!(pair.b.count("IkeUp"), 2);
    assert_eq!(pair.b.state(), TunnelState::Up);
    assert_ne!(pair.b.children[0].spi_in, spi_in);
    stop_misbehaving(&mut pair);
    pair.run_for(MINUTE);
    pair.assert_agreed();
}

/// B initiates, and A's response in IKE_AUTH has this payload too.
fn authenticated_with(more: Payload) -> Pair {
    let mut a = settings(Side::A);
    a.start = Start::Add;
    let mut b = settings(Side::B);
    b.start = Start::Auto;
    let mut pair = Pair::new(a, b);
    pair.a.endpoint.impair().add(Rule {
        exchange: ExchangeType::IKE_AUTH,
        which: Which::Response,
        change: Change::Append(vec![more]),
    });
    pair.run_for(Duration::from_millis(200));
    pair
}

/// ```text
/// B                                                A
/// │── IKE_AUTH SAi2 … ────────────────────────────▶│
/// │◀── IKE_AUTH SAr2 …, N(USE_TRANSPORT_MODE) ─────│   the Child SA is installed
/// │── INFORMATIONAL D(ESP) ───────────────────────▶│   and removed
/// ```
#[test]
fn a_child_sa_in_transport_mode_that_nobody_asked_for_is_deleted_and_named() {
    let pair = authenticated_with(notification(NotifyType::USE_TRANSPORT_MODE.0));
    assert_eq!(pair.b.codes(), ["transport-mode"]);
    assert_eq!(pair.b.count("ChildUp"), 0, "nothing is installed");
    assert_eq!(pair.a.count("ChildUp"), 1, "the peer has installed it");
    assert!(pair.a.children.is_empty(), "and removed it");
    assert_eq!(pair.a.ikes.len(), 1, "by the DELETE of the Child SA");
}

#[test]
fn a_peer_that_starts_eap_is_named() {
    let pair = authenticated_with(Payload::Other {
        kind: PayloadType::EAP,
        critical: Critical::No,
        body: vec![1, 1, 0, 5, 1],
    });
    assert_eq!(pair.b.codes(), ["authentication-method"]);
    assert!(pair.b.failures[0].text.contains("EAP"));
}
