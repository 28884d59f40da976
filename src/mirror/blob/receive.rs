//! Receives a blob from upstream into its ingest, and continues where upstream breaks off.

use std::time::Duration;

use bytes::Bytes;

use crate::headers::range::Span;
use crate::store::blobs::ingest::Ingest;
use crate::store::blobs::progress::IngestFailure;
use crate::upstream::{self, FetchedBlob, UpstreamBody};

use super::source::{Perseverance, Source, skip};

/// How much may be read from upstream while the disk is busy with what came before: the most memory a
/// fill takes, twice.
const BATCH: usize = 512 * 1024;
/// What is enough to be written and hashed in one step.
const STEP: usize = 256 * 1024;
/// How long a step waits to be enough: what 256 KiB take at 50 MB/s.
const MOMENT: Duration = Duration::from_millis(5);

/// Receives all of a blob of this size, if it is known. Where upstream breaks off, continues there with a new request, which brings a fresh token
/// and a fresh signed URL; readers notice nothing.
pub(super) async fn receive(
    source: &Source,
    fetched: FetchedBlob,
    mut size: Option<u64>,
    ingest: &mut Ingest,
) -> Result<(), IngestFailure> {
    let stated = fetched.size.is_some();
    let mut perseverance = Perseverance::default();
    let mut copied = pour(fetched, ingest).await;
    loop {
        let written = ingest.written();
        // A body that ended before the blob did broke off as well, only more politely.
        if copied.is_ok() && size.is_some_and(|size| written < size) {
            copied = Err(broke("upstream sent less than it announced"));
        }
        let Err(IngestFailure::Source(why)) = &copied else {
            return copied;
        };
        if size.is_some_and(|size| written >= size) {
            // It broke after its last byte; the digest tells whether they are right.
            return Ok(());
        }
        let Some(pause) = perseverance.after_break(written) else {
            return copied;
        };
        tracing::warn!(repository = %source.name().repository, digest = %source.digest(), at = written, of = size, error = %why, "a transfer broke off; going on");
        tokio::time::sleep(pause).await;
        source.count_resume();
        copied = match source
            .open(Some(Span {
                from: written,
                to: size,
            }))
            .await
        {
            Ok(fetched) => {
                size = size.or(fetched.size);
                pour(fetched, ingest).await
            }
            // There is no more of it, and only a manifest said that there is: it ended right, or is wrong.
            Err(upstream::Error::Wrong(_)) if !stated => return Ok(()),
            Err(error) => Err(broke(error)),
        };
    }
}

/// Writes what a body brings, which is what is missing or, from an upstream that ignores Range, everything.
async fn pour(fetched: FetchedBlob, ingest: &mut Ingest) -> Result<(), IngestFailure> {
    let FetchedBlob { part, mut body, .. } = fetched;
    let written = ingest.written();
    let first = if part.is_none() && written > 0 {
        skip(&mut body, written).await.map_err(broke)?
    } else {
        Bytes::new()
    };
    copy(first, body, ingest).await
}

fn broke(why: impl std::fmt::Display) -> IngestFailure {
    IngestFailure::Source(why.to_string().into())
}

/// Copies a body, of which `first` was taken already, into an ingest, reading ahead while the disk is busy.
async fn copy(
    first: Bytes,
    mut body: UpstreamBody,
    ingest: &mut Ingest,
) -> Result<(), IngestFailure> {
    let mut batch = Batch::default();
    if !first.is_empty() {
        batch.push(first);
    }
    // It can be known before all bytes are written: what arrived before a break is kept, to continue from there.
    let mut end = None;
    loop {
        if end.is_none() {
            // No client is to wait for the first bytes of a blob.
            let patience = if ingest.written() < STEP as u64 {
                Duration::ZERO
            } else {
                MOMENT
            };
            end = fill_up(&mut batch, &mut body, patience).await;
        }
        if batch.chunks.is_empty() {
            return end.unwrap_or(Ok(()));
        }
        let mut ahead = Batch::default();
        let write = ingest.append(batch.chunks);
        tokio::pin!(write);
        loop {
            tokio::select! {
                biased;
                written = &mut write => { written?; break }
                chunk = next(&mut body), if end.is_none() && ahead.bytes < BATCH => {
                    end = ahead.take_in(chunk);
                }
            }
        }
        batch = ahead;
    }
}

/// Waits for something to write, and then a moment longer for enough of it: handing a step to another thread, and
/// waking all who read along, costs the same for a little as for much. The end of the body, if it came.
async fn fill_up(
    batch: &mut Batch,
    body: &mut UpstreamBody,
    patience: Duration,
) -> Option<Result<(), IngestFailure>> {
    if batch.chunks.is_empty() {
        let chunk = next(body).await;
        if let Some(end) = batch.take_in(chunk) {
            return Some(end);
        }
    }
    let enough = async {
        while batch.bytes < STEP {
            let chunk = next(body).await;
            if let Some(end) = batch.take_in(chunk) {
                return Some(end);
            }
        }
        None
    };
    // What has arrived already is taken even if there is no time to wait.
    tokio::time::timeout(patience, enough).await.ok().flatten()
}

async fn next(body: &mut UpstreamBody) -> Result<Option<Bytes>, IngestFailure> {
    body.chunk().await.map_err(broke)
}

#[derive(Default)]
struct Batch {
    chunks: Vec<Bytes>,
    bytes: usize,
}

impl Batch {
    /// Adds a chunk of a body; returns the end of the body if it came instead.
    fn take_in(
        &mut self,
        came: Result<Option<Bytes>, IngestFailure>,
    ) -> Option<Result<(), IngestFailure>> {
        match came {
            Ok(Some(chunk)) => {
                self.push(chunk);
                None
            }
            Ok(None) => Some(Ok(())),
            Err(failure) => Some(Err(failure)),
        }
    }

    fn push(&mut self, chunk: Bytes) {
        self.bytes += chunk.len();
        self.chunks.push(chunk);
    }
}
