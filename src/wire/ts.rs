//! The traffic selector payload (RFC 7296 §3.13).
//!
//! ```text
//! | count (1) | reserved (3) | selectors …
//! each: | type (1) | protocol (1) | length (2) | start port (2) | end port (2) | first address | last address |
//! ```

use std::net::IpAddr;

use crate::net::{PortRange, Selector};

use super::codec::{Cursor, Malformed, TooLong, fill_length_u16, octet};
use super::numbers::TsType;

/// Traffic selectors of one side of a Child SA.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct TrafficSelectors {
    /// The address range selectors, in the order of the payload.
    pub selectors: Vec<Selector>,
    /// Selectors of types that are not decoded, such as security labels (RFC 9478): type and body.
    pub unknown: Vec<(TsType, Vec<u8>)>,
}

impl TrafficSelectors {
    pub(super) fn parse(mut body: Cursor<'_>) -> Result<TrafficSelectors, Malformed> {
        let [count, _, _, _] = body.array("traffic selectors truncated")?;
        let mut read = TrafficSelectors::default();
        for _ in 0..count {
            let kind = TsType(body.u8("traffic selector truncated")?);
            let protocol = body.u8("traffic selector truncated")?;
            let short = body.malformed("traffic selector length shorter than its header");
            let length = body.u16("traffic selector truncated")?;
            let length = usize::from(length).checked_sub(4).ok_or(short)?;
            let inside = body.sub(length, "traffic selector truncated")?;
            match kind {
                TsType::IPV4_ADDR_RANGE => read.selectors.push(range::<4>(protocol, inside)?),
                TsType::IPV6_ADDR_RANGE => read.selectors.push(range::<16>(protocol, inside)?),
                _ => read.unknown.push((kind, inside.rest().to_vec())),
            }
        }
        if !body.is_empty() {
            return Err(body.malformed("octets after the last traffic selector"));
        }
        Ok(read)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        let count = self.selectors.len().saturating_add(self.unknown.len());
        out.extend_from_slice(&[octet(count, "list of traffic selectors")?, 0, 0, 0]);
        for selector in &self.selectors {
            let start = out.len();
            let kind = if selector.is_ipv4() {
                TsType::IPV4_ADDR_RANGE
            } else {
                TsType::IPV6_ADDR_RANGE
            };
            out.extend_from_slice(&[kind.0, selector.protocol(), 0, 0]);
            out.extend_from_slice(&selector.ports().first().to_be_bytes());
            out.extend_from_slice(&selector.ports().last().to_be_bytes());
            for address in [selector.first(), selector.last()] {
                match address {
                    IpAddr::V4(v4) => out.extend_from_slice(&v4.octets()),
                    IpAddr::V6(v6) => out.extend_from_slice(&v6.octets()),
                }
            }
            fill_length_u16(out, start, "traffic selector")?;
        }
        for (kind, body) in &self.unknown {
            let start = out.len();
            out.extend_from_slice(&[kind.0, 0, 0, 0]);
            out.extend_from_slice(body);
            fill_length_u16(out, start, "traffic selector")?;
        }
        Ok(())
    }
}

impl From<Vec<Selector>> for TrafficSelectors {
    fn from(selectors: Vec<Selector>) -> TrafficSelectors {
        TrafficSelectors {
            selectors,
            unknown: Vec::new(),
        }
    }
}

/// The body of an address range selector; `N` is the length of an address in octets.
fn range<const N: usize>(protocol: u8, mut inside: Cursor<'_>) -> Result<Selector, Malformed>
where
    IpAddr: From<[u8; N]>,
{
    let start = inside;
    let ports = PortRange::new(
        inside.u16("start port truncated")?,
        inside.u16("end port truncated")?,
    )
    .ok_or(start.malformed("end port of a traffic selector below its start port"))?;
    let first = IpAddr::from(inside.array::<N>("first address truncated")?);
    let last = IpAddr::from(inside.array::<N>("last address truncated")?);
    if !inside.is_empty() {
        return Err(inside.malformed("octets after the last address"));
    }
    Selector::new(protocol, ports, first, last)
        .map_err(|_| start.malformed("last address of a traffic selector below its first address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> Result<TrafficSelectors, Malformed> {
        TrafficSelectors::parse(Cursor::new(bytes, 0))
    }

    const ONE: [u8; 20] = [
        1, 0, 0, 0, 7, 6, 0, 16, 0, 80, 0, 90, 10, 0, 0, 1, 10, 0, 0, 9,
    ];

    #[test]
    fn selectors_round_trip() {
        let read = parse(&ONE).unwrap();
        assert_eq!(
            read.selectors[0].to_string(),
            "10.0.0.1-10.0.0.9[tcp/80-90]"
        );
        let mut written = Vec::new();
        read.encode(&mut written).unwrap();
        assert_eq!(written, ONE);
    }

    #[test]
    fn p03_wrong_counts_and_lengths_are_malformed() {
        let edit = |at: usize, value: u8| {
            let mut bytes = ONE;
            bytes[at] = value;
            bytes
        };
        for (at, value, case) in [
            (0, 0, "count 0 and a selector"),
            (0, 2, "count 2 and one selector"),
            (0, 255, "count 255"),
            (7, 0, "length 0"),
            (7, 3, "length below the header"),
            (7, 15, "length short"),
            (7, 17, "length long"),
            (6, 255, "length far beyond"),
            (4, 8, "an IPv6 selector of IPv4 size"),
            (8, 1, "ports inverted"),
            (12, 11, "addresses inverted"),
        ] {
            assert!(parse(&edit(at, value)).is_err(), "{case}");
        }
        for cut in 0..ONE.len() {
            assert!(parse(&ONE[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn p03_an_empty_list_of_selectors_is_parsed() {
        assert_eq!(parse(&[0, 0, 0, 0]), Ok(TrafficSelectors::default()));
    }

    #[test]
    fn selectors_of_unknown_types_are_kept_separately() {
        let bytes = [&[2, 0, 0, 0, 10, 0, 0, 6, b'h', b'i'][..], &ONE[4..]].concat();
        let read = parse(&bytes).unwrap();
        assert_eq!(read.unknown, [(TsType::SECLABEL, b"hi".to_vec())]);
        assert_eq!(read.selectors.len(), 1);
    }

    #[test]
    fn more_than_255_selectors_are_an_error() {
        let many = vec![parse(&ONE).unwrap().selectors[0]; 256];
        assert!(
            TrafficSelectors::from(many)
                .encode(&mut Vec::new())
                .is_err()
        );
    }
}
