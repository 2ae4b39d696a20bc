//! ESP in UDP whose checksum is zero, as kernels and clouds send it (RFC 3948 §2.1), is opened and carried like any other.
//!
//! ```text
//!   gateway A ── checksum ──▶ WAN ── zero ──▶ gateway B        and the same back: the router takes it out
//! ```

use groundlink::lab::options::{RemoteKind, Side};

use super::super::lab::filter;
use super::load::Load;
use super::*;

#[test]
#[ignore = "needs root and nft: tests/run runs it"]
fn packets_whose_udp_checksum_is_zero_are_carried() {
    for (esp, offload) in SUITES.into_iter().zip(["auto", "off"]) {
        let case = Case {
            esp,
            offload,
            ..Case::of(RemoteKind::Groundlink)
        };
        let mut lab = case.up();
        filter(
            &lab,
            "table ip zero_checksum { chain forward { type filter hook forward priority filter; \
             udp dport 4500 @th,64,32 != 0 udp checksum set 0; }; }",
        );
        for side in [Side::A, Side::B] {
            let gateway = lab.topology().gateway(side);
            // The kernel segments GSO packets before this hook, as a network card would.
            on(gateway, "ip", &["link", "set", "wan0", "gso_max_segs", "1"]);
            on(
                gateway,
                "nft",
                &[
                    "table ip zero_checksum { chain input { type filter hook input priority filter; \
                  udp dport 4500 udp checksum 0 counter; }; }",
                ],
            );
        }
        let sizes = (0..2000).map(|number| 8 + number * 7 % 1300);
        let result = Load::of_sizes(sizes).both_ways(&lab);
        well(&mut lab, result);
        let carried = bulk::both_ways(&lab, case.bulk() / 4);
        well(&mut lab, carried);
        for side in [Side::A, Side::B] {
            let gateway = lab.topology().gateway(side);
            let zero_checksum = counted(&on(
                gateway,
                "nft",
                &["list", "table", "ip", "zero_checksum"],
            ));
            assert!(zero_checksum >= 2000, "{case:?}, {side}: {zero_checksum}");
        }
        refused_exactly(&mut lab, &nothing);
        offload_is_still(&mut lab, case.offload);
    }
}
