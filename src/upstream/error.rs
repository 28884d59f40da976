//! What can go wrong with an upstream, by whose fault it is.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

/// Why upstream did not give what was asked for. Cheap to clone: all who wait for one flight get it.
///
/// The text names the cause and never holds a secret, a token or a signed URL.
#[derive(Debug, Clone)]
pub(crate) enum Error {
    /// Upstream says it has no such thing (404).
    NotFound,
    /// Upstream refuses us (401 or 403): unknown repository, or credentials that are missing or wrong.
    Denied {
        /// 401 or 403.
        status: StatusCode,
        /// Upstream's words.
        detail: Arc<str>,
    },
    /// Upstream asks for fewer requests (429), or did so a moment ago and is not asked again before that is over.
    RateLimited {
        /// Of which.
        limit: Limit,
        /// When to ask again.
        retry_after: Option<Duration>,
        /// Upstream's words.
        detail: Arc<str>,
    },
    /// Upstream cannot be reached, or answers with an error of its own (5xx).
    Unavailable(Arc<str>),
    /// Upstream did not answer in time.
    Silent(Arc<str>),
    /// Upstream failed again and again, and is not asked for a while.
    LeftAlone {
        /// Whether it failed by silence.
        silent: bool,
        /// When it is asked again; zero while it is being asked by somebody else.
        again_in: Duration,
        /// What failed, since when, and why.
        detail: Arc<str>,
    },
    /// Upstream answered with what cannot be right: wrong digest, wrong length, no manifest, a redirect loop.
    Wrong(Arc<str>),
    /// We cannot ask: credentials cannot be read, or may not be sent to where upstream wants them.
    Credentials(Arc<str>),
}

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    /// Pulls within hours: GETs of manifests.
    Quota,
    /// Requests of any kind within seconds.
    Abuse,
}

impl Limit {
    /// The word in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Quota => "quota",
            Self::Abuse => "abuse",
        }
    }
}

impl Error {
    pub(super) fn wrong(detail: String) -> Self {
        Self::Wrong(detail.into())
    }

    pub(super) fn unavailable(detail: impl Into<Arc<str>>) -> Self {
        Self::Unavailable(detail.into())
    }

    /// Whether upstream's word is missing, so that what is remembered may stand in for it.
    ///
    /// A clear "not there" is an answer; everything else is the absence of one.
    pub(crate) fn is_no_answer(&self) -> bool {
        !matches!(self, Self::NotFound)
    }

    /// Whether upstream was not asked, because of what happened before. That was said in the log when it happened.
    pub(crate) fn is_old_news(&self) -> bool {
        matches!(self, Self::LeftAlone { .. })
    }

    /// The words without those that say what kind of error it is.
    pub(super) fn detail(&self) -> &str {
        match self {
            Self::NotFound => "upstream has no such thing",
            Self::Denied { detail, .. }
            | Self::RateLimited { detail, .. }
            | Self::Unavailable(detail)
            | Self::Silent(detail)
            | Self::LeftAlone { detail, .. }
            | Self::Wrong(detail)
            | Self::Credentials(detail) => detail,
        }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotFound => f.write_str("upstream has no such thing"),
            Self::Denied { status, detail } => {
                write!(f, "upstream refuses access ({}): {detail}", status.as_u16())
            }
            Self::RateLimited {
                limit: Limit::Quota,
                detail,
                ..
            } => write!(f, "upstream's pull quota is spent: {detail}"),
            Self::RateLimited { detail, .. } => {
                write!(f, "upstream limits the rate of requests: {detail}")
            }
            Self::Unavailable(detail) => write!(f, "upstream is unavailable: {detail}"),
            Self::Silent(detail) => write!(f, "upstream does not answer: {detail}"),
            Self::LeftAlone { detail, .. } => write!(f, "upstream is not asked: {detail}"),
            Self::Wrong(detail) => write!(f, "upstream's answer is wrong: {detail}"),
            Self::Credentials(detail) => write!(f, "cannot authenticate: {detail}"),
        }
    }
}

impl std::error::Error for Error {}

/// Why there is no answer, with what only this folder wants to know about it.
pub(super) struct Failed {
    pub(super) error: Error,
    /// It may be gone the next moment: a connection that broke, a 502, 503 or 504.
    pub(super) passing: bool,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self {
            error,
            passing: false,
        }
    }
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        failed.error
    }
}

impl Failed {
    pub(super) fn passing(error: Error) -> Self {
        Self {
            error,
            passing: true,
        }
    }
}

/// Why a client for an upstream cannot be built: a certificate file, always.
#[derive(Debug)]
pub(crate) struct StartError {
    pub(super) namespace: String,
    pub(super) detail: String,
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "upstream {}: {}", self.namespace, self.detail)
    }
}

impl std::error::Error for StartError {}
