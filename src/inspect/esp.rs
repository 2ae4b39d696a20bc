//! An ESP packet: whether it is authentic and what is inside, where a table has the keys (RFC 4303).
//!
//! ```text
//! SPI, sequence ─▶ rows of the table for it ─▶ ICV right? ─▶ trailer ─▶ inner packet
//! ```
//!
//! A table may not say whether sequence numbers are extended. Only the right assumption makes a right ICV, so both are tried, and
//! what once fitted an SA is kept. With extended numbers the upper half follows from the numbers before (RFC 4303 appendix A2).

use std::collections::HashMap;
use std::net::IpAddr;

use serde::Serialize;

use crate::crypto::{Esn, Opener};
use crate::esp::{HEADER, read_trailer, replay};
use crate::net::{DropReason, Packet};

use super::tables::{EspKeyRow, EspKeys};

/// What `--json` says of an ESP packet.
#[derive(Clone, Debug, Serialize)]
pub(super) struct EspView {
    spi: String,
    /// All 64 bits, where the SA has them and the packet was opened.
    seq: u64,
    icv: Icv,
    #[serde(skip_serializing_if = "Option::is_none")]
    inner: Option<InnerView>,
}

/// What the integrity check said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Icv {
    Ok,
    Bad,
    /// No keys to check it with.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct InnerView {
    src: String,
    dst: String,
    protocol: u8,
    length: usize,
}

/// An ESP packet that was looked at.
#[derive(Debug)]
pub(super) struct EspObservation {
    pub(super) spi: u32,
    pub(super) sequence: u64,
    pub(super) icv: Icv,
    pub(super) inner: Option<Result<(IpAddr, IpAddr), DropReason>>,
    pub(super) view: EspView,
    /// Why there is no verdict, or what is wrong with what is inside.
    pub(super) note: Option<String>,
}

/// The keys, and what was found out about the SAs.
#[derive(Debug, Default)]
pub(super) struct EspOpener {
    keys: EspKeys,
    known: HashMap<(usize, u32), Numbers>,
}

/// SAs whose numbers are remembered.
const MAX_KNOWN: usize = 4096;

/// How the sequence numbers of an SA go.
#[derive(Clone, Copy, Debug)]
struct Numbers {
    esn: Esn,
    top: u64,
}

impl EspOpener {
    pub(super) fn new(keys: EspKeys) -> EspOpener {
        EspOpener {
            keys,
            known: HashMap::new(),
        }
    }

    /// Looks at a packet, which begins with its SPI. `None` if it is too short to have a header.
    pub(super) fn look(
        &mut self,
        source: IpAddr,
        destination: IpAddr,
        esp: &[u8],
    ) -> Option<EspObservation> {
        let (spi, rest) = esp.split_first_chunk::<4>()?;
        let (low, _) = rest.split_first_chunk::<4>()?;
        let (spi, low) = (u32::from_be_bytes(*spi), u32::from_be_bytes(*low));
        let mut note = None;
        let mut icv = Icv::Unknown;
        let mut opened = None;
        for (place, sa) in self.keys.find(source, destination, spi) {
            let opener = match &sa.opener {
                Ok(opener) => opener,
                Err(words) => {
                    note.get_or_insert_with(|| format!("{words} is not something groundlink runs"));
                    continue;
                }
            };
            icv = Icv::Bad;
            let known = self.known.get(&(place, spi)).copied();
            if let Some((numbers, plain)) = try_numbers(opener, sa, known, low, esp) {
                opened = Some((place, numbers, plain));
                break;
            }
        }
        let Some((place, numbers, plain)) = opened else {
            return Some(EspObservation::unopened(spi, low, icv, note));
        };
        if self.known.len() < MAX_KNOWN || self.known.contains_key(&(place, spi)) {
            let top = self.known.get(&(place, spi)).map_or(0, |known| known.top);
            let numbers = Numbers {
                esn: numbers.esn,
                top: top.max(numbers.top),
            };
            self.known.insert((place, spi), numbers);
        }
        Some(EspObservation::opened(spi, numbers.top, &plain))
    }
}

/// Opens a packet under each assumption about its sequence number; gives the one that fits, with the number, and the plaintext.
fn try_numbers(
    opener: &Opener,
    sa: &EspKeyRow,
    known: Option<Numbers>,
    low: u32,
    esp: &[u8],
) -> Option<(Numbers, Vec<u8>)> {
    let short = Numbers {
        esn: Esn::No,
        top: u64::from(low),
    };
    let extended = |top| {
        let top = replay::infer(low, top, u64::from(replay::DEFAULT_SIZE))?;
        Some(Numbers { esn: Esn::Yes, top })
    };
    let first = Numbers {
        esn: Esn::Yes,
        top: u64::from(sa.upper) << 32 | u64::from(low),
    };
    let candidates = match (known, sa.esn) {
        (Some(Numbers { esn: Esn::No, .. }), _) | (None, Some(Esn::No)) => [Some(short), None],
        (Some(Numbers { esn: Esn::Yes, top }), _) => [extended(top), Some(first)],
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
    fn unopened(spi: u32, low: u32, icv: Icv, note: Option<String>) -> EspObservation {
        let note = match icv {
            Icv::Bad => Some(
                "the keys in the table do not open it: damaged, or not their packet".to_owned(),
            ),
            Icv::Ok | Icv::Unknown => note,
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
            Err(DropReason::Dummy) => Some("a dummy, sent only to hide traffic".to_owned()),
            Err(refusal) => Some(format!("authentic, but groundlink drops it: {refusal}")),
        };
        EspObservation {
            spi,
            sequence,
            icv: Icv::Ok,
            inner: Some(inner.map(|packet| (packet.source(), packet.destination()))),
            view: EspView {
                spi: format!("{spi:08x}"),
                seq: sequence,
                icv: Icv::Ok,
                inner: view,
            },
            note,
        }
    }
}

/// The packet inside, by the same rules as in the tunnel.
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
            Icv::Ok => f.write_str(", authentic")?,
            Icv::Bad => f.write_str(", the ICV is wrong")?,
            Icv::Unknown => f.write_str(", sealed")?,
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

fn protocol_word(protocol: u8) -> String {
    match protocol {
        1 => "ICMP".to_owned(),
        6 => "TCP".to_owned(),
        17 => "UDP".to_owned(),
        58 => "ICMPv6".to_owned(),
        other => format!("protocol {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{Protection, SaKeys, Sealer, Secret, encryption, integrity};

    const ROW: &str = "\"IPv4\",\"*\",\"*\",\"0xc0000001\",\"AES-CBC [RFC3602]\",\"0x09090909090909090909090909090909\",\
        \"HMAC-SHA-1-96 [RFC2404]\",\"0x0808080808080808080808080808080808080808\"";

    fn opener(row: &str) -> EspOpener {
        EspOpener::new(EspKeys::parse(row).unwrap())
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
        let sealer = Sealer::new(protection, &keys, [3; 16]).unwrap();
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

    fn look(opener: &mut EspOpener, esp: &[u8]) -> EspObservation {
        let (source, destination) = ("192.0.2.1", "192.0.2.2");
        opener
            .look(source.parse().unwrap(), destination.parse().unwrap(), esp)
            .unwrap()
    }

    #[test]
    fn an_authentic_packet_shows_what_it_carries() {
        let seen = look(&mut opener(ROW), &sealed(7, Esn::No, &plain(4)));
        assert_eq!((seen.icv, seen.sequence), (Icv::Ok, 7));
        let json = serde_json::to_value(&seen.view).unwrap();
        let expected = serde_json::json!({"spi":"c0000001","seq":7,"icv":"ok",
            "inner":{"src":"10.1.0.1","dst":"10.2.0.1","protocol":17,"length":28}});
        assert_eq!(json, expected);
    }

    #[test]
    fn a_wrong_icv_and_a_missing_key_are_told_apart() {
        let mut wrong = sealed(7, Esn::No, &plain(4));
        *wrong.last_mut().unwrap() ^= 1;
        assert_eq!(look(&mut opener(ROW), &wrong).icv, Icv::Bad);
        assert_eq!(look(&mut opener(ROW), &wrong[..12]).icv, Icv::Bad);
        assert_eq!(look(&mut opener(""), &wrong).icv, Icv::Unknown);
        let foreign = ROW.replace("HMAC-SHA-1-96 [RFC2404]", "MAC-RIPEMD-160-96 [RFC2857]");
        let seen = look(&mut opener(&foreign), &wrong);
        assert_eq!(seen.icv, Icv::Unknown);
        assert!(seen.note.unwrap().contains("RIPEMD"));
        let short = opener(ROW).look(IpAddr::from([1; 4]), IpAddr::from([2; 4]), &wrong[..7]);
        assert!(short.is_none());
    }

    #[test]
    fn of_two_rows_for_an_spi_the_one_that_opens_counts() {
        let rows = format!("{}\n{ROW}", ROW.replace("0x0808", "0x0708"));
        assert_eq!(
            look(&mut opener(&rows), &sealed(7, Esn::No, &plain(4))).icv,
            Icv::Ok
        );
    }

    #[test]
    fn extended_numbers_are_found_out_and_followed_over_the_edge() {
        let extended = format!("{ROW},\"64-bit\",\"1\"");
        for (row, upper) in [(ROW, 0), (extended.as_str(), 1 << 32)] {
            let mut opener = opener(row);
            for low in [0xffff_fff0, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0005] {
                let seen = look(&mut opener, &sealed(upper + low, Esn::Yes, &plain(4)));
                assert_eq!((seen.icv, seen.sequence), (Icv::Ok, upper + low), "{row}");
            }
        }
        let short = format!("{ROW},\"32-bit\",\"0\"");
        let seen = look(&mut opener(&short), &sealed(1, Esn::Yes, &plain(4)));
        assert_eq!(seen.icv, Icv::Bad);
    }

    #[test]
    fn what_makes_no_sense_inside_is_authentic_all_the_same() {
        let mut opener = opener(ROW);
        let seen = look(&mut opener, &sealed(1, Esn::No, &plain(41)));
        assert_eq!(seen.inner, Some(Err(DropReason::NextHeader)));
        assert!(seen.note.unwrap().contains("drops it"));
        let seen = look(&mut opener, &sealed(2, Esn::No, &plain(59)));
        assert_eq!(
            (seen.icv, seen.inner),
            (Icv::Ok, Some(Err(DropReason::Dummy)))
        );
    }
}
