//! The runtime that a command waits in.

use tokio::runtime::{Builder, Runtime};

use super::exit::Failure;

pub(super) fn start(builder: &mut Builder) -> Result<Runtime, String> {
    let runtime = builder.enable_all().build();
    runtime.map_err(|error| format!("cannot start: {error}"))
}

/// Runs what waits for the network, on this thread.
pub(super) fn block_on<T, E>(work: impl Future<Output = Result<T, E>>) -> Result<T, Failure>
where
    Failure: From<E>,
{
    Ok(on_this_thread(work)??)
}

pub(super) fn on_this_thread<T>(work: impl Future<Output = T>) -> Result<T, String> {
    Ok(start(&mut Builder::new_current_thread())?.block_on(work))
}
