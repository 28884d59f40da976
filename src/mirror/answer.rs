//! What all answers of the mirror have in common: how they came about, how much was wanted, why there is none.

use std::time::Duration;

use crate::access::permits::OverShare;
use crate::flight::Role;
use crate::upstream;

/// How an answer came about; the same word in the log, in the metrics and in `Cache-Status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// From the store; upstream was not asked.
    Hit,
    /// From a transfer or a question that another request had started.
    Joined,
    /// From upstream, and into the store.
    Miss,
    /// From the store, after upstream confirmed it.
    Revalidated,
    /// From the store, because upstream did not answer.
    Stale,
    /// From upstream, past the store, which had no room.
    Bypass,
    /// There was no answer to give.
    Error,
}

impl Outcome {
    /// How many there are.
    pub(crate) const COUNT: usize = Self::Error as usize + 1;

    /// Whether upstream said something about it just now.
    pub(crate) fn is_from_upstream(self) -> bool {
        matches!(
            self,
            Self::Joined | Self::Miss | Self::Revalidated | Self::Bypass
        )
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Joined => "joined",
            Self::Miss => "miss",
            Self::Revalidated => "revalidated",
            Self::Stale => "stale",
            Self::Bypass => "bypass",
            Self::Error => "error",
        }
    }
}

impl From<Role> for Outcome {
    fn from(role: Role) -> Self {
        match role {
            Role::Leader => Self::Miss,
            Role::Joiner => Self::Joined,
        }
    }
}

/// How much of a thing a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    /// What a HEAD answers with.
    Header,
    /// The bytes too.
    Content,
}

/// Why there is no answer.
#[derive(Debug, Clone)]
pub(crate) enum Error {
    /// The repository has no such manifest.
    ManifestUnknown,
    /// The repository has no such blob.
    BlobUnknown,
    /// Upstream has no such repository.
    RepositoryUnknown,
    /// Upstream has no search.
    NoSearch,
    /// What upstream sent as this blob was wrong again and again; it is not asked for it until then.
    WrongBlob { again_in: Duration },
    /// The client may not start another transfer yet.
    OverShare(OverShare),
    /// Upstream was asked and gave nothing that can be passed on.
    Upstream(upstream::Error),
}

impl Error {
    /// What upstream's error means to a client; `unknown` is the meaning of a 404.
    pub(super) fn of(error: upstream::Error, unknown: Self) -> Self {
        match error {
            upstream::Error::NotFound => unknown,
            error => Self::Upstream(error),
        }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ManifestUnknown => f.write_str("upstream has no such manifest"),
            Self::BlobUnknown => f.write_str("upstream has no such blob in this repository"),
            Self::RepositoryUnknown => f.write_str("upstream has no such repository"),
            Self::NoSearch => f.write_str("upstream has no search"),
            Self::WrongBlob { .. } => f.write_str(
                "what upstream sent as this blob was wrong; it is not asked for a while",
            ),
            Self::OverShare(over) => over.fmt(f),
            Self::Upstream(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {}
