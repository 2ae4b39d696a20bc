//! The benches behind `groundlink bench`: what this machine makes of the program.
//!
//! ```text
//!   bench esp      one core, no network:   seal ─▶ open            per suite and packet size
//!   bench ike      one core, no network:   two engines shake hands         per suite
//!   bench tunnel   the whole way:          host A ─▶ gateway A ═▶ gateway B ─▶ host B
//! ```
//!
//! Absolute figures belong to one machine and one moment; each report therefore begins with the [`MachineInfo`], and what is compared is
//! measured in one run. `docs/performance.md` says how to read them.

pub mod esp;
pub mod ike;
mod machine;
mod progress;
pub mod tunnel;

pub use machine::MachineInfo;
pub use progress::Progress;
