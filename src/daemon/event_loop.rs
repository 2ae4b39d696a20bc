//! Event loop of the daemon: waits for the next event and hands it to the [`ControlPlane`], which handles it before the loop waits again.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};
use tracing::{info, warn};

use super::control_plane::ControlPlane;
use super::lookup::LookupResult;
use super::path_mtu::PathMtuChange;
use super::route_sync::RouteReport;
use crate::control::PendingRequest;
use crate::datapath::Notices;
use crate::ike::Command;
use crate::net::Time;
use crate::os::async_fd::AsyncReadable;
use crate::os::timerfd::Timer;
use crate::os::{clock, systemd};

/// Event loop of a running gateway.
pub(super) struct EventLoop {
    control_plane: ControlPlane,
    sources: EventSources,
}

/// Sources of events.
struct EventSources {
    notices: AsyncReadable<Notices>,
    /// Whether notices may be left from the last turn.
    more_notices: bool,
    timer: AsyncReadable<Timer>,
    routes: mpsc::UnboundedReceiver<RouteReport>,
    routes_ended: bool,
    path_mtus: mpsc::UnboundedReceiver<PathMtuChange>,
    requests: mpsc::Receiver<PendingRequest>,
    lookups: mpsc::Receiver<LookupResult>,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    watchdog: Option<Interval>,
}

/// Event of the loop.
enum LoopEvent {
    /// The datapath has notices.
    Notices,
    /// The timer has expired.
    Timeout,
    /// Routes have been synchronised.
    Routes(RouteReport),
    /// The route synchronisation thread has ended.
    RoutesEnded,
    /// The MTU of a path to a peer has changed.
    PathMtu(PathMtuChange),
    /// Request from the control socket.
    Request(PendingRequest),
    /// Result of a DNS lookup.
    Lookup(LookupResult),
    /// SIGTERM or SIGINT.
    Terminate(&'static str),
    /// SIGHUP.
    Hangup,
    /// A watchdog notification is due.
    Watchdog,
}

/// Upper bound on notices handled in one turn, before other events.
const MAX_NOTICES: usize = 64;

/// Limit on the wait for the first routes at start.
const FIRST_ROUTES_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for DELETE requests to be answered at shutdown.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

impl EventLoop {
    /// Loop over these sources. Must be called inside the runtime.
    ///
    /// # Errors
    /// File descriptors are exhausted.
    pub(super) fn new(
        control_plane: ControlPlane,
        notices: Notices,
        routes: mpsc::UnboundedReceiver<RouteReport>,
        path_mtus: mpsc::UnboundedReceiver<PathMtuChange>,
        requests: mpsc::Receiver<PendingRequest>,
        lookups: mpsc::Receiver<LookupResult>,
    ) -> io::Result<EventLoop> {
        let sources = EventSources {
            notices: AsyncReadable::new(notices)?,
            more_notices: false,
            timer: AsyncReadable::new(Timer::new()?)?,
            routes,
            routes_ended: false,
            path_mtus,
            requests,
            lookups,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            watchdog: systemd::watchdog_interval().map(|limit| {
                let mut watchdog = interval(limit / 2);
                watchdog.set_missed_tick_behavior(MissedTickBehavior::Delay);
                watchdog
            }),
        };
        Ok(EventLoop {
            control_plane,
            sources,
        })
    }

    /// Runs until SIGTERM or SIGINT, then closes the SAs and withdraws the routes into the tunnels.
    pub(super) async fn run(&mut self) {
        self.control_plane.apply();
        // Fail-closed routes and peer routes are in place before the start is reported.
        let routes = timeout(FIRST_ROUTES_TIMEOUT, self.sources.routes.recv());
        if let Ok(Some(report)) = routes.await {
            self.handle(LoopEvent::Routes(report));
        }
        systemd::ready();
        loop {
            self.sources.set_timer(self.control_plane.next_timeout());
            match self.sources.next().await {
                LoopEvent::Terminate(signal) => {
                    info!(signal, "shutting down");
                    break;
                }
                event => self.handle(event),
            }
        }
        systemd::stopping();
        self.shut_down().await;
        self.control_plane.clear();
        info!("groundlink has stopped");
    }

    /// Deletes every SA, and waits for the answers until [`SHUTDOWN_GRACE`] has passed or a second signal comes.
    async fn shut_down(&mut self) {
        let deadline = clock::now() + SHUTDOWN_GRACE;
        self.control_plane.shut_down();
        while !self.control_plane.is_shut_down() && clock::now() < deadline {
            let timer = self.control_plane.next_timeout();
            let timer = timer.map_or(deadline, |timer| timer.min(deadline));
            self.sources.set_timer(Some(timer));
            match self.sources.next().await {
                LoopEvent::Terminate(signal) => {
                    info!(signal, "stopping at once");
                    return;
                }
                // Tunnels are not brought up any more.
                LoopEvent::Request(_) | LoopEvent::Hangup => {}
                event => self.handle(event),
            }
        }
    }

    fn handle(&mut self, event: LoopEvent) {
        match event {
            LoopEvent::Notices => {
                let mut notices = std::iter::from_fn(|| self.sources.notices.get().next());
                let handled = notices
                    .by_ref()
                    .take(MAX_NOTICES)
                    .map(|notice| self.control_plane.on_notice(notice))
                    .count();
                self.sources.more_notices = handled == MAX_NOTICES;
            }
            LoopEvent::Timeout => self.control_plane.on_timeout(),
            LoopEvent::Routes(report) => self.control_plane.on_route_report(&report),
            LoopEvent::RoutesEnded => self.control_plane.on_route_thread_end(),
            LoopEvent::PathMtu(change) => self.control_plane.on_path_mtu(change),
            LoopEvent::Request(request) => self.control_plane.on_request(request),
            LoopEvent::Lookup((tunnel, lookup)) => {
                self.control_plane
                    .command(Command::Resolved { tunnel, lookup });
            }
            LoopEvent::Watchdog => systemd::alive(),
            LoopEvent::Hangup => {
                warn!("reload is not in this version: restart to apply a changed configuration");
            }
            // Ends the loop that received it.
            LoopEvent::Terminate(_) => {}
        }
        self.control_plane.apply();
    }
}

impl EventSources {
    async fn next(&mut self) -> LoopEvent {
        if self.more_notices {
            // Lets the tasks of the control socket run first.
            tokio::task::yield_now().await;
        }
        let more = self.more_notices;
        tokio::select! {
            () = self.notices.ready() => LoopEvent::Notices,
            () = std::future::ready(()), if more => LoopEvent::Notices,
            () = self.timer.ready() => {
                self.timer.get_mut().clear();
                LoopEvent::Timeout
            }
            report = self.routes.recv(), if !self.routes_ended => match report {
                Some(report) => LoopEvent::Routes(report),
                None => {
                    self.routes_ended = true;
                    LoopEvent::RoutesEnded
                }
            },
            Some(change) = self.path_mtus.recv() => LoopEvent::PathMtu(change),
            Some(request) = self.requests.recv() => LoopEvent::Request(request),
            Some(result) = self.lookups.recv() => LoopEvent::Lookup(result),
            _ = self.terminate.recv() => LoopEvent::Terminate("SIGTERM"),
            _ = self.interrupt.recv() => LoopEvent::Terminate("SIGINT"),
            _ = self.hangup.recv() => LoopEvent::Hangup,
            () = tick(self.watchdog.as_mut()) => LoopEvent::Watchdog,
        }
    }

    fn set_timer(&mut self, at: Option<Time>) {
        if let Err(error) = self.timer.get_mut().set(at) {
            warn!(%error, "cannot set the timer");
        }
    }
}

async fn tick(watchdog: Option<&mut Interval>) {
    match watchdog {
        Some(watchdog) => {
            watchdog.tick().await;
        }
        None => std::future::pending().await,
    }
}
