//! Packets and SAs for benchmarks.

#![allow(
    dead_code,
    reason = "each benchmark compiles its own copy and uses a part of it"
)]

use std::num::NonZeroU16;

use etherparse::PacketBuilder;
use groundlink::crypto::{EspProposal, EspSuite, SaKeys, Secret};
use groundlink::esp::{Inbound, Outbound};
use groundlink::net::checksum::Sum;
use groundlink::net::segment::{GsoKind, GsoPacket, PartialChecksum};
use groundlink::net::{Policy, Prefix};

/// Suite from a proposal in the syntax of swanctl.conf.
pub fn suite(proposal: &str) -> EspSuite {
    EspProposal::parse(proposal)
        .expect("a known proposal")
        .0
        .first()
        .expect("one suite")
}

/// An outbound SA and the inbound SA that opens its packets. The selectors allow all traffic.
pub fn pair(suite: EspSuite) -> (Outbound, Inbound) {
    let any = || {
        let prefix: Prefix = "0.0.0.0/0".parse().expect("a prefix");
        vec![prefix.into()]
    };
    let policy = Policy {
        local: any(),
        remote: any(),
    };
    let key = |length: usize| Secret::new((0..length).map(|at| at as u8 ^ 0x5a).collect());
    let keys = SaKeys {
        encryption: key(suite.protection.encryption_key_len()),
        integrity: key(suite.protection.integrity_key_len()),
    };
    (
        Outbound::new(
            0xc0de_0001,
            suite,
            &keys,
            &[0x55; 16].into(),
            policy.clone(),
        )
        .expect("keys that fit"),
        Inbound::new(0xc0de_0001, suite, &keys, policy, 4096).expect("keys that fit"),
    )
}

/// Octets of an IPv4 and a UDP header.
const UDP_HEADERS: usize = 20 + 8;

/// A UDP packet of `size` octets.
pub fn udp(size: usize) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ipv4([10, 2, 0, 5], [10, 1, 0, 7], 64)
        .udp(1000, 2000)
        .write(&mut packet, &vec![0x5a; size - UDP_HEADERS])
        .expect("it fits");
    packet
}

/// A TCP GSO packet of `segments` segments of `size` octets as the kernel delivers it, with a partial checksum.
pub fn gso_packet(segments: usize, size: u16) -> (GsoPacket, Vec<u8>) {
    let mut bytes = Vec::new();
    PacketBuilder::ipv4([10, 2, 0, 5], [10, 1, 0, 7], 64)
        .tcp(1000, 80, 1, 500)
        .ack(77)
        .write(&mut bytes, &vec![0x5a; segments * usize::from(size)])
        .expect("it fits");
    let length = (bytes.len() - 20) as u32;
    let pseudo = Sum::pseudo_header([10, 2, 0, 5].into(), [10, 1, 0, 7].into(), 6, length);
    let partial = pseudo.expect("one family").fold();
    bytes[36..38].copy_from_slice(&partial.to_be_bytes());
    let gso = GsoPacket {
        kind: GsoKind::TcpV4,
        size: NonZeroU16::new(size).expect("not zero"),
        header_len: 20 + 20,
        partial: Some(PartialChecksum {
            start: 20,
            offset: 16,
        }),
        ecn: false,
    };
    (gso, bytes)
}
