//! Manifests by digest: they never change, so what is stored is served. By tag: see `tag`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::flight::{Landing, Role};
use crate::oci::digest::Digest;
use crate::oci::manifest::Manifest;
use crate::oci::name::{QualifiedName, Reference, Repository};
use crate::store::Store;
use crate::store::records::StoredManifest;
use crate::upstream::{self, FetchedManifest, ManifestHead};

use crate::mirror::{Answered, Error, Mirror, Outcome, Site, Want};

/// A manifest, or what a HEAD of it says.
#[derive(Debug, Clone)]
pub(crate) struct ManifestAnswer {
    /// The manifest's digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its length in bytes.
    pub size: u64,
    /// Its bytes, when they were wanted.
    pub content: Option<Bytes>,
    /// How this came about.
    pub outcome: Outcome,
    /// How long ago upstream confirmed it.
    pub age: Duration,
    /// How long it will be served without asking upstream, if it is by tag.
    pub fresh_for: Option<Duration>,
}

impl Mirror {
    /// Answers for a manifest of `repository`.
    pub(crate) async fn manifest(
        self: &Arc<Self>,
        site: &Site,
        repository: &Repository,
        reference: &Reference,
        want: Want,
    ) -> Result<ManifestAnswer, Error> {
        let name = site.upstream.qualify(repository);
        match reference {
            Reference::Digest(digest) => self.by_digest(site, &name, digest, want).await,
            Reference::Tag(tag) => self.by_tag(site, &name, tag, want).await,
        }
    }

    /// Content never expires: what is stored is served, and upstream is not asked.
    async fn by_digest(
        self: &Arc<Self>,
        site: &Site,
        name: &QualifiedName,
        digest: &Digest,
        want: Want,
    ) -> Result<ManifestAnswer, Error> {
        if let Some(manifest) = self.store.records().manifest(name, digest).await {
            let age = elapsed(manifest.fetched_at);
            return Ok(answer(&manifest, want, Outcome::Hit, age));
        }
        if want == Want::Header
            && let Some(header) = self.head_by_digest(site, name, digest).await?
        {
            return Ok(header);
        }
        let (manifest, role) = self
            .fetch(site, name, digest)
            .await
            .map_err(manifest_error)?;
        Ok(answer(&manifest, want, outcome_of(role), Duration::ZERO))
    }

    /// Asks upstream with a HEAD; `None` when only a GET can tell.
    async fn head_by_digest(
        self: &Arc<Self>,
        site: &Site,
        name: &QualifiedName,
        digest: &Digest,
    ) -> Result<Option<ManifestAnswer>, Error> {
        self.believed(name, digest)?;
        let (mirror, site, key) = (
            Arc::clone(self),
            site.clone(),
            (name.clone(), digest.clone()),
        );
        let id = key.clone();
        let (landing, role) = self.manifest_checks.join(key, |slot| async move {
            let (name, digest) = &id;
            let reference = Reference::Digest(digest.clone());
            let head = site
                .upstream
                .head_manifest(&name.repository, &reference, None)
                .await;
            mirror.remember_refusal(&site, name, digest, &head);
            slot.publish(head);
        });
        match landed(landing).await.map_err(manifest_error)? {
            ManifestHead::Found {
                digest,
                media_type,
                size,
            } => Ok(Some(ManifestAnswer {
                digest,
                media_type,
                size,
                content: None,
                outcome: outcome_of(role),
                age: Duration::ZERO,
                fresh_for: None,
            })),
            ManifestHead::NotModified | ManifestHead::Unspecific => Ok(None),
        }
    }

    /// Fetches a manifest by digest, one request however many ask, and keeps it.
    pub(in crate::mirror) async fn fetch(
        self: &Arc<Self>,
        site: &Site,
        name: &QualifiedName,
        digest: &Digest,
    ) -> Answered<(Arc<StoredManifest>, Role)> {
        if let Some(error) = self.missing_manifests.get(name, digest) {
            return Err(error);
        }
        let (mirror, site, key) = (
            Arc::clone(self),
            site.clone(),
            (name.clone(), digest.clone()),
        );
        let id = key.clone();
        let (landing, role) = self.manifest_fetches.join(key, |slot| async move {
            let (name, digest) = &id;
            // Another flight may have landed between the asker's look into the store and this one's start.
            if let Some(manifest) = mirror.store.records().manifest(name, digest).await {
                return slot.publish(Ok(manifest));
            }
            let reference = Reference::Digest(digest.clone());
            let manifest = match site.upstream.get_manifest(&name.repository, &reference).await {
                Ok(fetched) => Ok(keep(&mirror.store, name, fetched).await),
                Err(error) => Err(error),
            };
            if let Err(error @ upstream::Error::Wrong(_)) = &manifest {
                tracing::error!(repository = %name, %digest, %error, "upstream sent a wrong manifest; it is not kept");
            }
            mirror.remember_refusal(&site, name, digest, &manifest);
            slot.publish(manifest);
        });
        landed(landing).await.map(|manifest| (manifest, role))
    }

    pub(in crate::mirror) fn believed(
        &self,
        name: &QualifiedName,
        what: &impl ToString,
    ) -> Result<(), Error> {
        self.missing_manifests
            .get(name, what)
            .map_or(Ok(()), |error| Err(manifest_error(error)))
    }

    pub(in crate::mirror) fn remember_refusal<T>(
        &self,
        site: &Site,
        name: &QualifiedName,
        what: &impl ToString,
        result: &Answered<T>,
    ) {
        if let Err(error) = result {
            self.missing_manifests
                .note(name, what, error, site.policy.negative_ttl);
        }
    }
}

/// Stores a manifest and vouches for the blobs it names.
pub(in crate::mirror) async fn keep(
    store: &Arc<Store>,
    name: &QualifiedName,
    fetched: FetchedManifest,
) -> Arc<StoredManifest> {
    let FetchedManifest {
        digest,
        media_type,
        bytes,
    } = fetched;
    let blobs = Manifest::parse(&bytes)
        .map(|manifest| manifest.blobs)
        .unwrap_or_default();
    let manifest = StoredManifest {
        digest,
        media_type,
        bytes,
        fetched_at: SystemTime::now(),
    };
    let manifest = store.records().put_manifest(name, manifest).await;
    // Registries accept manifests that name blobs with `urls` without having them: those prove nothing.
    let own = blobs.into_iter().filter(|blob| !blob.elsewhere);
    store
        .records()
        .vouch(name, own.map(|blob| blob.digest).collect())
        .await;
    manifest
}

pub(in crate::mirror) async fn landed<T: Clone>(landing: Landing<Answered<T>>) -> Answered<T> {
    landing.value().await.unwrap_or_else(|_| {
        Err(upstream::Error::Unavailable(
            "the request was called off".into(),
        ))
    })
}

pub(in crate::mirror) fn answer(
    manifest: &StoredManifest,
    want: Want,
    outcome: Outcome,
    age: Duration,
) -> ManifestAnswer {
    ManifestAnswer {
        digest: manifest.digest.clone(),
        media_type: manifest.media_type.clone(),
        size: manifest.bytes.len() as u64,
        content: (want == Want::Content).then(|| manifest.bytes.clone()),
        outcome,
        age,
        fresh_for: None,
    }
}

pub(in crate::mirror) fn outcome_of(role: Role) -> Outcome {
    match role {
        Role::Leader => Outcome::Miss,
        Role::Joiner => Outcome::Joined,
    }
}

pub(in crate::mirror) fn manifest_error(error: upstream::Error) -> Error {
    match error {
        upstream::Error::NotFound => Error::ManifestUnknown,
        error => Error::Upstream(error),
    }
}

/// A clock that was set back makes an age of zero, never an error.
pub(in crate::mirror) fn elapsed(since: SystemTime) -> Duration {
    SystemTime::now().duration_since(since).unwrap_or_default()
}
