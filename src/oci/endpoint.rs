//! Endpoints: the URL shapes of the distribution API (OCI distribution-spec, "Endpoints"), parsed
//! from a path and printed back.
//!
//! [`Endpoint`] is one of them by itself; [`Route`] is what a client sent, which can name the
//! registry as well.

mod path;
mod route;
#[cfg(test)]
mod tests;

use std::fmt;

use super::digest::{Digest, DigestError};
use super::error::ErrorCode;
use super::name::{NameError, Reference, Repository};
pub(crate) use route::query_value;
pub use route::{Prefix, Route};

/// One URL of the API, without the registry it is asked of.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Endpoint {
    /// `/v2/`: is this a registry, and may I come in?
    Base,
    /// `/v2/<name>/manifests/<reference>`
    Manifest {
        /// Where it is.
        repository: Repository,
        /// Its tag or digest.
        reference: Reference,
    },
    /// `/v2/<name>/blobs/<digest>`
    Blob {
        /// Where it is.
        repository: Repository,
        /// What it is.
        digest: Digest,
    },
    /// `/v2/<name>/tags/list`
    Tags {
        /// Whose tags.
        repository: Repository,
    },
    /// `/v2/<name>/referrers/<digest>`
    Referrers {
        /// Where to look.
        repository: Repository,
        /// The subject that is referred to.
        digest: Digest,
    },
    /// `/v2/<name>/blobs/uploads/` and what is below it: pushing only, so what is below is not
    /// kept.
    Uploads {
        /// Where a client would push.
        repository: Repository,
    },
    /// `/v2/_catalog`: not in the specification, but in docker/distribution.
    Catalog,
    /// `/v1/search`: Docker's search.
    Search,
    /// `/v1/_ping`: how Docker asks whether there is a search.
    SearchPing,
}

/// The kind of an endpoint: few enough to be a metric's label.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) enum Kind {
    Base,
    Manifest,
    Blob,
    Tags,
    Referrers,
    Catalog,
    Search,
    Upload,
}

impl Endpoint {
    /// The repository it is about, if it is about one.
    pub(crate) fn repository(&self) -> Option<&Repository> {
        match self {
            Self::Manifest { repository, .. }
            | Self::Blob { repository, .. }
            | Self::Tags { repository }
            | Self::Referrers { repository, .. }
            | Self::Uploads { repository } => Some(repository),
            Self::Base | Self::Catalog | Self::Search | Self::SearchPing => None,
        }
    }

    /// The same endpoint of another repository; unchanged if it is about none.
    #[must_use]
    pub(crate) fn with_repository(mut self, new: Repository) -> Self {
        match &mut self {
            Self::Manifest { repository, .. }
            | Self::Blob { repository, .. }
            | Self::Tags { repository }
            | Self::Referrers { repository, .. }
            | Self::Uploads { repository } => *repository = new,
            Self::Base | Self::Catalog | Self::Search | Self::SearchPing => {}
        }
        self
    }

    /// The path to ask a registry for: printed by the type that parses it, so that the two cannot
    /// drift apart.
    ///
    /// Nothing in it needs percent-encoding: names have no such characters, and a colon is allowed
    /// in a path (RFC 3986 3.3).
    pub fn path(&self) -> String {
        match self {
            Self::Base => "/v2/".into(),
            Self::Manifest {
                repository,
                reference,
            } => format!("/v2/{repository}/manifests/{reference}"),
            Self::Blob { repository, digest } => format!("/v2/{repository}/blobs/{digest}"),
            Self::Tags { repository } => format!("/v2/{repository}/tags/list"),
            Self::Referrers { repository, digest } => {
                format!("/v2/{repository}/referrers/{digest}")
            }
            Self::Uploads { repository } => format!("/v2/{repository}/blobs/uploads/"),
            Self::Catalog => "/v2/_catalog".into(),
            Self::Search => "/v1/search".into(),
            Self::SearchPing => "/v1/_ping".into(),
        }
    }

    /// What kind of endpoint it is.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Base => Kind::Base,
            Self::Manifest { .. } => Kind::Manifest,
            Self::Blob { .. } => Kind::Blob,
            Self::Tags { .. } => Kind::Tags,
            Self::Referrers { .. } => Kind::Referrers,
            Self::Uploads { .. } => Kind::Upload,
            Self::Catalog => Kind::Catalog,
            Self::Search | Self::SearchPing => Kind::Search,
        }
    }
}

impl Kind {
    pub(crate) const COUNT: usize = Self::Upload as usize + 1;

    /// Its name in logs and metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Manifest => "manifest",
            Self::Blob => "blob",
            Self::Tags => "tags",
            Self::Referrers => "referrers",
            Self::Catalog => "catalog",
            Self::Search => "search",
            Self::Upload => "upload",
        }
    }
}

/// Why a request names no endpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EndpointError {
    /// The path has none of the known shapes.
    NotFound,
    /// The repository's name is invalid.
    Name(NameError),
    /// The digest is invalid.
    Digest(DigestError),
    /// The tag is invalid.
    Tag(NameError),
    /// The registry, in `ns` or in the path, is invalid.
    Namespace(NameError),
    /// A path component does not decode to text that could be part of a name.
    Encoding,
}

impl EndpointError {
    /// The code to answer with.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::NotFound => ErrorCode::NameUnknown,
            Self::Name(_) | Self::Namespace(_) | Self::Encoding => ErrorCode::NameInvalid,
            Self::Digest(_) => ErrorCode::DigestInvalid,
            // A tag that cannot exist does not exist: the conformance suite asks for
            // `.INVALID_MANIFEST_NAME` and expects 404.
            Self::Tag(_) => ErrorCode::ManifestUnknown,
        }
    }
}

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("no such endpoint"),
            Self::Name(error) | Self::Tag(error) | Self::Namespace(error) => error.fmt(f),
            Self::Digest(error) => error.fmt(f),
            Self::Encoding => f.write_str(
                "a path component is \"..\", or holds a control character, invalid UTF-8 or an encoded \".\" or \"//\"",
            ),
        }
    }
}

impl std::error::Error for EndpointError {}
