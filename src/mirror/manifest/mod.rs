//! Manifests: by digest, which never change, and by tag, which upstream can move.
//!
//! It knows no HTTP, and nothing of what a manifest says but the blobs it names. Reading order: this file (which of the
//! two), [`digest`] (one manifest), [`tag`] (which manifest a tag is, and when a stale tag is served).

pub(crate) mod digest;
pub(super) mod tag;

use std::sync::Arc;

use crate::oci::name::{Reference, Repository};
use crate::store::Store;

use super::answer::{Error, Want};
use super::site::Context;
use digest::{ByDigest, ManifestAnswer};
use tag::ByTag;

/// Answers for manifests.
pub(crate) struct Manifests {
    digests: Arc<ByDigest>,
    tags: Arc<ByTag>,
}

impl Manifests {
    pub(super) fn new(store: &Arc<Store>) -> Self {
        let digests = ByDigest::new(store);
        let tags = ByTag::new(store, &digests);
        Self { digests, tags }
    }

    /// Manifests by tag, for what is kept under tags of its own.
    pub(super) fn tags(&self) -> &Arc<ByTag> {
        &self.tags
    }

    /// Answers for a manifest of `repository`.
    pub(crate) async fn get(
        &self,
        context: &Context,
        repository: &Repository,
        reference: &Reference,
        want: Want,
    ) -> Result<ManifestAnswer, Error> {
        let name = context.site.qualify(repository);
        match reference {
            Reference::Digest(digest) => self.digests.get(context, &name, digest, want).await,
            Reference::Tag(tag) => self.tags.get(context, &name, tag, want).await,
        }
    }
}
