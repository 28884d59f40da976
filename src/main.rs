//! The process: arguments, configuration, runtime, signals, exit codes.
//!
//! 0 done, 1 failed, 64 bad usage or configuration.

use std::process::ExitCode;

use pierglass::app::App;
use pierglass::cli::{self, Command, check, pins, verify};
use pierglass::config::{Config, Environment};
use pierglass::logging;
use tokio::signal::unix::{SignalKind, signal};

/// Buffers that are taken and given back all the time stay warm, and idle connections take a third less; what is
/// not used any more goes back to the system in the background. Measured: docs/performance.md.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const FAILED: u8 = 1;
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing can be done about a terminal that is gone.
            let _ = error.print();
            return ExitCode::from(cli::exit_code(&error));
        }
    };
    let config = Config::load(cli.config(), &cli.overrides(), &Environment::of_process());
    match (&cli.command, config) {
        (Command::Check(arguments), config) => check::run(arguments, config),
        (Command::Serve(_), Ok(config)) => serve(config),
        (Command::Verify(arguments), Ok(config)) => verify::run(arguments, &config),
        (Command::Pin(arguments), Ok(config)) => pins::pin(arguments, &config),
        (Command::Unpin(arguments), Ok(config)) => pins::unpin(arguments, &config),
        (_, Err(mistakes)) => {
            complain(&mistakes.to_string());
            ExitCode::from(USAGE)
        }
    }
}

fn serve(config: Config) -> ExitCode {
    if let Err(error) = logging::init(&config.log) {
        complain(&error);
        return ExitCode::from(USAGE);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("cannot start: {error}"));
            return ExitCode::from(FAILED);
        }
    };
    let code = runtime.block_on(run(config));
    // Fills that nobody waits for may be cut off; their ingests are removed at the next start.
    runtime.shutdown_background();
    code
}

async fn run(config: Config) -> ExitCode {
    let signals = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
        signal(SignalKind::hangup()),
    );
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)) = signals else {
        complain("cannot listen for signals");
        return ExitCode::from(FAILED);
    };
    let app = match App::start(config).await {
        Ok(app) => app,
        Err(error) => {
            complain(&error.to_string());
            return ExitCode::from(FAILED);
        }
    };
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            // Without a handler it would end the process and all pulls with it.
            _ = hangup.recv() => tracing::warn!("SIGHUP: reloading is not supported yet; restart to read the configuration"),
        }
    }
    // A second signal means now.
    tokio::select! {
        () = app.stop() => ExitCode::SUCCESS,
        _ = terminate.recv() => ExitCode::from(FAILED),
        _ = interrupt.recv() => ExitCode::from(FAILED),
    }
}

#[expect(
    clippy::print_stderr,
    reason = "what keeps the program from starting is said before or without a log"
)]
fn complain(words: &str) {
    eprintln!("pierglass: {words}");
}
