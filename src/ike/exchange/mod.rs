//! The exchanges of IKEv2, one file each: the messages, both roles, and the effect on the IKE SA.
//!
//! `established` passes the messages of an established IKE SA to the exchange that they belong to. The files import from [`sa`](crate::ike::sa), never the
//! other way round.

pub mod auth;
pub mod create_child;
pub mod established;
pub mod followup_ke;
mod informational;
pub mod init;
pub mod init_responder;
pub mod intermediate;
mod outcome;
mod payloads;
mod rekey_child;
pub mod rekey_ike;
