//! groundlink against real peers, in network namespaces on this machine.
//!
//! Each case is a lab of its own, with its own machines, files and processes, so they run beside each other. They need root (or a
//! user namespace around the whole run) and strongSwan, so `cargo test` alone passes over them; `tests/run` runs them all.

mod fast;
mod lab;
mod stream;
#[path = "../common/wait.rs"]
mod wait;

mod agreement;
mod changing_path;
mod children;
mod cookies;
mod flood;
mod fragments;
mod liveness;
mod lossy;
mod many;
mod matrix;
mod multipath;
mod nat;
mod native;
mod post_quantum;
mod reauthentication;
mod rebinding;
mod refusals;
mod rekeying;
mod routing;
mod short_lives;
mod simultaneous_initiation;
mod unprivileged;
