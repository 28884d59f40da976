//! The headers that answers of a registry carry.

use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, AGE, ALLOW, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use crate::headers::cache_status::{CacheStatus, Fwd};
use crate::headers::range;
use crate::mirror::Outcome;
use crate::oci::digest::Digest;
use crate::server::body::Body;

/// Says which source a namespace chose (distribution-spec, "Registry Proxying").
pub(super) const OCI_NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// The methods that do something.
pub(super) const ALLOWED: HeaderValue = HeaderValue::from_static("GET, HEAD, OPTIONS");
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// A response with what every response of a registry carries.
pub(super) fn new(status: StatusCode, cache_status: HeaderValue) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    // Room for what follows: a map that grows hashes everything again.
    let headers = response.headers_mut();
    headers.reserve(12);
    headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    headers.insert(CACHE_STATUS, cache_status);
    response
}

/// `/v2/`: this is a registry, and every client may use it.
pub(super) fn base() -> Response<Body> {
    let body = Bytes::from_static(b"{}");
    list("application/json", body, Outcome::Hit, None, None)
}

/// What may be done, wherever it is asked (RFC 9110 9.3.7). Load balancers ask it, and browsers before a page reads.
pub(super) fn options() -> Response<Body> {
    let mut response = list("text/plain", Bytes::new(), Outcome::Hit, None, None);
    response.headers_mut().insert(ALLOW, ALLOWED);
    response
}

/// `/`: what a person sees who opens the address in a browser.
pub(super) fn front() -> Response<Body> {
    const WORDS: &str = "Pierglass, a mirror of container registries.\n\n\
        Docker uses it with this in /etc/docker/daemon.json, then `systemctl reload docker`:\n  \
        { \"registry-mirrors\": [\"http://THIS-ADDRESS\"] }\n\
        containerd, podman and others: see README.md.\n";
    let body = Bytes::from_static(WORDS.as_bytes());
    list("text/plain; charset=utf-8", body, Outcome::Hit, None, None)
}

/// A list of any kind; `age` where it is from the store.
pub(super) fn list(
    media_type: &'static str,
    body: Bytes,
    outcome: Outcome,
    age: Option<Duration>,
    fresh_for: Option<Duration>,
) -> Response<Body> {
    let mut response = new(StatusCode::OK, cache_status(outcome, true, fresh_for));
    let headers = response.headers_mut();
    // Without parameters: clients compare the type of an index exactly (go-containerregistry, oras).
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CONTENT_LENGTH, body.len().into());
    if let Some(age) = age {
        headers.insert(AGE, age.as_secs().into());
    }
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
    let mut response = new(status, cache_status(outcome, stored, None));
    let headers = response.headers_mut();
    identity(headers, digest);
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    response
}

/// A range that lies outside of the blob (RFC 9110 15.5.17).
pub(super) fn unsatisfiable(digest: &Digest, outcome: Outcome, total: u64) -> Response<Body> {
    let mut response = blob(StatusCode::RANGE_NOT_SATISFIABLE, digest, outcome, false);
    response
        .headers_mut()
        .insert(CONTENT_RANGE, range::unsatisfied(total));
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

/// The headers that name content. Both share one piece of memory.
pub(super) fn identity(headers: &mut HeaderMap, digest: &Digest) {
    let quoted = Bytes::from(etag(digest));
    let bare = quoted.slice(1..quoted.len().saturating_sub(1).max(1));
    if let Ok(value) = HeaderValue::from_maybe_shared(bare) {
        headers.insert(CONTENT_DIGEST, value);
    }
    if let Ok(value) = HeaderValue::from_maybe_shared(quoted) {
        headers.insert(ETAG, value);
    }
}

/// Whether the bytes are older than the request.
pub(super) fn is_from_store(outcome: Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Hit | Outcome::Stale | Outcome::Revalidated
    )
}

/// RFC 9211. `stored`: whether what upstream sent was kept.
pub(super) fn cache_status(outcome: Outcome, stored: bool, ttl: Option<Duration>) -> HeaderValue {
    let miss = CacheStatus::forwarded(Fwd::UriMiss);
    let status = match outcome {
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
    };
    status.to_header()
}
