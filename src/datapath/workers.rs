//! The worker threads of both directions, and which of them serves what.
//!
//! ```text
//!   egress 0    device 0 · device 2 · …                        egress n: as many as there are cores, at most MAX_EGRESS
//!   egress 1    device 1 · device 3 · …
//!   ingress 0   of every address: port 500, socket 0 of port 4500, native ESP
//!   ingress 1   of every address: socket 1 of port 4500        ingress n: the sockets that share one port 4500
//! ```
//!
//! A worker sleeps until one of its sources is readable, takes a batch of each through all steps, and sleeps again. Its buffers serve all
//! its sources, so an idle tunnel or address costs an entry in a map. The two directions have threads of their own, so that a download
//! does not delay the upload of the same tunnel.
//!
//! One worker alone reads a tunnel's device and seals for its outbound SAs: its packets leave in the order in which they came.

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle, available_parallelism};
use std::time::Duration;

use super::egress::{EgressScratch, TunnelEgress};
use super::ingress::{Ingress, SocketEntry};
use super::profile::StepTotals;
use super::tables::{ReadOutcome, TunnelShared};
use crate::net::Time;
use crate::os::clock;
use crate::os::poll::{Ready, Signal, Waiter};

/// All workers. Dropping the pool ends them.
#[derive(Default)]
pub(super) struct WorkerPool {
    egress: Vec<Worker>,
    ingress: Vec<Worker>,
    /// Every source gets a token of its own, so that a late wake-up never means another source.
    next_token: u32,
    totals: Arc<StepTotals>,
}

/// Where a tunnel is served.
#[derive(Clone, Copy, Debug)]
pub(super) struct TunnelSlot {
    worker: usize,
    token: u32,
}

/// A running worker. Dropping it ends the thread and waits for it.
struct Worker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    waiter: Arc<Waiter>,
    sources: Arc<Sources>,
}

/// The sources of one worker by the tokens under which they are watched. The lock is held for a lookup once a batch.
type Sources = Mutex<BTreeMap<u32, Source>>;

#[derive(Clone)]
enum Source {
    /// A tunnel's device. Empty once the tunnel is removed. Only its worker takes the lock, once a batch, and the control plane when
    /// the tunnel is removed.
    Tunnel(Arc<Mutex<Option<TunnelEgress>>>),
    Socket(Arc<SocketEntry>),
}

/// Upper bound on egress threads; more would only contend for the socket locks.
const MAX_EGRESS: usize = 8;

impl WorkerPool {
    /// Ticks that all workers have spent, by step.
    pub(super) fn step_totals(&self) -> &Arc<StepTotals> {
        &self.totals
    }

    /// Serves a tunnel with the egress worker that has the fewest, or a new worker while there are cores for it. `tunnel` makes the
    /// tunnel from what wakes the worker; `egress` makes the worker's part of it. `ingress` makes that of a new worker.
    ///
    /// # Errors
    /// No thread or descriptor left.
    pub(super) fn add_tunnel(
        &mut self,
        ingress: impl FnOnce() -> Ingress,
        tunnel: impl FnOnce(Signal) -> Arc<TunnelShared>,
        egress: impl FnOnce(Arc<TunnelShared>) -> TunnelEgress,
    ) -> io::Result<(TunnelSlot, Arc<TunnelShared>)> {
        let cores = available_parallelism().map_or(1, |cores| cores.get().min(MAX_EGRESS));
        if self.egress.len() < cores {
            let name = format!("egress {}", self.egress.len());
            self.egress
                .push(Worker::serving(name, ingress(), &self.totals)?);
        }
        let load = |(_, worker): &(usize, &Worker)| lock(&worker.sources).len();
        let workers = self.egress.iter().enumerate();
        let (index, worker) = workers.min_by_key(load).ok_or(io::ErrorKind::NotFound)?;
        let slot = TunnelSlot {
            worker: index,
            token: self.next_token,
        };
        self.next_token = self.next_token.wrapping_add(1);
        let tunnel = tunnel(worker.waiter.waker());
        let source = Source::Tunnel(Arc::new(Mutex::new(Some(egress(Arc::clone(&tunnel))))));
        lock(&worker.sources).insert(slot.token, source);
        if let Err(error) = worker.waiter.watch(tunnel.device.as_fd(), slot.token) {
            self.remove_tunnel(slot);
            return Err(error);
        }
        Ok((slot, tunnel))
    }

    /// Ends the service of a tunnel. No worker holds any part of it afterwards.
    pub(super) fn remove_tunnel(&self, slot: TunnelSlot) {
        let Some(worker) = self.egress.get(slot.worker) else {
            return;
        };
        let Some(Source::Tunnel(source)) = lock(&worker.sources).remove(&slot.token) else {
            return;
        };
        // The lock is free once the worker's current batch ends.
        if let Some(egress) = lock(&source).take() {
            // A device that failed is not watched.
            let _ = worker.waiter.forget(egress.tunnel().device.as_fd());
        }
    }

    /// Serves a socket with ingress worker `number`, or with a new worker if there are fewer. `ingress` makes the part of a new worker.
    ///
    /// # Errors
    /// No thread or descriptor left.
    pub(super) fn add_socket(
        &mut self,
        number: usize,
        entry: SocketEntry,
        ingress: impl FnOnce() -> Ingress,
    ) -> io::Result<()> {
        let number = number.min(self.ingress.len());
        if number == self.ingress.len() {
            let name = format!("ingress {number}");
            self.ingress
                .push(Worker::serving(name, ingress(), &self.totals)?);
        }
        let worker = self.ingress.get(number).ok_or(io::ErrorKind::NotFound)?;
        let token = self.next_token;
        self.next_token = self.next_token.wrapping_add(1);
        let socket = Arc::clone(&entry.socket);
        lock(&worker.sources).insert(token, Source::Socket(Arc::new(entry)));
        worker.waiter.watch(socket.as_fd(), token)
    }

    /// The number of workers that serve sockets.
    #[cfg(test)]
    pub(super) fn ingress_workers(&self) -> usize {
        self.ingress.len()
    }
}

impl Worker {
    /// Starts a worker without sources.
    fn serving(name: String, ingress: Ingress, totals: &Arc<StepTotals>) -> io::Result<Worker> {
        let (waiter, sources) = (Arc::new(Waiter::new()?), Arc::<Sources>::default());
        let service = Service {
            waiter: Arc::clone(&waiter),
            sources: Arc::clone(&sources),
            egress: EgressScratch::new(Arc::clone(totals)),
            ingress,
            deadlines: BTreeMap::new(),
            current: None,
        };
        Worker::spawn(name, waiter, sources, service)
    }

    fn spawn(
        name: String,
        waiter: Arc<Waiter>,
        sources: Arc<Sources>,
        mut work: impl Work,
    ) -> io::Result<Worker> {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, wait) = (Arc::clone(&stop), Arc::clone(&waiter));
        let run = move || {
            let mut outcome = PollOutcome::Done;
            while !stopped.load(Ordering::Acquire) {
                outcome = poll(&wait, &mut work, outcome);
            }
        };
        let thread = Builder::new().name(name).spawn(run)?;
        Ok(Worker {
            stop,
            thread: Some(thread),
            waiter,
            sources,
        })
    }
}

/// Sleeps until there is work after `last`, and does it.
fn poll(waiter: &Waiter, work: &mut impl Work, last: PollOutcome) -> PollOutcome {
    let timeout = match last {
        PollOutcome::More => Some(Duration::ZERO),
        PollOutcome::Done | PollOutcome::Backoff => work.wake_at().map(|at| at.since(clock::now())),
    };
    let Ok(ready) = waiter.wait(timeout) else {
        std::thread::sleep(BACKOFF);
        return last;
    };
    // A panic costs one batch, not the tunnel: every batch starts afresh.
    let now = clock::now();
    let turn = catch_unwind(AssertUnwindSafe(|| work.turn(&ready, now)));
    let outcome = turn.unwrap_or_else(|_| {
        work.on_panic(now);
        std::thread::sleep(BACKOFF);
        PollOutcome::More
    });
    if outcome == PollOutcome::Backoff {
        std::thread::sleep(BACKOFF);
    }
    outcome
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.waiter.waker().set();
        if let Some(thread) = self.thread.take() {
            // The panic hook has printed a panic outside a turn.
            let _ = thread.join();
        }
    }
}

/// What a worker does when it wakes up.
trait Work: Send + 'static {
    /// Takes one batch of each source that is ready, and serves the deadlines that have passed.
    fn turn(&mut self, ready: &Ready, now: Time) -> PollOutcome;

    /// The next deadline.
    fn wake_at(&self) -> Option<Time>;

    /// Restores what a panic in a turn has left.
    fn on_panic(&mut self, now: Time);
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PollOutcome {
    /// A batch was full: more may wait.
    More,
    /// The sources were emptied.
    Done,
    /// A socket failed and no other source had anything. It would be readable at once, and fail again.
    Backoff,
}

/// How long a worker rests after a panic or a failure, and the first pause of a device that cannot be read.
const BACKOFF: Duration = Duration::from_millis(50);

/// The longest pause of a device that cannot be read: one that was removed costs a system call a second.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// The work on a worker's sources.
struct Service {
    waiter: Arc<Waiter>,
    sources: Arc<Sources>,
    egress: EgressScratch,
    ingress: Ingress,
    /// Tunnels that have work even if their device is not readable.
    deadlines: BTreeMap<u32, Deadline>,
    /// The tunnel whose batch is running.
    current: Option<u32>,
}

/// When a tunnel has work without being readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deadline {
    /// Trapped packets expire, unless an SA comes first.
    TrapQueue(Time),
    /// The device failed and is tried again, after a pause of this length.
    Retry(Time, Duration),
}

impl Deadline {
    fn at(self) -> Time {
        match self {
            Deadline::TrapQueue(at) | Deadline::Retry(at, _) => at,
        }
    }

    /// The next try of a device that failed. Each pause is twice as long as the one before.
    #[cold]
    #[allow(clippy::arithmetic_side_effects, reason = "time saturates")]
    fn retry(before: Option<Deadline>, now: Time) -> Deadline {
        let pause = match before {
            Some(Deadline::Retry(_, pause)) => pause.saturating_mul(2).min(MAX_PAUSE),
            Some(Deadline::TrapQueue(_)) | None => BACKOFF,
        };
        Deadline::Retry(now + pause, pause)
    }
}

impl Work for Service {
    fn turn(&mut self, ready: &Ready, now: Time) -> PollOutcome {
        let (mut more, mut received, mut failed) = (false, false, false);
        for token in ready.tokens() {
            let source = lock(&self.sources).get(token).cloned();
            let outcome = match source {
                Some(Source::Tunnel(_)) => self.serve_tunnel(*token, now),
                Some(Source::Socket(entry)) => {
                    let outcome = self.ingress.run_batch(&entry, now);
                    failed |= outcome == ReadOutcome::Failed;
                    outcome
                }
                None => ReadOutcome::Empty,
            };
            more |= outcome == ReadOutcome::More;
            received |= matches!(outcome, ReadOutcome::More | ReadOutcome::Done);
        }
        // Trapped packets are looked at after a wake-up, too: their SA may have come.
        let due = |deadline: &Deadline| match deadline {
            Deadline::TrapQueue(at) => ready.woken || *at <= now,
            Deadline::Retry(at, _) => *at <= now,
        };
        let deadlines = self.deadlines.iter();
        let due: Vec<u32> = deadlines
            .filter(|(_, deadline)| due(deadline))
            .map(|(token, _)| *token)
            .collect();
        for token in due {
            self.serve_tunnel(token, now);
        }
        if failed && !received {
            PollOutcome::Backoff
        } else if more {
            PollOutcome::More
        } else {
            PollOutcome::Done
        }
    }

    fn wake_at(&self) -> Option<Time> {
        self.deadlines.values().map(|deadline| deadline.at()).min()
    }

    fn on_panic(&mut self, now: Time) {
        // The tunnel may have trapped a packet without a deadline yet, and the wake-up was for every trap queue.
        if let Some(token) = self.current.take() {
            let deadline = Deadline::TrapQueue(now);
            self.deadlines.entry(token).or_insert(deadline);
        }
        for deadline in self.deadlines.values_mut() {
            if let Deadline::TrapQueue(at) = deadline {
                *at = now;
            }
        }
    }
}

impl Service {
    /// Takes one batch of a tunnel's device. The tunnel's deadline stays until the next one is known, since a batch may panic.
    fn serve_tunnel(&mut self, token: u32, now: Time) -> ReadOutcome {
        let source = lock(&self.sources).get(&token).cloned();
        let Some(Source::Tunnel(source)) = source else {
            self.deadlines.remove(&token);
            return ReadOutcome::Empty;
        };
        let mut egress = lock(&source);
        let Some(egress) = egress.as_mut() else {
            self.deadlines.remove(&token);
            return ReadOutcome::Empty;
        };
        self.current = Some(token);
        let before = self.deadlines.get(&token).copied();
        let watched = match before {
            Some(Deadline::Retry(..)) => watch_again(&self.waiter, egress, token),
            Some(Deadline::TrapQueue(_)) | None => Ok(()),
        };
        let outcome = egress.run_batch(&mut self.egress, now);
        let failed = outcome == ReadOutcome::Failed;
        let deadline = if failed || watched.is_err() {
            if failed {
                // A failed device stays readable, and would wake the worker without end.
                let _ = self.waiter.forget(egress.tunnel().device.as_fd());
            }
            egress.count_failure();
            Some(Deadline::retry(before, now))
        } else {
            egress.wake_at().map(Deadline::TrapQueue)
        };
        match deadline {
            Some(deadline) => self.deadlines.insert(token, deadline),
            None => before.and_then(|_| self.deadlines.remove(&token)),
        };
        self.current = None;
        outcome
    }
}

/// Watches a device again after a pause. A device that is watched already is no error: its batch has panicked since.
#[cold]
fn watch_again(waiter: &Waiter, egress: &TunnelEgress, token: u32) -> io::Result<()> {
    match waiter.watch(egress.tunnel().device.as_fd(), token) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Locks. A panic of another holder is no reason to fail: every batch starts afresh.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
