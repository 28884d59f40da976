//! The command line as clap sees it. What a command does is elsewhere.

pub mod check;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::Overrides;

/// What the user asked for.
#[derive(Debug, Parser)]
#[command(
    name = "pierglass",
    version,
    about = "A caching pull-through mirror for container registries."
)]
#[command(arg_required_else_help = true, after_help = "Example: pierglass serve")]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the mirror.
    #[command(
        after_help = "Example: pierglass serve --listen 0.0.0.0:5000 --store /srv/pierglass --max-size 200GiB"
    )]
    Serve(Serve),
    /// Validate the configuration: every mistake at once, with line and column.
    #[command(after_help = "Example: pierglass check --config /etc/pierglass.toml --online")]
    Check(Check),
}

/// `pierglass serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// Where the configuration comes from.
    #[command(flatten)]
    pub source: Source,
}

/// `pierglass check`.
#[derive(Debug, Args)]
pub struct Check {
    /// Where the configuration comes from.
    #[command(flatten)]
    pub source: Source,
    /// Also ask each upstream for a token; print identity and remaining quota.
    #[arg(long)]
    pub online: bool,
    /// Print JSON, for programs.
    #[arg(long)]
    pub json: bool,
}

/// The file, and the flags that count more than the file.
#[derive(Debug, Args)]
pub struct Source {
    /// The configuration; without it the file that PIERGLASS_CONFIG names, or the defaults.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where clients find the registry API, such as 127.0.0.1:5000.
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Where metrics, health and the admin API are, such as 127.0.0.1:5001.
    #[arg(long, value_name = "ADDR")]
    pub admin_listen: Option<String>,
    /// The directory of the store.
    #[arg(long, value_name = "DIR")]
    pub store: Option<String>,
    /// How much is stored at most, such as 50GiB.
    #[arg(long, value_name = "SIZE")]
    pub max_size: Option<String>,
}

/// Parses the arguments of the process.
///
/// # Errors
///
/// Also for `--help` and `--version`, which clap has as errors. `main` prints the error (`error.print()` knows which
/// stream) and ends with [`exit_code`].
pub fn parse() -> Result<Cli, clap::Error> {
    Cli::try_parse()
}

/// The exit code that goes with what [`parse`] returned: 64 (`EX_USAGE`) for bad usage, where clap would have 2; 0 for
/// help or version that was asked for.
pub fn exit_code(error: &clap::Error) -> u8 {
    if error.use_stderr() { 64 } else { 0 }
}

impl Cli {
    /// Where the configuration comes from.
    pub fn source(&self) -> &Source {
        match &self.command {
            Command::Serve(serve) => &serve.source,
            Command::Check(check) => &check.source,
        }
    }

    /// The flags that count more than the file.
    pub fn overrides(&self) -> Overrides {
        let Source {
            config: _,
            listen,
            admin_listen,
            store,
            max_size,
        } = self.source();
        Overrides {
            listen: listen.clone(),
            admin_listen: admin_listen.clone(),
            store: store.clone(),
            max_size: max_size.clone(),
        }
    }
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
    fn flags_become_overrides() {
        let cli =
            parse("serve --config a.toml --listen :1 --admin-listen :2 --store /s --max-size 1GiB")
                .unwrap();
        assert_eq!(cli.source().config, Some(PathBuf::from("a.toml")));
        let text = |text: &str| Some(text.to_owned());
        let expected = Overrides {
            listen: text(":1"),
            admin_listen: text(":2"),
            store: text("/s"),
            max_size: text("1GiB"),
        };
        assert_eq!(cli.overrides(), expected);
        assert_eq!(
            parse("check --online --json").unwrap().overrides(),
            Overrides::default()
        );
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
        for command in ["--help", "serve --help", "check --help"] {
            let help = parse(command).unwrap_err().to_string();
            assert!(help.contains("Example: pierglass "), "{help}");
        }
    }
}
