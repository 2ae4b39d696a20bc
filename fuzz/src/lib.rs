//! Shared code of the fuzz targets: a [`FuzzInput`](fuzz_input::FuzzInput) that turns bytes into decisions, and the simulation of
//! `tests/sim`: two gateways, the network between them and the invariants.
//!
//! ```text
//! input ──input──▶ decisions ──▶ target ──▶ pair: A ──wire── B, each step checked by monitor
//! ```

pub mod fuzz_input;

#[path = "../../tests/sim/esp.rs"]
pub mod esp;
#[path = "../../tests/sim/keys.rs"]
pub mod keys;
#[path = "../../tests/sim/monitor.rs"]
pub mod monitor;
#[path = "../../tests/sim/node.rs"]
pub mod node;
#[path = "../../tests/sim/pair.rs"]
pub mod pair;
#[path = "../../tests/sim/script.rs"]
pub mod script;
#[path = "../../tests/sim/scripted_peer.rs"]
pub mod scripted_peer;
#[path = "../../tests/sim/wire.rs"]
pub mod wire;

// Overflow checks have no `cfg` of their own; the profile in Cargo.toml sets both.
const _: () = assert!(
    cfg!(debug_assertions),
    "fuzzing without debug assertions finds half of it"
);
