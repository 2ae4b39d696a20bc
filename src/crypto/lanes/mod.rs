//! Multi-buffer encryption: several packets of a batch encrypted and authenticated at once on one core.
//!
//! CBC encryption and a hash are chains: each block needs the result of the block before. The CPU's units for AES and SHA could start
//! a new instruction almost every cycle, but idle while a chain waits. Packets are independent of each other, so a kernel interleaves
//! blocks of several packets, one lane for each packet:
//!
//! ```text
//!             one packet at a time                     lanes
//!   unit   P1.b1 ····· P1.b2 ····· P1.b3      P1.b1 P2.b1 P3.b1 … P8.b1 P1.b2 P2.b2 …
//!                 idle        idle                    never idle
//! ```
//!
//! Packets of different lengths share a kernel: when a packet ends, the next one of the batch takes its lane.
//!
//! ```text
//!   [BatchSealer] ──▶ cbc::CbcEncryptor ──▶ vaes ×16 │ aes-ni ×8 │ portable
//!        └──────────▶ hmac::BatchHmac ────▶ sha-ni ×4 │ avx2 ×8 │ portable
//!   [BatchOpener] ──▶ hmac::BatchHmac, then cbc::CbcDecryptor: the blocks of one packet are independent
//! ```
//!
//! [`Kernel`] selects the instructions by what the CPU has and computes correctly. The portable kernel is the reference, built on the block functions of the
//! `aes`, `sha1` and `sha2` crates; every other kernel is tested against it. Other processors than x86-64 have only the portable
//! kernel, and the feature `portable` leaves the others out, so that an x86-64 machine can test what those processors run.
//!
//! Speed on one core of a Zen 3 (48 packets of 1408 bytes, Gbit/s, best of 3,000 on a shared machine):
//!
//! | unit | HMAC-SHA1 | HMAC-SHA-256 | AES-128-CBC encrypt / decrypt |
//! |---|---|---|---|
//! | sha-ni ×2 | 18.7 | 17.9 | |
//! | sha-ni ×4 | 26.1 | 20.2 | |
//! | avx2 ×8 | 21.4 | 11.1 | |
//! | `sha1` and `sha2` crates, one message at a time (with SHA-NI where the CPU has it) | 12.4 | 10.2 | |
//! | aes-ni ×8 | | | 57 / 66 |
//! | vaes ×16 | | | 96 / 108 |
//!
//! SHA-NI: SHA1RNDS4 can start every second cycle and takes six, so two lanes leave the unit idle. Four lanes are faster than two,
//! although their words no longer fit the registers; three lanes reach 23.0. AVX2 serves CPUs without SHA-NI: it is slower on this
//! CPU, and its eight lanes need eight packets.
//!
//! Stitching (the AES rounds of one group of packets between the SHA rounds of the group before) is slower. Kernels alone, 48 buffers
//! of 1408 bytes, one run on that CPU:
//!
//! | design | Gbit/s |
//! |---|---|
//! | VAES ×16, then SHA-NI ×4 (as here) | 26.2 |
//! | AES-NI ×8, then SHA-NI ×4 | 23.0 |
//! | stitched: eight lanes of AES-NI, four of SHA-NI | 13.4 |
//! | stitched: four and four | 12.4 |
//! | stitched: eight and two | 10.9 |
//!
//! Four lanes of SHA-1 fill the sixteen registers; with AES between them about 300 moves a block go to the stack and back. VAES
//! between them is slower still: SHA-NI has no VEX form, and the SHA rounds alone, compiled among VEX-encoded instructions, drop from
//! 34 to 12 Gbit/s.

pub mod cbc;
mod esp;
pub mod hmac;
mod kernel;
mod scheduler;
mod selection;
#[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
mod x86;

#[cfg(test)]
mod tests;

pub use esp::{BatchOpener, BatchSealer, MAX_LANES, OpenJob, SealJob};
pub use kernel::Kernel;
