//! Keys in Wireshark's own table files, which lie in its profile folder under these names.
//!
//! ```text
//! ikev2_decryption_table   SPIi,SPIr,SK_ei,SK_er,"cipher",SK_ai,SK_ar,"integrity"
//! esp_sa                   "IPv4","from","to","SPI","cipher","key","integrity","key"[,"32-bit|64-bit","upper half"]
//! ```
//!
//! A line is a row, `#` begins a comment. What Wireshark knows and groundlink does not run (AES-CTR, an ICV cut short) is kept as a
//! row that opens nothing and says why.

mod algorithms;
mod esp;
mod ike;
mod row;

pub(super) use esp::EspKeyRow;
pub use esp::EspKeys;
pub(super) use ike::IkeKeyRow;
pub use ike::IkeKeys;

/// The most rows of a table that are read.
pub const MAX_ROWS: usize = 100_000;

/// A table that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct KeyTableError {
    /// Which line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}
