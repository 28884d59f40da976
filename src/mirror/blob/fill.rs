//! A fill: one blob on its way from upstream into the store, whoever is watching.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::flight::Slot;
use crate::oci::digest::Digest;
use crate::oci::name::{Namespace, QualifiedName};
use crate::store::NoRoom;
use crate::store::blobs::ingest::{Growing, Ingest, IngestError};
use crate::store::blobs::partial::Partial;
use crate::store::blobs::progress::Failure;
use crate::upstream::{self, Body, FetchedBlob};

use super::source::{Perseverance, Source, skip};
use crate::mirror::{Mirror, Site};

/// How much may be read from upstream while the disk is busy with what came before: the most memory a
/// fill takes, twice.
const BATCH: usize = 512 * 1024;
/// What is enough to be written and hashed in one step.
const STEP: usize = 256 * 1024;
/// How long a step waits to be enough: what 256 KiB take at 50 MB/s.
const MOMENT: Duration = Duration::from_millis(5);
/// What a fill tells those who wait for it, as soon as upstream's header is in.
#[derive(Clone)]
pub(in crate::mirror) struct Fill {
    /// The repository it was asked for under.
    pub(in crate::mirror) name: QualifiedName,
    pub(in crate::mirror) filling: Result<Filling, upstream::Error>,
}

/// What became of upstream's yes.
#[derive(Clone)]
pub(in crate::mirror) enum Filling {
    /// It goes into the store; read along.
    Growing(Growing),
    /// There is no room for it. The first to come may have the body that is open already.
    NoRoom(Arc<Spare>),
}

/// An open body for whoever takes it first.
pub(in crate::mirror) struct Spare(Mutex<Option<FetchedBlob>>);

impl Spare {
    /// The body, if nobody has taken it and it was asked for under the name it is wanted for.
    pub(in crate::mirror) fn take_for(
        &self,
        filled_as: &QualifiedName,
        name: &QualifiedName,
    ) -> Option<FetchedBlob> {
        if filled_as != name {
            return None;
        }
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

type FillSlot = Slot<(Namespace, Digest), Fill>;

/// The work of a fill, to be run by a flight.
pub(in crate::mirror) fn start(
    mirror: Arc<Mirror>,
    site: Site,
    name: QualifiedName,
    digest: Digest,
) -> impl FnOnce(FillSlot) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
    |slot| Box::pin(run(mirror, site, name, digest, slot))
}

async fn run(
    mirror: Arc<Mirror>,
    site: Site,
    name: QualifiedName,
    digest: Digest,
    mut slot: FillSlot,
) {
    let in_flight = mirror
        .metrics
        .fills_in_flight
        .with_label_values(&[site.upstream.namespace().as_str()]);
    let _counted = Counted::new(in_flight);
    if mirror.store.blobs().open(&digest).is_some() {
        // Another fill was committed between the asker's look into the store and this one's start.
        return;
    }
    let source = mirror.source(&site, &name.repository, &digest);
    let (fetched, partial) = match fetch(&mirror, &source).await {
        Ok(begun) => begun,
        Err(error) => {
            mirror
                .missing_blobs
                .note(&name, &digest, &error, site.policy.negative_ttl);
            slot.retire();
            return slot.publish(Fill {
                name,
                filling: Err(error),
            });
        }
    };
    let (mut ingest, growing) = match ingest(&mirror, &source, &fetched, partial).await {
        Ok(begun) => begun,
        Err(error) => {
            pass_by(&name, &digest, &error);
            slot.retire();
            let spare = Arc::new(Spare(Mutex::new(whole(fetched))));
            return slot.publish(Fill {
                name,
                filling: Ok(Filling::NoRoom(spare)),
            });
        }
    };
    // Upstream gives it under this name, so this repository has it.
    mirror
        .store
        .records()
        .vouch(&name, vec![digest.clone()])
        .await;
    slot.publish(Fill {
        name: name.clone(),
        filling: Ok(Filling::Growing(growing)),
    });
    let verified = match receive(&source, fetched, &mut ingest).await {
        Ok(()) => ingest.verify(),
        Err(failure) => Err(failure),
    };
    let verified = match verified {
        Ok(verified) => verified,
        Err(failure) => {
            tracing::error!(repository = %name, %digest, error = %failure, "a blob did not arrive whole; it is not stored");
            if let Failure::Digest { .. } | Failure::Length { .. } = failure {
                site.upstream.distrust_endpoints();
            }
            if let Failure::NoRoom(_) = failure {
                mirror.outgrown.insert(digest, ingest.written());
            }
            let failed = ingest.give_up(failure).await;
            // First unjoinable, then failed: nobody may join a fill that has failed.
            slot.retire();
            return failed.tell();
        }
    };
    match ingest.commit(verified).await {
        Ok(bytes) => tracing::debug!(repository = %name, %digest, bytes, "blob stored"),
        Err(error) => {
            mirror
                .metrics
                .ingest_failures
                .with_label_values(&[error.reason()])
                .inc();
            tracing::error!(repository = %name, %digest, %error, "a blob was served but cannot be kept");
        }
    }
}

/// Opens upstream's body: where an earlier transfer broke off, if one did.
async fn fetch(
    mirror: &Mirror,
    source: &Source,
) -> Result<(FetchedBlob, Option<Partial>), upstream::Error> {
    let partial = mirror
        .store
        .blobs()
        .partial(source.namespace(), source.digest())
        .await;
    let Some(partial) = partial else {
        return Ok((source.open(None).await?, None));
    };
    let begins = partial.written();
    match source.open(Some(begins..u64::MAX)).await {
        Ok(fetched) => {
            tracing::info!(repository = %source.repository(), digest = %source.digest(), at = begins, "going on with a transfer that broke off earlier");
            source.count_resume();
            Ok((fetched, Some(partial)))
        }
        // It has no such part: what is here is not the beginning of what is there.
        Err(upstream::Error::Wrong(_)) => {
            partial.remove().await;
            Ok((source.open(None).await?, None))
        }
        Err(error) => {
            partial.put_away().await;
            Err(error)
        }
    }
}

async fn ingest(
    mirror: &Mirror,
    source: &Source,
    fetched: &FetchedBlob,
    partial: Option<Partial>,
) -> Result<(Ingest, Growing), IngestError> {
    let (namespace, digest) = (source.namespace(), source.digest());
    if let Some(no_room) = outgrown(mirror, digest, fetched.size) {
        return Err(IngestError::NoRoom(no_room));
    }
    mirror
        .store
        .blobs()
        .ingest(namespace, digest, fetched.size, partial)
        .await
}

/// A body that brings all of the blob can be passed to whoever asks.
fn whole(fetched: FetchedBlob) -> Option<FetchedBlob> {
    Some(fetched).filter(|fetched| fetched.part.is_none())
}

fn pass_by(name: &QualifiedName, digest: &Digest, error: &IngestError) {
    match error {
        IngestError::NoRoom(_) => {
            tracing::warn!(repository = %name, %digest, %error, "passing a blob through without keeping it");
        }
        // What is wrong with the disk is told once, not with each blob.
        IngestError::Disk(_) | IngestError::Trouble(_) => {
            tracing::debug!(repository = %name, %digest, %error, "passing a blob through without keeping it");
        }
    }
}

/// Whether it is known from an earlier attempt that there is no room for a blob of unannounced length.
/// That attempt failed, since its readers had begun; without this every further one would fail as well.
fn outgrown(mirror: &Mirror, digest: &Digest, size: Option<u64>) -> Option<NoRoom> {
    let wanted = mirror.outgrown.get(digest).filter(|_| size.is_none())?;
    Some(NoRoom { wanted })
}

/// Receives all of a blob. Where upstream breaks off, goes on at that place with a new request, and with it a
/// fresh token and a fresh signed URL; readers notice nothing.
async fn receive(
    source: &Source,
    fetched: FetchedBlob,
    ingest: &mut Ingest,
) -> Result<(), Failure> {
    let mut size = fetched.size;
    let mut perseverance = Perseverance::default();
    let mut copied = pour(fetched, ingest).await;
    loop {
        let written = ingest.written();
        // A body that ended before the blob did broke off as well, only more politely.
        if copied.is_ok() && size.is_some_and(|size| written < size) {
            copied = Err(broke("upstream sent less than it announced"));
        }
        let Err(Failure::Source(why)) = &copied else {
            return copied;
        };
        if size.is_some_and(|size| written >= size) {
            // It broke after its last byte; the digest tells whether they are right.
            return Ok(());
        }
        let Some(pause) = perseverance.after_break(written) else {
            return copied;
        };
        tracing::warn!(repository = %source.repository(), digest = %source.digest(), at = written, of = size, error = %why, "a transfer broke off; going on");
        tokio::time::sleep(pause).await;
        source.count_resume();
        copied = match source.open(Some(written..size.unwrap_or(u64::MAX))).await {
            Ok(fetched) => {
                size = size.or(fetched.size);
                pour(fetched, ingest).await
            }
            Err(error) => Err(broke(error)),
        };
    }
}

/// Writes what a body brings, which is what is missing or, from an upstream that ignores Range, everything.
async fn pour(fetched: FetchedBlob, ingest: &mut Ingest) -> Result<(), Failure> {
    let FetchedBlob { part, mut body, .. } = fetched;
    let written = ingest.written();
    let first = if part.is_none() && written > 0 {
        skip(&mut body, written).await.map_err(broke)?
    } else {
        Bytes::new()
    };
    copy(first, body, ingest).await
}

fn broke(why: impl std::fmt::Display) -> Failure {
    Failure::Source(why.to_string().into())
}

/// Copies a body, of which `first` was taken already, into an ingest, reading ahead while the disk is busy.
async fn copy(first: Bytes, mut body: Body, ingest: &mut Ingest) -> Result<(), Failure> {
    let mut batch = Batch::default();
    if !first.is_empty() {
        batch.push(first);
    }
    // Known before all that came is written: what came before a break is kept, to go on from there.
    let mut end = None;
    loop {
        if end.is_none() {
            // Nobody is to wait for the first bytes of a blob.
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
    body: &mut Body,
    patience: Duration,
) -> Option<Result<(), Failure>> {
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
    // What is there already is taken in even if there is no time to wait.
    tokio::time::timeout(patience, enough).await.ok().flatten()
}

async fn next(body: &mut Body) -> Result<Option<Bytes>, Failure> {
    body.chunk().await.map_err(broke)
}

#[derive(Default)]
struct Batch {
    chunks: Vec<Bytes>,
    bytes: usize,
}

impl Batch {
    /// Adds what came of a body; gives back its end, if that is what came.
    fn take_in(&mut self, came: Result<Option<Bytes>, Failure>) -> Option<Result<(), Failure>> {
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

/// A gauge that is one higher while this lives.
struct Counted(prometheus::IntGauge);

impl Counted {
    fn new(gauge: prometheus::IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
