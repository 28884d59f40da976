//! The pull quota of one account: what upstream states of it in its headers, and when it is spent.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use http::HeaderMap;

use crate::sites::budget::{AccountQuota, Budget, Pulls};

use super::backoff::{Backoff, retry_after, span};

/// How long Docker Hub's window is. What was stated longer ago than one window says nothing.
const WINDOW: Duration = Duration::from_secs(6 * 3600);
/// The shortest window of a pull quota: what is counted by the minute is over before anything could be spared for it.
const SHORTEST: Duration = Duration::from_secs(3600);
/// The longest time that what was stated counts, whatever it says of itself.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// A pull quota as Docker Hub states it: `ratelimit-limit: 100;w=21600`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RateLimit {
    pub limit: Option<u64>,
    pub remaining: Option<u64>,
    /// Length of the window in seconds.
    pub window: Option<u64>,
    /// When it starts again, from when it was stated.
    pub reset: Option<Duration>,
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
    /// Reads the headers; `None` where they state no pull quota. They do so at Docker Hub, and where they have a window of
    /// hours: other registries and their gateways count requests by the minute in the same words.
    pub(crate) fn read(headers: &HeaderMap, is_hub: bool, now: SystemTime) -> Option<Self> {
        let (limit, window) = field(headers, "ratelimit-limit");
        let (remaining, _) = field(headers, "ratelimit-remaining");
        let is_quota = is_hub || window.is_some_and(|window| window >= SHORTEST.as_secs());
        let is_stated = limit.is_some() || remaining.is_some();
        let (reset, _) = field(headers, "ratelimit-reset");
        let reset = reset.map(|number| span(number, now));
        (is_stated && is_quota).then(|| Self {
            limit,
            remaining,
            window,
            reset: reset.into_iter().chain(retry_after(headers, now)).min(),
        })
    }

    /// The budget that this states, and for how long that counts.
    fn budget(&self) -> Option<(Budget, Duration)> {
        let window = self.window.map_or(WINDOW, Duration::from_secs);
        let counts_for = window.min(self.reset.unwrap_or(window)).min(LONGEST);
        let (limit, remaining) = (self.limit?, self.remaining?);
        (limit > 0).then_some((Budget { limit, remaining }, counts_for))
    }
}

fn field(headers: &HeaderMap, name: &str) -> (Option<u64>, Option<u64>) {
    let Some(text) = headers.get(name).and_then(|value| value.to_str().ok()) else {
        return (None, None);
    };
    let mut parts = text.split([';', ',']).map(str::trim);
    let count = parts.next().and_then(|number| number.parse().ok());
    let window = parts
        .find_map(|part| part.strip_prefix("w="))
        .and_then(|seconds| seconds.parse().ok());
    (count, window)
}

impl PullQuota {
    /// Remembers what upstream has just stated, or that it stated nothing; whether it had stated something else before.
    pub(super) fn state(&self, stated: Option<RateLimit>) -> bool {
        let mut state = self.lock();
        let before = state.stated.map(|(before, _)| before);
        if before.is_some() || stated.is_some() {
            state.stated = stated.map(|stated| (stated, Instant::now()));
            self.tell(&state);
        }
        before != stated
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

    fn stated(is_hub: bool, fields: &[(&'static str, &str)]) -> Option<RateLimit> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.insert(*name, value.parse().unwrap());
        }
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        RateLimit::read(&headers, is_hub, now)
    }

    fn counts_for(fields: &[(&'static str, &str)]) -> Option<u64> {
        let (_, counts_for) = stated(true, fields)?.budget()?;
        Some(counts_for.as_secs())
    }

    #[test]
    fn docker_hubs_headers_are_read_and_nonsense_is_not() {
        let headers = |limit: &str, remaining: &str| {
            let fields = [
                ("ratelimit-limit", limit),
                ("ratelimit-remaining", remaining),
            ];
            stated(true, &fields)
        };
        let expected = RateLimit {
            limit: Some(100),
            remaining: Some(76),
            window: Some(21600),
            reset: None,
        };
        assert_eq!(headers("100;w=21600", "76;w=21600"), Some(expected));
        let full = Budget {
            limit: 100,
            remaining: 76,
        };
        assert_eq!(expected.budget(), Some((full, Duration::from_secs(21_600))));
        assert_eq!(headers("plenty", "-1"), None);
        assert_eq!(stated(true, &[]), None);
    }

    #[test]
    fn a_limit_by_the_minute_is_no_pull_quota() {
        let of = |limit: &str| {
            let fields = [("ratelimit-limit", limit), ("ratelimit-remaining", "0")];
            (
                stated(false, &fields).is_some(),
                stated(true, &fields).is_some(),
            )
        };
        // GitLab's, and that of the drafts of the IETF.
        assert_eq!(of("60"), (false, true));
        assert_eq!(of("100, 100;w=60"), (false, true));
        assert_eq!(of("100;w=21600"), (true, true));
        assert_eq!(of("100, 100;w=86400;comment=pulls"), (true, true));
    }

    #[test]
    fn a_quota_is_believed_until_it_starts_again_and_not_longer_than_a_day() {
        let full = [("ratelimit-limit", "100"), ("ratelimit-remaining", "7")];
        let with = |name, value| [full[0], full[1], (name, value)];
        assert_eq!(counts_for(&full), Some(21_600));
        assert_eq!(counts_for(&with("ratelimit-reset", "30")), Some(30));
        assert_eq!(counts_for(&with("ratelimit-reset", "1800000030")), Some(30));
        assert_eq!(counts_for(&with("ratelimit-reset", "1799999999")), Some(0));
        assert_eq!(
            counts_for(&with("ratelimit-reset", "18446744073709551615")),
            Some(21_600)
        );
        assert_eq!(counts_for(&with("retry-after", "2")), Some(2));
        let window = [("ratelimit-limit", "100;w=18446744073709551615"), full[1]];
        assert_eq!(counts_for(&window), Some(86_400));
        let quota = PullQuota::default();
        quota.state(stated(true, &window));
    }

    #[test]
    fn an_answer_that_states_nothing_ends_it() {
        let quota = PullQuota::default();
        assert!(!quota.state(None), "it never stated any");
        let full = [("ratelimit-limit", "100"), ("ratelimit-remaining", "7")];
        assert!(quota.state(stated(true, &full)));
        assert!(quota.stated().is_some());
        assert!(quota.state(None));
        assert_eq!(quota.stated(), None);
        assert_eq!(Budget::best(&[quota.pulls()]), None);
    }
}
