//! Daemon: the gateway in the foreground, as `groundlink run` and systemd start it.
//!
//! ```text
//!   start            configuration, keys ─▶ checks ─▶ control socket, UDP sockets, TUN devices, route thread ─▶ event_loop
//!
//!   event_loop       notice of the datapath · timer · route report · request · lookup result · signal
//!     │                                                                                          ▲
//!     ▼                                                                                          │ LookupResult
//!   control_plane    ─▶ ike::Endpoint ─▶ events ─┬─▶ install ─▶ child_sas ─▶ datapath tables     lookup (DNS)
//!     │                                          ├─▶ report (log lines)
//!     │                                          └─▶ routing ─▶ route_sync (thread) ─▶ carriers and kernel routes
//!     │                      ─▶ datagrams ──────────▶ datapath sockets
//!     │                      ─▶ path_mtu (thread) ──▶ inner MTU, MSS, MTU of the devices
//!     ▼
//!   observe          ─▶ status::Snapshot, the reply to a status request
//! ```
//!
//! The loop and the control plane run on one thread, tokio's current-thread runtime. Each event is handled completely before the next one:
//! the IKE endpoint takes it, then its events are carried out, then its datagrams are sent, so that a Child SA is installed before the
//! peer can use it. `tunnels` is the table of the tunnels, indexed so that an event visits only the tunnels that it concerns.

mod child_sas;
mod cleanup;
mod control_plane;
mod event_loop;
mod install;
mod journal;
mod listener;
mod log_queue;
mod logging;
mod lookup;
mod observe;
mod offload_fallback;
mod path_mtu;
mod provision;
mod rekey_loss;
mod report;
mod route_sync;
mod route_warnings;
mod routing;
mod start;
mod start_error;
mod tunnels;
mod unavailable;
mod unmatched;

pub use cleanup::cleanup;
pub use logging::LogFormat;
pub use start::Options;
pub use start_error::StartError;

use std::time::Duration;

/// Upper bound on the wait for the last log lines at exit; the reader of the log may have stopped reading.
const LOG_FLUSH: Duration = Duration::from_millis(200);

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// The start failed. A daemon that has started runs until a signal.
pub fn run(options: &Options) -> Result<(), StartError> {
    let config = start::load(&options.config)?;
    let log = logging::start(options.format, options.level.as_deref())?;
    start::log_findings(&config.report, &options.config);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| StartError::start(format!("cannot create the event loop: {error}"), ""))?;
    let result = runtime.block_on(async {
        let mut event_loop = start::gateway(config, options)?;
        event_loop.run().await;
        Ok(())
    });
    // Lookups that still wait for a name server must not delay the exit.
    runtime.shutdown_timeout(Duration::ZERO);
    log.flush(LOG_FLUSH);
    result
}
