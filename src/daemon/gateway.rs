//! The one loop: it waits for whatever happens next and hands it to [`Core`], which acts upon it before the loop waits again.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::{info, warn};

use super::core::Core;
use super::lookup;
use crate::control::Asked;
use crate::datapath::Notices;
use crate::ike::Command;
use crate::net::Time;
use crate::os::alarm::Alarm;
use crate::os::netlink::Changes;
use crate::os::watched::Watched;
use crate::os::{clock, systemd};

/// A running gateway.
pub(super) struct Gateway {
    core: Core,
    sources: Sources,
}

/// What the loop waits for.
struct Sources {
    notices: Watched<Notices>,
    /// Notices are left from the last turn.
    more_notices: bool,
    alarm: Watched<Alarm>,
    network: Watched<Changes>,
    requests: mpsc::Receiver<Asked>,
    answers: mpsc::Receiver<lookup::Answer>,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    watchdog: Option<Interval>,
}

/// What has happened.
enum Happening {
    /// The datapath has something to say.
    Notices,
    /// A time has come.
    Due,
    /// Links, addresses or routes have changed.
    Network,
    /// Somebody at the control socket.
    Asked(Asked),
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

/// How long goodbyes may take.
const PARTING: Duration = Duration::from_secs(1);

impl Gateway {
    /// Must be called inside the runtime.
    ///
    /// # Errors
    /// No descriptor left.
    pub(super) fn new(
        core: Core,
        notices: Notices,
        network: Changes,
        requests: mpsc::Receiver<Asked>,
        answers: mpsc::Receiver<lookup::Answer>,
    ) -> io::Result<Gateway> {
        let sources = Sources {
            notices: Watched::new(notices)?,
            more_notices: false,
            alarm: Watched::new(Alarm::new()?)?,
            network: Watched::new(network)?,
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
        Ok(Gateway { core, sources })
    }

    /// Runs until a signal asks for the end, then says goodbye and takes back what was changed on this machine.
    pub(super) async fn serve(&mut self) {
        self.core.settle();
        systemd::ready();
        loop {
            self.sources.wake_at(self.core.due());
            match self.sources.next().await {
                Happening::End(signal) => {
                    info!(signal, "ending");
                    break;
                }
                Happening::Asked(asked) => self.core.on_request(asked),
                happening @ (Happening::Notices
                | Happening::Due
                | Happening::Network
                | Happening::Found(_)
                | Happening::Hangup
                | Happening::Watchdog) => self.take(happening),
            }
        }
        systemd::stopping();
        self.part().await;
        self.core.clear();
        info!("groundlink has ended");
    }

    /// DELETE for every SA, and the answers as far as they come in time.
    async fn part(&mut self) {
        let until = clock::now() + PARTING;
        self.core.tell(Command::Shutdown);
        self.core.settle();
        while !self.core.has_parted() && clock::now() < until {
            let due = self.core.due().map_or(until, |due| due.min(until));
            self.sources.wake_at(Some(due));
            match self.sources.next().await {
                Happening::End(signal) => {
                    info!(signal, "ending at once");
                    return;
                }
                // Nobody brings a tunnel up any more.
                Happening::Asked(_) | Happening::Hangup | Happening::Network => {}
                happening @ (Happening::Notices
                | Happening::Due
                | Happening::Found(_)
                | Happening::Watchdog) => self.take(happening),
            }
        }
    }

    fn take(&mut self, happening: Happening) {
        match happening {
            Happening::Notices => {
                let mut notices = std::iter::from_fn(|| self.sources.notices.get().next());
                let taken = notices
                    .by_ref()
                    .take(NOTICES_A_TURN)
                    .map(|notice| self.core.on_notice(notice))
                    .count();
                self.sources.more_notices = taken == NOTICES_A_TURN;
            }
            Happening::Due => self.core.on_due(),
            Happening::Network => {
                if self.sources.network.get().clear() {
                    self.core.course.network_changed(clock::now());
                }
            }
            Happening::Found((tunnel, address)) => {
                self.core.tell(Command::Resolved { tunnel, address });
            }
            Happening::Watchdog => systemd::alive(),
            Happening::Hangup => {
                warn!("reloading is not in this version: restart to apply a changed configuration");
            }
            Happening::Asked(_) | Happening::End(_) => {}
        }
        self.core.settle();
    }
}

impl Sources {
    async fn next(&mut self) -> Happening {
        if self.more_notices {
            // Everybody else's turn first, without waiting for them.
            tokio::task::yield_now().await;
        }
        let more = self.more_notices;
        tokio::select! {
            () = self.notices.ready() => Happening::Notices,
            () = std::future::ready(()), if more => Happening::Notices,
            () = self.alarm.ready() => {
                self.alarm.get_mut().clear();
                Happening::Due
            }
            () = self.network.ready() => Happening::Network,
            Some(asked) = self.requests.recv() => Happening::Asked(asked),
            Some(answer) = self.answers.recv() => Happening::Found(answer),
            _ = self.terminate.recv() => Happening::End("SIGTERM"),
            _ = self.interrupt.recv() => Happening::End("SIGINT"),
            _ = self.hangup.recv() => Happening::Hangup,
            () = tick(self.watchdog.as_mut()) => Happening::Watchdog,
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
