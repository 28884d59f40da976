//! What refusals mean: which error each is, and for how long not to ask after one that says so.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::{Response, StatusCode};
use hyper::body::Incoming;

use super::client::Client;
use super::request::Ask;
use crate::upstream::error::{Error, Failed, Limit};
use crate::upstream::login::account::Identity;
use crate::upstream::restraint::backoff::{Hold, limit_of, retry_after};
use crate::upstream::restraint::jitter::chance;
use crate::upstream::restraint::quota::RateLimit;

/// How much of a refusal's body is read for its message.
const MAX_ERROR_BODY: usize = 16 * 1024;
/// How long it may take.
const WORDS: Duration = Duration::from_secs(1);

impl Client {
    /// The error that a refusal is; `home` is who was refused, if upstream itself refused.
    pub(crate) async fn refusal(
        &self,
        response: Response<Incoming>,
        home: Option<&Identity>,
    ) -> Failed {
        let (parts, body) = response.into_parts();
        let status = parts.status;
        let text = self.http.body(body).collect_up_to(MAX_ERROR_BODY);
        // An error that never ends is an error all the same.
        let text = tokio::time::timeout(WORDS, text).await;
        let text = text.unwrap_or(Ok(Default::default())).unwrap_or_default();
        let detail: Arc<str> = error_detail(status, &text).into();
        match status.as_u16() {
            404 | 410 => Error::NotFound.into(),
            401 | 403 | 407 => Error::Denied { status, detail }.into(),
            429 => {
                let stated = RateLimit::read(&parts.headers).and_then(|quota| quota.remaining);
                // The answer to a HEAD has no words.
                let limit = match stated {
                    Some(0) => Limit::Quota,
                    _ => limit_of(&text),
                };
                let told = retry_after(&parts.headers, SystemTime::now());
                let retry_after = match home {
                    Some(identity) => Some(self.strike(identity, limit, told)),
                    None => told,
                };
                let error = Error::RateLimited {
                    limit,
                    retry_after,
                    detail,
                };
                error.into()
            }
            _ => {
                if status.is_server_error() {
                    self.http.note_up(false);
                }
                Failed {
                    error: Error::unavailable(detail),
                    passing: matches!(status.as_u16(), 502..=504),
                }
            }
        }
    }

    /// A realm's 429 is no pull quota, and counts for everything: without a token nothing can be asked.
    pub(crate) fn note_limit(&self, error: Error) -> Error {
        match (error, self.identities().first()) {
            (
                Error::RateLimited {
                    retry_after,
                    detail,
                    ..
                },
                Some(any),
            ) => Error::RateLimited {
                limit: Limit::Abuse,
                retry_after: Some(self.strike(any, Limit::Abuse, retry_after)),
                detail,
            },
            (error, _) => error,
        }
    }

    /// Notes a limit; how long it holds.
    fn strike(&self, identity: &Identity, limit: Limit, told: Option<Duration>) -> Duration {
        let now = Instant::now();
        let strike = |hold: &mut Hold| {
            let new = hold.left(now).is_none();
            (hold.strike(limit, told, now, chance()), new)
        };
        let (pause, new) = match limit {
            Limit::Quota => identity.with_hold(strike),
            Limit::Abuse => strike(&mut self.abuse()),
        };
        let (metrics, upstream) = (self.http.metrics(), self.http.namespace());
        let labels = [upstream, limit.as_str()];
        metrics.rate_limits.with_label_values(&labels).inc();
        let until = SystemTime::now() + pause;
        let until = until
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let held_until = metrics.held_until.with_label_values(&labels);
        held_until.set(until.as_secs_f64());
        if new {
            let limit = limit.as_str();
            tracing::warn!(%upstream, host = self.base(), limit, identity = identity.name, ?pause, "upstream limits; it is not asked before this is over, and what is stored is served");
        }
        pause
    }

    /// An answer shows that a limit that is over is over, and that a quota that says so has something left.
    pub(crate) fn lift(&self, identity: &Identity, ask: &Ask, quota: Option<RateLimit>) {
        let now = Instant::now();
        let mut abuse = self.abuse();
        if abuse.left(now).is_none() {
            abuse.lift();
        }
        drop(abuse);
        let refilled = quota
            .and_then(|quota| quota.remaining)
            .is_some_and(|n| n > 0);
        identity.with_hold(|hold| {
            if refilled || ask.spends() && hold.left(now).is_none() {
                hold.lift();
            }
        });
    }
}

/// The error of one who does not ask because of what upstream said before.
pub(crate) fn held(limit: Limit, left: Duration) -> Error {
    let seconds = left.as_secs_f64();
    Error::RateLimited {
        limit,
        retry_after: Some(left),
        detail: format!("it said so before; it is asked again in {seconds:.1} s").into(),
    }
}

/// The first message of an OCI error body, else only the status: what is not JSON (a proxy's HTML) is not repeated.
fn error_detail(status: StatusCode, body: &[u8]) -> String {
    let message = serde_json::from_slice::<serde_json::Value>(body)
        .ok()
        .and_then(|json| {
            let error = json.get("errors")?.get(0)?;
            let words = error
                .get("message")
                .or_else(|| error.get("code"))?
                .as_str()?;
            Some(
                words
                    .chars()
                    .filter(|c| !c.is_control())
                    .take(200)
                    .collect::<String>(),
            )
        });
    match message {
        Some(message) => format!("{status}: {message}"),
        None => status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn html_of_a_proxy_never_becomes_our_words() {
        assert_eq!(
            error_detail(StatusCode::BAD_GATEWAY, b"<html><script>"),
            "502 Bad Gateway"
        );
        let json = br#"{"errors":[{"code":"DENIED","message":"no"}]}"#;
        assert_eq!(
            error_detail(StatusCode::FORBIDDEN, json),
            "403 Forbidden: no"
        );
    }
}
