//! A peer that authenticates anew instead of rekeying, and one that dies and returns.

use std::time::Duration;

use groundlink::lab::charon::{CharonConfig, ReauthOrder, RekeyTimes};
use groundlink::lab::options::{InitiatorChoice, LabOptions, RemoteKind, Side};
use groundlink::lab::{Lab, Overrides, RemoteGateway};
use groundlink::status::{TunnelState, TunnelStatus};
use nix::sys::signal::Signal;

use super::lab::{logs, settled, tunnel_that, up};
use super::stream::{Carried, Stream};
use super::wait;

fn spi(tunnel: &TunnelStatus) -> Option<String> {
    tunnel.ike.clone().map(|ike| ike.spi_i)
}

/// Has charon authenticate anew three times under a stream.
fn authenticates_anew(order: ReauthOrder) -> (Lab, Stream) {
    let options = LabOptions {
        peer: RemoteKind::Strongswan,
        role: InitiatorChoice::Responder,
        ..LabOptions::default()
    };
    let often = |connection: &mut CharonConfig| {
        connection.rekey_times = RekeyTimes {
            reauth_s: Some(3),
            reauth_order: order,
            ..RekeyTimes::default()
        };
    };
    let mut lab = up(
        &options,
        &Overrides {
            config: None,
            connection: Some(&often),
        },
    );
    let stream = Stream::begin(&lab, 200);
    stream.await_flow(&mut lab);
    for _ in 0..3 {
        let before = tunnel_that(&mut lab, "is up", |tunnel| tunnel.state == TunnelState::Up);
        tunnel_that(&mut lab, "is another", |tunnel| {
            tunnel.state == TunnelState::Up && spi(tunnel) != spi(&before)
        });
        stream.await_flow(&mut lab);
    }
    settled(&mut lab);
    (lab, stream)
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn a_peer_that_authenticates_anew_before_it_ends_the_old_is_followed_all_but_without_loss() {
    let (mut lab, stream) = authenticates_anew(ReauthOrder::MakeBeforeBreak);
    for way in stream.end() {
        println!("{way}");
        // Of more than 1,800: what overtakes the last message of each handshake, or the DELETE.
        assert!(
            way.lost() <= 15 && way.twice == 0,
            "{way}{}",
            logs(&mut lab)
        );
    }
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn a_peer_that_ends_the_old_before_it_authenticates_anew_is_followed() {
    let (_lab, stream) = authenticates_anew(ReauthOrder::BreakBeforeMake);
    for way in stream.end() {
        println!("{way}");
        assert_eq!(way.twice, 0);
    }
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn a_peer_that_is_killed_and_comes_back_is_one_tunnel_again_though_both_start() {
    let impatient =
        |_: Side, written: String| written + "dpd = { delay = \"1s\", timeout = \"3s\" }\n";
    let changes = Overrides {
        config: Some(&impatient),
        connection: None,
    };
    let options = LabOptions {
        peer: RemoteKind::Strongswan,
        role: InitiatorChoice::Both,
        ..LabOptions::default()
    };
    let mut lab = up(&options, &changes);
    let before = tunnel_that(&mut lab, "is up", |tunnel| tunnel.state == TunnelState::Up);
    let RemoteGateway::Strongswan(charon) = lab.b() else {
        unreachable!()
    };
    charon.process().signal(Signal::SIGKILL);
    let dead = tunnel_that(&mut lab, "noticed", |tunnel| {
        tunnel.state == TunnelState::Connecting
    });
    assert_eq!(dead.last_error.unwrap().code, "peer-dead");
    lab.restart_b().unwrap();
    tunnel_that(&mut lab, "came back", |tunnel| {
        tunnel.state == TunnelState::Up && spi(tunnel) != spi(&before)
    });
    settled(&mut lab);
    let stream = Stream::begin(&lab, 200);
    stream.await_flow(&mut lab);
    let [there, back]: [Carried; 2] = stream.end_unharmed(&mut lab);
    assert!(there.arrived > 0 && back.arrived > 0, "{}", logs(&mut lab));
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn a_peer_that_is_back_before_we_noticed_is_believed_at_once() {
    let options = LabOptions {
        peer: RemoteKind::Strongswan,
        role: InitiatorChoice::Responder,
        ..LabOptions::default()
    };
    let mut lab = up(&options, &Overrides::default());
    let before = tunnel_that(&mut lab, "is up", |tunnel| tunnel.state == TunnelState::Up);
    let RemoteGateway::Strongswan(charon) = lab.b() else {
        unreachable!()
    };
    charon.process().signal(Signal::SIGKILL);
    wait::until(Duration::from_secs(5), "killed", || {
        charon
            .process()
            .exit_status()
            .ok_or_else(|| "it runs".to_owned())
    });
    lab.restart_b().unwrap();
    let after = tunnel_that(&mut lab, "is another", |tunnel| {
        tunnel.state == TunnelState::Up && spi(tunnel) != spi(&before)
    });
    assert_eq!(after.last_error, None, "nobody was missed: INITIAL_CONTACT");
    settled(&mut lab);
    let stream = Stream::begin(&lab, 200);
    stream.await_flow(&mut lab);
    stream.end_unharmed(&mut lab);
}
