//! Both sides start at once: one IKE SA stays, and it stays.

use std::time::Duration;

use groundlink::lab::options::{InitiatorChoice, LabOptions, RemoteKind};
use groundlink::lab::{Lab, Overrides, RemoteGateway};
use groundlink::status::TunnelState;

use super::lab::{carries, logs, up};

/// The IKE SA's SPIs as our side sees it.
fn ike_sa(lab: &mut Lab) -> Option<(TunnelState, String, String)> {
    let tunnel = lab.a().status().unwrap().tunnels.remove(0);
    tunnel.ike.map(|ike| (tunnel.state, ike.spi_i, ike.spi_r))
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn traffic_flows_whoever_wins() {
    for peer in ["self", "strongswan"] {
        carries(&format!("--peer {peer} --role both"));
    }
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn one_ike_sa_stays_and_does_not_flap() {
    for peer in [RemoteKind::Groundlink, RemoteKind::Strongswan] {
        let mut lab = up(
            &LabOptions {
                peer,
                role: InitiatorChoice::Both,
                ..LabOptions::default()
            },
            &Overrides::default(),
        );
        // Long enough for the loser of a crossing to be closed, and for a flap to show.
        std::thread::sleep(Duration::from_secs(3));
        let settled = ike_sa(&mut lab);
        assert!(settled.is_some(), "{}", logs(&mut lab));
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(100));
            assert_eq!(ike_sa(&mut lab), settled, "{}", logs(&mut lab));
        }
        assert_eq!(lab.ping(5).unwrap().received, 5, "{}", logs(&mut lab));
        let theirs = match lab.b() {
            RemoteGateway::Groundlink(b) => b.status().unwrap().tunnels.len(),
            RemoteGateway::Strongswan(charon) => {
                let output = charon.swanctl(&["--list-sas"]).unwrap();
                String::from_utf8_lossy(&output.stdout)
                    .matches("ESTABLISHED")
                    .count()
            }
        };
        assert_eq!(theirs, 1, "{}", logs(&mut lab));
    }
}
