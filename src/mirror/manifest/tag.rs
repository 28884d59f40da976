//! Manifests by tag: asked about again and again, by every pull.
//!
//! Upstreams count GETs of manifests against a quota and let HEADs pass, so a HEAD is sent wherever it answers the
//! question. While upstream has no answer, what is stored is served, though it is stale. It is also served, although
//! the tag is known to have moved, while the quota runs low: the last pulls are kept for what is not stored at all.

use std::sync::Arc;
use std::time::Duration;

use crate::mirror::answer::{Error, Outcome, Want};
use crate::mirror::clock::{age, elapsed};
use crate::mirror::freshness::{Phase, decide};
use crate::mirror::site::Context;
use crate::oci::digest::Digest;
use crate::oci::name::{QualifiedName, Reference, Tag};
use crate::store::Store;
use crate::store::records::{Durability, StoredManifest, TagRecord};
use crate::upstream;

use super::digest::{ByDigest, ManifestAnswer, manifest_error};
use super::pointer::{Finding, Pointers, Resolved, record_of};

/// Answers for manifests by tag.
pub(in crate::mirror) struct ByTag {
    store: Arc<Store>,
    digests: Arc<ByDigest>,
    pointers: Arc<Pointers>,
}

impl ByTag {
    pub(super) fn new(store: &Arc<Store>, digests: &Arc<ByDigest>) -> Arc<Self> {
        Arc::new(Self {
            store: Arc::clone(store),
            digests: Arc::clone(digests),
            pointers: Pointers::new(store, digests),
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
            let (resolved, outcome) = self.pointers.resolve(context, name, tag, want, None);
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
            && self.pointers.was_deferred(name, tag, freshness.tag_ttl)
            && !freshness.may_spend(budget)
            && let Some(stale) = self.stale_answer(name, &record, want).await
        {
            return Ok(stale);
        }
        let known = Some(Arc::clone(&record));
        let (resolved, outcome) = self.pointers.resolve(context, name, tag, want, known);
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
        if let Some(manifest) = self.pointers.stored(name, &record.digest).await {
            if !record.read {
                self.pointers.correct(name, tag, record, &manifest).await;
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

    /// Upstream does not have a manifest; see [`Pointers::doubt`].
    pub(super) async fn doubt(&self, context: &Context, name: &QualifiedName, digest: &Digest) {
        self.pointers.doubt(context, name, digest).await;
    }

    /// What can be served of a stale record without upstream.
    async fn stale_answer(
        &self,
        name: &QualifiedName,
        record: &TagRecord,
        want: Want,
    ) -> Option<ManifestAnswer> {
        let age = elapsed(record.checked_at);
        if let Some(manifest) = self.pointers.stored(name, &record.digest).await {
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
        let manifest = self.pointers.older(name, record).await?;
        let age = elapsed(record.checked_at);
        Some(ManifestAnswer::of(&manifest, want, Outcome::Stale, age))
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
