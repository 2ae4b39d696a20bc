//! The command line: one file for each command.
//!
//! Exit status: 0 done · 1 failed · 2 the command line or the configuration is wrong · 3 the daemon is not reachable ·
//! 4 done, but a check failed. Errors go to stderr: what happened, where, and what to do.

mod bench;
mod check;
mod cleanup;
mod common;
mod completions;
mod decode;
mod lab;
mod psk;
mod request;
mod run;
mod status;

use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command, CommandFactory, FromArgMatches, Parser, Subcommand};

use common::{Exit, Failure, GlobalArgs};

/// The text of `--version`. A build for tests says that it is one.
#[cfg(not(feature = "testing"))]
const VERSION: &str = env!("CARGO_PKG_VERSION");
#[cfg(feature = "testing")]
const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (testing: misbehaves on request)"
);

/// An IKEv2 and ESP gateway in userspace: the on-premises end of a cloud VPN on an ordinary Linux machine.
#[derive(Debug, Parser)]
#[command(
    name = "groundlink",
    version = VERSION,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Try it without a configuration:  groundlink lab\nSet it up:  groundlink psk, then write /etc/groundlink/groundlink.toml, then groundlink check"
)]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    Run(run::Run),
    Check(check::Check),
    Lab(lab::Lab),
    Bench(bench::Bench),
    Decode(decode::Decode),
    Status(status::Status),
    Up(request::Up),
    Down(request::Down),
    Rekey(request::Rekey),
    Reset(request::Reset),
    Cleanup(cleanup::Cleanup),
    Psk(psk::PskArgs),
    Completions(completions::Completions),
}

/// Names of commands of later versions.
const RESERVED_COMMANDS: [&str; 8] = [
    "top", "init", "probe", "reload", "diagnose", "capture", "export", "man",
];

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

/// All commands; those of later versions are hidden, and rejected by name.
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

/// The commands of this version, for `--help` and completions.
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
            "`groundlink --help` lists the commands",
        ));
    }
    let Cli { global, command } =
        Cli::from_arg_matches(matches).unwrap_or_else(|error| error.exit());
    match command {
        Subcommands::Run(run) => run.execute(&global),
        Subcommands::Check(check) => check.execute(&global),
        Subcommands::Lab(lab) => lab.execute(),
        Subcommands::Bench(bench) => bench.execute(),
        Subcommands::Decode(decode) => decode.execute(),
        Subcommands::Status(status) => status.execute(&global),
        Subcommands::Up(up) => up.execute(&global),
        Subcommands::Down(down) => down.execute(&global),
        Subcommands::Rekey(rekey) => rekey.execute(&global),
        Subcommands::Reset(reset) => reset.execute(&global),
        Subcommands::Cleanup(cleanup) => cleanup.execute(),
        Subcommands::Psk(psk) => psk.execute(),
        Subcommands::Completions(completions) => completions.execute(visible_command()),
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
    fn the_definition_of_commands_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn commands_of_later_versions_are_rejected_by_name() {
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
    fn an_unknown_command_is_a_usage_error() {
        let error = command()
            .try_get_matches_from(["groundlink", "statsu"])
            .expect_err("unknown");
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("status"), "{error}");
    }

    #[test]
    fn every_command_has_help_with_an_example() {
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
