//! What may be asked of the daemon, and the door through which it is asked.

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::status::{Snapshot, TunnelStatus};

/// Something asked of the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiRequest {
    /// Everything.
    Status,
    /// One tunnel, by name.
    Tunnel(String),
    /// Connect it, and again whenever it drops if it is configured so.
    Up(String),
    /// Take it down until asked otherwise.
    Down(String),
    /// Take it down and connect it afresh.
    Reset(String),
    /// Give one of its SAs fresh keys, without a pause in its traffic.
    Rekey {
        /// The tunnel's name.
        tunnel: String,
        /// Which of its SAs.
        sa: SaKind,
    },
}

/// An SA of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaKind {
    /// The Child SA, which carries the packets.
    Child,
    /// The IKE SA.
    Ike,
}

/// What the daemon says.
#[derive(Debug, Clone, PartialEq)]
pub enum ApiReply {
    /// To [`ApiRequest::Status`].
    Status(Snapshot),
    /// To everything about one tunnel: how it is, after what was asked has begun.
    Tunnel(Box<TunnelStatus>),
    /// There is nothing to do it with, as things are.
    Refused(ApiError),
    /// There is no tunnel of that name; these there are.
    NoSuchTunnel {
        /// The names that exist.
        known: Vec<String>,
    },
}

/// What came of a request that was not carried out; also the body of such a response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// What is wrong.
    pub error: String,
    /// What to do about it; may be empty.
    pub advice: String,
}

impl ApiError {
    /// ApiError in words.
    pub fn new(error: impl Into<String>, advice: impl Into<String>) -> ApiError {
        ApiError {
            error: error.into(),
            advice: advice.into(),
        }
    }
}

/// A request on its way, with the way back.
#[derive(Debug)]
pub struct PendingRequest {
    /// What is asked.
    pub request: ApiRequest,
    /// Where the answer goes. Whoever asked may have gone: a failed send means nothing.
    pub answer: oneshot::Sender<ApiReply>,
}

/// Where requests enter the daemon. Cheap to clone; never holds more than its depth.
#[derive(Debug, Clone)]
pub struct RequestSender {
    requests: mpsc::Sender<PendingRequest>,
}

/// A door and the end of it that the daemon's loop reads.
pub fn channel(depth: usize) -> (RequestSender, mpsc::Receiver<PendingRequest>) {
    let (requests, receiver) = mpsc::channel(depth);
    (RequestSender { requests }, receiver)
}

impl RequestSender {
    /// Asks, and waits for the answer. `None`: the daemon is too busy or is ending.
    pub async fn ask(&self, request: ApiRequest) -> Option<ApiReply> {
        let (answer, receiver) = oneshot::channel();
        self.requests
            .try_send(PendingRequest { request, answer })
            .ok()?;
        receiver.await.ok()
    }
}
