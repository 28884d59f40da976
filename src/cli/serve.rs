//! `pierglass serve`: the process around a mirror. Its runtime, its signals, its end.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use clap::Args;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use crate::app::{App, StartError};
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
    // Passwords and tokens are in memory: no core dump, and no other process of this user may look at it.
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::debug!(%error, "cannot keep other processes from looking at this one");
    }
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
    let app = App::start(config).await.map_err(|error| match error {
        // Another start does not mend it, so that supervisors need not try.
        StartError::Configuration(_) => Failure::usage(error.to_string()),
        _ => Failure::failed(error.to_string()),
    })?;
    tell_supervisor("READY=1");
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            // Without a handler it would end the process and all pulls with it.
            _ = hangup.recv() => tracing::warn!("SIGHUP: reloading is not supported yet; restart to read the configuration"),
        }
    }
    tell_supervisor("STOPPING=1");
    // A second signal means now.
    tokio::select! {
        () = app.stop() => Ok(()),
        _ = terminate.recv() => Err(Failure::silent()),
        _ = interrupt.recv() => Err(Failure::silent()),
    }
}

/// Tells systemd, if it started this program and wants to know (sd_notify(3)).
fn tell_supervisor(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let path = path.to_string_lossy();
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&*path),
    };
    let told = address
        .and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
    if let Err(error) = told {
        tracing::warn!(%error, "cannot tell the supervisor: {state}");
    }
}
