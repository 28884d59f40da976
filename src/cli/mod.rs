//! The command line as clap sees it; a command's flags and what it does are in the file with its name.
//!
//! It prints what the other folders answer, and decides nothing itself. Reading order: this file, the commands
//! (`serve`, `check`, `verify`, `pins`), and below them `target` (a running mirror, or its store), `flags` (those that
//! several commands have), `runtime`, `exit` (what is printed, and exit codes).
//!
//! A new command is a file here and a variant of `Command`. What it asks a running mirror is a value in `src/api/` and
//! an answer in `src/server/admin/api.rs`; what it reads from a store that no mirror is running on is in
//! `src/store/images/offline.rs`.

mod check;
mod exit;
mod flags;
mod pins;
mod runtime;
mod serve;
mod target;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Does what the arguments of the process say, and returns its exit code.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing can be done about a terminal that is gone.
            let _ = error.print();
            return ExitCode::from(exit_code(&error));
        }
    };
    let done = match &cli.command {
        Command::Serve(flags) => serve::run(flags),
        Command::Check(flags) => check::run(flags),
        Command::Verify(flags) => verify::run(flags),
        Command::Pin(flags) => pins::pin(flags),
        Command::Unpin(flags) => pins::unpin(flags),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// What the user asked for.
#[derive(Debug, Parser)]
#[command(
    name = "pierglass",
    version,
    about = "A caching pull-through mirror for container registries."
)]
#[command(arg_required_else_help = true, after_help = "Example: pierglass serve")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
enum Command {
    /// Run the mirror.
    #[command(
        after_help = "Example: pierglass serve --listen 0.0.0.0:5000 --store /srv/pierglass --max-size 200GiB"
    )]
    Serve(serve::ServeFlags),
    /// Validate the configuration: every mistake at once, with line and column.
    #[command(after_help = "Example: pierglass check --config /etc/pierglass.toml --online")]
    Check(check::CheckFlags),
    /// Read everything that is stored again, and tell what is damaged.
    ///
    /// A mirror that is running on the store checks it itself, without interrupting pulls; otherwise this command does.
    /// Ends with 1 when something is damaged and not dropped.
    #[command(after_help = "Example: pierglass verify --repair")]
    Verify(verify::VerifyFlags),
    /// Keep an image from being evicted; without one, list what is kept.
    ///
    /// All that is stored of it is kept, and all that arrives later, also when the tag moves. It need not be stored yet.
    #[command(
        after_help = "Examples: pierglass pin alpine:3.20\n          pierglass pin quay.io/org/app@sha256:...\n          pierglass pin"
    )]
    Pin(pins::PinFlags),
    /// Let an image go that was pinned; it stays until it is evicted.
    #[command(after_help = "Example: pierglass unpin alpine:3.20")]
    Unpin(pins::UnpinFlags),
}

/// The exit code for what clap calls an error: 64 for bad usage, where clap would have 2; 0 for help or version that
/// was asked for.
fn exit_code(error: &clap::Error) -> u8 {
    if error.use_stderr() { exit::USAGE } else { 0 }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    fn parse(arguments: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("pierglass").chain(arguments.split_whitespace()))
    }

    #[test]
    fn the_definitions_hold() {
        Cli::command().debug_assert();
    }

    #[test]
    fn bad_usage_ends_with_64_and_help_with_0() {
        for wrong in ["", "serve --nonsense", "sevre", "serve extra"] {
            assert_eq!(exit_code(&parse(wrong).unwrap_err()), 64, "{wrong}");
        }
        for right in ["--help", "--version", "serve --help"] {
            assert_eq!(exit_code(&parse(right).unwrap_err()), 0, "{right}");
        }
        assert_eq!(
            parse("").unwrap_err().kind(),
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        );
    }

    #[test]
    fn every_help_shows_an_example() {
        let commands = Cli::command();
        let names = commands.get_subcommands().map(clap::Command::get_name);
        for command in names.chain([""]) {
            let help = parse(&format!("{command} --help")).unwrap_err().to_string();
            let example =
                help.contains("Example: pierglass ") || help.contains("Examples: pierglass ");
            assert!(example, "{help}");
        }
    }
}
