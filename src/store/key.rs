//! What is stored under one file name and evicted as one piece. The lowest floor of the store.

use std::fmt;
use std::sync::Arc;

use crate::oci::digest::{Algorithm, Digest};
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
    /// The blobs that one repository vouches for.
    Vouched(Arc<QualifiedName>),
    /// The blobs whose bytes one upstream gave.
    Given(Namespace),
    /// The beginning of a blob that an upstream did not send to its end.
    Partial(Arc<(Namespace, Digest)>),
}

/// What the stored bytes are spent on: a label of the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryKind {
    Blobs,
    /// Manifests, tags and lists.
    Records,
    Vouched,
    Partials,
}

impl EntryKind {
    pub(crate) const ALL: [Self; 4] = [Self::Blobs, Self::Records, Self::Vouched, Self::Partials];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Blobs => "blobs",
            Self::Records => "records",
            Self::Vouched => "vouched",
            Self::Partials => "partials",
        }
    }
}

/// A directory below the top ones, which exists as long as something is in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum StoreDirectory {
    /// Blobs whose digests begin with the same two digits.
    Shard(Algorithm, [u8; 2]),
    Blobs(Algorithm),
    Repository(QualifiedName),
    Repositories(Namespace),
    Partials(Namespace),
}

impl StoreDirectory {
    /// The directory it is in, unless that is a top one.
    pub(crate) fn parent(&self) -> Option<Self> {
        match self {
            Self::Shard(algorithm, _) => Some(Self::Blobs(*algorithm)),
            Self::Repository(name) => Some(Self::Repositories(name.namespace.clone())),
            Self::Blobs(_) | Self::Repositories(_) | Self::Partials(_) => None,
        }
    }
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

    pub(crate) fn vouched(name: &QualifiedName) -> Self {
        Self::Vouched(Arc::new(name.clone()))
    }

    pub(crate) fn partial(namespace: &Namespace, digest: &Digest) -> Self {
        Self::Partial(Arc::new((namespace.clone(), digest.clone())))
    }

    /// The upstream that it is about; of blobs, which all share, its key does not tell.
    pub(crate) fn namespace(&self) -> Option<&Namespace> {
        match self {
            Self::Blob(_) => None,
            Self::Manifest(id) => Some(&id.0.namespace),
            Self::Tag(id) => Some(&id.0.namespace),
            Self::Listing(id) => Some(&id.0.namespace),
            Self::Vouched(name) => Some(&name.namespace),
            Self::Given(namespace) => Some(namespace),
            Self::Partial(id) => Some(&id.0),
        }
    }

    pub(crate) fn share(&self) -> EntryKind {
        match self {
            Self::Blob(_) => EntryKind::Blobs,
            Self::Manifest(_) | Self::Tag(_) | Self::Listing(_) => EntryKind::Records,
            Self::Vouched(_) | Self::Given(_) => EntryKind::Vouched,
            Self::Partial(_) => EntryKind::Partials,
        }
    }

    /// The directory it is in.
    pub(crate) fn directory(&self) -> StoreDirectory {
        match self {
            Self::Blob(digest) => {
                let hex = digest.hex();
                let shard = hex.as_bytes().first_chunk().copied();
                StoreDirectory::Shard(digest.algorithm(), shard.unwrap_or_default())
            }
            Self::Manifest(id) => StoreDirectory::Repository(id.0.clone()),
            Self::Tag(id) => StoreDirectory::Repository(id.0.clone()),
            Self::Listing(id) => StoreDirectory::Repository(id.0.clone()),
            Self::Vouched(name) => StoreDirectory::Repository(name.as_ref().clone()),
            Self::Given(namespace) => StoreDirectory::Repositories(namespace.clone()),
            Self::Partial(id) => StoreDirectory::Partials(id.0.clone()),
        }
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
