//! Profile of the packet workers: ticks of the processor's time stamp counter, by processing step.
//!
//! ```text
//!   egress    read │ split │ seal │ split │ seal │ … │ send            split includes the checks
//!   ingress   receive │ join │ open │ join │ write │ join │ …          join includes the SA lookup and the checks
//! ```
//!
//! A guard of [`batch`] covers a batch, a guard of [`enter`] one step inside the batch. Ticks belong to the innermost step. The timer is
//! local to the thread, so no function passes it on.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::os::clock;

/// A processing step of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProfileStep {
    /// Reads from the tunnel's device.
    Read,
    /// Checks a packet and splits it into payloads of the outgoing batch.
    Split,
    /// Encrypts and computes the ICV.
    Seal,
    /// Sends through a socket.
    Send,
    /// Receives from a socket.
    Receive,
    /// Checks ICV and replay window, decrypts, checks the selectors.
    Open,
    /// Finds the SA, checks the inner packet and coalesces it with others.
    Join,
    /// Writes into the tunnel's device.
    Write,
}

impl ProfileStep {
    /// All steps, egress first, in packet order.
    pub const ALL: [ProfileStep; 8] = [
        ProfileStep::Read,
        ProfileStep::Split,
        ProfileStep::Seal,
        ProfileStep::Send,
        ProfileStep::Receive,
        ProfileStep::Open,
        ProfileStep::Join,
        ProfileStep::Write,
    ];

    /// The step's name in `status`.
    pub const fn name(self) -> &'static str {
        match self {
            ProfileStep::Read => "read",
            ProfileStep::Split => "split",
            ProfileStep::Seal => "seal",
            ProfileStep::Send => "send",
            ProfileStep::Receive => "receive",
            ProfileStep::Open => "open",
            ProfileStep::Join => "join",
            ProfileStep::Write => "write",
        }
    }
}

/// Ticks that all workers have spent, by step.
#[derive(Debug, Default)]
pub struct StepTotals([AtomicU64; ProfileStep::ALL.len()]);

impl StepTotals {
    /// Ticks spent in a step so far; 0 on processors without a time stamp counter.
    pub fn spent(&self, step: ProfileStep) -> u64 {
        self.0
            .get(step as usize)
            .map_or(0, |spent| spent.load(Relaxed))
    }
}

/// The timer of one worker thread.
struct StepTimer {
    step: Cell<ProfileStep>,
    since: Cell<u64>,
    ticks: [Cell<u64>; ProfileStep::ALL.len()],
}

thread_local! {
    static TIMER: StepTimer = const {
        StepTimer {
            step: Cell::new(ProfileStep::Split),
            since: Cell::new(0),
            ticks: [const { Cell::new(0) }; ProfileStep::ALL.len()],
        }
    };
}

impl StepTimer {
    /// Adds the ticks since the last switch to the current step, and makes `next` current. Returns the former step.
    fn switch(&self, next: ProfileStep) -> ProfileStep {
        let now = clock::cycles().unwrap_or(0);
        let step = self.step.replace(next);
        let since = self.since.replace(now);
        if let Some(ticks) = self.ticks.get(step as usize) {
            // The counter of another core may be slightly behind.
            ticks.set(ticks.get().saturating_add(now.saturating_sub(since)));
        }
        step
    }
}

/// Guard of one step. Dropping it returns to the enclosing step.
#[must_use]
pub(super) struct StepGuard {
    enclosing: ProfileStep,
}

/// Starts a step inside the current one.
#[inline]
pub(super) fn enter(step: ProfileStep) -> StepGuard {
    StepGuard {
        enclosing: TIMER.with(|timer| timer.switch(step)),
    }
}

impl Drop for StepGuard {
    fn drop(&mut self) {
        TIMER.with(|timer| timer.switch(self.enclosing));
    }
}

/// Guard of one batch. Dropping it adds the batch's ticks to the totals.
#[must_use]
pub(super) struct BatchGuard<'t> {
    totals: &'t StepTotals,
}

/// Starts a batch; `step` is current outside all guards of [`enter`].
pub(super) fn batch(step: ProfileStep, totals: &StepTotals) -> BatchGuard<'_> {
    TIMER.with(|timer| {
        timer.step.set(step);
        timer.since.set(clock::cycles().unwrap_or(0));
    });
    BatchGuard { totals }
}

impl Drop for BatchGuard<'_> {
    fn drop(&mut self) {
        TIMER.with(|timer| {
            timer.switch(timer.step.get());
            for (ticks, spent) in timer.ticks.iter().zip(&self.totals.0) {
                let ticks = ticks.take();
                if ticks > 0 {
                    spent.fetch_add(ticks, Relaxed);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn ticks_belong_to_the_innermost_step_and_are_added_once_at_the_end_of_the_batch() {
        let totals = StepTotals::default();
        let work = |count: u64| (0..count).fold(0, |sum, n| std::hint::black_box(sum ^ n));
        let guard = batch(ProfileStep::Split, &totals);
        drop(enter(ProfileStep::Read));
        {
            let _step = enter(ProfileStep::Seal);
            work(100_000);
        }
        assert_eq!(totals.spent(ProfileStep::Seal), 0, "not before the end");
        drop(guard);
        let seal = totals.spent(ProfileStep::Seal);
        let others = [ProfileStep::Read, ProfileStep::Split];
        assert!(others.iter().all(|step| seal > totals.spent(*step)));
        drop(batch(ProfileStep::Join, &totals));
        assert_eq!(totals.spent(ProfileStep::Seal), seal, "added once");
    }

    #[test]
    fn all_holds_every_step_at_its_own_index_under_its_own_name() {
        for (index, step) in ProfileStep::ALL.into_iter().enumerate() {
            assert_eq!(step as usize, index);
        }
        let names = ProfileStep::ALL.into_iter().map(ProfileStep::name);
        let names: std::collections::BTreeSet<_> = names.collect();
        assert_eq!(names.len(), ProfileStep::ALL.len());
    }
}
