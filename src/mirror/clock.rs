//! How old something is, by clocks that may be wrong.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

/// How long before `now` that was, both in seconds of the Unix epoch; as [`age`] says it.
pub(super) fn between(since: u32, now: u32) -> Option<Duration> {
    match now.checked_sub(since) {
        Some(seconds) => Some(Duration::from_secs(seconds.into())),
        None => (u64::from(since - now) < CLOCK_ERROR.as_secs()).then_some(Duration::ZERO),
    }
}

/// The seconds of the Unix epoch.
pub(super) fn seconds_now() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u32::try_from(since.unwrap_or_default().as_secs()).unwrap_or(u32::MAX)
}
