//! The one loop: it waits for whatever happens next and hands it to [`ControlPlane`], which acts upon it before the loop waits again.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::{info, warn};

use super::control_plane::ControlPlane;
use super::lookup;
use super::route_sync::RouteReport;
use crate::control::PendingRequest;
use crate::datapath::Notices;
use crate::ike::Command;
use crate::net::Time;
use crate::os::async_fd::AsyncReadable;
use crate::os::timerfd::Timer;
use crate::os::{clock, systemd};

/// A running gateway.
pub(super) struct EventLoop {
    core: ControlPlane,
    sources: EventSources,
}

/// What the loop waits for.
struct EventSources {
    notices: AsyncReadable<Notices>,
    /// Notices are left from the last turn.
    more_notices: bool,
    alarm: AsyncReadable<Timer>,
    routes: mpsc::UnboundedReceiver<RouteReport>,
    requests: mpsc::Receiver<PendingRequest>,
    answers: mpsc::Receiver<lookup::Answer>,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    watchdog: Option<Interval>,
}

/// What has happened.
enum LoopEvent {
    /// The datapath has something to say.
    Notices,
    /// A time has come.
    Due,
    /// The route synchronisation thread has finished an update.
    Routes(RouteReport),
    /// Somebody at the control socket.
    PendingRequest(PendingRequest),
    /// A name was looked up.
    Found(lookup::Answer),
    /// A signal to end.
    End(&'static str),
    /// A signal to reload.
    Hangup,
    /// The service manager wants a sign of life.
    Watchdog,
}

/// Notices acted upon before anything else gets a turn.
const NOTICES_A_TURN: usize = 64;

/// Limit on the wait for the first routes at start.
const FIRST_ROUTES: Duration = Duration::from_secs(5);

/// How long goodbyes may take.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

impl EventLoop {
    /// Must be called inside the runtime.
    ///
    /// # Errors
    /// No descriptor left.
    pub(super) fn new(
        core: ControlPlane,
        notices: Notices,
        routes: mpsc::UnboundedReceiver<RouteReport>,
        requests: mpsc::Receiver<PendingRequest>,
        answers: mpsc::Receiver<lookup::Answer>,
    ) -> io::Result<EventLoop> {
        let sources = EventSources {
            notices: AsyncReadable::new(notices)?,
            more_notices: false,
            alarm: AsyncReadable::new(Timer::new()?)?,
            routes,
            requests,
            answers,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            watchdog: systemd::watchdog_interval().map(|patience| {
                let mut watchdog = interval(patience / 2);
                watchdog.set_missed_tick_behavior(MissedTickBehavior::Delay);
                watchdog
            }),
        };
        Ok(EventLoop { core, sources })
    }

    /// Runs until a signal asks for the end, then says goodbye and takes back what was changed on this machine.
    pub(super) async fn serve(&mut self) {
        self.core.settle();
        // Fail-closed routes and peer routes are in place before the start is reported.
        let first = tokio::time::timeout(FIRST_ROUTES, self.sources.routes.recv());
        if let Ok(Some(report)) = first.await {
            self.take(LoopEvent::Routes(report));
        }
        systemd::ready();
        loop {
            self.sources.wake_at(self.core.due());
            match self.sources.next().await {
                LoopEvent::End(signal) => {
                    info!(signal, "ending");
                    break;
                }
                LoopEvent::PendingRequest(asked) => self.core.on_request(asked),
                event @ (LoopEvent::Notices
                | LoopEvent::Due
                | LoopEvent::Routes(_)
                | LoopEvent::Found(_)
                | LoopEvent::Hangup
                | LoopEvent::Watchdog) => self.take(event),
            }
        }
        systemd::stopping();
        self.part().await;
        self.core.clear();
        info!("groundlink has ended");
    }

    /// DELETE for every SA, and the answers as far as they come in time.
    async fn part(&mut self) {
        let until = clock::now() + SHUTDOWN_GRACE;
        self.core.tell(Command::Shutdown);
        self.core.settle();
        while !self.core.has_parted() && clock::now() < until {
            let due = self.core.due().map_or(until, |due| due.min(until));
            self.sources.wake_at(Some(due));
            match self.sources.next().await {
                LoopEvent::End(signal) => {
                    info!(signal, "ending at once");
                    return;
                }
                // Nobody brings a tunnel up any more.
                LoopEvent::PendingRequest(_) | LoopEvent::Hangup => {}
                event @ (LoopEvent::Notices
                | LoopEvent::Due
                | LoopEvent::Routes(_)
                | LoopEvent::Found(_)
                | LoopEvent::Watchdog) => self.take(event),
            }
        }
    }

    fn take(&mut self, event: LoopEvent) {
        match event {
            LoopEvent::Notices => {
                let mut notices = std::iter::from_fn(|| self.sources.notices.get().next());
                let taken = notices
                    .by_ref()
                    .take(NOTICES_A_TURN)
                    .map(|notice| self.core.on_notice(notice))
                    .count();
                self.sources.more_notices = taken == NOTICES_A_TURN;
            }
            LoopEvent::Due => self.core.on_due(),
            LoopEvent::Routes(report) => self.core.on_route_report(&report),
            LoopEvent::Found((tunnel, address)) => {
                self.core.tell(Command::Resolved { tunnel, address });
            }
            LoopEvent::Watchdog => systemd::alive(),
            LoopEvent::Hangup => {
                warn!("reloading is not in this version: restart to apply a changed configuration");
            }
            LoopEvent::PendingRequest(_) | LoopEvent::End(_) => {}
        }
        self.core.settle();
    }
}

impl EventSources {
    async fn next(&mut self) -> LoopEvent {
        if self.more_notices {
            // Everybody else's turn first, without waiting for them.
            tokio::task::yield_now().await;
        }
        let more = self.more_notices;
        tokio::select! {
            () = self.notices.ready() => LoopEvent::Notices,
            () = std::future::ready(()), if more => LoopEvent::Notices,
            () = self.alarm.ready() => {
                self.alarm.get_mut().clear();
                LoopEvent::Due
            }
            Some(report) = self.routes.recv() => LoopEvent::Routes(report),
            Some(asked) = self.requests.recv() => LoopEvent::PendingRequest(asked),
            Some(answer) = self.answers.recv() => LoopEvent::Found(answer),
            _ = self.terminate.recv() => LoopEvent::End("SIGTERM"),
            _ = self.interrupt.recv() => LoopEvent::End("SIGINT"),
            _ = self.hangup.recv() => LoopEvent::Hangup,
            () = tick(self.watchdog.as_mut()) => LoopEvent::Watchdog,
        }
    }

    fn wake_at(&mut self, due: Option<Time>) {
        if let Err(error) = self.alarm.get_mut().set(due) {
            warn!(%error, "the alarm cannot be set");
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
