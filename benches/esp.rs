//! ESP: sealing and opening one packet, per suite and size of the inner packet.
//!
//! `cargo bench --bench esp` measures; `cargo bench --bench esp -- gcm16/1408` only those whose name fits; `cargo test --benches`
//! runs every case once.

use std::hint::black_box;

use criterion::{
    BatchSize, BenchmarkGroup, BenchmarkId, Criterion, Throughput, measurement::WallTime,
};
use etherparse::PacketBuilder;
use groundlink::crypto::{EspProposal, EspSuite, SaKeys, Secret};
use groundlink::esp::{Inbound, Outbound};
use groundlink::net::{Packet, Policy, Prefix};

/// The guide's suite, its successor, and the AEADs.
static SUITES: &[&str] = &[
    "aes128-sha1",
    "aes256-sha256",
    "aes128gcm16",
    "aes256gcm16",
    "chacha20poly1305",
];

/// Octets of the inner packet: an acknowledgement, something in between, and the most that passes any of the clouds.
static SIZES: &[usize] = &[64, 512, 1408];

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for (name, case) in [("seal", seal as Case), ("open", open)] {
        let mut group = criterion.benchmark_group(name);
        for words in SUITES {
            for size in SIZES {
                group.throughput(Throughput::Bytes(*size as u64));
                case(&mut group, suite(words), *size);
            }
        }
        group.finish();
    }
    criterion.final_summary();
}

type Case = fn(&mut BenchmarkGroup<'_, WallTime>, EspSuite, usize);

fn seal(group: &mut BenchmarkGroup<'_, WallTime>, suite: EspSuite, size: usize) {
    let (outbound, _) = pair(suite);
    let inner = inner(size);
    let packet = Packet::parse(&inner).expect("a packet");
    let mut room = vec![0; outbound.sealed_len(inner.len())];
    group.bench_function(BenchmarkId::new(suite.to_string(), size), |bencher| {
        bencher.iter(|| {
            outbound
                .seal(black_box(&packet), &mut room)
                .expect("room enough")
        });
    });
}

/// A number opens once, so each round opens a packet of its own, sealed outside the measured time.
fn open(group: &mut BenchmarkGroup<'_, WallTime>, suite: EspSuite, size: usize) {
    let (outbound, inbound) = pair(suite);
    let inner = inner(size);
    let packet = Packet::parse(&inner).expect("a packet");
    let sealed = || {
        let mut room = vec![0; outbound.sealed_len(inner.len())];
        outbound.seal(&packet, &mut room).expect("room enough");
        room
    };
    group.bench_function(BenchmarkId::new(suite.to_string(), size), |bencher| {
        bencher.iter_batched_ref(
            sealed,
            |esp| {
                inbound
                    .lock()
                    .open(esp)
                    .expect("authentic and new")
                    .packet
                    .len()
            },
            BatchSize::SmallInput,
        );
    });
}

/// What seals and what opens it.
fn pair(suite: EspSuite) -> (Outbound, Inbound) {
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
        Outbound::new(0xc0de_0001, suite, &keys, [0x55; 16], policy.clone())
            .expect("keys that fit"),
        Inbound::new(0xc0de_0001, suite, &keys, policy, 4096).expect("keys that fit"),
    )
}

fn suite(words: &str) -> EspSuite {
    EspProposal::parse(words)
        .expect("known words")
        .0
        .first()
        .expect("one suite")
}

/// A UDP packet of `size` octets.
fn inner(size: usize) -> Vec<u8> {
    const HEADERS: usize = 20 + 8;
    let mut packet = Vec::new();
    PacketBuilder::ipv4([10, 2, 0, 5], [10, 1, 0, 7], 64)
        .udp(1000, 2000)
        .write(&mut packet, &vec![0x5a; size - HEADERS])
        .expect("it fits");
    packet
}
