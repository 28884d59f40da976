//! What is stored under one file name and evicted as one piece. The lowest floor of the store.

use std::fmt;
use std::sync::Arc;

use crate::oci::digest::Digest;
use crate::oci::name::{Namespace, QualifiedName, Tag};

/// The identity of one stored file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum StoreKey {
    /// A blob, shared by all repositories that have it.
    Blob(Digest),
    /// A manifest of one repository, with its bytes.
    Manifest(Arc<(QualifiedName, Digest)>),
    /// What a tag of one repository pointed to.
    Tag(Arc<(QualifiedName, Tag)>),
    /// What upstream listed about one repository.
    Listing(Arc<(QualifiedName, Listing)>),
    /// The beginning of a blob that an upstream did not send to its end.
    Partial(Arc<(Namespace, Digest)>),
}

/// What is listed about a repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Listing {
    /// Its tags.
    Tags,
    /// The manifests whose subject is this one.
    Referrers(Digest),
}

impl StoreKey {
    pub(crate) fn manifest(name: &QualifiedName, digest: &Digest) -> Self {
        Self::Manifest(Arc::new((name.clone(), digest.clone())))
    }

    pub(crate) fn tag(name: &QualifiedName, tag: &Tag) -> Self {
        Self::Tag(Arc::new((name.clone(), tag.clone())))
    }

    pub(crate) fn listing(name: &QualifiedName, listing: &Listing) -> Self {
        Self::Listing(Arc::new((name.clone(), listing.clone())))
    }

    pub(crate) fn partial(namespace: &Namespace, digest: &Digest) -> Self {
        Self::Partial(Arc::new((namespace.clone(), digest.clone())))
    }
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tags => f.write_str("tags"),
            Self::Referrers(digest) => write!(f, "referrers of {digest}"),
        }
    }
}
