//! A daemon's loop, a server and clients, on a socket in a folder of their own.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::client::{ClientError, HttpMethod};
use super::server::{Deadlines, serve_within};
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
        rx: TrafficCounters::default(),
        tx: TrafficCounters::default(),
        refused: BTreeMap::new(),
        rekeys: RekeyCounters::default(),
        rekey_check: None,
        last_error: None,
    }
}

/// What a daemon with the one tunnel `a` answers.
fn daemon_answers(request: ApiRequest) -> ApiReply {
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
            offload: None,
            ticks: Default::default(),
        }),
        ApiRequest::Tunnel(name) => named(name, TunnelState::Up),
        ApiRequest::Up(name) | ApiRequest::Reset(name) => named(name, TunnelState::Connecting),
        ApiRequest::Down(name) => named(name, TunnelState::Down),
        // The state tells the test which SA was meant.
        ApiRequest::Rekey { tunnel, sa } => match sa {
            SaKind::Child => named(tunnel, TunnelState::Up),
            SaKind::Ike => ApiReply::Refused(ApiError::new("there is no IKE SA", "wait")),
        },
    }
}

/// Short enough to wait for, long enough for a slow machine.
const SHORT: Deadlines = Deadlines {
    head: Duration::from_millis(400),
    answer: Duration::from_millis(400),
    connection: Duration::from_secs(5),
};

/// Serves in a thread of its own until it is dropped.
struct Served {
    path: PathBuf,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

impl Served {
    /// A daemon that answers, or one whose loop has hung.
    fn start(answers: bool) -> Served {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let at = path.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let (sender, mut requests) = channel(4);
                let server = serve_within(SHORT, listen(&at).unwrap(), sender);
                ready.send(()).unwrap();
                let daemon = async {
                    while let Some(PendingRequest { request, answer }) = requests.recv().await {
                        if answers {
                            let _ = answer.send(daemon_answers(request));
                        } else {
                            std::mem::forget(answer);
                        }
                    }
                };
                tokio::select! { _ = server => {}, () = daemon => {}, _ = stopped => {} }
            });
        });
        is_ready.recv().unwrap();
        Served {
            path,
            stop: Some(stop),
            thread: Some(thread),
            _folder: folder,
        }
    }

    /// Sends bytes and returns all that comes back.
    fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(&self.path).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn ask(&self, verb: HttpMethod, path: &str) -> Result<serde_json::Value, ClientError> {
        client::request(&self.path, verb, path)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
        self.thread.take().unwrap().join().unwrap();
    }
}

fn status_line(answer: &str) -> &str {
    answer.lines().next().unwrap_or("")
}

#[test]
fn every_endpoint_answers_in_json() {
    let served = Served::start(true);
    assert_eq!(
        served.ask(HttpMethod::Get, "/v1/status").unwrap()["tunnels"][0]["state"],
        "up"
    );
    assert_eq!(
        served.ask(HttpMethod::Get, "/v1/tunnels/a").unwrap()["name"],
        "a"
    );
    for (verb, state) in [
        ("up", "connecting"),
        ("down", "down"),
        ("reset", "connecting"),
    ] {
        assert_eq!(
            served
                .ask(HttpMethod::Post, &format!("/v1/tunnels/a/{verb}"))
                .unwrap()["state"],
            state
        );
    }
    for path in ["/v1/tunnels/a/rekey", "/v1/tunnels/a/rekey?ike=false"] {
        assert_eq!(served.ask(HttpMethod::Post, path).unwrap()["state"], "up");
    }
    let answer = served.raw(b"GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n");
    assert_eq!(status_line(&answer), "HTTP/1.1 200 OK");
    assert!(
        answer.contains("content-type: application/json\r\n"),
        "{answer}"
    );
}

#[test]
fn what_is_refused_says_why() {
    let served = Served::start(true);
    let refused = |verb, path: &str| match served.ask(verb, path) {
        Err(ClientError::Refused(trouble)) => format!("{} | {}", trouble.error, trouble.advice),
        other => panic!("{path}: {other:?}"),
    };
    assert_eq!(
        refused(HttpMethod::Get, "/v1/tunnels/b"),
        "there is no such tunnel | there are: a"
    );
    assert_eq!(
        refused(HttpMethod::Post, "/v1/tunnels/b/up"),
        "there is no such tunnel | there are: a"
    );
    assert_eq!(
        refused(HttpMethod::Post, "/v1/tunnels/a/rekey?ike=true"),
        "there is no IKE SA | wait"
    );
    assert_eq!(
        refused(HttpMethod::Post, "/v1/tunnels/a/rekey?ike=maybe"),
        "this query means nothing here | leave it out, or write `?ike=true`"
    );
    assert_eq!(
        refused(HttpMethod::Get, "/v1/tunnels/a/rekey"),
        "not with this method | use POST"
    );
    assert_eq!(
        refused(HttpMethod::Post, "/v1/status"),
        "not with this method | use GET"
    );
    assert_eq!(
        refused(HttpMethod::Get, "/v1/tunnels/a/up"),
        "not with this method | use POST"
    );
    for path in [
        "/",
        "/v2/status",
        "/v1/tunnels/",
        "/v1/tunnels/a/b",
        "/v1/status/x",
    ] {
        assert!(
            refused(HttpMethod::Get, path).starts_with("there is nothing here"),
            "{path}"
        );
    }
    for (verb, path) in [
        (HttpMethod::Post, "/v1/reload?plan=true"),
        (HttpMethod::Get, "/v1/events"),
        (HttpMethod::Get, "/metrics"),
    ] {
        assert!(
            refused(verb, path).contains("is not in this version"),
            "{path}"
        );
    }
    assert_eq!(
        status_line(&served.raw(b"GET /metrics HTTP/1.1\r\n\r\n")),
        "HTTP/1.1 501 Not Implemented"
    );
}

#[test]
fn h03_nonsense_is_answered_or_dropped_and_the_next_client_served() {
    let served = Served::start(true);
    assert_eq!(
        status_line(&served.raw(b"\0\x01\x02 nonsense\r\n\r\n")),
        "HTTP/1.1 400 Bad Request"
    );
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(100_000));
    assert!(!served.raw(long.as_bytes()).contains("200 OK"));
    let many: String = (0..200).map(|n| format!("h{n}: x\r\n")).collect();
    assert!(
        status_line(&served.raw(format!("GET /v1/status HTTP/1.1\r\n{many}\r\n").as_bytes()))
            .contains(" 431 ")
    );
    // A body nobody reads, longer than any buffer.
    let body = format!(
        "POST /v1/tunnels/a/up HTTP/1.1\r\ncontent-length: 100000000\r\n\r\n{}",
        "{".repeat(1000)
    );
    assert_eq!(status_line(&served.raw(body.as_bytes())), "HTTP/1.1 200 OK");
    assert!(served.ask(HttpMethod::Get, "/v1/status").is_ok());
}

#[test]
fn h03_clients_that_hang_do_not_keep_others_out() {
    let served = Served::start(true);
    let mut hanging: Vec<UnixStream> = (0..31)
        .map(|_| UnixStream::connect(&served.path).unwrap())
        .collect();
    for stream in &mut hanging {
        stream.write_all(b"GET /v1/st").unwrap();
    }
    assert!(
        served.ask(HttpMethod::Get, "/v1/status").is_ok(),
        "one place is left"
    );
    // With every place taken a client waits until the hanging ones have used up their time.
    hanging.push(UnixStream::connect(&served.path).unwrap());
    hanging.push(UnixStream::connect(&served.path).unwrap());
    assert!(served.ask(HttpMethod::Get, "/v1/status").is_ok());
}

#[test]
fn h03_a_daemon_that_is_stuck_is_said_to_be_busy() {
    let served = Served::start(false);
    match served.ask(HttpMethod::Get, "/v1/status") {
        Err(ClientError::Refused(trouble)) => {
            assert_eq!(trouble.error, "the daemon is busy or ending")
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn no_daemon_is_unreachable_and_another_server_is_garbled() {
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

/// Runs inside a runtime, as making the socket asks for.
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
fn h03_the_socket_is_private_or_the_groups_and_goes_with_its_listener() {
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
fn a_dead_daemons_socket_is_taken_over_and_a_live_ones_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a dead daemon leaves its file");
    let listener = listen_at(&path).unwrap();
    let error = listen_at(&path).unwrap_err();
    assert!(matches!(error, SocketError::InUse(_)), "{error}");
    assert!(error.advice().contains("running already"));
    assert!(path.exists(), "the refused one removes nothing");
    drop(listener);
}

#[test]
fn a_successors_socket_outlives_the_predecessors_listener() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let listener = listen_at(&path).unwrap();
    // Kept under another name, so that the new file cannot be given the old one's inode number.
    fs::rename(&path, folder.path().join("old")).unwrap();
    let successor = listen_at(&path).unwrap();
    drop(listener);
    assert!(path.exists());
    drop(successor);
}

#[test]
fn what_is_in_the_way_is_named() {
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
fn a_daemon_that_accepts_nobody_is_not_waited_for() {
    use nix::sys::socket::{Backlog, listen};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let stopped = std::os::unix::net::UnixListener::bind(&path).unwrap();
    listen(&stopped, Backlog::new(1).unwrap()).unwrap();
    let crowd = [(), ()].map(|()| UnixStream::connect(&path).unwrap());
    let (tell, told) = std::sync::mpsc::channel();
    let ours = path.clone();
    std::thread::spawn(move || tell.send(listen_at(&ours).map(drop)));
    let refused = told.recv_timeout(Duration::from_secs(5));
    assert!(
        matches!(refused, Ok(Err(SocketError::InUse(_)))),
        "{refused:?}"
    );
    drop(crowd);
}

#[test]
fn a_client_waits_at_a_crowded_door() {
    use nix::sys::socket::{Backlog, listen};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    listen(&listener, Backlog::new(1).unwrap()).unwrap();
    let crowd = [(), ()].map(|()| UnixStream::connect(&path).unwrap());
    let daemon = std::thread::spawn(move || {
        // Long enough for the client to have been turned away.
        std::thread::sleep(Duration::from_millis(200));
        let mut guests = listener.incoming();
        let waited = [(), ()].map(|()| guests.next().unwrap().unwrap());
        let mut last = guests.next().unwrap().unwrap();
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        assert!(last.read(&mut [0; 1024]).unwrap() > 0);
        last.write_all(answer).unwrap();
        drop(waited);
    });
    let answer = client::request(&path, HttpMethod::Get, "/v1/status").unwrap();
    assert_eq!(answer, serde_json::json!({}));
    daemon.join().unwrap();
    drop(crowd);
}
