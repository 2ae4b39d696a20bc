//! The exchanges of IKEv2, one file each, both roles side by side.

pub mod auth;
pub mod create_child;
pub mod followup;
pub mod informational;
pub mod init;
pub mod intermediate;
mod proof;
pub mod rekey_ike;
