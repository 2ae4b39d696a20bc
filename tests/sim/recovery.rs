//! Recovery: a tunnel that should be connected connects, one that should not stays down, and neither loops.

use std::time::Duration;

use groundlink::crypto::{Generator, Secret};
use groundlink::ike::{Command, Lookup, Peer, PeerId, Psk, Start, TunnelState, WaitingFor};

use crate::node::Node;
use crate::pair::{LATENCY, Pair, Side, TUNNEL, settings};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn both_start() -> Pair {
    let mut b = settings(Side::B);
    b.start = Start::Auto;
    Pair::new(settings(Side::A), b)
}

/// A has sent IKE_AUTH, and B's answer is lost.
fn unanswered_auth(mut pair: Pair) -> Pair {
    pair.impairment(|side, transmit| match side {
        Side::B if transmit.local.port() == 4500 => Vec::new(),
        _ => vec![LATENCY],
    });
    pair.run_for(LATENCY * 4);
    assert_eq!(pair.a.sent.len(), 2);
    pair
}

#[test]
fn a_tunnel_taken_down_during_ike_auth_stays_down_without_a_response() {
    let mut pair = unanswered_auth(Pair::new(settings(Side::A), settings(Side::B)));
    pair.command(Side::A, Command::Down(TUNNEL));
    pair.run_for(10 * MINUTE);
    assert_eq!(pair.a.state(), TunnelState::Down);
    assert_eq!(pair.a.count("Connecting"), 1);
    assert!(pair.a.codes().is_empty(), "{:?}", pair.a.codes());
    assert!(pair.a.endpoint.is_idle());
}

#[test]
fn a_tunnel_taken_down_during_ike_auth_is_closed_when_the_response_arrives() {
    let mut pair = unanswered_auth(Pair::new(settings(Side::A), settings(Side::B)));
    assert_eq!(pair.b.children.len(), 1);
    pair.command(Side::A, Command::Shutdown);
    assert!(!pair.a.endpoint.is_idle(), "the peer takes it to be up");
    pair.no_impairment();
    pair.run_for(5 * SECOND);
    assert!(pair.a.endpoint.is_idle());
    assert!(pair.b.children.is_empty());
}

#[test]
fn a_reset_during_ike_auth_leaves_one_tunnel() {
    for seed in 0..10 {
        let pair = Pair::with_seeds(settings(Side::A), settings(Side::B), (seed, seed + 50));
        let mut pair = unanswered_auth(pair);
        pair.command(Side::A, Command::Reset(TUNNEL));
        pair.no_impairment();
        pair.run_for(MINUTE);
        pair.assert_agreed();
        let before = pair.a.events.len();
        pair.run_for(10 * MINUTE);
        assert_eq!(pair.a.events.len(), before);
    }
}

#[test]
fn a_retry_is_skipped_when_the_peer_has_connected_meanwhile() {
    let mut pair = both_start();
    pair.command(Side::B, Command::Down(TUNNEL));
    pair.run_for(2 * MINUTE);
    assert!(matches!(
        pair.a.view().waiting,
        Some(WaitingFor::Retry | WaitingFor::Answer)
    ));
    pair.command(Side::B, Command::Up(TUNNEL));
    pair.run_for(10 * MINUTE);
    pair.assert_agreed();
    assert_eq!(pair.a.count("ChildUp"), 1, "{:?}", pair.a.events);
    assert_eq!(pair.b.count("ChildUp"), 1);
}

#[test]
fn a_failed_attempt_is_not_retried_when_the_peers_attempt_succeeded() {
    // B rejects A's identity as initiator, but A accepts B's: only B's attempt can succeed.
    let mut b = settings(Side::B);
    b.start = Start::Auto;
    let mut pair = Pair::new(settings(Side::A), b);
    // A's IKE_AUTH never arrives; B's does.
    pair.impairment(|side, transmit| {
        let groundlink::ike::Content::Ike(bytes) = &transmit.content else {
            return Vec::new();
        };
        let auth_request = bytes[18] == 35 && bytes[19] & 0x20 == 0;
        if side == Side::A && auth_request {
            Vec::new()
        } else {
            vec![LATENCY]
        }
    });
    pair.run_for(30 * MINUTE);
    pair.assert_agreed();
    assert_eq!(pair.a.count("Connecting"), 1, "{:?}", pair.a.events);
    assert!(pair.a.codes().is_empty(), "{:?}", pair.a.codes());
}

#[test]
fn a_failed_tunnel_connected_by_the_peer_waits_for_the_peer_again_after_its_delete() {
    let mut b = settings(Side::B);
    b.start = Start::Add;
    let mut a = settings(Side::A);
    a.start = Start::Add;
    let mut pair = Pair::new(a, b);
    pair.cut();
    pair.command(Side::B, Command::Up(TUNNEL));
    pair.run_for(2 * MINUTE);
    assert_eq!(pair.b.state(), TunnelState::Failed);
    pair.no_impairment();
    pair.command(Side::A, Command::Up(TUNNEL));
    pair.run_for(SECOND);
    pair.assert_agreed();
    pair.command(Side::A, Command::Down(TUNNEL));
    pair.run_for(SECOND);
    assert_eq!(pair.b.state(), TunnelState::Connecting);
    assert_eq!(pair.b.view().waiting, Some(WaitingFor::Peer));
}

#[test]
fn up_during_a_delete_reconnects() {
    let mut pair = Pair::established();
    pair.cut();
    pair.command(Side::A, Command::Down(TUNNEL));
    pair.run_for(2 * SECOND);
    pair.command(Side::A, Command::Up(TUNNEL));
    pair.no_impairment();
    pair.run_for(MINUTE);
    pair.assert_agreed();
}

/// Answers what an endpoint looks up.
fn resolve(pair: &mut Pair, side: Side, address: Option<&str>) {
    let addresses: Vec<&str> = address.into_iter().collect();
    resolve_all(pair, side, &addresses);
}

/// Answers what an endpoint looks up with several addresses.
fn resolve_all(pair: &mut Pair, side: Side, addresses: &[&str]) {
    let lookup = match addresses {
        [] => Lookup::NoAddress,
        all => Lookup::Found(all.iter().map(|text| text.parse().unwrap()).collect()),
    };
    let tunnel = TUNNEL;
    pair.command(side, Command::Resolved { tunnel, lookup });
}

fn named(start: Start) -> Pair {
    let mut b = settings(Side::B);
    b.peer = Peer::Name("a.example.org".to_owned());
    b.start = start;
    Pair::new(settings(Side::A), b)
}

#[test]
fn a_waiting_tunnel_resolves_its_peers_name_and_follows_changes() {
    let mut pair = named(Start::Add);
    resolve(&mut pair, Side::B, None);
    assert_eq!(pair.b.codes(), ["peer-unresolved"]);
    pair.run_for(MINUTE);
    assert!(pair.b.children.is_empty(), "B does not know A yet");
    assert!(pair.b.count("Resolve") >= 2);
    resolve(&mut pair, Side::B, Some("198.51.100.1"));
    resolve(&mut pair, Side::B, Some("192.0.2.1"));
    pair.run_for(2 * MINUTE);
    pair.assert_agreed();
    // A failed name resolution while the tunnel is up is not reported.
    let failures = pair.b.codes().len();
    resolve(&mut pair, Side::B, None);
    assert_eq!(pair.b.codes().len(), failures);
}

#[test]
fn commands_during_name_resolution_are_not_lost() {
    for (start, command) in [
        (Start::Add, Command::Up(TUNNEL)),
        (Start::Trap, Command::Demand(TUNNEL)),
    ] {
        let mut pair = named(start);
        pair.command(Side::A, Command::Down(TUNNEL));
        pair.command(Side::A, Command::Up(TUNNEL));
        pair.cut();
        pair.command(Side::B, command);
        resolve(&mut pair, Side::B, Some("192.0.2.1"));
        assert_eq!(pair.b.count("Connecting"), 1, "{start:?}");
    }
}

#[test]
fn a_dead_peer_is_contacted_at_its_newly_resolved_address() {
    let mut pair = named(Start::Auto);
    resolve(&mut pair, Side::B, Some("192.0.2.1"));
    pair.run_for(MINUTE);
    assert_eq!(pair.b.state(), TunnelState::Up);
    let known = pair.b.count("Resolve");
    pair.cut();
    for _ in 0..300 {
        pair.run_for(SECOND);
        if pair.b.count("Resolve") > known {
            break;
        }
    }
    assert!(pair.b.codes().contains(&"peer-dead"));
    resolve(&mut pair, Side::B, Some("192.0.2.77"));
    let remote = pair.b.view().remote.unwrap();
    assert_eq!(remote.to_string(), "192.0.2.77:500");
}

#[test]
fn an_unreachable_peer_costs_no_more_after_a_day_than_in_the_first_hour() {
    const HOUR: Duration = Duration::from_secs(3600);
    let mut b = settings(Side::B);
    b.start = Start::Add;
    let mut pair = Pair::new(settings(Side::A), b);
    pair.cut();
    let mut hours = Vec::new();
    for _ in 0..24 {
        let before = (pair.a.sent.len(), pair.a.events.len());
        pair.run_for(HOUR);
        let Node { sent, events, .. } = &pair.a;
        hours.push((sent.len() - before.0, events.len() - before.1));
    }
    let first = hours[0];
    // One datagram in six seconds, and three events for each attempt.
    assert!(first.0 < 600 && first.1 < 600, "{hours:?}");
    let more = |hour: &(usize, usize)| hour.0 > first.0 + 20 || hour.1 > first.1 + 20;
    assert!(!hours.iter().any(more), "{hours:?}");
}

#[test]
fn an_unresponsive_name_service_is_reported_and_retried() {
    let mut pair = named(Start::Auto);
    pair.cut();
    pair.run_for(5 * MINUTE);
    assert!(pair.b.count("Resolve") >= 4);
    assert!(pair.b.codes().contains(&"name-server-not-responding"));
    assert_eq!(pair.b.count("Connecting"), 0);
}

#[test]
fn a_tunnel_without_proposals_fails_with_backoff() {
    let mut a = settings(Side::A);
    a.ike.clear();
    let mut pair = Pair::new(a, settings(Side::B));
    pair.run_for(MINUTE);
    assert_eq!(pair.a.codes()[0], "message-too-long");
    assert!(pair.a.codes().len() < 10);
}

#[test]
fn a_one_sided_identity_mismatch_neither_flaps_nor_stops_retrying() {
    let mut b = settings(Side::B);
    b.start = Start::Auto;
    b.peer_id = PeerId::Exactly("somebody.example.org".parse().unwrap());
    let mut pair = Pair::new(settings(Side::A), b);
    pair.run_for(30 * MINUTE);
    assert_ne!(pair.a.state(), TunnelState::Up);
    assert!(
        pair.a.sent.len() + pair.b.sent.len() < 1500,
        "{} and {} datagrams",
        pair.a.sent.len(),
        pair.b.sent.len()
    );
    assert!(pair.a.children.is_empty() && pair.b.children.is_empty());
}

/// The number of SAs of any kind of an endpoint.
fn sa_count(pair: &Pair, side: Side) -> usize {
    let node = match side {
        Side::A => &pair.a,
        Side::B => &pair.b,
    };
    let shown = format!("{:?}", node.endpoint);
    [
        "InitSent(",
        "AuthSent(",
        "HalfOpen(",
        "Established(",
        "LastResponse(",
    ]
    .iter()
    .map(|kind| shown.matches(kind).count())
    .sum()
}

#[test]
fn p11_after_random_losses_reordering_and_crashes_both_ends_agree_on_one_tunnel() {
    for seed in 0..48u8 {
        let mut chance = Generator::from_seed([seed; 32]);
        let starts = [Start::Auto, Start::Add, Start::Trap];
        let set = |side, start| {
            let mut settings = settings(side);
            settings.start = start;
            settings
        };
        let (a, b) = (
            set(Side::A, Start::Auto),
            set(Side::B, starts[usize::from(seed % 3)]),
        );
        let mut pair = Pair::with_seeds(a.clone(), b.clone(), (seed, seed + 100));
        for _ in 0..40 {
            let side = if chance.below(2) == 0 {
                Side::A
            } else {
                Side::B
            };
            match chance.below(12) {
                0 => pair.command(side, Command::Down(TUNNEL)),
                1 | 2 => pair.command(side, Command::Up(TUNNEL)),
                3 => pair.command(side, Command::Reset(TUNNEL)),
                4 => {
                    let settings = if side == Side::A { &a } else { &b };
                    let seed = chance.bytes::<1>()[0];
                    pair.reboot(side, settings.clone(), seed);
                }
                5 => pair.command(Side::B, Command::Demand(TUNNEL)),
                6 => {
                    let loss = chance.below(10);
                    let mut dice = Generator::from_seed(chance.bytes());
                    pair.impairment(move |_, _| {
                        if dice.below(10) < loss {
                            return Vec::new();
                        }
                        (0..=dice.below(2))
                            .map(|_| Duration::from_millis(dice.below(900)))
                            .collect()
                    });
                }
                7 => pair.cut(),
                _ => {}
            }
            let pause = [5, 40, 300, 2000, 9000, 30_000][usize::try_from(chance.below(6)).unwrap()];
            pair.run_for(Duration::from_millis(chance.below(pause)));
            assert!(sa_count(&pair, Side::A) < 40 && sa_count(&pair, Side::B) < 40);
        }
        pair.no_impairment();
        pair.command(Side::A, Command::Up(TUNNEL));
        pair.command(Side::B, Command::Up(TUNNEL));
        pair.run_for(5 * MINUTE);
        pair.assert_agreed();
        let (ike_a, ike_b) = (pair.a.view().ike.unwrap(), pair.b.view().ike.unwrap());
        assert_eq!((ike_a.spi_i, ike_a.spi_r), (ike_b.spi_i, ike_b.spi_r));
        assert_eq!(
            (sa_count(&pair, Side::A), sa_count(&pair, Side::B)),
            (1, 1),
            "{seed}"
        );
        let before = (pair.a.events.len(), pair.b.events.len());
        pair.run_for(20 * MINUTE);
        assert_eq!((pair.a.events.len(), pair.b.events.len()), before, "{seed}");
    }
}

#[test]
fn the_next_address_of_a_name_is_tried_after_a_few_seconds_of_silence() {
    let mut pair = named(Start::Auto);
    for attempt in 1..=3 {
        assert_eq!(pair.b.count("Resolve"), attempt);
        resolve_all(
            &mut pair,
            Side::B,
            &["198.51.100.1", "198.51.100.2", "192.0.2.1"],
        );
        let deadline = pair.now + 10 * SECOND;
        while pair.b.count("Resolve") == attempt && pair.b.state() != TunnelState::Up {
            assert!(pair.now < deadline, "attempt {attempt} takes too long");
            pair.run_for(SECOND / 2);
        }
    }
    pair.assert_agreed();
}

#[test]
fn a_changed_network_ends_the_pause_between_attempts() {
    let mut pair = Pair::established();
    pair.cut();
    // Long enough for the longest pause.
    pair.run_for(20 * MINUTE);
    assert_ne!(pair.a.state(), TunnelState::Up);
    pair.no_impairment();
    for side in [Side::A, Side::B] {
        pair.command(side, Command::NetworkChanged);
    }
    pair.run_for(3 * SECOND);
    pair.assert_agreed();
}

#[test]
fn a_changed_network_does_not_end_the_pause_after_a_refusal() {
    let mut b = settings(Side::B);
    b.psk = Psk(Secret::from_slice(b"another key"));
    let mut pair = Pair::new(settings(Side::A), b);
    // Long enough for a pause of more than a minute.
    pair.run_for(20 * MINUTE);
    let before = pair.a.sent.len();
    let deadline = pair.now + 20 * MINUTE;
    while pair.a.sent.len() == before {
        assert!(pair.now < deadline, "it keeps trying");
        pair.run_for(SECOND);
    }
    pair.run_for(5 * SECOND);
    let quiet = pair.a.sent.len();
    for _ in 0..10 {
        pair.command(Side::A, Command::NetworkChanged);
        pair.run_for(SECOND);
    }
    assert_eq!(pair.a.sent.len(), quiet, "no attempt");
}

#[test]
fn a_changed_network_does_not_end_an_attempt_that_is_answered_meanwhile() {
    let mut pair = Pair::new(settings(Side::A), settings(Side::B));
    // The answers take long, but arrive.
    pair.impairment(|side, transmit| match side {
        Side::B if transmit.local.port() == 500 => vec![Duration::from_millis(2450)],
        Side::B => vec![Duration::from_millis(900)],
        Side::A => vec![LATENCY],
    });
    pair.run_for(Duration::from_millis(2400));
    pair.command(Side::A, Command::NetworkChanged);
    pair.run_for(5 * SECOND);
    pair.assert_agreed();
    assert_eq!(pair.a.count("Connecting"), 1, "one attempt");
}
