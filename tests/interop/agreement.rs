//! What strongSwan and groundlink agree on beyond algorithms: identities and selectors.

use groundlink::lab::charon::CharonConfig;
use groundlink::lab::options::{InitiatorChoice, LabOptions, RemoteKind, Side};
use groundlink::lab::{Lab, Overrides};
use groundlink::status::{TunnelState, TunnelStatus};

use super::lab::{logs, tunnel_that, up};

/// A lab with strongSwan that comes up, and our tunnel in it.
fn agreed(
    role: InitiatorChoice,
    ours: &dyn Fn(String) -> String,
    theirs: &dyn Fn(&mut CharonConfig),
) -> (Lab, TunnelStatus) {
    let options = LabOptions {
        peer: RemoteKind::Strongswan,
        role,
        ..LabOptions::default()
    };
    let changes = Overrides {
        config: Some(&|_: Side, written: String| ours(written)),
        connection: Some(theirs),
    };
    let mut lab = up(&options, &changes);
    let tunnel = tunnel_that(&mut lab, "is up", |tunnel| tunnel.state == TunnelState::Up);
    let ping = lab.ping(3).unwrap();
    assert_eq!(ping.received, 3, "{}", logs(&mut lab));
    (lab, tunnel)
}

fn selectors(tunnel: &TunnelStatus) -> (Vec<String>, Vec<String>) {
    let child = tunnel.child.clone().expect("it is up");
    (child.local, child.remote)
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn every_kind_of_identity_is_believed_in_both_roles() {
    // As we write them, and as strongSwan does.
    for (ours, theirs) in [
        ("198.51.100.7", "198.51.100.7"),
        ("2001:db8::7", "2001:db8::7"),
        ("gw.example.org", "gw.example.org"),
        ("ops@example.org", "ops@example.org"),
        ("key-id:0a0b", "\"keyid:#0a0b\""),
        ("keyid:site-7", "\"keyid:site-7\""),
        ("@gw.example.org", "\"fqdn:gw.example.org\""),
    ] {
        // Each side names itself and demands of the other: the same identity does for both.
        let demand = |written: String| format!("{written}id = \"{ours}\"\npeer-id = \"{ours}\"\n");
        let demanded = |connection: &mut CharonConfig| {
            connection.id = theirs.to_owned();
            connection.peer_id = theirs.to_owned();
        };
        for role in [InitiatorChoice::Initiator, InitiatorChoice::Responder] {
            agreed(role, &demand, &demanded);
        }
    }
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn several_ranges_of_each_side_are_one_child_sa() {
    let halves = |written: String| {
        written
            .replace("[\"10.1.0.0/24\"]", "[\"10.1.0.0/25\", \"10.1.0.128/25\"]")
            .replace("[\"10.2.0.0/24\"]", "[\"10.2.0.0/25\", \"10.2.0.128/25\"]")
    };
    let ours = ["10.1.0.0/25", "10.1.0.128/25"].map(str::to_owned).to_vec();
    let theirs = ["10.2.0.0/25", "10.2.0.128/25"].map(str::to_owned).to_vec();
    let both = |_: Side, written: String| halves(written);
    let mut lab = up(
        &LabOptions::default(),
        &Overrides {
            config: Some(&both),
            connection: None,
        },
    );
    let tunnel = tunnel_that(&mut lab, "is up", |tunnel| tunnel.state == TunnelState::Up);
    assert_eq!(selectors(&tunnel), (ours.clone(), theirs));
    assert_eq!(lab.ping(3).unwrap().received, 3, "{}", logs(&mut lab));

    // charon's kernel-libipsec refuses a range of its own that holds none of its addresses: two of ours, one of its.
    let half = |written: String| halves(written).replace(", \"10.2.0.128/25\"", "");
    for role in [InitiatorChoice::Initiator, InitiatorChoice::Responder] {
        let (_, tunnel) = agreed(role, &half, &|_| ());
        assert_eq!(
            selectors(&tunnel),
            (ours.clone(), vec!["10.2.0.0/25".to_owned()])
        );
    }
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn the_side_that_allows_less_decides_in_both_roles() {
    let more = |written: String| {
        written.replace("[\"10.2.0.0/24\"]", "[\"10.2.0.0/24\", \"10.3.0.0/24\"]")
    };
    let unchanged = |written: String| written;
    let wide = |connection: &mut CharonConfig| {
        connection.local_network = "10.2.0.0/16".parse().unwrap();
    };
    for role in [InitiatorChoice::Initiator, InitiatorChoice::Responder] {
        let (_, tunnel) = agreed(role, &more, &|_| ());
        assert_eq!(selectors(&tunnel).1, ["10.2.0.0/24"], "they allow less");
        let (_, tunnel) = agreed(role, &unchanged, &wide);
        assert_eq!(selectors(&tunnel).1, ["10.2.0.0/24"], "we allow less");
    }
}
