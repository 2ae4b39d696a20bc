//! The datapath processes packets without allocation: an in-memory pair of gateways under a counting allocator.
//!
//! ```text
//!   inject ─▶ [ device ─ egress ─▶ socket ───▶ socket ─ ingress ─▶ device ] ─▶ drain        [ ] counted
//! ```
//!
//! Both directions are counted: A seals, B opens.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use groundlink::datapath::loopback::{LoopbackPair, MTU};
use groundlink::net::Time;
use groundlink::net::segment::PacketOffload;
use groundlink::os::{ReceiveOffload, VnetHeader};

#[path = "../benches/common/mod.rs"]
mod common;

/// System allocator that counts the allocations of each thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count_allocation() {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
}

// SAFETY: every call is forwarded to the system allocator; the counter neither allocates nor has a destructor.
#[allow(unsafe_code, reason = "a global allocator")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count_allocation();
        // SAFETY: the caller upholds the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds the contract.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count_allocation();
        // SAFETY: the caller upholds the contract.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Suites: both hashes with multi-buffer kernels, one without, each AES key length, and the AEADs.
const SUITES: &[&str] = &[
    "aes128-sha1",
    "aes192-sha256",
    "aes256-sha256",
    "aes256-sha512",
    "aes128gcm16",
    "aes256gcm16",
    "chacha20poly1305",
];

/// Rounds until every buffer has its final size; the spare buffers of the pair are used in turn.
const WARM_UP: usize = 400;

/// Counted rounds.
const BATCHES: usize = 50;

/// Number of allocations while the pair carries `batch`, after the warm-up.
fn allocations(suite: &str, receiving: ReceiveOffload, batch: &[(VnetHeader, Vec<u8>)]) -> u64 {
    let (outbound, inbound) = common::pair(common::suite(suite));
    let mut pair = LoopbackPair::new(outbound, inbound, receiving).expect("descriptors");
    let mut counted = 0;
    for round in 0..WARM_UP + BATCHES {
        for (vnet, packet) in batch {
            assert!(pair.inject(*vnet, packet));
        }
        let before = ALLOCATIONS.get();
        pair.carry(Time::from_secs(1000));
        if round >= WARM_UP {
            counted += ALLOCATIONS.get() - before;
        }
        assert!(pair.delivered(|_, _| ()) > 0);
    }
    assert_eq!(pair.dropped(), 0);
    counted
}

#[test]
fn the_allocator_counts_allocations() {
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(vec![1_u8; 100]));
    assert_eq!(ALLOCATIONS.get() - before, 1);
}

#[test]
fn packets_of_every_size_are_processed_without_allocation() {
    let sizes = [64, 65, 576, 1328, 1408];
    let batch: Vec<_> = (0..46)
        .map(|n| (VnetHeader::NONE, common::udp(sizes[n % sizes.len()])))
        .collect();
    for suite in SUITES {
        for receiving in [ReceiveOffload::Single, ReceiveOffload::Joined] {
            let counted = allocations(suite, receiving, &batch);
            assert_eq!(counted, 0, "{suite} {receiving:?}");
        }
    }
}

#[test]
fn gso_packets_are_processed_without_allocation() {
    let (gso, bytes) = common::gso_packet(45, MTU - 40);
    let batch = [(PacketOffload::Gso(gso).into(), bytes)];
    for suite in SUITES {
        for receiving in [ReceiveOffload::Single, ReceiveOffload::Joined] {
            let counted = allocations(suite, receiving, &batch);
            assert_eq!(counted, 0, "{suite} {receiving:?}");
        }
    }
}
