//! A 404 that contradicts what is stored.
//!
//! Some registries are caches, and have the blobs of an image only after they were asked for its manifest (ECR's
//! pull-through cache). A mirror that has the manifest never asks for it again, so the blobs would be missing for good.

use crate::mirror::once::Answered;
use crate::mirror::site::Site;
use crate::oci::digest::Digest;
use crate::oci::manifest::Manifest;
use crate::oci::name::{QualifiedName, Reference};
use crate::store::Store;
use crate::store::records::StoredManifest;
use crate::upstream::Error;

/// The most manifests of a repository that are looked at.
const MOST: usize = 1000;

/// Asks upstream about a blob; once more after a 404, if upstream still has a manifest of this repository that names the
/// blob.
pub(super) async fn ask<T, F>(
    store: &Store,
    site: &Site,
    name: &QualifiedName,
    digest: &Digest,
    question: impl Fn() -> F,
) -> Answered<T>
where
    F: Future<Output = Answered<T>>,
{
    match question().await {
        // Boxed: it is large, and seldom needed.
        Err(Error::NotFound) if Box::pin(is_reminded(store, site, name, digest)).await => {
            question().await
        }
        answered => answered,
    }
}

/// Asks upstream for a stored manifest that names the blob.
async fn is_reminded(store: &Store, site: &Site, name: &QualifiedName, blob: &Digest) -> bool {
    let (records, upstream) = (store.records(), site.upstream());
    // Where pulls are counted nothing is such a cache.
    if upstream.counts_pulls() || records.vouched(name, blob).await.is_none() {
        return false;
    }
    let wanted = blob.clone();
    let names = move |stored: &StoredManifest| {
        let read = Manifest::parse(Some(&stored.media_type), &stored.bytes);
        read.is_ok_and(|read| read.blobs.iter().any(|named| named.digest == wanted))
    };
    let Some(stored) = records.find_manifest(name, MOST, names).await else {
        return false;
    };
    tracing::info!(repository = %name, digest = %blob, manifest = %stored.digest, "upstream does not have a blob that a manifest names; asking for the manifest");
    let reference = Reference::Digest(stored.digest.clone());
    let manifest = upstream.get_manifest(&name.repository, &reference);
    manifest.await.is_ok()
}
