//! Manifests: by digest, which never change, and by tag, which upstream can move.
//!
//! It knows no HTTP, and nothing of what a manifest says but the blobs it names and, of an index, the usual image.
//! Reading order: this file (which of the two), [`tag`] (when a stale tag is served), `pointer` (which manifest a tag is,
//! as upstream says), [`digest`] (one manifest).

pub(crate) mod digest;
mod pointer;
pub(super) mod tag;

use std::sync::Arc;

use crate::memory::work_on;
use crate::oci::manifest::usual_image;
use crate::oci::name::{Reference, Repository};
use crate::store::Store;

use super::answer::{Error, Outcome, Want};
use super::children::Children;
use super::site::Context;
use digest::{ByDigest, ManifestAnswer};
use tag::ByTag;

/// Answers for manifests.
pub(crate) struct Manifests {
    digests: Arc<ByDigest>,
    tags: Arc<ByTag>,
}

impl Manifests {
    pub(super) fn new(store: &Arc<Store>, children: &Children) -> Self {
        let digests = ByDigest::new(store, children);
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
            Reference::Digest(digest) => {
                let answer = self.digests.get(context, &name, digest, want).await;
                if let Err(Error::ManifestUnknown) = answer {
                    self.tags.doubt(context, &name, digest).await;
                }
                answer
            }
            Reference::Tag(tag) => self.tags.get(context, &name, tag, want).await,
        }
    }

    /// The image for most machines of an index that a tag stands for, for clients that know no index. `None` if it names
    /// none, or upstream does not have it.
    pub(crate) async fn usual_image(
        &self,
        context: &Context,
        repository: &Repository,
        index: &ManifestAnswer,
        want: Want,
    ) -> Result<Option<ManifestAnswer>, Error> {
        let name = context.site.qualify(repository);
        let get = async |digest, want| self.digests.get(context, &name, digest, want).await;
        let bytes = match &index.content {
            Some(bytes) => Some(bytes.clone()),
            None => get(&index.digest, Want::Content).await?.content,
        };
        let bytes = bytes.unwrap_or_default();
        let Some(digest) = work_on(bytes.len(), move || usual_image(&bytes)).await else {
            return Ok(None);
        };
        let image = match get(&digest, want).await {
            Ok(image) => image,
            Err(Error::ManifestUnknown) => return Ok(None),
            Err(error) => return Err(error),
        };
        // It is what the tag stands for, for as long as the index is.
        Ok(Some(ManifestAnswer {
            outcome: match image.outcome {
                Outcome::Hit => index.outcome,
                outcome => outcome,
            },
            age: index.age,
            fresh_for: index.fresh_for,
            ..image
        }))
    }
}
