//! Manifests by digest: they never change, so what is stored is served.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::mirror::answer::{Error, Outcome, Want};
use crate::mirror::children::Children;
use crate::mirror::clock::elapsed;
use crate::mirror::once::{Answered, Once, Refusals};
use crate::mirror::site::{Context, Site};
use crate::oci::digest::Digest;
use crate::oci::manifest::Manifest;
use crate::oci::name::{QualifiedName, Reference};
use crate::store::Store;
use crate::store::records::{Durability, StoredManifest, Vouch};
use crate::upstream::{self, FetchedManifest, ManifestHead};

/// A manifest, or what a HEAD of it says.
#[derive(Debug, Clone)]
pub(crate) struct ManifestAnswer {
    pub digest: Digest,
    pub media_type: String,
    /// Its length in bytes.
    pub size: u64,
    /// Its bytes, when they were wanted.
    pub content: Option<Bytes>,
    pub outcome: Outcome,
    /// How long ago upstream confirmed it.
    pub age: Duration,
    /// How long it will be served without asking upstream, if it is by tag.
    pub fresh_for: Option<Duration>,
}

impl ManifestAnswer {
    pub(super) fn of(
        manifest: &StoredManifest,
        want: Want,
        outcome: Outcome,
        age: Duration,
    ) -> Self {
        Self {
            digest: manifest.digest.clone(),
            media_type: manifest.media_type.clone(),
            size: manifest.bytes.len() as u64,
            content: (want == Want::Content).then(|| manifest.bytes.clone()),
            outcome,
            age,
            fresh_for: None,
        }
    }
}

/// What upstream's error about a manifest means to a client.
pub(super) fn manifest_error(error: upstream::Error) -> Error {
    Error::of(error, Error::ManifestUnknown)
}

/// What upstream says of a manifest that is not stored.
#[derive(Clone)]
enum FoundByHead {
    Header {
        media_type: String,
        size: u64,
    },
    /// A HEAD did not tell, so it was fetched.
    Stored(Arc<StoredManifest>),
}

/// Answers for manifests by digest.
pub(crate) struct ByDigest {
    store: Arc<Store>,
    children: Children,
    /// What upstream says it has no manifest of, by tag or by digest.
    refusals: Refusals,
    /// The same, for HEADs alone: what upstream says to a HEAD, a GET is not to hear.
    head_refusals: Refusals,
    /// Manifests coming in.
    fetches: Once<Digest, Arc<StoredManifest>>,
    /// HEADs.
    checks: Once<Digest, FoundByHead>,
}

impl ByDigest {
    pub(super) fn new(store: &Arc<Store>, children: &Children) -> Arc<Self> {
        let (refusals, head_refusals) = (Refusals::default(), Refusals::default());
        Arc::new(Self {
            store: Arc::clone(store),
            children: children.clone(),
            fetches: Once::new(&refusals),
            checks: Once::new(&head_refusals),
            refusals,
            head_refusals,
        })
    }

    /// Shared by all GETs of manifests.
    pub(super) fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Shared by all HEADs of manifests.
    pub(super) fn head_refusals(&self) -> &Refusals {
        &self.head_refusals
    }

    /// What is stored is served, and upstream is not asked.
    pub(super) async fn get(
        self: &Arc<Self>,
        context: &Context,
        name: &QualifiedName,
        digest: &Digest,
        want: Want,
    ) -> Result<ManifestAnswer, Error> {
        if let Some(manifest) = self.store.records().manifest(name, digest).await {
            let age = elapsed(manifest.fetched_at);
            return Ok(ManifestAnswer::of(&manifest, want, Outcome::Hit, age));
        }
        if want == Want::Header {
            return self.head(context, name, digest).await;
        }
        let fetched = self.fetch(context, name, digest).await;
        let (manifest, outcome) = fetched.map_err(manifest_error)?;
        Ok(ManifestAnswer::of(&manifest, want, outcome, Duration::ZERO))
    }

    async fn head(
        self: &Arc<Self>,
        context: &Context,
        name: &QualifiedName,
        digest: &Digest,
    ) -> Result<ManifestAnswer, Error> {
        for refusals in [&self.refusals, &self.head_refusals] {
            refusals.check(name, digest).map_err(manifest_error)?;
        }
        let this = Arc::clone(self);
        let work = |context: Context, name: QualifiedName, named: Digest| async move {
            let (upstream, reference) = (context.site.upstream(), Reference::Digest(named.clone()));
            let head = upstream.head_manifest(&name.repository, &reference, None);
            match head.await? {
                ManifestHead::Found {
                    media_type, size, ..
                } => {
                    this.note_named(&name, &named);
                    Ok(FoundByHead::Header { media_type, size })
                }
                ManifestHead::Fetched(fetched) => {
                    Ok(FoundByHead::Stored(this.keep(&name, fetched).await))
                }
                ManifestHead::NotModified => {
                    let fetched = this.fetch_alone(&context.site, &name, &reference);
                    fetched.await.map(FoundByHead::Stored)
                }
            }
        };
        let (told, outcome) = self.checks.ask(context, name, digest, work);
        match told.answer().await.map_err(manifest_error)? {
            FoundByHead::Header { media_type, size } => Ok(ManifestAnswer {
                digest: digest.clone(),
                media_type,
                size,
                content: None,
                outcome,
                age: Duration::ZERO,
                fresh_for: None,
            }),
            FoundByHead::Stored(manifest) => {
                let (want, age) = (Want::Header, Duration::ZERO);
                Ok(ManifestAnswer::of(&manifest, want, outcome, age))
            }
        }
    }

    /// Fetches a manifest with one request, however many ask, and keeps it.
    pub(super) async fn fetch(
        self: &Arc<Self>,
        context: &Context,
        name: &QualifiedName,
        digest: &Digest,
    ) -> Answered<(Arc<StoredManifest>, Outcome)> {
        self.refusals.check(name, digest)?;
        let this = Arc::clone(self);
        let work = |context: Context, name: QualifiedName, digest: Digest| async move {
            // Another flight may have landed between the asker's look into the store and this one's start.
            if let Some(manifest) = this.store.records().manifest(&name, &digest).await {
                return Ok(manifest);
            }
            let fetched = this
                .fetch_alone(&context.site, &name, &Reference::Digest(digest.clone()))
                .await;
            if let Err(error @ upstream::Error::Wrong(_)) = &fetched {
                tracing::error!(repository = %name, %digest, %error, "upstream sent a wrong manifest; it is not kept");
            }
            fetched
        };
        let (manifest, outcome) = self.fetches.ask(context, name, digest, work);
        Ok((manifest.answer().await?, outcome))
    }

    /// Fetches a manifest and keeps it.
    pub(super) async fn fetch_alone(
        &self,
        site: &Site,
        name: &QualifiedName,
        reference: &Reference,
    ) -> Answered<Arc<StoredManifest>> {
        let fetched = site.upstream().get_manifest(&name.repository, reference);
        Ok(self.keep(name, fetched.await?).await)
    }

    /// Remembers that a HEAD named a manifest, whose bytes are not stored.
    pub(super) fn note_named(&self, name: &QualifiedName, digest: &Digest) {
        self.children.note_one(name, digest);
    }

    /// Stores a manifest and vouches for the blobs it names.
    pub(super) async fn keep(
        &self,
        name: &QualifiedName,
        fetched: FetchedManifest,
    ) -> Arc<StoredManifest> {
        let FetchedManifest {
            digest,
            manifest:
                Manifest {
                    media_type,
                    blobs,
                    manifests,
                    ..
                },
            bytes,
        } = fetched;
        self.children.note(name, &manifests);
        let manifest = StoredManifest {
            digest,
            media_type,
            bytes,
            fetched_at: SystemTime::now(),
        };
        let manifest = self
            .store
            .records()
            .put_manifest(name, manifest, Durability::Behind)
            .await
            .value;
        // Registries accept manifests that name blobs with `urls` without having them: those prove nothing.
        let own = blobs.into_iter().filter(|blob| !blob.elsewhere);
        let own = own.map(|blob| (blob.digest, Vouch::named(blob.size)));
        let own = own.collect();
        self.store.records().vouch(name, own).await;
        manifest
    }
}
