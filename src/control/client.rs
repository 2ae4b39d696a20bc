//! Client of the control socket: one blocking request with a deadline, as `groundlink status` and the lab send it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::protocol::ApiError;

/// Deadline for the whole request.
const DEADLINE: Duration = Duration::from_secs(10);

/// Pause before the next connection attempt while the socket's backlog is full.
const CONNECT_PAUSE: Duration = Duration::from_millis(50);

/// Upper bound on the size of a response body in bytes.
const MAX_BODY: usize = 16 * 1024 * 1024;

/// Reason why a request failed.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nothing listens on the socket, or connecting is not permitted.
    #[error("the daemon cannot be reached on {socket}: {cause}", socket = socket.display())]
    Unreachable {
        /// Path of the socket.
        socket: PathBuf,
        /// Error of the operating system.
        cause: io::Error,
    },
    /// No response in time, or a response that is not the daemon's JSON.
    #[error("invalid response from the daemon on {socket}: {what}", socket = socket.display())]
    InvalidReply {
        /// Path of the socket.
        socket: PathBuf,
        /// Description.
        what: String,
    },
    /// Error response.
    #[error("{}", .0.error)]
    Refused(ApiError),
}

/// HTTP method of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpMethod {
    /// Reads.
    Get,
    /// Changes something.
    Post,
}

/// Sends a request and waits for the response. Must not be called inside a tokio runtime.
pub fn request(socket: &Path, method: HttpMethod, path: &str) -> Result<Value, ClientError> {
    request_observed(socket, method, path, || {})
}

/// [`request`] that calls `on_full` whenever it finds the socket's backlog full.
pub(super) fn request_observed(
    socket: &Path,
    method: HttpMethod,
    path: &str,
    on_full: impl FnMut(),
) -> Result<Value, ClientError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|cause| unreachable(socket, cause))?;
    runtime.block_on(async {
        timeout(DEADLINE, request_async(socket, method, path, on_full))
            .await
            .unwrap_or_else(|_| Err(invalid_reply(socket, "no response in time")))
    })
}

async fn request_async(
    socket: &Path,
    method: HttpMethod,
    path: &str,
    mut on_full: impl FnMut(),
) -> Result<Value, ClientError> {
    let stream = loop {
        match UnixStream::connect(socket).await {
            // The backlog is full. Connections in it time out, so it drains.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                on_full();
                sleep(CONNECT_PAUSE).await;
            }
            result => break result,
        }
    };
    let stream = stream.map_err(|cause| unreachable(socket, cause))?;
    let (status, body) = exchange(stream, method, path)
        .await
        .map_err(|error| invalid_reply(socket, error))?;
    match status {
        StatusCode::OK => {
            serde_json::from_slice(&body).map_err(|error| invalid_reply(socket, error))
        }
        _ => Err(match serde_json::from_slice(&body) {
            Ok(error) => ClientError::Refused(error),
            Err(_) => invalid_reply(socket, status),
        }),
    }
}

async fn exchange(
    stream: UnixStream,
    method: HttpMethod,
    path: &str,
) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let method = match method {
        HttpMethod::Get => Method::GET,
        HttpMethod::Post => Method::POST,
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, "groundlink")
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_BODY)
        .collect()
        .await?;
    Ok((status, body.to_bytes()))
}

fn unreachable(socket: &Path, cause: io::Error) -> ClientError {
    ClientError::Unreachable {
        socket: socket.to_owned(),
        cause,
    }
}

fn invalid_reply(socket: &Path, what: impl ToString) -> ClientError {
    ClientError::InvalidReply {
        socket: socket.to_owned(),
        what: what.to_string(),
    }
}
