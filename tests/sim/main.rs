//! The IKE engine without a network: two endpoints, a clock that jumps, and a wire that loses, delays, duplicates and reorders as the test says.

mod fragments;
mod handshake;
mod hostile;
mod insider;
mod lifecycle;
mod pair;
mod recovery;
mod rogue;
