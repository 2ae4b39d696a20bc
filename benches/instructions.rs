//! Instructions per packet: a reproducible measure where time varies from run to run.
//!
//! ```text
//!   this program ─┬─ valgrind --tool=callgrind this program CASE 10 ──▶ instructions: start + 10 rounds
//!                 └─ valgrind --tool=callgrind this program CASE 30 ──▶ instructions: start + 30 rounds      the difference: 20 rounds
//! ```
//!
//! `cargo bench --bench instructions` counts, with valgrind installed; `cargo bench --bench instructions -- seal` only cases whose name
//! fits; `cargo test --benches` runs every case once without valgrind. valgrind's CPU has AES-NI and AVX2 but neither SHA-NI nor
//! VAES, so AES-CBC with HMAC is counted with the kernels for AES-NI and AVX2, which the first line names.

use std::env;
use std::hint::black_box;
use std::process::{Command, ExitCode};

use groundlink::crypto::lanes::Kernel;
use groundlink::datapath::loopback::{LoopbackPair, MTU};
use groundlink::esp::{FramedPacket, OutboundGuard, RxPacket};
use groundlink::net::segment::{Coalescer, PacketOffload, UdpCoalescing, segments};
use groundlink::net::{Packet, Time};
use groundlink::os::ReceiveOffload;

mod common;

/// Suites: CBC with HMAC-SHA1, CBC with HMAC-SHA-256, and the AEADs.
static SUITES: &[&str] = &[
    "aes128-sha1",
    "aes256-sha256",
    "aes128gcm16",
    "chacha20poly1305",
];

/// Packets in a batch, and segments in a GSO packet.
const BATCH: usize = 45;

/// Octets of a packet.
const SIZE: usize = MTU as usize;

/// A kind of case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// A batch of packets, sealed.
    Seal,
    /// A batch of packets, sealed and opened.
    SealAndOpen,
    /// A GSO packet, split into segments.
    Split,
    /// The segments, coalesced again.
    Join,
    /// A GSO packet from device to device, through both gateways.
    Carry,
}

impl What {
    const ALL: [(What, &'static str); 5] = [
        (What::Seal, "seal"),
        (What::SealAndOpen, "seal-and-open"),
        (What::Split, "split"),
        (What::Join, "join"),
        (What::Carry, "carry"),
    ];

    fn needs_suite(self) -> bool {
        match self {
            What::Seal | What::SealAndOpen | What::Carry => true,
            What::Split | What::Join => false,
        }
    }

    /// Runs the case `rounds` times.
    fn run(self, words: &str, rounds: u32) {
        match self {
            What::Seal => seal(words, rounds, &mut |_| ()),
            What::SealAndOpen => {
                let inbound = common::pair(common::suite(words)).1;
                seal(words, rounds, &mut |room| {
                    let mut packets = room.chunks_mut(room.len() / BATCH);
                    let mut arrivals: [RxPacket<'_>; BATCH] =
                        std::array::from_fn(|_| RxPacket::new(packets.next().unwrap_or_default()));
                    inbound.lock().open_all(&mut arrivals);
                    assert!(arrivals.iter().all(|arrival| arrival.inner.is_ok()));
                });
            }
            What::Split => split(rounds),
            What::Join => join(rounds),
            What::Carry => carry(words, rounds),
        }
    }
}

/// The cases: name, kind and suite.
fn cases() -> impl Iterator<Item = (String, What, &'static str)> {
    What::ALL.into_iter().flat_map(|(what, name)| {
        let suites = if what.needs_suite() { SUITES } else { &[""] };
        suites.iter().map(move |words| {
            let name = if words.is_empty() {
                name.to_owned()
            } else {
                format!("{name}/{words}")
            };
            (name, what, *words)
        })
    })
}

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    if let [name, rounds] = &words[..]
        && let Ok(rounds) = rounds.parse()
    {
        // This process runs under valgrind.
        if let Some((_, what, suite)) = cases().find(|(case, ..)| case == name) {
            what.run(suite, rounds);
        } else {
            eprintln!("{}", Kernel::best());
        }
        return ExitCode::SUCCESS;
    }
    if !words.iter().any(|word| word == "--bench") {
        cases().for_each(|(_, what, suite)| what.run(suite, 1));
        return ExitCode::SUCCESS;
    }
    let wanted = words.iter().find(|word| !word.starts_with('-'));
    let wanted = |name: &str| wanted.is_none_or(|word| name.contains(word.as_str()));
    match report(wanted) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// Rounds of the shorter and of the longer run.
const ROUNDS: [u32; 2] = [10, 30];

fn report(wanted: impl Fn(&str) -> bool) -> Result<(), String> {
    let (kernel, _) = under_valgrind("kernel", 0)?;
    println!("AES-CBC and HMAC: {}", kernel.trim());
    println!("{BATCH} packets of {SIZE} bytes a round\n");
    println!("{:<32}{:>16}{:>14}", "", "a packet", "a byte");
    for (name, ..) in cases().filter(|(name, ..)| wanted(name)) {
        let [few, many] = ROUNDS.map(|rounds| under_valgrind(&name, rounds));
        let rounds = f64::from(ROUNDS[1] - ROUNDS[0]);
        let packets = rounds * BATCH as f64;
        let instructions = (many?.1 - few?.1) as f64;
        println!(
            "{name:<32}{:>16.1}{:>14.3}",
            instructions / packets,
            instructions / packets / SIZE as f64
        );
    }
    Ok(())
}

/// The output of a case and the number of its instructions.
fn under_valgrind(case: &str, rounds: u32) -> Result<(String, u64), String> {
    let program = env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args([case, &rounds.to_string()])
        .output()
        .map_err(|error| format!("valgrind: {error} (apt install valgrind)"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let own = said.lines().filter(|line| !line.starts_with("=="));
    let own: String = own.collect();
    let collected = said
        .lines()
        .find_map(|line| line.split_once("Collected : "))
        .and_then(|(_, count)| count.trim().parse().ok());
    match collected {
        Some(count) if output.status.success() => Ok((own, count)),
        Some(_) | None => Err(format!("{case}: {said}")),
    }
}

/// Seals batches like the datapath: packets are framed until the lanes are full, then sealed.
fn seal(words: &str, rounds: u32, then: &mut dyn FnMut(&mut [u8])) {
    let outbound = common::pair(common::suite(words)).0;
    let inner = common::udp(SIZE);
    let len = outbound.padded_len(SIZE, usize::MAX);
    let mut room = vec![0; len * BATCH];
    let mut laid: Vec<FramedPacket> = Vec::with_capacity(OutboundGuard::GROUP);
    for _ in 0..rounds {
        let packet = Packet::parse(black_box(&inner)).expect("a packet");
        let mut sealing = outbound.lock();
        for room in room.chunks_mut(len * OutboundGuard::GROUP) {
            laid.clear();
            for place in room.chunks_mut(len) {
                place[outbound.payload(packet.len())].copy_from_slice(packet.bytes());
                let one = sealing.frame(&packet, packet.len(), place);
                laid.push(one.expect("room enough"));
            }
            sealing.seal_all(&laid, room).expect("they fill the room");
        }
        then(black_box(&mut room));
    }
}

/// Octets of payload in a segment.
const SEGMENT: u16 = MTU - 40;

fn split(rounds: u32) {
    let (gso, bytes) = common::gso_packet(BATCH, SEGMENT);
    let packet = Packet::parse(&bytes).expect("a packet");
    let mut room = vec![0; BATCH * SIZE];
    for _ in 0..rounds {
        let pieces = segments(black_box(&packet), &gso).expect("a GSO packet");
        for (piece, place) in pieces.zip(room.chunks_mut(SIZE)) {
            assert!(piece.write(&mut place[..piece.len()]));
        }
        black_box(&mut room);
    }
}

fn join(rounds: u32) {
    let (gso, bytes) = common::gso_packet(BATCH, SEGMENT);
    let packet = Packet::parse(&bytes).expect("a packet");
    let mut room = vec![0; BATCH * SIZE];
    let pieces = segments(&packet, &gso).expect("a GSO packet");
    for (piece, place) in pieces.zip(room.chunks_mut(SIZE)) {
        assert!(piece.write(place));
    }
    let mut coalescer = Coalescer::new();
    for _ in 0..rounds {
        let mut count = 0;
        for piece in black_box(&room).chunks(SIZE) {
            let packet = Packet::parse(piece).expect("a packet");
            coalescer.push(&packet, UdpCoalescing::Coalesced, &mut |_| count += 1);
        }
        coalescer.flush(&mut |_| count += 1);
        assert_eq!(count, 1);
    }
}

fn carry(words: &str, rounds: u32) {
    let (outbound, inbound) = common::pair(common::suite(words));
    let mut pair =
        LoopbackPair::new(outbound, inbound, ReceiveOffload::Joined).expect("descriptors");
    let (gso, bytes) = common::gso_packet(BATCH, SEGMENT);
    for _ in 0..rounds {
        assert!(pair.inject(PacketOffload::Gso(gso).into(), &bytes));
        pair.carry(Time::from_secs(1000));
        assert_eq!(pair.delivered(|_, _| ()), 1);
    }
    assert_eq!(pair.dropped(), 0);
}
