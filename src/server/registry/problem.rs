//! Errors as responses: the one place where an error becomes a status.

use std::time::Duration;

use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Response, StatusCode};

use crate::access::permits::OverShare;
use crate::access::rules::Refusal;
use crate::memory::NoMemory;
use crate::mirror;
use crate::oci::endpoint::EndpointError;
use crate::oci::error::{self, ErrorCode};
use crate::server::body::Body;
use crate::server::browser::Turned;
use crate::sites::SelectError;
use crate::upstream;

use super::respond;

/// What a request came to.
pub(super) type Handled = Result<(Response<Body>, mirror::Outcome), Problem>;

/// The longest that a client is asked to wait, and what it is asked to where no time is known. podman and skopeo do
/// nothing else for as long as they are told, up to a minute, four times over, before they try another mirror or the
/// registry (containers/image, `docker_client.go`). They may ask again here: what upstream holds back is not asked for.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
const RETRY_AFTER_BUSY: Duration = Duration::from_secs(1);

/// An error as a client gets it: the code and words of the API. The cause is for the log.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    code: ErrorCode,
    message: String,
    /// What the log has instead of the message: hosts, addresses, files and errors of the system are not for clients.
    cause: Option<String>,
    /// What else a client must know: when to ask again, what is allowed, how to say who it is.
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            cause: None,
            headers: Vec::new(),
        }
    }

    /// This mirror is read-only.
    pub(super) fn read_only() -> Self {
        let message = "this is a pull-only mirror; push to the registry itself";
        let status = StatusCode::METHOD_NOT_ALLOWED;
        Self::new(status, ErrorCode::Unsupported, message).with(ALLOW, respond::ALLOWED)
    }

    /// Says more to the log than to the client.
    pub(super) fn because(mut self, cause: String) -> Self {
        self.cause = Some(cause);
        self
    }

    /// Adds a header to the response, such as a challenge.
    fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// A person is told how long it really takes.
    fn retry_after(mut self, after: Duration) -> Self {
        // Rounded up: a client that asks a moment too early is refused again.
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        let most = LONGEST_WAIT.as_secs();
        if seconds > most {
            self.message = format!("{}; ask again in {seconds} s", self.message);
        }
        self.with(RETRY_AFTER, seconds.clamp(1, most).into())
    }

    /// The words for the log.
    pub(super) fn cause(&self) -> &str {
        self.cause.as_ref().unwrap_or(&self.message)
    }

    pub(super) fn into_response(self) -> Response<Body> {
        let body = error::body(self.code, &self.message);
        let status = HeaderValue::from_static("pierglass; detail=error");
        let mut response = respond::new(self.status, status);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_LENGTH, body.len().into());
        headers.extend(self.headers);
        *response.body_mut() = Body::whole(body);
        response
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::ReadOnly => Self::read_only(),
        }
    }
}

impl From<Turned> for Problem {
    fn from(turned: Turned) -> Self {
        Self::new(turned.status(), ErrorCode::Denied, turned.to_string())
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

impl From<NoMemory> for Problem {
    fn from(no_memory: NoMemory) -> Self {
        let (status, code) = (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable);
        Self::new(status, code, no_memory.to_string()).retry_after(RETRY_AFTER_BUSY)
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
            mirror::Error::WrongBlob { again_in } => {
                let message = format!("{namespace}: {error}");
                return Self::new(StatusCode::BAD_GATEWAY, ErrorCode::Unknown, message)
                    .retry_after(*again_in);
            }
            mirror::Error::OverShare(over) => return (*over).into(),
            mirror::Error::Upstream(error) => error,
        };
        Self::of_upstream(error, namespace).because(format!("{namespace}: {error}"))
    }

    fn of_upstream(error: &upstream::Error, namespace: &str) -> Self {
        let of =
            |status, code, words: &str| Self::new(status, code, format!("{namespace}: {words}"));
        let unavailable = |status, words| of(status, ErrorCode::Unavailable, words);
        match error {
            upstream::Error::NotFound => of(
                StatusCode::NOT_FOUND,
                ErrorCode::NameUnknown,
                "upstream has no such thing",
            ),
            upstream::Error::Denied { status, .. } => {
                let words = format!("upstream refuses access ({})", status.as_u16());
                of(StatusCode::FORBIDDEN, ErrorCode::Denied, &words)
            }
            upstream::Error::RateLimited {
                limit, retry_after, ..
            } => {
                let words = limit.words();
                let status = StatusCode::TOO_MANY_REQUESTS;
                of(status, ErrorCode::TooManyRequests, words)
                    .retry_after(retry_after.unwrap_or(LONGEST_WAIT))
            }
            upstream::Error::OverRate { again_in } => of(
                StatusCode::TOO_MANY_REQUESTS,
                ErrorCode::TooManyRequests,
                "this client asks too often for what is not stored",
            )
            .retry_after(*again_in),
            upstream::Error::Unavailable(_) => unavailable(
                StatusCode::SERVICE_UNAVAILABLE,
                "upstream is unavailable; the log of the mirror says why",
            )
            .retry_after(LONGEST_WAIT),
            upstream::Error::Credentials(_) => unavailable(
                StatusCode::SERVICE_UNAVAILABLE,
                "the mirror cannot log in there; its log says why",
            )
            .retry_after(LONGEST_WAIT),
            upstream::Error::Busy(no_memory) => (*no_memory).into(),
            upstream::Error::CircuitOpen {
                silent, again_in, ..
            } => {
                let status = match silent {
                    true => StatusCode::GATEWAY_TIMEOUT,
                    false => StatusCode::SERVICE_UNAVAILABLE,
                };
                let words = "upstream failed again and again, so it is not asked for a moment";
                unavailable(status, words).retry_after(*again_in)
            }
            upstream::Error::Silent(_) => {
                unavailable(StatusCode::GATEWAY_TIMEOUT, "upstream does not answer")
                    .retry_after(LONGEST_WAIT)
            }
            upstream::Error::Wrong(_) => of(
                StatusCode::BAD_GATEWAY,
                ErrorCode::Unknown,
                "upstream's answer is wrong; the log of the mirror says how",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::header::WWW_AUTHENTICATE;

    use super::*;

    #[test]
    fn a_problem_can_carry_a_challenge() {
        let challenge = HeaderValue::from_static("Basic realm=\"pierglass\"");
        let problem = Problem::new(
            StatusCode::UNAUTHORIZED,
            ErrorCode::Denied,
            "say who you are",
        );
        let response = problem
            .with(WWW_AUTHENTICATE, challenge.clone())
            .into_response();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(response.headers().get(WWW_AUTHENTICATE), Some(&challenge));
        assert!(response.headers().contains_key(CONTENT_LENGTH));
    }

    #[test]
    fn seconds_to_wait_are_rounded_up() {
        let after = |millis| {
            let problem = Problem::read_only().retry_after(Duration::from_millis(millis));
            let response = problem.into_response();
            response.headers().get(RETRY_AFTER).cloned()
        };
        assert_eq!(after(0), Some(1.into()));
        assert_eq!(after(1000), Some(1.into()));
        assert_eq!(after(1001), Some(2.into()));
    }

    #[test]
    fn a_long_wait_is_told_in_words_alone() {
        let problem = Problem::read_only().retry_after(Duration::from_secs(3600));
        assert!(problem.message.ends_with("; ask again in 3600 s"));
        let response = problem.into_response();
        assert_eq!(response.headers().get(RETRY_AFTER), Some(&2.into()));
    }
}
