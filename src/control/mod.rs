//! Control socket: HTTP/1.1 and JSON over a unix socket, usable with `groundlink status` and with `curl --unix-socket`.
//!
//! ```text
//!   groundlink up ali-1 ──client──▶ socket ──server──▶ RequestSender ──(bounded)──▶ daemon loop
//!   curl                ◀───────── JSON    ◀───────── ApiReply ◀──(oneshot)─────────┘
//! ```
//!
//! | request | effect |
//! |---|---|
//! | `GET /v1/status` | the whole [`crate::status::Snapshot`] |
//! | `GET /v1/tunnels/NAME` | one [`crate::status::TunnelStatus`] |
//! | `POST /v1/tunnels/NAME/up`, `down`, `reset` | starts the operation and answers with that tunnel |
//! | `POST /v1/tunnels/NAME/rekey`, `rekey?ike=true` | the same for a rekey of the Child SA, of the IKE SA |
//!
//! A slow or hostile client costs a bounded amount of memory for a bounded time and never blocks the daemon loop: connections, header
//! bytes and pending requests are limited, and every step has a deadline.

pub mod client;
mod protocol;
mod server;
mod socket;
#[cfg(test)]
mod tests;

pub use protocol::{
    ApiError, ApiReply, ApiRequest, PendingRequest, RequestSender, SaKind, channel,
};
pub use server::serve;
pub use socket::{Listener, SocketError, listen};
