//! Answers and errors as responses: every header a client is owed, and the one place where an error
//! becomes a status.

use std::time::Duration;

use http::header::{
    ACCEPT_RANGES, AGE, ALLOW, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName,
    RETRY_AFTER,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use crate::headers::cache_status::{CacheStatus, Fwd};
use crate::mirror::manifest::ManifestAnswer;
use crate::mirror::{self, Outcome};
use crate::oci::digest::Digest;
use crate::oci::endpoint::EndpointError;
use crate::oci::error::{self, ErrorCode};
use crate::upstream::{self, SelectError};

use super::body::Body;
use super::share::Busy;

/// Says which source a namespace chose (distribution-spec, "Registry Proxying").
pub(super) const OCI_NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// What a client is asked to wait when upstream did not say how long.
const RETRY_AFTER_QUOTA: Duration = Duration::from_secs(60);
const RETRY_AFTER_BUSY: Duration = Duration::from_secs(1);
const RETRY_AFTER_OUTAGE: Duration = Duration::from_secs(5);

/// An error as a client gets it: the code and words of the API. The cause is for the log.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    code: ErrorCode,
    message: String,
    retry_after: Option<Duration>,
    allow: Option<&'static str>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            retry_after: None,
            allow: None,
        }
    }

    /// This mirror is read-only.
    pub(super) fn read_only() -> Self {
        let message = "this is a pull-only mirror; push to the registry itself";
        let problem = Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            ErrorCode::Unsupported,
            message,
        );
        Self {
            allow: Some("GET, HEAD"),
            ..problem
        }
    }

    fn retry_after(self, after: Duration) -> Self {
        Self {
            retry_after: Some(after),
            ..self
        }
    }

    /// The words for the log.
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    pub(super) fn into_response(self) -> Response<Body> {
        let body = error::body(self.code, &self.message);
        let mut response = new(self.status);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_LENGTH, body.len().into());
        headers.insert(
            CACHE_STATUS,
            HeaderValue::from_static("pierglass; detail=error"),
        );
        if let Some(after) = self.retry_after {
            // Rounded up: who asks a moment too early is refused again.
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, seconds.max(1).into());
        }
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        *response.body_mut() = Body::whole(body);
        response
    }
}

impl From<EndpointError> for Problem {
    fn from(error: EndpointError) -> Self {
        let status = match error {
            EndpointError::NotFound | EndpointError::Tag(_) => StatusCode::NOT_FOUND,
            EndpointError::Name(_)
            | EndpointError::Digest(_)
            | EndpointError::Namespace(_)
            | EndpointError::Encoding => StatusCode::BAD_REQUEST,
        };
        Self::new(status, error.code(), error.to_string())
    }
}

impl From<Busy> for Problem {
    /// 503 and not 429, at which containerd asks again at once, and podman waits for a minute.
    fn from(busy: Busy) -> Self {
        let message = format!("this client has more {} at a time than its share", busy.of);
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::Unavailable,
            message,
        )
        .retry_after(RETRY_AFTER_BUSY)
    }
}

impl From<SelectError> for Problem {
    fn from(error: SelectError) -> Self {
        match error {
            SelectError::UnknownNamespace(namespace) => Self::new(
                StatusCode::NOT_FOUND,
                ErrorCode::NameUnknown,
                format!(
                    "this mirror has no upstream {namespace}; it is configured as [upstream.\"{namespace}\"]"
                ),
            ),
            SelectError::NoDefault => Self::new(
                StatusCode::NOT_FOUND,
                ErrorCode::NameUnknown,
                "this mirror has no default upstream; name the registry with ?ns= or in front of the repository",
            ),
            SelectError::Endpoint(error) => error.into(),
        }
    }
}

impl Problem {
    /// Exhaustive on purpose: a new way to fail must choose its status here.
    ///
    /// 404 is only said when upstream said it. Upstream's own 401 never reaches a client: with its challenge,
    /// it would make clients send their passwords here.
    pub(super) fn of(error: &mirror::Error, namespace: &str) -> Self {
        let error = match error {
            mirror::Error::ManifestUnknown => {
                return Self::new(
                    StatusCode::NOT_FOUND,
                    ErrorCode::ManifestUnknown,
                    format!("{namespace} has no such manifest"),
                );
            }
            mirror::Error::BlobUnknown => {
                let message = format!("{namespace} has no such blob in this repository");
                return Self::new(StatusCode::NOT_FOUND, ErrorCode::BlobUnknown, message);
            }
            mirror::Error::RepositoryUnknown => {
                let message = format!("{namespace} has no such repository");
                return Self::new(StatusCode::NOT_FOUND, ErrorCode::NameUnknown, message);
            }
            mirror::Error::NoSearch => {
                let message = format!("{namespace} has no search");
                return Self::new(StatusCode::NOT_FOUND, ErrorCode::Unsupported, message);
            }
            mirror::Error::Upstream(error) => error,
        };
        let words = format!("{namespace}: {error}");
        match error {
            upstream::Error::NotFound => {
                Self::new(StatusCode::NOT_FOUND, ErrorCode::NameUnknown, words)
            }
            upstream::Error::Denied { .. } => {
                Self::new(StatusCode::FORBIDDEN, ErrorCode::Denied, words)
            }
            upstream::Error::RateLimited { retry_after, .. } => Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                ErrorCode::TooManyRequests,
                words,
            )
            .retry_after(retry_after.unwrap_or(RETRY_AFTER_QUOTA)),
            upstream::Error::Unavailable(_) | upstream::Error::Credentials(_) => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                ErrorCode::Unavailable,
                words,
            )
            .retry_after(RETRY_AFTER_OUTAGE),
            upstream::Error::LeftAlone {
                silent, again_in, ..
            } => {
                let status = match silent {
                    true => StatusCode::GATEWAY_TIMEOUT,
                    false => StatusCode::SERVICE_UNAVAILABLE,
                };
                Self::new(status, ErrorCode::Unavailable, words).retry_after(*again_in)
            }
            upstream::Error::Silent(_) => {
                Self::new(StatusCode::GATEWAY_TIMEOUT, ErrorCode::Unavailable, words)
                    .retry_after(RETRY_AFTER_OUTAGE)
            }
            upstream::Error::Wrong(_) => {
                Self::new(StatusCode::BAD_GATEWAY, ErrorCode::Unknown, words)
            }
        }
    }
}

/// A response with what every response of a registry carries.
pub(super) fn new(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    // Room for what follows: a map that grows hashes everything again.
    response.headers_mut().reserve(12);
    response
        .headers_mut()
        .insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    response
}

/// `/v2/`: this is a registry, and anybody may come in.
pub(super) fn base() -> Response<Body> {
    let mut response = new(StatusCode::OK);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CONTENT_LENGTH, 2.into());
    let status = cache_status(Outcome::Hit, false, None);
    response
        .headers_mut()
        .insert(CACHE_STATUS, status.to_header());
    *response.body_mut() = Body::whole(bytes::Bytes::from_static(b"{}"));
    response
}

/// A manifest, or its header for a HEAD.
pub(super) fn manifest(answer: ManifestAnswer) -> Response<Body> {
    let mut response = new(StatusCode::OK);
    let headers = response.headers_mut();
    identity(headers, &answer.digest);
    let media_type = HeaderValue::try_from(answer.media_type);
    headers.insert(
        CONTENT_TYPE,
        media_type.unwrap_or(HeaderValue::from_static("application/octet-stream")),
    );
    headers.insert(CONTENT_LENGTH, answer.size.into());
    let from_store = matches!(
        answer.outcome,
        Outcome::Hit | Outcome::Stale | Outcome::Revalidated
    );
    if from_store {
        headers.insert(AGE, answer.age.as_secs().into());
    }
    let stored = answer.content.is_some();
    headers.insert(
        CACHE_STATUS,
        cache_status(answer.outcome, stored, answer.fresh_for).to_header(),
    );
    if let Some(content) = answer.content {
        *response.body_mut() = Body::whole(content);
    }
    response
}

/// A list of any kind; `age` where it is from the store.
pub(super) fn list(
    media_type: &'static str,
    body: bytes::Bytes,
    outcome: Outcome,
    age: Option<Duration>,
    fresh_for: Option<Duration>,
) -> Response<Body> {
    let mut response = new(StatusCode::OK);
    let headers = response.headers_mut();
    // Without parameters: clients compare the type of an index exactly (go-containerregistry, oras).
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CONTENT_LENGTH, body.len().into());
    if let Some(age) = age {
        headers.insert(AGE, age.as_secs().into());
    }
    let status = cache_status(outcome, true, fresh_for);
    headers.insert(CACHE_STATUS, status.to_header());
    *response.body_mut() = Body::whole(body);
    response
}

/// What every answer about a blob carries; `body` is added by the caller.
pub(super) fn blob(
    status: StatusCode,
    digest: &Digest,
    outcome: Outcome,
    stored: bool,
) -> Response<Body> {
    let mut response = new(status);
    let headers = response.headers_mut();
    identity(headers, digest);
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(
        CACHE_STATUS,
        cache_status(outcome, stored, None).to_header(),
    );
    response
}

/// A range that lies outside of the blob (RFC 9110 15.5.17).
pub(super) fn unsatisfiable(digest: &Digest, outcome: Outcome, total: u64) -> Response<Body> {
    let mut response = blob(StatusCode::RANGE_NOT_SATISFIABLE, digest, outcome, false);
    response
        .headers_mut()
        .insert(CONTENT_RANGE, crate::headers::range::unsatisfied(total));
    response.headers_mut().insert(CONTENT_LENGTH, 0.into());
    response
}

/// What the client has is still right (RFC 9110 15.4.5): the same header without a body.
pub(super) fn not_modified(mut response: Response<Body>) -> Response<Body> {
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    *response.body_mut() = Body::empty();
    response.headers_mut().remove(CONTENT_LENGTH);
    response
}

/// The entity tag of what has this digest.
pub(super) fn etag(digest: &Digest) -> String {
    let (algorithm, hex) = (digest.algorithm().as_str(), digest.hex());
    ["\"", algorithm, ":", &hex, "\""].concat()
}

/// Both headers share one piece of memory.
fn identity(headers: &mut HeaderMap, digest: &Digest) {
    let quoted = bytes::Bytes::from(etag(digest));
    let bare = quoted.slice(1..quoted.len().saturating_sub(1).max(1));
    if let Ok(value) = HeaderValue::from_maybe_shared(bare) {
        headers.insert(CONTENT_DIGEST, value);
    }
    if let Ok(value) = HeaderValue::from_maybe_shared(quoted) {
        headers.insert(ETAG, value);
    }
}

/// RFC 9211. `stored`: whether what upstream sent was kept.
fn cache_status(outcome: Outcome, stored: bool, ttl: Option<Duration>) -> CacheStatus {
    let miss = CacheStatus::forwarded(Fwd::UriMiss);
    match outcome {
        Outcome::Hit => match ttl.and_then(|ttl| i64::try_from(ttl.as_secs()).ok()) {
            Some(ttl) => CacheStatus::hit().ttl(ttl),
            None => CacheStatus::hit(),
        },
        Outcome::Stale => CacheStatus::hit().detail("stale"),
        Outcome::Revalidated => CacheStatus::hit().detail("revalidated"),
        Outcome::Joined => miss.collapsed(),
        Outcome::Miss if stored => miss.stored(),
        Outcome::Miss | Outcome::Error => miss,
        Outcome::Bypass => CacheStatus::forwarded(Fwd::Bypass),
    }
}
