//! Being a systemd service: readiness, status and watchdog (sd_notify(3)), the journal, credentials. Without systemd all of it is
//! nothing.

use std::env;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::stat::fstat;
use sd_notify::NotifyState;

/// The tunnels have been set in motion; what waits for us may start.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// We have begun to stop.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// One line for `systemctl status`.
pub fn status(line: &str) {
    // A newline would begin another assignment.
    tell(&[NotifyState::Status(&line.replace('\n', " "))]);
}

/// A sign of life, to be given well within [`watchdog_interval`].
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How long systemd waits for a sign of life before it kills us; `None`: it does not wait. Give one twice as often.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// Whether what we write to stderr goes straight into the journal, which then wants fields and not text.
pub fn logs_to_journal() -> bool {
    let stream = env::var("JOURNAL_STREAM").unwrap_or_default();
    fstat(io::stderr()).is_ok_and(|stderr| stream == format!("{}:{}", stderr.st_dev, stderr.st_ino))
}

/// Where the unit's `LoadCredential=` files are.
pub fn credentials_directory() -> Option<PathBuf> {
    env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from)
}

/// Nobody listening, or not any longer, is no reason to stop.
fn tell(state: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(state);
}
