//! How far a bench is: a bar that is redrawn on a terminal, a line a step elsewhere.
//!
//! ```text
//!   [###########-------------]  14/30  UDP 1300 B: 38,000 a second, 0.0 % lost
//! ```

use std::io::{self, IsTerminal as _, Write as _};

/// Steps done of those there are. Dropped, it leaves the line empty.
#[derive(Debug)]
pub struct Progress {
    steps: u32,
    /// The one under way, from 1.
    step: u32,
    what: String,
    place: Place,
}

/// Where the bar is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Terminal,
    Lines,
}

/// Signs in the bar.
const WIDTH: u32 = 24;

impl Progress {
    /// A bar of so many steps, on stderr.
    pub fn new(steps: u32) -> Progress {
        Progress {
            steps,
            step: 0,
            what: String::new(),
            place: if io::stderr().is_terminal() {
                Place::Terminal
            } else {
                Place::Lines
            },
        }
    }

    /// The next step begins.
    pub fn begin(&mut self, what: impl Into<String>) {
        self.step = self.step.saturating_add(1).min(self.steps);
        self.what = what.into();
        match self.place {
            Place::Terminal => self.draw(""),
            Place::Lines => eprintln!("bench: {}/{} {}", self.step, self.steps, self.what),
        }
    }

    /// News of the step under way; only for those who watch.
    pub fn detail(&self, detail: &str) {
        match self.place {
            Place::Terminal => self.draw(&format!(": {detail}")),
            Place::Lines => {}
        }
    }

    fn draw(&self, detail: &str) {
        let line = self.line(detail);
        // A terminal that has gone stops nothing.
        let _ = write!(io::stderr(), "\r{line}\x1b[K");
    }

    /// What is done counts, not what is under way.
    fn line(&self, detail: &str) -> String {
        let done = self.step.saturating_sub(1) * WIDTH / self.steps.max(1);
        let bar: String = (0..WIDTH)
            .map(|at| if at < done { '#' } else { '-' })
            .collect();
        let (step, steps, what) = (self.step, self.steps, &self.what);
        format!("[{bar}] {step:>3}/{steps}  {what}{detail}")
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        match self.place {
            Place::Terminal => {
                let _ = write!(io::stderr(), "\r\x1b[K");
            }
            Place::Lines => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_fills_with_what_is_done() {
        let mut progress = Progress {
            steps: 4,
            step: 0,
            what: String::new(),
            place: Place::Lines,
        };
        progress.begin("first");
        assert!(progress.line("").starts_with("[------"));
        progress.begin("second");
        assert_eq!(
            progress.line(": fast"),
            "[######------------------]   2/4  second: fast"
        );
        (0..5).for_each(|_| progress.begin("last"));
        assert!(progress.line("").contains("  4/4  last"));
    }
}
