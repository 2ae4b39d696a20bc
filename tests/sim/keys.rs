//! A second key schedule, written from RFC 7296 §2.13 to §2.18 for the one suite of the scripted peer: it checks the engine
//! against an independent implementation.

use groundlink::crypto::{
    IkeProposal, Opener, Prf, Protection, SaKeys, Sealer, Secret, WrongKeyLength,
};
use groundlink::wire::{Header, IkeSpi, Message, Payload, chain, sk};

pub fn suite() -> IkeProposal {
    IkeProposal::parse("aes128-sha256-curve25519").unwrap().0
}

fn prf() -> &'static Prf {
    suite().prf[0]
}

/// Ni and Nr.
pub type Nonces<'a> = (&'a [u8], &'a [u8]);

/// prf+ (§2.13): T1 = prf(K, S | 1), T2 = prf(K, T1 | S | 2), …
fn prf_plus(key: &[u8], seed: &[u8]) -> Vec<u8> {
    let (mut stream, mut last) = (Vec::new(), Vec::new());
    for round in 1..=8u8 {
        last = prf()
            .compute(key, &[&last, seed, &[round]])
            .as_bytes()
            .to_vec();
        stream.extend_from_slice(&last);
    }
    stream
}

fn keys(stream: &[u8], encryption: usize, integrity: usize) -> SaKeys {
    SaKeys {
        encryption: Secret::from_slice(&stream[encryption..encryption + 16]),
        integrity: Secret::from_slice(&stream[integrity..integrity + 32]),
    }
}

/// SKEYSEED of a first IKE SA (§2.14).
pub fn seed(shared: &Secret, nonces: Nonces<'_>) -> Vec<u8> {
    let both = [nonces.0, nonces.1].concat();
    prf()
        .compute(&both, &[shared.as_bytes()])
        .as_bytes()
        .to_vec()
}

/// The keys of one IKE SA on the initiator's side.
pub struct IkeSaKeys {
    pub spi_i: IkeSpi,
    pub spi_r: IkeSpi,
    /// SK_pi.
    pub prove: Vec<u8>,
    /// SK_d.
    derive: Vec<u8>,
    sealer: Sealer,
    opener: Opener,
    protection: Protection,
    counter: u64,
}

impl IkeSaKeys {
    pub fn new(seed: &[u8], nonces: Nonces<'_>, spi_i: IkeSpi, spi_r: IkeSpi) -> IkeSaKeys {
        let spis = [spi_i.0.to_be_bytes(), spi_r.0.to_be_bytes()].concat();
        // SK_d 32 | SK_ai 32 | SK_ar 32 | SK_ei 16 | SK_er 16 | SK_pi 32
        let stream = prf_plus(seed, &[nonces.0, nonces.1, &spis].concat());
        let protection = Protection {
            encryption: suite().encryption[0],
            integrity: Some(suite().integrity[0]),
        };
        let made = || -> Result<IkeSaKeys, WrongKeyLength> {
            Ok(IkeSaKeys {
                spi_i,
                spi_r,
                prove: stream[128..160].to_vec(),
                derive: stream[..32].to_vec(),
                sealer: Sealer::new(protection, &keys(&stream, 96, 32), &[9; 16].into())?,
                opener: Opener::new(protection, &keys(&stream, 112, 64))?,
                protection,
                counter: 0,
            })
        };
        made().unwrap()
    }

    /// SKEYSEED of the IKE SA that replaces this one (§2.18).
    pub fn next_seed(&self, shared: &Secret, nonces: Nonces<'_>) -> Vec<u8> {
        let parts = [shared.as_bytes(), nonces.0, nonces.1];
        prf().compute(&self.derive, &parts).as_bytes().to_vec()
    }

    /// The keys of a Child SA without its own key exchange (§2.17): the keys of the exchange's initiator first.
    pub fn child_keys(&self, nonces: Nonces<'_>) -> (SaKeys, SaKeys) {
        self.fresh_child_keys(b"", nonces, b"")
    }

    /// The keys of a Child SA with its own and an additional key exchange (RFC 9370 §2.2.4): KEYMAT = prf+(SK_d, SK(0) | Ni | Nr
    /// | SK(1)).
    pub fn fresh_child_keys(
        &self,
        first: &[u8],
        nonces: Nonces<'_>,
        additional: &[u8],
    ) -> (SaKeys, SaKeys) {
        // Encryption 16 | integrity 32, then the same for the responder.
        let seed = [first, nonces.0, nonces.1, additional].concat();
        let stream = prf_plus(&self.derive, &seed);
        (keys(&stream, 0, 16), keys(&stream, 48, 64))
    }

    pub fn room(&self) -> sk::Overhead {
        sk::Overhead {
            iv: self.protection.iv_len(),
            icv: self.protection.icv_len(),
            block: self.protection.block(),
        }
    }

    pub fn seal(&mut self, mut framed: sk::SealedLayout) -> Vec<u8> {
        self.counter += 1;
        self.sealer
            .seal(&mut framed.bytes, framed.aad_len, self.counter, None)
            .unwrap();
        framed.bytes
    }

    /// Decrypts a message of B on this IKE SA; `None` for another IKE SA.
    pub fn open(&self, bytes: &[u8]) -> Option<(Header, Vec<Payload>)> {
        let message = Message::parse(bytes).unwrap();
        let header = message.header;
        if header.spi_r != self.spi_r {
            return None;
        }
        let sealed = message.sealed.expect("sealed");
        let mut bytes = bytes.to_vec();
        let plain = self.opener.open(&mut bytes, sealed.aad_len, None).unwrap();
        let inner = sk::unpad(&bytes[plain]).unwrap();
        Some((header, chain::parse(sealed.first, inner, 0).unwrap()))
    }
}
