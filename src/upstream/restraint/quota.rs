//! The pull quota of one account: what upstream states of it in its headers, and when it is spent.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderMap;

use crate::sites::budget::{AccountQuota, Budget, Pulls};

use super::backoff::Backoff;

/// How long Docker Hub's window is. What was stated longer ago than one window says nothing.
const WINDOW: Duration = Duration::from_secs(6 * 3600);

/// A pull quota as Docker Hub states it: `ratelimit-limit: 100;w=21600`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RateLimit {
    pub limit: Option<u64>,
    pub remaining: Option<u64>,
    /// Length of the window in seconds.
    pub window: Option<u64>,
}

/// The pull quota of one account. Each account has its own at an upstream.
#[derive(Default)]
pub(crate) struct PullQuota {
    /// Guards a few small values; never held while waiting.
    state: Mutex<QuotaState>,
    pulls: Pulls,
}

#[derive(Default)]
struct QuotaState {
    stated: Option<(RateLimit, Instant)>,
    backoff: Backoff,
}

impl RateLimit {
    /// Reads the headers; `None` when they are absent, which on Docker Hub means: not limited.
    pub(crate) fn read(headers: &HeaderMap) -> Option<Self> {
        let (limit, window) = field(headers, "ratelimit-limit");
        let (remaining, _) = field(headers, "ratelimit-remaining");
        (limit.is_some() || remaining.is_some()).then_some(Self {
            limit,
            remaining,
            window,
        })
    }

    /// The budget that this states, and for how long that counts.
    fn budget(&self) -> Option<(Budget, Duration)> {
        let window = self.window.map_or(WINDOW, Duration::from_secs);
        let (limit, remaining) = (self.limit?, self.remaining?);
        (limit > 0).then_some((Budget { limit, remaining }, window))
    }
}

fn field(headers: &HeaderMap, name: &str) -> (Option<u64>, Option<u64>) {
    let Some(text) = headers.get(name).and_then(|value| value.to_str().ok()) else {
        return (None, None);
    };
    let mut parts = text.split(';').map(str::trim);
    let count = parts.next().and_then(|number| number.parse().ok());
    let window = parts
        .find_map(|part| part.strip_prefix("w="))
        .and_then(|seconds| seconds.parse().ok());
    (count, window)
}

impl PullQuota {
    /// Remembers what upstream has just stated.
    pub(crate) fn state(&self, stated: RateLimit) {
        let mut state = self.lock();
        state.stated = Some((stated, Instant::now()));
        self.tell(&state);
    }

    pub(crate) fn stated(&self) -> Option<RateLimit> {
        self.lock().stated.map(|(stated, _)| stated)
    }

    /// For how long it is spent; `None` if it is not.
    pub(crate) fn spent_for(&self, now: Instant) -> Option<Duration> {
        self.lock().backoff.left(now)
    }

    /// Notes an answer: a quota that says it has something left is not spent any more, and neither is one whose time is
    /// over and that gave a pull.
    pub(crate) fn answered(&self, spent_pull: bool, stated: Option<RateLimit>) {
        let refilled = stated
            .and_then(|stated| stated.remaining)
            .is_some_and(|remaining| remaining > 0);
        let now = Instant::now();
        self.with_backoff(|backoff| {
            if refilled || spent_pull && backoff.left(now).is_none() {
                backoff.clear();
            }
        });
    }

    /// Changes how long it is spent.
    pub(super) fn with_backoff<T>(&self, change: impl FnOnce(&mut Backoff) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state.backoff);
        self.tell(&state);
        result
    }

    /// What the mirror knows of it.
    pub(crate) fn pulls(&self) -> Pulls {
        self.pulls.clone()
    }

    fn tell(&self, state: &QuotaState) {
        let stated = state.stated.and_then(|(stated, at)| {
            let (budget, counts_for) = stated.budget()?;
            Some((budget, at + counts_for))
        });
        let now = Instant::now();
        let spent_until = state.backoff.left(now).map(|left| now + left);
        self.pulls.note(AccountQuota {
            stated,
            spent_until,
        });
    }

    fn lock(&self) -> MutexGuard<'_, QuotaState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_hubs_headers_are_read_and_nonsense_is_not() {
        let headers = |limit: &str, remaining: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("ratelimit-limit", limit.parse().unwrap());
            headers.insert("ratelimit-remaining", remaining.parse().unwrap());
            RateLimit::read(&headers)
        };
        let expected = RateLimit {
            limit: Some(100),
            remaining: Some(76),
            window: Some(21600),
        };
        assert_eq!(headers("100;w=21600", "76;w=21600"), Some(expected));
        let full = Budget {
            limit: 100,
            remaining: 76,
        };
        assert_eq!(expected.budget(), Some((full, Duration::from_secs(21_600))));
        assert_eq!(headers("plenty", "-1"), None);
        assert_eq!(RateLimit::read(&HeaderMap::new()), None);
    }
}
