//! The client: one request, one answer, with deadlines. What `groundlink status` and its like use.

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

/// How long the whole conversation may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// How soon to knock again at a door that is crowded.
const AGAIN: Duration = Duration::from_millis(50);

/// The most bytes an answer may have.
const MAX_BODY: usize = 16 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nothing listens there, or we may not connect.
    #[error("the daemon cannot be reached on {socket}: {cause}", socket = socket.display())]
    Unreachable {
        /// Where we tried.
        socket: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// It listens and does not answer, or answers something that is no JSON of ours.
    #[error("the daemon on {socket} does not answer properly: {what}", socket = socket.display())]
    InvalidReply {
        /// Whom we asked.
        socket: PathBuf,
        /// What was wrong.
        what: String,
    },
    /// It answered that it will not.
    #[error("{}", .0.error)]
    Refused(ApiError),
}

/// `GET` asks, `POST` changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpMethod {
    /// Asks.
    Get,
    /// Changes something.
    Post,
}

/// Asks the daemon on this socket, waiting for the answer. Not to be called inside a runtime.
pub fn request(socket: &Path, verb: HttpMethod, path: &str) -> Result<Value, ClientError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|cause| ClientError::Unreachable {
        socket: socket.to_owned(),
        cause,
    })?;
    runtime.block_on(async {
        timeout(DEADLINE, converse(socket, verb, path))
            .await
            .unwrap_or_else(|_| Err(garbled(socket, "no answer in time")))
    })
}

async fn converse(socket: &Path, verb: HttpMethod, path: &str) -> Result<Value, ClientError> {
    let stream = loop {
        match UnixStream::connect(socket).await {
            // So many wait already that the kernel lets nobody else wait; the daemon does not let them wait for ever.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(AGAIN).await,
            result => break result,
        }
    };
    let stream = stream.map_err(|cause| ClientError::Unreachable {
        socket: socket.to_owned(),
        cause,
    })?;
    let (status, body) = exchange(stream, verb, path)
        .await
        .map_err(|error| garbled(socket, error))?;
    match status {
        StatusCode::OK => serde_json::from_slice(&body).map_err(|error| garbled(socket, error)),
        _ => Err(match serde_json::from_slice(&body) {
            Ok(trouble) => ClientError::Refused(trouble),
            Err(_) => garbled(socket, status),
        }),
    }
}

async fn exchange(
    stream: UnixStream,
    verb: HttpMethod,
    path: &str,
) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let method = match verb {
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

fn garbled(socket: &Path, what: impl ToString) -> ClientError {
    ClientError::InvalidReply {
        socket: socket.to_owned(),
        what: what.to_string(),
    }
}
