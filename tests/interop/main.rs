//! groundlink against real peers, in network namespaces on this machine.
//!
//! Each case is a lab of its own, with its own machines, files and processes, so they run beside each other. They need root (or a
//! user namespace around the whole run) and strongSwan, so `cargo test` alone passes over them; `tests/run` runs them all.

mod lab;

mod agreement;
mod cookies;
mod crossing;
mod fragments;
mod liveness;
mod matrix;
mod multipath;
mod refusals;
mod rekeying;
mod steering;
mod stream;
mod translated;
mod unprivileged;
