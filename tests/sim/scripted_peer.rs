//! A peer that holds the pre-shared key, or at least completes the key exchange, and then sends the messages of a test.
//!
//! The AUTH computation is written here from RFC 7296 §2.15, and the key schedule in [`keys`](crate::keys), so the engine is also
//! checked against an independent implementation.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use groundlink::crypto::{Generator, Group, KeyExchange, Prf, sha1};
use groundlink::ike::{Rekey, Settings};
use groundlink::wire::{
    Auth, AuthMethod, Critical, ExchangeType, Flags, Header, Id, IdType, IkeSpi, Ke, Message,
    MessageId, Notify, NotifyType, Payload, PayloadType, Proposal, ProtocolId, Sa, Transform,
    TransformType, sk,
};

use crate::keys::{self, IkeSaKeys, suite};
use crate::pair::{Pair, Side, settings};

pub const PSK: &[u8] = b"a key both sides know";
pub const SPI_OUT: u32 = 0x0bad_cafe;

/// A scripted initiator for endpoint B of a pair whose A is silent.
pub struct ScriptedPeer {
    pub pair: Pair,
    pub ike_sa: IkeSaKeys,
    prf: &'static Prf,
    nonce_i: Vec<u8>,
    nonce_r: Vec<u8>,
    init_request: Vec<u8>,
    heard: usize,
}

fn transform(kind: TransformType, id: u16) -> Transform {
    Transform::new(kind, id, None)
}

pub fn ike_offer() -> Sa {
    let suite = suite();
    let transforms = vec![
        Transform::new(TransformType::ENCR, suite.encryption[0].id, Some(128)),
        transform(TransformType::INTEG, suite.integrity[0].id),
        transform(TransformType::PRF, suite.prf[0].id),
        transform(TransformType::KE, suite.groups[0].id),
    ];
    let proposal = Proposal::new(1, ProtocolId::IKE, Vec::new(), transforms);
    Sa {
        proposals: vec![proposal],
    }
}

pub fn esp_offer(spi: u32) -> Sa {
    let transforms = vec![
        Transform::new(TransformType::ENCR, 12, Some(128)),
        transform(TransformType::INTEG, 12),
        transform(TransformType::ESN, 0),
    ];
    let spi = spi.to_be_bytes().to_vec();
    Sa {
        proposals: vec![Proposal::new(1, ProtocolId::ESP, spi, transforms)],
    }
}

pub fn notify(kind: NotifyType) -> Payload {
    Payload::Notify(Notify::new(kind, Vec::new()))
}

/// The notifications among payloads.
pub fn kinds(payloads: &[Payload]) -> Vec<NotifyType> {
    payloads
        .iter()
        .filter_map(|payload| match payload {
            Payload::Notify(notify) => Some(notify.kind),
            _ => None,
        })
        .collect()
}

/// A payload with an invalid body for its type.
pub fn raw(kind: PayloadType, body: &[u8]) -> Payload {
    Payload::Unknown {
        kind,
        critical: Critical::No,
        body: body.to_vec(),
    }
}

/// A pair with a silent A and this B.
pub fn mute_pair(b: Settings) -> Pair {
    let mut a = settings(Side::A);
    a.start = groundlink::ike::Start::Add;
    let mut pair = Pair::new(a, b);
    pair.cut();
    pair
}

/// The SPI of the peer's first IKE_SA_INIT.
const SPI_I: u64 = 0x1111_2222_3333_4444;

/// The NAT detection hashes of the peer.
enum Nats {
    /// Hashes that match no address: a NAT on both sides.
    Both,
    /// A NAT in front of the peer only.
    Peer,
    /// No NAT.
    None,
}

impl Nats {
    fn notifies(&self, spi_i: IkeSpi) -> [Payload; 2] {
        let hash = |end: &str| {
            let end: SocketAddr = end.parse().unwrap();
            let IpAddr::V4(ip) = end.ip() else {
                panic!("IPv4")
            };
            let (spi_i, port) = (spi_i.0.to_be_bytes(), end.port().to_be_bytes());
            sha1(&[&spi_i, &[0; 8], &ip.octets(), &port]).to_vec()
        };
        let (source, destination) = match self {
            Nats::Both => (vec![7; 20], vec![7; 20]),
            Nats::Peer => (vec![7; 20], hash("192.0.2.2:500")),
            Nats::None => (hash("192.0.2.1:500"), hash("192.0.2.2:500")),
        };
        [
            (NotifyType::NAT_DETECTION_SOURCE_IP, source),
            (NotifyType::NAT_DETECTION_DESTINATION_IP, destination),
        ]
        .map(|(kind, hash)| Payload::Notify(Notify::new(kind, hash)))
    }
}

impl ScriptedPeer {
    /// A peer that has completed IKE_SA_INIT.
    pub fn keyed() -> ScriptedPeer {
        ScriptedPeer::keyed_with(mute_pair(settings(Side::B)), SPI_I)
    }

    /// The same with the B of `pair`.
    pub fn keyed_with(pair: Pair, spi_i: u64) -> ScriptedPeer {
        ScriptedPeer::keyed_with_payloads(pair, spi_i, &[])
    }

    /// The same with a peer that supports fragmentation.
    pub fn keyed_for_fragments() -> ScriptedPeer {
        let supported = [notify(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED)];
        let pair = mute_pair(settings(Side::B));
        ScriptedPeer::keyed_with_payloads(pair, SPI_I, &supported)
    }

    /// Established as if behind a NAT, with a B that is behind none and uses the peer's addresses.
    pub fn behind_a_nat() -> ScriptedPeer {
        ScriptedPeer::seen_by_b(&Nats::Peer)
    }

    /// Established without a NAT.
    pub fn behind_no_nat() -> ScriptedPeer {
        ScriptedPeer::seen_by_b(&Nats::None)
    }

    fn seen_by_b(nats: &Nats) -> ScriptedPeer {
        let mut b = settings(Side::B);
        b.encapsulation = groundlink::ike::Encapsulation::Auto;
        ScriptedPeer::begin(mute_pair(b), SPI_I, nats, &[]).authenticated()
    }

    /// Established with a B with these settings.
    pub fn established_with(b: Settings) -> ScriptedPeer {
        ScriptedPeer::keyed_with(mute_pair(b), SPI_I).authenticated()
    }

    /// A peer that has completed IKE_SA_INIT with the B of `pair` and these additional payloads.
    pub fn keyed_with_payloads(pair: Pair, spi_i: u64, more: &[Payload]) -> ScriptedPeer {
        ScriptedPeer::begin(pair, spi_i, &Nats::Both, more)
    }

    fn begin(mut pair: Pair, spi_i: u64, nats: &Nats, more: &[Payload]) -> ScriptedPeer {
        let mut rng = Generator::from_seed([42; 32]);
        let (spi_i, suite) = (IkeSpi(spi_i), suite());
        let group: &'static Group = suite.groups[0];
        let ke = KeyExchange::generate(group, &mut rng);
        let nonce_i = rng.bytes::<32>().to_vec();
        let mut payloads = vec![
            Payload::Sa(ike_offer()),
            Payload::Ke(Ke {
                group: group.id,
                data: ke.public().to_vec(),
            }),
            Payload::Nonce(nonce_i.clone()),
        ];
        payloads.extend(nats.notifies(spi_i));
        payloads.extend_from_slice(more);
        let flags = Flags {
            initiator: true,
            ..Flags::default()
        };
        let header = Header::new(
            spi_i,
            IkeSpi::ZERO,
            ExchangeType::IKE_SA_INIT,
            flags,
            MessageId(0),
        );
        let init_request = Message::encode_clear(header, &payloads).unwrap();
        let heard = pair.b.sent.len();
        pair.inject(Side::B, 500, &init_request);
        let init_response = pair.b.sent_ike(heard);
        let answer = Message::parse(&init_response).unwrap();
        let spi_r = answer.header.spi_r;
        let (mut nonce_r, mut public) = (Vec::new(), Vec::new());
        for payload in &answer.clear {
            match payload {
                Payload::Nonce(nonce) => nonce_r.clone_from(nonce),
                Payload::Ke(ke) => public.clone_from(&ke.data),
                _ => {}
            }
        }
        let shared = ke.agree(&public).unwrap();
        let nonces = (&nonce_i[..], &nonce_r[..]);
        let seed = keys::seed(&shared, nonces);
        ScriptedPeer {
            ike_sa: IkeSaKeys::new(&seed, nonces, spi_i, spi_r),
            heard: pair.b.sent.len(),
            pair,
            prf: suite.prf[0],
            nonce_i,
            nonce_r,
            init_request,
        }
    }

    /// A peer that has completed IKE_AUTH, with the tunnel up.
    pub fn established() -> ScriptedPeer {
        ScriptedPeer::keyed().authenticated()
    }

    /// Completes IKE_AUTH.
    pub fn authenticated(self) -> ScriptedPeer {
        let mut scripted_peer = self;
        let request = scripted_peer.auth_request();
        let answer = scripted_peer.send_request(ExchangeType::IKE_AUTH, 1, &request);
        assert!(
            answer
                .iter()
                .any(|payload| matches!(payload, Payload::Sa(_))),
            "{answer:?}"
        );
        assert_eq!(scripted_peer.pair.b.children.len(), 1);
        scripted_peer
    }

    pub fn auth(&self, id: &Id, psk: &[u8]) -> Payload {
        let body = id.authenticated_octets();
        let maced = self.prf.compute(&self.ike_sa.prove, &[&body]);
        let pad = self.prf.compute(psk, &[b"Key Pad for IKEv2"]);
        let signed = [&self.init_request, &self.nonce_r, maced.as_bytes()];
        Payload::Auth(Auth {
            method: AuthMethod::SHARED_KEY,
            data: self
                .prf
                .compute(pad.as_bytes(), &signed)
                .as_bytes()
                .to_vec(),
        })
    }

    /// The payloads of a valid initiator.
    pub fn auth_request(&self) -> Vec<Payload> {
        let id = Id::new(IdType::IPV4_ADDR, vec![192, 0, 2, 1]);
        let policy = settings(Side::A).policy;
        vec![
            Payload::IdI(id.clone()),
            self.auth(&id, PSK),
            Payload::Sa(esp_offer(SPI_OUT)),
            Payload::TsI(policy.local.into()),
            Payload::TsR(policy.remote.into()),
        ]
    }

    pub fn seal(
        &mut self,
        exchange: ExchangeType,
        id: u32,
        response: bool,
        payloads: &[Payload],
    ) -> Vec<u8> {
        let header = self.header(exchange, id, response);
        self.seal_frame(sk::frame(header, payloads, self.ike_sa.room()).unwrap())
    }

    /// An encrypted message with this plaintext in place of payloads and padding, including the pad length: a payload of type
    /// `first` and any octets after it, with correct lengths or not. Zeros fill the last block.
    pub fn seal_plaintext(
        &mut self,
        exchange: ExchangeType,
        id: u32,
        response: bool,
        (first, plaintext): (PayloadType, &[u8]),
    ) -> Vec<u8> {
        let room = self.ike_sa.room();
        let len = plaintext.len().max(1).next_multiple_of(room.block);
        // The generic header and the pad length complete the last block.
        let stand_in = Payload::Unknown {
            kind: first,
            critical: Critical::No,
            body: vec![0; len - 5],
        };
        let header = self.header(exchange, id, response);
        let mut framed = sk::frame(header, &[stand_in], room).unwrap();
        let inside = &mut framed.bytes[framed.aad_len + room.iv..][..len];
        inside.fill(0);
        inside[..plaintext.len()].copy_from_slice(plaintext);
        self.seal_frame(framed)
    }

    fn header(&self, exchange: ExchangeType, id: u32, response: bool) -> Header {
        let flags = Flags {
            initiator: true,
            response,
            version: false,
        };
        Header::new(
            self.ike_sa.spi_i,
            self.ike_sa.spi_r,
            exchange,
            flags,
            MessageId(id),
        )
    }

    /// The fragments of a request, at most `max` octets each, not encrypted yet.
    pub fn fragments(
        &self,
        exchange: ExchangeType,
        id: u32,
        payloads: &[Payload],
        max: usize,
    ) -> Vec<sk::SealedLayout> {
        let header = self.header(exchange, id, false);
        sk::frame_fragments(header, payloads, self.ike_sa.room(), max).unwrap()
    }

    pub fn seal_frame(&mut self, framed: sk::SealedLayout) -> Vec<u8> {
        self.ike_sa.seal(framed)
    }

    pub fn deliver(&mut self, bytes: &[u8]) {
        self.pair.inject(Side::B, 4500, bytes);
    }

    /// Sends a request and decrypts the one response.
    pub fn send_request(
        &mut self,
        exchange: ExchangeType,
        id: u32,
        payloads: &[Payload],
    ) -> Vec<Payload> {
        let bytes = self.seal(exchange, id, false, payloads);
        self.deliver(&bytes);
        let mut heard = self.heard();
        assert_eq!(heard.len(), 1, "one answer: {heard:?}");
        let (header, payloads) = heard.remove(0);
        assert!(header.flags.response && header.message_id.0 == id);
        payloads
    }

    /// The one request that B has sent since the last call, possibly retransmitted.
    pub fn asked(&mut self) -> (Header, Vec<Payload>) {
        let mut heard = self.heard();
        heard.dedup();
        assert_eq!(heard.len(), 1, "one request: {heard:?}");
        let (header, payloads) = heard.remove(0);
        assert!(!header.flags.response, "{header:?}");
        (header, payloads)
    }

    /// Responds to a request of B.
    pub fn answer(&mut self, request: &Header, payloads: &[Payload]) {
        let id = request.message_id.0;
        let bytes = self.seal(request.exchange, id, true, payloads);
        self.deliver(&bytes);
    }

    /// Commands B to rekey, and returns B's request.
    pub fn have_b_rekey(&mut self, what: Rekey) -> (Header, Vec<Payload>) {
        self.pair.rekey(Side::B, what);
        self.asked()
    }

    /// A request for a Child SA with this peer SPI and the selectors of the first Child SA.
    pub fn another_child(&self, spi: u32) -> Vec<Payload> {
        let [.., ts_i, ts_r] = &self.auth_request()[..] else {
            panic!("no selectors")
        };
        let (sa, nonce) = (Payload::Sa(esp_offer(spi)), Payload::Nonce(vec![7; 32]));
        vec![sa, nonce, ts_i.clone(), ts_r.clone()]
    }

    /// A request that rekeys the Child SA with the peer SPI `old`.
    pub fn rekeying(&self, old: u32, spi: u32) -> Vec<Payload> {
        let rekeys = Payload::Notify(Notify::about_esp(NotifyType::REKEY_SA, old));
        let mut payloads = self.another_child(spi);
        payloads.insert(0, rekeys);
        payloads
    }

    /// A valid response to B's request for a Child SA without PFS, with the peer SPI `spi`.
    pub fn accepting(&self, request: &[Payload], spi: u32) -> Vec<Payload> {
        let selectors = request.iter().filter(|payload| {
            let kinds = [PayloadType::TSI, PayloadType::TSR];
            kinds.contains(&payload.kind())
        });
        let (sa, nonce) = (Payload::Sa(esp_offer(spi)), Payload::Nonce(vec![6; 32]));
        [sa, nonce].into_iter().chain(selectors.cloned()).collect()
    }

    /// The messages that B has sent over this IKE SA since the last call.
    pub fn heard(&mut self) -> Vec<(Header, Vec<Payload>)> {
        let from = std::mem::replace(&mut self.heard, self.pair.b.sent.len());
        (from..self.heard)
            .filter_map(|index| self.ike_sa.open(&self.pair.b.sent_ike(index)))
            .collect()
    }

    /// Rekeys the IKE SA with message ID `id`, continues on the new one, and returns the old one.
    pub fn rekey_ike(&mut self, id: u32) -> IkeSaKeys {
        let mut rng = Generator::from_seed([u8::try_from(id % 251).unwrap(); 32]);
        let ke = KeyExchange::generate(suite().groups[0], &mut rng);
        let (spi_i, nonce_i) = (IkeSpi(rng.u64()), rng.bytes::<32>());
        let mut sa = ike_offer();
        sa.proposals[0].spi = spi_i.0.to_be_bytes().to_vec();
        let group = ke.group().id;
        let data = ke.public().to_vec();
        let request = [
            Payload::Sa(sa),
            Payload::Nonce(nonce_i.to_vec()),
            Payload::Ke(Ke { group, data }),
        ];
        let answer = self.send_request(ExchangeType::CREATE_CHILD_SA, id, &request);
        let [
            Payload::Sa(sa),
            Payload::Nonce(nonce_r),
            Payload::Ke(theirs),
        ] = &answer[..]
        else {
            panic!("{answer:?}")
        };
        let spi_r = sa.proposals[0].spi[..].try_into().unwrap();
        let spi_r = IkeSpi(u64::from_be_bytes(spi_r));
        let nonces = (&nonce_i[..], &nonce_r[..]);
        let shared = ke.agree(&theirs.data).unwrap();
        let seed = self.ike_sa.next_seed(&shared, nonces);
        let new = IkeSaKeys::new(&seed, nonces, spi_i, spi_r);
        std::mem::replace(&mut self.ike_sa, new)
    }

    /// The nonces of the handshake.
    pub fn nonces(&self) -> keys::Nonces<'_> {
        (&self.nonce_i, &self.nonce_r)
    }

    /// Waits for B's liveness check and returns its message ID.
    pub fn await_liveness(&mut self) -> u32 {
        self.pair.run_for(Duration::from_millis(10_100));
        let heard = self.heard();
        assert_eq!(heard.len(), 1, "{heard:?}");
        assert!(heard[0].1.is_empty() && !heard[0].0.flags.response);
        heard[0].0.message_id.0
    }
}
