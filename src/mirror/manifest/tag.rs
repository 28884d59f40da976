//! Manifests by tag: asked about again and again, by every pull.
//!
//! Upstreams count GETs of manifests against a quota and let HEADs pass, so a HEAD is asked wherever it
//! answers the question. While upstream has no answer, what is remembered stands in for it. So it does for a tag that
//! moved while the quota runs low: the rest is for what is not stored at all.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::flight::{Landing, Role, Slot};
use crate::oci::digest::Digest;
use crate::oci::name::{QualifiedName, Reference, Tag};
use crate::store::records::{StoredManifest, TagRecord};
use crate::upstream::{self, ManifestHead};

use super::digest::{ManifestAnswer, answer, elapsed, keep, landed, manifest_error, outcome_of};
use crate::mirror::freshness::{Freshness, decide};
use crate::mirror::{Answered, Error, Mirror, Outcome, Site, Want};

/// How far clocks are off without anything being wrong.
const CLOCK_ERROR: Duration = Duration::from_secs(60);

/// What a question about a tag brought.
#[derive(Clone)]
pub(in crate::mirror) struct Resolved {
    record: Arc<TagRecord>,
    finding: Finding,
}

/// What upstream says of what is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finding {
    /// It points there now.
    New,
    /// It still points there.
    Confirmed,
    /// It points elsewhere, and no pull is to be spent on that.
    Spared,
}

impl Mirror {
    /// Answers for what a tag points to.
    pub(in crate::mirror) async fn by_tag(
        self: &Arc<Self>,
        site: &Site,
        name: &QualifiedName,
        tag: &Tag,
        want: Want,
    ) -> Result<ManifestAnswer, Error> {
        let Some(record) = self.store.records().tag(name, tag).await else {
            self.believed(name, tag)?;
            let (landing, role) = self.resolve(site, name, tag, want, None);
            let resolved = landed(landing).await.map_err(manifest_error)?;
            return self
                .answer_record(site, name, tag, &resolved.record, want, outcome_of(role))
                .await;
        };
        let budget = site.upstream.budget();
        let policy = &site.policy.under(budget);
        let freshness = decide(age(record.checked_at), policy);
        if let Freshness::Fresh(_) = freshness {
            return self
                .answer_record(site, name, tag, &record, want, Outcome::Hit)
                .await;
        }
        if freshness == Freshness::Stale
            && self.was_spared(name, tag, policy.tag_ttl)
            && !policy.may_spend(budget)
            && let Some(stale) = self.stale_answer(name, &record, want).await
        {
            return Ok(stale);
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
                    if error.is_circuit_open() {
                        tracing::debug!(repository = %name, %tag, %error, "serving a stale tag");
                    } else {
                        tracing::warn!(repository = %name, %tag, %error, "upstream has no answer; serving a stale tag");
                    }
                    return Ok(stale);
                }
                Ok(Ok(Resolved {
                    finding: Finding::Spared,
                    ..
                })) => return Ok(stale),
                Ok(resolved) => resolved,
                // The question goes on behind this answer.
                Err(_) => return Ok(stale),
            },
        };
        let Resolved { record, finding } = resolved.map_err(manifest_error)?;
        let outcome = match finding {
            Finding::New => outcome_of(role),
            Finding::Confirmed => Outcome::Revalidated,
            Finding::Spared => Outcome::Stale,
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
                let stored = known.as_ref().map(|record| record.digest.clone());
                let mut resolved = mirror.ask_about_tag(&site, name, tag, want, known).await;
                if let (Err(upstream::Error::NotFound), Some(digest)) = (&resolved, stored)
                    && !is_alive(&site, name, digest).await
                {
                    // Nothing is there any more: that is no word about this tag, and no reason to forget it.
                    let words = "it knows nothing of this repository any more";
                    resolved = Err(upstream::Error::Unavailable(words.into()));
                }
                mirror.remember_refusal(&site, name, tag, &resolved);
                if let Err(upstream::Error::NotFound) = resolved {
                    mirror.store.records().drop_tag(name, tag).await;
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
        let checked_at = known.as_ref().map(|known| known.checked_at);
        if let Some(record) = self.store.records().tag(name, tag).await
            && Some(record.checked_at) > checked_at
        {
            // Another flight landed between the asker's look into the store and this one's start.
            return Ok(Resolved {
                record,
                finding: Finding::Confirmed,
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
            (ManifestHead::Found { digest, .. }, Some(known))
                if self.is_spared(site, name, &digest, &known).await =>
            {
                tracing::info!(repository = %name, %tag, to = %digest, "a tag moved; the pull quota runs low, so it is served as it was");
                let key = (name.clone(), tag.clone());
                self.spared.insert(key, Instant::now());
                return Ok(Resolved {
                    record: known,
                    finding: Finding::Spared,
                });
            }
            (ManifestHead::Found { digest, .. }, _) if want == Want::Content => {
                self.record_of_moved(site, name, &reference, &digest)
                    .await?
            }
            (
                ManifestHead::Found {
                    digest,
                    media_type,
                    size,
                },
                known,
            ) => TagRecord {
                digest,
                media_type,
                size,
                checked_at: SystemTime::now(),
                held: self.held(name, known.as_deref()).await,
            },
            (ManifestHead::NotModified | ManifestHead::Unspecific, _) => {
                let manifest = self.get_by_tag(site, name, &reference).await?;
                record_of(&manifest)
            }
        };
        let record = self.store.records().put_tag(name, tag, record).await;
        Ok(Resolved {
            record,
            finding: Finding::New,
        })
    }

    /// Whether no pull is to be spent on the manifest that a tag moved to: the quota runs low, and there is an older one
    /// that may still be served.
    async fn is_spared(
        self: &Arc<Self>,
        site: &Site,
        name: &QualifiedName,
        moved_to: &Digest,
        known: &TagRecord,
    ) -> bool {
        if site.policy.may_spend(site.upstream.budget())
            || decide(age(known.checked_at), &site.policy) == Freshness::Expired
        {
            return false;
        }
        // What is stored already costs nothing.
        if self
            .store
            .records()
            .manifest(name, moved_to)
            .await
            .is_some()
        {
            return false;
        }
        match self.held(name, Some(known)).await {
            Some(held) => self.store.records().manifest(name, &held).await.is_some(),
            None => false,
        }
    }

    /// Whether it was found a moment ago that the tag moved to what no pull was spent on.
    fn was_spared(&self, name: &QualifiedName, tag: &Tag, ttl: Duration) -> bool {
        let key = (name.clone(), tag.clone());
        self.spared.get(&key).is_some_and(|at| at.elapsed() < ttl)
    }

    /// Content first, pointer last: a tag must not point to what nobody has.
    async fn record_of_moved(
        self: &Arc<Self>,
        site: &Site,
        name: &QualifiedName,
        tag: &Reference,
        digest: &Digest,
    ) -> Answered<TagRecord> {
        let manifest = match self.fetch(site, name, digest).await {
            Ok((manifest, _)) => manifest,
            // Replicas of a registry can disagree for a moment; only the tag's own 404 says it is gone.
            Err(upstream::Error::NotFound) => self.get_by_tag(site, name, tag).await?,
            Err(error) => return Err(error),
        };
        Ok(record_of(&manifest))
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
            record: self.store.records().put_tag(name, tag, record).await,
            finding: Finding::Confirmed,
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
        let budget = site.upstream.budget();
        let ttl = site.policy.under(budget).tag_ttl;
        let fresh_for = Some(ttl.saturating_sub(age));
        if want == Want::Header {
            return Ok(ManifestAnswer {
                fresh_for,
                ..header_answer(record, outcome, age)
            });
        }
        if let Some(manifest) = self.store.records().manifest(name, &record.digest).await {
            return Ok(ManifestAnswer {
                fresh_for,
                ..answer(&manifest, want, outcome, age)
            });
        }
        if !site.policy.may_spend(budget)
            && let Some(stale) = self.held_answer(name, record, want).await
        {
            return Ok(stale);
        }
        match self.fetch(site, name, &record.digest).await {
            Ok((manifest, role)) => Ok(ManifestAnswer {
                fresh_for,
                ..answer(&manifest, want, outcome_of(role), Duration::ZERO)
            }),
            // The registry dropped what the tag pointed to; the tag itself may point elsewhere by now.
            Err(upstream::Error::NotFound) => {
                let reference = Reference::Tag(tag.clone());
                let manifest = self.get_by_tag(site, name, &reference).await;
                let manifest = manifest.map_err(manifest_error)?;
                self.store
                    .records()
                    .put_tag(name, tag, record_of(&manifest))
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
        if let Some(manifest) = self.store.records().manifest(name, &record.digest).await {
            return Some(answer(&manifest, want, Outcome::Stale, age));
        }
        // A HEAD is followed by a GET of the digest it named: better an older one that is here.
        match self.held_answer(name, record, want).await {
            None if want == Want::Header => Some(header_answer(record, Outcome::Stale, age)),
            held => held,
        }
    }

    /// The newest manifest under a tag whose bytes are stored, to stand in for the one it moved to.
    async fn held(
        self: &Arc<Self>,
        name: &QualifiedName,
        known: Option<&TagRecord>,
    ) -> Option<Digest> {
        let known = known?;
        match self.store.records().manifest(name, &known.digest).await {
            Some(_) => Some(known.digest.clone()),
            None => known.held.clone(),
        }
    }

    /// The manifest the tag pointed to before it moved to one that was never fetched.
    async fn held_answer(
        self: &Arc<Self>,
        name: &QualifiedName,
        record: &TagRecord,
        want: Want,
    ) -> Option<ManifestAnswer> {
        let manifest = self
            .store
            .records()
            .manifest(name, record.held.as_ref()?)
            .await?;
        let age = elapsed(record.checked_at);
        Some(answer(&manifest, want, Outcome::Stale, age))
    }
}

/// Whether a 404 for a tag is about the tag: the repository is still there, or what the tag pointed to is.
async fn is_alive(site: &Site, name: &QualifiedName, pointed_to: Digest) -> bool {
    if site.upstream.has_repository(&name.repository).await {
        return true;
    }
    let manifest = Reference::Digest(pointed_to);
    let head = site
        .upstream
        .head_manifest(&name.repository, &manifest, None);
    head.await.is_ok()
}

/// How long ago that was; `None` if it is more than a clock's usual error ahead of now.
pub(in crate::mirror) fn age(since: SystemTime) -> Option<Duration> {
    match SystemTime::now().duration_since(since) {
        Ok(age) => Some(age),
        Err(ahead) => (ahead.duration() < CLOCK_ERROR).then_some(Duration::ZERO),
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

/// The record of a tag whose manifest was fetched.
fn record_of(manifest: &StoredManifest) -> TagRecord {
    TagRecord {
        digest: manifest.digest.clone(),
        media_type: manifest.media_type.clone(),
        size: manifest.bytes.len() as u64,
        checked_at: SystemTime::now(),
        held: None,
    }
}
