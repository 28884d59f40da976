//! What a tag points to, as upstream says.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use moka::sync::Cache;

use crate::mirror::answer::{Outcome, Want};
use crate::mirror::clock::age;
use crate::mirror::freshness::{Phase, decide};
use crate::mirror::once::{Answered, Asked, Once};
use crate::mirror::site::{Context, Site};
use crate::oci::digest::Digest;
use crate::oci::name::{QualifiedName, Reference, Tag};
use crate::store::Store;
use crate::store::records::{Durability, StoredManifest, TagRecord};
use crate::upstream::{self, ManifestHead};

use super::digest::ByDigest;

/// Tags whose newer manifest is not fetched for now.
const MAX_DEFERRED: u64 = 20_000;
/// Manifests that a HEAD named and that were not fetched yet.
const MAX_NAMED: u64 = 20_000;
/// Replicas of a registry agree by then.
const MISSING_FOR: Duration = Duration::from_secs(60);

/// What a tag points to, and how that compares with what was stored of it.
#[derive(Clone)]
pub(super) struct Resolved {
    pub(super) record: Arc<TagRecord>,
    pub(super) finding: Finding,
}

impl Resolved {
    fn of(record: Arc<TagRecord>, finding: Finding) -> Self {
        Self { record, finding }
    }
}

/// What upstream says of the record that was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finding {
    /// The tag points to another manifest now, or nothing was stored.
    New,
    /// It still points to the same manifest.
    Confirmed,
    /// It points to another manifest, on which no pull is to be spent.
    Deferred,
}

/// Asks upstream what tags point to, and keeps the answers.
pub(super) struct Pointers {
    store: Arc<Store>,
    digests: Arc<ByDigest>,
    /// Questions what a tag points to.
    questions: Once<Tag, Resolved>,
    /// The same, of clients that want no bytes, about tags of which nothing is stored: what upstream says to a HEAD
    /// alone, a GET is not to hear.
    head_questions: Once<Tag, Resolved>,
    /// When a tag was seen to have moved to a manifest that no pull is spent on.
    deferred: Cache<(QualifiedName, Tag), Instant>,
    /// By which tag a HEAD named a manifest whose bytes did not come yet.
    named: Cache<(QualifiedName, Digest), Tag>,
    /// Manifests that a HEAD named and upstream did not have, or did not give. For a while a GET tells what a tag is that is said to point
    /// to one.
    missing: Cache<(QualifiedName, Digest), ()>,
}

impl Pointers {
    pub(super) fn new(store: &Arc<Store>, digests: &Arc<ByDigest>) -> Arc<Self> {
        Arc::new(Self {
            store: Arc::clone(store),
            digests: Arc::clone(digests),
            questions: Once::new(digests.refusals()),
            head_questions: Once::new(digests.head_refusals()),
            deferred: Cache::new(MAX_DEFERRED),
            named: Cache::new(MAX_NAMED),
            missing: Cache::builder()
                .max_capacity(MAX_NAMED)
                .time_to_live(MISSING_FOR)
                .build(),
        })
    }

    /// Starts or joins the question what `tag` points to, given what is stored of it.
    pub(super) fn resolve(
        self: &Arc<Self>,
        context: &Context,
        name: &QualifiedName,
        tag: &Tag,
        want: Want,
        known: Option<Arc<TagRecord>>,
    ) -> (Asked<Resolved>, Outcome) {
        let this = Arc::clone(self);
        let questions = match (&known, want) {
            (None, Want::Header) => &self.head_questions,
            _ => &self.questions,
        };
        let work = move |context: Context, name: QualifiedName, tag: Tag| async move {
            let stored = known.as_ref().map(|record| record.digest.clone());
            let resolved = this.ask(&context, &name, &tag, want, known).await;
            let Err(upstream::Error::NotFound) = resolved else {
                return resolved;
            };
            // Where nothing was known there is nothing to forget: what another question has brought meanwhile is newer.
            if let Some(digest) = stored {
                if !is_alive(&context.site, &name, digest).await {
                    // The whole repository is gone: that says nothing about this tag, and is no reason to forget it.
                    let words = "it knows nothing of this repository any more";
                    return Err(upstream::Error::Unavailable(words.into()));
                }
                this.store.records().drop_tag(&name, &tag).await;
            }
            resolved
        };
        questions.ask(context, name, tag, work)
    }

    async fn ask(
        &self,
        context: &Context,
        name: &QualifiedName,
        tag: &Tag,
        want: Want,
        known: Option<Arc<TagRecord>>,
    ) -> Answered<Resolved> {
        let site = &context.site;
        let checked_at = known.as_ref().map(|known| known.checked_at);
        if let Some(record) = self.store.records().tag(name, tag).await
            && Some(record.checked_at) > checked_at
        {
            // Another flight landed between the asker's look into the store and this one's start.
            return Ok(Resolved::of(record, Finding::Confirmed));
        }
        let reference = Reference::Tag(tag.clone());
        // Nothing is known and the bytes are wanted: a GET is the one request that brings both.
        if known.is_none() && want == Want::Content {
            let manifest = self.digests.fetch_alone(site, name, &reference).await?;
            let record = self.keep(name, tag, record_of(&manifest)).await;
            return Ok(Resolved::of(record, Finding::New));
        }
        let pointed_to = known.as_ref().map(|record| &record.digest);
        let head = site
            .upstream()
            .head_manifest(&name.repository, &reference, pointed_to);
        let record = match (head.await?, known) {
            (ManifestHead::NotModified, Some(known)) => {
                return Ok(self.confirm(name, tag, &known).await);
            }
            (ManifestHead::Fetched(fetched), known) => {
                let manifest = self.digests.keep(name, fetched).await;
                if let Some(known) = known.filter(|known| known.digest == manifest.digest) {
                    return Ok(self.confirm(name, tag, &known).await);
                }
                record_of(&manifest)
            }
            (ManifestHead::Found { digest, .. }, Some(known))
                if self.is_deferred(site, name, &digest, &known).await =>
            {
                tracing::info!(repository = %name, %tag, to = %digest, "a tag moved; the pull quota runs low, so it is served as it was");
                let key = (name.clone(), tag.clone());
                self.deferred.insert(key, Instant::now());
                return Ok(Resolved::of(known, Finding::Deferred));
            }
            (ManifestHead::Found { digest, .. }, _) if want == Want::Content => {
                self.record_of_moved(context, name, &reference, &digest)
                    .await?
            }
            (
                ManifestHead::Found {
                    digest,
                    media_type,
                    size,
                },
                known,
            ) if !self.is_missing(name, &digest) => {
                let record = TagRecord {
                    digest,
                    media_type,
                    size,
                    read: false,
                    checked_at: SystemTime::now(),
                    held: self.newest_stored(name, known).await,
                };
                self.record_of_named(name, tag, record).await
            }
            (ManifestHead::Found { .. } | ManifestHead::NotModified, _) => {
                let manifest = self.digests.fetch_alone(site, name, &reference).await?;
                record_of(&manifest)
            }
        };
        let record = self.keep(name, tag, record).await;
        Ok(Resolved::of(record, Finding::New))
    }

    /// Upstream does not have a manifest. If a HEAD of a tag has named it, a GET of the tag tells what it points to. While
    /// it does not, the tag points to what is stored.
    pub(super) async fn doubt(
        self: &Arc<Self>,
        context: &Context,
        name: &QualifiedName,
        digest: &Digest,
    ) {
        let id = (name.clone(), digest.clone());
        let Some(tag) = self.named.remove(&id) else {
            return;
        };
        self.missing.insert(id, ());
        let record = self.store.records().tag(name, &tag).await;
        let Some(record) = record.filter(|record| record.digest == *digest) else {
            return;
        };
        let this = Arc::clone(self);
        let work = |context: Context, name: QualifiedName, tag: Tag| async move {
            let reference = Reference::Tag(tag.clone());
            let fetched = this.digests.fetch_alone(&context.site, &name, &reference);
            let record = match (fetched.await, this.older(&name, &record).await) {
                (Ok(manifest), _) => record_of(&manifest),
                (Err(_), Some(older)) => TagRecord {
                    checked_at: SystemTime::now() - context.site.freshness().tag_ttl,
                    ..record_of(&older)
                },
                (Err(error), None) => return Err(error),
            };
            let record = this.keep(&name, &tag, record).await;
            Ok(Resolved::of(record, Finding::New))
        };
        let (asked, _) = self.questions.ask(context, name, &tag, work);
        // Who asked for the manifest is told that there is none.
        let _ = asked.answer().await;
    }

    /// Whether upstream did not have a manifest that it names.
    fn is_missing(&self, name: &QualifiedName, digest: &Digest) -> bool {
        self.missing.contains_key(&(name.clone(), digest.clone()))
    }

    /// The record of what a HEAD said, unless the manifest is stored and says it better.
    async fn record_of_named(
        &self,
        name: &QualifiedName,
        tag: &Tag,
        record: TagRecord,
    ) -> TagRecord {
        if let Some(manifest) = self.stored(name, &record.digest).await {
            return record_of(&manifest);
        }
        self.digests.note_named(name, &record.digest);
        let id = (name.clone(), record.digest.clone());
        self.named.insert(id, tag.clone());
        record
    }

    /// The newest manifest under the tag whose bytes are stored.
    async fn newest_stored(
        &self,
        name: &QualifiedName,
        known: Option<Arc<TagRecord>>,
    ) -> Option<Digest> {
        let known = known?;
        match self.stored(name, &known.digest).await {
            Some(_) => Some(known.digest.clone()),
            None => known.held.clone(),
        }
    }

    /// Whether no pull is to be spent on the manifest that a tag moved to: the quota runs low, and an older manifest
    /// may still be served.
    async fn is_deferred(
        &self,
        site: &Site,
        name: &QualifiedName,
        moved_to: &Digest,
        known: &TagRecord,
    ) -> bool {
        let freshness = site.freshness();
        !freshness.may_spend(site.budget())
            && decide(age(known.checked_at), freshness) != Phase::Expired
            // What is stored already costs nothing.
            && self.stored(name, moved_to).await.is_none()
            && (self.stored(name, &known.digest).await.is_some()
                || self.older(name, known).await.is_some())
    }

    /// Whether the tag was seen within `ttl` to have moved to a manifest that no pull was spent on.
    pub(super) fn was_deferred(&self, name: &QualifiedName, tag: &Tag, ttl: Duration) -> bool {
        let key = (name.clone(), tag.clone());
        self.deferred.get(&key).is_some_and(|at| at.elapsed() < ttl)
    }

    /// Content first, pointer last: a tag must not point to a manifest that is not stored.
    async fn record_of_moved(
        &self,
        context: &Context,
        name: &QualifiedName,
        tag: &Reference,
        digest: &Digest,
    ) -> Answered<TagRecord> {
        let manifest = match self.digests.fetch(context, name, digest).await {
            Ok((manifest, _)) => manifest,
            Err(error) if is_about_content(&error) => {
                let id = (name.clone(), digest.clone());
                self.missing.insert(id, ());
                self.digests.fetch_alone(&context.site, name, tag).await?
            }
            Err(error) => return Err(error),
        };
        Ok(record_of(&manifest))
    }

    async fn confirm(&self, name: &QualifiedName, tag: &Tag, known: &TagRecord) -> Resolved {
        // What was said of a manifest is forgotten for what its bytes say.
        let stored = self.stored(name, &known.digest).await;
        let record = match stored {
            Some(manifest) => record_of(&manifest),
            None => TagRecord {
                checked_at: SystemTime::now(),
                ..known.clone()
            },
        };
        let record = self.keep(name, tag, record).await;
        Resolved::of(record, Finding::Confirmed)
    }

    /// Replaces what a HEAD said of a manifest by what its bytes say.
    pub(super) async fn correct(
        &self,
        name: &QualifiedName,
        tag: &Tag,
        record: &TagRecord,
        manifest: &StoredManifest,
    ) {
        let now = self.store.records().tag(name, tag).await;
        if now.is_some_and(|now| *now == *record) {
            let read = TagRecord {
                checked_at: record.checked_at,
                ..record_of(manifest)
            };
            self.keep(name, tag, read).await;
        }
    }

    /// Keeps what a tag points to now. Upstream still has it, so the answer waits for no disk.
    async fn keep(&self, name: &QualifiedName, tag: &Tag, record: TagRecord) -> Arc<TagRecord> {
        let records = self.store.records();
        let put = records.put_tag(name, tag, record, Durability::Behind);
        put.await.value
    }

    pub(super) async fn older(
        &self,
        name: &QualifiedName,
        record: &TagRecord,
    ) -> Option<Arc<StoredManifest>> {
        self.stored(name, record.held.as_ref()?).await
    }

    pub(super) async fn stored(
        &self,
        name: &QualifiedName,
        digest: &Digest,
    ) -> Option<Arc<StoredManifest>> {
        self.store.records().manifest(name, digest).await
    }
}

/// Whether an error in answer to the digest that a HEAD named says nothing of the tag: replicas of a registry can disagree
/// for a moment, and the HEAD can be wrong. Only the tag's own answer counts.
fn is_about_content(error: &upstream::Error) -> bool {
    use upstream::Error;
    matches!(
        error,
        Error::NotFound | Error::Denied { .. } | Error::Wrong(_)
    )
}

/// Whether a 404 for a tag is about the tag: the repository is still there, or what the tag pointed to is.
async fn is_alive(site: &Site, name: &QualifiedName, pointed_to: Digest) -> bool {
    if site.upstream().has_repository(&name.repository).await {
        return true;
    }
    let (upstream, manifest) = (site.upstream(), Reference::Digest(pointed_to));
    let head = upstream.head_manifest(&name.repository, &manifest, None);
    head.await.is_ok()
}

/// The record of a tag whose manifest was fetched.
pub(super) fn record_of(manifest: &StoredManifest) -> TagRecord {
    TagRecord {
        digest: manifest.digest.clone(),
        media_type: manifest.media_type.clone(),
        size: manifest.bytes.len() as u64,
        read: true,
        checked_at: SystemTime::now(),
        held: None,
    }
}
