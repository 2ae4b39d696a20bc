//! The thread around a worker: sleep until there is something to do, do it, and end when told.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crate::net::Time;
use crate::os::clock;
use crate::os::poll::{Ready, Signal, Waiter};

/// What a worker does when woken.
pub(super) trait Work: Send + 'static {
    /// Takes one batch from each input that is ready, and looks after what has waited for its time or for the control plane.
    fn turn(&mut self, ready: &Ready, now: Time) -> PollOutcome;

    /// When it has something to do even if nothing comes in.
    fn wake_at(&self) -> Option<Time>;

    /// The turn that began at `now` has ended in a panic.
    fn on_panic(&mut self, _now: Time) {}
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PollOutcome {
    /// A batch was full: there may be more.
    More,
    /// The inputs were emptied.
    Done,
    /// An input is in trouble: it would be ready again at once, and in trouble again.
    Backoff,
}

/// A running worker. Dropping it ends the thread and waits for that.
#[derive(Debug)]
pub(super) struct Worker {
    stop: Arc<AtomicBool>,
    waker: Signal,
    thread: Option<JoinHandle<()>>,
}

/// A worker that has on_panic, or has an input in trouble, does not go on as fast as it can.
const REST: Duration = Duration::from_millis(50);

impl Worker {
    /// Starts `work` in a thread of this name, woken by `waiter`'s signal and whenever one of the inputs it watches is readable.
    pub(super) fn spawn(
        name: String,
        waiter: Arc<Waiter>,
        mut work: impl Work,
    ) -> io::Result<Worker> {
        let (stop, waker) = (Arc::new(AtomicBool::new(false)), waiter.waker());
        let stopped = Arc::clone(&stop);
        let run = move || {
            let mut turn = PollOutcome::Done;
            while !stopped.load(Ordering::Acquire) {
                let timeout = match turn {
                    PollOutcome::More => Some(Duration::ZERO),
                    PollOutcome::Done | PollOutcome::Backoff => {
                        work.wake_at().map(|at| at.since(clock::now()))
                    }
                };
                let Ok(ready) = waiter.wait(timeout) else {
                    std::thread::sleep(REST);
                    continue;
                };
                // A panic costs one batch, not the tunnel: every batch starts afresh, and nothing else is half done between turns.
                let now = clock::now();
                let outcome = catch_unwind(AssertUnwindSafe(|| work.turn(&ready, now)));
                turn = outcome.unwrap_or_else(|_| {
                    work.on_panic(now);
                    std::thread::sleep(REST);
                    PollOutcome::More
                });
                if turn == PollOutcome::Backoff {
                    std::thread::sleep(REST);
                }
            }
        };
        let thread = Builder::new().name(name).spawn(run)?;
        Ok(Worker {
            stop,
            waker,
            thread: Some(thread),
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.waker.set();
        if let Some(thread) = self.thread.take() {
            // A panic outside a turn has been printed; there is nothing left to end.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};
    use std::time::Instant;

    /// Counts its turns and panics in the first.
    struct Stumbling(u32, Sender<u32>);

    impl Work for Stumbling {
        fn turn(&mut self, _ready: &Ready, _now: Time) -> PollOutcome {
            self.0 += 1;
            let _ = self.1.send(self.0);
            assert!(
                self.0 > 1,
                "the first turn stumbles (this test wants it so)"
            );
            PollOutcome::Done
        }

        fn wake_at(&self) -> Option<Time> {
            None
        }

        fn on_panic(&mut self, _now: Time) {
            self.0 = 10;
        }
    }

    /// Cannot do what it should.
    struct Troubled(Sender<Instant>);

    impl Work for Troubled {
        fn turn(&mut self, _ready: &Ready, _now: Time) -> PollOutcome {
            let _ = self.0.send(Instant::now());
            PollOutcome::Backoff
        }

        fn wake_at(&self) -> Option<Time> {
            Some(Time::ZERO)
        }
    }

    #[test]
    fn a_worker_with_an_input_in_trouble_rests_between_its_turns() {
        let (sender, turns) = channel();
        let waiter = Arc::new(Waiter::new().unwrap());
        let worker = Worker::spawn("troubled".into(), waiter, Troubled(sender)).unwrap();
        let [first, second, third] = [(); 3].map(|()| turns.recv().unwrap());
        assert!(second - first >= REST && third - second >= REST);
        drop(worker);
    }

    #[test]
    fn a_turn_that_panics_is_not_the_last() {
        let (sender, turns) = channel();
        let waiter = Arc::new(Waiter::new().unwrap());
        let waker = waiter.waker();
        waker.set();
        let worker = Worker::spawn("stumbling".into(), waiter, Stumbling(0, sender)).unwrap();
        assert_eq!((turns.recv(), turns.recv()), (Ok(1), Ok(11)));
        drop(worker);
        assert!(turns.iter().count() <= 1, "the thread has ended");
    }
}
