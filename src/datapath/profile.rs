//! Where the workers' time goes, stage by stage, in ticks of the processor's own counter.
//!
//! ```text
//!   egress    read │ split            │ seal │ split │ seal │ … │ send            split: checks and cutting, too
//!   ingress   receive │ join │ open │ join │ write │ join │ write …            join: finding the SA and checks, too
//! ```
//!
//! A worker stops the time where one stage ends and the next begins, a few times a batch, and adds up at the end of it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::os::cycles;

/// A part of a packet's road.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProfileStep {
    /// Out of a tunnel's device.
    Read,
    /// Checks, and cutting into what fits, where it will be sealed.
    Split,
    /// Encryption and ICV.
    Seal,
    /// Into a socket.
    Send,
    /// Out of a socket.
    Receive,
    /// ICV, replay window, decryption, selectors.
    Open,
    /// Finding the SA, the last checks, and joining what belongs together.
    Join,
    /// Into a tunnel's device.
    Write,
}

impl ProfileStep {
    /// All of them, in the order of the road.
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

    /// Its name in `status`.
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

/// What all workers have spent.
#[derive(Debug, Default)]
pub struct StepTotals([AtomicU64; ProfileStep::ALL.len()]);

impl StepTotals {
    /// Ticks spent in a stage so far; 0 on processors without such a counter.
    pub fn spent(&self, stage: ProfileStep) -> u64 {
        self.0
            .get(stage as usize)
            .map_or(0, |spent| spent.load(Relaxed))
    }
}

/// One worker's clock.
#[derive(Debug, Default)]
pub(super) struct StepTimer {
    last: u64,
    laps: [u64; ProfileStep::ALL.len()],
}

impl StepTimer {
    /// A batch begins.
    pub(super) fn start(&mut self) {
        self.last = cycles::now().unwrap_or(0);
    }

    /// What has passed since the last stop was this.
    pub(super) fn lap(&mut self, stage: ProfileStep) {
        let now = cycles::now().unwrap_or(0);
        if let Some(lap) = self.laps.get_mut(stage as usize) {
            // Another core's counter may be a little behind.
            *lap = lap.saturating_add(now.saturating_sub(self.last));
        }
        self.last = now;
    }

    /// The batch is over.
    pub(super) fn settle(&mut self, step_totals: &StepTotals) {
        for (lap, spent) in self.laps.iter_mut().zip(&step_totals.0) {
            if *lap > 0 {
                spent.fetch_add(std::mem::take(lap), Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn time_goes_to_the_stage_that_it_was_spent_in() {
        let (step_totals, mut watch) = (StepTotals::default(), StepTimer::default());
        let work = || (0..100_000_u64).fold(0, |sum, n| std::hint::black_box(sum ^ n));
        watch.start();
        watch.lap(ProfileStep::Read);
        work();
        watch.lap(ProfileStep::Seal);
        watch.lap(ProfileStep::Send);
        assert_eq!(
            step_totals.spent(ProfileStep::Seal),
            0,
            "nothing is said before the end"
        );
        watch.settle(&step_totals);
        let seal = step_totals.spent(ProfileStep::Seal);
        assert!(
            seal > step_totals.spent(ProfileStep::Read)
                && seal > step_totals.spent(ProfileStep::Send)
        );
        watch.settle(&step_totals);
        assert_eq!(
            step_totals.spent(ProfileStep::Seal),
            seal,
            "and nothing twice"
        );
    }

    #[test]
    fn every_stage_has_its_place_and_its_word() {
        for (place, stage) in ProfileStep::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, place);
        }
        let words: std::collections::BTreeSet<_> = ProfileStep::ALL
            .into_iter()
            .map(ProfileStep::name)
            .collect();
        assert_eq!(words.len(), ProfileStep::ALL.len());
    }
}
