//! Bodies that are in memory as a whole, such as manifests and lists: where work on them is done.

/// More than this is read or written by a blocking thread: it takes a millisecond or so, and hundreds of requests wait
/// for a thread of the runtime meanwhile.
const LONG: usize = 256 * 1024;

/// Does work on a body of so many bytes, where it holds nothing up.
pub(crate) async fn work_on<T: Send + 'static>(
    length: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    if length <= LONG {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The program is being stopped, and with it what waits here.
            Err(_) => std::future::pending().await,
        },
    }
}
