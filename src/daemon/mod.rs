//! The gateway in the foreground: `groundlink run`.
//!
//! ```text
//!   start     config, PSKs ─▶ preflight ─▶ control socket, UDP sockets, devices, routes ─▶ READY
//!   gateway   the one loop: notices · alarm · requests · lookups · signals
//!   core      ─▶ ike::Endpoint ─▶ events, then datagrams
//!   install   a Child SA negotiated ─▶ ESP SAs: where ike meets esp
//!   children  which Child SA of a tunnel sends, which still receive ─▶ tables
//!   routing   which tunnels carry ─▶ route_sync: a thread that keeps carriers and kernel routes, as paths plans them
//!   observe   everything ─▶ one status snapshot
//!   report    an event ─▶ one line in the log
//! ```
//!
//! One thread, tokio's current-thread runtime, no state shared: whatever happens is brought to the engine, and what the engine
//! says is acted upon before anything else is. Events come before datagrams, so that a Child SA is installed before the peer
//! can use it.

mod child_sas;
mod control_plane;
mod event_loop;
mod install;
mod logging;
mod lookup;
mod news;
mod observe;
mod offload_fallback;
mod rekey_loss;
mod report;
mod route_sync;
mod routing;
mod start;
mod start_error;

pub use logging::LogFormat;
pub use start_error::StartError;

use std::path::PathBuf;
use std::time::Duration;

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file.
    pub config: PathBuf,
    /// The control socket, where it is not the configured one.
    pub socket: Option<PathBuf>,
    /// How log lines are written; `None` lets the surroundings decide.
    pub format: Option<LogFormat>,
    /// What is logged: `info`, `debug`, or a filter such as `groundlink::ike=trace`.
    pub level: Option<String>,
}

/// Runs until told to end by SIGTERM or SIGINT.
///
/// # Errors
/// Why it could not start. Once it has started it stays up.
pub fn run(options: &Options) -> Result<(), StartError> {
    let settings = start::configuration(&options.config)?;
    logging::start(options.format, options.level.as_deref())?;
    start::warn(&settings.report, &options.config);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| {
            StartError::start(format!("the event loop cannot be made: {error}"), "")
        })?;
    let result = runtime.block_on(async {
        let mut gateway = start::gateway(settings, options)?;
        gateway.serve().await;
        Ok(())
    });
    // A name server that does not answer must not hold up the end.
    runtime.shutdown_timeout(Duration::ZERO);
    result
}
