//! Why an upstream did not give what it was asked for, sorted by whose fault it is.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use crate::memory::NoMemory;

/// Why upstream did not give what was asked for. Cheap to clone: all who wait for one flight get it.
///
/// The text names the cause and never holds a secret, a token or a signed URL.
#[derive(Debug, Clone)]
pub(crate) enum Error {
    /// Upstream says that it does not have it (404).
    NotFound,
    /// Upstream refuses access (401 or 403): unknown repository, or credentials that are missing or wrong.
    Denied {
        status: StatusCode,
        detail: Arc<str>,
    },
    /// Upstream asks for fewer requests (429), or did so before and is not asked until that is over.
    RateLimited {
        limit: LimitKind,
        retry_after: Option<Duration>,
        detail: Arc<str>,
    },
    /// Upstream cannot be reached, or answers with an error of its own (5xx).
    Unavailable(Arc<str>),
    /// Upstream did not answer in time.
    Silent(Arc<str>),
    /// Upstream failed again and again, and is not asked for a while: its circuit is open.
    CircuitOpen {
        /// Whether it failed by silence.
        silent: bool,
        /// When it is asked again; zero while another request is testing it.
        again_in: Duration,
        /// What failed, since when, and why.
        detail: Arc<str>,
    },
    /// The client that asks causes more questions than it may: upstream is not asked.
    OverRate { again_in: Duration },
    /// Upstream answered with what cannot be right: wrong digest, wrong length, no manifest, a redirect loop.
    Wrong(Arc<str>),
    /// Upstream's answer is there, and this mirror has no room for it in memory.
    Busy(NoMemory),
    /// The request cannot be made: credentials cannot be read, or may not be sent to where upstream wants them.
    Credentials(Arc<str>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LimitKind {
    /// Pulls within hours: GETs of manifests.
    Quota,
    /// Requests of any kind within seconds.
    Abuse,
}

impl LimitKind {
    /// What a client is told of it.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Quota => "upstream's pull quota is spent",
            Self::Abuse => "upstream limits the rate of requests",
        }
    }

    /// The word in metrics.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Quota => "quota",
            Self::Abuse => "abuse",
        }
    }
}

impl Error {
    pub(super) fn wrong(detail: impl Into<Arc<str>>) -> Self {
        Self::Wrong(detail.into())
    }

    pub(super) fn unavailable(detail: impl Into<Arc<str>>) -> Self {
        Self::Unavailable(detail.into())
    }

    pub(super) fn too_long(limit: usize) -> Self {
        Self::wrong(format!(
            "upstream sent more than {limit} bytes where that is the most allowed"
        ))
    }

    /// Whether upstream gave no answer, so that what is stored may be served instead. A 404 is an answer.
    pub(crate) fn is_no_answer(&self) -> bool {
        !matches!(self, Self::NotFound)
    }

    /// Whether it is who asks that is refused: another account may get it.
    pub(super) fn refuses_who_asks(&self) -> bool {
        matches!(self, Self::Denied { status, .. } if matches!(status.as_u16(), 401 | 403))
    }

    /// Whether upstream was not asked because its circuit is open. The log said so when it opened.
    pub(crate) fn is_circuit_open(&self) -> bool {
        matches!(self, Self::CircuitOpen { .. })
    }

    /// The cause, without the words that say what kind of error it is.
    pub(super) fn detail(&self) -> &str {
        match self {
            Self::NotFound => "upstream has no such thing",
            Self::Busy(_) => "no room in memory",
            Self::OverRate { .. } => "this client asks too often for what is not stored",
            Self::Denied { detail, .. }
            | Self::RateLimited { detail, .. }
            | Self::Unavailable(detail)
            | Self::Silent(detail)
            | Self::CircuitOpen { detail, .. }
            | Self::Wrong(detail)
            | Self::Credentials(detail) => cut(detail),
        }
    }
}

/// Upstream's own words may be part of a cause: hosts, headers, messages.
fn cut(words: &str) -> &str {
    const LONGEST: usize = 512;
    match words.char_indices().nth(LONGEST) {
        Some((end, _)) => words.get(..end).unwrap_or_default(),
        None => words,
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let detail = self.detail();
        let kind = match self {
            Self::NotFound => return f.write_str(detail),
            Self::Busy(no_memory) => return no_memory.fmt(f),
            Self::Denied { status, .. } => {
                return write!(f, "upstream refuses access ({}): {detail}", status.as_u16());
            }
            Self::RateLimited { limit, .. } => limit.words(),
            Self::Unavailable(_) => "upstream is unavailable",
            Self::Silent(_) => "upstream does not answer",
            Self::CircuitOpen { .. } | Self::OverRate { .. } => "upstream is not asked",
            Self::Wrong(_) => "upstream's answer is wrong",
            Self::Credentials(_) => "cannot authenticate",
        };
        write!(f, "{kind}: {detail}")
    }
}

impl std::error::Error for Error {}

/// One try that failed, and whether another one may help.
#[derive(Debug, Clone)]
pub(super) struct FailedTry {
    pub(super) error: Error,
    /// The cause may be gone a moment later: a connection that broke, a 500 or 503, a URL that storage refuses.
    pub(super) transient: bool,
    /// How long the one who failed asks to wait (Retry-After).
    pub(super) told: Option<Duration>,
}

impl FailedTry {
    pub(super) fn transient(error: Error) -> Self {
        Self {
            error,
            transient: true,
            told: None,
        }
    }

    /// With other words, if access was refused.
    pub(super) fn denied_because(self, words: &str) -> Self {
        match self.error {
            Error::Denied { status, .. } => Error::Denied {
                status,
                detail: words.into(),
            }
            .into(),
            _ => self,
        }
    }
}

impl From<Error> for FailedTry {
    fn from(error: Error) -> Self {
        Self {
            error,
            transient: false,
            told: None,
        }
    }
}

impl From<FailedTry> for Error {
    fn from(failed: FailedTry) -> Self {
        failed.error
    }
}

/// Whether an answer with this status may be another one a moment later: the server failed, was too slow for its own
/// patience (408, RFC 9110 15.5.9), or wants the same once more (421, 425, 449). Not where it says that it cannot do this
/// at all (501, 505), and not at a login page (511).
pub(super) fn may_pass(status: StatusCode) -> bool {
    match status.as_u16() {
        501 | 505 | 511 => false,
        408 | 421 | 425 | 449 => true,
        _ => status.is_server_error(),
    }
}

/// Why a client for an upstream cannot be built: always a certificate file.
#[derive(Debug)]
pub(crate) struct CertificateError(pub(super) String);

impl std::fmt::Display for CertificateError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CertificateError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_words_are_cut() {
        let error = Error::wrong("é".repeat(60_000));
        assert!(error.to_string().len() < 1200);
    }
}
