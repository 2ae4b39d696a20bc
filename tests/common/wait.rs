//! Waits with a deadline, for tests that watch processes, namespaces and peers from outside.

use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Pause between two looks at a condition.
const POLL: Duration = Duration::from_millis(5);

/// Looks at `state` until it is `Ok`, and returns its value.
///
/// # Panics
/// With the last `Err` if that takes longer than `limit`.
#[track_caller]
pub fn until<T>(limit: Duration, what: &str, mut state: impl FnMut() -> Result<T, String>) -> T {
    let begin = Instant::now();
    loop {
        match state() {
            Ok(value) => return value,
            Err(last) => assert!(
                begin.elapsed() < limit,
                "not within {limit:?}: {what}\n{last}"
            ),
        }
        std::thread::sleep(POLL);
    }
}

/// The exit status of a child process, which is killed if it runs longer than `limit`.
#[track_caller]
pub fn exit(child: &mut Child, limit: Duration) -> ExitStatus {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if begin.elapsed() > limit {
            let _ = child.kill();
            let _ = child.wait();
            panic!("process {} runs for longer than {limit:?}", child.id());
        }
        std::thread::sleep(POLL);
    }
}

/// What a command prints and how it ends; it is killed if it runs longer than `limit`.
#[track_caller]
pub fn output(command: &mut Command, limit: Duration) -> Output {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let id = Pid::from_raw(child.id().try_into().unwrap());
    let (done, ended) = mpsc::channel::<()>();
    let guard = std::thread::spawn(move || {
        let late = ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
        if late {
            let _ = kill(id, Signal::SIGKILL);
        }
        late
    });
    let output = child.wait_with_output().unwrap();
    drop(done);
    let late = guard.join().unwrap();
    assert!(
        !late,
        "{command:?} runs for longer than {limit:?}: {output:?}"
    );
    output
}
