//! `groundlink completions SHELL`: a completion script on stdout.

use clap::{Args, Command};
use clap_complete::Shell;

use super::common::{Exit, Failure, print};

/// Print shell completions
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  groundlink completions bash | sudo tee /etc/bash_completion.d/groundlink >/dev/null"
)]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    /// Prints the completions of `command`.
    pub fn execute(self, mut command: Command) -> Result<Exit, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "groundlink", &mut script);
        print(&script)
    }
}
