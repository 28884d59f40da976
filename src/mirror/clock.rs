//! How old something is, by clocks that may be wrong.

use std::time::{Duration, SystemTime};

/// How far clocks are off without anything being wrong.
const CLOCK_ERROR: Duration = Duration::from_secs(60);

/// How long ago that was; zero if the clock was set back since.
pub(super) fn elapsed(since: SystemTime) -> Duration {
    SystemTime::now().duration_since(since).unwrap_or_default()
}

/// How long ago that was; `None` if it is further in the future than clocks are usually off.
pub(super) fn age(since: SystemTime) -> Option<Duration> {
    match SystemTime::now().duration_since(since) {
        Ok(age) => Some(age),
        Err(ahead) => (ahead.duration() < CLOCK_ERROR).then_some(Duration::ZERO),
    }
}
