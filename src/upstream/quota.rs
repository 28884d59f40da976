//! The pull quota: what an upstream says of it in its headers.

use http::HeaderMap;

/// A pull quota as Docker Hub states it: `ratelimit-limit: 100;w=21600`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Pulls per window.
    pub limit: Option<u64>,
    /// Pulls left.
    pub remaining: Option<u64>,
    /// Length of the window in seconds.
    pub window: Option<u64>,
}

impl RateLimit {
    /// Reads the headers; `None` when there are none, which on Docker Hub means: not limited.
    pub fn read(headers: &HeaderMap) -> Option<Self> {
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
        assert_eq!(headers("plenty", "-1"), None);
        assert_eq!(RateLimit::read(&HeaderMap::new()), None);
    }
}
