//! What the fuzz targets share: a [`FuzzInput`](fuzz_input::FuzzInput) that cuts the fuzzer's bytes into decisions, and the two gateways of the simulation in `tests/sim`, with the wire between
//! them and the rules that must hold at every moment.
//!
//! ```text
//! input ──input──▶ decisions ──▶ target ──▶ pair: A ──wire── B, each step under the eyes of monitor
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
