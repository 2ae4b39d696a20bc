//! No packet costs an allocation: the datapath over in-memory pair, under an allocator that counts.
//!
//! ```text
//!   inject ─▶ [ device ─ egress ─▶ socket ───▶ socket ─ ingress ─▶ device ] ─▶ drain        [ ] is counted
//! ```
//!
//! Both directions are in it: A seals what B opens.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use groundlink::datapath::loopback::{LoopbackPair, MTU};
use groundlink::net::Time;
use groundlink::net::segment::PacketOffload;
use groundlink::os::{ReceiveOffload, VnetHeader};

#[path = "../benches/common/mod.rs"]
mod common;

/// The system's allocator, which counts what each thread asks it for.
struct Counting;

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    ASKED.set(ASKED.get() + 1);
}

// SAFETY: the system's allocator does everything; the counter neither allocates nor has a destructor.
#[allow(unsafe_code, reason = "an allocator of one's own")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is handed on.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is handed on.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Every kind of suite: both hashes in lanes, a hash without, each length of AES, and the AEADs.
const SUITES: &[&str] = &[
    "aes128-sha1",
    "aes192-sha256",
    "aes256-sha256",
    "aes256-sha512",
    "aes128gcm16",
    "aes256gcm16",
    "chacha20poly1305",
];

/// Until every buffer has found its size: the pair' own spare ones are handed around in turn.
const WARM_UP: usize = 400;

const BATCHES: usize = 50;

/// What allocates while `batch` is carried, after a warm-up.
fn allocations(words: &str, receiving: ReceiveOffload, batch: &[(VnetHeader, Vec<u8>)]) -> u64 {
    let (outbound, inbound) = common::pair(common::suite(words));
    let mut pair = LoopbackPair::new(outbound, inbound, receiving).expect("descriptors");
    let mut asked = 0;
    for round in 0..WARM_UP + BATCHES {
        for (vnet, packet) in batch {
            assert!(pair.inject(*vnet, packet));
        }
        let before = ASKED.get();
        pair.carry(Time::from_secs(1000));
        if round >= WARM_UP {
            asked += ASKED.get() - before;
        }
        assert!(pair.delivered(|_, _| ()) > 0);
    }
    assert_eq!(pair.dropped(), 0);
    asked
}

#[test]
fn the_allocator_counts() {
    let before = ASKED.get();
    drop(std::hint::black_box(vec![1_u8; 100]));
    assert_eq!(ASKED.get() - before, 1);
}

#[test]
fn packets_of_every_size_cost_no_allocation() {
    let sizes = [64, 65, 576, 1328, 1408];
    let batch: Vec<_> = (0..46)
        .map(|n| (VnetHeader::NONE, common::udp(sizes[n % sizes.len()])))
        .collect();
    for words in SUITES {
        for receiving in [ReceiveOffload::Single, ReceiveOffload::Joined] {
            let asked = allocations(words, receiving, &batch);
            assert_eq!(asked, 0, "{words} {receiving:?}");
        }
    }
}

#[test]
fn gso_packets_cost_no_allocation() {
    let (gso, bytes) = common::gso_packet(45, MTU - 40);
    let batch = [(PacketOffload::Gso(gso).into(), bytes)];
    for words in SUITES {
        for receiving in [ReceiveOffload::Single, ReceiveOffload::Joined] {
            let asked = allocations(words, receiving, &batch);
            assert_eq!(asked, 0, "{words} {receiving:?}");
        }
    }
}
