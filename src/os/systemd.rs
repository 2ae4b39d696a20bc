//! systemd: readiness, status and watchdog (sd_notify(3)), journal, credentials. Without systemd all functions do nothing.

use std::env;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::stat::fstat;
use sd_notify::NotifyState;

/// Reports that startup is complete.
pub fn ready() {
    notify(&[NotifyState::Ready]);
}

/// Reports that the service stops.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Sets the status line of `systemctl status`.
pub fn status(line: &str) {
    // A newline would start another assignment.
    notify(&[NotifyState::Status(&line.replace('\n', " "))]);
}

/// Sends a watchdog keep-alive, due within [`watchdog_interval`].
pub fn alive() {
    notify(&[NotifyState::Watchdog]);
}

/// Watchdog timeout of the unit; `None` without a watchdog. Keep-alives are due at half of it.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// Whether stderr is connected to the journal, which takes structured fields.
pub fn logs_to_journal() -> bool {
    let stream = env::var("JOURNAL_STREAM").unwrap_or_default();
    fstat(io::stderr()).is_ok_and(|stderr| stream == format!("{}:{}", stderr.st_dev, stderr.st_ino))
}

/// Directory of the `LoadCredential=` files.
pub fn credentials_directory() -> Option<PathBuf> {
    env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from)
}

/// Sends a notification; errors are ignored.
fn notify(state: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(state);
}
