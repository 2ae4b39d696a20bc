//! Segmentation offload: a full GSO packet split into segments, and the segments coalesced again.
//!
//! `cargo bench --bench segment` measures; `cargo test --benches` runs every case once.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use groundlink::net::Packet;
use groundlink::net::checksum::Sum;
use groundlink::net::segment::{Coalescer, UdpCoalescing, segments};

mod common;

/// Octets of payload in a segment.
const SIZE: u16 = 1350;

/// Segments in a GSO packet.
const SEGMENTS: usize = 46;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    bench_segment(&mut criterion);
    criterion.final_summary();
}

fn bench_segment(criterion: &mut Criterion) {
    let (gso, bytes) = common::gso_packet(SEGMENTS, SIZE);
    let packet = Packet::parse(&bytes).expect("a packet");
    let inputs: Vec<Vec<u8>> = segments(&packet, &gso)
        .expect("a GSO packet")
        .map(|segment| {
            let mut out = vec![0; segment.len()];
            assert!(segment.write(&mut out));
            out
        })
        .collect();
    assert_eq!(inputs.len(), SEGMENTS);

    let mut group = criterion.benchmark_group("segment");
    group.throughput(Throughput::Bytes(bytes.len() as u64));

    // The distance leaves room for the ESP headers and trailers around each segment.
    let mut buffer = vec![0; SEGMENTS * 1500];
    group.bench_function("split", |bencher| {
        bencher.iter(|| {
            let segments = segments(black_box(&packet), &gso).expect("a GSO packet");
            for (segment, slot) in segments.zip(buffer.chunks_mut(1500)) {
                assert!(segment.write(&mut slot[20..20 + segment.len()]));
            }
        });
    });

    let mut coalescer = Coalescer::new();
    group.bench_function("coalesce", |bencher| {
        bencher.iter(|| {
            let mut octets = 0;
            for segment in &inputs {
                let packet = Packet::parse(black_box(segment)).expect("a packet");
                coalescer.push(&packet, UdpCoalescing::Coalesced, &mut |coalesced| {
                    octets += coalesced.octets
                });
            }
            coalescer.flush(&mut |coalesced| octets += coalesced.octets);
            octets
        });
    });

    // Baselines: a copy without checksums, and a checksum without a copy.
    let mut copy = vec![0; bytes.len()];
    group.bench_function("copy", |bencher| {
        bencher.iter(|| copy.copy_from_slice(black_box(&bytes)));
    });
    group.bench_function("sum", |bencher| {
        bencher.iter(|| Sum::default().plus(black_box(&bytes)).finish());
    });
    group.finish();
}
