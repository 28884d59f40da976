//! One blob at its upstream: where its bytes come from when the store does not have them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::headers::range::Span;
use crate::metrics::Metrics;
use crate::mirror::once::Answered;
use crate::mirror::site::Site;
use crate::oci::digest::Digest;
use crate::oci::name::QualifiedName;
use crate::store::Store;
use crate::upstream::{self, FetchedBlob, Upstream, UpstreamBody};

use super::wrong::WrongBlobs;

/// How often in a row a transfer may break off without getting ahead before it is given up.
const ATTEMPTS: u32 = 4;
/// What counts as getting ahead.
const AHEAD: u64 = 1024 * 1024;
/// How long to wait before the second attempt in a row to continue; each further wait is twice as long.
const PAUSE: Duration = Duration::from_millis(250);

/// One blob, under the name of a repository that has it.
#[derive(Clone)]
pub(super) struct Source {
    upstream: Arc<Upstream>,
    name: QualifiedName,
    digest: Digest,
    notes: Arc<SourceNotes>,
}

/// Where sources note what happens to them.
pub(super) struct SourceNotes {
    store: Arc<Store>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) wrong: WrongBlobs,
}

impl SourceNotes {
    pub(super) fn new(store: &Arc<Store>, metrics: &Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            store: Arc::clone(store),
            metrics: Arc::clone(metrics),
            wrong: WrongBlobs::default(),
        })
    }
}

impl Source {
    pub(super) fn new(
        notes: &Arc<SourceNotes>,
        site: &Site,
        name: &QualifiedName,
        digest: &Digest,
    ) -> Self {
        Self {
            upstream: Arc::clone(site.upstream()),
            name: name.clone(),
            digest: digest.clone(),
            notes: Arc::clone(notes),
        }
    }

    pub(super) fn digest(&self) -> &Digest {
        &self.digest
    }

    pub(super) fn name(&self) -> &QualifiedName {
        &self.name
    }

    /// Asks upstream for the blob or a part of it.
    pub(super) async fn open(&self, part: Option<Span>) -> Answered<FetchedBlob> {
        let repository = &self.name.repository;
        let named = self.named_size().await;
        let asked = self
            .upstream
            .get_blob(repository, &self.digest, part, named);
        asked.await
    }

    /// How long the blob is, as a manifest of the repository says (OCI image-spec, descriptor.md, "size"); unless what
    /// came last was wrong, which may be because of that.
    pub(super) async fn named_size(&self) -> Option<u64> {
        if self.notes.wrong.is_noted(&self.name, &self.digest) {
            return None;
        }
        let records = self.notes.store.records();
        let vouch = records.vouched(&self.name, &self.digest).await;
        vouch.and_then(|vouch| vouch.size())
    }

    /// The bytes that came were wrong: for a while, blobs of this repository are asked of the registry itself alone,
    /// and this one not again and again.
    pub(super) fn note_wrong(&self) {
        self.upstream.distrust_endpoints(&self.name.repository);
        self.notes.wrong.note(&self.name, &self.digest);
    }

    /// The bytes that came were right.
    pub(super) fn note_right(&self) {
        self.notes.wrong.forget(&self.name, &self.digest);
    }

    /// Counts a transfer that broke off and is continued.
    pub(super) fn count_resume(&self) {
        let resumes = &self.notes.metrics.fill_resumes;
        resumes.with_label_values(&[self.namespace()]).inc();
    }

    /// Counts a body that the store could not finish.
    pub(super) fn count_rescue(&self) {
        let rescues = &self.notes.metrics.body_rescues;
        rescues.with_label_values(&[self.namespace()]).inc();
    }

    fn namespace(&self) -> &str {
        self.name.namespace.as_str()
    }
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source")
            .field("repository", &self.name.repository)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

/// Decides how long a transfer that breaks off again and again is continued: as long as it gets ahead.
#[derive(Debug, Default)]
pub(super) struct Perseverance {
    reached: u64,
    attempt: u32,
}

impl Perseverance {
    /// After a break at `position`: how long to wait before continuing, or `None` to give up.
    pub(super) fn after_break(&mut self, position: u64) -> Option<Duration> {
        self.attempt = if position >= self.reached.saturating_add(AHEAD) {
            1
        } else {
            self.attempt + 1
        };
        self.reached = self.reached.max(position);
        match self.attempt {
            attempt if attempt >= ATTEMPTS => None,
            1 => Some(Duration::ZERO),
            attempt => Some(PAUSE * 2u32.pow(attempt - 2)),
        }
    }
}

/// Reads `count` bytes of a body and throws them away; returns what came with the last of them.
pub(super) async fn skip(
    body: &mut UpstreamBody,
    mut count: u64,
) -> Result<Bytes, upstream::Error> {
    while let Some(mut chunk) = body.chunk().await? {
        let skipped = usize::try_from(count)
            .unwrap_or(usize::MAX)
            .min(chunk.len());
        count -= skipped as u64;
        let _ = chunk.split_to(skipped);
        if !chunk.is_empty() {
            return Ok(chunk);
        }
    }
    Err(upstream::Error::Wrong(
        "upstream sent less than before".into(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_that_gets_ahead_is_continued_for_ever() {
        let mut perseverance = Perseverance::default();
        for mib in 1..1000 {
            assert_eq!(perseverance.after_break(mib * AHEAD), Some(Duration::ZERO));
        }
    }

    #[test]
    fn one_that_stands_still_is_given_up() {
        let mut perseverance = Perseverance::default();
        let waits: Vec<_> = (0..5).map(|_| perseverance.after_break(10)).collect();
        assert_eq!(
            waits,
            [
                Some(Duration::ZERO),
                Some(PAUSE),
                Some(PAUSE * 2),
                None,
                None
            ]
        );
    }
}
