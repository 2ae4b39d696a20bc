//! Offload: a full super-packet cut into segments, and the segments joined again.
//!
//! `cargo bench --bench segment` measures; `cargo test --benches` runs every case once.

use std::hint::black_box;
use std::num::NonZeroU16;

use criterion::{Criterion, Throughput};
use etherparse::PacketBuilder;
use groundlink::net::Packet;
use groundlink::net::checksum::Sum;
use groundlink::net::segment::{Coalescer, Kind, Partial, Train, UdpRuns, segments};

/// Octets of payload in a segment.
const SIZE: u16 = 1350;

/// Segments in a super-packet.
const SEGMENTS: usize = 46;

/// Octets in front of the payload.
const HEADERS: usize = 20 + 20;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    segment(&mut criterion);
    criterion.final_summary();
}

fn segment(criterion: &mut Criterion) {
    let bytes = super_packet();
    let packet = Packet::parse(&bytes).expect("a packet");
    let train = Train {
        kind: Kind::TcpV4,
        size: NonZeroU16::new(SIZE).expect("not zero"),
        header_len: HEADERS as u16,
        partial: Some(Partial {
            start: 20,
            offset: 16,
        }),
        ecn: false,
    };
    let pieces: Vec<Vec<u8>> = segments(&packet, &train)
        .expect("a super-packet")
        .map(|piece| {
            let mut out = vec![0; piece.len()];
            assert!(piece.write(&mut out));
            out
        })
        .collect();
    assert_eq!(pieces.len(), SEGMENTS);

    let mut group = criterion.benchmark_group("segment");
    group.throughput(Throughput::Bytes(bytes.len() as u64));

    // As far apart as what ESP puts around them would have them.
    let mut room = vec![0; SEGMENTS * 1500];
    group.bench_function("split", |bencher| {
        bencher.iter(|| {
            let pieces = segments(black_box(&packet), &train).expect("a super-packet");
            for (piece, place) in pieces.zip(room.chunks_mut(1500)) {
                assert!(piece.write(&mut place[20..20 + piece.len()]));
            }
        });
    });

    let mut coalescer = Coalescer::new();
    group.bench_function("coalesce", |bencher| {
        bencher.iter(|| {
            let mut octets = 0;
            for piece in &pieces {
                let packet = Packet::parse(black_box(piece)).expect("a packet");
                coalescer.push(&packet, UdpRuns::Joined, &mut |joined| {
                    octets += joined.octets
                });
            }
            coalescer.flush(&mut |joined| octets += joined.octets);
            octets
        });
    });

    // What both would cost without checksums.
    let mut copy = vec![0; bytes.len()];
    group.bench_function("copy", |bencher| {
        bencher.iter(|| copy.copy_from_slice(black_box(&bytes)));
    });
    group.bench_function("sum", |bencher| {
        bencher.iter(|| Sum::default().plus(black_box(&bytes)).finish());
    });
    group.finish();
}

/// A super-packet of TCP whose checksum is left to the hardware.
fn super_packet() -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ipv4([10, 2, 0, 5], [10, 1, 0, 7], 64)
        .tcp(1000, 80, 1, 500)
        .ack(77)
        .write(&mut bytes, &vec![0x5a; SEGMENTS * usize::from(SIZE)])
        .expect("it fits");
    let length = (bytes.len() - 20) as u32;
    let pseudo = Sum::pseudo_header([10, 2, 0, 5].into(), [10, 1, 0, 7].into(), 6, length);
    let partial = pseudo.expect("one family").fold();
    bytes[36..38].copy_from_slice(&partial.to_be_bytes());
    bytes
}
