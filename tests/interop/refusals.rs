//! What does not fit: each side's refusal becomes a code, a sentence that names both sides' values, and advice.

use groundlink::lab::charon::{CharonConfig, RekeyTimes};
use groundlink::lab::options::{InitiatorChoice, LabOptions, RemoteKind, Side};
use groundlink::lab::{Lab, Overrides};

use super::lab::{build, failure, tunnel_that};

/// A lab against strongSwan that cannot come up.
fn against_strongswan(
    role: InitiatorChoice,
    config: impl Fn(String) -> String,
    connection: impl Fn(&mut CharonConfig),
) -> Lab {
    let options = LabOptions {
        peer: RemoteKind::Strongswan,
        role,
        ..LabOptions::default()
    };
    let changes = Overrides {
        config: Some(&|_, written| config(written)),
        connection: Some(&connection),
    };
    build(&options, &changes)
}

fn unchanged(written: String) -> String {
    written
}

#[track_caller]
fn assert_says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "no {word} in: {text}");
    }
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn the_peer_has_another_key() {
    let mut lab = against_strongswan(InitiatorChoice::Initiator, unchanged, |c| {
        c.psk = "another".to_owned()
    });
    let (code, text) = failure(&mut lab);
    assert_eq!(code, "authentication-failed");
    assert_says(&text, &["192.0.2.1"]);
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn the_peer_that_starts_has_another_key() {
    let mut lab = against_strongswan(InitiatorChoice::Responder, unchanged, |c| {
        c.psk = "another".to_owned()
    });
    let (code, text) = failure(&mut lab);
    assert_eq!(code, "authentication-failed");
    assert_says(&text, &["192.0.2.129"]);
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn the_peer_is_somebody_else() {
    let strict = |written: String| written + "peer-id = \"192.0.2.129\"\n";
    for role in [InitiatorChoice::Initiator, InitiatorChoice::Responder] {
        let mut lab = against_strongswan(role, strict, |c| c.id = "gw.example.org".to_owned());
        let (code, text) = failure(&mut lab);
        assert_eq!(code, "peer-id-mismatch");
        assert_says(&text, &["gw.example.org", "192.0.2.129"]);
    }
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn we_are_somebody_else_to_the_peer() {
    let mut lab = against_strongswan(InitiatorChoice::Initiator, unchanged, |c| {
        c.peer_id = "gw.example.org".to_owned()
    });
    let (code, text) = failure(&mut lab);
    assert_eq!(code, "authentication-failed");
    assert_says(&text, &["192.0.2.1"]);
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn no_ike_proposal_is_common() {
    let theirs = |c: &mut CharonConfig| c.ike = Some("aes256-sha256-modp2048".to_owned());
    let mut lab = against_strongswan(InitiatorChoice::Initiator, unchanged, theirs);
    let (code, text) = failure(&mut lab);
    assert_eq!(code, "no-proposal-chosen");
    assert_says(&text, &["aes128-sha1-modp1024"]);

    // As the responder we see what they offer.
    let mut lab = against_strongswan(InitiatorChoice::Responder, unchanged, theirs);
    let (code, text) = failure(&mut lab);
    assert_eq!(code, "no-proposal-chosen");
    assert_says(&text, &["aes128-sha1-modp1024", "aes256-sha256-modp2048"]);
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn no_esp_proposal_is_common() {
    let theirs = |c: &mut CharonConfig| c.esp = Some("aes256-sha256".to_owned());
    let mut lab = against_strongswan(InitiatorChoice::Initiator, unchanged, theirs);
    let (code, text) = failure(&mut lab);
    assert_eq!(code, "no-proposal-chosen-esp");
    assert_says(&text, &["aes128-sha1"]);

    let mut lab = against_strongswan(InitiatorChoice::Responder, unchanged, theirs);
    let (code, text) = failure(&mut lab);
    assert_eq!(code, "no-proposal-chosen-esp");
    assert_says(&text, &["aes128-sha1", "aes256-sha256"]);
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn no_selector_is_common() {
    let theirs = |c: &mut CharonConfig| c.local_network = "10.77.0.0/24".parse().unwrap();
    for role in [InitiatorChoice::Initiator, InitiatorChoice::Responder] {
        let mut lab = against_strongswan(role, unchanged, theirs);
        let (code, text) = failure(&mut lab);
        assert_eq!(code, "ts-unacceptable");
        assert_says(&text, &["10.1.0.0/24", "10.2.0.0/24"]);
    }
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn what_was_refused_comes_up_once_it_is_put_right() {
    let mut lab = against_strongswan(InitiatorChoice::Initiator, unchanged, |c| {
        c.psk = "another".to_owned()
    });
    failure(&mut lab);
    let mut right = None;
    // The lab's own key, from the file that groundlink reads.
    let psk = std::fs::read_to_string(lab.a().socket().with_file_name("psk")).unwrap();
    let plan = lab.addressing().clone();
    if let groundlink::lab::RemoteGateway::Strongswan(charon) = lab.b() {
        let connection = groundlink::lab::charon::CharonConfig {
            local: plan.b.outside[0],
            remote: plan.a.public[0],
            id: plan.b.public[0].to_string(),
            peer_id: plan.a.public[0].to_string(),
            local_network: plan.b.network,
            remote_network: plan.a.network,
            ike: Some("aes128-sha1-modp1024".to_owned()),
            esp: Some("aes128-sha1".to_owned()),
            psk,
            start: groundlink::lab::charon::CharonStart::Wait,
            dpd_delay: 10,
            fragment_size: None,
            cookies_from: None,
            rekey_times: RekeyTimes::default(),
            retransmit_ms: None,
            further_remote_networks: Vec::new(),
            ppk: None,
            root: None,
        };
        right = Some(charon.reload(&connection));
    }
    right.unwrap().unwrap();
    tunnel_that(&mut lab, "came up", |tunnel| {
        tunnel.state == groundlink::status::TunnelState::Up
    });
    assert_eq!(lab.ping(5).unwrap().received, 5);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn nobody_answers() {
    // B listens on its addresses, but its host never hears of A: the address it expects is another.
    let changes = |side: Side, written: String| match side {
        Side::A => written.replace("192.0.2.129", "192.0.2.140"),
        Side::B => written,
    };
    let mut lab = build(
        &LabOptions::default(),
        &Overrides {
            config: Some(&changes),
            connection: None,
        },
    );
    let (code, text) = failure(&mut lab);
    assert_eq!(code, "peer-not-responding");
    assert_says(&text, &["192.0.2.140"]);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn the_peer_has_no_tunnel_for_us() {
    let changes = |side: Side, written: String| match side {
        Side::A => written,
        Side::B => written.replace("peer = \"192.0.2.1\"", "peer = \"192.0.2.77\""),
    };
    let mut lab = build(
        &LabOptions::default(),
        &Overrides {
            config: Some(&changes),
            connection: None,
        },
    );
    let (code, text) = failure(&mut lab);
    assert_eq!(code, "no-proposal-chosen", "{text}");
    assert_says(&text, &["no configuration for our address"]);
}

/// strongSwan with another line in its Child SA. `mode` and the like follow the proposals there.
fn with_child_option(option: &str) -> impl Fn(&mut CharonConfig) {
    let esp = format!("aes128-sha1\n        {option}");
    move |c: &mut CharonConfig| c.esp = Some(esp.clone())
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn the_peer_uses_transport_mode() {
    let theirs = with_child_option("mode = transport");
    let mut lab = against_strongswan(InitiatorChoice::Initiator, unchanged, &theirs);
    let (code, text) = failure(&mut lab);
    assert_eq!(code, "ts-unacceptable", "{text}");

    let mut lab = against_strongswan(InitiatorChoice::Responder, unchanged, &theirs);
    let (code, text) = failure(&mut lab);
    assert_eq!(code, "transport-mode", "{text}");
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn the_peer_forces_childless_ike_sas() {
    let theirs = |c: &mut CharonConfig| {
        c.ike = Some("aes128-sha1-modp1024\n    childless = force".to_owned());
    };
    let mut lab = against_strongswan(InitiatorChoice::Initiator, unchanged, theirs);
    let (code, text) = failure(&mut lab);
    assert_eq!(code, "rejected-as-invalid", "{text}");
}
