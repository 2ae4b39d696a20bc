//! An established tunnel: liveness checks, deletion, expiry, restarts.

use std::time::Duration;

use groundlink::crypto::EspProposal;
use groundlink::ike::{
    Command, Content, Encapsulation, Rekey, RekeyCheck, RekeyVerdict, Start, TunnelState,
};

use crate::pair::{LATENCY, Pair, Side, TUNNEL, settings};

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn liveness_checks_are_sent_only_without_authenticated_inbound_traffic() {
    let mut pair = Pair::established();
    let quiet = (pair.a.sent.len(), pair.b.sent.len());
    for _ in 0..60 {
        let at = pair.now;
        pair.command(Side::A, Command::EspReceived { tunnel: TUNNEL, at });
        pair.command(Side::B, Command::EspReceived { tunnel: TUNNEL, at });
        pair.run_for(Duration::from_secs(5));
    }
    assert_eq!(
        (pair.a.sent.len(), pair.b.sent.len()),
        quiet,
        "ESP proves that the peer lives"
    );
    pair.run_for(Duration::from_secs(25));
    assert!(pair.a.sent.len() > quiet.0, "silence is asked about");
    pair.assert_agreed();
}

#[test]
fn a_dead_peer_is_detected_after_delay_and_timeout_and_not_before() {
    let mut pair = Pair::established();
    pair.cut();
    pair.run_for(Duration::from_secs(38));
    assert_eq!(pair.a.state(), TunnelState::Up, "{:?}", pair.a.events);
    pair.run_for(Duration::from_secs(5));
    assert_eq!(pair.a.state(), TunnelState::Connecting);
    assert_eq!(pair.a.codes()[0], "peer-dead");
    assert!(pair.a.children.is_empty());
    pair.no_impairment();
    pair.run_for(3 * MINUTE);
    pair.assert_agreed();
}

#[test]
fn one_lost_liveness_check_does_not_close_the_tunnel() {
    let mut pair = Pair::established();
    let spi = pair.a.children[0].spi_in;
    pair.cut();
    pair.run_for(Duration::from_secs(20));
    pair.no_impairment();
    pair.run_for(10 * MINUTE);
    pair.assert_agreed();
    assert_eq!(pair.a.children[0].spi_in, spi);
}

#[test]
fn down_deletes_the_sas_and_holds_until_up() {
    let mut pair = Pair::established();
    pair.command(Side::A, Command::Down(TUNNEL));
    assert!(pair.a.children.is_empty(), "traffic stops at once");
    pair.run_for(10 * MINUTE);
    assert_eq!(pair.a.state(), TunnelState::Down);
    assert!(pair.b.children.is_empty());
    assert_eq!(pair.b.codes(), ["deleted-by-peer"]);
    assert!(pair.a.endpoint.is_idle() && pair.b.endpoint.is_idle());
    pair.command(Side::A, Command::Up(TUNNEL));
    pair.run_for(Duration::from_secs(1));
    pair.assert_agreed();
}

#[test]
fn a_tunnel_taken_down_rejects_the_peer() {
    let mut pair = Pair::established();
    pair.command(Side::B, Command::Down(TUNNEL));
    pair.run_for(10 * MINUTE);
    assert_eq!(pair.b.state(), TunnelState::Down);
    assert_eq!(pair.a.state(), TunnelState::Connecting);
    assert_eq!(pair.a.view().last_failure.unwrap().code, "peer-unavailable");
    pair.command(Side::B, Command::Up(TUNNEL));
    pair.run_for(2 * MINUTE);
    pair.assert_agreed();
}

#[test]
fn shutdown_sends_deletes_and_ends_when_the_peer_has_answered() {
    let mut pair = Pair::established();
    pair.command(Side::B, Command::Shutdown);
    assert!(!pair.b.endpoint.is_idle());
    pair.run_for(LATENCY * 3);
    assert!(pair.b.endpoint.is_idle());
    assert!(pair.a.children.is_empty());
}

#[test]
fn reset_reconnects() {
    let mut pair = Pair::established();
    let spi = pair.a.children[0].spi_in;
    pair.command(Side::A, Command::Reset(TUNNEL));
    pair.run_for(Duration::from_secs(5));
    pair.assert_agreed();
    assert_ne!(pair.a.children[0].spi_in, spi);
}

#[test]
fn a_child_sa_is_rekeyed_before_its_lifetime_ends_without_interruption() {
    let mut a = settings(Side::A);
    a.child_lifetime = Duration::from_secs(100);
    let mut pair = Pair::new(a, settings(Side::B));
    pair.run_for(Duration::from_secs(84));
    pair.assert_agreed();
    let (spi, since) = (pair.a.children[0].spi_in, pair.a.view().since);
    pair.run_for(Duration::from_secs(7));
    pair.assert_agreed();
    assert_ne!(pair.a.children[0].spi_in, spi);
    for node in [&pair.a, &pair.b] {
        assert_eq!(node.view().rekeys.child, 1);
        assert_eq!(node.view().state, TunnelState::Up);
    }
    assert_eq!(pair.a.view().since, since, "it was up all the time");
}

#[test]
fn the_ike_sa_is_rekeyed_before_its_lifetime_ends_and_keeps_its_child_sa() {
    let mut b = settings(Side::B);
    b.ike_lifetime = Duration::from_secs(50);
    let mut pair = Pair::new(settings(Side::A), b);
    pair.run_for(Duration::from_secs(1));
    let (spi, ike) = (pair.a.children[0].spi_in, pair.a.view().ike.unwrap());
    pair.run_for(Duration::from_secs(46));
    pair.assert_agreed();
    assert_eq!(pair.a.children[0].spi_in, spi);
    let new = pair.a.view().ike.unwrap();
    assert_ne!(new.spi_i, ike.spi_i);
    assert_eq!(Some(new.spi_r), pair.b.view().ike.map(|ike| ike.spi_r));
    assert_eq!((pair.a.view().rekeys.ike, pair.b.view().rekeys.ike), (1, 1));
}

#[test]
fn p19_exhausted_sequence_numbers_close_the_child_sa_and_a_new_one_follows() {
    let mut pair = Pair::established();
    let spi_in = pair.a.children[0].spi_in;
    pair.command(
        Side::A,
        Command::SequenceExhausted {
            tunnel: TUNNEL,
            spi_in,
        },
    );
    assert!(pair.a.children.is_empty(), "nothing is sent any more");
    pair.run_for(Duration::from_secs(10));
    pair.assert_agreed();
    assert_ne!(pair.a.children[0].spi_in, spi_in);
}

#[test]
fn p18_a_child_sa_that_cannot_be_installed_is_deleted_at_the_peer_too() {
    let mut pair = Pair::established();
    let spi_in = pair.a.children[0].spi_in;
    let why = "the device is gone".to_owned();
    pair.command(
        Side::A,
        Command::InstallFailed {
            tunnel: TUNNEL,
            spi_in,
            why,
        },
    );
    pair.run_for(LATENCY * 4);
    assert!(pair.b.children.is_empty());
    assert_eq!(pair.a.codes()[0], "install-failed");
}

#[test]
fn initial_contact_replaces_the_sas_of_a_rebooted_peer_at_once() {
    let mut pair = Pair::established();
    let old = pair.b.children[0].spi_in;
    pair.reboot(Side::A, settings(Side::A), 9);
    pair.run_for(Duration::from_secs(1));
    pair.assert_agreed();
    assert_ne!(pair.b.children[0].spi_in, old);
}

#[test]
fn a_rebooted_responder_is_detected_by_liveness_checks() {
    let mut pair = Pair::established();
    pair.reboot(Side::B, settings(Side::B), 9);
    pair.run_for(2 * MINUTE);
    pair.assert_agreed();
}

#[test]
fn trap_connects_on_demand_and_waits_for_the_next_packet_after_a_failure() {
    let mut a = settings(Side::A);
    a.start = Start::Trap;
    let mut pair = Pair::new(a, settings(Side::B));
    pair.run_for(MINUTE);
    assert!(pair.a.sent.is_empty());
    pair.command(Side::A, Command::Demand(TUNNEL));
    pair.run_for(Duration::from_secs(1));
    pair.assert_agreed();
    pair.command(Side::B, Command::Down(TUNNEL));
    pair.run_for(MINUTE);
    let silent = pair.a.sent.len();
    pair.run_for(10 * MINUTE);
    assert_eq!(pair.a.sent.len(), silent, "without traffic it stays silent");
}

#[test]
fn add_waits_for_the_peer_and_initiates_once_on_request() {
    let mut a = settings(Side::A);
    a.start = Start::Add;
    let mut pair = Pair::new(a, settings(Side::B));
    pair.run_for(10 * MINUTE);
    assert!(pair.a.sent.is_empty() && pair.b.sent.is_empty());
    pair.cut();
    pair.command(Side::A, Command::Up(TUNNEL));
    pair.run_for(2 * MINUTE);
    assert_eq!(pair.a.state(), TunnelState::Failed);
    let silent = pair.a.sent.len();
    pair.run_for(10 * MINUTE);
    assert_eq!(pair.a.sent.len(), silent);
}

#[test]
fn nat_keepalives_are_sent_after_20_seconds_without_traffic() {
    let mut a = settings(Side::A);
    a.encapsulation = Encapsulation::Auto;
    // Liveness checks would be sent first.
    a.dpd.delay = Duration::from_secs(3600);
    let mut b = settings(Side::B);
    b.encapsulation = Encapsulation::Auto;
    b.dpd.delay = Duration::from_secs(3600);
    b.peer = groundlink::ike::Peer::Address("203.0.113.9".parse().unwrap());
    let mut pair = Pair::new(a, b);
    pair.nat("203.0.113.9");
    pair.run_for(Duration::from_secs(101));
    let keepalives = |sent: &[groundlink::ike::Transmit]| {
        sent.iter()
            .filter(|transmit| transmit.content == Content::Keepalive)
            .count()
    };
    assert_eq!(keepalives(&pair.a.sent), 5);
    assert_eq!(keepalives(&pair.b.sent), 0);
    let at = pair.now;
    pair.command(Side::A, Command::EspSent { tunnel: TUNNEL, at });
    pair.run_for(Duration::from_secs(19));
    assert_eq!(keepalives(&pair.a.sent), 5, "ESP keeps it open as well");
}

#[test]
fn a_clock_jump_is_survived() {
    let mut pair = Pair::established();
    // The host of A is suspended for an hour; its clock continues.
    pair.now += Duration::from_secs(3600);
    pair.run_for(2 * MINUTE);
    pair.assert_agreed();
}

/// A tunnel whose B runs the rekey check, with these ESP proposals on each side.
fn with_rekey_check(a_esp: &str, b_esp: &str) -> Pair {
    let esp = |words: &str| vec![EspProposal::parse(words).unwrap().0];
    let (mut a, mut b) = (settings(Side::A), settings(Side::B));
    (a.esp, b.esp) = (esp(a_esp), esp(b_esp));
    b.rekey_check = RekeyCheck::Once;
    let mut pair = Pair::new(a, b);
    pair.run_for(Duration::from_secs(1));
    pair.assert_agreed();
    pair
}

#[test]
fn the_rekey_check_shows_that_the_peer_rekeys() {
    let pfs = "aes128-sha256-curve25519";
    let mut pair = with_rekey_check(pfs, pfs);
    pair.run_for(MINUTE);
    pair.assert_agreed();
    let view = pair.b.view();
    let check = view.rekey_check.unwrap();
    assert_eq!(
        (check.child, check.ike),
        (RekeyVerdict::Accepted, RekeyVerdict::Accepted)
    );
    assert_eq!((view.rekeys.child, view.rekeys.ike), (1, 1));
    assert_eq!(view.child.unwrap().suite.to_string(), pfs);
    pair.run_for(60 * MINUTE);
    assert_eq!(pair.b.view().rekeys, view.rekeys, "once is enough");
    assert_eq!(pair.a.view().rekey_check, None, "A did not ask");
}

#[test]
fn the_rekey_check_finds_a_pfs_mismatch_and_leaves_the_tunnel_unchanged() {
    for (a, b) in [
        ("aes128-sha256-modp2048", "aes128-sha256-curve25519"),
        ("aes128-sha256-curve25519", "aes128-sha256"),
        ("aes128-sha256", "aes128-sha256-curve25519"),
    ] {
        let mut pair = with_rekey_check(a, b);
        let (since, spi) = (pair.b.view().since, pair.b.children[0].spi_in);
        pair.run_for(60 * MINUTE);
        pair.assert_agreed();
        let view = pair.b.view();
        let check = view.rekey_check.unwrap();
        assert_eq!(
            (check.child, check.ike),
            (RekeyVerdict::Refused, RekeyVerdict::Accepted)
        );
        assert_eq!((view.since, pair.b.children[0].spi_in), (since, spi));
        let failure = view.last_failure.unwrap();
        assert_eq!(failure.code, "rekey-refused");
        assert!(failure.text.contains(b), "{}", failure.text);
        // The other side reports both proposals, too.
        let reported = pair.a.view().last_failure.unwrap();
        assert_eq!(reported.code, "pfs-mismatch");
        assert!(
            reported.text.contains(a) && reported.text.contains(b),
            "{}",
            reported.text
        );
        assert_eq!(pair.b.count("RekeyChecked"), 2);
    }
}

//  A                                B
//  │── rekey the Child SA ─────────▶│
//  │◀────────────────────────────── │
//  │── DELETE (old) ── lost         │
//  │◀──────── rekey the IKE SA ─────│   manual rekey command
//  │── TEMPORARY_FAILURE ──────────▶│
//  │── DELETE (old), again ────────▶│
//  │◀──────── rekey the IKE SA ─────│   retried soon, although not due for a day
#[test]
fn a_requested_rekey_that_gets_temporary_failure_is_retried_soon() {
    let mut pair = Pair::established();
    let rekey = |what| Command::Rekey {
        tunnel: TUNNEL,
        what,
    };
    pair.command(Side::A, rekey(Rekey::Child));
    pair.run_for(LATENCY * 2);
    // The DELETE is in flight and lost.
    let mut deletes = 0;
    pair.impairment(move |from, _| {
        deletes += u32::from(from == Side::A);
        if from == Side::A && deletes == 1 {
            Vec::new()
        } else {
            vec![LATENCY]
        }
    });
    pair.command(Side::B, rekey(Rekey::Ike));
    pair.run_for(Duration::from_secs(10));
    pair.no_impairment();
    pair.assert_agreed();
    for node in [&pair.a, &pair.b] {
        assert_eq!(node.view().rekeys.ike, 1);
        assert_eq!(node.view().rekeys.child, 1);
    }
}
