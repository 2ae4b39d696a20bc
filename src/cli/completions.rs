//! `groundlink completions SHELL`: a completion script on stdout.

use clap::Args;
use clap_complete::Shell;

use super::outcome::{Exit, Failure};

/// Shell completions, on stdout
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  groundlink completions bash | sudo tee /etc/bash_completion.d/groundlink >/dev/null"
)]
pub(crate) struct Completions {
    /// Which shell
    shell: Shell,
}

impl Completions {
    pub fn execute(self) -> Result<Exit, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(
            self.shell,
            &mut super::visible_command(),
            "groundlink",
            &mut script,
        );
        super::outcome::print(&script)
    }
}
