//! Post-quantum keys with strongSwan: ML-KEM with charon 6.1, the first in Debian that has it, and post-quantum pre-shared keys with this system's.
//!
//! charon 6.1 is Debian 14's (forky); that of Debian 13 knows ML-KEM by name only, since neither of its plugins has it. It runs from a root of its own, which
//! `tests/run` makes.

use std::path::{Path, PathBuf};

use groundlink::lab::charon::{CharonConfig, CharonPpk, PpkPolicy};
use groundlink::lab::options::{InitiatorChoice, LabOptions, RemoteKind, Side};
use groundlink::lab::{Lab, Overrides, RemoteGateway};
use groundlink::status::{RekeyCounters, TunnelState};

use super::lab::{build, failure, logs, settled, text, tunnel_that, up};
use super::stream::Stream;

/// The root with charon 6.1.
fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/forky-root");
    assert!(
        root.join("usr/sbin/charon-systemd").exists(),
        "no {}: tests/run makes it",
        root.display()
    );
    root
}

fn against_charon_6(role: InitiatorChoice, ike: &str, esp: &str) -> Lab {
    let theirs = |connection: &mut CharonConfig| connection.root = Some(root());
    let options = LabOptions {
        peer: RemoteKind::Strongswan,
        ike: Some(ike.to_owned()),
        esp: Some(esp.to_owned()),
        role,
        ..LabOptions::default()
    };
    up(
        &options,
        &Overrides {
            config: None,
            connection: Some(&theirs),
        },
    )
}

fn charon(lab: &mut Lab) -> &mut groundlink::lab::charon::Charon {
    match lab.b() {
        RemoteGateway::Strongswan(charon) => charon,
        RemoteGateway::Groundlink(_) => unreachable!("it was not asked for"),
    }
}

fn ml_kem(role: InitiatorChoice, ike: &str) {
    let mut lab = against_charon_6(role, ike, "aes256gcm16");
    assert_eq!(lab.ping(5).unwrap().received, 5, "{}", logs(&mut lab));
    let tunnel = tunnel_that(&mut lab, "is up", |tunnel| tunnel.state == TunnelState::Up);
    let of_ike = tunnel.ike.unwrap();
    assert!(of_ike.post_quantum);
    assert_eq!(of_ike.suite, ike);
    let log = charon(&mut lab).log();
    assert!(
        log.contains("IKE_INTERMEDIATE") && log.contains("KE1_ML_KEM_"),
        "{log}"
    );
}

#[test]
#[ignore = "needs root and another Debian's charon: tests/run runs it"]
fn ml_kem_as_initiator() {
    ml_kem(
        InitiatorChoice::Initiator,
        "aes256gcm16-prfsha384-ecp384-ke1_mlkem768",
    );
    ml_kem(
        InitiatorChoice::Initiator,
        "aes128-sha256-modp2048-ke1_mlkem1024",
    );
}

#[test]
#[ignore = "needs root and another Debian's charon: tests/run runs it"]
fn ml_kem_as_responder() {
    ml_kem(
        InitiatorChoice::Responder,
        "aes256gcm16-prfsha384-ecp384-ke1_mlkem1024",
    );
    ml_kem(
        InitiatorChoice::Responder,
        "aes128-sha256-curve25519-ke1_mlkem768",
    );
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn a_peer_that_does_not_know_ml_kem_gets_the_proposal_without_it() {
    // This system's charon, which skips what it does not know.
    let ours = |_: Side, written: String| {
        written.replace(
            "ike = \"aes256gcm16-prfsha384-ecp384\"",
            "ike = [\"aes256gcm16-prfsha384-ecp384-ke1_mlkem768\", \"aes256gcm16-prfsha384-ecp384\"]",
        )
    };
    for role in [InitiatorChoice::Initiator, InitiatorChoice::Responder] {
        let options = LabOptions {
            peer: RemoteKind::Strongswan,
            ike: Some("aes256gcm16-prfsha384-ecp384".to_owned()),
            role,
            ..LabOptions::default()
        };
        let mut lab = up(
            &options,
            &Overrides {
                config: Some(&ours),
                connection: None,
            },
        );
        let tunnel = tunnel_that(&mut lab, "is up", |tunnel| tunnel.state == TunnelState::Up);
        assert!(!tunnel.ike.unwrap().post_quantum);
        assert_eq!(lab.ping(5).unwrap().received, 5);
    }
}

#[test]
#[ignore = "needs root and another Debian's charon: tests/run runs it"]
fn each_side_rekeys_both_kinds_with_ml_kem_and_nothing_is_lost() {
    let ike = "aes256gcm16-prfsha384-curve25519-ke1_mlkem768";
    let esp = "aes256gcm16-curve25519-ke1_mlkem768";
    let mut lab = against_charon_6(InitiatorChoice::Initiator, ike, esp);
    let before = tunnel_that(&mut lab, "is up", |tunnel| tunnel.state == TunnelState::Up);
    let stream = Stream::begin(&lab, 500);
    let mut wanted = RekeyCounters::default();
    for round in 0..3 {
        for (ours, theirs) in [("rekey", "--child"), ("rekey?ike=true", "--ike")] {
            for beginner in [Side::A, Side::B] {
                match beginner {
                    Side::A => lab.a().command("lab-1", ours).unwrap(),
                    Side::B => {
                        let output = charon(&mut lab)
                            .swanctl(&["--rekey", theirs, "lab"])
                            .unwrap();
                        assert!(output.status.success(), "{}", text(&output.stderr));
                    }
                }
                match theirs {
                    "--child" => wanted.child += 1,
                    _ => wanted.ike += 1,
                }
                tunnel_that(&mut lab, "has rekeyed", |tunnel| {
                    tunnel.rekeys.child >= wanted.child && tunnel.rekeys.ike >= wanted.ike
                });
                settled(&mut lab);
                let rekeys = lab.a().status().unwrap().tunnels[0].rekeys;
                assert_eq!(rekeys, wanted, "round {round}{}", logs(&mut lab));
            }
        }
    }
    stream.end_unharmed(&mut lab);
    let after = tunnel_that(&mut lab, "is up", |tunnel| tunnel.state == TunnelState::Up);
    assert_eq!(after.since_s, before.since_s, "it was up all the time");
    assert_eq!(after.rekeys.packets_lost, 0, "{after:#?}");
    assert_eq!(after.last_error, None);
    assert_eq!(after.child.unwrap().suite, esp);
    assert_eq!(after.ike.unwrap().suite, ike);
    let log = charon(&mut lab).log();
    assert!(log.contains("IKE_FOLLOWUP_KE"), "{log}");
}

/// A key of 256 bits and more.
const KEY: &str = "q7vYd0x3LmZk9TtR2sWcUe8HnB5gJpAiq7vYd0x3LmZk9TtR";

/// A lab in which we have the first PPK and charon the second.
fn with_ppks(role: InitiatorChoice, ours: Option<CharonPpk>, theirs: Option<CharonPpk>) -> Lab {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().display().to_string();
    if let Some(ppk) = &ours {
        std::fs::write(file.path(), &ppk.key).unwrap();
    }
    let config = |_: Side, written: String| match &ours {
        None => written,
        Some(CharonPpk { id, policy, .. }) => {
            let required = *policy == PpkPolicy::Required;
            format!("{written}ppk = {{ id = {id:?}, file = {path:?}, required = {required} }}\n")
        }
    };
    let connection = |connection: &mut CharonConfig| connection.ppk = theirs.clone();
    let options = LabOptions {
        peer: RemoteKind::Strongswan,
        ike: Some("aes256gcm16-prfsha384-ecp384".to_owned()),
        role,
        ..LabOptions::default()
    };
    let mut lab = build(
        &options,
        &Overrides {
            config: Some(&config),
            connection: Some(&connection),
        },
    );
    // The file goes with this function, and must have been read.
    tunnel_that(&mut lab, "there is", |_| true);
    lab
}

fn ppk(id: &str, key: &str, policy: PpkPolicy) -> Option<CharonPpk> {
    Some(CharonPpk {
        id: id.to_owned(),
        key: key.to_owned(),
        policy,
    })
}

fn comes_up(lab: &mut Lab, post_quantum: bool) {
    let tunnel = tunnel_that(lab, "is up", |tunnel| tunnel.state == TunnelState::Up);
    assert_eq!(tunnel.ike.unwrap().post_quantum, post_quantum);
    assert_eq!(lab.ping(5).unwrap().received, 5, "{}", logs(lab));
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn the_same_ppk_goes_into_the_keys_of_both_sides() {
    use PpkPolicy::{Optional, Required};
    for role in [InitiatorChoice::Initiator, InitiatorChoice::Responder] {
        for policy in [Required, Optional] {
            let mut lab = with_ppks(role, ppk("q-1", KEY, policy), ppk("q-1", KEY, Required));
            comes_up(&mut lab, true);
        }
    }
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn an_optional_ppk_is_done_without() {
    use PpkPolicy::Optional;
    for role in [InitiatorChoice::Initiator, InitiatorChoice::Responder] {
        let mut lab = with_ppks(role, ppk("q-1", KEY, Optional), None);
        comes_up(&mut lab, false);
        let mut lab = with_ppks(role, None, ppk("q-1", KEY, Optional));
        comes_up(&mut lab, false);
    }
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn another_ppk_and_none_are_rejected_and_reported() {
    use PpkPolicy::{Optional, Required};
    let other = "another-key-of-sufficient-length-0123456789abcdef";
    for (role, ours, theirs, code) in [
        (
            InitiatorChoice::Initiator,
            ppk("q-1", KEY, Required),
            None,
            "ppk-unused",
        ),
        (
            InitiatorChoice::Responder,
            ppk("q-1", KEY, Required),
            None,
            "ppk-unused",
        ),
        (
            InitiatorChoice::Initiator,
            ppk("q-1", KEY, Required),
            ppk("q-2", KEY, Required),
            "authentication-failed",
        ),
        (
            InitiatorChoice::Responder,
            ppk("q-1", KEY, Required),
            ppk("q-2", KEY, Required),
            "ppk-identity",
        ),
        (
            InitiatorChoice::Responder,
            ppk("q-1", KEY, Required),
            ppk("q-1", other, Optional),
            "ppk-mismatch",
        ),
        (
            InitiatorChoice::Initiator,
            ppk("q-1", KEY, Required),
            ppk("q-1", other, Required),
            "authentication-failed",
        ),
    ] {
        let mut lab = with_ppks(role, ours, theirs);
        let (seen, text) = failure(&mut lab);
        assert_eq!(seen, code, "{text}{}", logs(&mut lab));
    }
}
