//! Disk work is done in blocking threads, so that it never holds up the threads that serve requests.

use std::io;

/// Runs disk work in a blocking thread; `None` only when the runtime is shutting down.
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

/// The same for work that can fail: the shutdown is one of its errors.
pub(crate) async fn try_run<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let stopped = || Err(io::Error::other("the program is being stopped"));
    run(work).await.unwrap_or_else(stopped)
}
