//! Requests to the daemon, their replies, and the bounded channel between the server and the daemon loop.

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::status::{Snapshot, TunnelStatus};

/// Request to the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiRequest {
    /// Status of the gateway.
    Status,
    /// Status of one tunnel, by name.
    Tunnel(String),
    /// Connect a tunnel, and reconnect it after a failure if it is configured to start by itself.
    Up(String),
    /// Take a tunnel down until the next `Up`.
    Down(String),
    /// Take a tunnel down and connect it again.
    Reset(String),
    /// Rekey one SA of a tunnel without interrupting its traffic.
    Rekey {
        /// Name of the tunnel.
        tunnel: String,
        /// SA to rekey.
        sa: SaKind,
    },
}

/// Kind of SA of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaKind {
    /// Child SA, which carries the packets.
    Child,
    /// IKE SA.
    Ike,
}

/// Reply of the daemon.
#[derive(Debug, Clone, PartialEq)]
pub enum ApiReply {
    /// Reply to [`ApiRequest::Status`].
    Status(Snapshot),
    /// Reply to every request about one tunnel: its status after the operation was started.
    Tunnel(Box<TunnelStatus>),
    /// The request cannot be carried out in the current state.
    Refused(ApiError),
    /// No tunnel has the requested name.
    NoSuchTunnel {
        /// Names of the configured tunnels.
        known: Vec<String>,
    },
}

/// Error of a request, and the JSON body of an error response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// Description.
    pub error: String,
    /// Advice; may be empty.
    pub advice: String,
}

impl ApiError {
    /// Error with its advice.
    pub fn new(error: impl Into<String>, advice: impl Into<String>) -> ApiError {
        ApiError {
            error: error.into(),
            advice: advice.into(),
        }
    }
}

/// Request in the queue of the daemon loop.
#[derive(Debug)]
pub struct PendingRequest {
    /// Request.
    pub request: ApiRequest,
    /// Sender of the reply; sending fails when the client has disconnected.
    pub reply: oneshot::Sender<ApiReply>,
}

/// Sending half of the bounded request queue; cheap to clone.
#[derive(Debug, Clone)]
pub struct RequestSender {
    requests: mpsc::Sender<PendingRequest>,
}

/// Request queue of the given depth: the server's half and the daemon loop's half.
pub fn channel(depth: usize) -> (RequestSender, mpsc::Receiver<PendingRequest>) {
    let (requests, receiver) = mpsc::channel(depth);
    (RequestSender { requests }, receiver)
}

impl RequestSender {
    /// Sends a request and waits for the reply; `None` when the queue is full or the daemon is shutting down.
    pub async fn request(&self, request: ApiRequest) -> Option<ApiReply> {
        let (reply, receiver) = oneshot::channel();
        self.requests
            .try_send(PendingRequest { request, reply })
            .ok()?;
        receiver.await.ok()
    }
}
