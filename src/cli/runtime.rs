//! The runtime that a command waits in.

use tokio::runtime::{Builder, Runtime};

use super::exit::Failure;

pub(super) fn start(builder: &mut Builder) -> Result<Runtime, Failure> {
    let runtime = builder.enable_all().build();
    runtime.map_err(|error| Failure::failed(format!("cannot start: {error}")))
}

/// Runs what waits for the network, on this thread.
pub(super) fn block_on<T, E>(work: impl Future<Output = Result<T, E>>) -> Result<T, Failure>
where
    Failure: From<E>,
{
    let runtime = start(&mut Builder::new_current_thread())?;
    Ok(runtime.block_on(work)?)
}
