//! The datapath with an in-memory pair of gateways: packets from A's device are sealed, sent over a queue, opened, and written to B's
//! device.
//!
//! ```text
//!   gso       a TCP GSO packet of 45 segments, split at A, one UDP GSO batch on the network, coalesced at B
//!   1300 B    46 UDP packets, read one at a time, sent as UDP GSO batches and coalesced at B
//!   64 B      the same with 64 B packets
//!   single    46 UDP packets of 1300 B, received and written one at a time, without any offload
//! ```
//!
//! `cargo bench --bench datapath` measures; `cargo bench --bench datapath -- gso/aes128gcm16` only cases whose name fits; `cargo test
//! --benches` runs every case once. Throughput counts inner packets with their headers; one core runs both gateways.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use groundlink::datapath::loopback::{LoopbackPair, MTU};
use groundlink::net::Time;
use groundlink::net::segment::PacketOffload;
use groundlink::os::{ReceiveOffload, VnetHeader};

mod common;

/// Suites: CBC with HMAC-SHA1, CBC with HMAC-SHA-256, and the AEADs.
static SUITES: &[&str] = &[
    "aes128-sha1",
    "aes256-sha256",
    "aes128gcm16",
    "chacha20poly1305",
];

/// Packets in a batch; a GSO packet of at most 64 KiB has one segment fewer.
const BATCH: usize = 46;

/// The packets of one measurement.
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
        for proposal in SUITES {
            let mut pair = pair(proposal, load.receiving);
            group.bench_function(*proposal, |bencher| {
                bencher.iter(|| carry(&mut pair, &load));
            });
            assert_eq!(pair.dropped(), 0);
        }
        group.finish();
    }
    criterion.final_summary();
}

/// Sends every packet end to end. Packets may be coalesced, but none may be missing.
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
    let (gso, bytes) = common::gso_packet(BATCH - 1, MTU - 40);
    [
        Load {
            name: "gso",
            receiving: ReceiveOffload::Joined,
            packets: vec![(PacketOffload::Gso(gso).into(), bytes)],
        },
        udp("1300 B", ReceiveOffload::Joined, 1300),
        udp("64 B", ReceiveOffload::Joined, 64),
        udp("single", ReceiveOffload::Single, 1300),
    ]
}

/// Two gateways with a tunnel for all traffic.
fn pair(proposal: &str, receiving: ReceiveOffload) -> LoopbackPair {
    let (outbound, inbound) = common::pair(common::suite(proposal));
    LoopbackPair::new(outbound, inbound, receiving).expect("descriptors")
}
