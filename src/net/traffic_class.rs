//! Traffic class through a tunnel: DSCP (RFC 4301 §5.1.2.1) and ECN (RFC 6040, which updates RFC 4301).
//!
//! ```text
//!   DSCP (6 bits) │ ECN (2 bits)        00 not ECN-capable · 10 ECT(0) · 01 ECT(1) · 11 congestion experienced (CE)
//! ```
//!
//! Encapsulation copies the ECN field of the inner header to the outer one, and the DSCP if configured. Decapsulation combines
//! both ECN fields (RFC 6040 §4.2) and keeps the inner DSCP:
//!
//! ```text
//!              outer   00        10        01        11
//!   inner  00          00        00        00        dropped
//!          10          10        10        01        11
//!          01          01        01        01        11
//!          11          11        11        11        11
//! ```

use super::checksum;
use super::drop_reason::DropReason;

const NOT_CAPABLE: u8 = 0b00;
const ECT_1: u8 = 0b01;
const ECT_0: u8 = 0b10;
const CE: u8 = 0b11;

/// ECN field of a traffic class.
const ECN_MASK: u8 = 0b11;

/// DSCP of the outer header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dscp {
    /// Copied from the inner header, so that networks on the path can prioritize.
    #[default]
    Copied,
    /// Zero, so that the path learns nothing about the inner traffic.
    Cleared,
}

/// Traffic class of the outer header around a packet of class `inner`.
#[must_use]
pub const fn encapsulated(inner: u8, dscp: Dscp) -> u8 {
    match dscp {
        Dscp::Copied => inner,
        Dscp::Cleared => inner & ECN_MASK,
    }
}

/// ECN field of the decapsulated packet; `None` if the packet must be dropped: the outer header is marked CE, and the inner
/// sender does not support ECN.
#[must_use]
pub const fn decapsulated(inner: u8, outer: u8) -> Option<u8> {
    match (inner & ECN_MASK, outer & ECN_MASK) {
        (NOT_CAPABLE, CE) => None,
        (NOT_CAPABLE, _) => Some(NOT_CAPABLE),
        (_, CE) => Some(CE),
        (ECT_0, ECT_1) => Some(ECT_1),
        (inner, _) => Some(inner),
    }
}

/// Applies the ECN field of the outer header to an inner packet.
///
/// # Errors
/// [`DropReason::Congestion`] if the packet must be dropped.
pub fn decapsulate(packet: &mut [u8], outer: u8) -> Result<(), DropReason> {
    // Most packets are not marked.
    if matches!(outer & ECN_MASK, NOT_CAPABLE | ECT_0) {
        return Ok(());
    }
    let Some([first, second]) = packet.first_chunk_mut() else {
        return Ok(());
    };
    // In IPv6 the traffic class starts in the middle of the first octet.
    let version_4 = *first >> 4 == 4;
    let (inner, shift) = match version_4 {
        true => (*second, 0),
        false => (*second >> 4, 4),
    };
    let mark = decapsulated(inner, outer).ok_or(DropReason::Congestion)?;
    let old = u16::from_be_bytes([*first, *second]);
    *second = *second & !(ECN_MASK << shift) | mark << shift;
    let new = u16::from_be_bytes([*first, *second]);
    if version_4
        && new != old
        && let Some(field) = packet.get_mut(10..).and_then(|rest| rest.first_chunk_mut())
    {
        *field = checksum::update(u16::from_be_bytes(*field), old, new).to_be_bytes();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Packet;
    use super::*;
    use crate::esp::testing::{header_checksum, ipv4, udp6};

    /// RFC 6040 §4.2, figure 4, row by row.
    const TABLE: [(u8, [Option<u8>; 4]); 4] = [
        (NOT_CAPABLE, [Some(0), Some(0), Some(0), None]),
        (ECT_0, [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)]),
        (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
        (CE, [Some(CE); 4]),
    ];
    const OUTER: [u8; 4] = [NOT_CAPABLE, ECT_0, ECT_1, CE];

    #[test]
    fn e12_all_sixteen_pairs_of_ecn_fields_follow_rfc_6040() {
        for (inner, row) in TABLE {
            for (outer, expected) in OUTER.into_iter().zip(row) {
                for dscp in [0, 0b1011_1000, 0b1111_1100] {
                    let mut v4 = ipv4([10, 2, 0, 5], [10, 1, 0, 7], 60);
                    v4[1] = dscp | inner;
                    header_checksum(&mut v4);
                    let mut v6 = udp6(60);
                    v6[0] = 0x60 | dscp >> 4;
                    v6[1] = (dscp | inner) << 4 | 0x5;
                    for mut packet in [v4, v6] {
                        let before = packet.clone();
                        let outcome = decapsulate(&mut packet, 0b0010_1000 | outer);
                        let after = Packet::parse(&packet).unwrap();
                        match expected {
                            None => {
                                assert_eq!(
                                    (outcome, &packet),
                                    (Err(DropReason::Congestion), &before)
                                )
                            }
                            Some(mark) => {
                                assert_eq!(outcome, Ok(()));
                                assert_eq!(
                                    after.traffic_class(),
                                    dscp | mark,
                                    "{inner:02b} {outer:02b}"
                                );
                            }
                        }
                        if after.is_ipv4() {
                            assert_eq!(checksum::of(&packet[..20]), 0);
                        } else {
                            assert_eq!(packet[1] & 0xf, 5, "the flow label is unchanged");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_truncated_packet_is_unchanged() {
        assert_eq!(decapsulate(&mut [], CE), Ok(()));
        assert_eq!(decapsulate(&mut [0x45], CE), Ok(()));
    }
}
