//! Invalid IKE_SA_INIT messages: every payload missing, malformed, unknown or superfluous (RFC 7296 §2.5, §3).

use std::time::Duration;

use groundlink::ike::TunnelState;
use groundlink::wire::{
    Critical, ExchangeType, Header, IkeSpi, Message, MessageId, Notify, NotifyType, Payload,
    PayloadType, Proposal, ProtocolId, Sa, Transform, TransformType,
};

use crate::hostile::response;
use crate::pair::{Pair, Side, settings};
use crate::scripted_peer::{ScriptedPeer, notify};

const SECOND: Duration = Duration::from_secs(1);

/// A new B without any SA.
pub fn fresh() -> Pair {
    let mut a = settings(Side::A);
    a.start = groundlink::ike::Start::Add;
    Pair::new(a, settings(Side::B))
}

fn init() -> Vec<u8> {
    Pair::new(settings(Side::A), settings(Side::B))
        .a
        .sent_ike(0)
}

fn init_with(change: impl FnOnce(&mut Vec<Payload>)) -> Vec<u8> {
    let bytes = init();
    let message = Message::parse(&bytes).unwrap();
    let mut payloads = message.clear;
    change(&mut payloads);
    Message::encode_clear(message.header, &payloads).unwrap()
}

/// B's response to its first message: none, or a header and payloads.
fn answer(bytes: &[u8]) -> Option<(Header, Vec<Payload>)> {
    let mut pair = fresh();
    pair.inject(Side::B, 500, bytes);
    assert!(pair.b.sent.len() <= 1);
    let answer = (!pair.b.sent.is_empty()).then(|| pair.b.sent_ike(0))?;
    let message = Message::parse(&answer).unwrap();
    Some((message.header, message.clear))
}

#[track_caller]
fn assert_served(bytes: &[u8]) {
    let (header, payloads) = answer(bytes).expect("an answer");
    assert!(!header.spi_r.is_zero(), "{payloads:?}");
}

/// The request is rejected with this notification and keeps no state.
#[track_caller]
fn assert_refused(bytes: &[u8], kind: NotifyType) -> Vec<u8> {
    match answer(bytes) {
        Some((header, payloads)) => match &payloads[..] {
            [Payload::Notify(notify)] if notify.kind == kind && header.spi_r.is_zero() => {
                notify.data.clone()
            }
            other => panic!("{other:?} instead of {kind}"),
        },
        None => panic!("nothing instead of {kind}"),
    }
}

/// The request is rejected with a notification or dropped.
#[track_caller]
fn assert_not_served(bytes: &[u8]) {
    if let Some((header, payloads)) = answer(bytes) {
        assert!(header.spi_r.is_zero(), "{payloads:?}");
    }
}

#[test]
fn n02_wrong_payload_lengths_and_endless_chains_are_dropped() {
    let whole = init();
    let set = |at: usize, value: &[u8]| {
        let mut bytes = whole.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        bytes
    };
    for length in [0u16, 1, 2, 3, 0x7fff, 0xffff] {
        assert_eq!(answer(&set(30, &length.to_be_bytes())), None, "{length}");
    }
    // The first payload points to another of the same type beyond the end of the message.
    for kind in [33, 40, 41, 43] {
        assert_not_served(&set(28, &[kind]));
    }
    // Truncated inside each payload, with a matching header length.
    for len in 28..whole.len() {
        let mut cut = whole[..len].to_vec();
        cut[24..28].copy_from_slice(&u32::try_from(len).unwrap().to_be_bytes());
        assert_not_served(&cut);
    }
    let many = init_with(|payloads| {
        payloads.extend(std::iter::repeat_n(Payload::Vendor(Vec::new()), 1200));
    });
    assert_eq!(answer(&many), None);
}

fn ike_proposal(transforms: Vec<Transform>) -> Proposal {
    Proposal::new(1, ProtocolId::IKE, Vec::new(), transforms)
}

/// A's offer: AES-128, HMAC-SHA-256, its PRF, Curve25519.
fn valid_transforms() -> Vec<Transform> {
    vec![
        Transform::new(TransformType::ENCR, 12, Some(128)),
        Transform::new(TransformType::INTEG, 12, None),
        Transform::new(TransformType::PRF, 5, None),
        Transform::new(TransformType::KE, 31, None),
    ]
}

fn offering(proposals: Vec<Proposal>) -> Vec<u8> {
    init_with(|payloads| payloads[0] = Payload::Sa(Sa { proposals }))
}

#[test]
fn n03_contradictory_proposals_are_skipped_and_the_others_considered() {
    assert_served(&offering(vec![ike_proposal(valid_transforms())]));
    let none = NotifyType::NO_PROPOSAL_CHOSEN;
    let key_length = |bits: Option<u16>, more: &[u8]| {
        let mut transforms = valid_transforms();
        transforms[0].key_bits = bits;
        transforms[0].unknown_attributes = more.to_vec();
        ike_proposal(transforms)
    };
    let twice = [0x80, 14, 0, 128];
    let long_form = [0, 14, 0, 2, 0, 128];
    for flawed in [
        key_length(Some(0), &[]),
        key_length(Some(1), &[]),
        key_length(Some(65535), &[]),
        key_length(None, &[]),
        key_length(Some(128), &twice),
        key_length(None, &long_form),
        key_length(Some(128), &[0x80, 99, 0, 0]),
    ] {
        assert_refused(&offering(vec![flawed.clone()]), none);
        let mut good = ike_proposal(valid_transforms());
        good.number = 2;
        assert_served(&offering(vec![flawed, good]));
    }
    for size in 1..=255 {
        let spi = vec![7; size];
        let proposal = Proposal::new(1, ProtocolId::IKE, spi, valid_transforms());
        assert_refused(&offering(vec![proposal]), none);
    }
    assert_refused(&offering(Vec::new()), none);
}

#[test]
fn n03_wrong_counts_and_lengths_inside_the_sa_payload_are_survived() {
    let whole = init();
    let end = 28 + usize::from(u16::from_be_bytes([whole[30], whole[31]]));
    let mut unserved = 0;
    for at in 32..end {
        for value in [0, 1, 2, 3, 4, 7, 8, 9, 0x7f, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            match answer(&bytes) {
                Some((header, _)) if !header.spi_r.is_zero() => {}
                Some(_) | None => unserved += 1,
            }
        }
    }
    assert!(unserved > (end - 32) * 5, "{unserved}");
}

#[test]
fn n04_proposals_that_lack_a_transform_type_or_have_an_extra_one_are_not_chosen() {
    let none = NotifyType::NO_PROPOSAL_CHOSEN;
    for missing in 0..4 {
        let mut transforms = valid_transforms();
        transforms.remove(missing);
        assert_refused(&offering(vec![ike_proposal(transforms)]), none);
    }
    // AES-GCM with an integrity algorithm, and no encryption at all.
    for encryption in [
        Transform::new(TransformType::ENCR, 20, Some(128)),
        Transform::new(TransformType::ENCR, 11, None),
    ] {
        let mut transforms = valid_transforms();
        transforms[0] = encryption;
        assert_refused(&offering(vec![ike_proposal(transforms)]), none);
    }
    // Also rejected where the tunnel is configured with AES-GCM.
    let mut pair = {
        let mut b = settings(Side::B);
        b.ike = vec![
            groundlink::crypto::IkeProposal::parse("aes128gcm128-prfsha256-curve25519")
                .unwrap()
                .0,
        ];
        let mut a = settings(Side::A);
        a.start = groundlink::ike::Start::Add;
        Pair::new(a, b)
    };
    let mut transforms = valid_transforms();
    transforms[0] = Transform::new(TransformType::ENCR, 20, Some(128));
    let bytes = offering(vec![ike_proposal(transforms.clone())]);
    pair.inject(Side::B, 500, &bytes);
    let header = Header::parse(&pair.b.sent_ike(0)).unwrap();
    assert!(header.spi_r.is_zero());
    transforms.remove(1);
    pair.inject(Side::B, 500, &offering(vec![ike_proposal(transforms)]));
    let header = Header::parse(&pair.b.sent_ike(1)).unwrap();
    assert!(!header.spi_r.is_zero());
}

fn with_ke(group: u16, data: Vec<u8>) -> Vec<u8> {
    init_with(|payloads| {
        for payload in payloads {
            if let Payload::Ke(ke) = payload {
                (ke.group, ke.data) = (group, data.clone());
            }
        }
    })
}

#[test]
fn n06_a_public_value_of_another_group_or_length_is_rejected() {
    let wanted = 31u16.to_be_bytes();
    for group in [0, 1, 2, 14, 19, 1025, 65535] {
        for len in [0, 32, 256] {
            let notified = assert_refused(
                &with_ke(group, vec![9; len]),
                NotifyType::INVALID_KE_PAYLOAD,
            );
            assert_eq!(notified, wanted, "{group}");
        }
    }
    for len in [0, 1, 31, 33, 64, 1000] {
        assert_not_served(&with_ke(31, vec![9; len]));
    }
    assert_served(&with_ke(31, vec![9; 32]));
}

#[test]
fn n09_a_nonce_of_invalid_length_is_rejected() {
    let with_nonce = |len: usize| {
        init_with(|payloads| {
            for payload in payloads {
                if let Payload::Nonce(nonce) = payload {
                    *nonce = vec![9; len];
                }
            }
        })
    };
    for len in [0, 1, 15, 257, 1000, 65000] {
        assert_not_served(&with_nonce(len));
    }
    for len in [16, 256] {
        assert_served(&with_nonce(len));
    }
}

#[test]
fn n08_an_invalid_ke_payload_without_a_group_or_with_one_we_never_offered_is_not_followed() {
    for data in [
        vec![],
        vec![31],
        vec![0, 14, 0],
        vec![0, 14],
        vec![4, 1],
        vec![0, 31],
    ] {
        let mut pair = Pair::new(settings(Side::A), settings(Side::B));
        let spi_i = Header::parse(&pair.a.sent_ike(0)).unwrap().spi_i;
        let wish = Notify::new(NotifyType::INVALID_KE_PAYLOAD, data.clone());
        let asked = response(spi_i, ExchangeType::IKE_SA_INIT, &[Payload::Notify(wish)]);
        for _ in 0..5 {
            pair.inject(Side::A, 500, &asked);
        }
        assert_eq!(pair.a.sent.len(), 1, "{data:?}");
        pair.run_for(SECOND);
        pair.assert_agreed();
    }
}

#[test]
fn n08_endless_invalid_ke_payload_responses_end_the_attempt() {
    let mut a = settings(Side::A);
    a.ike = vec![
        groundlink::crypto::IkeProposal::parse("aes128-sha256-curve25519-ecp256")
            .unwrap()
            .0,
    ];
    let mut pair = Pair::new(a, settings(Side::B));
    pair.cut();
    for round in 0..20u16 {
        let last = pair.a.sent.len() - 1;
        let spi_i = Header::parse(&pair.a.sent_ike(last)).unwrap().spi_i;
        let group = if round % 2 == 0 { 19u16 } else { 31 };
        let wish = Notify::new(NotifyType::INVALID_KE_PAYLOAD, group.to_be_bytes().to_vec());
        let asked = response(spi_i, ExchangeType::IKE_SA_INIT, &[Payload::Notify(wish)]);
        pair.inject(Side::A, 500, &asked);
    }
    assert_eq!(pair.a.codes(), ["peer-misbehaved"]);
    assert!(pair.a.sent.len() <= 6, "{}", pair.a.sent.len());
}

/// The first acceptable response wins; if it was forged, the attempt times out, and the next attempt has another SPI.
#[test]
fn n16_a_forged_response_costs_one_attempt_at_most() {
    let mut pair = Pair::new(settings(Side::A), settings(Side::B));
    let first = Header::parse(&pair.a.sent_ike(0)).unwrap().spi_i;
    let other = Pair::established().b.sent_ike(0);
    for spi_r in [5u64, 6] {
        let mut forged = other.clone();
        forged[..8].copy_from_slice(&first.0.to_be_bytes());
        forged[8..16].copy_from_slice(&spi_r.to_be_bytes());
        pair.inject(Side::A, 500, &forged);
    }
    let taken = Header::parse(&pair.a.sent_ike(1)).unwrap();
    assert_eq!(
        (taken.exchange, taken.spi_r),
        (ExchangeType::IKE_AUTH, IkeSpi(5))
    );
    pair.run_for(300 * SECOND);
    pair.assert_agreed();
    assert_ne!(pair.a.view().ike.unwrap().spi_i, first);
}

#[test]
fn n26_unknown_unencrypted_payloads_are_skipped_unless_critical() {
    for kind in [1, 32, 49, 255] {
        let unknown = |critical| {
            init_with(|payloads| {
                payloads.push(Payload::Unknown {
                    kind: PayloadType(kind),
                    critical,
                    body: vec![1, 2, 3],
                });
            })
        };
        assert_served(&unknown(Critical::No));
        let notified = assert_refused(
            &unknown(Critical::Yes),
            NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD,
        );
        assert_eq!(notified, [kind]);
    }
    // The critical bit has no meaning on known payloads.
    let mut critical = init();
    let (mut at, mut marked) = (28, 0);
    while at < critical.len() {
        critical[at + 1] |= 0x80;
        at += usize::from(u16::from_be_bytes([critical[at + 2], critical[at + 3]]));
        marked += 1;
    }
    assert!(marked >= 6);
    assert_served(&critical);
}

#[test]
fn n27_every_version_and_every_reserved_bit() {
    let with = |at: usize, value: u8| {
        let mut bytes = init();
        bytes[at] = value;
        bytes
    };
    for version in [0x00, 0x01, 0x10, 0x11, 0x1f, 0x30, 0x31, 0xf0] {
        assert_refused(&with(17, version), NotifyType::INVALID_MAJOR_VERSION);
    }
    for version in [0x20, 0x21, 0x2f] {
        assert_served(&with(17, version));
    }
    // IKEv1 main, aggressive, quick and informational mode; and AuthIP, an IKEv1 variant with its own exchange type.
    for exchange in [2, 4, 32, 5, 243] {
        let mut bytes = with(17, 0x10);
        bytes[18] = exchange;
        bytes[19] = 0;
        assert_refused(&bytes, NotifyType::INVALID_MAJOR_VERSION);
        // An unsolicited response gets no response.
        bytes[19] = 0x20;
        assert_eq!(answer(&bytes), None);
    }
    for flags in [0x08, 0x09, 0x0c, 0x18, 0x48, 0x88, 0xdf & !0x20] {
        assert_served(&with(19, flags));
    }
    let mut reserved = init();
    let mut at = 28;
    while at < reserved.len() {
        reserved[at + 1] |= 0x7f;
        at += usize::from(u16::from_be_bytes([reserved[at + 2], reserved[at + 3]]));
    }
    assert_served(&reserved);
}

#[test]
fn n29_vendor_ids_and_unsolicited_certificates_and_configuration_payloads_are_ignored() {
    for len in [0, 1, 1000, 64_000] {
        assert_served(&init_with(|payloads| {
            payloads.push(Payload::Vendor(vec![0xaa; len]));
        }));
    }
    assert_served(&init_with(|payloads| {
        payloads.extend(std::iter::repeat_n(Payload::Vendor(vec![7; 16]), 50));
    }));
    assert_eq!(
        answer(&init_with(|payloads| {
            payloads.extend(std::iter::repeat_n(Payload::Vendor(vec![7; 16]), 1000));
        })),
        None,
        "there is a bound"
    );
    let junk = |kind: u8, body: &[u8]| Payload::Unknown {
        kind: PayloadType(kind),
        critical: Critical::No,
        body: body.to_vec(),
    };
    // CERT, CERTREQ and CP of each type; the gateway assigns no addresses.
    for body in [
        &[][..],
        &[0],
        &[4, 0xff, 0xff],
        &[1, 0, 0, 0, 0, 1, 0, 0],
        &[2; 300],
    ] {
        for kind in [37, 38, 47] {
            assert_served(&init_with(|payloads| payloads.push(junk(kind, body))));
            let mut scripted_peer = ScriptedPeer::keyed();
            let mut request = scripted_peer.auth_request();
            request.push(junk(kind, body));
            let answer = scripted_peer.send_request(ExchangeType::IKE_AUTH, 1, &request);
            assert_eq!(answer.len(), 5, "IDr, AUTH, SA, TSi, TSr: {answer:?}");
            assert_eq!(scripted_peer.pair.b.state(), TunnelState::Up);
        }
    }
}

/// Extensions that are not offered: MOBIKE, redirection, signatures, childless initiation.
const EXTENSIONS: [u16; 6] = [16396, 16406, 16407, 16418, 16431, 16438];

#[test]
fn n30_extensions_not_offered_are_neither_answered_nor_used() {
    let extensions = || EXTENSIONS.map(|kind| notify(NotifyType(kind)));
    // In requests.
    let request = init_with(|payloads| payloads.extend(extensions()));
    let (header, answered) = answer(&request).expect("an answer");
    assert!(!header.spi_r.is_zero());
    for payload in &answered {
        assert!(
            !matches!(payload, Payload::Notify(notify) if EXTENSIONS.contains(&notify.kind.0)),
            "{payload:?}"
        );
    }
    let mut scripted_peer = ScriptedPeer::keyed();
    let mut request = scripted_peer.auth_request();
    request.extend(extensions());
    let answer = scripted_peer.send_request(ExchangeType::IKE_AUTH, 1, &request);
    assert_eq!(answer.len(), 5, "{answer:?}");
    // In a response: the next message is IKE_AUTH all the same.
    let mut pair = Pair::new(settings(Side::A), settings(Side::B));
    pair.cut();
    let spi_i = Header::parse(&pair.a.sent_ike(0)).unwrap().spi_i;
    let true_one = Pair::established().b.sent_ike(0);
    let message = Message::parse(&true_one).unwrap();
    let mut payloads = message.clear.clone();
    payloads.extend(extensions());
    let header = Header {
        spi_i,
        ..message.header
    };
    pair.inject(
        Side::A,
        500,
        &Message::encode_clear(header, &payloads).unwrap(),
    );
    let next = Header::parse(&pair.a.sent_ike(1)).unwrap();
    assert_eq!(
        (next.exchange, next.message_id),
        (ExchangeType::IKE_AUTH, MessageId(1))
    );
}
