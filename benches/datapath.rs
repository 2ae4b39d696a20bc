//! The datapath over in-memory pair: packets into A's device, sealed, over a network that is a queue, opened, out of B's device.
//!
//! ```text
//!   super     a TCP super-packet of 45 segments, cut at A, one train on the way, one super-packet again at B
//!   1300 B    46 UDP packets, read one by one, which leave as trains and are joined at B
//!   64 B      likewise
//!   alone     46 UDP packets of 1300 B; each comes to B by itself and leaves by itself, as without any offload
//! ```
//!
//! `cargo bench --bench datapath` measures; `cargo bench --bench datapath -- super/aes128gcm16` only what the words fit; `cargo test
//! --benches` runs every case once. Bits are those of inner packets, headers included; one core does both halves.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use groundlink::datapath::loopback::{LoopbackPair, MTU};
use groundlink::net::Time;
use groundlink::net::segment::PacketOffload;
use groundlink::os::{ReceiveOffload, VnetHeader};

mod common;

/// The guide's suite, its successor, and the AEADs.
static SUITES: &[&str] = &[
    "aes128-sha1",
    "aes256-sha256",
    "aes128gcm16",
    "chacha20poly1305",
];

/// Packets in a batch, or one less than that many segments in a super-packet: what fits 64 KiB.
const BATCH: usize = 46;

/// What is carried again and again.
struct Load {
    name: &'static str,
    receiving: ReceiveOffload,
    packets: Vec<(VnetHeader, Vec<u8>)>,
}

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1000))
        .configure_from_args();
    for load in loads() {
        let mut group = criterion.benchmark_group(load.name);
        let bytes: usize = load.packets.iter().map(|(_, packet)| packet.len()).sum();
        group.throughput(Throughput::BytesDecimal(bytes as u64));
        for words in SUITES {
            let mut pair = pair(words, load.receiving);
            group.bench_function(*words, |bencher| {
                bencher.iter(|| carry(&mut pair, &load));
            });
            assert_eq!(pair.refused(), 0);
        }
        group.finish();
    }
    criterion.final_summary();
}

/// Every packet from end to end. What comes out may be joined, and none of it may be missing.
fn carry(pair: &mut LoopbackPair, load: &Load) {
    for (vnet, packet) in &load.packets {
        assert!(pair.inject(*vnet, black_box(packet)));
    }
    pair.carry(Time::from_secs(1000));
    let delivered = pair.delivered(|_, packet| {
        black_box(packet);
    });
    let expected = match load.receiving {
        ReceiveOffload::Joined => 1,
        ReceiveOffload::Single => load.packets.len(),
    };
    assert_eq!(delivered, expected);
}

fn loads() -> [Load; 4] {
    let udp = |name, receiving, size: usize| Load {
        name,
        receiving,
        packets: vec![(VnetHeader::NONE, common::udp(28 + size)); BATCH],
    };
    let (train, bytes) = common::super_packet(BATCH - 1, MTU - 40);
    [
        Load {
            name: "super",
            receiving: ReceiveOffload::Joined,
            packets: vec![(PacketOffload::Gso(train).into(), bytes)],
        },
        udp("1300 B", ReceiveOffload::Joined, 1300),
        udp("64 B", ReceiveOffload::Joined, 64),
        udp("alone", ReceiveOffload::Single, 1300),
    ]
}

/// Two gateways with a tunnel that takes everything.
fn pair(words: &str, receiving: ReceiveOffload) -> LoopbackPair {
    let (outbound, inbound) = common::pair(common::suite(words));
    LoopbackPair::under(outbound, inbound, receiving).expect("descriptors")
}
