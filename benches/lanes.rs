//! Multi-buffer kernels: AES-CBC, HMAC and batches of ESP packets, with every kernel of this CPU.
//!
//! `cargo bench --bench lanes` measures; `cargo bench --bench lanes -- '46x1408'` only cases whose name fits; `cargo test
//! --benches` runs every case once.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use groundlink::crypto::lanes::cbc::{CbcDecryptor, CbcEncryptor, CbcJob};
use groundlink::crypto::lanes::hmac::{BatchHmac, HmacJob};
use groundlink::crypto::lanes::{BatchOpener, BatchSealer, Kernel, OpenJob, SealJob};
use groundlink::crypto::{
    EspProposal, OpenError, Protection, SaKeys, Secret, encryption, integrity,
};

/// Packets in a batch.
static FILLS: &[usize] = &[1, 2, 8, 46];

/// Bytes of a packet.
static SIZES: &[usize] = &[64, 512, 1408];

/// Suites with multi-buffer kernels.
static SUITES: &[&str] = &["aes128-sha1", "aes256-sha256"];

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    for fill in FILLS {
        for size in SIZES {
            for kernel in Kernel::all() {
                cbc(&mut criterion, kernel, *fill, *size);
                hmac(&mut criterion, kernel, *fill, *size);
                for proposal in SUITES {
                    let proposal = EspProposal::parse(proposal).expect("known proposal");
                    let suite = proposal.0.first().expect("one suite");
                    esp(&mut criterion, kernel, suite.protection, *fill, *size);
                }
            }
        }
    }
    criterion.final_summary();
}

fn measure(
    criterion: &mut Criterion,
    what: &str,
    kernel: Kernel,
    (fill, size): (usize, usize),
    run: &mut dyn FnMut(),
) {
    let mut group = criterion.benchmark_group(what);
    group.throughput(Throughput::Bytes((fill * size) as u64));
    group.bench_function(
        BenchmarkId::new(kernel.to_string(), format!("{fill}x{size}")),
        |bencher| {
            bencher.iter(&mut *run);
        },
    );
    group.finish();
}

/// Encryption of a batch, and decryption of one packet at a time.
fn cbc(criterion: &mut Criterion, kernel: Kernel, fill: usize, size: usize) {
    let row = encryption(12, Some(128)).expect("AES-128-CBC");
    let encryptor = CbcEncryptor::new(kernel, row, &[1; 16]).expect("a key");
    let decryptor = CbcDecryptor::new(kernel, row, &[1; 16]).expect("a key");
    let mut texts = vec![vec![0; size]; fill];
    measure(
        criterion,
        "aes128-cbc encrypt",
        kernel,
        (fill, size),
        &mut || {
            let mut lanes: [CbcJob<'_>; 46] = std::array::from_fn(|_| CbcJob::default());
            for (lane, text) in lanes.iter_mut().zip(&mut texts) {
                lane.text = text;
            }
            encryptor.encrypt(&mut lanes[..fill]).expect("whole blocks");
        },
    );
    measure(
        criterion,
        "aes128-cbc decrypt",
        kernel,
        (fill, size),
        &mut || {
            for text in &mut texts {
                decryptor.decrypt(&[0; 16], text).expect("whole blocks");
            }
        },
    );
}

fn hmac(criterion: &mut Criterion, kernel: Kernel, fill: usize, size: usize) {
    let texts = vec![vec![0; size]; fill];
    for (what, row) in [("hmac-sha1", integrity(2)), ("hmac-sha256", integrity(12))] {
        let hmac = BatchHmac::new(kernel, row.expect("known"), &[1; 20]).expect("lanes");
        measure(criterion, what, kernel, (fill, size), &mut || {
            let mut messages = [HmacJob::default(); 46];
            for (message, text) in messages.iter_mut().zip(&texts) {
                message.bytes = text;
            }
            hmac.authenticate(&mut messages[..fill]);
            std::hint::black_box(&messages);
        });
    }
}

/// Batches of ESP packets, sealed and opened.
fn esp(
    criterion: &mut Criterion,
    kernel: Kernel,
    protection: Protection,
    fill: usize,
    size: usize,
) {
    let keys = SaKeys {
        encryption: Secret::new(vec![1; protection.encryption_key_len()]),
        integrity: Secret::new(vec![2; protection.integrity_key_len()]),
    };
    let sealer = BatchSealer::new(kernel, protection, &keys, &[3; 16].into()).expect("keys");
    let sealer = sealer.expect("lanes");
    let mut packets = vec![vec![0; 8 + 16 + size + protection.icv_len()]; fill];
    measure(
        criterion,
        &format!("seal {protection}"),
        kernel,
        (fill, size),
        &mut || {
            let mut batch: Vec<_> = packets
                .iter_mut()
                .zip(1..)
                .map(|(bytes, counter)| SealJob {
                    bytes,
                    counter,
                    esn_high: None,
                })
                .collect();
            sealer.seal(&mut batch).expect("room");
        },
    );

    // Opening overwrites the packet, so each round opens copies; copying is part of the measured time.
    let opener = BatchOpener::new(kernel, protection, &keys).expect("keys");
    let opener = opener.expect("lanes");
    let mut copies = packets.clone();
    measure(
        criterion,
        &format!("copy and open {protection}"),
        kernel,
        (fill, size),
        &mut || {
            let mut batch: Vec<_> = copies
                .iter_mut()
                .zip(&packets)
                .map(|(bytes, packet)| {
                    bytes.copy_from_slice(packet);
                    OpenJob {
                        bytes,
                        esn_high: None,
                        plaintext: Err(OpenError::TooShort),
                    }
                })
                .collect();
            opener.open(&mut batch);
            assert!(batch.iter().all(|packet| packet.plaintext.is_ok()));
        },
    );
}
