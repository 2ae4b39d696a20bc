//! Responses of a peer with the keys to our rekey requests: every variant of an invalid response, and every error, once and
//! endlessly.
//!
//! An invalid response affects only the SA of its request; a peer that never rekeys gets a new IKE SA before the old one expires.

use std::time::Duration;

use groundlink::crypto::EspProposal;
use groundlink::ike::{Command, Rekey, RekeyCheck, RekeyVerdict, Settings, Start, TunnelState};
use groundlink::net::Time;
use groundlink::wire::{
    Delete, ExchangeType, Header, Ke, Notify, NotifyType, Payload, PayloadType, ProtocolId, Sa,
    Transform, TransformType,
};

use crate::pair::{Side, TUNNEL, settings};
use crate::scripted_peer::{SPI_OUT, ScriptedPeer, ike_offer, kinds, notify, raw};

const CREATE: ExchangeType = ExchangeType::CREATE_CHILD_SA;
const INFORMATIONAL: ExchangeType = ExchangeType::INFORMATIONAL;

/// The offer in a request of B.
fn offered(request: &[Payload]) -> Sa {
    let sa = request.iter().find_map(|payload| match payload {
        Payload::Sa(sa) => Some(sa.clone()),
        _ => None,
    });
    sa.unwrap()
}

fn without(mut payloads: Vec<Payload>, kind: PayloadType) -> Vec<Payload> {
    payloads.retain(|payload| payload.kind() != kind);
    payloads
}

fn with(mut payloads: Vec<Payload>, more: Payload) -> Vec<Payload> {
    payloads.push(more);
    payloads
}

/// The same response with a changed SA payload.
fn with_changed_sa(answer: &[Payload], change: impl FnOnce(&mut Sa)) -> Vec<Payload> {
    let mut payloads = answer.to_vec();
    for payload in &mut payloads {
        if let Payload::Sa(sa) = payload {
            change(sa);
            break;
        }
    }
    payloads
}

fn ke(group: u16, data: Vec<u8>) -> Payload {
    Payload::Ke(Ke { group, data })
}

/// B gets this response to its Child SA rekey: it deletes the new Child SA, keeps the old one, and retries later.
fn assert_costs_only_itself(
    b: Settings,
    case: &str,
    answer: impl FnOnce(&ScriptedPeer, &[Payload]) -> Vec<Payload>,
) {
    let mut scripted_peer = ScriptedPeer::established_with(b);
    let (asked, request) = scripted_peer.have_b_rekey(Rekey::Child);
    let offer = offered(&request);
    let answer = answer(&scripted_peer, &request);
    scripted_peer.answer(&asked, &answer);
    let (delete, payloads) = scripted_peer.asked();
    let spi: [u8; 4] = offer.proposals[0].spi[..].try_into().unwrap();
    let gone = Delete::esp(vec![u32::from_be_bytes(spi)]);
    assert_eq!(payloads, [Payload::Delete(gone)], "{case}");
    scripted_peer.answer(&delete, &[]);
    assert_eq!(scripted_peer.pair.b.children.len(), 1, "{case}");
    assert_eq!(scripted_peer.pair.b.children[0].spi_out, SPI_OUT, "{case}");
    assert_eq!(scripted_peer.pair.b.state(), TunnelState::Up, "{case}");
    assert_eq!(scripted_peer.pair.b.view().rekeys.child, 0, "{case}");
    assert!(
        !scripted_peer.pair.b.failures.is_empty(),
        "{case}: it is reported"
    );
    let (again, _) = scripted_peer.have_b_rekey(Rekey::Child);
    assert_eq!(again.exchange, CREATE, "{case}: it can be asked again");
}

#[test]
fn p08_an_invalid_create_child_sa_response_discards_only_its_own_child_sa() {
    let spi = |spi: Vec<u8>| move |sa: &mut Sa| sa.proposals[0].spi = spi;
    let plain = || settings(Side::B);
    let check = |case: &str, change: &dyn Fn(Vec<Payload>) -> Vec<Payload>| {
        assert_costs_only_itself(plain(), case, |scripted_peer, request| {
            change(scripted_peer.accepting(request, 0x2000))
        });
    };
    check("the number of another proposal", &|good| {
        with_changed_sa(&good, |sa| sa.proposals[0].number = 2)
    });
    check("two proposals", &|good| {
        with_changed_sa(&good, |sa| sa.proposals.extend(sa.proposals.clone()))
    });
    check("no proposal", &|good| {
        with_changed_sa(&good, |sa| sa.proposals.clear())
    });
    check("another protocol", &|good| {
        with_changed_sa(&good, |sa| sa.proposals[0].protocol = ProtocolId::AH)
    });
    check("a key of another length", &|good| {
        with_changed_sa(&good, |sa| {
            sa.proposals[0].transforms[0].key_bits = Some(256)
        })
    });
    check("a transform not offered", &|good| {
        with_changed_sa(&good, |sa| {
            let transforms = &mut sa.proposals[0].transforms;
            transforms.push(Transform::new(TransformType::INTEG, 2, None));
        })
    });
    check("extended sequence numbers, not offered", &|good| {
        with_changed_sa(&good, |sa| sa.proposals[0].transforms[2].id = 1)
    });
    check("SPI 0", &|good| with_changed_sa(&good, spi(vec![0; 4])));
    check("SPI 1", &|good| {
        with_changed_sa(&good, spi(vec![0, 0, 0, 1]))
    });
    check("SPI 255", &|good| {
        with_changed_sa(&good, spi(vec![0, 0, 0, 255]))
    });
    check("no SPI", &|good| with_changed_sa(&good, spi(Vec::new())));
    check("an SPI of eight octets", &|good| {
        with_changed_sa(&good, spi(vec![9; 8]))
    });
    check("a KE that nobody asked for", &|good| {
        with(good, ke(31, vec![9; 32]))
    });
    check("no nonce", &|good| without(good, PayloadType::NONCE));
    check("a nonce of 15 octets", &|good| {
        with(
            without(good, PayloadType::NONCE),
            raw(PayloadType::NONCE, &[6; 15]),
        )
    });
    check("no SA", &|good| without(good, PayloadType::SA));
    check("no TSi", &|good| without(good, PayloadType::TSI));
    check("no TSr", &|good| without(good, PayloadType::TSR));
    check("two SAs", &|good| {
        let sa = good[0].clone();
        with(good, sa)
    });
    check("nothing", &|_| Vec::new());
    check("an unreadable SA", &|good| {
        with(
            without(good, PayloadType::SA),
            raw(PayloadType::SA, &[0, 0, 0, 99]),
        )
    });
}

#[test]
fn p08_a_key_exchange_other_than_negotiated_discards_only_its_own_child_sa() {
    let check = |case: &str, answer: &dyn Fn(Vec<Payload>, Payload) -> Vec<Payload>| {
        let mut b = settings(Side::B);
        b.esp = vec![EspProposal::parse("aes128-sha256-curve25519").unwrap().0];
        assert_costs_only_itself(b, case, |scripted_peer, request| {
            let transform = Transform::new(TransformType::KE, 31, None);
            let good = with_changed_sa(&scripted_peer.accepting(request, 0x2000), |sa| {
                sa.proposals[0].transforms.push(transform);
            });
            let ours = request
                .iter()
                .find(|payload| payload.kind() == PayloadType::KE);
            answer(good, ours.unwrap().clone())
        });
    };
    check("no KE", &|good, _| good);
    check("a KE of another group", &|good, _| {
        with(good, ke(19, vec![9; 64]))
    });
    check("a KE of another length", &|good, _| {
        with(good, ke(31, vec![9; 31]))
    });
    check("a KE of small order", &|good, _| {
        with(good, ke(31, vec![0; 32]))
    });
    check("two KEs", &|good, ours| {
        with(with(good, ours.clone()), ours)
    });
    check("a KE, but no group chosen", &|good, ours| {
        let good = with_changed_sa(&good, |sa| {
            sa.proposals[0].transforms.pop();
        });
        with(good, ours)
    });
}

#[test]
fn p08_an_invalid_ike_sa_rekey_response_keeps_the_old_ike_sa() {
    let answer = |spi: &[u8], change: &dyn Fn(&mut Sa)| {
        let mut sa = ike_offer();
        sa.proposals[0].spi = spi.to_vec();
        change(&mut sa);
        vec![Payload::Sa(sa), Payload::Nonce(vec![6; 32])]
    };
    let whole = || {
        with(
            answer(&[9; 8], &|_| {}),
            ke(31, [&[9; 31][..], &[0]].concat()),
        )
    };
    for (case, answer) in [
        ("no KE", answer(&[9; 8], &|_| {})),
        ("no SPI", with(answer(&[], &|_| {}), ke(31, vec![9; 32]))),
        (
            "an SPI of zeros",
            with(answer(&[0; 8], &|_| {}), ke(31, vec![9; 32])),
        ),
        (
            "an SPI of four octets",
            with(answer(&[9; 4], &|_| {}), ke(31, vec![9; 32])),
        ),
        (
            "another number",
            with_changed_sa(&whole(), |sa| sa.proposals[0].number = 7),
        ),
        (
            "two proposals",
            with_changed_sa(&whole(), |sa| sa.proposals.extend(sa.proposals.clone())),
        ),
        (
            "another group",
            with_changed_sa(&whole(), |sa| sa.proposals[0].transforms[3].id = 19),
        ),
        (
            "a KE of another group",
            with(answer(&[9; 8], &|_| {}), ke(19, vec![9; 64])),
        ),
        (
            "a KE of small order",
            with(answer(&[9; 8], &|_| {}), ke(31, vec![0; 32])),
        ),
        ("no nonce", without(whole(), PayloadType::NONCE)),
        ("no SA", without(whole(), PayloadType::SA)),
        ("nothing", Vec::new()),
    ] {
        let mut scripted_peer = ScriptedPeer::established();
        let (asked, _) = scripted_peer.have_b_rekey(Rekey::Ike);
        scripted_peer.answer(&asked, &answer);
        assert_eq!(scripted_peer.pair.b.view().rekeys.ike, 0, "{case}");
        assert_eq!(scripted_peer.pair.b.ikes.len(), 1, "{case}");
        assert_eq!(scripted_peer.pair.b.children.len(), 1, "{case}");
        assert_eq!(scripted_peer.pair.b.state(), TunnelState::Up, "{case}");
        assert!(
            scripted_peer.send_request(INFORMATIONAL, 2, &[]).is_empty(),
            "{case}"
        );
    }
}

#[test]
fn p09_a_fatal_error_response_to_any_request_closes_the_ike_sa_silently() {
    for kind in [
        NotifyType::INVALID_SYNTAX,
        NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD,
    ] {
        for what in [Some(Rekey::Child), Some(Rekey::Ike), None] {
            let mut scripted_peer = ScriptedPeer::established();
            match what {
                Some(what) => {
                    let (asked, _) = scripted_peer.have_b_rekey(what);
                    scripted_peer.answer(&asked, &[notify(kind)]);
                }
                None => {
                    let id = scripted_peer.await_liveness();
                    let bytes = scripted_peer.seal(INFORMATIONAL, id, true, &[notify(kind)]);
                    scripted_peer.deliver(&bytes);
                }
            }
            assert!(scripted_peer.pair.b.children.is_empty(), "{kind} {what:?}");
            assert!(scripted_peer.pair.b.ikes.is_empty(), "{kind} {what:?}");
            assert!(scripted_peer.heard().is_empty(), "{kind} {what:?}");
        }
    }
}

/// The attempts of B with a peer that rejects rekeys.
struct RekeyAttempts {
    /// The times of its rekey requests.
    asked: Vec<Time>,
    /// The time of its IKE_SA_INIT for a new IKE SA.
    began: Option<Time>,
    scripted_peer: ScriptedPeer,
}

/// B with these lifetimes gets `answer` to every rekey request and valid responses to all other requests.
fn refusing(b: Settings, span: Duration, answer: &[Payload]) -> RekeyAttempts {
    let mut scripted_peer = ScriptedPeer::established_with(b);
    let mut course = (Vec::new(), None);
    let end = scripted_peer.pair.now + span;
    while scripted_peer.pair.now < end {
        let before = scripted_peer.pair.b.sent.len();
        scripted_peer.pair.run_for(Duration::from_millis(100));
        for index in before..scripted_peer.pair.b.sent.len() {
            let header = Header::parse(&scripted_peer.pair.b.sent_ike(index)).unwrap();
            if header.exchange == ExchangeType::IKE_SA_INIT {
                course.1.get_or_insert(scripted_peer.pair.now);
            }
        }
        for (header, _) in scripted_peer.heard() {
            let create = header.exchange == CREATE;
            if create {
                course.0.push(scripted_peer.pair.now);
            }
            scripted_peer.answer(&header, if create { answer } else { &[] });
        }
    }
    RekeyAttempts {
        asked: course.0,
        began: course.1,
        scripted_peer,
    }
}

/// Settings with which this SA of B expires after 1000 s.
fn short_lived(what: Rekey) -> Settings {
    let mut b = settings(Side::B);
    b.start = Start::Auto;
    let life = Duration::from_secs(1000);
    match what {
        Rekey::Child => b.child_lifetime = life,
        Rekey::Ike => b.ike_lifetime = life,
    }
    b
}

#[test]
fn p10_a_peer_that_never_rekeys_gets_a_new_ike_sa_before_the_old_one_expires() {
    for what in [Rekey::Child, Rekey::Ike] {
        for kind in [
            NotifyType::NO_PROPOSAL_CHOSEN,
            NotifyType::NO_ADDITIONAL_SAS,
            NotifyType::TS_UNACCEPTABLE,
            // An error type that no RFC defines.
            NotifyType(8000),
        ] {
            let case = format!("{what:?} {kind}");
            let span = Duration::from_secs(990);
            let RekeyAttempts {
                asked,
                began,
                scripted_peer,
            } = refusing(short_lived(what), span, &[notify(kind)]);
            assert!((3..15).contains(&asked.len()), "{case}: {asked:?}");
            assert!(began.is_some(), "{case}");
            assert_eq!(scripted_peer.pair.b.children.len(), 1, "{case}");
            assert_eq!(scripted_peer.pair.b.state(), TunnelState::Up, "{case}");
            assert!(
                scripted_peer.pair.b.codes().contains(&"rekey-refused"),
                "{case}"
            );
        }
    }
}

#[test]
fn p10_endless_temporary_failure_backs_off_and_then_replaces_the_ike_sa() {
    for what in [Rekey::Child, Rekey::Ike] {
        let mut b = short_lived(what);
        let busy = [notify(NotifyType::TEMPORARY_FAILURE)];
        let life = 20 * Duration::from_secs(1000);
        match what {
            Rekey::Child => b.child_lifetime = life,
            Rekey::Ike => b.ike_lifetime = life,
        }
        let begin = Time::from_secs(1000);
        let RekeyAttempts {
            asked,
            began,
            scripted_peer,
        } = refusing(b, life.mul_f64(0.97), &busy);
        let pauses: Vec<Duration> = asked
            .windows(2)
            .map(|pair| pair[1].since(pair[0]))
            .collect();
        // §2.25: never retried at once, and with growing intervals.
        assert!(
            pauses[0] >= Duration::from_millis(400),
            "{what:?} {pauses:?}"
        );
        assert!(pauses[8] >= Duration::from_secs(25), "{what:?} {pauses:?}");
        // Another IKE SA is initiated before expiry, while the old one is in use.
        let age = began.expect("it begins anew").since(begin);
        assert!(age < life.mul_f64(0.96), "{what:?} {age:?}");
        assert!(
            scripted_peer.pair.b.codes().contains(&"rekey-refused"),
            "{what:?}"
        );
        assert_eq!(scripted_peer.pair.b.state(), TunnelState::Up);
    }
}

/// Repeated TEMPORARY_FAILURE does not show that the peer cannot rekey.
#[test]
fn p10_temporary_failure_gives_no_rekey_check_verdict() {
    let mut b = settings(Side::B);
    b.rekey_check = RekeyCheck::Once;
    let busy = [notify(NotifyType::TEMPORARY_FAILURE)];
    let RekeyAttempts {
        asked,
        scripted_peer,
        ..
    } = refusing(b, Duration::from_secs(300), &busy);
    assert!(asked.len() > 6, "{asked:?}");
    assert!(scripted_peer.pair.b.codes().contains(&"rekey-refused"));
    let check = scripted_peer.pair.b.view().rekey_check.unwrap();
    assert_eq!(check.child, RekeyVerdict::Pending);
}

#[test]
fn p10_every_rekey_rejection_is_reported_backed_off_and_survived() {
    for what in [Rekey::Child, Rekey::Ike] {
        for kind in (1..=47u16).chain([8191, 16383]).map(NotifyType) {
            let fatal = [
                NotifyType::INVALID_SYNTAX,
                NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD,
            ];
            if fatal.contains(&kind) || kind == NotifyType::CHILD_SA_NOT_FOUND {
                continue;
            }
            let mut scripted_peer = ScriptedPeer::established();
            let (asked, _) = scripted_peer.have_b_rekey(what);
            scripted_peer.answer(&asked, &[notify(kind)]);
            for (header, payloads) in scripted_peer.heard() {
                // An INVALID_KE_PAYLOAD without a group is malformed.
                assert!(matches!(&payloads[..], [Payload::Delete(_)]), "{kind}");
                scripted_peer.answer(&header, &[]);
            }
            assert_eq!(
                scripted_peer.pair.b.state(),
                TunnelState::Up,
                "{what:?} {kind}"
            );
            assert_eq!(scripted_peer.pair.b.children.len(), 1, "{what:?} {kind}");
            let silent = kind == NotifyType::TEMPORARY_FAILURE;
            assert_eq!(
                scripted_peer.pair.b.failures.is_empty(),
                silent,
                "{what:?} {kind}"
            );
            let (again, _) = scripted_peer.have_b_rekey(what);
            assert_eq!(again.exchange, CREATE, "{what:?} {kind}");
        }
    }
}

#[test]
fn p10_a_child_sa_that_the_peer_has_lost_is_created_again_at_once() {
    let mut scripted_peer = ScriptedPeer::established();
    let (asked, _) = scripted_peer.have_b_rekey(Rekey::Child);
    let lost = Notify::about_esp(NotifyType::CHILD_SA_NOT_FOUND, SPI_OUT);
    scripted_peer.answer(&asked, &[Payload::Notify(lost)]);
    assert!(scripted_peer.pair.b.children.is_empty());
    let (asked, request) = scripted_peer.asked();
    assert_eq!(asked.exchange, CREATE);
    assert_eq!(kinds(&request), [], "one of its own, in place of nothing");
    // One TEMPORARY_FAILURE: the IKE SA stays, and the Child SA follows a little later.
    scripted_peer.answer(&asked, &[notify(NotifyType::TEMPORARY_FAILURE)]);
    assert!(scripted_peer.heard().is_empty(), "not at once (§2.25)");
    scripted_peer.pair.run_for(Duration::from_secs(2));
    let (asked, request) = scripted_peer.asked();
    let accepted = scripted_peer.accepting(&request, 0x2000);
    scripted_peer.answer(&asked, &accepted);
    assert_eq!(scripted_peer.pair.b.children[0].spi_out, 0x2000);
    assert_eq!(scripted_peer.pair.b.count("IkeUp"), 1);
    assert_eq!(scripted_peer.pair.b.state(), TunnelState::Up);
}

#[test]
fn p10_an_ike_sa_whose_child_sa_cannot_be_restored_is_deleted_too() {
    let mut scripted_peer = ScriptedPeer::established();
    let gone = [Payload::Delete(Delete::esp(vec![SPI_OUT]))];
    let mut b = settings(Side::B);
    b.start = Start::Auto;
    for answer in [NotifyType::NO_ADDITIONAL_SAS, NotifyType::TEMPORARY_FAILURE] {
        let mut course = ScriptedPeer::established_with(b.clone());
        course.send_request(INFORMATIONAL, 2, &gone);
        let mut requests = 0;
        while course.pair.b.ikes.len() == 1 && requests < 100 {
            course.pair.run_for(Duration::from_millis(100));
            for (header, _) in course.heard() {
                requests += u32::from(header.exchange == CREATE);
                course.answer(&header, &[notify(answer)]);
            }
        }
        assert!((1..15).contains(&requests), "{answer}: {requests}");
        assert!(course.pair.b.ikes.is_empty(), "{answer}");
    }
    assert!(scripted_peer.heard().is_empty());
}

#[test]
fn p19_a_child_sa_at_its_limit_whose_rekey_is_rejected_stops_and_the_tunnel_reconnects() {
    let mut b = settings(Side::B);
    b.start = Start::Auto;
    let mut scripted_peer = ScriptedPeer::established_with(b);
    let (tunnel, spi_in) = (TUNNEL, scripted_peer.pair.b.children[0].spi_in);
    let refusal = [notify(NotifyType::NO_ADDITIONAL_SAS)];
    for _ in 0..100 {
        scripted_peer
            .pair
            .command(Side::B, Command::SoftLimit { tunnel, spi_in });
        for (header, _) in scripted_peer.heard() {
            scripted_peer.answer(&header, &refusal);
        }
    }
    assert_eq!(
        scripted_peer.pair.b.state(),
        TunnelState::Up,
        "there is room left"
    );
    scripted_peer
        .pair
        .command(Side::B, Command::SequenceExhausted { tunnel, spi_in });
    assert!(
        scripted_peer.pair.b.children.is_empty(),
        "nothing is sent any more"
    );
    let closing: Vec<Payload> = scripted_peer
        .heard()
        .into_iter()
        .flat_map(|(_, all)| all)
        .collect();
    assert!(
        closing.contains(&Payload::Delete(Delete::esp(vec![spi_in]))),
        "{closing:?}"
    );
    let before = scripted_peer.pair.b.sent.len();
    scripted_peer.pair.run_for(Duration::from_secs(60));
    let begins = (before..scripted_peer.pair.b.sent.len()).any(|index| {
        Header::parse(&scripted_peer.pair.b.sent_ike(index))
            .unwrap()
            .exchange
            == ExchangeType::IKE_SA_INIT
    });
    assert!(begins, "{:?}", scripted_peer.pair.b.events);
}

#[test]
fn p18_a_child_sa_that_cannot_be_installed_is_deleted_and_retried_in_both_roles() {
    // Rekeyed by the peer: the old Child SA stays in use.
    let mut scripted_peer = ScriptedPeer::established();
    scripted_peer.pair.b.broken_installs = 1;
    let request = scripted_peer.rekeying(SPI_OUT, 0x2000);
    let bytes = scripted_peer.seal(CREATE, 2, false, &request);
    scripted_peer.deliver(&bytes);
    let heard = scripted_peer.heard();
    let deletes = heard
        .iter()
        .filter(|(_, all)| matches!(&all[..], [Payload::Delete(_)]));
    assert_eq!(deletes.count(), 1, "{heard:?}");
    assert_eq!(scripted_peer.pair.b.children.len(), 1);
    assert_eq!(scripted_peer.pair.b.children[0].spi_out, SPI_OUT);
    assert!(scripted_peer.pair.b.codes().contains(&"install-failed"));
    assert_eq!(scripted_peer.pair.b.state(), TunnelState::Up);

    // Rekeyed by B, and the first one of a tunnel: the remaining SAs are closed, and the tunnel reconnects.
    for what in [Some(Rekey::Child), None] {
        let mut b = settings(Side::B);
        b.start = Start::Auto;
        let mut scripted_peer = ScriptedPeer::established_with(b);
        match what {
            Some(what) => {
                let (asked, request) = scripted_peer.have_b_rekey(what);
                scripted_peer.pair.b.broken_installs = 1;
                let accepted = scripted_peer.accepting(&request, 0x2000);
                scripted_peer.answer(&asked, &accepted);
            }
            None => {
                let spi_in = scripted_peer.pair.b.children[0].spi_in;
                let (tunnel, why) = (TUNNEL, "the route is somebody else's".to_owned());
                let failed = Command::InstallFailed {
                    tunnel,
                    spi_in,
                    why,
                };
                scripted_peer.pair.command(Side::B, failed);
            }
        }
        for _ in 0..100 {
            for (header, _) in scripted_peer.heard() {
                scripted_peer.answer(&header, &[]);
            }
            scripted_peer.pair.run_for(Duration::from_millis(100));
        }
        let begins = (0..scripted_peer.pair.b.sent.len()).any(|index| {
            let header = Header::parse(&scripted_peer.pair.b.sent_ike(index)).unwrap();
            header.exchange == ExchangeType::IKE_SA_INIT && !header.flags.response
        });
        let serves = scripted_peer.pair.b.children.len() == 1;
        assert!(
            begins || serves,
            "{what:?}: {:?}",
            scripted_peer.pair.b.events
        );
        assert!(
            scripted_peer.pair.b.codes().contains(&"install-failed"),
            "{what:?}"
        );
    }
}
