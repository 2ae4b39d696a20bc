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

/// Octets of the inner packet: a TCP acknowledgement, a medium packet, and the largest that fits the MTU of every cloud.
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
        for proposal in SUITES {
            for size in SIZES {
                for fill in FILLS {
                    group.throughput(Throughput::Bytes((fill * size) as u64));
                    let id = BenchmarkId::new(*proposal, format!("{fill}x{size}"));
                    case(
                        &mut group,
                        id,
                        &mut Batch::new(suite(proposal), *fill, *size),
                    );
                }
            }
        }
        group.finish();
    }
    criterion.final_summary();
}

type Case = fn(&mut BenchmarkGroup<'_, WallTime>, BenchmarkId, &mut Batch);

/// Batch of equal packets, contiguous when sealed.
struct Batch {
    outbound: Outbound,
    inner: Vec<u8>,
    fill: usize,
    /// Octets of an ESP packet.
    len: usize,
    framed: Vec<FramedPacket>,
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
            framed: Vec::with_capacity(OutboundGuard::GROUP),
        }
    }

    fn buffer(&self) -> Vec<u8> {
        vec![0; self.len * self.fill]
    }

    /// Seals like the datapath: packets are framed until the lanes are full, then sealed.
    fn seal(&mut self, buffer: &mut [u8]) {
        let packet = Packet::parse(black_box(&self.inner)).expect("a packet");
        let mut guard = self.outbound.lock();
        for buffer in buffer.chunks_mut(self.len * OutboundGuard::GROUP) {
            self.framed.clear();
            for slot in buffer.chunks_mut(self.len) {
                slot[self.outbound.payload(packet.len())].copy_from_slice(packet.bytes());
                let framed = guard.frame(&packet, packet.len(), slot);
                self.framed.push(framed.expect("enough room"));
            }
            let sealed = guard.seal_all(&self.framed, buffer);
            sealed.expect("the packets fill the buffer");
        }
    }
}

fn seal(group: &mut BenchmarkGroup<'_, WallTime>, id: BenchmarkId, batch: &mut Batch) {
    let mut buffer = batch.buffer();
    group.bench_function(id, |bencher| bencher.iter(|| batch.seal(&mut buffer)));
}

/// A sequence number opens once, so each round opens fresh packets, sealed outside the measured time.
fn open(group: &mut BenchmarkGroup<'_, WallTime>, id: BenchmarkId, batch: &mut Batch) {
    let (fill, len) = (batch.fill, batch.len);
    let inbound = pair(batch.outbound.suite()).1;
    group.bench_function(id, |bencher| {
        bencher.iter_batched_ref(
            || {
                let mut buffer = batch.buffer();
                batch.seal(&mut buffer);
                buffer
            },
            |buffer| {
                let mut chunks = buffer.chunks_mut(len);
                let mut packets: [RxPacket<'_>; 46] =
                    std::array::from_fn(|_| RxPacket::new(chunks.next().unwrap_or_default()));
                let packets = &mut packets[..fill];
                inbound.lock().open_all(packets);
                assert!(packets.iter().all(|packet| packet.inner.is_ok()));
            },
            BatchSize::SmallInput,
        );
    });
}
