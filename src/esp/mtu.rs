//! Inner MTU of a suite on a path, and the TCP MSS that follows.
//!
//! ```text
//!  ├──────────────────────────── outer MTU ────────────────────────────────┤
//!  │ IP 20/40 │ [UDP 8] │ ESP 8 │ IV │ inner packet │ padding │ 2 │ ICV    │
//!                                  ├──── a multiple of the block ─┤
//! ```
//!
//! The maximum inner packet needs no padding: `align_down(outer − IP − UDP − ESP − IV − ICV, block) − 2`, without UDP for native
//! ESP (IP protocol 50). For the gateway MTU of 1460 that Google uses, the results are those of Google's documentation.

use std::net::IpAddr;

use super::{HEADER, alignment, trailer};
use crate::crypto::Protection;
use crate::net::EspTransport;

/// Maximum inner packet for outer packets of `outer` octets to `peer`; zero if none fits.
pub fn inner(outer: u16, peer: IpAddr, transport: EspTransport, protection: Protection) -> u16 {
    let ip: usize = match peer {
        IpAddr::V4(_) => 20,
        IpAddr::V6(_) => 40,
    };
    let (iv, icv) = (protection.iv_len(), protection.icv_len());
    let overhead = [ip, transport.overhead(), HEADER, iv, icv].iter().sum();
    let room = usize::from(outer).saturating_sub(overhead);
    let aligned = room.saturating_sub(room.checked_rem(alignment(protection)).unwrap_or(0));
    // At most `outer`, so the cast is exact.
    aligned.saturating_sub(trailer::LEAST) as u16
}

/// TCP MSS over IPv4 for this tunnel MTU.
pub fn mss_ipv4(inner_mtu: u16) -> u16 {
    inner_mtu.saturating_sub(20 + 20)
}

/// TCP MSS over IPv6 for this tunnel MTU.
pub fn mss_ipv6(inner_mtu: u16) -> u16 {
    inner_mtu.saturating_sub(40 + 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::esp::testing::suite;

    const V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 1));
    const V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

    /// Suite, inner MTU with native ESP over IPv4, MSS for IPv4 and IPv6 inside, inner MTU with ESP in UDP over IPv4; outer MTU
    /// 1460.
    const GOOGLE: &[(&str, u16, u16, u16, u16)] = &[
        ("aes128gcm16", 1406, 1366, 1346, 1398),
        ("aes256gcm16", 1406, 1366, 1346, 1398),
        ("aes128-sha1", 1390, 1350, 1330, 1390),
        ("aes256-sha256", 1390, 1350, 1330, 1390),
        ("aes128-sha512", 1374, 1334, 1314, 1374),
        ("aes256-sha512", 1374, 1334, 1314, 1374),
    ];

    #[test]
    fn google_documented_values() {
        for (words, native, mss4, mss6, udp) in GOOGLE {
            let protection = suite(words).protection;
            let mtu = inner(1460, V4, EspTransport::Esp, protection);
            assert_eq!(mtu, *native, "{words}");
            assert_eq!((mss_ipv4(mtu), mss_ipv6(mtu)), (*mss4, *mss6), "{words}");
            assert_eq!(
                inner(1460, V4, EspTransport::Udp, protection),
                *udp,
                "{words} over UDP"
            );
        }
    }

    #[test]
    fn an_ipv6_path_leaves_twenty_octets_less_before_alignment() {
        assert_eq!(
            inner(1460, V6, EspTransport::Esp, suite("aes128gcm16").protection),
            1386
        );
        // Google documents 1370, which is 20 below its IPv4 value; blocks of 16 octets leave room for 4 more.
        assert_eq!(
            inner(1460, V6, EspTransport::Esp, suite("aes128-sha1").protection),
            1374
        );
    }

    #[test]
    fn the_inner_mtu_is_the_maximum_packet_that_fits() {
        for words in crate::esp::testing::SUITES {
            let sa = crate::esp::testing::pair(words).0;
            for outer in 1200..1530 {
                let mtu = inner(outer, V4, EspTransport::Udp, suite(words).protection);
                let room = usize::from(outer) - 20 - 8;
                assert!(sa.sealed_len(usize::from(mtu)) <= room, "{words} {outer}");
                assert!(
                    sa.sealed_len(usize::from(mtu) + 1) > room,
                    "{words} {outer}"
                );
            }
        }
    }

    #[test]
    fn a_path_too_small_for_any_packet_has_mtu_zero() {
        assert_eq!(
            inner(0, V4, EspTransport::Udp, suite("aes128-sha1").protection),
            0
        );
        assert_eq!(
            inner(60, V6, EspTransport::Udp, suite("aes128-sha1").protection),
            0
        );
    }
}
