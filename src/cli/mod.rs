//! The command line as clap sees it; what a command does is in the file with its name.

mod admin;
mod check;
mod pins;
mod serve;
mod verify;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, Environment, Overrides};

/// Exit codes besides 0: it failed; it was asked for in the wrong way (`EX_USAGE`), or the configuration is wrong.
const FAILED: u8 = 1;
const USAGE: u8 = 64;

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
    let config = Config::load(cli.config(), &cli.overrides(), &Environment::of_process());
    match (&cli.command, config) {
        (Command::Check(arguments), config) => check::run(arguments, config),
        (Command::Serve(_), Ok(config)) => serve::run(config),
        (Command::Verify(arguments), Ok(config)) => verify::run(arguments, &config),
        (Command::Pin(arguments), Ok(config)) => pins::pin(arguments, &config),
        (Command::Unpin(arguments), Ok(config)) => pins::unpin(arguments, &config),
        (_, Err(mistakes)) => {
            complain(&mistakes.to_string());
            ExitCode::from(USAGE)
        }
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
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
enum Command {
    /// Run the mirror.
    #[command(
        after_help = "Example: pierglass serve --listen 0.0.0.0:5000 --store /srv/pierglass --max-size 200GiB"
    )]
    Serve(Serve),
    /// Validate the configuration: every mistake at once, with line and column.
    #[command(after_help = "Example: pierglass check --config /etc/pierglass.toml --online")]
    Check(Check),
    /// Read everything that is stored again, and tell what is damaged.
    ///
    /// A mirror that is running on the store checks it itself, without interrupting pulls; otherwise this command does.
    /// Ends with 1 when something is damaged and not dropped.
    #[command(after_help = "Example: pierglass verify --repair")]
    Verify(Verify),
    /// Keep an image from being evicted; without one, list what is kept.
    ///
    /// All that is stored of it is kept, and all that arrives later, also when the tag moves. It need not be stored yet.
    #[command(
        after_help = "Examples: pierglass pin alpine:3.20\n          pierglass pin quay.io/org/app@sha256:...\n          pierglass pin"
    )]
    Pin(Pin),
    /// Let an image go that was pinned; it stays until it is evicted.
    #[command(after_help = "Example: pierglass unpin alpine:3.20")]
    Unpin(Unpin),
}

/// `pierglass serve`.
#[derive(Debug, Args)]
struct Serve {
    /// Where the configuration comes from.
    #[command(flatten)]
    pub source: Source,
}

/// `pierglass check`.
#[derive(Debug, Args)]
struct Check {
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

/// `pierglass verify`.
#[derive(Debug, Args)]
struct Verify {
    /// Which mirror or store.
    #[command(flatten)]
    pub place: Place,
    /// Drop what is damaged; it is fetched again when it is asked for.
    #[arg(long)]
    pub repair: bool,
    /// Print JSON, a line for each event, for programs.
    #[arg(long)]
    pub json: bool,
}

/// `pierglass pin`.
#[derive(Debug, Args)]
struct Pin {
    /// Which mirror or store.
    #[command(flatten)]
    pub place: Place,
    /// The image, named as it is pulled: alpine:3.20, quay.io/org/app@sha256:...
    pub image: Option<String>,
    /// Print JSON, for programs.
    #[arg(long)]
    pub json: bool,
}

/// `pierglass unpin`.
#[derive(Debug, Args)]
struct Unpin {
    /// Which mirror or store.
    #[command(flatten)]
    pub place: Place,
    /// The image, named as it was pinned.
    pub image: String,
    /// Print JSON, for programs.
    #[arg(long)]
    pub json: bool,
}

/// Where a command finds the mirror, or its store while it is not running.
#[derive(Debug, Args)]
struct Place {
    /// The configuration of the mirror; without it the file that PIERGLASS_CONFIG names, or the defaults.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The directory of the store.
    #[arg(long, value_name = "DIR")]
    pub store: Option<String>,
    /// A running mirror's admin address, such as http://127.0.0.1:5001. Default: the one in the configuration.
    #[arg(long, value_name = "URL")]
    pub admin: Option<String>,
}

/// The file, and the flags that count more than the file.
#[derive(Debug, Args)]
struct Source {
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

/// The exit code for what clap calls an error: 64 for bad usage, where clap would have 2; 0 for help or version that
/// was asked for.
fn exit_code(error: &clap::Error) -> u8 {
    if error.use_stderr() { USAGE } else { 0 }
}

impl Cli {
    /// The configuration file that was named.
    pub(crate) fn config(&self) -> Option<&Path> {
        match &self.command {
            Command::Serve(Serve { source }) | Command::Check(Check { source, .. }) => {
                source.config.as_deref()
            }
            Command::Verify(Verify { place, .. })
            | Command::Pin(Pin { place, .. })
            | Command::Unpin(Unpin { place, .. }) => place.config.as_deref(),
        }
    }

    /// The flags that count more than the file.
    pub(crate) fn overrides(&self) -> Overrides {
        match &self.command {
            Command::Serve(Serve { source }) | Command::Check(Check { source, .. }) => Overrides {
                listen: source.listen.clone(),
                admin_listen: source.admin_listen.clone(),
                store: source.store.clone(),
                max_size: source.max_size.clone(),
            },
            Command::Verify(Verify { place, .. })
            | Command::Pin(Pin { place, .. })
            | Command::Unpin(Unpin { place, .. }) => Overrides {
                store: place.store.clone(),
                ..Overrides::default()
            },
        }
    }
}

fn print(text: &str) {
    // A closed pipe is the reader's decision.
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "pierglass: {text}");
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
        assert_eq!(cli.config(), Some(Path::new("a.toml")));
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
