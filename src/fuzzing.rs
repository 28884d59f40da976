//! Parsers of what upstream says that no other crate has to do with, for the targets in `fuzz/`.

use std::time::{Duration, SystemTime};

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::upstream::answers;

/// Whether a realm's answer is a token.
pub fn is_token(body: &[u8]) -> bool {
    answers::is_token(body)
}

/// Whether an answer has results of a search.
pub fn is_search(body: &[u8]) -> bool {
    answers::is_search(body)
}

/// What an error with that body is called.
pub fn refusal(status: StatusCode, body: &[u8]) -> String {
    answers::refusal(status, body)
}

/// How long to wait.
pub fn retry_after(value: HeaderValue, now: SystemTime) -> Option<Duration> {
    answers::retry_after(&HeaderMap::from_iter([(RETRY_AFTER, value)]), now)
}
