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

/// Kind of case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    /// A batch of packets, sealed.
    Seal,
    /// A batch of packets, sealed and opened.
    SealAndOpen,
    /// A GSO packet, split into segments.
    Split,
    /// The segments, coalesced again.
    Coalesce,
    /// A GSO packet from device to device, through both gateways.
    Carry,
}

impl Case {
    const ALL: [(Case, &'static str); 5] = [
        (Case::Seal, "seal"),
        (Case::SealAndOpen, "seal-and-open"),
        (Case::Split, "split"),
        (Case::Coalesce, "coalesce"),
        (Case::Carry, "carry"),
    ];

    fn needs_suite(self) -> bool {
        match self {
            Case::Seal | Case::SealAndOpen | Case::Carry => true,
            Case::Split | Case::Coalesce => false,
        }
    }

    /// Runs the case `rounds` times.
    fn run(self, proposal: &str, rounds: u32) {
        match self {
            Case::Seal => seal(proposal, rounds, &mut |_| ()),
            Case::SealAndOpen => {
                let inbound = common::pair(common::suite(proposal)).1;
                seal(proposal, rounds, &mut |buffer| {
                    let mut chunks = buffer.chunks_mut(buffer.len() / BATCH);
                    let mut packets: [RxPacket<'_>; BATCH] =
                        std::array::from_fn(|_| RxPacket::new(chunks.next().unwrap_or_default()));
                    inbound.lock().open_all(&mut packets);
                    assert!(packets.iter().all(|packet| packet.inner.is_ok()));
                });
            }
            Case::Split => split(rounds),
            Case::Coalesce => coalesce(rounds),
            Case::Carry => carry(proposal, rounds),
        }
    }
}

/// Cases: name, kind and suite.
fn cases() -> impl Iterator<Item = (String, Case, &'static str)> {
    Case::ALL.into_iter().flat_map(|(case, name)| {
        let suites = if case.needs_suite() { SUITES } else { &[""] };
        suites.iter().map(move |proposal| {
            let name = if proposal.is_empty() {
                name.to_owned()
            } else {
                format!("{name}/{proposal}")
            };
            (name, case, *proposal)
        })
    })
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    if let [name, rounds] = &args[..]
        && let Ok(rounds) = rounds.parse()
    {
        // This process runs under valgrind.
        if let Some((_, case, suite)) = cases().find(|(full_name, ..)| full_name == name) {
            case.run(suite, rounds);
        } else {
            eprintln!("{}", Kernel::best());
        }
        return ExitCode::SUCCESS;
    }
    if !args.iter().any(|arg| arg == "--bench") {
        cases().for_each(|(_, case, suite)| case.run(suite, 1));
        return ExitCode::SUCCESS;
    }
    let filter = args.iter().find(|arg| !arg.starts_with('-'));
    let wanted = |name: &str| filter.is_none_or(|filter| name.contains(filter.as_str()));
    match report(wanted) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Rounds of the shorter and of the longer run.
const ROUNDS: [u32; 2] = [10, 30];

fn report(wanted: impl Fn(&str) -> bool) -> Result<(), String> {
    let (kernel, _) = under_valgrind("kernel", 0)?;
    println!("AES-CBC and HMAC: {}", kernel.trim());
    println!("{BATCH} packets of {SIZE} bytes per round\n");
    println!("{:<32}{:>16}{:>14}", "", "per packet", "per byte");
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
    let stderr = String::from_utf8_lossy(&output.stderr);
    let own = stderr.lines().filter(|line| !line.starts_with("=="));
    let own: String = own.collect();
    let collected = stderr
        .lines()
        .find_map(|line| line.split_once("Collected : "))
        .and_then(|(_, count)| count.trim().parse().ok());
    match collected {
        Some(count) if output.status.success() => Ok((own, count)),
        Some(_) | None => Err(format!("{case}: {stderr}")),
    }
}

/// Seals batches like the datapath: packets are framed until the lanes are full, then sealed.
fn seal(proposal: &str, rounds: u32, on_batch: &mut dyn FnMut(&mut [u8])) {
    let outbound = common::pair(common::suite(proposal)).0;
    let inner = common::udp(SIZE);
    let len = outbound.padded_len(SIZE, usize::MAX);
    let mut buffer = vec![0; len * BATCH];
    let mut framed: Vec<FramedPacket> = Vec::with_capacity(OutboundGuard::GROUP);
    for _ in 0..rounds {
        let packet = Packet::parse(black_box(&inner)).expect("a packet");
        let mut guard = outbound.lock();
        for buffer in buffer.chunks_mut(len * OutboundGuard::GROUP) {
            framed.clear();
            for slot in buffer.chunks_mut(len) {
                slot[outbound.payload(packet.len())].copy_from_slice(packet.bytes());
                let one = guard.frame(&packet, packet.len(), slot);
                framed.push(one.expect("enough room"));
            }
            guard
                .seal_all(&framed, buffer)
                .expect("the packets fill the buffer");
        }
        on_batch(black_box(&mut buffer));
    }
}

/// Octets of payload in a segment.
const SEGMENT: u16 = MTU - 40;

fn split(rounds: u32) {
    let (gso, bytes) = common::gso_packet(BATCH, SEGMENT);
    let packet = Packet::parse(&bytes).expect("a packet");
    let mut buffer = vec![0; BATCH * SIZE];
    for _ in 0..rounds {
        let segments = segments(black_box(&packet), &gso).expect("a GSO packet");
        for (segment, slot) in segments.zip(buffer.chunks_mut(SIZE)) {
            assert!(segment.write(&mut slot[..segment.len()]));
        }
        black_box(&mut buffer);
    }
}

fn coalesce(rounds: u32) {
    let (gso, bytes) = common::gso_packet(BATCH, SEGMENT);
    let packet = Packet::parse(&bytes).expect("a packet");
    let mut buffer = vec![0; BATCH * SIZE];
    let segments = segments(&packet, &gso).expect("a GSO packet");
    for (segment, slot) in segments.zip(buffer.chunks_mut(SIZE)) {
        assert!(segment.write(slot));
    }
    let mut coalescer = Coalescer::new();
    for _ in 0..rounds {
        let mut count = 0;
        for segment in black_box(&buffer).chunks(SIZE) {
            let packet = Packet::parse(segment).expect("a packet");
            coalescer.push(&packet, UdpCoalescing::Coalesced, &mut |_| count += 1);
        }
        coalescer.flush(&mut |_| count += 1);
        assert_eq!(count, 1);
    }
}

fn carry(proposal: &str, rounds: u32) {
    let (outbound, inbound) = common::pair(common::suite(proposal));
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
