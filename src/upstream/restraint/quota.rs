//! The pull quota: what an upstream says of it in its headers.

use std::time::Duration;

use http::HeaderMap;

/// A pull quota as Docker Hub states it: `ratelimit-limit: 100;w=21600`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RateLimit {
    /// Pulls per window.
    pub limit: Option<u64>,
    /// Pulls left.
    pub remaining: Option<u64>,
    /// Length of the window in seconds.
    pub window: Option<u64>,
}

impl RateLimit {
    /// Reads the headers; `None` when there are none, which on Docker Hub means: not limited.
    pub(crate) fn read(headers: &HeaderMap) -> Option<Self> {
        let (limit, window) = quota(headers, "ratelimit-limit");
        let (remaining, _) = quota(headers, "ratelimit-remaining");
        (limit.is_some() || remaining.is_some()).then_some(Self {
            limit,
            remaining,
            window,
        })
    }
}

fn quota(headers: &HeaderMap, name: &str) -> (Option<u64>, Option<u64>) {
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

/// What is left of a pull quota, where upstream states one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    /// Pulls per window.
    pub limit: u64,
    /// Pulls left.
    pub remaining: u64,
}

/// How long Docker Hub's window is: what was said of a quota is worth nothing after it.
const WINDOW: Duration = Duration::from_secs(6 * 3600);

impl RateLimit {
    /// The budget that it tells of, heard that long ago.
    pub(crate) fn budget(&self, age: Duration) -> Option<Budget> {
        let window = self.window.map_or(WINDOW, Duration::from_secs);
        let (limit, remaining) = (self.limit?, self.remaining?);
        (age < window && limit > 0).then_some(Budget { limit, remaining })
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
        let budget = |after| expected.budget(Duration::from_secs(after));
        let full = Budget {
            limit: 100,
            remaining: 76,
        };
        assert_eq!(budget(21_599), Some(full));
        assert_eq!(budget(21_600), None, "a new window");
        assert_eq!(headers("plenty", "-1"), None);
        assert_eq!(RateLimit::read(&HeaderMap::new()), None);
    }
}
