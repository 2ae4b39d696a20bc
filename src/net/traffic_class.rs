//! The traffic class through a tunnel: classes of service (RFC 4301 §5.1.2.1) and congestion marks (RFC 6040, which replaces
//! RFC 4301 in this).
//!
//! ```text
//!   DSCP (6 bits) │ ECN (2 bits)        00 not ECN-capable · 10 ECT(0) · 01 ECT(1) · 11 congestion experienced
//! ```
//!
//! On the way in, the outer header gets the inner header's mark, and its DSCP where the networks on the way may see it. On the way
//! out, what routers have done to the outer mark is carried over to the inner one (RFC 6040 §4.2), whose DSCP stays as it is:
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
const CONGESTION: u8 = 0b11;

/// The bits of a traffic class that are the mark.
const MARK: u8 = 0b11;

/// What the outer header says about the class of service of the inner packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dscp {
    /// The same: networks on the way can treat it accordingly.
    #[default]
    Copied,
    /// Nothing: nobody on the way learns of it.
    Cleared,
}

/// The traffic class of the outer header around a packet of class `inner`.
#[must_use]
pub const fn encapsulated(inner: u8, dscp: Dscp) -> u8 {
    match dscp {
        Dscp::Copied => inner,
        Dscp::Cleared => inner & MARK,
    }
}

/// The mark that leaves the tunnel; `None` for a packet that has to be dropped: a router wanted its sender to slow down, and its
/// sender knows no other sign than loss.
#[must_use]
pub const fn decapsulated(inner: u8, outer: u8) -> Option<u8> {
    match (inner & MARK, outer & MARK) {
        (NOT_CAPABLE, CONGESTION) => None,
        (NOT_CAPABLE, _) => Some(NOT_CAPABLE),
        (_, CONGESTION) => Some(CONGESTION),
        (ECT_0, ECT_1) => Some(ECT_1),
        (inner, _) => Some(inner),
    }
}

/// Carries the outer header's mark over to a whole IP packet.
///
/// # Errors
/// [`DropReason::Congestion`] if it has to be dropped.
pub fn decapsulate(packet: &mut [u8], outer: u8) -> Result<(), DropReason> {
    // Most packets have met no router that marks.
    if matches!(outer & MARK, NOT_CAPABLE | ECT_0) {
        return Ok(());
    }
    let Some([first, second]) = packet.first_chunk_mut() else {
        return Ok(());
    };
    // In IPv6 the traffic class lies across two octets, half a one to the right.
    let version_4 = *first >> 4 == 4;
    let (inner, shift) = match version_4 {
        true => (*second, 0),
        false => (*second >> 4, 4),
    };
    let mark = decapsulated(inner, outer).ok_or(DropReason::Congestion)?;
    let old = u16::from_be_bytes([*first, *second]);
    *second = *second & !(MARK << shift) | mark << shift;
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
        (
            ECT_0,
            [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CONGESTION)],
        ),
        (
            ECT_1,
            [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CONGESTION)],
        ),
        (CONGESTION, [Some(CONGESTION); 4]),
    ];
    const OUTER: [u8; 4] = [NOT_CAPABLE, ECT_0, ECT_1, CONGESTION];

    #[test]
    fn e12_all_sixteen_pairs_of_marks_end_as_rfc_6040_says() {
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
                            assert_eq!(packet[1] & 0xf, 5, "the flow label is not the mark's");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_no_packet_is_left_alone() {
        assert_eq!(decapsulate(&mut [], CONGESTION), Ok(()));
        assert_eq!(decapsulate(&mut [0x45], CONGESTION), Ok(()));
    }
}
