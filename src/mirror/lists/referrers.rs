//! Referrers of registries that have no API for them: an index under a tag made of the digest
//! (OCI distribution-spec, "Referrers Tag Schema").

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::oci::digest::Digest;
use crate::oci::manifest::OCI_INDEX;
use crate::oci::name::QualifiedName;
use crate::oci::referrers::{Referrers, fallback_tag};
use crate::store::records::StoredListing;

use crate::mirror::manifest::digest::ManifestAnswer;
use crate::mirror::{Answered, Error, Mirror, Outcome, Site, Want};

impl Mirror {
    /// Asks upstream's API, and looks under the tag if there is none. Says so if that tag is a stale one.
    pub(in crate::mirror) async fn ask_for_referrers(
        self: &Arc<Self>,
        site: &Site,
        name: &QualifiedName,
        digest: &Digest,
    ) -> Answered<(StoredListing, Option<Outcome>)> {
        let told = site.upstream.referrers(&name.repository, digest).await?;
        let (referrers, tag) = match told {
            Some(referrers) => (referrers, None),
            None => self.under_fallback_tag(site, name, digest).await?,
        };
        let age = tag.as_ref().map_or(Duration::ZERO, |tag| tag.age);
        let stale = tag.filter(|tag| tag.outcome == Outcome::Stale);
        let now = SystemTime::now();
        let listing = StoredListing {
            bytes: referrers.to_bytes(),
            // What came by a tag is as old as what is known of the tag.
            fetched_at: now.checked_sub(age).unwrap_or(now),
        };
        Ok((listing, stale.map(|tag| tag.outcome)))
    }

    /// The tag goes the way of every other, so that clients which ask for it themselves find it stored.
    async fn under_fallback_tag(
        self: &Arc<Self>,
        site: &Site,
        name: &QualifiedName,
        digest: &Digest,
    ) -> Answered<(Referrers, Option<ManifestAnswer>)> {
        let none = (Referrers::default(), None);
        let Some(tag) = fallback_tag(digest) else {
            return Ok(none);
        };
        match Box::pin(self.by_tag(site, name, &tag, Want::Content)).await {
            Ok(manifest) => {
                let index = manifest.content.as_ref();
                let index = index.filter(|_| manifest.media_type == OCI_INDEX);
                Ok((descriptors(index), Some(manifest)))
            }
            // Only upstream's own word makes an empty list; that it is away does not.
            Err(Error::Upstream(error)) => Err(error),
            Err(
                Error::ManifestUnknown
                | Error::BlobUnknown
                | Error::RepositoryUnknown
                | Error::NoSearch,
            ) => Ok(none),
        }
    }
}

/// Anybody can push that tag, and what is not an index says nothing of referrers.
fn descriptors(index: Option<&Bytes>) -> Referrers {
    index
        .and_then(|bytes| Referrers::parse(bytes))
        .unwrap_or_default()
}
