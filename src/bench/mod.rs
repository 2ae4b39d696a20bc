//! The benchmarks of `groundlink bench`.
//!
//! ```text
//!   bench esp      one core, no network:   seal ─▶ open                            per suite and packet size
//!   bench ike      one core, no network:   handshakes between two engines          per suite
//!   bench tunnel   end to end:             host A ─▶ gateway A ═▶ gateway B ─▶ host B
//! ```
//!
//! Absolute figures are valid for one machine at one time only. Each report therefore begins with the [`MachineInfo`], and figures
//! that are compared come from the same run. `docs/performance.md` explains how to read them.

pub mod esp;
pub mod ike;
mod machine;
mod progress;
pub mod tunnel;

pub use machine::MachineInfo;
