//! Errors as responses: the one place where an error becomes a status.

use std::time::Duration;

use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

use crate::access::permits::OverShare;
use crate::mirror;
use crate::oci::endpoint::EndpointError;
use crate::oci::error::{self, ErrorCode};
use crate::server::body::Body;
use crate::sites::SelectError;
use crate::upstream;

use super::respond;

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
        let mut response = respond::new(
            self.status,
            HeaderValue::from_static("pierglass; detail=error"),
        );
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_LENGTH, body.len().into());
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

impl From<OverShare> for Problem {
    /// 503 and not 429, at which containerd asks again at once, and podman waits for a minute.
    fn from(over: OverShare) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::Unavailable,
            over.to_string(),
        )
        .retry_after(RETRY_AFTER_BUSY)
    }
}

impl From<SelectError> for Problem {
    fn from(error: SelectError) -> Self {
        match error {
            SelectError::UnknownNamespace(_) | SelectError::NoDefault => Self::new(
                StatusCode::NOT_FOUND,
                ErrorCode::NameUnknown,
                error.to_string(),
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
            upstream::Error::CircuitOpen {
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
