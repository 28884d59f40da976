//! Fills: blobs on their way from upstream into the store. One transfer of a blob serves all clients that want it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use moka::sync::Cache;

use crate::access::permits::OverShare;
use crate::flight::{Flights, Landing, Slot};
use crate::headers::range::Span;
use crate::metrics::Metrics;
use crate::mirror::answer::Outcome;
use crate::mirror::once::{Answered, Refusals};
use crate::mirror::site::{Context, Site};
use crate::oci::digest::Digest;
use crate::oci::name::{Namespace, QualifiedName};
use crate::store::Store;
use crate::store::blobs::ingest::{Growing, Ingest, IngestError};
use crate::store::blobs::partial::Partial;
use crate::store::blobs::progress::IngestFailure;
use crate::store::room::index::NoRoom;
use crate::upstream::{self, Body, FetchedBlob};

use super::source::{Perseverance, Source, skip};

/// How much may be read from upstream while the disk is busy with what came before: the most memory a
/// fill takes, twice.
const BATCH: usize = 512 * 1024;
/// What is enough to be written and hashed in one step.
const STEP: usize = 256 * 1024;
/// How long a step waits to be enough: what 256 KiB take at 50 MB/s.
const MOMENT: Duration = Duration::from_millis(5);
/// Few blobs are larger than a store; each is a digest.
const MAX_OUTGROWN: u64 = 1000;
/// The store may have more room by then.
const OUTGROWN_FOR: Duration = Duration::from_secs(3600);

/// What a fill tells those who wait for it, as soon as upstream's header is in.
#[derive(Clone)]
pub(super) struct Fill {
    /// The repository it was asked for under.
    pub(super) name: QualifiedName,
    pub(super) landed: Answered<Landed>,
}

impl Fill {
    /// How long the blob is, if it goes into the store and upstream said so.
    pub(super) fn size(&self) -> Option<u64> {
        match &self.landed {
            Ok(Landed::Growing(growing)) => growing.size(),
            Ok(Landed::NoRoom(_)) | Err(_) => None,
        }
    }
}

/// How a body that upstream sends is handled.
#[derive(Clone)]
pub(super) enum Landed {
    /// It goes into the store; read along.
    Growing(Growing),
    /// The store has no room for it, so each client needs a body of its own.
    NoRoom(Arc<OpenBody>),
}

/// The body that the fill had opened before it found no room: the first client takes it.
pub(super) struct OpenBody(Mutex<Option<FetchedBlob>>);

impl OpenBody {
    pub(super) fn take(&self) -> Option<FetchedBlob> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

type FillSlot = Slot<(Namespace, Digest), Fill>;

/// The fills under way, one for each upstream and digest.
pub(super) struct Fills {
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    refusals: Refusals,
    under_way: Arc<Flights<(Namespace, Digest), Fill>>,
    /// Blobs that upstream sent without a length and that did not fit into the store, with the bytes that came until
    /// then. For a while they are passed through: an attempt to store one breaks off under its readers.
    outgrown: Cache<Digest, u64>,
}

impl Fills {
    pub(super) fn new(
        store: &Arc<Store>,
        metrics: &Arc<Metrics>,
        refusals: &Refusals,
    ) -> Arc<Self> {
        Arc::new(Self {
            store: Arc::clone(store),
            metrics: Arc::clone(metrics),
            refusals: refusals.clone(),
            under_way: Arc::default(),
            outgrown: Cache::builder()
                .max_capacity(MAX_OUTGROWN)
                .time_to_live(OUTGROWN_FOR)
                .build(),
        })
    }

    /// The fill of a blob, if one is under way.
    pub(super) fn find(&self, site: &Site, digest: &Digest) -> Option<Landing<Fill>> {
        let key = (site.namespace().clone(), digest.clone());
        self.under_way.find(&key)
    }

    /// Joins the fill of a blob, or starts it as soon as this client may start one more.
    ///
    /// Nothing can be joined while the permit is waited for: no client waits for what another one must give back.
    pub(super) async fn join(
        self: &Arc<Self>,
        context: &Context,
        name: &QualifiedName,
        digest: &Digest,
    ) -> Result<(Landing<Fill>, Outcome), OverShare> {
        if let Some(landing) = self.find(&context.site, digest) {
            return Ok((landing, Outcome::Joined));
        }
        let (this, context) = (Arc::clone(self), context.for_fill().await?);
        let key = (name.namespace.clone(), digest.clone());
        let (name, digest) = (name.clone(), digest.clone());
        // Boxed: it is large, and few requests start one.
        let start = |slot| Box::pin(this.run(context, name, digest, slot));
        let (landing, role) = self.under_way.join(key, start);
        Ok((landing, role.into()))
    }

    async fn run(
        self: Arc<Self>,
        context: Context,
        name: QualifiedName,
        digest: Digest,
        mut slot: FillSlot,
    ) {
        let site = &context.site;
        let in_flight = self
            .metrics
            .fills_in_flight
            .with_label_values(&[site.namespace().as_str()]);
        let _counted = Counted::new(in_flight);
        if self.store.blobs().open(&digest).is_some() {
            // Another fill was committed between the asker's look into the store and this one's start.
            return;
        }
        let source = Source::new(&self.metrics, site, &name, &digest);
        let (fetched, partial) = match fetch(&self.store, &source).await {
            Ok(begun) => begun,
            Err(error) => {
                self.refusals.note(site, &name, &digest, &error);
                slot.retire();
                let landed = Err(error);
                return slot.publish(Fill { name, landed });
            }
        };
        let (ingest, growing) = match self.ingest(&source, &fetched, partial).await {
            Ok(begun) => begun,
            Err(error) => {
                pass_by(&name, &digest, &error);
                slot.retire();
                // A body that brings all of the blob can be passed to the first client.
                let whole = Some(fetched).filter(|fetched| fetched.part.is_none());
                let landed = Ok(Landed::NoRoom(Arc::new(OpenBody(Mutex::new(whole)))));
                return slot.publish(Fill { name, landed });
            }
        };
        // Upstream gives it under this name, so this repository has it.
        let own = vec![digest.clone()];
        self.store.records().vouch(&name, own).await;
        let landed = Ok(Landed::Growing(growing));
        slot.publish(Fill { name, landed });
        self.finish(&source, fetched, ingest, slot).await;
    }

    /// Receives the blob that `ingest` has begun, and commits or gives up.
    async fn finish(
        &self,
        source: &Source,
        fetched: FetchedBlob,
        mut ingest: Ingest,
        mut slot: FillSlot,
    ) {
        let (repository, digest) = (source.name(), source.digest());
        let verified = match receive(source, fetched, &mut ingest).await {
            Ok(()) => ingest.verify(),
            Err(failure) => Err(failure),
        };
        let verified = match verified {
            Ok(verified) => verified,
            Err(failure) => {
                tracing::error!(%repository, %digest, error = %failure, "a blob did not arrive whole; it is not stored");
                if let IngestFailure::Digest { .. } | IngestFailure::Length { .. } = failure {
                    source.distrust_endpoints();
                }
                if let IngestFailure::NoRoom(_) = failure {
                    self.outgrown.insert(digest.clone(), ingest.written());
                }
                let failed = ingest.give_up(failure).await;
                // First unjoinable, then failed: a fill that has failed must not be joined.
                slot.retire();
                return failed.tell();
            }
        };
        match ingest.commit(verified).await {
            Ok(bytes) => tracing::debug!(%repository, %digest, bytes, "blob stored"),
            Err(error) => {
                let failures = &self.metrics.ingest_failures;
                failures.with_label_values(&[error.reason()]).inc();
                tracing::error!(%repository, %digest, %error, "a blob was served but cannot be kept");
            }
        }
    }

    async fn ingest(
        &self,
        source: &Source,
        fetched: &FetchedBlob,
        partial: Option<Partial>,
    ) -> Result<(Ingest, Growing), IngestError> {
        let (digest, size) = (source.digest(), fetched.size);
        if let Some(wanted) = self.outgrown.get(digest).filter(|_| size.is_none()) {
            return Err(IngestError::NoRoom(NoRoom { wanted }));
        }
        self.store
            .blobs()
            .ingest(&source.name().namespace, digest, size, partial)
            .await
    }
}

/// Opens upstream's body: where an earlier transfer broke off, if one did.
async fn fetch(
    store: &Arc<Store>,
    source: &Source,
) -> Result<(FetchedBlob, Option<Partial>), upstream::Error> {
    let partial = store
        .blobs()
        .partial(&source.name().namespace, source.digest())
        .await;
    let Some(partial) = partial else {
        return Ok((source.open(None).await?, None));
    };
    let begins = partial.written();
    match source.open(Some(Span::from(begins))).await {
        Ok(fetched) => {
            tracing::info!(repository = %source.name().repository, digest = %source.digest(), at = begins, "going on with a transfer that broke off earlier");
            source.count_resume();
            Ok((fetched, Some(partial)))
        }
        // It has no such part: what is stored is not the beginning of its blob.
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

/// Receives all of a blob. Where upstream breaks off, continues there with a new request, which brings a fresh token
/// and a fresh signed URL; readers notice nothing.
async fn receive(
    source: &Source,
    fetched: FetchedBlob,
    ingest: &mut Ingest,
) -> Result<(), IngestFailure> {
    let mut size = fetched.size;
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
async fn copy(first: Bytes, mut body: Body, ingest: &mut Ingest) -> Result<(), IngestFailure> {
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
    body: &mut Body,
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

async fn next(body: &mut Body) -> Result<Option<Bytes>, IngestFailure> {
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
