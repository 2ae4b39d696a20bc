//! A translating router that forgets its mapping in mid-stream, and makes another.
//!
//! ```text
//!  gateway behind it          router                    the other
//!  100.64.…:4500 ───────▶ …:20000 ─────────────────▶
//!                     (it restarts)
//!  100.64.…:4500 ───────▶ …:21000 ─────────────────▶    a fresh authentic packet: answer there from now on
//! ```

use groundlink::lab::charon::CharonConfig;
use groundlink::lab::options::{InitiatorChoice, LabOptions, NatPlacement, RemoteKind, Side};
use groundlink::lab::{Lab, Overrides};
use groundlink::status::TunnelState;

use super::lab::{filter, logs, tunnel_that, up};
use super::stream::Stream;

/// Has the router give the gateway of `side` other ports from one packet to the next; what comes for the old ones is lost.
fn rebind(lab: &Lab, side: Side, port: u16) {
    let (leg, inside, public) = match side {
        Side::A => (
            "leg-b",
            lab.addressing().a.outside[0],
            lab.addressing().a.public[0],
        ),
        Side::B => (
            "leg-a",
            lab.addressing().b.outside[0],
            lab.addressing().b.public[0],
        ),
    };
    let second = port + 1;
    // Without connection tracking, so that there is nothing to forget.
    filter(
        lab,
        &format!(
            "table ip lab; delete table ip lab
table ip lab {{
  chain out {{
    type filter hook postrouting priority srcnat
    oifname {leg} ip saddr {inside} udp sport 4500 udp sport set {port} ip saddr set {public}
    oifname {leg} ip saddr {inside} udp sport 500 udp sport set {second} ip saddr set {public}
  }}
  chain in {{
    type filter hook prerouting priority dstnat
    iifname {leg} ip daddr {public} udp dport {port} udp dport set 4500 ip daddr set {inside}
    iifname {leg} ip daddr {public} udp dport {second} udp dport set 500 ip daddr set {inside}
    iifname {leg} ip daddr {public} udp dport 1024-65535 drop
  }}
}}"
        ),
    );
}

fn moves(peer: RemoteKind, side: Side) {
    let options = LabOptions {
        peer,
        nat: match side {
            Side::A => NatPlacement::Us,
            Side::B => NatPlacement::Peer,
        },
        role: match side {
            Side::A => InitiatorChoice::Initiator,
            Side::B => InitiatorChoice::Responder,
        },
        ..LabOptions::default()
    };
    // charon's userspace ESP tells nobody that packets come from elsewhere: charon learns it from the next IKE message.
    let alert =
        |_: Side, written: String| written + "dpd = { delay = \"1s\", timeout = \"20s\" }\n";
    let changes = Overrides {
        config: Some(&alert),
        connection: Some(&|connection: &mut CharonConfig| connection.dpd_delay = 1),
    };
    let mut lab = up(&options, &changes);
    let before = tunnel_that(&mut lab, "is up", |tunnel| tunnel.state == TunnelState::Up);
    let stream = Stream::begin(&lab, 200);
    stream.await_flow(&mut lab);
    for port in [40_000, 41_000, 42_000] {
        rebind(&lab, side, port);
        stream.await_flow(&mut lab);
        if side == Side::B {
            tunnel_that(&mut lab, "follows", |tunnel| {
                tunnel.peer.ends_with(&format!(":{port}"))
            });
        }
    }
    // A rekey knows the new place too.
    lab.a().command("lab-1", "rekey").unwrap();
    tunnel_that(&mut lab, "has rekeyed", |tunnel| tunnel.rekeys.child > 0);
    stream.await_flow(&mut lab);
    let after = tunnel_that(&mut lab, "is up", |tunnel| tunnel.state == TunnelState::Up);
    let name = |tunnel: &groundlink::status::TunnelStatus| {
        let ike = tunnel.ike.clone().unwrap();
        (ike.spi_i, ike.spi_r, tunnel.since_s)
    };
    assert_eq!(name(&before), name(&after), "{}", logs(&mut lab));
    for way in stream.end() {
        println!("{peer:?}, {side} behind the NAT, {way}");
        assert_eq!(way.twice, 0);
        if way.from == side {
            assert_eq!(way.lost(), 0, "whom the router renames is heard: {way}");
        }
    }
}

#[test]
#[ignore = "needs root, strongSwan and nft: tests/run runs it"]
fn a_peer_whose_nat_rebinds_is_followed() {
    moves(RemoteKind::Strongswan, Side::B);
    moves(RemoteKind::Groundlink, Side::B);
}

#[test]
#[ignore = "needs root, strongSwan and nft: tests/run runs it"]
fn we_are_followed_when_our_nat_rebinds() {
    moves(RemoteKind::Groundlink, Side::A);
    moves(RemoteKind::Strongswan, Side::A);
}
