//! Manifests by tag: asked about again and again, by every pull.
//!
//! Upstreams count GETs of manifests against a quota and let HEADs pass, so a HEAD is sent wherever it answers the
//! question. While upstream has no answer, what is stored is served, though it is stale. It is also served, although
//! the tag is known to have moved, while the quota runs low: the last pulls are kept for what is not stored at all.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use moka::sync::Cache;

use crate::mirror::answer::{Error, Outcome, Want};
use crate::mirror::clock::{age, elapsed};
use crate::mirror::freshness::{Phase, decide};
use crate::mirror::once::{Answered, Asked, Once};
use crate::mirror::site::{Context, Site};
use crate::oci::digest::Digest;
use crate::oci::name::{QualifiedName, Reference, Tag};
use crate::store::Store;
use crate::store::records::{Durability, StoredManifest, TagRecord};
use crate::upstream::{self, ManifestHead};

use super::digest::{ByDigest, ManifestAnswer, manifest_error};

/// Tags whose newer manifest is not fetched for now.
const MAX_DEFERRED: u64 = 20_000;

/// What a tag points to, and how that compares with what was stored of it.
#[derive(Clone)]
struct Resolved {
    record: Arc<TagRecord>,
    finding: Finding,
}

impl Resolved {
    fn of(record: Arc<TagRecord>, finding: Finding) -> Self {
        Self { record, finding }
    }
}

/// What upstream says of the record that was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finding {
    /// The tag points to another manifest now, or nothing was stored.
    New,
    /// It still points to the same manifest.
    Confirmed,
    /// It points to another manifest, on which no pull is to be spent.
    Deferred,
}

/// Answers for manifests by tag.
pub(in crate::mirror) struct ByTag {
    store: Arc<Store>,
    digests: Arc<ByDigest>,
    /// Questions what a tag points to.
    questions: Once<Tag, Resolved>,
    /// The same, of clients that want no bytes, about tags of which nothing is stored: what upstream says to a HEAD
    /// alone, a GET is not to hear.
    head_questions: Once<Tag, Resolved>,
    /// When a tag was seen to have moved to a manifest that no pull is spent on.
    deferred: Cache<(QualifiedName, Tag), Instant>,
}

impl ByTag {
    pub(super) fn new(store: &Arc<Store>, digests: &Arc<ByDigest>) -> Arc<Self> {
        Arc::new(Self {
            store: Arc::clone(store),
            digests: Arc::clone(digests),
            questions: Once::new(digests.refusals()),
            head_questions: Once::new(digests.head_refusals()),
            deferred: Cache::new(MAX_DEFERRED),
        })
    }

    /// Answers for what a tag points to.
    pub(in crate::mirror) async fn get(
        self: &Arc<Self>,
        context: &Context,
        name: &QualifiedName,
        tag: &Tag,
        want: Want,
    ) -> Result<ManifestAnswer, Error> {
        let site = &context.site;
        let Some(record) = self.store.records().tag(name, tag).await else {
            let refusals = self.digests.refusals();
            refusals.check(name, tag).map_err(manifest_error)?;
            if want == Want::Header {
                let refusals = self.digests.head_refusals();
                refusals.check(name, tag).map_err(manifest_error)?;
            }
            let (resolved, outcome) = self.resolve(context, name, tag, want, None);
            let record = resolved.answer().await.map_err(manifest_error)?.record;
            return self
                .answer_record(context, name, tag, &record, want, outcome)
                .await;
        };
        let budget = site.budget();
        let freshness = &site.freshness().under(budget);
        let phase = decide(age(record.checked_at), freshness);
        if let Phase::Fresh(_) = phase {
            return self
                .answer_record(context, name, tag, &record, want, Outcome::Hit)
                .await;
        }
        if phase == Phase::Stale
            && self.was_deferred(name, tag, freshness.tag_ttl)
            && !freshness.may_spend(budget)
            && let Some(stale) = self.stale_answer(name, &record, want).await
        {
            return Ok(stale);
        }
        let known = Some(Arc::clone(&record));
        let (resolved, outcome) = self.resolve(context, name, tag, want, known);
        let stale = match phase {
            Phase::Expired => None,
            Phase::Fresh(_) | Phase::Stale => self.stale_answer(name, &record, want).await,
        };
        let resolved = match stale {
            None => resolved.answer().await,
            Some(stale) => match resolved.answer_within(site.freshness().stale_after).await {
                Some(Err(error)) if error.is_no_answer() => {
                    site.tell_stale(name, tag, &error);
                    return Ok(stale);
                }
                Some(Ok(resolved)) if resolved.finding == Finding::Deferred => return Ok(stale),
                Some(resolved) => resolved,
                None => return Ok(stale),
            },
        };
        let Resolved { record, finding } = resolved.map_err(manifest_error)?;
        let outcome = match finding {
            Finding::New => outcome,
            Finding::Confirmed => Outcome::Revalidated,
            Finding::Deferred => Outcome::Stale,
        };
        self.answer_record(context, name, tag, &record, want, outcome)
            .await
    }

    /// Starts or joins the question what `tag` points to, given what is stored of it.
    fn resolve(
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
            if let Some(digest) = stored
                && !is_alive(&context.site, &name, digest).await
            {
                // The whole repository is gone: that says nothing about this tag, and is no reason to forget it.
                let words = "it knows nothing of this repository any more";
                return Err(upstream::Error::Unavailable(words.into()));
            }
            this.store.records().drop_tag(&name, &tag).await;
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
            (ManifestHead::NotModified, None) => {
                let manifest = self.digests.fetch_alone(site, name, &reference).await?;
                record_of(&manifest)
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
            ) => match self.stored(name, &digest).await {
                Some(manifest) => record_of(&manifest),
                None => TagRecord {
                    digest,
                    media_type,
                    size,
                    read: false,
                    checked_at: SystemTime::now(),
                    held: self.newest_stored(name, known).await,
                },
            },
        };
        let record = self.keep(name, tag, record).await;
        Ok(Resolved::of(record, Finding::New))
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
    fn was_deferred(&self, name: &QualifiedName, tag: &Tag, ttl: Duration) -> bool {
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
            // Replicas of a registry can disagree for a moment; only the tag's own 404 says it is gone.
            Err(upstream::Error::NotFound) => {
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

    /// Keeps what a tag points to now. Upstream still has it, so the answer waits for no disk.
    async fn keep(&self, name: &QualifiedName, tag: &Tag, record: TagRecord) -> Arc<TagRecord> {
        let records = self.store.records();
        let put = records.put_tag(name, tag, record, Durability::Behind);
        put.await.value
    }

    /// Answers with what a record points to, fetching the bytes if they are wanted and not stored.
    async fn answer_record(
        &self,
        context: &Context,
        name: &QualifiedName,
        tag: &Tag,
        record: &TagRecord,
        want: Want,
        outcome: Outcome,
    ) -> Result<ManifestAnswer, Error> {
        let (site, age) = (&context.site, elapsed(record.checked_at));
        let budget = site.budget();
        let ttl = site.freshness().under(budget).tag_ttl;
        let fresh_for = Some(ttl.saturating_sub(age));
        let answer = |manifest: &StoredManifest, outcome, age| ManifestAnswer {
            fresh_for,
            ..ManifestAnswer::of(manifest, want, outcome, age)
        };
        let records = self.store.records();
        let is_read = record.read || !records.has_manifest(name, &record.digest);
        if want == Want::Header && is_read {
            return Ok(ManifestAnswer {
                fresh_for,
                ..header_answer(record, outcome, age)
            });
        }
        if let Some(manifest) = self.stored(name, &record.digest).await {
            if !record.read {
                self.correct(name, tag, record, &manifest).await;
            }
            return Ok(answer(&manifest, outcome, age));
        }
        if want == Want::Header {
            // It was evicted between the two looks.
            return Ok(header_answer(record, outcome, age));
        }
        if !site.freshness().may_spend(budget)
            && let Some(stale) = self.older_answer(name, record, want).await
        {
            return Ok(stale);
        }
        match self.digests.fetch(context, name, &record.digest).await {
            Ok((manifest, outcome)) => Ok(answer(&manifest, outcome, Duration::ZERO)),
            // The registry dropped what the tag pointed to; the tag itself may point elsewhere by now.
            Err(upstream::Error::NotFound) => {
                let reference = Reference::Tag(tag.clone());
                let manifest = self.digests.fetch_alone(site, name, &reference).await;
                let manifest = manifest.map_err(manifest_error)?;
                let record = record_of(&manifest);
                self.store
                    .records()
                    .put_tag(name, tag, record, Durability::Behind)
                    .await;
                let (outcome, age) = (Outcome::Miss, Duration::ZERO);
                Ok(ManifestAnswer::of(&manifest, want, outcome, age))
            }
            Err(error) => {
                let older = self.older_answer(name, record, want).await;
                older.ok_or_else(|| manifest_error(error))
            }
        }
    }

    /// Replaces what a HEAD said of a manifest by what its bytes say.
    async fn correct(
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

    /// What can be served of a stale record without upstream.
    async fn stale_answer(
        &self,
        name: &QualifiedName,
        record: &TagRecord,
        want: Want,
    ) -> Option<ManifestAnswer> {
        let age = elapsed(record.checked_at);
        if let Some(manifest) = self.stored(name, &record.digest).await {
            return Some(ManifestAnswer::of(&manifest, want, Outcome::Stale, age));
        }
        // A HEAD is followed by a GET of the digest it named: better an older one that is stored.
        match self.older_answer(name, record, want).await {
            None if want == Want::Header => Some(header_answer(record, Outcome::Stale, age)),
            older => older,
        }
    }

    /// The manifest the tag pointed to before it moved to one that was never fetched.
    async fn older_answer(
        &self,
        name: &QualifiedName,
        record: &TagRecord,
        want: Want,
    ) -> Option<ManifestAnswer> {
        let manifest = self.older(name, record).await?;
        let age = elapsed(record.checked_at);
        Some(ManifestAnswer::of(&manifest, want, Outcome::Stale, age))
    }

    async fn older(&self, name: &QualifiedName, record: &TagRecord) -> Option<Arc<StoredManifest>> {
        self.stored(name, record.held.as_ref()?).await
    }

    async fn stored(&self, name: &QualifiedName, digest: &Digest) -> Option<Arc<StoredManifest>> {
        self.store.records().manifest(name, digest).await
    }
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

/// The record of a tag whose manifest was fetched.
fn record_of(manifest: &StoredManifest) -> TagRecord {
    TagRecord {
        digest: manifest.digest.clone(),
        media_type: manifest.media_type.clone(),
        size: manifest.bytes.len() as u64,
        read: true,
        checked_at: SystemTime::now(),
        held: None,
    }
}
