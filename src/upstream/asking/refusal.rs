//! What a response that is not a reply means: which error it is, in which words. A 429 is also noted, so that upstream
//! is not asked again too soon.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::response::Parts;
use http::{Method, StatusCode};
use hyper::body::Incoming;

use crate::upstream::error::{Error, FailedTry, LimitKind, may_pass};
use crate::upstream::restraint::backoff::{limit_of, limited_for, retry_after};
use crate::upstream::restraint::quota::RateLimit;
use crate::upstream::wire::coding::Coding;
use crate::upstream::wire::http::Http;

/// How much of the body is read for its message, and how long that may take.
const MAX_ERROR_BODY: usize = 16 * 1024;
const READ_WITHIN: Duration = Duration::from_secs(1);

/// What storage refuses, to which a registry redirects: it knows its URLs, and nothing of repositories. The URL is too
/// old, or for GET alone, or there are too many of them; the registry has another one. `host` is who refuses.
pub(super) fn of_storage(host: &str, method: &Method, parts: &Parts) -> FailedTry {
    let status = parts.status;
    let words = format!("{host}, to which the registry redirects, answers {status}");
    // A URL that is signed for GET is refused to each HEAD.
    let transient = *method == Method::GET || may_pass(status);
    FailedTry {
        error: match transient {
            true => Error::unavailable(words),
            false => Error::wrong(words),
        },
        transient,
        told: retry_after(&parts.headers, SystemTime::now()),
    }
}

/// Reads the error from a response, which states this of the pull quota. `strike` is told of a 429, and says how long not
/// to ask.
pub(super) async fn read(
    http: &Http,
    parts: Parts,
    body: Incoming,
    stated: Option<RateLimit>,
    strike: impl FnOnce(LimitKind, Option<Duration>) -> Option<Duration>,
) -> FailedTry {
    let status = parts.status;
    let body = http.body(body).coded(Coding::of(&parts.headers));
    let text = body.collect_up_to(MAX_ERROR_BODY);
    // The status is known, even if its body never ends.
    let text = tokio::time::timeout(READ_WITHIN, text).await;
    let text = text.unwrap_or(Ok(Default::default())).unwrap_or_default();
    let told = retry_after(&parts.headers, SystemTime::now());
    let tls_wanted = wants_tls(status, &text);
    let detail: Arc<str> = detail(status, &text).into();
    match status.as_u16() {
        404 | 410 => Error::NotFound.into(),
        407 => {
            let words = "a proxy on the way wants a user name and a password (407); HTTPS_PROXY and HTTP_PROXY may have \
                         them: http://user:password@host:port";
            Error::Credentials(words.into()).into()
        }
        429 => {
            // The response to a HEAD has no body to tell from.
            let limit = match stated.and_then(|quota| quota.remaining) {
                Some(0) => LimitKind::Quota,
                _ => limit_of(&text),
            };
            let retry_after = strike(limit, limited_for(&parts.headers, SystemTime::now()));
            let error = Error::RateLimited {
                limit,
                retry_after,
                detail,
            };
            error.into()
        }
        // Of a name that it does not take (400), may not show (451), or does not want to.
        _ if status.is_client_error() && !may_pass(status) && !tls_wanted => {
            Error::Denied { status, detail }.into()
        }
        _ => FailedTry {
            error: Error::Unavailable(detail),
            transient: may_pass(status),
            told,
        },
    }
}

/// The first message of an OCI error body, else only the status: what is not JSON (a proxy's HTML) is not repeated.
pub(crate) fn detail(status: StatusCode, body: &[u8]) -> String {
    let json = serde_json::from_slice::<serde_json::Value>(body).unwrap_or_default();
    let error = json.get("errors").and_then(|errors| errors.get(0));
    let message = error
        .and_then(|error| error.get("message").or_else(|| error.get("code")))
        .and_then(|message| message.as_str());
    match message {
        Some(message) => {
            let printable = message.chars().filter(|c| !c.is_control());
            format!("{status}: {}", printable.take(200).collect::<String>())
        }
        None if wants_tls(status, body) => {
            format!("{status}: it speaks TLS; write https:// in its url")
        }
        None => status.to_string(),
    }
}

/// How servers answer plain HTTP at a port for TLS, those in Go and nginx among them.
fn wants_tls(status: StatusCode, body: &[u8]) -> bool {
    let words = String::from_utf8_lossy(body).to_ascii_lowercase();
    status == StatusCode::BAD_REQUEST && words.contains("http request") && words.contains("https")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn html_of_a_proxy_is_never_repeated() {
        assert_eq!(
            detail(StatusCode::BAD_GATEWAY, b"<html><script>"),
            "502 Bad Gateway"
        );
        let json = br#"{"errors":[{"code":"DENIED","message":"no"}]}"#;
        assert_eq!(detail(StatusCode::FORBIDDEN, json), "403 Forbidden: no");
    }

    #[test]
    fn a_port_for_tls_is_known_by_its_words() {
        for words in [
            "Client sent an HTTP request to an HTTPS server.\n",
            "<title>400 The plain HTTP request was sent to HTTPS port</title>",
        ] {
            let detail = detail(StatusCode::BAD_REQUEST, words.as_bytes());
            assert!(
                detail.contains("https://") && !detail.contains('<'),
                "{detail}"
            );
        }
        assert_eq!(detail(StatusCode::BAD_REQUEST, b"HTTP"), "400 Bad Request");
    }
}
