//! Rate limits: which kind a 429 is of, and how long not to ask after it. Pure: time and jitter are arguments.
//!
//! Docker Hub has two. The pull quota counts GETs of manifests, is stated in JSON, and does not limit HEADs and blobs.
//! The other one is against abuse, counts every request, and is stated in plain text (`Too Many Requests (HAP429)`).
//! A 429 without the words of the quota is taken for the second, which is what other registries mean by 429.

use std::time::{Duration, Instant, SystemTime};

use http::header::{DATE, RETRY_AFTER};
use http::{HeaderMap, HeaderName};

use crate::upstream::error::{Error, LimitKind};

/// How long not to ask after a limit without a Retry-After: at first, and at most.
const QUOTA_PAUSES: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(600));
const ABUSE_PAUSES: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// The shortest pause that is kept, and the longest: a limit that was announced for longer may have ended meanwhile, and
/// one question more in ten minutes costs nothing.
const LEAST: Duration = Duration::from_secs(1);
const MOST: Duration = QUOTA_PAUSES.1;
/// A number of seconds from which on it is a time since 1970, and those from which on that is in smaller parts.
const YEAR: u64 = 366 * 24 * 3600;
const MILLIS: u64 = 100_000_000_000;
const MICROS: u64 = 1000 * MILLIS;
const NANOS: u64 = 1000 * MICROS;
/// How far the clock of a registry may be off for its dates to count from it.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Which limit the body of a 429 speaks of.
pub(crate) fn limit_of(body: &[u8]) -> LimitKind {
    let json = serde_json::from_slice::<serde_json::Value>(body).unwrap_or_default();
    let errors = json.get("errors").and_then(|errors| errors.as_array());
    let speaks_of_pulls = |error: &serde_json::Value| {
        let words = error.get("message").and_then(|words| words.as_str());
        words.is_some_and(|words| words.to_ascii_lowercase().contains("pull rate limit"))
    };
    if errors.is_some_and(|errors| errors.iter().any(speaks_of_pulls)) {
        LimitKind::Quota
    } else {
        LimitKind::Abuse
    }
}

/// The error of a request that is not made because of a limit.
pub(crate) fn not_asked(limit: LimitKind, left: Duration) -> Error {
    let seconds = left.as_secs_f64();
    Error::RateLimited {
        limit,
        retry_after: Some(left),
        detail: format!("it said so before; it is asked again in {seconds:.1} s").into(),
    }
}

/// How long one limit keeps the mirror from asking.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    until: Option<Instant>,
    /// 429s in a row, those of one herd counted once.
    strikes: u32,
}

impl Backoff {
    /// Upstream answered 429; returns how long not to ask. `told` is its Retry-After.
    pub(crate) fn strike(
        &mut self,
        limit: LimitKind,
        told: Option<Duration>,
        now: Instant,
        jitter: f64,
    ) -> Duration {
        // A request that set out before the pause began and is refused within it adds nothing.
        let held = self.left(now);
        let pause = match (told, held) {
            (Some(told), _) => told.clamp(LEAST, MOST),
            (None, Some(left)) => left,
            (None, None) => {
                let (first, longest) = match limit {
                    LimitKind::Quota => QUOTA_PAUSES,
                    LimitKind::Abuse => ABUSE_PAUSES,
                };
                let pause = first.saturating_mul(1 << self.strikes.min(10)).min(longest);
                pause.mul_f64(0.75 + 0.25 * jitter.clamp(0.0, 1.0))
            }
        };
        if held.is_none() {
            self.strikes = self.strikes.saturating_add(1);
        }
        let until = (now + pause).max(self.until.unwrap_or(now));
        self.until = Some(until);
        until - now
    }

    /// How much longer not to ask.
    pub(crate) fn left(&self, now: Instant) -> Option<Duration> {
        let left = self.until?.checked_duration_since(now)?;
        (!left.is_zero()).then_some(left)
    }

    /// Whether there was a limit that no answer has ended since.
    pub(crate) fn is_struck(&self) -> bool {
        self.strikes > 0
    }

    /// Upstream answered a request that this limit would have refused.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Retry-After, in seconds or as a date (RFC 9110 10.2.3), or as a number that is a date. What is none of these
/// (`445µs`) counts as absent.
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let now = clock(headers, now);
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let told = match seconds(text) {
        Some(seconds) => span(seconds, now),
        None => span_between(now, date(headers, RETRY_AFTER)?),
    };
    Some(told.min(MOST))
}

/// How long a 429 asks to wait: its Retry-After, else when its limit starts again, if nothing is left of that.
pub(crate) fn limited_for(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let number = |name| {
        let text = headers.get(name)?.to_str().ok()?;
        seconds(text.split([';', ',']).next()?.trim())
    };
    let reset = || {
        [
            ("ratelimit-remaining", "ratelimit-reset"),
            ("x-ratelimit-remaining", "x-ratelimit-reset"),
        ]
        .into_iter()
        .filter(|(remaining, _)| number(*remaining).unwrap_or_default() == 0)
        .find_map(|(_, reset)| number(reset))
    };
    retry_after(headers, now).or_else(|| {
        let told = span(reset()?, clock(headers, now)).min(MOST);
        // One that is over says nothing.
        (!told.is_zero()).then_some(told)
    })
}

/// What the sender says that the time is, if its clock is not far off.
fn clock(headers: &HeaderMap, now: SystemTime) -> SystemTime {
    let is_near = |date: &SystemTime| span_between(*date, now).max(span_between(now, *date)) < DAY;
    date(headers, DATE).filter(is_near).unwrap_or(now)
}

fn date(headers: &HeaderMap, name: HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok()
}

/// The span that a number means: seconds, or a time since 1970 in seconds or in parts of them down to nanoseconds. No span
/// is longer than a year, and no time of now is shorter.
pub(super) fn span(number: u64, now: SystemTime) -> Duration {
    let at = match number {
        ..YEAR => return Duration::from_secs(number),
        YEAR..MILLIS => Duration::from_secs(number),
        MILLIS..MICROS => Duration::from_millis(number),
        MICROS..NANOS => Duration::from_micros(number),
        _ => Duration::from_nanos(number),
    };
    at.saturating_sub(span_between(SystemTime::UNIX_EPOCH, now))
}

/// Seconds, rounded up.
fn seconds(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let is_more = part.bytes().any(|digit| digit != b'0');
    let whole: u64 = whole.parse().ok()?;
    let is_number = part.bytes().all(|digit| digit.is_ascii_digit());
    is_number.then_some(whole.saturating_add(u64::from(is_more)))
}

/// Zero if `to` is earlier.
fn span_between(from: SystemTime, to: SystemTime) -> Duration {
    to.duration_since(from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn docker_hubs_two_limits_are_told_apart() {
        let quota = |words: &str| {
            let body =
                serde_json::json!({"errors": [{"code": "TOOMANYREQUESTS", "message": words}]});
            limit_of(body.to_string().as_bytes())
        };
        for words in [
            "You have reached your unauthenticated pull rate limit. https://www.docker.com/increase-rate-limit",
            "You have reached your pull rate limit as 'ci-bot': dckr_jti. You may increase the limit by upgrading.",
            "You have reached your pull rate limit. You may increase the limit by authenticating and upgrading",
        ] {
            assert_eq!(quota(words), LimitKind::Quota, "{words}");
        }
        // ECR Public, in JSON as well: a rate of requests.
        assert_eq!(quota("Rate exceeded"), LimitKind::Abuse);
        for body in [
            "Too Many Requests (HAP429)",
            "<html><body>429 pull rate limit</body></html>",
            "{\"errors\":\"pull rate limit\"}",
            "",
        ] {
            assert_eq!(limit_of(body.as_bytes()), LimitKind::Abuse, "{body}");
        }
    }

    #[test]
    fn a_limit_holds_as_long_as_it_says() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        assert_eq!(backoff.left(now), None);
        let told = Some(17 * SECOND);
        assert_eq!(
            backoff.strike(LimitKind::Quota, told, now, 0.5),
            17 * SECOND
        );
        assert_eq!(backoff.left(now + 16 * SECOND), Some(SECOND));
        assert_eq!(backoff.left(now + 17 * SECOND), None);
        // What was said does not become shorter by being said again.
        backoff.strike(LimitKind::Quota, Some(SECOND), now, 0.5);
        assert_eq!(backoff.left(now), Some(17 * SECOND));
        backoff.clear();
        assert_eq!(backoff.left(now), None);
    }

    #[test]
    fn one_that_does_not_say_holds_longer_each_time() {
        let mut now = Instant::now();
        let mut backoff = Backoff::default();
        for expected in [2, 4, 8, 16, 32, 60, 60] {
            let held = backoff.strike(LimitKind::Abuse, None, now, 1.0);
            assert_eq!(held, expected * SECOND);
            // The others of the same herd are no further strikes.
            backoff.strike(LimitKind::Abuse, None, now + SECOND, 1.0);
            assert_eq!(backoff.left(now), Some(held));
            now += held;
        }
    }

    #[test]
    fn retry_after_is_seconds_a_date_or_nothing() {
        let now = SystemTime::now();
        let said = |text: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, http::HeaderValue::from_bytes(text).unwrap());
            retry_after(&headers, now)
        };
        assert_eq!(said(b"17"), Some(17 * SECOND));
        assert_eq!(said(b"0"), Some(Duration::ZERO));
        assert_eq!(said(b"18446744073709551615"), Some(MOST));
        let date = httpdate::fmt_http_date(now + 100 * SECOND);
        let in_a_while = said(date.as_bytes()).unwrap();
        assert!(in_a_while > 98 * SECOND && in_a_while <= 100 * SECOND);
        let past = httpdate::fmt_http_date(now - 100 * SECOND);
        assert_eq!(said(past.as_bytes()), Some(Duration::ZERO));
        assert_eq!(said(b"1.5"), Some(2 * SECOND));
        assert_eq!(said(b"3.000"), Some(3 * SECOND));
        for nonsense in [
            "445µs",
            "soon",
            "",
            "-1",
            "1.x",
            ".",
            "99999999999999999999",
        ] {
            assert_eq!(said(nonsense.as_bytes()), None, "{nonsense}");
        }
    }

    #[test]
    fn a_limit_ends_when_it_starts_again() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let said = |fields: &[(&'static str, &str)]| {
            let fields = fields
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
            limited_for(&fields.collect(), now)
        };
        let reset = ("ratelimit-reset", "1800000017");
        assert_eq!(said(&[reset]), Some(17 * SECOND));
        assert_eq!(said(&[("x-ratelimit-reset", "5")]), Some(5 * SECOND));
        assert_eq!(said(&[reset, ("retry-after", "3")]), Some(3 * SECOND));
        // Then it is another limit.
        assert_eq!(said(&[reset, ("ratelimit-remaining", "9;w=3600")]), None);
        assert_eq!(said(&[("ratelimit-reset", "1799999999")]), None);
        assert_eq!(said(&[("ratelimit-reset", "99999999")]), None);
    }

    #[test]
    fn a_time_since_1970_is_no_span() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let said = |fields: &[(HeaderName, &str)]| {
            let fields = fields
                .iter()
                .map(|(name, value)| (name.clone(), value.parse().unwrap()));
            retry_after(&fields.collect(), now)
        };
        let told = |text: &str| said(&[(RETRY_AFTER, text)]);
        assert_eq!(told("1800000003"), Some(3 * SECOND));
        assert_eq!(told("1800000003000"), Some(3 * SECOND));
        assert_eq!(told("1799999999"), Some(Duration::ZERO));
        assert_eq!(told("1900000000"), Some(MOST));
        assert_eq!(told("86400"), Some(MOST), "a day is a span");
        // A clock that is ten minutes ahead, as its own date shows.
        let ahead = now + Duration::from_secs(600);
        let at = httpdate::fmt_http_date(ahead + 7 * SECOND);
        let date = httpdate::fmt_http_date(ahead);
        assert_eq!(said(&[(DATE, &date), (RETRY_AFTER, &at)]), Some(7 * SECOND));
        assert_eq!(
            said(&[(DATE, &date), (RETRY_AFTER, "1800000607")]),
            Some(7 * SECOND)
        );
        let nonsense = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH);
        assert_eq!(said(&[(DATE, &nonsense), (RETRY_AFTER, &at)]), Some(MOST));
    }

    proptest! {
        #[test]
        fn a_backoff_ends(told in prop::option::of(0..u64::MAX / 4), strikes in 0..40_u32, jitter in 0.0..1.0_f64) {
            let mut now = Instant::now();
            let mut backoff = Backoff::default();
            for _ in 0..strikes {
                let held = backoff.strike(LimitKind::Quota, told.map(Duration::from_secs), now, jitter);
                prop_assert!(held >= LEAST && held <= MOST);
                now += held;
                prop_assert_eq!(backoff.left(now), None);
            }
        }

        #[test]
        fn no_body_makes_it_panic(body: Vec<u8>, text in "\\PC{0,80}") {
            limit_of(&body);
            limit_of(text.as_bytes());
        }
    }
}
