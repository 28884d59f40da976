//! Referrers: what upstream's API says; of registries without one, an index under a tag made of the digest (OCI
//! distribution-spec, "Referrers Tag Schema").

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::memory::{Held, work_on};
use crate::mirror::answer::{Error, Outcome, Want};
use crate::mirror::manifest::digest::ManifestAnswer;
use crate::mirror::manifest::tag::ByTag;
use crate::mirror::once::Answered;
use crate::mirror::site::Context;
use crate::oci::digest::Digest;
use crate::oci::manifest::OCI_INDEX;
use crate::oci::name::QualifiedName;
use crate::oci::referrers::{NoIndex, Referrers, fallback_tag};
use crate::store::records::StoredListing;
use crate::upstream;

use super::fetched::Fetched;

/// Asks upstream's API, and looks under the tag if there is none.
pub(super) async fn fetch(
    tags: &Arc<ByTag>,
    context: &Context,
    name: &QualifiedName,
    digest: &Digest,
) -> Answered<Fetched> {
    let upstream = context.site.upstream();
    let (listed, tag) = match upstream.referrers(&name.repository, digest).await? {
        Some(listed) => (Some(listed), None),
        None => under_fallback_tag(tags, context, name, digest).await?,
    };
    let age = tag.as_ref().map_or(Duration::ZERO, |tag| tag.age);
    let stale = tag.filter(|tag| tag.outcome == Outcome::Stale);
    let now = SystemTime::now();
    let is_refusal = listed.is_none();
    let (referrers, held) = listed.unwrap_or_default();
    Ok(Fetched {
        is_empty: referrers.is_empty(),
        is_refusal,
        stale: stale.map(|tag| tag.outcome),
        listing: StoredListing {
            bytes: held.with(referrers.into_text().into()),
            // What came by a tag is as old as what is known of the tag.
            fetched_at: now.checked_sub(age).unwrap_or(now),
        },
    })
}

/// The tag is asked for like every other, so that clients which ask for it themselves find it stored. No referrers if
/// upstream has no such tag.
async fn under_fallback_tag(
    tags: &Arc<ByTag>,
    context: &Context,
    name: &QualifiedName,
    digest: &Digest,
) -> Answered<(Option<(Referrers, Held)>, Option<ManifestAnswer>)> {
    let Some(tag) = fallback_tag(digest) else {
        return Ok((None, None));
    };
    match Box::pin(tags.get(context, name, &tag, Want::Content)).await {
        Ok(manifest) => {
            // A user may have pushed that tag, and what is not an index says nothing of referrers.
            let index = manifest.content.clone();
            let index = index.filter(|_| manifest.media_type == OCI_INDEX);
            let index = index.unwrap_or_default();
            let held = context.site.upstream().memory().hold(index.len()).await;
            let held = held.map_err(upstream::Error::Busy)?;
            let referrers = work_on(index.len(), move || referrers_of(&index)).await;
            Ok((Some((referrers, held)), Some(manifest)))
        }
        // Only upstream's own word makes an empty list; that it is away does not.
        Err(Error::Upstream(error)) => Err(error),
        // Only transfers of blobs need a permit beyond the request's, or bring wrong blobs.
        Err(error @ (Error::OverShare(_) | Error::WrongBlob { .. })) => {
            Err(upstream::Error::Unavailable(error.to_string().into()))
        }
        Err(
            Error::ManifestUnknown
            | Error::BlobUnknown
            | Error::RepositoryUnknown
            | Error::NoSearch,
        ) => Ok((None, None)),
    }
}

fn referrers_of(index: &[u8]) -> Referrers {
    let mut referrers = Referrers::default();
    match referrers.add(index, &[]) {
        Ok(()) => referrers,
        Err(NoIndex) => Referrers::default(),
    }
}
