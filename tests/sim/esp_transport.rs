//! The ESP transport and the IKE port: UDP 4500 where a NAT is detected or encapsulation is forced, IP protocol 50 and port 500
//! otherwise.

use std::net::IpAddr;
use std::time::Duration;

use groundlink::ike::{Command, Encapsulation, NatLocation, Peer, Rekey, Settings, TunnelState};
use groundlink::net::EspTransport;

use crate::pair::{Pair, Side, TUNNEL, settings};

const OUTSIDE: &str = "203.0.113.9";

fn with(side: Side, encapsulation: Encapsulation) -> Settings {
    Settings {
        encapsulation,
        ..settings(side)
    }
}

/// Both sides, after the time that a set-up takes.
fn between(a: Encapsulation, b: Encapsulation) -> Pair {
    let mut pair = Pair::new(with(Side::A, a), with(Side::B, b));
    pair.run_for(Duration::from_secs(3));
    pair
}

/// Both sides with a NAT in front of A.
fn translated(a: Encapsulation, b: Encapsulation) -> Pair {
    let b = Settings {
        peer: Peer::Address(OUTSIDE.parse().unwrap()),
        ..with(Side::B, b)
    };
    let mut pair = Pair::new(with(Side::A, a), b);
    pair.nat(OUTSIDE);
    pair.run_for(Duration::from_secs(3));
    pair
}

fn assert_carries(pair: &Pair, transport: EspTransport, port: u16) {
    pair.assert_agreed();
    for node in [&pair.a, &pair.b] {
        assert_eq!(node.state(), TunnelState::Up);
        assert_eq!(node.children[0].transport, transport);
        assert_eq!(node.view().child.unwrap().transport, transport);
        assert_eq!(node.children[0].local.port(), port);
    }
}

#[test]
fn without_a_nat_esp_is_native_and_ike_stays_on_port_500() {
    use Encapsulation::{Auto, Esp};
    for (a, b) in [(Auto, Auto), (Esp, Esp), (Auto, Esp), (Esp, Auto)] {
        let mut pair = between(a, b);
        assert_carries(&pair, EspTransport::Esp, 500);
        let sent = pair.a.sent.iter().chain(&pair.b.sent);
        assert!(sent.clone().all(|sent| sent.remote.port() == 500));
        assert_eq!(pair.a.view().ike.unwrap().nat, NatLocation::None);
        // The decision also holds for later SAs of the tunnel.
        for what in [Rekey::Child, Rekey::Ike, Rekey::Child] {
            pair.command(
                Side::A,
                Command::Rekey {
                    tunnel: TUNNEL,
                    what,
                },
            );
            pair.run_for(Duration::from_secs(10));
            assert_carries(&pair, EspTransport::Esp, 500);
        }
    }
}

#[test]
fn auto_uses_udp_where_a_nat_is_detected() {
    use Encapsulation::{Auto, Udp};
    for (a, b) in [(Auto, Auto), (Udp, Auto), (Auto, Udp)] {
        assert_carries(&translated(a, b), EspTransport::Udp, 4500);
    }
}

#[test]
fn auto_follows_a_peer_that_forces_udp_encapsulation() {
    use Encapsulation::{Auto, Udp};
    assert_carries(&between(Auto, Udp), EspTransport::Udp, 4500);
    assert_carries(&between(Udp, Auto), EspTransport::Udp, 4500);
}

#[test]
fn native_esp_is_rejected_across_a_nat_or_with_a_peer_that_forces_udp_and_this_is_reported() {
    use Encapsulation::{Auto, Esp, Udp};
    let reported_code = |pair: &Pair, side: Side| {
        let node = match side {
            Side::A => &pair.a,
            Side::B => &pair.b,
        };
        assert_ne!(node.state(), TunnelState::Up);
        assert!(node.children.is_empty());
        node.view().last_failure.map(|failure| failure.code)
    };
    for mut pair in [translated(Esp, Auto), between(Esp, Udp)] {
        pair.run_for(Duration::from_secs(5));
        assert_eq!(reported_code(&pair, Side::A), Some("nat-in-between"));
    }
    for pair in [translated(Auto, Esp), between(Udp, Esp)] {
        assert_eq!(reported_code(&pair, Side::B), Some("nat-in-between"));
        assert_ne!(pair.a.state(), TunnelState::Up);
    }
}

#[test]
fn a_rejected_peer_that_requires_native_esp_gets_advice_about_the_nat() {
    use Encapsulation::{Auto, Esp};
    let reported = |a| {
        let pair = translated(a, Esp);
        let failure = pair.a.view().last_failure.unwrap();
        // The peer sends the same notification for both reasons.
        assert_eq!(failure.code, "no-proposal-chosen");
        format!("{failure:?}")
    };
    let both = reported(Esp);
    assert!(both.contains("detected a NAT"), "{both}");
    assert!(both.contains("on both sides"), "{both}");
    let theirs = reported(Auto);
    assert!(!theirs.contains("NAT"), "{theirs}");
}

#[test]
fn an_unspecified_local_address_is_resolved_before_its_nat_detection_hash_is_sent() {
    let mut a = with(Side::A, Encapsulation::Auto);
    a.local = IpAddr::from([0, 0, 0, 0]);
    let mut pair = Pair::new(a.clone(), with(Side::B, Encapsulation::Auto));
    pair.run_for(Duration::from_secs(1));
    assert_eq!((pair.a.count("Source"), pair.a.sent.len()), (1, 0));
    let local = Some(Side::A.ip().parse().unwrap());
    let answer = Command::Source {
        tunnel: TUNNEL,
        local,
    };
    pair.command(Side::A, answer.clone());
    pair.run_for(Duration::from_secs(3));
    assert_carries(&pair, EspTransport::Esp, 500);
    // Without an outstanding request such a response starts nothing.
    let sent = pair.a.sent.len();
    pair.command(Side::A, answer);
    assert_eq!(pair.a.sent.len(), sent);

    // Without a response to the query the peer detects a NAT, and our side expects that.
    let mut pair = Pair::new(a, with(Side::B, Encapsulation::Auto));
    pair.run_for(Duration::from_secs(1));
    let nothing = Command::Source {
        tunnel: TUNNEL,
        local: None,
    };
    pair.command(Side::A, nothing);
    pair.run_for(Duration::from_secs(3));
    assert_carries(&pair, EspTransport::Udp, 4500);
}
