//! The server: one small task a connection, every step with a deadline.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::protocol::{ApiError, ApiReply, ApiRequest, RequestSender, SaKind};
use super::socket::Listener;

/// Connections served at once; more wait in the kernel's backlog.
const MAX_CONNECTIONS: usize = 32;

/// The most bytes a request's head may have, and what is buffered of it.
const MAX_HEAD: usize = 16 * 1024;

/// The most headers a request may have.
const MAX_HEADERS: usize = 64;

/// How long to wait after `accept` failed, which it does while file descriptors are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long each step may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadlines {
    /// A client, to send its request's head.
    pub head: Duration,
    /// The daemon, to answer.
    pub answer: Duration,
    /// A whole connection: one request, one response.
    pub connection: Duration,
}

const DEADLINES: Deadlines = Deadlines {
    head: Duration::from_secs(3),
    answer: Duration::from_secs(5),
    connection: Duration::from_secs(10),
};

/// Serves until it is dropped. Must run inside a tokio runtime with time and IO.
pub async fn serve(listener: Listener, requests: RequestSender) -> Infallible {
    serve_within(DEADLINES, listener, requests).await
}

pub(super) async fn serve_within(
    deadlines: Deadlines,
    listener: Listener,
    requests: RequestSender,
) -> Infallible {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = Arc::clone(&room).acquire_owned().await.ok();
        match listener.socket.accept().await {
            Ok((stream, _)) => {
                let requests = requests.clone();
                tokio::spawn(async move {
                    let _permit = permit;
                    let _ = timeout(
                        deadlines.connection,
                        connection(stream, requests, deadlines),
                    )
                    .await;
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn connection(
    stream: UnixStream,
    requests: RequestSender,
    deadlines: Deadlines,
) -> Result<(), hyper::Error> {
    let service = service_fn(move |request| {
        let requests = requests.clone();
        async move { Ok::<_, Infallible>(respond(&request, &requests, deadlines.answer).await) }
    });
    http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .timer(TokioTimer::new())
        .header_read_timeout(deadlines.head)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

async fn respond(
    request: &Request<Incoming>,
    requests: &RequestSender,
    deadline: Duration,
) -> Response<Full<Bytes>> {
    // No request has a body; one that is sent is not read.
    let uri = request.uri();
    let asked = match route(request.method(), uri.path(), uri.query()) {
        Ok(asked) => asked,
        Err(refusal) => return refusal.response(),
    };
    match timeout(deadline, requests.ask(asked)).await {
        Ok(Some(ApiReply::Status(snapshot))) => json(StatusCode::OK, &snapshot),
        Ok(Some(ApiReply::Tunnel(tunnel))) => json(StatusCode::OK, &tunnel),
        Ok(Some(ApiReply::Refused(trouble))) => json(StatusCode::CONFLICT, &trouble),
        Ok(Some(ApiReply::NoSuchTunnel { known })) => {
            let advice = if known.is_empty() {
                "there are none".to_owned()
            } else {
                format!("there are: {}", known.join(", "))
            };
            json(
                StatusCode::NOT_FOUND,
                &ApiError::new("there is no such tunnel", advice),
            )
        }
        Ok(None) | Err(_) => json(
            StatusCode::SERVICE_UNAVAILABLE,
            &ApiError::new("the daemon is busy or ending", "try again"),
        ),
    }
}

/// Why a request has no place to go.
#[derive(Debug, PartialEq, Eq)]
enum RouteError {
    /// There is no such path.
    NotFound,
    /// The path is there, for another method.
    Method(&'static str),
    /// What stands behind the question mark means nothing there.
    Query(&'static str),
    /// A later version has it.
    NotYet(&'static str),
}

impl RouteError {
    fn response(self) -> Response<Full<Bytes>> {
        match self {
            RouteError::NotFound => {
                let advice = "GET /v1/status, GET /v1/tunnels/NAME, POST /v1/tunnels/NAME/{up,down,rekey,reset}";
                json(
                    StatusCode::NOT_FOUND,
                    &ApiError::new("there is nothing here", advice),
                )
            }
            RouteError::Method(allowed) => {
                let mut response = json(
                    StatusCode::METHOD_NOT_ALLOWED,
                    &ApiError::new("not with this method", format!("use {allowed}")),
                );
                response
                    .headers_mut()
                    .insert(ALLOW, HeaderValue::from_static(allowed));
                response
            }
            RouteError::Query(advice) => json(
                StatusCode::BAD_REQUEST,
                &ApiError::new("this query means nothing here", advice),
            ),
            RouteError::NotYet(what) => json(
                StatusCode::NOT_IMPLEMENTED,
                &ApiError::new(format!("{what} is not in this version"), ""),
            ),
        }
    }
}

/// Which request a method, a path and what is asked behind it mean.
fn route(method: &Method, path: &str, query: Option<&str>) -> Result<ApiRequest, RouteError> {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let only = |wanted: Method, name: &'static str, request: ApiRequest| {
        if *method == wanted {
            Ok(request)
        } else {
            Err(RouteError::Method(name))
        }
    };
    match parts.as_slice() {
        ["v1", "status"] => only(Method::GET, "GET", ApiRequest::Status),
        ["v1", "tunnels", name] if !name.is_empty() => {
            only(Method::GET, "GET", ApiRequest::Tunnel((*name).to_owned()))
        }
        ["v1", "tunnels", name, "up"] => {
            only(Method::POST, "POST", ApiRequest::Up((*name).to_owned()))
        }
        ["v1", "tunnels", name, "down"] => {
            only(Method::POST, "POST", ApiRequest::Down((*name).to_owned()))
        }
        ["v1", "tunnels", name, "reset"] => {
            only(Method::POST, "POST", ApiRequest::Reset((*name).to_owned()))
        }
        ["v1", "tunnels", name, "rekey"] => {
            let tunnel = (*name).to_owned();
            let sa = match query {
                None | Some("ike=false") => SaKind::Child,
                Some("ike=true") => SaKind::Ike,
                Some(_) => return Err(RouteError::Query("leave it out, or write `?ike=true`")),
            };
            only(Method::POST, "POST", ApiRequest::Rekey { tunnel, sa })
        }
        ["v1", "reload"] => Err(RouteError::NotYet("reload")),
        ["v1", "events"] => Err(RouteError::NotYet("the event stream")),
        ["metrics"] => Err(RouteError::NotYet("the metrics page")),
        _ => Err(RouteError::NotFound),
    }
}

fn json(status: StatusCode, body: &impl Serialize) -> Response<Full<Bytes>> {
    // Our own types have string keys and finite numbers at worst written as null: this cannot fail.
    let mut text = serde_json::to_vec(body).unwrap_or_default();
    text.push(b'\n');
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
