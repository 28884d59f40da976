//! Manifests: by digest they never change, by tag they are asked about again and again.
//!
//! A pull begins with the question what a tag points to. Upstreams count GETs of manifests against a
//! quota and let HEADs pass, so a HEAD is asked wherever it answers the question.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::flight::{Landing, Role, Slot};
use crate::oci::digest::Digest;
use crate::oci::manifest::Manifest;
use crate::oci::name::{QualifiedName, Reference, Repository, Tag};
use crate::store::Store;
use crate::store::records::{StoredManifest, TagRecord};
use crate::upstream::{self, FetchedManifest, ManifestHead};

use super::freshness::{Freshness, decide};
use super::{Answered, Error, Mirror, Outcome, Site, Want, record_of};

/// A manifest, or what a HEAD of it says.
#[derive(Debug, Clone)]
pub struct ManifestAnswer {
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

/// What a question about a tag brought.
#[derive(Clone)]
pub(super) struct Resolved {
    record: Arc<TagRecord>,
    /// Whether it is what was remembered.
    confirmed: bool,
}

impl Mirror {
    /// Answers for a manifest of `repository`.
    pub async fn manifest(
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
        if let Some(manifest) = self.store.manifest(name, digest).await {
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

    async fn by_tag(
        self: &Arc<Self>,
        site: &Site,
        name: &QualifiedName,
        tag: &Tag,
        want: Want,
    ) -> Result<ManifestAnswer, Error> {
        let Some(record) = self.store.tag(name, tag).await else {
            self.believed(name, tag)?;
            let (landing, role) = self.resolve(site, name, tag, want, None);
            let resolved = landed(landing).await.map_err(manifest_error)?;
            return self
                .answer_record(site, name, tag, &resolved.record, want, outcome_of(role))
                .await;
        };
        let freshness = decide(elapsed(record.checked_at), &site.policy);
        if let Freshness::Fresh(_) = freshness {
            return self
                .answer_record(site, name, tag, &record, want, Outcome::Hit)
                .await;
        }
        let (landing, role) = self.resolve(site, name, tag, want, Some(Arc::clone(&record)));
        let stand_in = match freshness {
            Freshness::Expired => None,
            Freshness::Fresh(_) | Freshness::Stale => self.stale_answer(name, &record, want).await,
        };
        let landing = landed(landing);
        let resolved = match stand_in {
            None => landing.await,
            Some(stale) => match tokio::time::timeout(site.policy.stale_after, landing).await {
                Ok(Err(error)) if error.is_no_answer() => {
                    tracing::warn!(repository = %name, %tag, %error, "upstream has no answer; serving a stale tag");
                    return Ok(stale);
                }
                Ok(resolved) => resolved,
                // The question goes on behind this answer.
                Err(_) => return Ok(stale),
            },
        };
        let Resolved { record, confirmed } = resolved.map_err(manifest_error)?;
        let outcome = if confirmed {
            Outcome::Revalidated
        } else {
            outcome_of(role)
        };
        self.answer_record(site, name, tag, &record, want, outcome)
            .await
    }

    /// Starts or joins the question what `tag` points to, given what is remembered of it.
    fn resolve(
        self: &Arc<Self>,
        site: &Site,
        name: &QualifiedName,
        tag: &Tag,
        want: Want,
        known: Option<Arc<TagRecord>>,
    ) -> (Landing<Answered<Resolved>>, Role) {
        let (mirror, site, key) = (Arc::clone(self), site.clone(), (name.clone(), tag.clone()));
        let id = key.clone();
        self.tag_checks
            .join(key, move |slot: Slot<_, _>| async move {
                let (name, tag) = &id;
                let resolved = mirror.ask_about_tag(&site, name, tag, want, known).await;
                mirror.remember_refusal(&site, name, tag, &resolved);
                if let Err(upstream::Error::NotFound) = resolved {
                    mirror.store.drop_tag(name, tag).await;
                }
                slot.publish(resolved);
            })
    }

    async fn ask_about_tag(
        self: &Arc<Self>,
        site: &Site,
        name: &QualifiedName,
        tag: &Tag,
        want: Want,
        known: Option<Arc<TagRecord>>,
    ) -> Answered<Resolved> {
        if known.is_none()
            && let Some(record) = self.store.tag(name, tag).await
        {
            // Another flight landed between the asker's look into the store and this one's start.
            return Ok(Resolved {
                record,
                confirmed: false,
            });
        }
        let reference = Reference::Tag(tag.clone());
        // Nothing is known and the bytes are wanted: a GET is the one request that brings both.
        let head = match (&known, want) {
            (None, Want::Content) => ManifestHead::Unspecific,
            _ => {
                let known = known.as_ref().map(|record| &record.digest);
                site.upstream
                    .head_manifest(&name.repository, &reference, known)
                    .await?
            }
        };
        let record = match (head, known) {
            (ManifestHead::NotModified, Some(known)) => {
                return Ok(self.confirm(name, tag, &known).await);
            }
            (ManifestHead::Found { digest, .. }, Some(known)) if digest == known.digest => {
                return Ok(self.confirm(name, tag, &known).await);
            }
            (
                ManifestHead::Found {
                    digest,
                    media_type,
                    size,
                },
                known,
            ) => {
                if want == Want::Content {
                    // Content first, pointer last: a tag must not point to what nobody has.
                    match self.fetch(site, name, &digest).await {
                        Ok((manifest, _)) => record_of_manifest(&manifest),
                        // Replicas of a registry can disagree for a moment; only the tag's own 404 says it is gone.
                        Err(upstream::Error::NotFound) => {
                            let manifest = self.get_by_tag(site, name, &reference).await?;
                            record_of_manifest(&manifest)
                        }
                        Err(error) => return Err(error),
                    }
                } else {
                    let held = known
                        .map(|known| known.held.clone().unwrap_or_else(|| known.digest.clone()));
                    record_of(digest, media_type, size, held)
                }
            }
            (ManifestHead::NotModified | ManifestHead::Unspecific, _) => {
                let manifest = self.get_by_tag(site, name, &reference).await?;
                record_of_manifest(&manifest)
            }
        };
        let record = self.store.put_tag(name, tag, record).await;
        Ok(Resolved {
            record,
            confirmed: false,
        })
    }

    /// One GET that brings both, what the tag points to and its bytes.
    async fn get_by_tag(
        &self,
        site: &Site,
        name: &QualifiedName,
        tag: &Reference,
    ) -> Answered<Arc<StoredManifest>> {
        let fetched = site.upstream.get_manifest(&name.repository, tag).await?;
        Ok(keep(&self.store, name, fetched).await)
    }

    async fn confirm(&self, name: &QualifiedName, tag: &Tag, known: &TagRecord) -> Resolved {
        let record = TagRecord {
            checked_at: SystemTime::now(),
            ..known.clone()
        };
        Resolved {
            record: self.store.put_tag(name, tag, record).await,
            confirmed: true,
        }
    }

    /// Answers with what a record points to, fetching the bytes if they are wanted and not stored.
    async fn answer_record(
        self: &Arc<Self>,
        site: &Site,
        name: &QualifiedName,
        tag: &Tag,
        record: &Arc<TagRecord>,
        want: Want,
        outcome: Outcome,
    ) -> Result<ManifestAnswer, Error> {
        let age = elapsed(record.checked_at);
        let fresh_for = Some(site.policy.tag_ttl.saturating_sub(age));
        if want == Want::Header {
            return Ok(ManifestAnswer {
                fresh_for,
                ..header_answer(record, outcome, age)
            });
        }
        if let Some(manifest) = self.store.manifest(name, &record.digest).await {
            return Ok(ManifestAnswer {
                fresh_for,
                ..answer(&manifest, want, outcome, age)
            });
        }
        match self.fetch(site, name, &record.digest).await {
            Ok((manifest, role)) => Ok(ManifestAnswer {
                fresh_for,
                ..answer(&manifest, want, outcome_of(role), Duration::ZERO)
            }),
            // The registry dropped what the tag pointed to; the tag itself may point elsewhere by now.
            Err(upstream::Error::NotFound) => {
                let reference = Reference::Tag(tag.clone());
                let manifest = self
                    .get_by_tag(site, name, &reference)
                    .await
                    .map_err(manifest_error)?;
                self.store
                    .put_tag(name, tag, record_of_manifest(&manifest))
                    .await;
                Ok(answer(&manifest, want, Outcome::Miss, Duration::ZERO))
            }
            Err(error) => match self.held_answer(name, record, want).await {
                Some(stale) => Ok(stale),
                None => Err(manifest_error(error)),
            },
        }
    }

    /// What can be served of a stale record without upstream.
    async fn stale_answer(
        self: &Arc<Self>,
        name: &QualifiedName,
        record: &TagRecord,
        want: Want,
    ) -> Option<ManifestAnswer> {
        let age = elapsed(record.checked_at);
        if let Some(manifest) = self.store.manifest(name, &record.digest).await {
            return Some(answer(&manifest, want, Outcome::Stale, age));
        }
        // A HEAD is followed by a GET of the digest it named: better an older one that is here.
        match self.held_answer(name, record, want).await {
            None if want == Want::Header => Some(header_answer(record, Outcome::Stale, age)),
            held => held,
        }
    }

    /// The manifest the tag pointed to before it moved to one that was never fetched.
    async fn held_answer(
        self: &Arc<Self>,
        name: &QualifiedName,
        record: &TagRecord,
        want: Want,
    ) -> Option<ManifestAnswer> {
        let manifest = self.store.manifest(name, record.held.as_ref()?).await?;
        Some(answer(
            &manifest,
            want,
            Outcome::Stale,
            elapsed(record.checked_at),
        ))
    }

    /// Fetches a manifest by digest, one request however many ask, and keeps it.
    async fn fetch(
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
            if let Some(manifest) = mirror.store.manifest(name, digest).await {
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

    fn believed(&self, name: &QualifiedName, what: &impl ToString) -> Result<(), Error> {
        self.missing_manifests
            .get(name, what)
            .map_or(Ok(()), |error| Err(manifest_error(error)))
    }

    fn remember_refusal<T>(
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
async fn keep(
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
    let manifest = store.put_manifest(name, manifest).await;
    store
        .vouch(name, blobs.into_iter().map(|blob| blob.digest).collect())
        .await;
    manifest
}

fn record_of_manifest(manifest: &StoredManifest) -> TagRecord {
    let size = manifest.bytes.len() as u64;
    record_of(
        manifest.digest.clone(),
        manifest.media_type.clone(),
        size,
        None,
    )
}

async fn landed<T: Clone>(landing: Landing<Answered<T>>) -> Answered<T> {
    landing.value().await.unwrap_or_else(|_| {
        Err(upstream::Error::Unavailable(
            "the request was called off".into(),
        ))
    })
}

fn answer(
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

fn header_answer(record: &TagRecord, outcome: Outcome, age: Duration) -> ManifestAnswer {
    ManifestAnswer {
        digest: record.digest.clone(),
        media_type: record.media_type.clone(),
        size: record.size,
        content: None,
        outcome,
        age,
        fresh_for: None,
    }
}

fn outcome_of(role: Role) -> Outcome {
    match role {
        Role::Leader => Outcome::Miss,
        Role::Joiner => Outcome::Joined,
    }
}

fn manifest_error(error: upstream::Error) -> Error {
    match error {
        upstream::Error::NotFound => Error::ManifestUnknown,
        error => Error::Upstream(error),
    }
}

/// A clock that was set back makes an age of zero, never an error.
fn elapsed(since: SystemTime) -> Duration {
    SystemTime::now().duration_since(since).unwrap_or_default()
}
