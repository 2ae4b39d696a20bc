//! Rekeys at an unfavourable moment: SAs that are about to close, and peers with an unusual message order.

use std::time::Duration;

use groundlink::ike::{Command, Content, DownReason, Rekey, Settings, Start, Transmit};
use groundlink::wire::ExchangeType;

use crate::pair::{LATENCY, Pair, Side, TUNNEL, settings};
use crate::script::{CREATE, INFORM};
use crate::wire::{Kind, request_kind, response_kind};

const SECOND: Duration = Duration::from_secs(1);

/// Both sides have initiated, and both IKE SAs are established; one is about to be closed.
fn with_two_ike_sas() -> Pair {
    let mut pair = Pair::new(auto(Side::A), auto(Side::B));
    while pair.a.ikes.len() < 2 || pair.b.ikes.len() < 2 {
        pair.run_for(LATENCY);
        assert!(
            pair.now < groundlink::net::Time::from_secs(1001),
            "only one came about"
        );
    }
    pair
}

fn kind(transmit: &Transmit) -> Kind {
    match &transmit.content {
        Content::Ike(bytes) => Kind::of(bytes),
        Content::Keepalive => panic!("there is no NAT"),
    }
}

/// Settings of a side that initiates.
fn auto(side: Side) -> Settings {
    let mut settings = settings(side);
    settings.start = Start::Auto;
    settings
}

#[test]
fn p11_simultaneous_initiation_is_resolved_alike_though_one_sa_was_rekeyed_early() {
    // A                                B
    // │── IKE_AUTH 1 ─────────────────▶│
    // │◀─────────────────── response ──│
    // │◀─────────────────── IKE_AUTH 2 │
    // │── response ─ ─ ─ ─ ─ ─ ─ ─╮    │      late
    // │◀─────────────────── rekey 1 ───│
    // │── response ───────────────│───▶│
    // │                           ╰───▶│      simultaneous initiation, although the first SA was rekeyed
    for seed in 1..9 {
        let (a, b) = (auto(Side::A), auto(Side::B));
        let mut pair = Pair::with_seeds(a, b, (seed, seed + 50));
        pair.impairment(|from, transmit| {
            let late = from == Side::A && kind(transmit) == response_kind(ExchangeType::IKE_AUTH);
            vec![if late { SECOND / 2 } else { LATENCY }]
        });
        pair.run_for(SECOND / 4);
        assert_eq!((pair.a.ikes.len(), pair.b.ikes.len()), (2, 1));
        pair.rekey(Side::B, Rekey::Ike);
        pair.run_for(60 * SECOND);
        pair.assert_agreed();
        for node in [&pair.a, &pair.b] {
            assert_eq!(node.count("Connecting"), 1, "with seed {seed}");
            assert_eq!(node.count("IkeDown"), 1, "with seed {seed}");
        }
    }
}

/// ```text
/// A                                       B
/// │── DELETE the redundant IKE SA ──╳     │   repeated for 12 s: B may still send over its Child SA
/// │── DELETE ────────────────────────────▶│
/// ```
#[test]
fn a_redundant_child_sa_receives_until_its_delete_is_answered_and_five_seconds_more() {
    let mut pair = with_two_ike_sas();
    pair.run_for(SECOND / 2);
    pair.cut();
    pair.run_for(12 * SECOND);
    let closer = [Side::A, Side::B]
        .into_iter()
        .find(|side| {
            let node = pair.node(*side);
            node.endpoint.view(TUNNEL).is_some() && node.sent.iter().any(is_delete)
        })
        .expect("one side closes the redundant SA");
    let now = pair.now;
    assert_eq!(pair.node(closer).children.len(), 2, "none is removed");
    assert_eq!(pair.node(closer).esp.len(now), 2);
    pair.no_impairment();
    while pair.node(closer).children.len() == 2 {
        assert!(pair.step(now + 30 * SECOND), "no response to the DELETE");
    }
    let answered = pair.now;
    assert_eq!(pair.node(closer).esp.len(answered + 4 * SECOND), 2);
    assert_eq!(pair.node(closer).esp.len(answered + 5 * SECOND), 1);
    pair.run_for(60 * SECOND);
    pair.assert_agreed();
}

fn is_delete(transmit: &Transmit) -> bool {
    kind(transmit) == request_kind(INFORM)
}

#[test]
fn an_ike_sa_due_to_close_is_not_kept_by_a_child_sa_rekey() {
    for side in [Side::A, Side::B] {
        let mut pair = with_two_ike_sas();
        let children: Vec<u32> = pair.node(side).children.iter().map(|c| c.spi_in).collect();
        for spi_in in children {
            let tunnel = TUNNEL;
            pair.command(side, Command::SoftLimit { tunnel, spi_in });
        }
        pair.run_for(60 * SECOND);
        pair.assert_agreed();
    }
}

#[test]
fn an_ike_sa_due_to_close_is_not_kept_by_being_rekeyed() {
    // Both IKE SAs are due for a rekey within the second in which one of them is still to be closed.
    let short = |side| {
        let mut settings = auto(side);
        settings.ike_lifetime = Duration::from_millis(900);
        settings
    };
    let mut pair = Pair::new(short(Side::A), short(Side::B));
    pair.run_for(5 * SECOND);
    assert!(pair.a.ikes.len() <= 2, "{:?}", pair.a.ikes);
    assert!(pair.b.ikes.len() <= 2, "{:?}", pair.b.ikes);
}

#[test]
fn esp_before_the_response_that_creates_its_sa_causes_no_invalid_spi() {
    // B                                      A
    // │── CREATE_CHILD_SA ──────────────────▶│
    // │◀── ESP over the new SA ──────────────│    the response is late
    // │◀── response ─────────────────────────│
    let mut pair = Pair::established();
    pair.hold_messages();
    pair.rekey(Side::B, Rekey::Child);
    let request = pair.take(Side::B, request_kind(CREATE));
    let made = pair.response_to(&request);
    let new = pair.a.children.last().unwrap();
    let (remote, spi) = (new.local, new.spi_out);
    pair.command(Side::B, Command::UnknownSpi { remote, spi });
    pair.deliver_copy(&made);
    pair.release_messages();
    pair.run_for(SECOND);
    pair.assert_agreed();
    assert_eq!(pair.a.down_reasons, [DownReason::Replaced]);
    let deletes = pair
        .b
        .sent
        .iter()
        .filter(|sent| kind(sent) == request_kind(INFORM));
    assert_eq!(deletes.count(), 1, "the DELETE of the old one");
}

#[test]
fn unauthenticated_peers_cannot_fill_the_request_queue() {
    // ESP with invented SPIs, which any host can send, while B's request is outstanding.
    let mut pair = Pair::established();
    pair.hold_messages();
    pair.rekey(Side::A, Rekey::Child);
    let rekey = pair.take(Side::A, request_kind(CREATE));
    let remote = pair.a.children[0].remote;
    for spi in 1000..1025 {
        pair.command(Side::A, Command::UnknownSpi { remote, spi });
        pair.run_for(SECOND);
    }
    while pair.wire.take(Side::A).is_some() || pair.wire.take(Side::B).is_some() {}
    let made = pair.response_to(&rekey);
    pair.deliver_copy(&made);
    let mut asked = 0;
    while let Some(request) = pair.wire.take(Side::A) {
        let back = pair.response_to(&request);
        pair.deliver_copy(&back);
        asked += 1;
    }
    assert_eq!(
        asked, 2,
        "one complaint, and the DELETE of what was rekeyed"
    );
}

#[test]
fn p11_a_working_child_sa_remains_when_the_peer_deletes_the_survivor() {
    // Both sides rekey; whichever wins, B deletes its own new SA before A has the result of the collision.
    for seed in 1..9 {
        let mut pair = Pair::with_seeds(settings(Side::A), settings(Side::B), (seed, seed + 50));
        pair.run_for(SECOND);
        pair.traffic(Duration::from_millis(100));
        pair.hold_messages();
        pair.rekey(Side::A, Rekey::Child);
        pair.rekey(Side::B, Rekey::Child);
        let (of_a, of_b) = (
            pair.take(Side::A, request_kind(CREATE)),
            pair.take(Side::B, request_kind(CREATE)),
        );
        let to_a = pair.response_to(&of_a);
        let to_b = pair.response_to(&of_b);
        pair.deliver_copy(&to_b);
        let own = pair.b.children.last().unwrap().spi_in;
        pair.command(
            Side::B,
            Command::InstallFailed {
                tunnel: TUNNEL,
                spi_in: own,
                why: "a whim".to_owned(),
            },
        );
        pair.release_messages();
        pair.run_for(Duration::from_millis(50));
        pair.deliver_copy(&to_a);
        pair.run_for(3 * 60 * SECOND);
        pair.assert_agreed();
    }
}

#[test]
fn a_rekey_response_after_its_ike_sa_is_closed_leaves_no_sa_at_the_peer() {
    for what in [Rekey::Child, Rekey::Ike] {
        let mut pair = Pair::established();
        pair.hold_messages();
        pair.rekey(Side::A, what);
        let request = pair.take(Side::A, request_kind(CREATE));
        let made = pair.response_to(&request);
        pair.command(Side::A, Command::Down(TUNNEL));
        pair.deliver_copy(&made);
        pair.release_messages();
        pair.run_for(2 * SECOND);
        assert!(pair.a.endpoint.is_idle() && pair.b.endpoint.is_idle());
        assert!(pair.b.ikes.is_empty() && pair.b.children.is_empty());
    }
}
