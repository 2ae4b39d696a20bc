//! The control socket: HTTP/1.1 and JSON over a unix socket, so that `curl --unix-socket` works as well as `groundlink status`.
//!
//! ```text
//!   groundlink up ali-1 ──client──▶ socket ──server──▶ RequestSender ──(bounded)──▶ daemon loop
//!   curl                ◀───────── JSON    ◀───────── ApiReply ◀──(oneshot)──┘
//! ```
//!
//! | request | does |
//! |---|---|
//! | `GET /v1/status` | the whole [`crate::status::Snapshot`] |
//! | `GET /v1/tunnels/NAME` | one [`crate::status::TunnelStatus`] |
//! | `POST /v1/tunnels/NAME/up`, `down`, `reset` | asks, and answers with that tunnel |
//! | `POST /v1/tunnels/NAME/rekey`, `rekey?ike=true` | the same for fresh keys of the Child SA, of the IKE SA |
//!
//! A client that hangs, floods or sends nonsense costs a bounded amount of memory for a bounded time and never waits inside the
//! daemon's loop: connections, headers and requests under way are counted, and every step has a deadline.

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
