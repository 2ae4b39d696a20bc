//! Server and clients of the control socket, with a stand-in for the daemon loop, in a temporary directory.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::client::{ClientError, HttpMethod};
use super::server::{Deadlines, MAX_CONNECTIONS, serve_within};
use super::*;
use crate::status::{RekeyCounters, Snapshot, TrafficCounters, TunnelState, TunnelStatus};

fn tunnel(name: &str, state: TunnelState) -> TunnelStatus {
    TunnelStatus {
        name: name.to_owned(),
        device: format!("gl-{name}"),
        state,
        waiting: None,
        peer: "192.0.2.1".to_owned(),
        since_s: 0.0,
        ike: None,
        child: None,
        children: Vec::new(),
        rx: TrafficCounters::default(),
        tx: TrafficCounters::default(),
        refused: BTreeMap::new(),
        rekeys: RekeyCounters::default(),
        rekey_check: None,
        next_attempt_s: None,
        warnings: Vec::new(),
        last_error: None,
    }
}

/// Reply of a daemon with the one tunnel `a`.
fn daemon_reply(request: ApiRequest) -> ApiReply {
    let named = |name: String, state| match name.as_str() {
        "a" => ApiReply::Tunnel(Box::new(tunnel("a", state))),
        _ => ApiReply::NoSuchTunnel {
            known: vec!["a".to_owned()],
        },
    };
    match request {
        ApiRequest::Status => ApiReply::Status(Snapshot {
            version: "v".to_owned(),
            uptime_s: 1.0,
            tunnels: vec![tunnel("a", TunnelState::Up)],
            groups: Vec::new(),
            ike_refused: Default::default(),
            unmatched: Default::default(),
            offload: None,
            ticks: Default::default(),
        }),
        ApiRequest::Tunnel(name) => named(name, TunnelState::Up),
        ApiRequest::Up(name) | ApiRequest::Reset(name) => named(name, TunnelState::Connecting),
        ApiRequest::Down(name) => named(name, TunnelState::Down),
        // The replies differ, so that the tests see which SA was requested.
        ApiRequest::Rekey { tunnel, sa } => match sa {
            SaKind::Child => named(tunnel, TunnelState::Up),
            SaKind::Ike => ApiReply::Refused(ApiError::new("there is no IKE SA", "wait")),
        },
    }
}

/// Deadlines short enough to wait for, long enough for a slow machine.
const SHORT_DEADLINES: Deadlines = Deadlines {
    head: Duration::from_millis(400),
    reply: Duration::from_millis(400),
    connection: Duration::from_secs(5),
};

/// Deadlines that no test waits for.
const PATIENT_DEADLINES: Deadlines = Deadlines {
    head: Duration::from_secs(600),
    reply: Duration::from_secs(600),
    connection: Duration::from_secs(600),
};

/// Behaviour of the stand-in for the daemon loop.
#[derive(Clone, Copy)]
enum TestDaemon {
    Replies,
    Hangs,
}

/// Server in a thread of its own; stops on drop.
struct TestServer {
    path: PathBuf,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

impl TestServer {
    /// Starts a server whose daemon loop replies, or hangs.
    fn start(daemon: TestDaemon) -> TestServer {
        TestServer::start_with(daemon, SHORT_DEADLINES)
    }

    fn start_with(daemon: TestDaemon, deadlines: Deadlines) -> TestServer {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let (started, is_started) = std::sync::mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let socket = path.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let (sender, mut requests) = channel(4);
                let server = serve_within(deadlines, listen(&socket).unwrap(), sender);
                started.send(()).unwrap();
                let daemon_loop = async {
                    while let Some(PendingRequest { request, reply }) = requests.recv().await {
                        match daemon {
                            TestDaemon::Replies => drop(reply.send(daemon_reply(request))),
                            TestDaemon::Hangs => std::mem::forget(reply),
                        }
                    }
                };
                tokio::select! { _ = server => {}, () = daemon_loop => {}, _ = stopped => {} }
            });
        });
        is_started.recv_timeout(Duration::from_secs(20)).unwrap();
        TestServer {
            path,
            stop: Some(stop),
            thread: Some(thread),
            _folder: folder,
        }
    }

    /// Sends raw bytes and returns the whole response.
    fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(&self.path).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let _ = stream.write_all(bytes);
        let mut response = Vec::new();
        let _ = stream.read_to_end(&mut response);
        String::from_utf8_lossy(&response).into_owned()
    }

    fn request(&self, method: HttpMethod, path: &str) -> Result<serde_json::Value, ClientError> {
        client::request(&self.path, method, path)
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
        self.thread.take().unwrap().join().unwrap();
    }
}

fn status_line(response: &str) -> &str {
    response.lines().next().unwrap_or("")
}

#[test]
fn every_resource_responds_in_json() {
    let server = TestServer::start(TestDaemon::Replies);
    assert_eq!(
        server.request(HttpMethod::Get, "/v1/status").unwrap()["tunnels"][0]["state"],
        "up"
    );
    assert_eq!(
        server.request(HttpMethod::Get, "/v1/tunnels/a").unwrap()["name"],
        "a"
    );
    for (method, state) in [
        ("up", "connecting"),
        ("down", "down"),
        ("reset", "connecting"),
    ] {
        assert_eq!(
            server
                .request(HttpMethod::Post, &format!("/v1/tunnels/a/{method}"))
                .unwrap()["state"],
            state
        );
    }
    for path in ["/v1/tunnels/a/rekey", "/v1/tunnels/a/rekey?ike=false"] {
        assert_eq!(
            server.request(HttpMethod::Post, path).unwrap()["state"],
            "up"
        );
    }
    let response = server.raw(b"GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n");
    assert_eq!(status_line(&response), "HTTP/1.1 200 OK");
    assert!(
        response.contains("content-type: application/json\r\n"),
        "{response}"
    );
}

#[test]
fn error_responses_carry_a_description_and_advice() {
    let server = TestServer::start(TestDaemon::Replies);
    let refused = |method, path: &str| match server.request(method, path) {
        Err(ClientError::Refused(error)) => format!("{} | {}", error.error, error.advice),
        other => panic!("{path}: {other:?}"),
    };
    assert_eq!(
        refused(HttpMethod::Get, "/v1/tunnels/b"),
        "no such tunnel | configured tunnels: a"
    );
    assert_eq!(
        refused(HttpMethod::Post, "/v1/tunnels/b/up"),
        "no such tunnel | configured tunnels: a"
    );
    assert_eq!(
        refused(HttpMethod::Post, "/v1/tunnels/a/rekey?ike=true"),
        "there is no IKE SA | wait"
    );
    assert_eq!(
        refused(HttpMethod::Post, "/v1/tunnels/a/rekey?ike=maybe"),
        "unknown query | omit it, or use `?ike=true`"
    );
    assert_eq!(
        refused(HttpMethod::Get, "/v1/tunnels/a/rekey"),
        "method not allowed | use POST"
    );
    assert_eq!(
        refused(HttpMethod::Post, "/v1/status"),
        "method not allowed | use GET"
    );
    assert_eq!(
        refused(HttpMethod::Get, "/v1/tunnels/a/up"),
        "method not allowed | use POST"
    );
    for path in [
        "/",
        "/v2/status",
        "/v1/tunnels/",
        "/v1/tunnels/a/b",
        "/v1/status/x",
    ] {
        assert!(
            refused(HttpMethod::Get, path).starts_with("no such resource"),
            "{path}"
        );
    }
    for (method, path) in [
        (HttpMethod::Post, "/v1/reload?plan=true"),
        (HttpMethod::Get, "/v1/events"),
        (HttpMethod::Get, "/metrics"),
    ] {
        assert!(
            refused(method, path).contains("is not in this version"),
            "{path}"
        );
    }
    assert_eq!(
        status_line(&server.raw(b"GET /metrics HTTP/1.1\r\n\r\n")),
        "HTTP/1.1 501 Not Implemented"
    );
}

#[test]
fn h03_malformed_requests_are_rejected_and_the_next_client_is_served() {
    let server = TestServer::start(TestDaemon::Replies);
    assert_eq!(
        status_line(&server.raw(b"\0\x01\x02 nonsense\r\n\r\n")),
        "HTTP/1.1 400 Bad Request"
    );
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(100_000));
    assert!(!server.raw(long.as_bytes()).contains("200 OK"));
    let many: String = (0..200).map(|n| format!("h{n}: x\r\n")).collect();
    assert!(
        status_line(&server.raw(format!("GET /v1/status HTTP/1.1\r\n{many}\r\n").as_bytes()))
            .contains(" 431 ")
    );
    // A body longer than any buffer, which the server does not read.
    let body = format!(
        "POST /v1/tunnels/a/up HTTP/1.1\r\ncontent-length: 100000000\r\n\r\n{}",
        "{".repeat(1000)
    );
    assert_eq!(status_line(&server.raw(body.as_bytes())), "HTTP/1.1 200 OK");
    assert!(server.request(HttpMethod::Get, "/v1/status").is_ok());
}

#[test]
fn h03_idle_and_slow_clients_give_way_to_an_honest_one() {
    let server = TestServer::start_with(TestDaemon::Replies, PATIENT_DEADLINES);
    // None of them ends by a deadline during the test.
    let mut hanging: Vec<UnixStream> = Vec::new();
    for n in 0..3 * MAX_CONNECTIONS {
        let mut stream = UnixStream::connect(&server.path).unwrap();
        let begun: &[u8] = match n % 3 {
            0 => b"",
            1 => b"GET /v1/st",
            _ => b"GET /v1/status HTTP/1.1\r\nhost: ",
        };
        stream.write_all(begun).unwrap();
        hanging.push(stream);
    }
    assert!(server.request(HttpMethod::Get, "/v1/status").is_ok());
    // The newest of them is still served: the oldest gave way.
    let newest = hanging.last_mut().unwrap();
    newest.write_all(b"groundlink\r\n\r\n").unwrap();
    newest
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut response = String::new();
    newest.read_to_string(&mut response).unwrap();
    assert_eq!(status_line(&response), "HTTP/1.1 200 OK");
    let oldest = hanging.first_mut().unwrap();
    oldest
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    assert_eq!(oldest.read(&mut [0; 1]).unwrap(), 0, "closed");
}

#[test]
fn h03_a_request_that_is_never_completed_times_out() {
    let server = TestServer::start(TestDaemon::Replies);
    let response = server.raw(b"GET /v1/st");
    assert!(!response.contains("200 OK"), "{response}");
}

#[test]
fn h03_hanging_daemon_loop_is_reported_as_busy() {
    let server = TestServer::start(TestDaemon::Hangs);
    match server.request(HttpMethod::Get, "/v1/status") {
        Err(ClientError::Refused(error)) => {
            assert_eq!(error.error, "the daemon is busy or shutting down")
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn missing_daemon_is_unreachable_and_another_server_gives_an_invalid_reply() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none.sock");
    assert!(matches!(
        client::request(&path, HttpMethod::Get, "/v1/status"),
        Err(ClientError::Unreachable { .. })
    ));
    let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = other.accept().unwrap();
        stream.write_all(b"SSH-2.0-OpenSSH\r\n").unwrap();
    });
    assert!(matches!(
        client::request(&path, HttpMethod::Get, "/v1/status"),
        Err(ClientError::InvalidReply { .. })
    ));
    thread.join().unwrap();
}

/// Runs `work` inside a runtime, which creating the socket requires.
fn in_runtime<T>(work: impl FnOnce() -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { work() })
}

fn listen_at(path: &Path) -> Result<Listener, SocketError> {
    in_runtime(|| listen(path))
}

#[test]
fn h03_socket_file_is_private_or_group_accessible_and_removed_with_its_listener() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let listener = listen_at(&path).unwrap();
    let metadata = fs::metadata(&path).unwrap();
    let group = nix::unistd::Group::from_name("groundlink").unwrap();
    let given = group.is_some_and(|group| group.gid.as_raw() == metadata.gid());
    assert_eq!(
        metadata.permissions().mode() & 0o777,
        if given { 0o660 } else { 0o600 }
    );
    drop(listener);
    assert!(!path.exists());
}

#[test]
fn socket_of_a_dead_daemon_is_taken_over_and_of_a_live_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a killed daemon leaves its file");
    let listener = listen_at(&path).unwrap();
    let error = listen_at(&path).unwrap_err();
    assert!(matches!(error, SocketError::InUse(_)), "{error}");
    assert!(error.advice().contains("already running"));
    assert!(path.exists(), "the failed attempt removes nothing");
    drop(listener);
}

#[test]
fn listener_does_not_remove_the_socket_of_its_successor() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let listener = listen_at(&path).unwrap();
    // The old file is kept under another name, so that the new file cannot reuse its inode number.
    fs::rename(&path, folder.path().join("old")).unwrap();
    let successor = listen_at(&path).unwrap();
    drop(listener);
    assert!(path.exists());
    drop(successor);
}

#[test]
fn obstacles_to_the_socket_file_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "precious").unwrap();
    assert!(matches!(listen_at(&file), Err(SocketError::NotASocket(_))));
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    let error = listen_at(&folder.path().join("none/control.sock")).unwrap_err();
    assert!(
        error.advice().contains("mkdir"),
        "{error}: {}",
        error.advice()
    );
}

#[test]
fn start_does_not_block_on_a_daemon_with_a_full_backlog() {
    use nix::sys::socket::{Backlog, listen};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let stopped = std::os::unix::net::UnixListener::bind(&path).unwrap();
    listen(&stopped, Backlog::new(1).unwrap()).unwrap();
    let waiting = [(), ()].map(|()| UnixStream::connect(&path).unwrap());
    let (results, result) = std::sync::mpsc::channel();
    let socket = path.clone();
    std::thread::spawn(move || results.send(listen_at(&socket).map(drop)));
    let refused = result.recv_timeout(Duration::from_secs(5));
    assert!(
        matches!(refused, Ok(Err(SocketError::InUse(_)))),
        "{refused:?}"
    );
    drop(waiting);
}

#[test]
fn client_waits_while_the_backlog_is_full() {
    use nix::sys::socket::{Backlog, listen};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    listen(&listener, Backlog::new(1).unwrap()).unwrap();
    let waiting = [(), ()].map(|()| UnixStream::connect(&path).unwrap());
    let (full, is_full) = std::sync::mpsc::channel();
    let daemon = std::thread::spawn(move || {
        is_full.recv_timeout(Duration::from_secs(20)).unwrap();
        let mut connections = listener.incoming();
        let first = [(), ()].map(|()| connections.next().unwrap().unwrap());
        let mut last = connections.next().unwrap().unwrap();
        let response = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        assert!(last.read(&mut [0; 1024]).unwrap() > 0);
        last.write_all(response).unwrap();
        drop(first);
    });
    let on_full = || full.send(()).unwrap();
    let reply = client::request_observed(&path, HttpMethod::Get, "/v1/status", on_full).unwrap();
    assert_eq!(reply, serde_json::json!({}));
    daemon.join().unwrap();
    drop(waiting);
}
