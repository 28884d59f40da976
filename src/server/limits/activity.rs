//! Whether anything moves on a connection.
//!
//! Over HTTP/1.1 a client that stops reading makes writes wait, which the connection sees. Over HTTP/2 it closes its
//! window instead: hyper then asks a body for nothing more, writes nothing, and keeps answering pings. The only sign
//! that it still reads is that a body is asked for bytes.
//!
//! A connection of any kind on which nothing moves can be closed when there are too many.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// What happened on one connection.
pub(crate) struct Activity {
    started: Instant,
    /// Milliseconds after `started`.
    last: AtomicU64,
    /// Requests being answered.
    open: AtomicUsize,
    /// Bytes wait for the client to take them.
    blocked: AtomicBool,
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            last: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            blocked: AtomicBool::new(false),
        }
    }
}

impl Activity {
    fn touch(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    fn quiet_for(&self) -> Duration {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(last)
    }

    /// Notes whether bytes wait for the client.
    pub(crate) fn blocked(&self, blocked: bool) {
        self.blocked.store(blocked, Ordering::Relaxed);
        self.touch();
    }

    /// How long no request has been under way; `None` while one is, or the end of its answer waits.
    pub(crate) fn idle_for(&self) -> Option<Duration> {
        let busy = self.open.load(Ordering::Relaxed) > 0 || self.blocked.load(Ordering::Relaxed);
        (!busy).then(|| self.quiet_for())
    }

    /// Completes when nothing was asked for during `idle`, or when nothing that was asked for was taken
    /// during `stalled`.
    pub(crate) async fn ceases(&self, idle: Duration, stalled: Duration) {
        loop {
            let limit = if self.open.load(Ordering::Relaxed) == 0 {
                idle
            } else {
                stalled
            };
            match limit.checked_sub(self.quiet_for()) {
                // A request may come meanwhile, for which the other limit holds.
                Some(left) if !left.is_zero() => sleep(left.min(idle).min(stalled)).await,
                _ => return,
            }
        }
    }
}

/// One request being answered; over when dropped.
pub(crate) struct ActiveRequest(Arc<Activity>);

impl ActiveRequest {
    pub(crate) fn new(activity: &Arc<Activity>) -> Self {
        activity.open.fetch_add(1, Ordering::Relaxed);
        activity.touch();
        Self(Arc::clone(activity))
    }

    /// Its body was asked for bytes.
    pub(crate) fn touch(&self) {
        self.0.touch();
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.touch();
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(60);
    const STALLED: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_ends_after_a_while() {
        let activity = Activity::default();
        let started = Instant::now();
        activity.ceases(IDLE, STALLED).await;
        assert!(started.elapsed() >= IDLE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_stalls_waited_for_the_limit_of_idle_ones() {
        let activity = Arc::new(Activity::default());
        let begin = async {
            sleep(Duration::from_secs(1)).await;
            ActiveRequest::new(&activity)
        };
        let started = Instant::now();
        let ((), _open) = tokio::join!(activity.ceases(IDLE, STALLED), begin);
        assert!(started.elapsed() <= STALLED * 2, "{:?}", started.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_moves_keeps_it() {
        let activity = Arc::new(Activity::default());
        let open = ActiveRequest::new(&activity);
        let moving = async {
            for _ in 0..20 {
                sleep(STALLED / 2).await;
                open.touch();
            }
        };
        tokio::select! {
            () = activity.ceases(IDLE, STALLED) => panic!("it was moving"),
            () = moving => {}
        }
        let stopped = Instant::now();
        activity.ceases(IDLE, STALLED).await;
        assert!(stopped.elapsed() <= STALLED);
    }
}
