//! Updates of the peer's address (RFC 7296 §2.23): only by new authenticated messages, only for a peer behind a NAT, and never
//! while we are behind a NAT.

use std::time::Duration;

use groundlink::ike::{Command, TunnelState};
use groundlink::wire::{Delete, ExchangeType, Notify, NotifyType, Payload};

use crate::pair::{Side, TUNNEL};
use crate::scripted_peer::{SPI_OUT, ScriptedPeer};

const INFORMATIONAL: ExchangeType = ExchangeType::INFORMATIONAL;
const B: &str = "192.0.2.2:4500";
const MOVED_ADDRESS: &str = "192.0.2.1:61000";
const ANOTHER_ADDRESS: &str = "198.51.100.7:4500";

/// The peer address that B uses.
fn remote(scripted_peer: &ScriptedPeer) -> String {
    scripted_peer.pair.b.view().remote.unwrap().to_string()
}

#[test]
fn p16_only_fresh_authenticated_messages_update_the_address_of_a_peer_behind_a_nat() {
    let mut scripted_peer = ScriptedPeer::behind_a_nat();
    let home = remote(&scripted_peer);
    let first = scripted_peer.seal(INFORMATIONAL, 2, false, &[]);
    let second = scripted_peer.seal(INFORMATIONAL, 3, false, &[]);
    scripted_peer.deliver(&first);

    // Replayed, corrupted, out of the window, unencrypted, an unsolicited response.
    let mut damaged = second.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let early = scripted_peer.seal(INFORMATIONAL, 9, false, &[]);
    let answer = scripted_peer.seal(INFORMATIONAL, 7, true, &[]);
    for stale in [&first, &damaged, &early, &answer, &second[..40].to_vec()] {
        for place in [MOVED_ADDRESS, ANOTHER_ADDRESS] {
            scripted_peer.pair.inject_from(Side::B, B, place, stale);
            assert_eq!(remote(&scripted_peer), home);
        }
    }
    assert_eq!(scripted_peer.pair.b.count("PeerMoved"), 0);

    // A new message from another port, and a later one from another address. The response goes there too.
    for (id, place) in [(3, MOVED_ADDRESS), (4, ANOTHER_ADDRESS)] {
        let fresh = scripted_peer.seal(INFORMATIONAL, id, false, &[]);
        scripted_peer.pair.inject_from(Side::B, B, place, &fresh);
        assert_eq!(remote(&scripted_peer), place);
        let answer = scripted_peer.pair.b.sent.last().unwrap();
        assert_eq!(answer.remote.to_string(), place);
    }
    assert_eq!(scripted_peer.pair.b.count("PeerMoved"), 2);

    // A delayed message whose ID has been answered is not the newest.
    scripted_peer
        .pair
        .inject_from(Side::B, B, MOVED_ADDRESS, &second);
    assert_eq!(remote(&scripted_peer), ANOTHER_ADDRESS);
    assert_eq!(scripted_peer.pair.b.state(), TunnelState::Up);
}

#[test]
fn p16_without_a_nat_or_behind_one_ourselves_no_peer_address_changes() {
    // `established` has a NAT on both sides.
    for mut scripted_peer in [ScriptedPeer::behind_no_nat(), ScriptedPeer::established()] {
        let home = remote(&scripted_peer);
        let fresh = scripted_peer.seal(INFORMATIONAL, 2, false, &[]);
        scripted_peer
            .pair
            .inject_from(Side::B, B, ANOTHER_ADDRESS, &fresh);
        assert_eq!(remote(&scripted_peer), home);
        let (tunnel, spi_in) = (TUNNEL, scripted_peer.pair.b.children[0].spi_in);
        let (remote, at) = (ANOTHER_ADDRESS.parse().unwrap(), scripted_peer.pair.now);
        let seen = Command::EspSource {
            tunnel,
            spi_in,
            remote,
            at,
        };
        scripted_peer.pair.command(Side::B, seen);
        assert_eq!(self::remote(&scripted_peer), home);
        assert_eq!(scripted_peer.pair.b.count("PeerMoved"), 0);
        // The response still goes to the source of the request (§2.11).
        let went = |place: &str| {
            let sent = scripted_peer.pair.b.sent.iter();
            sent.filter(|sent| sent.remote.to_string() == place).count()
        };
        assert_eq!(went(ANOTHER_ADDRESS), 1);
    }
}

#[test]
fn p16_an_outstanding_request_follows_the_new_peer_address() {
    let mut scripted_peer = ScriptedPeer::behind_a_nat();
    scripted_peer.await_liveness();
    let fresh = scripted_peer.seal(INFORMATIONAL, 2, false, &[]);
    scripted_peer
        .pair
        .inject_from(Side::B, B, MOVED_ADDRESS, &fresh);
    let before = scripted_peer.pair.b.sent.len();
    scripted_peer.pair.run_for(Duration::from_secs(3));
    let again = &scripted_peer.pair.b.sent[before..];
    assert!(!again.is_empty(), "it is repeated");
    assert!(
        again
            .iter()
            .all(|sent| sent.remote.to_string() == MOVED_ADDRESS)
    );
}

/// ```text
/// peer ── ESP, an SPI unknown to B ──▶ B
///      ◀── SK { N(INVALID_SPI) } ─────────────      at most once in ten seconds
/// peer ── SK { N(INVALID_SPI, SPI of B's outbound SA) } ──▶ B: a new Child SA
/// ```
#[test]
fn esp_with_an_unknown_spi_gets_invalid_spi_which_counts_only_inside_the_ike_sa() {
    let mut scripted_peer = ScriptedPeer::established();
    let at = scripted_peer.pair.b.view().remote.unwrap();
    for spi in 1..1000 {
        scripted_peer
            .pair
            .command(Side::B, Command::UnknownSpi { remote: at, spi });
    }
    let unknown_source = ANOTHER_ADDRESS.parse().unwrap();
    let strange = Command::UnknownSpi {
        remote: unknown_source,
        spi: 7,
    };
    scripted_peer.pair.command(Side::B, strange);
    let (asked, payloads) = scripted_peer.asked();
    let notify = Notify::new(NotifyType::INVALID_SPI, 1u32.to_be_bytes().to_vec());
    assert_eq!(payloads, [Payload::Notify(notify)]);
    scripted_peer.answer(&asked, &[]);

    // An SPI that is not the peer's own has no effect.
    let unknown = Notify::new(NotifyType::INVALID_SPI, vec![1, 2, 3, 4]);
    let short = Notify::new(NotifyType::INVALID_SPI, vec![1, 2]);
    let strange = [Payload::Notify(unknown), Payload::Notify(short)];
    assert!(
        scripted_peer
            .send_request(INFORMATIONAL, 2, &strange)
            .is_empty()
    );
    assert_eq!(scripted_peer.pair.b.children.len(), 1);

    // The peer has lost B's outbound SA and reports it inside the IKE SA.
    let lost = Notify::new(NotifyType::INVALID_SPI, SPI_OUT.to_be_bytes().to_vec());
    let bytes = scripted_peer.seal(INFORMATIONAL, 3, false, &[Payload::Notify(lost)]);
    scripted_peer.deliver(&bytes);
    let heard = scripted_peer.heard();
    let asks = |exchange| {
        heard
            .iter()
            .filter(|(header, _)| header.exchange == exchange)
            .count()
    };
    assert_eq!(
        (asks(INFORMATIONAL), asks(ExchangeType::CREATE_CHILD_SA)),
        (1, 1)
    );
    let no_delete = |all: &[Payload]| {
        !all.iter()
            .any(|one| matches!(one, Payload::Delete(Delete { .. })))
    };
    assert!(
        heard.iter().all(|(_, all)| no_delete(all)),
        "silently (§2.25)"
    );
}
