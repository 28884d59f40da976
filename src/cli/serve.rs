//! `pierglass serve`: the process around a mirror. Its runtime, its signals, its end.

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use crate::app::App;
use crate::config::Config;
use crate::logging;

use super::{FAILED, USAGE, complain};

pub(super) fn run(config: Config) -> ExitCode {
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
    let code = runtime.block_on(serve(config));
    // Fills that nobody waits for may be cut off; their ingests are removed at the next start.
    runtime.shutdown_background();
    code
}

async fn serve(config: Config) -> ExitCode {
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
