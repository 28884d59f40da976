//! `pierglass serve`: the process around a mirror. Its runtime, its signals, its end.

use clap::Args;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use crate::app::App;
use crate::config::Config;
use crate::logging;

use super::exit::Failure;
use super::flags::ConfigFlags;
use super::runtime;

/// `pierglass serve`.
#[derive(Debug, Args)]
pub(super) struct ServeFlags {
    #[command(flatten)]
    config: ConfigFlags,
}

pub(super) fn run(flags: &ServeFlags) -> Result<(), Failure> {
    let config = flags.config.load()?;
    logging::init(&config.log).map_err(Failure::usage)?;
    let runtime = runtime::start(&mut Builder::new_multi_thread())?;
    let served = runtime.block_on(serve(config));
    // Fills that no client waits for may be cut off; their ingests are removed at the next start.
    runtime.shutdown_background();
    served
}

async fn serve(config: Config) -> Result<(), Failure> {
    let signals = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
        signal(SignalKind::hangup()),
    );
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)) = signals else {
        return Err(Failure::failed("cannot listen for signals"));
    };
    let app = App::start(config).await;
    let app = app.map_err(|error| Failure::failed(error.to_string()))?;
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
        () = app.stop() => Ok(()),
        _ = terminate.recv() => Err(Failure::silent()),
        _ = interrupt.recv() => Err(Failure::silent()),
    }
}
