//! Every order in which the messages of a scenario can arrive, one after the other, and every one of them lost once.
//!
//! ```text
//! two requests wait ─┬─ A's arrives: its answer and B's request wait ─┬─ …
//!                    └─ B's arrives: its answer and A's request wait ─┴─ …
//! ```
//!
//! A scenario is run from its beginning for each path through that tree. While it runs ESP goes both ways, so each path is checked for lost packets as well.

use std::time::Duration;

use crate::pair::Pair;

/// Between two arrivals: long enough for ESP over whatever the last one has changed, short enough that nothing is repeated.
const STEP_DELAY: Duration = Duration::from_millis(25);

/// A scenario longer than this has no end.
const MAX_STEPS: usize = 40;

/// How many messages a path may lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Losses {
    None,
    One,
}

/// Orders and losses together are thousands of paths, which an unoptimised build does not walk in reasonable time: there it walks the orders.
pub const ONE_WHEN_FAST: Losses = if cfg!(debug_assertions) {
    Losses::None
} else {
    Losses::One
};

/// Runs `scenario` (which returns with messages waiting) in every order and hands each outcome to `check`. Returns how many there were.
///
/// Among all that wait the first `forks` arrivals are chosen, and after that the oldest is next: a crossed rekey takes eight messages.
pub fn every_order(
    forks: usize,
    losses: Losses,
    scenario: impl Fn() -> Pair,
    mut check: impl FnMut(Pair),
) -> usize {
    // At each fork, the way taken and how many there are.
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
