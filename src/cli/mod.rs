//! The command line: one file a verb.
//!
//! Exit status: 0 done · 1 failed · 2 the command line or the configuration is wrong · 3 the daemon is not reachable ·
//! 4 done, but something it checked is not well. Errors go to stderr as *what, where, what to do*.

mod ask;
mod bench;
mod check;
mod completions;
mod decode;
mod lab;
mod outcome;
mod psk;
mod run;
mod status;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, ArgMatches, Args, Command, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config;
use outcome::{Exit, Failure};

/// What `--version` says. A build that misbehaves on request is not to be mistaken for one to rely on.
#[cfg(not(feature = "testing"))]
const VERSION: &str = env!("CARGO_PKG_VERSION");
#[cfg(feature = "testing")]
const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (testing: misbehaves on request)"
);

/// The end of a cloud VPN on an ordinary Linux machine: IKEv2 and ESP in one process.
#[derive(Debug, Parser)]
#[command(
    name = "groundlink",
    version = VERSION,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Try it without any configuration:  groundlink lab\nSet it up:  groundlink psk, then write /etc/groundlink/groundlink.toml, then groundlink check"
)]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    verb: Verb,
}

/// Where the configuration and the daemon are.
#[derive(Debug, Clone, Args)]
pub(crate) struct GlobalArgs {
    /// The configuration file
    #[arg(long, global = true, value_name = "FILE", default_value = config::DEFAULT_FILE)]
    pub config: PathBuf,
    /// The daemon's control socket [default: `control` of the configuration, else /run/groundlink/control.sock]
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

impl GlobalArgs {
    /// The control socket to talk to: as asked for, else as configured, else the usual one.
    pub fn control_socket(&self) -> PathBuf {
        let configured = || config::control_socket(&self.config);
        self.socket
            .clone()
            .or_else(configured)
            .unwrap_or_else(|| config::DEFAULT_CONTROL.into())
    }
}

#[derive(Debug, Subcommand)]
enum Verb {
    Run(run::Run),
    Check(check::Check),
    Lab(lab::Lab),
    Bench(bench::Bench),
    Decode(decode::Decode),
    Status(status::Status),
    Up(ask::Up),
    Down(ask::Down),
    Rekey(ask::Rekey),
    Reset(ask::Reset),
    Psk(psk::PskArgs),
    Completions(completions::Completions),
}

/// Verbs whose names are taken but which this version does not have.
const RESERVED_COMMANDS: [&str; 6] = ["top", "reload", "diagnose", "capture", "export", "man"];

/// Runs the command line and returns the exit status.
pub fn main() -> ExitCode {
    let matches = command().get_matches();
    match dispatch(&matches) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprint!("{failure}");
            failure.exit.into()
        }
    }
}

/// The whole tree, the verbs of later versions hidden in it so that they are answered by name.
fn command() -> Command {
    let rest = || {
        Arg::new("rest")
            .num_args(0..)
            .trailing_var_arg(true)
            .allow_hyphen_values(true)
    };
    let reserved = |name| {
        Command::new(name)
            .hide(true)
            .disable_help_flag(true)
            .arg(rest())
    };
    RESERVED_COMMANDS
        .iter()
        .fold(visible_command(), |command, name| {
            command.subcommand(reserved(*name))
        })
}

/// The verbs this version has, for people and for completions.
fn visible_command() -> Command {
    Cli::command()
}

fn dispatch(matches: &ArgMatches) -> Result<Exit, Failure> {
    if let Some(name) = matches
        .subcommand_name()
        .filter(|name| RESERVED_COMMANDS.contains(name))
    {
        let what = format!(
            "`groundlink {name}` is not in this version ({})",
            env!("CARGO_PKG_VERSION")
        );
        return Err(Failure::usage(
            what,
            "`groundlink --help` lists the verbs that are",
        ));
    }
    let Cli { global, verb } = Cli::from_arg_matches(matches).unwrap_or_else(|error| error.exit());
    match verb {
        Verb::Run(run) => run.execute(&global),
        Verb::Check(check) => check.execute(&global),
        Verb::Lab(lab) => lab.execute(),
        Verb::Bench(bench) => bench.execute(),
        Verb::Decode(decode) => decode.execute(),
        Verb::Status(status) => status.execute(&global),
        Verb::Up(up) => up.execute(&global),
        Verb::Down(down) => down.execute(&global),
        Verb::Rekey(rekey) => rekey.execute(&global),
        Verb::Reset(reset) => reset.execute(&global),
        Verb::Psk(psk) => psk.execute(),
        Verb::Completions(completions) => completions.execute(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> Result<Exit, Failure> {
        dispatch(
            &command()
                .try_get_matches_from(line.split(' '))
                .expect("the line parses"),
        )
    }

    #[test]
    fn the_tree_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn verbs_of_later_versions_are_refused_by_name() {
        for verb in RESERVED_COMMANDS {
            let failure = run(&format!("groundlink {verb} --anything x")).expect_err(verb);
            assert_eq!(failure.exit, Exit::Usage);
            assert!(
                failure.to_string().contains("not in this version"),
                "{failure}"
            );
        }
    }

    #[test]
    fn an_unknown_verb_is_a_usage_error() {
        let error = command()
            .try_get_matches_from(["groundlink", "statsu"])
            .expect_err("unknown");
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("status"), "{error}");
    }

    #[test]
    fn every_verb_has_help_with_an_example() {
        for verb in command()
            .get_subcommands()
            .filter(|verb| !verb.is_hide_set())
        {
            let help = verb.clone().render_long_help().to_string();
            assert!(
                help.contains(&format!("groundlink {}", verb.get_name())),
                "{}: {help}",
                verb.get_name()
            );
            assert!(help.contains("Example"), "{}: {help}", verb.get_name());
        }
    }
}
