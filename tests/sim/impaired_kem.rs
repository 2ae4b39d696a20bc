//! A peer with exactly one defect in its additional key exchange, under valid keys: in IKE_INTERMEDIATE, before authentication,
//! and in IKE_FOLLOWUP_KE.

use std::time::Duration;

use groundlink::crypto::{EspProposal, IkeProposal};
use groundlink::ike::impair::{Change, Rule, Which};
use groundlink::ike::{Command, Rekey, Settings, TunnelState};
use groundlink::wire::{ExchangeType, Header, PayloadType};

use crate::impaired::changes;
use crate::pair::{Pair, Side, TUNNEL, settings};

const MINUTE: Duration = Duration::from_secs(60);

const INTERMEDIATE: ExchangeType = ExchangeType::IKE_INTERMEDIATE;
const FOLLOWUP: ExchangeType = ExchangeType::IKE_FOLLOWUP_KE;

fn hybrid(side: Side) -> Settings {
    let mut settings = settings(side);
    let ike = "aes128gcm16-prfsha256-curve25519-ke1_mlkem768";
    settings.ike = vec![IkeProposal::parse(ike).unwrap().0];
    let esp = "aes128gcm16-curve25519-ke1_mlkem768";
    settings.esp = vec![EspProposal::parse(esp).unwrap().0];
    settings
}

fn rule(exchange: ExchangeType, which: Which, change: Change) -> Rule {
    Rule {
        exchange,
        which,
        change,
    }
}

/// A pair with changed IKE_INTERMEDIATE messages of one side.
fn with_intermediate(side: Side, which: Which, change: Change) -> Pair {
    let mut pair = Pair::new(hybrid(Side::A), hybrid(Side::B));
    let rule = rule(INTERMEDIATE, which, change);
    pair.node(side).endpoint.impair().add(rule);
    pair.run_for(Duration::from_secs(2));
    pair
}

/// A KE payload with this method and a value of this many equal octets.
fn ke(method: u16, len: usize, value: u8) -> Change {
    let mut body = method.to_be_bytes().to_vec();
    body.extend([0, 0]);
    body.extend(std::iter::repeat_n(value, len));
    Change::Replace(PayloadType::KE, body)
}

fn assert_heals(mut pair: Pair) {
    pair.a.endpoint.impair().clear();
    pair.b.endpoint.impair().clear();
    pair.run_for(5 * MINUTE);
    pair.assert_agreed();
}

#[test]
fn any_single_defect_is_survived_and_both_sides_agree_once_the_peer_behaves() {
    for exchange in [INTERMEDIATE, FOLLOWUP] {
        for which in [Which::Request, Which::Response] {
            for change in changes(&[PayloadType::KE, PayloadType::NOTIFY]) {
                let rule = rule(exchange, which, change);
                let case = format!("{rule:?}");
                let result = std::panic::catch_unwind(|| {
                    let mut pair = Pair::new(hybrid(Side::A), hybrid(Side::B));
                    for side in [Side::A, Side::B] {
                        pair.node(side).endpoint.impair().add(rule.clone());
                        pair.run_for(Duration::from_secs(1));
                    }
                    for what in [Rekey::Child, Rekey::Ike] {
                        for side in [Side::A, Side::B] {
                            let tunnel = TUNNEL;
                            pair.command(side, Command::Rekey { tunnel, what });
                            pair.run_for(Duration::from_secs(20));
                        }
                    }
                    assert_heals(pair);
                });
                assert!(result.is_ok(), "with {case}");
            }
        }
    }
}

#[test]
fn n06_an_encapsulation_key_of_another_method_or_length_gets_invalid_syntax() {
    for change in [
        ke(37, 1568, 1),
        ke(31, 32, 9),
        ke(0, 1184, 1),
        ke(36, 1183, 1),
        ke(36, 1185, 1),
        ke(36, 0, 1),
        Change::Omit(PayloadType::KE),
        Change::Duplicate(PayloadType::KE),
        Change::Replace(PayloadType::KE, vec![0, 36]),
    ] {
        let case = format!("{change:?}");
        let pair = with_intermediate(Side::A, Which::Request, change);
        assert_eq!(pair.b.codes()[0], "invalid-syntax", "{case:.80}");
        let refused = &pair.a.failures[0];
        assert!(refused.text.contains("INVALID_SYNTAX"), "{refused:?}");
        assert!(pair.a.children.is_empty() && pair.b.children.is_empty());
        assert_ne!(pair.b.state(), TunnelState::Up);
        assert_heals(pair);
    }
}

#[test]
fn n07_an_encapsulation_key_beyond_the_modulus_gets_invalid_syntax() {
    let pair = with_intermediate(Side::A, Which::Request, ke(36, 1184, 0xff));
    assert_eq!(pair.b.codes()[0], "invalid-syntax");
    assert!(pair.b.failures[0].text.contains("modulus"));
    assert_heals(pair);
}

#[test]
fn n06_a_ciphertext_of_another_method_or_length_ends_the_attempt() {
    for change in [
        ke(37, 1568, 1),
        ke(36, 1087, 1),
        ke(36, 1184, 1),
        Change::Omit(PayloadType::KE),
        Change::Duplicate(PayloadType::KE),
    ] {
        let case = format!("{change:?}");
        let pair = with_intermediate(Side::B, Which::Response, change);
        assert_eq!(pair.a.codes()[0], "invalid-syntax", "{case:.80}");
        assert!(pair.a.children.is_empty() && pair.b.children.is_empty());
        assert_heals(pair);
    }
}

/// FIPS 203 §6.3: a ciphertext that was not made for the key gives an unrelated secret. The messages that follow do not decrypt,
/// and the peer is not authenticated.
#[test]
fn n07_an_invented_ciphertext_gives_keys_that_do_not_match() {
    let mut pair = with_intermediate(Side::B, Which::Response, ke(36, 1088, 0x5a));
    pair.run_for(MINUTE);
    assert!(pair.a.children.is_empty() && pair.b.children.is_empty());
    assert!(pair.a.codes().contains(&"peer-not-responding"));
    assert_heals(pair);
}

#[test]
fn n18_another_exchange_in_place_of_ike_intermediate_is_ignored() {
    for exchange in [
        ExchangeType::IKE_AUTH,
        ExchangeType::INFORMATIONAL,
        ExchangeType::CREATE_CHILD_SA,
        FOLLOWUP,
    ] {
        let change: fn(&mut Header) = match exchange {
            ExchangeType::IKE_AUTH => |header| header.exchange = ExchangeType::IKE_AUTH,
            ExchangeType::INFORMATIONAL => |header| header.exchange = ExchangeType::INFORMATIONAL,
            ExchangeType::CREATE_CHILD_SA => {
                |header| header.exchange = ExchangeType::CREATE_CHILD_SA
            }
            _ => |header| header.exchange = FOLLOWUP,
        };
        let pair = with_intermediate(Side::A, Which::Request, Change::Header(change));
        assert!(pair.a.children.is_empty() && pair.b.children.is_empty());
        assert!(pair.b.codes().is_empty(), "{exchange}");
        assert_heals(pair);
    }
}

#[test]
fn ike_intermediate_on_an_established_sa_is_rejected() {
    for side in [Side::A, Side::B] {
        let mut pair = Pair::new(hybrid(Side::A), hybrid(Side::B));
        pair.run_for(Duration::from_secs(2));
        let change = Change::Header(|header| header.exchange = INTERMEDIATE);
        let rule = rule(ExchangeType::INFORMATIONAL, Which::Request, change);
        pair.node(side).endpoint.impair().add(rule);
        let before = format!("{:?}", pair.node(side.other()).view().ike);
        // The liveness check is sent as IKE_INTERMEDIATE, repeatedly.
        pair.run_for(Duration::from_secs(14));
        let other = pair.node(side.other());
        assert_eq!(format!("{:?}", other.view().ike), before);
        assert_eq!(other.children.len(), 1);
        assert_heals(pair);
    }
}

/// B as the responder sends no link, or one that is not its own.
#[test]
fn p08_a_response_without_a_followup_link_leaves_the_old_sa_unchanged() {
    for what in [Rekey::Child, Rekey::Ike] {
        let mut pair = Pair::new(hybrid(Side::A), hybrid(Side::B));
        pair.run_for(Duration::from_secs(2));
        let children = pair.a.children.len();
        let change = Change::Omit(PayloadType::NOTIFY);
        let rule = rule(ExchangeType::CREATE_CHILD_SA, Which::Response, change);
        pair.b.endpoint.impair().add(rule);
        let tunnel = TUNNEL;
        pair.command(Side::A, Command::Rekey { tunnel, what });
        pair.run_for(Duration::from_secs(2));
        assert_eq!(pair.a.codes()[0], "peer-misbehaved");
        assert_eq!(pair.a.children.len(), children);
        assert_eq!(pair.a.state(), TunnelState::Up);
        assert_heals(pair);
    }
}

#[test]
fn an_unknown_link_gets_state_not_found_and_leaves_the_old_sa_unchanged() {
    for what in [Rekey::Child, Rekey::Ike] {
        let mut pair = Pair::new(hybrid(Side::A), hybrid(Side::B));
        pair.run_for(Duration::from_secs(2));
        let notify = vec![0, 0, 0x40, 0x39, 1, 2, 3];
        let change = Change::Replace(PayloadType::NOTIFY, notify);
        let rule = rule(FOLLOWUP, Which::Request, change);
        pair.a.endpoint.impair().add(rule);
        let tunnel = TUNNEL;
        pair.command(Side::A, Command::Rekey { tunnel, what });
        pair.run_for(Duration::from_secs(2));
        let failure = &pair.a.failures[0];
        assert!(failure.text.contains("STATE_NOT_FOUND"), "{failure:?}");
        assert_eq!((pair.a.children.len(), pair.b.children.len()), (1, 1));
        assert_eq!(pair.a.state(), TunnelState::Up);
        assert_heals(pair);
    }
}
