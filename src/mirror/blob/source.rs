//! One blob at its upstream: where its bytes can be had when the store has not got them.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::metrics::Metrics;
use crate::oci::digest::{Digest, Hasher};
use crate::oci::name::{Namespace, Repository};
use crate::store::Store;
use crate::store::blobs::reader::{Reader, hash_beginning};
use crate::upstream::{self, Body, FetchedBlob, Upstream};

use super::passthrough::Bypass;

/// How often in a row a transfer may break off without getting ahead before it is given up.
const ATTEMPTS: u32 = 4;
/// What counts as getting ahead.
const AHEAD: u64 = 1024 * 1024;
/// How long to wait before the second attempt in a row to go on; each further wait is twice as long.
const PAUSE: Duration = Duration::from_millis(250);

/// One blob, under the name of a repository that has it.
#[derive(Clone)]
pub(crate) struct Source {
    store: Arc<Store>,
    upstream: Arc<Upstream>,
    repository: Repository,
    digest: Digest,
    metrics: Arc<Metrics>,
}

impl Source {
    pub(in crate::mirror) fn new(
        store: &Arc<Store>,
        metrics: &Arc<Metrics>,
        upstream: &Arc<Upstream>,
        repository: &Repository,
        digest: &Digest,
    ) -> Self {
        Self {
            store: Arc::clone(store),
            upstream: Arc::clone(upstream),
            repository: repository.clone(),
            digest: digest.clone(),
            metrics: Arc::clone(metrics),
        }
    }

    pub(in crate::mirror) fn digest(&self) -> &Digest {
        &self.digest
    }

    pub(in crate::mirror) fn namespace(&self) -> &Namespace {
        self.upstream.namespace()
    }

    pub(in crate::mirror) fn repository(&self) -> &Repository {
        &self.repository
    }

    /// Asks upstream for the blob or a part of it.
    pub(in crate::mirror) async fn open(
        &self,
        part: Option<Range<u64>>,
    ) -> Result<FetchedBlob, upstream::Error> {
        self.upstream
            .get_blob(&self.repository, &self.digest, part)
            .await
    }

    /// Counts a transfer that broke off and goes on.
    pub(in crate::mirror) fn count_resume(&self) {
        self.metrics
            .fill_resumes
            .with_label_values(&[self.namespace().as_str()])
            .inc();
    }

    /// Asks upstream for `part` alone, ahead of a fill.
    ///
    /// An upstream that ignores Range would send the whole blob once more: that is an error here, and the
    /// caller waits for the fill.
    pub(crate) async fn ahead(&self, part: Range<u64>) -> Result<Box<Bypass>, upstream::Error> {
        let fetched = self.open(Some(part.clone())).await?;
        if fetched.part.is_none() {
            return Err(upstream::Error::Wrong(
                "upstream does not serve parts of a blob".into(),
            ));
        }
        Ok(Box::new(Bypass::part(self.clone(), fetched, part)))
    }

    /// A part of the blob that the store was to send and cannot; as upstream sends it.
    pub(crate) async fn instead(&self, part: Range<u64>) -> Result<Box<Bypass>, upstream::Error> {
        self.count_rescue();
        let fetched = self.open(Some(part.clone())).await?;
        Ok(Box::new(Bypass::part(self.clone(), fetched, part)))
    }

    /// The rest of a blob of which the store has sent the first `position` bytes and cannot send more.
    ///
    /// Verified as a whole: what was sent is hashed again where it can still be read, else all of it is fetched
    /// anew and its beginning left out.
    pub(crate) async fn rest(
        &self,
        reader: &Reader,
        position: u64,
    ) -> Result<Box<Bypass>, upstream::Error> {
        self.count_rescue();
        let sent = match self.hash_of_sent(reader, position).await {
            Some(hasher) => Some((hasher, self.open(Some(position..u64::MAX)).await?)),
            None => None,
        };
        let bypass = match sent {
            Some((hasher, fetched)) if fetched.part.is_some() => {
                Bypass::rest(self.clone(), fetched, position, hasher)
            }
            Some((_, whole)) => Bypass::rest_of_whole(self.clone(), whole, position),
            None => Bypass::rest_of_whole(self.clone(), self.open(None).await?, position),
        };
        Ok(Box::new(bypass.of_length(reader.length())?))
    }

    async fn hash_of_sent(&self, reader: &Reader, position: u64) -> Option<Hasher> {
        let (file, mut hasher) = (reader.file(), self.digest.hasher());
        let hash = move || hash_beginning(&file, &mut hasher, position).map(|()| hasher);
        tokio::task::spawn_blocking(hash).await.ok()?.ok()
    }

    fn count_rescue(&self) {
        self.metrics
            .body_rescues
            .with_label_values(&[self.namespace().as_str()])
            .inc();
    }

    /// Tells the store that what it has of the blob cannot be read to its end.
    pub(crate) async fn is_damaged(&self, reader: &Reader, why: &std::io::Error) {
        self.store
            .blobs()
            .drop_unreadable(&self.digest, reader.file(), why)
            .await;
    }
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source")
            .field("repository", &self.repository)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

/// How long a transfer that breaks off again and again is gone on with: as long as it gets ahead.
#[derive(Debug, Default)]
pub(in crate::mirror) struct Perseverance {
    reached: u64,
    attempt: u32,
}

impl Perseverance {
    /// After a break at `position`: how long to wait before going on, or `None` to give up.
    pub(in crate::mirror) fn after_break(&mut self, position: u64) -> Option<Duration> {
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
pub(in crate::mirror) async fn skip(
    body: &mut Body,
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
    fn a_transfer_that_gets_ahead_is_gone_on_with_for_ever() {
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
