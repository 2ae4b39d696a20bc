//! Server of the control socket: one task a connection, one request a connection, a deadline for every step.
//!
//! When [`MAX_CONNECTIONS`] are open, a new client takes the place of the one that has been idle for longest: a client that holds a
//! connection without sending its request, or without reading the response, keeps nobody out.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::UnixStream;
use tokio::task::{AbortHandle, JoinSet, yield_now};
use tokio::time::timeout;

use super::protocol::{ApiError, ApiReply, ApiRequest, RequestSender, SaKind};
use super::socket::Listener;

/// Upper bound on connections served at once.
pub(super) const MAX_CONNECTIONS: usize = 32;

/// Upper bound on the size of a request head in bytes, and on the read buffer.
const MAX_HEAD: usize = 16 * 1024;

/// Upper bound on the number of headers in a request.
const MAX_HEADERS: usize = 64;

/// Pause after a failed `accept`, which fails while file descriptors are exhausted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Time after its reply from which on a connection whose client has not read the response is idle.
const READ_TIME: Duration = Duration::from_secs(1);

/// Interval at which idle connections are looked for while all are busy.
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// Deadlines of the steps of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadlines {
    /// For the client to send the request head.
    pub head: Duration,
    /// For the daemon loop to reply.
    pub reply: Duration,
    /// For the whole connection: one request, one response.
    pub connection: Duration,
}

const DEADLINES: Deadlines = Deadlines {
    head: Duration::from_secs(3),
    reply: Duration::from_secs(5),
    connection: Duration::from_secs(10),
};

/// Serves until the future is dropped. Must run inside a tokio runtime with time and IO.
pub async fn serve(listener: Listener, requests: RequestSender) -> Infallible {
    serve_within(DEADLINES, listener, requests).await
}

pub(super) async fn serve_within(
    deadlines: Deadlines,
    listener: Listener,
    requests: RequestSender,
) -> Infallible {
    let mut connections = Connections::default();
    loop {
        match listener.socket.accept().await {
            Ok((stream, _)) => {
                connections.make_room().await;
                let progress = Arc::new(Progress::default());
                let connection =
                    serve_connection(stream, requests.clone(), deadlines, Arc::clone(&progress));
                connections.start(progress, async move {
                    let _ = timeout(deadlines.connection, connection).await;
                });
                // A request that has arrived is read before further clients are accepted.
                yield_now().await;
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Open connections, the oldest first. Dropping them ends their tasks.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    open: Vec<(AbortHandle, Arc<Progress>)>,
}

/// Step of a connection.
#[derive(Debug, Default)]
struct Progress(Mutex<Step>);

#[derive(Clone, Copy, Debug, Default)]
enum Step {
    /// The request is being read.
    #[default]
    Request,
    /// The daemon loop has the request.
    Reply,
    /// The response is being written since this time.
    Response(Instant),
}

impl Connections {
    fn start(
        &mut self,
        progress: Arc<Progress>,
        connection: impl Future<Output = ()> + Send + 'static,
    ) {
        let task = self.tasks.spawn(connection);
        self.open.push((task, progress));
    }

    /// Waits until one more connection may be open: ends the oldest one that is idle if there are too many.
    async fn make_room(&mut self) {
        loop {
            while self.tasks.try_join_next().is_some() {}
            self.open.retain(|(task, _)| !task.is_finished());
            if self.open.len() < MAX_CONNECTIONS {
                return;
            }
            let now = Instant::now();
            match self
                .open
                .iter()
                .position(|(_, progress)| progress.is_idle(now))
            {
                Some(oldest) => self.open.remove(oldest).0.abort(),
                // Each of them gets its reply or times out.
                None => drop(timeout(BUSY_PAUSE, self.tasks.join_next()).await),
            }
        }
    }
}

impl Progress {
    fn set(&self, step: Step) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = step;
    }

    /// Whether the connection waits for its client.
    fn is_idle(&self, now: Instant) -> bool {
        match *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Step::Request => true,
            Step::Reply => false,
            Step::Response(since) => now.saturating_duration_since(since) >= READ_TIME,
        }
    }
}

async fn serve_connection(
    stream: UnixStream,
    requests: RequestSender,
    deadlines: Deadlines,
    progress: Arc<Progress>,
) -> Result<(), hyper::Error> {
    let service = service_fn(move |request| {
        let (requests, progress) = (requests.clone(), Arc::clone(&progress));
        async move {
            progress.set(Step::Reply);
            let response = respond(&request, &requests, deadlines.reply).await;
            progress.set(Step::Response(Instant::now()));
            Ok::<_, Infallible>(response)
        }
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
    // No request of the API has a body; a body that is sent is not read.
    let uri = request.uri();
    let request = match route(request.method(), uri.path(), uri.query()) {
        Ok(request) => request,
        Err(error) => return error.response(),
    };
    match timeout(deadline, requests.request(request)).await {
        Ok(Some(ApiReply::Status(snapshot))) => json(StatusCode::OK, &snapshot),
        Ok(Some(ApiReply::Tunnel(tunnel))) => json(StatusCode::OK, &tunnel),
        Ok(Some(ApiReply::Refused(error))) => json(StatusCode::CONFLICT, &error),
        Ok(Some(ApiReply::NoSuchTunnel { known })) => {
            let advice = if known.is_empty() {
                "no tunnel is configured".to_owned()
            } else {
                format!("configured tunnels: {}", known.join(", "))
            };
            let error = ApiError::new("no such tunnel", advice);
            json(StatusCode::NOT_FOUND, &error)
        }
        Ok(None) | Err(_) => {
            let error = ApiError::new("the daemon is busy or shutting down", "try again");
            json(StatusCode::SERVICE_UNAVAILABLE, &error)
        }
    }
}

/// Reason why a request has no route.
#[derive(Debug, PartialEq, Eq)]
enum RouteError {
    /// Unknown path.
    NotFound,
    /// Known path, but for this other method.
    Method(&'static str),
    /// Unknown query string.
    Query(&'static str),
    /// Reserved for a later version.
    NotYet(&'static str),
}

impl RouteError {
    fn response(self) -> Response<Full<Bytes>> {
        match self {
            RouteError::NotFound => {
                let advice = "GET /v1/status, GET /v1/tunnels/NAME, POST /v1/tunnels/NAME/{up,down,rekey,reset}";
                json(
                    StatusCode::NOT_FOUND,
                    &ApiError::new("no such resource", advice),
                )
            }
            RouteError::Method(allowed) => {
                let error = ApiError::new("method not allowed", format!("use {allowed}"));
                let mut response = json(StatusCode::METHOD_NOT_ALLOWED, &error);
                let headers = response.headers_mut();
                headers.insert(ALLOW, HeaderValue::from_static(allowed));
                response
            }
            RouteError::Query(advice) => json(
                StatusCode::BAD_REQUEST,
                &ApiError::new("unknown query", advice),
            ),
            RouteError::NotYet(what) => json(
                StatusCode::NOT_IMPLEMENTED,
                &ApiError::new(format!("{what} is not in this version"), ""),
            ),
        }
    }
}

/// Maps method, path and query to a request.
fn route(method: &Method, path: &str, query: Option<&str>) -> Result<ApiRequest, RouteError> {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let (allowed, name, request) = match parts.as_slice() {
        ["v1", "status"] => (Method::GET, "GET", ApiRequest::Status),
        ["v1", "tunnels", tunnel] if !tunnel.is_empty() => {
            (Method::GET, "GET", ApiRequest::Tunnel((*tunnel).to_owned()))
        }
        ["v1", "tunnels", tunnel, operation] => {
            let tunnel = (*tunnel).to_owned();
            let request = match *operation {
                "up" => ApiRequest::Up(tunnel),
                "down" => ApiRequest::Down(tunnel),
                "reset" => ApiRequest::Reset(tunnel),
                "rekey" => {
                    let sa = match query {
                        None | Some("ike=false") => SaKind::Child,
                        Some("ike=true") => SaKind::Ike,
                        Some(_) => return Err(RouteError::Query("omit it, or use `?ike=true`")),
                    };
                    ApiRequest::Rekey { tunnel, sa }
                }
                _ => return Err(RouteError::NotFound),
            };
            (Method::POST, "POST", request)
        }
        ["v1", "reload"] => return Err(RouteError::NotYet("reload")),
        ["v1", "events"] => return Err(RouteError::NotYet("the event stream")),
        ["metrics"] => return Err(RouteError::NotYet("the metrics page")),
        _ => return Err(RouteError::NotFound),
    };
    if *method == allowed {
        Ok(request)
    } else {
        Err(RouteError::Method(name))
    }
}

fn json(status: StatusCode, body: &impl Serialize) -> Response<Full<Bytes>> {
    // Cannot fail: the types of the API have string keys, and non-finite numbers become `null`.
    let mut text = serde_json::to_vec(body).unwrap_or_default();
    text.push(b'\n');
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
