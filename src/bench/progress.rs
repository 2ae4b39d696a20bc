//! Progress of a benchmark on stderr: a bar on a terminal, otherwise one line a step.
//!
//! ```text
//!   [###########-------------]  14/30  UDP 1300 B: 38,000 packets/s, 0.0 % lost
//! ```

use std::fmt::Display;
use std::io::{self, IsTerminal as _};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Progress through a known number of steps. The bar is removed on drop.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    /// Name of the current step.
    step: String,
    started: u64,
}

impl Progress {
    /// Progress through `steps` steps.
    pub(super) fn new(steps: u64) -> Progress {
        let target = if io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        Progress::with_target(steps, target)
    }

    fn with_target(steps: u64, target: ProgressDrawTarget) -> Progress {
        let style = ProgressStyle::with_template("[{bar:24}] {prefix:>3}/{len}  {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(steps), target);
        bar.set_style(style.progress_chars("##-"));
        Progress {
            bar,
            step: String::new(),
            started: 0,
        }
    }

    /// Starts the next step.
    pub(super) fn start(&mut self, step: impl Into<String>) {
        // The bar shows finished steps.
        self.bar.set_position(self.started);
        self.started = self.started.saturating_add(1);
        self.step = step.into();
        self.bar.set_prefix(self.started.to_string());
        self.bar.set_message(self.step.clone());
        if self.bar.is_hidden() {
            let steps = self.bar.length().unwrap_or_default();
            eprintln!("bench: {}/{steps} {}", self.started, self.step);
        }
    }

    /// Shows an intermediate result of the current step on the terminal.
    pub(super) fn detail(&self, detail: impl Display) {
        self.bar.set_message(format!("{}: {detail}", self.step));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_counts_finished_steps() {
        let mut progress = Progress::with_target(4, ProgressDrawTarget::hidden());
        progress.start("first");
        assert_eq!(progress.bar.position(), 0);
        progress.start("second");
        progress.detail("fast");
        assert_eq!(progress.bar.position(), 1);
        assert_eq!(progress.bar.prefix(), "2");
        assert_eq!(progress.bar.message(), "second: fast");
    }
}
