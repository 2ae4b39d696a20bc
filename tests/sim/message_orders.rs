//! Every order in which the messages of a scenario can arrive, and every one of them lost once.
//!
//! ```text
//! two requests wait ─┬─ A's arrives: its answer and B's request wait ─┬─ …
//!                    └─ B's arrives: its answer and A's request wait ─┴─ …
//! ```
//!
//! A scenario runs from its start for each path through the tree. ESP flows in both directions meanwhile, so each path is also
//! checked for lost packets.

use std::time::Duration;

use crate::pair::Pair;

/// Time between two arrivals: long enough for ESP over a changed SA, short enough to avoid retransmissions.
const STEP_DELAY: Duration = Duration::from_millis(25);

/// Upper bound on the steps of a scenario.
const MAX_STEPS: usize = 40;

/// Number of messages that a path may lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Losses {
    None,
    One,
}

/// Orders and losses together are thousands of paths, which take too long in an unoptimised build: there only the orders run.
pub const ONE_WHEN_FAST: Losses = if cfg!(debug_assertions) {
    Losses::None
} else {
    Losses::One
};

/// Runs `scenario` (which returns with messages waiting) in every order, passes each outcome to `check`, and returns the number
/// of paths.
///
/// The first `forks` arrivals vary among all waiting messages; after that the oldest arrives next: a simultaneous rekey takes
/// eight messages.
pub fn every_order(
    forks: usize,
    losses: Losses,
    scenario: impl Fn() -> Pair,
    mut check: impl FnMut(Pair),
) -> usize {
    // The branch taken at each fork and the number of branches.
    let mut path: Vec<(usize, usize)> = Vec::new();
    let mut runs = 0;
    loop {
        let mut pair = scenario();
        let (mut depth, mut lost) = (0, 0);
        while pair.wire.waiting() > 0 {
            let waiting = pair.wire.waiting();
            let may_lose = losses == Losses::One && lost == 0;
            let ways = match (depth < forks, may_lose) {
                (true, true) => waiting * 2,
                (true, false) => waiting,
                (false, _) => 1,
            };
            if depth == path.len() {
                path.push((0, ways));
            }
            let (way, known) = path[depth];
            assert_eq!(known, ways, "the same path twice is not the same");
            let datagram = pair.wire.take_nth(way % waiting);
            if way < waiting {
                pair.deliver_copy(&datagram);
            } else {
                lost += 1;
            }
            pair.run_for(STEP_DELAY);
            depth += 1;
            assert!(depth < MAX_STEPS, "no end on {path:?}");
        }
        check(pair);
        runs += 1;
        while let Some((way, ways)) = path.pop() {
            if way + 1 < ways {
                path.push((way + 1, ways));
                break;
            }
        }
        if path.is_empty() {
            return runs;
        }
    }
}
