//! ESP: packets sealed and opened by an SA, by suite, number of packets in a batch and packet size.
//!
//! `cargo bench --bench esp` measures; `cargo bench --bench esp -- gcm16/46x1408` only cases whose name fits; `cargo test
//! --benches` runs every case once.

use std::hint::black_box;
use std::time::Duration;

use criterion::{
    BatchSize, BenchmarkGroup, BenchmarkId, Criterion, Throughput, measurement::WallTime,
};
use groundlink::crypto::EspSuite;
use groundlink::esp::{FramedPacket, Outbound, OutboundGuard, RxPacket};
use groundlink::net::Packet;

mod common;

use common::{pair, suite, udp};

/// Suites: two CBC suites with multi-buffer kernels, one without, and the AEADs.
static SUITES: &[&str] = &[
    "aes128-sha1",
    "aes256-sha256",
    "aes256-sha384",
    "aes128gcm16",
    "aes256gcm16",
    "chacha20poly1305",
];

/// Octets of the inner packet: a TCP acknowledgement, a medium packet, and the largest that every cloud accepts.
static SIZES: &[usize] = &[64, 512, 1408];

/// Packets in a batch: one, two, the lanes of a narrow kernel, and the segments of a GSO packet of 64 KiB.
static FILLS: &[usize] = &[1, 2, 8, 46];

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .configure_from_args();
    for (name, case) in [("seal", seal as Case), ("open", open)] {
        let mut group = criterion.benchmark_group(name);
        for words in SUITES {
            for size in SIZES {
                for fill in FILLS {
                    group.throughput(Throughput::Bytes((fill * size) as u64));
                    let id = BenchmarkId::new(*words, format!("{fill}x{size}"));
                    case(&mut group, id, &mut Batch::new(suite(words), *fill, *size));
                }
            }
        }
        group.finish();
    }
    criterion.final_summary();
}

type Case = fn(&mut BenchmarkGroup<'_, WallTime>, BenchmarkId, &mut Batch);

/// A batch of equal packets, next to each other when sealed.
struct Batch {
    outbound: Outbound,
    inner: Vec<u8>,
    fill: usize,
    /// Octets of an ESP packet.
    len: usize,
    laid: Vec<FramedPacket>,
}

impl Batch {
    fn new(suite: EspSuite, fill: usize, size: usize) -> Batch {
        let (outbound, _) = pair(suite);
        let len = outbound.padded_len(size, usize::MAX);
        Batch {
            outbound,
            inner: udp(size),
            fill,
            len,
            laid: Vec::with_capacity(OutboundGuard::GROUP),
        }
    }

    fn room(&self) -> Vec<u8> {
        vec![0; self.len * self.fill]
    }

    /// Seals like the datapath: packets are framed until the lanes are full, then sealed.
    fn seal(&mut self, room: &mut [u8]) {
        let packet = Packet::parse(black_box(&self.inner)).expect("a packet");
        let mut sealing = self.outbound.lock();
        for room in room.chunks_mut(self.len * OutboundGuard::GROUP) {
            self.laid.clear();
            for place in room.chunks_mut(self.len) {
                place[self.outbound.payload(packet.len())].copy_from_slice(packet.bytes());
                let laid = sealing.frame(&packet, packet.len(), place);
                self.laid.push(laid.expect("room enough"));
            }
            let sealed = sealing.seal_all(&self.laid, room);
            sealed.expect("they fill the room");
        }
    }
}

fn seal(group: &mut BenchmarkGroup<'_, WallTime>, id: BenchmarkId, batch: &mut Batch) {
    let mut room = batch.room();
    group.bench_function(id, |bencher| bencher.iter(|| batch.seal(&mut room)));
}

/// A sequence number opens once, so each round opens fresh packets, sealed outside the measured time.
fn open(group: &mut BenchmarkGroup<'_, WallTime>, id: BenchmarkId, batch: &mut Batch) {
    let (fill, len) = (batch.fill, batch.len);
    let inbound = pair(batch.outbound.suite()).1;
    group.bench_function(id, |bencher| {
        bencher.iter_batched_ref(
            || {
                let mut room = batch.room();
                batch.seal(&mut room);
                room
            },
            |room| {
                let mut packets = room.chunks_mut(len);
                let mut arrivals: [RxPacket<'_>; 46] =
                    std::array::from_fn(|_| RxPacket::new(packets.next().unwrap_or_default()));
                let arrivals = &mut arrivals[..fill];
                inbound.lock().open_all(arrivals);
                assert!(arrivals.iter().all(|arrival| arrival.inner.is_ok()));
            },
            BatchSize::SmallInput,
        );
    });
}
