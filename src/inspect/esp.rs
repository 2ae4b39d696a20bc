//! Verification and decryption of ESP packets with keys of a table (RFC 4303).
//!
//! ```text
//! SPI, sequence number ─▶ matching rows of the table ─▶ ICV ─▶ trailer ─▶ inner packet
//! ```
//!
//! A table may omit whether sequence numbers are extended. Only the correct assumption verifies the ICV, so both are tried and the
//! successful one is kept for the SA. The upper half of extended numbers is inferred from earlier ones (RFC 4303 appendix A2).

use std::collections::HashMap;
use std::net::IpAddr;

use serde::Serialize;

use crate::crypto::{Esn, Opener};
use crate::esp::{HEADER, read_trailer, replay};
use crate::net::{DropReason, Packet};

use super::key_tables::{EspKeyRow, EspKeys};

/// An ESP packet in the output.
#[derive(Clone, Debug, Serialize)]
pub(super) struct EspView {
    spi: String,
    /// All 64 bits if the SA has extended numbers and the packet was decrypted.
    seq: u64,
    icv: IcvCheck,
    #[serde(skip_serializing_if = "Option::is_none")]
    inner: Option<InnerView>,
}

/// The result of the integrity check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum IcvCheck {
    Ok,
    Bad,
    /// No keys for the check.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct InnerView {
    src: String,
    dst: String,
    protocol: u8,
    length: usize,
}

/// A decoded ESP packet.
#[derive(Debug)]
pub(super) struct EspObservation {
    pub(super) spi: u32,
    pub(super) sequence: u64,
    pub(super) icv: IcvCheck,
    pub(super) inner: Option<Result<(IpAddr, IpAddr), DropReason>>,
    pub(super) view: EspView,
    /// Remark on a missing verdict or a dropped inner packet.
    pub(super) note: Option<String>,
}

/// ESP keys, and the sequence number state of each SA.
#[derive(Debug, Default)]
pub(super) struct EspDecrypter {
    keys: EspKeys,
    states: HashMap<(usize, u32), SequenceState>,
}

/// The most SAs with sequence number state.
const MAX_STATES: usize = 4096;

/// Sequence number state of an SA: the number length and the highest number.
#[derive(Clone, Copy, Debug)]
struct SequenceState {
    esn: Esn,
    top: u64,
}

impl EspDecrypter {
    pub(super) fn new(keys: EspKeys) -> EspDecrypter {
        EspDecrypter {
            keys,
            states: HashMap::new(),
        }
    }

    /// Decrypts a packet that begins with its SPI; `None` if the packet is shorter than its header.
    pub(super) fn decrypt(
        &mut self,
        source: IpAddr,
        destination: IpAddr,
        esp: &[u8],
    ) -> Option<EspObservation> {
        let (spi, rest) = esp.split_first_chunk::<4>()?;
        let (low, _) = rest.split_first_chunk::<4>()?;
        let (spi, low) = (u32::from_be_bytes(*spi), u32::from_be_bytes(*low));
        let mut note = None;
        let mut icv = IcvCheck::Unknown;
        let mut opened = None;
        for (place, sa) in self.keys.find(source, destination, spi) {
            let opener = match &sa.opener {
                Ok(opener) => opener,
                Err(words) => {
                    note.get_or_insert_with(|| format!("groundlink does not support {words}"));
                    continue;
                }
            };
            icv = IcvCheck::Bad;
            let known = self.states.get(&(place, spi)).copied();
            if let Some((numbers, plain)) = try_numbers(opener, sa, known, low, esp) {
                opened = Some((place, numbers, plain));
                break;
            }
        }
        let Some((place, numbers, plain)) = opened else {
            return Some(EspObservation::unopened(spi, low, icv, note));
        };
        if self.states.len() < MAX_STATES || self.states.contains_key(&(place, spi)) {
            let top = self.states.get(&(place, spi)).map_or(0, |known| known.top);
            let numbers = SequenceState {
                esn: numbers.esn,
                top: top.max(numbers.top),
            };
            self.states.insert((place, spi), numbers);
        }
        Some(EspObservation::opened(spi, numbers.top, &plain))
    }
}

/// Opens a packet under each assumption about its sequence number; returns the state that verified, and the plaintext.
fn try_numbers(
    opener: &Opener,
    sa: &EspKeyRow,
    known: Option<SequenceState>,
    low: u32,
    esp: &[u8],
) -> Option<(SequenceState, Vec<u8>)> {
    let short = SequenceState {
        esn: Esn::No,
        top: u64::from(low),
    };
    let extended = |top| {
        let top = replay::infer(low, top, u64::from(replay::DEFAULT_SIZE))?;
        Some(SequenceState { esn: Esn::Yes, top })
    };
    let first = SequenceState {
        esn: Esn::Yes,
        top: u64::from(sa.upper) << 32 | u64::from(low),
    };
    let candidates = match (known, sa.esn) {
        (Some(SequenceState { esn: Esn::No, .. }), _) | (None, Some(Esn::No)) => {
            [Some(short), None]
        }
        (Some(SequenceState { esn: Esn::Yes, top }), _) => [extended(top), Some(first)],
        (None, Some(Esn::Yes)) => [Some(first), None],
        (None, None) => [Some(short), Some(first)],
    };
    candidates.into_iter().flatten().find_map(|numbers| {
        let high = match numbers.esn {
            Esn::No => None,
            Esn::Yes => Some((numbers.top >> 32) as u32),
        };
        let mut bytes = esp.to_vec();
        let plain = opener.open(&mut bytes, HEADER, high).ok()?;
        Some((numbers, bytes.get(plain)?.to_vec()))
    })
}

impl EspObservation {
    fn unopened(spi: u32, low: u32, icv: IcvCheck, note: Option<String>) -> EspObservation {
        let note = match icv {
            IcvCheck::Bad => Some(
                "the keys in the table do not decrypt it: wrong keys or a damaged packet"
                    .to_owned(),
            ),
            IcvCheck::Ok | IcvCheck::Unknown => note,
        };
        EspObservation {
            spi,
            sequence: u64::from(low),
            icv,
            inner: None,
            view: EspView {
                spi: format!("{spi:08x}"),
                seq: u64::from(low),
                icv,
                inner: None,
            },
            note,
        }
    }

    fn opened(spi: u32, sequence: u64, plain: &[u8]) -> EspObservation {
        let inner = inner(plain);
        let view = inner.as_ref().ok().map(|packet| InnerView {
            src: packet.source().to_string(),
            dst: packet.destination().to_string(),
            protocol: packet.protocol(),
            length: packet.len(),
        });
        let note = match &inner {
            Ok(_) => None,
            Err(DropReason::Dummy) => {
                Some("a dummy packet for traffic flow confidentiality".to_owned())
            }
            Err(reason) => Some(format!("authentic, but groundlink drops it: {reason}")),
        };
        EspObservation {
            spi,
            sequence,
            icv: IcvCheck::Ok,
            inner: Some(inner.map(|packet| (packet.source(), packet.destination()))),
            view: EspView {
                spi: format!("{spi:08x}"),
                seq: sequence,
                icv: IcvCheck::Ok,
                inner: view,
            },
            note,
        }
    }
}

/// Parses the inner packet by the rules of the datapath.
fn inner(plain: &[u8]) -> Result<Packet<'_>, DropReason> {
    let (inner, version) = read_trailer(plain)?;
    let packet = Packet::parse(inner)?;
    if packet.version() != version {
        return Err(DropReason::NextHeader);
    }
    Ok(packet)
}

impl std::fmt::Display for EspView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ESP {}, sequence number {}", self.spi, self.seq)?;
        match self.icv {
            IcvCheck::Ok => f.write_str(", authentic")?,
            IcvCheck::Bad => f.write_str(", wrong ICV")?,
            IcvCheck::Unknown => f.write_str(", not decrypted")?,
        }
        if let Some(InnerView {
            src,
            dst,
            protocol,
            length,
        }) = &self.inner
        {
            write!(
                f,
                ": {src} → {dst}, {}, {length} octets",
                protocol_word(*protocol)
            )?;
        }
        Ok(())
    }
}

/// The IANA keyword of a protocol number.
fn protocol_word(protocol: u8) -> String {
    let keyword = etherparse::IpNumber(protocol).keyword_str();
    keyword.map_or_else(|| format!("protocol {protocol}"), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{Protection, SaKeys, Sealer, Secret, encryption, integrity};

    const ROW: &str = "\"IPv4\",\"*\",\"*\",\"0xc0000001\",\"AES-CBC [RFC3602]\",\"0x09090909090909090909090909090909\",\
        \"HMAC-SHA-1-96 [RFC2404]\",\"0x0808080808080808080808080808080808080808\"";

    fn decrypter(row: &str) -> EspDecrypter {
        EspDecrypter::new(EspKeys::parse(row).unwrap())
    }

    fn sealed(sequence: u64, esn: Esn, plain: &[u8]) -> Vec<u8> {
        let protection = Protection {
            encryption: encryption(12, Some(128)).unwrap(),
            integrity: integrity(2),
        };
        let keys = SaKeys {
            encryption: Secret::new(vec![9; 16]),
            integrity: Secret::new(vec![8; 20]),
        };
        let mut packet = 0xc000_0001_u32.to_be_bytes().to_vec();
        packet.extend((sequence as u32).to_be_bytes());
        packet.extend([0; 16]);
        packet.extend(plain);
        packet.extend([0; 12]);
        let high = (esn == Esn::Yes).then_some((sequence >> 32) as u32);
        let sealer = Sealer::new(protection, &keys, &[3; 16].into()).unwrap();
        sealer.seal(&mut packet, HEADER, sequence, high).unwrap();
        packet
    }

    /// An IPv4 packet of 28 octets with its trailer: 32 octets.
    fn plain(next: u8) -> Vec<u8> {
        let mut plain = Vec::new();
        etherparse::PacketBuilder::ipv4([10, 1, 0, 1], [10, 2, 0, 1], 64)
            .udp(1, 2)
            .write(&mut plain, &[])
            .unwrap();
        plain.extend([1, 2, 2, next]);
        plain
    }

    fn decrypt(decrypter: &mut EspDecrypter, esp: &[u8]) -> EspObservation {
        let (source, destination) = ("192.0.2.1", "192.0.2.2");
        decrypter
            .decrypt(source.parse().unwrap(), destination.parse().unwrap(), esp)
            .unwrap()
    }

    #[test]
    fn an_authentic_packet_shows_its_inner_packet() {
        let seen = decrypt(&mut decrypter(ROW), &sealed(7, Esn::No, &plain(4)));
        assert_eq!((seen.icv, seen.sequence), (IcvCheck::Ok, 7));
        let json = serde_json::to_value(&seen.view).unwrap();
        let expected = serde_json::json!({"spi":"c0000001","seq":7,"icv":"ok",
            "inner":{"src":"10.1.0.1","dst":"10.2.0.1","protocol":17,"length":28}});
        assert_eq!(json, expected);
    }

    #[test]
    fn a_wrong_icv_is_distinguished_from_missing_keys() {
        let mut wrong = sealed(7, Esn::No, &plain(4));
        *wrong.last_mut().unwrap() ^= 1;
        assert_eq!(decrypt(&mut decrypter(ROW), &wrong).icv, IcvCheck::Bad);
        assert_eq!(
            decrypt(&mut decrypter(ROW), &wrong[..12]).icv,
            IcvCheck::Bad
        );
        assert_eq!(decrypt(&mut decrypter(""), &wrong).icv, IcvCheck::Unknown);
        let foreign = ROW.replace("HMAC-SHA-1-96 [RFC2404]", "MAC-RIPEMD-160-96 [RFC2857]");
        let seen = decrypt(&mut decrypter(&foreign), &wrong);
        assert_eq!(seen.icv, IcvCheck::Unknown);
        assert!(seen.note.unwrap().contains("RIPEMD"));
        let short = decrypter(ROW).decrypt(IpAddr::from([1; 4]), IpAddr::from([2; 4]), &wrong[..7]);
        assert!(short.is_none());
    }

    #[test]
    fn of_two_rows_for_an_spi_the_one_that_verifies_is_used() {
        let rows = format!("{}\n{ROW}", ROW.replace("0x0808", "0x0708"));
        assert_eq!(
            decrypt(&mut decrypter(&rows), &sealed(7, Esn::No, &plain(4))).icv,
            IcvCheck::Ok
        );
    }

    #[test]
    fn extended_sequence_numbers_are_detected_and_followed_past_32_bits() {
        let extended = format!("{ROW},\"64-bit\",\"1\"");
        for (row, upper) in [(ROW, 0), (extended.as_str(), 1 << 32)] {
            let mut decrypter = decrypter(row);
            for low in [0xffff_fff0, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0005] {
                let seen = decrypt(&mut decrypter, &sealed(upper + low, Esn::Yes, &plain(4)));
                assert_eq!(
                    (seen.icv, seen.sequence),
                    (IcvCheck::Ok, upper + low),
                    "{row}"
                );
            }
        }
        let short = format!("{ROW},\"32-bit\",\"0\"");
        let seen = decrypt(&mut decrypter(&short), &sealed(1, Esn::Yes, &plain(4)));
        assert_eq!(seen.icv, IcvCheck::Bad);
    }

    #[test]
    fn a_dropped_inner_packet_is_still_authentic() {
        let mut decrypter = decrypter(ROW);
        let seen = decrypt(&mut decrypter, &sealed(1, Esn::No, &plain(41)));
        assert_eq!(seen.inner, Some(Err(DropReason::NextHeader)));
        assert!(seen.note.unwrap().contains("drops it"));
        let seen = decrypt(&mut decrypter, &sealed(2, Esn::No, &plain(59)));
        assert_eq!(
            (seen.icv, seen.inner),
            (IcvCheck::Ok, Some(Err(DropReason::Dummy)))
        );
    }
}
