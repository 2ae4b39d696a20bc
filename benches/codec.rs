//! Codec of IKE messages: parsing and encoding of messages sent by strongSwan.
//!
//! `cargo bench --bench codec` measures; `cargo test --benches` runs every case once.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use groundlink::wire::Message;

/// The IKE_SA_INIT messages, which are parsed before the peer is authenticated.
static MESSAGES: &[(&str, &str)] = &[
    (
        "IKE_SA_INIT request",
        include_str!("../tests/vectors/charon/ike_sa_init_request.hex"),
    ),
    (
        "IKE_SA_INIT response",
        include_str!("../tests/vectors/charon/ike_sa_init_response.hex"),
    ),
];

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    codec(&mut criterion);
    criterion.final_summary();
}

fn codec(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    for (name, hex) in MESSAGES {
        let octets = octets(hex);
        let message = Message::parse(&octets).expect("a message of charon");
        assert_eq!(message.encode().expect("it fits"), octets);
        group.throughput(Throughput::Bytes(octets.len() as u64));
        group.bench_function(format!("parse {name}"), |bencher| {
            bencher.iter(|| Message::parse(black_box(&octets)));
        });
        group.bench_function(format!("encode {name}"), |bencher| {
            bencher.iter(|| black_box(&message).encode());
        });
    }
    group.finish();
}

/// The octets of a file of hex digits with `#` comments.
fn octets(file: &str) -> Vec<u8> {
    let digits: Vec<u8> = file
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(str::bytes)
        .filter_map(|digit| char::from(digit).to_digit(16))
        .map(|digit| digit as u8)
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}
