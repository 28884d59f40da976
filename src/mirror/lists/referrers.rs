//! Referrers: what upstream's API says; of registries without one, an index under a tag made of the digest (OCI
//! distribution-spec, "Referrers Tag Schema").

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::memory::{Held, work_on};
use crate::mirror::answer::{Error, Outcome, Want};
use crate::mirror::manifest::digest::ManifestAnswer;
use crate::mirror::manifest::tag::ByTag;
use crate::mirror::once::Answered;
use crate::mirror::site::Context;
use crate::oci::digest::Digest;
use crate::oci::manifest::{Manifest, OCI_INDEX};
use crate::oci::name::QualifiedName;
use crate::oci::referrers::{self, NoIndex, Referrers, fallback_tag};
use crate::store::Store;
use crate::store::records::StoredListing;
use crate::upstream::{self, ReferrersAnswer};

use super::fetched::Fetched;

/// Asks upstream's API, and looks under the tag if that has no list.
///
/// `is_held`: a list that is not empty is stored and may be served. Only the API takes it away then, or the tag under
/// which it stands: a refusal, or a 404 of a host without a registry behind it, is no word that nothing refers.
pub(super) async fn fetch(
    tags: &Arc<ByTag>,
    store: &Store,
    context: &Context,
    name: &QualifiedName,
    digest: &Digest,
    is_held: bool,
) -> Answered<Fetched> {
    let upstream = context.site.upstream();
    let under_a_tag = is_held && stands_under_tag(store, name, digest).await;
    let under_tag = || Box::pin(under_fallback_tag(tags, store, context, name, digest));
    let mut by_api = false;
    let mut listed_by_api = |referrers, held| {
        by_api = true;
        (Some((referrers, held)), None)
    };
    let (listed, tag) = match upstream.referrers(&name.repository, digest, false).await? {
        ReferrersAnswer::Listed(referrers, held) => listed_by_api(referrers, held),
        ReferrersAnswer::NoApi => under_tag().await?,
        // The tag is asked for with the same rights: where it is not there, that is the answer.
        ReferrersAnswer::Refused(error) => under_tag().await.map_err(|_| error)?,
        // What is limited, or fails, may have a list: that nothing is under the tag says nothing then.
        ReferrersAnswer::Failed(error) => match under_tag().await {
            Err(_) => return Err(error),
            Ok((Some((referrers, held)), tag)) if !referrers.is_empty() => {
                (Some((referrers, held)), tag)
            }
            Ok(_) => match upstream.referrers(&name.repository, digest, true).await? {
                ReferrersAnswer::Listed(referrers, held) => listed_by_api(referrers, held),
                ReferrersAnswer::NoApi | ReferrersAnswer::Refused(_) => (None, None),
                ReferrersAnswer::Failed(error) => return Err(error),
            },
        },
    };
    let lists_any = listed.as_ref().is_some_and(|(list, _)| !list.is_empty());
    if is_held && !by_api && !lists_any && !under_a_tag {
        let words = "it has no list of referrers any more, and none under a tag";
        return Err(upstream::Error::Unavailable(words.into()));
    }
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

/// Whether a list is stored under the tag: where upstream has that no more, the list is gone.
async fn stands_under_tag(store: &Store, name: &QualifiedName, digest: &Digest) -> bool {
    let Some(tag) = fallback_tag(digest) else {
        return false;
    };
    let Some(record) = store.records().tag(name, &tag).await else {
        return false;
    };
    let manifest = store.records().manifest(name, &record.digest).await;
    manifest.is_some_and(|manifest| is_list(&manifest.media_type, &manifest.digest, digest))
}

/// Whether a manifest under the tag of `subject` can list its referrers. A user may have pushed that tag; GitLab resolves
/// it to the manifest with that digest.
fn is_list(media_type: &str, digest: &Digest, subject: &Digest) -> bool {
    media_type == OCI_INDEX && digest != subject
}

/// The tag is asked for like every other, so that clients which ask for it themselves find it stored. No referrers if
/// upstream has no such tag.
async fn under_fallback_tag(
    tags: &Arc<ByTag>,
    store: &Store,
    context: &Context,
    name: &QualifiedName,
    digest: &Digest,
) -> Answered<(Option<(Referrers, Held)>, Option<ManifestAnswer>)> {
    let Some(tag) = fallback_tag(digest) else {
        return Ok((None, None));
    };
    match Box::pin(tags.get(context, name, &tag, Want::Content)).await {
        Ok(manifest) => {
            let is_list = is_list(&manifest.media_type, &manifest.digest, digest);
            let index = manifest.content.clone().filter(|_| is_list);
            let index = index.unwrap_or_default();
            let held = context.site.upstream().memory().hold(index.len()).await;
            let held = held.map_err(upstream::Error::Busy)?;
            let strangers = strangers(store, name, digest, &index).await;
            let referrers = work_on(index.len(), move || referrers_of(&index, &strangers)).await;
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

/// What an index lists that does not refer to `subject`, as far as the manifests are stored.
async fn strangers(
    store: &Store,
    name: &QualifiedName,
    subject: &Digest,
    index: &Bytes,
) -> HashSet<Digest> {
    let bytes = index.clone();
    let listed = work_on(index.len(), move || {
        let index = Manifest::parse(Some(OCI_INDEX), &bytes).unwrap_or_default();
        index.manifests.into_iter().map(|it| it.digest)
    });
    let mut strangers = HashSet::new();
    for digest in listed.await {
        if store.records().has_manifest(name, &digest)
            && let Some(manifest) = store.records().manifest(name, &digest).await
            && referrers::refers_to(&manifest.bytes, subject) == Some(false)
        {
            strangers.insert(digest);
        }
    }
    strangers
}

fn referrers_of(index: &[u8], strangers: &HashSet<Digest>) -> Referrers {
    let mut referrers = Referrers::default();
    match referrers.add_without(index, strangers) {
        Ok(()) => referrers,
        Err(NoIndex) => Referrers::default(),
    }
}
