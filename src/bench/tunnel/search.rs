//! The highest rate that is carried: halving, on a logarithmic scale.
//!
//! ```text
//!   low ──────────────────┬─────────── high        carried up to low, not at high
//!                  √(low·high): carried?
//!                       yes │ no
//!             low ◀─────────┘ └─────────▶ high     until the two are close
//! ```

/// Below this no search goes.
const LEAST: f64 = 500.0;

/// The two ends are close.
const CLOSE: f64 = 1.03;

/// What is known so far.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct RateSearch {
    low: Option<f64>,
    high: f64,
    /// Where to look next, if not in the middle.
    guess: Option<f64>,
    /// How often too much was lost before anything was carried.
    falls: u32,
}

impl RateSearch {
    /// A search below `high`, which was too much, beginning at `guess`.
    pub(super) fn new(high: f64, guess: f64) -> RateSearch {
        RateSearch {
            low: None,
            high,
            guess: (LEAST < guess && guess < high / CLOSE).then_some(guess),
            falls: 0,
        }
    }

    /// The rate to try next; `None` when the highest is known.
    pub(super) fn next(&self) -> Option<f64> {
        let low = self.low.unwrap_or(LEAST);
        if self.high / low < CLOSE {
            return None;
        }
        Some(self.guess.unwrap_or_else(|| (low * self.high).sqrt()))
    }

    /// `rate` was tried.
    pub(super) fn learn(&mut self, rate: f64, outcome: TrialOutcome) {
        self.guess = None;
        match outcome {
            TrialOutcome::Carried => self.low = Some(self.low.map_or(rate, |low| low.max(rate))),
            TrialOutcome::Lost => {
                self.high = self.high.min(rate);
                // While nothing is known to be carried, the limit is rather a bit lower than next to nothing.
                if self.low.is_none() {
                    let step = if self.falls == 0 { 0.8 } else { 0.5 };
                    self.guess = Some(rate * step).filter(|guess| *guess > LEAST);
                    self.falls += 1;
                }
            }
        }
    }

    /// The highest rate that was carried, if any was.
    pub(super) fn carried(&self) -> Option<f64> {
        self.low
    }
}

/// How a trial ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TrialOutcome {
    /// Hardly anything was lost.
    Carried,
    /// Too much was.
    Lost,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How a machine that carries up to `limit` is searched: what is found, and in how many trials.
    fn found(limit: f64, high: f64, guess: f64) -> (Option<f64>, u32) {
        let mut search = RateSearch::new(high, guess);
        let mut trials = 0;
        while let Some(rate) = search.next() {
            let outcome = if rate <= limit {
                TrialOutcome::Carried
            } else {
                TrialOutcome::Lost
            };
            search.learn(rate, outcome);
            trials += 1;
            assert!(trials < 40, "{search:?}");
        }
        (search.carried(), trials)
    }

    #[test]
    fn the_limit_is_found_within_three_percent_in_a_dozen_trials() {
        for limit in [1_000.0, 14_000.0, 56_000.0, 290_000.0] {
            for guess in [0.0, limit * 0.9, limit * 1.3, 1e9] {
                let (rate, trials) = found(limit, 300_000.0, guess);
                let rate = rate.unwrap();
                assert!((limit / CLOSE..=limit).contains(&rate), "{limit}: {rate}");
                assert!(trials <= 14, "{limit} {guess}: {trials}");
            }
        }
    }

    #[test]
    fn where_nothing_is_carried_there_is_no_rate() {
        assert_eq!(found(0.0, 300_000.0, 20_000.0).0, None);
    }
}
