//! Cookies with strongSwan, each side asking the other (RFC 7296 §2.6).
//!
//! charon never asks while it has no half-open IKE SA at all, whatever its threshold, so an unauthenticated peer creates some; we ask from the fourth handshake of one
//! address on, so that peer spoofs the configured peer's address.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use groundlink::crypto::{Generator, Group, IkeProposal, KeyExchange};
use groundlink::lab::charon::{CharonConfig, CharonStart};
use groundlink::lab::options::{InitiatorChoice, LabOptions, RemoteKind};
use groundlink::lab::{Lab, Overrides, RemoteGateway};
use groundlink::os::netns::Namespace;
use groundlink::status::TunnelState;
use groundlink::wire::{
    ExchangeType, Flags, Header, IkeSpi, Ke, Message, MessageId, Payload, Proposal, ProtocolId, Sa,
    Transform, TransformType,
};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};

use super::lab::{build, logs, tunnel_that};
use super::wait;

const SUITE: &str = "aes128-sha256-curve25519";

/// A lab in which nobody starts, and charon asks for cookies as soon as anything is half-open.
fn waiting() -> Lab {
    let options = LabOptions {
        peer: RemoteKind::Strongswan,
        role: InitiatorChoice::Responder,
        ike: Some(SUITE.to_owned()),
        ..LabOptions::default()
    };
    let theirs = |connection: &mut CharonConfig| {
        connection.start = CharonStart::Wait;
        connection.cookies_from = Some(1);
    };
    build(
        &options,
        &Overrides {
            config: None,
            connection: Some(&theirs),
        },
    )
}

/// An IKE_SA_INIT request that both sides would accept.
pub fn init(spi: u64) -> Vec<u8> {
    let suite = IkeProposal::parse(SUITE).unwrap().0;
    let group: &'static Group = suite.groups[0];
    let mut rng = Generator::from_seed([5; 32]);
    let ke = KeyExchange::generate(group, &mut rng);
    let transforms = vec![
        Transform::new(TransformType::ENCR, suite.encryption[0].id, Some(128)),
        Transform::new(TransformType::INTEG, suite.integrity[0].id, None),
        Transform::new(TransformType::PRF, suite.prf[0].id, None),
        Transform::new(TransformType::KE, group.id, None),
    ];
    let flags = Flags {
        initiator: true,
        ..Flags::default()
    };
    let header = Header::new(
        IkeSpi(spi),
        IkeSpi(0),
        ExchangeType::IKE_SA_INIT,
        flags,
        MessageId(0),
    );
    let nat = |kind| Payload::Notify(groundlink::wire::Notify::new(kind, vec![7; 20]));
    let payloads = [
        Payload::Sa(Sa {
            proposals: vec![Proposal::new(1, ProtocolId::IKE, Vec::new(), transforms)],
        }),
        Payload::Ke(Ke {
            group: group.id,
            data: ke.public().to_vec(),
        }),
        Payload::Nonce(rng.bytes::<32>().to_vec()),
        nat(groundlink::wire::NotifyType::NAT_DETECTION_SOURCE_IP),
        nat(groundlink::wire::NotifyType::NAT_DETECTION_DESTINATION_IP),
    ];
    Message::encode_clear(header, &payloads).unwrap()
}

/// Sends such requests out of the router, as if they came from `source`.
fn forge(router: &Namespace, source: IpAddr, to: IpAddr, count: u64) {
    let socket = router
        .run(|| unauthenticated_socket(source))
        .unwrap()
        .unwrap();
    for spi in 1..=count {
        socket.send_to(&init(spi), (to, 500)).unwrap();
    }
}

/// A socket of an address that this machine does not have.
fn unauthenticated_socket(address: IpAddr) -> nix::Result<UdpSocket> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    setsockopt(&socket, sockopt::IpTransparent, &true)?;
    let end = SockaddrStorage::from(SocketAddr::new(address, 7000));
    bind(socket.as_raw_fd(), &end)?;
    Ok(UdpSocket::from(socket))
}

fn cookies_asked(lab: &mut Lab) -> u64 {
    lab.a().status().unwrap().ike_refused["cookie-asked"]
}

fn charon_log(lab: &mut Lab) -> String {
    match lab.b() {
        RemoteGateway::Strongswan(charon) => charon.log(),
        RemoteGateway::Groundlink(_) => unreachable!("the far side is strongSwan"),
    }
}

/// Waits until `done`.
#[track_caller]
fn until(lab: &mut Lab, what: &str, done: impl Fn(&mut Lab) -> bool) {
    wait::until(Duration::from_secs(10), what, || {
        done(lab).then_some(()).ok_or_else(|| logs(lab))
    });
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn charon_asks_us_for_a_cookie() {
    let mut lab = waiting();
    let (us, peer) = (lab.addressing().a.public[0], lab.addressing().b.public[0]);
    forge(lab.topology().wan(), us, peer, 1);
    until(&mut lab, "charon answers the unauthenticated peer", |lab| {
        charon_log(lab).contains("generating IKE_SA_INIT response 0 [ SA")
    });
    lab.a().command("lab-1", "up").unwrap();
    tunnel_that(&mut lab, "came up", |tunnel| {
        tunnel.state == TunnelState::Up
    });
    let log = charon_log(&mut lab);
    assert!(
        log.contains("IKE_SA_INIT response 0 [ N(COOKIE) ]"),
        "{log}"
    );
    assert!(
        log.contains("IKE_SA_INIT request 0 [ N(COOKIE) SA"),
        "{log}"
    );
    assert_eq!(lab.ping(5).unwrap().received, 5, "{}", logs(&mut lab));
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn we_ask_charon_for_a_cookie_while_somebody_writes_its_address() {
    let mut lab = waiting();
    let (us, peer) = (lab.addressing().a.public[0], lab.addressing().b.public[0]);
    forge(lab.topology().wan(), peer, us, 10);
    until(
        &mut lab,
        "the unauthenticated peer is asked for a cookie",
        |lab| cookies_asked(lab) == 7,
    );
    if let RemoteGateway::Strongswan(charon) = lab.b() {
        charon
            .swanctl(&["--initiate", "--child", "lab", "--timeout", "10"])
            .unwrap();
    }
    tunnel_that(&mut lab, "came up", |tunnel| {
        tunnel.state == TunnelState::Up
    });
    let log = charon_log(&mut lab);
    assert!(
        log.contains("IKE_SA_INIT response 0 [ N(COOKIE) ]"),
        "{log}"
    );
    assert!(
        log.contains("IKE_SA_INIT request 0 [ N(COOKIE) SA"),
        "{log}"
    );
    assert_eq!(cookies_asked(&mut lab), 8);
    assert_eq!(lab.ping(5).unwrap().received, 5, "{}", logs(&mut lab));
}
