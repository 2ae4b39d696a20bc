//! IKE_AUTH in fragments (RFC 7383) against strongSwan: both sides have identities too long for one small packet, and say small packets.

use groundlink::lab::charon::CharonConfig;
use groundlink::lab::options::{InitiatorChoice, LabOptions, RemoteKind, Side};
use groundlink::lab::{Overrides, RemoteGateway};

use super::lab::{logs, up};

/// The largest IP packet of an IKE message at both ends: the least that our configuration takes.
const SIZE: u16 = 576;

/// A name that leaves no room in one such packet for the rest of IKE_AUTH; charon knows no identity of more than 512 octets.
fn long_name(side: &str) -> String {
    format!("{side}{}.example.org", ".long".repeat(90))
}

fn in_fragments(role: InitiatorChoice) {
    let ours = |_: Side, written: String| {
        let (id, peer_id) = (long_name("a"), long_name("b"));
        format!("{written}id = {id:?}\npeer-id = {peer_id:?}\nfragment-size = {SIZE}\n")
    };
    let theirs = |connection: &mut CharonConfig| {
        connection.id = long_name("b");
        connection.peer_id = long_name("a");
        connection.fragment_size = Some(SIZE);
    };
    let options = LabOptions {
        peer: RemoteKind::Strongswan,
        role,
        ..LabOptions::default()
    };
    let mut lab = up(
        &options,
        &Overrides {
            config: Some(&ours),
            connection: Some(&theirs),
        },
    );
    assert_eq!(lab.ping(5).unwrap().received, 5, "{}", logs(&mut lab));
    let on_the_wire = lab.wire().ike_4500;
    let RemoteGateway::Strongswan(charon) = lab.b() else {
        unreachable!()
    };
    let log = charon.log();
    assert!(
        log.contains("splitting IKE message"),
        "charon sent no fragments\n{log}"
    );
    assert!(
        log.contains("reassembled fragmented IKE message"),
        "charon got no fragments\n{log}"
    );
    // Whole, the two messages of IKE_AUTH would be two datagrams.
    assert!(on_the_wire >= 4, "{on_the_wire} datagrams on port 4500");
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn as_initiator_both_sides_send_and_understand_fragments() {
    in_fragments(InitiatorChoice::Initiator);
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn as_responder_both_sides_send_and_understand_fragments() {
    in_fragments(InitiatorChoice::Responder);
}
